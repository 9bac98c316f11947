//! The kubelet's probes, which the proxy makes in its place.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::{BodyExt as _, Full};
use leno_tests::pki::{Authority, Leaf};
use leno_tests::{Call, Origin, Recorded, empty, full};
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::strict;

const READY: &str = "/app-health/shop/readyz";

/// An app whose paths are its answers.
async fn app() -> Origin {
    Origin::answering(|request| match request.path.as_str() {
        "/grpc.health.v1.Health/Check" => grpc(request),
        "/away" => {
            Response::builder().status(302).header("location", "http://192.0.2.1/").body(empty()).expect("valid")
        }
        "/on" => Response::builder().status(302).header("location", "/503").body(empty()).expect("valid"),
        "/round" => Response::builder().status(302).header("location", "/round").body(empty()).expect("valid"),
        path => {
            let status = path.trim_start_matches('/').parse::<u16>().unwrap_or(200);
            Response::builder().status(status).header("x-secret", "s").body(full("secret")).expect("valid")
        }
    })
    .await
}

/// `SERVING` for the server as a whole, `NOT_SERVING` for the service `ill`, NOT_FOUND for any other.
fn grpc(request: &Recorded) -> Response<leno_tests::Body> {
    let (status, serving) = match request.body.as_ref() {
        [0, 0, 0, 0, 0] => ("0", Some(1)),
        [0, 0, 0, 0, 5, 0x0a, 3, b'i', b'l', b'l'] => ("0", Some(2)),
        _ => ("5", None),
    };
    let message = serving.map_or_else(Bytes::new, |serving| Bytes::from(vec![0, 0, 0, 0, 2, 0x08, serving]));
    let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static(status))]);
    let body = Full::new(message).map_err(|never| match never {}).with_trailers(async { Some(Ok(trailers)) });
    Response::builder().header("content-type", "application/grpc").body(body.boxed()).expect("valid")
}

/// Speaks TLS with a certificate that nobody knows, and answers once per connection.
async fn encrypted() -> SocketAddr {
    let authority = Authority::new("nobody");
    let identity = authority.issue(&Leaf { dns: vec!["shop.example".to_owned()], uris: vec![], ..Leaf::of("x:y") });
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), identity.key())
        .expect("a certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                head.push(byte);
            }
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

/// Accepts and says nothing.
async fn silent() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

fn http(port: u16, path: &str) -> Value {
    json!({"httpGet": {"path": path, "port": port, "scheme": "HTTP"}, "timeoutSeconds": 10})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kubelet_hears_of_the_app_what_it_would_have_seen_itself() {
    let (app, tls, (_silent, silent)) = (app().await, encrypted().await, silent().await);
    let port = app.address().port();
    let closed = leno_tests::free_port();
    // (probe, the status that the kubelet sees)
    let rows = [
        (http(port, "/200"), 200),
        (http(port, "/204"), 204),
        (http(port, "/301"), 301),
        (http(port, "/399"), 399),
        (http(port, "/400"), 400),
        (http(port, "/404"), 404),
        (http(port, "/503"), 503),
        (http(port, "/away"), 302),
        (http(port, "/on"), 503),
        (http(port, "/round"), 503),
        (http(closed, "/"), 503),
        (json!({"httpGet": {"port": silent}, "timeoutSeconds": 1}), 503),
        (json!({"httpGet": {"port": tls.port(), "scheme": "HTTPS"}, "timeoutSeconds": 10}), 204),
        (json!({"httpGet": {"port": port, "scheme": "HTTPS"}, "timeoutSeconds": 10}), 503),
        (json!({"httpGet": {"port": port, "host": "localhost", "path": "/201"}, "timeoutSeconds": 10}), 201),
        (json!({"tcpSocket": {"port": port}, "timeoutSeconds": 10}), 200),
        (json!({"tcpSocket": {"port": closed}, "timeoutSeconds": 10}), 503),
        (json!({"grpc": {"port": port}, "timeoutSeconds": 10}), 200),
        (json!({"grpc": {"port": port, "service": "ill"}, "timeoutSeconds": 10}), 503),
        (json!({"grpc": {"port": port, "service": "unknown"}, "timeoutSeconds": 10}), 503),
        (json!({"grpc": {"port": closed}, "timeoutSeconds": 10}), 503),
    ];
    let path = |at: usize| format!("/app-health/c{at}/livez");
    let probes: Value = rows.iter().enumerate().map(|(at, (probe, _))| (path(at), probe.clone())).collect();
    let pod = strict(app.address(), &[("app_probes", probes)]).await;
    for (at, (probe, expected)) in rows.iter().enumerate() {
        let reply = Call::get(&format!("http://pod{}", path(at)))
            .header("user-agent", "kube-probe/1.36")
            .send(pod.merged)
            .await;
        assert_eq!(reply.status, *expected, "{probe}: {}", reply.text());
        assert!(!reply.text().contains("secret") && reply.header("x-secret").is_empty(), "{probe}: {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_passes_while_the_apps_port_refuses_clear_text() {
    let app = app().await;
    let headers = json!([{"name": "Host", "value": "shop.example"}, {"name": "X-Probe", "value": "yes"}]);
    let get = json!({"path": "/200?deep=1", "port": app.address().port(), "httpHeaders": headers});
    let pod = strict(app.address(), &[("app_probes", json!({READY: {"httpGet": get, "timeoutSeconds": 10}}))]).await;
    let refused = Call::get("http://shop/200").try_send(pod.sidecar.address()).await;
    assert!(refused.is_err(), "clear text is refused: {refused:?}");
    assert_eq!(app.count(), 0);
    // What the caller says beside the path goes nowhere.
    let call =
        Call::get(&format!("http://pod{READY}?path=/admin")).header("x-probe", "no").header("authorization", "me");
    assert_eq!(call.send(pod.merged).await.status, 200);
    let asked = app.last();
    assert_eq!((asked.path.as_str(), asked.host.as_str()), ("/200?deep=1", "shop.example"));
    assert_eq!((asked.header("x-probe"), asked.header("authorization")), ("yes", ""));
    assert!(asked.header("user-agent").starts_with("kube-probe/"), "{asked:?}");
}
