//! What a request needs, with names resolved.
//!
//! `AllowMissing` is never alone in truth: it is about the tokens of certain providers, those that stand beside it in an
//! `Any`, or all of the listener. So it becomes "one of these, and it is excused when there is no token".

use leno_config::ir::JwtRequirement;

use super::error::JwtError;

/// A requirement; providers by their place in the listener's list.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Requirement {
    Provider(usize),
    /// One of them, else what `otherwise` excuses.
    Any {
        of: Vec<Requirement>,
        otherwise: Otherwise,
    },
    All(Vec<Requirement>),
    /// A provider that is not defined: never met.
    Unknown,
}

/// What is excused when no token was good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Otherwise {
    Nothing,
    /// That there was none.
    Missing,
    /// Whatever was wrong.
    Everything,
}

impl Otherwise {
    pub(super) fn excuses(self, reason: JwtError) -> bool {
        match self {
            Self::Nothing => false,
            Self::Missing => reason == JwtError::Missing,
            Self::Everything => true,
        }
    }
}

impl Requirement {
    /// Resolves names; `providers` are those of the listener in order.
    pub(super) fn new(written: &JwtRequirement, providers: &[&str]) -> Self {
        let every = || (0..providers.len()).map(Self::Provider).collect();
        match written {
            JwtRequirement::Provider(name) => {
                providers.iter().position(|provider| provider == name).map_or(Self::Unknown, Self::Provider)
            }
            JwtRequirement::AllowMissing => Self::Any { of: every(), otherwise: Otherwise::Missing },
            JwtRequirement::AllowMissingOrFailed => Self::Any { of: every(), otherwise: Otherwise::Everything },
            JwtRequirement::All(parts) => Self::All(parts.iter().map(|part| Self::new(part, providers)).collect()),
            JwtRequirement::Any(parts) => {
                let excuse = |part: &JwtRequirement| match part {
                    JwtRequirement::AllowMissing => Otherwise::Missing,
                    JwtRequirement::AllowMissingOrFailed => Otherwise::Everything,
                    JwtRequirement::Provider(_) | JwtRequirement::Any(_) | JwtRequirement::All(_) => Otherwise::Nothing,
                };
                let otherwise = parts.iter().map(excuse).max().unwrap_or(Otherwise::Nothing);
                let named = parts.iter().filter(|part| excuse(part) == Otherwise::Nothing);
                let of: Vec<_> = named.map(|part| Self::new(part, providers)).collect();
                Self::Any { of: if of.is_empty() { every() } else { of }, otherwise }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_excused_is_about_the_providers_beside_it() {
        use JwtRequirement::{All, AllowMissing, AllowMissingOrFailed, Any};
        let provider = |name: &str| JwtRequirement::Provider(name.to_owned());
        let any = |of, otherwise| Requirement::Any { of, otherwise };
        let (a, b) = (|| Requirement::Provider(0), || Requirement::Provider(1));
        let rows = [
            (provider("b"), b()),
            (provider("c"), Requirement::Unknown),
            (AllowMissing, any(vec![a(), b()], Otherwise::Missing)),
            (Any(vec![AllowMissing, provider("a")]), any(vec![a()], Otherwise::Missing)),
            (Any(vec![provider("a"), AllowMissingOrFailed, AllowMissing]), any(vec![a()], Otherwise::Everything)),
            (Any(vec![AllowMissingOrFailed]), any(vec![a(), b()], Otherwise::Everything)),
            (Any(vec![provider("a"), provider("c")]), any(vec![a(), Requirement::Unknown], Otherwise::Nothing)),
            (
                All(vec![provider("a"), Any(vec![provider("b"), AllowMissing])]),
                Requirement::All(vec![a(), any(vec![b()], Otherwise::Missing)]),
            ),
        ];
        for (written, expected) in rows {
            assert_eq!(Requirement::new(&written, &["a", "b"]), expected, "{written:?}");
        }
    }
}
