//! `leno serve`: the control plane.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_server::ClientStatusDiscoveryServiceServer;
use leno_config::diagnostic::Diagnostic;
use leno_proxy::logging;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::{info, warn};

use super::authority::AuthorityArguments;
use crate::ads::credentials::Access;
use crate::ads::csds::{MAX_QUESTION, Statuses};
use crate::ads::push::Hub;
use crate::ads::service::Discovery;
use crate::ads::status::{ClearText, RulesStatus};
use crate::board::Board;
use crate::ca::Authority;
use crate::ca::attest::Gate;
use crate::ca::service::Certificates;
use crate::ca::tls::{Incoming, Terms};
use crate::cli::failure::Failure;
use crate::figures::gather::Gatherer;
use crate::generation::{Contents, Generation};
use crate::http;
use crate::metrics::{Metrics, Rules};
use crate::relay::http::Desk;
use crate::relay::service::Relay;
use crate::relay::switchboard::Switchboard;
use crate::snapshot::Shelf;
use crate::source::files::{Files, Options, State, write_atomically};

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
    #[arg(long, value_name = "DIR", required = true)]
    rules: Vec<PathBuf>,
    /// Directory where the accepted rules are kept for the next start, and the addresses are written (serve.json)
    #[arg(long, value_name = "DIR", env = "LENO_STATE")]
    state: Option<PathBuf>,
    /// Where proxies connect (port 0: a free one)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15010", env = "LENO_XDS_ADDRESS")]
    xds_address: SocketAddr,
    /// Where /ready, /metrics and /debug/status are (port 0: a free one)
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
    /// Let --xds-address and --http-address be other than loopback, although whoever reaches the port reads all rules
    /// in clear text
    #[arg(long)]
    allow_plain_text: bool,
    #[command(flatten)]
    logging: logging::LogFlags,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    check_addresses(&arguments).map_err(Failure::usage)?;
    start_log(&arguments.logging);
    allow_many_sockets();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve(arguments));
    // Looks at files and compilations under way need not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served?;
    Ok(ExitCode::SUCCESS)
}

fn check_addresses(arguments: &Arguments) -> anyhow::Result<()> {
    for address in [arguments.xds_address, arguments.http_address] {
        ensure!(
            address.ip().is_loopback() || arguments.allow_plain_text,
            "{address} can be reached from other machines and what is served there is neither encrypted nor \
             authenticated; use 127.0.0.1, or --allow-plain-text if the network is trusted"
        );
    }
    Ok(())
}

async fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let metrics = Metrics::new()?;
    let xds = bind(arguments.xds_address, "--xds-address").await?;
    let tls = bind(arguments.tls_address, "--tls-address").await?;
    let http_listener = bind(arguments.http_address, "--http-address").await?;
    let settings = arguments.authority.settings(arguments.state.clone());
    let authority = Authority::open(settings, metrics.ca.clone(), SystemTime::now())
        .context("there is no certificate authority")?;
    let terms = Terms::new(Arc::clone(&authority), SystemTime::now())?;
    announce(arguments.state.as_deref(), [&xds, &tls, &http_listener])?;

    let hub = Hub::new(metrics);
    let switchboard = Arc::new(Switchboard::default());
    let board = Arc::new(Board::new(Arc::clone(&hub), Arc::clone(&authority)));
    let options = Options { rules: arguments.rules, state: arguments.state, allow_empty: arguments.allow_empty };
    let mut files = Files::watch(options);
    let stopped = || {
        let hub = Arc::clone(&hub);
        async move { hub.stopped().await }
    };
    let mut servers = JoinSet::new();
    servers.spawn(clear(xds, Arc::clone(&hub), Arc::clone(&switchboard)));
    let own = (Arc::clone(&authority), Arc::clone(&terms));
    servers.spawn(encrypted(tls, Arc::clone(&hub), Arc::clone(&switchboard), own));
    // Ends when it is dropped.
    let mut keeper = JoinSet::new();
    keeper.spawn(terms.keep());
    let gatherer = Gatherer::new(Arc::clone(&switchboard));
    keeper.spawn(Arc::clone(&gatherer).keep_looking());
    let desk = Desk::new(switchboard, gatherer, Arc::clone(&hub));
    let answers = tokio::spawn(http::serve(http_listener, Arc::clone(&board), desk, stopped()));
    // Reading and indexing rules takes a while; it happens on this thread, which serves nobody.
    let follow = follow(&mut files, &hub, &board, &authority);
    tokio::select! {
        () = follow => {}
        signal = told_to_stop() => info!("{} received, closing all streams; proxies keep what they have", signal?),
    }
    hub.stop();
    let ended = async {
        while let Some(ended) = servers.join_next().await {
            ended.context("the discovery service failed")??;
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(DRAIN, ended).await {
        Ok(ended) => ended?,
        Err(_) => warn!("some connections did not end within {DRAIN:?} and are cut"),
    }
    answers.await.context("the HTTP server failed")
}

async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another {flag}, or port 0 for a free one"))
}

/// Says where the process listens, to people and to programs.
fn announce(state: Option<&Path>, listeners: [&TcpListener; 3]) -> anyhow::Result<()> {
    let [xds, tls, http] = listeners.map(TcpListener::local_addr);
    let (xds, tls, http) = (xds?.to_string(), tls?.to_string(), http?.to_string());
    if let Some(state) = state {
        let pid = std::process::id();
        let addresses = serde_json::json!({ "xds": xds, "tls": tls, "http": http, "pid": pid });
        write_atomically(&state.join("serve.json"), addresses.to_string().as_bytes())
            .with_context(|| format!("cannot write to the state directory `{}`", state.display()))?;
    }
    info!(xds, tls, http, "serving");
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
    (authority, terms): (Arc<Authority>, Arc<Terms>),
) -> Result<(), tonic::transport::Error> {
    let gate = Arc::new(Gate::new(&authority));
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

/// Puts every accepted state of the files in force, and every change of the roots. Does not return.
async fn follow(files: &mut Files, hub: &Hub, board: &Board, authority: &Authority) {
    let shelf = Arc::new(Mutex::new(Shelf::default()));
    let mut roots = authority.changes();
    let (mut version, mut clear_text) = (None, BTreeMap::new());
    loop {
        let state = next(files, &mut roots, hub, authority).await;
        let mut generation = None;
        if let Some(documents) = state.documents.as_ref().filter(|_| state.changed) {
            let newest = Generation::new(documents, Arc::default(), &authority.bundles(), Arc::clone(&shelf));
            authority.set_domains(newest.domains());
            let Contents { services, virtual_services } = newest.contents();
            hub.metrics().in_force(newest.version(), newest.documents(), services, virtual_services);
            version = Some(newest.version().to_owned());
            generation = Some(newest);
        }
        if let Some(generation) = &generation {
            clear_text = generation.in_clear_text();
        }
        let rules = rules_status(&state, version.clone(), clear_text.clone());
        hub.metrics().rules(Rules {
            findings: &state.diagnostics,
            errors: rules.errors(),
            rejected: rejected_documents(&state.diagnostics),
            held_back: rules.held_back.len(),
        });
        board.note(rules);
        if let Some(generation) = generation {
            hub.publish_edit(generation, state.noticed);
        }
        files.report(&state);
    }
}

/// The next state of the files. Until then, every change of the roots reaches the proxies with the rules as they are.
async fn next(files: &mut Files, roots: &mut watch::Receiver<u64>, hub: &Hub, authority: &Authority) -> State {
    let mut state = pin!(files.next());
    loop {
        tokio::select! {
            state = &mut state => return state,
            changed = roots.changed() => {
                let newest = hub.newest().filter(|_| changed.is_ok());
                if let Some(generation) = newest.and_then(|newest| newest.with_roots(&authority.bundles())) {
                    hub.publish(generation);
                }
            }
        }
    }
}

fn rules_status(state: &State, version: Option<String>, clear_text: BTreeMap<String, ClearText>) -> RulesStatus {
    let errors = state.diagnostics.iter().filter(|finding| finding.is_error());
    let json = |finding: &Diagnostic| serde_json::to_value(finding).unwrap_or_default();
    RulesStatus {
        accepted: state.documents.as_ref().map_or(0, Vec::len),
        version,
        rejected: errors.map(json).collect(),
        held_back: state.held_back.iter().map(|(id, reason)| (id.to_string(), reason.clone())).collect(),
        problem: state.problem.clone(),
        clear_text,
    }
}

/// Documents with an error; a file that cannot be read as documents is one.
fn rejected_documents(findings: &[Diagnostic]) -> usize {
    let errors = findings.iter().filter(|finding| finding.is_error());
    let file = |finding: &Diagnostic| finding.place.as_ref().map(|place| Arc::clone(&place.file));
    let of = errors.map(|finding| match &finding.resource {
        Some(resource) => (Some(resource.to_string()), None),
        None => (None, file(finding)),
    });
    of.collect::<BTreeSet<_>>().len()
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
