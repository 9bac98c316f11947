//! Prometheus scrapes a mesh: its targets are up, its rules are in force, every panel shows something, nothing is alarming
//! about a healthy mesh, and what is wrong with a sick one is told.

use std::collections::BTreeSet;
use std::process::Command;

use leno_tests::prometheus::{Prometheus, has_prometheus, promtool};
use leno_tests::{Process, eventually, leno, workspace};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::asked::{Of, everything, prometheus_file};
use super::scene::Scene;

/// Of a mesh that does what it should.
const CALM: usize = 5;

/// The example's files, looked at every second, with alerts that do not wait, and these targets.
fn files(proxies: String, control_plane: String) -> [(&'static str, String); 4] {
    let read = |name: &str| std::fs::read_to_string(prometheus_file(name)).expect("the example has this file");
    let sooner = |text: String| -> String {
        let lines = text.lines().map(|line| match line.trim_start().split_once(": ") {
            Some(("scrape_interval" | "evaluation_interval" | "interval", long)) => line.replace(long, "1s"),
            Some(("for", long)) => line.replace(long, "0s"),
            Some(_) | None => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n") + "\n"
    };
    [
        ("prometheus.yml", sooner(read("prometheus.yml"))),
        ("rules.yml", sooner(read("rules.yml"))),
        ("proxies.json", proxies),
        ("control-plane.json", control_plane),
    ]
}

/// A Prometheus whose targets, so many, are all up.
async fn scrapes(proxies: String, control_plane: String, count: usize) -> Prometheus {
    let files = files(proxies, control_plane);
    let prometheus = Prometheus::start(&files.each_ref().map(|(name, text)| (*name, text.as_str()))).await;
    eventually("all targets are up", async || {
        let targets = prometheus.targets().await?;
        let up = targets.values().filter(|health| *health == "up").count();
        if up == count && up == targets.len() { Ok(()) } else { Err(format!("{targets:?}")) }
    })
    .await;
    prometheus
}

#[test]
fn promtool_has_nothing_to_say_against_rules_and_configuration() {
    if !has_prometheus("promtool on the example") {
        return;
    }
    let file = |name: &str| prometheus_file(name).display().to_string();
    let said = promtool(&["check", "rules", &file("rules.yml")], "");
    assert!(said.contains("SUCCESS") && !said.contains("FAILED"), "{said}");
    // The files with the targets are written by whoever starts a mesh; Debian's build knows nothing of Kubernetes.
    let said = promtool(&["check", "config", &file("prometheus.yml")], "");
    assert!(said.contains("is valid prometheus config file syntax") && !said.contains("FAILED"), "{said}");
    let kubernetes = std::fs::read_to_string(file("kubernetes.yml")).expect("the example has this file");
    let without = kubernetes.replace("    kubernetes_sd_configs:\n      - role: pod\n", "");
    let scratch = TempDir::new().expect("cannot create a directory");
    std::fs::copy(file("rules.yml"), scratch.path().join("rules.yml")).expect("cannot copy a file");
    let copy = scratch.path().join("kubernetes.yml");
    std::fs::write(&copy, without).expect("cannot write a file");
    let said = promtool(&["check", "config", &copy.display().to_string()], "");
    assert!(said.contains("is valid prometheus config file syntax") && !said.contains("FAILED"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_panel_shows_a_running_mesh_and_alerts_tell_a_sick_one_from_a_healthy_one() {
    if !has_prometheus("Prometheus and a mesh") {
        return;
    }
    let scene = Scene::start().await;
    let (proxies, control_plane) = scene.targets().await;
    let targets = |addresses: &[String]| json!([{"targets": addresses}]).to_string();
    let prometheus = scrapes(targets(&proxies), targets(&[control_plane]), proxies.len() + 1).await;
    let seen = |query: &'static str, least: f64| {
        let (scene, prometheus) = (&scene, &prometheus);
        async move {
            eventually(query, async || {
                scene.is_used().await;
                let value = prometheus.query(query).await?.first().map_or(0.0, |series| series.value);
                if value > least { Ok(()) } else { Err(value.to_string()) }
            })
            .await;
        }
    };
    seen("min(leno:requests:rate5m)", 0.0).await;
    let mut calm = 0;
    eventually("a healthy mesh alarms nobody", async || {
        scene.is_used().await;
        let alerts = prometheus.alerts().await?;
        calm = if alerts.is_empty() { calm + 1 } else { 0 };
        if calm >= CALM { Ok(()) } else { Err(format!("{calm} rounds without an alert, then {alerts:?}")) }
    })
    .await;
    let rules = prometheus.rules().await.expect("rules");
    assert!(rules.len() > 20 && rules.values().all(|health| health == "ok"), "{rules:?}");

    eventually("the alert on errors fires", async || {
        scene.falls_ill().await;
        let alerts = prometheus.alerts().await?;
        let fires = alerts.get("LenoErrorBudgetBurnsFast").is_some_and(|state| state == "firing");
        if fires { Ok(()) } else { Err(format!("{alerts:?}")) }
    })
    .await;
    // What has happened once may not be scraped yet, and what it has led to may be over.
    eventually("everything is answered", async || {
        scene.falls_ill().await;
        match unanswered(&prometheus).await? {
            wrong if wrong.is_empty() => Ok(()),
            wrong => Err(format!("{}:\n{}", wrong.len(), wrong.join("\n"))),
        }
    })
    .await;
}

/// The commands of the README: the demo says where it is, and the queries that are named there have answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prometheus_finds_the_demo() {
    if !has_prometheus("Prometheus and the demo") {
        return;
    }
    let directory = TempDir::new().expect("cannot create a directory");
    let mut command = Command::new(leno());
    command.current_dir(workspace()).args(["demo", "-o", "json", "--targets"]).arg(directory.path());
    let demo = Process::start("demo", &mut command, &directory.path().join("log"));
    let written = async |name: &str| {
        let file = directory.path().join(name);
        eventually(&format!("the demo writes {name}"), async || {
            std::fs::read_to_string(&file).map_err(|error| format!("{error}\n{}", demo.log()))
        })
        .await
    };
    let (proxies, control_plane) = (written("proxies.json").await, written("control-plane.json").await);
    let listed: Vec<Value> = serde_json::from_str(&proxies).expect("the targets are JSON");
    let prometheus = scrapes(proxies, control_plane, listed.len() + 1).await;
    let readme = std::fs::read_to_string(prometheus_file("README.md")).expect("the example has a README");
    let named = readme.lines().filter_map(|line| line.strip_prefix("    "));
    let queries: Vec<&str> = named.filter(|line| line.starts_with("sum by") || line.starts_with("leno:")).collect();
    assert_eq!(queries.len(), 3);
    for query in queries {
        eventually(query, async || match prometheus.query(query).await?.len() {
            0 => Err("no answer".to_owned()),
            _ => Ok(()),
        })
        .await;
    }
}

/// The queries without an answer that has the labels which their legend or text names, and selectors of nothing.
async fn unanswered(prometheus: &Prometheus) -> Result<Vec<String>, String> {
    let mut wrong = Vec::new();
    for asked in everything() {
        for selector in asked.selectors() {
            let text = selector.text();
            let found = prometheus.query(&format!("count({text})")).await.map_err(|why| format!("{text}: {why}"))?;
            if found.is_empty() {
                wrong.push(format!("{}: {text} selects nothing", asked.place));
            }
        }
        let answer = prometheus.query(&asked.query).await.map_err(|why| format!("{}: {why}", asked.place))?;
        if answer.is_empty() && asked.of != Of::Alert {
            wrong.push(format!("{}: no answer to {}", asked.place, asked.query));
        }
        let labels: BTreeSet<&String> = answer.iter().flat_map(|series| series.labels.keys()).collect();
        let missing = asked.shown.iter().filter(|label| !answer.is_empty() && !labels.contains(label));
        wrong.extend(missing.map(|label| format!("{}: shows `{label}`, which is not in its answer", asked.place)));
    }
    Ok(wrong)
}
