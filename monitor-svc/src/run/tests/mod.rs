//! The parts together, in a simulated world and paused time. A day takes a second.

use std::time::Duration;

use serde_json::Value;

use crate::{
    names::LinkName,
    probe::Proof,
    world::{Process, START, Scene, Steps, monitor},
};

mod asking;
mod crash;
mod day;
mod relay;
mod reports;
mod traces;

const MINUTE: Duration = Duration::from_secs(60);
/// The states that people were told of.
fn states(notices: &[Value]) -> Vec<(&str, &str)> {
    notices
        .iter()
        .map(|notice| {
            (
                notice["previous_state"].as_str().unwrap(),
                notice["state"].as_str().unwrap(),
            )
        })
        .collect()
}
