//! What the profile `safe` sets where no rule says otherwise; `istio` is what the compiler does by itself.
//!
//! Nearly all of it is in Envoy's own words, so that a real Envoy behind this control plane is as safe. What a path must
//! not hold is said route by route, since apps opt out of it, and Envoy has a word for whole listeners only.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Output;
use crate::defaults;
use crate::ir::{
    Action, Cluster, ClusterName, Fraction, HeaderKey, HeaderMatch, ListenerProtocol, Regex, Resources, RetryBudget,
    RetryPolicy, Route, RouteConfig, RouteSource, Separators, StringMatch, UnderscoreNames,
};
use crate::mesh::Mesh;
use crate::rules::Profile;

/// Methods that may be repeated even if they had an effect (RFC 9110 §9.2.2).
const IDEMPOTENT: &str = "GET|HEAD|OPTIONS|TRACE|PUT|DELETE";
/// Who sends it makes sure that the same request twice has the effect of one.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The kind of rule that has a word about its paths.
const VIRTUAL_SERVICE: &str = "VirtualService";

/// The cluster before rules refine it.
pub(super) fn begin(mesh: &Mesh, cluster: &mut Cluster) {
    if is_safe(mesh) {
        cluster.connect_timeout = defaults::SAFE_CONNECT_TIMEOUT;
    }
}

/// Fills in what the rules have left open.
pub(super) fn finish(mesh: &Mesh, output: &mut Output<'_>) {
    if !is_safe(mesh) {
        return;
    }
    let Resources { listeners, routes, clusters, .. } = &mut output.resources;
    for cluster in clusters.values_mut() {
        limit(Arc::make_mut(cluster));
    }
    for table in routes.values_mut() {
        careful_routes(Arc::make_mut(table));
        each_undecided(Arc::make_mut(table), |_| Separators::ALL);
    }
    for listener in listeners.values_mut() {
        let listener = Arc::make_mut(listener);
        let own = std::iter::once(&mut listener.protocol);
        let of_ports = listener.ports.values_mut().map(|port| &mut port.protocol);
        for manager in own.chain(of_ports).filter_map(ListenerProtocol::http_mut) {
            manager.streams.idle = Some(defaults::SAFE_STREAM_IDLE);
            manager.underscores = UnderscoreNames::Drop;
            if let RouteSource::Inline(table) = &mut manager.routes {
                careful_routes(Arc::make_mut(table));
                each_undecided(Arc::make_mut(table), |route| {
                    Separators::ALL.without(allowed_at(mesh, clusters, route))
                });
            }
        }
    }
}

/// What a path must not hold on a route that a VirtualService makes and does not opt out of.
pub(super) fn refused_in_path(mesh: &Mesh) -> Separators {
    if is_safe(mesh) { Separators::ALL } else { Separators::NONE }
}

/// Decides for the routes that no VirtualService makes: those have been asked already.
fn each_undecided(table: &mut RouteConfig, refused: impl Fn(&Route) -> Separators) {
    for route in table.virtual_hosts.iter_mut().flat_map(|host| &mut host.routes) {
        if route.origin.as_ref().is_none_or(|origin| origin.kind != VIRTUAL_SERVICE) {
            route.refused_in_path = refused(route);
        }
    }
}

/// What callers may send to an app by some rule for it: its own sidecar cannot tell by which rule a request was sent.
fn allowed_at(mesh: &Mesh, clusters: &BTreeMap<ClusterName, Arc<Cluster>>, route: &Route) -> Separators {
    let Action::Forward(forward) = &route.action else { return Separators::NONE };
    let named = forward.clusters.as_slice().iter().filter_map(|share| clusters.get(&share.cluster));
    let hosts = named.filter_map(|cluster| cluster.service.as_ref()).map(|service| service.host.as_str());
    let rules = hosts.flat_map(|host| mesh.virtual_services().covering(host)).flat_map(|(_, services)| services);
    rules.flat_map(|service| &service.http).fold(Separators::NONE, |all, rule| all.and(rule.allowed_in_path))
}

fn is_safe(mesh: &Mesh) -> bool {
    match mesh.settings().profile.unwrap_or_default() {
        Profile::Istio => false,
        Profile::Safe => true,
    }
}

/// A cluster that is full refuses at once instead of falling over, and retries cannot become its load.
fn limit(cluster: &mut Cluster) {
    let limits = &mut cluster.limits;
    for limit in [&mut limits.connections, &mut limits.pending, &mut limits.requests] {
        limit.get_or_insert(defaults::SAFE_LIMIT);
    }
    if limits.retry_budget.is_none() && limits.retries.is_none() {
        limits.retry_budget = Fraction::from_percent(defaults::RETRY_BUDGET_PERCENT)
            .ok()
            .map(|share| RetryBudget { share, min_concurrency: defaults::RETRY_BUDGET_MIN });
    }
}

fn careful_routes(table: &mut RouteConfig) {
    for route in table.virtual_hosts.iter_mut().flat_map(|host| &mut host.routes) {
        if let Action::Forward(forward) = &mut route.action
            && let Some(policy) = &mut forward.retry
        {
            careful(policy);
        }
    }
}

/// Only what may be repeated is.
fn careful(policy: &mut RetryPolicy) {
    let regex = Regex::new(IDEMPOTENT).expect("invariant: names and bars are a regular expression");
    let condition = |key, value| HeaderMatch { key, value, invert: false, missing_is_empty: false };
    let key = HeaderKey::parse(IDEMPOTENCY_KEY).expect("invariant: lower-case letters and a dash are a header name");
    policy.request_headers = vec![condition(HeaderKey::Method, Some(StringMatch::Regex(regex))), condition(key, None)];
}
