//! A proxy's own health: each figure has the value that was brought about, and loses it again.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::{Method, Response};
use leno_tests::exposition::{figure, samples};
use leno_tests::pki::{Authority, Leaf};
use leno_tests::{
    Call, Connection, Origin, Protocol, Proxy, empty, eventually, free_port, mesh, origin, sidecar, slow_app,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;

const DAY: i64 = 86_400;

/// One figure of a proxy.
async fn of(proxy: &Proxy, name: &str) -> f64 {
    let samples = samples(&proxy.metrics().await);
    figure(&samples, name, &[]).unwrap_or_else(|| panic!("no {name}"))
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_counted_while_they_are_open() {
    let app = origin("shop").await;
    let shop = sidecar(app.address(), "").start().await;
    let mut callers = Vec::new();
    for count in [1.0, 2.0, 3.0] {
        let mut caller = Connection::open(shop.address(), Protocol::Http1).await;
        assert_eq!(caller.send(Call::get("http://shop/")).await.status, 200);
        callers.push(caller);
        shop.proxy.shows("active_connections", &[], count).await;
    }
    let total = of(&shop.proxy, "connections_total").await;
    callers.pop();
    shop.proxy.shows("active_connections", &[], 2.0).await;
    callers.clear();
    shop.proxy.shows("active_connections", &[], 0.0).await;
    assert!(total >= 3.0 && of(&shop.proxy, "connections_total").await >= total, "{total}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn series_are_as_many_as_there_are_kinds_of_requests() {
    let app = Origin::answering(|request| {
        let status = request.header("x-status").parse::<u16>().unwrap();
        Response::builder().status(status).body(empty()).unwrap()
    })
    .await;
    let shop = sidecar(app.address(), "").start().await;
    shop.proxy.shows("leno_series", &[("kind", "request")], 0.0).await;
    for (statuses, count) in [(&["200"][..], 1.0), (&["404", "200"], 2.0), (&["404"; 10], 2.0)] {
        for status in statuses {
            Call::get("http://shop/").header("x-status", status).send(shop.address()).await;
        }
        shop.proxy.shows("leno_series", &[("kind", "request")], count).await;
    }
    shop.proxy.shows("istio_requests_total", &[("response_code", "404")], 11.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_configuration_is_counted_with_its_time_and_a_good_one_has_a_version_and_an_age() {
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).without_control_plane().start().await;
    let (rejected, last) = ("leno_config_rejected_total", "leno_config_last_rejected_timestamp_seconds");
    assert_eq!((of(&mesh.client, rejected).await, of(&mesh.client, last).await), (0.0, 0.0), "never");
    let mut before = 0.0;
    for edit in ["first", "second"] {
        let began = seconds(SystemTime::now());
        let (version, count) = (of(&mesh.client, "leno_config_version").await, of(&mesh.client, rejected).await);
        let route = format!(
            "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: app}}
spec:
  hosts: [app]
  http: [{{headers: {{response: {{set: {{x-edit: {edit}}}}}}}, route: [{{destination: {{host: app}}}}]}}]
"
        );
        mesh.edit(&route.replace("host: app", "hots: app"));
        eventually("the refusal is counted", async || {
            let time = of(&mesh.client, last).await;
            if time > before && of(&mesh.client, rejected).await > count { Ok(()) } else { Err(time.to_string()) }
        })
        .await;
        // To the millisecond, which is cut off.
        let time = of(&mesh.client, last).await;
        assert!((began - 0.001..=seconds(SystemTime::now())).contains(&time), "{began} {time}");
        before = time;
        assert_eq!(of(&mesh.client, "leno_config_version").await, version, "what was in force stays");
        mesh.edit(&route);
        eventually("the route is in force", async || match mesh.get("http://app/").await.header("x-edit") {
            found if found == edit => Ok(()),
            other => Err(other.to_owned()),
        })
        .await;
        assert!(of(&mesh.client, "leno_config_version").await > version);
        let age = of(&mesh.client, "leno_config_age_seconds").await;
        assert!((0.0..=seconds(SystemTime::now()) - began).contains(&age), "{age}");
    }
    let age = of(&mesh.client, "leno_config_age_seconds").await;
    eventually("it grows older", async || {
        let now = of(&mesh.client, "leno_config_age_seconds").await;
        if now > age { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_certificate_is_told_and_moves_with_the_next_one() {
    let (authority, directory) = (Authority::new("figures"), TempDir::new().unwrap());
    let issue = |until: i64| {
        let leaf = Leaf { until, ..Leaf::of("spiffe://cluster.local/ns/default/sa/shop") };
        (Instant::now(), authority.issue(&leaf).write(directory.path(), "own"))
    };
    let roots = directory.path().join("roots.pem");
    std::fs::write(&roots, authority.pem()).unwrap();
    let (mut issued, (certificate, key)) = issue(3600);
    let (app, port) = (origin("shop").await, free_port());
    let rules = directory.path().join("rules.yaml");
    let ingress = json!([{
        "port": {"number": port, "protocol": "HTTP", "name": "http"},
        "bind": "127.0.0.1",
        "defaultEndpoint": app.address().to_string(),
    }]);
    let metadata = json!({"name": "shop", "namespace": "default"});
    let kind = json!({"apiVersion": "networking.istio.io/v1", "kind": "Sidecar", "metadata": metadata, "spec": {"ingress": ingress}});
    std::fs::write(&rules, kind.to_string()).unwrap();
    let identity = json!({"certificate": certificate, "key": key, "roots": roots});
    let proxy = Proxy::with(directory.path(), "shop", &[("rules", json!([rules])), ("identity", identity)]);
    proxy.ready(port).await;
    for (until, days) in [(3600, 0.0), (3 * DAY + 3600, 3.0), (DAY + 3600, 1.0)] {
        if until != 3600 {
            (issued, _) = issue(until);
        }
        proxy.shows("envoy_server_days_until_first_cert_expiring", &[], days).await;
        let left = of(&proxy, "leno_certificate_expires_seconds").await;
        #[allow(clippy::cast_precision_loss)] // Seconds of some days.
        let most = until as f64;
        // Certificates know whole seconds.
        assert!((most - issued.elapsed().as_secs_f64() - 2.0..=most).contains(&left), "{left} of {most}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_is_live_unless_its_health_is_made_to_fail_or_it_drains() {
    let (finish, done) = watch::channel(false);
    let (app, mut starts) = slow_app(done).await;
    let mut mesh = mesh().drain("10m").service("app", &[("v1", app.address())]).start().await;
    let admin = mesh.client.admin().await;
    mesh.client.shows("envoy_server_live", &[], 1.0).await;
    for (word, live) in [("fail", 0.0), ("ok", 1.0)] {
        let call = Call::new(Method::POST, &format!("http://localhost/healthcheck/{word}"));
        assert_eq!(call.send(admin).await.status, 200);
        mesh.client.shows("envoy_server_live", &[], live).await;
    }
    let through = mesh.outbound();
    let slow = tokio::spawn(async move { Call::get("http://app/slow").try_send(through).await });
    starts.recv().await.expect("the slow request reaches the app");
    mesh.client.process.terminate();
    mesh.client.shows("envoy_server_live", &[], 0.0).await;
    finish.send(true).expect("the app is there");
    assert_eq!(slow.await.unwrap().expect("it ends").status, 200);
    assert!(mesh.client.process.ended().await.0.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_programs_say_which_build_they_are() {
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).start().await;
    let version = leno_tests::run_leno(&["version", "-o", "json"], "").stdout;
    let version: serde_json::Value = serde_json::from_str(&version).unwrap();
    let control_plane = mesh.control_plane.as_ref().unwrap().metrics().await;
    for text in [mesh.client.metrics().await, control_plane] {
        let samples = samples(&text);
        let builds: Vec<_> = samples.iter().filter(|sample| sample.metric == "leno_build_info").collect();
        let [build] = builds.as_slice() else { panic!("{builds:?}") };
        assert_eq!(build.value, 1.0);
        for label in ["version", "revision"] {
            assert!(!build.label(label).is_empty(), "{build:?}");
            assert!(version.to_string().contains(&format!("\"{}\"", build.label(label))), "{label}: {version}");
        }
    }
}
