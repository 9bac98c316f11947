//! Endpoints with every kind of certificate.

use std::net::SocketAddr;
use std::sync::Arc;

use leno_tests::pki::{Authority, Identity, Leaf};
use leno_tests::{Call, metric, origin};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use serde_json::json;

use super::{PEER, Scene, Stage, document};

const REVOKED: u64 = 666;

/// A TLS server that shows whatever certificate it is given next, and answers any request with 200.
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    shows: tokio::sync::watch::Sender<Option<Arc<ServerConfig>>>,
}

impl Endpoint {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (shows, shown) = tokio::sync::watch::channel(None::<Arc<ServerConfig>>);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Some(config) = shown.borrow().clone() else { continue };
                tokio::spawn(async move {
                    let mut stream = tokio_rustls::TlsAcceptor::from(config).accept(stream).await.ok()?;
                    let mut read = [0; 4096];
                    stream.read(&mut read).await.ok().filter(|read| *read > 0)?;
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
                    stream.write_all(answer).await.ok()?;
                    stream.shutdown().await.ok()
                });
            }
        });
        Self { address, shows }
    }

    /// From now on, shows `identity` and wants a certificate of `root`.
    fn shows(&self, identity: &Identity, root: &Authority, tls13: bool) {
        self.shows_and_wants(identity, Some(root), tls13);
    }

    /// From now on, shows `identity`, and wants a certificate of `root`, if any.
    pub(super) fn shows_and_wants(&self, identity: &Identity, root: Option<&Authority>, tls13: bool) {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions: &[&rustls::SupportedProtocolVersion] =
            if tls13 { &[&rustls::version::TLS13] } else { &[&rustls::version::TLS12] };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions);
        let builder = builder.expect("a version");
        let Some(root) = root else {
            let config = builder.with_no_client_auth().with_single_cert(identity.chain.clone(), identity.key());
            self.shows.send_replace(Some(Arc::new(config.expect("a certificate"))));
            return;
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root.certificate().clone()).expect("a root");
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        let config = builder
            .with_client_cert_verifier(clients.expect("a verifier"))
            .with_single_cert(identity.chain.clone(), identity.key())
            .expect("a certificate");
        self.shows.send_replace(Some(Arc::new(config)));
    }
}

/// An endpoint's certificate, and what the caller is told when it is not believed.
fn rows(root: &Authority) -> Vec<(&'static str, Identity, &'static str)> {
    let good = || Leaf::of(PEER);
    let id = |name: &'static str, id: &str, why: &'static str| (name, root.issue(&Leaf::of(id)), why);
    let expected = "`spiffe://cluster.local/ns/default/sa/reviews` is expected";
    vec![
        id("another service account", "spiffe://cluster.local/ns/default/sa/admin", expected),
        id("another namespace", "spiffe://cluster.local/ns/other/sa/reviews", expected),
        id("a longer identity", "spiffe://cluster.local/ns/default/sa/reviews2", expected),
        id("an identity below it", "spiffe://cluster.local/ns/default/sa/reviews/x", expected),
        id("a shorter identity", "spiffe://cluster.local/ns/default/sa/review", expected),
        id("another case", "spiffe://cluster.local/ns/default/sa/Reviews", expected),
        id("percent-encoded", "spiffe://cluster.local/ns/default/sa/%72eviews", "is not a SPIFFE ID"),
        id("another trust domain", "spiffe://other.local/ns/default/sa/reviews", "root of its trust domain"),
        ("expired", root.issue(&Leaf { since: 7200, until: -3600, ..good() }), "it has expired"),
        ("not yet valid", root.issue(&Leaf { since: -3600, until: 7200, ..good() }), "it is not valid yet"),
        ("revoked", root.issue(&Leaf { serial: REVOKED, ..good() }), "it has been revoked"),
        ("for clients only", root.issue(&Leaf { server: false, ..good() }), "extended key usage"),
        ("an authority", root.issue(&Leaf { is_ca: true, ..good() }), "it is a certificate authority"),
        ("two URI names", root.issue(&Leaf { uris: vec![PEER.into(), PEER.into()], ..good() }), "has 2 URI names"),
        (
            "a DNS name alone",
            root.issue(&Leaf { uris: vec![], dns: vec!["reviews.default.svc.cluster.local".into()], ..good() }),
            "has 0 URI names",
        ),
        ("another root", Authority::new("evil").issue(&good()), "root of its trust domain"),
        ("self-signed", Authority::self_signed(&good()), "its chain"),
    ]
}

async fn ask(stage: &Stage) -> (u16, String) {
    let reply = Call::get("http://reviews/").send(stage.outbound).await;
    let error = reply.headers.get("x-leno-error").map_or("", |value| value.to_str().unwrap_or_default());
    (reply.status, error.to_owned())
}

#[tokio::test]
async fn an_endpoint_is_believed_for_its_expected_identity_alone() {
    let (app, endpoint) = (origin("app").await, Endpoint::start().await);
    let peers = [endpoint.address];
    let stage = Scene { peers: &peers, revoked: &[REVOKED], ..Scene::new(app.address(), "") }.start().await;
    for good in [stage.root.issue(&Leaf::of(PEER)), stage.root.intermediate("between").issue(&Leaf::of(PEER))] {
        endpoint.shows(&good, &stage.root, true);
        assert_eq!(ask(&stage).await, (200, String::new()));
    }
    for (name, identity, why) in rows(&stage.root) {
        endpoint.shows(&identity, &stage.root, true);
        let (status, error) = ask(&stage).await;
        assert_eq!(status, 503, "{name}: {error}");
        assert!(error.starts_with("URX,UF; ") && error.contains(why), "{name}: {error}");
    }
    endpoint.shows(&stage.root.issue(&Leaf::of(PEER)), &stage.root, false);
    let (status, error) = ask(&stage).await;
    assert!(status == 503 && error.contains("ProtocolVersion"), "TLS 1.2: {error}");
    endpoint.shows(&stage.root.issue(&Leaf::of(PEER)), &Authority::new("another"), true);
    let (status, error) = ask(&stage).await;
    assert_eq!(status, 503, "an endpoint that does not believe us: {error}");
}

#[tokio::test]
async fn clear_text_within_the_mesh_is_counted_and_shown() {
    let (app, plain) = (origin("app").await, origin("plain").await);
    let peers = [plain.address()];
    let rule = json!({"host": "reviews", "trafficPolicy": {"tls": {"mode": "DISABLE"}}});
    let rules = format!("{:#}\n", document("DestinationRule", "reviews", rule));
    let stage = Scene { peers: &peers, ..Scene::new(app.address(), &rules) }.start().await;
    for _ in 0..2 {
        assert_eq!(ask(&stage).await.0, 200);
    }
    let cluster = "outbound|80||reviews.default.svc.cluster.local";
    let metrics = stage.proxy.metrics().await;
    let labels = [format!("cluster=\"{cluster}\"")];
    let labels = labels.each_ref().map(String::as_str);
    assert_eq!(metric(&metrics, "leno_clear_text_connections_total", &labels), 1.0, "one, for both requests");
    assert!(!metrics.contains("leno_clear_text_connections_total{cluster=\"inbound"), "the own app is no peer");
    let clusters = stage.proxy.clusters().await;
    assert!(clusters.contains(&format!("{cluster}::cx_clear_text::1")), "{clusters}");
}

#[tokio::test]
async fn an_endpoint_that_should_speak_tls_is_never_called_in_clear_text() {
    let app = origin("app").await;
    let plain = origin("plain").await;
    let peers = [plain.address()];
    let stage = Scene { peers: &peers, ..Scene::new(app.address(), "") }.start().await;
    let (status, error) = ask(&stage).await;
    assert_eq!(status, 503, "{error}");
    assert!(error.starts_with("URX,UF; ") && error.contains("TLS"), "{error}");
    assert_eq!(plain.requests().len(), 0);
}

/// Where nothing says who an endpoint is, the rule's list does: whole names, and with none of them nobody is called.
#[tokio::test]
async fn an_endpoint_without_an_identity_is_one_of_the_rules_list_or_not_believed() {
    let (app, endpoint) = (origin("app").await, Endpoint::start().await);
    let other = PEER.replace("reviews", "reviews-canary");
    let service = |name: &str| {
        let spec = json!({
            "hosts": [format!("{name}.example.com")], "location": "MESH_INTERNAL", "resolution": "STATIC",
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
            "endpoints": [{"address": "127.0.0.1", "ports": {"http": endpoint.address.port()}}],
        });
        document("ServiceEntry", name, spec)
    };
    let rule = |name: &str, names: &[&str]| {
        let tls = json!({"mode": "ISTIO_MUTUAL", "subjectAltNames": names});
        document("DestinationRule", name, json!({"host": format!("{name}.example.com"), "trafficPolicy": {"tls": tls}}))
    };
    let documents = [service("listed"), rule("listed", &[PEER, &other]), service("bare"), rule("bare", &[])];
    let rules = documents.map(|document| format!("{document:#}\n")).join("---\n");
    let stage = Scene::new(app.address(), &rules).start().await;
    let ask = async |host: &str| {
        let reply = Call::get(&format!("http://{host}.example.com/")).send(stage.outbound).await;
        (reply.status, reply.header("x-leno-error").to_owned())
    };
    for (id, answered) in [
        (PEER.to_owned(), true),
        (other.clone(), true),
        (PEER.replace("reviews", "review"), false),
        (format!("{other}-2"), false),
        (PEER.replace("/default/", "/other/"), false),
    ] {
        endpoint.shows(&stage.root.issue(&Leaf::of(&id)), &stage.root, true);
        let (status, error) = ask("listed").await;
        assert_eq!(status == 200, answered, "{id}: {status} {error}");
        assert!(answered || (error.contains(PEER) && error.contains(&other)), "it says who was expected: {error}");
    }
    endpoint.shows(&stage.root.issue(&Leaf::of(PEER)), &stage.root, true);
    let (status, error) = ask("bare").await;
    assert!(status == 503 && error.contains("nothing says who is expected"), "{status} {error}");
}
