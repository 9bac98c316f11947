//! Why a pod cannot be injected although it should be.

use std::fmt;

use super::marks::Mark;

/// Something that has to be changed before the pod can get a sidecar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    /// A label or annotation has a value that means nothing.
    #[error("the {} `{}`: `{}` {reason}", .mark.place, .mark.key, .mark.value)]
    Value {
        /// Which.
        mark: Mark,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// There is no specification of a pod where one has to be.
    #[error("`spec.containers` of the pod is missing or empty")]
    NoContainers,
    /// A container or volume has the name of one of ours.
    #[error("the pod has a {what} named `{name}`, which is the name of an injected one; give it another name")]
    Taken {
        /// `container` or `volume`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The pod is said to be injected, but not in words that this program understands.
    #[error(
        "the pod's annotation `leno.mesh/status` cannot be read ({0}); remove it and what was injected, or start from the manifest before injection"
    )]
    Status(String),
}

/// All of them, the most important first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl Problem {
    /// A value that means nothing.
    pub(super) fn value(mark: &Mark, reason: &str) -> Self {
        Self::Value { mark: mark.clone(), reason: reason.to_owned() }
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl From<Vec<Problem>> for Problems {
    fn from(problems: Vec<Problem>) -> Self {
        Self(problems)
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
