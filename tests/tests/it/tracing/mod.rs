//! Traces end to end: what the collector gets, and what the app is told.

mod collectors;
mod headers;
mod spans;

use std::net::SocketAddr;

use leno_tests::{Mesh, Origin, mesh};

/// The rule that traces so many percent of requests, to a collector that speaks gRPC or HTTP.
fn rule(collector: SocketAddr, protocol: &str, sampling: f64) -> String {
    format!(
        "apiVersion: leno.mesh/v1alpha1
kind: MeshConfig
metadata: {{name: mesh}}
spec:
  tracing:
    otlp: \"http://{collector}\"
    protocol: {protocol}
    sampling: {sampling}
    customTags: {{zone: {{literal: {{value: west}}}}, user: {{header: {{name: x-user}}}}}}
"
    )
}

/// A sidecar that traces so many percent of requests, before one version of a shop.
async fn traced(app: &Origin, collector: SocketAddr, protocol: &str, sampling: f64) -> Mesh {
    mesh()
        .service("shop", &[("v1", app.address())])
        .without_control_plane()
        .rules(&rule(collector, protocol, sampling))
        .start()
        .await
}

/// The trace and the span that a `traceparent` names, and whether it is sampled.
fn told(traceparent: &str) -> (String, String, bool) {
    let parts: Vec<&str> = traceparent.split('-').collect();
    let [version, trace, span, flags] = parts[..] else { panic!("`{traceparent}` is no traceparent") };
    assert_eq!(version, "00");
    (trace.to_owned(), span.to_owned(), flags == "01")
}
