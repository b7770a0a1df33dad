//! MTA-STS (RFC 8461): which policy a domain has.
//!
//! Limits: no reports by TLSRPT (RFC 8460); what does not fit a policy that is being tested is logged.

mod fetch;
mod kept;
pub mod policy;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hickory_resolver::proto::rr::{Name, RData, RecordType};
use linkmail_service::tls::FileError;

use self::{fetch::Fetcher, kept::Kept, policy::Policy};
use super::name_servers::{Found, NameServers};
use crate::clock::Stamp;

pub use self::fetch::FetchError;

/// The policies of domains. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Policies {
    fetcher: Arc<Fetcher>,
    kept: Arc<Mutex<Kept>>,
}

impl Policies {
    /// None is kept yet.
    ///
    /// # Errors
    /// Never by what is outside: the authorities are built in.
    pub fn new() -> Result<Self, FileError> {
        Ok(Self::with(Fetcher::new()?))
    }

    fn with(fetcher: Fetcher) -> Self {
        Self {
            fetcher: Arc::new(fetcher),
            kept: Arc::default(),
        }
    }

    /// What is kept, as JSON: for a file that outlives the process.
    ///
    /// # Errors
    /// Never seen.
    pub fn save(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(&*self.lock())
    }

    /// Takes up what [`Self::save`] gave.
    ///
    /// # Errors
    /// It is not of that form; what is kept stays as it is.
    pub fn restore(&self, saved: &str) -> Result<(), serde_json::Error> {
        *self.lock() = serde_json::from_str(saved)?;
        Ok(())
    }

    /// The policy of a domain, fetched anew if its record says so. Whatever goes wrong with record or file leaves a policy
    /// that is kept in force until its time is over (RFC 8461 3.3, 5.1).
    pub async fn of(&self, names: &NameServers, domain: &str, now: Stamp) -> Option<Policy> {
        if let Some(id) = record(names, domain).await
            && self.lock().wants(domain, &id, now)
        {
            match self.fetcher.fetch(names, domain).await {
                Ok(policy) => self.lock().put(domain, &id, policy, now),
                Err(error) => {
                    tracing::warn!(domain, %error, "the MTA-STS policy could not be fetched");
                    self.lock().failed(domain, now);
                }
            }
        }
        self.lock().policy(domain, now).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The id of a domain's policy, if it has one.
async fn record(names: &NameServers, domain: &str) -> Option<String> {
    let name = Name::from_utf8(format!("_mta-sts.{domain}")).ok()?;
    let answer = names.ask(&name, RecordType::TXT).await.ok()?;
    let Found::Records(data) = answer.found else {
        return None;
    };
    let texts = data.iter().filter_map(|data| match data {
        RData::TXT(text) => Some(text.txt_data.concat()),
        _ => None,
    });
    let texts: Vec<Vec<u8>> = texts.collect();
    let id = policy::record_id(&texts);
    id.inspect_err(|error| tracing::debug!(domain, %error, "no MTA-STS policy"))
        .ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{name_servers::Dnssec, test_zone::Zone};
    use super::fetch::tests::{POLICY, Web, answer};
    use super::*;

    #[tokio::test]
    async fn a_policy_outlives_its_record_and_a_restart() {
        let answer = answer("200 OK\r\nContent-Type: text/plain", POLICY);
        let web = Web::serve("mta-sts.remote.example", answer).await;
        let there = Zone::default()
            .a("mta-sts.remote.example.", "127.0.0.1")
            .txt("_mta-sts.remote.example.", "v=STSv1; id=1")
            .serve()
            .await;
        let gone = Zone::default().serve().await;
        let (there, gone) = (
            there.name_servers(Dnssec::Off),
            gone.name_servers(Dnssec::Off),
        );
        let policies = Policies::with(web.fetcher());
        let now = Stamp::now();
        assert_eq!(policies.of(&gone, "remote.example", now).await, None);
        let policy = policies.of(&there, "remote.example", now).await.unwrap();
        assert_eq!(policy.mx, ["mx.remote.example"]);
        drop(web);
        let later = now.plus(Duration::from_secs(2 * 86_400));
        for servers in [&gone, &there] {
            assert!(
                policies
                    .of(servers, "remote.example", later)
                    .await
                    .is_some()
            );
        }
        let restarted = Policies::new().unwrap();
        restarted.restore(&policies.save().unwrap()).unwrap();
        assert_eq!(
            restarted.of(&gone, "remote.example", later).await,
            Some(policy)
        );
        let much_later = now.plus(Duration::from_secs(8 * 86_400));
        assert_eq!(
            restarted.of(&gone, "remote.example", much_later).await,
            None
        );
    }
}
