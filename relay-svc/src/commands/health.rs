//! `healthcheck`: whether the service says that it serves.

use linkmail_service::{exit::Exit, listen::GrpcAddress};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::client::{connect, refused, request};

pub(super) async fn check(address: &GrpcAddress) -> Result<(), Exit> {
    let mut health = HealthClient::new(connect(address).await?);
    let answer = health
        .check(request(HealthCheckRequest {
            service: String::new(),
        }))
        .await;
    match answer
        .map_err(|status| refused(&status))?
        .into_inner()
        .status()
    {
        ServingStatus::Serving => Ok(()),
        other => Err(super::complain(Exit::Unavailable, &other.as_str_name())),
    }
}
