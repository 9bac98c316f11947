//! What `leno stat`, `routes`, `edges`, `tap` and `top` show of a running mesh, against what the test itself counted.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use leno_tests::{Call, Connection, Mesh, Origin, Protocol, eventually, leno, mesh, origin, run_leno};
use serde_json::Value;

use crate::relay::all_can_be_asked;

const REQUESTS: usize = 200;

const SPLIT: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app}
spec:
  hosts: [app]
  http:
  - route:
    - {destination: {host: app, subset: v1}, weight: 75}
    - {destination: {host: app, subset: v2}, weight: 25}
";

fn address(mesh: &Mesh) -> String {
    format!("http://{}", mesh.control_plane.as_ref().expect("a control plane").http())
}

/// The JSON of a command of the mesh's control plane.
fn json(mesh: &Mesh, command: &[&str]) -> Result<Vec<Value>, String> {
    let address = address(mesh);
    let outcome = run_leno(&[command, &["--address", &address, "-o", "json"]].concat(), "");
    let rows = serde_json::from_str(&outcome.stdout);
    rows.map_err(|error| format!("{command:?}: {error}: {} {}", outcome.stdout, outcome.stderr))
}

/// Sends requests on one connection; how many each version has answered.
async fn ask_often(mesh: &Mesh) -> BTreeMap<String, u64> {
    let mut seen = BTreeMap::new();
    let mut connection = Connection::open(mesh.outbound(), Protocol::Http1).await;
    for _ in 0..REQUESTS {
        let reply = connection.send(Call::get("http://app/path?secret=x")).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        *seen.entry(reply.text()).or_default() += 1;
    }
    seen
}

async fn start(workers: usize, v1: &Origin, v2: &Origin) -> Mesh {
    let builder = mesh().service("app", &[("v1", v1.address()), ("v2", v2.address())]).encrypted();
    let mesh = builder.workers(workers).rules(SPLIT).start().await;
    all_can_be_asked(&mesh).await;
    mesh
}

/// Requests that a row tells of.
fn requests(row: &Value) -> u64 {
    row["requests"].as_u64().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stat_routes_and_edges_agree_with_what_the_caller_counted() {
    let (v1, v2) = (origin("v1").await, origin("v2").await);
    for workers in [1, 4] {
        let mesh = start(workers, &v1, &v2).await;
        let seen = ask_often(&mesh).await;
        // Requests are counted when their last byte has gone out, which the caller may have read before that.
        eventually("stat tells of every request once", async || {
            let rows = json(&mesh, &["stat", "deploy", "--window", "10m"])?;
            for (version, count) in &seen {
                let row = rows.iter().find(|row| {
                    let name = row["name"].as_str().unwrap_or_default();
                    name.starts_with(&format!("app-{version}"))
                });
                let row = row.ok_or_else(|| format!("{version} is not in {rows:#?}"))?;
                if requests(row) != *count || row["success"] != 1.0 || row["meshed"] != 1 {
                    return Err(format!("{version}: {count} were answered; {row:#}"));
                }
                if !(row["rps"].as_f64() > Some(0.0) && row["p50_ms"].as_f64() > Some(0.0)) {
                    return Err(format!("{row:#}"));
                }
            }
            Ok(())
        })
        .await;
        eventually("routes tells of the split as it is written and as it came out", async || {
            let rows = json(&mesh, &["routes", "app", "--window", "10m"])?;
            for (version, weight) in [("v1", 0.75), ("v2", 0.25)] {
                let cluster = format!("outbound|80|{version}|app.default.svc.cluster.local");
                let row = rows.iter().find(|row| row["cluster"] == cluster.as_str());
                let row = row.ok_or_else(|| format!("{cluster} is not in {rows:#?}"))?;
                let count = seen.get(version).copied().unwrap_or_default();
                #[allow(clippy::cast_precision_loss)]
                let share = count as f64 / REQUESTS as f64;
                if requests(row) != count || row["configured"] != weight || row["observed"] != share {
                    return Err(format!("{version} has answered {count}: {row:#}"));
                }
            }
            Ok(())
        })
        .await;
        eventually("edges tells who talks to whom and how it is secured", async || {
            let rows = json(&mesh, &["edges", "--window", "10m"])?;
            for (version, count) in &seen {
                let row = rows.iter().find(|row| {
                    let to = row["destination"]["name"].as_str().unwrap_or_default();
                    row["source"]["name"] == "client" && to.starts_with(&format!("app-{version}"))
                });
                let row = row.ok_or_else(|| format!("client to {version} is not in {rows:#?}"))?;
                let is_secured = row["security"] == "mutual_tls" && row["group"] == "X25519MLKEM768";
                let is_client = row["source"]["identity"] == "spiffe://cluster.local/ns/default/sa/client";
                if requests(row) != *count || !is_secured || !is_client {
                    return Err(format!("{version} has answered {count}: {row:#}"));
                }
            }
            Ok(())
        })
        .await;
        tables_fit(&mesh);
    }
}

/// Every table is readable at 80 columns.
fn tables_fit(mesh: &Mesh) {
    let address = address(mesh);
    for command in ["stat", "edges", "routes"] {
        let outcome = run_leno(&[command, "--address", &address, "--window", "10m"], "");
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        assert!(outcome.stdout.contains("app"), "{}", outcome.stdout);
        let longest = outcome.stdout.lines().map(|line| line.chars().count()).max().unwrap_or_default();
        assert!(longest <= 80, "{longest}\n{}", outcome.stdout);
    }
}

/// Runs a command that looks until it has seen enough, under requests that go on; what it printed.
async fn under_requests(mesh: &Mesh, arguments: &[&str]) -> String {
    let address = address(mesh);
    let mut looking = Command::new(leno())
        .args(arguments)
        .args(["--address", &address])
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("it has seen enough", async || {
        let reply = mesh.get("http://app/path?secret=x").await;
        assert_eq!(reply.status, 200);
        match looking.try_wait() {
            Ok(Some(_)) => Ok(()),
            _ => Err("it looks on".to_owned()),
        }
    })
    .await;
    let output = looking.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tap_and_top_show_requests_of_many_proxies_as_they_end() {
    let (v1, v2) = (origin("v1").await, origin("v2").await);
    let mesh = start(1, &v1, &v2).await;
    let text = under_requests(&mesh, &["tap", "-o", "json", "--max", "60"]).await;
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    assert_eq!(lines.len(), 60);
    for line in &lines {
        assert_eq!((&line["method"], &line["status"]), (&"GET".into(), &200.into()), "{line:#}");
        let path = line["path"].as_str().unwrap();
        assert!(path.starts_with("/path") && !path.contains("secret=x"), "{path}");
    }
    for direction in ["inbound", "outbound"] {
        assert!(lines.iter().any(|line| line["direction"] == direction), "{direction} is missing in {text}");
    }
    let table = under_requests(&mesh, &["tap", "client", "--max", "3", "--method", "GET"]).await;
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.lines().all(|line| line.contains(" client ") && line.contains(" GET ")), "{table}");
    let top = under_requests(&mesh, &["top", "--once", "--max", "5", "-o", "json"]).await;
    let rows: Vec<Value> = serde_json::from_str(&top).expect("JSON");
    let count: u64 = rows.iter().filter_map(|row| row["count"].as_u64()).sum();
    assert_eq!(count, 5, "{top}");
    assert!(rows.iter().all(|row| row["path"] == "/path" && row["source"] == "client"), "{top}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_asked_is_named_and_the_exit_code_says_so() {
    let nobody = run_leno(&["stat", "--address", "http://127.0.0.1:1"], "");
    assert_eq!(nobody.code, 3, "{}", nobody.stderr);
    let usage = run_leno(&["stat", "pod/x"], "");
    assert_eq!(usage.code, 2, "{}", usage.stderr);
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).start().await;
    all_can_be_asked(&mesh).await;
    let address = address(&mesh);
    let unknown = run_leno(&["tap", "cleint", "--address", &address], "");
    assert_eq!(unknown.code, 1, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("client.default"), "{}", unknown.stderr);
    let empty = run_leno(&["stat", "-n", "elsewhere", "--address", &address], "");
    assert_eq!((empty.code, empty.stdout.contains("-A")), (0, true), "{}", empty.stdout);
}
