//! The app's metrics and the proxy's in one scrape, whatever the app does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Response, header};
use leno_tests::prometheus::{Prometheus, has_prometheus, promtool};
use leno_tests::{Body, Call, Origin, Reply, empty, eventually, full, metric};
use serde_json::json;

use super::{Strict, strict};

/// What an app answers when its metrics are asked for.
#[derive(Debug, Clone, Copy)]
enum Says {
    /// Status, content type and body.
    This(u16, &'static str, &'static str),
    /// The same as OpenMetrics where that is asked for, and as text where it is not.
    Either(&'static str, &'static str),
    /// What is elsewhere.
    Moved,
    /// Compressed, which nobody asked for.
    Zipped,
    /// More than anybody wants.
    TooMuch,
    /// Nothing, ever.
    Nothing,
}

const TEXT: &str = "text/plain; version=0.0.4";
const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const ORDERS: &str = "# HELP shop_orders_total Orders\n# TYPE shop_orders_total counter\nshop_orders_total 7\n";
const EXEMPLAR: &str =
    "# TYPE shop_orders counter\nshop_orders_total 7 # {trace_id=\"abc\"} 1.0 1520879607.789\n# EOF\n";

type Script = Arc<Mutex<Says>>;

async fn app(says: &Script) -> Origin {
    let says = Arc::clone(says);
    Origin::scripted(move |request| {
        let says = *says.lock().unwrap_or_else(PoisonError::into_inner);
        let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let (path, accept) = (request.uri().path().to_owned(), accept.unwrap_or_default().to_owned());
        async move { answer(says, &path, &accept).await }
    })
    .await
}

async fn answer(says: Says, path: &str, accept: &str) -> Response<Body> {
    let of = |status: u16, kind: &str, body: Body| {
        Response::builder().status(status).header(header::CONTENT_TYPE, kind).body(body).expect("valid")
    };
    match says {
        Says::This(status, kind, body) => of(status, kind, full(body)),
        Says::Either(open, _) if accept.contains("openmetrics") => of(200, OPEN, full(open)),
        Says::Either(_, text) => of(200, TEXT, full(text)),
        Says::Moved if path == "/metrics/" => of(200, TEXT, full(ORDERS)),
        Says::Moved => Response::builder().status(307).header("location", "/metrics/").body(empty()).expect("valid"),
        Says::Zipped => {
            let mut zipped = of(200, TEXT, full(ORDERS));
            zipped.headers_mut().insert(header::CONTENT_ENCODING, "gzip".parse().expect("valid"));
            zipped
        }
        Says::TooMuch => of(200, TEXT, full("a 1\n".repeat(5 << 20))),
        Says::Nothing => std::future::pending().await,
    }
}

async fn scene(says: Says) -> (Strict, Origin, Script) {
    let script = Arc::new(Mutex::new(says));
    let app = app(&script).await;
    let url = format!("http://{}/metrics", app.address());
    (strict(app.address(), &[("app_metrics", json!(url))]).await, app, script)
}

/// Scrapes as Prometheus does, which says how many seconds it waits: a slow app must not cost the scrape.
async fn scrape(pod: &Strict, accept: &str, patience: &str) -> Reply {
    let call = Call::get("http://pod/stats/prometheus").header("accept", accept);
    call.header("x-prometheus-scrape-timeout-seconds", patience).send(pod.merged).await
}

/// Of a scraper that waits for long: on a busy machine, an app may take a while.
const LONG: &str = "60";

const READS_BOTH: &str = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_formats_of_apps_and_scrapers_go_together() {
    let (pod, _app, script) = scene(Says::Moved).await;
    let both = Says::Either(EXEMPLAR, ORDERS);
    let same =
        "# TYPE envoy_server_live gauge\nenvoy_server_live 5\nshop_orders_total 7\n# TYPE shop_up gauge\nshop_up 1\n";
    // (what the app says, what the scraper reads, content type, a line of the answer, samples that are left out)
    let rows = [
        (both, READS_BOTH, OPEN, "shop_orders_total 7 # {trace_id=\"abc\"} 1.0 1520879607.789\n", 0.0),
        (both, "text/plain;version=0.0.4", TEXT, "shop_orders_total 7\n", 0.0),
        (Says::This(200, OPEN, EXEMPLAR), "text/plain", OPEN, "# {trace_id=\"abc\"}", 0.0),
        (Says::This(200, TEXT, ORDERS), READS_BOTH, TEXT, "shop_orders_total 7\n", 0.0),
        (Says::This(200, "text/plain", ORDERS), "*/*", TEXT, "shop_orders_total 7\n", 0.0),
        (Says::Moved, "*/*", TEXT, "shop_orders_total 7\n", 0.0),
        (Says::This(200, TEXT, same), "*/*", TEXT, "shop_orders_total 7\n", 1.0),
        (Says::This(200, TEXT, ""), "*/*", TEXT, "envoy_server_live 1\n", 1.0),
    ];
    for (says, accept, kind, line, left_out) in rows {
        *script.lock().unwrap_or_else(PoisonError::into_inner) = says;
        let reply = scrape(&pod, accept, LONG).await;
        let text = reply.text();
        assert_eq!((reply.status, reply.header("content-type")), (200, kind), "{says:?}");
        assert!(text.contains(line), "{says:?}: no `{line}` in\n{text}");
        // The proxy's own, once each, and in the same format.
        assert_eq!(text.matches("# TYPE envoy_server_live gauge\n").count(), 1, "{says:?}: {text}");
        assert_eq!(text.matches("\nenvoy_server_live ").count(), 1, "{says:?}: {text}");
        assert_eq!(metric(&text, "leno_app_metrics_up", &[]), 1.0, "{says:?}: {text}");
        assert_eq!(text.ends_with("# EOF\n"), kind == OPEN, "{says:?}");
        // What one scrape leaves out, the next one tells.
        let counted = scrape(&pod, "text/plain", LONG).await.text();
        assert!(metric(&counted, "leno_app_metrics_left_out_total", &[]) >= left_out, "{says:?}: {counted}");
        if kind == TEXT && has_prometheus("promtool on a merged scrape") {
            let said = promtool(&["check", "metrics"], &text);
            assert!(!said.contains("error while linting"), "{says:?}: {said}\n{text}");
            // Not every app says what its metrics mean.
            let ours = said.lines().filter(|line| !(line.starts_with("shop_") && line.ends_with("no help text")));
            assert!(!ours.clone().any(|line| line.contains("shop_") || line.contains("leno_")), "{says:?}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_is_of_no_use_leaves_the_proxys_own_metrics() {
    let (pod, mut app, script) = scene(Says::Nothing).await;
    let rows = [
        (Says::Nothing, "timeout"),
        (Says::This(404, TEXT, ORDERS), "status"),
        (Says::This(200, "text/html", "<html></html>"), "format"),
        (Says::This(200, TEXT, "<html></html>"), "malformed"),
        (Says::This(200, TEXT, "shop_orders_total 7\nshop_orders_total seven\n"), "malformed"),
        (Says::This(200, OPEN, "# TYPE shop_orders counter\nshop_orders_total 7\n"), "malformed"),
        (Says::Zipped, "format"),
        (Says::TooMuch, "too_long"),
    ];
    let check = async |name: &str, reason: &str| {
        let patience = if reason == "timeout" { "2" } else { LONG };
        let reply = scrape(&pod, READS_BOTH, patience).await;
        let text = reply.text();
        assert_eq!(reply.status, 200, "{name}: {text}");
        assert!(text.contains("\nenvoy_server_live 1\n") && !text.contains("shop_orders"), "{name}: {text}");
        assert_eq!(metric(&text, "leno_app_metrics_up", &[]), 0.0, "{name}");
        let reason = format!("reason=\"{reason}\"");
        assert!(metric(&text, "leno_app_metrics_failures_total", &[&reason]) >= 1.0, "{name}: {reason} in {text}");
    };
    for (says, reason) in rows {
        *script.lock().unwrap_or_else(PoisonError::into_inner) = says;
        check(&format!("{says:?}"), reason).await;
    }
    app.close().await;
    check("nobody listens", "unreachable").await;
    assert!(pod.sidecar.log().contains("scrapes go without the app's metrics"), "{}", pod.sidecar.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prometheus_without_a_certificate_scrapes_app_and_proxy_under_strict_mtls() {
    if !has_prometheus("a scrape of a pod under STRICT mTLS") {
        return;
    }
    for says in [Says::This(200, TEXT, ORDERS), Says::This(200, OPEN, EXEMPLAR)] {
        let (pod, app, _script) = scene(says).await;
        let refused = Call::get("http://shop/metrics").try_send(pod.sidecar.address()).await;
        assert!(refused.is_err(), "clear text is refused: {refused:?}");
        let job = |name: &str, path: &str, at: std::net::SocketAddr| json!({"job_name": name, "metrics_path": path, "static_configs": [{"targets": [at.to_string()]}]});
        let pods = job("pod", "/stats/prometheus", pod.merged);
        let apps = job("app", "/metrics", pod.sidecar.address());
        let config =
            json!({"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [pods, apps]});
        let prometheus = Prometheus::start(&[("prometheus.yml", &config.to_string())]).await;
        for (query, expected) in [
            ("up{job=\"pod\"}", 1.0),
            ("up{job=\"app\"}", 0.0),
            ("shop_orders_total{job=\"pod\"}", 7.0),
            ("envoy_server_live{job=\"pod\"}", 1.0),
            ("leno_app_metrics_up{job=\"pod\"}", 1.0),
        ] {
            eventually(&format!("{query} is {expected}"), async || {
                let found = prometheus.query(query).await?;
                match found.as_slice() {
                    [one] if one.value == expected => Ok(()),
                    _ => Err(format!("{found:?}")),
                }
            })
            .await;
        }
        // The app goes, the scrape stays.
        drop(app);
        eventually("the scrape tells that the app is gone", async || {
            let (up, app) =
                (prometheus.query("up{job=\"pod\"}").await?, prometheus.query("leno_app_metrics_up").await?);
            match (up.as_slice(), app.as_slice()) {
                ([up], [app]) if up.value == 1.0 && app.value == 0.0 => Ok(()),
                _ => Err(format!("{up:?} {app:?}")),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_scrapers_at_once_are_both_answered() {
    let (pod, _app, _script) = scene(Says::This(200, TEXT, ORDERS)).await;
    let scrapes = (0..16).map(|_| scrape(&pod, READS_BOTH, LONG));
    let replies = tokio::time::timeout(Duration::from_secs(60), futures_util::future::join_all(scrapes)).await;
    for reply in replies.expect("they do not wait for each other for ever") {
        assert_eq!(reply.status, 200);
        assert!(reply.text().contains("shop_orders_total 7"), "{}", reply.text());
    }
}
