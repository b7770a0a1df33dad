//! `queue list`: what waits, and what was set aside.

use linkmail_proto::relay::v1::{
    ListMessagesRequest, Message, Recipient, message_service_client::MessageServiceClient,
    recipient::State,
};
use linkmail_service::{
    command::{request, say},
    exit::Exit,
    listen::GrpcAddress,
};
use serde_json::json;
use tonic::transport::Channel;

use super::PROGRAM;

pub(super) async fn list(address: &GrpcAddress, as_json: bool, all: bool) -> Result<(), Exit> {
    let mut messages = MessageServiceClient::new(PROGRAM.connect(address).await?);
    let states: &[State] = if all {
        &[State::Unspecified]
    } else {
        &[State::Queued, State::SetAside]
    };
    let mut listed = std::collections::HashSet::new();
    for state in states {
        let mut page_token = String::new();
        loop {
            let page = page(&mut messages, *state, page_token).await?;
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
        say("nothing waits")?;
    }
    Ok(())
}

async fn page(
    messages: &mut MessageServiceClient<Channel>,
    state: State,
    page_token: String,
) -> Result<linkmail_proto::relay::v1::ListMessagesResponse, Exit> {
    let call = ListMessagesRequest {
        page_size: 500,
        page_token,
        state: state.into(),
    };
    Ok(messages
        .list_messages(request(call))
        .await
        .map_err(|status| PROGRAM.refused(&status))?
        .into_inner())
}

fn state(recipient: &Recipient) -> &'static str {
    recipient.state().as_str_name()
}

fn time(time: Option<prost_types::Timestamp>) -> Option<String> {
    time.map(|time| time.to_string())
}

fn in_words(message: &Message) -> String {
    let mut text = format!(
        "{}  {}  {} octets  from <{}>",
        message.name,
        time(message.accept_time).unwrap_or_default(),
        message.size_bytes,
        message.reverse_path
    );
    for recipient in &message.recipients {
        let next = time(recipient.next_attempt_time)
            .map_or(String::new(), |next| format!(", next {next}"));
        let said = if recipient.last_reply.is_empty() {
            String::new()
        } else {
            format!(": {}", recipient.last_reply)
        };
        text.push_str(&format!(
            "\n    {} <{}> by {}, {} attempts{next}{said}",
            state(recipient).to_lowercase(),
            recipient.address,
            recipient.route,
            recipient.attempts
        ));
    }
    text
}

fn in_json(message: &Message) -> String {
    let recipients = message.recipients.iter().map(|recipient| {
        json!({
            "address": recipient.address,
            "state": state(recipient),
            "route": recipient.route,
            "attempts": recipient.attempts,
            "next_attempt_time": time(recipient.next_attempt_time),
            "last_reply": recipient.last_reply,
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
