//! Who may authenticate: SASL exchanges against the file of credentials, with what keeps strangers from trying.
//!
//! Passwords are turned over by PBKDF2 off the runtime's own threads, a few at once. A name that nobody has costs the
//! same, and fails the same way. Nothing that a client says is logged but a name that is there.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use linkmail_sasl::{
    CredentialFile, Decoy, Failure, Iterations, Mechanism, Name, Nonce, ScramKeys, ServerExchange,
    ServerSetup, Step,
};
use linkmail_service::fresh::ReloadingFile;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::{sync::Semaphore, time::Instant};

use super::failures::Failures;
use crate::config::Limits;

/// A client that fails waits so long for its answer.
const DELAY: Duration = Duration::from_secs(1);
/// So many passwords are turned over at once; each takes a core for some milliseconds.
const HASHING: usize = 2;

/// See the module.
pub(super) struct Authority {
    credentials: Arc<ReloadingFile<CredentialFile>>,
    hostname: String,
    /// None if the system gives no random numbers: then nobody can be authenticated.
    decoy: Option<Decoy>,
    random: SystemRandom,
    hashing: Semaphore,
    failures: Mutex<Failures>,
}

/// One AUTH command under way.
pub(super) struct Exchange {
    exchange: ServerExchange,
    mechanism: Mechanism,
    /// The name, once it is known to be one that there is.
    name: Option<Name>,
}

/// What the client is to be told.
pub(super) enum Answer {
    /// The server's next word; the exchange goes on.
    Challenge(Box<Exchange>, Vec<u8>),
    /// The client is this one.
    Accepted(Name),
    /// The client broke the protocol.
    Malformed(Refusal),
    /// The client has not proved who it is.
    Refused(Refusal),
    /// Nothing is tried now.
    Unavailable,
}

/// For the log.
pub(super) struct Refusal {
    pub(super) mechanism: Mechanism,
    pub(super) name: Option<Name>,
    pub(super) why: Failure,
}

impl Authority {
    pub(super) fn new(
        credentials: Arc<ReloadingFile<CredentialFile>>,
        hostname: String,
        limits: &Limits,
    ) -> Self {
        let random = SystemRandom::new();
        let decoy = drawn(&random).map(|secret| {
            let file = credentials.current();
            // As the credentials have them, or whoever compares would see who is not there.
            let stored = file.iter().find_map(|(_, one)| one.scram());
            let iterations = stored.map_or(Iterations::DEFAULT, ScramKeys::iterations);
            Decoy::new(secret, iterations)
        });
        Self {
            credentials,
            hostname,
            decoy,
            random,
            hashing: Semaphore::new(HASHING),
            failures: Mutex::new(Failures::new(limits.auth_failures, limits.auth_pause)),
        }
    }

    /// Begins an exchange.
    pub(super) async fn start(
        &self,
        client: IpAddr,
        mechanism: Mechanism,
        initial: Option<Vec<u8>>,
    ) -> Answer {
        if self.is_paused(client) {
            return Answer::Unavailable;
        }
        let (Some(decoy), Some(nonce)) = (&self.decoy, drawn(&self.random)) else {
            return Answer::Unavailable;
        };
        let setup = ServerSetup {
            nonce: Nonce::from_random(nonce),
            hostname: self.hostname.clone(),
            decoy: decoy.clone(),
        };
        let (exchange, step) = ServerExchange::start(mechanism, initial, setup);
        let exchange = Box::new(Exchange {
            exchange,
            mechanism,
            name: None,
        });
        self.go_on(client, exchange, step).await
    }

    /// Takes the client's response to the last challenge.
    pub(super) async fn respond(
        &self,
        client: IpAddr,
        mut exchange: Box<Exchange>,
        response: &[u8],
    ) -> Answer {
        // Of many exchanges that were begun at once, no more are judged than of those that come one by one.
        if self.is_paused(client) {
            return Answer::Unavailable;
        }
        let step = exchange.exchange.respond(response);
        self.go_on(client, exchange, step).await
    }

    async fn go_on(&self, client: IpAddr, mut exchange: Box<Exchange>, mut step: Step) -> Answer {
        loop {
            match step {
                Step::Challenge(challenge) => return Answer::Challenge(exchange, challenge),
                Step::NeedCredential { name } => {
                    match self.look_up(client, exchange, &name).await {
                        Some((went_on, next)) => (exchange, step) = (went_on, next),
                        None => return Answer::Unavailable,
                    };
                }
                Step::Accepted { name } => return Answer::Accepted(name),
                Step::Failed(why) => {
                    let refusal = Refusal {
                        mechanism: exchange.mechanism,
                        name: exchange.name,
                        why,
                    };
                    let malformed = why.is_malformed();
                    if !malformed && self.failures().note(client, Instant::now()) {
                        tracing::warn!(%client, "too many failed authentications: none is tried for a while");
                    }
                    tokio::time::sleep(DELAY).await;
                    return match malformed {
                        true => Answer::Malformed(refusal),
                        false => Answer::Refused(refusal),
                    };
                }
            }
        }
    }

    /// None if it could not be done.
    async fn look_up(
        &self,
        client: IpAddr,
        mut exchange: Box<Exchange>,
        name: &Name,
    ) -> Option<(Box<Exchange>, Step)> {
        let credential = self.credentials.current().get(name).cloned();
        exchange.name = credential.is_some().then(|| name.clone());
        if !matches!(exchange.mechanism, Mechanism::Plain | Mechanism::Login) {
            let step = exchange.exchange.look_up(credential);
            return Some((exchange, step));
        }
        let _permit = self.hashing.acquire().await.ok()?;
        if self.is_paused(client) {
            return None;
        }
        let hashed = tokio::task::spawn_blocking(move || {
            let step = exchange.exchange.look_up(credential);
            (exchange, step)
        });
        hashed.await.ok()
    }

    fn is_paused(&self, client: IpAddr) -> bool {
        self.failures().is_paused(client, Instant::now())
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn drawn<const N: usize>(random: &SystemRandom) -> Option<[u8; N]> {
    let mut octets = [0; N];
    random.fill(&mut octets).ok()?;
    Some(octets)
}
