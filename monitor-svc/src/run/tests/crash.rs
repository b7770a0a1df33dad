//! One scenario, killed at each of its steps: nothing of its account changes.

use super::*;
use crate::{verdict::Origin, world::Moment};

/// What is left of a scenario: nothing in it is random, and nothing depends on how often the process was started.
#[derive(Debug, PartialEq)]
struct Account {
    /// What people were told, in order, without identities.
    notices: Vec<String>,
    /// When each probe was made, its fate, its proof, its runs, its milliseconds under way.
    probes: Vec<String>,
    /// When the relay accepted each message.
    messages: Vec<f64>,
    /// When each cycle began.
    cycles: Vec<f64>,
    /// How the monitor stands.
    standing: String,
}

fn scene() -> Scene {
    let mut monitor = monitor();
    monitor.thresholds.interval_unwell = 10 * MINUTE;
    let scene = Scene::new(monitor);
    scene.world.line_down(10.0, 68.0);
    scene.people.deafen(scene.world.at(31.0));
    // Another cycle is running when the first probe wants one.
    scene.world.be_busy(Duration::from_secs(62));
    let world = scene.world.clone();
    tokio::spawn(async move {
        world.clock.sleep_until(world.at(3.0)).await;
        let over = || Origin::Smtp(Some(LinkName::parse("isp").unwrap()));
        world.report("probe-forged@branch.example", true, over(), "5.1.1");
        // The first probe has its report: this is a replay.
        world.report(&world.reverse_path(0), true, over(), "5.1.1");
    });
    scene
}

/// The last minute of the scenario, by which all is quiet.
const END: f64 = 74.0;

async fn account(scene: &Scene, process: &Process) -> Account {
    let notices = scene.people.notices().into_iter().map(|mut notice| {
        let reason = notice["reason"].as_str().unwrap();
        let words = reason.split(' ').filter(|word| word.len() != 36);
        notice["reason"] = words.collect::<Vec<_>>().join(" ").into();
        notice["id"] = Value::Null;
        notice["probe"] = notice["probe"].is_string().into();
        notice.to_string()
    });
    let probes = process.probes().await.into_iter().map(|probe| {
        format!(
            "{} {:?} {:?} {} {:?} {:?} {}",
            scene.minutes(probe.created),
            probe.fate,
            probe.proof,
            probe.runs,
            probe.round_trip_ms,
            probe.step,
            probe.error
        )
    });
    let standing = process.standing().await;
    Account {
        notices: notices.collect(),
        probes: probes.collect(),
        messages: scene
            .world
            .messages()
            .into_iter()
            .map(|at| scene.minutes(at))
            .collect(),
        cycles: scene
            .world
            .cycles()
            .into_iter()
            .map(|at| scene.minutes(at))
            .collect(),
        standing: format!(
            "{:?} {:?} {:?} {} {:?}",
            standing.state,
            scene.minutes(standing.state_time),
            standing.last_run.map(|at| scene.minutes(at)),
            standing.rejected,
            standing
                .last_proof
                .map(|proven| (scene.minutes(proven.time), proven.round_trip_ms)),
        ),
    }
}

/// Runs the scenario by a process that may die, and by another one after it. Gives the account, and the steps that the
/// first one came to.
async fn play(steps: Steps) -> (Account, u64) {
    let scene = scene();
    let mut process = None;
    let dying = async {
        process = scene.start_counted(steps.clone()).await;
        scene.until(END).await;
    };
    tokio::select! {
        () = dying => {}
        () = steps.death() => {}
    }
    if let Some(process) = process {
        process.kill().await;
    }
    let process = scene.start().await;
    scene.until(END + 0.5).await;
    assert_eq!(scene.world.unacknowledged(), 0);
    assert!(process.ledger.waiting().await.unwrap().is_empty());
    (account(&scene, &process).await, steps.count())
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_step_and_started_again_the_account_is_the_same() {
    let (undisturbed, steps) = play(Steps::default()).await;
    assert_eq!(undisturbed.notices.len(), 4, "{undisturbed:#?}");
    assert_eq!(undisturbed.messages.len(), 2, "{undisturbed:#?}");
    assert!(undisturbed.standing.contains(" 2 "), "{undisturbed:#?}");
    assert!(steps > 90, "{steps}");
    for step in 1..=steps {
        for moment in [Moment::Before, Moment::After] {
            let (account, reached) = play(Steps::dying_at(step, moment)).await;
            assert!(reached >= step);
            assert_eq!(account, undisturbed, "killed {moment:?} step {step}");
        }
    }
}
