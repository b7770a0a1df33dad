//! Wire types → own types, and the relay's errors.

use linkmail_proto::relay::v1 as wire;
use prost_types::Timestamp;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{Asked, Message, RelayError};
use crate::{
    bounce::Bounce,
    clock::Stamp,
    names::LinkName,
    verdict::{Origin, Report},
};

fn stamp(time: Option<Timestamp>) -> Stamp {
    let time = time.unwrap_or_default();
    Stamp(
        time.seconds
            .saturating_mul(1000)
            .saturating_add(i64::from(time.nanos) / 1_000_000),
    )
}

pub(super) fn message(message: wire::Message) -> Message {
    use wire::recipient::State;
    let waiting = [State::Queued, State::Held];
    Message {
        waits: message
            .recipients
            .iter()
            .any(|recipient| waiting.contains(&recipient.state())),
        route: message
            .recipients
            .first()
            .map(|recipient| recipient.route.clone())
            .unwrap_or_default(),
        name: message.name,
        accepted: stamp(message.accept_time),
    }
}

pub(super) fn has_ended(cycle: &wire::Cycle) -> bool {
    cycle.phase() == wire::cycle::Phase::Ended
}

/// LINK_BUSY is an answer, and names the cycle that is running.
pub(super) fn asked(answer: Result<wire::Cycle, Status>) -> Result<Asked, RelayError> {
    let status = match answer {
        Ok(cycle) => return Ok(Asked::Started(cycle.name)),
        Err(status) => status,
    };
    let info = status.get_details_error_info();
    if let Some(info) =
        info.filter(|info| status.code() == Code::Aborted && info.reason == "LINK_BUSY")
        && let Some(cycle) = info.metadata.get("cycle")
    {
        return Ok(Asked::Busy(cycle.clone()));
    }
    Err(error(&status))
}

pub(super) fn report(report: wire::Report) -> Report {
    let link = report
        .link
        .strip_prefix("links/")
        .and_then(|link| LinkName::parse(link).ok());
    Report {
        accepted: stamp(report.accept_time),
        null_sender: report.reverse_path.is_empty(),
        recipients: report.recipients,
        origin: match report.origin.as_str() {
            "smtp" => Origin::Smtp(link),
            "report" => Origin::Relay,
            _ => Origin::Other,
        },
        cycle: report.cycle,
        traceparent: report.traceparent,
        bounce: Bounce::read(&report.content),
        name: report.name,
    }
}

/// Which errors pass by themselves is decided here.
pub(super) fn error(status: &Status) -> RelayError {
    let told = format!("relay: {}: {}", words(status.code()), status.message());
    match status.code() {
        Code::NotFound => RelayError::NotFound(told),
        Code::InvalidArgument
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented => RelayError::Refused(told),
        Code::Ok
        | Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Aborted
        | Code::ResourceExhausted
        | Code::Unknown
        | Code::Internal
        | Code::DataLoss => RelayError::NotNow(told),
    }
}

fn words(code: Code) -> &'static str {
    code.description()
}
