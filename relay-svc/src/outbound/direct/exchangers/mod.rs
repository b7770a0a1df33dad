//! Which hosts take the mail of a domain (RFC 5321 5.1, RFC 7505), in the order in which they are tried.
//!
//! Limits: of a domain with more exchangers than `EXCHANGERS` only the first are tried, and of their addresses only
//! `ADDRESSES` together; the last of an order can then be missing. Where the system lets anybody bind any address
//! (`ip_nonlocal_bind`), who listens everywhere takes every exchanger for itself.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
};

use hickory_resolver::proto::rr::{Name, RData, RecordType, rdata::MX};
use linkmail_smtp::{Enhanced, Reply};
use tokio::task::JoinSet;

use super::name_servers::{Addresses, Answer, Found, LookupError, NameServers};
use crate::names::Destination;

/// So many exchangers of a domain are tried.
const EXCHANGERS: usize = 10;
/// So many addresses of all of them together.
const ADDRESSES: usize = 24;

/// A host that takes mail of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchanger {
    /// Its name as the MX record has it, in lower case and without the last dot; the address for an address literal.
    pub host: String,
    /// Its name behind all aliases, in the same form.
    pub canonical: String,
    /// The lower, the earlier; 0 where there is no MX record.
    pub preference: u16,
    /// At least one.
    pub addresses: Vec<IpAddr>,
    /// Whether DNSSEC proves the addresses.
    pub proven: bool,
}

/// The hosts that take mail of a domain, in the order in which they are tried; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchangers {
    /// The domain as DNS and certificates have it, with A-labels; nothing for an address literal.
    pub domain: Option<String>,
    /// The hosts.
    pub hosts: Vec<Exchanger>,
    /// Whether DNSSEC proves which hosts they are. Where there is no MX record, that there is none is as good as the
    /// addresses: both are of the same name, thus of the same zone.
    pub proven: bool,
}

/// Why there is no host to be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoExchanger {
    /// The domain takes no mail, does not exist, or leads back to us: for good.
    Never(Reply),
    /// It cannot be found out now. An attempt: it may stay so for ever.
    NotNow(String),
    /// No name server answers: nothing can be known of any domain.
    NoNameServer(String),
}

/// Who we are, so that a domain does not lead back to us (RFC 5321 5.1).
#[derive(Debug, Clone)]
pub struct Ourselves {
    hostname: Arc<str>,
    /// Where we listen on the port that mail is delivered to.
    listening: Vec<IpAddr>,
}

impl Ourselves {
    /// By our name, and where we listen; `port` is where mail is delivered to.
    #[must_use]
    pub fn new(hostname: Arc<str>, listening: &[SocketAddr], port: u16) -> Self {
        let there = listening.iter().filter(|address| address.port() == port);
        Self {
            hostname,
            listening: there.map(SocketAddr::ip).collect(),
        }
    }

    fn is_named(&self, host: &str) -> bool {
        self.hostname.eq_ignore_ascii_case(host)
    }

    fn is_at(&self, address: IpAddr) -> bool {
        let is_it = |listening: &IpAddr| {
            // Who listens everywhere listens at each address of this host, and only one of those can be bound.
            *listening == address
                || (listening.is_unspecified() && UdpSocket::bind((address, 0)).is_ok())
        };
        self.listening.iter().any(is_it)
    }
}

/// Finds the hosts that take mail of a domain. `random` orders those that are equally preferred.
///
/// # Errors
/// There is none to be tried.
pub async fn find(
    names: &NameServers,
    domain: &Destination,
    ourselves: &Ourselves,
    random: &mut (dyn FnMut() -> u64 + Send),
) -> Result<Exchangers, NoExchanger> {
    if let Some(address) = domain.literal() {
        return literal(address, ourselves);
    }
    let name = Name::from_utf8(domain.as_str()).map_err(|error| {
        let text = format!("{domain} is no name that could be looked up: {error}");
        NoExchanger::Never(refusal(550, (5, 1, 2), &text))
    })?;
    let answer = names.ask(&name, RecordType::MX).await?;
    let (listed, implicit) = listed(domain, &answer)?;
    let in_order = in_order(listed, random);
    let (in_order, was_listed) = before_us(in_order, |host| ourselves.is_named(host));
    let (found, troubles) = look_up(names, in_order).await;
    let found = found.into_iter().map(|host| (host.preference, host));
    let at_us = |host: &Exchanger| host.addresses.iter().any(|at| ourselves.is_at(*at));
    let (mut hosts, at_us) = before_us(found.collect(), at_us);
    trim(&mut hosts);
    if hosts.is_empty() {
        return Err(none(domain, was_listed || at_us, troubles));
    }
    let proven = if implicit {
        hosts[0].1.proven
    } else {
        answer.proven
    };
    Ok(Exchangers {
        domain: Some(plain(&name)),
        hosts: hosts.into_iter().map(|(_, host)| host).collect(),
        proven,
    })
}

/// Whether a domain says that it takes no mail (RFC 7505 3). One that does not exist, or has no exchanger, does not say so.
///
/// # Errors
/// There is no answer that could be used.
pub async fn are_none(names: &NameServers, domain: &Destination) -> Result<bool, LookupError> {
    let Ok(name) = Name::from_utf8(domain.as_str()) else {
        return Ok(false);
    };
    let answer = names.ask(&name, RecordType::MX).await?;
    Ok(matches!(&answer.found, Found::Records(records) if hosts(records).is_empty()))
}

impl From<LookupError> for NoExchanger {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::Silent(..) => Self::NoNameServer(error.to_string()),
            LookupError::Bogus(_) | LookupError::Failed(..) => Self::NotNow(error.to_string()),
        }
    }
}

fn refusal(code: u16, (class, subject, detail): (u8, u16, u16), text: &str) -> Reply {
    Reply::new(code, Enhanced(class, subject, detail), text)
}

fn literal(address: IpAddr, ourselves: &Ourselves) -> Result<Exchangers, NoExchanger> {
    if ourselves.is_at(address) {
        return Err(NoExchanger::Never(leads_back(&address.to_string())));
    }
    Ok(Exchangers {
        domain: None,
        hosts: vec![Exchanger {
            host: address.to_string(),
            canonical: address.to_string(),
            preference: 0,
            addresses: vec![address],
            proven: false,
        }],
        proven: false,
    })
}

fn leads_back(domain: &str) -> Reply {
    let text = format!("the mail exchanger of {domain} is this host, and no route takes it");
    refusal(554, (5, 4, 6), &text)
}

/// The exchangers that the records name, and whether there are no records, so that it is the domain itself.
fn listed(domain: &Destination, answer: &Answer) -> Result<(Vec<(u16, Name)>, bool), NoExchanger> {
    let records = match &answer.found {
        Found::Records(records) => records,
        Found::None => return Ok((vec![(0, answer.name.clone())], true)),
        Found::NoName { sure: true } => {
            let text = format!("the domain {domain} does not exist");
            return Err(NoExchanger::Never(refusal(550, (5, 1, 2), &text)));
        }
        Found::NoName { sure: false } => {
            let text = format!("{domain} does not exist, but no zone says so");
            return Err(NoExchanger::NotNow(text));
        }
    };
    let hosts = hosts(records);
    if hosts.is_empty() {
        let text = format!("the domain {domain} takes no mail");
        return Err(NoExchanger::Never(refusal(556, (5, 1, 10), &text)));
    }
    Ok((hosts, false))
}

/// The hosts that MX records name; none if they say that no mail is taken.
fn hosts(records: &[RData]) -> Vec<(u16, Name)> {
    let mx = records.iter().filter_map(|data| match data {
        RData::MX(mx) => Some(mx),
        _ => None,
    });
    // A root that stands beside others names no host, and does not take the others away (RFC 7505 3).
    let named = mx.filter(|mx: &&MX| !mx.exchange.is_root());
    named
        .map(|mx| (mx.preference, mx.exchange.clone()))
        .collect()
}

/// By preference, and at random where that is equal; each host once.
fn in_order(
    listed: Vec<(u16, Name)>,
    random: &mut (dyn FnMut() -> u64 + Send),
) -> Vec<(u16, String)> {
    let mut best = BTreeMap::<String, u16>::new();
    for (preference, host) in listed {
        let known = best.entry(plain(&host)).or_insert(preference);
        *known = preference.min(*known);
    }
    let mut shuffled: Vec<_> = best
        .into_iter()
        .map(|(host, preference)| (preference, random(), host))
        .collect();
    shuffled.sort();
    let in_order = shuffled.into_iter().take(EXCHANGERS);
    in_order
        .map(|(preference, _, host)| (preference, host))
        .collect()
}

/// A name as people write it.
fn plain(name: &Name) -> String {
    let text = name.to_lowercase().to_ascii();
    text.strip_suffix('.').unwrap_or(&text).to_owned()
}

/// Only those that are preferred to us, and whether we are among them. Others would only hand the mail to us again.
fn before_us<T: AsHost>(
    mut hosts: Vec<(u16, T)>,
    is_us: impl Fn(&T::Host) -> bool,
) -> (Vec<(u16, T)>, bool) {
    let own = hosts.iter().filter(|(_, host)| is_us(host.as_host()));
    let Some(own) = own.map(|(preference, _)| *preference).min() else {
        return (hosts, false);
    };
    hosts.retain(|(preference, _)| *preference < own);
    (hosts, true)
}

/// What [`before_us`] tells us by.
trait AsHost {
    type Host: ?Sized;
    fn as_host(&self) -> &Self::Host;
}

impl AsHost for String {
    type Host = str;
    fn as_host(&self) -> &str {
        self
    }
}

impl AsHost for Exchanger {
    type Host = Self;
    fn as_host(&self) -> &Self {
        self
    }
}

/// The addresses of all of them, in the same order; and why there are none of some.
async fn look_up(
    names: &NameServers,
    hosts: Vec<(u16, String)>,
) -> (Vec<Exchanger>, Vec<NoExchanger>) {
    let mut asked = JoinSet::new();
    for (place, (preference, host)) in hosts.into_iter().enumerate() {
        let names = names.clone();
        asked.spawn(async move {
            let found = addresses(&names, &host).await;
            (place, preference, host, found)
        });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(place, ..)| *place);
    let (mut found, mut troubles) = (Vec::new(), Vec::new());
    for (_, preference, host, answer) in answers {
        match answer {
            Ok(at) if at.addresses.is_empty() => {
                let text = format!("{host} has no address that could be used");
                troubles.push(NoExchanger::NotNow(text));
            }
            Ok(at) => found.push(Exchanger {
                canonical: plain(&at.name),
                host,
                preference,
                addresses: at.addresses,
                proven: at.proven,
            }),
            Err(error) => troubles.push(error.into()),
        }
    }
    (found, troubles)
}

async fn addresses(names: &NameServers, host: &str) -> Result<Addresses, LookupError> {
    let name = Name::from_ascii(host)
        .map_err(|error| LookupError::Failed(Name::root(), format!("{host}: {error}")))?;
    let mut found = names.addresses(&name).await?;
    // An address of nobody, or of everybody, is no host's: connecting to it would reach ourselves.
    found.addresses.retain(|address| match address {
        IpAddr::V4(four) => !four.is_unspecified() && !four.is_multicast() && !four.is_broadcast(),
        IpAddr::V6(six) => !six.is_unspecified() && !six.is_multicast(),
    });
    Ok(found)
}

/// No more addresses than are tried.
fn trim(hosts: &mut Vec<(u16, Exchanger)>) {
    let mut left = ADDRESSES;
    hosts.retain_mut(|(_, host)| {
        host.addresses.truncate(left);
        left -= host.addresses.len();
        !host.addresses.is_empty()
    });
}

fn none(domain: &Destination, leads_to_us: bool, troubles: Vec<NoExchanger>) -> NoExchanger {
    let first = troubles.into_iter().next();
    // One that is preferred to us may only be out of sight at the moment.
    match (first, leads_to_us) {
        (Some(trouble), _) => trouble,
        (None, true) => NoExchanger::Never(leads_back(domain.as_str())),
        (None, false) => NoExchanger::NotNow(format!("{domain} has no mail exchanger")),
    }
}
