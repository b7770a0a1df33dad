//! A relay that is away, refuses, is busy, or sends mail elsewhere; and those who ask for a probe.

use super::*;
use crate::{
    ledger::RequestKey,
    names::RequestId,
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
async fn who_asks_gets_the_probe_that_waits_or_a_further_one() {
    let scene = Scene::new(monitor());
    scene.world.line_down(0.0, 3.0);
    let process = scene.start().await;
    scene.until(1.0).await;
    let first = process.run_probe().await;
    assert_eq!((first.runs, scene.world.messages().len()), (2, 1));
    scene.until(3.0).await;
    let again = process.run_probe().await;
    assert_eq!((again.id, again.runs), (first.id, 3));
    scene.until(4.0).await;
    let further = process.run_probe().await;
    assert_ne!(further.id, first.id);
    assert!(further.submitted.is_some());
    assert_eq!(scene.world.messages().len(), 2);
    // The next one by the clock is due an interval after the last run.
    scene.until(18.9).await;
    assert_eq!(scene.world.messages().len(), 2);
    scene.until(19.1).await;
    assert_eq!(scene.world.messages().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_repeated_gets_the_same_probe_also_after_a_restart() {
    let scene = Scene::new(monitor());
    let process = scene.start().await;
    scene.until(1.0).await;
    let name = scene.monitors[0].name.clone();
    let key = RequestKey {
        id: RequestId::new(),
        monitor: name.clone(),
    };
    let ask = |process: &Process| {
        let (desk, name, key) = (process.desk.clone(), name.clone(), key.clone());
        async move { desk.run(&name, Some(key)).await.unwrap() }
    };
    let first = ask(&process).await.unwrap();
    assert_eq!(ask(&process).await.unwrap().id, first.id);
    process.kill().await;
    let process = scene.start().await;
    scene.until(2.0).await;
    assert_eq!(ask(&process).await.unwrap().id, first.id);
    assert_eq!(scene.world.messages().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_asks_while_the_relay_is_away_hears_why() {
    let scene = Scene::new(monitor());
    scene.world.unreachable(0.0, 60.0);
    let process = scene.start().await;
    scene.until(1.0).await;
    let probe = process.run_probe().await;
    assert!(probe.is_open());
    assert!(probe.error.contains("unreachable"), "{}", probe.error);
}

#[tokio::test(start_paused = true)]
async fn who_asks_at_the_same_time_gets_the_same_probe() {
    let scene = Scene::new(monitor());
    let process = scene.start().await;
    scene.until(1.0).await;
    let (one, two) = tokio::join!(process.run_probe(), process.run_probe());
    assert_eq!(one.id, two.id);
    assert_eq!(scene.world.messages().len(), 2, "the first one, and this");
}
