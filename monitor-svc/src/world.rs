//! A simulated world.

/// Counts steps.
#[derive(Clone)]
pub(crate) struct Steps;

impl Steps {
    pub(crate) async fn before(&self) {}
    pub(crate) async fn after(&self) {}
}
