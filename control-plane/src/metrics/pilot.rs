//! Names that Istio's control plane has for what ours counts too, with the same units and labels. Only where the meaning
//! is the same: a panel that shows something else than its title is worse than an empty one.

use std::time::Duration;

use leno_config::xds::Kind;
use leno_proxy::version::VERSION;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Istio's buckets for `pilot_xds_push_time`, in seconds.
const PUSH_TIME: &[f64] = &[0.01, 0.1, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];
/// Istio's buckets for `pilot_proxy_convergence_time`, in seconds.
const CONVERGENCE: &[f64] = &[0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];

/// What is counted under Istio's names; `pilot_xds`, who is connected, stands beside our own ([`super::state`]).
#[derive(Debug, Clone)]
pub(super) struct Pilot {
    pushes: IntCounterVec,
    push_time: HistogramVec,
    /// From an edit to one proxy's acknowledgement.
    pub(super) convergence: Histogram,
    /// Refused responses.
    pub(super) rejects: IntCounter,
    /// Faults of this program.
    pub(super) internal_errors: IntCounter,
    /// Services in force.
    pub(super) services: IntGauge,
    pub(super) virtual_services: IntGauge,
}

impl Pilot {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let times = |name: &str, help: &str, buckets: &[f64]| HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let push_time = times("pilot_xds_push_time", "Time to send one discovery response, in seconds.", PUSH_TIME);
        let help = "From an edit of the rules to a proxy's acknowledgement, in seconds.";
        let convergence = times("pilot_proxy_convergence_time", help, CONVERGENCE);
        let pilot = Self {
            pushes: IntCounterVec::new(Opts::new("pilot_xds_pushes", "Discovery responses sent."), &["type"])?,
            push_time: HistogramVec::new(push_time, &["type"])?,
            convergence: Histogram::with_opts(convergence)?,
            rejects: IntCounter::new("pilot_total_xds_rejects", "Discovery responses that a proxy refused.")?,
            internal_errors: IntCounter::new("pilot_total_xds_internal_errors", "Faults of the control plane.")?,
            services: IntGauge::new("pilot_services", "Services in force.")?,
            virtual_services: IntGauge::new("pilot_virt_services", "VirtualServices in force.")?,
        };
        let info = Opts::new("pilot_info", "Always 1; the label says what runs.").const_label("version", VERSION);
        let info = IntGauge::with_opts(info)?;
        info.set(1);
        for kind in Kind::PUSH_ORDER {
            pilot.pushes.with_label_values(&[short(kind)]);
            pilot.push_time.with_label_values(&[short(kind)]);
        }
        registry.register(Box::new(pilot.pushes.clone()))?;
        registry.register(Box::new(pilot.push_time.clone()))?;
        registry.register(Box::new(pilot.convergence.clone()))?;
        registry.register(Box::new(pilot.rejects.clone()))?;
        registry.register(Box::new(pilot.internal_errors.clone()))?;
        registry.register(Box::new(pilot.services.clone()))?;
        registry.register(Box::new(pilot.virtual_services.clone()))?;
        registry.register(Box::new(info))?;
        Ok(pilot)
    }

    pub(super) fn pushed(&self, kind: Kind, took: Duration) {
        self.pushes.with_label_values(&[short(kind)]).inc();
        self.push_time.with_label_values(&[short(kind)]).observe(took.as_secs_f64());
    }
}

/// As Istio abbreviates it.
fn short(kind: Kind) -> &'static str {
    match kind {
        Kind::Cluster => "cds",
        Kind::Endpoints => "eds",
        Kind::Secret => "sds",
        Kind::Listener => "lds",
        Kind::Route => "rds",
    }
}
