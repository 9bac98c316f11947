//! A worker with one listener that knows nothing of its port, and real sockets on both sides.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use leno_config::ir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use crate::cluster::limits::Limit;
use crate::dns::Dns;
use crate::overload::{Entry, Limits, Overload};
use crate::policy::jwt::FetchedKeys;
use crate::random::Random;
use crate::stage::Stage;
use crate::state::snapshot::{Resolved, Snapshot};
use crate::telemetry::{Telemetry, WorkerStats};
use crate::tls::Sessions;
use crate::worker::{ConnectionCount, Figures, Worker};

use super::super::first_words::client_hello;
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
/// MySQL's handshake begins like this: a length, a packet number, protocol 10, a version.
const GREETING: &[u8] = b"\x4a\x00\x00\x00\x0a8.0.36\x00";

/// What an endpoint does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Greets, then says back what it hears.
    Greets,
    /// Says back what it hears.
    Echoes,
    /// Answers requests, any number of them on a connection.
    Http,
    /// Closes.
    Leaves,
}

/// An endpoint, which tells of each connection when it comes and when it goes.
struct App {
    address: SocketAddr,
    came: mpsc::Receiver<()>,
    went: mpsc::Receiver<()>,
}

async fn app(manner: Manner) -> App {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let ((comes, came), (goes, went)) = (mpsc::channel(64), mpsc::channel(64));
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (comes, goes) = (comes.clone(), goes.clone());
            tokio::task::spawn_local(async move {
                let _ = comes.send(()).await;
                if manner == Manner::Greets {
                    stream.write_all(GREETING).await.expect("the caller hears the greeting");
                }
                let mut heard = [0; 1024];
                loop {
                    let read = if manner == Manner::Leaves { Ok(0) } else { stream.read(&mut heard).await };
                    let Ok(read @ 1..) = read else { break };
                    let answer: &[u8] = match manner {
                        Manner::Http => b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhttp",
                        Manner::Greets | Manner::Echoes | Manner::Leaves => &heard[..read],
                    };
                    if stream.write_all(answer).await.is_err() {
                        break;
                    }
                }
                let _ = goes.send(()).await;
            });
        }
    });
    App { address, came, went }
}

impl App {
    /// The next connection is there.
    async fn is_called(&mut self) {
        tokio::time::timeout(PATIENCE, self.came.recv()).await.expect("the endpoint is called").expect("it runs");
    }

    /// A connection is gone.
    async fn is_left(&mut self) {
        tokio::time::timeout(PATIENCE, self.went.recv()).await.expect("the endpoint is left").expect("it runs");
    }

    /// How many more connections have come so far.
    fn calls(&mut self) -> usize {
        std::iter::from_fn(|| self.came.try_recv().ok()).count()
    }
}

struct Proxy {
    worker: Rc<Worker>,
    stats: Arc<WorkerStats>,
    address: SocketAddr,
    /// Without it, the process would be taken for one that ends.
    _stage: watch::Sender<Stage>,
}

impl Proxy {
    /// Leads to `endpoint`, `edit`ed.
    async fn before(endpoint: SocketAddr, edit: impl FnOnce(&mut ir::Listener, &mut ir::Detection)) -> Self {
        let telemetry = Arc::new(Telemetry::default());
        let stats = telemetry.worker();
        let overload = Overload::new(Limits::default(), vec![Arc::clone(&stats)]);
        let (given_up, opened) = Default::default();
        let figures =
            Figures { telemetry: Arc::clone(&telemetry), stats: Arc::clone(&stats), overload, given_up, opened };
        let tls = Sessions::new(Arc::default(), telemetry, &Default::default(), std::path::Path::new("").into());
        let (whole, stage) = watch::channel(Stage::default());
        let worker = Worker::new(figures, Arc::new(Dns::from_system()), stage, Arc::default(), tls, Random::seeded(1));
        let resources = Arc::new(resources(endpoint, edit));
        let snapshot = Snapshot::build(&Snapshot::default(), resources, &Resolved::new(), &FetchedKeys::new());
        worker.apply(Arc::new(snapshot));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (serving, counted) = (Rc::clone(&worker), Arc::clone(&stats));
        tokio::task::spawn_local(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                serving.serve(stream, peer, "in", ConnectionCount::new(Arc::clone(&counted), Entry::Free));
            }
        });
        Self { worker, stats, address, _stage: whole }
    }

    async fn call(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the proxy listens")
    }

    /// How its connections were told apart.
    fn detected(&self) -> [u64; 5] {
        let WorkerStats { detected_http1, detected_tls, detected_bytes, detected_greeting, detected_nothing, .. } =
            &*self.stats;
        [detected_http1, detected_tls, detected_bytes, detected_greeting, detected_nothing]
            .map(|count| count.load(Ordering::Relaxed))
    }

    /// Connections to endpoints in use for bytes.
    fn in_use(&self) -> u32 {
        self.worker.view().shared.cluster_named("app").expect("the cluster").stats.usage.get(Limit::Connections)
    }
}

fn resources(endpoint: SocketAddr, edit: impl FnOnce(&mut ir::Listener, &mut ir::Detection)) -> ir::Resources {
    let name = ir::ClusterName::new("app");
    let member = ir::Endpoint {
        address: ir::Address::Socket(endpoint),
        weight: 1,
        health: ir::Health::Healthy,
        mesh_tls: false,
        identity: None,
        labels: BTreeMap::new(),
        workload: None,
    };
    let locality =
        ir::LocalityEndpoints { locality: Default::default(), priority: 0, weight: None, endpoints: vec![member] };
    let members = ir::Endpoints {
        cluster: name.clone(),
        localities: vec![locality],
        overprovisioning: ir::Endpoints::OVERPROVISIONING,
    };
    let bytes = ir::TcpRoute {
        stat_prefix: String::new(),
        origin: None,
        clusters: ir::WeightedClusters::single(name.clone()),
        idle_timeout: None,
        hashes_source: false,
    };
    let mut detection = ir::Detection::new(Vec::new(), Some(manager(&name)), bytes.clone(), Default::default());
    let (address, inbound) = (SocketAddr::from(([127, 0, 0, 1], 1)), ir::Direction::Inbound);
    let mut listener = ir::Listener::new("in".to_owned(), address, inbound, ir::ListenerProtocol::Tcp(bytes));
    edit(&mut listener, &mut detection);
    listener.protocol = ir::ListenerProtocol::Detect(Box::new(detection));
    let cluster = ir::Cluster::new(name.clone(), ir::Discovery::Static(members));
    ir::Resources {
        clusters: BTreeMap::from([(name, Arc::new(cluster))]),
        listeners: BTreeMap::from([("in".to_owned(), Arc::new(listener))]),
        ..ir::Resources::default()
    }
}

fn manager(cluster: &ir::ClusterName) -> ir::HttpManager {
    let route = ir::Route {
        name: "default".to_owned(),
        origin: None,
        matcher: ir::RouteMatch::any(),
        action: ir::Action::Forward(ir::Forward::plain(ir::WeightedClusters::single(cluster.clone()))),
        request_headers: Default::default(),
        response_headers: Default::default(),
        cors: None,
        fault: None,
        authorization: None,
        refused_in_path: ir::Separators::NONE,
    };
    let host = ir::VirtualHost {
        name: "all".to_owned(),
        domains: vec![ir::Domain::Any],
        routes: vec![route],
        attempt_count: Default::default(),
    };
    ir::HttpManager {
        stat_prefix: String::new(),
        routes: ir::RouteSource::Inline(Arc::new(ir::RouteConfig::new("inline", vec![host]).expect("valid"))),
        upgrades: Vec::new(),
        path: ir::PathNormalization::BASE,
        underscores: ir::UnderscoreNames::Pass,
        jwt: Default::default(),
        rate_limits: Vec::new(),
        streams: Default::default(),
        tracing: None,
    }
}

async fn says(stream: &mut TcpStream, words: &[u8]) {
    stream.write_all(words).await.expect("the other side listens");
}

/// The next bytes, of which `expected` is all there is to come.
async fn hears(stream: &mut TcpStream, expected: &[u8], what: &str) {
    let mut heard = vec![0; expected.len()];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut heard)).await;
    read.unwrap_or_else(|_| panic!("{what}: nothing came")).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(heard.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{what}");
}

async fn ends(stream: &mut TcpStream, what: &str) {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    // A reset is an end as well.
    let _ = read.unwrap_or_else(|_| panic!("{what}: it goes on"));
    assert!(rest.is_empty(), "{what}: {}", rest.escape_ascii());
}

fn unedited(_: &mut ir::Listener, _: &mut ir::Detection) {}

#[tokio::test]
async fn a_caller_who_waits_for_the_greeting_gets_it_in_every_mode_that_takes_clear_text() {
    let run = async {
        for mode in [MtlsMode::Disable, MtlsMode::Permissive] {
            let app = app(Manner::Greets).await;
            let proxy = Proxy::before(app.address, |listener, _| listener.mtls = mode).await;
            let mut caller = proxy.call().await;
            hears(&mut caller, GREETING, "the greeting").await;
            says(&mut caller, b"\x20\x00\x00\x01 login").await;
            hears(&mut caller, b"\x20\x00\x00\x01 login", "the answer").await;
            assert_eq!((proxy.detected(), proxy.in_use()), ([0, 0, 0, 1, 0], 1), "{mode:?}");
            let mut listens = proxy.call().await;
            listens.shutdown().await.expect("it says no more");
            hears(&mut listens, GREETING, "the greeting, all the same").await;
        }
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn a_caller_who_says_something_else_is_passed_on_with_his_first_words() {
    let run = async {
        let rows: [&[u8]; 4] =
            [b"*1\r\n$4\r\nPING\r\n", b"GET key\r\n", b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"SSH-2.0-x\r\n"];
        for words in rows {
            let mut app = app(Manner::Echoes).await;
            let proxy = Proxy::before(app.address, unedited).await;
            let mut caller = proxy.call().await;
            says(&mut caller, words).await;
            hears(&mut caller, words, "what the app says back").await;
            assert_eq!(proxy.detected(), [0, 0, 1, 0, 0]);
            drop(caller);
            app.is_called().await;
            app.is_left().await;
            assert_eq!(app.calls(), 0, "it was called once");
        }
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn words_that_come_in_parts_are_one() {
    let run = async {
        let app = app(Manner::Http).await;
        let proxy = Proxy::before(app.address, unedited).await;
        let mut caller = proxy.call().await;
        caller.set_nodelay(true).expect("set");
        for part in [&b"GE"[..], b"T / HT", b"TP/1.1\r\nho", b"st: a\r\n\r\n"] {
            says(&mut caller, part).await;
            tokio::task::yield_now().await;
        }
        hears(&mut caller, b"HTTP/1.1 200 OK\r\n", "the answer").await;
        assert_eq!(proxy.detected(), [1, 0, 0, 0, 0]);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn requests_use_the_connection_that_was_opened_meanwhile_and_none_is_left_over() {
    let run = async {
        let mut app = app(Manner::Http).await;
        let proxy = Proxy::before(app.address, unedited).await;
        for round in 0..5 {
            let mut caller = proxy.call().await;
            if round == 0 {
                // Nobody has said anything when the endpoint is there.
                app.is_called().await;
            }
            says(&mut caller, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
            hears(&mut caller, b"HTTP/1.1 200 OK\r\n", "the answer").await;
        }
        let cluster = proxy.worker.view();
        let cluster = cluster.clusters.first().expect("the cluster");
        let state = crate::cluster::EndpointState::new(app.address);
        assert!(cluster.pool(&proxy.worker, &state, None).idle() <= 1, "one request at a time needs one connection");
        assert_eq!(proxy.detected(), [5, 0, 0, 0, 0]);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_a_503_to_a_request_and_an_end_to_bytes() {
    let run = async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let nobody = listener.local_addr().expect("an address");
        drop(listener);
        let proxy = Proxy::before(nobody, unedited).await;
        let mut caller = proxy.call().await;
        says(&mut caller, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        hears(&mut caller, b"HTTP/1.1 503", "a request").await;
        let mut caller = proxy.call().await;
        ends(&mut caller, "a caller who waits").await;
        let mut caller = proxy.call().await;
        says(&mut caller, b"\x00\x01").await;
        ends(&mut caller, "bytes").await;
        let proxy = Proxy::before(app(Manner::Leaves).await.address, unedited).await;
        ends(&mut proxy.call().await, "an app that leaves").await;
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn nobody_is_called_for_a_caller_whom_no_policy_lets_in_as_bytes() {
    let run = async {
        let nobody =
            ir::RbacFilter { action: ir::RbacAction::Allow, enforced: true, policies: Vec::new(), shadow: None };
        let mut app = app(Manner::Http).await;
        let proxy = Proxy::before(app.address, |_, detection| {
            detection.authorization = ir::Authorization(vec![nobody]);
        })
        .await;
        let mut refused = proxy.call().await;
        says(&mut refused, b"\x00\x01").await;
        ends(&mut refused, "bytes").await;
        assert_eq!(app.calls(), 0);
        let mut caller = proxy.call().await;
        says(&mut caller, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        hears(&mut caller, b"HTTP/1.1 200 OK\r\n", "a request is not bytes").await;
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn tls_for_a_name_goes_its_own_way_and_all_other_tls_with_the_rest() {
    let run = async {
        let rest = app(Manner::Echoes).await;
        let route = |cluster: &str| ir::TcpRoute {
            stat_prefix: String::new(),
            origin: None,
            clusters: ir::WeightedClusters::single(ir::ClusterName::new(cluster)),
            idle_timeout: None,
            hashes_source: false,
        };
        let name = ir::Condition::ServerName(ir::ServerName::parse("db.example.com").expect("a name"));
        let branch = ir::Branch { condition: name, route: route("nowhere") };
        let proxy = Proxy::before(rest.address, |_, detection| {
            *detection = ir::Detection::new(vec![branch], detection.http.clone(), route("app"), Default::default());
        })
        .await;
        let hello = client_hello("db.example.com", &[]);
        let mut caller = proxy.call().await;
        says(&mut caller, &hello).await;
        ends(&mut caller, "a name that leads to no cluster").await;
        let other = client_hello("other.example.com", &[]);
        let mut caller = proxy.call().await;
        says(&mut caller, &other).await;
        hears(&mut caller, &other, "the handshake as it was").await;
        assert_eq!(proxy.detected(), [0, 2, 0, 0, 0]);
    };
    LocalSet::new().run_until(run).await;
}
