//! Those who ask for a probe.

use super::*;
use crate::{
    ledger::RequestKey,
    names::RequestId,
    probe::{Fate, Probe},
    run::RunError,
    verdict::Origin,
};

const SECOND: Duration = Duration::from_secs(1);

/// The identity of a call.
fn key(scene: &Scene) -> RequestKey {
    RequestKey {
        id: RequestId::new(),
        monitor: scene.monitors[0].name.clone(),
    }
}

/// A call that owns what it needs.
fn ask(
    process: &Process,
    key: Option<&RequestKey>,
) -> impl Future<Output = Result<Probe, RunError>> + Send + 'static {
    let (desk, key) = (process.desk.clone(), key.cloned());
    let name = crate::names::MonitorName::parse("branch").unwrap();
    async move { desk.run(&name, key).await.unwrap() }
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
    let key = key(&scene);
    let first = ask(&process, Some(&key)).await.unwrap();
    assert_eq!(ask(&process, Some(&key)).await.unwrap().id, first.id);
    process.kill().await;
    let process = scene.start().await;
    scene.until(2.0).await;
    assert_eq!(ask(&process, Some(&key)).await.unwrap().id, first.id);
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

/// AIP-155. What the repeat is of is not what is being submitted.
#[tokio::test(start_paused = true)]
async fn a_repeat_gets_its_own_probe_at_once_while_another_one_is_submitted() {
    let scene = Scene::new(monitor());
    let process = scene.start().await;
    scene.until(1.0).await;
    let (first_key, second_key) = (key(&scene), key(&scene));
    let first = ask(&process, Some(&first_key)).await.unwrap();
    scene.until(2.0).await;
    scene.world.answer_after(30 * SECOND);
    let second = tokio::spawn(ask(&process, Some(&second_key)));
    tokio::time::sleep(SECOND).await;
    let repeat = tokio::time::timeout(SECOND, ask(&process, Some(&first_key)));
    let repeat = repeat.await.expect("no wait").unwrap();
    assert_eq!((repeat.id, repeat.fate), (first.id, Fate::Returned));
    // A repeat for the probe in hand waits for the relay's answer, too.
    let repeat = ask(&process, Some(&second_key)).await.unwrap();
    assert!(repeat.submitted.is_some());
    assert_ne!(repeat.id, first.id);
    assert_eq!(second.await.unwrap().unwrap().id, repeat.id);
    assert_eq!(scene.world.messages().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn who_asks_while_a_cycle_is_awaited_gets_the_probe_as_it_stands_or_a_further_one() {
    let scene = Scene::new(monitor());
    scene.world.be_busy(20 * MINUTE);
    let process = scene.start().await;
    // Between two looks at the cycle.
    scene.until(1.04).await;
    let awaited = ask(&process, None).await.unwrap();
    assert_eq!(awaited.cycle, "links/isp/cycles/0");
    assert_eq!(awaited.fate, Fate::Open);
    // Its report is there, and the end of the cycle is still awaited.
    let isp = Origin::Smtp(Some(LinkName::parse("isp").unwrap()));
    let sender = scene.world.reverse_path(0);
    scene.world.report(&sender, true, isp, "5.1.1");
    let closed = async || process.probes().await[0].fate == Fate::Returned;
    while !closed().await {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let further = ask(&process, None).await.unwrap();
    assert_ne!(further.id, awaited.id);
    assert_eq!(
        (further.fate, scene.world.messages().len()),
        (Fate::Open, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn so_many_wait_for_a_probe_and_their_identities_are_remembered_in_one_commit() {
    let scene = Scene::new(monitor());
    let steps = Steps::default();
    let process = scene.start_counted(steps.clone()).await.unwrap();
    scene.until(1.0).await;
    scene.world.answer_after(30 * SECOND);
    let keys: Vec<RequestKey> = (0..70).map(|_| key(&scene)).collect();
    let calls = keys
        .iter()
        .map(|key| tokio::spawn(ask(&process, Some(key))));
    let mut calls: Vec<_> = calls.collect();
    tokio::time::sleep(SECOND).await;
    let refused = calls.split_off(64);
    for call in refused {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, RunError::TooMany), "{error}");
    }
    // Who has gone makes room, and nothing of him is remembered.
    for call in calls.drain(..32) {
        call.abort();
    }
    tokio::time::sleep(SECOND).await;
    let one_more = tokio::spawn(ask(&process, None));
    let before = steps.count();
    let one = one_more.await.unwrap().unwrap();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().id, one.id);
    }
    // The submission is recorded, and the identities are.
    assert_eq!(steps.count() - before, 2);
    let known = async |key: &RequestKey| process.ledger.requested(key.clone()).await.unwrap();
    // The first one began it, and was recorded with it.
    for (number, key) in keys.iter().enumerate() {
        let expected = (number == 0 || (32..64).contains(&number)).then_some(one.id);
        assert_eq!(known(key).await, expected, "{number}");
    }
}
