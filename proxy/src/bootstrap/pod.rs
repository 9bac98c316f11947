//! The part of the bootstrap that is about the pod: `merged`, `app_metrics` and `app_probes`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::pod::{AppMetrics, Pod, Probes, WrittenProbe};

use super::BootstrapError;

/// The same as flags and variables, which win over the file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PodFlags {
    /// One more address, for the kubelet and scrapers: readiness, the app's probes, the metrics of both
    #[arg(long, env = "LENO_MERGED")]
    pub merged: Option<SocketAddr>,
    /// Where the app's metrics are, as http://127.0.0.1:8080/metrics
    #[arg(long, value_name = "URL", env = "LENO_APP_METRICS")]
    pub app_metrics: Option<String>,
    /// The app's probes, JSON by path as ISTIO_KUBE_APP_PROBERS has them
    #[arg(long, value_name = "JSON", env = "LENO_APP_PROBES")]
    pub app_probes: Option<String>,
}

/// What of it the file says.
pub(super) type FilePod = (Option<SocketAddr>, Option<String>, BTreeMap<String, WrittenProbe>);

/// Checks it.
pub(super) fn read(flags: &PodFlags, (merged, metrics, probes): FilePod) -> Result<Pod, BootstrapError> {
    let wrong = |key, reason: String| BootstrapError::Value { key, reason };
    let (merged, metrics) = (flags.merged.or(merged), flags.app_metrics.as_ref().or(metrics.as_ref()));
    let metrics = metrics.filter(|url| !url.is_empty()).map(|url| AppMetrics::parse(url)).transpose();
    let metrics = metrics.map_err(|reason| wrong("app_metrics", reason))?;
    let probes = match flags.app_probes.as_deref().filter(|json| !json.is_empty()) {
        Some(json) => Probes::parse(json),
        None => Probes::new(probes),
    };
    let probes = probes.map_err(|error| wrong("app_probes", error.to_string()))?;
    if merged.is_none() && (metrics.is_some() || probes != Probes::default()) {
        let reason = "is missing: app_metrics and app_probes are for what is asked there".to_owned();
        return Err(wrong("merged", reason));
    }
    Ok(Pod { merged, metrics, probes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_the_file_and_what_is_wrong_is_named() {
        let address = |text: &str| text.parse::<SocketAddr>().ok();
        let url = |text: &str| Some(text.to_owned());
        let flags =
            PodFlags { merged: address("0.0.0.0:15020"), app_metrics: url("http://127.0.0.1:2/m"), app_probes: None };
        let pod = read(&flags, (address("127.0.0.1:1"), url("http://127.0.0.1:1/m"), BTreeMap::new())).expect("valid");
        assert_eq!((pod.merged, pod.metrics), (flags.merged, AppMetrics::parse("http://127.0.0.1:2/m").ok()));
        assert!(read(&PodFlags::default(), (None, None, BTreeMap::new())).is_ok());

        let rows = [
            (PodFlags { app_metrics: url("http://shop/m"), ..flags.clone() }, "app_metrics: "),
            (PodFlags { app_probes: url("[]"), ..flags.clone() }, "app_probes: "),
            (PodFlags { merged: None, ..flags }, "merged: is missing"),
        ];
        for (flags, said) in rows {
            let error = read(&flags, (None, None, BTreeMap::new())).expect_err(said).to_string();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
