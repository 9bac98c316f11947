//! `leno demo`: what a newcomer runs first.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use leno_tests::{eventually, eventually_within, leno, run_leno, workspace};
use serde_json::Value;
use tempfile::TempDir;

/// For fifteen processes that start together on a busy machine.
const WHOLE_MESH: Duration = Duration::from_secs(90);

#[test]
fn once_checks_the_example_and_says_so_in_json() {
    let outcome = run_leno(&["demo", "--once", "--requests", "1000", "-o", "json"], "");
    assert_eq!(outcome.code, 0, "{}\n{}", outcome.stdout, outcome.stderr);
    let json: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&json["requests"], &json["failed"]), (&Value::from(1000), &Value::from(0)));
    assert_eq!(json["service"]["reviews"]["v1"]["expected"], 0.8);
    let observed = json["service"]["reviews"]["v1"]["observed"].as_f64().unwrap();
    assert!((0.74..0.86).contains(&observed), "{json:#}");
    assert_eq!(json["header_match"]["end-user: jason"]["v2"], 100);
    let mtls = &json["mtls"];
    assert_eq!((&mtls["requests"], &mtls["clear_text"]), (&Value::from(1000), &Value::from(0)), "{mtls}");
    assert_eq!(mtls["group"], "X25519MLKEM768");
    let identities = json["identities"].as_object().expect("by workload");
    assert_eq!(identities["reviews-v1"], "spiffe://cluster.local/ns/default/sa/reviews", "{identities:#?}");
    assert_eq!(identities.len(), 7, "{identities:#?}");
}

#[test]
fn once_follows_other_rules_without_being_told_what_they_say() {
    let directory = copy_of_the_example();
    let routes = directory.path().join("routes.yaml");
    let text = std::fs::read_to_string(&routes).unwrap();
    std::fs::write(&routes, text.replace("weight: 80", "weight: 1").replace("weight: 20", "weight: 1")).unwrap();
    let rules = directory.path().to_str().unwrap();
    let outcome = run_leno(&["demo", "--rules", rules, "--once", "--requests", "400"], "");
    assert_eq!(outcome.code, 0, "{}\n{}", outcome.stdout, outcome.stderr);
    let row = outcome.stdout.lines().find(|line| line.starts_with("reviews v2")).unwrap_or_default();
    assert!(row.contains("50.0%"), "{}", outcome.stdout);
}

#[test]
fn once_fails_when_the_rules_lead_nowhere() {
    let directory = copy_of_the_example();
    let routes = directory.path().join("routes.yaml");
    let text = std::fs::read_to_string(&routes).unwrap();
    // A subset that no process belongs to.
    std::fs::write(&routes, text.replace("labels: {version: v2}", "labels: {version: v9}")).unwrap();
    let rules = directory.path().to_str().unwrap();
    let outcome = run_leno(&["demo", "--rules", rules, "--once", "--requests", "100"], "");
    assert_eq!(outcome.code, 1, "{}\n{}", outcome.stdout, outcome.stderr);
    assert!(outcome.stderr.contains("UH"), "the reason is told: {}", outcome.stderr);
}

#[test]
fn rules_that_are_not_there_are_named() {
    let outcome = run_leno(&["demo", "--once", "--rules", "no/such/rules"], "");
    assert_eq!(outcome.code, 2, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("no/such/rules"), "{}", outcome.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_outlives_the_control_plane_and_follows_an_edit_and_nothing_outlives_the_demo() {
    let directory = copy_of_the_example();
    let demo = Live::start(directory.path());
    let pids = demo.pids().await;
    assert_eq!(pids.len(), 15, "a control plane, seven apps, seven sidecars: {pids:?}");
    demo.eventually_observes("the split of the example", |row| share(row, "v1") > 0.6).await;

    let routes = directory.path().join("routes.yaml");
    let text = std::fs::read_to_string(&routes).unwrap();
    std::fs::write(&routes, text.replace("weight: 80", "weight: 0").replace("weight: 20", "weight: 100")).unwrap();
    demo.eventually_observes("the edited split", |row| share(row, "v1") < 0.01 && share(row, "v2") > 0.9).await;

    let control_plane = pids[0];
    signal("KILL", control_plane);
    eventually("the demo tells that the control plane died", async || {
        let log = demo.stderr();
        if log.contains("control plane (process") { Ok(()) } else { Err(log) }
    })
    .await;
    let lines = demo.stdout().lines().count();
    eventually_within(WHOLE_MESH, "traffic flows on", async || {
        let stdout = demo.stdout();
        let rows: Vec<Value> = stdout.lines().skip(lines).filter_map(|line| serde_json::from_str(line).ok()).collect();
        match rows.last() {
            Some(row) if rows.len() >= 3 && row["requests"].as_u64() > Some(50) && row["failed"] == 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    // As hard as can be: no handler of the demo's runs.
    signal("KILL", demo.child.id());
    eventually("all its processes end", async || {
        let alive: Vec<u32> = pids.iter().copied().filter(|pid| is_alive(*pid)).collect();
        if alive.is_empty() { Ok(()) } else { Err(format!("{alive:?} are there")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_ends_the_demo_and_its_processes() {
    let directory = copy_of_the_example();
    let mut demo = Live::start(directory.path());
    let pids = demo.pids().await;
    signal("INT", demo.child.id());
    let status =
        eventually("the demo ends", async || demo.child.try_wait().ok().flatten().ok_or_else(|| "it runs".to_owned()))
            .await;
    assert!(status.success(), "{status}");
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "some of {pids:?} are there");
}

/// A demo without `--once`, with its output in files.
struct Live {
    child: std::process::Child,
    output: TempDir,
}

impl Live {
    fn start(rules: &Path) -> Self {
        let output = TempDir::new().unwrap();
        let file = |name: &str| std::fs::File::create(output.path().join(name)).unwrap();
        let child = Command::new(leno())
            .args(["demo", "-o", "json", "--rules"])
            .arg(rules)
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap();
        Self { child, output }
    }

    fn stdout(&self) -> String {
        std::fs::read_to_string(self.output.path().join("stdout")).unwrap()
    }

    fn stderr(&self) -> String {
        std::fs::read_to_string(self.output.path().join("stderr")).unwrap()
    }

    /// The process ids that it prints, the control plane's first.
    async fn pids(&self) -> Vec<u32> {
        eventually("the demo prints its processes", async || {
            let text = self.stderr();
            let Some((_, table)) = text.split_once("addresses\n") else { return Err(text) };
            let Some((table, _)) = table.split_once("\n\n") else { return Err(text) };
            let numbers =
                table.lines().flat_map(|line| line.split_whitespace().take(4).filter_map(|word| word.parse().ok()));
            Ok(numbers.collect())
        })
        .await
    }

    async fn eventually_observes(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        eventually_within(WHOLE_MESH, what, async || {
            let stdout = self.stdout();
            let row = stdout.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
            if is_so(&row) { Ok(()) } else { Err(format!("{row:#}\n{}", self.stderr())) }
        })
        .await;
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn share(row: &Value, version: &str) -> f64 {
    row["service"]["reviews"][version]["observed"].as_f64().unwrap_or(0.0)
}

fn copy_of_the_example() -> TempDir {
    let directory = TempDir::new().unwrap();
    for file in ["services.yaml", "routes.yaml"] {
        std::fs::copy(workspace().join("examples/bookinfo").join(file), directory.path().join(file)).unwrap();
    }
    directory
}

fn signal(name: &str, pid: u32) {
    let status = Command::new("sh").args(["-c", r#"kill -s "$0" "$1""#, name, &pid.to_string()]).status().unwrap();
    assert!(status.success(), "cannot send SIG{name} to {pid}");
}

/// Neither gone nor a zombie that waits for init.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
