//! `leno_certificate_expires_seconds`, `leno_certificate_lifetime_seconds` and `leno_certificate_renewals_total`.

use std::sync::Arc;
use std::time::SystemTime;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntCounterVec, Opts};

use super::keyring::{Keyring, Origin};

/// In seconds.
const DAY: f64 = 86_400.0;

/// Reads the keyring at each scrape, so that nothing has to be kept up to date. Silent in a proxy without identity.
#[derive(Debug)]
pub struct CertificateMetrics {
    keyring: Arc<Keyring>,
    expires: Gauge,
    /// What is left is to be seen beside it: a minute is nothing of a day, and half of two.
    lifetime: Gauge,
    /// The same in Envoy's words.
    days: Gauge,
    renewals: IntCounterVec,
}

impl CertificateMetrics {
    /// Over a keyring.
    pub fn new(keyring: Arc<Keyring>) -> Result<Self, prometheus::Error> {
        let expires = Gauge::new(
            "leno_certificate_expires_seconds",
            "Until the proxy's own certificate ends; negative when it has ended, absent without one.",
        )?;
        let lifetime = Gauge::new(
            "leno_certificate_lifetime_seconds",
            "From when the proxy's own certificate became valid until it ends; absent without one.",
        )?;
        let days = Gauge::new(
            "envoy_server_days_until_first_cert_expiring",
            "Whole days until the proxy's own certificate ends; 0 when it has ended, absent without one.",
        )?;
        let renewals = IntCounterVec::new(
            Opts::new("leno_certificate_renewals_total", "Attempts to obtain a certificate, by result."),
            &["result"],
        )?;
        Ok(Self { keyring, expires, lifetime, days, renewals })
    }
}

impl Collector for CertificateMetrics {
    fn desc(&self) -> Vec<&Desc> {
        [self.expires.desc(), self.lifetime.desc(), self.days.desc(), self.renewals.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if self.keyring.origin() == Origin::None {
            return Vec::new();
        }
        let report = self.keyring.report();
        self.renewals.reset();
        for (result, count) in [("ok", report.renewed), ("failed", report.failed)] {
            self.renewals.with_label_values(&[result]).inc_by(count);
        }
        let mut families = self.renewals.collect();
        if let Some(svid) = self.keyring.identity().now().svid {
            self.expires.set(match svid.valid_until().duration_since(SystemTime::now()) {
                Ok(left) => left.as_secs_f64(),
                Err(passed) => -passed.duration().as_secs_f64(),
            });
            let whole = svid.valid_until().duration_since(svid.valid_from()).unwrap_or_default();
            self.lifetime.set(whole.as_secs_f64());
            self.days.set((self.expires.get() / DAY).floor().max(0.0));
            families.extend([&self.expires, &self.lifetime, &self.days].into_iter().flat_map(Collector::collect));
        }
        families
    }
}
