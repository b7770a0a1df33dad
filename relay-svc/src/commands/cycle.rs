//! `cycle run LINK`: starts a cycle and prints it as it happens.

use linkmail_proto::relay::v1::{
    Cycle, RunCycleRequest, WatchCyclesRequest,
    cycle::{Outcome, Phase, Trigger},
    cycle_service_client::CycleServiceClient,
};
use linkmail_service::{
    command::{between, request, say, time_of_day},
    exit::Exit,
    listen::GrpcAddress,
};

use super::PROGRAM;
use crate::names::LinkName;

pub(super) async fn run(link: &str, address: &GrpcAddress) -> Result<(), Exit> {
    LinkName::parse(link).map_err(|wrong| PROGRAM.complain(Exit::Usage, &wrong))?;
    let mut cycles = CycleServiceClient::new(PROGRAM.connect(address).await?);
    let parent = format!("links/{link}");
    // The watch comes first: so nothing of the cycle is missed.
    let watch = WatchCyclesRequest {
        parent: parent.clone(),
        since_revision: None,
    };
    let mut changes = cycles
        .watch_cycles(watch)
        .await
        .map_err(|status| PROGRAM.refused(&status))?
        .into_inner();
    let run = request(RunCycleRequest {
        parent,
        request_id: uuid::Uuid::new_v4().to_string(),
        trigger: Trigger::Api.into(),
    });
    let started = cycles
        .run_cycle(run)
        .await
        .map_err(|status| PROGRAM.refused(&status))?
        .into_inner();
    say(started.name.as_str())?;
    loop {
        let change = changes
            .message()
            .await
            .map_err(|status| PROGRAM.refused(&status))?;
        let Some(change) = change else {
            return Err(PROGRAM.complain(Exit::Unavailable, &"the relay ended the watch"));
        };
        let Some(cycle) = change.cycle.filter(|cycle| cycle.name == started.name) else {
            continue;
        };
        if !change.event.is_empty() {
            say(format_args!(
                "{}  {}",
                time_of_day(Some(now())),
                change.event
            ))?;
        }
        if cycle.phase() == Phase::Ended {
            return conclude(&cycle);
        }
    }
}

fn now() -> prost_types::Timestamp {
    std::time::SystemTime::now().into()
}

fn conclude(cycle: &Cycle) -> Result<(), Exit> {
    let seconds = between(cycle.start_time, cycle.end_time) / 1000.0;
    say(format_args!(
        "{} sent ({} octets), {} received ({} octets), {} deferred, {} refused, in {seconds:.1} s; trace {}",
        cycle.sent,
        cycle.sent_bytes,
        cycle.received,
        cycle.received_bytes,
        cycle.deferred,
        cycle.refused,
        cycle.trace_id
    ))?;
    match cycle.outcome() {
        Outcome::Complete => Ok(()),
        outcome => {
            let words = outcome.as_str_name().to_lowercase().replace('_', " ");
            Err(PROGRAM.complain(Exit::TempFail, &format!("{words}: {}", cycle.error)))
        }
    }
}
