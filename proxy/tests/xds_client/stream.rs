//! The client against a real tonic server on a port of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use leno_config::xds::Kind;
use leno_proxy::control_plane::{Access, Address};
use leno_proxy::state::warming::Effective;
use leno_proxy::xds::{Backoff, ClientConfig, Hooks, Outputs, Status, run};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tonic::codegen::BoxStream;
use tonic::codegen::tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Streaming};

use crate::build::{eds, endpoints, garbage, listener, node, routes};
use crate::server::Server;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// The model behind a socket. `changed` wakes its streams.
#[derive(Clone)]
struct Service {
    model: Arc<Mutex<Server>>,
    changed: watch::Sender<u64>,
}

impl Service {
    fn new() -> Self {
        Self { model: Arc::default(), changed: watch::channel(0).0 }
    }

    fn change(&self, change: impl FnOnce(&mut Server)) {
        change(&mut self.model.lock().unwrap());
        self.changed.send_modify(|count| *count += 1);
    }

    /// Waits until the server saw something.
    async fn sees(&self, what: &str, seen: impl Fn(&Server) -> bool) {
        let mut changed = self.changed.subscribe();
        let wait = changed.wait_for(|_| seen(&self.model.lock().unwrap()));
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never saw {what}")).unwrap();
    }

    async fn converse(
        self,
        mut requests: Streaming<DeltaDiscoveryRequest>,
        responses: mpsc::Sender<Result<DeltaDiscoveryResponse, tonic::Status>>,
    ) {
        let mut changed = self.changed.subscribe();
        self.model.lock().unwrap().disconnect();
        loop {
            tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.change(|model| model.request(request)),
                    Ok(None) | Err(_) => return,
                },
                _ = changed.changed() => {}
            }
            for kind in Kind::PUSH_ORDER {
                let response = self.model.lock().unwrap().response(kind);
                if let Some(response) = response
                    && responses.send(Ok(response)).await.is_err()
                {
                    return;
                }
            }
        }
    }

    /// Listens; the stopper ends it, with all its streams.
    async fn listen(&self, address: SocketAddr) -> (SocketAddr, Stopper) {
        // A runtime of its own: when it goes, its connections break as those of a killed process do.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.spawn(TcpListener::bind(address)).await.unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(AggregatedDiscoveryServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        (address, Stopper { task: runtime.spawn(async { server.await.unwrap() }), runtime })
    }
}

struct Stopper {
    task: JoinHandle<()>,
    runtime: tokio::runtime::Runtime,
}

impl Stopper {
    async fn stop(self) {
        self.task.abort();
        // With the task goes its listening socket, so that the port is free.
        assert!(self.task.await.unwrap_err().is_cancelled());
        self.runtime.shutdown_background();
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = BoxStream<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, tonic::Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, tonic::Status> {
        Err(tonic::Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, tonic::Status> {
        let (responses, outgoing) = mpsc::channel(4);
        tokio::spawn(self.clone().converse(request.into_inner(), responses));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// A client under test.
struct Client {
    effective: watch::Receiver<Effective>,
    status: watch::Receiver<Status>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Client {
    fn start(server: SocketAddr, state: Option<&Path>) -> Self {
        let (updates, effective) = watch::channel(Effective::default());
        let (status_sender, status) = watch::channel(Status::default());
        let (stop, stopped) = watch::channel(false);
        let address = Address::parse(&format!("http://{server}")).unwrap();
        let mut config = ClientConfig::new(Access::plain(address), node(), state.map(Path::to_owned));
        config.backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(50));
        let outputs = Outputs { updates, status: status_sender };
        let task = tokio::spawn(run(config, Hooks::default(), outputs, stopped));
        Self { effective, status, stop, task }
    }

    async fn has(&mut self, what: &str, holds: impl Fn(&Effective) -> bool) -> Effective {
        let wait = tokio::time::timeout(PATIENCE, self.effective.wait_for(|effective| holds(effective))).await;
        wait.unwrap_or_else(|_| panic!("never had {what}")).unwrap().clone()
    }

    async fn says(&mut self, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
        let wait = tokio::time::timeout(PATIENCE, self.status.wait_for(|status| holds(status))).await;
        wait.unwrap_or_else(|_| panic!("never said {what}")).unwrap().clone()
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        tokio::time::timeout(PATIENCE, self.task).await.expect("it ends when it is told to").unwrap();
    }
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn small_mesh(model: &mut Server) {
    model.put(eds("a"), "1");
    model.put(endpoints("a", 1), "1");
    model.put(listener("l", 1, "r"), "1");
    model.put(routes("r", &["a"]), "1");
}

fn route_version(version: &str) -> impl Fn(&Effective) -> bool {
    move |effective| effective.versions().routes.get("r").is_some_and(|it| it == version)
}

#[tokio::test]
async fn a_lost_control_plane_changes_nothing_and_its_return_brings_what_changed() {
    let service = Service::new();
    service.change(small_mesh);
    let (address, server) = service.listen(any_port()).await;
    let mut client = Client::start(address, None);
    let first = client.has("the first state", |it| it.complete && it.versions().routes.len() == 1).await;
    assert_eq!(first.resources.endpoints.len(), 1);

    server.stop().await;
    let status = client.says("that it lost the server", |status| !status.connected).await;
    assert!(status.last_error.is_some(), "{status:?}");
    assert!(!client.effective.has_changed().unwrap(), "nothing in force changed");

    service.change(|model| model.put(routes("r", &[]), "2"));
    let (_, server) = service.listen(address).await;
    client.has("the change", route_version("2")).await;
    client.says("that it is connected", |status| status.connected && status.last_error.is_none()).await;
    let initial = service.model.lock().unwrap().initial.clone();
    assert_eq!(initial[&Kind::Cluster]["a"], "1", "the new stream began with the versions");
    assert_eq!(initial[&Kind::Route]["r"], "1");
    client.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn a_bad_resource_is_refused_in_words_and_its_sibling_applies() {
    let service = Service::new();
    service.change(small_mesh);
    let (address, server) = service.listen(any_port()).await;
    let mut client = Client::start(address, None);
    client.has("the first state", |it| it.complete).await;
    service.change(|model| {
        model.put_raw(Kind::Cluster, garbage(Kind::Cluster, "bad", "1"));
        model.put(eds("good"), "1");
        model.put(endpoints("good", 2), "1");
    });
    client.has("the sibling", |it| it.versions().clusters.contains_key("good")).await;
    service.sees("the NACK", |model| model.nacks.iter().any(|text| text.starts_with("bad: "))).await;
    client.says("the NACK", |status| status.kinds["clusters"].last_nack.is_some()).await;
    client.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn a_restart_serves_from_disk_without_a_control_plane_and_catches_up_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let service = Service::new();
    service.change(small_mesh);
    let (address, server) = service.listen(any_port()).await;
    let mut client = Client::start(address, Some(directory.path()));
    let before = client.has("the first state", |it| it.complete && it.versions().routes.len() == 1).await;
    client.stop().await;
    server.stop().await;

    let mut client = Client::start(address, Some(directory.path()));
    let after = client.has("the state from disk", |it| it.complete).await;
    assert_eq!(after.resources, before.resources);
    assert_eq!(after.versions(), before.versions());
    assert!(client.says("where it comes from", |status| status.from_disk).await.disk_error.is_none());

    service.change(|model| {
        model.put(routes("r", &[]), "2");
        model.remove(Kind::Cluster, "a");
    });
    let (_, server) = service.listen(address).await;
    client.has("the change", |it| route_version("2")(it) && it.resources.clusters.is_empty()).await;
    client.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn a_damaged_state_is_reported_and_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(leno_proxy::state::disk::FILE);
    std::fs::write(&file, b"LENOSNAP\x01\0\0\0damaged").unwrap();
    let service = Service::new();
    service.change(small_mesh);
    let (address, server) = service.listen(any_port()).await;
    let mut client = Client::start(address, Some(directory.path()));
    client.says("the damage", |status| status.disk_error.as_ref().is_some_and(|it| it.contains("damaged"))).await;
    client.says("that the new one is written", |status| status.disk_error.is_none() && status.connected).await;
    client.stop().await;
    server.stop().await;
    let saved = leno_proxy::state::disk::load(directory.path(), &node().id()).unwrap().unwrap();
    assert_eq!(saved.len(), 4);
}

#[tokio::test]
async fn it_ends_at_once_while_it_waits_for_a_control_plane() {
    let (address, server) = Service::new().listen(any_port()).await;
    server.stop().await;
    let mut client = Client::start(address, None);
    client.says("why it is not connected", |status| status.last_error.is_some()).await;
    client.stop().await;
}
