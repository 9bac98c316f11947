//! `http_requests_total` and `http_request_duration_seconds`: the same requests by rule.

use std::collections::BTreeMap;

use leno_config::ir::Direction;
use prometheus::proto::{MetricFamily, MetricType};

use super::party::Protection;
use super::requests::{DURATIONS, RequestSums, RequestTotal, cumulated};
use super::text::{counter, family, histogram, to_f64};
use crate::error::Flags;

/// Names of both, for the registry.
pub(super) const NAMES: [&str; 2] = ["http_requests_total", "http_request_duration_seconds"];

/// Upper bounds in microseconds: 0.5 ms to 60 s, as dashboards for Envoy have them.
const MICROS: [u64; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 60_000_000,
];

/// Both of them.
pub(super) fn collected(totals: &[RequestTotal]) -> Vec<MetricFamily> {
    let [requests, durations] = NAMES;
    let mut requests = family(requests, "Requests, counted at their end.", MetricType::COUNTER);
    let help = "From the head of a request to the last byte of its answer.";
    let mut durations = family(durations, help, MetricType::HISTOGRAM);
    for (route, answers) in &by_route(totals) {
        let (security, direction, name) = *route;
        let labels = [("connection_security_policy", security), ("direction", direction), ("route", name)];
        let mut all = RequestSums::default();
        for ((code, flags), sums) in answers {
            let (code, flags) = (code.to_string(), flags.to_string());
            let answer = [("response_code", code.as_str()), ("response_flags", flags.as_str())];
            requests.mut_metric().push(counter(&[labels.as_slice(), &answer].concat(), sums.requests()));
            all.add(sums.figures());
        }
        let bounds = MICROS.into_iter().zip(cumulated(all.durations(), &DURATIONS, &MICROS));
        let bounds = bounds.map(|(micros, count)| (to_f64(micros) / 1e6, count));
        durations.mut_metric().push(histogram(&labels, bounds, all.requests(), to_f64(all.micros()) / 1e6));
    }
    vec![requests, durations]
}

/// By status and flags.
type ByAnswer = BTreeMap<(u16, Flags), RequestSums>;

/// By how they came, which way, and which rule took them; then by how they ended. Outbound it is `unknown` how: a route may
/// lead to endpoints of both kinds.
fn by_route(totals: &[RequestTotal]) -> BTreeMap<(&str, &str, &str), ByAnswer> {
    let mut routes = BTreeMap::<_, ByAnswer>::new();
    for total in totals {
        let (security, direction) = match (total.key.direction, total.names.link.value.protection) {
            (Direction::Inbound, Protection::MutualTls) => ("mutual_tls", "inbound"),
            (Direction::Inbound, Protection::Tls | Protection::None | Protection::Unknown) => ("none", "inbound"),
            (Direction::Outbound, _) => ("unknown", "outbound"),
        };
        let route = (security, direction, total.names.route.value.as_str());
        let answer = (total.key.code, total.key.flags);
        routes.entry(route).or_default().entry(answer).or_default().add(&total.figures);
    }
    routes
}
