//! A change of the root, from the first step to the last, with a proxy that follows and one that does not.

use leno_config::xds::Kind;
use serde_json::Value;

use super::roots::secret_of;
use super::*;
use crate::client::Client;

/// `leno ca rotate`: its exit code and what it says.
fn rotate(place: &Place, flags: &[&str]) -> (Option<i32>, Value) {
    let output =
        leno().args(["ca", "rotate", "-o", "json", "--state"]).arg(place.state()).args(flags).output().unwrap();
    let said = serde_json::from_slice(&output.stdout);
    (output.status.code(), said.unwrap_or_else(|_| panic!("{}", text(&output))))
}

fn status(serve: &Serve) -> Value {
    let address = format!("http://{}", serve.http);
    let output = leno().args(["ca", "status", "-o", "json", "--address", &address]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)))
}

fn roots_in(pem: &str) -> usize {
    pem.matches("BEGIN CERTIFICATE").count()
}

async fn subscribed(serve: &Serve, name: &str) -> Client {
    let mut client = Client::connect(serve.xds, name).await;
    client.asks(Kind::Secret, &["ROOTCA".to_owned()]).await;
    assert_eq!(roots_in(&bundle(&client.hears().await.unwrap())), 1);
    client
}

fn bundle(response: &envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse) -> String {
    secret_of(response).bundles["cluster.local"].roots.clone()
}

/// Until a step is taken, because what is in the way goes by itself.
fn rotates_in_the_end(place: &Place) {
    let deadline = Instant::now() + 2 * SOON;
    loop {
        let (code, said) = rotate(place, &[]);
        if code == Some(0) {
            return;
        }
        assert!(Instant::now() < deadline, "{said}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_changes_only_as_fast_as_the_proxies_follow() {
    let (place, serve) = plane_with(&["--certificate-ttl", "10m"]);
    let old = certified(&place, &serve, "shop", "cart").await;
    let mut follows = subscribed(&serve, "follows").await;
    let mut hangs = subscribed(&serve, "hangs").await;
    // One that encrypts nothing asks for no roots, and is in nobody's way.
    let mut plain = Client::connect(serve.xds, "plain").await;
    plain.asks(Kind::Cluster, &[]).await;
    plain.hears().await.unwrap();
    assert_eq!(status(&serve)["phase"], "steady");

    let (code, said) = rotate(&place, &[]);
    assert_eq!((code, roots_in(&bundle(&follows.hears().await.unwrap()))), (Some(0), 2), "{said}");
    assert_eq!(roots_in(&bundle(&hangs.hears_in_silence().await.unwrap())), 2);
    assert_eq!(roots_in(&std::fs::read_to_string(place.state().join("root.pem")).unwrap()), 2);
    assert_eq!(status(&serve)["phase"], "distributing");
    let still = certified(&place, &serve, "shop", "cart").await;
    assert_eq!(issuer(&place, &still), issuer(&place, &old), "certificates come from the old root");

    let (code, said) = rotate(&place, &[]);
    assert_eq!((code, &said["done"]), (Some(1), &Value::Null));
    let refused = said["refused"].to_string();
    assert!(refused.contains("hangs.default") && !refused.contains("follows.default"), "{refused}");
    assert!(said["breaks"].to_string().contains("refuse every peer"), "{said}");

    drop(hangs);
    rotates_in_the_end(&place);
    assert_eq!(status(&serve)["phase"], "retiring");
    let new = certified(&place, &serve, "shop", "cart").await;
    assert_ne!(issuer(&place, &new), issuer(&place, &old));
    // The old certificate is good as long as it lives.
    let root = place.state().join("root.pem");
    let channel = connect(serve.tls, &root, "localhost", Some(&old)).await.unwrap();
    let (csr, _) = request();
    assert!(create(&channel, None, &csr, 0).await.is_ok());

    let (code, said) = rotate(&place, &[]);
    assert!(code == Some(1) && said["refused"].to_string().contains("certificates of the old root"), "{said}");
    let (code, said) = rotate(&place, &["--force"]);
    assert!(code == Some(0) && said["breaks"].to_string().contains("refused by all peers"), "{said}");
    assert_eq!(status(&serve)["phase"], "steady");
    let mut newest = bundle(&follows.hears().await.unwrap());
    while roots_in(&newest) != 1 {
        newest = bundle(&follows.hears().await.unwrap());
    }
    assert_eq!(newest, std::fs::read_to_string(&root).unwrap());
}

#[tokio::test]
async fn a_change_survives_a_restart_and_waits_for_the_proxies_to_come_back() {
    let (place, serve) = plane();
    assert_eq!(rotate(&place, &[]).0, Some(0));
    drop(serve);
    let serve = started(&place, &[]);
    let found = status(&serve);
    assert_eq!((&found["phase"], found["roots"].as_array().unwrap().len()), (&"distributing".into(), 2));
    let (code, said) = rotate(&place, &[]);
    assert!(code == Some(1) && said["refused"].to_string().contains("only just started"), "{said}");
    let (code, said) = rotate(&place, &["--force"]);
    assert!(code == Some(0) && said["breaks"].to_string().contains("not back yet"), "{said}");
    drop(serve);
    assert_eq!(status(&started(&place, &[]))["phase"], "retiring");
}

#[test]
fn only_who_may_read_the_keys_changes_the_root() {
    let (place, serve) = plane();
    let token = token(&place, "shop", "cart", "1h");
    for authorization in
        [String::new(), "authorization: Bearer x\r\n".to_owned(), format!("authorization: Bearer {token}\r\n")]
    {
        let (code, body) = serve.post("/ca/rotate?force", &authorization);
        assert_eq!(code, 401, "{authorization}: {body}");
    }
    assert_eq!(serve.get("/ca/rotate").0, 404);
    assert_eq!(status(&serve)["phase"], "steady");
}

/// By openssl.
fn issuer(place: &Place, credential: &Credential) -> String {
    let path = place.file("credential.pem");
    std::fs::write(&path, &credential.chain).unwrap();
    text(&openssl(&["x509", "-in", &path.display().to_string(), "-noout", "-issuer"]))
}
