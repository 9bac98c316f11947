//! The `istio_*` metrics: every label that Istio's have, and its buckets. A label that is missing makes Kiali skip a series.
//!
//! Three things are told better than by Istio: the side that calls knows as well how its connection is protected (Istio says
//! `unknown` there); an app without the label `app` or `version` is called by its canonical service and revision; and nothing of
//! it comes from headers.

use std::collections::BTreeMap;

use leno_config::ir::Direction;
use prometheus::proto::{Metric, MetricFamily, MetricType};

use super::connections::{CLOSED, FIGURES as TCP_FIGURES, OPENED, RECEIVED, SENT, TcpTotal};
use super::labels::Labels;
use super::party::{Link, Party, Target};
use super::requests::{DURATIONS, RequestSums, RequestTotal, SIZES, Spoken, cumulated};
use super::text::{counter, family, histogram, to_f64};
use crate::error::Flags;

/// Upper bounds in milliseconds, of all of Istio's histograms.
pub(super) const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
/// The same in microseconds.
pub(super) const MICROS: [u64; 19] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// Names of all of them, for the registry.
pub(super) const NAMES: [&str; 10] = [
    "istio_requests_total",
    "istio_request_duration_milliseconds",
    "istio_request_bytes",
    "istio_response_bytes",
    "istio_request_messages_total",
    "istio_response_messages_total",
    "istio_tcp_connections_opened_total",
    "istio_tcp_connections_closed_total",
    "istio_tcp_received_bytes_total",
    "istio_tcp_sent_bytes_total",
];

/// All of them.
pub(super) fn collected(labels: &Labels, requests: &[RequestTotal], tcp: &[TcpTotal]) -> Vec<MetricFamily> {
    let own = labels.own();
    let mut by_labels = BTreeMap::<Series<'_>, RequestSums>::new();
    for total in requests {
        let key = &total.key;
        let answer = Answer { code: key.code, grpc: key.grpc, spoken: key.spoken };
        let series = Series::new(key.direction, own, &total.names.link.value, &total.names.target.value, key.flags);
        by_labels.entry(Series { answer: Some(answer), ..series }).or_default().add(&total.figures);
    }
    let mut connections = BTreeMap::<Series<'_>, [u64; TCP_FIGURES]>::new();
    for total in tcp {
        let key = &total.key;
        let series = Series::new(key.direction, own, &total.names.link.value, &total.names.target.value, key.flags);
        let sums = connections.entry(series).or_default();
        sums.iter_mut().zip(&total.figures).for_each(|(sum, figure)| *sum = sum.wrapping_add(*figure));
    }
    of_requests(&by_labels).into_iter().chain(of_connections(&connections)).collect()
}

/// The labels of one series; what has the same labels is one series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Series<'a> {
    is_inbound: bool,
    own: &'a Party,
    other: &'a Party,
    own_principal: &'a str,
    principal: &'a str,
    policy: &'static str,
    service: (&'a str, &'a str, &'a str),
    flags: Flags,
    /// Of requests only.
    answer: Option<Answer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Answer {
    code: u16,
    grpc: Option<u8>,
    spoken: Spoken,
}

impl<'a> Series<'a> {
    fn new(direction: Direction, own: &'a Party, link: &'a Link, target: &'a Target, flags: Flags) -> Self {
        Self {
            is_inbound: direction == Direction::Inbound,
            own,
            other: &link.party,
            own_principal: &link.own_principal,
            principal: &link.principal,
            policy: link.protection.policy(),
            service: (&target.host, &target.name, &target.namespace),
            flags,
            answer: None,
        }
    }

    /// Calls `with` with the labels, in a fixed order.
    fn with_labels<T>(&self, with: impl FnOnce(&[(&str, &str)]) -> T) -> T {
        let (from, to) = if self.is_inbound { (self.other, self.own) } else { (self.own, self.other) };
        let (from_id, to_id) = match self.is_inbound {
            true => (self.principal, self.own_principal),
            false => (self.own_principal, self.principal),
        };
        let flags = self.flags.to_string();
        let code = self.answer.map(|answer| answer.code.to_string()).unwrap_or_default();
        let grpc = self.answer.and_then(|answer| answer.grpc).map(|status| status.to_string()).unwrap_or_default();
        let protocol = self.answer.map_or("tcp", |answer| answer.spoken.as_str());
        let (host, name, namespace) = self.service;
        let labels = [
            ("reporter", if self.is_inbound { "destination" } else { "source" }),
            ("source_workload", &*from.workload),
            ("source_workload_namespace", &from.namespace),
            ("source_principal", from_id),
            ("source_app", &from.app),
            ("source_version", &from.version),
            ("source_cluster", from.cluster),
            ("source_canonical_service", &from.canonical_service),
            ("source_canonical_revision", &from.canonical_revision),
            ("destination_workload", &to.workload),
            ("destination_workload_namespace", &to.namespace),
            ("destination_principal", to_id),
            ("destination_app", &to.app),
            ("destination_version", &to.version),
            ("destination_cluster", to.cluster),
            ("destination_canonical_service", &to.canonical_service),
            ("destination_canonical_revision", &to.canonical_revision),
            ("destination_service", host),
            ("destination_service_name", name),
            ("destination_service_namespace", namespace),
            ("request_protocol", protocol),
            ("connection_security_policy", self.policy),
            ("response_flags", &flags),
            // Of requests only, as Istio has it.
            ("response_code", &code),
            ("grpc_response_status", &grpc),
        ];
        let all = labels.len();
        with(labels.get(..if self.answer.is_some() { all } else { all - 2 }).unwrap_or_default())
    }
}

/// Of one series.
type Figure = fn(&RequestSums) -> u64;

fn of_requests(series: &BTreeMap<Series<'_>, RequestSums>) -> Vec<MetricFamily> {
    let counters: [(&str, &str, Figure, bool); 3] = [
        ("istio_requests_total", "Requests, counted at their end.", RequestSums::requests, false),
        ("istio_request_messages_total", "Messages of gRPC that came.", RequestSums::request_messages, true),
        ("istio_response_messages_total", "Messages of gRPC that were answered.", RequestSums::response_messages, true),
    ];
    let counters = counters.into_iter().map(|(name, help, figure, only_grpc)| {
        let of = series
            .iter()
            .filter(|(series, _)| !only_grpc || series.answer.is_some_and(|answer| answer.spoken == Spoken::Grpc));
        let metrics = of.map(|(series, sums)| series.with_labels(|labels| counter(labels, figure(sums))));
        filled(family(name, help, MetricType::COUNTER), metrics)
    });
    let histograms = [
        (
            "istio_request_duration_milliseconds",
            "From the head of a request to the last byte of its answer.",
            (|sums| (cumulated(sums.durations(), &DURATIONS, &MICROS), to_f64(sums.micros()) / 1e3))
                as fn(&RequestSums) -> (Vec<u64>, f64),
        ),
        ("istio_request_bytes", "Bytes of the bodies of requests.", |sums| {
            (cumulated(sums.request_sizes(), &SIZES, &SIZES), to_f64(sums.request_bytes()))
        }),
        ("istio_response_bytes", "Bytes of the bodies of answers.", |sums| {
            (cumulated(sums.response_sizes(), &SIZES, &SIZES), to_f64(sums.response_bytes()))
        }),
    ];
    let histograms = histograms.into_iter().map(|(name, help, figures)| {
        let metrics = series.iter().map(|(series, sums)| {
            let (buckets, sum) = figures(sums);
            series.with_labels(|labels| histogram(labels, BOUNDS.into_iter().zip(buckets), sums.requests(), sum))
        });
        filled(family(name, help, MetricType::HISTOGRAM), metrics)
    });
    counters.chain(histograms).collect()
}

fn of_connections(series: &BTreeMap<Series<'_>, [u64; TCP_FIGURES]>) -> Vec<MetricFamily> {
    let families = [
        ("istio_tcp_connections_opened_total", "TCP connections opened.", OPENED),
        ("istio_tcp_connections_closed_total", "TCP connections that have ended.", CLOSED),
        ("istio_tcp_received_bytes_total", "Bytes that came from callers.", RECEIVED),
        ("istio_tcp_sent_bytes_total", "Bytes that went to callers.", SENT),
    ];
    let families = families.into_iter().map(|(name, help, at)| {
        let metrics = series.iter().map(|(series, figures)| {
            series.with_labels(|labels| counter(labels, figures.get(at).copied().unwrap_or_default()))
        });
        filled(family(name, help, MetricType::COUNTER), metrics)
    });
    families.collect()
}

fn filled(mut family: MetricFamily, metrics: impl Iterator<Item = Metric>) -> MetricFamily {
    family.set_metric(metrics.collect());
    family
}
