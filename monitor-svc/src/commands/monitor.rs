//! `monitor list`: how the monitors stand.

use linkmail_proto::monitor::v1::{
    ListMonitorsRequest, Monitor, monitor_service_client::MonitorServiceClient,
};
use linkmail_service::{
    command::{request, say},
    exit::Exit,
    listen::GrpcAddress,
};
use serde_json::json;

use super::{
    PROGRAM,
    probe::{seconds, time},
};

pub(super) async fn list(address: &GrpcAddress, as_json: bool) -> Result<(), Exit> {
    let mut monitors = MonitorServiceClient::new(PROGRAM.connect(address).await?);
    let mut page_token = String::new();
    loop {
        let call = ListMonitorsRequest {
            page_size: 500,
            page_token,
        };
        let page = monitors.list_monitors(request(call)).await;
        let page = page
            .map_err(|status| PROGRAM.refused(&status))?
            .into_inner();
        for monitor in &page.monitors {
            say(if as_json {
                in_json(monitor)
            } else {
                in_words(monitor)
            })?;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(());
        }
    }
}

fn in_words(monitor: &Monitor) -> String {
    let since = time(monitor.state_time).unwrap_or_default();
    let proof = match time(monitor.last_proof_time) {
        Some(at) => format!(
            "last proof {at}, under way for {:.1} s",
            seconds(monitor.round_trip).unwrap_or_default()
        ),
        None => "nothing proven yet".to_owned(),
    };
    format!(
        "{}  {} since {since}  over {}: {proof}; next probe {}",
        monitor.name,
        monitor.state().as_str_name(),
        monitor.link,
        time(monitor.next_probe_time).unwrap_or_default()
    )
}

fn in_json(monitor: &Monitor) -> String {
    json!({
        "name": monitor.name,
        "state": monitor.state().as_str_name(),
        "state_time": time(monitor.state_time),
        "link": monitor.link,
        "recipient": monitor.recipient,
        "wanted_proof": monitor.wanted_proof().as_str_name(),
        "last_proof_time": time(monitor.last_proof_time),
        "last_proof": monitor.last_proof,
        "round_trip_seconds": seconds(monitor.round_trip),
        "proof_age_seconds": seconds(monitor.proof_age),
        "latest_probe": monitor.latest_probe,
        "next_probe_time": time(monitor.next_probe_time),
        "rejected_reports": monitor.rejected_reports,
    })
    .to_string()
}
