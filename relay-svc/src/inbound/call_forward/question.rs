//! The question whether a host takes mail for a recipient: hello, MAIL, RCPT, QUIT, in lock-step. Pure.
//!
//! Only a refusal of the recipient itself says that there is none. A refusal of us, of the sender, or for now, says
//! nothing. The sender is the null one (RFC 5321 4.5.5), so that no mail can come of it.

use linkmail_smtp::{Enhanced, Mailbox, Protocol, Reply, Severity, reply_reader::ReplyReader};

/// What the host says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// It takes mail for the recipient.
    Known,
    /// It takes none, and will not.
    Unknown,
    /// Neither, and why.
    Unclear(String),
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Send this, if it is anything, and receive.
    Send(String),
    /// The answer is there; this may be sent before the connection is closed.
    Over(Word, &'static str),
}

#[derive(Debug, Clone, Copy)]
enum Awaited {
    Greeting,
    Ehlo,
    Helo,
    Mail,
    Recipient,
}

/// One question. See the module.
#[derive(Debug)]
pub(super) struct Question {
    hostname: String,
    protocol: Protocol,
    recipient: Mailbox,
    replies: ReplyReader,
    awaited: Awaited,
}

const QUIT: &str = "QUIT\r\n";

impl Question {
    pub(super) fn new(hostname: &str, protocol: Protocol, recipient: &Mailbox) -> Self {
        Self {
            hostname: hostname.to_owned(),
            protocol,
            recipient: recipient.clone(),
            replies: ReplyReader::new(),
            awaited: Awaited::Greeting,
        }
    }

    /// Takes what the host sent.
    pub(super) fn receive(&mut self, octets: &[u8]) -> Turn {
        self.replies.receive(octets);
        match self.replies.next_reply() {
            Ok(None) => Turn::Send(String::new()),
            // In lock-step there is one reply to one command; more is not to be trusted.
            Ok(Some(_)) if self.replies.has_unread() => unclear("a reply that nobody asked for"),
            Ok(Some(reply)) => self.reply(&reply),
            Err(error) => unclear(&error.to_string()),
        }
    }

    fn reply(&mut self, reply: &Reply) -> Turn {
        let is_positive = reply.is_positive();
        match self.awaited {
            Awaited::Greeting if is_positive => {
                let verb = match self.protocol {
                    Protocol::Smtp => "EHLO",
                    Protocol::Lmtp => "LHLO",
                };
                self.send(Awaited::Ehlo, format!("{verb} {}", self.hostname))
            }
            Awaited::Ehlo | Awaited::Helo if is_positive => {
                self.send(Awaited::Mail, "MAIL FROM:<>".to_owned())
            }
            Awaited::Ehlo
                if self.protocol == Protocol::Smtp && reply.severity() == Severity::Permanent =>
            {
                self.send(Awaited::Helo, format!("HELO {}", self.hostname))
            }
            Awaited::Mail if is_positive => {
                self.send(Awaited::Recipient, format!("RCPT TO:<{}>", self.recipient))
            }
            Awaited::Recipient if is_positive => Turn::Over(Word::Known, QUIT),
            Awaited::Recipient if refuses_recipient(reply) => Turn::Over(Word::Unknown, QUIT),
            Awaited::Greeting
            | Awaited::Ehlo
            | Awaited::Helo
            | Awaited::Mail
            | Awaited::Recipient => unclear(&reply.to_string()),
        }
    }

    fn send(&mut self, awaited: Awaited, line: String) -> Turn {
        self.awaited = awaited;
        Turn::Send(line + "\r\n")
    }
}

fn unclear(why: &str) -> Turn {
    Turn::Over(Word::Unclear(why.to_owned()), QUIT)
}

/// For good, and because of the recipient: not out of order or unknown to it (x.5.z), nor by policy (x.7.z, RFC 3463).
fn refuses_recipient(reply: &Reply) -> bool {
    let by_code = matches!(reply.code, 550..=553 | 556);
    by_code && !matches!(reply.enhanced, Some(Enhanced(_, 5 | 7, _)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a host's replies, and gives what was said to it and what came of it.
    fn play(protocol: Protocol, replies: &[&str], piece: usize) -> (String, Option<Word>) {
        let recipient = Mailbox::parse(b"a@branch.example").unwrap();
        let mut question = Question::new("relay.test", protocol, &recipient);
        let mut said = String::new();
        for reply in replies {
            for piece in format!("{reply}\r\n").as_bytes().chunks(piece) {
                match question.receive(piece) {
                    Turn::Send(line) => said += &line,
                    Turn::Over(word, line) => return (said + line, Some(word)),
                }
            }
        }
        (said, None)
    }

    #[test]
    fn only_a_refusal_of_the_recipient_says_that_there_is_none() {
        let whole = "EHLO relay.test\r\nMAIL FROM:<>\r\nRCPT TO:<a@branch.example>\r\nQUIT\r\n";
        for (last, word) in [
            ("250 2.1.5 OK", Some(Word::Known)),
            ("251 will forward", Some(Word::Known)),
            ("550 5.1.1 no such user", Some(Word::Unknown)),
            ("550 no such user", Some(Word::Unknown)),
            ("553-5.1.3 no\r\n553 5.1.3 never", Some(Word::Unknown)),
            ("550 5.7.1 you may not", None),
            ("530 5.7.0 STARTTLS first", None),
            ("503 5.5.1 out of order", None),
            ("554 5.7.1 blocked", None),
            ("450 4.2.0 greylisted", None),
            ("421 4.3.2 closing", None),
        ] {
            for piece in [1, 1000] {
                let replies = ["220 mail ESMTP", "250-mail\r\n250 SIZE", "250 OK", last];
                let (said, got) = play(Protocol::Smtp, &replies, piece);
                assert_eq!(said, whole, "{last}");
                match &word {
                    Some(word) => assert_eq!(got.as_ref(), Some(word), "{last}"),
                    None => assert!(matches!(got, Some(Word::Unclear(_))), "{last}: {got:?}"),
                }
            }
        }
    }

    #[test]
    fn whoever_does_not_come_so_far_says_nothing() {
        for replies in [
            ["554 5.7.1 go away", "", "", ""].as_slice(),
            &["220 mail", "421 4.3.2 busy"],
            &["220 mail", "250 mail", "550 5.1.1 no null sender here"],
            &["220 mail\r\n250 early"],
            &["hello"],
        ] {
            let (_, word) = play(Protocol::Smtp, replies, 1000);
            assert!(matches!(word, Some(Word::Unclear(_))), "{replies:?}");
        }
    }

    #[test]
    fn lmtp_says_lhlo_and_an_old_host_hears_helo() {
        let (said, _) = play(Protocol::Lmtp, &["220 mail", "250 mail"], 1000);
        assert_eq!(said, "LHLO relay.test\r\nMAIL FROM:<>\r\n");
        let old = ["220 mail", "502 what", "250 mail", "250 OK", "250 OK"];
        let (said, word) = play(Protocol::Smtp, &old, 1000);
        assert!(said.starts_with("EHLO relay.test\r\nHELO relay.test\r\nMAIL"));
        assert_eq!(word, Some(Word::Known));
    }
}
