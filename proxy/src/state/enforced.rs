//! What the configuration asks for and this version of the proxy does not do.
//!
//! What would protect (encryption) is refused: serving without it would be worse than not serving. What would only
//! improve is served without and listed as `not_enforced` in `/config_dump`, so that nobody has to
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

/// What is served without, one line per resource and feature: `cluster NAME: original destination`.
pub fn not_enforced(resources: &ir::Resources) -> Vec<String> {
    let captured = |cluster: &ir::Cluster| matches!(cluster.discovery, ir::Discovery::OriginalDestination);
    let clusters = resources.clusters.values().filter(|cluster| captured(cluster));
    let clusters = clusters.map(|cluster| format!("cluster {}: original destination", cluster.name));
    let tracers = resources.listeners.values().flat_map(|listener| {
        let managers = listener.protocols().filter_map(ir::ListenerProtocol::http);
        managers.filter_map(|manager| match &manager.tracing.as_ref()?.provider {
            ir::TracingProvider::Foreign(name) => Some(format!("listener {}: traces for {name}", listener.name)),
            ir::TracingProvider::OpenTelemetry(_) => None,
        })
    });
    let logs = resources.listeners.values().flat_map(|listener| {
        listener.access_logs.left_out.iter().map(|what| format!("listener {}: {what}", listener.name))
    });
    clusters.chain(tracers).chain(logs).collect()
}
