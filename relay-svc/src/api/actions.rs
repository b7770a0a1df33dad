//! The calls of MessageService by which an operator changes what waits.

use std::net::IpAddr;

use linkmail_proto::relay::v1 as wire;
use linkmail_service::page::List;
use tonic::{Code, Response, Status};

use super::{
    Services,
    convert::count,
    errors::{DOMAIN, error, invalid, invalid_for, of_spool, unavailable},
    filter::filter,
    messages::request_id,
};
use crate::{
    operator::{Action, Done, Order, WrongOrder},
    spool::{FilterPlace, RequestKey, SpoolError},
};

/// Octets of a reason for a report.
const REASON: usize = 200;

/// A call, whichever of them.
pub(super) struct Asked {
    pub(super) action: Action,
    pub(super) filter: Option<wire::MessageFilter>,
    pub(super) all: bool,
    pub(super) validate_only: bool,
    pub(super) request_id: String,
    pub(super) page_token: String,
}

/// The reason that an operator gives for a report.
pub(super) fn reason(text: String) -> Result<String, Status> {
    let is_line = text.bytes().all(|octet| (b' '..=b'~').contains(&octet));
    if text.len() > REASON || !is_line {
        let what = format!("expected one line of ASCII, at most {REASON} octets");
        return Err(invalid("reason", what));
    }
    Ok(text)
}

/// Does what is asked, as far as the time of a call goes. It goes on when the caller has left.
pub(super) async fn steer(
    services: &Services,
    asked: Asked,
    peer: IpAddr,
) -> Result<Response<wire::MessageChanges>, Status> {
    let words = format!("{:?} {:?} {}", asked.action, asked.filter, asked.all);
    let only = if asked.validate_only { "validate" } else { "" };
    let list = List {
        domain: DOMAIN,
        arguments: &["changes", &words, only],
    };
    let key = request_id(&asked.request_id)?
        .filter(|_| !asked.validate_only)
        .map(|id| RequestKey::new(id, [words.as_bytes(), asked.page_token.as_bytes()]));
    let place = list.place(&asked.page_token)?;
    let order = order(asked, place, peer)?;
    if let Some(key) = &key {
        let answered = services.spool.answered(key.clone()).await;
        if let Some(octets) = answered.map_err(|failed| of_spool(&failed))? {
            let done = Done::from_bytes(&octets).ok_or_else(|| {
                of_spool(&SpoolError::Damaged("the answer of a request".to_owned()))
            })?;
            return Ok(Response::new(changes(&done, list)));
        }
    }
    let done = carry_out(services, order, key).await?;
    Ok(Response::new(changes(&done, list)))
}

fn order(asked: Asked, place: Option<i64>, peer: IpAddr) -> Result<Order, Status> {
    let filter = filter(&asked.filter.unwrap_or_default())?;
    if filter.is_empty() && !asked.all {
        let what = "is empty; set `all` if everything is meant";
        return Err(invalid("filter", what));
    }
    if !filter.is_empty() && asked.all {
        return Err(invalid(
            "all",
            "is set beside a filter; expected one of them",
        ));
    }
    if let Some(state) = filter.state {
        asked.action.is_for(state).map_err(|wrong| {
            let reason = match wrong {
                WrongOrder::HeldForNode => "HELD_FOR_NODE",
                WrongOrder::State => "INVALID_FIELD",
            };
            invalid_for(reason, "filter.state", wrong.to_string())
        })?;
    }
    Ok(Order {
        action: asked.action,
        filter,
        validate_only: asked.validate_only,
        place: place.map_or(FilterPlace::default(), FilterPlace::of_number),
        operator: peer.to_string(),
    })
}

async fn carry_out(
    services: &Services,
    order: Order,
    key: Option<RequestKey>,
) -> Result<Done, Status> {
    let (operator, spool) = (services.operator.clone(), services.spool.clone());
    let work = tokio::spawn(async move {
        let done = operator.carry_out(&order).await?;
        let is_first = order.place == FilterPlace::default();
        if done.is_nothing() && is_first && order.action.leaves_held() {
            let is_held = operator.is_of_held(&order).await?;
            return Ok((done, is_held));
        }
        if let Some(key) = key {
            spool.remember_answer(key, done.to_bytes()).await?;
        }
        Ok((done, false))
    });
    let (done, is_held) = match work.await.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(done) => done.map_err(|failed: SpoolError| of_spool(&failed))?,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => return Err(unavailable("SHUTTING_DOWN", "the relay is stopping")),
    };
    if is_held {
        let what = WrongOrder::HeldForNode.to_string();
        return Err(error(Code::FailedPrecondition, "HELD_FOR_NODE", what, &[]));
    }
    Ok(done)
}

fn changes(done: &Done, list: List<'_>) -> wire::MessageChanges {
    let next = done.next.map(|place| list.token(place.to_number()));
    wire::MessageChanges {
        changed_messages: count(done.messages),
        changed_recipients: count(done.recipients),
        skipped_recipients: count(done.skipped_recipients),
        unfit_recipients: count(done.unfit_recipients),
        next_page_token: next.unwrap_or_default(),
    }
}
