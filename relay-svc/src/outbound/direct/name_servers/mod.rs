//! Questions to name servers: what was answered, and whether DNSSEC proves it.
//!
//! The name servers are read anew from the system for each domain that mail goes to, as for each connection. Nothing is
//! kept: the name server that the system names has a cache, and a time of life for each entry.
//!
//! Limits: `/etc/hosts` and search domains say nothing about the domains of others, and are not read here.

mod said;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc, time::Duration};

use hickory_resolver::{
    NameServerPool, PoolContext, TlsConfig,
    config::{ResolverConfig, ResolverOpts},
    net::{
        NetError,
        dnssec::DnssecDnsHandle,
        runtime::TokioRuntimeProvider,
        xfer::{DnsHandle, FirstAnswer, RetryDnsHandle},
    },
    proto::{
        dnssec::{Proof, TrustAnchors},
        op::{DnsRequest, DnsRequestOptions, Edns, Message, Query, ResponseCode},
        rr::{Name, RData, Record, RecordType},
    },
    system_conf,
};

use self::said::Said;

/// One question to one name server may take so long.
const WAIT: Duration = Duration::from_secs(5);
/// So many aliases are followed one behind the other.
const ALIASES: usize = 8;
/// What an answer by UDP may hold (RFC 9715 3): a longer one comes by TCP.
const UDP_OCTETS: u16 = 1232;

/// Who says whether an answer is proven.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dnssec {
    /// Nobody: no answer counts as proven.
    #[default]
    Off,
    /// The system's name server, by its AD bit (RFC 4035 3.2.3): for one on this host, or over a way that nobody else is on.
    TrustAd,
    /// We do, from the root's keys down. The name servers must hand on what DNSSEC needs.
    Validate,
}

impl Dnssec {
    /// The words for it in the configuration.
    pub const WORDS: [(&'static str, Self); 3] = [
        ("off", Self::Off),
        ("trust-ad", Self::TrustAd),
        ("validate", Self::Validate),
    ];
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// DNSSEC says that the answer is not the domain's own, or that it cannot be proven although it ought to be.
    #[error("{0}: the answer fails DNSSEC")]
    Bogus(Name),
    /// A name server said that it cannot say.
    #[error("{0}: {1}")]
    Failed(Name, String),
    /// No name server said anything.
    #[error("{0}: no name server answered: {1}")]
    Silent(Name, String),
}

/// What name servers say of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The name at the end of all aliases: the records are of it.
    pub name: Name,
    /// What there is.
    pub found: Found,
    /// Whether DNSSEC proves it, with every alias on the way.
    pub proven: bool,
    /// That there is nothing is said without any signature, to one who validates: by a zone that is not signed, or by
    /// somebody on the way.
    pub unsigned_denial: bool,
}

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Records of the kind that was asked for; at least one.
    Records(Vec<RData>),
    /// The name exists, without such records.
    None,
    /// The name does not exist.
    NoName {
        /// The answer names the zone that says so (RFC 2308 2.1). Without it, it may be the word of a box on the way that
        /// has no name servers of its own at the moment.
        sure: bool,
    },
}

/// The addresses of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// The host's name behind all aliases.
    pub name: Name,
    /// As the name server ordered them; may be none.
    pub addresses: Vec<IpAddr>,
    /// Whether DNSSEC proves them.
    pub proven: bool,
}

type Pool = RetryDnsHandle<NameServerPool<TokioRuntimeProvider>>;

/// Asks name servers. Cheap to clone.
#[derive(Clone)]
pub struct NameServers {
    dnssec: Dnssec,
    pool: Pool,
    validating: Option<DnssecDnsHandle<Pool>>,
}

impl NameServers {
    /// Those that the system names now.
    ///
    /// # Errors
    /// The system names none, or in a form that cannot be read.
    pub fn of_system(dnssec: Dnssec) -> Result<Self, LookupError> {
        let read = system_conf::read_system_conf().and_then(|(config, mut options)| {
            options.timeout = WAIT;
            Self::new(config, options, dnssec, Arc::new(TrustAnchors::default()))
        });
        read.map_err(|error| LookupError::Silent(Name::root(), error.to_string()))
    }

    pub(super) fn new(
        config: ResolverConfig,
        options: ResolverOpts,
        dnssec: Dnssec,
        anchors: Arc<TrustAnchors>,
    ) -> Result<Self, NetError> {
        let attempts = options.attempts;
        let context = Arc::new(PoolContext::new(options, TlsConfig::new()?));
        let (_, _, servers) = config.into_parts();
        let pool = NameServerPool::from_config(servers, context, TokioRuntimeProvider::default());
        let pool = RetryDnsHandle::new(pool, attempts);
        let validating = (dnssec == Dnssec::Validate)
            .then(|| DnssecDnsHandle::with_trust_anchor(pool.clone(), anchors));
        Ok(Self {
            dnssec,
            pool,
            validating,
        })
    }

    /// Who says whether an answer is proven.
    #[must_use]
    pub fn dnssec(&self) -> Dnssec {
        self.dnssec
    }

    /// Asks for records of one kind, and follows aliases.
    ///
    /// # Errors
    /// There is no answer that could be used.
    pub async fn ask(&self, name: &Name, kind: RecordType) -> Result<Answer, LookupError> {
        let mut at = name.clone();
        at.set_fqdn(true);
        let mut proven = self.dnssec != Dnssec::Off;
        let mut aliases = 0;
        loop {
            let said = self.send(&at, kind).await?;
            let mut moved = false;
            loop {
                let of = |kind| {
                    let wanted = move |r: &&Record| r.record_type() == kind;
                    said.answers.iter().filter(wanted).filter(|r| r.name == at)
                };
                let records: Vec<&Record> = of(kind).collect();
                if !records.is_empty() {
                    proven &= self.prove(&at, &records, said.trusted)?;
                    let data = records.iter().map(|record| record.data.clone()).collect();
                    let found = Found::Records(data);
                    return Ok(Answer {
                        name: at,
                        found,
                        proven,
                        unsigned_denial: false,
                    });
                }
                let Some(alias) = of(RecordType::CNAME).next() else {
                    break;
                };
                let RData::CNAME(target) = &alias.data else {
                    break;
                };
                aliases += 1;
                if aliases > ALIASES {
                    return Err(LookupError::Failed(at, "too many aliases".into()));
                }
                proven &= self.prove(&at, &[alias], said.trusted)?;
                at = target.0.clone();
                moved = true;
            }
            let found = match said.code {
                ResponseCode::NXDomain => Found::NoName {
                    sure: said.zone.is_some_and(|zone| zone.zone_of(&at)),
                },
                // An alias whose target is not in the answer is asked for.
                _ if moved => continue,
                _ => Found::None,
            };
            proven &= said.trusted;
            return Ok(Answer {
                name: at,
                found,
                proven,
                unsigned_denial: said.unsigned_denial,
            });
        }
    }

    /// The addresses of a host, of both families; one family that cannot be had does not hide the other.
    ///
    /// # Errors
    /// There is no answer that could be used.
    pub async fn addresses(&self, host: &Name) -> Result<Addresses, LookupError> {
        let (six, four) = tokio::join!(
            self.ask(host, RecordType::AAAA),
            self.ask(host, RecordType::A)
        );
        let (mut all, mut failed) = (None::<Addresses>, None);
        for answer in [six, four] {
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            let all = all.get_or_insert_with(|| Addresses {
                name: answer.name.clone(),
                addresses: Vec::new(),
                proven: true,
            });
            // That there is none of a family takes nothing away from the other.
            if let Found::Records(data) = &answer.found {
                all.addresses.extend(data.iter().filter_map(RData::ip_addr));
                all.proven &= answer.proven;
            }
        }
        if let Some(all) = &mut all {
            all.proven &= !all.addresses.is_empty();
        }
        match (all, failed) {
            (Some(all), Some(failed)) if all.addresses.is_empty() => Err(failed),
            (Some(all), _) => Ok(all),
            (None, failed) => Err(failed
                .unwrap_or_else(|| LookupError::Failed(host.clone(), "nothing was asked".into()))),
        }
    }

    /// Whether any name server says anything at all, be it that it cannot say.
    pub async fn answer(&self) -> bool {
        let said = self.ask(&Name::root(), RecordType::NS).await;
        !matches!(said, Err(LookupError::Silent(..)))
    }

    fn prove(&self, name: &Name, records: &[&Record], trusted: bool) -> Result<bool, LookupError> {
        match self.dnssec {
            Dnssec::Off => Ok(false),
            Dnssec::TrustAd => Ok(trusted),
            Dnssec::Validate => {
                let weakest = records.iter().map(|record| record.proof).min();
                match weakest.unwrap_or_default() {
                    Proof::Secure => Ok(true),
                    Proof::Insecure => Ok(false),
                    // What the proof needs could not be had: with it, a forged answer would pass for an unsigned one.
                    Proof::Bogus | Proof::Indeterminate => Err(LookupError::Bogus(name.clone())),
                }
            }
        }
    }

    async fn send(&self, name: &Name, kind: RecordType) -> Result<Said, LookupError> {
        let mut options = DnsRequestOptions::default();
        options.edns_payload_len = UDP_OCTETS;
        options.edns_set_dnssec_ok = self.dnssec == Dnssec::Validate;
        let mut message = Message::query();
        message.add_query(Query::query(name.clone(), kind));
        message.metadata.recursion_desired = true;
        // Asks for the AD bit without the signatures (RFC 6840 5.7).
        message.metadata.authentic_data = self.dnssec == Dnssec::TrustAd;
        let edns = message.edns.get_or_insert_with(Edns::new);
        edns.set_max_payload(UDP_OCTETS);
        edns.set_dnssec_ok(options.edns_set_dnssec_ok);
        let request = DnsRequest::new(message, options);
        let answer = match &self.validating {
            Some(validating) => validating.send(request).first_answer().await,
            None => self.pool.send(request).first_answer().await,
        };
        let answer = answer.map(|response| response.into_message());
        Said::read(name, answer, self.dnssec)
    }
}
