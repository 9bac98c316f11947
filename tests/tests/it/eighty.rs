//! What is printed for people fits into 80 columns, where nobody says that there is more room.

use std::process::Command;

use leno_tests::{Call, Connection, Outcome, Protocol, eventually, leno, mesh, origin};

use crate::relay::all_can_be_asked;

const COLUMNS: usize = 80;

const RULES: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - route:
    - {destination: {host: reviews, subset: v1}, weight: 80}
    - {destination: {host: reviews, subset: v2}, weight: 20}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: details-policy}
spec:
  host: details
  trafficPolicy: {connectionPool: {http: {http2MaxRequests: 100}}, outlierDetection: {consecutive5xxErrors: 5}}
";

/// Into a pipe, as somebody's script or pager has it.
fn printed(words: &[&str]) -> Outcome {
    let output = Command::new(leno()).args(words).env_remove("COLUMNS").env_remove("CLICOLOR_FORCE").output().unwrap();
    Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// What it prints, which has to be something and to fit.
fn fits(words: &[&str]) -> String {
    let Outcome { stdout, stderr, .. } = printed(words);
    assert!(stdout.lines().count() > 1, "{words:?}: {stdout}{stderr}");
    let wide: Vec<&str> = stdout.lines().filter(|line| line.chars().count() > COLUMNS).collect();
    assert!(wide.is_empty(), "{words:?}: {wide:#?} in\n{stdout}");
    stdout
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_and_reports_of_a_mesh_fit_a_narrow_terminal() {
    let [v1, v2, details] = [origin("v1").await, origin("v2").await, origin("details").await];
    let mesh = mesh()
        .service("reviews", &[("v1", v1.address()), ("v2", v2.address())])
        .service("details", &[("v1", details.address())])
        .rules(RULES)
        .encrypted()
        .start()
        .await;
    all_can_be_asked(&mesh).await;
    let mut caller = Connection::open(mesh.outbound(), Protocol::Http1).await;
    for service in ["reviews", "details"].into_iter().cycle().take(40) {
        assert_eq!(caller.send(Call::get(&format!("http://{service}/"))).await.status, 200);
    }
    let control_plane = format!("http://{}", mesh.control_plane.as_ref().unwrap().http());
    let admin = format!("http://{}", mesh.client.admin().await);
    let (of_mesh, of_proxy) = (["--address", &control_plane], ["--proxy", &admin]);
    eventually("all that was sent has been counted", async || {
        let seen = printed(&[&["edges", "--window", "10m"][..], &of_mesh].concat()).stdout;
        if seen.contains("reviews-v2") && seen.contains("details") { Ok(()) } else { Err(seen) }
    })
    .await;
    let window = ["--window", "10m"];
    let stat = fits(&[&["stat"][..], &window, &of_mesh].concat());
    assert!(stat.contains("100.00%"), "{stat}");
    fits(&[&["stat", "svc"][..], &window, &of_mesh].concat());
    let edges = fits(&[&["edges"][..], &window, &of_mesh].concat());
    assert!(edges.contains("\u{221a} X25519MLKEM768") && !edges.contains('\u{2026}'), "nothing is cut: {edges}");
    let routes = fits(&[&["routes"][..], &window, &of_mesh].concat());
    assert!(routes.contains("80%") && routes.contains("reviews[1]") && !routes.contains('\u{2026}'), "{routes}");
    fits(&[&["status"][..], &of_mesh].concat());
    fits(&[&["status"][..], &of_proxy].concat());
    for kind in ["listeners", "routes", "clusters", "endpoints", "secrets", "all"] {
        fits(&[&["config", kind][..], &of_proxy].concat());
    }
    let explained = fits(&["explain", "GET", "http://reviews/", "--proxy", &admin]);
    assert!(explained.contains("retries   2 on ") && explained.contains("80 %"), "{explained}");
    fits(&[&["check"][..], &of_mesh].concat());
    fits(&[&["check"][..], &of_proxy].concat());

    mesh.edit(&format!("{RULES}---\n{}", RULES.replace("host: reviews, subset: v1", "hots: reviews")));
    let words = [&["check", "-f", "examples/canary/rules"][..], &of_mesh].concat();
    eventually("the errors are found", async || {
        let found = printed(&words).stdout;
        if found.contains("hots") { Ok(()) } else { Err(found) }
    })
    .await;
    let report = fits(&words);
    assert!(report.contains("\u{d7} ") && report.contains("    leno validate -f "), "{report}");
    assert!(fits(&[&["status"][..], &of_mesh].concat()).contains("hots"));
}
