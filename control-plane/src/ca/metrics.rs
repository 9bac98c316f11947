//! What the authority counts. Names start with `leno_ca_`.

use std::time::SystemTime;

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// The counters and gauges; cheap to clone, all clones count the same.
#[derive(Debug, Clone)]
pub(crate) struct CaMetrics {
    issued: IntCounter,
    refused: IntCounterVec,
    root_ends: IntGauge,
    own_ends: IntGauge,
}

impl CaMetrics {
    /// All at zero.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            issued: IntCounter::new("leno_ca_certificates_issued_total", "Certificates issued to workloads.")?,
            refused: IntCounterVec::new(
                Opts::new("leno_ca_refused_total", "Callers, requests and nodes that were refused, by reason."),
                &["reason"],
            )?,
            root_ends: IntGauge::new(
                "leno_ca_root_expiry_timestamp_seconds",
                "When the issuing certificate, or one above it, ends.",
            )?,
            own_ends: IntGauge::new(
                "leno_ca_own_certificate_expiry_timestamp_seconds",
                "When the control plane's own certificate ends.",
            )?,
        };
        let Self { issued, refused, root_ends, own_ends } = &metrics;
        registry.register(Box::new(issued.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        registry.register(Box::new(root_ends.clone()))?;
        registry.register(Box::new(own_ends.clone()))?;
        // An alert on a rate needs the series before its first event.
        for reason in
            ["no_credential", "signature", "audience", "expired", "request", "node", "token_review", "api_server"]
        {
            refused.with_label_values(&[reason]);
        }
        Ok(metrics)
    }

    pub(crate) fn issued(&self) {
        self.issued.inc();
    }

    /// One refusal; reasons are a fixed set of words.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    pub(crate) fn root_ends(&self, at: SystemTime) {
        self.root_ends.set(timestamp(at));
    }

    pub(crate) fn own_certificate_ends(&self, at: SystemTime) {
        self.own_ends.set(timestamp(at));
    }
}

fn timestamp(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
