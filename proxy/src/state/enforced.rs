//! What the configuration asks for and this version of the proxy does not do.
//!
//! What would protect (encryption) is refused: serving without it would be worse than not serving. What would only
//! improve (retries, limits, …) is served without and listed as `not_enforced` in `/config_dump`, so that nobody has to
//! guess. A row leaves this file when the feature arrives.

use leno_config::{defaults, ir};

/// Why a cluster must not be used as it is: what would protect and cannot be done.
pub fn refuse_cluster(cluster: &ir::Cluster) -> Option<(&'static str, String)> {
    match &cluster.tls {
        ir::UpstreamTls::External(tls) => tls.credential.as_ref().map(|name| {
            let reason =
                format!("the Kubernetes secret `{name}` cannot be read here; name the files of certificate and key");
            ("transport_socket", reason)
        }),
        ir::UpstreamTls::Plain | ir::UpstreamTls::Auto(_) | ir::UpstreamTls::Mesh(_) => None,
    }
}

/// What is served without, one line per resource and feature: `cluster NAME: outlier detection`.
pub fn not_enforced(resources: &ir::Resources) -> Vec<String> {
    let mut lines = Vec::new();
    for cluster in resources.clusters.values() {
        lines.extend(of_cluster(cluster).into_iter().map(|feature| format!("cluster {}: {feature}", cluster.name)));
    }
    let inline = resources.listeners.values().filter_map(|listener| match &listener.protocol {
        ir::ListenerProtocol::Http(ir::HttpManager { routes: ir::RouteSource::Inline(routes), .. }) => Some(routes),
        ir::ListenerProtocol::Http(_) | ir::ListenerProtocol::Tcp(_) => None,
    });
    for table in resources.routes.values().chain(inline) {
        for host in &table.virtual_hosts {
            for route in &host.routes {
                let place = || match &route.origin {
                    Some(origin) => origin.to_string(),
                    None => format!("{} {}", table.name, host.name),
                };
                lines.extend(of_route(route).into_iter().map(|feature| format!("route {}: {feature}", place())));
                lines.extend(default_retries(route));
            }
        }
    }
    lines.sort();
    lines.dedup();
    lines
}

/// Every route has Istio's default policy that says nothing else: one line for all of them.
fn default_retries(route: &ir::Route) -> Option<String> {
    let ir::Action::Forward(ir::Forward { retry: Some(retry), .. }) = &route.action else { return None };
    is_default(retry)
        .then(|| "all routes: the default policy's retries of gRPC `unavailable` and `cancelled`".to_owned())
}

fn is_default(retry: &ir::RetryPolicy) -> bool {
    let words = retry.on.iter().map(|on| on.as_str());
    let default: std::collections::BTreeSet<&str> = defaults::RETRY_ON.split(',').collect();
    retry.attempts == defaults::RETRY_ATTEMPTS
        && retry.status_codes.is_empty()
        && retry.per_try_timeout.is_none()
        && words.collect::<std::collections::BTreeSet<_>>() == default
}

fn of_cluster(cluster: &ir::Cluster) -> Vec<&'static str> {
    // Those of connections and requests hold; those of retries do where requests are retried.
    let ir::Limits { connections: _, pending: _, requests: _, retries, retry_budget } = &cluster.limits;
    [
        (retries.is_some(), "limit of retries"),
        (retry_budget.is_some(), "retry budget"),
        (matches!(cluster.discovery, ir::Discovery::OriginalDestination), "original destination"),
    ]
    .into_iter()
    .filter_map(|(asked, feature)| asked.then_some(feature))
    .collect()
}

fn of_route(route: &ir::Route) -> Vec<&'static str> {
    let mut features = Vec::new();
    if let ir::Action::Forward(forward) = &route.action {
        // Connection failures and refused streams are retried.
        if forward.retry.as_ref().is_some_and(|retry| !is_default(retry)) {
            features.push("retries other than of unsent requests");
        }
    }
    features
}
