//! The threads of a proxy and who tells whom.
//!
//! ```text
//! control thread (this one): rules or xDS ─▶ snapshot ─▶ workers;  admin;  signals
//! acceptor thread (only with several workers): sockets ─▶ least busy worker
//! worker threads: connections and requests, nothing else
//! ```
//!
//! A busy data path cannot starve readiness, and a large push cannot stall a request.

mod drain;
mod ending;
mod succession;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use leno_config::ir;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, oneshot, watch};

use crate::admin::{self, Shared};
use crate::attempt::given_up::GivenUp;
use crate::bootstrap::{Bootstrap, Source};
use crate::cluster::{health, upkeep};
use crate::dns::{Dns, Names};
use crate::downstream::accept::{self, AcceptorCommand, Door, Hand, WorkerPort};
use crate::handover::{self, Claim, Gate};
use crate::identity::{Identity, Keyring, Origin, start};
use crate::memory;
use crate::overload::Overload;
use crate::pod;
use crate::pod::app::App;
use crate::policy::jwt::{Fetcher, RemoteKeys};
use crate::random::Random;
use crate::relay;
use crate::source;
use crate::stage::Stage;
use crate::state::snapshot::Snapshot;
use crate::state::warming::Effective;
use crate::telemetry::log::LogMetrics;
use crate::telemetry::trace::export::{Exporter, Setting};
use crate::telemetry::trace::figures::SpanMetrics;
use crate::telemetry::{ClusterMetrics, Telemetry};
use crate::tls::Sessions;
use crate::tls::exchange::Workload;
use crate::upstream::opened::Opened;
use crate::worker::{Command, Figures, Reserved, Worker};
use crate::xds::Hooks;

use drain::{Asked, Drained};
use ending::Ending;
use succession::Succession;

/// Commands that wait for a worker: connections in bursts, and now and then a snapshot.
const QUEUE: usize = 1024;
/// How often a listener that could not be bound is tried again.
const REBIND: Duration = Duration::from_secs(2);
/// How often names that nobody uses any more are looked for.
const FORGET: Duration = Duration::from_secs(60);
/// After a change has been quiet for so long, what it needed is given back.
const SETTLED: Duration = Duration::from_millis(300);
/// How long the acceptor may take to hand over who waits in a socket's queue.
const CLOSE: Duration = Duration::from_secs(1);

/// How a proxy begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// By itself.
    Afresh,
    /// By taking over from the one that runs with the same state directory, if there is one.
    Upgrade,
}

/// Runs a proxy until it is told to stop, or until another has taken over from it.
pub fn run(bootstrap: Bootstrap, begin: Begin) -> anyhow::Result<()> {
    if !bootstrap.dumpable {
        forbid_dumps();
    }
    let runtime = runtime()?;
    runtime.block_on(async {
        let claim = match &bootstrap.state {
            Some(state) => handover::claim(state, begin == Begin::Upgrade, &bootstrap.node.id()).await?,
            None => Claim::default(),
        };
        let mut proxy = Proxy::start(bootstrap, claim).await?;
        proxy.serve().await
    })
}

/// Keeps the memory of this process, with the keys in it, out of core dumps and away from debuggers of the same user.
/// It says so where that cannot be done, and goes on.
pub fn forbid_dumps() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "core dumps of this process cannot be forbidden; they would hold its keys");
    }
}

fn runtime() -> std::io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

/// A running proxy, as its control thread sees it.
struct Proxy {
    shared: Arc<Shared>,
    bootstrap: Bootstrap,
    workers: Vec<WorkerPort>,
    acceptor: mpsc::Sender<AcceptorCommand>,
    effective: watch::Receiver<Effective>,
    names: Names,
    keys: RemoteKeys,
    snapshot: Arc<Snapshot>,
    /// For whoever looks after its endpoints.
    snapshots: watch::Sender<Arc<Snapshot>>,
    bound: HashMap<Door, Bound>,
    /// Listeners that somebody wants drained.
    drained: Drained,
    /// How far its end has come.
    stage: watch::Sender<Stage>,
    /// That it is to end; `None`: it is wanted.
    ending: Option<Ending>,
    /// When to look next whether it is time.
    looks: Option<tokio::time::Instant>,
    /// Whom it stands beside.
    app: App,
    stop_source: watch::Sender<bool>,
    /// The process before, and the one after.
    succession: Succession,
    /// When what reading and compiling needed is given back; `None`: it was.
    settles: Option<tokio::time::Instant>,
    /// Sends spans.
    exporter: Exporter,
    /// Whether the own certificate is there, or none is wanted.
    has_certificate: bool,
    #[allow(dead_code)] // Held, so that the threads' end is the process's.
    threads: Vec<JoinHandle<()>>,
}

/// A listener's socket.
struct Bound {
    /// The real address; `None`: it could not be bound, and is tried again.
    real: Option<SocketAddr>,
    /// Where the host has no such address family, it is done without.
    may_lack: bool,
    lacks: bool,
}

impl Bound {
    fn is_missing(&self) -> bool {
        self.real.is_none() && !self.lacks
    }
}

impl Proxy {
    async fn start(bootstrap: Bootstrap, claim: Claim) -> anyhow::Result<Self> {
        let telemetry = Arc::new(Telemetry::new(&bootstrap.node, bootstrap.metrics_dialect));
        let dns = Arc::new(Dns::from_system());
        let (stage, staged) = watch::channel(Stage::Serving);
        let (stop_source, source_stopped) = watch::channel(false);
        let reserved: Reserved = Arc::default();
        let (pauses, paused) = mpsc::channel(1);
        let succession = Succession::new(claim, pauses)?;
        let keyring = Arc::new(Keyring::new(Origin::of(&bootstrap)));
        let common = Common {
            telemetry: Arc::clone(&telemetry),
            dns: Arc::clone(&dns),
            stage: staged.clone(),
            reserved: Arc::clone(&reserved),
            identity: Arc::clone(keyring.identity()),
            own: Workload::of(&bootstrap.node),
            credentials: bootstrap.credentials.as_path().into(),
            gate: succession.gate(),
        };
        let (workers, acceptor, threads) = start_workers(&bootstrap, &common)?;
        let Common { telemetry, identity, own, credentials, .. } = common;
        let sessions = Rc::new(Sessions::new(identity, Arc::clone(&telemetry), &own, credentials));
        let (ring, stopped) = (Arc::clone(&keyring), source_stopped.clone());
        tokio::task::spawn_local(start::keep(bootstrap.clone(), succession.ownership.clone(), ring, stopped));
        let link = watch::Sender::new(None);
        let links = link.subscribe();
        let (effective, status) = match &bootstrap.source {
            Source::ControlPlane(plane) => {
                let (node, state) = (bootstrap.node.clone(), bootstrap.state.clone());
                let access = start::access(plane, &keyring);
                let (link, telemetry) = ((link, paused), Arc::clone(&telemetry));
                source::control_plane(access, node, state, telemetry, link, source_stopped.clone())
            }
            Source::Rules(paths) => source::rules(paths.clone(), bootstrap.node.clone(), Arc::clone(&telemetry)),
        };
        let shared = Arc::new(Shared::new(telemetry, keyring, bootstrap.node.clone(), status, staged));
        let (node, random) = (bootstrap.node.clone(), Hooks::default().random);
        tokio::task::spawn_local(relay::run(links, node, Arc::clone(&shared), random, source_stopped));
        let (snapshots, current) = watch::channel(Arc::default());
        shared.registry.register(Box::new(ClusterMetrics::new(current.clone(), Arc::clone(&shared.telemetry))?))?;
        shared.registry.register(Box::new(LogMetrics::new(&shared.telemetry.logs)?))?;
        let spans = SpanMetrics::new(Arc::clone(&shared.telemetry.spans.figures))?;
        shared.registry.register(Box::new(spans))?;
        tokio::task::spawn_local(upkeep::look_for_outliers(current.clone()));
        let (merged, app) = pod::open(&bootstrap.pod, &succession.own, &shared, Arc::clone(&dns)).await?;
        let random = Rc::new(bootstrap.seed.map_or_else(Random::from_entropy, Random::seeded));
        tokio::task::spawn_local(health::keep_checking(current.clone(), Rc::clone(&sessions), Rc::clone(&random)));
        let exporter = Exporter::start(
            &shared.telemetry.spans,
            Setting { node: bootstrap.node.clone(), snapshots: current, tls: sessions, random },
        );
        let mut proxy = Self {
            has_certificate: shared.keyring.why_not_ready().is_none(),
            workers,
            acceptor,
            effective,
            names: Names::new(Arc::clone(&dns)),
            keys: RemoteKeys::new(Fetcher::from_system(dns), Arc::clone(&shared.telemetry), Random::from_entropy()),
            snapshot: Arc::default(),
            snapshots,
            bound: HashMap::new(),
            drained: Drained::default(),
            stage,
            ending: None,
            looks: None,
            app,
            stop_source,
            succession,
            settles: None,
            exporter,
            threads,
            bootstrap,
            shared,
        };
        let mut own = proxy.open_admin().await?;
        own.extend(merged);
        // Set once, before anything is configured and so before any request.
        let _ =
            reserved.set(own.into_iter().flat_map(|address| reached_at(address, proxy.bootstrap.node.ip)).collect());
        Ok(proxy)
    }

    /// Opens the addresses for operators, which no request may be sent to.
    async fn open_admin(&mut self) -> anyhow::Result<Vec<SocketAddr>> {
        let sockets = Rc::clone(&self.succession.own);
        let admin = admin::open(&sockets, self.bootstrap.admin, Arc::clone(&self.shared), admin::Face::All).await?;
        self.shared.set_admin(admin);
        let mut own = vec![admin];
        let (metrics, ready) = (self.bootstrap.metrics, self.bootstrap.ready);
        for (address, face) in [(metrics, admin::Face::Metrics), (ready, admin::Face::Ready)] {
            if let Some(address) = address {
                own.push(admin::open(&sockets, address, Arc::clone(&self.shared), face).await?);
            }
        }
        self.write_ports();
        Ok(own)
    }

    async fn serve(&mut self) -> anyhow::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut reopen = signal(SignalKind::user_defined1())?;
        let (mut rebind, mut forget) = (tokio::time::interval(REBIND), tokio::time::interval(FORGET));
        let began = Instant::now();
        let mut identity = self.shared.keyring.identity().changes();
        let mut listener_drains = self.shared.listener_drains();
        let reason = loop {
            tokio::select! {
                changed = self.effective.changed() => {
                    if changed.is_err() {
                        anyhow::bail!("the task that reads the rules has ended");
                    }
                    self.apply().await;
                }
                () = self.names.changed() => self.rebuild(true).await,
                () = self.keys.changed() => self.rebuild(true).await,
                // The keyring that sends lives as long as this.
                _ = identity.changed() => self.identity_changed().await,
                _ = rebind.tick() => self.bind_missing().await,
                // The sender lives as long as this.
                _ = listener_drains.changed() => {
                    let asked = *listener_drains.borrow_and_update();
                    self.drain_listeners(asked).await;
                }
                () = until(self.drained.due) => self.close_drained().await,
                _ = forget.tick() => self.shared.telemetry.sweep(began.elapsed().as_secs()),
                () = until(self.settles) => {
                    self.settles = None;
                    // Not needed again until the next change.
                    memory::forget_code();
                }
                _ = reopen.recv() => {
                    tracing::info!("opening the access log anew");
                    self.shared.telemetry.logs.reopen();
                }
                heard = self.succession.heard() => self.succeed(heard).await?,
                _ = terminate.recv() => self.begin_to_end(Asked::ByTheSystem)?,
                _ = interrupt.recv() => match self.ending {
                    None => self.begin_to_end(Asked::AtATerminal)?,
                    Some(_) => break None,
                },
                () = self.shared.quit_asked() => self.begin_to_end(Asked::ByTheSystem)?,
                () = until(self.looks) => if let Some(reason) = self.look_for_the_end().await {
                    break Some(reason);
                },
            }
        };
        self.close_down(reason).await;
        Ok(())
    }

    /// Takes what the source says should be in force.
    async fn apply(&mut self) {
        self.settles = Some(tokio::time::Instant::now() + SETTLED);
        let effective = self.effective.borrow_and_update().clone();
        self.names.want(&effective.resources);
        let roots = effective.resources.secrets.get(ir::Secret::ROOTS).cloned();
        self.shared.keyring.set_secret(roots, SystemTime::now());
        self.keys.want(&effective.resources);
        self.shared.set_effective(effective);
        self.rebuild(false).await;
    }

    /// Builds a snapshot and hands it to all workers, then opens and closes sockets to match.
    async fn rebuild(&mut self, names_or_keys_changed: bool) {
        let effective = self.shared.effective();
        let resources = Arc::clone(&effective.resources);
        if names_or_keys_changed
            && Arc::ptr_eq(&resources, &self.snapshot.resources)
            && self.snapshot.listeners.is_empty()
        {
            return;
        }
        let (resolved, keys) = (self.names.resolved(), self.keys.fetched());
        let snapshot = Arc::new(Snapshot::build(&self.snapshot, resources, &resolved, &keys));
        upkeep::take_over(&self.snapshot, &snapshot);
        self.snapshots.send_replace(Arc::clone(&snapshot));
        self.snapshot = Arc::clone(&snapshot);
        self.shared.set_snapshot(Arc::clone(&snapshot));
        self.close_gone().await;
        for worker in &self.workers {
            // An error means that the worker's thread has ended, which the process does not outlive.
            let _ = worker.commands.send(Command::Snapshot(Arc::clone(&snapshot))).await;
        }
        self.shared.telemetry.configured(SystemTime::now());
        self.open_new().await;
        if effective.complete && !self.shared.is_ready() {
            self.shared.set_ready();
            self.tell_readiness();
        }
        self.tell_that_it_could_serve().await;
    }

    /// Says once whether the proxy can serve now that it is configured. While the first certificate is on its way there
    /// is nothing to say yet.
    fn tell_readiness(&self) {
        match self.shared.why_not_ready() {
            None => {
                let (listeners, clusters) = (self.snapshot.listeners.len(), self.snapshot.clusters.len());
                tracing::info!(listeners, clusters, "ready");
            }
            Some(_) if self.shared.keyring.why_not_ready().is_some() => {}
            Some(reason) => tracing::warn!("configured, but not ready: {reason}"),
        }
    }

    /// The own certificate or the roots have changed.
    async fn identity_changed(&mut self) {
        let has_certificate = self.shared.keyring.why_not_ready().is_none();
        if !std::mem::replace(&mut self.has_certificate, has_certificate) && has_certificate && self.shared.is_ready() {
            self.tell_readiness();
        }
        self.tell_that_it_could_serve().await;
    }

    /// Closes what is gone, before the workers forget it: who waits in a socket's queue is still served. A listener whose
    /// address changed is both gone and new.
    async fn close_gone(&mut self) {
        let listeners = &self.snapshot.listeners;
        let stays = |(name, address): &Door| {
            let listener = listeners.get(&**name).map(|listener| &listener.config);
            listener.is_some_and(|one| one.intake.has_sockets() && one.addresses().any(|asked| asked == *address))
        };
        let gone: Vec<Door> = self.bound.keys().filter(|door| !stays(door)).cloned().collect();
        for door in gone {
            self.bound.remove(&door);
            self.close(door).await;
        }
    }

    async fn close(&self, door: Door) {
        let (done, closed) = oneshot::channel();
        // An error means that the acceptor's thread has ended, and with it the process.
        let _ = self.acceptor.send(AcceptorCommand::Close(door, done)).await;
        let _ = tokio::time::timeout(CLOSE, closed).await;
    }

    async fn open_new(&mut self) {
        if self.succession.is_over() {
            return;
        }
        let open = self.snapshot.listeners.iter().filter(|(_, one)| !self.drained.is_closed(one.config.direction));
        for (name, listener) in open {
            let sockets = listener.config.intake.has_sockets().then(|| listener.config.addresses());
            for asked in sockets.into_iter().flatten() {
                let may_lack = asked != listener.config.address;
                let missing = Bound { real: None, may_lack, lacks: false };
                self.bound.entry((Arc::from(name.as_str()), asked)).or_insert(missing);
            }
        }
        self.bind_missing().await;
        self.write_ports();
    }

    async fn bind_missing(&mut self) {
        let mut opened = false;
        for (door, bound) in self.bound.iter_mut().filter(|(_, bound)| bound.is_missing()) {
            let (name, address) = door;
            match self.succession.socket(door) {
                Ok((real, socket)) => {
                    bound.real = Some(real);
                    opened = true;
                    let _ = self.acceptor.send(AcceptorCommand::Listen(door.clone(), socket)).await;
                }
                Err(error) if bound.may_lack && accept::is_of_the_host(&error) => {
                    bound.lacks = true;
                    tracing::info!(listener = %name, %address, %error, "this host lacks the address family, so it is left out");
                }
                Err(error) => {
                    tracing::warn!(listener = %name, %address, %error, "cannot listen; trying again");
                }
            }
        }
        let unbound = self.bound.iter().filter(|(_, bound)| bound.is_missing()).map(|((name, _), _)| name.to_string());
        self.shared.set_unbound(unbound.collect());
        if opened {
            self.write_ports();
        }
    }

    /// Tells where everything listens: with port 0, nobody else knows.
    fn write_ports(&self) {
        let mut listeners = BTreeMap::new();
        for ((name, _), bound) in &self.bound {
            // Of several sockets, the first one of the listener is told.
            if let Some(real) = bound.real.filter(|_| !bound.may_lack || !listeners.contains_key(&**name)) {
                listeners.insert(name.to_string(), real);
            }
        }
        self.shared.set_bound(listeners.clone());
        let Some(state) = self.bootstrap.state.as_ref().filter(|_| self.succession.is_in_charge()) else { return };
        let listeners: BTreeMap<String, String> =
            listeners.into_iter().map(|(name, real)| (name, real.to_string())).collect();
        let ports = serde_json::json!({ "admin": self.shared.admin_address(), "listeners": listeners });
        if let Err(error) = write_atomically(state, "ports.json", ports.to_string().as_bytes()) {
            tracing::warn!(%error, state = %state.display(), "cannot write ports.json");
        }
    }
}

/// Under which addresses a socket is reached from this pod.
fn reached_at(bound: SocketAddr, own: IpAddr) -> Vec<SocketAddr> {
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST), own];
    let others = loopback.into_iter().filter(|_| bound.ip().is_unspecified());
    others.map(|ip| SocketAddr::new(ip, bound.port())).chain([bound]).collect()
}

/// Ready at that time; never without one.
async fn until(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Writes a file so that a reader sees either the old one or the new one.
fn write_atomically(directory: &Path, name: &str, contents: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let temporary: PathBuf = directory.join(format!(".{name}.new"));
    std::fs::write(&temporary, contents)?;
    std::fs::rename(temporary, directory.join(name))
}

type Started = (Vec<WorkerPort>, mpsc::Sender<AcceptorCommand>, Vec<JoinHandle<()>>);

/// What every worker gets.
#[derive(Clone)]
struct Common {
    telemetry: Arc<Telemetry>,
    dns: Arc<Dns>,
    stage: watch::Receiver<Stage>,
    reserved: Reserved,
    identity: Arc<Identity>,
    own: Workload,
    credentials: Arc<Path>,
    gate: watch::Receiver<Gate>,
}

/// One worker accepts in place; several have an acceptor beside them.
fn start_workers(bootstrap: &Bootstrap, common: &Common) -> anyhow::Result<Started> {
    let count = bootstrap.workers;
    let (acceptor, acceptor_commands) = mpsc::channel(QUEUE);
    let mut acceptor_commands = Some(acceptor_commands);
    let mut threads = Vec::new();
    let mut workers = Vec::new();
    let stats: Vec<_> = (0..count).map(|_| common.telemetry.worker()).collect();
    let overload = Overload::new(bootstrap.limits, stats.clone());
    common.telemetry.watch(&overload);
    let (given_up, opened) = (Arc::<GivenUp>::default(), Arc::<Opened>::default());
    for (index, stats) in stats.into_iter().enumerate() {
        let (commands, inbox) = mpsc::channel(QUEUE);
        workers.push(WorkerPort { commands, stats: Arc::clone(&stats) });
        let Common { telemetry, dns, stage, reserved, identity, own, credentials, gate } = common.clone();
        let (limits, given_up, opened) = (Arc::clone(&overload), Arc::clone(&given_up), Arc::clone(&opened));
        let accepts = acceptor_commands.take_if(|_| count == 1);
        let seed = bootstrap.seed.map(|seed| seed.wrapping_add(index as u64));
        threads.push(thread(&format!("leno-worker-{index}"), move || async move {
            let random = seed.map_or_else(Random::from_entropy, Random::seeded);
            let tls = Sessions::new(identity, Arc::clone(&telemetry), &own, credentials);
            let figures = Figures { telemetry, stats, overload: Arc::clone(&limits), given_up, opened };
            let worker = Worker::new(figures, dns, stage, reserved, tls, random);
            if let Some(commands) = accepts {
                tokio::task::spawn_local(accept::run(commands, Hand::InPlace(Rc::clone(&worker)), limits, gate));
            }
            worker.run(inbox).await;
        })?);
    }
    if let Some(commands) = acceptor_commands {
        let (hand, gate) = (workers.clone(), common.gate.clone());
        threads.push(thread("leno-acceptor", move || accept::run(commands, Hand::Over(hand), overload, gate))?);
    }
    Ok((workers, acceptor, threads))
}

fn thread<F, W>(name: &str, work: W) -> anyhow::Result<JoinHandle<()>>
where
    F: Future<Output = ()>,
    W: FnOnce() -> F + Send + 'static,
{
    let runtime_failed = "the system has no room for another event loop";
    Ok(std::thread::Builder::new().name(name.to_owned()).spawn(move || match runtime() {
        Ok(runtime) => runtime.block_on(work()),
        Err(error) => tracing::error!(%error, "{runtime_failed}"),
    })?)
}

/// Whether a resource is one that this version must refuse: what would protect and cannot be done.
pub fn refuse(decoded: &leno_config::xds::Decoded) -> Option<leno_config::xds::Refusal> {
    match decoded {
        leno_config::xds::Decoded::Secret(secret) => refuse_secret(secret),
        leno_config::xds::Decoded::Cluster(_)
        | leno_config::xds::Decoded::Endpoints(_)
        | leno_config::xds::Decoded::Listener(_)
        | leno_config::xds::Decoded::Route(_) => None,
    }
}

/// Roots that nobody could be verified by would end all encryption; the ones before stay.
fn refuse_secret(secret: &ir::Secret) -> Option<leno_config::xds::Refusal> {
    let reason = crate::identity::Trust::from_secret(secret, "").err()?.to_string();
    Some(leno_config::xds::Refusal { resource: secret.name.clone(), field: "validation_context".to_owned(), reason })
}
