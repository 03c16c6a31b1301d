//! The client's errors as exit codes.

use client::Error;
use daemon::{Exit, Failure};
use types::ErrorCode;

/// The failure that ends the process with this error.
#[allow(clippy::needless_pass_by_value, reason = "stands in map_err")]
pub(crate) fn of(error: Error) -> Failure {
    Failure::new(exit_of(&error), error.to_string())
}

pub(crate) fn exit_of(error: &Error) -> Exit {
    match error {
        Error::Invalid(_) | Error::Usage(_) => Exit::Usage,
        Error::Unknown { .. } | Error::Unheard { .. } => Exit::Unknown,
        Error::NotDone { code: ErrorCode::Refused, .. } => Exit::Denied,
        Error::Fenced { .. } => Exit::Denied,
        Error::Held { .. } => Exit::NotFound,
        Error::LeaseGone { .. } => Exit::NotFound,
        Error::NotDone { code: ErrorCode::Internal, .. } => Exit::Bug,
        Error::NoViewleader { .. }
        | Error::NotAViewleader { .. }
        | Error::ViewleaderUnavailable { .. }
        | Error::NotBootstrapped { .. }
        | Error::Compacted { .. }
        | Error::NotDone { .. } => Exit::Unavailable,
    }
}

/// One word for scripts and for counting: what kind of error it is.
pub(crate) fn kind_of(error: &Error) -> &'static str {
    match error {
        Error::Invalid(_) => "invalid",
        Error::Usage(_) => "usage",
        Error::Unknown { .. } | Error::Unheard { .. } => "unknown",
        Error::NoViewleader { .. } | Error::NotAViewleader { .. } | Error::ViewleaderUnavailable { .. } => {
            "no_viewleader"
        }
        Error::NotBootstrapped { .. } => "not_bootstrapped",
        Error::Compacted { .. } => "compacted",
        Error::Fenced { .. } => "fenced",
        Error::Held { .. } => "held",
        Error::LeaseGone { .. } => "lease_gone",
        Error::NotDone { code, .. } => match code {
            ErrorCode::Unknown => "unknown",
            ErrorCode::NotPrimary => "not_primary",
            ErrorCode::Unavailable => "unavailable",
            ErrorCode::Overloaded => "overloaded",
            ErrorCode::DeadlineExceeded => "deadline_exceeded",
            ErrorCode::StampTooOld => "stamp_too_old",
            ErrorCode::Invalid => "invalid",
            ErrorCode::WrongCluster => "wrong_cluster",
            ErrorCode::ShuttingDown => "shutting_down",
            ErrorCode::Damaged => "damaged",
            ErrorCode::NotBootstrapped => "not_bootstrapped",
            ErrorCode::NoLeader => "no_leader",
            ErrorCode::Refused => "refused",
            ErrorCode::Internal => "internal",
            ErrorCode::Conflict => "conflict",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against an unknown outcome that a script takes for a failure it may repeat.
    #[test]
    fn exit_codes_tell_outcomes_apart() {
        let not_done = |code| Error::NotDone { code, message: String::new() };
        assert_eq!(exit_of(&Error::Unknown { message: String::new() }), Exit::Unknown);
        assert_eq!(exit_of(&not_done(ErrorCode::Unavailable)), Exit::Unavailable);
        assert_eq!(exit_of(&not_done(ErrorCode::Refused)), Exit::Denied);
        assert_eq!(exit_of(&not_done(ErrorCode::Internal)), Exit::Bug);
        assert_eq!(exit_of(&Error::Invalid(String::new())), Exit::Usage);
        assert_eq!(exit_of(&Error::NotBootstrapped { registered: 2, expected: 3 }), Exit::Unavailable);
    }
}
