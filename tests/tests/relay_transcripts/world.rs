//! The world of a transcript as a configuration of the relay: its routes, its listener, who may authenticate.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use linkmail_sasl::{Credential, CredentialFile, Iterations, Name, Password};
use linkmail_service::{
    fresh::ReloadingFile,
    settings::{Listen, Telemetry},
    tls::{IdentityFiles, ReloadingIdentity, ServerFiles, ServerTls},
};
use linkmail_smtp::Mailbox;
use linkmail_tests::Transcript;
use relay_svc::{
    arrivals::Arrivals,
    config::{self, Config},
    inbound::{self, Inbound},
    names::{HostPort, NextHop},
    outbound::direct::name_servers::Dnssec,
    policy::Policy,
    queue::{RetryPolicy, late::Lateness},
    route::{Hold, Pattern, Routes, Target},
    spool::Spool,
    telemetry::Instruments,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{held, identity::IDENTITY};

/// A node that no transcript asks for; it makes the relay a provider, which offers ETRN.
const UNASKED: &str = "unasked.example";

/// The networks of a list, which the client is in or not: it comes from loopback.
fn client(transcript: &Transcript, list: &str) -> Vec<IpNet> {
    let mut facts = transcript.given.iter();
    let listed = facts.any(|fact| fact.text.starts_with("client ") && fact.text.contains(list));
    listed
        .then(|| "127.0.0.0/8".parse().unwrap())
        .into_iter()
        .collect()
}

/// What a statement says behind its `key`, of the first one that begins with it.
fn value<'a>(transcript: &'a Transcript, key: &str) -> Option<&'a str> {
    let mut facts = transcript.given.iter();
    facts
        .find_map(|fact| fact.text.strip_prefix(key))
        .map(str::trim)
}

/// Our own domains, everyone's where the client may relay, and those that are held.
fn routes(transcript: &Transcript) -> Routes {
    let mut routes = Routes::default();
    let next_hop = || Target::Hop(NextHop::parse("smtp://127.0.0.1:9").unwrap());
    let facts = transcript.given.iter();
    let own = facts.filter_map(|fact| fact.text.strip_prefix("own "));
    let held = held(transcript);
    // What is held is our own too, by its own route.
    let held_too = |domain: &&str| held.iter().any(|(_, held)| held == domain);
    for domain in own.flat_map(str::split_whitespace) {
        if !held_too(&domain) {
            let pattern = Pattern::parse(domain).unwrap();
            routes.insert(pattern, next_hop()).unwrap();
        }
    }
    if !client(transcript, "in relay_from").is_empty() {
        routes.insert(Pattern::Any, next_hop()).unwrap();
    }
    let offered = value(transcript, "etrn ").is_none_or(|word| word != "off");
    let nodes = held.iter().map(|(_, domain)| domain.as_str());
    for domain in nodes.chain(offered.then_some(UNASKED)) {
        let hold = Target::Hold(Hold {
            release_to: HostPort::parse_url("smtp://127.0.0.1:9").unwrap(),
            connections: 16,
            etrn_from: client(transcript, "in etrn_from"),
            etrn_by: Vec::new(),
        });
        let pattern = Pattern::parse(domain).unwrap();
        routes.insert(pattern, hold).unwrap();
    }
    routes
}

fn limits(transcript: &Transcript) -> config::Limits {
    let number = |key: &str, default: u64| {
        value(transcript, key).map_or(default, |text| text.parse().unwrap())
    };
    config::Limits {
        message_size: number("size_limit ", 25_000_000),
        recipients: usize::try_from(number("max_recipients ", 1000)).unwrap(),
        sessions: 10,
        command_timeout: Duration::from_secs(60),
        data_timeout: Duration::from_secs(60),
        ..config::Limits::default()
    }
}

pub(crate) fn config(transcript: &Transcript, state: &Path) -> Config {
    let postmaster = Mailbox::parse(b"postmaster@branch.example").unwrap();
    Config {
        hosts: relay_svc::outbound::Hosts::new(Default::default()).unwrap(),
        hostname: value(transcript, "hostname ")
            .unwrap_or("relay.test")
            .into(),
        database: None,
        state: PathBuf::from(state),
        postmaster: postmaster.clone(),
        grpc: config::Grpc {
            at: Listen::at("127.0.0.1:0".parse().unwrap()),
            relay_from: Vec::new(),
        },
        telemetry: Telemetry {
            otlp: None,
            log: "off".into(),
        },
        limits: limits(transcript),
        credentials: credentials(transcript, state),
        recipient_lists: config::RecipientLists::new(),
        retry: RetryPolicy {
            first: Duration::from_secs(300),
            longest: Duration::from_secs(7200),
            jitter: 0,
            expire: Duration::from_secs(432_000),
            hold: Duration::from_secs(432_000),
        },
        late: Lateness {
            warn_after: None,
            line_gone: Duration::from_secs(2_592_000),
        },
        listeners: Vec::new(),
        policy: Arc::new(Policy {
            routes: routes(transcript),
            postmaster: Some(postmaster),
        }),
        links: Vec::new(),
        mx: config::Mx {
            port: 25,
            domains: 20,
            dnssec: Dnssec::Off,
            mta_sts: None,
        },
    }
}

/// Whether it is a listener with a certificate.
pub(crate) fn offers_tls(transcript: &Transcript) -> bool {
    says(transcript, "offer starttls") || says(transcript, "tls from the start")
}

fn says(transcript: &Transcript, text: &str) -> bool {
    transcript.given.iter().any(|fact| fact.text == text)
}

/// Where the client speaks, as the transcript has it. Its files are in `folder`.
pub(crate) fn listener(transcript: &Transcript, folder: &Path) -> config::Listener {
    let mechanisms = |key: &str| {
        let named = value(transcript, key).unwrap_or_default();
        let named = named.split_whitespace();
        named.map(|name| name.parse().unwrap()).collect()
    };
    config::Listener {
        relay_from: client(transcript, "in relay_from"),
        lmtp: says(transcript, "lmtp"),
        strict_pipelining: says(transcript, "pipelining strict"),
        tls: offers_tls(transcript).then(|| tls(transcript, folder)),
        require_tls: says(transcript, "require tls"),
        auth_in_clear: mechanisms("auth in clear "),
        auth_in_tls: mechanisms("auth in tls "),
        require_auth: says(transcript, "require auth"),
        ..config::Listener::at(([127, 0, 0, 1], 0).into())
    }
}

fn tls(transcript: &Transcript, folder: &Path) -> config::Tls {
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    std::fs::write(&certificate, IDENTITY.0.cert.pem()).unwrap();
    std::fs::write(&key, IDENTITY.0.signing_key.serialize_pem()).unwrap();
    let files = ServerFiles {
        default: IdentityFiles { certificate, key },
        by_name: Vec::new(),
        client_roots: None,
    };
    let identity = Arc::new(ReloadingIdentity::load(files).unwrap());
    config::Tls {
        server: ServerTls::new(Arc::clone(&identity)).unwrap(),
        identity,
        implicit: says(transcript, "tls from the start"),
    }
}

/// Who may authenticate, in a file as `relay-svc credentials add` writes it.
fn credentials(
    transcript: &Transcript,
    folder: &Path,
) -> Option<Arc<ReloadingFile<CredentialFile>>> {
    let facts = transcript.given.iter();
    let users = facts.filter_map(|fact| fact.text.strip_prefix("user ")?.split_once(' '));
    let mut file = CredentialFile::default();
    for (name, password) in users {
        let password = Password::parse(password).unwrap();
        let iterations = Iterations::new(Iterations::MIN).unwrap();
        let salt = [7; linkmail_sasl::credential::SALT_LEN];
        let made = Credential::from_password(&password, &salt, iterations).unwrap();
        file.set(&Name::parse(name).unwrap(), made).unwrap();
    }
    let path = folder.join("credentials");
    std::fs::write(&path, file.to_string()).unwrap();
    let parse = |text: &str| CredentialFile::parse(text).map_err(|error| error.to_string());
    Some(Arc::new(ReloadingFile::load(&path, parse).unwrap()))
}

pub(crate) async fn listen(
    config: &Config,
    listener: config::Listener,
    spool: Spool,
    cancel: &CancellationToken,
) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let inbound = Arc::new(Inbound::new(
        config,
        spool,
        Arrivals::default(),
        Instruments::default(),
    ));
    tokio::spawn(inbound::serve(inbound, listener, socket, cancel.clone()));
    address
}
