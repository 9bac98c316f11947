//! Who is connected and where each stands, in the shape of `leno status -o json`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use leno_config::node::Node;
use leno_config::xds::Kind;
use leno_config::xds::grpc::Remark;
use serde::{Deserialize, Serialize};

use super::push::{Hub, Stream};
use super::session::KindStatus;

/// What `/debug/status` answers and `leno status` prints.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// In the order of their names.
    pub(crate) proxies: Vec<ProxyStatus>,
    pub(crate) rules: RulesStatus,
}

/// One connected proxy.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProxyStatus {
    /// Its node id.
    pub(crate) node: String,
    /// RFC 3339, UTC.
    pub(crate) connected_since: String,
    /// Which variant of xDS its stream speaks: `delta` or `sotw`.
    #[serde(default)]
    pub(crate) variant: String,
    /// In whose words it is spoken to: `envoy` or `grpc`.
    #[serde(default)]
    pub(crate) dialect: String,
    /// `clusters`, `endpoints`, `secrets`, `listeners`, `routes`: those it asked for.
    pub(crate) types: BTreeMap<String, TypeStatus>,
    /// The newest certificate that its identity was issued; `null`: none since this control plane has been running.
    #[serde(default)]
    pub(crate) certificate: Option<CertificateStatus>,
    /// What it asked for and cannot be told, or not in full.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) remarks: Vec<RemarkStatus>,
}

/// A resource that does not say all that the rules say.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RemarkStatus {
    /// As in `types`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) resource: String,
    /// `refused`: it is not sent. `left out`: it is sent without what the reason names.
    pub(crate) outcome: String,
    pub(crate) reason: String,
}

/// A workload's certificate. Replicas that share a service account share this entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CertificateStatus {
    /// RFC 3339, UTC.
    pub(crate) expires: String,
    /// Seconds until then; 0: it has expired.
    pub(crate) left_s: u64,
}

/// One kind of resource on one stream.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TypeStatus {
    /// Version of the set it was last brought to; `null`: nothing was sent yet.
    pub(crate) sent: Option<String>,
    /// Version of the set it last accepted.
    pub(crate) acked: Option<String>,
    /// Since `sent` was sent.
    pub(crate) age_ms: u64,
    /// Why it refused something, until that is replaced.
    pub(crate) nack: Option<String>,
    /// What it was sent: version by name. Only where it is asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) resources: BTreeMap<String, String>,
}

/// The rules as they stand on disk and in force.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct RulesStatus {
    /// Documents in force.
    pub(crate) accepted: usize,
    /// Version of the rules in force; `null` before the first complete load.
    pub(crate) version: Option<String>,
    /// Errors in what is written, in the shape of `leno validate -o json`.
    pub(crate) rejected: Vec<serde_json::Value>,
    /// Resources that are not served as they are written: why, by resource.
    pub(crate) held_back: BTreeMap<String, String>,
    /// Why the files as a whole are not taken; `null`: they are.
    pub(crate) problem: Option<String>,
    /// Services of the mesh whose endpoints are called in clear text, because their label is missing: how many of how many.
    #[serde(default)]
    pub(crate) clear_text: BTreeMap<String, ClearText>,
}

/// Endpoints of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClearText {
    /// Without the label `security.istio.io/tlsMode: istio`.
    pub(crate) endpoints: usize,
    /// In total.
    pub(crate) of: usize,
}

impl RulesStatus {
    /// How many things a person has to repair.
    pub(crate) fn errors(&self) -> usize {
        self.rejected.len() + usize::from(self.problem.is_some())
    }
}

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Versions of sets.
    Sets,
    /// Versions of each resource too.
    Resources,
}

/// The status at this moment; `expiry` says until when a node's identity has a certificate.
pub(crate) fn status(
    hub: &Hub,
    rules: RulesStatus,
    detail: Detail,
    expiry: impl Fn(&Node) -> Option<SystemTime>,
    now: Instant,
) -> Status {
    let one = |stream: &Arc<Stream>| proxy(stream, detail, expiry(&stream.node), now);
    let mut proxies = hub.streams().iter().map(one).collect::<Vec<_>>();
    proxies.sort_by(|one, other| one.node.cmp(&other.node));
    Status { proxies, rules }
}

fn proxy(stream: &Stream, detail: Detail, expires: Option<SystemTime>, now: Instant) -> ProxyStatus {
    let (types, remarks) = {
        let session = stream.session();
        (session.status(), session.remarks())
    };
    let remark = |((kind, resource), Remark { outcome, reason }): ((Kind, String), Remark)| RemarkStatus {
        kind: kind.label().to_owned(),
        resource,
        outcome: outcome.label().to_owned(),
        reason,
    };
    ProxyStatus {
        node: stream.node.id(),
        connected_since: rfc3339(stream.connected),
        variant: stream.protocol.label().to_owned(),
        dialect: stream.dialect.label().to_owned(),
        types: types
            .into_iter()
            .map(|(kind, status)| (kind.label().to_owned(), of_type(status, detail, now)))
            .collect(),
        certificate: expires.map(|expires| CertificateStatus {
            expires: rfc3339(expires),
            left_s: expires.duration_since(SystemTime::now()).unwrap_or_default().as_secs(),
        }),
        remarks: remarks.into_iter().map(remark).collect(),
    }
}

fn of_type(status: KindStatus, detail: Detail, now: Instant) -> TypeStatus {
    let KindStatus { sent, acked, since, nack, resources } = status;
    let text = |text: std::sync::Arc<str>| text.to_string();
    let age = now.saturating_duration_since(since).as_millis();
    TypeStatus {
        sent: sent.map(text),
        acked: acked.map(text),
        age_ms: u64::try_from(age).unwrap_or(u64::MAX),
        nack: nack.map(text),
        resources: match detail {
            Detail::Sets => BTreeMap::new(),
            Detail::Resources => resources.into_iter().map(|(name, version)| (text(name), text(version))).collect(),
        },
    }
}

/// `2026-11-22T10:00:00Z`; the calendar is Howard Hinnant's `civil_from_days`.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, seconds) = (seconds / 86_400, seconds % 86_400);
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_795_341_845, "2026-11-22T10:04:05Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }
}
