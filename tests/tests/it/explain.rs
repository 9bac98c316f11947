//! `leno explain` is the data plane's matcher: a thousand random requests agree with what a sidecar does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use http::Method;
use leno_tests::{Call, Connection, Protocol, Random, mesh, origin, run_leno};
use serde_json::Value;

const REQUESTS: usize = 1000;

/// Each entry answers with a status of its own, so that a reply names the entry that it comes from.
const MATCHES: &[&str] = &[
    "{uri: {exact: /a}}",
    "{uri: {prefix: /a/}, method: {exact: POST}}",
    r#"{uri: {regex: "/[ab]/[0-9]+"}}"#,
    "{headers: {x-user: {exact: jason}}, uri: {prefix: /b}}",
    "{headers: {x-user: {prefix: ma}}}",
    "{withoutHeaders: {x-user: {}}, queryParams: {q: {exact: \"1\"}}}",
    "{queryParams: {q: {regex: \"[0-9]+\"}}, uri: {prefix: /c}}",
    "{uri: {prefix: /C}, ignoreUriCase: true}",
    "{authority: {exact: \"app:80\"}, method: {regex: \"PUT|DELETE\"}}",
    "{headers: {x-tenant: {}}, withoutHeaders: {x-user: {exact: maria}}}",
    "{uri: {prefix: /}, headers: {x-user: {regex: \"j.*|k.*\"}}}",
];

const FIRST_STATUS: usize = 210;

fn rules() -> String {
    let mut text = String::from(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app}
spec:
  hosts: [app]
  http:
",
    );
    for (index, block) in MATCHES.iter().enumerate() {
        let status = FIRST_STATUS + index;
        text.push_str(&format!("  - match: [{block}]\n    directResponse: {{status: {status}}}\n"));
    }
    text
}

#[derive(Debug, Clone)]
struct Request {
    method: &'static str,
    url: String,
    headers: Vec<(&'static str, &'static str)>,
}

fn random_request(random: &mut Random) -> Request {
    let host = *random.pick(&["app", "app:80", "app.default", "app.default.svc.cluster.local"]);
    let path =
        *random.pick(&["/", "/a", "/a/", "/a/1", "/a/x", "/b", "/b/2", "/b/2/", "/bb", "/c", "/C/d", "/cc", "/x"]);
    let query = *random.pick(&["", "", "?q=1", "?q=x", "?q=12&r=2", "?r=1&q=1", "?q"]);
    let mut headers = Vec::new();
    if random.below(2) == 0 {
        headers.push(("x-user", *random.pick(&["jason", "maria", "max", "karl", ""])));
    }
    if random.below(4) == 0 {
        headers.push(("x-tenant", *random.pick(&["one", ""])));
    }
    Request {
        method: random.pick::<&str>(&["GET", "GET", "POST", "PUT", "DELETE"]),
        url: format!("http://{host}{path}{query}"),
        headers,
    }
}

/// The status that `leno explain` foretells; 404 where no rule takes the request.
fn foretold(request: &Request, rules: &str) -> Result<u64, String> {
    let headers: Vec<String> = request.headers.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut arguments = vec!["explain", request.method, &request.url, "-f", rules, "-o", "json"];
    for header in &headers {
        arguments.extend(["-H", header]);
    }
    let outcome = run_leno(&arguments, "");
    let json: Value =
        serde_json::from_str(&outcome.stdout).map_err(|error| format!("{error}: {outcome:?} for {request:?}"))?;
    json["status"].as_u64().ok_or_else(|| format!("no status in {json} for {request:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_random_requests_are_explained_as_they_are_served() {
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).rules(&rules()).start().await;
    let mut random = Random::new(20);
    let requests: Vec<Request> = (0..REQUESTS).map(|_| random_request(&mut random)).collect();

    let mut served = Vec::new();
    let mut connections = [
        Connection::open(mesh.outbound(), Protocol::Http1).await,
        Connection::open(mesh.outbound(), Protocol::Http2).await,
    ];
    for (number, request) in requests.iter().enumerate() {
        let method = Method::from_bytes(request.method.as_bytes()).unwrap();
        let call = Call::new(method, &request.url);
        let call = request.headers.iter().fold(call, |call, (name, value)| call.header(name, value));
        served.push(u64::from(connections[number % 2].send(call).await.status));
    }
    let kinds: std::collections::BTreeSet<_> = served.iter().collect();
    assert_eq!(kinds.len(), MATCHES.len() + 1, "every rule, and none, is met by some request: {kinds:?}");

    let rules = mesh.rules_directory().display().to_string();
    let wrong = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(request), Some(served)) = (requests.get(number), served.get(number)) else { return };
                    let foretold = foretold(request, &rules);
                    if foretold != Ok(*served) {
                        let text = format!("{request:?} was served with {served}, foretold was {foretold:?}");
                        wrong.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} requests were explained wrongly:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(app.count(), 0);
}
