//! One message on its way in: its envelope, its draft, and the moment it becomes durable.

use std::{net::SocketAddr, sync::Arc};

use linkmail_smtp::{
    Enhanced, ForwardPath, Priority, Reply, ReversePath, ServerSession, replies,
    submission::{Header, HeaderFilter, MAX_HELD, Passed, added_fields},
    trace::{HeaderScan, Received, received_line},
};
use opentelemetry::{
    Context, KeyValue,
    trace::{SpanKind, TraceContextExt},
};

use super::Inbound;
use crate::{
    arrivals::Arrival,
    clock::Stamp,
    names::{LinkName, MessageId},
    policy::Admitted,
    sender_map::SenderMap,
    spool::{
        Accepted, Draft, Handover, MessageWish, NewMessage, NewRecipient, Origin, RecipientWish,
        SpoolError,
    },
    telemetry,
};

/// So many `Received` fields are a loop (RFC 5321 6.3 asks for at least 100).
const HOPS: usize = 100;

pub(super) struct Transaction {
    id: MessageId,
    envelope: Envelope,
    recipients: Vec<Wanted>,
    link: Option<LinkName>,
    /// Held until the message is durable or dropped: the link's window sees it as under way.
    arrival: Option<Arrival>,
    data: Option<Data>,
}

/// What MAIL said.
pub(super) struct Envelope {
    pub(super) reverse_path: ReversePath,
    pub(super) wish: MessageWish,
    /// Whether the client gave SMTPUTF8.
    pub(super) smtputf8: bool,
    pub(super) handover: Option<Handover>,
}

/// A recipient that was admitted, and what the sender asked for.
struct Wanted {
    admitted: Admitted,
    wish: RecipientWish,
}

struct Data {
    draft: Draft,
    scan: HeaderScan,
    span: Context,
    /// What completes the header, if the message starts here.
    submission: Option<Submission>,
    /// The first thing that went wrong with the draft; the client hears of it after its data.
    failed: Option<SpoolError>,
}

/// A message that starts here: its header is completed (RFC 6409 8), and its senders are called what they are outside.
struct Submission {
    filter: HeaderFilter,
    senders: Option<Arc<SenderMap>>,
    date: String,
    message_id: String,
}

impl Submission {
    fn completed(&self, header: &Header) -> Vec<u8> {
        let mut octets = Vec::new();
        // In front of what is no header they would make one of it.
        if header.is_well_formed {
            octets = added_fields(header.missing, &self.date, &self.message_id);
        }
        match &self.senders {
            Some(senders) if is_whole(&header.octets) => {
                octets.extend(senders.header(&header.octets));
            }
            Some(_) => {
                tracing::warn!(
                    message = self.message_id,
                    "the header is too large: senders stay as they are"
                );
                octets.extend_from_slice(&header.octets);
            }
            None => octets.extend_from_slice(&header.octets),
        }
        octets
    }
}

/// Whether a header was held back to its end: an address that is cut could be taken for another one.
fn is_whole(octets: &[u8]) -> bool {
    octets.len() <= MAX_HELD
        || octets.starts_with(b"\r\n")
        || octets.windows(4).any(|four| four == b"\r\n\r\n")
}

impl Drop for Data {
    fn drop(&mut self) {
        // Whether the message was accepted or dropped, its span ends with it.
        self.span.span().end();
    }
}

impl Transaction {
    pub(super) fn begin(
        envelope: Envelope,
        link: Option<LinkName>,
        arrival: Option<Arrival>,
    ) -> Self {
        Self {
            id: MessageId::new(),
            envelope,
            recipients: Vec::new(),
            link,
            arrival,
            data: None,
        }
    }

    /// The same mailbox twice is one recipient: a message is delivered once (RFC 5321 4.1.1.3 leaves it open).
    pub(super) fn add(&mut self, admitted: Admitted, wish: RecipientWish) {
        if !self
            .recipients
            .iter()
            .any(|known| known.admitted.address == admitted.address)
        {
            self.recipients.push(Wanted { admitted, wish });
        }
    }

    /// The priority that it has.
    pub(super) fn priority(&self) -> Priority {
        self.envelope.wish.priority
    }

    pub(super) fn has_data(&self) -> bool {
        self.data.is_some()
    }

    /// Opens the draft with the relay's own `Received` field (RFC 5321 4.4).
    pub(super) async fn open(&mut self, inbound: &Inbound, peer: SocketAddr, smtp: &ServerSession) {
        let begun = Stamp::now();
        let only = match self.recipients.as_slice() {
            [one] => Some(ForwardPath::Mailbox(one.admitted.address.clone())),
            _ => None,
        };
        let id = self.id.to_string();
        let line = received_line(&Received {
            from: smtp.client_name().unwrap_or(b"unknown"),
            peer: peer.ip(),
            by: &inbound.smtp.hostname,
            protocol: smtp.protocol(),
            id: &id,
            recipient: only.as_ref(),
            date: &begun.rfc2822(),
        });
        let attributes = vec![
            KeyValue::new(telemetry::SYSTEM, "smtp"),
            KeyValue::new(telemetry::MESSAGE, id),
        ];
        let span = match (&self.arrival, &self.link) {
            (Some(arrival), Some(link)) => {
                let mut attributes = attributes;
                attributes.push(KeyValue::new(telemetry::LINK, link.to_string()));
                let parent = arrival.context().unwrap_or_default();
                telemetry::start("receive inbound", SpanKind::Consumer, &parent, attributes)
            }
            _ => telemetry::start(
                "create outbound",
                SpanKind::Producer,
                &Context::new(),
                attributes,
            ),
        };
        let mut data = Data {
            draft: inbound.spool.draft(),
            scan: HeaderScan::new(),
            span,
            submission: None,
            failed: None,
        };
        data.write(&line).await;
        self.data = Some(data);
    }

    /// The message starts here: what its header lacks is added, and its senders are called as the map says. For the
    /// moment between [`Self::open`] and the first octet of the message.
    pub(super) fn starts_here(&mut self, hostname: &str, senders: Option<Arc<SenderMap>>) {
        let message_id = format!("{}@{hostname}", self.id);
        if let Some(data) = &mut self.data {
            data.submission = Some(Submission {
                filter: HeaderFilter::new(),
                senders,
                date: Stamp::now().rfc2822(),
                message_id,
            });
        }
    }

    pub(super) async fn write(&mut self, octets: &[u8]) {
        if let Some(data) = &mut self.data {
            data.scan.feed(octets);
            data.pass(octets).await;
        }
    }

    /// Makes the message durable.
    pub(super) async fn accept(self, inbound: &Inbound) -> Result<Accepted, Reply> {
        let Some(mut data) = self.data else {
            return Err(replies::spool_unavailable());
        };
        data.end().await;
        if let Some(error) = data.failed.take() {
            return Err(refuse(&error));
        }
        if data.scan.received() >= HOPS {
            return Err(replies::mail_loop());
        }
        let recipients = self.recipients.into_iter().map(|r| NewRecipient {
            address: r.admitted.address,
            hop: r.admitted.hop,
            wish: r.wish,
        });
        let message = NewMessage {
            id: self.id,
            reverse_path: self.envelope.reverse_path,
            recipients: recipients.collect(),
            origin: Origin::Smtp,
            cycle: self.arrival.as_ref().and_then(Arrival::cycle),
            link: self.link,
            traceparent: telemetry::to_text(&data.span),
            accepted: Stamp::now(),
            request: None,
            wish: self.envelope.wish,
            utf8_header: self.envelope.smtputf8 && data.scan.eight_bit(),
            handover: self.envelope.handover,
        };
        let draft = std::mem::replace(&mut data.draft, inbound.spool.draft());
        let accepted = inbound
            .spool
            .accept(draft, message)
            .await
            .map_err(|error| refuse(&error))?;
        if let Some(arrival) = &self.arrival {
            arrival.accepted(accepted.size);
        }
        data.span.span().set_attribute(KeyValue::new(
            telemetry::SIZE,
            i64::try_from(accepted.size).unwrap_or(i64::MAX),
        ));
        Ok(accepted)
    }
}

impl Data {
    /// Octets of the message, on their way through its header.
    async fn pass(&mut self, octets: &[u8]) {
        let Some(submission) = &mut self.submission else {
            return self.write(octets).await;
        };
        match submission.filter.feed(octets.to_vec()) {
            Passed::Held => {}
            Passed::Header(header) => {
                let completed = submission.completed(&header);
                self.write(&completed).await;
            }
            Passed::Body(octets) => self.write(&octets).await,
        }
    }

    /// A message without an empty line is all header.
    async fn end(&mut self) {
        let Some(submission) = &mut self.submission else {
            return;
        };
        if let Some(header) = submission.filter.finish() {
            let completed = submission.completed(&header);
            self.write(&completed).await;
        }
    }

    async fn write(&mut self, octets: &[u8]) {
        if self.failed.is_none() {
            self.failed = self.draft.write(octets).await.err();
        }
    }
}

fn refuse(error: &SpoolError) -> Reply {
    tracing::error!(%error, "a message could not be stored");
    match error {
        SpoolError::Full => Reply::new(
            452,
            Enhanced(4, 3, 1),
            "no room in the spool, try again later",
        ),
        _ => replies::spool_unavailable(),
    }
}
