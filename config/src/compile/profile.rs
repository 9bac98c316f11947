//! What the profile `safe` sets where no rule says otherwise; `istio` is what the compiler does by itself.
//!
//! All of it is in Envoy's own words, so that a real Envoy behind this control plane is as safe.

use std::sync::Arc;

use super::Output;
use crate::defaults;
use crate::ir::{
    Action, Cluster, Fraction, HeaderKey, HeaderMatch, ListenerProtocol, Regex, Resources, RetryBudget, RetryPolicy,
    RouteConfig, RouteSource, StringMatch,
};
use crate::mesh::Mesh;
use crate::rules::Profile;

/// Methods that may be repeated even if they had an effect (RFC 9110 §9.2.2).
const IDEMPOTENT: &str = "GET|HEAD|OPTIONS|TRACE|PUT|DELETE";
/// Who sends it makes sure that the same request twice has the effect of one.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

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
    }
    for listener in listeners.values_mut() {
        let listener = Arc::make_mut(listener);
        let own = std::iter::once(&mut listener.protocol);
        let of_ports = listener.ports.values_mut().map(|port| &mut port.protocol);
        for manager in own.chain(of_ports).filter_map(ListenerProtocol::http_mut) {
            manager.streams.idle = Some(defaults::SAFE_STREAM_IDLE);
            if let RouteSource::Inline(table) = &mut manager.routes {
                careful_routes(Arc::make_mut(table));
            }
        }
    }
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
#[expect(clippy::expect_used, reason = "two constants of this file")]
fn careful(policy: &mut RetryPolicy) {
    let regex = Regex::new(IDEMPOTENT).expect("invariant: names and bars are a regular expression");
    let condition = |key, value| HeaderMatch { key, value, invert: false, missing_is_empty: false };
    let key = HeaderKey::parse(IDEMPOTENCY_KEY).expect("invariant: lower-case letters and a dash are a header name");
    policy.request_headers = vec![condition(HeaderKey::Method, Some(StringMatch::Regex(regex))), condition(key, None)];
}
