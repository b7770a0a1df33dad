//! The transcripts of the server side, played over TCP against relay-svc's own listener with a real spool.
//!
//! What each file says of stored messages is compared with what lies in the spool afterwards. Files whose world the
//! relay does not have (a list of unknown users, held mail, time that passes) are named in [`OTHER_WORLDS`], so that
//! none is left out unnoticed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use linkmail_smtp::Mailbox;
use linkmail_tests::{Drives, Transcript, socket, transcripts_below};
use relay_svc::{
    arrivals::Arrivals,
    config::{self, Config},
    inbound::{self, Inbound},
    names::NextHop,
    policy::Policy,
    queue::RetryPolicy,
    route::{Pattern, Routes},
    spool::{ListFilter, Spool},
    telemetry::Instruments,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What a given statement would need that the relay does not have.
const OTHER_WORLDS: [&str; 4] = ["unknown ", "held ", "after data ", "client "];
/// The relay holds no mail for others yet, and so offers no ETRN: files that send it are about another server.
const ETRN: &str = "C: ETRN";

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
        let ours = !matches!(transcript.drives(), Drives::Client)
            && !transcript.needs_clock()
            && !transcript.given.iter().any(other)
            && !text.contains(ETRN);
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
    let address = listen(&world(transcript, folder.path()), spool.clone(), &cancel).await;
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
    if same {
        Ok(())
    } else {
        Err(format!(
            "{}: stored {found:?}, expected {expected:?}",
            file.display()
        ))
    }
}

/// The relay gives its own ids, and offers no ETRN.
fn as_the_relay_says(text: &str) -> String {
    let lines = text.lines().map(
        |line| match line.strip_prefix("S: 250 2.0.0 OK, queued as ") {
            Some(_) => r"S~ 250 2\.0\.0 OK, queued as [0-9a-f-]{36}".to_owned(),
            None => line.to_owned(),
        },
    );
    let text = lines.collect::<Vec<_>>().join("\n") + "\n";
    text.replace(
        "S: 250-ENHANCEDSTATUSCODES\nS: 250 ETRN\n",
        "S: 250 ENHANCEDSTATUSCODES\n",
    )
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
    for domain in own.flat_map(str::split_whitespace) {
        routes
            .insert(
                Pattern::parse(domain).unwrap(),
                NextHop::parse("smtp://127.0.0.1:9").unwrap(),
            )
            .unwrap();
    }
    let postmaster = Mailbox::parse(b"postmaster@branch.example").unwrap();
    Config {
        hostname: value("hostname ")
            .unwrap_or_else(|| "relay.test".into())
            .into(),
        state: PathBuf::from(state),
        postmaster: postmaster.clone(),
        grpc: config::Grpc {
            listen: "127.0.0.1:0".parse().unwrap(),
            allow: Vec::new(),
            relay_from: Vec::new(),
        },
        telemetry: config::Telemetry {
            otlp: None,
            log: "off".into(),
        },
        limits: config::Limits {
            message_size: number("size_limit ", 25_000_000),
            recipients: usize::try_from(number("max_recipients ", 1000)).unwrap(),
            sessions: 10,
            command_timeout: Duration::from_secs(60),
            data_timeout: Duration::from_secs(60),
        },
        retry: RetryPolicy {
            first: Duration::from_secs(300),
            longest: Duration::from_secs(7200),
            expire: Duration::from_secs(432_000),
        },
        listeners: Vec::new(),
        policy: Arc::new(Policy {
            routes,
            postmaster: Some(postmaster),
        }),
        links: Vec::new(),
    }
}

async fn listen(config: &Config, spool: Spool, cancel: &CancellationToken) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let listener = config::Listener {
        address,
        relay_from: Vec::new(),
        link: None,
    };
    let inbound = Arc::new(Inbound::new(
        config,
        spool,
        Arrivals::default(),
        Instruments::default(),
    ));
    tokio::spawn(inbound::serve(inbound, listener, socket, cancel.clone()));
    address
}
