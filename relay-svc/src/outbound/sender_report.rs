//! The report that tells a sender what became of recipients: what is told, where it goes, and its text as a draft.

use std::time::Duration;

use linkmail_smtp::{DeliverBy, ForwardPath, ReversePath, Severity};

use super::{
    forward::Forwarder,
    settle::{Attempt, Part},
};
use crate::{
    clock::Stamp,
    names::MessageId,
    policy::Admitted,
    queue::Outcome,
    report::{self, Diagnostic, Told},
    spool::{
        Draft, Due, DueRecipient, MessageWish, NewMessage, NewRecipient, Origin, RecipientWish,
        SpoolError,
    },
    telemetry,
};

/// A report that is to be stored.
#[derive(Clone)]
pub(super) struct Report {
    pub(super) message: NewMessage,
    /// With the header of the message that it is about.
    text: Vec<u8>,
    /// What stands before and behind that message, where it is returned whole.
    around: Option<(Vec<u8>, Vec<u8>)>,
}

impl Report {
    /// Whether the message that it is about comes back with it.
    pub(super) fn returns_whole(&self) -> bool {
        self.around.is_some()
    }
}

impl Forwarder {
    /// A report as a draft; the message that it returns, if `whole` is wanted, goes through piece by piece. One that cannot be read leaves
    /// its header.
    pub(super) async fn draft(
        &self,
        about: i64,
        report: &Report,
        whole: bool,
    ) -> Result<Draft, SpoolError> {
        if let Some((before, behind)) = report.around.as_ref().filter(|_| whole) {
            match self.draft_around(about, before, behind).await {
                Err(SpoolError::Full) => return Err(SpoolError::Full),
                Err(error) => {
                    tracing::error!(id = %report.message.id, %error, "a report returns only the header");
                }
                drawn => return drawn,
            }
        }
        let mut draft = self.spool.own_draft();
        draft.write(&report.text).await?;
        Ok(draft)
    }

    async fn draft_around(
        &self,
        about: i64,
        before: &[u8],
        behind: &[u8],
    ) -> Result<Draft, SpoolError> {
        let mut body = self.spool.body(about).await?;
        let mut draft = self.spool.own_draft();
        draft.write(before).await?;
        loop {
            let piece = body.next().await?;
            if piece.is_empty() {
                break;
            }
            draft.write(&piece).await?;
        }
        draft.write(behind).await?;
        Ok(draft)
    }

    /// Where a report to the sender would go.
    pub(super) fn report_to(&self, attempt: &Attempt) -> Option<Admitted> {
        let sender = attempt.sender.clone()?;
        self.policy
            .recipient(&ForwardPath::Mailbox(sender), true)
            .ok()
    }

    /// The report of those recipients of which the sender is told.
    pub(super) async fn report(
        &self,
        attempt: &Attempt,
        told: &[Told],
        now: Stamp,
    ) -> Option<Report> {
        let (message, sender) = (&attempt.message, attempt.sender.as_ref()?);
        if told.is_empty() {
            return None;
        }
        let admitted = self.report_to(attempt)?;
        let head = match self.spool.body(message.seq).await {
            Ok(body) => body.head(report::HEADER_LIMIT).await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let subject = report::Subject {
            hostname: &self.hostname,
            postmaster: &self.postmaster,
            sender,
            arrived: message.accepted,
            envelope_id: message.wish.envelope_id.as_ref(),
            deliver_by: deadline(message),
            head: &head,
        };
        let original = report::Original {
            ret: message.wish.ret,
            size: message.size,
            eight_bit: message.eight_bit || message.utf8_header,
        };
        let whole = report::returns_whole(original, told, &admitted.hop);
        let around = whole.then(|| report::write_around(&subject, told, now));
        let written = report::write(&subject, told, now);
        let written = written.and_then(|text| Ok((text, around.transpose()?)));
        let (text, around) = match written {
            Ok(written) => written,
            Err(error) => {
                tracing::error!(id = %message.id, %error, "no report");
                return None;
            }
        };
        // Its own field To names the sender.
        let utf8_header = !sender.is_ascii();
        let traceparent = telemetry::to_text(&attempt.span);
        let new = to_be_stored(admitted, utf8_header, traceparent, now);
        tracing::info!(id = %new.id, about = %message.id, "report written");
        Some(Report {
            message: new,
            text,
            around,
        })
    }
}

/// When the time that the sender set is over (RFC 2852 5), by the wall clock at the acceptance.
fn deadline(message: &Due) -> Option<Stamp> {
    let by = message.wish.deliver_by?;
    let seconds = Duration::from_secs(u64::from(by.seconds().unsigned_abs()));
    Some(match by.seconds() < 0 {
        true => message.accepted.minus(seconds),
        false => message.accepted.plus(seconds),
    })
}

fn to_be_stored(to: Admitted, utf8_header: bool, traceparent: String, now: Stamp) -> NewMessage {
    NewMessage {
        id: MessageId::new(),
        reverse_path: ReversePath::Null,
        recipients: vec![NewRecipient {
            address: to.address,
            hop: to.hop,
            wish: RecipientWish::default(),
        }],
        origin: Origin::Report,
        link: None,
        cycle: None,
        traceparent,
        accepted: now,
        request: None,
        wish: MessageWish::default(),
        utf8_header,
        handover: None,
    }
}

/// What is told of a recipient that the next hop took without passing on that its success is to be told.
pub(super) fn relayed(
    recipient: &DueRecipient,
    outcome: &Outcome,
    (part, by): (&Part, Option<DeliverBy>),
    remote: &str,
) -> Option<Told> {
    let is_told = report::relay_is_told(recipient.wish.notify, by, part.takes);
    match outcome {
        Outcome::Delivered(reply) if is_told => {
            let told = Told::relayed(recipient.address.clone(), reply, remote.to_owned());
            Some(told.with_original(recipient.wish.original.clone()))
        }
        _ => None,
    }
}

pub(super) fn failure(
    recipient: &DueRecipient,
    outcome: &Outcome,
    given_up: &str,
    remote: &str,
) -> Told {
    let address = recipient.address.clone();
    let remote = remote.to_owned();
    let told = match outcome {
        Outcome::Refused(reply) if reply.severity() == Severity::Permanent => {
            Told::refused(address, reply, remote)
        }
        Outcome::Refused(reply) => {
            Told::expired(address, Diagnostic::Smtp(reply.to_string()), remote)
        }
        Outcome::Returned(why) => Told::returned(address, why.clone(), remote),
        Outcome::OutOfTime(why) => Told::out_of_time(address, why.clone(), remote),
        _ => Told::expired(address, Diagnostic::Words(given_up.to_owned()), remote),
    };
    told.with_original(recipient.wish.original.clone())
}
