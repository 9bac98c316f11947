//! What the pages show.

use http::Method;
use leno_tests::{Call, Sidecar, eventually, mesh, origin, sidecar};
use serde_json::Value;

use super::{get, json, post};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_listeners_memory_and_the_process_are_shown() {
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).start().await;
    for _ in 0..3 {
        assert_eq!(mesh.get("http://app/").await.status, 200);
    }
    let admin = mesh.client.admin().await;
    let clusters = json(&get(admin, "/clusters?format=json").await);
    let endpoints = clusters.as_array().unwrap().iter().flat_map(|cluster| cluster["endpoints"].as_array().unwrap());
    let endpoint = endpoints.clone().find(|endpoint| endpoint["address"] == app.address().to_string());
    let endpoint = endpoint.unwrap_or_else(|| panic!("no endpoint of the app in {clusters:#}"));
    let requests: u64 = endpoints.filter_map(|endpoint| endpoint["successes"].as_u64()).sum();
    assert_eq!((requests, &endpoint["breaker"], endpoint["weight"].as_u64()), (3, &Value::from("closed"), Some(1)));
    let text = get(admin, "/clusters").await.text();
    for fact in ["::health_flags::healthy", "::rq_active::0", "::priority::0", "::region::"] {
        assert!(text.contains(&format!("{}{fact}", app.address())), "{fact} in\n{text}");
    }

    let listeners = json(&get(admin, "/listeners?format=json").await);
    let port = u64::from(mesh.outbound().port());
    let ours = listeners["listener_statuses"]
        .as_array()
        .unwrap()
        .iter()
        .find(|listener| listener["local_address"]["socket_address"]["port_value"] == port);
    let ours = ours.unwrap_or_else(|| panic!("{listeners:#}"));
    assert_eq!((&ours["direction"], &ours["state"]), (&Value::from("outbound"), &Value::from("listening")));
    assert!(get(admin, "/listeners").await.text().contains(&format!("::{}\n", mesh.outbound())));

    let memory = json(&get(admin, "/memory").await);
    let bytes = |name: &str| memory[name].as_str().and_then(|bytes| bytes.parse::<u64>().ok()).unwrap_or_default();
    assert!(bytes("allocated") > 0 && bytes("total_physical_bytes") >= bytes("allocated"), "{memory:#}");

    let info = json(&get(admin, "/server_info").await);
    assert_eq!((&info["state"], &info["node"]["metadata"]["NAME"]), (&Value::from("LIVE"), &Value::from("client")));
    assert!(info["command_line_options"].to_string().contains("--config"), "{info:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_are_filtered_and_begin_anew_for_people_alone() {
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).start().await;
    let admin = mesh.client.admin().await;
    for _ in 0..3 {
        assert_eq!(mesh.get("http://app/").await.status, 200);
    }
    let answered = |text: &str| -> f64 {
        let lines = text.lines().filter(|line| line.contains("response_code=\"200\""));
        lines.filter_map(|line| line.rsplit_once(": ")?.1.parse::<f64>().ok()).sum()
    };
    let filtered = "/stats?filter=%5Ehttp_requests_total&usedonly";
    let text = get(admin, filtered).await.text();
    assert!(text.lines().all(|line| line.starts_with("http_requests_total{")), "{text}");
    assert_eq!(answered(&text), 3.0, "{text}");
    let stats = json(&get(admin, "/stats?format=json&filter=http_requests_total").await);
    let sum: f64 = stats["stats"].as_array().unwrap().iter().filter_map(|stat| stat["value"].as_f64()).sum();
    assert_eq!(sum, 3.0, "{stats:#}");

    assert_eq!(post(admin, "/reset_counters").await.status, 200);
    assert_eq!(get(admin, filtered).await.text(), "");
    assert_eq!(mesh.get("http://app/").await.status, 200);
    assert_eq!(answered(&get(admin, filtered).await.text()), 1.0);
    let scraped = get(admin, "/stats?format=prometheus&filter=http_requests_total").await.text();
    assert_eq!(leno_tests::metric(&scraped, "http_requests_total", &["response_code=\"200\""]), 4.0, "{scraped}");
    assert!(!scraped.contains("active_connections"), "{scraped}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_is_of_what_was_asked_for_and_without_passwords() {
    let app = origin("app").await;
    let rules = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app}
spec:
  hosts: [app]
  http:
  - headers: {request: {set: {authorization: Basic c2VjcmV0, x-plain: shown}}}
    route: [{destination: {host: app}}]
";
    let mesh = mesh().service("app", &[("v1", app.address())]).rules(rules).start().await;
    eventually("the rule is in force", async || {
        mesh.get("http://app/").await;
        if app.last().header("x-plain") == "shown" { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let admin = mesh.client.admin().await;
    let whole = get(admin, "/config_dump").await.text();
    assert!(whole.contains("x-plain") && whole.contains("[redacted]") && !whole.contains("c2VjcmV0"), "{whole}");

    let clusters = json(&get(admin, "/config_dump?resource=clusters").await);
    assert_eq!(clusters.as_object().unwrap().keys().collect::<Vec<_>>(), ["clusters"]);
    let envoys = json(&get(admin, "/config_dump?resource=dynamic_active_clusters").await);
    assert_eq!(envoys, clusters);
    let some = json(&get(admin, "/config_dump?resource=clusters&name_regex=v1&mask=name,version").await);
    let rows = some["clusters"].as_array().unwrap();
    assert!(!rows.is_empty() && rows.len() < clusters["clusters"].as_array().unwrap().len(), "{some:#}");
    for row in rows {
        assert_eq!(row.as_object().unwrap().keys().collect::<Vec<_>>(), ["name", "version"]);
        assert!(row["name"].as_str().unwrap().contains("v1"), "{row}");
    }
    let masked = json(&get(admin, "/config_dump?mask=node.name,clusters.name").await);
    assert_eq!(masked.as_object().unwrap().len(), 2, "{masked:#}");
    assert_eq!(masked["node"]["name"], "client");
}

async fn alone() -> (Sidecar, leno_tests::Origin) {
    let app = origin("app").await;
    (sidecar(app.address(), "").start().await, app)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_page_can_neither_change_a_proxy_nor_read_it() {
    let (sidecar, app) = alone().await;
    let admin = sidecar.proxy.admin().await;
    let page = |method: &Method, path: &str, headers: &[(&str, &str)]| {
        let call = Call::new(method.clone(), &format!("http://localhost{path}"));
        headers.iter().fold(call, |call, (name, value)| call.header(name, value)).send(admin)
    };
    for path in ["/quitquitquit", "/drain_listeners", "/healthcheck/fail", "/reset_counters", "/logging?level=off"] {
        for headers in [
            &[("host", "evil.example")][..],
            &[("host", "evil.example:15000")],
            &[("host", "admin")],
            &[("origin", "http://evil.example")],
            &[("origin", "null")],
            &[("sec-fetch-site", "cross-site")],
        ] {
            let reply = page(&Method::POST, path, headers).await;
            assert_eq!(reply.status, 403, "{path} {headers:?}: {}", reply.text());
        }
        assert!(get(admin, path).await.status == 405, "{path} is not for GET");
    }
    for path in ["/config_dump", "/tap", "/logging"] {
        assert_eq!(page(&Method::GET, path, &[("host", "evil.example:15000")]).await.status, 403, "{path}");
    }
    assert_eq!(sidecar.proxy.readiness().await, Ok(200));
    assert_eq!(leno_tests::get(sidecar.address(), "http://shop/").await.status, 200);
    assert_eq!(app.count(), 1);
    assert_eq!(post(admin, "/reset_counters").await.status, 200, "who calls localhost may");
}
