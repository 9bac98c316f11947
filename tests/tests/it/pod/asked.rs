//! What port 15020 answers, and what it does not.

use std::net::SocketAddr;

use http::Method;
use leno_tests::{Call, origin, raw};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use super::{run, strict};

const READY: &str = "/app-health/shop/readyz";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_else_is_reached_through_it() {
    let app = origin("app").await;
    let probes = json!({READY: {"tcpSocket": {"port": app.address().port()}, "timeoutSeconds": 10}});
    let pod = strict(app.address(), &[("app_probes", probes)]).await;
    let elsewhere = format!("http://{}/", app.address());
    let rows = [
        (Method::GET, "http://pod/healthz/ready", 200),
        (Method::HEAD, "http://pod/healthz/ready", 200),
        (Method::GET, "http://pod/ready", 200),
        (Method::GET, "http://pod/stats/prometheus", 200),
        (Method::GET, "http://pod/metrics", 200),
        (Method::GET, "http://pod/app-health/shop/readyz", 200),
        (Method::POST, "http://pod/app-health/shop/readyz", 405),
        (Method::POST, "http://pod/stats/prometheus", 405),
        (Method::POST, "http://pod/healthz/ready", 405),
        (Method::GET, "http://pod/quitquitquit", 405),
        (Method::GET, "http://pod/app-health/shop/livez", 404),
        (Method::GET, "http://pod/app-health/shop/readyz/", 404),
        (Method::GET, "http://pod/app-health/shop/../shop/readyz", 404),
        (Method::GET, "http://pod/", 404),
        (Method::GET, "http://pod/config_dump", 404),
        (Method::GET, "http://pod/certs", 404),
        (Method::GET, "http://pod/stats", 404),
        (Method::POST, "http://pod/drain_listeners", 404),
        (Method::GET, elsewhere.as_str(), 404),
    ];
    for (method, url, expected) in rows {
        let reply = Call::new(method.clone(), url).send(pod.merged).await;
        assert_eq!(reply.status, expected, "{method} {url}: {}", reply.text());
    }
    let absolute = format!("GET {elsewhere} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(answer(pod.merged, None, &absolute).await.starts_with("HTTP/1.1 404"), "it is no proxy");
    let connect = format!("CONNECT {0} HTTP/1.1\r\nhost: {0}\r\nconnection: close\r\n\r\n", app.address());
    assert!(!answer(pod.merged, None, &connect).await.starts_with("HTTP/1.1 2"), "it is no tunnel");
    assert_eq!(app.count(), 0, "{:?}", app.requests());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_holds_connections_and_asks_nothing_keeps_no_kubelet_out() {
    let app = origin("app").await;
    let pod = strict(app.address(), &[]).await;
    let mut held = Vec::new();
    for number in 0..200 {
        let mut stream = raw::connect(pod.merged).await;
        if number % 2 == 0 {
            // The beginning of a request, or nothing.
            let _ = stream.write_all(b"GET /healthz/ready HTTP/1.1\r\n").await;
        }
        held.push(stream);
        if number % 50 == 49 {
            let reply = Call::get("http://pod/healthz/ready").send(pod.merged).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_this_pod_ends_its_proxy() {
    let app = origin("app").await;
    let mut pod = strict(app.address(), &[]).await;
    let quit = "POST /quitquitquit HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n";
    // The source of the proxy's own calls to the app, which it makes for others.
    let passed = answer(pod.merged, Some("127.0.0.6:0"), &format!("{quit}\r\n")).await;
    assert!(passed.starts_with("HTTP/1.1 403") && passed.contains("of this pod"), "{passed}");
    let page = answer(pod.merged, None, &format!("{quit}origin: http://evil.example\r\n\r\n")).await;
    assert!(page.starts_with("HTTP/1.1 403") && page.contains("web page"), "{page}");
    pod.sidecar.proxy.process.must_be_running();
    // Nor through the proxy itself, which would be calling from this pod.
    let through =
        Call::new(Method::POST, &format!("http://{}/quitquitquit", pod.merged)).send(pod.sidecar.outbound()).await;
    assert_ne!(through.status, 200, "{}", through.text());
    pod.sidecar.proxy.process.must_be_running();

    let said = run(&["quit"], &[("LENO_MERGED", pod.merged.to_string())]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let (status, _) = pod.sidecar.proxy.process.ended().await;
    assert!(status.success(), "{status}");
}

/// Sends what a client that means well never would.
async fn answer(to: SocketAddr, from: Option<&str>, request: &str) -> String {
    let mut stream = match from {
        None => raw::connect(to).await,
        Some(from) => {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind(from.parse().expect("an address")).expect("all of 127/8 is here");
            socket.connect(to).await.expect("connected")
        }
    };
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    // Whoever closes without a word has said enough.
    let _ = stream.read_to_string(&mut answer).await;
    answer
}
