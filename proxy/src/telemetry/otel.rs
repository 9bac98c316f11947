//! The same requests under the names of OpenTelemetry's semantic conventions for HTTP metrics, as its exporter for Prometheus
//! writes them: `http.server.request.duration` is `http_server_request_duration_seconds`, dots in attributes are underscores.
//! Only where the bootstrap asks for them: methods and versions multiply the series.

use std::collections::BTreeMap;

use leno_config::ir::Direction;
use prometheus::proto::{MetricFamily, MetricType};

use super::requests::{DURATIONS, RequestSums, RequestTotal, cumulated};
use super::text::{family, histogram, to_f64};

/// Names of all of them, for the registry.
pub(super) const NAMES: [&str; 2] = ["http_server_request_duration_seconds", "http_client_request_duration_seconds"];

/// The bounds that the conventions recommend, in microseconds.
const MICROS: [u64; 14] = [
    5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 750_000, 1_000_000, 2_500_000, 5_000_000,
    7_500_000, 10_000_000,
];

/// Both of them.
pub(super) fn collected(requests: &[RequestTotal]) -> Vec<MetricFamily> {
    let of = |name: &str, help: &str, direction: Direction| {
        let mut series = BTreeMap::<Attributes, RequestSums>::new();
        for total in requests.iter().filter(|total| total.key.direction == direction) {
            series.entry(attributes(total)).or_default().add(&total.figures);
        }
        let mut family = family(name, help, MetricType::HISTOGRAM);
        family.set_metric(series.iter().map(|(attributes, sums)| metric(attributes, sums)).collect());
        family
    };
    let [server, client] = NAMES;
    vec![
        of(server, "Duration of HTTP server requests.", Direction::Inbound),
        of(client, "Duration of HTTP client requests.", Direction::Outbound),
    ]
}

/// Names and values, in the order of the names.
type Attributes = [(&'static str, String); 8];

/// Without an answer there is no status. An error is what went wrong here, else the status, from 500 on for a server and from
/// 400 on for a client; else there is none.
fn attributes(total: &RequestTotal) -> Attributes {
    let (key, target) = (&total.key, &total.names.target.value);
    let code = if key.code == 0 { String::new() } else { key.code.to_string() };
    let first_error = match key.direction {
        Direction::Inbound => 500,
        Direction::Outbound => 400,
    };
    let is_error = key.code == 0 || key.code >= first_error;
    let error = match key.flags.to_string() {
        flags if is_error && flags != "-" => flags,
        _ if is_error => code.clone(),
        _ => String::new(),
    };
    [
        ("error_type", error),
        ("http_request_method", key.form.verb.as_str().to_owned()),
        ("http_response_status_code", code),
        ("network_protocol_name", "http".to_owned()),
        ("network_protocol_version", if key.form.is_http2 { "2" } else { "1.1" }.to_owned()),
        ("server_address", target.host.clone()),
        ("server_port", if target.port == 0 { String::new() } else { target.port.to_string() }),
        ("url_scheme", "http".to_owned()),
    ]
}

fn metric(attributes: &Attributes, sums: &RequestSums) -> prometheus::proto::Metric {
    let labels = attributes.each_ref().map(|(name, value)| (*name, value.as_str()));
    let bounds = MICROS.into_iter().zip(cumulated(sums.durations(), &DURATIONS, &MICROS));
    let bounds = bounds.map(|(micros, count)| (to_f64(micros) / 1e6, count));
    histogram(&labels, bounds, sums.requests(), to_f64(sums.micros()) / 1e6)
}
