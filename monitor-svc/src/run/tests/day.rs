//! Days.

use super::*;
use crate::{
    judge::State,
    names::MonitorName,
    probe::{Fate, Pattern},
    world::BOUNCE_AFTER,
};

#[tokio::test(start_paused = true)]
async fn a_day_with_the_line_down_for_three_hours() {
    let scene = Scene::new(monitor());
    scene.world.line_down(721.0, 901.0);
    let process = scene.start().await;
    scene.until(24.0 * 60.0 - 1.0).await;

    let notices = scene.people.notices();
    let expected = [
        ("PENDING", "PROVEN"),
        ("PROVEN", "WARNING"),
        ("WARNING", "ALERTING"),
        ("ALERTING", "PROVEN"),
    ];
    assert_eq!(states(&notices), expected);
    // The proof before the outage is of 12:00:10; the first cycle after it is asked for at 15:05.
    let outage = 185.0 * 60.0;
    assert_eq!(notices[3]["outage_seconds"], outage);
    assert_eq!(notices[0]["outage_seconds"], Value::Null);
    assert_eq!(notices[1]["proof_age_seconds"], 1800.0);
    assert_eq!(notices[2]["proof_age_seconds"], 3600.0);
    assert_eq!(scene.people.attempts().len(), 4, "one page only");

    // Every 15 minutes while well, every 5 from the warning on, which came at 12:30:10.
    let runs: Vec<f64> = scene
        .world
        .cycles()
        .iter()
        .map(|at| scene.minutes(*at))
        .collect();
    let well = (0..=50).map(|n| f64::from(n) * 15.0);
    let unwell = (0..=30).map(|n| 755.0 + f64::from(n) * 5.0);
    let again = (0..=34).map(|n| 920.0 + f64::from(n) * 15.0);
    let expected: Vec<f64> = well.chain(unwell).chain(again).collect();
    assert_eq!(runs, expected);

    // One message waited through the outage, and ran 32 times more.
    let probes = process.probes().await;
    assert_eq!(scene.world.messages().len(), probes.len());
    let late: Vec<_> = probes.iter().filter(|p| p.fate == Fate::Late).collect();
    assert_eq!(late.len(), 1);
    assert_eq!((scene.minutes(late[0].created), late[0].runs), (735.0, 33));
    assert_eq!(late[0].round_trip_ms, Some((170 * 60 + 10) * 1000));
    assert!(probes.iter().all(|p| p.proof == Proof::RoundTrip));
    assert_eq!(process.standing().await.state, State::Proven);
    assert_eq!(scene.world.unacknowledged(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_report_two_hours_late_closes_the_outage_with_its_true_round_trip() {
    let scene = Scene::new(monitor());
    scene.world.bounce_after(Duration::from_secs(2 * 3600));
    let process = scene.start().await;
    scene.until(121.0).await;
    let first = process.probes().await.remove(0);
    assert_eq!((first.fate, first.proof), (Fate::Late, Proof::RoundTrip));
    assert_eq!(first.round_trip_ms, Some(2 * 3600 * 1000));
    let notices = scene.people.notices();
    let expected = [
        ("PENDING", "WARNING"),
        ("WARNING", "ALERTING"),
        ("ALERTING", "PROVEN"),
    ];
    assert_eq!(states(&notices), expected);
    assert_eq!(notices[2]["round_trip_seconds"], 7200.0);
    assert_eq!(notices[2]["outage_seconds"], 7200.0);
    assert!(
        notices[2]["probe"]
            .as_str()
            .unwrap()
            .ends_with(&first.id.to_string())
    );
}

#[tokio::test(start_paused = true)]
async fn without_dialling_a_probe_waits_for_the_cycles_of_others() {
    let mut monitor = monitor();
    monitor.dial = false;
    let scene = Scene::new(monitor);
    let process = scene.start().await;
    scene.until(16.0).await;
    assert!(scene.world.cycles().is_empty());
    assert_eq!(scene.world.messages().len(), 1, "the first one still waits");
    assert_eq!(process.probes().await[0].runs, 2);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_twice_and_everybody_in_the_end() {
    let scene = Scene::new(monitor());
    scene.world.line_down(1.0, 100.0);
    scene.people.deafen(scene.world.at(70.0));
    let process = scene.start().await;
    scene.until(69.0).await;
    assert!(scene.people.notices().is_empty());
    let oldest = process.gauges.oldest_age(scene.world.at(69.0));
    assert_eq!(oldest, 69 * MINUTE - BOUNCE_AFTER);
    // Twice as long each time, up to five minutes.
    let attempts = scene.people.attempts();
    let waits: Vec<u64> = attempts
        .windows(2)
        .map(|two| two[1].since(two[0]).as_secs())
        .collect();
    assert_eq!(waits[..10], [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    scene.until(76.0).await;
    let expected = [
        ("PENDING", "PROVEN"),
        ("PROVEN", "WARNING"),
        ("WARNING", "ALERTING"),
    ];
    assert_eq!(states(&scene.people.notices()), expected, "in order");
    let oldest = process.gauges.oldest_age(scene.world.at(76.0));
    assert_eq!(oldest, Duration::ZERO);
    let at = scene.people.notices()[0]["time"]
        .as_str()
        .unwrap()
        .to_owned();
    let proven = START.plus(BOUNCE_AFTER).system_time();
    assert_eq!(at, prost_types::Timestamp::from(proven).to_string());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_wants_to_hear_of_one_monitor_does_not_hold_up_another() {
    let mut other = monitor();
    other.name = MonitorName::parse("other").unwrap();
    other.reverse_path = Pattern::parse("other-*@branch.example").unwrap();
    let scene = Scene::of(vec![monitor(), other]);
    scene.people.ignore("branch");
    let process = scene.start().await;
    scene.until(2.0).await;
    let notices = scene.people.notices();
    assert_eq!(states(&notices), [("PENDING", "PROVEN")]);
    assert_eq!(notices[0]["monitor"], "other");
    let waiting = process.ledger.waiting().await.unwrap();
    assert_eq!((waiting.len(), waiting[0].monitor.as_str()), (1, "branch"));
}

#[tokio::test(start_paused = true)]
async fn a_notice_that_nobody_took_for_seven_days_is_dropped() {
    let scene = Scene::new(monitor());
    scene.people.deafen(scene.world.at(8.0 * 1440.0));
    let process = scene.start().await;
    scene.until(6.9 * 1440.0).await;
    assert_eq!(process.ledger.waiting().await.unwrap().len(), 1);
    scene.until(7.1 * 1440.0).await;
    assert!(process.ledger.waiting().await.unwrap().is_empty());
    assert!(scene.people.notices().is_empty());
}

/// A monitor that did not run for longer than that, or whose clock was set forward, has notices that nobody could take.
#[tokio::test(start_paused = true)]
async fn an_old_notice_is_tried_before_it_is_dropped() {
    let scene = Scene::new(monitor());
    scene.people.deafen(scene.world.at(1440.0));
    let process = scene.start().await;
    scene.until(1.0).await;
    process.kill().await;
    scene.until(9.0 * 1440.0).await;
    let process = scene.start().await;
    scene.until(9.0 * 1440.0 + 1.0).await;
    assert_eq!(
        states(&scene.people.notices())[0],
        ("PENDING", "PROVEN"),
        "of nine days ago"
    );
    assert!(process.ledger.waiting().await.unwrap().is_empty());
}

/// The state outlives the process: what was proven counts on, and the next probe is due when it was.
#[tokio::test(start_paused = true)]
async fn a_restart_changes_nothing() {
    let scene = Scene::new(monitor());
    let process = scene.start().await;
    scene.until(5.0).await;
    process.kill().await;
    let process = scene.start().await;
    scene.until(14.0).await;
    assert_eq!(scene.world.messages().len(), 1);
    assert_eq!(process.standing().await.state, State::Proven);
    scene.until(16.0).await;
    assert_eq!(scene.world.messages().len(), 2);
    assert_eq!(states(&scene.people.notices()), [("PENDING", "PROVEN")]);
}
