//! Errors of the services, and what the ledger's errors are on the wire.

use linkmail_service::errors::ErrorDomain;
use tonic::{Code, Status};

use crate::{ledger::LedgerError, run::RunError};

/// Of every error of this service.
pub(super) const DOMAIN: ErrorDomain = ErrorDomain("monitor.linkmail");

/// What the ledger said.
pub(super) fn of_ledger(failed: &LedgerError) -> Status {
    match failed {
        LedgerError::Full => DOMAIN.error(
            Code::ResourceExhausted,
            "LEDGER_FULL",
            "the disk of the ledger is full",
            &[],
        ),
        LedgerError::Request(conflict) => DOMAIN.error(
            Code::AlreadyExists,
            "REQUEST_ID_REUSED",
            conflict.to_string(),
            &[],
        ),
        _ => {
            tracing::error!(error = %failed, "ledger");
            DOMAIN.unavailable("LEDGER_UNAVAILABLE", "the ledger cannot be used now")
        }
    }
}

/// Why no probe ran.
pub(super) fn of_run(failed: &RunError) -> Status {
    match failed {
        RunError::Ledger(error) => of_ledger(error),
        RunError::TooMany => DOMAIN.error(
            Code::ResourceExhausted,
            "TOO_MANY_CALLS",
            failed.to_string(),
            &[],
        ),
        RunError::Stopping => DOMAIN.unavailable("SHUTTING_DOWN", "the monitor is stopping"),
    }
}
