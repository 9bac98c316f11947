//! One scrape for the app and its proxy.
//!
//! Prometheus has no certificate either. The `prometheus.io/…` annotations of a pod are pointed at the proxy's port 15020,
//! which is not redirected and answers with the app's metrics and its own; where the app's are is told to the proxy.
//! As in Istio, a pod without these annotations is scraped for its proxy, and `prometheus.io/scrape: "false"` is respected.

use std::collections::BTreeMap;

use serde_json::Value;

use super::marks::{Mark, Place};
use super::probes;
use super::problem::Problem;

const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";
const SCHEME: &str = "prometheus.io/scheme";

/// What becomes of the annotations.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scrape {
    /// `LENO_APP_METRICS`: where the app's metrics are, if it has any.
    pub(super) app: Option<String>,
    /// Annotations to set.
    pub(super) annotations: BTreeMap<String, String>,
}

/// Points a scrape at the proxy. `Ok(None)`: the annotations stay as they are.
pub(super) fn merge(
    annotations: &BTreeMap<String, String>,
    spec: &Value,
    warnings: &mut Vec<String>,
) -> Result<Option<Scrape>, Problem> {
    let said = |key: &str| annotations.get(key).map(|value| value.trim()).filter(|value| !value.is_empty());
    let scraped = match said(SCRAPE).map(str::to_ascii_lowercase).as_deref() {
        Some("false") => return Ok(None),
        Some("true") => true,
        None => false,
        Some(_) => return Err(wrong(annotations, SCRAPE, "is neither `true` nor `false`")),
    };
    if said(SCHEME).is_some_and(|scheme| !scheme.eq_ignore_ascii_case("http")) {
        warnings.push(format!(
            "the app's metrics are not merged with the proxy's: the annotation `{SCHEME}` says that they need TLS"
        ));
        return Ok(None);
    }
    let app = match scraped {
        true => {
            let port = match said(PORT) {
                Some(port) => port
                    .parse::<u16>()
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(|| wrong(annotations, PORT, "is not a port from 1 to 65535"))?,
                None => only_port(spec).unwrap_or(80),
            };
            let path = said(PATH).unwrap_or("/metrics");
            let slash = if path.starts_with('/') { "" } else { "/" };
            Some(format!("http://127.0.0.1:{port}{slash}{path}"))
        }
        false => None,
    };
    let set = [(SCRAPE, "true".to_owned()), (PORT, probes::PORT.to_string()), (PATH, "/stats/prometheus".to_owned())];
    Ok(Some(Scrape { app, annotations: set.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() }))
}

/// The port that Prometheus would find by itself: the only one that a container declares. Istio takes 80 where the
/// annotation is missing.
fn only_port(spec: &Value) -> Option<u16> {
    let containers = spec.get("containers")?.as_array()?;
    let declared = containers.iter().filter_map(|container| container.get("ports")?.as_array()).flatten();
    let mut ports = declared.filter_map(|port| u16::try_from(port.get("containerPort")?.as_u64()?).ok());
    match (ports.next(), ports.next()) {
        (Some(port), None) => Some(port),
        _ => None,
    }
}

fn wrong(annotations: &BTreeMap<String, String>, key: &str, reason: &str) -> Problem {
    let value = annotations.get(key).cloned().unwrap_or_default();
    Problem::value(&Mark { place: Place::PodAnnotation, key: key.to_owned(), value }, reason)
}
