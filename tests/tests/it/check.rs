//! `leno check` says what is not well, and what to type next.

use std::process::{Command, Stdio};

use leno_tests::{eventually, free_port, leno, mesh, origin, run_leno};
use serde_json::Value;

/// Exit code and report.
fn check(arguments: &[&str]) -> (i32, Value) {
    let outcome = run_leno(&[&["check", "-o", "json"], arguments].concat(), "");
    let report = serde_json::from_str(&outcome.stdout);
    (outcome.code, report.unwrap_or_else(|error| panic!("{error}: {}{}", outcome.stdout, outcome.stderr)))
}

fn checks(report: &Value) -> Vec<&Value> {
    let sections = report["sections"].as_array().into_iter().flatten();
    sections.flat_map(|section| section["checks"].as_array().into_iter().flatten()).collect()
}

/// Whatever is not well ends with a command.
fn ends_with_commands(report: &Value) {
    for check in checks(report) {
        let next = check["next"].as_str().unwrap_or_default();
        assert_eq!(check["outcome"] == "ok", next.is_empty(), "{check}");
    }
}

#[test]
fn a_machine_is_checked_before_anything_runs_and_a_port_that_is_taken_has_a_holder() {
    // Held by this test, unless something else has it already.
    let _held = std::net::TcpListener::bind("127.0.0.1:15014");
    let (code, report) = check(&["--pre"]);
    ends_with_commands(&report);
    let port = checks(&report).into_iter().find(|check| check["what"].as_str().unwrap().contains("15014")).unwrap();
    assert_ne!(port["outcome"], "ok", "{report:#}");
    assert!(port["what"].as_str().unwrap().contains("held by"), "{port}");
    assert_eq!(code, i32::from(report["ok"] == false));
    let words = run_leno(&["check", "--pre"], "").stdout;
    assert!(words.contains("this machine\n------------\n") && words.contains("a process may open"), "{words}");
    assert!(!words.contains('\u{1b}'), "no colours in a pipe");
}

#[test]
fn who_cannot_be_reached_ends_with_3_and_how_to_start_it() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    for (flag, next) in [("--address", "leno serve"), ("--proxy", "leno-proxy run")] {
        let (code, report) = check(&[flag, &nobody]);
        assert_eq!(code, 3, "{report:#}");
        ends_with_commands(&report);
        assert!(report.to_string().contains(next), "{report:#}");
    }
    assert_eq!(run_leno(&["check", "--address", "nonsense"], "").code, 2);
    assert_eq!(run_leno(&["check", "--wait", "soon", "--address", &nobody], "").code, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_is_well_until_a_rule_is_wrong_and_again_when_it_is_repaired() {
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).behind_sidecars().start().await;
    mesh.answers("http://app/", "app").await;
    let address = format!("http://{}", mesh.control_plane.as_ref().unwrap().http());
    let look = || tokio::task::block_in_place(|| check(&["--address", &address]));
    eventually("the mesh is well", async || {
        let (code, report) = look();
        if code == 0 { Ok(()) } else { Err(format!("{report:#}")) }
    })
    .await;
    let (_, report) = look();
    ends_with_commands(&report);
    let names = report["sections"].as_array().unwrap().iter().map(|section| section["name"].as_str().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["this machine", "control plane", "rules in force", "proxies"]);
    let admin = format!("http://{}", mesh.client.admin().await);
    let (code, report) = tokio::task::block_in_place(|| check(&["--proxy", &admin]));
    assert_eq!(code, 0, "{report:#}");
    ends_with_commands(&report);

    mesh.edit("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hots: [app]}\n");
    let next = eventually("the error is found", async || {
        let (code, report) = look();
        let found = checks(&report).into_iter().find(|check| check["what"].as_str().unwrap().contains("hots"));
        let next = found.and_then(|check| check["next"].as_str()).map(str::to_owned);
        next.filter(|_| code == 1).ok_or_else(|| format!("{code} {report:#}"))
    })
    .await;
    let words = next.strip_prefix("leno ").expect("a command of leno").split(' ').collect::<Vec<_>>();
    let shown = run_leno(&words, "");
    assert!(shown.code == 1 && shown.stdout.contains("hots"), "{next}: {}{}", shown.stdout, shown.stderr);

    // Who waits is told once it is well.
    let mut waits = Command::new(leno());
    waits.args(["check", "--wait", "60s", "-o", "short", "--address", &address]).stdout(Stdio::piped());
    let waits = waits.spawn().unwrap();
    mesh.edit("# nothing is wrong any more\n");
    let ended = tokio::task::spawn_blocking(move || waits.wait_with_output()).await.unwrap().unwrap();
    let words = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && words.contains("Nothing fails: 0 ×"), "{words}");
}

#[test]
fn rules_are_checked_beside_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    std::fs::write(&file, "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{prot: 80}]}\n").unwrap();
    let (code, report) = check(&["--pre", "-f", file.to_str().unwrap()]);
    assert_eq!(code, 1);
    let found = checks(&report).into_iter().find(|check| check["what"].as_str().unwrap().contains("prot"));
    assert_eq!(found.unwrap()["next"], format!("leno validate -f {}", file.display()));
    let (_, report) = check(&["--pre", "-f", "examples/canary/rules"]);
    assert!(report.to_string().contains("nothing to complain about"), "{report:#}");
}
