//! Which requests are traced, in which words that is said, and what the app hears of it.

use http::{HeaderMap, Method};
use leno_tests::otlp::collector;
use leno_tests::{Mesh, Origin, mesh, origin};

use super::{rule, told, traced};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

type Fields<'t> = &'t [(&'t str, &'t str)];

async fn ask(mesh: &Mesh, app: &Origin, path: &str, headers: &[(&str, &str)]) -> HeaderMap {
    let reply = mesh.ask(Method::GET, &format!("http://shop{path}"), headers).await;
    assert_eq!(reply.status, 200, "{headers:?}");
    app.last().headers
}

#[tokio::test]
async fn the_caller_decides_then_chance_and_an_order_stands_above_both() {
    let sampled = format!("00-{TRACE}-{SPAN}-01");
    let not_sampled = format!("00-{TRACE}-{SPAN}-00");
    let debug = format!("{TRACE}-{SPAN}-d");
    let rows: [(f64, Fields<'_>, bool); 9] = [
        (0.0, &[], false),
        (0.0, &[("traceparent", &sampled)], true),
        (0.0, &[("x-envoy-force-trace", "1")], true),
        (0.0, &[("b3", &debug)], true),
        (0.0, &[("traceparent", "garbage")], false),
        (100.0, &[], true),
        (100.0, &[("traceparent", &not_sampled)], false),
        (100.0, &[("b3", "0")], false),
        (100.0, &[("traceparent", &not_sampled), ("x-envoy-force-trace", "1")], true),
    ];
    for sampling in [0.0, 100.0] {
        let (app, collector) = (origin("v1").await, collector().await);
        let mesh = traced(&app, collector.address(), "grpc", sampling).await;
        mesh.answers("http://shop/", "v1").await;
        let rows = rows.iter().enumerate().filter(|(_, (share, ..))| *share == sampling);
        let mut traced = Vec::new();
        for (row, (_, headers, expected)) in rows {
            let path = format!("/{row}");
            let arrived = ask(&mesh, &app, &path, headers).await;
            let (_, _, sampled) = told(arrived["traceparent"].to_str().expect("ASCII"));
            assert_eq!(sampled, *expected, "{sampling} % {headers:?}");
            if *expected {
                traced.push(path);
            }
        }
        // Spans leave in the order in which requests end: when the last one is there, no other will come.
        ask(&mesh, &app, "/last", &[("x-envoy-force-trace", "1")]).await;
        collector.find("the last request", 2, |span| span.says("url.path") == "/last").await;
        let mut told: Vec<String> = collector.spans().iter().map(|span| span.says("url.path").to_owned()).collect();
        told.retain(|path| path != "/" && path != "/last");
        told.dedup();
        assert_eq!(told, traced, "{sampling} %");
    }
}

#[tokio::test]
async fn each_format_comes_in_and_goes_out_again_with_traceparent_beside_it() {
    let (app, collector) = (origin("v1").await, collector().await);
    let mesh = traced(&app, collector.address(), "grpc", 0.0).await;
    mesh.answers("http://shop/", "v1").await;
    let w3c = format!("00-{TRACE}-{SPAN}-01");
    let (b3, uber) = (format!("{TRACE}-{SPAN}-1"), format!("{TRACE}:{SPAN}:0:1"));
    let multi = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")];
    type Written = fn(&str) -> String;
    let rows: [(Fields<'_>, &str, Written); 4] = [
        (&[("traceparent", &w3c)], "traceparent", |span| format!("00-{TRACE}-{span}-01")),
        (&[("b3", &b3)], "b3", |span| format!("{TRACE}-{span}-1-")),
        (&multi, "x-b3-spanid", str::to_owned),
        (&[("uber-trace-id", &uber)], "uber-trace-id", |span| format!("{TRACE}:{span}:0:1")),
    ];
    let foreign = ["b3", "x-b3-traceid", "uber-trace-id"];
    for (headers, name, expected) in rows {
        let arrived = ask(&mesh, &app, &format!("/{name}"), headers).await;
        let (trace, span, sampled) = told(arrived["traceparent"].to_str().expect("ASCII"));
        assert_eq!((trace.as_str(), sampled), (TRACE, true), "{name}");
        assert_ne!(span, SPAN, "the app hears of the attempt that calls it, not of its caller's caller");
        assert!(arrived[name].to_str().expect("ASCII").starts_with(&expected(&span)), "{name}: {arrived:?}");
        for other in foreign.iter().filter(|other| headers.iter().all(|(came, _)| came != *other)) {
            assert!(!arrived.contains_key(*other), "{other} did not come: {arrived:?}");
        }
        let spans = collector.find(name, 2, |seen| seen.says("url.path") == format!("/{name}")).await;
        assert!(spans.iter().any(|seen| seen.id == span), "{spans:#?}");
        assert!(spans.iter().any(|seen| seen.parent == SPAN), "it continues the caller's span: {spans:#?}");
    }
}

#[tokio::test]
async fn what_is_the_apps_own_passes_untouched() {
    let (app, collector) = (origin("v1").await, collector().await);
    let mesh = mesh()
        .service("shop", &[("v1", app.address())])
        .behind_sidecars()
        .rules(&rule(collector.address(), "grpc", 0.0))
        .start()
        .await;
    mesh.answers("http://shop/", "v1").await;
    for flag in ["00", "01"] {
        let traceparent = format!("00-{TRACE}-{SPAN}-{flag}");
        let own = [
            ("tracestate", "vendor=a:b,other=c"),
            ("baggage", "user=jason,secret=x;p=1"),
            ("grpc-trace-bin", "AAABAgM"),
            ("x-request-id", "mine"),
        ];
        let sent = [own.as_slice(), &[("traceparent", traceparent.as_str())]].concat();
        let arrived = ask(&mesh, &app, "/", &sent).await;
        for (name, value) in own {
            assert_eq!(arrived[name], value, "{name}");
        }
        let unchanged = arrived["traceparent"] == traceparent.as_str();
        assert_eq!(unchanged, flag == "00", "what nobody records goes on as it came");
    }
    let long = "a=".to_owned() + &"x".repeat(600);
    let traceparent = format!("00-{TRACE}-{SPAN}-01");
    let arrived = ask(&mesh, &app, "/", &[("traceparent", &traceparent), ("tracestate", &long)]).await;
    assert!(!arrived.contains_key("tracestate"), "more than 512 bytes");
    let arrived = ask(&mesh, &app, "/", &[("traceparent", "garbage"), ("tracestate", "a=b")]).await;
    assert!(!arrived.contains_key("tracestate"), "it belongs to a trace that nobody knows");
    assert_eq!(arrived["x-request-id"].len(), 36, "made where there is none");
}

#[tokio::test]
async fn a_stranger_cannot_order_a_trace() {
    let (app, collector) = (origin("v1").await, collector().await);
    let mesh = mesh()
        .service("shop", &[("v1", app.address())])
        .behind_sidecars()
        .rules(&rule(collector.address(), "grpc", 0.0))
        .start()
        .await;
    mesh.answers("http://shop/", "v1").await;
    // Between these two sidecars there is no mTLS, so for the second one the first is a stranger. It has heard the order
    // all the same, from the first one's flag.
    let arrived = ask(&mesh, &app, "/", &[("x-envoy-force-trace", "1")]).await;
    assert!(!arrived.contains_key("x-envoy-force-trace"), "{arrived:?}");
    let (trace, _, sampled) = told(arrived["traceparent"].to_str().expect("ASCII"));
    assert!(sampled);
    assert_eq!(collector.trace(&trace, 4).await.len(), 4);
}
