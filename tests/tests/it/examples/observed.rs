//! The examples of what a mesh tells of itself.

use leno_tests::{Call, eventually, free_port, origin};
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
