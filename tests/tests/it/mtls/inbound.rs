//! Callers with every kind of certificate.

use leno_tests::pki::{Authority, Identity, Leaf};
use leno_tests::{Call, eventually, metric, origin};

use super::{Caller, PEER, Scene, mode};

/// A caller's certificate, and what the log says when it is refused.
type Row = (&'static str, Identity, &'static str);

const REVOKED: u64 = 666;

/// One leaf for each way of being wrong, all signed by the right root.
fn wrong_leaves(root: &Authority) -> Vec<Row> {
    let good = || Leaf::of(PEER);
    let id = |name: &'static str, id: &str, why: &'static str| (name, root.issue(&Leaf::of(id)), why);
    let not_spiffe = "is not a SPIFFE ID";
    vec![
        ("expired", root.issue(&Leaf { since: 7200, until: -3600, ..good() }), "it has expired"),
        ("not yet valid", root.issue(&Leaf { since: -3600, until: 7200, ..good() }), "it is not valid yet"),
        ("revoked", root.issue(&Leaf { serial: REVOKED, ..good() }), "it has been revoked"),
        ("for servers only", root.issue(&Leaf { client: false, ..good() }), "extended key usage"),
        ("an authority", root.issue(&Leaf { is_ca: true, ..good() }), "it is a certificate authority"),
        ("two URI names", root.issue(&Leaf { uris: vec![PEER.into(), PEER.into()], ..good() }), "has 2 URI names"),
        (
            "two identities",
            root.issue(&Leaf { uris: vec![PEER.into(), PEER.replace("reviews", "admin")], ..good() }),
            "has 2 URI names",
        ),
        ("no name", root.issue(&Leaf { uris: vec![], ..good() }), "has 0 URI names"),
        (
            "a DNS name alone",
            root.issue(&Leaf { uris: vec![], dns: vec!["reviews.default".into()], ..good() }),
            "has 0 URI names",
        ),
        (
            "an identity in the subject",
            root.issue(&Leaf { uris: vec![], common_name: Some(PEER.into()), ..good() }),
            "has 0 URI names",
        ),
        id("another scheme", "https://cluster.local/ns/default/sa/reviews", not_spiffe),
        id("upper-case scheme", "SPIFFE://cluster.local/ns/default/sa/reviews", not_spiffe),
        id("upper-case trust domain", "spiffe://Cluster.local/ns/default/sa/reviews", not_spiffe),
        id("percent-encoded slash", "spiffe://cluster.local/ns/default%2fsa/reviews", not_spiffe),
        id("percent-encoded letter", "spiffe://cluster.local/ns/default/sa/%72eviews", not_spiffe),
        id("a port", "spiffe://cluster.local:443/ns/default/sa/reviews", not_spiffe),
        id("user information", "spiffe://x@cluster.local/ns/default/sa/reviews", not_spiffe),
        id("a query", "spiffe://cluster.local/ns/default/sa/reviews?a=b", not_spiffe),
        id("a fragment", "spiffe://cluster.local/ns/default/sa/reviews#a", not_spiffe),
        id("an empty segment", "spiffe://cluster.local/ns//default/sa/reviews", not_spiffe),
        id("a trailing slash", "spiffe://cluster.local/ns/default/sa/reviews/", not_spiffe),
        id("dots", "spiffe://cluster.local/ns/default/sa/../reviews", not_spiffe),
        id("no trust domain", "spiffe:///ns/default/sa/reviews", not_spiffe),
        id("another trust domain", "spiffe://other.local/ns/default/sa/reviews", "root of its trust domain"),
        id("a longer trust domain", "spiffe://cluster.local.evil/ns/default/sa/reviews", "root of its trust domain"),
    ]
}

/// Chains that do not hold.
fn wrong_chains(root: &Authority) -> Vec<Row> {
    let good = Leaf::of(PEER);
    let mut without_intermediate = root.intermediate("between").issue(&good);
    without_intermediate.chain.truncate(1);
    vec![
        ("another root", Authority::new("evil").issue(&good), "root of its trust domain"),
        ("another root of the same name", Authority::new("root").issue(&good), "its chain"),
        ("self-signed", Authority::self_signed(&good), "its chain"),
        ("without its intermediate", without_intermediate, "root of its trust domain"),
        ("signed by a leaf", root.issue_below(&good, &good), "its chain"),
    ]
}

#[tokio::test]
async fn a_caller_is_let_in_by_one_good_identity_and_refused_with_the_reason() {
    let app = origin("app").await;
    let stage = Scene { revoked: &[REVOKED], ..Scene::new(app.address(), &mode("STRICT")) }.start().await;
    for good in [stage.root.issue(&Leaf::of(PEER)), stage.root.intermediate("between").issue(&Leaf::of(PEER))] {
        let answer = Caller::with(&good).asks(stage.inbound).await.expect("a good caller is answered");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    let rows: Vec<Row> = wrong_leaves(&stage.root).into_iter().chain(wrong_chains(&stage.root)).collect();
    let refused = rows.len() as f64;
    for (name, identity, why) in rows {
        let refused_before = refusals(&stage.proxy.process.log(), why);
        let answer = Caller::with(&identity).asks(stage.inbound).await;
        assert!(answer.is_err(), "{name}: {answer:?}");
        eventually(&format!("the log says why a caller is refused: {name}"), async || {
            let log = stage.proxy.process.log();
            match refusals(&log, why) > refused_before {
                true => Ok(()),
                false => Err(format!("no line with `{why}`")),
            }
        })
        .await;
    }
    assert_eq!(app.requests().len(), 2, "a refused caller reaches nobody");
    Call::get("http://shop/").try_send(stage.inbound).await.expect_err("clear text is refused");
    eventually("each is counted", async || {
        let metrics = stage.proxy.metrics().await;
        let count = |name| metric(&metrics, name, &[]);
        let found = (count("leno_tls_handshakes_failed_total"), count("leno_clear_text_refused_total"));
        if found == (refused, 1.0) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

fn refusals(log: &str, why: &str) -> usize {
    log.lines().filter(|line| line.contains("refused a TLS connection") && line.contains(why)).count()
}

#[tokio::test]
async fn a_caller_without_a_certificate_or_with_an_old_protocol_is_refused() {
    let app = origin("app").await;
    let stage = Scene::new(app.address(), &mode("STRICT")).start().await;
    let good = stage.root.issue(&Leaf::of(PEER));
    let nobody = Caller { identity: None, ..Caller::with(&good) };
    let old = Caller { version: &rustls::version::TLS12, ..Caller::with(&good) };
    let strange = Caller { alpn: &[b"ftp"], ..Caller::with(&good) };
    for (name, caller, alert) in [
        ("no certificate", nobody, "CertificateRequired"),
        ("TLS 1.2", old, "ProtocolVersion"),
        ("a protocol that is not HTTP", strange, "NoApplicationProtocol"),
    ] {
        let refused = caller.asks(stage.inbound).await.expect_err(name);
        assert!(refused.contains(alert), "{name}: {refused}");
    }
    assert_eq!(app.requests().len(), 0);
}

#[tokio::test]
async fn the_app_learns_who_called_from_the_proxy_alone() {
    let app = origin("app").await;
    let stage = Scene::new(app.address(), &mode("PERMISSIVE")).start().await;
    let good = stage.root.issue(&Leaf::of(PEER));
    Caller::with(&good).asks(stage.inbound).await.expect("answered");
    let seen = app.requests().pop().expect("seen");
    let said = seen.header("x-forwarded-client-cert").to_owned();
    assert!(said.starts_with("By=spiffe://cluster.local/ns/default/sa/shop;Hash="), "{said}");
    assert!(said.ends_with(&format!(";Subject=\"\";URI={PEER}")), "{said}");
    assert!(!said.contains(','), "one element: {said}");
    let claim =
        leno_tests::Call::get("http://shop/").header("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/x/sa/y");
    assert_eq!(claim.send(stage.inbound).await.status, 200);
    let seen = app.requests().pop().expect("seen");
    assert_eq!(seen.header("x-forwarded-client-cert"), "", "a caller in clear text cannot say who it is");
}
