//! What is kept of a domain's policy, for as long as the policy says: who cuts the record off cannot take it back. Pure.

use std::time::Duration;

use super::policy::Policy;
use crate::clock::Stamp;

/// A policy is fetched again before its time is over, once a day (RFC 8461 3.3).
const REFRESH: Duration = Duration::from_secs(86_400);
/// A fetch that failed is not tried again before (RFC 8461 3.3).
const AFTER_FAILURE: Duration = Duration::from_secs(300);

/// What is known of one domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Entry {
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
}

impl Entry {
    /// When it is of no more use.
    pub(super) fn ends(&self) -> Stamp {
        let policy = self.policy.as_ref();
        let policy = policy.map(|of| Stamp(of.at_ms).plus(of.policy.keep()));
        let failure = self.failed_ms.map(|at| Stamp(at).plus(AFTER_FAILURE));
        policy.max(failure).unwrap_or(Stamp(0))
    }

    /// The policy, unless its time is over.
    pub(super) fn policy(&self, now: Stamp) -> Option<&Policy> {
        let fetched = self.policy.as_ref()?;
        (fetched.age(now) < fetched.policy.keep()).then_some(&fetched.policy)
    }

    /// Whether to fetch the policy, where the record has this id.
    pub(super) fn wants(&self, id: &str, now: Stamp) -> bool {
        let failed = self.failed_ms.map(|at| now.since(Stamp(at)));
        if failed.is_some_and(|ago| ago < AFTER_FAILURE) {
            return false;
        }
        self.policy.as_ref().is_none_or(|of| {
            let fresh = REFRESH.min(of.policy.keep() / 2);
            of.id != id || of.age(now) >= fresh
        })
    }

    /// Keeps what was fetched.
    pub(super) fn put(&mut self, id: &str, policy: Policy, now: Stamp) {
        self.policy = Some(Fetched {
            id: id.to_owned(),
            policy,
            at_ms: now.0,
        });
        self.failed_ms = None;
    }

    /// Remembers that the policy could not be fetched; one that is kept stays.
    pub(super) fn failed(&mut self, now: Stamp) {
        self.failed_ms = Some(now.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::direct::sts::policy::PolicyMode;

    const DAY: Duration = Duration::from_secs(86_400);
    const NOW: Stamp = Stamp(1_700_000_000_000);

    #[test]
    fn a_policy_is_kept_for_its_time_whatever_happens_to_its_record() {
        let mut kept = Entry::default();
        assert!(kept.wants("1", NOW));
        let policy = Policy {
            mode: PolicyMode::Enforce,
            mx: vec!["mx.example".into()],
            max_age: 7 * 86_400,
        };
        kept.put("1", policy, NOW);
        let at = |days: u32| NOW.plus(DAY * days);
        assert!(kept.policy(at(6)).is_some());
        assert!(kept.policy(at(7)).is_none());
        assert_eq!(kept.ends(), at(7));
        for (id, when, wants) in [("1", NOW, false), ("2", NOW, true), ("1", at(1), true)] {
            assert_eq!(kept.wants(id, when), wants, "{id}");
        }
        kept.failed(at(1));
        assert!(!kept.wants("2", at(1)));
        assert!(kept.policy(at(2)).is_some());
        assert!(kept.wants("2", at(1).plus(AFTER_FAILURE)));
        kept.failed(at(9));
        assert_eq!(kept.ends(), at(9).plus(AFTER_FAILURE));
    }
}
