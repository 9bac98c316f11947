//! `HealthCheck` by itself.

use super::findings::{Findings, spec};
use super::values::{Wildcard, Zero};
use crate::compile::status_range;
use crate::diagnostic::codes;
use crate::rules::{HealthCheck, HttpHealthCheck, Path};

pub(super) fn check(rule: &HealthCheck, found: &mut Findings) {
    let spec = spec();
    found.host(&spec.key("host"), &rule.host, Wildcard::Refused);
    if let Some(subset) = &rule.subset {
        found.subset_name(&spec.key("subset"), subset);
    }
    found.optional_port(&spec.key("port"), rule.port);
    check_ways(rule, found);
    if let Some(http) = &rule.http {
        check_http(http, &spec.key("http"), found);
    }
    for (field, written) in
        [("interval", &rule.interval), ("idleInterval", &rule.idle_interval), ("timeout", &rule.timeout)]
    {
        found.duration(&spec.key(field), written.as_ref(), Zero::Refused);
    }
    let thresholds = [("unhealthyThreshold", rule.unhealthy_threshold), ("healthyThreshold", rule.healthy_threshold)];
    for (field, _) in thresholds.into_iter().filter(|(_, threshold)| *threshold == Some(0)) {
        let help = "write 1 for the first check that says so";
        found.add(codes::NUMBER, &spec.key(field), format!("`{field}` is at least 1")).help(help);
    }
}

fn check_ways(rule: &HealthCheck, found: &mut Findings) {
    let ways = [("http", rule.http.is_some()), ("tcp", rule.tcp.is_some()), ("grpc", rule.grpc.is_some())];
    let written: Vec<&str> = ways.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect();
    match written.len() {
        0 => {
            let help = "add `http: {path: /healthz}`, `tcp: {}` or `grpc: {}`";
            found.add(codes::REQUIRED, &spec(), "a health check says how endpoints are asked").on_key().help(help);
        }
        1 => {}
        _ => {
            let message = format!("`{}` stand together; a health check has one of them", written.join("` and `"));
            found.add(codes::EXCLUSIVE, &spec(), message).on_key();
        }
    }
}

fn check_http(http: &HttpHealthCheck, path: &Path, found: &mut Findings) {
    if let Some(written) = &http.path
        && (!written.starts_with('/') || written.parse::<http::uri::PathAndQuery>().is_err())
    {
        let message = format!("`{written}` is not a path");
        found.add(codes::PATH, &path.key("path"), message).help("begin with `/`, as in `/healthz`");
    }
    if let Some(host) = &http.host {
        found.host(&path.key("host"), host, Wildcard::Refused);
    }
    for (field, list) in [("status", &http.status), ("retriable", &http.retriable)] {
        for (index, written) in list.iter().enumerate() {
            if status_range(&written.to_string()).is_none() {
                let message = format!("`{written}` is not a status or a range of them");
                let help = "write one as `200` or a range as `200-299`";
                found.add(codes::STATUS, &path.key(field).index(index), message).help(help);
            }
        }
    }
}
