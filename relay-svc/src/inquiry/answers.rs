//! What hosts have said of recipients, for a while. Pure: the time is an argument. Bounded: when it is full, what would be
//! forgotten first makes room.

use std::{collections::HashMap, time::Duration};

use linkmail_smtp::Mailbox;
use tokio::time::Instant;

use crate::names::{HostPort, Node};

/// So long a recipient that is there stays known.
const KNOWN: Duration = Duration::from_secs(3600);
/// So long one that is not stays refused: who is made a mailbox must not wait for it.
const UNKNOWN: Duration = Duration::from_secs(300);
/// A host that does not answer is not asked for so long: each question would cost its client a time-out.
const SILENT: Duration = Duration::from_secs(60);
/// So many answers are kept.
const ROOM: usize = 8192;

/// What is asked: by the host it is asked of, and by a recipient. Case of local parts counts: the host decides what it
/// means. None: the host as such.
type Key = (HostPort, Option<(Vec<u8>, Node)>);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Answers {
    kept: HashMap<Key, (bool, Instant)>,
}

impl Answers {
    /// Whether the recipient is taken, if that is known.
    pub(super) fn get(&self, host: &HostPort, recipient: &Mailbox, now: Instant) -> Option<bool> {
        let fresh = |key: &Key| {
            let (taken, until) = self.kept.get(key)?;
            (now < *until).then_some(*taken)
        };
        fresh(&key(host, recipient)).or_else(|| fresh(&(host.clone(), None)))
    }

    /// The host has said whether it takes the recipient.
    pub(super) fn put(&mut self, host: &HostPort, recipient: &Mailbox, known: bool, now: Instant) {
        let until = now + if known { KNOWN } else { UNKNOWN };
        self.keep(key(host, recipient), known, until, now);
    }

    /// The host could not be asked: for a while all its recipients are taken.
    pub(super) fn silent(&mut self, host: &HostPort, now: Instant) {
        self.keep((host.clone(), None), true, now + SILENT, now);
    }

    fn keep(&mut self, key: Key, taken: bool, until: Instant, now: Instant) {
        if self.kept.len() >= ROOM && !self.kept.contains_key(&key) {
            self.kept.retain(|_, (_, until)| now < *until);
            let first = self.kept.iter().min_by_key(|(_, (_, until))| *until);
            if self.kept.len() >= ROOM
                && let Some(first) = first.map(|(key, _)| key.clone())
            {
                self.kept.remove(&first);
            }
        }
        self.kept.insert(key, (taken, until));
    }
}

fn key(host: &HostPort, recipient: &Mailbox) -> Key {
    let recipient = (recipient.local().to_vec(), Node::of(recipient.domain()));
    (host.clone(), Some(recipient))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_kept_for_its_time_and_the_table_is_bounded() {
        let host = HostPort::parse_url("smtp://mail.branch.example").unwrap();
        let other = HostPort::parse_url("smtp://mail.lab.example").unwrap();
        let of = |text: &str| Mailbox::parse(text.as_bytes()).unwrap();
        let (a, b) = (of("a@branch.example"), of("b@branch.example"));
        let mut answers = Answers::default();
        let now = Instant::now();
        answers.put(&host, &a, true, now);
        answers.put(&host, &b, false, now);
        let later = |seconds| now + Duration::from_secs(seconds);
        for (recipient, seconds, answer) in [
            (&a, 0, Some(true)),
            (&a, 3599, Some(true)),
            (&a, 3600, None),
            (&b, 299, Some(false)),
            (&b, 300, None),
        ] {
            let got = answers.get(&host, recipient, later(seconds));
            assert_eq!(got, answer, "{recipient} {seconds}");
        }
        assert_eq!(answers.get(&other, &a, now), None);
        answers.silent(&host, now);
        assert_eq!(answers.get(&host, &b, later(0)), Some(false));
        assert_eq!(
            answers.get(&host, &of("c@branch.example"), later(59)),
            Some(true)
        );
        assert_eq!(answers.get(&host, &of("c@branch.example"), later(60)), None);
        for number in 0..2 * ROOM {
            let recipient = of(&format!("{number}@branch.example"));
            answers.put(&other, &recipient, number % 2 == 0, now);
        }
        assert_eq!(answers.kept.len(), ROOM);
    }
}
