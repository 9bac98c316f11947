//! What the rules say: which share of the requests each version of a service should get.
//!
//! Nothing here knows the example. The user's rules are compiled for productpage's sidecar as the control plane does
//! it, and the route that a request meets is found by the data plane's own matcher; its clusters' endpoints name the
//! versions. So the demo can say what to expect of whatever the file says now.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderMap, Method};
use leno_config::diagnostic::Severity;
use leno_config::ir::{Action, ClusterName, HeaderKey, Resources, Route, StringMatch};
use leno_config::mesh::Mesh;
use leno_config::node::Node;
use leno_config::{compile, rules, validate};
use leno_proxy::route::{RequestView, RouteTable};

use super::topology::SERVICE_PORT;

/// The share of each version, 0 to 1; empty when no endpoint answers (a redirect, say).
pub(super) type Split = BTreeMap<String, f64>;

/// What to expect of requests from productpage.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Expectation {
    /// Of a request without particular headers, by service.
    pub(super) services: BTreeMap<String, Split>,
    /// Of requests with the headers that some route asks for.
    pub(super) by_header: Vec<HeaderCase>,
}

/// Requests that a route picks by exact header values.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct HeaderCase {
    /// The headers, as the rule has them.
    pub(super) headers: HeaderMap,
    /// Whose route it is.
    pub(super) service: String,
    /// What to expect of them.
    pub(super) split: Split,
}

impl HeaderCase {
    /// `end-user: jason`
    pub(super) fn title(&self) -> String {
        let fields = self.headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            format!("{name}: {value}")
        });
        fields.collect::<Vec<_>>().join(", ")
    }
}

/// Why the rules give no expectation.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Files cannot be read.
    #[error("cannot read the rules")]
    Read(#[from] rules::ReadError),
    /// Findings of severity error; the mesh keeps the last good version of these documents.
    #[error("{}", .0.join("\n"))]
    Findings(Vec<String>),
}

/// Reads and compiles the rules for `node`, which calls these services at these paths.
pub(super) fn read(paths: &[PathBuf], node: &Node, calls: &[(&str, &str)]) -> Result<Expectation, Error> {
    let parsed = rules::parse(&rules::read(paths)?);
    let mut findings = parsed.diagnostics;
    findings.extend(validate::validate(&parsed.documents));
    findings.retain(|finding| matches!(finding.severity, Severity::Error));
    if !findings.is_empty() {
        let lines = findings.iter().map(|finding| match &finding.place {
            Some(place) => format!("{}:{}:{}: {}", place.file, place.line, place.column, finding.message),
            None => finding.message.clone(),
        });
        return Err(Error::Findings(lines.collect()));
    }
    Ok(of(&compile::compile(&Mesh::new(&parsed.documents), node), calls))
}

/// What a proxy that holds these resources does with calls of these services at these paths.
fn of(resources: &Resources, calls: &[(&str, &str)]) -> Expectation {
    let mut expectation = Expectation::default();
    let tables: Vec<RouteTable> = resources.routes.values().map(|routes| RouteTable::new(Arc::clone(routes))).collect();
    for (service, path) in calls {
        let authority = format!("{service}:{SERVICE_PORT}");
        let Some((table, host)) = tables.iter().find_map(|table| Some((table, table.host(&authority)?))) else {
            continue;
        };
        let split_of = |headers: &HeaderMap| {
            let request = RequestView {
                method: &Method::GET,
                scheme: "http",
                authority: &authority,
                path,
                query: None,
                headers,
                claims: None,
            };
            let found = table.find(host, &request).and_then(|found| table.route(host, found));
            found.map(|route| split(resources, route))
        };
        if let Some(split) = split_of(&HeaderMap::new()) {
            expectation.services.insert((*service).to_owned(), split);
        }
        let routes = table.config().virtual_hosts.get(host).map_or(&[][..], |found| &found.routes);
        for headers in routes.iter().filter_map(exact_headers) {
            let known = expectation.by_header.iter().any(|case| case.headers == headers && case.service == *service);
            if let Some(split) = split_of(&headers).filter(|_| !known) {
                expectation.by_header.push(HeaderCase { headers, service: (*service).to_owned(), split });
            }
        }
    }
    expectation
}

/// The headers that make a request meet this route, when it asks for exact values of some and for nothing else of the
/// kind.
fn exact_headers(route: &Route) -> Option<HeaderMap> {
    if route.matcher.headers.is_empty() || !route.matcher.query.is_empty() {
        return None;
    }
    let mut headers = HeaderMap::new();
    for condition in &route.matcher.headers {
        match (&condition.key, &condition.value) {
            (HeaderKey::Name(name), Some(StringMatch::Exact { value, .. })) if !condition.invert => {
                headers.insert(name.0.clone(), value.parse().ok()?);
            }
            _ => return None,
        }
    }
    Some(headers)
}

/// The share of each version in what a route forwards.
fn split(resources: &Resources, route: &Route) -> Split {
    let mut split = Split::new();
    let clusters = match &route.action {
        Action::Forward(forward) => &forward.clusters,
        Action::Redirect(_) | Action::Direct(_) => return split,
    };
    let total = f64::from(clusters.total());
    for share in clusters.as_slice() {
        let versions = versions(resources, &share.cluster);
        let members: f64 = versions.iter().map(|(_, weight)| weight).sum();
        for (version, weight) in versions {
            *split.entry(version).or_default() += f64::from(share.weight) / total * weight / members;
        }
    }
    split
}

/// The versions of a cluster's members, with their weights.
fn versions(resources: &Resources, cluster: &ClusterName) -> Vec<(String, f64)> {
    let Some(endpoints) = resources.endpoints.get(cluster) else { return Vec::new() };
    let usable = endpoints.iter().filter(|endpoint| endpoint.health.is_usable());
    usable
        .map(|endpoint| {
            let version = endpoint.labels.get("version").map_or("unknown", String::as_str);
            (version.to_owned(), f64::from(endpoint.weight))
        })
        .collect()
}

/// The versions of a service that the rules or the observation know, in order.
pub(super) fn all_versions<'a>(expected: &'a Split, observed: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    expected.keys().map(String::as_str).chain(observed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::topology::{self, OBSERVED_CALLS, SidecarPorts, WORKLOADS};

    fn expect(routes: &str) -> Expectation {
        let mut text = String::from(include_str!("../../../../examples/bookinfo/services.yaml"));
        for (workload, port) in WORKLOADS.iter().zip(10_000..) {
            text.push_str("\n---\n");
            text.push_str(&topology::documents(workload, SidecarPorts { inbound: port, outbound: port + 100 }, 4000));
        }
        text.push_str("\n---\n");
        text.push_str(routes);
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("rules.yaml"), text).unwrap();
        read(&[directory.path().to_owned()], &WORKLOADS[0].node(), OBSERVED_CALLS).unwrap()
    }

    #[test]
    fn the_example_sends_jason_to_v2_and_splits_the_others_as_its_weights_say() {
        let expectation = expect(include_str!("../../../../examples/bookinfo/routes.yaml"));
        assert_eq!(expectation.services["reviews"], Split::from([("v1".into(), 0.8), ("v2".into(), 0.2)]));
        assert_eq!(expectation.services["details"], Split::from([("v1".into(), 1.0)]));
        let [jason] = expectation.by_header.as_slice() else { panic!("{:?}", expectation.by_header) };
        assert_eq!(jason.title(), "end-user: jason");
        assert_eq!(jason.split, Split::from([("v2".into(), 1.0)]));
    }

    #[test]
    fn without_routes_every_version_gets_its_share() {
        let expectation = expect("");
        let shares: Vec<f64> = expectation.services["reviews"].values().copied().collect();
        assert_eq!(shares.len(), 3);
        assert!(shares.iter().all(|share| (share - 1.0 / 3.0).abs() < 1e-9), "{shares:?}");
        assert!(expectation.by_header.is_empty());
    }

    #[test]
    fn an_error_in_the_rules_is_reported_with_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("routes.yaml");
        let text = include_str!("../../../../examples/bookinfo/routes.yaml").replace("weight: 80", "weight: -80");
        std::fs::write(&file, text).unwrap();
        let error = read(&[file], &WORKLOADS[0].node(), OBSERVED_CALLS).unwrap_err().to_string();
        assert!(error.contains("routes.yaml:"), "{error}");
    }
}
