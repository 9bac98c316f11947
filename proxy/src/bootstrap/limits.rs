//! `limits` of the bootstrap: what this process takes on at once.

use rustix::process::{Resource, getrlimit};
use serde::Deserialize;

use crate::overload::Limits;

use super::BootstrapError;

/// Connections from callers, where the system allows as many.
const CONNECTIONS: u32 = 10_000;
/// The largest number that is believed to be meant.
const MOST: u32 = 1_000_000;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileLimits {
    connections: Option<u32>,
    requests: Option<u32>,
    adaptive_concurrency: bool,
}

/// The limits, with their defaults.
pub(super) fn read(file: FileLimits) -> Result<Limits, BootstrapError> {
    let FileLimits { connections, requests, adaptive_concurrency } = file;
    let checked = |key: &'static str, number: Option<u32>| match number {
        Some(other) if !(1..=MOST).contains(&other) => {
            Err(BootstrapError::Value { key, reason: format!("{other} is not between 1 and {MOST}") })
        }
        number => Ok(number),
    };
    Ok(Limits {
        connections: checked("limits.connections", connections)?.unwrap_or_else(of_descriptors),
        requests: checked("limits.requests", requests)?,
        adaptive_concurrency,
    })
}

/// A third of the descriptors: a connection from a caller may need one to an endpoint, and something has to be left.
fn of_descriptors() -> u32 {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    u32::try_from(files / 3).unwrap_or(CONNECTIONS).clamp(1, CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_defaults_and_ranges() {
        let read = |text: &str| {
            let file: FileLimits = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
            read(file).map_err(|error| error.to_string())
        };
        let limits = read("{}").expect("the defaults");
        assert!((1..=CONNECTIONS).contains(&limits.connections));
        assert_eq!((limits.requests, limits.adaptive_concurrency), (None, false));
        let limits = read("{connections: 5, requests: 3, adaptive_concurrency: true}").expect("valid");
        assert_eq!(limits, Limits { connections: 5, requests: Some(3), adaptive_concurrency: true });
        for (text, said) in [
            ("{connections: 0}", "limits.connections: 0 is not between 1 and 1000000"),
            ("{requests: 2000000}", "limits.requests: 2000000 is not"),
            ("{conections: 5}", "conections"),
            ("{requests: many}", "many"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
