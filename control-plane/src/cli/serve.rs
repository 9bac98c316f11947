//! `leno serve`: the control plane.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_server::ClientStatusDiscoveryServiceServer;
use kube::Client;
use leno_proxy::logging;
use leno_proxy::process::forbid_dumps;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::{info, warn};

use super::authority::AuthorityArguments;
use super::replica::ReplicaArguments;
use crate::ads::credentials::Access;
use crate::ads::csds::{MAX_QUESTION, Statuses};
use crate::ads::push::Hub;
use crate::ads::service::Discovery;
use crate::board::Board;
use crate::ca::Authority;
use crate::ca::attest::Gate;
use crate::ca::service::Certificates;
use crate::ca::tls::{Incoming, Terms};
use crate::cli::failure::Failure;
use crate::figures::gather::Gatherer;
use crate::follow::{Sources, follow};
use crate::http::{self, Trusted};
use crate::kubernetes::client::ClusterArguments;
use crate::kubernetes::replica::Replica;
use crate::kubernetes::status::Writer;
use crate::kubernetes::webhook::server::Webhooks;
use crate::metrics::Metrics;
use crate::relay::http::Desk;
use crate::relay::service::Relay;
use crate::relay::switchboard::Switchboard;
use crate::source::files::{Files, Options};
use crate::source::kubernetes::Cluster;
use crate::source::{Accepted, Source, write_atomically};

/// Streams that do not end by themselves when the process stops are cut after so long.
const DRAIN: Duration = Duration::from_secs(5);
/// A connection that does not answer a ping is dead. Proxies are idle most of the time, so pings are what finds out.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// A proxy needs one stream. gRPC's C library opens one for each service that its app dials, all on one connection, and
/// what is over the limit waits in silence.
const STREAMS_PER_CONNECTION: u32 = 1024;
/// What a proxy may send before we read it. Requests are small except for the first ones after a reconnect.
const WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// `leno serve`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Directory or file with rules; may be given several times
    #[arg(long, value_name = "DIR", required_unless_present = "kubernetes")]
    rules: Vec<PathBuf>,
    /// Take rules, services and endpoints from the API server of a Kubernetes cluster, beside --rules or instead of them
    #[arg(long, env = "LENO_KUBERNETES")]
    kubernetes: bool,
    #[command(flatten)]
    cluster: ClusterArguments,
    #[command(flatten)]
    replica: ReplicaArguments,
    /// Directory where the accepted rules are kept for the next start, and the addresses are written (serve.json)
    #[arg(long, value_name = "DIR", env = "LENO_STATE")]
    state: Option<PathBuf>,
    /// Where proxies connect (port 0: a free one)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15010", env = "LENO_XDS_ADDRESS")]
    xds_address: SocketAddr,
    /// Where /ready and /metrics are, and for callers on this machine /debug/status, /proxies and more (port 0: a free one)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15014", env = "LENO_HTTP_ADDRESS")]
    http_address: SocketAddr,
    /// Where proxies connect with TLS, and ask for certificates (port 0: a free one)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15012", env = "LENO_TLS_ADDRESS")]
    tls_address: SocketAddr,
    #[command(flatten)]
    authority: AuthorityArguments,
    /// Take a directory without rules for what is meant
    #[arg(long)]
    allow_empty: bool,
    /// Let --xds-address be other than loopback, and everybody ask --http-address everything, although whoever reaches
    /// these ports reads all rules in clear text
    #[arg(long)]
    allow_plain_text: bool,
    /// Let debuggers and core dumps see the process's memory, in which the authority's keys are
    #[arg(long, env = "LENO_DUMPABLE")]
    dumpable: bool,
    #[command(flatten)]
    logging: logging::LogFlags,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    check_addresses(&arguments).map_err(Failure::usage)?;
    start_log(&arguments.logging);
    if !arguments.dumpable {
        forbid_dumps();
    }
    allow_many_sockets();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve(arguments));
    // Looks at files and compilations under way need not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served?;
    Ok(ExitCode::SUCCESS)
}

fn check_addresses(arguments: &Arguments) -> anyhow::Result<()> {
    let address = arguments.xds_address;
    ensure!(
        address.ip().is_loopback() || arguments.allow_plain_text,
        "{address} can be reached from other machines and what is served there is neither encrypted nor authenticated; \
         use 127.0.0.1, or --allow-plain-text if the network is trusted"
    );
    Ok(())
}

async fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let metrics = Metrics::new()?;
    let xds = bind(arguments.xds_address, "--xds-address").await?;
    let tls = bind(arguments.tls_address, "--tls-address").await?;
    let http_listener = bind(arguments.http_address, "--http-address").await?;
    let client = match arguments.kubernetes {
        true => Some(arguments.cluster.connect().await.context("there is no way to the cluster")?),
        false => None,
    };
    let sources = sources(&arguments, client.as_ref(), &metrics);
    let mut replica = client.as_ref().zip(sources.cluster.as_ref()).map(|(client, cluster)| {
        let counts = metrics.kubernetes.clone();
        Replica::join(client.clone(), arguments.replica.identity(), cluster, counts)
    });
    let authority = authority(&arguments, replica.as_mut(), &metrics).await?;
    let terms = Terms::new(Arc::clone(&authority), SystemTime::now())?;
    let hub = Hub::new(metrics);
    let webhooks = match &mut replica {
        Some(replica) => Some(webhooks(replica, &arguments.replica, &hub).await?),
        None => None,
    };
    announce(arguments.state.as_deref(), [&xds, &tls, &http_listener], webhooks)?;

    let switchboard = Arc::new(Switchboard::default());
    let board = Arc::new(Board::new(Arc::clone(&hub), Arc::clone(&authority)));
    let stopped = || {
        let hub = Arc::clone(&hub);
        async move { hub.stopped().await }
    };
    let mut servers = JoinSet::new();
    servers.spawn(clear(xds, Arc::clone(&hub), Arc::clone(&switchboard)));
    let gate = Arc::new(Gate::new(&authority, replica.as_ref().map(Replica::reviews)));
    let own = (Arc::clone(&authority), Arc::clone(&terms), gate);
    servers.spawn(encrypted(tls, Arc::clone(&hub), Arc::clone(&switchboard), own));
    // Ends when it is dropped.
    let mut keeper = JoinSet::new();
    keeper.spawn(terms.keep());
    if let (Some(client), Some(replica), Some(cluster)) = (client, &replica, &sources.cluster) {
        let is_leader = replica.leadership().is_leader();
        let (subjects, standings) = (cluster.subjects(), sources.standings.subscribe());
        let counts = hub.metrics().kubernetes.clone();
        let (hub, replica) = (Arc::clone(&hub), replica.name().to_owned());
        let writer = Writer { client, hub, counts, subjects, standings, is_leader, replica };
        keeper.spawn(writer.run());
    }
    let gatherer = Gatherer::new(Arc::clone(&switchboard));
    keeper.spawn(Arc::clone(&gatherer).keep_looking());
    let trusted = if arguments.allow_plain_text { Trusted::Everybody } else { Trusted::Loopback };
    let desk = Desk::new(switchboard, gatherer, Arc::clone(&hub));
    let answers = tokio::spawn(http::serve(http_listener, Arc::clone(&board), desk, trusted, stopped()));
    // Reading and indexing rules takes a while; it happens on this thread, which serves nobody.
    let follow = follow(sources, &hub, &board, &authority);
    tokio::select! {
        () = follow => {}
        signal = told_to_stop() => info!("{} received, closing all streams; proxies keep what they have", signal?),
    }
    hub.stop();
    end(servers, replica).await?;
    answers.await.context("the HTTP server failed")
}

/// The roots of this process alone, or those that all replicas share.
async fn authority(
    arguments: &Arguments,
    replica: Option<&mut Replica>,
    metrics: &Metrics,
) -> anyhow::Result<Arc<Authority>> {
    let settings = arguments.authority.settings(arguments.state.clone());
    let opened = match replica {
        Some(replica) => replica.authority(settings, metrics.ca.clone()).await.map_err(anyhow::Error::from),
        None => Authority::open(settings, metrics.ca.clone(), SystemTime::now()).map_err(anyhow::Error::from),
    };
    opened.context("there is no certificate authority")
}

/// Lets streams end. Another replica may lead while they do.
async fn end(
    mut servers: JoinSet<Result<(), tonic::transport::Error>>,
    replica: Option<Replica>,
) -> anyhow::Result<()> {
    let left = async {
        if let Some(replica) = replica {
            replica.leave().await;
        }
    };
    let ended = async {
        while let Some(ended) = servers.join_next().await {
            ended.context("the discovery service failed")??;
        }
        anyhow::Ok(())
    };
    let (left, ended) = tokio::join!(tokio::time::timeout(DRAIN, left), tokio::time::timeout(DRAIN, ended));
    if left.is_err() {
        warn!("the Lease was not given back within {DRAIN:?}; another control plane leads when it ends");
    }
    ended.unwrap_or_else(|_| {
        warn!("some connections did not end within {DRAIN:?} and are cut");
        Ok(())
    })
}

/// Answers the API server; where.
async fn webhooks(replica: &mut Replica, arguments: &ReplicaArguments, hub: &Arc<Hub>) -> anyhow::Result<SocketAddr> {
    let listener = bind(arguments.webhook_address, "--webhook-address").await?;
    let address = listener.local_addr()?;
    let (inject, counts) = (replica.injector(arguments.injection()?), hub.metrics().kubernetes.clone());
    let hub = Arc::clone(hub);
    let in_force = Arc::new(move || {
        let newest = hub.newest();
        Arc::new(newest.iter().flat_map(|generation| generation.rules()).cloned().collect::<Vec<_>>())
    });
    let webhooks = Webhooks { inject, in_force, counts };
    replica.serve_webhooks(listener, webhooks).await.context("there are no webhooks")?;
    Ok(address)
}

/// Where rules come from. Nothing is waited for here, neither files nor the API server.
fn sources(arguments: &Arguments, client: Option<&Client>, metrics: &Metrics) -> Sources {
    let cluster = client.map(|client| Cluster::watch(client, metrics.kubernetes.clone()));
    let Arguments { rules, state, allow_empty, .. } = arguments;
    let options = Options { rules: rules.clone(), allow_empty: *allow_empty };
    let files = (!rules.is_empty()).then(|| Files::watch(options));
    let named = [files.as_ref().map(|_| Source::Files), cluster.as_ref().map(|_| Source::Kubernetes)];
    let named = named.into_iter().flatten().collect::<Vec<_>>();
    Sources { accepted: Accepted::open(&named, state.clone()), files, cluster, standings: watch::Sender::default() }
}

async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another {flag}, or port 0 for a free one"))
}

/// Says where the process listens, to people and to programs.
fn announce(state: Option<&Path>, listeners: [&TcpListener; 3], webhooks: Option<SocketAddr>) -> anyhow::Result<()> {
    let [xds, tls, http] = listeners.map(TcpListener::local_addr);
    let (xds, tls, http) = (xds?.to_string(), tls?.to_string(), http?.to_string());
    if let Some(state) = state {
        let pid = std::process::id();
        let addresses = serde_json::json!({ "xds": xds, "tls": tls, "http": http, "webhook": webhooks, "pid": pid });
        write_atomically(&state.join("serve.json"), addresses.to_string().as_bytes())
            .with_context(|| format!("cannot write to the state directory `{}`", state.display()))?;
    }
    match webhooks {
        Some(webhooks) => info!(xds, tls, http, %webhooks, "serving"),
        None => info!(xds, tls, http, "serving"),
    }
    Ok(())
}

/// The gRPC server of this machine, until the hub stops and its streams have ended.
async fn clear(
    listener: TcpListener,
    hub: Arc<Hub>,
    switchboard: Arc<Switchboard>,
) -> Result<(), tonic::transport::Error> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let stopped = Arc::clone(&hub);
    server()
        .add_service(statuses(&hub, Access::Open))
        .add_service(Discovery::new(Arc::clone(&hub), Access::Open))
        .add_service(Relay::new(switchboard, hub, Access::Open))
        .serve_with_incoming_shutdown(incoming, async move { stopped.stopped().await })
        .await
}

/// The gRPC server for everybody who can say who he is, until the hub stops and its streams have ended.
async fn encrypted(
    listener: TcpListener,
    hub: Arc<Hub>,
    switchboard: Arc<Switchboard>,
    (authority, terms, gate): (Arc<Authority>, Arc<Terms>, Arc<Gate>),
) -> Result<(), tonic::transport::Error> {
    let incoming = Incoming::new(listener, terms, Arc::clone(&gate));
    let stopped = Arc::clone(&hub);
    server()
        .add_service(statuses(&hub, Access::Credential(Arc::clone(&gate))))
        .add_service(Discovery::new(Arc::clone(&hub), Access::Credential(Arc::clone(&gate))))
        .add_service(Relay::new(switchboard, hub, Access::Credential(Arc::clone(&gate))))
        .add_service(Certificates::new(authority, gate))
        .serve_with_incoming_shutdown(incoming, async move { stopped.stopped().await })
        .await
}

/// Who is told what, for who has the same access.
fn statuses(hub: &Arc<Hub>, access: Access) -> ClientStatusDiscoveryServiceServer<Statuses> {
    ClientStatusDiscoveryServiceServer::new(Statuses::new(Arc::clone(hub), access))
        .max_decoding_message_size(MAX_QUESTION)
}

fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // A token of Kubernetes has some 1300 bytes.
        .http2_max_header_list_size(32 << 10)
}

pub(super) async fn told_to_stop() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}

/// A proxy is a socket, and the usual soft limit of 1024 is for programs that use `select`.
fn allow_many_sockets() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!("the limit on open files stays at {:?}, which bounds the number of proxies: {error}", limit.current);
    }
}

/// Begins to log, in colour or not as `--color` and the terminal say.
pub(super) fn start_log(flags: &logging::LogFlags) {
    let colour = match anstream::AutoStream::choice(&std::io::stderr()) {
        anstream::ColorChoice::Never => logging::Colour::Off,
        _ => logging::Colour::On,
    };
    logging::start(flags, colour);
}
