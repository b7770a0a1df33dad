//! A world for tests, in paused time: a relay with a line that comes and goes, people who are told, and a count of steps at
//! any of which everything can be killed.

mod people;
mod relay;
mod steps;

pub(crate) use people::People;
pub(crate) use relay::{BOUNCE_AFTER, World};
pub(crate) use steps::{Moment, Steps};
