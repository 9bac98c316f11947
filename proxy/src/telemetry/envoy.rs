//! A dozen of Envoy's metrics of clusters, under its names and with its label `envoy_cluster_name`, so that stock dashboards for
//! Envoy light up. Shown of clusters that were called; a mesh has thousands that never are.
//!
//! `upstream_rq_total` counts attempts, as Envoy's does; statuses and durations are those that callers saw.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use prometheus::proto::{MetricFamily, MetricType};

use super::istio::{BOUNDS, MICROS};
use super::requests::{DURATIONS, RequestSums, RequestTotal, cumulated};
use super::text::{counter, family, gauge, histogram, to_f64};
use crate::cluster::Cluster;
use crate::cluster::limits::Limit;
use crate::cluster::standing::Reason;

/// Names of all of them, for the registry.
pub(super) const NAMES: [&str; 17] = [
    "envoy_cluster_upstream_rq_total",
    "envoy_cluster_upstream_rq_retry",
    "envoy_cluster_upstream_rq_retry_success",
    "envoy_cluster_upstream_rq_retry_overflow",
    "envoy_cluster_upstream_rq_timeout",
    "envoy_cluster_upstream_rq_pending_overflow",
    "envoy_cluster_upstream_cx_total",
    "envoy_cluster_upstream_cx_connect_fail",
    "envoy_cluster_outlier_detection_ejections_enforced_total",
    "envoy_cluster_upstream_rq_active",
    "envoy_cluster_upstream_cx_active",
    "envoy_cluster_membership_total",
    "envoy_cluster_membership_healthy",
    "envoy_cluster_outlier_detection_ejections_active",
    "envoy_cluster_upstream_rq_xx",
    "envoy_cluster_upstream_rq_time",
    "envoy_cluster_upstream_rq",
];

/// A figure of a cluster.
type Figure = fn(&Cluster) -> u64;

/// All of them.
pub(super) fn collected(clusters: &[Arc<Cluster>], requests: &[RequestTotal]) -> Vec<MetricFamily> {
    let called: Vec<&Cluster> =
        clusters.iter().map(|cluster| &**cluster).filter(|cluster| was_called(cluster)).collect();
    let [
        total,
        retry,
        saved,
        overflow,
        timeout,
        pending,
        opened,
        failed,
        enforced,
        active,
        open,
        members,
        healthy,
        out,
        ..,
    ] = NAMES;
    let counters: [(&str, &str, Figure); 9] = [
        (total, "Attempts sent.", attempts),
        (retry, "Retries.", |it| it.stats.retries.begun.load(Relaxed)),
        (saved, "Requests that a retry has saved.", |it| it.stats.retries.succeeded.load(Relaxed)),
        (overflow, "Retries that a limit did not allow.", |it| it.stats.retry_overflows.load(Relaxed)),
        (timeout, "Requests that took too long.", |it| it.stats.retries.timeouts.load(Relaxed)),
        (pending, "Requests refused because so many waited.", |it| it.stats.pending_overflows.load(Relaxed)),
        (opened, "Connections opened.", |it| it.stats.connections.load(Relaxed)),
        (failed, "Connections that could not be opened.", |it| it.stats.connect_failures.load(Relaxed)),
        (enforced, "Ejections.", |it| Reason::ALL.into_iter().map(|reason| it.stats.ejections.by_reason(reason)).sum()),
    ];
    let gauges: [(&str, &str, Figure); 5] = [
        (active, "Requests under way.", |it| it.stats.usage.get(Limit::Requests).into()),
        (open, "Connections open.", |it| it.stats.usage.get(Limit::Connections).into()),
        (members, "Endpoints.", |it| it.members.len() as u64),
        (healthy, "Endpoints that get requests.", |it| {
            it.members.states().filter(|state| state.standing().is_available()).count() as u64
        }),
        (out, "Endpoints that are ejected.", |it| it.stats.ejections.active().into()),
    ];
    let counters = counters.into_iter().map(|(name, help, figure)| {
        let mut family = family(name, help, MetricType::COUNTER);
        family.set_metric(called.iter().map(|it| counter(&[label(it)], figure(it))).collect());
        family
    });
    let gauges = gauges.into_iter().map(|(name, help, figure)| {
        let mut family = family(name, help, MetricType::GAUGE);
        family.set_metric(called.iter().map(|it| gauge(&[label(it)], to_f64(figure(it)))).collect());
        family
    });
    counters.chain(gauges).chain(answers(&called, requests)).collect()
}

fn was_called(cluster: &Cluster) -> bool {
    let stats = &cluster.stats;
    [&stats.requests, &stats.connections, &stats.connect_failures].into_iter().any(|count| count.load(Relaxed) > 0)
}

fn attempts(cluster: &Cluster) -> u64 {
    let stats = &cluster.stats;
    [&stats.requests, &stats.retries.begun, &stats.unsent_retries].into_iter().map(|count| count.load(Relaxed)).sum()
}

fn label(cluster: &Cluster) -> (&'static str, &str) {
    ("envoy_cluster_name", cluster.config.name.as_str())
}

/// Statuses by their class and each by itself, and durations.
fn answers(called: &[&Cluster], requests: &[RequestTotal]) -> [MetricFamily; 3] {
    let [.., by_class, time, by_code] = NAMES;
    let mut classes = family(by_class, "Requests by the class of their status.", MetricType::COUNTER);
    let mut codes = family(by_code, "Requests by their status.", MetricType::COUNTER);
    let mut times = family(time, "Durations of requests, in milliseconds.", MetricType::HISTOGRAM);
    let mut by_cluster = HashMap::<&str, Vec<&RequestTotal>>::new();
    for total in requests {
        by_cluster.entry(total.names.target.value.cluster.as_str()).or_default().push(total);
    }
    for cluster in called {
        let Some(totals) = by_cluster.get(cluster.config.name.as_str()) else { continue };
        let mut all = RequestSums::default();
        let mut of_code = std::collections::BTreeMap::<u16, u64>::new();
        for total in totals {
            let mut one = RequestSums::default();
            one.add(&total.figures);
            all.add(&total.figures);
            *of_code.entry(total.key.code).or_default() += one.requests();
        }
        for class in 1..=5 {
            let count: u64 = of_code.iter().filter(|(code, _)| **code / 100 == class).map(|(_, count)| count).sum();
            if count > 0 {
                let class = class.to_string();
                classes.mut_metric().push(counter(&[label(cluster), ("envoy_response_code_class", &class)], count));
            }
        }
        for (code, count) in of_code.into_iter().filter(|(code, _)| *code > 0) {
            codes.mut_metric().push(counter(&[label(cluster), ("envoy_response_code", &code.to_string())], count));
        }
        let bounds = BOUNDS.into_iter().zip(cumulated(all.durations(), &DURATIONS, &MICROS));
        times.mut_metric().push(histogram(&[label(cluster)], bounds, all.requests(), to_f64(all.micros()) / 1e3));
    }
    [classes, times, codes]
}
