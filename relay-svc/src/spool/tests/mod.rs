//! The spool on both engines: in a folder on disk, and in a database of PostgreSQL.

use std::{sync::Arc, time::Duration};

use super::*;
use linkmail_smtp::{
    DeliverBy, Mailbox, PeerId, Priority, ReversePath,
    dsn::{EnvelopeId, Notify, OriginalRecipient, Ret},
};
use place::{Place, change, change_octets, on_both};

use crate::{
    clock::Stamp,
    cycle::{Outcome, Record, Trigger},
    names::{HostPort, LinkName, MessageId, NextHop, Node, NodeScope, RequestId},
    queue::Settlement,
    route::{Hold, Pattern, Routes, Target},
};

mod fate;
mod feed;
mod folder;
mod held;
mod late;
mod operator;
pub(super) mod place;
mod replicas;
mod reports;
mod shared;
mod sizes;

const NOW: Stamp = Stamp(1_795_458_600_000);

fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse(text.as_bytes()).unwrap()
}

fn message(recipients: &[(&str, &str)]) -> NewMessage {
    let recipients = recipients.iter().map(|(address, hop)| {
        let address = mailbox(address);
        let hop = match *hop {
            "hold" => NextHop::Hold(Node::of(address.domain())),
            hop => NextHop::parse(hop).unwrap(),
        };
        NewRecipient {
            address,
            hop,
            wish: RecipientWish::default(),
        }
    });
    NewMessage {
        wish: MessageWish::default(),
        utf8_header: false,
        handover: None,
        id: MessageId::new(),
        reverse_path: ReversePath::Mailbox(mailbox("a@branch.example")),
        recipients: recipients.collect(),
        origin: Origin::Smtp,
        link: None,
        cycle: None,
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
        accepted: NOW,
        request: None,
    }
}

async fn draft(spool: &Spool, content: &[u8]) -> Draft {
    let mut draft = spool.draft();
    for piece in content.chunks(10_000) {
        draft.write(piece).await.unwrap();
    }
    draft
}

async fn accept(spool: &Spool, content: &[u8], message: NewMessage) -> Accepted {
    spool
        .accept(draft(spool, content).await, message)
        .await
        .unwrap()
}

async fn read(spool: &Spool, seq: i64) -> Vec<u8> {
    spool
        .body(seq)
        .await
        .unwrap()
        .head(usize::MAX)
        .await
        .unwrap()
}

fn delivered(idx: i64) -> Settled {
    Settled {
        idx,
        settlement: Settlement::Delivered {
            reply: "250 OK".into(),
        },
        by: Arc::default(),
    }
}

async fn the_journal_gives_every_change_after_a_revision_and_says_when_it_cannot(place: Place) {
    let spool = place.open().await;
    let link = LinkName::parse("isp").unwrap();
    let mut record = Record::begin(link.clone(), Trigger::Api, NOW);
    spool.begin_cycle(&record, None, None).await.unwrap();
    record.finish(
        Outcome::Complete,
        String::new(),
        NOW.plus(Duration::from_secs(9)),
    );
    spool.save_cycle(&record, "ended", NOW).await.unwrap();
    let Since::Entries(entries) = spool.journal(Some(link.clone()), 0, 9).await.unwrap() else {
        panic!()
    };
    let told: Vec<_> = entries
        .iter()
        .map(|e| (e.revision, e.event.as_str(), e.record.outcome))
        .collect();
    assert_eq!(
        told,
        [
            (1, "started by api", None),
            (2, "ended", Some(Outcome::Complete))
        ]
    );
    assert_eq!(spool.last_complete(link.clone()).await.unwrap(), record.end);
    assert!(spool.open_cycles().await.unwrap().is_empty());
    change(&spool, "DELETE FROM journal WHERE revision = 1").await;
    assert!(matches!(
        spool.journal(None, 0, 9).await.unwrap(),
        Since::Compacted { oldest: 1 }
    ));
    let Since::Entries(entries) = spool.journal(None, 1, 9).await.unwrap() else {
        panic!()
    };
    assert_eq!(entries.len(), 1);
}

on_both![the_journal_gives_every_change_after_a_revision_and_says_when_it_cannot];
