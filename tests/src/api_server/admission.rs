//! Admission: webhooks are called as kube-apiserver calls them, over TLS that is checked against their `caBundle`.
//!
//! Mutating webhooks are called one after the other, in the order of their names. When one of them has changed a pod,
//! the server's own admission runs again (it mounts the token into what was added), and webhooks with
//! `reinvocationPolicy: IfNeeded` are called a second time if that changed something after them: so an injector sees
//! its own work, with a mount that it did not write. Validating webhooks see what will be stored.
//!
//! `matchConditions` (CEL) are not evaluated; a webhook with any is called.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::kinds::WEBHOOKS;
use super::pods;
use super::request::{Request, Verb};
use super::selector::Selector;
use super::state::State;
use super::status::Status;
use super::store::{ObjectKey, ResourceKey};

/// Largest answer of a webhook.
const ANSWER_LIMIT: usize = 3 << 20;

/// Lets mutating admission change an object.
pub(super) async fn mutate(
    state: &Arc<State>,
    request: &Request,
    old: Option<&Value>,
    object: &mut Value,
) -> Result<(), Status> {
    admit_own(state, request, object)?;
    let hooks = hooks(state, request, old, object, "mutatingwebhookconfigurations");
    let mut called = Vec::new();
    for hook in &hooks {
        if review(state, request, hook, old, object).await? {
            called.push(hook);
        }
    }
    if called.is_empty() {
        return Ok(());
    }
    let left = object.clone();
    admit_own(state, request, object)?;
    if *object == left {
        return Ok(());
    }
    for hook in called.into_iter().filter(|hook| hook.hook["reinvocationPolicy"] == "IfNeeded") {
        review(state, request, hook, old, object).await?;
    }
    admit_own(state, request, object)
}

/// Lets validating admission refuse an object, or its deletion.
pub(super) async fn validate(
    state: &Arc<State>,
    request: &Request,
    old: Option<&Value>,
    object: Option<&Value>,
) -> Result<(), Status> {
    let selected = object.or(old).cloned().unwrap_or(Value::Null);
    for hook in &hooks(state, request, old, &selected, "validatingwebhookconfigurations") {
        let mut shown = object.cloned().unwrap_or(Value::Null);
        review(state, request, hook, old, &mut shown).await?;
    }
    Ok(())
}

/// What the server itself does to pods.
fn admit_own(state: &State, request: &Request, object: &mut Value) -> Result<(), Status> {
    if !request.kind.is("", "pods") || request.verb != Verb::Create {
        return Ok(());
    }
    pods::admit(state, object);
    pods::fill_in_pod(object);
    let account = object["spec"]["serviceAccountName"].as_str().unwrap_or_default();
    let accounts = ResourceKey { group: String::new(), plural: "serviceaccounts".to_owned() };
    let key = ObjectKey { namespace: request.namespace.clone(), name: account.to_owned() };
    if state.world().store.get(&accounts, &key).is_some() {
        return Ok(());
    }
    let namespace = &request.namespace;
    let why = format!("error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found");
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Err(Status::forbidden(&request.kind, name, &why))
}

/// A webhook that is to be called.
struct Hook {
    hook: Value,
    mutates: bool,
}

fn hooks(state: &State, request: &Request, old: Option<&Value>, object: &Value, plural: &str) -> Vec<Hook> {
    // No webhook can lock its own configuration out.
    if request.kind.group == WEBHOOKS {
        return Vec::new();
    }
    let resource = ResourceKey { group: WEBHOOKS.to_owned(), plural: plural.to_owned() };
    let world = state.world();
    let configurations = world.store.objects(&resource);
    let namespace = if request.kind.is("", "namespaces") {
        Some(object.clone())
    } else {
        let namespaces = ResourceKey { group: String::new(), plural: "namespaces".to_owned() };
        let key = ObjectKey { namespace: String::new(), name: request.namespace.clone() };
        world.store.get(&namespaces, &key).map(|namespace| Value::clone(&namespace))
    };
    drop(world);
    let all = configurations.values().flat_map(|one| one["webhooks"].as_array().into_iter().flatten().cloned());
    let is_called = |hook: &Value| {
        let in_namespace = namespace
            .as_ref()
            .is_none_or(|namespace| Selector::of_object(&hook["namespaceSelector"]).matches(namespace));
        let objects = Selector::of_object(&hook["objectSelector"]);
        let is_selected = objects.matches(object) || old.is_some_and(|old| objects.matches(old));
        let rules = hook["rules"].as_array().into_iter().flatten();
        in_namespace && is_selected && rules.into_iter().any(|rule| applies(rule, request))
    };
    let mutates = plural.starts_with("mutating");
    all.filter(is_called).map(|hook| Hook { hook, mutates }).collect()
}

fn applies(rule: &Value, request: &Request) -> bool {
    let has = |field: &str, wanted: &str| {
        let mut listed = rule[field].as_array().into_iter().flatten().filter_map(Value::as_str);
        listed.any(|one| one == "*" || one == wanted)
    };
    let plural = &request.kind.plural;
    let resource = match request.subresource.as_str() {
        "" => plural.clone(),
        subresource => format!("{plural}/{subresource}"),
    };
    let scope = match rule["scope"].as_str() {
        Some("Namespaced") => request.kind.is_namespaced(),
        Some("Cluster") => !request.kind.is_namespaced(),
        Some(_) | None => true,
    };
    let is_resource = match request.subresource.as_str() {
        "" => has("resources", &resource),
        subresource => {
            let listed = rule["resources"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let any = [resource.clone(), format!("{plural}/*"), format!("*/{subresource}"), "*/*".to_owned()];
            listed.into_iter().any(|one| any.iter().any(|pattern| pattern == one))
        }
    };
    scope
        && is_resource
        && has("operations", operation(request))
        && has("apiGroups", &request.kind.group)
        && has("apiVersions", &request.version)
}

fn operation(request: &Request) -> &'static str {
    match request.verb {
        Verb::Create => "CREATE",
        Verb::Update | Verb::Patch => "UPDATE",
        Verb::Delete | Verb::DeleteCollection => "DELETE",
        Verb::Get | Verb::List | Verb::Watch => "CONNECT",
    }
}

/// Calls a webhook and does what it says: whether it answered.
async fn review(
    state: &Arc<State>,
    request: &Request,
    hook: &Hook,
    old: Option<&Value>,
    object: &mut Value,
) -> Result<bool, Status> {
    let name = hook.hook["name"].as_str().unwrap_or_default();
    let uid = state.uuid();
    let question = question(request, &uid, old, object);
    let seconds = hook.hook["timeoutSeconds"].as_u64().unwrap_or(10);
    let called = tokio::time::timeout(Duration::from_secs(seconds), call(state, &hook.hook["clientConfig"], &question));
    let answer = match called.await {
        Ok(Ok(answer)) if answer["response"]["uid"] == uid.as_str() => answer,
        Ok(Ok(answer)) => {
            return failed(hook, &format!("expected response.uid={uid:?}, got {}", answer["response"]["uid"]));
        }
        Ok(Err(why)) => return failed(hook, &why),
        Err(_) => return failed(hook, "context deadline exceeded"),
    };
    let response = &answer["response"];
    for warning in response["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        request.warn(warning);
    }
    if response["allowed"] != true {
        return Err(denied(name, &response["status"]));
    }
    if hook.mutates && response["patch"].is_string() {
        patch(object, response).map_err(|why| Status::internal(format!("failed calling webhook {name:?}: {why}")))?;
    }
    Ok(true)
}

fn patch(object: &mut Value, response: &Value) -> Result<(), String> {
    use base64::Engine as _;
    if response["patchType"] != "JSONPatch" {
        return Err(format!(
            "webhook returned response.patch but not a patch type that is known: {}",
            response["patchType"]
        ));
    }
    let text = response["patch"].as_str().unwrap_or_default();
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).map_err(|error| error.to_string())?;
    let patch: json_patch::Patch = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    json_patch::patch(object, &patch).map_err(|error| error.to_string())
}

/// What a webhook that did not answer well means: nothing, or that the request fails.
fn failed(hook: &Hook, why: &str) -> Result<bool, Status> {
    let name = &hook.hook["name"];
    match hook.hook["failurePolicy"].as_str() {
        Some("Ignore") => Ok(false),
        Some(_) | None => {
            Err(Status::internal(format!("failed calling webhook {name}: failed to call webhook: {why}")))
        }
    }
}

fn denied(name: &str, status: &Value) -> Status {
    let text = |field: &str| status[field].as_str().filter(|text| !text.is_empty());
    let why = match (text("message"), text("reason")) {
        (Some(message), _) => format!(": {message}"),
        (None, Some(reason)) => format!(": {reason}"),
        (None, None) => " without explanation".to_owned(),
    };
    let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| *code >= 400);
    let code = code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::BAD_REQUEST);
    let mut denied = Status::new(code, text("reason").unwrap_or_default(), "");
    denied.message = format!("admission webhook {name:?} denied the request{why}");
    denied.details = status.get("details").cloned();
    denied
}

/// The `AdmissionReview`, as it was recorded.
fn question(request: &Request, uid: &str, old: Option<&Value>, object: &Value) -> Value {
    let kind = &request.kind;
    let of_kind = json!({"group": kind.group, "version": request.version, "kind": kind.kind});
    let of_resource = json!({"group": kind.group, "version": request.version, "resource": kind.plural});
    let options = match operation(request) {
        "CREATE" => "CreateOptions",
        "DELETE" => "DeleteOptions",
        _ => "UpdateOptions",
    };
    let mut asked = json!({
        "uid": uid,
        "kind": of_kind,
        "resource": of_resource,
        "requestKind": of_kind,
        "requestResource": of_resource,
        "operation": operation(request),
        "userInfo": request.user.to_value(),
        "object": object,
        "oldObject": old,
        "dryRun": request.is_dry_run(),
        "options": {"kind": options, "apiVersion": "meta.k8s.io/v1"},
    });
    let name = if request.name.is_empty() { object["metadata"]["name"].clone() } else { json!(request.name) };
    if name.as_str().is_some_and(|name| !name.is_empty()) {
        asked["name"] = name;
    }
    if kind.is_namespaced() {
        asked["namespace"] = json!(request.namespace);
    }
    if !request.subresource.is_empty() {
        asked["subResource"] = json!(request.subresource);
        asked["requestSubResource"] = json!(request.subresource);
    }
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": asked})
}

/// Where a webhook is.
struct Place {
    address: SocketAddr,
    /// The name on its certificate.
    name: String,
    path: String,
}

async fn call(state: &State, config: &Value, question: &Value) -> Result<Value, String> {
    let Place { address, name, path } = place(state, config)?;
    let stream = TcpStream::connect(address).await.map_err(|error| format!("dial tcp {address}: {error}"))?;
    let server = ServerName::try_from(name.clone()).map_err(|error| format!("{name}: {error}"))?;
    let connector = TlsConnector::from(Arc::new(trusting(&config["caBundle"])?));
    let stream = connector.connect(server, stream).await.map_err(|error| format!("tls: {error}"))?;
    let handshake = hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let request = http::Request::post(path)
        .header(header::HOST, name)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, "kube-apiserver-admission")
        .body(Full::from(question.to_string()))
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let code = response.status();
    let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await.map_err(|error| error.to_string())?;
    connection.abort();
    if !code.is_success() {
        return Err(format!("an error on the server ({code}) has prevented the request from succeeding"));
    }
    serde_json::from_slice(&body.to_bytes()).map_err(|error| format!("couldn't get a review: {error}"))
}

fn place(state: &State, config: &Value) -> Result<Place, String> {
    let service = &config["service"];
    if let Some(url) = config["url"].as_str() {
        let uri: http::Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let host = uri.host().unwrap_or_default().to_owned();
        let address = format!("{}:{}", host, uri.port_u16().unwrap_or(443));
        let address = address.parse().map_err(|_| format!("{url} does not name an address"))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        return Ok(Place { address, name: host, path });
    }
    let text = |field: &str| service[field].as_str().unwrap_or_default();
    let (name, namespace) = (text("name"), text("namespace"));
    let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
    let address = state.service(namespace, name, port);
    let address = address.ok_or_else(|| format!("service {name:?} not found"))?;
    let path = match text("path") {
        "" => "/".to_owned(),
        path => path.to_owned(),
    };
    Ok(Place { address, name: format!("{name}.{namespace}.svc"), path: format!("{path}?timeout=10s") })
}

/// TLS that believes what a `caBundle` signed, and nobody else.
fn trusting(bundle: &Value) -> Result<rustls::ClientConfig, String> {
    use base64::Engine as _;
    let text = bundle.as_str().unwrap_or_default();
    let pem = base64::engine::general_purpose::STANDARD.decode(text).map_err(|error| format!("caBundle: {error}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("caBundle: {error}"))?;
        roots.add(certificate).map_err(|error| format!("caBundle: {error}"))?;
    }
    if roots.is_empty() {
        return Err("tls: failed to verify certificate: x509: certificate signed by unknown authority".to_owned());
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
