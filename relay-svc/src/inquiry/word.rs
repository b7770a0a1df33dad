//! What a host says when it is asked whether it takes mail for a recipient. Pure.
//!
//! Only a refusal of the recipient itself says that there is none. A refusal of us, of the sender, or for now, says
//! nothing.

use linkmail_smtp::{Asked, Enhanced, Reply};

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

impl From<Asked> for Word {
    fn from(asked: Asked) -> Self {
        match asked {
            Asked::Answer(reply) if reply.is_positive() => Self::Known,
            Asked::Answer(reply) if refuses_recipient(&reply) => Self::Unknown,
            Asked::Answer(reply) | Asked::NotAsked(reply) => Self::Unclear(reply.to_string()),
        }
    }
}

/// For good, and because of the recipient: not out of order or unknown to it (x.5.z), nor by policy (x.7.z, RFC 3463).
fn refuses_recipient(reply: &Reply) -> bool {
    let by_code = matches!(reply.code, 550..=553 | 556);
    by_code && !matches!(reply.enhanced, Some(Enhanced(_, 5 | 7, _)))
}

#[cfg(test)]
mod tests {
    use linkmail_smtp::reply_reader::ReplyReader;

    use super::*;

    fn reply(text: &str) -> Reply {
        let mut reader = ReplyReader::new();
        reader.receive(format!("{text}\r\n").as_bytes());
        reader.next_reply().unwrap().unwrap()
    }

    #[test]
    fn only_a_refusal_of_the_recipient_says_that_there_is_none() {
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
            let got = Word::from(Asked::Answer(reply(last)));
            match word {
                Some(word) => assert_eq!(got, word, "{last}"),
                None => assert_eq!(got, Word::Unclear(reply(last).to_string())),
            }
            // The same words to the sender are not about the recipient.
            let got = Word::from(Asked::NotAsked(reply(last)));
            assert!(matches!(got, Word::Unclear(_)), "{last}");
        }
    }
}
