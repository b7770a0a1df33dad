//! Errors of the services, and what the spool's errors are on the wire.

use linkmail_service::errors::ErrorDomain;
use tonic::{Code, Status};

use crate::spool::SpoolError;

/// Of every error of this service.
pub(super) const DOMAIN: ErrorDomain = ErrorDomain("relay.linkmail");

/// An error with its reason and the words of its sentence that vary.
pub(super) fn error(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    metadata: &[(&str, &str)],
) -> Status {
    DOMAIN.error(code, reason, message, metadata)
}

/// An argument is wrong.
pub(super) fn invalid(field: &str, what: impl Into<String>) -> Status {
    DOMAIN.invalid(field, what)
}

/// An argument is wrong for a reason with a name of its own.
pub(super) fn invalid_for(reason: &str, field: &str, what: impl Into<String>) -> Status {
    DOMAIN.invalid_for(reason, field, what)
}

/// Something named does not exist.
pub(super) fn not_found(reason: &str, name: &str) -> Status {
    DOMAIN.not_found(reason, name)
}

/// Come again in a moment.
pub(super) fn unavailable(reason: &str, message: &str) -> Status {
    DOMAIN.unavailable(reason, message)
}

/// What the spool said.
pub(super) fn of_spool(failed: &SpoolError) -> Status {
    match failed {
        SpoolError::Full => error(
            Code::ResourceExhausted,
            "SPOOL_FULL",
            "the disk of the spool is full",
            &[],
        ),
        SpoolError::Request(conflict) => error(
            Code::AlreadyExists,
            "REQUEST_ID_REUSED",
            conflict.to_string(),
            &[],
        ),
        SpoolError::Damaged(_) => {
            tracing::error!(error = %failed, "damaged row");
            error(Code::DataLoss, "SPOOL_DAMAGED", failed.to_string(), &[])
        }
        _ => {
            tracing::error!(error = %failed, "spool");
            unavailable("SPOOL_UNAVAILABLE", "the spool cannot be used now")
        }
    }
}
