//! A relay that is away, refuses, is busy, or sends mail elsewhere.

use super::*;
use crate::{
    probe::{Fate, Step},
    relay::RelayError,
};

#[tokio::test(start_paused = true)]
async fn a_relay_that_is_away_gets_one_message_when_it_is_back() {
    let scene = Scene::new(monitor());
    scene.world.unreachable(0.0, 7.0);
    let process = scene.start().await;
    scene.until(6.0).await;
    let probe = process.probes().await.remove(0);
    assert_eq!((probe.fate, probe.step), (Fate::Open, Step::Submit));
    assert!(probe.error.contains("unreachable"));
    scene.until(14.0).await;
    let probes = process.probes().await;
    assert_eq!((probes.len(), scene.world.messages().len()), (1, 1));
    assert_eq!(probes[0].fate, Fate::Returned);
    assert_eq!((probes[0].runs, probes[0].error.as_str()), (1, ""));
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_refuses_makes_a_probe_fail_until_the_next_one() {
    let scene = Scene::new(monitor());
    let error = RelayError::Refused("relay: recipients[0]: relaying denied".into());
    scene.world.refuse(Some(error));
    let process = scene.start().await;
    scene.until(14.0).await;
    let probe = process.probes().await.remove(0);
    assert_eq!(probe.fate, Fate::Failed);
    assert!(probe.error.contains("relaying denied"), "{}", probe.error);
    scene.world.refuse(None);
    scene.until(16.0).await;
    let probes = process.probes().await;
    assert_eq!((probes.len(), probes[1].fate), (2, Fate::Returned));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_does_not_go_over_the_link_fails() {
    let scene = Scene::new(monitor());
    scene.world.route("smtp://mail.branch.example:25");
    let process = scene.start().await;
    scene.until(1.0).await;
    let probe = process.probes().await.remove(0);
    assert_eq!(probe.fate, Fate::Failed);
    for words in ["smtp://mail.branch.example:25", "link:isp"] {
        assert!(probe.error.contains(words), "{}", probe.error);
    }
    assert!(scene.world.cycles().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cycle_that_is_running_is_waited_for_and_one_asked_for_again() {
    let scene = Scene::new(monitor());
    scene.world.be_busy(Duration::from_secs(62));
    let process = scene.start().await;
    scene.until(1.0).await;
    let probe = process.probes().await.remove(0);
    assert_eq!((probe.fate, probe.step), (Fate::Open, Step::Cycle));
    assert_eq!(probe.cycle, "links/isp/cycles/0");
    scene.until(2.0).await;
    let probe = process.probes().await.remove(0);
    assert_eq!((probe.fate, probe.runs), (Fate::Returned, 1));
    assert_eq!(probe.cycle, "links/isp/cycles/1");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_stays_busy_ends_the_run_and_not_the_probe() {
    let scene = Scene::new(monitor());
    scene.world.be_busy(Duration::from_secs(20 * 60));
    let process = scene.start().await;
    scene.until(14.0).await;
    let probe = process.probes().await.remove(0);
    assert_eq!((probe.fate, probe.step), (Fate::Open, Step::Cycle));
    scene.until(15.1).await;
    let probe = process.probes().await.remove(0);
    assert_eq!((probe.fate, probe.runs), (Fate::Open, 2));
    scene.until(21.0).await;
    let probe = process.probes().await.remove(0);
    assert_eq!((probe.fate, probe.runs), (Fate::Returned, 2));
    assert_eq!(scene.world.messages().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_for_another_way_is_the_only_one() {
    let mut monitor = monitor();
    monitor.thresholds.interval_unwell = 15 * MINUTE;
    let scene = Scene::new(monitor);
    scene.world.route("smtp://mail.branch.example:25");
    let process = scene.start().await;
    for (minutes, runs) in [(1.0, 1), (16.0, 2), (31.0, 3)] {
        scene.until(minutes).await;
        let probes = process.probes().await;
        assert_eq!((probes.len(), scene.world.messages().len()), (1, 1));
        assert_eq!((probes[0].fate, probes[0].runs), (Fate::Failed, runs));
        assert!(probes[0].submitted.is_some());
        assert!(probes[0].error.contains("link:isp"), "{}", probes[0].error);
    }
    let asked = process.run_probe().await;
    assert_eq!((asked.fate, asked.runs), (Fate::Failed, 4));
    assert!(scene.world.cycles().is_empty());
    // Somebody mends the routes.
    scene.world.route("link:isp");
    scene.until(47.0).await;
    let probes = process.probes().await;
    assert_eq!((probes.len(), scene.world.messages().len()), (1, 1));
    assert_eq!((probes[0].fate, probes[0].runs), (Fate::Late, 5));
    assert_eq!(probes[0].proof, Proof::RoundTrip);
    assert_eq!(probes[0].error, "");
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_cannot_run_a_cycle_is_asked_less_and_less() {
    let scene = Scene::new(monitor());
    let error = RelayError::NotNow("relay: too many cycles".into());
    scene.world.refuse_cycles(Some(error));
    let process = scene.start().await;
    // At once, and after 10, 20, 40, 80, 160 and 300 seconds.
    scene.until(10.5).await;
    assert_eq!(scene.world.cycles_asked(), 7);
    scene.world.refuse_cycles(None);
    scene.until(16.0).await;
    // The next run was due before the next try.
    let probe = process.probes().await.remove(0);
    assert_eq!((probe.fate, probe.runs), (Fate::Returned, 2));
}

/// A line that is down for longer than a probe without a report is awaited, also while the monitor did not run.
#[tokio::test(start_paused = true)]
async fn a_probe_that_waits_in_the_relay_is_never_lost() {
    const DAY: f64 = 1440.0;
    let mut monitor = monitor();
    monitor.thresholds.interval_unwell = 60 * MINUTE;
    let scene = Scene::new(monitor);
    scene.world.line_down(0.0, 17.5 * DAY);
    let process = scene.start().await;
    scene.until(8.0 * DAY).await;
    process.kill().await;
    scene.until(16.5 * DAY).await;
    let process = scene.start().await;
    scene.until(17.0 * DAY).await;
    let probes = process.probes().await;
    assert_eq!((probes.len(), probes[0].fate), (1, Fate::Open));
    scene.until(17.6 * DAY).await;
    let probes = process.probes().await;
    assert_eq!(
        (probes[0].fate, probes[0].proof),
        (Fate::Late, Proof::RoundTrip)
    );
    let sent = scene.world.messages();
    assert!(
        scene.minutes(sent[1]) > 17.5 * DAY,
        "one message until then"
    );
}
