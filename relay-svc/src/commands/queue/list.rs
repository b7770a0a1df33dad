//! `queue list`: what waits, what is on hold, and what was set aside.

use linkmail_proto::relay::v1::{
    ListMessagesRequest, Message, MessageFilter, PastAttempt, Recipient,
    message_service_client::MessageServiceClient, recipient::State,
};
use linkmail_service::{
    command::{request, say},
    exit::Exit,
    listen::GrpcAddress,
};
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::{super::PROGRAM, filter::Filter};

pub(super) async fn list(
    address: &GrpcAddress,
    filter: Filter,
    as_json: bool,
    all: bool,
) -> Result<(), Exit> {
    let mut messages = MessageServiceClient::new(PROGRAM.connect(address).await?);
    let states: &[State] = if all || filter.names_states() {
        &[State::Unspecified]
    } else {
        &[State::Queued, State::OnHold, State::SetAside]
    };
    let filter = filter.to_wire();
    let is_filtered = filter != MessageFilter::default();
    let mut listed = std::collections::HashSet::new();
    for state in states {
        let mut page_token = String::new();
        loop {
            let page = page(&mut messages, &filter, *state, page_token).await?;
            for message in page
                .messages
                .iter()
                .filter(|message| listed.insert(message.name.clone()))
            {
                let text = if as_json {
                    in_json(message)
                } else {
                    in_words(message)
                };
                say(text)?;
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
    }
    if listed.is_empty() && !as_json {
        say(if is_filtered {
            "nothing fits"
        } else {
            "nothing waits"
        })?;
    }
    Ok(())
}

async fn page(
    messages: &mut MessageServiceClient<Channel>,
    filter: &MessageFilter,
    state: State,
    page_token: String,
) -> Result<linkmail_proto::relay::v1::ListMessagesResponse, Exit> {
    let call = ListMessagesRequest {
        page_size: 500,
        page_token,
        state: state.into(),
        filter: (*filter != MessageFilter::default()).then(|| filter.clone()),
    };
    Ok(messages
        .list_messages(request(call))
        .await
        .map_err(|status| PROGRAM.refused(&status))?
        .into_inner())
}

pub(super) fn state(recipient: &Recipient) -> &'static str {
    recipient.state().as_str_name()
}

pub(super) fn time(time: Option<prost_types::Timestamp>) -> Option<String> {
    time.map(|time| time.to_string())
}

fn in_words(message: &Message) -> String {
    let mut text = heading(message);
    for recipient in &message.recipients {
        text.push('\n');
        text.push_str(&of_recipient(recipient));
    }
    text
}

/// The message itself, in a line.
pub(super) fn heading(message: &Message) -> String {
    format!(
        "{}  {}  {} octets  from <{}>",
        message.name,
        time(message.accept_time).unwrap_or_default(),
        message.size_bytes,
        message.reverse_path
    )
}

/// A recipient, in a line.
pub(super) fn of_recipient(recipient: &Recipient) -> String {
    let next =
        time(recipient.next_attempt_time).map_or(String::new(), |next| format!(", next {next}"));
    let said = if recipient.last_reply.is_empty() {
        String::new()
    } else {
        format!(": {}", recipient.last_reply)
    };
    format!(
        "    {} <{}> by {}, {} attempts{next}{said}",
        state(recipient).to_lowercase(),
        recipient.address,
        recipient.route,
        recipient.attempts
    )
}

pub(super) fn in_json(message: &Message) -> String {
    let recipients = message.recipients.iter().map(|recipient| {
        json!({
            "address": recipient.address,
            "state": state(recipient),
            "route": recipient.route,
            "attempts": recipient.attempts,
            "next_attempt_time": time(recipient.next_attempt_time),
            "last_reply": recipient.last_reply,
            "settle_time": time(recipient.settle_time),
            "remote_host": recipient.remote_host,
            "history": recipient.history.iter().map(past).collect::<Vec<_>>(),
        })
    });
    json!({
        "name": message.name,
        "accept_time": time(message.accept_time),
        "reverse_path": message.reverse_path,
        "size_bytes": message.size_bytes,
        "origin": message.origin,
        "cycle": message.cycle,
        "trace_id": message.trace_id,
        "recipients": recipients.collect::<Vec<_>>(),
    })
    .to_string()
}

fn past(past: &PastAttempt) -> Value {
    json!({
        "time": time(past.time),
        "outcome": past.outcome,
        "remote_host": past.remote_host,
        "reply": past.reply,
        "operator": past.operator,
    })
}
