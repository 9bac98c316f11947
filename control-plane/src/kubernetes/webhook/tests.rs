//! The server as the API server meets it: TLS with the bundle of the configurations, recorded bodies, bad ones, and a root
//! that is replaced under way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse};
use leno_config::rules::{self, Document, SourceText};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::certificate::{LIFE, Serving};
use super::server::{Webhooks, serve};
use crate::ca::issuer;
use crate::ca::kept::Kept;
use crate::kubernetes::secrets::WEBHOOK;

/// For what has to happen.
const PATIENCE: Duration = Duration::from_secs(30);
const HOST: &str = "leno.leno-system.svc";

/// A running server.
struct World {
    serving: Arc<Serving>,
    address: SocketAddr,
    _server: tokio::task::JoinSet<()>,
}

impl World {
    async fn start(in_force: &str) -> Self {
        let now = SystemTime::now();
        let kept = Kept::create(WEBHOOK.purpose, WEBHOOK.life, now).unwrap();
        let serving = Serving::new(vec![issuer::ServerName::Dns(HOST.to_owned())], kept, now).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let documents: Arc<Vec<Document>> = Arc::new(parsed(in_force));
        let webhooks = Webhooks {
            // Stands in for the injector: says what it was asked.
            inject: Arc::new(|review| {
                let request: AdmissionRequest<DynamicObject> = review.try_into().unwrap();
                let mut answer = AdmissionResponse::from(&request);
                answer.warnings = Some(vec![format!("{} in {:?}", request.kind.kind, request.namespace)]);
                answer
            }),
            in_force: Arc::new(move || Arc::clone(&documents)),
            counts: crate::kubernetes::counts::Counts::register(&prometheus::Registry::new()).unwrap(),
        };
        let config = Arc::new(serving.config().unwrap());
        let mut server = tokio::task::JoinSet::new();
        server.spawn(serve(listener, config, webhooks, std::future::pending()));
        Self { serving, address, _server: server }
    }

    /// One request over a connection of its own, believing this bundle: status and body.
    async fn ask(&self, bundle: &str, head: &str, body: &str) -> Result<(u16, String), std::io::Error> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let socket = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(HOST).unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
        let length =
            if head.contains("content-length") { String::new() } else { format!("\r\ncontent-length: {}", body.len()) };
        let request = format!("{head}{length}\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        // A body that is refused need not be taken.
        let _ = stream.write_all(body.as_bytes()).await;
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer in time")?;
        let answer = String::from_utf8(answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        Ok((status, answer.split_once("\r\n\r\n").unwrap().1.to_owned()))
    }

    async fn post(&self, path: &str, body: &str) -> (u16, String) {
        let head = format!("POST {path}?timeout=10s HTTP/1.1\r\ncontent-type: application/json");
        self.ask(&self.serving.bundle(), &head, body).await.unwrap()
    }

    /// The response of the review of this object.
    async fn validate(&self, operation: &str, object: &Value) -> Value {
        let review = review(operation, object);
        let (status, body) = self.post("/validate", &review.to_string()).await;
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&answer["apiVersion"], &answer["kind"]),
            (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
        );
        assert_eq!(answer["response"]["uid"], review["request"]["uid"]);
        answer["response"].clone()
    }
}

fn parsed(text: &str) -> Vec<Document> {
    rules::parse(&[SourceText { name: "in-force.yaml".into(), text: text.into() }]).documents
}

fn review(operation: &str, object: &Value) -> Value {
    let kind = &object["kind"];
    let (group, version) = object["apiVersion"].as_str().and_then(|it| it.split_once('/')).unwrap_or(("", "v1"));
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "17ff50be-111d-4719-9738-658267e6fe1f",
            "kind": { "group": group, "version": version, "kind": kind },
            "resource": { "group": group, "version": version, "resource": "things" },
            "name": object["metadata"]["name"], "namespace": object["metadata"]["namespace"],
            "operation": operation, "userInfo": { "username": "admin" }, "object": object, "oldObject": null,
            "dryRun": true,
        },
    })
}

fn virtual_service(weight: i64, host: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {
            "name": "reviews", "namespace": "shop", "uid": "4d2a", "resourceVersion": "77", "generation": 3,
            "creationTimestamp": "2026-11-22T08:14:52Z",
            "managedFields": [{ "manager": "kubectl", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {} }],
            "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "{\"no\": [\"rule" },
        },
        "spec": {
            "hosts": [host],
            "http": [{ "route": [{ "destination": { "host": host }, "weight": weight }] }],
        },
        "status": { "conditions": [] },
    })
}

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
";

#[tokio::test]
async fn a_rule_is_refused_with_the_words_of_leno_validate() {
    let world = World::start(SERVICE).await;
    let taken = world.validate("CREATE", &virtual_service(1, "reviews")).await;
    assert_eq!((&taken["allowed"], &taken["warnings"]), (&json!(true), &Value::Null), "{taken}");

    let negative = virtual_service(-1, "reviews");
    let refused = world.validate("UPDATE", &negative).await;
    assert_eq!((&refused["allowed"], &refused["status"]["code"]), (&json!(false), &json!(422)), "{refused}");
    let said = leno_config::validate::check(&rules::parse_object("x", &negative.to_string()));
    let error = said.iter().find(|finding| finding.is_error()).unwrap();
    let message = refused["status"]["message"].as_str().unwrap();
    assert!(message.contains(error.code) && message.contains(&error.message), "{message}");
    assert!(message.contains("spec.http[0].route[0].weight"), "{message}");

    let unknown = world.validate("CREATE", &virtual_service(1, "ratings")).await;
    assert_eq!(unknown["allowed"], true);
    assert!(unknown["warnings"][0].as_str().unwrap().starts_with("L0201: "), "{unknown}");
}

#[tokio::test]
async fn what_another_object_may_still_bring_is_a_warning_and_no_refusal() {
    let world = World::start(SERVICE).await;
    for (destination, code) in [
        (json!({ "host": "reviews", "subset": "v2" }), "L0202: "),
        (json!({ "host": "reviews", "port": { "number": 81 } }), "L0203: "),
        (json!({ "host": "ratings" }), "L0201: "),
    ] {
        let mut rule = virtual_service(1, "reviews");
        rule["spec"]["http"][0]["route"][0]["destination"] = destination;
        let taken = world.validate("CREATE", &rule).await;
        assert_eq!(taken["allowed"], true, "{taken}");
        assert!(taken["warnings"][0].as_str().unwrap().starts_with(code), "{taken}");
    }
}

#[tokio::test]
async fn what_goes_or_is_not_ours_is_let_through() {
    let world = World::start("").await;
    let mut ending = virtual_service(-1, "reviews");
    ending["metadata"]["deletionTimestamp"] = "2026-11-22T08:14:52Z".into();
    assert_eq!(world.validate("UPDATE", &ending).await["allowed"], true, "a finalizer has to be taken off");
    assert_eq!(world.validate("DELETE", &virtual_service(-1, "reviews")).await["allowed"], true);
    let mut foreign = virtual_service(1, "reviews");
    foreign["kind"] = "EnvoyFilter".into();
    let answer = world.validate("CREATE", &foreign).await;
    assert_eq!((&answer["allowed"], answer["warnings"].as_array().unwrap().len()), (&json!(true), 1), "{answer}");
}

#[tokio::test]
async fn the_injector_is_asked_about_pods_as_a_real_server_sends_them() {
    let world = World::start("").await;
    let recorded = include_str!("pod.review.json");
    let (status, body) = world.post("/inject", recorded).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &answer["response"]["allowed"]), (200, &json!(true)), "{body}");
    assert_eq!(answer["response"]["uid"], "17ff50be-111d-4719-9738-658267e6fe1f");
    assert_eq!(answer["response"]["warnings"], json!(["Pod in Some(\"demo\")"]));
}

#[tokio::test]
async fn bad_questions_are_told_what_is_wrong_with_them() {
    let world = World::start("").await;
    // What is too large need not be sent to be refused.
    let large = format!("application/json\r\ncontent-length: {}", (4 << 20) + 1);
    let other =
        json!({ "apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": { "uid": "1" } });
    let other = other.to_string();
    let empty = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview" }).to_string();
    let rows = [
        ("POST /inject", "application/json", "{", 400, "EOF"),
        ("POST /inject", "application/json", "[]", 400, "no AdmissionReview"),
        ("POST /inject", "application/json", other.as_str(), 400, "v1beta1"),
        ("POST /validate", "application/json", empty.as_str(), 400, "no request with a uid"),
        ("POST /validate", "text/yaml", "a: b", 415, "application/json"),
        ("POST /validate", large.as_str(), "x", 413, "larger"),
        ("GET /validate", "application/json", "", 405, "only POST"),
        ("POST /mutate", "application/json", "", 404, "/inject"),
    ];
    for (line, kind, body, expected, text) in rows {
        let head = format!("{line} HTTP/1.1\r\ncontent-type: {kind}");
        let (status, answer) = world.ask(&world.serving.bundle(), &head, body).await.unwrap();
        assert_eq!(status, expected, "{line}: {answer}");
        assert!(answer.contains(text), "{line}: {answer}");
    }
    // It is a review, so the answer is one, and names the question.
    let mut unreadable = review("CREATE", &virtual_service(1, "reviews"));
    unreadable["request"]["operation"] = "EXPLODE".into();
    let (status, body) = world.post("/validate", &unreadable.to_string()).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &answer["response"]["allowed"]), (200, &json!(false)), "{body}");
    assert_eq!(answer["response"]["uid"], unreadable["request"]["uid"]);
    assert!(answer["response"]["status"]["message"].as_str().unwrap().contains("EXPLODE"), "{body}");
}

#[tokio::test]
async fn no_step_of_a_new_root_makes_an_api_server_lose_the_webhooks() {
    let world = World::start("").await;
    let now = SystemTime::now();
    let body = review("DELETE", &virtual_service(1, "reviews")).to_string();
    let head = "POST /validate HTTP/1.1\r\ncontent-type: application/json";
    let first = world.serving.kept();
    let announced = first.announced(WEBHOOK.purpose, WEBHOOK.life, now).unwrap();
    let switched = announced.switched(LIFE, now);
    let retired = switched.retired(now);
    let text = |kept: &Kept| String::from_utf8(kept.bundle()).unwrap();
    // What the server uses, and the bundle that an API server may have at this time: that of the step and of the one before.
    let rows = [(&first, &announced), (&announced, &announced), (&switched, &announced), (&retired, &switched)];
    for (kept, lagging) in rows {
        world.serving.adopt(kept.clone(), now).unwrap();
        for bundle in [text(kept), text(lagging)] {
            let (status, answer) = world.ask(&bundle, head, &body).await.expect("the certificate is believed");
            assert_eq!(status, 200, "{answer}");
        }
    }
    assert!(world.ask(&text(&first), head, &body).await.is_err(), "the old root is over");
}
