//! A Kubernetes API server for tests: small, in this process, and real where a client looks.
//!
//! It speaks HTTPS with a certificate of its own authority, knows discovery, versions, conflicts, pages, watches with
//! bookmarks and expiry, and words its refusals as kube-apiserver 1.36 does: unmodified clients (kube-rs, the Python
//! `kubernetes` package) cannot tell the difference where they are tested. A test gets a [kubeconfig](ApiServer::kubeconfig)
//! for the program that it starts, and a handle that writes objects, lets requests fail and counts them:
//!
//! ```no_run
//! # use leno_tests::api_server::{ApiServer, Failure, Verb};
//! # use serde_json::json;
//! # async fn test() {
//! let server = ApiServer::start();
//! server.namespace("demo", &[("istio-injection", "enabled")]).await;
//! server.apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "demo"}})).await;
//! server.fail_next(Verb::List, "services", 1, Failure::Lost);
//! server.expire_watches();
//! assert_eq!(server.requests(Verb::List, "services"), 0);
//! # }
//! ```
//!
//! It is an API server and nothing else: there are no controllers, no scheduler and no kubelet. A Deployment makes no
//! pods, a Service no EndpointSlices, and a pod with a node stays terminating until somebody deletes it for good.
//! Objects are not stored on disk. Whoever is authenticated may do everything, until a test says that roles count
//! ([`ApiServer::authorize`]).

mod access;
mod admission;
mod builtin;
mod callers;
mod certificates;
mod cluster;
mod definitions;
mod discovery;
mod faults;
mod fields;
mod kinds;
mod lifecycle;
mod patch;
mod pods;
mod read;
mod request;
mod schema;
mod selector;
mod server;
mod shape;
mod state;
mod status;
mod store;
mod tokens;
mod watch;
mod webhook;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

pub use access::Access;
pub use cluster::{Cluster, Events, cluster, path};
pub use faults::{Failure, Outage};
pub use kinds::{Kind, Scope};
pub use request::Verb;
pub use status::Status;
pub use webhook::{ShownReview, Webhook};

use callers::administrator;
use certificates::Authority;
use request::{Query, Request, User};
use server::Reply;
use state::{Settings, State};
use store::ObjectKey;

/// The namespaces of every cluster.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// A running server. It ends with the value, and with it every connection.
#[derive(Debug)]
pub struct ApiServer {
    state: Arc<State>,
    address: SocketAddr,
    authority: Authority,
    directory: TempDir,
    _running: Running,
}

/// A thread that serves until the value goes.
#[derive(Debug)]
struct Running {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// How a server is to differ from the usual one.
#[derive(Debug, Default)]
pub struct ApiServerBuilder {
    settings: Settings,
}

impl ApiServerBuilder {
    /// EndpointSlices may name 127/8 and `::1`, which a real server refuses: for tests whose pods are processes of this
    /// machine.
    pub fn allow_loopback_endpoints(mut self) -> Self {
        self.settings.loopback_endpoints = true;
        self
    }

    /// The first objects of a custom resource wait until its definition is established for this long; in the real
    /// server for 2 s.
    pub fn warm_up(mut self, warm_up: Duration) -> Self {
        self.settings.warm_up = warm_up;
        self
    }

    /// Starts it on a port of its own.
    pub fn start(self) -> ApiServer {
        ApiServer::with(self.settings)
    }
}

impl ApiServer {
    /// Starts the usual one on a port of its own, with the namespaces that every cluster has.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// For one that differs.
    pub fn builder() -> ApiServerBuilder {
        ApiServerBuilder::default()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The certificate of its authority, PEM.
    pub fn ca(&self) -> String {
        self.authority.pem()
    }

    /// The administrator's bearer token.
    pub fn token(&self) -> &str {
        self.state.callers.admin_token()
    }

    /// A kubeconfig of the administrator, by token.
    pub fn kubeconfig(&self) -> PathBuf {
        self.write_kubeconfig("admin", &json!({"token": self.token()}))
    }

    /// A kubeconfig of the administrator, by client certificate.
    pub fn kubeconfig_with_certificate(&self) -> PathBuf {
        let pair = self.authority.caller("admin");
        let print = format!("X509SHA256={}", certificates::fingerprint(&pair.der));
        let extra = BTreeMap::from([("authentication.kubernetes.io/credential-id".to_owned(), vec![print])]);
        self.state.callers.knows(pair.der.to_vec(), User { extra, ..administrator() });
        let user = json!({
            "client-certificate-data": base64(&pair.certificate),
            "client-key-data": base64(&pair.key),
        });
        self.write_kubeconfig("certified", &user)
    }

    /// A kubeconfig of a service account, by a token that is bound to it.
    pub async fn kubeconfig_of(&self, namespace: &str, account: &str) -> PathBuf {
        let token = self.token_of(namespace, account, &[], None).await;
        self.write_kubeconfig(&format!("{namespace}-{account}"), &json!({"token": token}))
    }

    /// A token of a service account, good for an hour: for these audiences, or for this server when there are none;
    /// bound to a pod, if one is given.
    pub async fn token_of(&self, namespace: &str, account: &str, audiences: &[&str], pod: Option<&Value>) -> String {
        let object = json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"namespace": namespace, "name": account},
        });
        let bound =
            pod.map(|pod| json!({"kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}));
        let spec = json!({"audiences": audiences, "expirationSeconds": 3600, "boundObjectRef": bound});
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let answer = self.send(Verb::Create, "token", &object, &request).await;
        let answer = answer.unwrap_or_else(|status| panic!("no token for {namespace}/{account}: {status}"));
        answer["status"]["token"].as_str().unwrap_or_default().to_owned()
    }

    /// Says where the service of a webhook really listens: the port is the service's.
    pub fn route_service(&self, namespace: &str, name: &str, port: u16, address: SocketAddr) {
        self.state.route(namespace, name, port, address);
    }

    /// Says what a rule of a schema means (`x-kubernetes-validations`, in CEL, which is not evaluated here).
    pub fn rule(&self, text: &str, holds: impl Fn(&Value) -> bool + Send + Sync + 'static) {
        self.state.rule(text, Arc::new(holds));
    }

    /// Makes a namespace with these labels.
    pub async fn namespace(&self, name: &str, labels: &[(&str, &str)]) -> Value {
        let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
        self.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}))
            .await
    }

    /// Makes an object as a client would; fails the test if that is refused.
    pub async fn create(&self, object: Value) -> Value {
        self.must(Verb::Create, object).await
    }

    /// Replaces an object as a client would, unconditionally if it names no version.
    pub async fn update(&self, object: Value) -> Value {
        self.must(Verb::Update, object).await
    }

    /// Makes an object, or replaces the one of its name; and its status, if it brings one.
    pub async fn apply(&self, mut object: Value) -> Value {
        let status = object.get("status").cloned();
        let old = self.find(&object);
        let mut stored = match old {
            Some(old) => {
                object["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
                self.update(object).await
            }
            None => self.create(object).await,
        };
        if let Some(status) = status {
            stored["status"] = status;
            stored = self.update_status(stored).await;
        }
        stored
    }

    /// Replaces the status of an object.
    pub async fn update_status(&self, object: Value) -> Value {
        let answer = self.send(Verb::Update, "status", &object, &object).await;
        answer.unwrap_or_else(|status| panic!("cannot write a status: {status}"))
    }

    /// Deletes an object as a client would; only its kind, namespace and name matter.
    pub async fn delete(&self, object: &Value) {
        self.must(Verb::Delete, object.clone()).await;
    }

    /// Any write with an object, as a client would do it: the answer, or the refusal.
    pub async fn call(&self, verb: Verb, object: Value) -> Result<Value, Status> {
        self.send(verb, "", &object, &object).await
    }

    /// An object, if it is there.
    pub fn get(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let metadata = json!({"namespace": namespace, "name": name});
        self.find(&json!({"apiVersion": api_version, "kind": kind, "metadata": metadata}))
    }

    /// All objects of a kind, in all namespaces.
    pub fn list(&self, api_version: &str, kind: &str) -> Vec<Value> {
        let world = self.state.world();
        let Some((kind, _)) = world.catalogue.kind_of(api_version, kind) else { return Vec::new() };
        world.store.objects(&kind.key()).values().map(|object| Value::clone(object)).collect()
    }

    /// The version of the last write.
    pub fn version(&self) -> u64 {
        self.state.world().store.version()
    }

    /// Ends every watch with the event that says that its version is too old, and forgets the past, so that nobody can
    /// go on from before: what a client of a real server meets after a pause or a compaction.
    pub fn expire_watches(&self) {
        self.state.change(|world| {
            world.store.skip_version();
            world.store.forget_history();
        });
        self.state.signal(|signals| signals.expired += 1);
    }

    /// Cuts every watch in the middle of its body, as a broken connection does.
    pub fn drop_watches(&self) {
        self.state.signal(|signals| signals.dropped += 1);
    }

    /// Sends a bookmark to every watch that wants them.
    pub fn bookmark_watches(&self) {
        self.state.signal(|signals| signals.bookmarks += 1);
    }

    /// Lets the next requests of a verb and a resource (its plural name) fail.
    pub fn fail_next(&self, verb: Verb, plural: &str, times: usize, failure: Failure) {
        self.state.ledger.fail(verb, plural, times, failure);
    }

    /// How many requests of a verb and a resource (its plural name) came over the network.
    pub fn requests(&self, verb: Verb, plural: &str) -> usize {
        self.state.ledger.count(verb, plural)
    }

    /// All requests that came over the network.
    pub fn all_requests(&self) -> BTreeMap<(Verb, String), usize> {
        self.state.ledger.requests()
    }

    /// Who wanted what over the network, allowed or not, each once.
    pub fn accesses(&self) -> BTreeSet<Access> {
        self.state.ledger.accesses()
    }

    /// Lets the roles and bindings count that are stored: whoever is not the administrator may do what they allow, and
    /// is refused everything else (403).
    pub fn authorize(&self) {
        self.state.authorize();
    }

    /// Goes away: watches are cut, and requests fail, until it is [back](Self::come_back). The test's own calls go on.
    pub fn go_away(&self, how: Outage) {
        self.state.ledger.set_outage(Some(how));
        self.drop_watches();
    }

    /// Answers again.
    pub fn come_back(&self) {
        self.state.ledger.set_outage(None);
    }

    /// Puts its clock forward: what it stamps is later, and its tokens are older.
    pub fn advance(&self, by: Duration) {
        self.state.advance(by);
    }

    fn with(settings: Settings) -> Self {
        let authority = Authority::new();
        let state = Arc::new(State::new(settings, authority.pem()));
        for name in NAMESPACES {
            lifecycle::found_namespace(&state, name);
        }
        let tls = authority.accept(&authority.server(&["localhost", "kubernetes.default.svc"]));
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port can be bound");
        let address = listener.local_addr().expect("a listener has an address");
        let served = Arc::clone(&state);
        let running = run("api-server", listener, move |listener| server::serve(listener, tls, served));
        let directory = TempDir::with_prefix("leno-api-server-").expect("cannot create a directory");
        Self { state, address, authority, directory, _running: running }
    }

    async fn must(&self, verb: Verb, object: Value) -> Value {
        let what = format!("{} {} {}", verb.word(), object["kind"], object["metadata"]["name"]);
        let answer = self.send(verb, "", &object, &object).await;
        answer.unwrap_or_else(|status| panic!("{what} was refused: {status}"))
    }

    /// Sends what a client would to where an object is, without the network.
    async fn send(&self, verb: Verb, subresource: &str, object: &Value, body: &Value) -> Result<Value, Status> {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (&object["apiVersion"], &object["kind"]);
        let known = self
            .state
            .world()
            .catalogue
            .kind_of(api_version.as_str().unwrap_or_default(), kind.as_str().unwrap_or_default());
        let (kind, version) = known.ok_or_else(|| {
            let message = format!("no matches for kind {kind} in version {api_version}");
            Status::new(StatusCode::NOT_FOUND, "NotFound", message)
        })?;
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static("leno-tests/1"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let request = Request {
            verb,
            namespace: if kind.is_namespaced() { text("namespace") } else { String::new() },
            name: if verb == Verb::Create && subresource.is_empty() { String::new() } else { text("name") },
            kind,
            version,
            subresource: subresource.to_owned(),
            query: Query::default(),
            headers,
            user: administrator(),
            body: if verb == Verb::Delete { Default::default() } else { body.to_string().into() },
            warnings: Arc::default(),
        };
        match server::dispatch(&self.state, request).await? {
            Reply::Json(_, value) => Ok(value),
            Reply::Events(_) => Err(Status::bad_request("a watch is not a call with an object")),
        }
    }

    fn find(&self, object: &Value) -> Option<Value> {
        let text = |field: &str| object[field].as_str().unwrap_or_default();
        let world = self.state.world();
        let (kind, _) = world.catalogue.kind_of(text("apiVersion"), text("kind"))?;
        world.store.get(&kind.key(), &ObjectKey::of(object)).map(|object| Value::clone(&object))
    }

    fn write_kubeconfig(&self, name: &str, user: &Value) -> PathBuf {
        let cluster = json!({"server": self.url(), "certificate-authority-data": base64(&self.ca())});
        let context = json!({"cluster": "leno-tests", "user": name, "namespace": "default"});
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "leno-tests", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "leno-tests", "context": context}],
            "current-context": "leno-tests",
        });
        let file = self.directory.path().join(format!("{name}.kubeconfig"));
        write_file(&file, &config.to_string());
        file
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves in a thread of its own, so that a test may block while a program talks to it.
fn run<F: Future<Output = ()>>(
    name: &str,
    listener: std::net::TcpListener,
    serve: impl FnOnce(tokio::net::TcpListener) -> F + Send + 'static,
) -> Running {
    listener.set_nonblocking(true).expect("a listener can be asked without waiting");
    let (stop, stopped) = oneshot::channel::<()>();
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can start");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener belongs to the runtime");
            tokio::select! {
                () = serve(listener) => {}
                _ = stopped => {}
            }
        });
    };
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body).expect("a thread can start");
    Running { stop: Some(stop), thread: Some(thread) }
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn write_file(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
}
