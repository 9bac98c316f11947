//! Which rule it was, where that stands, and between whom it happened.

use leno_tests::{mesh, origin};
use tempfile::tempdir;

use super::{mesh_config, wait_for_json};

const ROUTES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{uri: {prefix: /never}}]
    route: [{destination: {host: reviews, subset: v1}}]
  - name: the rest
    route: [{destination: {host: reviews, subset: v1}}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_names_rule_file_and_line_and_both_ends_also_through_a_control_plane() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("access.log");
    let app = origin("v1").await;
    let log = mesh_config(&format!("{{format: json, path: {}}}", file.display()));
    let mesh = mesh()
        .service("reviews", &[("v1", app.address())])
        .rules(&(ROUTES.to_owned() + &log))
        .encrypted()
        .start()
        .await;
    assert_eq!(mesh.get("http://reviews/a").await.status, 200);
    // The harness may have asked before: ours are the last two, one of each sidecar.
    let all = wait_for_json(&file, 2).await;
    let outbound =
        all.iter().find(|line| line["rule"]["kind"] == "VirtualService").unwrap_or_else(|| panic!("{all:#?}"));
    let inbound = all.iter().find(|line| line["rule"]["kind"] == "Sidecar").unwrap_or_else(|| panic!("{all:#?}"));
    let rule = &outbound["rule"];
    assert_eq!((&rule["name"], &rule["namespace"], &rule["index"]), (&"reviews".into(), &"default".into(), &1.into()));
    let (rules, line) = (rule["file"].as_str().unwrap(), rule["line"].as_u64().unwrap());
    let written = std::fs::read_to_string(rules).unwrap_or_else(|error| panic!("{rules}: {error}"));
    let there = written.lines().nth(usize::try_from(line).unwrap() - 1).unwrap();
    assert!(there.contains("name: the rest"), "{rules}:{line}: {there}");
    assert_eq!(outbound["route_name"], "the rest");
    for line in [outbound, inbound] {
        assert!(line["source_identity"].as_str().unwrap().starts_with("spiffe://"), "{line:#}");
        assert_eq!(line["tls_group"], "X25519MLKEM768", "{line:#}");
    }
    assert_eq!(outbound["source_identity"], inbound["source_identity"]);
    assert_eq!(outbound["destination_identity"], inbound["destination_identity"]);
    assert_eq!(outbound["request_id"], inbound["request_id"]);
}
