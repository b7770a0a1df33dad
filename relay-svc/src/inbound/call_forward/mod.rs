//! Asking the mailbox server whether it takes a recipient, before the relay does. What it would refuse later would become
//! a report, to a sender who may be forged, over a line that may be dear.
//!
//! In doubt the recipient is taken: a mailbox server that is down loses nobody mail. A few questions are asked at once;
//! each has a time within which it must be answered, the wait for its turn included.

mod answers;
mod question;

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use linkmail_smtp::{Mailbox, Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::names::{HostPort, Scheme};
use answers::Answers;
use question::{Question, Turn, Word};

/// So many questions are asked at once.
const AT_ONCE: usize = 8;
/// The wait for an answer. The client waits for it, too.
const PATIENCE: Duration = Duration::from_secs(15);
/// The wait for the host to take our QUIT.
const GOODBYE: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct CallForward {
    hostname: String,
    answers: Mutex<Answers>,
    turns: Semaphore,
}

impl CallForward {
    pub(super) fn new(hostname: String) -> Self {
        Self {
            hostname,
            answers: Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
        }
    }

    /// Whether mail for the recipient is to be taken.
    pub(super) async fn takes(&self, host: &HostPort, recipient: &Mailbox) -> bool {
        if !recipient.is_ascii() {
            // The question goes without SMTPUTF8: a refusal would be one of the form.
            return true;
        }
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

    async fn ask(&self, host: &HostPort, recipient: &Mailbox) -> io::Result<Word> {
        let _turn = self.turns.acquire().await.map_err(io::Error::other)?;
        let mut stream = TcpStream::connect((host.host.as_str(), host.port)).await?;
        let _ = stream.set_nodelay(true);
        let protocol = match host.scheme {
            Scheme::Lmtp => Protocol::Lmtp,
            // The configuration takes no smtps:// here.
            Scheme::Smtp | Scheme::Smtps => Protocol::Smtp,
        };
        let mut question = Question::new(&self.hostname, protocol, recipient);
        let mut octets = [0; 1024];
        loop {
            let count = stream.read(&mut octets).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match question.receive(&octets[..count]) {
                Turn::Send(line) => stream.write_all(line.as_bytes()).await?,
                Turn::Over(word, line) => {
                    // Polite, and no more: the answer is there.
                    let _ = timeout(GOODBYE, stream.write_all(line.as_bytes())).await;
                    return Ok(word);
                }
            }
        }
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

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_loses_nobody_mail_and_is_left_alone() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let host = HostPort {
            scheme: Scheme::Smtp,
            host: "127.0.0.1".into(),
            port,
        };
        let recipient = Mailbox::parse(b"a@branch.example").unwrap();
        let other = Mailbox::parse(b"b@branch.example").unwrap();
        let asking = CallForward::new("relay.test".into());
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
