//! TLS that a sidecar ends for callers who are not of the mesh (`tls` of a Sidecar's `ingress`).

use std::path::Path;
use std::process::Command;

use leno_tests::pki::{Authority, Identity, Leaf};
use leno_tests::{Call, eventually, origin};
use serde_json::{Value, json};

use super::{Caller, Scene, Stage, mode};

const HOST: &str = "shop.example.com";

fn named(name: &str) -> Leaf {
    Leaf { uris: vec![], dns: vec![name.to_owned()], ..Leaf::of("spiffe://unused") }
}

/// A listener with TLS of its own; what it is made of is to come.
async fn stage(app: std::net::SocketAddr, protocol: &str, tls: Value) -> Stage {
    Scene { protocol, tls: Some(tls), ..Scene::new(app, &mode("DISABLE")) }.start().await
}

/// Mounts a secret with the names of Kubernetes.
fn mount(stage: &Stage, own: &Identity, roots: &str) {
    let directory = stage.directory.path().join("credentials/web");
    std::fs::create_dir_all(&directory).expect("a directory");
    let (certificate, key) = own.write(&directory, "tls");
    std::fs::rename(key, directory.join("tls.key")).expect("renamed");
    std::fs::rename(certificate, directory.join("tls.crt")).expect("renamed");
    std::fs::write(directory.join("ca.crt"), roots).expect("written");
}

/// What curl prints: the body, and how it came.
async fn curl(stage: &Stage, roots: &Path) -> Result<String, String> {
    let port = stage.inbound.port();
    let mut command = Command::new("curl");
    command.args(["-sS", "-m", "20", "--http2", "-w", " %{http_code} %{http_version}", "--cacert"]).arg(roots).args([
        "--resolve",
        &format!("{HOST}:{port}:127.0.0.1"),
        &format!("https://{HOST}:{port}/"),
    ]);
    // The app is served by this thread.
    let done = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("curl runs");
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
    }
}

#[tokio::test]
async fn curl_reaches_the_app_by_a_certificate_that_its_owner_mounts_and_renews() {
    let (app, web) = (origin("app").await, Authority::new("web"));
    let stage = stage(app.address(), "HTTPS", json!({"mode": "SIMPLE", "credentialName": "web"})).await;
    let roots = stage.directory.path().join("web.pem");
    std::fs::write(&roots, web.pem()).expect("written");
    curl(&stage, &roots).await.expect_err("there is no certificate yet");
    eventually("the log names the file", async || {
        match stage.proxy.process.log().contains("credentials/web/tls.crt") {
            true => Ok(()),
            false => Err(stage.proxy.process.log()),
        }
    })
    .await;
    for leaf in [named(HOST), Leaf { serial: 8, ..named(HOST) }] {
        let own = web.issue(&leaf);
        mount(&stage, &own, "");
        let answer = curl(&stage, &roots).await.expect("an answer");
        assert!(answer.ends_with(" 200 2"), "{answer}");
        let caller = Caller::with(&own).connect(stage.inbound).await.expect("a handshake");
        let shown = caller.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
        assert_eq!(shown, own.chain.first().cloned(), "the newest is shown");
    }
    mount(&stage, &web.issue(&named("other.example.com")), "");
    curl(&stage, &roots).await.expect_err("for somebody else");
    let clear = Call::get("http://shop/").try_send(stage.inbound).await;
    assert!(clear.is_err(), "clear text is closed: {clear:?}");
    eventually("the log says what is demanded", async || {
        match stage.proxy.process.log().contains("this listener demands TLS (`tls` of the Sidecar's `ingress`)") {
            true => Ok(()),
            false => Err(stage.proxy.process.log()),
        }
    })
    .await;
}

#[tokio::test]
async fn a_caller_from_outside_is_known_by_its_certificate_where_the_rule_asks_for_one() {
    const REVOKED: u64 = 666;
    for protocol in ["HTTPS", "TLS"] {
        let (app, web, others) = (origin("app").await, Authority::new("web"), Authority::new("others"));
        let tls = json!({
            "mode": "MUTUAL", "credentialName": "web",
            "subjectAltNames": ["caller.example.com", "spiffe://example.com/caller"],
        });
        let stage = stage(app.address(), protocol, tls).await;
        mount(&stage, &web.issue(&named(HOST)), &others.pem());
        let uri = |uri: &str| Leaf { uris: vec![uri.to_owned()], ..named("x.example.com") };
        let good = others.issue(&named("caller.example.com"));
        for (what, identity, is_let_in) in [
            ("one of the names", &good, true),
            ("the other", &others.issue(&uri("spiffe://example.com/caller")), true),
            ("another name", &others.issue(&named("somebody.example.com")), false),
            ("a longer name", &others.issue(&uri("spiffe://example.com/caller2")), false),
            ("another root", &web.issue(&named("caller.example.com")), false),
            ("for servers only", &others.issue(&Leaf { client: false, ..named("caller.example.com") }), false),
            ("expired", &others.issue(&Leaf { since: 7200, until: -60, ..named("caller.example.com") }), false),
            ("the mesh's", &stage.root.issue(&Leaf::of(super::PEER)), false),
        ] {
            let answer = Caller::with(identity).asks(stage.inbound).await;
            assert_eq!(answer.as_ref().is_ok_and(|answer| answer.contains(" 200 ")), is_let_in, "{what}: {answer:?}");
        }
        let nobody = Caller { identity: None, ..Caller::with(&good) }.asks(stage.inbound).await;
        assert!(nobody.is_err(), "{nobody:?}");
        let list = stage.directory.path().join("others.crl");
        std::fs::write(&list, others.revoke(&[REVOKED])).expect("written");
        // The rest of the rule is as before.
        let path = stage.directory.path().join("rules/mesh.yaml");
        let text = std::fs::read_to_string(&path).expect("the rules");
        let edited = text.replace("\"mode\": \"MUTUAL\"", &format!("\"caCrl\": {list:?}, \"mode\": \"MUTUAL\""));
        assert_ne!(text, edited);
        let mut open = Caller::with(&good).connect(stage.inbound).await.expect("a handshake");
        std::fs::write(&path, edited).expect("written");
        let revoked = others.issue(&Leaf { serial: REVOKED, ..named("caller.example.com") });
        eventually("the list counts", async || match Caller::with(&revoked).asks(stage.inbound).await {
            Err(_) => Ok(()),
            Ok(answer) => Err(answer),
        })
        .await;
        assert!(Caller::with(&good).asks(stage.inbound).await.is_ok(), "and spares the others");
        let mut rest = Vec::new();
        let ended = tokio::io::AsyncReadExt::read_to_end(&mut open, &mut rest);
        let _ = tokio::time::timeout(leno_tests::PATIENCE, ended).await.expect("who came in by the old rule is ended");
    }
}
