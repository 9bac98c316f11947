//! What an operator may want to know of the connection to the control plane: for `/config_dump` and metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

/// How it stands with the control plane.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Status {
    /// Where it is.
    pub address: String,
    /// A stream is open and the server accepted it.
    pub connected: bool,
    /// When `connected` last changed; `None`: it never was.
    #[serde(serialize_with = "milliseconds")]
    pub since: Option<SystemTime>,
    /// Why the last stream ended or could not be opened; stays until one is open again.
    pub last_error: Option<String>,
    /// Streams opened or tried, the first included.
    pub attempts: u64,
    /// What is in force comes from disk, and the server has not yet spoken.
    pub from_disk: bool,
    /// Why the state on disk was not used, or could not be written.
    pub disk_error: Option<String>,
    /// Bytes of all accepted resources.
    pub accepted_bytes: usize,
    /// By label of the kind: `clusters`, `endpoints`, `secrets`, `listeners`, `routes`.
    pub kinds: BTreeMap<&'static str, KindStatus>,
}

/// How it stands with one kind of resource.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct KindStatus {
    /// Versions, by name, that are accepted but wait for endpoints, roots or routes. All other accepted versions are in force.
    pub warming: BTreeMap<String, String>,
    /// Subscribed to by name, and not there.
    pub missing: BTreeSet<String>,
    /// Responses that came.
    pub responses: u64,
    /// Responses of which something was refused.
    pub nacks: u64,
    /// The last refusal.
    pub last_nack: Option<Nack>,
    /// When the last response came.
    #[serde(serialize_with = "milliseconds")]
    pub last_response: Option<SystemTime>,
    /// When a response last changed something.
    #[serde(serialize_with = "milliseconds")]
    pub last_change: Option<SystemTime>,
}

/// A refusal, as it was sent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Nack {
    /// `resource: field.path: reason; resource: …`
    pub text: String,
    /// When.
    #[serde(serialize_with = "some_milliseconds")]
    pub at: SystemTime,
}

/// As milliseconds since 1970.
fn milliseconds<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => some_milliseconds(time, serializer),
        None => serializer.serialize_none(),
    }
}

fn some_milliseconds<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    serializer.serialize_u64(u64::try_from(since).unwrap_or(u64::MAX))
}
