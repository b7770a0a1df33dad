//! MTA-STS (RFC 8461): which policy a domain has.
//!
//! Limits: no reports by TLSRPT (RFC 8460); what does not fit a policy that is being tested is logged.

mod fetch;
mod kept;
pub mod policy;

use std::sync::Arc;

use hickory_resolver::proto::rr::{Name, RData, RecordType};
use linkmail_service::tls::{FileError, Roots};

use self::{fetch::Fetcher, kept::Entry, policy::Policy};
use super::name_servers::{Found, NameServers};
use crate::{
    clock::Stamp,
    spool::{Spool, SpoolError},
};

pub use self::fetch::FetchError;

/// The policies of domains, which the spool keeps. Cheap to clone.
#[derive(Clone)]
pub struct Policies {
    fetcher: Arc<Fetcher>,
    spool: Spool,
}

impl Policies {
    /// Fetches policies from hosts whose certificates lead to these roots.
    ///
    /// # Errors
    /// The roots cannot be read.
    pub fn new(spool: Spool, roots: Roots) -> Result<Self, FileError> {
        Ok(Self::with(spool, Fetcher::new(roots)?))
    }

    fn with(spool: Spool, fetcher: Fetcher) -> Self {
        let fetcher = Arc::new(fetcher);
        Self { fetcher, spool }
    }

    /// The policy of a domain, fetched anew if its record says so. Whatever goes wrong with record or file leaves a policy
    /// that is kept in force until its time is over (RFC 8461 3.3, 5.1).
    ///
    /// # Errors
    /// The spool cannot be read or written.
    pub async fn of(
        &self,
        names: &NameServers,
        domain: &str,
        now: Stamp,
    ) -> Result<Option<Policy>, SpoolError> {
        let mut entry = self.kept(domain).await?;
        if let Some(id) = record(names, domain).await
            && entry.wants(&id, now)
        {
            match self.fetcher.fetch(names, domain).await {
                Ok(policy) => entry.put(&id, policy, now),
                Err(error) => {
                    tracing::warn!(domain, %error, "the MTA-STS policy could not be fetched");
                    entry.failed(now);
                }
            }
            self.keep(domain, &entry, now).await?;
        }
        Ok(entry.policy(now).cloned())
    }

    async fn kept(&self, domain: &str) -> Result<Entry, SpoolError> {
        let kept = self.spool.policy(domain).await?;
        let read = kept.map(|text| serde_json::from_str(&text));
        Ok(read
            .transpose()
            .unwrap_or_else(|error| {
                tracing::warn!(domain, %error, "the MTA-STS policy that is kept cannot be read");
                None
            })
            .unwrap_or_default())
    }

    async fn keep(&self, domain: &str, entry: &Entry, now: Stamp) -> Result<(), SpoolError> {
        let text = serde_json::to_string(entry)
            .map_err(|error| SpoolError::Damaged(format!("the policy of {domain}: {error}")))?;
        let spool = &self.spool;
        spool.keep_policy(domain, text, entry.ends(), now).await
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
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path()).unwrap();
        let policies = Policies::with(spool.clone(), web.fetcher());
        let now = Stamp::now();
        let of = async |policies: &Policies, servers: &NameServers, at: Stamp| {
            let policy = policies.of(servers, "remote.example", at).await;
            policy.unwrap()
        };
        assert_eq!(of(&policies, &gone, now).await, None);
        let policy = of(&policies, &there, now).await.unwrap();
        assert_eq!(policy.mx, ["mx.remote.example"]);
        drop(web);
        let later = now.plus(Duration::from_secs(2 * 86_400));
        for servers in [&gone, &there] {
            assert!(of(&policies, servers, later).await.is_some());
        }
        drop((policies, spool));
        let spool = Spool::open(folder.path()).unwrap();
        let restarted = Policies::new(spool, Roots::Public).unwrap();
        assert_eq!(of(&restarted, &gone, later).await, Some(policy));
        let much_later = now.plus(Duration::from_secs(8 * 86_400));
        assert_eq!(of(&restarted, &gone, much_later).await, None);
    }
}
