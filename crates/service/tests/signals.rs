//! The signals that end a daemon; alone in its process, since signals reach all of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use linkmail_service::shutdown;
use rustix::process::{Signal, getpid, kill_process};

#[tokio::test]
async fn terminate_and_interrupt_cancel() {
    for signal in [Signal::TERM, Signal::INT] {
        let token = shutdown::signals().unwrap();
        assert!(!token.is_cancelled());
        kill_process(getpid(), signal).unwrap();
        let cancelled = tokio::time::timeout(Duration::from_secs(5), token.cancelled());
        cancelled.await.expect("the signal arrives");
    }
}
