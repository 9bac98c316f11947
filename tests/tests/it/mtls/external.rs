//! TLS to the outside, by a DestinationRule: SIMPLE and MUTUAL.

use std::path::Path;

use leno_tests::pki::{Authority, Identity, Leaf};
use leno_tests::{Call, eventually, origin};

use super::outbound::Endpoint;
use super::{Scene, Stage};

const HOST: &str = "shop.example.com";

/// A certificate as web servers have them.
fn of_server(name: &str) -> Leaf {
    Leaf { uris: vec![], dns: vec![name.to_owned()], client: false, ..Leaf::of("spiffe://unused") }
}

async fn ask(stage: &Stage) -> (u16, String) {
    let reply = Call::get(&format!("http://{HOST}/")).send(stage.outbound).await;
    (reply.status, reply.header("x-leno-error").to_owned())
}

/// Puts the service outside the mesh with these TLS settings in force.
async fn rule(stage: &Stage, endpoint: &Endpoint, tls: &str) {
    let (port, mark) = (endpoint.address.port(), tls.len());
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: shop, namespace: default}}\n\
         spec: {{hosts: [{HOST}], location: MESH_EXTERNAL, resolution: STATIC, \
         ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: [{{address: 127.0.0.1, ports: {{http: {port}}}}}]}}\n\
         ---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: shop, namespace: default}}\n\
         spec: {{host: {HOST}, trafficPolicy: {{tls: {tls}, connectionPool: {{tcp: {{connectTimeout: {mark}s}}}}}}}}\n"
    );
    std::fs::write(stage.directory.path().join("rules/rules.yaml"), text).expect("written");
    // Each setting of these tests has a length of its own, which shows in the dump when it is in force.
    eventually("the rule is in force", async || {
        let dump = stage.proxy.config_dump().await.0.to_string();
        match dump.contains(&format!("{{\"nanos\":0,\"secs\":{mark}}}")) {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_outside_is_believed_for_its_name_and_its_roots() {
    let (app, endpoint, web) = (origin("app").await, Endpoint::start().await, Authority::new("web"));
    let stage = Scene::new(app.address(), "").start().await;
    let roots = stage.directory.path().join("web.pem");
    std::fs::write(&roots, web.pem()).expect("written");
    let roots = roots.display();
    // (tls of the rule, name in the certificate, answered)
    let rows = [
        (format!("{{mode: SIMPLE, caCertificates: {roots}}}"), HOST, true),
        (format!("{{mode: SIMPLE, caCertificates: '{roots}'}}"), "other.example.com", false),
        (format!("{{mode: SIMPLE, caCertificates: {roots}, sni: other.example.com}}"), "other.example.com", true),
        (format!("{{mode: SIMPLE, caCertificates: {roots}, subjectAltNames: [a.example]}}"), "a.example", true),
        (format!("{{mode: SIMPLE, caCertificates: {roots}, subjectAltNames: [b.example.org]}}"), HOST, false),
        ("{mode: SIMPLE}".to_owned(), HOST, false),
        ("{mode: SIMPLE, insecureSkipVerify: true}".to_owned(), "whoever", true),
    ];
    for (tls, name, answered) in rows {
        endpoint.shows_and_wants(&web.issue(&of_server(name)), None, false);
        rule(&stage, &endpoint, &tls).await;
        let (status, error) = ask(&stage).await;
        assert_eq!(status == 200, answered, "{tls} and {name}: {status} {error}");
        assert!(answered || error.starts_with("UF; TLS") || error.contains("TLS: "), "{tls} and {name}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_wants_to_know_us_gets_the_certificate_of_the_rule() {
    let (app, endpoint, web) = (origin("app").await, Endpoint::start().await, Authority::new("web"));
    let stage = Scene::new(app.address(), "").start().await;
    let directory = stage.directory.path();
    std::fs::write(directory.join("web.pem"), web.pem()).expect("written");
    let ours = Leaf { uris: vec![], dns: vec!["us.example.com".to_owned()], ..Leaf::of("spiffe://unused") };
    let (certificate, key) = web.issue(&ours).write(directory, "ours");
    endpoint.shows_and_wants(&web.issue(&of_server(HOST)), Some(&web), true);
    let roots = directory.join("web.pem");
    rule(&stage, &endpoint, &format!("{{mode: SIMPLE, caCertificates: {}}}", roots.display())).await;
    assert_eq!(ask(&stage).await.0, 503, "SIMPLE shows nothing");
    let mutual = format!(
        "{{mode: MUTUAL, caCertificates: {}, clientCertificate: {}, privateKey: {}}}",
        roots.display(),
        certificate.display(),
        key.display()
    );
    rule(&stage, &endpoint, &mutual).await;
    assert_eq!(ask(&stage).await, (200, String::new()));
}

/// Puts a secret where a kubelet would mount it.
fn mount(stage: &Stage, name: &str, own: Option<&Identity>, roots: &str) {
    let directory = stage.directory.path().join("credentials").join(name);
    std::fs::create_dir_all(&directory).expect("a directory");
    if let Some(own) = own {
        let (certificate, key) = own.write(&directory, "tls");
        std::fs::rename(certificate, directory.join("tls.crt")).expect("the name that Kubernetes gives it");
        std::fs::rename(key, directory.join("tls.key")).expect("the name that Kubernetes gives it");
    }
    put(&directory.join("ca.crt"), roots);
}

fn put(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
}

#[tokio::test]
async fn a_secret_beside_the_proxy_stands_for_files() {
    let (app, endpoint, web) = (origin("app").await, Endpoint::start().await, Authority::new("web"));
    let stage = Scene::new(app.address(), "").start().await;
    endpoint.shows_and_wants(&web.issue(&of_server(HOST)), Some(&web), true);
    rule(&stage, &endpoint, "{mode: MUTUAL, credentialName: web-tls}").await;
    let (status, error) = ask(&stage).await;
    assert_eq!(status, 503, "nothing is mounted");
    assert!(error.contains("credentials/web-tls/"), "it says which file is missing: {error}");
    let ours = Leaf { uris: vec![], dns: vec!["us.example.com".to_owned()], ..Leaf::of("spiffe://unused") };
    mount(&stage, "web-tls", Some(&web.issue(&ours)), &web.pem());
    assert_eq!(ask(&stage).await, (200, String::new()), "found without a restart");
    endpoint.shows_and_wants(&web.issue(&of_server(HOST)), None, true);
    mount(&stage, "roots-alone", None, &web.pem());
    rule(&stage, &endpoint, "{mode: SIMPLE, credentialName: roots-alone}").await;
    assert_eq!(ask(&stage).await, (200, String::new()), "SIMPLE takes the roots of it");
    endpoint.shows_and_wants(&Authority::new("other").issue(&of_server(HOST)), None, true);
    assert_eq!(ask(&stage).await.0, 503, "and no others");
}

#[tokio::test]
async fn a_server_outside_that_was_revoked_is_not_believed() {
    const REVOKED: u64 = 666;
    let (app, endpoint, web) = (origin("app").await, Endpoint::start().await, Authority::new("web"));
    let stage = Scene::new(app.address(), "").start().await;
    let directory = stage.directory.path();
    let (roots, list) = (directory.join("web.pem"), directory.join("web.crl"));
    put(&roots, &web.pem());
    put(&list, &web.revoke(&[REVOKED]));
    let tls = format!("{{mode: SIMPLE, caCertificates: {}, caCrl: {}}}", roots.display(), list.display());
    rule(&stage, &endpoint, &tls).await;
    let between = web.intermediate("between");
    let revoked = || Leaf { serial: REVOKED, ..of_server(HOST) };
    let both = || web.revoke(&[REVOKED]) + &between.revoke(&[]);
    // (what, certificate, lists, what the answer says; empty: it is believed)
    let rows = [
        ("not revoked", web.issue(&of_server(HOST)), web.revoke(&[REVOKED]), ""),
        ("revoked", web.issue(&revoked()), web.revoke(&[REVOKED]), "revoked"),
        ("revoked, and the list is renewed without it", web.issue(&revoked()), web.revoke(&[1]), ""),
        ("no list of the authority between", between.issue(&of_server(HOST)), web.revoke(&[]), "needs a list of each"),
        ("a list of each authority", between.issue(&of_server(HOST)), both(), ""),
        ("a list that is out of date", web.issue(&of_server(HOST)), web.revoke_until(&[], -60), "out of date"),
        ("a file without a list", web.issue(&of_server(HOST)), web.pem(), "no list of revoked certificates"),
    ];
    for (what, certificate, lists, words) in rows {
        endpoint.shows_and_wants(&certificate, None, true);
        put(&list, &lists);
        let (status, error) = ask(&stage).await;
        assert_eq!(status == 200, words.is_empty(), "{what}: {status} {error}");
        assert!(error.contains(words), "{what}: {error}");
    }
}
