//! The lines of an envelope, with the parameters that the server offers to take.

use std::collections::HashSet;

use crate::deliver_by::ByMode;
use crate::dsn::Notify;
use crate::ehlo::{DeliverByOffer, PeerOffer, SizeOffer};
use crate::path::{Domain, ForwardPath};

use super::{ClientSession, Recipient, Transaction};

/// So many domains are kept in mind; a server that takes more in a session gets no more.
const DOMAINS: usize = 1000;

fn domains(transaction: &Transaction) -> impl Iterator<Item = &Domain> {
    let recipients = transaction.recipients.iter();
    recipients.filter_map(|recipient| match &recipient.path {
        ForwardPath::Mailbox(mailbox) => Some(mailbox.domain()),
        ForwardPath::Postmaster => None,
    })
}

impl ClientSession {
    /// MAIL of the newest transaction.
    pub(super) fn mail_line(&self) -> Vec<u8> {
        let Some(newest) = self.flying.back() else {
            return Vec::new();
        };
        let transaction = &newest.transaction;
        let path = transaction.reverse_path.to_bytes();
        let mut line = [b"MAIL FROM:<".as_slice(), &path, b">"].concat();
        let Some(offered) = &self.capabilities else {
            return line;
        };
        let mut add = |keyword: &str, value: &dyn std::fmt::Display| {
            line.extend_from_slice(format!(" {keyword}={value}").as_bytes());
        };
        if offered.size != SizeOffer::NotOffered {
            add("SIZE", &transaction.size);
        }
        if offered.eight_bit_mime && transaction.eight_bit {
            add("BODY", &"8BITMIME");
        }
        if self.uses_utf8(transaction) {
            line.extend_from_slice(b" SMTPUTF8");
        }
        let mut add = |keyword: &str, value: &dyn std::fmt::Display| {
            line.extend_from_slice(format!(" {keyword}={value}").as_bytes());
        };
        if let (true, Some(ret)) = (offered.dsn, transaction.ret) {
            add("RET", &ret.encode());
        }
        if let (true, Some(id)) = (offered.dsn, &transaction.envelope_id) {
            add("ENVID", &id.encode());
        }
        if let (true, Some(priority)) = (offered.mt_priority, transaction.priority) {
            add("MT-PRIORITY", &priority);
        }
        if let (DeliverByOffer::Offered { .. }, Some(by)) =
            (offered.deliver_by, transaction.deliver_by)
        {
            add("BY", &by);
        }
        let is_peer = match offered.xlinkmail {
            PeerOffer::NotOffered => false,
            PeerOffer::AsWeAre => true,
            PeerOffer::ByLogin => self.is_authenticated(),
        };
        if let (true, Some(id)) = (is_peer, transaction.peer_id) {
            add("XLMID", &id);
        }
        line
    }

    /// Whether the transaction is one of SMTPUTF8: where it is offered, and only if something in it needs it.
    fn uses_utf8(&self, transaction: &Transaction) -> bool {
        let offered = self.capabilities.as_ref();
        let wanted = |recipient: &Recipient| !recipient.path.is_ascii();
        offered.is_some_and(|offered| offered.smtp_utf8)
            && (transaction.needs_utf8() || transaction.recipients.iter().any(wanted))
    }

    /// Whether the server takes mail for the domains of these recipients, beside those of all that was ordered: it may
    /// limit how many there are in a session (RFC 9422 4.3). One that names more than the limit by itself is
    /// never taken.
    pub fn takes_domains_of(&self, transaction: &Transaction) -> bool {
        let Some(most) = self.domain_limit() else {
            return true;
        };
        let others = domains(transaction).filter(|domain| !self.domains.contains(*domain));
        let others: HashSet<_> = others.collect();
        self.domains.len() + others.len() <= most
    }

    pub(super) fn note_domains(&mut self, transaction: &Transaction) {
        if self.domain_limit().is_some() {
            self.domains.extend(domains(transaction).cloned());
        }
    }

    fn domain_limit(&self) -> Option<usize> {
        let limit = self.capabilities.as_ref()?.limits.rcpt_domain_max?;
        Some(usize::try_from(limit).unwrap_or(DOMAINS).min(DOMAINS))
    }

    /// Which reports are asked for. A sender who wants to know that a message is late hears it by DELAY from a server that
    /// does not know its time, unless it wants no reports at all (RFC 2852 4.1.4.2).
    fn notify_of(&self, recipient: &Recipient) -> Option<Notify> {
        let offered = self.capabilities.as_ref()?;
        let by = self.flying.back()?.transaction.deliver_by;
        let is_untold = offered.deliver_by == DeliverByOffer::NotOffered
            && by.is_some_and(|by| by.mode() == ByMode::Notify);
        match recipient.notify {
            asked if !is_untold => asked,
            None => Some(Notify {
                failure: true,
                delay: true,
                success: false,
            }),
            Some(Notify::NEVER) => Some(Notify::NEVER),
            Some(asked) => Some(Notify {
                delay: true,
                ..asked
            }),
        }
    }

    /// RCPT for one recipient.
    pub(super) fn rcpt_line(&self, recipient: &Recipient) -> Vec<u8> {
        let path = recipient.path.to_bytes();
        let mut line = [b"RCPT TO:<".as_slice(), &path, b">"].concat();
        if self
            .capabilities
            .as_ref()
            .is_some_and(|offered| offered.dsn)
        {
            if let Some(notify) = self.notify_of(recipient) {
                line.extend_from_slice(format!(" NOTIFY={}", notify.encode()).as_bytes());
            }
            if let Some(original) = &recipient.original {
                line.extend_from_slice(format!(" ORCPT={}", original.encode(false)).as_bytes());
            }
        }
        line
    }
}
