//! Whether the domain of a sender takes mail at all (RFC 7505 4.2): mail from one that does not could never be answered,
//! nor its sender be told what became of it.
//!
//! Limits: each sender is a question to the name servers that the system names now; they have the cache.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use linkmail_smtp::Domain;
use tokio::time::{Instant, timeout};

use crate::{
    names::Destination,
    outbound::direct::{
        exchangers,
        name_servers::{Dnssec, LookupError, NameServers},
    },
};

/// The wait for an answer. The client waits for it, too.
const PATIENCE: Duration = Duration::from_secs(5);
/// When no name server answers, none is asked for so long: each question would cost its client the wait.
const SILENT: Duration = Duration::from_secs(60);
/// So many answers that did not come in time, one behind the other, are silence. Fewer may be the doing of the domains that
/// were asked for, whose own name servers are slow.
const LATE: u32 = 3;

/// See the module.
pub struct SenderDomains {
    dnssec: Dnssec,
    seen: Mutex<Seen>,
}

/// What is known of the name servers.
#[derive(Default)]
struct Seen {
    silent_until: Option<Instant>,
    /// Answers in a row that did not come in time.
    late: u32,
}

impl SenderDomains {
    /// `dnssec` says who proves answers: one that ought to be proven and is not says nothing.
    #[must_use]
    pub fn new(dnssec: Dnssec) -> Self {
        Self {
            dnssec,
            seen: Mutex::default(),
        }
    }

    /// Whether the domain says that it takes no mail. What cannot be found out in a few seconds is no.
    pub async fn takes_no_mail(&self, domain: &Domain) -> bool {
        let domain = Destination::of(domain);
        if domain.literal().is_some() || self.is_silent(Instant::now()) {
            return false;
        }
        let asked = async {
            let names = NameServers::of_system(self.dnssec)?;
            exchangers::are_none(&names, &domain).await
        };
        self.weigh(&domain, timeout(PATIENCE, asked).await.ok())
    }

    /// What came of a question; nothing if there was no answer in time.
    fn weigh(&self, domain: &Destination, said: Option<Result<bool, LookupError>>) -> bool {
        let mut seen = self.seen();
        let late = std::mem::take(&mut seen.late);
        let silence = match said {
            Some(Ok(is_mailless)) => return is_mailless,
            Some(Err(LookupError::Silent(_, error))) => error,
            Some(Err(error)) => {
                tracing::debug!(%domain, %error, "a sender's domain is not known");
                return false;
            }
            None if late + 1 < LATE => {
                seen.late = late + 1;
                tracing::debug!(%domain, "no answer in time about a sender's domain");
                return false;
            }
            None => "no answer in time".to_owned(),
        };
        seen.silent_until = Some(Instant::now() + SILENT);
        tracing::warn!(
            error = silence,
            "no name server answers for senders: they are taken unasked for a while"
        );
        false
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.seen().silent_until.is_some_and(|until| now < until)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::Name;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_null_mx_is_one_and_silence_is_remembered_for_a_while() {
        let senders = SenderDomains::new(Dnssec::Off);
        let domain = Destination::of(&"null.example".parse().unwrap());
        let of = |error: fn(Name, String) -> LookupError| Err(error(Name::root(), "x".into()));
        for (said, is_mailless, is_silent) in [
            (Some(Ok(true)), true, false),
            (Some(Ok(false)), false, false),
            (Some(Err(LookupError::Bogus(Name::root()))), false, false),
            (Some(of(LookupError::Failed)), false, false),
            (Some(of(LookupError::Silent)), false, true),
            (None, false, false),
            (None, false, false),
            (Some(Ok(false)), false, false),
            (None, false, false),
            (None, false, false),
            (None, false, true),
            (None, false, false),
        ] {
            assert_eq!(
                senders.weigh(&domain, said.clone()),
                is_mailless,
                "{said:?}"
            );
            assert_eq!(senders.is_silent(Instant::now()), is_silent, "{said:?}");
            tokio::time::advance(SILENT).await;
            assert!(!senders.is_silent(Instant::now()));
        }
        // A literal has no records, and nobody is asked while nobody answers.
        senders.weigh(&domain, Some(of(LookupError::Silent)));
        let domain = "null.example".parse().unwrap();
        let asked = senders.takes_no_mail(&domain);
        assert!(!timeout(Duration::ZERO, asked).await.unwrap());
    }
}
