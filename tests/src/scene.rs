//! A mesh in which things happen to whoever serves: pushes, new certificates, restarts, upgrades.
//!
//! ```text
//! callers ──▶ sidecar of `client` ──mTLS──▶ sidecars of `shop-0`, `shop-1`, … ──▶ their apps, which keep one book
//!                     ▲                           ▲
//!                     └────── control plane ──────┘
//! ```
//!
//! Certificates are files, so that a test can change them, of the authority that the control plane has as well; the rest
//! comes from the control plane. Each push is a
//! *generation*: it names itself in a header to the app and in one to the caller, goes to a subset of its own, which the push
//! before did not have, and the subsets alternate between instances. So an answer tells whether its request saw one
//! configuration, or parts of two.

use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Call, Reply, empty, full, stream};
use crate::mesh::{ControlPlane, Proxy, write};
use crate::numbered::{Book, Callers, NUMBER};
use crate::origin::Origin;
use crate::pki::{Authority, Leaf};
use crate::ports::free_port;
use crate::wait::eventually;

/// Where callers call.
pub const URL: &str = "http://shop/";
/// Bytes of `GET /download`, which comes in pieces.
pub const DOWNLOAD: usize = 8 << 20;
const PIECE: usize = 16 << 10;
/// How long sidecars may drain; no test waits for it.
const DRAIN: &str = "60s";
/// Answers after which whatever a worker chose before it heard of a change has been answered too.
const UNTIL_ALL_HAVE_HEARD: usize = 100;

/// Running programs; they end with the value.
pub struct Scene {
    /// The control plane.
    pub control_plane: ControlPlane,
    /// The callers' sidecar.
    pub client: Proxy,
    /// Those that serve.
    pub instances: Vec<Instance>,
    /// What their apps have served.
    pub book: Book,
    outbound: u16,
    authority: Authority,
    generation: usize,
    serial: u64,
    workers: usize,
    // Last: the processes write into it until they end.
    directory: TempDir,
}

/// An app and its sidecar.
pub struct Instance {
    /// Its sidecar.
    pub proxy: Proxy,
    place: Place,
    app: Origin,
    is_published: bool,
}

/// Where an instance is found.
#[derive(Debug, Clone)]
struct Place {
    name: String,
    /// For `shop`, in HTTP/1.1.
    inbound: u16,
    /// For `calls`, in HTTP/2.
    calls: u16,
}

impl Scene {
    /// With so many instances, and so many worker threads in each sidecar.
    pub async fn start(instances: usize, workers: usize) -> Self {
        let directory = TempDir::with_prefix("leno-test-").expect("cannot create a directory");
        let rules = directory.path().join("rules");
        std::fs::create_dir_all(&rules).expect("cannot create a directory");
        let (outbound, authority, book) = (free_port(), Authority::new("scene"), Book::default());
        let mut apps = Vec::new();
        let mut documents = vec![client_sidecar(outbound), strict()];
        for number in 0..instances {
            let place = Place { name: format!("shop-{number}"), inbound: free_port(), calls: free_port() };
            let app = app(number, book.clone()).await;
            documents.push(instance_sidecar(&place, app.address()));
            apps.push((place, app));
        }
        write(&rules, "mesh.yaml", &documents.join("---\n"));
        let published: Vec<&Place> = apps.iter().map(|(place, _)| place).collect();
        write(&rules, "endpoints.yaml", &endpoints(&published));
        write(&rules, "rules.yaml", &generation(0, instances));
        write(directory.path(), "ca.pem", &authority.pem());
        write(directory.path(), "ca.key", &authority.key_pem());
        let [certificate, key] = ["ca.pem", "ca.key"].map(|file| directory.path().join(file).display().to_string());
        let flags = ["--ca-cert", &certificate, "--ca-key", &key];
        let control_plane = ControlPlane::start(directory.path(), &rules, &flags).await;
        let proxy = |name: &str| {
            let files = directory.path().join(format!("{name}-identity"));
            std::fs::create_dir_all(&files).expect("cannot create a directory");
            let roots = files.join("roots.pem");
            std::fs::write(&roots, authority.pem()).expect("cannot write a file");
            let (certificate, key) = authority.issue(&Leaf::of(&id(name))).write(&files, "own");
            let keys = [
                ("control_plane", json!({"address": format!("http://{}", control_plane.xds())})),
                ("identity", json!({"certificate": certificate, "key": key, "roots": roots})),
                ("workers", json!(workers)),
                ("drain", json!(DRAIN)),
            ];
            Proxy::with(directory.path(), name, &keys)
        };
        let client = proxy("client");
        let instances = apps.into_iter().map(|(place, app)| {
            let proxy = proxy(&place.name);
            Instance { proxy, place, app, is_published: true }
        });
        let instances: Vec<Instance> = instances.collect();
        client.ready(outbound).await;
        for instance in &instances {
            instance.proxy.ready(instance.place.inbound).await;
        }
        let scene = Self {
            control_plane,
            client,
            instances,
            book,
            outbound,
            authority,
            generation: 0,
            serial: 0x1000,
            workers,
            directory,
        };
        scene.is_at_its_generation().await;
        scene
    }

    /// Where the callers' sidecar takes requests for any host.
    pub fn outbound(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.outbound).into()
    }

    /// How many worker threads each sidecar has.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The newest generation.
    pub fn generation(&self) -> usize {
        self.generation
    }

    fn rules(&self) -> PathBuf {
        self.directory.path().join("rules")
    }

    /// Writes the next generation and does not wait for it.
    pub fn write_generation(&mut self) {
        self.generation += 1;
        write(&self.rules(), "rules.yaml", &generation(self.generation, self.instances.len()));
    }

    /// The next generation, in force at the callers' sidecar.
    pub async fn push(&mut self) {
        self.write_generation();
        self.is_at_its_generation().await;
    }

    /// Waits until the callers' sidecar has the newest generation.
    pub async fn is_at_its_generation(&self) {
        let expected = self.generation.to_string();
        eventually(&format!("generation {expected} is in force"), async || {
            let reply = Call::get(URL).try_send(self.outbound()).await?;
            let seen = reply.header("x-generation").to_owned();
            if reply.status == 200 && seen == expected { Ok(()) } else { Err(format!("{} `{seen}`", reply.status)) }
        })
        .await;
    }

    /// Gives every sidecar a new certificate with a new key, and waits until all show it.
    pub async fn rotate(&mut self) {
        self.serial += 1;
        let proxies = self.instances.iter().map(|instance| &instance.proxy).chain([&self.client]);
        for proxy in proxies.clone() {
            let leaf = Leaf { serial: self.serial, ..Leaf::of(&id(proxy.name())) };
            let files = self.directory.path().join(format!("{}-identity", proxy.name()));
            self.authority.issue(&leaf).write(&files, "own");
        }
        for proxy in proxies {
            eventually("the new certificate is in force", async || {
                let certs = proxy.certs().await?;
                let hex = certs["certificate"]["serial"].as_str().unwrap_or_default();
                let shown = u64::from_str_radix(hex, 16).ok();
                if shown == Some(self.serial) { Ok(()) } else { Err(certs.to_string()) }
            })
            .await;
        }
    }

    /// Replaces an instance as a rolling restart does: it leaves the list, its app and sidecar end, both begin again. The
    /// callers are those that ask meanwhile.
    pub async fn restart(&mut self, number: usize, callers: &Callers) {
        self.publish(number, false).await;
        callers.flow(UNTIL_ALL_HAVE_HEARD).await;
        let book = self.book.clone();
        let instance = &mut self.instances[number];
        let address = instance.app.address();
        instance.app.close().await;
        instance.proxy.process.terminate();
        let (status, _) = instance.proxy.process.ended().await;
        assert!(status.success(), "{}: {status}", instance.place.name);
        let log = instance.proxy.process.log();
        assert!(!log.contains("are cut"), "{}: {log}", instance.place.name);
        instance.app = app_at(address, number, book).await;
        instance.proxy.restart();
        instance.proxy.ready(instance.place.inbound).await;
        self.publish(number, true).await;
    }

    async fn publish(&mut self, number: usize, is_published: bool) {
        self.instances[number].is_published = is_published;
        let published = self.instances.iter().filter(|instance| instance.is_published);
        let published: Vec<&Place> = published.map(|instance| &instance.place).collect();
        write(&self.rules(), "endpoints.yaml", &endpoints(&published));
        let address = format!("127.0.0.1:{}", self.instances[number].place.inbound);
        eventually(&format!("the client's sidecar knows {address}: {is_published}"), async || {
            let clusters = self.client.clusters().await;
            if clusters.contains(&address) == is_published { Ok(()) } else { Err(clusters) }
        })
        .await;
    }

    /// All sidecars, the callers' first.
    pub fn proxies(&mut self) -> impl Iterator<Item = &mut Proxy> {
        [&mut self.client].into_iter().chain(self.instances.iter_mut().map(|instance| &mut instance.proxy))
    }

    /// Fails the test when a task of a sidecar has panicked.
    pub async fn nobody_has_panicked(&self) {
        for proxy in self.instances.iter().map(|instance| &instance.proxy).chain([&self.client]) {
            assert_eq!(crate::metric(&proxy.metrics().await, "leno_panics_total", &[]), 0.0, "{}", proxy.name());
        }
    }
}

/// What is wrong with a reply: that its request saw parts of two generations.
pub fn saw_one_generation(reply: &Reply) -> Option<String> {
    let (told, asked, served) = (reply.header("x-generation"), reply.header("x-asked"), reply.header("x-origin"));
    let subset = told.parse::<usize>().ok().zip(reply.header("x-of").parse::<usize>().ok());
    let expected = subset.map(|(generation, instances)| (generation % instances).to_string());
    let is_one = told == asked && expected.as_deref() == Some(served);
    (!is_one).then(|| format!("the caller was told generation `{told}`, the app `{asked}`, and `{served}` served it"))
}

fn id(name: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{name}")
}

fn document(kind: &str, name: &str, spec: &Value) -> String {
    let group = if kind == "PeerAuthentication" { "security" } else { "networking" };
    let metadata = json!({"name": name, "namespace": "default"});
    let version = format!("{group}.istio.io/v1");
    format!("{:#}\n", json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}))
}

fn strict() -> String {
    document("PeerAuthentication", "default", &json!({"mtls": {"mode": "STRICT"}}))
}

fn egress(port: u16, hosts: &str) -> Value {
    json!([{
        "port": {"number": port, "protocol": "HTTP", "name": "http"},
        "bind": "127.0.0.1", "captureMode": "NONE", "hosts": [hosts],
    }])
}

fn client_sidecar(outbound: u16) -> String {
    let spec = json!({"workloadSelector": {"labels": {"app": "client"}}, "egress": egress(outbound, "*/*")});
    document("Sidecar", "client", &spec)
}

fn instance_sidecar(place: &Place, app: SocketAddr) -> String {
    let ingress = |port: u16, protocol: &str| {
        json!({
            "port": {"number": port, "protocol": protocol, "name": protocol.to_lowercase()},
            "bind": "127.0.0.1", "defaultEndpoint": app.to_string(),
        })
    };
    let spec = json!({
        "workloadSelector": {"labels": {"app": place.name}},
        "ingress": [ingress(place.inbound, "HTTP"), ingress(place.calls, "GRPC")],
        "egress": egress(free_port(), "./*"),
    });
    document("Sidecar", &place.name, &spec)
}

fn endpoints(published: &[&Place]) -> String {
    let service = |name: &str, (number, protocol): (u16, &str), port: fn(&Place) -> u16| {
        let endpoint = |place: &&Place| {
            json!({
                "address": "127.0.0.1", "ports": {protocol.to_lowercase(): port(place)}, "serviceAccount": place.name,
                "labels": {"app": place.name, "security.istio.io/tlsMode": "istio"},
            })
        };
        let spec = json!({
            "hosts": [format!("{name}.default.svc.cluster.local")],
            "location": "MESH_INTERNAL",
            "resolution": "STATIC",
            "ports": [{"number": number, "name": protocol.to_lowercase(), "protocol": protocol}],
            "endpoints": published.iter().map(endpoint).collect::<Vec<_>>(),
        });
        document("ServiceEntry", name, &spec)
    };
    let shop = service("shop", (80, "HTTP"), |place| place.inbound);
    let calls = service("calls", (81, "GRPC"), |place| place.calls);
    [shop, calls].join("---\n")
}

/// The rules of a generation. A subset is one instance where generations are told apart by who serves; where one
/// instance may be away, all of them.
fn generation(number: usize, instances: usize) -> String {
    let subset = format!("g{number}");
    let served = format!("shop-{}", number % instances.max(1));
    let rule = json!({
        "host": "shop.default.svc.cluster.local",
        "subsets": [{"name": subset, "labels": {"app": served}}, {"name": "all"}],
    });
    let headers = json!({
        "request": {"set": {"x-generation": number.to_string()}},
        "response": {"set": {"x-generation": number.to_string(), "x-of": instances.to_string()}},
    });
    let route = |subset: &str| json!([{"destination": {"host": "shop.default.svc.cluster.local", "subset": subset}}]);
    let service = json!({
        "hosts": ["shop"],
        "http": [
            {"match": [{"uri": {"prefix": "/one"}}], "headers": headers, "route": route(&subset)},
            {"headers": headers, "route": route("all")},
        ],
    });
    [document("DestinationRule", "shop", &rule), document("VirtualService", "shop", &service)].join("---\n")
}

async fn app(number: usize, book: Book) -> Origin {
    // A port at which it can begin again.
    app_at(([127, 0, 0, 1], free_port()).into(), number, book).await
}

/// `POST /stream` sends back what it gets, as it gets it, with trailers, as gRPC does; `GET /download` is long; an upgrade to
/// WebSocket sends back what it gets; all else is answered with the app's number.
async fn app_at(address: SocketAddr, number: usize, book: Book) -> Origin {
    Origin::unrecorded(address, move |request: Request<Incoming>| {
        let book = book.clone();
        async move {
            if let Some(number) = request.headers().get(NUMBER).and_then(|value| value.to_str().ok()?.parse().ok()) {
                book.write(number);
            }
            if request.headers().contains_key(header::UPGRADE) {
                return websocket(request);
            }
            match request.uri().path() {
                "/stream" => echo(request),
                "/download" => download(),
                _ => plain(number, request).await,
            }
        }
    })
    .await
}

async fn plain(number: usize, request: Request<Incoming>) -> Response<crate::Body> {
    let (head, body) = request.into_parts();
    // A body that breaks off is the caller's business, who gets no answer then.
    let _ = body.collect().await;
    let asked = head.headers.get("x-generation").cloned();
    let mut response = Response::new(full(format!("shop-{number}")));
    response.headers_mut().insert("x-origin", number.into());
    if let Some(asked) = asked {
        response.headers_mut().insert("x-asked", asked);
    }
    response
}

fn echo(request: Request<Incoming>) -> Response<crate::Body> {
    let (frames, body) = stream();
    tokio::spawn(async move {
        let mut incoming = request.into_body();
        while let Some(Ok(frame)) = incoming.frame().await {
            let Ok(data) = frame.into_data() else { break };
            if frames.send(Ok(Frame::data(data))).await.is_err() {
                return;
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        let _ = frames.send(Ok(Frame::trailers(trailers))).await;
    });
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
    response
}

fn download() -> Response<crate::Body> {
    let (frames, body) = stream();
    tokio::spawn(async move {
        let piece = Bytes::from(vec![b'x'; PIECE]);
        for _ in 0..DOWNLOAD / PIECE {
            if frames.send(Ok(Frame::data(piece.clone()))).await.is_err() {
                return;
            }
        }
    });
    Response::new(body)
}

fn websocket(mut request: Request<Incoming>) -> Response<crate::Body> {
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
    });
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, http::HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, http::HeaderValue::from_static("websocket"));
    response
}
