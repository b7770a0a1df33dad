//! Errors of gRPC services: a code, a sentence, and `google.rpc.ErrorInfo` (AIP-193); a wrong argument also carries
//! `google.rpc.BadRequest` naming its field.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// What a client waits before it comes again.
const RETRY: Duration = Duration::from_secs(5);

/// The `domain` of every ErrorInfo of a service, such as `relay.linkmail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorDomain(pub &'static str);

impl ErrorDomain {
    /// An error with its reason and the words of its sentence that vary.
    #[must_use]
    pub fn error(
        self,
        code: Code,
        reason: &str,
        message: impl Into<String>,
        metadata: &[(&str, &str)],
    ) -> Status {
        Status::with_error_details(code, message, self.info(reason, metadata))
    }

    /// An argument is wrong.
    #[must_use]
    pub fn invalid(self, field: &str, what: impl Into<String>) -> Status {
        self.invalid_for("INVALID_FIELD", field, what)
    }

    /// An argument is wrong for a reason with a name of its own.
    #[must_use]
    pub fn invalid_for(self, reason: &str, field: &str, what: impl Into<String>) -> Status {
        let what = what.into();
        let mut details = self.info(reason, &[("field", field)]);
        details.add_bad_request_violation(field, what.clone());
        Status::with_error_details(Code::InvalidArgument, format!("{field}: {what}"), details)
    }

    /// Something named does not exist.
    #[must_use]
    pub fn not_found(self, reason: &str, name: &str) -> Status {
        self.error(
            Code::NotFound,
            reason,
            format!("{name} does not exist"),
            &[("name", name)],
        )
    }

    /// Come again in a moment.
    #[must_use]
    pub fn unavailable(self, reason: &str, message: &str) -> Status {
        let mut details = self.info(reason, &[]);
        details.set_retry_info(Some(RETRY));
        Status::with_error_details(Code::Unavailable, message, details)
    }

    fn info(self, reason: &str, metadata: &[(&str, &str)]) -> ErrorDetails {
        let metadata = metadata
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        ErrorDetails::with_error_info(
            reason,
            self.0,
            metadata.collect::<std::collections::HashMap<_, _>>(),
        )
    }
}
