//! The services without a connection, on a spool of their own.

use std::{path::Path, time::Duration};

use linkmail_proto::relay::v1::{
    WatchCyclesRequest, cycle_service_server::CycleService, watch_cycles_response::Kind,
};
use tokio::time::{advance, timeout};
use tokio_stream::StreamExt;
use tonic::{Code, Request};

use super::*;
use crate::{
    clock::Stamp,
    config,
    cycle::{Record, Trigger},
    names::LinkName,
    outbound::{Forwarder, InHand, Unrecorded},
};

const CONFIG: &str = r#"
hostname = "relay.branch.example"
state = "STATE"
[[listener]]
address = "127.0.0.1:2525"
[[route]]
domains = ["*"]
to = "link:busy"
[[link]]
name = "busy"
smart_host = "smtp://127.0.0.1:9"
dial = { driver = "implicit" }
[[link]]
name = "quiet"
smart_host = "smtp://127.0.0.1:9"
dial = { driver = "implicit" }
"#;

fn services(folder: &Path) -> Services {
    let file = folder.join("relay.toml");
    let text = CONFIG.replace("STATE", &folder.display().to_string());
    std::fs::write(&file, text).unwrap();
    let config = config::load(&file).unwrap();
    let spool = Spool::open(folder).unwrap();
    let forwarder = Forwarder {
        spool: spool.clone(),
        policy: Arc::clone(&config.policy),
        retry: config.retry,
        late: config.late,
        hostname: Arc::clone(&config.hostname),
        postmaster: config.postmaster.clone(),
        flight: linkmail_smtp::FlightLimits::default(),
        hosts: config.hosts.clone(),
        instruments: Instruments::default(),
        unrecorded: Unrecorded::default(),
        in_hand: InHand::default(),
    };
    let operator = Operator::new(forwarder, []);
    Services {
        spool,
        desk: Desk::new(&config.links).0,
        operator,
        policy: config.policy,
        relay_from: config.grpc.relay_from,
        message_size: config.limits.message_size,
        recipients: config.limits.recipients,
        hostname: config.hostname,
        instruments: Instruments::default(),
        shutdown: CancellationToken::new(),
    }
}

fn watch(since_revision: Option<i64>) -> Request<WatchCyclesRequest> {
    Request::new(WatchCyclesRequest {
        parent: "links/quiet".into(),
        since_revision,
    })
}

/// Writes a change of the busy link, so many times, one each ten seconds of a clock that only this moves.
async fn be_busy(spool: &Spool, times: usize) {
    let (release, held) = std::sync::mpsc::channel::<()>();
    // The paused clock does not run ahead of the spool's writer while a blocking task is there.
    let hold = tokio::task::spawn_blocking(move || held.recv());
    let link = LinkName::parse("busy").unwrap();
    for _ in 0..times {
        let record = Record::begin(link.clone(), Trigger::Api, Stamp::now());
        spool.begin_cycle(&record, None, None).await.unwrap();
        advance(Duration::from_secs(10)).await;
    }
    drop(release);
    assert!(hold.await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn who_watches_a_quiet_link_hears_where_the_journal_stands_however_busy_the_others_are() {
    let folder = tempfile::tempdir().unwrap();
    let services = services(folder.path());
    let cycles = cycles::Cycles::new(services.clone());
    let answer = cycles.watch_cycles(watch(None)).await.unwrap();
    let mut stream = answer.into_inner();
    be_busy(&services.spool, 12).await;
    let where_it_stands = async {
        loop {
            let answer = stream.next().await.unwrap().unwrap();
            assert_eq!(answer.kind(), Kind::Bookmark);
            if answer.revision >= 9 {
                break;
            }
        }
    };
    // Nothing has been quiet for 30 seconds by then.
    let heard = timeout(Duration::from_secs(15), where_it_stands).await;
    assert!(heard.is_ok(), "no bookmark in time");
}

#[tokio::test(start_paused = true)]
async fn a_revision_of_a_journal_that_is_gone_is_told_and_a_negative_one_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let services = services(folder.path());
    be_busy(&services.spool, 1).await;
    let cycles = cycles::Cycles::new(services);
    let status = cycles.watch_cycles(watch(Some(-1))).await.err().unwrap();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status.message().starts_with("since_revision: "),
        "{status:?}"
    );
    let answer = cycles.watch_cycles(watch(Some(i64::MAX))).await.unwrap();
    let first = answer.into_inner().next().await.unwrap();
    assert_eq!(first.unwrap_err().code(), Code::OutOfRange);
}
