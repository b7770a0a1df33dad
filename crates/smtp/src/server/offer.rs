//! What is offered to the client at this moment, and the answer to EHLO that says so (RFC 5321 4.1.1.1).

use crate::parameters::Extensions;
use crate::reply::Reply;

use super::{ServerConfig, ServerSession};

/// An answer to EHLO. PIPELINING, SIZE, 8BITMIME and ENHANCEDSTATUSCODES are always in it; LMTP demands the first and the
/// last of them (RFC 2033 5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The name of this host.
    pub hostname: String,
    /// The largest message, in octets (RFC 1870 4).
    pub size_limit: u64,
    /// The extensions that have a switch. Of AUTH, `mechanisms` says it; of DELIVERBY, `deliver_by`.
    pub extensions: Extensions,
    /// The least time of DELIVERBY, if it is offered, in seconds; 0 is not told.
    pub deliver_by: Option<u32>,
    /// XLINKMAIL is offered under the condition that the client authenticates itself.
    pub xlinkmail_by_login: bool,
    /// The mechanisms of AUTH (RFC 4954 3). AUTH is not offered without one.
    pub mechanisms: Vec<String>,
    /// The limits that are told, if LIMITS is offered.
    pub limits: Option<Limits>,
}

/// The largest number that a limit can be (RFC 9422 4); a larger one is none.
const LARGEST: usize = 999_999;

/// What LIMITS says (RFC 9422). A number that cannot be told is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `MAILMAX`: MAIL commands in a session.
    pub messages: Option<usize>,
    /// `RCPTMAX`: RCPT commands in a transaction.
    pub recipients: Option<usize>,
}

impl Offer {
    /// The answer to EHLO.
    pub fn reply(&self) -> Reply {
        let mut lines = vec![
            self.hostname.clone(),
            "PIPELINING".to_owned(),
            format!("SIZE {}", self.size_limit),
            "8BITMIME".to_owned(),
            "ENHANCEDSTATUSCODES".to_owned(),
        ];
        let offered = &self.extensions;
        let simple = [
            (offered.chunking, "CHUNKING"),
            (offered.dsn, "DSN"),
            (offered.smtputf8, "SMTPUTF8"),
            (offered.mt_priority, "MT-PRIORITY"),
            (offered.starttls, "STARTTLS"),
        ];
        lines.extend(
            simple
                .iter()
                .filter(|(on, _)| *on)
                .map(|(_, word)| (*word).to_owned()),
        );
        match self.deliver_by {
            None => {}
            Some(0) => lines.push("DELIVERBY".to_owned()),
            Some(minimum) => lines.push(format!("DELIVERBY {minimum}")),
        }
        if !self.mechanisms.is_empty() {
            lines.push(format!("AUTH {}", self.mechanisms.join(" ")));
        }
        lines.extend(self.limits.as_ref().and_then(Limits::line));
        if offered.xlinkmail {
            lines.push("XLINKMAIL".to_owned());
        } else if self.xlinkmail_by_login {
            lines.push("XLINKMAIL AUTH".to_owned());
        }
        if offered.etrn {
            lines.push("ETRN".to_owned());
        }
        Reply::new(250, None, lines.join("\n"))
    }
}

impl Limits {
    /// Nothing if there is no limit to be told.
    fn line(&self) -> Option<String> {
        let mut line = String::new();
        for (name, limit) in [("MAILMAX", self.messages), ("RCPTMAX", self.recipients)] {
            if let Some(limit @ 1..=LARGEST) = limit {
                line.push_str(&format!(" {name}={limit}"));
            }
        }
        (!line.is_empty()).then(|| format!("LIMITS{line}"))
    }
}

impl ServerConfig {
    /// The extensions whose commands are known at all, whatever the session has come to.
    pub(super) fn extensions(&self) -> Extensions {
        Extensions {
            chunking: self.chunking,
            dsn: self.dsn,
            smtputf8: self.smtputf8,
            etrn: self.etrn,
            starttls: self.starttls,
            auth: !self.auth_in_clear.is_empty() || !self.auth_in_tls.is_empty(),
            mt_priority: self.mt_priority,
            deliver_by: self.deliver_by.is_some(),
            xlinkmail: self.xlinkmail,
        }
    }
}

impl ServerSession {
    /// Whether XLINKMAIL is for this client, as far as is known now.
    pub(super) fn is_peer(&self) -> bool {
        self.config.xlinkmail
            || self.trusted
            || self.config.xlinkmail_by_login && self.identity.is_some()
    }

    /// Whether it would be for this client if it authenticated itself, which it may.
    pub(super) fn may_become_peer(&self) -> bool {
        self.config.xlinkmail_by_login && self.identity.is_none() && !self.mechanisms().is_empty()
    }

    /// What is offered now: STARTTLS not under TLS (RFC 3207 4.2), AUTH not twice, XLINKMAIL to a peer, and to who may
    /// become one by AUTH.
    pub(super) fn offer(&self) -> Offer {
        let config = &self.config;
        let known = config.extensions();
        let mechanisms = match self.identity {
            None => self.mechanisms().to_vec(),
            Some(_) => Vec::new(),
        };
        let limits = Limits {
            messages: config.max_messages,
            recipients: Some(config.max_recipients),
        };
        Offer {
            hostname: config.hostname.clone(),
            size_limit: config.size_limit,
            extensions: Extensions {
                starttls: known.starttls && !self.tls,
                auth: !mechanisms.is_empty(),
                xlinkmail: self.is_peer(),
                ..known
            },
            deliver_by: config.deliver_by,
            xlinkmail_by_login: self.may_become_peer(),
            mechanisms,
            limits: config.limits.then_some(limits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ehlo::{Capabilities, DeliverByOffer, PeerOffer};

    #[test]
    fn the_offer_is_read_back() {
        let mut offer = Offer {
            hostname: "relay.test".into(),
            size_limit: 25_000_000,
            ..Offer::default()
        };
        let offered = Capabilities::from_reply(&offer.reply());
        assert!(offered.pipelining && offered.eight_bit_mime && offered.enhanced_status_codes);
        assert!(!offered.chunking && !offered.etrn && !offered.starttls && !offered.dsn);
        assert_eq!(offered.size_limit(), Some(25_000_000));
        assert!(offered.others.is_empty());

        offer.extensions = Extensions::ALL;
        offer.mechanisms = vec!["SCRAM-SHA-256".into(), "PLAIN".into()];
        offer.limits = Some(Limits {
            messages: Some(10),
            recipients: Some(100),
        });
        let offered = Capabilities::from_reply(&offer.reply());
        assert!(offered.chunking && offered.etrn && offered.starttls && offered.dsn);
        let lines = offer.reply().lines;
        for line in [
            "SMTPUTF8",
            "AUTH SCRAM-SHA-256 PLAIN",
            "LIMITS MAILMAX=10 RCPTMAX=100",
            "XLINKMAIL",
        ] {
            assert!(lines.contains(&line.as_bytes().to_vec()), "{line}");
        }
        assert!(offered.mt_priority);
        for (least, read) in [
            (None, DeliverByOffer::NotOffered),
            (Some(0), DeliverByOffer::Offered { minimum: 0 }),
            (Some(300), DeliverByOffer::Offered { minimum: 300 }),
        ] {
            offer.deliver_by = least;
            let offered = Capabilities::from_reply(&offer.reply());
            assert_eq!((offered.deliver_by, offered.others), (read, Vec::new()));
        }
        for (messages, recipients, line) in [
            (None, Some(1000), Some("LIMITS RCPTMAX=1000")),
            (
                Some(1_000_000),
                Some(999_999),
                Some("LIMITS RCPTMAX=999999"),
            ),
            (Some(0), Some(1_000_000), None),
        ] {
            let limits = Limits {
                messages,
                recipients,
            };
            assert_eq!(limits.line().as_deref(), line);
        }
        assert_eq!(offered.xlinkmail, PeerOffer::AsWeAre);
        offer.xlinkmail_by_login = true;
        let of = |offer: &Offer| Capabilities::from_reply(&offer.reply()).xlinkmail;
        assert_eq!(of(&offer), PeerOffer::AsWeAre);
        offer.extensions.xlinkmail = false;
        assert_eq!(of(&offer), PeerOffer::ByLogin);
    }
}
