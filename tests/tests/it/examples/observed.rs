//! The examples of what a mesh tells of itself.

use leno_tests::otlp::collector;
use leno_tests::{Call, Origin, eventually, free_port, full, origin};
use serde_json::Value;

use super::{Copy, moved};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_log_writes_a_line_that_names_the_rule_and_no_secret() {
    let app = origin("shop").await;
    let inbound = free_port();
    let mut replacements = moved("access-log", "/tmp/access-log");
    replacements
        .extend([("127.0.0.1:8081", app.address().to_string()), ("number: 9081", format!("number: {inbound}"))]);
    let copy = Copy::of("access-log", &replacements);
    let file = copy.path("access-log.json");
    copy.edit("rules/shop.yaml", "/tmp/access-log.json", &file.display().to_string());
    // The example has a Sidecar of its own.
    std::fs::remove_file(copy.path("rules/test.yaml")).unwrap();
    let free =
        format!("  egress:\n  - port: {{number: {}, protocol: HTTP, name: http}}\n    bind: 127.0.0.1\n", free_port());
    copy.edit("rules/shop.yaml", "  egress:\n  - hosts", &(free + "    hosts"));
    let _proxy = copy.proxy(inbound).await;
    let call = Call::get("http://shop/search?q=secret").header("authorization", "Bearer secret");
    assert_eq!(call.send(([127, 0, 0, 1], inbound).into()).await.status, 200);
    let line = eventually("a line", async || {
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        text.ends_with('\n').then_some(text).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    assert!(!line.contains("secret"), "{line}");
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["path"], &line["response_code"]), (&"/search?[redacted]".into(), &200.into()));
    assert_eq!((&line["rule"]["kind"], &line["rule"]["line"]), (&"Sidecar".into(), &10.into()));
    assert!(line["rule"]["file"].as_str().unwrap().ends_with("rules/shop.yaml"), "{line:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tracing_tells_the_collector_of_a_request_and_of_each_attempt() {
    let collector = collector().await;
    let app = Origin::answering(|request| {
        let status = if request.header("x-envoy-attempt-count") == "1" { 503 } else { 200 };
        http::Response::builder().status(status).body(full("shop")).unwrap()
    })
    .await;
    let mut replacements = moved("tracing", "/tmp/tracing");
    replacements.extend([
        ("127.0.0.1:4317", collector.address().to_string()),
        ("http: 8081}", format!("http: {}}}", app.address().port())),
    ]);
    let copy = Copy::of("tracing", &replacements);
    let _proxy = copy.proxy(copy.outbound.port()).await;
    let reply = copy.curl("http://shop.example.com/books?q=secret", &[("end-user", "jason")]).await;
    assert_eq!(reply.status, 200);
    let trace = app.last().header("traceparent").split('-').nth(1).unwrap().to_owned();
    let mut spans = collector.trace(&trace, 3).await;
    spans.sort_by_key(|span| span.start);
    let says = |name: &str| spans.iter().map(|span| span.says(name).to_owned()).collect::<Vec<_>>();
    assert_eq!(says("http.response.status_code"), ["200", "503", "200"], "{spans:#?}");
    assert_eq!((says("zone"), says("user")), (vec!["laptop".to_owned(); 3], vec!["jason".to_owned(); 3]));
    assert!(spans.iter().skip(1).all(|span| span.parent == spans[0].id), "{spans:#?}");
    assert!(!format!("{spans:?}").contains("secret"));
}
