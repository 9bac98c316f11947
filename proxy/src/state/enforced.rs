//! What the configuration asks for and this version of the proxy does not do.
//!
//! What would protect (encryption) is refused: serving without it would be worse than not serving. What would only
//! improve (limits, …) is served without and listed as `not_enforced` in `/config_dump`, so that nobody has to
//! guess. A row leaves this file when the feature arrives.

use leno_config::ir;

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
            }
        }
    }
    lines.sort();
    lines.dedup();
    lines
}

fn of_cluster(cluster: &ir::Cluster) -> Vec<&'static str> {
    let ir::Limits { connections, pending, requests: _, retries: _, retry_budget: _ } = &cluster.limits;
    let limited = connections.is_some() || pending.is_some();
    [
        (cluster.outlier.is_some(), "outlier detection"),
        (limited, "connection limits"),
        (matches!(cluster.balance, ir::Balance::RingHash { .. } | ir::Balance::Maglev { .. }), "consistent hashing"),
        (cluster.slow_start.is_some(), "warm-up"),
        (matches!(cluster.discovery, ir::Discovery::OriginalDestination), "original destination"),
    ]
    .into_iter()
    .filter_map(|(asked, feature)| asked.then_some(feature))
    .collect()
}

fn of_route(route: &ir::Route) -> Vec<&'static str> {
    let mut features = Vec::new();
    if let ir::Action::Forward(forward) = &route.action {
        if !forward.hash.is_empty() {
            features.push("hash policy");
        }
    }
    features
}
