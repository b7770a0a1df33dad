//! The transcripts of the server side, played over TCP against relay-svc's own listener with a real spool.
//!
//! What each file says of stored messages, and of releases, is compared with what lies in the spool afterwards. Files
//! whose world the relay does not have (a list of unknown users, time that passes) are named in [`OTHER_WORLDS`], so
//! that none is left out unnoticed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use linkmail_service::settings::{Listen, Telemetry};
use linkmail_smtp::{Mailbox, ReversePath};
use linkmail_tests::{Drives, Transcript, socket, transcripts_below};
use relay_svc::{
    arrivals::Arrivals,
    clock::Stamp,
    config::{self, Config},
    inbound::{self, Inbound},
    names::{HostPort, MessageId, NextHop, Node},
    outbound::direct::name_servers::Dnssec,
    policy::Policy,
    queue::RetryPolicy,
    route::{Hold, Pattern, Routes, Target},
    spool::{ListFilter, NewMessage, NewRecipient, Origin, Spool},
    telemetry::Instruments,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What a given statement would need that the relay does not have.
const OTHER_WORLDS: [&str; 12] = [
    "unknown ",
    "begin data ",
    "after data ",
    "max_messages ",
    "max_commands ",
    "chunking off",
    "offer ",
    "auth ",
    "require ",
    "tls ",
    "talks ",
    "trusts ",
];
/// A node that no transcript asks for; it makes the relay a provider, which offers ETRN.
const UNASKED: &str = "unasked.example";

#[tokio::test(flavor = "multi_thread")]
async fn relay_svc_answers_as_the_transcripts_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts");
    let (mut played, mut failures) = (0, Vec::new());
    for file in transcripts_below(&folder).unwrap() {
        let text = std::fs::read_to_string(&file).unwrap();
        let transcript = Transcript::parse(&file, &text).unwrap();
        let other = |fact: &linkmail_tests::transcript::Fact| {
            OTHER_WORLDS.iter().any(|word| fact.text.starts_with(word))
        };
        // Of an extension that the relay always offers.
        let without_dsn = file.ends_with("parameters-off.smtp");
        let ours = !matches!(transcript.drives(), Drives::Client)
            && !without_dsn
            && !transcript.needs_clock()
            && !transcript.given.iter().any(other);
        if ours {
            played += 1;
            if let Err(failure) = play(&file, &text, &transcript).await {
                failures.push(failure);
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(played >= 35, "only {played} transcripts fit the relay");
}

async fn play(file: &Path, text: &str, transcript: &Transcript) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    let cancel = CancellationToken::new();
    let held = hold(transcript, &spool).await;
    let listener = listener(transcript);
    let config = world(transcript, folder.path());
    let address = listen(&config, listener, spool.clone(), &cancel).await;
    let adapted = folder.path().join(file.file_name().unwrap());
    std::fs::write(&adapted, as_the_relay_says(text)).unwrap();
    let played = tokio::task::spawn_blocking(move || socket::play(&adapted, address))
        .await
        .unwrap();
    cancel.cancel();
    played.map_err(|failure| format!("{}: {failure}", file.display()))?;

    // The bare postmaster is stored under the address that the relay's configuration gives it.
    let expected: Vec<String> = transcript
        .then_of(linkmail_tests::transcript::Speaker::Server)
        .into_iter()
        .filter_map(|fact| fact.text.strip_prefix("message "))
        .map(|text| text.replace("<postmaster>", "<postmaster@branch.example>"))
        .collect();
    let found = spool
        .list(ListFilter {
            after: held,
            limit: 100,
            ..ListFilter::default()
        })
        .await
        .unwrap();
    let found: Vec<String> = found
        .iter()
        .map(|message| {
            let to: Vec<String> = message
                .recipients
                .iter()
                .map(|r| format!("<{}>", r.address))
                .collect();
            format!("from <{}> to {}", message.reverse_path, to.join(" "))
        })
        .collect();
    let same = found.len() == expected.len()
        && found
            .iter()
            .zip(&expected)
            .all(|(found, expected)| expected.starts_with(found.as_str()));
    let (asked, released) = releases(transcript, &spool).await;
    if asked != released {
        Err(format!(
            "{}: released {released:?}, expected {asked:?}",
            file.display()
        ))
    } else if same {
        Ok(())
    } else {
        Err(format!(
            "{}: stored {found:?}, expected {expected:?}",
            file.display()
        ))
    }
}

/// Holds what the transcript says is held; gives the place of the last of it.
async fn hold(transcript: &Transcript, spool: &Spool) -> i64 {
    let mut last = 0;
    for (count, domain) in held(transcript) {
        for _ in 0..count {
            let address = Mailbox::parse(format!("user@{domain}").as_bytes()).unwrap();
            let hop = NextHop::Hold(Node::of(address.domain()));
            let message = NewMessage {
                wish: Default::default(),
                utf8_header: false,
                handover: None,
                id: MessageId::new(),
                reverse_path: ReversePath::Null,
                recipients: vec![NewRecipient {
                    address,
                    hop,
                    wish: Default::default(),
                }],
                origin: Origin::Smtp,
                link: None,
                cycle: None,
                traceparent: String::new(),
                accepted: Stamp::now(),
                request: None,
            };
            spool.accept(spool.draft(), message).await.unwrap();
            last += 1;
        }
    }
    last
}

fn held(transcript: &Transcript) -> Vec<(u64, String)> {
    let facts = transcript.given.iter();
    let said = facts.filter_map(|fact| fact.text.strip_prefix("held ")?.split_once(" for "));
    said.map(|(count, domain)| (count.parse().unwrap(), domain.to_owned()))
        .collect()
}

/// The nodes with held mail whose release the transcript says was started, and those that the spool says were.
async fn releases(transcript: &Transcript, spool: &Spool) -> (BTreeSet<String>, BTreeSet<String>) {
    let facts = transcript.then_of(linkmail_tests::transcript::Speaker::Server);
    let said = facts
        .iter()
        .filter_map(|fact| fact.text.strip_prefix("release "));
    let said: Vec<String> = said.map(str::to_ascii_lowercase).collect();
    let asked = |domain: &str| {
        said.iter().any(|node| match node.strip_prefix('@') {
            Some(top) => domain == top || domain.ends_with(&format!(".{top}")),
            None => node == domain,
        })
    };
    let with_mail = held(transcript).into_iter().filter(|(count, _)| *count > 0);
    let expected = with_mail
        .map(|(_, domain)| domain)
        .filter(|domain| asked(domain));
    let (open, _) = spool.open_releases(0, 100).await.unwrap();
    (
        expected.collect(),
        open.iter().map(ToString::to_string).collect(),
    )
}

/// The relay gives its own ids.
fn as_the_relay_says(text: &str) -> String {
    let lines = text.lines().map(
        |line| match line.strip_prefix("S: 250 2.0.0 OK, queued as ") {
            Some(_) => r"S~ 250 2\.0\.0 OK, queued as [0-9a-f-]{36}".to_owned(),
            None => line.to_owned(),
        },
    );
    // The relay passes on what senders ask for, and addresses in any script, and tells how many recipients it takes; it says so
    // behind CHUNKING.
    let mut given = text.lines();
    let most = given.find_map(|line| line.strip_prefix("max_recipients "));
    let most = most.unwrap_or("1000");
    let lines = lines.map(|line| match line.as_str() {
        "S: 250-CHUNKING" => {
            format!("S: 250-CHUNKING\nS: 250-DSN\nS: 250-SMTPUTF8\nS: 250-LIMITS RCPTMAX={most}")
        }
        "S: 250 CHUNKING" => {
            format!("S: 250-CHUNKING\nS: 250-DSN\nS: 250-SMTPUTF8\nS: 250 LIMITS RCPTMAX={most}")
        }
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

/// The networks of a list, which the client is in or not: it comes from loopback.
fn client(transcript: &Transcript, list: &str) -> Vec<IpNet> {
    let mut facts = transcript.given.iter();
    let listed = facts.any(|fact| fact.text.starts_with("client ") && fact.text.contains(list));
    listed
        .then(|| "127.0.0.0/8".parse().unwrap())
        .into_iter()
        .collect()
}

fn world(transcript: &Transcript, state: &Path) -> Config {
    let value = |key: &str| {
        let found = transcript
            .given
            .iter()
            .find_map(|fact| fact.text.strip_prefix(key));
        found.map(|value| value.trim().to_owned())
    };
    let number = |key: &str, default: u64| value(key).map_or(default, |text| text.parse().unwrap());
    let mut routes = Routes::default();
    let own = transcript
        .given
        .iter()
        .filter_map(|fact| fact.text.strip_prefix("own "));
    // What is held is our own too, by its own route.
    let held_too = |domain: &&str| held(transcript).iter().any(|(_, held)| held == domain);
    for domain in own
        .flat_map(str::split_whitespace)
        .filter(|domain| !held_too(domain))
    {
        routes
            .insert(
                Pattern::parse(domain).unwrap(),
                Target::Hop(NextHop::parse("smtp://127.0.0.1:9").unwrap()),
            )
            .unwrap();
    }
    if !client(transcript, "in relay_from").is_empty() {
        let elsewhere = NextHop::parse("smtp://127.0.0.1:9").unwrap();
        routes.insert(Pattern::Any, Target::Hop(elsewhere)).unwrap();
    }
    let nodes = held(transcript).into_iter().map(|(_, domain)| domain);
    let offered = value("etrn ").is_none_or(|word| word != "off");
    for domain in nodes.chain(offered.then(|| UNASKED.to_owned())) {
        let hold = Target::Hold(Hold {
            release_to: HostPort::parse_url("smtp://127.0.0.1:9").unwrap(),
            etrn_from: client(transcript, "in etrn_from"),
            etrn_by: Vec::new(),
        });
        let pattern = Pattern::parse(&domain).unwrap();
        routes.insert(pattern, hold).unwrap();
    }
    let postmaster = Mailbox::parse(b"postmaster@branch.example").unwrap();
    Config {
        hosts: relay_svc::outbound::Hosts::new(Default::default()).unwrap(),
        hostname: value("hostname ")
            .unwrap_or_else(|| "relay.test".into())
            .into(),
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
        limits: config::Limits {
            message_size: number("size_limit ", 25_000_000),
            recipients: usize::try_from(number("max_recipients ", 1000)).unwrap(),
            sessions: 10,
            command_timeout: Duration::from_secs(60),
            data_timeout: Duration::from_secs(60),
            ..config::Limits::default()
        },
        credentials: None,
        recipient_lists: config::RecipientLists::new(),
        retry: RetryPolicy {
            first: Duration::from_secs(300),
            longest: Duration::from_secs(7200),
            expire: Duration::from_secs(432_000),
            hold: Duration::from_secs(432_000),
        },
        listeners: Vec::new(),
        policy: Arc::new(Policy {
            routes,
            postmaster: Some(postmaster),
        }),
        links: Vec::new(),
        mx: config::Mx {
            port: 25,
            domains: 20,
            dnssec: Dnssec::Off,
            mta_sts: false,
        },
    }
}

/// Where the client speaks, as the transcript has it.
fn listener(transcript: &Transcript) -> config::Listener {
    let says = |text: &str| transcript.given.iter().any(|fact| fact.text == text);
    config::Listener {
        relay_from: client(transcript, "in relay_from"),
        lmtp: says("lmtp"),
        strict_pipelining: says("pipelining strict"),
        ..config::Listener::at(([127, 0, 0, 1], 0).into())
    }
}

async fn listen(
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
