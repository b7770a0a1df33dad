//! From a host's name to a TCP connection, and what it means when there is none.
//!
//! The resolver is made anew for each connection: a line that comes up brings its own name servers
//! (`/etc/resolv.conf` is rewritten by `pppd`, DHCP and the like), and answers of a line that was down are stale. What
//! stands in `/etc/hosts` is not asked for at all.
//!
//! The addresses of a host are raced (RFC 8305): a family that leads nowhere costs a quarter of a second, not a time-out.
//!
//! Limits: no address is tried before both families were asked for, and RFC 6724 does not sort them: what the name server
//! gave first is tried first. On a line whose round trip is longer than [`HEAD_START`] a second connection is begun and
//! closed again.

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
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until, timeout_at},
};

use crate::names::HostPort;

/// One question to one name server may take so long.
const NAME_SERVER_WAIT: Duration = Duration::from_secs(5);
/// The pause before a name is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// So long one address is tried alone before the next one is tried beside it (RFC 8305 5).
const HEAD_START: Duration = Duration::from_millis(250);
/// So many addresses of one host are tried: who names more is not easier to reach.
const ADDRESSES: usize = 16;
/// Of what the line has not taken yet the system keeps no more than this. Otherwise it takes megabytes at once: on a slow
/// line the timers of RFC 5321 4.5.3.2 would then run for data that has not left, and what was begun could not be stopped.
const UNSENT: u32 = 64 * 1024;

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

/// Connects within `patience`; the addresses of the host are raced.
///
/// # Errors
/// Whether the line is missing or the host refused.
pub async fn connect(to: &HostPort, patience: Duration) -> Result<TcpStream, ConnectError> {
    let deadline = Instant::now() + patience;
    let addresses = resolve(to, deadline).await?;
    connect_any(to, &addresses, deadline).await
}

/// Connects to one of these addresses of a host before `deadline`: in turn one of each family, IPv6 first, each begun
/// `HEAD_START` after the one before, or at once when that one failed. The first that is established wins (RFC 8305).
///
/// # Errors
/// None was. What a host said counts more than silence, and silence more than a way that is missing.
pub async fn connect_any(
    to: &HostPort,
    addresses: &[IpAddr],
    deadline: Instant,
) -> Result<TcpStream, ConnectError> {
    let mut waiting = in_turn(addresses).into_iter().peekable();
    let mut under_way = JoinSet::new();
    let mut next_at = Instant::now();
    let mut failure = Failure::default();
    loop {
        if under_way.is_empty() && waiting.peek().is_none() {
            return Err(failure.sum(to));
        }
        tokio::select! {
            biased;
            Some(ended) = under_way.join_next() => match ended {
                Ok((_, Ok(stream))) => return Ok(tuned(stream)),
                Ok((address, Err(error))) => {
                    failure.note(to, address, &error);
                    next_at = Instant::now();
                }
                Err(error) => failure.missing = Some(format!("{to}: {error}")),
            },
            () = sleep_until(deadline) => {
                failure.late = Some(format!("{to}: connect timed out"));
                return Err(failure.sum(to));
            }
            () = sleep_until(next_at), if waiting.peek().is_some() => {
                if let Some(address) = waiting.next() {
                    let at = SocketAddr::new(address, to.port);
                    under_way.spawn(async move { (address, TcpStream::connect(at).await) });
                }
                next_at = Instant::now() + HEAD_START;
            }
        }
    }
}

/// One of each family in turn, each family in its own order, IPv6 first (RFC 8305 4); each address once.
fn in_turn(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let of = |v6: bool| addresses.iter().filter(move |a| a.is_ipv6() == v6);
    let (mut six, mut four) = (of(true), of(false));
    let mut sorted = Vec::new();
    while sorted.len() < ADDRESSES {
        let pair = [six.next(), four.next()];
        if pair == [None, None] {
            break;
        }
        for address in pair.into_iter().flatten() {
            if !sorted.contains(address) {
                sorted.push(*address);
            }
        }
    }
    sorted.truncate(ADDRESSES);
    sorted
}

/// The last failure of each kind.
#[derive(Default)]
struct Failure {
    refused: Option<String>,
    late: Option<String>,
    missing: Option<String>,
}

impl Failure {
    fn note(&mut self, to: &HostPort, address: IpAddr, error: &io::Error) {
        let kind = if answered(error) {
            &mut self.refused
        } else if error.kind() == io::ErrorKind::TimedOut {
            &mut self.late
        } else {
            &mut self.missing
        };
        *kind = Some(format!("{to} ({address}): {error}"));
    }

    fn sum(self, to: &HostPort) -> ConnectError {
        let none = || ConnectError::Missing(format!("{to}: the name has no address"));
        let refused = self.refused.map(ConnectError::Refused);
        refused
            .or(self.late.map(ConnectError::TimedOut))
            .or(self.missing.map(ConnectError::Missing))
            .unwrap_or_else(none)
    }
}

/// What a connection for mail is set to. TCP_USER_TIMEOUT is left alone: each wait of a session has a timer of its own,
/// and a line that was silent for minutes may go on.
fn tuned(stream: TcpStream) -> TcpStream {
    // The session gathers what belongs together; nothing is gained by holding it back.
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
    stream
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

    fn host(port: u16) -> HostPort {
        HostPort::parse_url(&format!("smtp://mx.example:{port}")).unwrap()
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_closed_port_is_an_attempt_and_a_name_that_does_not_resolve_is_none() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        let to = HostPort::parse_url(&format!("smtp://127.0.0.1:{port}")).unwrap();
        drop(free);
        let error = connect(&to, Duration::from_secs(5)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused(_)), "{error}");
        let to = HostPort::parse_url("smtp://no-such-host.invalid").unwrap();
        let error = connect(&to, Duration::from_secs(2)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Missing(_)), "{error}");
    }

    #[test]
    fn families_take_turns_and_each_address_has_one() {
        let given = addresses(&[
            "192.0.2.1",
            "192.0.2.2",
            "2001:db8::1",
            "192.0.2.1",
            "192.0.2.3",
        ]);
        let sorted = ["2001:db8::1", "192.0.2.1", "192.0.2.2", "192.0.2.3"];
        assert_eq!(in_turn(&given), addresses(&sorted));
        let many: Vec<IpAddr> = (0..50).map(|n| IpAddr::from([192, 0, 2, n])).collect();
        assert_eq!(in_turn(&many), many[..ADDRESSES]);
    }

    /// A port of one address that is open but full: what connects gets no answer.
    fn silent(address: &str) -> (u16, Vec<std::net::TcpStream>, socket2::Socket) {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let at: SocketAddr = format!("{address}:0").parse().unwrap();
        socket.bind(&at.into()).unwrap();
        socket.listen(0).unwrap();
        let at = socket.local_addr().unwrap().as_socket().unwrap();
        let wait = Duration::from_millis(300);
        let mut filled = Vec::new();
        while let Ok(stream) = std::net::TcpStream::connect_timeout(&at, wait) {
            filled.push(stream);
        }
        (at.port(), filled, socket)
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_costs_its_head_start() {
        let (port, _filled, _socket) = silent("127.82.53.1");
        let open = tokio::net::TcpListener::bind(("127.82.53.2", port))
            .await
            .unwrap();
        let given = addresses(&["127.82.53.1", "127.82.53.2"]);
        let began = Instant::now();
        let stream = connect_any(&host(port), &given, began + Duration::from_secs(20)).await;
        assert_eq!(
            stream.unwrap().peer_addr().unwrap(),
            open.local_addr().unwrap()
        );
        assert!((HEAD_START..Duration::from_secs(10)).contains(&began.elapsed()));
        // Alone it is late, and beside one that refuses the refusal is what counts.
        let soon = || Instant::now() + Duration::from_millis(400);
        let error = connect_any(&host(port), &given[..1], soon())
            .await
            .unwrap_err();
        assert!(matches!(error, ConnectError::TimedOut(_)), "{error}");
        drop(open);
        let error = connect_any(&host(port), &given, soon()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused(_)), "{error}");
    }

    #[tokio::test]
    async fn an_address_that_refuses_costs_nothing() {
        let open = tokio::net::TcpListener::bind("127.82.53.3:0")
            .await
            .unwrap();
        let port = open.local_addr().unwrap().port();
        let given = addresses(&["127.82.53.4", "127.82.53.5", "127.82.53.6", "127.82.53.3"]);
        let began = Instant::now();
        let stream = connect_any(&host(port), &given, began + Duration::from_secs(20)).await;
        assert!(stream.unwrap().nodelay().unwrap());
        assert!(began.elapsed() < HEAD_START, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn no_address_at_all_is_no_attempt() {
        let error = connect_any(&host(25), &[], Instant::now())
            .await
            .unwrap_err();
        assert!(matches!(error, ConnectError::Missing(_)), "{error}");
    }
}
