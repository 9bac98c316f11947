//! `/stats`: the figures of `/stats/prometheus`, for people, in Envoy's form: a line per figure, `name: value`.
//!
//! What stands under `envoy_cluster_…` has Envoy's own name here (`cluster.NAME.upstream_rq_total`); the others have the
//! name and labels that they have in Prometheus.
//!
//! `POST /reset_counters` sets what these pages show to zero, for who wants to see what happens from now on. It takes
//! nothing from `/stats/prometheus`: counters that go back look like a restart to whatever scrapes them, and rates over
//! them lie.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use http::StatusCode;
use prometheus::Encoder;
use prometheus::proto::{Bucket, Metric, MetricFamily, MetricType};
use regex::Regex;
use serde_json::{Value, json};

use crate::cluster;

use super::Shared;
use super::answer::{self, Answer, text, with_type};
use super::query::{Query, QueryError};

/// What `/stats` understands.
pub(super) const PARAMETERS: &[&str] = &["filter", "format", "usedonly"];

/// Quantiles that are worked out of histograms.
const QUANTILES: [f64; 4] = [0.5, 0.9, 0.95, 0.99];

/// `/stats`: `filter` takes the figures whose name matches, `usedonly` those that are not 0.
pub(super) fn answer(shared: &Shared, query: &Query) -> Result<Answer, QueryError> {
    let format = query.one_of("format", &["text", "json", "prometheus"])?;
    let (filter, used_only) = (query.regex("filter")?, query.switch("usedonly")?);
    let mut families = families(shared);
    if format == Some("prometheus") {
        families.retain(|family| filter.as_ref().is_none_or(|filter| filter.is_match(family.name())));
        return Ok(encoded(&families));
    }
    let shown = shared.baseline.since(figures(&families));
    let shown: Vec<Figure> = shown.into_iter().filter(|figure| figure.is_wanted(filter.as_ref(), used_only)).collect();
    Ok(if format == Some("json") { answer::json(&as_json(&shown)) } else { answer::lines(as_text(&shown)) })
}

/// `/stats/prometheus`.
pub(super) fn prometheus(shared: &Shared) -> Answer {
    encoded(&families(shared))
}

/// `POST /reset_counters`.
pub(super) fn reset(shared: &Shared) -> Answer {
    shared.baseline.set(figures(&families(shared)));
    text(StatusCode::OK, "OK: /stats counts from now on; /stats/prometheus goes on, since its readers expect that\n")
}

fn encoded(families: &[MetricFamily]) -> Answer {
    let mut encoded = Vec::new();
    match prometheus::TextEncoder::new().encode(families, &mut encoded) {
        Ok(()) => with_type(StatusCode::OK, prometheus::TEXT_FORMAT, encoded),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the metrics: {error}\n")),
    }
}

fn families(shared: &Shared) -> Vec<MetricFamily> {
    let mut families = shared.registry.gather();
    families.extend(cluster::metrics::collected(shared.snapshot().clusters.iter().map(|cluster| &**cluster)));
    families
}

/// What the counters stood at when somebody set them to zero; bounded by how many there are.
#[derive(Debug, Default)]
pub(super) struct Baseline(Mutex<BTreeMap<String, f64>>);

impl Baseline {
    fn set(&self, figures: Vec<Figure>) {
        let counters = figures.into_iter().filter_map(|figure| match figure.amount {
            Amount::Count(count) => Some((figure.name, count)),
            Amount::Level(_) | Amount::Spread { .. } => None,
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counters.collect();
    }

    fn since(&self, mut figures: Vec<Figure>) -> Vec<Figure> {
        let baseline = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for figure in &mut figures {
            if let (Amount::Count(count), Some(before)) = (&mut figure.amount, baseline.get(&figure.name)) {
                // A series that expired and came back counts from its own beginning.
                *count = if *count >= *before { *count - before } else { *count };
            }
        }
        figures
    }
}

#[derive(Debug, PartialEq)]
struct Figure {
    name: String,
    amount: Amount,
}

#[derive(Debug, PartialEq)]
enum Amount {
    /// Only grows.
    Count(f64),
    /// Goes up and down.
    Level(f64),
    /// A histogram: how many, their sum, and [`QUANTILES`].
    Spread { count: u64, sum: f64, quantiles: [Option<f64>; QUANTILES.len()] },
}

impl Figure {
    fn of(family: &MetricFamily, metric: &Metric) -> Self {
        let name = name(family.name(), metric);
        let amount = match family.get_field_type() {
            MetricType::COUNTER => Amount::Count(metric.get_counter().get_value()),
            MetricType::HISTOGRAM => {
                let histogram = metric.get_histogram();
                let (count, sum) = (histogram.get_sample_count(), histogram.get_sample_sum());
                let quantiles = QUANTILES.map(|quantile| quantile_of(histogram.get_bucket(), count, quantile));
                Amount::Spread { count, sum, quantiles }
            }
            MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => {
                Amount::Level(metric.get_gauge().get_value())
            }
        };
        Self { name, amount }
    }

    fn is_wanted(&self, filter: Option<&Regex>, used_only: bool) -> bool {
        let is_used = match self.amount {
            Amount::Count(value) | Amount::Level(value) => value != 0.0,
            Amount::Spread { count, .. } => count > 0,
        };
        (is_used || !used_only) && filter.is_none_or(|filter| filter.is_match(&self.name))
    }
}

fn figures(families: &[MetricFamily]) -> Vec<Figure> {
    let figures = families.iter().flat_map(|family| family.get_metric().iter().map(|one| Figure::of(family, one)));
    let mut figures: Vec<Figure> = figures.collect();
    figures.sort_by(|one, other| one.name.cmp(&other.name));
    figures
}

/// Envoy's name where there is one: Prometheus' is made of it by putting the tags aside.
fn name(family: &str, metric: &Metric) -> String {
    let label =
        |wanted: &str| metric.get_label().iter().find(|label| label.name() == wanted).map(|label| label.value());
    if let (Some(rest), Some(cluster)) = (family.strip_prefix("envoy_cluster_"), label("envoy_cluster_name")) {
        return match (rest.strip_suffix("_xx"), label("envoy_response_code_class")) {
            (Some(rest), Some(class)) => format!("cluster.{cluster}.{rest}_{class}xx"),
            _ => format!("cluster.{cluster}.{rest}"),
        };
    }
    if let Some(rest) = family.strip_prefix("envoy_server_") {
        return format!("server.{rest}");
    }
    let mut name = family.to_owned();
    for (at, label) in metric.get_label().iter().enumerate() {
        // Writing to a String does not fail.
        let _ = write!(name, "{}{}={:?}", if at == 0 { '{' } else { ',' }, label.name(), label.value());
    }
    if !metric.get_label().is_empty() {
        name.push('}');
    }
    name
}

/// As Prometheus' `histogram_quantile` works it out: evenly spread within a bucket; the last bound for what lies above.
/// `None`: nothing was observed.
#[allow(clippy::cast_precision_loss)] // Counts.
fn quantile_of(buckets: &[Bucket], count: u64, quantile: f64) -> Option<f64> {
    let rank = quantile * count as f64;
    let (mut lower, mut below) = (0.0, 0);
    for bucket in buckets.iter().filter(|bucket| bucket.upper_bound().is_finite()) {
        let (upper, within) = (bucket.upper_bound(), bucket.cumulative_count());
        if within > below && within as f64 >= rank {
            return Some(lower + (upper - lower) * (rank - below as f64) / (within - below) as f64);
        }
        (lower, below) = (upper, within);
    }
    (count > 0).then_some(lower)
}

fn as_text(figures: &[Figure]) -> String {
    let mut out = String::new();
    for Figure { name, amount } in figures {
        // Writing to a String does not fail.
        let _ = match amount {
            Amount::Count(value) | Amount::Level(value) => writeln!(out, "{name}: {value}"),
            Amount::Spread { count: 0, .. } => writeln!(out, "{name}: No recorded values"),
            Amount::Spread { count, sum, quantiles } => {
                let quantiles = QUANTILES
                    .iter()
                    .zip(quantiles)
                    .filter_map(|(quantile, value)| value.map(|value| format!("P{}({value:.3})", quantile * 100.0)));
                writeln!(out, "{name}: {} count={count} sum={sum:.3}", quantiles.collect::<Vec<_>>().join(" "))
            }
        };
    }
    out
}

/// Envoy's shape: figures, and all histograms in one object.
fn as_json(figures: &[Figure]) -> Value {
    let mut stats = Vec::new();
    let mut histograms = Vec::new();
    for Figure { name, amount } in figures {
        match amount {
            Amount::Count(value) | Amount::Level(value) => stats.push(json!({ "name": name, "value": number(*value) })),
            Amount::Spread { count, sum, quantiles } => {
                let values: Vec<Value> = quantiles.iter().map(|value| json!({ "cumulative": value })).collect();
                histograms.push(json!({ "name": name, "count": count, "sum": sum, "values": values }));
            }
        }
    }
    if !histograms.is_empty() {
        let percents = QUANTILES.map(|quantile| quantile * 100.0);
        stats.push(json!({
            "histograms": { "supported_quantiles": percents, "computed_quantiles": histograms },
        }));
    }
    json!({ "stats": stats })
}

/// Whole numbers without a point, as programs expect counts.
#[allow(clippy::cast_possible_truncation)] // Looked at before.
fn number(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT { json!(value as i64) } else { json!(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{CounterVec, Gauge, Histogram, HistogramOpts, Opts, Registry};

    fn registry() -> Registry {
        let registry = Registry::new();
        let labels = ["envoy_cluster_name", "envoy_response_code_class"];
        let classes = CounterVec::new(Opts::new("envoy_cluster_upstream_rq_xx", "x"), &labels).expect("valid");
        classes.with_label_values(&["reviews", "5"]).inc_by(3.0);
        let requests = CounterVec::new(Opts::new("requests_total", "x"), &["code"]).expect("valid");
        requests.with_label_values(&["200"]).inc_by(7.0);
        requests.with_label_values(&["503"]).inc_by(0.0);
        let live = Gauge::new("envoy_server_live", "x").expect("valid");
        live.set(1.0);
        let options = HistogramOpts::new("took_ms", "x").buckets(vec![10.0, 100.0]);
        let took = Histogram::with_opts(options).expect("valid");
        (0..10).for_each(|_| took.observe(5.0));
        let register = |one: Box<dyn prometheus::core::Collector>| registry.register(one).expect("new");
        register(Box::new(classes));
        register(Box::new(requests));
        register(Box::new(live));
        register(Box::new(took));
        registry
    }

    #[test]
    fn figures_have_envoys_names_where_envoy_has_one() {
        let text = as_text(&figures(&registry().gather()));
        assert_eq!(
            text,
            "cluster.reviews.upstream_rq_5xx: 3\n\
             requests_total{code=\"200\"}: 7\n\
             requests_total{code=\"503\"}: 0\n\
             server.live: 1\n\
             took_ms: P50(5.000) P90(9.000) P95(9.500) P99(9.900) count=10 sum=50.000\n"
        );
    }

    #[test]
    fn a_filter_takes_names_and_used_only_takes_what_is_not_zero() {
        let figures = figures(&registry().gather());
        let wanted = |filter: Option<&str>, used_only| {
            let filter = filter.map(|filter| Regex::new(filter).expect("valid"));
            figures.iter().filter(|figure| figure.is_wanted(filter.as_ref(), used_only)).count()
        };
        assert_eq!((wanted(None, false), wanted(None, true)), (5, 4));
        assert_eq!((wanted(Some("^requests"), false), wanted(Some("^requests"), true)), (2, 1));
    }

    #[test]
    fn json_has_envoys_shape() {
        let json = as_json(&figures(&registry().gather()));
        assert_eq!(json["stats"][0], json!({"name": "cluster.reviews.upstream_rq_5xx", "value": 3}));
        let histograms = &json["stats"][4]["histograms"];
        assert_eq!(histograms["supported_quantiles"], json!([50.0, 90.0, 95.0, 99.0]));
        assert_eq!(histograms["computed_quantiles"][0]["name"], "took_ms");
    }

    #[test]
    fn counters_begin_anew_and_levels_stay() {
        let (registry, baseline) = (registry(), Baseline::default());
        baseline.set(figures(&registry.gather()));
        let shown = baseline.since(figures(&registry.gather()));
        let value = |name: &str| {
            let found = shown.iter().find(|figure| figure.name == name).map(|figure| &figure.amount);
            match found {
                Some(Amount::Count(value) | Amount::Level(value)) => *value,
                other => panic!("{name}: {other:?}"),
            }
        };
        assert!(value("requests_total{code=\"200\"}") == 0.0 && value("server.live") == 1.0);
    }

    #[test]
    fn what_lies_above_the_last_bound_is_told_as_that_bound() {
        assert_eq!(quantile_of(&[], 0, 0.5), None);
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(10.0);
        bucket.set_cumulative_count(1);
        assert_eq!(quantile_of(&[bucket], 10, 0.99), Some(10.0));
    }
}
