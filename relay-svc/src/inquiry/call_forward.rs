//! Asking the mailbox server whether it takes a recipient, before the relay does. What it would refuse later would become
//! a report, to a sender who may be forged, over a line that may be dear.
//!
//! The host is spoken to as when mail goes there: over TLS, with a login, as its `[[host]]` says. A few questions are asked
//! at once; the wait for its turn counts for the time that a question has.

use std::{
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
    outbound::{End, Hosts, Opener},
};

/// So many questions are asked at once.
const AT_ONCE: usize = 8;
/// The wait for an answer. The client waits for it, too.
const PATIENCE: Duration = Duration::from_secs(15);
/// The wait for the host to take our QUIT.
const GOODBYE: Duration = Duration::from_secs(1);

/// See the module.
pub struct CallForward {
    opener: Opener,
    answers: Mutex<Answers>,
    turns: Semaphore,
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
                flight: FlightLimits::default(),
                parent: Context::new(),
            },
            answers: Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
        }
    }

    /// Whether mail for the recipient is to be taken.
    pub async fn takes(&self, host: &HostPort, recipient: &Mailbox) -> bool {
        if let Some(known) = self.answers().get(host, recipient, Instant::now()) {
            return known;
        }
        let word = match timeout(PATIENCE, self.ask(host, recipient)).await {
            Ok(Ok(word)) => word,
            Ok(Err(error)) => return self.silent(host, &error.to_string()),
            Err(_) => return self.silent(host, "no answer in time"),
        };
        match word {
            Word::Known | Word::Unknown => {
                let known = word == Word::Known;
                self.answers().put(host, recipient, known, Instant::now());
                known
            }
            Word::Unclear(reply) => {
                tracing::debug!(%host, %recipient, reply, "the mailbox server does not say whether there is such a recipient");
                true
            }
        }
    }

    async fn ask(&self, host: &HostPort, recipient: &Mailbox) -> Result<Word, End> {
        let none = || End::Failed("asking is over".into());
        let _turn = self.turns.acquire().await.map_err(|_| none())?;
        let mut session = self.opener.session(host, None).await?;
        let asked = session.ask(recipient).await?;
        // Polite, and no more: the answer is there.
        let _ = timeout(GOODBYE, session.quit()).await;
        Ok(asked.into())
    }

    fn silent(&self, host: &HostPort, error: &str) -> bool {
        tracing::warn!(%host, error, "the mailbox server cannot be asked for recipients: they are taken");
        self.answers().silent(host, Instant::now());
        true
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::names::Scheme;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_loses_nobody_mail_and_is_left_alone() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let hosts = Hosts::new(std::collections::HashMap::new()).unwrap();
        let host = HostPort {
            scheme: Scheme::Smtp,
            host: "127.0.0.1".into(),
            port,
        };
        let recipient = Mailbox::parse(b"a@branch.example").unwrap();
        let other = Mailbox::parse(b"b@branch.example").unwrap();
        let asking = CallForward::new("relay.test".into(), hosts);
        let begun = Instant::now();
        assert!(asking.takes(&host, &recipient).await);
        let after = begun.elapsed();
        assert!(after >= PATIENCE && after < 2 * PATIENCE, "{after:?}");
        assert!(asking.takes(&host, &other).await);
        assert_eq!(begun.elapsed(), after, "not asked again");
        let (_, _) = silent.accept().await.unwrap();
        tokio::time::advance(Duration::from_secs(60)).await;
        drop(silent);
        assert!(asking.takes(&host, &other).await);
    }
}
