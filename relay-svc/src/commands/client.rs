//! What the client commands share: a connection, and how an error of the service is told.

use std::{error::Error as _, time::Duration};

use linkmail_service::{exit::Exit, listen::GrpcAddress};
use tonic::{Status, transport::Channel};

use super::complain;

/// The wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// The wait for the answer to one call; streams take as long as they take.
pub(super) const CALL: Duration = Duration::from_secs(30);

pub(super) async fn connect(address: &GrpcAddress) -> Result<Channel, Exit> {
    address
        .connect(CONNECT)
        .await
        .map_err(|error| complain(Exit::from(&error), &error))
}

/// Tells what the service said, or that the connection was lost: a caller whose network is not allowed sees just that.
pub(super) fn refused(status: &Status) -> Exit {
    if status.source().is_some() {
        return complain(
            Exit::Unavailable,
            &format!("the connection was lost: {}", status.message()),
        );
    }
    complain(Exit::from(status.code()), &status.message())
}

/// A request with a deadline, which the service sees too.
pub(super) fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL);
    request
}

/// The time of day of a timestamp, UTC.
pub(super) fn clock(time: Option<prost_types::Timestamp>) -> String {
    let time = time.unwrap_or_default();
    let seconds = time.seconds.rem_euclid(86_400);
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// The milliseconds from one timestamp to another.
pub(super) fn between(
    start: Option<prost_types::Timestamp>,
    end: Option<prost_types::Timestamp>,
) -> f64 {
    let ms =
        |time: prost_types::Timestamp| time.seconds as f64 * 1000.0 + f64::from(time.nanos) / 1e6;
    match (start, end) {
        (Some(start), Some(end)) => ms(end) - ms(start),
        _ => 0.0,
    }
}
