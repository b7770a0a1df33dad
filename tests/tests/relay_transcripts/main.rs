//! The transcripts of the server side, played over TCP against relay-svc's own listener with a real spool.
//!
//! What each file says of stored messages, and of releases, is compared with what lies in the spool afterwards. Files
//! whose world the relay does not have (a list of unknown users, time that passes) are named in [`OTHER_WORLDS`], so
//! that none is left out unnoticed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../identity/mod.rs"]
mod identity;
mod world;

use std::{collections::BTreeSet, path::Path};

use identity::IDENTITY;
use linkmail_smtp::{Mailbox, ReversePath};
use linkmail_tests::{Drives, Transcript, socket, transcripts_below, ways};
use relay_svc::{
    clock::Stamp,
    names::{MessageId, NextHop, Node},
    spool::{ListFilter, NewMessage, NewRecipient, Origin, Spool},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What a given statement would need that the relay does not have, or always has.
const OTHER_WORLDS: [&str; 14] = [
    "unknown ",
    "begin data ",
    "after data ",
    "max_messages ",
    "max_commands ",
    "chunking off",
    "offer dsn",
    "offer smtputf8",
    "offer limits",
    "offer mt-priority",
    "offer deliverby",
    "offer xlinkmail",
    "talks ",
    "trusts ",
];
/// Of an extension that the relay always offers; of STARTTLS where it offers none; of exchanges that the world of the
/// transcripts cannot have, or ends at another point than the relay.
const OTHER_FILES: [&str; 5] = [
    "parameters-off.smtp",
    "starttls-inside-tls.smtp",
    "auth-needs-tls.smtp",
    "auth-long-response.smtp",
    "auth-exchange-broken.smtp",
];

#[tokio::test(flavor = "multi_thread")]
async fn relay_svc_answers_as_the_transcripts_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts");
    let (mut playing, mut in_tls) = (JoinSet::new(), 0);
    for file in transcripts_below(&folder).unwrap() {
        let transcript = Transcript::read(&file).unwrap();
        let other = |fact: &linkmail_tests::transcript::Fact| {
            let is_other = |word: &&str| fact.text.starts_with(*word);
            // XLINKMAIL by login is what the relay offers.
            fact.text != "offer xlinkmail-by-login" && OTHER_WORLDS.iter().any(is_other)
        };
        let ours = !matches!(transcript.drives(), Drives::Client)
            && !OTHER_FILES.iter().any(|name| file.ends_with(name))
            && !transcript.is_pure()
            && !transcript.given.iter().any(other);
        if !ours {
            continue;
        }
        in_tls += usize::from(world::offers_tls(&transcript));
        if file.parent().unwrap().ends_with("smuggling") {
            for by_other_way in ways::by_other_ways(&transcript) {
                playing.spawn(async move { play(&by_other_way).await });
            }
        }
        playing.spawn(async move { play(&transcript).await });
    }
    let played = playing.len();
    let failures: Vec<String> = playing
        .join_all()
        .await
        .into_iter()
        .filter_map(Result::err)
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(played >= 155, "only {played} transcripts fit the relay");
    assert!(in_tls >= 6, "only {in_tls} of them offer TLS");
}

async fn play(transcript: &Transcript) -> Result<(), String> {
    let file = transcript.path.display();
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    let cancel = CancellationToken::new();
    let held = hold(transcript, &spool).await;
    let listener = world::listener(transcript, folder.path());
    let config = world::config(transcript, folder.path());
    let address = world::listen(&config, listener, spool.clone(), &cancel).await;
    let said = as_the_relay_says(&transcript.to_string());
    let adapted = Transcript::parse(&transcript.path, &said).unwrap();
    let handshake = Some(IDENTITY.connecting());
    let played =
        tokio::task::spawn_blocking(move || socket::play_server(&adapted, address, handshake))
            .await
            .unwrap();
    cancel.cancel();
    played.map_err(|failure| failure.to_string())?;

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
        Err(format!("{file}: released {released:?}, expected {asked:?}"))
    } else if same {
        Ok(())
    } else {
        Err(format!("{file}: stored {found:?}, expected {expected:?}"))
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
    let mut given = text.lines();
    let most = given.find_map(|line| line.strip_prefix("max_recipients "));
    let lines: Vec<String> = lines.collect();
    offers_of_the_relay(&lines, most.unwrap_or("1000")).join("\n") + "\n"
}

/// The relay passes on what senders ask for, and addresses in any script, takes priorities and times, tells how many
/// recipients it takes, and knows another relay by its login. It says so behind CHUNKING, STARTTLS and AUTH.
fn offers_of_the_relay(lines: &[String], most: &str) -> Vec<String> {
    let offered = |line: &String| {
        let rest = line.strip_prefix("S: 250")?;
        Some((rest.starts_with(' '), rest[1..].to_owned()))
    };
    let mut all = Vec::new();
    let mut waiting = Vec::<String>::new();
    let mut by_waits = false;
    let mut knows_client = false;
    for line in lines {
        knows_client = (knows_client || line.starts_with("S: 235")) && line != "!tls";
        let Some((is_last, offer)) = offered(line) else {
            all.push(line.clone());
            continue;
        };
        // It stands behind STARTTLS, if there is that.
        if by_waits && offer != "STARTTLS" {
            all.push("S: 250-DELIVERBY".to_owned());
            by_waits = false;
        }
        let words: &[&str] = match offer.split(' ').next() {
            Some("CHUNKING") => {
                waiting.push(format!("LIMITS RCPTMAX={most}"));
                waiting.extend(knows_client.then(|| "XLINKMAIL".to_owned()));
                by_waits = true;
                &["DSN", "SMTPUTF8", "MT-PRIORITY"]
            }
            Some("AUTH") if !waiting.is_empty() => {
                waiting.push("XLINKMAIL AUTH".to_owned());
                &[]
            }
            Some("STARTTLS") => &[],
            _ => {
                waiting.retain(|waits| *waits != offer);
                all.extend(waiting.drain(..).map(|offer| format!("S: 250-{offer}")));
                &[]
            }
        };
        let mut said = vec![offer];
        said.extend(words.iter().map(|word| (*word).to_owned()));
        if is_last {
            said.extend(std::mem::take(&mut by_waits).then(|| "DELIVERBY".to_owned()));
            said.append(&mut waiting);
        }
        let count = said.len();
        all.extend(said.into_iter().enumerate().map(|(n, offer)| {
            let mark = if is_last && n + 1 == count { ' ' } else { '-' };
            format!("S: 250{mark}{offer}")
        }));
    }
    all
}
