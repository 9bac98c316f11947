//! `limits` of the bootstrap: what this process takes on at once.

use rustix::process::{Resource, getrlimit};
use serde::Deserialize;

use crate::overload::Limits;

use super::BootstrapError;

/// Connections from callers, where the system allows as many.
const CONNECTIONS: u32 = 10_000;
/// The largest number that is believed to be meant.
const MOST: u32 = 1_000_000;

/// The same as flags and variables, which win over the file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LimitFlags {
    /// Connections from callers at a time [default: a third of the open files, at most 10000]
    #[arg(long = "limits-connections", value_name = "NUMBER", env = "LENO_LIMITS_CONNECTIONS")]
    connections: Option<u32>,
    /// Requests to the app at a time; more are answered with 503 at once [default: as many as come]
    #[arg(long = "limits-requests", value_name = "NUMBER", env = "LENO_LIMITS_REQUESTS")]
    requests: Option<u32>,
    /// Find out how many requests the app can work on at once, and refuse the others
    #[arg(long = "limits-adaptive-concurrency", env = "LENO_LIMITS_ADAPTIVE_CONCURRENCY")]
    adaptive_concurrency: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileLimits {
    connections: Option<u32>,
    requests: Option<u32>,
    adaptive_concurrency: bool,
}

/// The limits, with their defaults.
pub(super) fn read(flags: &LimitFlags, file: FileLimits) -> Result<Limits, BootstrapError> {
    let FileLimits { connections, requests, adaptive_concurrency } = file;
    let (connections, requests) = (flags.connections.or(connections), flags.requests.or(requests));
    let adaptive_concurrency = flags.adaptive_concurrency || adaptive_concurrency;
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
    fn a_flag_wins_over_the_file() {
        let file = FileLimits { connections: Some(5), requests: Some(6), adaptive_concurrency: true };
        let flags = LimitFlags { requests: Some(7), ..LimitFlags::default() };
        let limits = read(&flags, file).expect("valid");
        assert_eq!(limits, Limits { connections: 5, requests: Some(7), adaptive_concurrency: true });
        let flags = LimitFlags { connections: Some(0), ..LimitFlags::default() };
        assert!(read(&flags, FileLimits::default()).expect_err("too few").to_string().contains("limits.connections"));
    }

    #[test]
    fn limits_have_defaults_and_ranges() {
        let read = |text: &str| {
            let file: FileLimits = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
            super::read(&LimitFlags::default(), file).map_err(|error| error.to_string())
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
