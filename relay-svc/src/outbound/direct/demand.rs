//! What TLS a session with an exchanger must come to. Pure.
//!
//! By itself TLS is taken where it is offered, and nobody is verified (RFC 7435). DNSSEC raises that, or the domain's
//! policy does; where both have something to say, DNSSEC alone counts (RFC 8461 2). TLSA records of which none can be used
//! verify nobody (RFC 7672 2.2), so they take no verification away either: a policy is applied as if there were none.

use linkmail_service::tls::dane::{Tlsa, usable};

use super::{
    dane::Dane,
    sts::policy::{self, Policy},
};

/// What TLS must come to, or no mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsDemand {
    /// STARTTLS if it is offered and comes about; else in the clear.
    Opportunistic,
    /// STARTTLS, with a certificate for the exchanger's name from an authority that browsers trust (RFC 8461 4.2).
    Verified,
    /// STARTTLS, with a certificate that fits these records (RFC 7672); with none that can be used nobody is verified.
    Dane {
        /// The name to ask for and to verify (RFC 7672 3.2.2).
        base: String,
        /// The recipient's domain: a certificate may name it instead.
        domain: Option<String>,
        /// The records, also those that cannot be used.
        records: Vec<Tlsa>,
    },
}

impl TlsDemand {
    /// Whether mail may go in the clear when there is no TLS.
    #[must_use]
    pub fn may_go_clear(&self) -> bool {
        *self == Self::Opportunistic
    }

    /// Who demands it, for people.
    #[must_use]
    pub fn by(&self) -> &'static str {
        match self {
            Self::Opportunistic => "nobody",
            Self::Verified => "the domain's MTA-STS policy",
            Self::Dane { .. } => "DANE",
        }
    }
}

/// What is demanded of one exchanger of a domain; `domain` as certificates have it, nothing for an address literal.
///
/// # Errors
/// Why it must not be used.
pub fn of(
    domain: Option<&str>,
    host: &str,
    dane: Dane,
    policy: Option<&Policy>,
) -> Result<TlsDemand, String> {
    let by_dane = match dane {
        Dane::Unknown(why) => {
            return Err(format!("{host}: whether DANE applies is unknown: {why}"));
        }
        Dane::Records { base, records } => {
            let verifies = !usable(&records).is_empty();
            let domain = domain.map(str::to_owned);
            let demand = TlsDemand::Dane {
                base,
                domain,
                records,
            };
            if verifies {
                return Ok(demand);
            }
            demand
        }
        Dane::None => TlsDemand::Opportunistic,
    };
    match policy.map(|policy| policy.demand(host)) {
        Some(policy::Demand::Verified) => Ok(TlsDemand::Verified),
        Some(policy::Demand::NotThisHost) => Err(format!(
            "{host}: the MTA-STS policy of the domain does not name it"
        )),
        Some(policy::Demand::Nothing) | None => Ok(by_dane),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::PolicyMode;

    #[test]
    fn dnssec_decides_before_the_policy_and_the_policy_before_nobody() {
        let policy = |mode| Policy {
            mode,
            mx: vec!["mx.remote.example".into()],
            max_age: 1,
        };
        let (enforce, testing) = (policy(PolicyMode::Enforce), policy(PolicyMode::Testing));
        let of_usage = |usage| Dane::Records {
            base: "mx.remote.example".into(),
            records: vec![Tlsa {
                usage,
                selector: 1,
                matching: 1,
                data: vec![7; 32],
            }],
        };
        let records = || of_usage(3);
        // RFC 7672 3.1.3: PKIX-EE is not for SMTP.
        let unusable = || of_usage(1);
        let unknown = || Dane::Unknown("SERVFAIL".into());
        for (host, dane, policy, expected) in [
            ("mx.remote.example", Dane::None, None, Some("nobody")),
            (
                "mx.remote.example",
                Dane::None,
                Some(&testing),
                Some("nobody"),
            ),
            ("evil.example", Dane::None, Some(&testing), Some("nobody")),
            (
                "mx.remote.example",
                Dane::None,
                Some(&enforce),
                Some("the domain's MTA-STS policy"),
            ),
            ("evil.example", Dane::None, Some(&enforce), None),
            ("mx.remote.example", records(), Some(&enforce), Some("DANE")),
            ("evil.example", records(), Some(&enforce), Some("DANE")),
            ("mx.remote.example", unusable(), None, Some("DANE")),
            ("evil.example", unusable(), Some(&testing), Some("DANE")),
            (
                "mx.remote.example",
                unusable(),
                Some(&enforce),
                Some("the domain's MTA-STS policy"),
            ),
            ("evil.example", unusable(), Some(&enforce), None),
            ("mx.remote.example", unknown(), Some(&enforce), None),
            ("mx.remote.example", unknown(), None, None),
        ] {
            let demand = of(Some("remote.example"), host, dane, policy);
            assert_eq!(demand.as_ref().ok().map(TlsDemand::by), expected, "{host}");
            let clear = demand.is_ok_and(|demand| demand.may_go_clear());
            assert_eq!(clear, expected == Some("nobody"));
        }
    }
}
