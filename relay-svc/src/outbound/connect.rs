//! From a host's name to a TCP connection, and what it means when there is none.
//!
//! The resolver is made anew for each connection: a line that comes up brings its own name servers
//! (`/etc/resolv.conf` is rewritten by `pppd`, DHCP and the like), and answers of a line that was down are stale. What
//! stands in `/etc/hosts` is not asked for at all.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    Hosts, TokioResolver,
    config::LookupIpStrategy,
    net::NetError,
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::names::HostPort;

/// One question to one name server may take so long.
const NAME_SERVER_WAIT: Duration = Duration::from_secs(5);
/// The pause before a name is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The line is missing: the name does not resolve, or nothing is reachable. Not an attempt.
    #[error("{0}")]
    Missing(String),
    /// Nothing answered in time: the line is missing, unless there is no line to wait for.
    #[error("{0}")]
    TimedOut(String),
    /// The host answered and refused. An attempt.
    #[error("{0}")]
    Refused(String),
}

/// For a host behind a line: what does not answer is not there.
impl From<ConnectError> for super::End {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Missing(reason) | ConnectError::TimedOut(reason) => Self::Missing(reason),
            ConnectError::Refused(reason) => Self::Failed(reason),
        }
    }
}

/// Connects within `patience`, trying each address of the host.
///
/// # Errors
/// Whether the line is missing or the host refused.
pub async fn connect(to: &HostPort, patience: Duration) -> Result<TcpStream, ConnectError> {
    let deadline = Instant::now() + patience;
    let addresses = resolve(to, deadline).await?;
    let mut refused = None;
    let (mut missing, mut late) = (None, None);
    for (tried, address) in addresses.iter().enumerate() {
        // What is left of the patience is shared by the addresses that are left.
        let shares = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let until = Instant::now() + deadline.saturating_duration_since(Instant::now()) / shares;
        match timeout_at(
            until,
            TcpStream::connect(SocketAddr::new(*address, to.port)),
        )
        .await
        {
            Ok(Ok(stream)) => {
                // The session gathers what belongs together; nothing is gained by holding it back.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) if answered(&error) => {
                refused = Some(format!("{to} ({address}): {error}"))
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
                late = Some(format!("{to} ({address}): {error}"))
            }
            Ok(Err(error)) => missing = Some(format!("{to} ({address}): {error}")),
            Err(_) => late = Some(format!("{to} ({address}): connect timed out")),
        }
    }
    let none = || ConnectError::Missing(format!("{to}: the name has no address"));
    let refused = refused.map(ConnectError::Refused);
    Err(refused
        .or(late.map(ConnectError::TimedOut))
        .or(missing.map(ConnectError::Missing))
        .unwrap_or_else(none))
}

/// Whether the error is the word of the other host; every other error is of the way there, or our own.
fn answered(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
    )
}

/// Asks until the deadline: a line that is being dialled lets no answer through yet. Only a name server's own word that
/// the name does not exist ends it early.
async fn resolve(to: &HostPort, deadline: Instant) -> Result<Vec<IpAddr>, ConnectError> {
    if let Ok(address) = to.host.parse() {
        return Ok(vec![address]);
    }
    let mut last = "no name server answered in time".to_owned();
    loop {
        match timeout_at(deadline, ask(&to.host)).await {
            Ok(Ok(addresses)) => return Ok(addresses),
            Ok(Err(error)) => {
                let answered = error.is_no_records_found();
                last = error.to_string();
                if answered || Instant::now() + ASK_AGAIN >= deadline {
                    break;
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Err(_) => break,
        }
    }
    Err(ConnectError::Missing(format!(
        "{}: name does not resolve: {last}",
        to.host
    )))
}

async fn ask(host: &str) -> Result<Vec<IpAddr>, NetError> {
    let known = in_hosts_file(host);
    if !known.is_empty() {
        return Ok(known);
    }
    let mut builder = TokioResolver::builder_tokio()?;
    let options = builder.options_mut();
    options.timeout = NAME_SERVER_WAIT;
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    Ok(builder.build()?.lookup_ip(host).await?.iter().collect())
}

/// What the system's hosts file says. Who writes a host there may have no name server that could be asked for the other
/// kind of address, and the resolver would wait for it.
fn in_hosts_file(host: &str) -> Vec<IpAddr> {
    let (Ok(hosts), Ok(name)) = (Hosts::from_system(), Name::from_utf8(host)) else {
        return Vec::new();
    };
    let of = |kind| {
        let found = hosts.lookup_static_host(&Query::query(name.clone(), kind));
        found.map_or_else(Vec::new, |found| {
            let answers = found.answers().iter();
            answers.filter_map(|record| record.data.ip_addr()).collect()
        })
    };
    let mut addresses: Vec<IpAddr> = of(RecordType::A);
    addresses.extend(of(RecordType::AAAA));
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_is_an_attempt_and_a_name_that_does_not_resolve_is_none() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = HostPort {
            host: "127.0.0.1".into(),
            port: free.local_addr().unwrap().port(),
        };
        drop(free);
        let error = connect(&to, Duration::from_secs(5)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused(_)), "{error}");
        let to = HostPort {
            host: "no-such-host.invalid".into(),
            port: 25,
        };
        let error = connect(&to, Duration::from_secs(2)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Missing(_)), "{error}");
    }
}
