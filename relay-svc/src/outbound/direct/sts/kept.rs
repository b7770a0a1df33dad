//! Policies that were fetched, kept for as long as they say: who cuts the record off cannot take a policy back. Pure.

use std::{collections::BTreeMap, time::Duration};

use super::policy::Policy;
use crate::clock::Stamp;

/// Policies of so many domains are kept.
const DOMAINS: usize = 10_000;
/// A policy is fetched again before its time is over, once a day (RFC 8461 3.3).
const REFRESH: Duration = Duration::from_secs(86_400);
/// A fetch that failed is not tried again before (RFC 8461 3.3).
const AFTER_FAILURE: Duration = Duration::from_secs(300);

/// The policies of domains.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub(super) struct Kept {
    domains: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Entry {
    policy: Option<Fetched>,
    /// Milliseconds since 1970: when a fetch failed last.
    failed_ms: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Fetched {
    id: String,
    policy: Policy,
    /// Milliseconds since 1970.
    at_ms: i64,
}

impl Fetched {
    fn age(&self, now: Stamp) -> Duration {
        now.since(Stamp(self.at_ms))
    }

    fn is_good(&self, now: Stamp) -> bool {
        self.age(now) < self.policy.keep()
    }
}

impl Entry {
    /// When it is of no more use.
    fn ends(&self) -> Stamp {
        let policy = self.policy.as_ref();
        let policy = policy.map(|of| Stamp(of.at_ms).plus(of.policy.keep()));
        let failure = self.failed_ms.map(|at| Stamp(at).plus(AFTER_FAILURE));
        policy.max(failure).unwrap_or(Stamp(0))
    }
}

impl Kept {
    /// The policy of a domain, unless its time is over.
    #[must_use]
    pub(super) fn policy(&self, domain: &str, now: Stamp) -> Option<&Policy> {
        let fetched = self.domains.get(domain)?.policy.as_ref()?;
        fetched.is_good(now).then_some(&fetched.policy)
    }

    /// Whether to fetch the policy of a domain whose record has this id.
    #[must_use]
    pub(super) fn wants(&self, domain: &str, id: &str, now: Stamp) -> bool {
        let Some(entry) = self.domains.get(domain) else {
            return true;
        };
        let failed = entry.failed_ms.map(|at| now.since(Stamp(at)));
        if failed.is_some_and(|ago| ago < AFTER_FAILURE) {
            return false;
        }
        entry.policy.as_ref().is_none_or(|of| {
            let fresh = REFRESH.min(of.policy.keep() / 2);
            of.id != id || of.age(now) >= fresh
        })
    }

    /// Keeps what was fetched.
    pub(super) fn put(&mut self, domain: &str, id: &str, policy: Policy, now: Stamp) {
        let fetched = Fetched {
            id: id.to_owned(),
            policy,
            at_ms: now.0,
        };
        let entry = self.entry(domain, now);
        *entry = Entry {
            policy: Some(fetched),
            failed_ms: None,
        };
    }

    /// Remembers that the policy could not be fetched; one that is kept stays.
    pub(super) fn failed(&mut self, domain: &str, now: Stamp) {
        self.entry(domain, now).failed_ms = Some(now.0);
    }

    fn entry(&mut self, domain: &str, now: Stamp) -> &mut Entry {
        if self.domains.len() >= DOMAINS && !self.domains.contains_key(domain) {
            self.domains.retain(|_, entry| entry.ends() > now);
            if self.domains.len() >= DOMAINS {
                let first = self.domains.iter().min_by_key(|(_, entry)| entry.ends());
                let first = first.map(|(domain, _)| domain.clone());
                first.and_then(|domain| self.domains.remove(&domain));
            }
        }
        self.domains.entry(domain.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::direct::sts::policy::PolicyMode;

    const DAY: Duration = Duration::from_secs(86_400);
    const NOW: Stamp = Stamp(1_700_000_000_000);

    fn policy(days: u64) -> Policy {
        Policy {
            mode: PolicyMode::Enforce,
            mx: vec!["mx.example".into()],
            max_age: days * 86_400,
        }
    }

    #[test]
    fn a_policy_is_kept_for_its_time_whatever_happens_to_its_record() {
        let mut kept = Kept::default();
        assert!(kept.wants("a.example", "1", NOW));
        kept.put("a.example", "1", policy(7), NOW);
        let at = |days: u32| NOW.plus(DAY * days);
        assert!(kept.policy("a.example", at(6)).is_some());
        assert!(kept.policy("a.example", at(7)).is_none());
        for (id, when, wants) in [("1", NOW, false), ("2", NOW, true), ("1", at(1), true)] {
            assert_eq!(kept.wants("a.example", id, when), wants, "{id}");
        }
        kept.failed("a.example", at(1));
        assert!(!kept.wants("a.example", "2", at(1)));
        assert!(kept.policy("a.example", at(2)).is_some());
        assert!(kept.wants("a.example", "2", at(1).plus(AFTER_FAILURE)));
    }

    #[test]
    fn what_is_kept_can_be_written_and_read() {
        let mut kept = Kept::default();
        kept.put("a.example", "1", policy(7), NOW);
        kept.failed("b.example", NOW);
        let text = serde_json::to_string(&kept).unwrap();
        assert_eq!(serde_json::from_str::<Kept>(&text).unwrap(), kept);
    }

    #[test]
    fn of_too_many_domains_those_that_end_first_go() {
        let mut kept = Kept::default();
        kept.put("long.example", "1", policy(300), NOW);
        for n in 0..DOMAINS {
            kept.put(&format!("{n}.example"), "1", policy(7), NOW);
        }
        assert_eq!(kept.domains.len(), DOMAINS);
        assert!(kept.policy("long.example", NOW).is_some());
        kept.put("late.example", "1", policy(7), NOW.plus(DAY * 8));
        assert_eq!(kept.domains.len(), 2);
    }
}
