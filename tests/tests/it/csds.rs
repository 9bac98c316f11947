//! The status of clients (CSDS) as gRPC's own library is told it, and who is told what.

use leno_tests::{Python, eventually, mesh, origin, python_with_xds};

/// What the client prints.
fn says(python: &Python, arguments: &[&str]) -> Vec<String> {
    let output = python.script("csds_client.py").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_is_shown_on_the_clear_port_and_the_encrypted_one_shows_a_workload_itself() {
    let Some(python) = python_with_xds("client status") else { return };
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).behind_sidecars().encrypted().start().await;
    mesh.answers("http://app/", "app").await;
    let control_plane = mesh.control_plane.as_ref().unwrap();
    let clear = control_plane.xds().to_string();
    let all = eventually("all clients hold what they should", async || {
        let said = says(&python, &[&clear]);
        let unsettled = said.iter().skip(1).filter(|line| !line.ends_with(" SYNCED"));
        // What nobody has is asked for as well.
        let unsettled = unsettled.filter(|line| !line.ends_with(" NOT_SENT")).count();
        if unsettled == 0 && said.len() > 1 { Ok(said) } else { Err(said.join("\n")) }
    })
    .await;
    assert_eq!(all[0], "answers agree");
    for name in ["client", "app"] {
        let lines = all.iter().filter(|line| line.contains(&format!("~{name}"))).collect::<Vec<_>>();
        for kind in ["Cluster", "Listener"] {
            assert!(lines.iter().any(|line| line.contains(kind) && line.ends_with("SYNCED")), "{name}: {all:#?}");
        }
    }

    let root = control_plane.state().join("root.pem").display().to_string();
    let token = control_plane.state().join("csds.token");
    control_plane.write_token("client", &token);
    let encrypted = control_plane.tls().to_string();
    let own = says(&python, &[&encrypted, &root, token.to_str().unwrap()]);
    assert!(own.len() > 1, "{own:#?}");
    assert!(own.iter().skip(1).all(|line| line.contains("~client")), "of itself alone: {own:#?}");

    control_plane.write_token("stranger", &token);
    let stranger = says(&python, &[&encrypted, &root, token.to_str().unwrap()]);
    assert_eq!(stranger, ["answers agree"], "nobody else is there for it");
    let nobody = says(&python, &[&encrypted, &root]);
    assert!(nobody[0].starts_with("error UNAUTHENTICATED"), "{nobody:?}");
}
