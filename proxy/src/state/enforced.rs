//! What the configuration asks for and this version of the proxy does not do.
//!
//! It is served without and listed as `not_enforced` in `/config_dump`, so that nobody has to guess. Nothing of it would
//! protect anybody: what does is enforced, or refused when it is read. A row leaves this file when the feature arrives.

use leno_config::ir;

/// What is served without, one line per resource and feature: `cluster NAME: original destination`.
pub fn not_enforced(resources: &ir::Resources) -> Vec<String> {
    // Where nothing is captured, nobody was going anywhere else.
    let captures = resources.listeners.values().any(|listener| listener.intake == ir::Intake::Capture);
    let without = resources
        .clusters
        .values()
        .filter(|cluster| !captures && matches!(cluster.discovery, ir::Discovery::OriginalDestination));
    let clusters = without.map(|cluster| format!("cluster {}: original destination", cluster.name));
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
