//! Asking the mailbox server whether it takes a recipient, before the relay does. What it would refuse later would become
//! a report, to a sender who may be forged, over a line that may be dear.
//!
//! The host is spoken to as when mail goes there: over TLS, with a login, as its `[[host]]` says. Of each host a few
//! questions are asked at once. Whoever finds no turn is told to come again: to be taken unasked, one would only have to ask
//! for many at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use linkmail_smtp::{FlightLimits, Mailbox};
use opentelemetry::Context;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{answers::Answers, word::Word};
use crate::{
    names::HostPort,
    outbound::{Hosts, Opener},
};

/// So many questions are asked of one host at once.
const AT_ONCE: usize = 8;
/// The wait for a turn, the wait for a session, and the wait for an answer. The client waits for all of them.
const PATIENCE: Duration = Duration::from_secs(15);
/// The wait for the host to take our QUIT.
const GOODBYE: Duration = Duration::from_secs(1);

/// What becomes of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Mail for it is taken.
    Taken,
    /// The mailbox server has no such user.
    NoSuchUser,
    /// Too many are being asked for: it may be tried again.
    Later,
}

/// See the module.
pub struct CallForward {
    opener: Opener,
    answers: Mutex<Answers>,
    /// By host: as many as routes name.
    turns: Mutex<HashMap<HostPort, Arc<Semaphore>>>,
}

impl CallForward {
    /// `hostname` is what the relay calls itself, `hosts` how they are spoken to.
    #[must_use]
    pub fn new(hostname: Arc<str>, hosts: Hosts) -> Self {
        Self {
            opener: Opener {
                hostname,
                hosts,
                patience: PATIENCE,
                within: None,
                flight: FlightLimits::default(),
                parent: Context::new(),
            },
            answers: Mutex::default(),
            turns: Mutex::default(),
        }
    }

    /// What becomes of the recipient.
    pub async fn ask(&self, host: &HostPort, recipient: &Mailbox) -> Verdict {
        if let Some(known) = self.known(host, recipient) {
            return known;
        }
        let turns = self.turns_of(host);
        let Ok(Ok(_turn)) = timeout(PATIENCE, turns.acquire()).await else {
            tracing::warn!(%host, "too many recipients to ask for: the next are told to come again");
            return Verdict::Later;
        };
        // Who had the turn before may have asked for the same, or found the host silent.
        if let Some(known) = self.known(host, recipient) {
            return known;
        }
        let session = self.opener.session(host, None);
        let mut session = match timeout(PATIENCE, session).await {
            Ok(Ok(session)) => session,
            Ok(Err(end)) => return self.silent(host, &end.to_string()),
            Err(_) => return self.silent(host, "no session in time"),
        };
        let asked = match timeout(PATIENCE, session.ask(recipient)).await {
            Ok(asked) => asked.map_err(|end| end.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        };
        // Polite, and no more: the answer is there.
        let _ = timeout(GOODBYE, session.quit()).await;
        match asked.map(Word::from) {
            Ok(word @ (Word::Known | Word::Unknown)) => {
                let known = word == Word::Known;
                self.answers().put(host, recipient, known, Instant::now());
                verdict(known)
            }
            // Of this one: a server that keeps us waiting for one recipient has not stopped to know the others.
            Ok(Word::Unclear(why)) | Err(why) => {
                tracing::debug!(%host, %recipient, why, "the mailbox server does not say whether there is such a recipient");
                Verdict::Taken
            }
        }
    }

    fn known(&self, host: &HostPort, recipient: &Mailbox) -> Option<Verdict> {
        let known = self.answers().get(host, recipient, Instant::now());
        known.map(verdict)
    }

    fn turns_of(&self, host: &HostPort) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Semaphore::new(AT_ONCE));
        Arc::clone(turns.entry(host.clone()).or_insert_with(new))
    }

    fn silent(&self, host: &HostPort, error: &str) -> Verdict {
        tracing::warn!(%host, error, "the mailbox server cannot be asked for recipients: they are taken");
        self.answers().silent(host, Instant::now());
        Verdict::Taken
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn verdict(known: bool) -> Verdict {
    match known {
        true => Verdict::Taken,
        false => Verdict::NoSuchUser,
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn listening() -> (TcpListener, HostPort) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let host = HostPort::parse_url(&format!("smtp://127.0.0.1:{port}")).unwrap();
        (listener, host)
    }

    fn asking() -> CallForward {
        CallForward::new("relay.test".into(), Hosts::new(HashMap::new()).unwrap())
    }

    fn mailbox(text: &str) -> Mailbox {
        Mailbox::parse(text.as_bytes()).unwrap()
    }

    /// A server that says nothing to RCPT.
    async fn tarpit(stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        stream.write_all(b"220 mail.test\r\n").await.unwrap();
        let mut line = String::new();
        while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
            if !line.starts_with("RCPT") {
                stream.write_all(b"250 ok\r\n").await.unwrap();
            }
            line.clear();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_loses_nobody_mail_and_is_left_alone() {
        let (silent, host) = listening().await;
        let asking = asking();
        let begun = Instant::now();
        let first = mailbox("a@branch.example");
        assert_eq!(asking.ask(&host, &first).await, Verdict::Taken);
        let after = begun.elapsed();
        assert!(after >= PATIENCE && after < 2 * PATIENCE, "{after:?}");
        let other = mailbox("b@branch.example");
        assert_eq!(asking.ask(&host, &other).await, Verdict::Taken);
        assert_eq!(begun.elapsed(), after, "not asked again");
        let (_, _) = silent.accept().await.unwrap();
        tokio::time::advance(Duration::from_secs(60)).await;
        drop(silent);
        assert_eq!(asking.ask(&host, &other).await, Verdict::Taken);
    }

    #[tokio::test(start_paused = true)]
    async fn questions_that_last_let_nobody_pass_unasked_and_hold_up_no_other_host() {
        let (slow, host) = listening().await;
        let (other, other_host) = listening().await;
        tokio::spawn(async move {
            while let Ok((stream, _)) = slow.accept().await {
                tokio::spawn(tarpit(stream));
            }
        });
        let asking = Arc::new(asking());
        let mut asked = tokio::task::JoinSet::new();
        for number in 0..20 {
            let (asking, host) = (Arc::clone(&asking), host.clone());
            let recipient = mailbox(&format!("{number}@branch.example"));
            asked.spawn(async move { asking.ask(&host, &recipient).await });
        }
        drop(other);
        let elsewhere = mailbox("a@lab.example");
        assert_eq!(asking.ask(&other_host, &elsewhere).await, Verdict::Taken);
        let verdicts = asked.join_all().await;
        let of = |verdict| verdicts.iter().filter(|one| **one == verdict).count();
        assert!(of(Verdict::Later) >= 4, "{verdicts:?}");
        assert_eq!(of(Verdict::Later) + of(Verdict::Taken), 20);
        let known = asking
            .answers()
            .get(&host, &mailbox("new@branch.example"), Instant::now());
        assert_eq!(known, None, "the host counts as silent");
    }
}
