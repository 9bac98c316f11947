//! What the control plane counts. Names start with `leno_control_plane_`; those of the authority with `leno_ca_`.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::ca::metrics::CaMetrics;

/// The counters and gauges; cheap to clone, all clones count the same.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Proxies that hold a stream.
    pub(crate) connected: IntGauge,
    /// Responses sent, by type.
    pub(crate) pushes: IntCounterVec,
    /// Responses that a proxy refused, by type.
    pub(crate) nacks: IntCounterVec,
    /// Errors in the rules as they stand on disk.
    pub(crate) rule_errors: IntGauge,
    /// Documents in force.
    pub(crate) documents: IntGauge,
    /// Generations of the rules since the start.
    pub(crate) generations: IntGauge,
    /// 1 for the version of the rules in force.
    config: IntGaugeVec,
    /// What the certificate authority counts.
    pub(crate) ca: CaMetrics,
}

impl Metrics {
    /// All at zero.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let name = |name: &str| format!("leno_control_plane_{name}");
        let gauge = |what: &str, help: &str| IntGauge::new(name(what), help);
        let gauges = |what: &str, help: &str, label| IntGaugeVec::new(Opts::new(name(what), help), &[label]);
        let counters = |what: &str, help: &str| IntCounterVec::new(Opts::new(name(what), help), &["type"]);
        let registry = Registry::new();
        let metrics = Self {
            ca: CaMetrics::register(&registry)?,
            registry,
            connected: gauge("connected_proxies", "Proxies that hold a discovery stream.")?,
            pushes: counters("pushes_total", "Discovery responses sent.")?,
            nacks: counters("nacks_total", "Discovery responses that a proxy refused.")?,
            rule_errors: gauge("rule_errors", "Errors in the rules as they stand on disk.")?,
            documents: gauge("rule_documents", "Documents in force.")?,
            generations: gauge("generations", "Sets of rules put in force since the start.")?,
            config: gauges("config_info", "1 for the version of the rules in force.", "version")?,
        };
        let build = IntGaugeVec::new(Opts::new("leno_build_info", "1 for the version of this program."), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let Self { registry, connected, pushes, nacks, rule_errors, documents, generations, config, ca: _ } = &metrics;
        for gauge in [connected, rule_errors, documents, generations] {
            registry.register(Box::new(gauge.clone()))?;
        }
        for counter in [pushes, nacks] {
            for kind in leno_config::xds::Kind::PUSH_ORDER {
                counter.with_label_values(&[kind.label()]);
            }
            registry.register(Box::new(counter.clone()))?;
        }
        for gauge in [config, &build] {
            registry.register(Box::new(gauge.clone()))?;
        }
        Ok(metrics)
    }

    /// Notes which rules are in force.
    pub(crate) fn in_force(&self, version: &str, documents: usize) {
        self.config.reset();
        self.config.with_label_values(&[version]).set(1);
        self.documents.set(i64::try_from(documents).unwrap_or(i64::MAX));
        self.generations.inc();
    }

    /// In Prometheus' text format.
    pub(crate) fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_there_from_the_start() {
        let metrics = Metrics::new().unwrap();
        metrics.in_force("abc", 3);
        let text = metrics.text().unwrap();
        for line in [
            "leno_control_plane_connected_proxies 0",
            "leno_control_plane_pushes_total{type=\"routes\"} 0",
            "leno_control_plane_nacks_total{type=\"clusters\"} 0",
            "leno_control_plane_rule_errors 0",
            "leno_control_plane_rule_documents 3",
            "leno_control_plane_config_info{version=\"abc\"} 1",
            "leno_ca_certificates_issued_total 0",
            "leno_ca_refused_total{reason=\"audience\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
