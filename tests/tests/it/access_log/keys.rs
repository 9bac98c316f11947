//! Which keys a line in JSON has, and which requests have a line.

use std::collections::BTreeSet;

use leno_tests::scripted::{Fleet, Manner, SCRIPT};
use leno_tests::{Call, Speaks, eventually, origin, raw, sidecar};
use serde_json::Value;
use tempfile::tempdir;

use super::{json_into, lines, mesh_config, wait_for_json};

/// Those of Istio's default format (istio.io/latest/docs/tasks/observability/logs/access-log).
const ISTIOS: [&str; 24] = [
    "authority",
    "bytes_received",
    "bytes_sent",
    "connection_termination_details",
    "downstream_local_address",
    "downstream_remote_address",
    "duration",
    "method",
    "path",
    "protocol",
    "request_id",
    "requested_server_name",
    "response_code",
    "response_code_details",
    "response_flags",
    "route_name",
    "start_time",
    "upstream_cluster",
    "upstream_host",
    "upstream_local_address",
    "upstream_service_time",
    "upstream_transport_failure_reason",
    "user_agent",
    "x_forwarded_for",
];
/// Those that are ours.
const OURS: [&str; 8] =
    ["attempts", "destination_identity", "error", "rule", "source_identity", "span_id", "tls_group", "trace_id"];

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap_or_else(|| panic!("{value}")).keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_has_istios_keys_and_ours_and_no_other_whatever_it_is_about() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("http.log");
    let app = origin("shop").await;
    // Nobody listens there: a trace is begun all the same.
    let traced = json_into(&file).replace("spec: {", "spec: {tracing: {otlp: 'http://127.0.0.1:9', sampling: 100}, ");
    let here = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: there}\nspec: {hosts: [there.example.com], http: [{match: [{uri: {prefix: /words}}], directResponse: {status: 418}}]}\n";
    let shop = sidecar(app.address(), &(traced + here)).start().await;
    assert_eq!(Call::get("http://shop/").send(shop.address()).await.status, 200);
    for (path, status) in [("words", 418), ("nowhere", 404)] {
        let reply = Call::get(&format!("http://there.example.com/{path}")).send(shop.outbound()).await;
        assert_eq!(reply.status, status, "{path}");
    }
    let expected: BTreeSet<&str> = ISTIOS.into_iter().chain(OURS).collect();
    let written = wait_for_json(&file, 3).await;
    for line in &written {
        assert_eq!(keys(line), expected, "{line:#}");
    }
    let [inbound, words, nowhere] = written.as_slice() else { panic!("{written:#?}") };
    let rule = BTreeSet::from(["file", "index", "kind", "line", "name", "namespace"]);
    assert_eq!((keys(&inbound["rule"]), keys(&words["rule"])), (rule.clone(), rule));
    assert_eq!(nowhere["rule"], Value::Null, "none took it");
    for (key, length) in [("trace_id", 32), ("span_id", 16)] {
        let id = inbound[key].as_str().unwrap_or_default();
        assert!(id.len() == length && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{inbound:#}");
    }
    assert_eq!((&inbound["attempts"], &inbound["error"]), (&1.into(), &Value::Null));

    let file = directory.path().join("tcp.log");
    let bytes = raw::Server::echo().await;
    let store = sidecar(bytes.address(), &json_into(&file)).speaks(Speaks::Tcp).start().await;
    let mut caller = raw::connect(store.address()).await;
    assert_eq!(raw::round_trip(&mut caller, b"hello").await, b"hello");
    drop(caller);
    let line = eventually("the line of the connection", async || lines(&file).pop().ok_or("no line".to_owned())).await;
    assert_eq!(keys(&serde_json::from_str(&line).unwrap()), expected, "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_filter_lets_through_what_it_names() {
    let fleet = Fleet::new();
    let server = fleet.server("shop", Manner::Obeys).await;
    let requests = [("ok", "200"), ("slow", "200 after=600"), ("bad", "404"), ("broken", "500"), ("gone", "reset")];
    let directory = tempdir().unwrap();
    for (number, (filter, expected)) in [
        ("{}", &["ok", "slow", "bad", "broken", "gone"][..]),
        ("{minStatus: 404}", &["bad", "broken", "gone"]),
        ("{minDuration: 0.6s}", &["slow"]),
        ("{flags: [UH, UC]}", &["gone"]),
        ("{minStatus: 500, flags: [UC, URX]}", &["gone"]),
        ("{minStatus: 200, sample: 0}", &[]),
        ("{minStatus: 500, sample: 100}", &["broken", "gone"]),
    ]
    .into_iter()
    .enumerate()
    {
        let file = directory.path().join(format!("{number}.log"));
        let log = format!("{{custom: {{text: '%REQ(x-n)%'}}, path: {}, filter: {filter}}}", file.display());
        let shop = sidecar(server.address(), &mesh_config(&log)).start().await;
        for (name, script) in requests {
            Call::get("http://shop/").header("x-n", name).header(SCRIPT, script).send(shop.address()).await;
        }
        // All lines are on disk when the process has ended.
        let mut proxy = shop.proxy;
        proxy.process.terminate();
        assert!(proxy.process.ended().await.0.success());
        let mut written = lines(&file);
        if filter.contains("minDuration") {
            // On a busy machine others may have taken as long.
            assert!(written.contains(&"slow".to_owned()), "{filter}: {written:?}");
            written.retain(|line| line == "slow");
        }
        assert_eq!(written, expected, "{filter}");
    }
}
