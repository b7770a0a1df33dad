//! Own types → wire types. Names of resources are made and read here.

use linkmail_proto::relay::v1 as wire;
use linkmail_smtp::ReversePath;
use prost_types::Timestamp;
use tonic::Status;

use super::errors::invalid;
use crate::{
    clock::Stamp,
    config::Link,
    cycle::{LinkView, Outcome, Phase, Record, Trigger},
    link::LinkState,
    names::{CycleId, LinkName, MessageId},
    spool::{PastAttempt, RecipientState, StoredMessage},
    telemetry,
};

pub(super) fn time(stamp: Stamp) -> Timestamp {
    Timestamp {
        seconds: stamp.0.div_euclid(1000),
        nanos: i32::try_from(stamp.0.rem_euclid(1000)).unwrap_or(0) * 1_000_000,
    }
}

/// A count of things.
pub(super) fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number of octets.
pub(super) fn size(octets: u64) -> i64 {
    count(octets)
}

pub(super) fn cycle_name(link: &str, cycle: CycleId) -> String {
    format!("links/{link}/cycles/{cycle}")
}

/// Reads `messages/{id}`.
pub(super) fn message_id(field: &str, name: &str) -> Result<MessageId, Status> {
    name.strip_prefix("messages/")
        .and_then(MessageId::parse)
        .ok_or_else(|| {
            invalid(
                field,
                format!("{name:?} is not a message; expected messages/{{id}}"),
            )
        })
}

/// Reads `links/{link}`.
pub(super) fn link_name(field: &str, name: &str) -> Result<LinkName, Status> {
    name.strip_prefix("links/")
        .and_then(|link| LinkName::parse(link).ok())
        .ok_or_else(|| {
            invalid(
                field,
                format!("{name:?} is not a link; expected links/{{link}}"),
            )
        })
}

/// Reads `links/{link}`, or `links/-` as every link.
pub(super) fn link_or_all(field: &str, name: &str) -> Result<Option<LinkName>, Status> {
    if name == "links/-" {
        Ok(None)
    } else {
        link_name(field, name).map(Some)
    }
}

/// Reads `links/{link}/cycles/{cycle}`.
pub(super) fn cycle_id(field: &str, name: &str) -> Result<(LinkName, CycleId), Status> {
    let parts = || {
        let (link, cycle) = name.strip_prefix("links/")?.split_once("/cycles/")?;
        Some((LinkName::parse(link).ok()?, CycleId::parse(cycle)?))
    };
    parts().ok_or_else(|| {
        invalid(
            field,
            format!("{name:?} is not a cycle; expected links/{{link}}/cycles/{{cycle}}"),
        )
    })
}

pub(super) fn recipient_state(state: wire::recipient::State) -> Option<RecipientState> {
    use wire::recipient::State;
    Some(match state {
        State::Unspecified => return None,
        State::Queued => RecipientState::Queued,
        State::Delivered => RecipientState::Delivered,
        State::Bounced => RecipientState::Bounced,
        State::Discarded => RecipientState::Discarded,
        State::SetAside => RecipientState::SetAside,
        State::Held => RecipientState::Held,
        State::OnHold => RecipientState::OnHold,
    })
}

pub(super) fn wire_state(state: RecipientState) -> wire::recipient::State {
    use wire::recipient::State;
    match state {
        RecipientState::Queued => State::Queued,
        RecipientState::Delivered => State::Delivered,
        RecipientState::Bounced => State::Bounced,
        RecipientState::Discarded => State::Discarded,
        RecipientState::SetAside => State::SetAside,
        RecipientState::Held => State::Held,
        RecipientState::OnHold => State::OnHold,
    }
}

fn past_attempt(past: &PastAttempt) -> wire::PastAttempt {
    wire::PastAttempt {
        time: Some(time(past.at)),
        outcome: past.outcome.clone(),
        remote_host: past.host.clone(),
        reply: past.reply.clone(),
        operator: past.operator.clone(),
    }
}

pub(super) fn message(stored: &StoredMessage) -> wire::Message {
    let recipients = stored.recipients.iter().map(|row| wire::Recipient {
        address: row.address.clone(),
        state: wire_state(row.state).into(),
        route: row.hop.clone(),
        attempts: i32::try_from(row.attempts).unwrap_or(i32::MAX),
        next_attempt_time: (row.state == RecipientState::Queued).then(|| time(row.due)),
        last_reply: row.last_reply.clone(),
        settle_time: row.settled.map(time),
        remote_host: row.host.clone(),
        history: row.history.iter().map(past_attempt).collect(),
    });
    let cycle = stored
        .link
        .as_ref()
        .zip(stored.cycle)
        .map(|(link, cycle)| cycle_name(link, cycle));
    wire::Message {
        name: format!("messages/{}", stored.id),
        accept_time: Some(time(stored.accepted)),
        reverse_path: match &stored.reverse_path {
            ReversePath::Null => String::new(),
            ReversePath::Mailbox(mailbox) => mailbox.to_string(),
        },
        recipients: recipients.collect(),
        size_bytes: size(stored.size),
        origin: stored.origin.as_str().to_owned(),
        cycle: cycle.unwrap_or_default(),
        trace_id: telemetry::trace_id(&stored.traceparent),
    }
}

fn trigger(trigger: Trigger) -> wire::cycle::Trigger {
    match trigger {
        Trigger::Schedule => wire::cycle::Trigger::Schedule,
        Trigger::Queue => wire::cycle::Trigger::Queue,
        Trigger::Api => wire::cycle::Trigger::Api,
        Trigger::CatchUp => wire::cycle::Trigger::CatchUp,
        Trigger::Probe => wire::cycle::Trigger::Probe,
    }
}

fn phase(phase: Phase) -> wire::cycle::Phase {
    match phase {
        Phase::Dial => wire::cycle::Phase::Dial,
        Phase::Forward => wire::cycle::Phase::Forward,
        Phase::Dequeue => wire::cycle::Phase::Dequeue,
        Phase::Receive => wire::cycle::Phase::Receive,
        Phase::HangUp => wire::cycle::Phase::HangUp,
        Phase::Ended => wire::cycle::Phase::Ended,
    }
}

fn outcome(outcome: Option<Outcome>) -> wire::cycle::Outcome {
    match outcome {
        None => wire::cycle::Outcome::Unspecified,
        Some(Outcome::Complete) => wire::cycle::Outcome::Complete,
        Some(Outcome::LineMissing) => wire::cycle::Outcome::LineMissing,
        Some(Outcome::Incomplete) => wire::cycle::Outcome::Incomplete,
        Some(Outcome::Interrupted) => wire::cycle::Outcome::Interrupted,
    }
}

pub(super) fn cycle(record: &Record) -> wire::Cycle {
    let count = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let phases = record.phases.iter().map(|span| wire::PhaseRecord {
        phase: phase(span.phase).into(),
        start_time: Some(time(span.start)),
        end_time: span.end.map(time),
    });
    let dials = record.dials.iter().map(|dial| wire::DialAttempt {
        start_time: Some(time(dial.start)),
        duration: prost_types::Duration::try_from(dial.took).ok(),
        error: dial.error.clone(),
        output: dial.output.clone(),
    });
    let requests = record.requests.iter().map(|request| wire::DequeueRecord {
        request_time: Some(time(request.at)),
        host: request.host.clone(),
        node: request.node.clone(),
        reply_code: i32::from(request.code),
        reply_text: request.text.clone(),
    });
    wire::Cycle {
        name: cycle_name(record.link.as_str(), record.id),
        trigger: trigger(record.trigger).into(),
        phase: phase(record.phase).into(),
        outcome: outcome(record.outcome).into(),
        error: record.error.clone(),
        start_time: Some(time(record.start)),
        end_time: record.end.map(time),
        sent: count(record.sent),
        received: count(record.received),
        sent_bytes: size(record.sent_bytes),
        received_bytes: size(record.received_bytes),
        deferred: count(record.deferred),
        refused: count(record.refused),
        phases: phases.collect(),
        dial_attempts: dials.collect(),
        dequeue_requests: requests.collect(),
        trace_id: record.trace_id.clone(),
    }
}

/// What of a link is not its configuration.
pub(super) struct LinkFacts {
    pub(super) queued: u64,
    pub(super) latest: Option<Record>,
    pub(super) last_complete: Option<Stamp>,
}

pub(super) fn link(link: &Link, view: LinkView, facts: &LinkFacts) -> wire::Link {
    let state = match view.state {
        LinkState::Down => wire::link::State::Down,
        LinkState::Dialling => wire::link::State::Dialling,
        LinkState::Up => wire::link::State::Up,
        LinkState::HangingUp => wire::link::State::HangingUp,
    };
    let latest = facts
        .latest
        .as_ref()
        .map(|record| cycle_name(record.link.as_str(), record.id));
    wire::Link {
        name: format!("links/{}", link.name),
        state: state.into(),
        state_time: Some(time(view.since)),
        smart_host: link.smart_host.to_string(),
        driver: link.dial.driver.as_str().to_owned(),
        queued_messages: count(facts.queued),
        latest_cycle: latest.unwrap_or_default(),
        last_complete_time: facts.last_complete.map(time),
        next_cycle_time: view.next.map(time),
    }
}
