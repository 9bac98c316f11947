//! All blocks of all workers, and the Prometheus collector over them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use leno_config::ir;
use prometheus::core::{Collector, Desc};
use prometheus::proto;

use crate::error::Flags;
use crate::overload::Overload;
use crate::tls::peer::Security;

use super::figures::{DURATION_BOUNDS_MS, Figures};
use super::record::{BUCKETS, RouteBlock, RouteSlot};
use super::trace::spans::Spans;

pub use leno_config::ir::Direction;

/// Routes whose figures are kept apart; the rest is counted together as `other`.
const MAX_ROUTES: usize = 10_000;

/// Which figures belong together. Named by the rule, not by the place in a snapshot: a push resets nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteKey {
    /// `inbound` or `outbound`.
    pub direction: &'static str,
    /// Istio's `connection_security_policy`: `mutual_tls` or `none` inbound; outbound `unknown`, since a route may lead to
    /// endpoints of both kinds.
    pub security: &'static str,
    /// The rule, or the virtual host where no rule is behind a route.
    pub route: String,
}

impl RouteKey {
    /// A route of a listener.
    pub fn new(direction: Direction, mutual_tls: bool, route: String) -> Self {
        let security = match (direction, mutual_tls) {
            (Direction::Inbound, true) => "mutual_tls",
            (Direction::Inbound, false) => "none",
            (Direction::Outbound, _) => "unknown",
        };
        Self { direction: direction_label(direction), security, route }
    }
}

fn direction_label(direction: Direction) -> &'static str {
    match direction {
        ir::Direction::Inbound => "inbound",
        ir::Direction::Outbound => "outbound",
    }
}

/// What a worker counts apart from routes.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct WorkerStats {
    /// Open connections from callers.
    pub connections_active: AtomicU64,
    /// Connections from callers so far.
    pub connections_total: AtomicU64,
    /// Requests whose answer has begun and not ended.
    pub requests_active: AtomicU64,
    /// Tasks that ended in a panic; always 0 unless there is a bug.
    pub panics: AtomicU64,
    /// Requests that an authorization policy denied.
    pub requests_denied: AtomicU64,
    /// TCP connections that an authorization policy denied.
    pub connections_denied: AtomicU64,
    /// Requests and connections that a policy in dry run would have denied.
    pub would_deny: AtomicU64,
    /// Requests and connections that an AUDIT policy asked to see.
    pub audited: AtomicU64,
    /// Requests whose token was refused.
    pub tokens_refused: AtomicU64,
    /// Requests that were delayed on purpose.
    pub faults_delayed: AtomicU64,
    /// Requests that were failed on purpose.
    pub faults_aborted: AtomicU64,
    /// Requests that a rate limit refused.
    pub rate_limited: AtomicU64,
    /// Copies of requests that were answered.
    pub mirrors_answered: AtomicU64,
    /// Copies that were not answered or could not be sent.
    pub mirrors_failed: AtomicU64,
    /// Copies that lagged behind their request.
    pub mirrors_given_up: AtomicU64,
    /// Copies that were not sent, since too many were under way.
    pub mirrors_left_out: AtomicU64,
    /// Requests that were not delayed, since too many waited already.
    pub faults_left_out: AtomicU64,
}

/// What the configuration has to say about itself.
#[derive(Debug, Default, Clone)]
struct ConfigFigures {
    version: u64,
    changed: Option<SystemTime>,
    rejected: u64,
}

/// Everything counted in this process.
#[derive(Debug)]
pub struct Telemetry {
    started: SystemTime,
    routes: Mutex<BTreeMap<RouteKey, Vec<Arc<RouteBlock>>>>,
    workers: Mutex<Vec<Arc<WorkerStats>>>,
    handshakes: Mutex<BTreeMap<(&'static str, Security), u64>>,
    handshakes_failed: AtomicU64,
    refused_plain: AtomicU64,
    config: Mutex<ConfigFigures>,
    keys_not_fetched: AtomicU64,
    overload: OnceLock<Arc<Overload>>,
    /// The way of spans out of the workers.
    pub spans: Spans,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            started: SystemTime::now(),
            routes: Mutex::default(),
            workers: Mutex::default(),
            handshakes: Mutex::default(),
            handshakes_failed: AtomicU64::default(),
            refused_plain: AtomicU64::default(),
            config: Mutex::default(),
            keys_not_fetched: AtomicU64::default(),
            overload: OnceLock::new(),
            spans: Spans::default(),
        }
    }
}

impl Telemetry {
    /// All counters of requests and connections, as values.
    pub fn figures(&self, now: SystemTime) -> Figures {
        let millis = |time: SystemTime| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        };
        Figures {
            started_ms: millis(self.started),
            taken_ms: millis(now),
            duration_bounds_ms: DURATION_BOUNDS_MS.to_vec(),
            connections_active: self.connections_active(),
            ..Figures::default()
        }
    }

    /// A worker's block for a route. Called once per worker and route.
    pub fn slot(&self, key: RouteKey) -> RouteSlot {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let full = routes.len() >= MAX_ROUTES && !routes.contains_key(&key);
        let key = if full { RouteKey { route: "other".to_owned(), ..key } } else { key };
        let block = Arc::new(RouteBlock::default());
        routes.entry(key).or_default().push(Arc::clone(&block));
        RouteSlot::new(block)
    }

    /// Figures of one more worker.
    pub fn worker(&self) -> Arc<WorkerStats> {
        let stats = Arc::new(WorkerStats::default());
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&stats));
        stats
    }

    /// A TLS handshake with a caller (`inbound`) or an endpoint (`outbound`) succeeded. Handshakes are rare and dear, so
    /// this takes a lock.
    pub fn handshake(&self, direction: &'static str, security: Security) {
        let mut handshakes = self.handshakes.lock().unwrap_or_else(PoisonError::into_inner);
        *handshakes.entry((direction, security)).or_default() += 1;
    }

    /// A caller's TLS handshake failed.
    pub fn handshake_failed(&self) {
        self.handshakes_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// A caller in clear text was refused by a listener that demands certificates.
    pub fn refused_plain(&self) {
        self.refused_plain.fetch_add(1, Ordering::Relaxed);
    }

    /// A configuration was put in force.
    pub fn configured(&self, now: SystemTime) {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        config.version += 1;
        config.changed = Some(now);
    }

    /// So many parts of configurations were refused since the start.
    pub fn set_rejected(&self, count: u64) {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).rejected = count;
    }

    /// A part of a configuration was refused.
    pub fn rejected(&self) {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).rejected += 1;
    }

    /// An issuer's keys could not be fetched.
    pub fn keys_not_fetched(&self) {
        self.keys_not_fetched.fetch_add(1, Ordering::Relaxed);
    }

    /// What the process turns away is counted there. Once, before anybody comes.
    pub fn watch(&self, overload: &Arc<Overload>) {
        // An error means that it is watched already.
        let _ = self.overload.set(Arc::clone(overload));
    }

    /// Open connections of all workers.
    pub fn connections_active(&self) -> u64 {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.iter().map(|worker| worker.connections_active.load(Ordering::Relaxed)).sum()
    }

    fn routes_collected(&self) -> [proto::MetricFamily; 2] {
        let mut requests = family("http_requests_total", "Requests, counted at their end.", proto::MetricType::COUNTER);
        let mut durations = family(
            "http_request_duration_seconds",
            "From the head of a request to the last byte of its answer.",
            proto::MetricType::HISTOGRAM,
        );
        for (key, blocks) in self.routes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let mut answers: BTreeMap<(u16, Flags), u64> = BTreeMap::new();
            let mut buckets = [0_u64; BUCKETS.len() + 1];
            let mut sum_micros = 0_u64;
            for block in blocks {
                for one in block.answers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                    *answers.entry((one.code, one.flags)).or_default() += one.count.load(Ordering::Relaxed);
                }
                for (sum, bucket) in buckets.iter_mut().zip(&block.buckets) {
                    *sum += bucket.load(Ordering::Relaxed);
                }
                sum_micros += block.sum_micros.load(Ordering::Relaxed);
            }
            let labels = [
                ("connection_security_policy", key.security),
                ("direction", key.direction),
                ("route", key.route.as_str()),
            ];
            for ((code, flags), count) in answers {
                let (code, flags) = (code.to_string(), flags.to_string());
                let answer = [("response_code", code.as_str()), ("response_flags", flags.as_str())];
                requests.mut_metric().push(counter(&[labels.as_slice(), &answer].concat(), count));
            }
            durations.mut_metric().push(histogram(&labels, &buckets, sum_micros));
        }
        [requests, durations]
    }

    fn handshakes_collected(&self) -> [proto::MetricFamily; 3] {
        let help = "TLS handshakes, by what they agreed on.";
        let mut handshakes = family("leno_tls_handshakes_total", help, proto::MetricType::COUNTER);
        for ((direction, security), count) in self.handshakes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let resumed = if security.resumed { "true" } else { "false" };
            let labels = [
                ("direction", *direction),
                ("version", security.version),
                ("group", security.group),
                ("resumed", resumed),
            ];
            handshakes.mut_metric().push(counter(&labels, *count));
        }
        let failed = self.handshakes_failed.load(Ordering::Relaxed);
        let plain = self.refused_plain.load(Ordering::Relaxed);
        [
            handshakes,
            one_counter("leno_tls_handshakes_failed_total", "Callers whose TLS handshake failed.", failed),
            one_counter("leno_clear_text_refused_total", "Callers in clear text that STRICT turned away.", plain),
        ]
    }

    fn overload_collected(&self) -> Vec<proto::MetricFamily> {
        let Some(overload) = self.overload.get() else { return Vec::new() };
        let help = "Connections and requests that were turned away, by the limit of the bootstrap.";
        let mut shed = family("leno_shed_total", help, proto::MetricType::COUNTER);
        for (limit, count) in [
            ("connections", &overload.shed.connections),
            ("requests", &overload.shed.requests),
            ("adaptive_concurrency", &overload.shed.concurrency),
        ] {
            shed.mut_metric().push(counter(&[("limit", limit)], count.load(Ordering::Relaxed)));
        }
        let limit = overload.concurrency_limit().map(|limit| {
            one_gauge("leno_concurrency_limit", "Requests that the app is thought to work on at once.", limit.into())
        });
        std::iter::once(shed).chain(limit).collect()
    }

    fn process_collected(&self) -> Vec<proto::MetricFamily> {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |figure: fn(&WorkerStats) -> &AtomicU64| -> u64 {
            workers.iter().map(|worker| figure(worker).load(Ordering::Relaxed)).sum()
        };
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let age = config.changed.and_then(|changed| changed.elapsed().ok()).unwrap_or_default();
        let mut denied =
            family("leno_authorization_denied_total", "Denied by an authorization policy.", proto::MetricType::COUNTER);
        for (kind, count) in [("request", sum(|w| &w.requests_denied)), ("connection", sum(|w| &w.connections_denied))]
        {
            denied.mut_metric().push(counter(&[("kind", kind)], count));
        }
        let mut faults =
            family("leno_faults_total", "Faults on purpose, by what they did.", proto::MetricType::COUNTER);
        for (kind, count) in [
            ("delay", sum(|w| &w.faults_delayed)),
            ("abort", sum(|w| &w.faults_aborted)),
            ("left_out", sum(|w| &w.faults_left_out)),
        ] {
            faults.mut_metric().push(counter(&[("kind", kind)], count));
        }
        let help = "Copies of requests, by what became of them.";
        let mut mirrors = family("leno_mirrors_total", help, proto::MetricType::COUNTER);
        for (outcome, count) in [
            ("answered", sum(|w| &w.mirrors_answered)),
            ("failed", sum(|w| &w.mirrors_failed)),
            ("given_up", sum(|w| &w.mirrors_given_up)),
            ("left_out", sum(|w| &w.mirrors_left_out)),
        ] {
            mirrors.mut_metric().push(counter(&[("outcome", outcome)], count));
        }
        let keys_not_fetched = self.keys_not_fetched.load(Ordering::Relaxed);
        vec![
            denied,
            faults,
            mirrors,
            one_counter("leno_authorization_would_deny_total", "A dry run would have denied.", sum(|w| &w.would_deny)),
            one_counter("leno_authorization_audited_total", "An AUDIT policy asked to see.", sum(|w| &w.audited)),
            one_counter("leno_rate_limited_total", "Requests that a rate limit refused.", sum(|w| &w.rate_limited)),
            one_counter("leno_jwt_refused_total", "Requests refused for their token.", sum(|w| &w.tokens_refused)),
            one_counter("leno_jwks_fetch_failures_total", "Fetches of an issuer's keys that failed.", keys_not_fetched),
            one_gauge("active_connections", "Open connections from callers.", to_f64(sum(|w| &w.connections_active))),
            one_counter("connections_total", "Connections from callers.", sum(|w| &w.connections_total)),
            one_gauge("active_requests", "Requests under way.", to_f64(sum(|w| &w.requests_active))),
            one_counter("leno_panics_total", "Tasks that ended in a panic.", sum(|w| &w.panics)),
            one_gauge("leno_config_version", "How often a configuration was put in force.", to_f64(config.version)),
            one_gauge("leno_config_age_seconds", "Since a configuration was put in force.", age.as_secs_f64()),
            one_counter("leno_config_rejected_total", "Parts of a configuration that were refused.", config.rejected),
        ]
    }
}

/// Names of the metrics, for the registry.
const NAMES: [&str; 22] = [
    "leno_shed_total",
    "leno_concurrency_limit",
    "leno_rate_limited_total",
    "leno_mirrors_total",
    "leno_faults_total",
    "leno_authorization_denied_total",
    "leno_authorization_would_deny_total",
    "leno_authorization_audited_total",
    "leno_jwt_refused_total",
    "leno_jwks_fetch_failures_total",
    "http_requests_total",
    "http_request_duration_seconds",
    "leno_tls_handshakes_total",
    "leno_tls_handshakes_failed_total",
    "leno_clear_text_refused_total",
    "active_connections",
    "connections_total",
    "active_requests",
    "leno_panics_total",
    "leno_config_version",
    "leno_config_age_seconds",
    "leno_config_rejected_total",
];

/// The collector that a registry holds.
#[derive(Debug)]
pub struct TelemetryCollector {
    telemetry: Arc<Telemetry>,
    descriptions: Vec<Desc>,
}

impl Telemetry {
    /// A collector over all figures.
    pub fn collector(self: &Arc<Self>) -> Result<TelemetryCollector, prometheus::Error> {
        let descriptions = NAMES
            .iter()
            .map(|name| Desc::new((*name).to_owned(), "leno".to_owned(), Vec::new(), std::collections::HashMap::new()))
            .collect::<Result<_, _>>()?;
        Ok(TelemetryCollector { telemetry: Arc::clone(self), descriptions })
    }
}

impl Collector for TelemetryCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let routes = self.telemetry.routes_collected().into_iter();
        let labelled = routes.chain(self.telemetry.handshakes_collected());
        let labelled = labelled.filter(|family| !family.get_metric().is_empty());
        labelled.chain(self.telemetry.overload_collected()).chain(self.telemetry.process_collected()).collect()
    }
}

/// `leno_build_info`, with the version as label.
pub fn build_info() -> Result<prometheus::IntGauge, prometheus::Error> {
    let options = prometheus::Opts::new("leno_build_info", "Always 1; the labels say what runs.")
        .const_label("version", env!("CARGO_PKG_VERSION"));
    let gauge = prometheus::IntGauge::with_opts(options)?;
    gauge.set(1);
    Ok(gauge)
}

pub(super) fn family(name: &str, help: &str, kind: proto::MetricType) -> proto::MetricFamily {
    let mut family = proto::MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family
}

fn labelled(labels: &[(&str, &str)]) -> proto::Metric {
    let mut metric = proto::Metric::default();
    let pairs = labels.iter().map(|(name, value)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    metric.set_label(pairs.collect());
    metric
}

pub(super) fn counter(labels: &[(&str, &str)], value: u64) -> proto::Metric {
    let mut metric = labelled(labels);
    let mut counter = proto::Counter::default();
    counter.set_value(to_f64(value));
    metric.set_counter(counter);
    metric
}

fn histogram(labels: &[(&str, &str)], buckets: &[u64], sum_micros: u64) -> proto::Metric {
    let mut metric = labelled(labels);
    let mut histogram = proto::Histogram::default();
    let mut below = 0;
    let bounds = BUCKETS.iter().zip(buckets).map(|(bound, count)| {
        below += count;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(to_f64(*bound) / 1e6);
        bucket.set_cumulative_count(below);
        bucket
    });
    histogram.set_bucket(bounds.collect());
    histogram.set_sample_count(buckets.iter().sum());
    histogram.set_sample_sum(to_f64(sum_micros) / 1e6);
    metric.set_histogram(histogram);
    metric
}

fn one_counter(name: &str, help: &str, value: u64) -> proto::MetricFamily {
    let mut family = family(name, help, proto::MetricType::COUNTER);
    family.mut_metric().push(counter(&[], value));
    family
}

fn one_gauge(name: &str, help: &str, value: f64) -> proto::MetricFamily {
    let mut family = family(name, help, proto::MetricType::GAUGE);
    family.mut_metric().push(gauge(&[], value));
    family
}

pub(super) fn gauge(labels: &[(&str, &str)], value: f64) -> proto::Metric {
    let mut metric = labelled(labels);
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
    metric.set_gauge(gauge);
    metric
}

/// Prometheus counts in floating point.
#[allow(clippy::cast_precision_loss)]
pub(super) fn to_f64(value: u64) -> f64 {
    value as f64
}
