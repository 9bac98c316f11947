//! Questions to proxies by way of the control plane: `/proxies` of its HTTP, over the streams that proxies open.

use leno_tests::{Call, Mesh, Reply, eventually, mesh, origin};
use serde_json::Value;

/// `GET` of the control plane's HTTP.
pub(crate) async fn ask(mesh: &Mesh, path: &str) -> Result<Reply, String> {
    let http = mesh.control_plane.as_ref().expect("this mesh has a control plane").http();
    Call::get(&format!("http://{http}{path}")).try_send(http).await
}

/// Waits until every proxy of the mesh can be asked.
pub(crate) async fn all_can_be_asked(mesh: &Mesh) {
    let expected = 1 + mesh.peers.len();
    eventually("all proxies have opened their streams", async || {
        let text = ask(mesh, "/proxies").await?.text();
        let list: Vec<Value> = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        let open = list.iter().filter(|proxy| proxy["relay"] == true).count();
        if open == expected { Ok(()) } else { Err(format!("{open} of {expected}: {text}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_answers_through_the_control_plane_what_it_answers_on_loopback() {
    let app = origin("app").await;
    for workers in [1, 4] {
        let builder = mesh().service("app", &[("v1", app.address())]).behind_sidecars().workers(workers);
        let mesh = builder.start().await;
        all_can_be_asked(&mesh).await;
        let admin = mesh.client.admin().await;
        let node = "sidecar~127.0.0.1~client.default~default.svc.cluster.local";
        for name in
            ["client", "client.default", node, "sidecar%7E127.0.0.1%7Eclient.default%7Edefault.svc.cluster.local"]
        {
            let here = Call::get("http://admin/listeners").send(admin).await;
            let from_afar = ask(&mesh, &format!("/proxies/{name}/listeners")).await.unwrap();
            assert_eq!(from_afar.status, 200, "{name}: {}", from_afar.text());
            assert_eq!(from_afar.text(), here.text());
            assert_eq!(from_afar.header("content-type"), here.header("content-type"));
        }
        let dump: Value =
            serde_json::from_str(&ask(&mesh, "/proxies/client/config_dump").await.unwrap().text()).unwrap();
        assert_eq!(leno_tests::ConfigDump(dump).versions("routes"), mesh.client.config_dump().await.versions("routes"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_afar_nobody_ends_a_proxy_and_wrong_names_are_explained() {
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).start().await;
    all_can_be_asked(&mesh).await;
    let http = mesh.control_plane.as_ref().unwrap().http();
    let post = |path: &str| Call::new(http::Method::POST, &format!("http://{http}{path}"));
    let refused = post("/proxies/client/quitquitquit").send(http).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    let page = post("/proxies/client/logging?level=info").header("origin", "http://example.com").send(http).await;
    assert_eq!(page.status, 403, "{}", page.text());
    let unknown = ask(&mesh, "/proxies/cleint/listeners").await.unwrap();
    assert_eq!(unknown.status, 404);
    assert!(unknown.text().contains("did you mean client.default?"), "{}", unknown.text());
    let missing = ask(&mesh, "/proxies/client/nothing-is-here").await.unwrap();
    assert_eq!(missing.status, 404, "the proxy's own answer");
    assert_eq!(mesh.get("http://app/").await.status, 200, "it is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_comes_back_after_the_control_plane_was_away() {
    let app = origin("app").await;
    let mut mesh = mesh().service("app", &[("v1", app.address())]).start().await;
    for _ in 0..2 {
        all_can_be_asked(&mesh).await;
        mesh.control_plane().kill();
        mesh.control_plane().restart().await;
    }
    all_can_be_asked(&mesh).await;
    let listeners = ask(&mesh, "/proxies/client/listeners").await.unwrap();
    assert_eq!(listeners.status, 200, "{}", listeners.text());
}
