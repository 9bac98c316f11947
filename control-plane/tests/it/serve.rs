//! `leno serve` over the life of its rule files.

use std::time::Duration;

use leno_config::xds::Kind;

use crate::client::Client;
use crate::process::{Place, Serve, leno};

const SERVICES: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews.default.svc.cluster.local]
  ports: [{number: 9080, name: http, protocol: HTTP}]
  resolution: STATIC
  workloadSelector: {labels: {app: reviews}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
";

const ENDPOINTS: &str = "\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: reviews-v1, namespace: default}
spec: {address: 127.0.0.1, labels: {app: reviews, version: v1}, ports: {http: 9081}}
";

fn canary(weight: i32) -> String {
    format!(
        "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: default}}
spec:
  hosts: [reviews]
  http:
  - route:
    - {{destination: {{host: reviews, subset: v1}}, weight: {weight}}}
    - {{destination: {{host: reviews, subset: v2}}, weight: 20}}
"
    )
}

fn bookshop() -> Place {
    let place = Place::new();
    place.write("services.yaml", SERVICES);
    place.write("endpoints.yaml", ENDPOINTS);
    place.write("canary.yaml", &canary(80));
    place
}

fn started(place: &Place) -> Serve {
    let mut serve = place.serve();
    serve.waits_for("rules in force");
    serve
}

async fn version_of_routes(serve: &Serve) -> String {
    let mut client = Client::connect(serve.xds, "probe").await;
    let everything = client.everything().await;
    everything[&(Kind::Route, "15001".to_owned())].clone()
}

#[tokio::test]
async fn an_edited_weight_reaches_the_proxy_as_one_route_and_a_bad_one_does_not() {
    let place = bookshop();
    let mut serve = started(&place);
    let mut client = Client::connect(serve.xds, "productpage").await;
    let first = client.everything().await;

    place.write("canary.yaml", &canary(60));
    let pushed = client.hears().await.unwrap();
    let names = pushed.resources.iter().map(|resource| resource.name.as_str()).collect::<Vec<_>>();
    assert_eq!((pushed.type_url.as_str(), names), (Kind::Route.url(), vec!["15001"]));

    place.write("canary.yaml", &canary(-1));
    serve.waits_for("canary.yaml:8:");
    let status = serve.status_json();
    let rejected = &status["rules"]["rejected"][0];
    assert_eq!((&rejected["resource"], &rejected["line"]), (&"VirtualService default/reviews".into(), &8.into()));
    assert_eq!(status["rules"]["accepted"], 4);
    assert!(serve.get("/metrics").1.contains("leno_control_plane_rule_errors 1"));
    let table = String::from_utf8(serve.status(&[]).stdout).unwrap();
    let row = |line: &str| line.starts_with("productpage.default ") && line.contains(" routes ");
    assert!(table.lines().any(row) && table.contains("canary.yaml:8:"), "{table}");

    place.write("canary.yaml", &canary(80));
    let repaired = client.hears().await.unwrap();
    assert_eq!(repaired.resources[0].version, first[&(Kind::Route, "15001".to_owned())]);
}

#[tokio::test]
async fn a_restart_with_a_bad_file_serves_the_last_good_set() {
    let place = bookshop();
    let serve = started(&place);
    let good = version_of_routes(&serve).await;
    drop(serve);
    for bad in [canary(-1), "spec: [".to_owned()] {
        place.write("canary.yaml", &bad);
        let serve = started(&place);
        assert_eq!(version_of_routes(&serve).await, good, "{bad}");
        assert_eq!(serve.status_json()["rules"]["rejected"][0]["severity"], "error");
    }
}

#[tokio::test]
async fn a_subset_that_is_still_used_stays_and_the_rule_that_needs_it_is_named() {
    let place = bookshop();
    let mut serve = started(&place);
    let good = version_of_routes(&serve).await;
    place.write("services.yaml", &SERVICES.replace(", {name: v2, labels: {version: v2}}", ""));
    let line = serve.waits_for("would break another resource");
    assert!(line.contains("DestinationRule default/reviews"), "{line}");
    assert_eq!(version_of_routes(&serve).await, good);
}

#[tokio::test]
async fn an_emptied_directory_changes_nothing_unless_it_is_meant() {
    let place = bookshop();
    let mut serve = started(&place);
    let good = version_of_routes(&serve).await;
    std::fs::remove_dir_all(place.rules()).unwrap();
    let line = serve.waits_for("the rules stay as they are");
    assert!(line.contains("rules"), "{line}");
    assert_eq!(version_of_routes(&serve).await, good);
    assert_eq!(serve.get("/ready").0, 200);
    drop(serve);

    std::fs::create_dir(place.rules()).unwrap();
    let mut serve = place.serve();
    serve.waits_for("--allow-empty");
    assert_eq!(version_of_routes(&serve).await, good, "from the saved set");
    drop(serve);

    let mut serve = place.serve_with(&["--allow-empty"]);
    serve.waits_for("rules in force");
    assert_ne!(version_of_routes(&serve).await, good);
}

#[tokio::test]
async fn nothing_is_answered_before_the_first_complete_load() {
    let place = Place::new();
    let mut serve = place.serve();
    serve.waits_for("proxies wait");
    let (code, reason) = serve.get("/ready");
    assert!(code == 503 && reason.contains("holds no rule files"), "{code} {reason}");
    let mut client = Client::connect(serve.xds, "productpage").await;
    client.asks(Kind::Cluster, &[]).await;
    assert!(client.hears_nothing_for(Duration::from_millis(300)).await);
    place.write("services.yaml", SERVICES);
    assert_eq!(client.hears().await.unwrap().type_url, Kind::Cluster.url());
    assert_eq!(serve.get("/ready").0, 200);
}

#[tokio::test]
async fn versions_are_equal_in_two_processes() {
    let (one, other) = (bookshop(), bookshop());
    let (one_serves, other_serves) = (started(&one), started(&other));
    let everything = async |serve: &Serve| {
        let mut everything = Client::connect(serve.xds, "productpage").await.everything().await;
        // Each of the two has made a root of its own.
        everything.retain(|(kind, _), _| *kind != Kind::Secret);
        everything
    };
    let versions = everything(&one_serves).await;
    assert!(versions.len() >= 5, "{versions:?}");
    assert_eq!(versions, everything(&other_serves).await);
    let version = |serve: &Serve| serve.status_json()["rules"]["version"].clone();
    assert_eq!(version(&one_serves), version(&other_serves));
}

#[tokio::test]
async fn sigterm_closes_streams_cleanly_and_ends_with_success() {
    let place = bookshop();
    let serve = started(&place);
    let mut client = Client::connect(serve.xds, "productpage").await;
    client.everything().await;
    serve.is_told_to_stop();
    let status = client.hears().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    drop(client);
    assert_eq!(serve.ends(), Some(0));
}

#[tokio::test]
async fn status_shows_what_was_sent_and_acknowledged() {
    let place = bookshop();
    let mut serve = started(&place);
    let mut client = Client::connect(serve.xds, "productpage").await;
    let everything = client.everything().await;
    // A change that is heard says that everything before it was read.
    place.write("canary.yaml", &canary(70));
    serve.waits_for("rules in force");
    client.hears().await.unwrap();
    let output = serve.status(&["-o", "json", "--resources"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let proxy = &status["proxies"][0];
    assert_eq!(proxy["node"], "sidecar~127.0.0.1~productpage.default~default.svc.cluster.local");
    let clusters = &proxy["types"]["clusters"];
    assert!(clusters["sent"].is_string() && clusters["sent"] == clusters["acked"] && clusters["nack"].is_null());
    for ((kind, name), version) in &everything {
        if *kind != Kind::Route {
            assert_eq!(proxy["types"][kind.label()]["resources"][name], version.as_str());
        }
    }
}

#[test]
fn status_of_nobody_is_exit_code_three() {
    let address = format!("http://127.0.0.1:{}", crate::ports::free_port());
    let output = leno().args(["status", "--address", &address]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout.is_empty() && String::from_utf8(output.stderr).unwrap().contains("leno serve"));
}

#[test]
fn plain_text_stays_on_loopback_unless_it_is_meant() {
    let place = bookshop();
    let rules = place.rules();
    let output = leno().arg("serve").arg("--rules").arg(rules).args(["--xds-address", "0.0.0.0:0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--allow-plain-text"));
}
