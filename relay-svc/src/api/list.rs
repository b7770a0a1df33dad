//! The list of messages: all, those of which a recipient is in a state, or those that a filter takes.

use linkmail_proto::relay::v1 as wire;
use linkmail_service::page::{self, List};
use tonic::Status;

use super::{
    Services, convert,
    errors::{DOMAIN, invalid, of_spool},
    filter,
};
use crate::spool::{FilterPlace, ListFilter};

pub(super) async fn list(
    services: &Services,
    call: wire::ListMessagesRequest,
) -> Result<wire::ListMessagesResponse, Status> {
    let state = filter::state("state", call.state)?;
    let limit = page::size(DOMAIN, call.page_size)?;
    let words = call.filter.as_ref().map(|said| format!("{said:?}"));
    let number = call.state.to_string();
    let list = List {
        domain: DOMAIN,
        arguments: &["messages", &number, words.as_deref().unwrap_or_default()],
    };
    let place = list.place(&call.page_token)?.unwrap_or(0);
    let spool = &services.spool;
    if call.filter.is_none() {
        let filter = ListFilter {
            after: place,
            state,
            limit: limit + 1,
        };
        let mut found = spool.list(filter).await.map_err(|e| of_spool(&e))?;
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let last = found.last().map_or(0, |message| message.seq);
        return Ok(wire::ListMessagesResponse {
            messages: found.iter().map(convert::message).collect(),
            next_page_token: if more {
                list.token(last)
            } else {
                String::new()
            },
        });
    }
    let mut wanted = filter::filter(&call.filter.unwrap_or_default())?;
    if state.is_some() && wanted.state.is_some() && state != wanted.state {
        return Err(invalid("state", "is another one than that of the filter"));
    }
    wanted.state = wanted.state.or(state);
    let (found, next) = spool
        .search(wanted, FilterPlace::of_number(place), limit as usize)
        .await
        .map_err(|failed| of_spool(&failed))?;
    Ok(wire::ListMessagesResponse {
        messages: found.iter().map(convert::message).collect(),
        next_page_token: next.map_or(String::new(), |next| list.token(next.to_number())),
    })
}
