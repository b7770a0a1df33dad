//! ExportMessage and ImportMessage: a message out of the spool with its envelope, and in again.

use std::{io, net::IpAddr, time::Duration};

use linkmail_proto::relay::v1 as wire;
use linkmail_smtp::{
    DeliverBy, Priority, ReversePath,
    dsn::{EnvelopeId, Notify, OriginalRecipient, Ret},
};
use opentelemetry::{Context, KeyValue, trace::SpanKind};
use sha2::{Digest, Sha256};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{
    convert,
    errors::{error, invalid, not_found, of_spool, unavailable},
    messages::Messages,
};
use crate::{
    clock::Stamp,
    names::{MessageId, RequestId},
    policy,
    spool::{
        Body, Envelope, EnvelopeRecipient, MessageWish, NewMessage, NewRecipient, Origin,
        RecipientWish, RequestKey,
    },
    telemetry,
};

/// A message that was accepted with as many octets as one may have has a field more in front of it.
const TRACE_OCTETS: u64 = 4096;
/// So many octets are written at once.
const PIECE: usize = 64 * 1024;

/// A client that does not read is told the end of its stream for so long.
const LAST_WORD: Duration = Duration::from_secs(5);

type Answer = Result<wire::ExportMessageResponse, Status>;
pub(super) type Stream = ReceiverStream<Answer>;

impl Messages {
    pub(super) async fn export(
        &self,
        call: &wire::ExportMessageRequest,
        peer: IpAddr,
    ) -> Result<Stream, Status> {
        let id = convert::message_id("name", &call.name)?;
        if !policy::contains(&self.services.relay_from, peer) {
            return Err(error(
                Code::PermissionDenied,
                "EXPORT_NOT_ALLOWED",
                "only callers in grpc.relay_from may see the content of a message",
                &[],
            ));
        }
        let found = self.services.spool.envelope(id).await;
        let found = found.map_err(|failed| of_spool(&failed))?;
        let envelope = found.ok_or_else(|| not_found("MESSAGE_NOT_FOUND", &call.name))?;
        if !envelope.has_body {
            let what = "every recipient has its outcome, and the content is gone";
            let name = [("name", call.name.as_str())];
            return Err(error(Code::FailedPrecondition, "CONTENT_GONE", what, &name));
        }
        let body = self.services.spool.body(envelope.seq).await;
        let body = body.map_err(|failed| match failed.is_of_the_message() {
            true => content_damaged(&failed),
            false => of_spool(&failed),
        })?;
        let (answers, stream) = mpsc::channel(1);
        let (shutdown, damaged) = (self.services.shutdown.clone(), call.damaged);
        let first = wire_envelope(id, &envelope);
        tokio::spawn(async move {
            tokio::select! {
                () = give(&answers, first, body, damaged) => {}
                () = shutdown.cancelled() => {
                    // Without it the end of the stream would look like that of the message.
                    let ended = unavailable("SHUTTING_DOWN", "the relay stops");
                    let _ = timeout(LAST_WORD, answers.send(Err(ended))).await;
                }
            }
        });
        Ok(ReceiverStream::new(stream))
    }

    pub(super) async fn import(
        &self,
        call: wire::ImportMessageRequest,
        peer: IpAddr,
    ) -> Result<wire::Message, Status> {
        let envelope = call.envelope.unwrap_or_default();
        let id = convert::message_id("envelope.name", &envelope.name)?;
        self.expect_content(&envelope, &call.content)?;
        let recipients = self.recipients(&envelope, peer)?;
        let limit = self.services.message_size.saturating_add(TRACE_OCTETS);
        let eight_bit_header = self.check(&call.content, limit)?;
        let mut message = new_message(id, &envelope, recipients)?;
        if !policy::contains(&self.services.relay_from, peer) {
            message.wish.priority = Priority::NORMAL;
        }
        message.utf8_header &= eight_bit_header;
        match call.again {
            true => message.id = MessageId::new(),
            false => {
                let known = self.services.spool.message(id).await;
                if let Some(known) = known.map_err(|failed| of_spool(&failed))? {
                    return Ok(convert::message(&known));
                }
                // The two of a race are one.
                message.request = RequestId::parse(&id.to_string())
                    .map(|id| RequestKey::new(id, [b"import".as_slice(), &call.content]));
            }
        }
        let attributes = vec![
            KeyValue::new(telemetry::SYSTEM, "smtp"),
            KeyValue::new(telemetry::MESSAGE, message.id.to_string()),
        ];
        let span = telemetry::start(
            "create outbound",
            SpanKind::Producer,
            &Context::current(),
            attributes,
        );
        message.traceparent = telemetry::to_text(&span);
        let stored = self.store_imported(message, &call.content, peer);
        let stored = stored.await;
        let failed = stored.as_ref().err();
        let failed = failed.map(|status| ("not_stored", status.message().to_owned()));
        telemetry::end(&span, failed);
        stored
    }

    fn expect_content(&self, envelope: &wire::Envelope, content: &[u8]) -> Result<(), Status> {
        let size = convert::size(content.len() as u64);
        if envelope.size_bytes != 0 && envelope.size_bytes != size {
            let what = format!(
                "{size} octets, and the envelope says {}",
                envelope.size_bytes
            );
            return Err(invalid("content", what));
        }
        if !envelope.sha256.is_empty() && Sha256::digest(content)[..] != envelope.sha256 {
            return Err(invalid("content", "its hash is not that of the envelope"));
        }
        Ok(())
    }

    /// Those that had no outcome, each once.
    fn recipients(
        &self,
        envelope: &wire::Envelope,
        peer: IpAddr,
    ) -> Result<Vec<NewRecipient>, Status> {
        use wire::recipient::State;
        let is_open = |one: &&wire::EnvelopeRecipient| {
            !matches!(
                one.state(),
                State::Delivered | State::Bounced | State::Discarded
            )
        };
        let open: Vec<_> = envelope.recipients.iter().filter(is_open).collect();
        let addresses: Vec<_> = open.iter().map(|one| one.address.clone()).collect();
        // How many there may be is said of all of them.
        self.admit(&addresses, peer)?;
        let mut recipients: Vec<NewRecipient> = Vec::new();
        for one in open {
            let alone = self.admit(std::slice::from_ref(&one.address), peer)?;
            for it in alone {
                if !recipients.iter().any(|known| known.address == it.address) {
                    recipients.push(NewRecipient {
                        address: it.address,
                        hop: it.hop,
                        wish: recipient_wish(one)?,
                    });
                }
            }
        }
        Ok(recipients)
    }

    async fn store_imported(
        &self,
        message: NewMessage,
        content: &[u8],
        peer: IpAddr,
    ) -> Result<wire::Message, Status> {
        let mut draft = self.services.spool.draft();
        for piece in content.chunks(PIECE) {
            let written = draft.write(piece).await;
            written.map_err(|failed| of_spool(&failed))?;
        }
        let id = message.id;
        let accepted = self.services.spool.accept(draft, message);
        let accepted = accepted.await.map_err(|failed| of_spool(&failed))?;
        if accepted.id == id {
            tracing::info!(id = %accepted.id, %peer, size = accepted.size, "message imported");
            let origin = [KeyValue::new("origin", "grpc")];
            self.services.instruments.accepted.add(1, &origin);
        }
        self.get(accepted.id).await
    }
}

/// Gives the parts of a message until its end, or until nobody takes them any more.
async fn give(
    answers: &mpsc::Sender<Answer>,
    envelope: wire::Envelope,
    mut body: Body,
    damaged: bool,
) {
    use wire::export_message_response::Part;
    let mut part = Part::Envelope(envelope);
    loop {
        let answer = wire::ExportMessageResponse { part: Some(part) };
        if answers.send(Ok(answer)).await.is_err() {
            return;
        }
        part = match body.next().await {
            Ok(piece) if piece.is_empty() => return,
            Ok(piece) => Part::Content(piece),
            // All of it was given.
            Err(error) if damaged && error.kind() == io::ErrorKind::InvalidData => return,
            Err(error) => {
                let _ = answers.send(Err(content_damaged(&error))).await;
                return;
            }
        };
    }
}

fn content_damaged(what: &dyn std::fmt::Display) -> Status {
    let message = format!("the content cannot be given: {what}");
    error(Code::DataLoss, "CONTENT_DAMAGED", message, &[])
}

fn wire_envelope(id: MessageId, envelope: &Envelope) -> wire::Envelope {
    let is_ascii = |one: &EnvelopeRecipient| one.address.is_ascii();
    let all_ascii = envelope.reverse_path.is_ascii() && envelope.recipients.iter().all(is_ascii);
    let text = |value: Option<String>| value.unwrap_or_default();
    wire::Envelope {
        name: format!("messages/{id}"),
        accept_time: Some(convert::time(envelope.accepted)),
        reverse_path: envelope
            .reverse_path
            .mailbox()
            .map_or(String::new(), ToString::to_string),
        smtputf8: envelope.utf8_header || !all_ascii,
        ret: text(envelope.wish.ret.map(|ret| ret.encode().to_owned())),
        envelope_id: text(envelope.wish.envelope_id.as_ref().map(EnvelopeId::encode)),
        priority: envelope.wish.priority.get().into(),
        deliver_by: text(envelope.wish.deliver_by.map(|by| by.to_string())),
        recipients: envelope.recipients.iter().map(wire_recipient).collect(),
        size_bytes: convert::size(envelope.size),
        sha256: envelope.hash.clone(),
    }
}

fn wire_recipient(one: &EnvelopeRecipient) -> wire::EnvelopeRecipient {
    let original = one.wish.original.as_ref().map(|text| text.encode(false));
    wire::EnvelopeRecipient {
        address: String::from_utf8_lossy(&one.address).into_owned(),
        state: convert::wire_state(one.state).into(),
        notify: one.wish.notify.map(Notify::encode).unwrap_or_default(),
        original_recipient: original.unwrap_or_default(),
    }
}

fn new_message(
    id: MessageId,
    envelope: &wire::Envelope,
    recipients: Vec<NewRecipient>,
) -> Result<NewMessage, Status> {
    let reverse_path = ReversePath::parse_utf8(envelope.reverse_path.as_bytes());
    let reverse_path = reverse_path.map_err(|wrong| {
        let what = format!("{:?} is not an address: {wrong}", envelope.reverse_path);
        invalid("envelope.reverse_path", what)
    })?;
    let now = Stamp::now();
    // A clock that went wrong elsewhere makes nothing newer than it is.
    let accepted = envelope.accept_time.map_or(now, |time| {
        let ms = time.seconds.saturating_mul(1000);
        Stamp(
            ms.saturating_add(i64::from(time.nanos) / 1_000_000)
                .min(now.0),
        )
    });
    Ok(NewMessage {
        id,
        reverse_path,
        recipients,
        origin: Origin::Grpc,
        link: None,
        cycle: None,
        traceparent: String::new(),
        accepted,
        request: None,
        wish: MessageWish {
            ret: value("envelope.ret", &envelope.ret, Ret::parse)?,
            envelope_id: value(
                "envelope.envelope_id",
                &envelope.envelope_id,
                EnvelopeId::parse,
            )?,
            priority: priority(envelope)?,
            deliver_by: deliver_by(envelope, now.since(accepted))?,
        },
        utf8_header: envelope.smtputf8,
        handover: None,
    })
}

fn recipient_wish(one: &wire::EnvelopeRecipient) -> Result<RecipientWish, Status> {
    let original = |text: &[u8]| OriginalRecipient::parse(text, true);
    Ok(RecipientWish {
        notify: value("envelope.recipients.notify", &one.notify, Notify::parse)?,
        original: value(
            "envelope.recipients.original_recipient",
            &one.original_recipient,
            original,
        )?,
    })
}

fn priority(envelope: &wire::Envelope) -> Result<Priority, Status> {
    let priority = i8::try_from(envelope.priority).ok().and_then(Priority::new);
    priority.ok_or_else(|| {
        let what = format!("{}: expected -9 to 9", envelope.priority);
        invalid("envelope.priority", what)
    })
}

/// What is left of the time that the sender set. Where that is over there is a second left, so that the sender hears of it.
fn deliver_by(envelope: &wire::Envelope, spent: Duration) -> Result<Option<DeliverBy>, Status> {
    let text = &envelope.deliver_by;
    let asked = value("envelope.deliver_by", text, DeliverBy::parse)?;
    Ok(asked.and_then(|by| match by.after(spent) {
        left if left.is_lost() => DeliverBy::new(1, by.mode(), by.is_traced()),
        left => Some(left),
    }))
}

/// A value that may be missing, but not be wrong.
fn value<T>(
    field: &str,
    text: &str,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<Option<T>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let read = parse(text.as_bytes());
    read.map(Some)
        .ok_or_else(|| invalid(field, format!("{text:?} is not of its form")))
}
