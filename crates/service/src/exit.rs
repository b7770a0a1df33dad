//! How a daemon or a command ends: the codes of sysexits.h.
//!
//! <https://man.openbsd.org/sysexits.3>; service managers and mail tools already know them.

use std::process::ExitCode;

use tonic::Code;

use crate::listen::ConnectError;

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything was done.
    Ok = 0,
    /// The command line is wrong (EX_USAGE).
    Usage = 64,
    /// What was given is wrong, or names something that does not exist (EX_DATAERR).
    DataError = 65,
    /// The service cannot be reached (EX_UNAVAILABLE).
    Unavailable = 69,
    /// A defect of our own (EX_SOFTWARE).
    Software = 70,
    /// The operating system refused something, such as an address to listen on (EX_OSERR).
    OsError = 71,
    /// A file or folder cannot be made or written, such as the state folder (EX_CANTCREAT).
    CannotCreate = 73,
    /// Try again later (EX_TEMPFAIL).
    TempFail = 75,
    /// The caller may not do this (EX_NOPERM).
    NoPermission = 77,
    /// The configuration is wrong (EX_CONFIG).
    Config = 78,
}

impl Exit {
    /// The number that the caller of the process sees.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// What a client command ends with after an answer of the service.
///
/// A request that the service finds wrong is data, not usage: the command line itself was understood.
/// ABORTED, RESOURCE_EXHAUSTED and DEADLINE_EXCEEDED may go well later; so may CANCELLED, which the
/// client did not ask for. A method that the service does not have is a mismatch of versions, and a defect.
impl From<Code> for Exit {
    fn from(code: Code) -> Self {
        match code {
            Code::Ok => Exit::Ok,
            Code::Unavailable => Exit::Unavailable,
            Code::PermissionDenied | Code::Unauthenticated => Exit::NoPermission,
            Code::Aborted | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Cancelled => {
                Exit::TempFail
            }
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange => Exit::DataError,
            Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => Exit::Software,
        }
    }
}

impl From<&ConnectError> for Exit {
    fn from(error: &ConnectError) -> Self {
        match error {
            ConnectError::Denied { .. } => Exit::NoPermission,
            ConnectError::Failed { .. } | ConnectError::TimedOut { .. } => Exit::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_sysexits() {
        let all = [
            (Exit::Ok, 0),
            (Exit::Usage, 64),
            (Exit::DataError, 65),
            (Exit::Unavailable, 69),
            (Exit::Software, 70),
            (Exit::OsError, 71),
            (Exit::CannotCreate, 73),
            (Exit::TempFail, 75),
            (Exit::NoPermission, 77),
            (Exit::Config, 78),
        ];
        for (exit, number) in all {
            assert_eq!(exit.code(), number);
        }
    }

    #[test]
    fn answers_become_exits() {
        for (code, exit) in [
            (Code::Unavailable, Exit::Unavailable),
            (Code::PermissionDenied, Exit::NoPermission),
            (Code::Aborted, Exit::TempFail),
            (Code::DeadlineExceeded, Exit::TempFail),
            (Code::InvalidArgument, Exit::DataError),
            (Code::NotFound, Exit::DataError),
            (Code::Internal, Exit::Software),
        ] {
            assert_eq!(Exit::from(code), exit, "{code:?}");
        }
    }
}
