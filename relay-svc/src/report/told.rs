//! What is told of one recipient, and whether success is told at all.

use linkmail_smtp::{
    ByMode, DeliverBy, Mailbox, Reply,
    dsn::{Notify, OriginalRecipient},
};

use crate::clock::Stamp;

/// What became of a recipient, for the report (RFC 3464 2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It was given up.
    Failed,
    /// It is late, and goes on being tried (RFC 3461 5.2.5).
    Delayed,
    /// It was handed on to a server that sends no reports of success (RFC 3461 6.2.7).
    Relayed,
}

impl Action {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Relayed => "relayed",
        }
    }
}

/// What is told of a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What became of it.
    pub action: Action,
    /// Who.
    pub address: Mailbox,
    /// The recipient as the sender wrote it (RFC 3464 2.3.1), if it said.
    pub original: Option<OriginalRecipient>,
    /// RFC 3463: class 5 of what failed, 4 of what is late, 2 of what was handed on.
    pub status: String,
    /// The reply or the error.
    pub diagnostic: Diagnostic,
    /// The host that gave it.
    pub remote: String,
    /// When it was tried last.
    pub tried: Tried,
    /// Until when it is tried, if it is late and an end is known (RFC 3464 2.3.9).
    pub until: Option<Stamp>,
}

/// When a recipient was tried last (RFC 3464 2.3.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// At the time of the report: an attempt led to it.
    Now,
    /// Before it.
    At(Stamp),
    /// Never, as far as is known.
    Never,
}

/// What was the last word on a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Diagnostic {
    /// An SMTP reply.
    Smtp(String),
    /// Our own words: no reply came.
    Words(String),
}

impl Told {
    /// A recipient that the next hop refused for good.
    #[must_use]
    pub fn refused(address: Mailbox, reply: &Reply, remote: String) -> Self {
        let status = status_of(reply, 5).unwrap_or_else(|| "5.0.0".to_owned());
        Self {
            action: Action::Failed,
            original: None,
            address,
            status,
            diagnostic: Diagnostic::Smtp(reply.to_string()),
            remote,
            tried: Tried::Now,
            until: None,
        }
    }

    /// A recipient that was handed on to a server which does not tell of success.
    #[must_use]
    pub fn relayed(address: Mailbox, reply: &Reply, remote: String) -> Self {
        Self {
            action: Action::Relayed,
            status: "2.0.0".to_owned(),
            ..Self::refused(address, reply, remote)
        }
    }

    /// The same with the recipient as the sender wrote it.
    #[must_use]
    pub fn with_original(self, original: Option<OriginalRecipient>) -> Self {
        Self { original, ..self }
    }

    /// A recipient whose attempts failed for too long (RFC 3463 X.4.7).
    #[must_use]
    pub fn expired(address: Mailbox, last: Diagnostic, remote: String) -> Self {
        Self {
            action: Action::Failed,
            original: None,
            address,
            status: "5.4.7".to_owned(),
            diagnostic: last,
            remote,
            tried: Tried::Now,
            until: None,
        }
    }

    /// A recipient whose time is over: giving it up is no attempt.
    #[must_use]
    pub fn out_of_time(address: Mailbox, why: String, remote: String) -> Self {
        Self {
            tried: Tried::Never,
            ..Self::expired(address, Diagnostic::Words(why), remote)
        }
    }

    /// A recipient that an operator gives up (RFC 3463 X.0.0: no other code says so).
    #[must_use]
    pub fn returned(address: Mailbox, why: String, remote: String) -> Self {
        Self {
            status: "5.0.0".to_owned(),
            ..Self::out_of_time(address, why, remote)
        }
    }

    /// A recipient that is late, and the last word on it. The status is that of the reply, if it was one for now.
    #[must_use]
    pub fn delayed(
        address: Mailbox,
        last: &LastWord<'_>,
        tried: Tried,
        until: Option<Stamp>,
    ) -> Self {
        let (status, diagnostic, remote) = match last {
            LastWord::Reply(reply, remote) => {
                let status = status_of(reply, 4);
                (status, Diagnostic::Smtp(reply.to_string()), *remote)
            }
            LastWord::Words(words) => (None, Diagnostic::Words((*words).to_owned()), ""),
        };
        // RFC 3463: without a word of a host, something of the way to it.
        let general = match diagnostic {
            Diagnostic::Smtp(_) => "4.0.0",
            Diagnostic::Words(_) => "4.4.0",
        };
        Self {
            action: Action::Delayed,
            original: None,
            address,
            status: status.unwrap_or_else(|| general.to_owned()),
            diagnostic,
            remote: remote.to_owned(),
            tried,
            until,
        }
    }
}

/// The last that is known of a recipient which is late.
#[derive(Debug, Clone, Copy)]
pub enum LastWord<'a> {
    /// A host replied; its name.
    Reply(&'a Reply, &'a str),
    /// None did, and this is why.
    Words(&'a str),
}

/// The enhanced code of a reply, if it is of the class that the action goes with (RFC 3464 2.3.4).
fn status_of(reply: &Reply, class: u8) -> Option<String> {
    let enhanced = reply.enhanced.filter(|enhanced| enhanced.0 == class)?;
    Some(format!("{}.{}.{}", enhanced.0, enhanced.1, enhanced.2))
}

/// What a host that took a message will tell its sender by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Host {
    /// It offers DSN.
    pub dsn: bool,
    /// It offers DELIVERBY.
    pub deliver_by: bool,
}

/// Whether the sender is told that a host took the message. Where success was asked for, and the host will not tell of it
/// (RFC 3461 5.2.2 b); where the sender wants to know that it is late, and the host does not know its time (RFC 2852 4.1.4.2);
/// and of each host where it is traced (RFC 2852 4.1.4). Never against the sender's word.
#[must_use]
pub fn relay_is_told(notify: Option<Notify>, by: Option<DeliverBy>, host: Host) -> bool {
    if notify == Some(Notify::NEVER) {
        return false;
    }
    let wants_success = notify.is_some_and(|asked| asked.success) && !host.dsn;
    let is_untimed = by.is_some_and(|by| by.mode() == ByMode::Notify) && !host.deliver_by;
    wants_success || is_untimed || by.is_some_and(DeliverBy::is_traced)
}
