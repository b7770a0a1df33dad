//! What the peer answers: the right thing, another that the input chooses, or what nobody asked for.

use linkmail_smtp::Protocol;

use super::{
    Answer, CHUNKING, EIGHT_BIT, Given, Hears, PIPELINING, Peer, SIZE, SMALL, STARTTLS, Said,
};

impl Peer<'_> {
    /// How many replies the client waits for, for the end of a message.
    fn ends(&self, number: usize) -> usize {
        let taken = (0..4)
            .filter(|at| self.took(Said::Rcpt(number, *at)))
            .count();
        match self.setup.config.protocol {
            Protocol::Smtp => 1,
            Protocol::Lmtp => taken.max(1),
        }
    }

    /// What comes next: replies to what was heard, or something else.
    pub(in crate::client_session) fn give(&mut self) -> Given {
        let mut bytes = Vec::new();
        self.said_behind = false;
        for _ in 0..self.setup.batch {
            if self.gone || self.pending.is_empty() {
                break;
            }
            let choice = self.script.byte();
            match choice {
                // What was said before still counts.
                0xf8..=0xfb if bytes.is_empty() => {
                    self.gone = true;
                    return match choice {
                        0xf8 => Given::Close,
                        0xfa => Given::Lost,
                        _ => Given::Silence,
                    };
                }
                0xfc..=0xff => {
                    self.answer(0, &mut bytes);
                    if self.pending.is_empty() {
                        self.babble(choice, &mut bytes);
                        break;
                    }
                }
                _ => self.answer(choice, &mut bytes),
            }
        }
        if bytes.is_empty() {
            self.gone = true;
            return Given::Close;
        }
        Given::Bytes(bytes)
    }

    /// Something that is no answer to anything: everything was answered.
    fn babble(&mut self, choice: u8, bytes: &mut Vec<u8>) {
        self.is_honest = false;
        self.said_more = true;
        self.said_behind = true;
        match choice {
            0xfc => {
                let length = usize::from(self.script.byte() & 31);
                let words = self.script.octets(length).iter();
                bytes.extend(words.filter(|byte| **byte != b'#'));
                bytes.extend_from_slice(b"\r\n");
            }
            0xfd => bytes.extend_from_slice(b"250 unasked\r\n"),
            0xfe => bytes.extend_from_slice(b"250 bare\n"),
            _ => bytes.extend_from_slice(b"421 4.3.2 unasked\r\n"),
        }
    }

    fn answer(&mut self, choice: u8, bytes: &mut Vec<u8>) {
        let Some(said) = self.pending.front().copied() else {
            return;
        };
        let right = self.right(said);
        let code = match choice {
            0..0xa0 => right,
            0xa0..0xb0 => 450,
            0xb0..0xc8 => 550,
            0xc8..0xd0 => 552,
            0xd0..0xd4 => 421,
            0xd4..0xd8 => 354,
            0xd8..0xe0 => 250,
            0xe0..0xe8 => 334,
            0xe8..0xf0 => 220,
            _ => 503,
        };
        self.is_honest &= self.may_say(said, code);
        let is_hello = matches!(said, Said::Hello { extended: true }) && code / 100 == 2;
        let number = self.answers.len();
        if is_hello {
            self.offered = self.setup.offers;
            bytes.extend_from_slice(&self.offer(code, number));
        } else {
            if choice & 3 == 3 {
                bytes.extend_from_slice(format!("{code}-two lines\r\n").as_bytes());
            }
            bytes.extend_from_slice(format!("{code} #{number};\r\n").as_bytes());
        }
        self.note(said, code);
    }

    /// The answer of a peer to which all is well.
    fn right(&self, said: Said) -> u16 {
        match said {
            Said::Connect | Said::StartTls => 220,
            Said::Auth => 235,
            Said::Quit => 221,
            Said::Mail(_) | Said::Hello { .. } | Said::Reset | Said::Etrn => 250,
            Said::Rcpt(number, _) if !self.took(Said::Mail(number)) => 503,
            Said::Data(number) | Said::End(number) | Said::Chunk(number)
                if !self.took_recipient(number) =>
            {
                554
            }
            Said::Chunk(number) | Said::End(number) if self.refused_chunk(number) => 503,
            Said::Data(_) => 354,
            Said::Rcpt(..) | Said::Chunk(_) | Said::End(_) => 250,
        }
    }

    fn refused_chunk(&self, number: usize) -> bool {
        let is_refusal = |a: &Answer| a.said == Said::Chunk(number) && !a.is_positive();
        self.answers.iter().any(is_refusal)
    }

    /// Whether the protocol allows this answer.
    fn may_say(&self, said: Said, code: u16) -> bool {
        match (said, code / 100) {
            (_, 4 | 5) => said != Said::Reset || code == 421,
            (Said::Data(_) | Said::Auth, 3) | (Said::Connect | Said::Auth, 2) => true,
            (_, 2) => self.right(said) / 100 == 2,
            _ => false,
        }
    }

    fn note(&mut self, said: Said, code: u16) {
        self.answers.push(Answer { said, code });
        let positive = code / 100 == 2;
        match said {
            Said::Data(_) if code / 100 == 3 => self.hears = Hears::Content,
            Said::Auth if code / 100 == 3 => self.hears = Hears::Response,
            Said::Auth => self.logged_in |= positive,
            Said::Mail(_) if !positive => self.may_linger &= self.pending.len() > 1,
            Said::End(number) if positive && self.message == Some(number) => {
                self.may_linger = false;
            }
            Said::Hello { extended: false } => self.offered = 0,
            _ => {}
        }
        let given = |a: &&Answer| a.said == said;
        let is_last = match said {
            Said::End(number) => {
                let count = self.answers.iter().filter(given).count();
                count >= self.ends(number)
            }
            _ => true,
        };
        if is_last {
            self.pending.pop_front();
        }
        self.gone |= code == 421 || said == Said::Quit;
    }

    fn offer(&self, code: u16, number: usize) -> Vec<u8> {
        let mut lines = vec![format!("#{number};")];
        for (bit, keyword) in [
            (PIPELINING, "PIPELINING"),
            (CHUNKING, "CHUNKING"),
            (EIGHT_BIT, "8BITMIME"),
            (STARTTLS, "STARTTLS"),
        ] {
            if self.offered & bit != 0 {
                lines.push(keyword.into());
            }
        }
        if self.offered & SIZE != 0 {
            lines.push(
                if self.offered & SMALL != 0 {
                    "SIZE 20"
                } else {
                    "SIZE 0"
                }
                .into(),
            );
        }
        let last = lines.len() - 1;
        let line = |(at, text): (usize, &String)| {
            format!("{code}{}{text}\r\n", if at == last { ' ' } else { '-' })
        };
        lines
            .iter()
            .enumerate()
            .map(line)
            .collect::<String>()
            .into()
    }
}
