//! `limits` of the bootstrap: what this process takes on at once, and what each caller may ask of it.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use serde::Deserialize;

use crate::overload::limits::{CONNECTIONS, Limits, Profile};

use super::{BootstrapError, duration};

/// The largest number that is believed to be meant.
const MOST: u32 = 1_000_000;
/// Whole seconds: connections are looked at once a second.
const SECONDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
/// Where a timer counts.
const TIMED: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));
/// Bytes of a head: fewer would refuse honest callers, and hyper reads that much at a time; more is a request's body.
const HEAD: (u64, u64) = (8 * 1024, 1 << 20);
/// Bytes of a window (RFC 9113 §6.9.1: 65 535 until SETTINGS say otherwise).
const WINDOW: (u64, u64) = (16 * 1024, (1 << 31) - 1);
/// Bytes of memory.
const MEMORY: (u64, u64) = (16 << 20, 1 << 46);

/// The same as flags and variables, which win over the file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LimitFlags {
    /// Any of the limits of the bootstrap file, as body_idle=10s,header_fields=50
    #[arg(long = "limits", value_name = "KEY=VALUE", value_delimiter = ',', env = "LENO_LIMITS")]
    any: Vec<String>,
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

/// See [`Limits`] for what each of them is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileLimits {
    profile: Option<FileProfile>,
    connections: Option<u32>,
    connections_per_caller: Option<u32>,
    requests: Option<u32>,
    adaptive_concurrency: Option<bool>,
    memory: Option<Size>,
    first_byte: Option<String>,
    handshake: Option<String>,
    preface: Option<String>,
    head: Option<String>,
    body_idle: Option<String>,
    write_stall: Option<String>,
    connection_idle: Option<String>,
    header_fields: Option<u32>,
    header_bytes: Option<Size>,
    target_bytes: Option<Size>,
    header_bytes_per_connection: Option<Size>,
    http2_streams: Option<u32>,
    http2_stream_window: Option<Size>,
    http2_connection_window: Option<Size>,
    http2_pending_resets: Option<u32>,
    http2_local_resets: Option<u32>,
    http2_control_burst: Option<u32>,
    http2_control_per_second: Option<u32>,
    http2_control_per_request: Option<u32>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FileProfile {
    Istio,
    Safe,
}

/// Bytes, as a number or as `64Ki`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(u64),
    Text(String),
}

/// The limits, with their defaults.
pub(super) fn read(flags: &LimitFlags, file: FileLimits) -> Result<Limits, BootstrapError> {
    let mut limits = Limits { connections: of_descriptors(), ..Limits::of(profile(flags, &file)?) };
    lay_over(&mut limits, &file)?;
    lay_over(&mut limits, &any(flags)?)?;
    let named = FileLimits {
        connections: flags.connections,
        requests: flags.requests,
        adaptive_concurrency: flags.adaptive_concurrency.then_some(true),
        ..FileLimits::default()
    };
    lay_over(&mut limits, &named)?;
    Ok(limits)
}

fn profile(flags: &LimitFlags, file: &FileLimits) -> Result<Profile, BootstrapError> {
    Ok(match any(flags)?.profile.or(file.profile) {
        None | Some(FileProfile::Istio) => Profile::Istio,
        Some(FileProfile::Safe) => Profile::Safe,
    })
}

/// `--limits KEY=VALUE,…` as the file would have it.
fn any(flags: &LimitFlags) -> Result<FileLimits, BootstrapError> {
    let wrong = |reason| BootstrapError::Value { key: "limits", reason };
    let mut yaml = String::from("{}");
    for pair in flags.any.iter().filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| wrong(format!("`{pair}` is not KEY=VALUE")))?;
        if !(key.chars().chain(value.chars())).all(|one| one.is_ascii_alphanumeric() || one == '_') {
            return Err(wrong(format!("`{pair}` is not like body_idle=10s")));
        }
        if yaml == "{}" {
            yaml.clear();
        }
        yaml.push_str(&format!("{key}: {value}\n"));
    }
    serde_saphyr::from_str(&yaml).map_err(|error| wrong(error.to_string()))
}

/// What `file` says wins over what is there.
fn lay_over(limits: &mut Limits, file: &FileLimits) -> Result<(), BootstrapError> {
    let Limits { patience, heads, http2, .. } = limits;
    set(&mut limits.connections, count("limits.connections", file.connections)?);
    set(&mut limits.connections_per_caller, count("limits.connections_per_caller", file.connections_per_caller)?);
    limits.requests = count("limits.requests", file.requests)?.or(limits.requests);
    set(&mut limits.adaptive_concurrency, file.adaptive_concurrency);
    limits.memory = size("limits.memory", &file.memory, MEMORY)?.or(limits.memory);
    set(&mut patience.first_byte, time("limits.first_byte", &file.first_byte, TIMED)?);
    set(&mut patience.handshake, time("limits.handshake", &file.handshake, TIMED)?);
    set(&mut patience.preface, time("limits.preface", &file.preface, SECONDS)?);
    set(&mut patience.head, time("limits.head", &file.head, SECONDS)?);
    set(&mut patience.body_idle, time("limits.body_idle", &file.body_idle, SECONDS)?);
    set(&mut patience.write_stall, time("limits.write_stall", &file.write_stall, SECONDS)?);
    set(&mut patience.connection_idle, time("limits.connection_idle", &file.connection_idle, SECONDS)?);
    set(&mut heads.fields, count("limits.header_fields", file.header_fields)?);
    set(&mut heads.bytes, small("limits.header_bytes", &file.header_bytes, HEAD)?);
    set(&mut heads.target, small("limits.target_bytes", &file.target_bytes, (1, HEAD.1))?);
    let whole = small("limits.header_bytes_per_connection", &file.header_bytes_per_connection, (HEAD.0, 1 << 26))?;
    set(&mut heads.per_connection, whole);
    set(&mut http2.streams, count("limits.http2_streams", file.http2_streams)?);
    set(&mut http2.stream_window, small("limits.http2_stream_window", &file.http2_stream_window, WINDOW)?);
    set(&mut http2.connection_window, small("limits.http2_connection_window", &file.http2_connection_window, WINDOW)?);
    set(&mut http2.pending_resets, count("limits.http2_pending_resets", file.http2_pending_resets)?);
    set(&mut http2.local_resets, count("limits.http2_local_resets", file.http2_local_resets)?);
    set(&mut http2.control.burst, count("limits.http2_control_burst", file.http2_control_burst)?);
    set(&mut http2.control.per_second, count("limits.http2_control_per_second", file.http2_control_per_second)?);
    set(&mut http2.control.per_request, count("limits.http2_control_per_request", file.http2_control_per_request)?);
    Ok(())
}

fn set<T>(limit: &mut T, said: Option<T>) {
    if let Some(said) = said {
        *limit = said;
    }
}

fn count(key: &'static str, number: Option<u32>) -> Result<Option<u32>, BootstrapError> {
    match number {
        Some(other) if !(1..=MOST).contains(&other) => {
            Err(BootstrapError::Value { key, reason: format!("{other} is not between 1 and {MOST}") })
        }
        number => Ok(number),
    }
}

fn time(
    key: &'static str,
    text: &Option<String>,
    (least, most): (Duration, Duration),
) -> Result<Option<Duration>, BootstrapError> {
    let Some(text) = text else { return Ok(None) };
    let time = duration(key, text)?;
    match (least..=most).contains(&time) {
        true => Ok(Some(time)),
        false => Err(BootstrapError::Value { key, reason: format!("{text} is not between {least:?} and {most:?}") }),
    }
}

fn size(key: &'static str, size: &Option<Size>, (least, most): (u64, u64)) -> Result<Option<u64>, BootstrapError> {
    let wrong = |reason| BootstrapError::Value { key, reason };
    let bytes = match size {
        None => return Ok(None),
        Some(Size::Bytes(bytes)) => *bytes,
        Some(Size::Text(text)) => {
            bytes(text).ok_or_else(|| wrong(format!("`{text}` is not a size like 65536, 64Ki or 512Mi")))?
        }
    };
    match (least..=most).contains(&bytes) {
        true => Ok(Some(bytes)),
        false => Err(wrong(format!("{bytes} is not between {least} and {most}"))),
    }
}

/// One whose `range` ends below 4 GiB.
fn small(key: &'static str, said: &Option<Size>, range: (u64, u64)) -> Result<Option<u32>, BootstrapError> {
    Ok(size(key, said, range)?.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX)))
}

/// As Kubernetes writes it.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (amount, unit) = text.split_at(digits);
    let shift = match unit {
        "" => 0,
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        _ => return None,
    };
    amount.parse::<u64>().ok()?.checked_mul(1 << shift)
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
        let file = || FileLimits {
            connections: Some(5),
            requests: Some(6),
            adaptive_concurrency: Some(true),
            header_fields: Some(7),
            ..FileLimits::default()
        };
        let any = ["head=3s", "header_fields=8", "profile=safe", "requests=9"].map(str::to_owned).to_vec();
        let flags = LimitFlags { requests: Some(7), any, ..LimitFlags::default() };
        let limits = read(&flags, file()).expect("valid");
        assert_eq!((limits.connections, limits.requests, limits.adaptive_concurrency), (5, Some(7), true));
        assert_eq!((limits.heads.fields, limits.patience.head), (8, Duration::from_secs(3)));
        assert_eq!(limits.heads.bytes, 32 * 1024, "what is not said is the profile's");
        let flags = LimitFlags { connections: Some(0), ..LimitFlags::default() };
        assert!(read(&flags, file()).expect_err("too few").to_string().contains("limits.connections"));
        for (any, said) in [("head", "`head` is not KEY=VALUE"), ("hed=1s", "hed"), ("head=[1]", "is not like")] {
            let flags = LimitFlags { any: vec![any.to_owned()], ..LimitFlags::default() };
            let error = read(&flags, file()).expect_err(any).to_string();
            assert!(error.contains(said), "{any}: {error}");
        }
    }

    #[test]
    fn limits_have_defaults_and_ranges() {
        let read = |text: &str| {
            let file: FileLimits = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
            super::read(&LimitFlags::default(), file).map_err(|error| error.to_string())
        };
        let limits = read("{}").expect("the defaults");
        assert!((1..=CONNECTIONS).contains(&limits.connections));
        assert_eq!(limits, Limits { connections: limits.connections, ..Limits::of(Profile::Istio) });
        let limits = read("{profile: safe, memory: 512Mi, header_bytes: 9000, body_idle: 2s}").expect("valid");
        assert_eq!((limits.memory, limits.heads.bytes), (Some(512 << 20), 9000));
        assert_eq!(limits.patience.connection_idle, Duration::from_secs(600));
        assert_eq!(limits.patience.body_idle, Duration::from_secs(2));
        for (text, said) in [
            ("{connections: 0}", "limits.connections: 0 is not between 1 and 1000000"),
            ("{requests: 2000000}", "limits.requests: 2000000 is not"),
            ("{conections: 5}", "conections"),
            ("{requests: many}", "many"),
            ("{head: 0s}", "limits.head: 0s is not between 1s and"),
            ("{head: soon}", "limits.head: `soon` is not a duration"),
            ("{header_bytes: 1}", "limits.header_bytes: 1 is not between 8192"),
            ("{memory: 12Qi}", "limits.memory: `12Qi` is not a size"),
            ("{profile: brave}", "brave"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
