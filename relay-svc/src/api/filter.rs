//! A filter of the wire → the filter of the spool.

use linkmail_proto::relay::v1 as wire;
use tonic::Status;

use super::{
    convert::{message_id, recipient_state},
    errors::invalid,
};
use crate::{
    clock::Stamp,
    names::NextHop,
    route::AddressPattern,
    spool::{MessageFilter, RecipientState, SenderPattern},
};

/// So many messages may be named.
const NAMES: usize = 1000;

/// Reads the state of a recipient; nothing if it is not said.
pub(super) fn state(field: &str, number: i32) -> Result<Option<RecipientState>, Status> {
    let state = wire::recipient::State::try_from(number);
    let state =
        state.map_err(|_| invalid(field, format!("{number} is no state of a recipient")))?;
    Ok(recipient_state(state))
}

/// Reads a filter; what is left out takes everything.
pub(super) fn filter(said: &wire::MessageFilter) -> Result<MessageFilter, Status> {
    if said.names.len() > NAMES {
        return Err(invalid("filter.names", format!("expected at most {NAMES}")));
    }
    let ids = said.names.iter().enumerate();
    let ids = ids.map(|(at, name)| message_id(&format!("filter.names[{at}]"), name));
    let like = |field: &str, text: &str| {
        AddressPattern::parse(text).map_err(|wrong| invalid(field, wrong))
    };
    let sender = match said.sender.as_deref() {
        None => None,
        Some("") => Some(SenderPattern::Null),
        Some(text) => Some(SenderPattern::Like(like("filter.sender", text)?)),
    };
    let recipient = some(&said.recipient).map(|text| like("filter.recipient", text));
    let larger_than = u64::try_from(said.larger_than_bytes)
        .map_err(|_| invalid("filter.larger_than_bytes", "must not be negative"))?;
    Ok(MessageFilter {
        ids: ids.collect::<Result<_, _>>()?,
        state: state("filter.state", said.state)?,
        route: some(&said.route).map(route).transpose()?,
        recipient: recipient.transpose()?,
        sender,
        accepted_before: said.accepted_before.as_ref().map(stamp).transpose()?,
        larger_than: (larger_than > 0).then_some(larger_than),
    })
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// A next hop as the spool writes it.
fn route(text: &str) -> Result<String, Status> {
    let written = NextHop::parse_mx(text)
        .map(NextHop::Mx)
        .or_else(|| NextHop::parse_hold(text).map(NextHop::Hold))
        .or_else(|| NextHop::parse_oversize(text).map(NextHop::Oversize));
    let hop = match written {
        Some(hop) => Ok(hop),
        None => NextHop::parse(text),
    };
    hop.map(|hop| hop.to_string()).map_err(|_| {
        let what = format!(
            "{text:?} is not a next hop; one of link:NAME, oversize:NAME, smtp://HOST:PORT, smtps://HOST:PORT, lmtp://HOST:PORT, mx:DOMAIN, hold:DOMAIN"
        );
        invalid("filter.route", what)
    })
}

fn stamp(time: &prost_types::Timestamp) -> Result<Stamp, Status> {
    let millis = i64::from(time.nanos / 1_000_000);
    let stamp = time.seconds.checked_mul(1000);
    let stamp = stamp.and_then(|seconds| seconds.checked_add(millis));
    stamp
        .filter(|_| (0..1_000_000_000).contains(&time.nanos))
        .map(Stamp)
        .ok_or_else(|| invalid("filter.accepted_before", "is no time"))
}
