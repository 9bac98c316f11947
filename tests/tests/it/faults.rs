//! Faults on purpose: what they do, and what they leave alone.

use std::time::{Duration, Instant};

use leno_tests::{Call, Protocol, eventually, mesh, metric, origin, sidecar};

/// A route `NAME` with a fault for each path.
fn rules(routes: &[(&str, &str)]) -> String {
    let routes = routes.iter().map(|(path, rest)| {
        format!("  - match: [{{uri: {{exact: {path}}}}}]\n    {rest}\n    route: [{{destination: {{host: app}}}}]\n")
    });
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: app}}\nspec:\n  hosts: [app]\n  http:\n{}",
        routes.collect::<String>()
    )
}

const ALL: &str = "percentage: {value: 100}";

fn every_fault() -> String {
    let delay = format!("delay: {{fixedDelay: 300ms, {ALL}}}");
    let longer = format!("delay: {{fixedDelay: 2500ms, {ALL}}}");
    let abort = format!("abort: {{httpStatus: 418, {ALL}}}");
    let grpc = format!("abort: {{grpcStatus: RESOURCE_EXHAUSTED, {ALL}}}");
    let never = "abort: {httpStatus: 500, percentage: {value: 0}}";
    rules(&[
        ("/delay", &format!("fault: {{{delay}}}")),
        ("/abort", &format!("fault: {{{abort}}}")),
        ("/both", &format!("fault: {{{delay}, {abort}}}")),
        ("/grpc", &format!("fault: {{{grpc}}}")),
        ("/never", &format!("fault: {{{never}}}")),
        // Neither a timeout nor a retry is about what happens before the router.
        ("/timeout", &format!("fault: {{{longer}}}\n    timeout: 2s")),
        ("/retry", &format!("fault: {{{abort}}}\n    retries: {{attempts: 3, retryOn: 'retriable-4xx,418'}}")),
        // Nor is the fault about what comes after it: it is there before the page of another origin is answered.
        ("/cors", &format!("fault: {{{abort}}}\n    corsPolicy: {{allowOrigins: [{{exact: 'http://o'}}]}}")),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_do_what_the_rule_says_before_anything_is_sent() {
    for workers in [1, 4] {
        let app = origin("app").await;
        let mesh = mesh().workers(workers).service("app", &[("v1", app.address())]).rules(&every_fault()).start().await;
        let fault = "fault filter abort";
        // Path; status, body, flag, milliseconds at least, requests that the app sees.
        let rows = [
            ("/delay", 200, "app", "", 300, 1),
            ("/abort", 418, fault, "FI", 0, 0),
            ("/both", 418, fault, "DI,FI", 300, 0),
            ("/grpc", 200, fault, "FI", 0, 0),
            ("/never", 200, "app", "", 0, 1),
            ("/timeout", 200, "app", "", 2500, 1),
            ("/retry", 418, fault, "FI", 0, 0),
        ];
        for protocol in Protocol::ALL {
            for (path, status, body, flag, delay, seen) in rows {
                app.forget();
                let asked = Instant::now();
                let reply = mesh.send(Call::get(&format!("http://app{path}")).over(protocol)).await;
                let found = (reply.status, reply.text(), reply.flag().to_owned(), app.count());
                assert_eq!(found, (status, body.to_owned(), flag.to_owned(), seen), "{protocol:?} {path}");
                assert!(asked.elapsed() >= Duration::from_millis(delay), "{path}: {:?}", asked.elapsed());
            }
        }
        let page = [("origin", "http://o"), ("access-control-request-method", "GET")];
        assert_eq!(mesh.ask(http::Method::OPTIONS, "http://app/cors", &page).await.status, 418);
        let metrics = mesh.client.metrics().await;
        let answers = |flag: &str| metric(&metrics, "http_requests_total", &[&format!("response_flags=\"{flag}\"")]);
        assert_eq!((answers("DI"), answers("FI"), answers("DI,FI")), (4.0, 7.0, 2.0), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_caller_gets_the_status_of_the_fault() {
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).rules(&every_fault()).start().await;
    // 418 is none of those that gRPC maps: UNKNOWN.
    for (path, status) in [("/grpc", "8"), ("/abort", "2")] {
        let call = Call::new(http::Method::POST, &format!("http://app{path}"))
            .over(Protocol::Http2)
            .header("content-type", "application/grpc");
        let reply = mesh.send(call).await;
        assert_eq!((reply.status, reply.header("grpc-status"), reply.flag()), (200, status, "FI"), "{path}");
    }
    assert_eq!(app.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_request_holds_up_no_other() {
    let app = origin("app").await;
    let long = rules(&[("/long", &format!("fault: {{delay: {{fixedDelay: 3600s, {ALL}}}}}")), ("/", "timeout: 20s")]);
    let mesh = mesh().service("app", &[("v1", app.address())]).rules(&long).start().await;
    let through = mesh.outbound();
    let waiting: Vec<_> =
        (0..50).map(|_| tokio::spawn(async move { Call::get("http://app/long").try_send(through).await })).collect();
    eventually("the requests wait", async || {
        let delayed = metric(&mesh.client.metrics().await, "leno_faults_total", &["kind=\"delay\""]);
        if delayed == 50.0 { Ok(()) } else { Err(delayed.to_string()) }
    })
    .await;
    for _ in 0..20 {
        assert_eq!(mesh.get("http://app/").await.text(), "app");
    }
    waiting.iter().for_each(|call| call.abort());
    eventually("who gave up is counted, with the delay", async || {
        let metrics = mesh.client.metrics().await;
        let gone = metric(&metrics, "http_requests_total", &["response_flags=\"DI,DC\""]);
        if gone == 50.0 { Ok(()) } else { Err(metrics) }
    })
    .await;
}

/// Istio's order of filters: who may not come in does not learn that there is a fault.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_request_meets_no_fault() {
    let app = origin("app").await;
    let both = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec: {}
";
    let alone = sidecar(app.address(), both).start().await;
    let reply = Call::get("http://shop/").send(alone.address()).await;
    assert_eq!((reply.status, reply.flag()), (403, "UAEX"));
    assert_eq!(metric(&alone.proxy.metrics().await, "leno_faults_total", &[]), 0.0);
}
