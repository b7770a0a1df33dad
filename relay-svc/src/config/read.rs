//! From the file to the types, with every error of the file in one go.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use linkmail_sasl::CredentialFile;
use linkmail_service::{
    config::{ByteSize, ConfigErrors, Document, Position, Table, choice},
    fresh::ReloadingFile,
    listen::GrpcAddress,
    settings::{Listen, Telemetry},
    tls::Roots,
};
use linkmail_smtp::{Domain, Mailbox};

use super::{
    Config, Grpc, Limits, Link, Listener, Mx, read_database, read_host,
    read_link::{self, ReadLink},
    read_listener::{self, Around},
    read_route,
};
use crate::{
    names::{HostPort, LinkName, NextHop},
    outbound::direct::name_servers::Dnssec,
    policy::Policy,
    queue::{MAX_JITTER, RetryPolicy, late::Lateness},
    route::Routes,
};

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Reads and checks a file.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let document = Document::load(path)?;
    let config = read(&document);
    document.finish()?;
    // Without a noted error every required part was read.
    config.ok_or_else(|| unreachable_gap(&document))
}

/// Reads no more than where the gRPC services listen: whoever calls them need not be able to read the relay's secrets.
///
/// # Errors
/// The file is not TOML, or its part `grpc` is wrong.
pub fn api_address(path: &Path) -> Result<GrpcAddress, ConfigErrors> {
    let document = Document::load(path)?;
    let grpc = grpc(&document.root());
    document.finish()?;
    Ok(grpc.at.listen)
}

/// Reads no more than the path of the credentials, which need not be there yet.
///
/// # Errors
/// The file is not TOML, or names none.
pub fn credentials_path(path: &Path) -> Result<PathBuf, ConfigErrors> {
    let document = Document::load(path)?;
    let found = document.root().required("credentials");
    document.finish()?;
    found.ok_or_else(|| unreachable_gap(&document))
}

/// A required part is missing although no error was noted: say so instead of going on.
pub(super) fn unreachable_gap(document: &Document) -> ConfigErrors {
    document
        .root()
        .error("hostname", "the configuration is incomplete");
    document
        .finish()
        .err()
        .unwrap_or_else(|| unreachable!("an error was just noted"))
}

fn read(document: &Document) -> Option<Config> {
    let root = document.root();
    let hostname = root.required_with("hostname", host_name);
    let state = root.required("state");
    let database = read_database::database(&root);
    let postmaster = root.parse_with("postmaster", mailbox);
    let grpc = grpc(&root);
    let telemetry = Telemetry::read(&root);
    let limits = limits(&root);
    let (retry, late) = retry(&root);
    let mx = mx(&root);
    let links: Vec<ReadLink> = root
        .tables("link")
        .into_iter()
        .map(|table| read_link::link(document, table))
        .collect();
    let names = link_names(document, &links);
    let credentials = credentials(&root);
    let around = Around {
        links: names.as_ref(),
        has_credentials: root.has("credentials"),
    };
    let listeners: Vec<_> = root
        .tables("listener")
        .into_iter()
        .map(|table| {
            let at = table.position("address");
            (at, read_listener::listener(table, &around))
        })
        .collect();
    once_each(document, &listeners);
    if listeners.is_empty() {
        root.error("listener", "missing; at least one [[listener]] is required");
    }
    let hosts = read_host::hosts(document, &root);
    let read_route::Read { routes, lists } = read_route::routes(&root, names.as_ref());
    root.finish();
    let links = links.into_iter().map(|read| read.link);
    let links: Option<Vec<Link>> = links.collect();
    if let Some(links) = &links
        && !document.has_errors()
    {
        let exchangers = routes.use_mx().then_some(mx.port);
        hosts.check_use(document, &used(links, &routes), exchangers);
    }
    let hostname = hostname?;
    let own = Mailbox::parse(format!("MAILER-DAEMON@{hostname}").as_bytes()).ok()?;
    let fallback = routes
        .first_own()
        .and_then(|own| Mailbox::parse(format!("postmaster@{own}").as_bytes()).ok());
    Some(Config {
        hostname: hostname.into(),
        state: state?,
        database,
        grpc,
        telemetry,
        limits,
        retry,
        late,
        credentials,
        recipient_lists: lists,
        listeners: listeners
            .into_iter()
            .map(|(_, listener)| listener)
            .collect::<Option<_>>()?,
        policy: Arc::new(Policy {
            routes,
            postmaster: postmaster.clone().or(fallback),
        }),
        postmaster: postmaster.unwrap_or(own),
        hosts: hosts.hosts?,
        links: links?,
        mx,
    })
}

/// The hosts that mail goes to, or that are asked for it.
fn used<'a>(links: &'a [Link], routes: &'a Routes) -> BTreeSet<&'a HostPort> {
    let of_link = links.iter().flat_map(|link| {
        let asked = link.dequeue.iter().map(|dequeue| &dequeue.host);
        std::iter::once(&link.smart_host)
            .chain(&link.fallback)
            .chain(asked)
    });
    let of_route = routes.hops().into_iter().filter_map(|hop| match hop {
        NextHop::Smtp(host) => Some(host),
        _ => None,
    });
    let sites = routes.holds().map(|hold| &hold.release_to);
    of_link.chain(of_route).chain(sites).collect()
}

fn host_name(text: &str) -> Result<String, String> {
    match Domain::parse(text.as_bytes()) {
        Ok(domain) if !domain.is_literal() => Ok(text.to_owned()),
        _ => Err(format!(
            "{text:?} is not a host name; expected a name such as \"relay.branch.example\""
        )),
    }
}

fn mailbox(text: &str) -> Result<Mailbox, String> {
    Mailbox::parse(text.as_bytes()).map_err(|error| format!("{text:?} is not an address: {error}"))
}

fn grpc(root: &Table<'_>) -> Grpc {
    let here = GrpcAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 7025)));
    let loopback = || {
        ["127.0.0.0/8", "::1/128"]
            .iter()
            .filter_map(|network| network.parse().ok())
            .collect()
    };
    let Some(table) = root.table("grpc") else {
        return Grpc {
            at: Listen::at(here),
            relay_from: loopback(),
        };
    };
    let at = Listen::read(&table, here);
    let relay_from = table.list_or("relay_from", loopback());
    table.finish();
    Grpc { at, relay_from }
}

fn limits(root: &Table<'_>) -> Limits {
    let mut limits = Limits::default();
    if let Some(table) = root.table("limits") {
        limits.message_size = table.or("message_size", ByteSize(limits.message_size)).0;
        limits.recipients = table.or("recipients", limits.recipients);
        limits.sessions = table.or("sessions", limits.sessions);
        limits.command_timeout = positive(&table, "command_timeout", limits.command_timeout);
        limits.data_timeout = positive(&table, "data_timeout", limits.data_timeout);
        limits.sessions_per_client = table.or("sessions_per_client", limits.sessions_per_client);
        limits.slowest = table.or("slowest", ByteSize(limits.slowest)).0;
        limits.between_messages = positive(&table, "between_messages", limits.between_messages);
        limits.session_time = positive(&table, "session_time", limits.session_time);
        limits.auth_failures = table.or("auth_failures", limits.auth_failures);
        limits.auth_pause = positive(&table, "auth_pause", limits.auth_pause);
        limits.reserve = table.or("reserve", ByteSize(limits.reserve)).0;
        if limits.message_size < 64 * 1024 {
            table.error(
                "message_size",
                "too small; RFC 5321 4.5.3.1.7 asks for at least 64KiB",
            );
        }
        if limits.recipients < 100 {
            table.error(
                "recipients",
                "too small; RFC 5321 4.5.3.1.8 asks for at least 100",
            );
        }
        if limits.sessions == 0 {
            table.error("sessions", "expected at least 1");
        }
        if limits.sessions_per_client == 0 {
            table.error("sessions_per_client", "expected at least 1");
        }
        if limits.auth_failures == 0 {
            table.error("auth_failures", "expected at least 1");
        }
        table.finish();
    }
    limits
}

fn retry(root: &Table<'_>) -> (RetryPolicy, Lateness) {
    let mut retry = RetryPolicy {
        first: 5 * MINUTE,
        longest: 2 * HOUR,
        jitter: 20,
        expire: 5 * DAY,
        hold: 14 * DAY,
    };
    let mut late = Lateness {
        warn_after: Some(4 * HOUR),
        line_gone: 30 * DAY,
    };
    if let Some(table) = root.table("retry") {
        retry.first = positive(&table, "first", retry.first);
        retry.longest = positive(&table, "longest", retry.longest.max(retry.first));
        retry.jitter = table.or("jitter", retry.jitter);
        if retry.jitter > MAX_JITTER {
            let why = format!("more than {MAX_JITTER} per cent");
            table.error("jitter", &why);
        }
        retry.expire = positive(&table, "expire", retry.expire);
        retry.hold = positive(&table, "hold_expire", retry.hold);
        if retry.longest < retry.first {
            table.error("longest", "shorter than retry.first");
        }
        let warn: Duration = table.or("warn_after", 4 * HOUR);
        late.warn_after = Some(warn).filter(|after| !after.is_zero());
        late.line_gone = positive(&table, "line_gone", late.line_gone);
        table.finish();
    }
    (retry, late)
}

fn mx(root: &Table<'_>) -> Mx {
    let mut mx = Mx {
        port: 25,
        domains: 20,
        dnssec: Dnssec::Off,
        mta_sts: None,
    };
    if let Some(table) = root.table("mx") {
        mx.port = table.or("port", mx.port);
        mx.domains = table.or("domains", mx.domains);
        if table.has("dnssec") {
            let word = table.parse_with("dnssec", |text| choice("setting", text, &Dnssec::WORDS));
            mx.dnssec = word.unwrap_or_default();
        }
        let roots = match table.has("roots") {
            true => Roots::read(&table, "roots"),
            false => Some(Roots::Public),
        };
        let follow = table.or("mta_sts", false);
        mx.mta_sts = roots.filter(|_| follow);
        for (key, is_zero) in [("port", mx.port == 0), ("domains", mx.domains == 0)] {
            if is_zero {
                table.error(key, "expected at least 1");
            }
        }
        table.finish();
    }
    mx
}

/// A host by its address.
pub(super) fn host(text: &str) -> Result<HostPort, String> {
    HostPort::parse_url(text)
}

/// A duration that may not be zero.
pub(super) fn positive(table: &Table<'_>, key: &str, default: Duration) -> Duration {
    let value = table.or(key, default);
    if value.is_zero() {
        table.error(key, "expected a duration above zero");
    }
    value
}

/// The same for one that has no default here.
pub(super) fn positive_if_said(table: &Table<'_>, key: &str) -> Option<Duration> {
    let value: Duration = table.optional(key)?;
    if value.is_zero() {
        table.error(key, "expected a duration above zero");
    }
    Some(value)
}

/// The names that a listener or a route may refer to. `None`: a link has no good name, and nothing can be said of
/// what refers to it.
fn link_names(document: &Document, links: &[ReadLink]) -> Option<BTreeSet<LinkName>> {
    let mut names = BTreeSet::new();
    let mut all_named = true;
    for link in links {
        match &link.name {
            Some(name) if !names.insert(name.clone()) => {
                let again = format!("a link named {:?} is there already", name.as_str());
                document.error(&link.name_at, again);
            }
            Some(_) => {}
            None => all_named = false,
        }
    }
    all_named.then_some(names)
}

pub(super) fn known_link(
    table: &Table<'_>,
    key: &str,
    name: &LinkName,
    names: Option<&BTreeSet<LinkName>>,
) {
    let Some(names) = names.filter(|names| !names.contains(name)) else {
        return;
    };
    let known = if names.is_empty() {
        "no [[link]] is configured".to_owned()
    } else {
        let names: Vec<&str> = names.iter().map(LinkName::as_str).collect();
        format!("one of {}", names.join(", "))
    };
    table.error(key, format!("unknown link {:?}; {known}", name.as_str()));
}

/// None if there are none, or after noting what is wrong.
fn credentials(root: &Table<'_>) -> Option<Arc<ReloadingFile<CredentialFile>>> {
    let path: PathBuf = root.optional("credentials")?;
    let parse = |text: &str| CredentialFile::parse(text).map_err(|error| error.to_string());
    ReloadingFile::load(&path, parse)
        .map_err(|error| root.error("credentials", error.to_string()))
        .ok()
        .map(Arc::new)
}

/// Port 0 is any free port, and may stand there as often as one likes.
fn once_each(document: &Document, listeners: &[(Position, Option<Listener>)]) {
    let mut addresses = BTreeSet::new();
    for (at, listener) in listeners {
        if let Some(Listener { address, .. }) = listener
            && address.port() != 0
            && !addresses.insert(*address)
        {
            document.error(at, format!("{address} is the address of another listener"));
        }
    }
}
