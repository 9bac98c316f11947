//! Second attempts: what the app sees of them, and what the caller gets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use leno_tests::{Call, Mesh, Origin, Protocol, empty, eventually, full, mesh, metric, origin, raw};
use tokio::sync::Semaphore;

/// An app that does for each case, named in `x-case`, what its `x-steps` say, one step for each request: a status, `slow`
/// (no answer at all), `held` (503 when the test says so), `grpc-14` (a gRPC status among the headers), `limited` (503
/// because of a rate limit elsewhere). The last step goes on. It answers with how much of a body it was sent.
struct App {
    origin: Origin,
    held: Arc<Semaphore>,
}

impl App {
    async fn start() -> Self {
        let held = Arc::new(Semaphore::new(0));
        let (release, seen) = (Arc::clone(&held), Arc::new(Mutex::new(HashMap::<String, usize>::new())));
        let origin = Origin::scripted(move |request| {
            let text = |name: &str| request.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
            let (case, steps) = (text("x-case"), text("x-steps"));
            let count = {
                let mut seen = seen.lock().unwrap();
                let count = seen.entry(case).or_default();
                *count += 1;
                *count
            };
            let steps: Vec<&str> = steps.split(',').collect();
            let step = steps.get(count - 1).or(steps.last()).copied().unwrap_or_default().to_owned();
            answer(request, step, count, Arc::clone(&release))
        })
        .await;
        Self { origin, held }
    }

    /// How often it was asked in this case.
    fn count(&self, case: &str) -> usize {
        self.origin.requests().iter().filter(|request| request.header("x-case") == case).count()
    }

    /// What it was told about the number of the attempt, time after time.
    fn attempts(&self, case: &str) -> Vec<String> {
        let requests = self.origin.requests();
        let own = requests.iter().filter(|request| request.header("x-case") == case);
        own.map(|request| request.header("x-envoy-attempt-count").to_owned()).collect()
    }
}

async fn answer(
    request: Request<Incoming>,
    step: String,
    count: usize,
    held: Arc<Semaphore>,
) -> Response<leno_tests::Body> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes().len()).unwrap_or_default();
    let response = Response::builder().header("x-step", count);
    let response = match step.as_str() {
        "slow" => std::future::pending().await,
        "held" => {
            held.acquire().await.unwrap().forget();
            response.status(503)
        }
        "grpc-14" => response.header("content-type", "application/grpc").header("grpc-status", "14"),
        "limited" => response.status(503).header("x-envoy-ratelimited", "true"),
        "overloaded" => response.status(503).header("x-envoy-overloaded", "true"),
        "again" => response.header("x-again", "please"),
        status => response.status(status.parse::<u16>().unwrap()),
    };
    response.body(full(body.to_string())).unwrap()
}

const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app}
spec:
  hosts: [app]
  http:
  - match: [{uri: {exact: /5xx}}]
    retries: {attempts: 2, retryOn: 5xx, backoff: 1ms}
    route: [{destination: {host: app}}]
  - match: [{uri: {exact: /gateway}}]
    retries: {attempts: 2, retryOn: gateway-error, backoff: 1ms}
    route: [{destination: {host: app}}]
  - match: [{uri: {exact: /4xx}}]
    retries: {attempts: 1, retryOn: retriable-4xx, backoff: 1ms}
    route: [{destination: {host: app}}]
  - match: [{uri: {exact: /418}}]
    retries: {attempts: 2, retryOn: '418', backoff: 1ms}
    route: [{destination: {host: app}}]
  - match: [{uri: {exact: /none}}]
    retries: {attempts: 0}
    route: [{destination: {host: app}}]
  - match: [{uri: {exact: /try}}]
    retries: {attempts: 1, retryOn: 5xx, perTryTimeout: 1s, backoff: 1ms}
    route: [{destination: {host: app}}]
  - match: [{uri: {exact: /whole}}]
    timeout: 3s
    retries: {attempts: 100, retryOn: 5xx, perTryTimeout: 1s, backoff: 1ms}
    route: [{destination: {host: app}}]
  - match: [{uri: {exact: /by-rule}}]
    headers: {request: {set: {x-envoy-retry-on: 5xx, x-envoy-max-retries: '3'}}}
    retries: {attempts: 0}
    route: [{destination: {host: app}}]
  - route: [{destination: {host: app}}]
";

async fn start(workers: usize) -> (Mesh, App) {
    let app = App::start().await;
    let mesh = mesh().workers(workers).service("app", &[("v1", app.origin.address())]).rules(RULES).start().await;
    (mesh, app)
}

fn call(path: &str, case: &str, steps: &str) -> Call {
    Call::get(&format!("http://app{path}")).header("x-case", case).header("x-steps", steps)
}

/// Path, steps; status, attempts.
type Case = (&'static str, &'static str, u16, usize);

const CASES: &[Case] = &[
    ("/5xx", "200", 200, 1),
    ("/5xx", "503,200", 200, 2),
    ("/5xx", "500,501,200", 200, 3),
    ("/5xx", "503", 503, 3),
    ("/5xx", "404", 404, 1),
    ("/5xx", "500,404", 404, 2),
    ("/5xx", "limited,200", 503, 1),
    ("/5xx", "overloaded,200", 200, 2),
    ("/gateway", "502,504,200", 200, 3),
    ("/gateway", "500,200", 500, 1),
    ("/4xx", "409,200", 200, 2),
    ("/4xx", "400,200", 400, 1),
    ("/418", "418,200", 200, 2),
    ("/418", "503,200", 503, 1),
    ("/none", "503,200", 503, 1),
    ("/", "503,200", 503, 1),
    ("/", "grpc-14,200", 200, 2),
    ("/none", "grpc-14,200", 200, 1),
    ("/by-rule", "503,503,503,200", 200, 4),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_asked_for_again_as_the_policy_says() {
    for workers in [1, 4] {
        let (mesh, app) = start(workers).await;
        for (protocol, method) in [(Protocol::Http1, Method::GET), (Protocol::Http2, Method::POST)] {
            for (at, (path, steps, status, attempts)) in CASES.iter().enumerate() {
                let case = format!("{protocol:?}-{at}");
                let what = format!("{case}: {method} {path}, {steps}");
                let url = format!("http://app{path}");
                let call = Call::new(method.clone(), &url).header("x-case", &case).header("x-steps", steps);
                let reply = mesh.send(call.over(protocol)).await;
                assert_eq!((reply.status, app.count(&case)), (*status, *attempts), "{what}");
                assert_eq!(reply.header("x-step"), attempts.to_string(), "{what}: the last answer is passed on");
                let numbers: Vec<String> = (1..=*attempts).map(|number| number.to_string()).collect();
                assert_eq!(app.attempts(&case), numbers, "{what}");
            }
        }
        let metrics = mesh.client.metrics().await;
        assert_eq!(metric(&metrics, "http_requests_total", &["response_flags=\"URX\""]), 2.0, "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_sent_again_whole_unless_it_is_too_large() {
    let (mesh, app) = start(1).await;
    for (case, size, status, attempts) in
        [("none", 0, 200, 3), ("small", 10, 200, 3), ("many frames", 60_000, 200, 3), ("large", 200_000, 503, 1)]
    {
        let body = if size == 0 { empty() } else { full(vec![b'x'; size]) };
        let call = Call::new(Method::POST, "http://app/5xx").header("x-case", case).header("x-steps", "503,503,200");
        let reply = mesh.send(call.body(body)).await;
        assert_eq!((reply.status, app.count(case)), (status, attempts), "{case}");
        assert_eq!(reply.text(), size.to_string(), "{case}");
    }
    let metrics = mesh.client.metrics().await;
    assert_eq!(metric(&metrics, "leno_cluster_retries_total", &["reason=\"5xx\""]), 6.0, "{metrics}");
    assert_eq!(metric(&metrics, "leno_retry_body_too_large_total", &[]), 1.0, "{metrics}");
    let clusters = mesh.client.clusters().await;
    for fact in ["rq_retry::6", "rq_retry::5xx::6", "rq_retry_success::3", "rq_retry_body_too_large::1"] {
        assert!(clusters.contains(&format!("app.default.svc.cluster.local::{fact}")), "no {fact} in\n{clusters}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_has_its_time_and_all_of_them_have_theirs() {
    let (mesh, app) = start(1).await;
    let reply = mesh.send(call("/try", "slow at first", "slow,200")).await;
    assert_eq!((reply.status, app.count("slow at first")), (200, 2));
    assert_eq!(app.origin.last().header("x-envoy-expected-rq-timeout-ms"), "1000");
    let reply = mesh.send(call("/try", "always slow", "slow")).await;
    assert_eq!((reply.status, app.count("always slow")), (504, 2));
    assert_eq!((reply.text().as_str(), reply.flag()), ("upstream request timeout", "URX,UT"));
    let reply = mesh.send(call("/whole", "all slow", "slow")).await;
    assert_eq!((reply.status, reply.flag()), (504, "UT"));
    assert!((2..=4).contains(&app.count("all slow")), "{}", app.count("all slow"));
    let clusters = mesh.client.clusters().await;
    assert!(clusters.contains("::rq_timeout::1\n"), "{clusters}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_may_ask_for_retries_and_times_of_its_own_and_they_end_here() {
    let (mesh, app) = start(1).await;
    let asked = |case: &str, steps: &str, headers: &[(&str, &str)]| {
        headers.iter().fold(call("/none", case, steps), |call, (name, value)| call.header(name, value))
    };
    let retries = [("x-envoy-retry-on", "5xx"), ("x-envoy-max-retries", "3")];
    let reply = mesh.send(asked("retries", "503,503,503,200", &retries)).await;
    assert_eq!((reply.status, app.count("retries")), (200, 4));
    let codes = [("x-envoy-retry-on", "retriable-status-codes"), ("x-envoy-retriable-status-codes", "418")];
    let reply = mesh.send(asked("codes", "418,418", &codes)).await;
    assert_eq!((reply.status, app.count("codes")), (418, 2), "one retry where no policy says another number");
    let headers = [("x-envoy-retry-on", "retriable-headers"), ("x-envoy-retriable-header-names", "x-again")];
    let reply = mesh.send(asked("headers", "again,200", &headers)).await;
    assert_eq!((reply.status, app.count("headers")), (200, 2));
    let reply = mesh.send(asked("time", "slow", &[("x-envoy-upstream-rq-timeout-ms", "200")])).await;
    assert_eq!((reply.status, reply.flag()), (504, "UT"));
    let all = app.origin.requests();
    let leaked = all.iter().flat_map(|request| request.headers.keys()).filter(|name| {
        let name = name.as_str();
        name.starts_with("x-envoy-") && !matches!(name, "x-envoy-attempt-count" | "x-envoy-expected-rq-timeout-ms")
    });
    assert_eq!(leaked.collect::<Vec<_>>(), Vec::<&http::HeaderName>::new());
}

/// What the app is asked by others is not theirs to multiply.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_from_outside_asks_for_retries_in_vain() {
    let app = App::start().await;
    let mesh = mesh().service("app", &[("v1", app.origin.address())]).behind_sidecars().start().await;
    let clusters = mesh.client.clusters().await;
    let endpoint = clusters.lines().find_map(|line| {
        let rest = line.strip_prefix("outbound|80||app.default.svc.cluster.local::127.0.0.1:")?;
        rest.split_once("::weight").map(|(port, _)| port.to_owned())
    });
    let inbound = format!("127.0.0.1:{}", endpoint.unwrap()).parse().unwrap();
    let call = call("/", "outside", "503,200").header("x-envoy-retry-on", "5xx").header("x-envoy-max-retries", "5");
    let reply = call.send(inbound).await;
    assert_eq!((reply.status, app.count("outside")), (503, 1));
    assert_eq!(app.origin.last().header("x-envoy-retry-on"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_retries_lets_the_answer_pass_and_says_so() {
    let app = App::start().await;
    let limit = "
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: limit}
spec: {host: app, trafficPolicy: {connectionPool: {http: {maxRetries: 1}}}}
";
    let mesh = mesh().service("app", &[("v1", app.origin.address())]).rules(&format!("{RULES}{limit}")).start().await;
    let through = mesh.outbound();
    let first = tokio::spawn(call("/5xx", "first", "503,held,200").send(through));
    eventually("the only retry is under way", async || match app.count("first") {
        2 => Ok(()),
        other => Err(format!("{other} attempts")),
    })
    .await;
    let reply = mesh.send(call("/5xx", "second", "503,200")).await;
    assert_eq!((reply.status, app.count("second")), (503, 1));
    assert_eq!(reply.header("x-envoy-overloaded"), "", "it is the app's answer, not ours");
    let metrics = mesh.client.metrics().await;
    assert_eq!(metric(&metrics, "http_requests_total", &["response_flags=\"UO\""]), 1.0, "{metrics}");
    app.held.add_permits(1);
    assert_eq!(first.await.unwrap().status, 200, "between two attempts there is no retry under way");
    assert!(mesh.client.clusters().await.contains("::retries_overflow::1\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_endpoint_is_asked_before_the_one_that_failed() {
    let (good, bad) = (origin("good").await, raw::Server::closing().await);
    let mesh = mesh()
        .service("app", &[("v1", good.address()), ("v1", bad.address())])
        .rules(&RULES.replace("attempts: 2, retryOn: 5xx", "attempts: 1, retryOn: 5xx"))
        .start()
        .await;
    for number in 0..40 {
        assert_eq!(mesh.get("http://app/5xx").await.text(), "good", "request {number}");
    }
    assert!(bad.connections() > 0, "nobody asked the one that fails");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_the_peer_did_not_look_at_is_sent_again_whatever_the_policy_says() {
    let server = raw::Server::start(|stream| async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        let mut refused = false;
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            if std::mem::replace(&mut refused, true) {
                let _ = respond.send_response(Response::new(()), true);
            } else {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
        }
    })
    .await;
    let mesh = mesh().service_on("app", (80, "http2", "HTTP2"), &[("v1", server.address())]).rules(RULES).start().await;
    for body in [empty(), full("a body")] {
        let call = Call::new(Method::POST, "http://app/none").body(body).over(Protocol::Http2);
        assert_eq!(mesh.send(call).await.status, 200);
    }
}

/// The profile `safe`: what is not idempotent is not repeated, and a brown-out costs a fifth more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_safe_profile_only_what_may_be_repeated_is() {
    let app = App::start().await;
    let safe = "
---
apiVersion: leno.mesh/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {profile: safe}
";
    let mesh = mesh().service("app", &[("v1", app.origin.address())]).rules(&format!("{RULES}{safe}")).start().await;
    for (method, key, attempts) in [
        (Method::GET, "", 2),
        (Method::DELETE, "", 2),
        (Method::POST, "", 1),
        (Method::POST, "k", 2),
        (Method::PATCH, "", 1),
    ] {
        let case = format!("{method}{key}");
        let mut call = Call::new(method, "http://app/5xx").header("x-case", &case).header("x-steps", "503,200");
        if !key.is_empty() {
            call = call.header("idempotency-key", key);
        }
        let reply = mesh.send(call).await;
        assert_eq!((reply.status, app.count(&case)), (if attempts == 1 { 503 } else { 200 }, attempts), "{case}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_budget_keeps_a_brown_out_from_becoming_an_outage() {
    const CALLERS: usize = 40;
    const CALLS: usize = 10;
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let app = Origin::scripted(move |_| {
        let number = counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async move {
            // Far longer than the way here, so that nearly all callers are at the proxy at any time: with less than fifteen
            // requests under way it is the three retries that are always free that decide, not the budget.
            tokio::time::sleep(Duration::from_millis(200)).await;
            let status = if number.is_multiple_of(2) { 503 } else { 200 };
            Response::builder().status(status).body(empty()).unwrap()
        }
    })
    .await;
    let budget = "
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: budget}
spec: {host: app, trafficPolicy: {retryBudget: {percent: 20, minRetryConcurrency: 3}}}
";
    let mesh =
        mesh().workers(4).service("app", &[("v1", app.address())]).rules(&format!("{RULES}{budget}")).start().await;
    let through = mesh.outbound();
    let callers = (0..CALLERS).map(|_| {
        tokio::spawn(async move {
            for _ in 0..CALLS {
                Call::get("http://app/5xx").send(through).await;
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    #[allow(clippy::cast_precision_loss)]
    let amplification = app.count() as f64 / (CALLERS * CALLS) as f64;
    println!("half of the answers are 503: {amplification:.2} times as many requests");
    assert!((1.0..=1.2).contains(&amplification), "{amplification}");
}

/// Any policy, any row of answers: never more than the attempts that were asked for, and exactly those that a model of
/// Envoy's rules makes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_row_of_answers_is_treated_as_the_rules_say() {
    const WORDS: [&str; 6] =
        ["5xx", "gateway-error", "retriable-4xx", "retriable-status-codes", "unavailable", "envoy-ratelimited"];
    const STEPS: [&str; 9] = ["200", "404", "409", "418", "500", "502", "504", "grpc-14", "limited"];
    let is_reason = |word: &str, step: &str| match word {
        "5xx" => matches!(step, "500" | "502" | "504"),
        "gateway-error" => matches!(step, "502" | "504"),
        "retriable-4xx" => step == "409",
        "retriable-status-codes" => step == "418",
        "unavailable" => step == "grpc-14",
        _ => step == "limited",
    };
    let (mesh, app) = start(2).await;
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    println!("seed {seed}");
    let mut random = leno_tests::Random::new(seed);
    for number in 0..150 {
        let words: Vec<&str> = WORDS.into_iter().filter(|_| random.below(3) == 0).collect();
        let steps: Vec<&str> = (0..=random.below(5)).map(|_| *random.pick(&STEPS)).collect();
        let most = random.below(5);
        let step = |at: usize| steps.get(at).or(steps.last()).copied().unwrap_or_default();
        let expected = 1 + (0..most).take_while(|at| words.iter().any(|word| is_reason(word, step(*at)))).count();
        let case = format!("random {number}");
        let (method, body) = if random.below(2) == 0 { (Method::GET, empty()) } else { (Method::POST, full("body")) };
        let call = Call::new(method, "http://app/none")
            .header("x-case", &case)
            .header("x-steps", &steps.join(","))
            .header("content-type", "application/grpc")
            .header("x-envoy-retry-on", &words.join(","))
            .header("x-envoy-retriable-status-codes", "418")
            .header("x-envoy-max-retries", &most.to_string());
        let reply = mesh.send(call.body(body)).await;
        let what = format!("{words:?}, {most} retries, {steps:?}");
        assert_eq!((app.count(&case), reply.header("x-step")), (expected, expected.to_string().as_str()), "{what}");
    }
}
