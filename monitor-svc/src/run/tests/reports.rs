//! Reports that prove nothing, and those that do.

use super::*;
use crate::{
    judge::State,
    probe::{Fate, Token},
    verdict::Origin,
};

fn isp() -> Origin {
    Origin::Smtp(Some(LinkName::parse("isp").unwrap()))
}

/// A probe is out, and its bounce does not come by itself.
async fn awaited() -> (Scene, Process, String) {
    let mut monitor = monitor();
    monitor.thresholds.interval_unwell = 24 * 60 * MINUTE;
    let scene = Scene::new(monitor);
    scene.world.bounce_after(Duration::from_secs(1_000_000));
    let process = scene.start().await;
    scene.until(1.0).await;
    let sender = scene.world.reverse_path(0);
    (scene, process, sender)
}

#[tokio::test(start_paused = true)]
async fn what_is_forged_used_or_came_another_way_proves_nothing_and_is_counted() {
    let (scene, process, sender) = awaited().await;
    let forged = scene.monitors[0].reverse_path.address(Token::random());
    let bad = [
        (forged.as_str(), true, isp()),
        ("probe-@branch.example", true, isp()),
        ("somebody@branch.example", true, isp()),
        (&sender, false, isp()),
        (&sender, true, Origin::Smtp(None)),
        (&sender, true, Origin::Other),
    ];
    for (recipient, null_sender, origin) in bad {
        scene.world.report(recipient, null_sender, origin, "5.1.1");
    }
    scene.until(2.0).await;
    let standing = process.standing().await;
    assert_eq!(standing.state, State::Pending);
    // The one that is for nobody is for no monitor.
    assert_eq!(standing.rejected, 5);
    assert!(process.probes().await[0].is_open());
    assert_eq!(scene.world.unacknowledged(), 0);

    scene
        .world
        .report(&sender.to_uppercase(), true, isp(), "5.1.1");
    scene.until(3.0).await;
    let standing = process.standing().await;
    assert_eq!((standing.state, standing.rejected), (State::Proven, 5));
    let proof = standing.last_proof;

    // The same once more: a replay.
    scene.world.report(&sender, true, isp(), "5.1.1");
    scene.until(4.0).await;
    let standing = process.standing().await;
    assert_eq!((standing.rejected, standing.last_proof), (6, proof));
    assert_eq!(scene.world.unacknowledged(), 0);
}

/// Who can send mail here can write to any token: that must not fill the journal.
#[tokio::test(start_paused = true)]
async fn what_is_forged_leaves_the_journal_alone() {
    let (scene, process, sender) = awaited().await;
    let before = process.ledger.newest_revision().await.unwrap();
    for _ in 0..50 {
        let forged = scene.monitors[0].reverse_path.address(Token::random());
        scene.world.report(&forged, true, isp(), "5.1.1");
    }
    scene.until(2.0).await;
    assert_eq!(process.standing().await.rejected, 50);
    assert_eq!(process.ledger.newest_revision().await.unwrap(), before);
    // What is wrong with a report for a probe that was sent is worth an entry.
    scene.world.report(&sender, false, isp(), "5.1.1");
    scene.until(3.0).await;
    assert_eq!(process.standing().await.rejected, 51);
    assert_eq!(process.ledger.newest_revision().await.unwrap(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_the_smart_host_proves_the_way_out_alone() {
    let (scene, process, sender) = awaited().await;
    scene.world.report(&sender, true, Origin::Relay, "5.1.1");
    scene.until(2.0).await;
    let probe = process.probes().await.remove(0);
    assert_eq!((probe.fate, probe.proof), (Fate::Returned, Proof::Outbound));
    // That is not what this monitor wants.
    let standing = process.standing().await;
    assert_eq!(
        (standing.state, standing.last_proof),
        (State::Pending, None)
    );
}

#[tokio::test(start_paused = true)]
async fn the_way_out_is_enough_where_that_is_wanted() {
    let mut monitor = monitor();
    monitor.wanted = Proof::Outbound;
    let scene = Scene::new(monitor);
    scene.world.bounce_after(Duration::from_secs(1_000_000));
    let process = scene.start().await;
    scene.until(1.0).await;
    let sender = scene.world.reverse_path(0);
    scene.world.report(&sender, true, Origin::Relay, "5.1.1");
    scene.until(2.0).await;
    assert_eq!(process.standing().await.state, State::Proven);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_the_relay_gave_up_never_went_out() {
    let (scene, process, sender) = awaited().await;
    scene.world.report(&sender, true, Origin::Relay, "5.4.7");
    scene.until(2.0).await;
    let probe = process.probes().await.remove(0);
    assert_eq!((probe.fate, probe.proof), (Fate::Failed, Proof::None));
    assert!(probe.error.contains("gave it up"), "{}", probe.error);
    let standing = process.standing().await;
    assert_eq!((standing.state, standing.rejected), (State::Pending, 0));
}

#[tokio::test(start_paused = true)]
async fn a_smart_host_that_takes_no_mail_proves_nothing_and_is_named_as_the_error() {
    let mut monitor = monitor();
    monitor.wanted = Proof::Outbound;
    let scene = Scene::new(monitor);
    scene.world.bounce_after(Duration::from_secs(1_000_000));
    let process = scene.start().await;
    scene.until(1.0).await;
    let sender = scene.world.reverse_path(0);
    scene.world.report(&sender, true, Origin::Relay, "5.7.1");
    scene.until(2.0).await;
    let probe = process.probes().await.remove(0);
    assert_eq!((probe.fate, probe.proof), (Fate::Failed, Proof::None));
    assert!(probe.error.contains("5.7.1"), "{}", probe.error);
    assert_eq!(process.standing().await.state, State::Pending);
}

/// A report whose verdict was committed and not acknowledged comes again: it is the same one, and no replay.
#[tokio::test(start_paused = true)]
async fn a_report_that_comes_again_is_the_same_one() {
    let (scene, process, sender) = awaited().await;
    scene.world.unreachable(1.5, 2.5);
    scene.until(2.0).await;
    scene.world.report(&sender, true, isp(), "5.1.1");
    scene.until(2.1).await;
    assert_eq!(process.standing().await.state, State::Proven);
    assert_eq!(scene.world.unacknowledged(), 1);
    process.kill().await;
    let process = scene.start().await;
    scene.until(10.0).await;
    let standing = process.standing().await;
    assert_eq!((standing.state, standing.rejected), (State::Proven, 0));
    assert_eq!(scene.world.unacknowledged(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_probe_without_a_report_is_lost_after_seven_days_and_its_token_is_unknown() {
    let (scene, process, sender) = awaited().await;
    scene.until(7.1 * 1440.0).await;
    let probe = process.probes().await.remove(0);
    assert_eq!((probe.fate, probe.proof), (Fate::Lost, Proof::None));
    scene.world.report(&sender, true, isp(), "5.1.1");
    scene.until(7.1 * 1440.0 + 1.0).await;
    let standing = process.standing().await;
    assert_eq!((standing.state, standing.rejected), (State::Alerting, 1));
}
