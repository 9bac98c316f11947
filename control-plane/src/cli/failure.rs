//! Why a command ends without having done its work.
//!
//! A person reads one line on standard error: what was tried and, behind colons, why it did not work. A script reads
//! the exit code. Neither ever sees the inside of the program: no `Debug`, no backtrace.

use std::fmt;
use std::process::ExitCode;

/// Why a command ends without having done its work.
pub(crate) struct Failure {
    kind: Kind,
    error: anyhow::Error,
}

/// Whose fault it is, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Something went wrong on the way.
    Failed,
    /// What was asked makes no sense: a path that cannot be read, an address that is none.
    Usage,
    /// The server that was asked does not answer.
    Unreachable,
}

impl Failure {
    /// What was asked makes no sense, as clap says of arguments that it refuses itself.
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self { kind: Kind::Usage, error: error.into() }
    }

    /// The server does not answer.
    pub(crate) fn unreachable(error: impl Into<anyhow::Error>) -> Self {
        Self { kind: Kind::Unreachable, error: error.into() }
    }

    /// Whether a server does not answer.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.kind == Kind::Unreachable
    }

    /// 1, 2 or 3, by kind; 0 is for success and 1 also for findings.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Unreachable => 3,
        })
    }

    /// Whether whoever reads the output has read what it wanted (`leno … | head`).
    pub(crate) fn is_closed_pipe(&self) -> bool {
        let cause = self.error.root_cause().downcast_ref::<std::io::Error>();
        cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

/// What was tried and why it did not work, in one line.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = format!("{:#}", self.error);
        let lines: Vec<&str> = whole.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        f.write_str(&lines.join("; "))
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { kind: Kind::Failed, error: error.into() }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn causes_stand_behind_what_was_tried_in_one_line() {
        let refused = || Err::<(), _>(std::io::Error::other("first\n  second\n"));
        let failure = Failure::usage(refused().context("cannot read `a`").unwrap_err());
        assert_eq!(failure.to_string(), "cannot read `a`: first; second");
        assert_eq!(failure.exit_code(), ExitCode::from(2));
        assert!(!failure.is_closed_pipe());
    }

    #[test]
    fn a_reader_that_has_gone_is_known_behind_other_causes() {
        let gone = Err::<(), _>(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert!(Failure::from(gone.context("cannot print").unwrap_err()).is_closed_pipe());
    }
}
