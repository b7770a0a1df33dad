//! Whom the receiver refuses, and how: `ADDRESS=REPLY`.

use std::str::FromStr;

use linkmail_smtp::{Enhanced, ForwardPath, Mailbox, Reply, replies};

/// A recipient that is refused, with the reply it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    mailbox: Mailbox,
    reply: Reply,
}

/// Text that is no [`Refusal`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotARefusal {
    /// There is no `=`, or what stands before it is no address.
    #[error("expected ADDRESS=REPLY such as \"nobody@world.example=550 5.1.1 no such user\"")]
    Address,
    /// What stands behind `=` does not begin with a code that refuses.
    #[error("expected a reply that refuses, 400 to 599, such as \"550 5.1.1 no such user\"")]
    Reply,
}

impl Refusal {
    /// Refuses a mailbox as one that does not exist.
    ///
    /// # Errors
    /// The address is none.
    pub fn no_such_user(address: &str) -> Result<Self, NotARefusal> {
        let mailbox = address.parse().map_err(|_| NotARefusal::Address)?;
        Ok(Self {
            mailbox,
            reply: replies::no_such_user(),
        })
    }

    /// The reply, if this recipient is meant: its domain without case, its local part exactly.
    #[must_use]
    pub fn reply_to(&self, recipient: &ForwardPath) -> Option<Reply> {
        let is_meant = recipient.mailbox() == Some(&self.mailbox);
        is_meant.then(|| self.reply.clone())
    }
}

impl FromStr for Refusal {
    type Err = NotARefusal;

    fn from_str(text: &str) -> Result<Self, NotARefusal> {
        // A local part may hold `=`, a domain may not.
        let (before, domain_on) = text.split_once('@').ok_or(NotARefusal::Address)?;
        let (domain, reply) = domain_on.split_once('=').ok_or(NotARefusal::Address)?;
        let mailbox = format!("{before}@{domain}");
        Ok(Self {
            mailbox: mailbox.parse().map_err(|_| NotARefusal::Address)?,
            reply: read_reply(reply).ok_or(NotARefusal::Reply)?,
        })
    }
}

/// `550 5.1.1 no such user`; the enhanced code and the text may be left out.
fn read_reply(text: &str) -> Option<Reply> {
    let (code, rest) = text.split_once(' ').unwrap_or((text, ""));
    let code = code
        .parse::<u16>()
        .ok()
        .filter(|code| (400..600).contains(code))?;
    let (first, behind) = rest.split_once(' ').unwrap_or((rest, ""));
    let (enhanced, text) = match Enhanced::parse(first.as_bytes()) {
        Some(enhanced) => (Some(enhanced), behind),
        None => (None, rest),
    };
    let text = if text.is_empty() { "refused" } else { text };
    Some(Reply::new(code, enhanced, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_whom_and_how() {
        for (text, reply) in [
            (
                "x@b.example=550 5.1.1 no such user",
                "550 5.1.1 no such user",
            ),
            ("x@b.example=451 later", "451 later"),
            ("x@b.example=550", "550 refused"),
            ("x@B.example=452 4.2.2", "452 4.2.2 refused"),
        ] {
            let refusal = text.parse::<Refusal>().unwrap();
            let meant = ForwardPath::parse(b"x@b.example").unwrap();
            assert_eq!(refusal.reply_to(&meant).unwrap().to_string(), reply);
            for other in ["X@b.example", "y@b.example", "postmaster"] {
                let other = ForwardPath::parse(other.as_bytes()).unwrap();
                assert_eq!(refusal.reply_to(&other), None);
            }
        }
    }

    #[test]
    fn what_does_not_refuse_is_refused() {
        for text in ["", "x=550", "x@b.example", "x@=550", "a b@c.example=550"] {
            assert_eq!(text.parse::<Refusal>(), Err(NotARefusal::Address), "{text}");
        }
        for text in ["x@b.example=", "x@b.example=250 OK", "x@b.example=no"] {
            assert_eq!(text.parse::<Refusal>(), Err(NotARefusal::Reply), "{text}");
        }
    }
}
