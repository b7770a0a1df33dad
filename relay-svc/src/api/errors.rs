//! Errors of the services: a code, a sentence, and `google.rpc.ErrorInfo` (AIP-193); a wrong argument also carries
//! `google.rpc.BadRequest` naming its field.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::spool::SpoolError;

/// The `domain` of every ErrorInfo.
const DOMAIN: &str = "relay.linkmail";
/// What a client waits before it comes again.
const RETRY: Duration = Duration::from_secs(5);

/// An error with its reason and the words of its sentence that vary.
pub(super) fn error(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    metadata: &[(&str, &str)],
) -> Status {
    Status::with_error_details(code, message, info(reason, metadata))
}

fn info(reason: &str, metadata: &[(&str, &str)]) -> ErrorDetails {
    let metadata = metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    ErrorDetails::with_error_info(
        reason,
        DOMAIN,
        metadata.collect::<std::collections::HashMap<_, _>>(),
    )
}

/// An argument is wrong.
pub(super) fn invalid(field: &str, what: impl Into<String>) -> Status {
    invalid_for("INVALID_FIELD", field, what)
}

/// An argument is wrong for a reason with a name of its own.
pub(super) fn invalid_for(reason: &str, field: &str, what: impl Into<String>) -> Status {
    let what = what.into();
    let mut details = info(reason, &[("field", field)]);
    details.add_bad_request_violation(field, what.clone());
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {what}"), details)
}

/// Something named does not exist.
pub(super) fn not_found(reason: &str, name: &str) -> Status {
    error(
        Code::NotFound,
        reason,
        format!("{name} does not exist"),
        &[("name", name)],
    )
}

/// Come again in a moment.
pub(super) fn unavailable(reason: &str, message: &str) -> Status {
    let mut details = info(reason, &[]);
    details.set_retry_info(Some(RETRY));
    Status::with_error_details(Code::Unavailable, message, details)
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
