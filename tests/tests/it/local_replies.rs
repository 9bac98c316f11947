//! What the sidecar answers when nobody else does: Envoy's status, body and flag, and a sentence.

use leno_tests::{Call, Mesh, Protocol, Reply, free_port, mesh, origin, raw};

/// Host, path; status, body, flag.
type Case = (&'static str, &'static str, u16, &'static str, &'static str);

const CASES: &[Case] = &[
    ("picky", "/elsewhere", 404, "", "NR"),
    ("lost", "/", 503, "", "NC"),
    ("empty", "/", 503, "no healthy upstream", "UH"),
    (
        "refusing",
        "/",
        503,
        "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote connection failure",
        "URX,UF",
    ),
    (
        "closing",
        "/",
        503,
        "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
        "UC",
    ),
    ("slow", "/", 504, "upstream request timeout", "UT"),
];

const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: picky}
spec:
  hosts: [picky]
  http:
  - match: [{uri: {exact: /only-this}}]
    route: [{destination: {host: picky}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: lost}
spec:
  hosts: [lost]
  http:
  - route: [{destination: {host: nobody-has-declared-this}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: slow}
spec:
  hosts: [slow]
  http:
  - timeout: 200ms
    route: [{destination: {host: slow}}]
";

struct Peers {
    mesh: Mesh,
    app: leno_tests::Origin,
    _closing: raw::Server,
    _silent: raw::Server,
}

async fn start(workers: usize) -> Peers {
    let app = origin("app").await;
    let (closing, silent) = (raw::Server::closing().await, raw::Server::silent().await);
    let mesh = mesh()
        .workers(workers)
        .service("picky", &[("v1", app.address())])
        .service("lost", &[("v1", app.address())])
        .service("empty", &[])
        .service("refusing", &[("v1", ([127, 0, 0, 1], free_port()).into())])
        .service("closing", &[("v1", closing.address())])
        .service("slow", &[("v1", silent.address())])
        .rules(RULES)
        .start()
        .await;
    Peers { mesh, app, _closing: closing, _silent: silent }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_reply_has_envoys_status_body_and_flag_and_a_sentence() {
    for workers in [1, 4] {
        let peers = start(workers).await;
        for protocol in Protocol::ALL {
            for (host, path, status, body, flag) in CASES {
                let what = format!("{protocol:?} http://{host}{path}");
                let reply = peers.mesh.send(Call::get(&format!("http://{host}{path}")).over(protocol)).await;
                assert_eq!((reply.status, reply.text().as_str(), reply.flag()), (*status, *body, *flag), "{what}");
                let sentence = reply.header("x-leno-error").split_once("; ").map_or("", |(_, sentence)| sentence);
                assert!(sentence.len() > 10, "{what}: `{sentence}` tells nobody what happened");
            }
        }
        assert_eq!(peers.app.count(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_caller_hears_of_it_in_its_own_words() {
    let peers = start(1).await;
    // 12 is UNIMPLEMENTED, 14 UNAVAILABLE (gRPC's mapping of HTTP codes).
    for ((host, path, _, body, flag), grpc_status) in CASES.iter().zip(["12", "14", "14", "14", "14", "14"]) {
        let call = Call::new(http::Method::POST, &format!("http://{host}{path}"))
            .over(Protocol::Http2)
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let reply = peers.mesh.send(call).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, "application/grpc"), "{host}");
        assert_eq!((reply.header("grpc-status"), reply.flag()), (grpc_status, *flag), "{host}");
        assert_eq!(decoded(&reply), *body, "{host}");
        assert!(reply.body.is_empty(), "{host}");
    }
}

/// `grpc-message` is percent-encoded.
fn decoded(reply: &Reply) -> String {
    reply.header("grpc-message").replace("%20", " ").replace("%2F", "/").replace("%2f", "/")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_locally_is_counted_by_code_and_flag() {
    let peers = start(1).await;
    for (host, path, ..) in CASES {
        peers.mesh.get(&format!("http://{host}{path}")).await;
    }
    let metrics = peers.mesh.client.metrics().await;
    for (host, _, status, _, flag) in CASES {
        let labels = [format!("response_code=\"{status}\""), format!("response_flags=\"{flag}\"")];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let counted = leno_tests::metric(&metrics, "http_requests_total", &labels);
        assert_eq!(counted, 1.0, "{host}: {status} {flag} in\n{metrics}");
    }
    let value = |name: &str| leno_tests::metric(&metrics, name, &[]);
    assert_eq!(value("http_request_duration_seconds_count"), CASES.len() as f64, "{metrics}");
    assert_eq!(value("active_requests"), 0.0, "{metrics}");
    assert!(value("leno_config_version") >= 1.0 && metrics.contains("\nleno_config_age_seconds "), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_not_http_is_refused_as_envoy_refuses_it() {
    let peers = start(1).await;
    let many = format!("GET / HTTP/1.1\r\nhost: picky\r\n{}\r\n", "x: y\r\n".repeat(100));
    let long = format!("GET / HTTP/1.1\r\nhost: picky\r\nx: {}\r\n\r\n", "y".repeat(70_000));
    let cases: [(&str, u16); 8] = [
        ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: picky\r\nhost: lost\r\nconnection: close\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: picky\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", 400),
        ("GET / HTTP/1.1\r\nhost: picky\r\nbad name: x\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\n\r\n", 426),
        (&many, 431),
        (&long, 431),
        ("CONNECT picky:80 HTTP/1.1\r\nhost: picky:80\r\nconnection: close\r\n\r\n", 404),
    ];
    for (request, status) in cases {
        let answer = raw::exchange(peers.mesh.outbound(), request.as_bytes()).await;
        let line = answer.lines().next().unwrap_or_default();
        assert!(line.contains(&format!(" {status}")), "{request:?} was answered with {answer:?}");
    }
    assert_eq!(peers.app.count(), 0);
}

/// RFC 9112 §6.3: the chunks count, the length is dropped and the connection ends, so that nobody behind reads another
/// request into the body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_lengths_only_one_reaches_the_app() {
    let peers = start(1).await;
    for lengths in
        ["content-length: 30\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 30"]
    {
        peers.app.forget();
        let request = format!(
            "POST /only-this HTTP/1.1\r\nhost: picky\r\n{lengths}\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
             GET /only-this HTTP/1.1\r\nhost: picky\r\n\r\n"
        );
        let answer = raw::exchange(peers.mesh.outbound(), request.as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "the connection ends after it: {answer}");
        assert_eq!(peers.app.count(), 1);
        let seen = peers.app.last();
        assert_eq!((seen.header("content-length"), &*seen.body), ("", &b"abc"[..]), "{lengths}");
    }
}
