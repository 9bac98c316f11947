//! What the control plane counts. Names start with `leno_control_plane_`; those of the authority with `leno_ca_`. Where
//! Istio's control plane counts the very same thing, its name is there too ([`pilot`]), so that dashboards made for it
//! show something.
//!
//! Labels are words of this program (types, codes, reasons) and never what a proxy or a rule says, so the number of
//! series is fixed by the program. What is a state rather than an event (who is connected, who waits, how large the
//! snapshots are) is looked at when somebody asks ([`state`]), and costs nothing until then.

mod pilot;
mod process;
mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use leno_config::diagnostic::Diagnostic;
use leno_config::xds::Kind;
use leno_proxy::version::{REVISION, VERSION};
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::ads::push::Hub;
use crate::ca::metrics::CaMetrics;
use crate::kubernetes::counts::Counts;
use pilot::Pilot;
use process::Process;
use state::States;

/// Seconds that a compilation or the sending of a response takes.
const STEPS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Seconds from an edit to the last acknowledgement. An edit rests 0.1 s before it is taken.
const CONVERGENCE: &[f64] = &[0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0];

/// The counters and gauges; cheap to clone, all clones count the same.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Whose state is looked at; set once there is one.
    hub: Arc<OnceLock<Weak<Hub>>>,
    pushes: IntCounterVec,
    acks: IntCounterVec,
    nacks: IntCounterVec,
    steps: HistogramVec,
    compile_failures: IntCounter,
    convergence: Histogram,
    stream_ends: IntCounterVec,
    rule_errors: IntGauge,
    rejected: IntGauge,
    held_back: IntGauge,
    findings: IntGaugeVec,
    documents: IntGauge,
    generations: IntGauge,
    /// 1 for the version of the rules in force.
    config: IntGaugeVec,
    pilot: Pilot,
    /// What the certificate authority counts.
    pub(crate) ca: CaMetrics,
    /// What the watches of Kubernetes count.
    pub(crate) kubernetes: Counts,
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The proxy closed it.
    Left,
    /// The connection broke, or the proxy reset the stream.
    Lost,
    /// Its credential is none, or not good any more.
    Credential,
    /// The proxy is not what its credential says.
    Identity,
    /// The first request could not be understood.
    NotUnderstood,
    /// It was opened, and nothing was asked for.
    Silent,
    /// It asked for more than a stream may cost, or there are too many streams.
    TooMuch,
    /// This process stops.
    Stopping,
}

/// How the rules stand on disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'a> {
    /// All findings, warnings too.
    pub(crate) findings: &'a [Diagnostic],
    /// Things that a person has to repair.
    pub(crate) errors: usize,
    /// Documents with an error.
    pub(crate) rejected: usize,
    /// Resources that are not served as they are written.
    pub(crate) held_back: usize,
}

impl StreamEnd {
    const ALL: [Self; 8] = [
        Self::Left,
        Self::Lost,
        Self::Credential,
        Self::Identity,
        Self::NotUnderstood,
        Self::Silent,
        Self::TooMuch,
        Self::Stopping,
    ];

    /// As the label has it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Lost => "lost",
            Self::Credential => "credential",
            Self::Identity => "identity",
            Self::NotUnderstood => "not_understood",
            Self::Silent => "silent",
            Self::TooMuch => "too_much",
            Self::Stopping => "stopping",
        }
    }
}

impl Metrics {
    /// All at zero.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let name = |name: &str| format!("leno_control_plane_{name}");
        let gauge = |what: &str, help: &str| IntGauge::new(name(what), help);
        let gauges = |what: &str, help: &str, labels: &[&str]| IntGaugeVec::new(Opts::new(name(what), help), labels);
        let counters = |what: &str, help: &str, label| IntCounterVec::new(Opts::new(name(what), help), &[label]);
        let times =
            |what: &str, help: &str, buckets: &[f64]| HistogramOpts::new(name(what), help).buckets(buckets.to_vec());
        let steps = times("push_seconds", "Time to compile the rules for a scope, and to send one response.", STEPS);
        let convergence =
            times("convergence_seconds", "From an edit of the rules to the last proxy's acknowledgement.", CONVERGENCE);
        let registry = Registry::new();
        let metrics = Self {
            hub: Arc::default(),
            pushes: counters("pushes_total", "Discovery responses sent.", "type")?,
            acks: counters("acks_total", "Discovery responses that a proxy accepted.", "type")?,
            nacks: counters("nacks_total", "Discovery responses that a proxy refused.", "type")?,
            steps: HistogramVec::new(steps, &["step"])?,
            compile_failures: IntCounter::new(
                name("compile_failures_total"),
                "Compilations that the program gave up.",
            )?,
            convergence: Histogram::with_opts(convergence)?,
            stream_ends: counters("stream_ends_total", "Discovery streams that ended, by reason.", "reason")?,
            rule_errors: gauge("rule_errors", "Errors in the rules as they stand on disk.")?,
            rejected: gauge("rejected_documents", "Documents with an error, which are not taken.")?,
            held_back: gauge("held_back_documents", "Resources that are not served as they are written.")?,
            findings: gauges("rule_findings", "Findings about the rules as they stand.", &["code", "severity"])?,
            documents: gauge("rule_documents", "Documents in force.")?,
            generations: gauge("generations", "Sets of rules put in force since the start.")?,
            config: gauges("config_info", "1 for the version of the rules in force.", &["version"])?,
            pilot: Pilot::register(&registry)?,
            ca: CaMetrics::register(&registry)?,
            kubernetes: Counts::register(&registry)?,
            registry,
        };
        metrics.register()?;
        Ok(metrics)
    }

    /// Every series is there from the start: a rate needs a value before its first event.
    fn register(&self) -> Result<(), prometheus::Error> {
        for kind in Kind::PUSH_ORDER {
            for counter in [&self.pushes, &self.acks, &self.nacks] {
                counter.with_label_values(&[kind.label()]);
            }
        }
        for step in ["compile", "send"] {
            self.steps.with_label_values(&[step]);
        }
        for end in StreamEnd::ALL {
            self.stream_ends.with_label_values(&[end.label()]);
        }
        let build = Opts::new("leno_build_info", "Always 1; the labels say what runs.");
        let build = IntGauge::with_opts(build.const_label("version", VERSION).const_label("revision", REVISION))?;
        build.set(1);
        let collectors: [Box<dyn Collector>; 17] = [
            Box::new(self.pushes.clone()),
            Box::new(self.acks.clone()),
            Box::new(self.nacks.clone()),
            Box::new(self.steps.clone()),
            Box::new(self.compile_failures.clone()),
            Box::new(self.convergence.clone()),
            Box::new(self.stream_ends.clone()),
            Box::new(self.rule_errors.clone()),
            Box::new(self.rejected.clone()),
            Box::new(self.held_back.clone()),
            Box::new(self.findings.clone()),
            Box::new(self.documents.clone()),
            Box::new(self.generations.clone()),
            Box::new(self.config.clone()),
            Box::new(build),
            Box::new(Process::new(SystemTime::now())?),
            Box::new(States::new(Arc::clone(&self.hub))?),
        ];
        collectors.into_iter().try_for_each(|collector| self.registry.register(collector))
    }

    /// From now on this hub's streams are what is looked at. The first call counts.
    pub(crate) fn watch(&self, hub: Weak<Hub>) {
        let _ = self.hub.set(hub);
    }

    /// One response was handed to the connection, which took so long: a proxy that reads slowly takes long.
    pub(crate) fn pushed(&self, kind: Kind, took: Duration) {
        self.pushes.with_label_values(&[kind.label()]).inc();
        self.steps.with_label_values(&["send"]).observe(took.as_secs_f64());
        self.pilot.pushed(kind, took);
    }

    /// The rules were compiled for a scope.
    pub(crate) fn compiled(&self, took: Duration) {
        self.steps.with_label_values(&["compile"]).observe(took.as_secs_f64());
    }

    /// The compiler gave up.
    pub(crate) fn compile_failed(&self) {
        self.compile_failures.inc();
        self.pilot.internal_errors.inc();
    }

    /// A proxy accepted a response.
    pub(crate) fn acked(&self, kind: Kind) {
        self.acks.with_label_values(&[kind.label()]).inc();
    }

    /// A proxy refused a response.
    pub(crate) fn nacked(&self, kind: Kind) {
        self.nacks.with_label_values(&[kind.label()]).inc();
        self.pilot.rejects.inc();
    }

    /// One proxy has answered all that an edit made for it, so long after the edit was noticed.
    pub(crate) fn proxy_converged(&self, after: Duration) {
        self.pilot.convergence.observe(after.as_secs_f64());
    }

    /// The last proxy has.
    pub(crate) fn converged(&self, after: Duration) {
        self.convergence.observe(after.as_secs_f64());
    }

    /// A stream came to its end.
    pub(crate) fn stream_ended(&self, end: StreamEnd) {
        self.stream_ends.with_label_values(&[end.label()]).inc();
    }

    /// Notes what is wrong with the rules as they stand on disk.
    pub(crate) fn rules(&self, rules: Rules<'_>) {
        let Rules { findings, errors, rejected, held_back } = rules;
        self.rule_errors.set(count(errors));
        self.rejected.set(count(rejected));
        self.held_back.set(count(held_back));
        let mut of_code = BTreeMap::<_, i64>::new();
        for finding in findings {
            *of_code.entry((finding.code, if finding.is_error() { "error" } else { "warning" })).or_default() += 1;
        }
        self.findings.reset();
        for ((code, severity), count) in of_code {
            self.findings.with_label_values(&[code, severity]).set(count);
        }
    }

    /// Notes which rules are in force, and how many of them are services and VirtualServices.
    pub(crate) fn in_force(&self, version: &str, documents: usize, services: usize, virtual_services: usize) {
        self.config.reset();
        self.config.with_label_values(&[version]).set(1);
        self.documents.set(count(documents));
        self.generations.inc();
        self.pilot.services.set(count(services));
        self.pilot.virtual_services.set(count(virtual_services));
    }

    /// In Prometheus' text format.
    pub(crate) fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use leno_config::diagnostic::codes;

    use super::*;

    /// The lines of a scrape that these are, by the order given; what is missing stands out.
    fn values(metrics: &Metrics, wanted: &[(&str, f64)]) {
        let text = metrics.text().unwrap();
        for (series, expected) in wanted {
            let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
            let value = line.map(|value| value.parse::<f64>().unwrap());
            assert_eq!(value, Some(*expected), "{series} in\n{text}");
        }
    }

    #[test]
    fn everything_is_there_from_the_start() {
        let metrics = Metrics::new().unwrap();
        metrics.in_force("abc", 3, 2, 1);
        values(
            &metrics,
            &[
                ("leno_control_plane_connected_proxies{dialect=\"envoy\",variant=\"delta\"}", 0.0),
                ("leno_control_plane_connected_proxies{dialect=\"grpc\",variant=\"sotw\"}", 0.0),
                ("leno_control_plane_waiting_proxies", 0.0),
                ("leno_control_plane_pushes_total{type=\"routes\"}", 0.0),
                ("leno_control_plane_acks_total{type=\"secrets\"}", 0.0),
                ("leno_control_plane_nacks_total{type=\"clusters\"}", 0.0),
                ("leno_control_plane_push_seconds_count{step=\"compile\"}", 0.0),
                ("leno_control_plane_convergence_seconds_count", 0.0),
                ("leno_control_plane_stream_ends_total{reason=\"lost\"}", 0.0),
                ("leno_control_plane_snapshot_bytes{type=\"routes\"}", 0.0),
                ("leno_control_plane_rule_errors", 0.0),
                ("leno_control_plane_rule_documents", 3.0),
                ("leno_control_plane_config_info{version=\"abc\"}", 1.0),
                ("leno_ca_certificates_issued_total", 0.0),
                ("leno_ca_refused_total{reason=\"audience\"}", 0.0),
                ("pilot_xds", 0.0),
                ("pilot_services", 2.0),
                ("pilot_virt_services", 1.0),
                ("pilot_xds_pushes{type=\"cds\"}", 0.0),
            ],
        );
    }

    #[test]
    fn each_event_is_counted_under_our_name_and_under_istios() {
        let metrics = Metrics::new().unwrap();
        let ms = Duration::from_millis;
        metrics.pushed(Kind::Cluster, ms(2));
        metrics.pushed(Kind::Route, ms(2));
        metrics.pushed(Kind::Route, ms(700));
        metrics.compiled(ms(40));
        metrics.compile_failed();
        metrics.acked(Kind::Route);
        metrics.nacked(Kind::Endpoints);
        metrics.proxy_converged(ms(110));
        metrics.proxy_converged(ms(120));
        metrics.converged(ms(120));
        metrics.stream_ended(StreamEnd::Credential);
        values(
            &metrics,
            &[
                ("leno_control_plane_pushes_total{type=\"routes\"}", 2.0),
                ("pilot_xds_pushes{type=\"rds\"}", 2.0),
                ("pilot_xds_push_time_count{type=\"rds\"}", 2.0),
                ("pilot_xds_pushes{type=\"cds\"}", 1.0),
                ("leno_control_plane_push_seconds_count{step=\"send\"}", 3.0),
                ("leno_control_plane_push_seconds_bucket{step=\"send\",le=\"0.0025\"}", 2.0),
                ("leno_control_plane_push_seconds_bucket{step=\"compile\",le=\"0.05\"}", 1.0),
                ("leno_control_plane_compile_failures_total", 1.0),
                ("pilot_total_xds_internal_errors", 1.0),
                ("leno_control_plane_acks_total{type=\"routes\"}", 1.0),
                ("leno_control_plane_nacks_total{type=\"endpoints\"}", 1.0),
                ("pilot_total_xds_rejects", 1.0),
                ("leno_control_plane_convergence_seconds_count", 1.0),
                ("leno_control_plane_convergence_seconds_bucket{le=\"0.15\"}", 1.0),
                ("pilot_proxy_convergence_time_count", 2.0),
                ("leno_control_plane_stream_ends_total{reason=\"credential\"}", 1.0),
            ],
        );
    }

    #[test]
    fn findings_are_counted_by_code_and_forgotten_with_their_cause() {
        let metrics = Metrics::new().unwrap();
        let findings = [codes::SYNTAX, codes::SYNTAX, codes::UNKNOWN_FIELD].map(|code| Diagnostic::new(code, "x"));
        metrics.rules(Rules { findings: &findings, errors: 3, rejected: 2, held_back: 1 });
        let syntax = format!("leno_control_plane_rule_findings{{code=\"{}\",severity=\"error\"}}", codes::SYNTAX.id);
        values(
            &metrics,
            &[
                (&syntax, 2.0),
                ("leno_control_plane_rule_errors", 3.0),
                ("leno_control_plane_rejected_documents", 2.0),
                ("leno_control_plane_held_back_documents", 1.0),
            ],
        );
        metrics.rules(Rules { findings: &[], errors: 0, rejected: 0, held_back: 0 });
        assert!(!metrics.text().unwrap().contains("rule_findings{"));
    }
}
