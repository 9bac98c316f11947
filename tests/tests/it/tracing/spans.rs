//! Which spans there are, how they hang together and what they say.

use http::{Method, Response};
use leno_tests::otlp::{SpanSeen, collector};
use leno_tests::{Call, Mesh, Origin, eventually, full, mesh, origin};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::Value;
use tempfile::TempDir;

use super::{rule, told};

/// Sends a request and returns the trace that the app was told of, with the span that called it.
async fn traced(mesh: &Mesh, app: &Origin, call: Call) -> (String, String) {
    assert_eq!(mesh.send(call).await.status, 200);
    let (trace, span, sampled) = told(app.last().header("traceparent"));
    assert!(sampled);
    (trace, span)
}

/// The one span that hangs below `parent`.
fn below<'s>(spans: &'s [SpanSeen], parent: &str) -> &'s SpanSeen {
    let mut found = spans.iter().filter(|span| span.parent == parent);
    let one = found.next().unwrap_or_else(|| panic!("nothing below `{parent}`: {spans:#?}"));
    assert!(found.next().is_none(), "two below `{parent}`: {spans:#?}");
    one
}

#[tokio::test]
async fn one_trace_goes_through_both_sidecars_to_the_app() {
    let (app, collector) = (origin("v1").await, collector().await);
    let mesh = mesh()
        .service("shop", &[("v1", app.address())])
        .encrypted()
        .rules(&rule(collector.address(), "grpc", 100.0))
        .start()
        .await;
    mesh.answers("http://shop/", "v1").await;
    let call = Call::get("http://shop/cart?card=4111").header("user-agent", "curl/8").header("x-user", "jason");
    let (trace, caller) = traced(&mesh, &app, call).await;
    let spans = collector.trace(&trace, 4).await;
    assert_eq!(spans.len(), 4, "{spans:#?}");

    let outbound = below(&spans, "");
    let attempt = below(&spans, &outbound.id);
    let inbound = below(&spans, &attempt.id);
    let to_app = below(&spans, &inbound.id);
    assert_eq!(to_app.id, caller, "the app is told of the attempt that called it");
    let kinds = [outbound, attempt, inbound, to_app].map(|span| span.kind);
    assert_eq!(kinds, [SpanKind::Client, SpanKind::Client, SpanKind::Server, SpanKind::Client]);
    for (outer, inner) in [(outbound, attempt), (inbound, to_app)] {
        assert!(outer.start <= inner.start && inner.end <= outer.end, "{outer:#?} {inner:#?}");
    }
    assert_eq!(outbound.service(), attempt.service());
    assert!(inbound.service().starts_with("shop"), "{inbound:#?}");
    assert_ne!(outbound.service(), inbound.service());
    assert!(spans.iter().all(|span| span.over == "application/grpc" && !span.is_error && span.name == "GET"));

    for (span, expected) in [
        (outbound, [("server.address", "shop"), ("url.scheme", "http"), ("user_agent.original", "curl/8")]),
        (attempt, [("leno.attempt", "1"), ("network.protocol.version", "1.1"), ("http.response.status_code", "200")]),
        (inbound, [("url.path", "/cart"), ("url.scheme", "https"), ("client.address", "127.0.0.1")]),
        (to_app, [("network.peer.address", "127.0.0.1"), ("server.port", "443"), ("http.request.method", "GET")]),
    ] {
        for (name, value) in
            expected.into_iter().chain([("zone", "west"), ("user", "jason"), ("url.query", "REDACTED")])
        {
            assert_eq!(span.says(name), value, "{name} of {span:#?}");
        }
        assert!(!format!("{span:?}").contains("4111"), "a query may hold a secret: {span:#?}");
    }
    assert_eq!(to_app.says("network.peer.port"), app.address().port().to_string());
    assert!(attempt.says("leno.destination.identity").starts_with("spiffe://"), "{attempt:#?}");
    assert!(inbound.says("leno.source.identity").starts_with("spiffe://"), "{inbound:#?}");
    for (name, value) in [("k8s.namespace.name", "default"), ("telemetry.sdk.name", "leno")] {
        assert_eq!(inbound.resource.get(name).map(String::as_str), Some(value));
    }
}

#[tokio::test]
async fn a_line_of_the_access_log_names_the_span_of_its_request() {
    let (app, collector, directory) = (origin("v1").await, collector().await, TempDir::new().unwrap());
    let path = directory.path().join("access.json");
    let log = format!("  access_log: {{format: json, path: {}}}\n", path.display());
    let rules = rule(collector.address(), "grpc", 100.0) + &log;
    let mesh = mesh().service("shop", &[("v1", app.address())]).without_control_plane().rules(&rules).start().await;
    let (trace, _) = traced(&mesh, &app, Call::get("http://shop/")).await;
    let spans = collector.trace(&trace, 2).await;
    let line = eventually("its line", async || {
        let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
        text.lines().find(|line| line.contains(&trace)).map(str::to_owned).ok_or(text.clone())
    })
    .await;
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["trace_id"], &line["span_id"]), (&trace.into(), &below(&spans, "").id.clone().into()));
}

#[tokio::test]
async fn each_attempt_is_a_span_below_the_request() {
    let collector = collector().await;
    let app = Origin::answering(|request| {
        let first = request.header("x-envoy-attempt-count") == "1";
        let status = if first && request.path == "/twice" || request.path == "/never" { 503 } else { 200 };
        Response::builder().status(status).body(full("app")).expect("a response")
    })
    .await;
    let rules = "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop]
  http:
  - retries: {attempts: 1, retryOn: 5xx}
    route: [{destination: {host: shop}}]
";
    let mesh = mesh()
        .service("shop", &[("v1", app.address())])
        .without_control_plane()
        .rules(&(rule(collector.address(), "http", 100.0) + rules))
        .start()
        .await;
    mesh.answers("http://shop/", "app").await;

    let (trace, last) = traced(&mesh, &app, Call::get("http://shop/twice")).await;
    let spans = collector.trace(&trace, 3).await;
    let request = below(&spans, "");
    assert!(!request.is_error);
    let mut attempts: Vec<&SpanSeen> = spans.iter().filter(|span| span.parent == request.id).collect();
    attempts.sort_by_key(|span| span.start);
    let [first, second] = attempts[..] else { panic!("{spans:#?}") };
    let says = |span: &SpanSeen| {
        ["leno.attempt", "http.response.status_code", "error.type"].map(|it| span.says(it).to_owned())
    };
    assert_eq!((says(first), first.is_error), (["1", "503", "503"].map(str::to_owned), true));
    assert_eq!((says(second), second.is_error), (["2", "200", ""].map(str::to_owned), false));
    assert_eq!(second.says("http.request.resend_count"), "1");
    assert_eq!(second.id, last);
    assert!(first.end <= second.start);
    let told_of: Vec<String> =
        app.requests().iter().filter(|it| it.path == "/twice").map(|it| told(it.header("traceparent")).1).collect();
    assert_eq!(told_of, [first.id.clone(), second.id.clone()], "each attempt tells of itself");
    assert!(spans.iter().all(|span| span.over == "application/x-protobuf"));

    assert_eq!(mesh.get("http://shop/never").await.status, 503);
    let failed = collector.find("the failed request", 3, |span| span.says("url.path") == "/never").await;
    assert!(failed.iter().all(|span| span.is_error && span.says("error.type") == "503"), "{failed:#?}");
    let request = below(&failed, "");
    assert_eq!(request.says("leno.flags"), "URX");
    assert!(request.says("leno.rule").contains("VirtualService default/shop"), "{request:#?}");
}

#[tokio::test]
async fn what_is_answered_here_and_what_speaks_grpc_say_so() {
    let (app, collector) = (origin("v1").await, collector().await);
    let mesh = mesh()
        .service("shop", &[("v1", app.address())])
        .without_control_plane()
        .rules(
            &(rule(collector.address(), "http", 100.0)
                + "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop]
  http:
  - match: [{uri: {prefix: /pkg.Service}}]
    fault: {abort: {percentage: {value: 100}, grpcStatus: UNAVAILABLE}}
    route: [{destination: {host: shop}}]
  - match: [{uri: {prefix: /gone}}]
    fault: {abort: {percentage: {value: 100}, httpStatus: 503}}
    route: [{destination: {host: shop}}]
  - route: [{destination: {host: shop}}]
"),
        )
        .start()
        .await;
    mesh.answers("http://shop/", "v1").await;
    let gone = mesh.get("http://shop/gone").await;
    assert_eq!(gone.status, 503);
    let spans = collector.find("what led nowhere", 1, |span| span.says("url.path") == "/gone").await;
    assert_eq!(spans.len(), 1, "there was no attempt: {spans:#?}");
    assert_eq!((spans[0].says("leno.flags"), spans[0].is_error), ("FI", true));

    let call = Call::new(Method::POST, "http://shop/pkg.Service/Method").header("content-type", "application/grpc");
    mesh.send(call).await;
    let spans = collector.find("the call of gRPC", 1, |span| span.says("rpc.system.name") == "grpc").await;
    let span = &spans[0];
    assert_eq!(span.name, "pkg.Service/Method");
    assert_eq!((span.says("rpc.method"), span.says("rpc.response.status_code")), ("pkg.Service/Method", "UNAVAILABLE"));
    assert!(span.is_error, "{span:#?}");
}
