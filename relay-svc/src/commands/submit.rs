//! `submit`: hands in the message on standard input. Line ends become CRLF; nothing else is changed.

use std::io::Read as _;

use linkmail_proto::relay::v1::{
    SubmitMessageRequest, message_service_client::MessageServiceClient,
};
use linkmail_service::{
    command::{request, say},
    exit::Exit,
    listen::GrpcAddress,
};

use super::PROGRAM;

pub(super) async fn run(
    reverse_path: String,
    recipients: Vec<String>,
    address: &GrpcAddress,
) -> Result<(), Exit> {
    let mut text = Vec::new();
    std::io::stdin()
        .read_to_end(&mut text)
        .map_err(|error| PROGRAM.complain(Exit::OsError, &format!("standard input: {error}")))?;
    let call = SubmitMessageRequest {
        request_id: uuid::Uuid::new_v4().to_string(),
        reverse_path,
        recipients,
        content: with_crlf(&text),
        // What needs it by its addresses says so.
        smtputf8: false,
    };
    let mut messages = MessageServiceClient::new(PROGRAM.connect(address).await?);
    let message = messages.submit_message(request(call)).await;
    let message = message.map_err(|status| PROGRAM.refused(&status))?;
    say(message.into_inner().name)
}

/// Text as it lies in a file on Unix, with the line ends of mail. A CR that is not part of a line end stays, and is
/// refused by the relay.
pub(super) fn with_crlf(text: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(text.len() + text.len() / 32);
    for line in text.split_inclusive(|octet| *octet == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        lines.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        lines.extend_from_slice(b"\r\n");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_become_those_of_mail() {
        for (text, lines) in [
            ("", ""),
            ("a: b\n\nc", "a: b\r\n\r\nc\r\n"),
            ("a\r\nb\r\n", "a\r\nb\r\n"),
            ("a\rb\n", "a\rb\r\n"),
            ("\n", "\r\n"),
        ] {
            assert_eq!(with_crlf(text.as_bytes()), lines.as_bytes(), "{text:?}");
        }
    }
}
