//! Families of Prometheus' data model. Its `TextEncoder` writes and escapes them.

use prometheus::proto::{self, Metric, MetricFamily, MetricType};

/// A family without series.
pub(super) fn family(name: &str, help: &str, kind: MetricType) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family
}

/// A counter with its labels.
pub(super) fn counter(labels: &[(&str, &str)], value: u64) -> Metric {
    let mut metric = labelled(labels);
    let mut counter = proto::Counter::default();
    counter.set_value(to_f64(value));
    metric.set_counter(counter);
    metric
}

/// A gauge with its labels.
pub(super) fn gauge(labels: &[(&str, &str)], value: f64) -> Metric {
    let mut metric = labelled(labels);
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
    metric.set_gauge(gauge);
    metric
}

/// A histogram with its labels: bounds with how many are up to each, how many there are, and their sum.
pub(super) fn histogram(
    labels: &[(&str, &str)],
    bounds: impl Iterator<Item = (f64, u64)>,
    count: u64,
    sum: f64,
) -> Metric {
    let mut metric = labelled(labels);
    let mut histogram = proto::Histogram::default();
    let bounds = bounds.map(|(bound, count)| {
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    });
    histogram.set_bucket(bounds.collect());
    histogram.set_sample_count(count);
    histogram.set_sample_sum(sum);
    metric.set_histogram(histogram);
    metric
}

/// A family of one counter without labels.
pub(super) fn one_counter(name: &str, help: &str, value: u64) -> MetricFamily {
    let mut family = family(name, help, MetricType::COUNTER);
    family.mut_metric().push(counter(&[], value));
    family
}

/// A family of one gauge without labels.
pub(super) fn one_gauge(name: &str, help: &str, value: f64) -> MetricFamily {
    let mut family = family(name, help, MetricType::GAUGE);
    family.mut_metric().push(gauge(&[], value));
    family
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let mut metric = Metric::default();
    let pairs = labels.iter().map(|(name, value)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    metric.set_label(pairs.collect());
    metric
}

/// Prometheus counts in floating point.
#[allow(clippy::cast_precision_loss)]
pub(super) fn to_f64(value: u64) -> f64 {
    value as f64
}
