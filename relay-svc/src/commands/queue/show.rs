//! `queue show`: a message, and what happened to each recipient.

use linkmail_proto::relay::v1::{
    GetMessageRequest, PastAttempt, message_service_client::MessageServiceClient,
};
use linkmail_service::{
    command::{request, say},
    exit::Exit,
    listen::GrpcAddress,
};

use super::{
    super::PROGRAM,
    filter::full_name,
    list::{self, time},
};

pub(super) async fn show(address: &GrpcAddress, message: &str, as_json: bool) -> Result<(), Exit> {
    let mut messages = MessageServiceClient::new(PROGRAM.connect(address).await?);
    let call = GetMessageRequest {
        name: full_name(message),
    };
    let message = messages.get_message(request(call)).await;
    let message = message
        .map_err(|status| PROGRAM.refused(&status))?
        .into_inner();
    if as_json {
        return say(list::in_json(&message));
    }
    say(list::heading(&message))?;
    for recipient in &message.recipients {
        say(list::of_recipient(recipient))?;
        for past in &recipient.history {
            say(in_words(past))?;
        }
        if let Some(at) = time(recipient.settle_time) {
            let host = match recipient.remote_host.as_str() {
                "" => String::new(),
                host => format!(" by {host}"),
            };
            let state = list::state(recipient).to_lowercase();
            say(format!("        {at}  {state}{host}"))?;
        }
    }
    Ok(())
}

fn in_words(past: &PastAttempt) -> String {
    let mut text = format!(
        "        {}  {}",
        time(past.time).unwrap_or_default(),
        past.outcome
    );
    for (word, said) in [("by", &past.remote_host), ("from", &past.operator)] {
        if !said.is_empty() {
            text.push_str(&format!(" {word} {said}"));
        }
    }
    if !past.reply.is_empty() {
        text.push_str(&format!(": {}", past.reply));
    }
    text
}
