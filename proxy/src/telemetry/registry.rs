//! Everything counted in the process, and the Prometheus collector over it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use leno_config::node::Node;
use prometheus::core::{Collector, Desc};
use prometheus::proto;

use crate::overload::Overload;
use crate::overload::reached::Reached;
use crate::tls::peer::Security;
use crate::version;

use super::connections::TcpBook;
use super::dialect::Dialect;
use super::figures::{DURATION_BOUNDS_MS, Figures};
use super::labels::Labels;
use super::log::Hub;
use super::requests::RequestBook;
use super::series::IDLE;
use super::tap::Taps;
use super::text::{counter, family, gauge, one_counter, one_gauge, to_f64};
use super::trace::spans::Spans;
use super::{istio, otel, routes, rows};

/// Series of requests that are told apart.
const MOST_REQUESTS: usize = 9_000;
/// Series of TCP connections that are told apart.
const MOST_TCP: usize = 1_000;

/// What a worker counts apart from routes.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct WorkerStats {
    /// Open connections from callers.
    pub connections_active: AtomicU64,
    /// Those of them that rest, without buffers.
    pub connections_resting: AtomicU64,
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
    /// Connections whose first bytes were HTTP/1.1.
    pub detected_http1: AtomicU64,
    /// Connections whose first bytes were HTTP/2.
    pub detected_http2: AtomicU64,
    /// Connections whose first bytes were TLS.
    pub detected_tls: AtomicU64,
    /// Connections that said nothing that could be told apart, in time.
    pub detected_nothing: AtomicU64,
    /// Connections whose caller's first bytes were something else.
    pub detected_bytes: AtomicU64,
    /// Connections whose endpoint spoke first.
    pub detected_greeting: AtomicU64,
    /// Connections to a capturing listener that nobody had redirected.
    pub not_redirected: AtomicU64,
    /// Captured connections that would have gone round in a circle.
    pub loops_refused: AtomicU64,
}

/// What the configuration has to say about itself.
#[derive(Debug, Default, Clone)]
struct ConfigFigures {
    version: u64,
    changed: Option<SystemTime>,
    rejected: u64,
    /// When a part was refused last.
    last_rejected: Option<SystemTime>,
}

/// Everything counted in this process.
#[derive(Debug)]
pub struct Telemetry {
    /// Where lines of access logs leave the process.
    pub logs: Arc<Hub>,
    started: SystemTime,
    dialect: Dialect,
    labels: Arc<Labels>,
    requests: Arc<RequestBook>,
    tcp: Arc<TcpBook>,
    workers: Mutex<Vec<Arc<WorkerStats>>>,
    handshakes: Mutex<BTreeMap<(&'static str, Security), u64>>,
    handshakes_failed: AtomicU64,
    refused_plain: AtomicU64,
    config: Mutex<ConfigFigures>,
    keys_not_fetched: AtomicU64,
    upgrades_failed: AtomicU64,
    overload: OnceLock<Arc<Overload>>,
    /// The way of spans out of the workers.
    pub spans: Spans,
    /// Who wants to see live traffic.
    pub taps: Arc<Taps>,
    draining: AtomicBool,
    /// Whoever asks for its health is told that it fails.
    health_fails: AtomicBool,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            logs: Arc::default(),
            started: SystemTime::now(),
            dialect: Dialect::default(),
            labels: Arc::default(),
            requests: Arc::new(RequestBook::new(MOST_REQUESTS)),
            tcp: Arc::new(TcpBook::new(MOST_TCP)),
            workers: Mutex::default(),
            handshakes: Mutex::default(),
            handshakes_failed: AtomicU64::default(),
            refused_plain: AtomicU64::default(),
            config: Mutex::default(),
            keys_not_fetched: AtomicU64::default(),
            upgrades_failed: AtomicU64::default(),
            overload: OnceLock::new(),
            spans: Spans::default(),
            taps: Arc::default(),
            draining: AtomicBool::default(),
            health_fails: AtomicBool::default(),
        }
    }
}

impl Telemetry {
    /// Of a proxy that stands beside a workload; whose names its metrics have.
    pub fn new(node: &Node, dialect: Dialect) -> Self {
        let telemetry = Self { dialect, ..Self::default() };
        telemetry.labels.is_beside(node);
        telemetry
    }

    /// Whose names metrics have.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The names of all series.
    pub fn labels(&self) -> &Arc<Labels> {
        &self.labels
    }

    /// All series of requests.
    pub fn requests(&self) -> &Arc<RequestBook> {
        &self.requests
    }

    /// All series of TCP connections.
    pub fn tcp(&self) -> &Arc<TcpBook> {
        &self.tcp
    }

    /// All counters of requests and connections, as values.
    pub fn figures(&self, now: SystemTime) -> Figures {
        let (requests, tcp) = (self.requests.totals(), self.tcp.totals());
        Figures {
            started_ms: millis(self.started),
            taken_ms: millis(now),
            own: rows::own(&self.labels),
            duration_bounds_ms: DURATION_BOUNDS_MS.to_vec(),
            connections_active: self.connections_active(),
            requests_active: self.sum(|worker| &worker.requests_active),
            requests: rows::requests(&self.labels, &requests),
            routes: rows::routes(&requests),
            tcp: rows::connections(&self.labels, &tcp),
            ..Figures::default()
        }
    }

    /// Forgets names that nobody has held for a while; called now and then, with the second that it is.
    pub fn sweep(&self, now: u64) {
        self.labels.sweep(now, IDLE);
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
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if count > config.rejected {
            config.last_rejected = Some(SystemTime::now());
        }
        config.rejected = count;
    }

    /// A part of a configuration was refused.
    pub fn rejected(&self) {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        config.rejected += 1;
        config.last_rejected = Some(SystemTime::now());
    }

    /// From now on it takes nothing new.
    pub fn drains(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whoever asks for its health is told that it fails, until that is taken back (`POST /healthcheck/fail`, `/ok`).
    pub fn fails_health(&self, fails: bool) {
        self.health_fails.store(fails, Ordering::Relaxed);
    }

    /// An issuer's keys could not be fetched.
    pub fn keys_not_fetched(&self) {
        self.keys_not_fetched.fetch_add(1, Ordering::Relaxed);
    }

    /// A new process wanted to take over and could not.
    pub fn upgrade_failed(&self) {
        self.upgrades_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// What the process turns away is counted there. Once, before anybody comes.
    pub fn watch(&self, overload: &Arc<Overload>) {
        // An error means that it is watched already.
        let _ = self.overload.set(Arc::clone(overload));
    }

    /// Open connections of all workers.
    pub fn connections_active(&self) -> u64 {
        self.sum(|worker| &worker.connections_active)
    }

    /// A figure of all workers.
    fn sum(&self, figure: fn(&WorkerStats) -> &AtomicU64) -> u64 {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.iter().map(|worker| figure(worker).load(Ordering::Relaxed)).sum()
    }

    fn series_collected(&self) -> Vec<proto::MetricFamily> {
        let (requests, tcp) = (self.requests.totals(), self.tcp.totals());
        let mut families = routes::collected(&requests);
        if self.dialect.has_istio() {
            families.extend(istio::collected(&self.labels, &requests, &tcp));
        }
        if self.dialect.has_otel() {
            families.extend(otel::collected(&requests));
        }
        families
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
            ("memory", &overload.shed.memory),
        ] {
            shed.mut_metric().push(counter(&[("limit", limit)], count.load(Ordering::Relaxed)));
        }
        let limit = overload.concurrency_limit().map(|limit| {
            one_gauge("leno_concurrency_limit", "Requests that the app is thought to work on at once.", limit.into())
        });
        let help =
            "Connections, streams and requests that were ended because a caller went beyond a limit of the bootstrap.";
        let mut reached = family("leno_downstream_limit_total", help, proto::MetricType::COUNTER);
        for (limit, name) in Reached::ALL {
            reached.mut_metric().push(counter(&[("limit", name)], overload.reached.of(limit)));
        }
        let memory = overload.budget.limit().map(|bytes| {
            let used = overload.budget.used();
            [
                one_gauge("leno_memory_budget_bytes", "What the process may have in memory.", bytes as f64),
                one_gauge("leno_memory_used_bytes", "What it has, as it was looked at last.", used as f64),
            ]
        });
        let resting = one_gauge(
            "leno_connections_resting",
            "Connections from callers that rest and have given their buffers back.",
            self.sum(|worker| &worker.connections_resting) as f64,
        );
        [shed, reached, resting].into_iter().chain(limit).chain(memory.into_iter().flatten()).collect()
    }

    /// What connections turned out to be, and which of them were not taken.
    fn arrivals_collected(&self) -> [proto::MetricFamily; 2] {
        let sum = |figure| self.sum(figure);
        let help = "Connections by what their first bytes were, inside of TLS as well.";
        let mut detected = family("leno_protocol_detected_total", help, proto::MetricType::COUNTER);
        for (protocol, count) in [
            ("http1", sum(|w| &w.detected_http1)),
            ("http2", sum(|w| &w.detected_http2)),
            ("tls", sum(|w| &w.detected_tls)),
            ("tcp", sum(|w| &w.detected_bytes)),
            ("server_first", sum(|w| &w.detected_greeting)),
            ("timeout", sum(|w| &w.detected_nothing)),
        ] {
            detected.mut_metric().push(counter(&[("protocol", protocol)], count));
        }
        let help = "Connections to a capturing port that were closed: nobody had redirected them, or they would have come back \
                    for ever.";
        let mut refused = family("leno_capture_refused_total", help, proto::MetricType::COUNTER);
        for (reason, count) in [("not_redirected", sum(|w| &w.not_redirected)), ("loop", sum(|w| &w.loops_refused))] {
            refused.mut_metric().push(counter(&[("reason", reason)], count));
        }
        [detected, refused]
    }

    fn process_collected(&self) -> Vec<proto::MetricFamily> {
        let sum = |figure| self.sum(figure);
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
        let help = "Series of requests and connections, before they are summed by their labels.";
        let mut series = family("leno_series", help, proto::MetricType::GAUGE);
        for (kind, count) in [("request", self.requests.len()), ("tcp", self.tcp.len())] {
            series.mut_metric().push(gauge(&[("kind", kind)], to_f64(count as u64)));
        }
        let seconds = |time: Option<SystemTime>| time.map_or(0.0, |time| to_f64(millis(time)) / 1e3);
        let is_live = ![&self.draining, &self.health_fails].iter().any(|why| why.load(Ordering::Relaxed));
        let upgrades_failed = self.upgrades_failed.load(Ordering::Relaxed);
        let keys_not_fetched = self.keys_not_fetched.load(Ordering::Relaxed);
        vec![
            series,
            one_gauge(
                "envoy_server_live",
                "1 until it drains or its health is made to fail.",
                f64::from(u8::from(is_live)),
            ),
            one_gauge("process_start_time_seconds", "Since 1970.", seconds(Some(self.started))),
            one_gauge(
                "leno_config_last_rejected_timestamp_seconds",
                "When a part of a configuration was refused last, since 1970; 0: never.",
                seconds(config.last_rejected),
            ),
            denied,
            faults,
            mirrors,
            one_counter("leno_authorization_would_deny_total", "A dry run would have denied.", sum(|w| &w.would_deny)),
            one_counter("leno_authorization_audited_total", "An AUDIT policy asked to see.", sum(|w| &w.audited)),
            one_counter("leno_rate_limited_total", "Requests that a rate limit refused.", sum(|w| &w.rate_limited)),
            one_counter("leno_jwt_refused_total", "Requests refused for their token.", sum(|w| &w.tokens_refused)),
            one_counter("leno_jwks_fetch_failures_total", "Fetches of an issuer's keys that failed.", keys_not_fetched),
            one_counter("leno_upgrades_failed_total", "New processes that could not take over.", upgrades_failed),
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
const NAMES: [&str; 26] = [
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
    "leno_series",
    "leno_protocol_detected_total",
    "leno_capture_refused_total",
    "envoy_server_live",
    "process_start_time_seconds",
    "leno_config_last_rejected_timestamp_seconds",
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
        let all = NAMES.iter().chain(&routes::NAMES).chain(&istio::NAMES).chain(&otel::NAMES);
        let descriptions = all
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
        let series = self.telemetry.series_collected().into_iter();
        let labelled = series.chain(self.telemetry.handshakes_collected());
        let labelled = labelled.filter(|family| !family.get_metric().is_empty());
        let process = self.telemetry.process_collected().into_iter().chain(self.telemetry.arrivals_collected());
        labelled.chain(self.telemetry.overload_collected()).chain(process).collect()
    }
}

/// `leno_build_info`, with version and commit as labels.
pub fn build_info() -> Result<prometheus::IntGauge, prometheus::Error> {
    let options = prometheus::Opts::new("leno_build_info", "Always 1; the labels say what runs.")
        .const_label("version", version::VERSION)
        .const_label("revision", version::REVISION);
    let gauge = prometheus::IntGauge::with_opts(options)?;
    gauge.set(1);
    Ok(gauge)
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
