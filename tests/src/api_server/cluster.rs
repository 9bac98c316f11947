//! One suite for two clusters: the server of this module, or the real one that `KUBECONFIG` names.
//!
//! With `LENO_TEST_CLUSTER=1` the tests that ask for a [`cluster`] run against the cluster of `KUBECONFIG`; otherwise
//! each gets a server of its own. Both are reached through a kubeconfig and nothing else. What only a server in this
//! process can do (lose an answer, forget its history) a test asks for with [`Cluster::fake`], which says `SKIPPED` on
//! a real one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Method;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::ApiServer;
use crate::client::{Call, Connection, Reply, full};

/// A cluster that a test may fill: by itself, or with others if it is real.
#[derive(Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    fake: Option<ApiServer>,
    address: String,
    host: String,
    tls: Arc<rustls::ClientConfig>,
    token: Option<String>,
}

/// The cluster of this run.
pub fn cluster() -> Cluster {
    let is_real = std::env::var("LENO_TEST_CLUSTER").is_ok_and(|real| real == "1");
    match std::env::var_os("KUBECONFIG") {
        Some(kubeconfig) if is_real => Cluster::at(PathBuf::from(kubeconfig), None),
        None if is_real => panic!("LENO_TEST_CLUSTER=1 needs KUBECONFIG, the file that names the cluster"),
        Some(_) | None => Cluster::of(ApiServer::start()),
    }
}

impl Cluster {
    /// A server of this process as a cluster.
    pub fn of(server: ApiServer) -> Self {
        Self::at(server.kubeconfig(), Some(server))
    }

    /// A cluster as another caller: whoever the kubeconfig stands for.
    pub fn through(kubeconfig: &Path) -> Self {
        Self::at(kubeconfig.to_owned(), None)
    }

    /// Where the programs of a test find it.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The server of this process; `None` after saying that `what` is skipped on a real cluster.
    pub fn fake(&self, what: &str) -> Option<&ApiServer> {
        if self.fake.is_none() {
            // Not a failure even in CI: who asks for a real cluster knows it.
            eprintln!("SKIPPED {what} (a real cluster cannot be made to)");
        }
        self.fake.as_ref()
    }

    /// A connection of its own, HTTP/1.1.
    pub async fn connect(&self) -> Connection {
        let stream = TcpStream::connect(&self.address).await.expect("the API server listens");
        let name = ServerName::try_from(self.host.clone()).expect("the API server has a name");
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await;
        let stream = stream.expect("the API server shows a certificate of its authority");
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1 needs no handshake");
        tokio::spawn(connection);
        Connection::Http1(sender)
    }

    /// A request with the credentials of the kubeconfig and a user agent.
    pub fn request(&self, method: Method, path: &str, agent: &str) -> Call {
        let call = Call::new(method, &format!("https://{}{path}", self.address)).header("user-agent", agent);
        match &self.token {
            Some(token) => call.header("authorization", &format!("Bearer {token}")),
            None => call,
        }
    }

    /// Sends an object, or nothing, and reads the whole answer.
    pub async fn ask(&self, method: Method, path: &str, agent: &str, body: Option<&Value>) -> Reply {
        let mut call = self.request(method, path, agent);
        if let Some(body) = body {
            call = call.header("content-type", "application/json").body(full(body.to_string()));
        }
        self.connect().await.send(call).await
    }

    /// The same with a patch of some kind (`application/merge-patch+json`, …).
    pub async fn patch(&self, path: &str, agent: &str, content_type: &str, body: &Value) -> Reply {
        let call = self.request(Method::PATCH, path, agent).header("content-type", content_type);
        self.connect().await.send(call.body(full(body.to_string()))).await
    }

    /// Begins a watch.
    pub async fn watch(&self, path: &str) -> Events {
        let call = self.request(Method::GET, path, "leno-tests/1");
        let response = self.connect().await.begin(call).await.expect("a watch is answered");
        assert_eq!(response.status(), 200, "{path}");
        Events { body: response.into_body(), unread: Vec::new() }
    }

    /// Makes a namespace with a name of its own, which is this if the cluster belongs to the test.
    pub async fn namespace(&self, name: &str) -> String {
        let name = match &self.fake {
            Some(_) => name.to_owned(),
            None => format!("{name}-{}", std::process::id()),
        };
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let made = self.ask(Method::POST, "/api/v1/namespaces", "leno-tests/1", Some(&namespace)).await;
        assert!(matches!(made.status, 201 | 409), "{}", made.text());
        name
    }

    fn at(kubeconfig: PathBuf, fake: Option<ApiServer>) -> Self {
        let text = std::fs::read_to_string(&kubeconfig).expect("the kubeconfig can be read");
        let config: Value = serde_yaml::from_str(&text).expect("the kubeconfig is YAML");
        let named = |list: &str, name: &Value| {
            let mut all = config[list].as_array().into_iter().flatten();
            all.find(|one| one["name"] == *name).cloned().unwrap_or_default()
        };
        let context = named("contexts", &config["current-context"]);
        let cluster = named("clusters", &context["context"]["cluster"])["cluster"].clone();
        let user = named("users", &context["context"]["user"])["user"].clone();
        let uri: http::Uri = cluster["server"].as_str().and_then(|url| url.parse().ok()).expect("it names a server");
        let host = uri.host().expect("the server has a host").to_owned();
        let address = format!("{host}:{}", uri.port_u16().unwrap_or(443));
        let tls = Arc::new(tls(&cluster, &user));
        let token = user["token"].as_str().map(str::to_owned);
        Self { kubeconfig, fake, address, host, tls, token }
    }
}

/// The events of a watch.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    unread: Vec<u8>,
}

impl Events {
    /// The next event; `None` when the watch has ended, in whatever way.
    pub async fn next(&mut self) -> Option<Value> {
        use http_body_util::BodyExt as _;
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("an event is JSON"));
            }
            let frame = tokio::time::timeout(crate::PATIENCE, self.body.frame()).await.expect("the watch goes on");
            let data = frame?.ok()?.into_data().ok()?;
            self.unread.extend_from_slice(&data);
        }
    }

    /// The next event in short: its type and the name of its object.
    pub async fn next_name(&mut self) -> Option<(String, String)> {
        let event = self.next().await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Some((text(&event["type"]), text(&event["object"]["metadata"]["name"])))
    }

    /// All events until the watch ends.
    pub async fn rest(mut self) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

fn tls(cluster: &Value, user: &Value) -> rustls::ClientConfig {
    let mut roots = RootCertStore::empty();
    let authority = pem(cluster, "certificate-authority").expect("the kubeconfig names an authority");
    for certificate in CertificateDer::pem_slice_iter(&authority) {
        roots.add(certificate.expect("a certificate")).expect("a root");
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the versions are supported")
        .with_root_certificates(roots);
    match (pem(user, "client-certificate"), pem(user, "client-key")) {
        (Some(certificate), Some(key)) => {
            let chain = CertificateDer::pem_slice_iter(&certificate).map(|one| one.expect("a certificate")).collect();
            let key = PrivateKeyDer::from_pem_slice(&key).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("a certificate with its key")
        }
        _ => builder.with_no_client_auth(),
    }
}

/// What a kubeconfig has in itself (`NAME-data`) or in a file (`NAME`).
fn pem(section: &Value, name: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    if let Some(data) = section[format!("{name}-data")].as_str() {
        return Some(base64::engine::general_purpose::STANDARD.decode(data).expect("it is base64"));
    }
    section[name].as_str().map(|file| std::fs::read(file).expect("the file of the kubeconfig can be read"))
}

/// Where a resource of the core group, or of another, is in a namespace.
pub fn path(group_version: &str, namespace: &str, resource: &str) -> String {
    let root = if group_version.contains('/') { "/apis" } else { "/api" };
    format!("{root}/{group_version}/namespaces/{namespace}/{resource}")
}
