//! One worker: a thread with its own runtime, its own view of the snapshot, its own connection pools.
//!
//! Nothing here is shared with another worker but counters, so nothing is locked on the request path. A push reaches
//! the worker as a message; it swaps its view, keeps the pools of endpoints that are still there and closes the others.
//! Requests that began before keep the view they began with.

mod census;
mod cluster;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use leno_config::ir;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::admin::ListenerDrain;
use crate::attempt::given_up::GivenUp;
use crate::dns::Dns;
use crate::downstream::{self, Connection, Life, review};
use crate::overload::budget::Pressure;
use crate::overload::reached::Reached;
use crate::overload::{Entry, Overload};
use crate::policy::enforce::Memory;
use crate::random::Random;
use crate::stage::Stage;
use crate::state::captured::Captured;
use crate::state::snapshot::{Listener, Snapshot};
use crate::telemetry::log::{self, Desks, OpenLogs};
use crate::telemetry::tap::WorkerTaps;
use crate::telemetry::trace::export::traced;
use crate::telemetry::{Meters, Quiet, RouteNames, Telemetry, WorkerStats};
use crate::tls::Sessions;
use crate::upstream::opened::Opened;

pub use cluster::WorkerCluster;

pub use census::Census;

/// Addresses of this process that are for operators: no request may be sent there. Known once admin is open.
pub type Reserved = Arc<OnceLock<Vec<SocketAddr>>>;

/// What a worker is told.
#[derive(Debug)]
pub enum Command {
    /// A connection for it, and the name of the listener that accepted it.
    Connection(std::net::TcpStream, SocketAddr, Arc<str>, ConnectionCount),
    /// A new configuration.
    Snapshot(Arc<Snapshot>),
    /// The connections of these listeners are to end well.
    Drain(ListenerDrain),
    /// There is no more time: what is under way ends now.
    GiveUp,
    /// How much is under way is to be said.
    Count(oneshot::Sender<Census>),
    /// The end is near: lines of logs are handed over, which is then said.
    HandOverLogs(oneshot::Sender<()>),
}

/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// What a worker counts with.
#[derive(Debug)]
pub struct Figures {
    /// Counts what is rare.
    pub telemetry: Arc<Telemetry>,
    /// Its own.
    pub stats: Arc<WorkerStats>,
    /// What the process takes on at once.
    pub overload: Arc<Overload>,
    /// Failures that the own app was given.
    pub given_up: Arc<GivenUp>,
    /// The connections that it has opened.
    pub opened: Arc<Opened>,
}

/// What all tasks of a worker share.
#[derive(Debug)]
pub struct Worker {
    /// For balancing, splits and request ids.
    pub random: Random,
    /// Figures of this worker.
    pub stats: Arc<WorkerStats>,
    /// Names outside the mesh.
    pub dns: Arc<Dns>,
    /// How far the end of the process has come.
    pub stage: watch::Receiver<Stage>,
    /// Where no request may be sent.
    pub reserved: Reserved,
    /// What the process takes on at once.
    pub overload: Arc<Overload>,
    /// For handshakes with callers and endpoints.
    pub tls: Rc<Sessions>,
    /// Failures that the own app was given, of the whole process.
    pub given_up: Arc<GivenUp>,
    /// The connections to endpoints that the whole process has opened, for the loop guard.
    pub opened: Arc<Opened>,
    /// What policies remember.
    pub policy: Memory,
    /// Lines that were not handed over yet.
    pub logs: Rc<Desks>,
    telemetry: Arc<Telemetry>,
    /// Who wants to see live traffic.
    pub taps: WorkerTaps,
    /// Counts requests and connections.
    pub meters: Meters,
    began: Instant,
    /// Keeps the log readable when many callers are refused.
    pub quiet: Quiet,
    lives: RefCell<Vec<Weak<Life>>>,
    connections: RefCell<Vec<Weak<Connection>>>,
    /// The generation of the identity for which connections were looked at last.
    reviewed: Cell<u64>,
    snapshot: RefCell<Rc<View>>,
    listeners: RefCell<HashMap<Arc<str>, Rc<ListenerHandle>>>,
    /// Those that are handed captured connections.
    captured: RefCell<Captured<Rc<ListenerHandle>>>,
}

/// A snapshot with this worker's own state of its clusters.
#[derive(Debug, Default)]
pub struct View {
    /// What all workers see.
    pub shared: Arc<Snapshot>,
    /// By the index of [`Snapshot::clusters`].
    pub clusters: Vec<Rc<WorkerCluster>>,
}

/// A listener as its connections hold it; what it does changes under them with each push.
#[derive(Debug)]
pub struct ListenerHandle {
    current: RefCell<Rc<ListenerView>>,
    /// Turns true when the listener is gone: its connections drain.
    closing: watch::Sender<bool>,
}

/// What a listener does, with the one snapshot that a request sees.
#[derive(Debug)]
pub struct ListenerView {
    /// The snapshot.
    pub view: Rc<View>,
    /// The listener in it.
    pub listener: Arc<Listener>,
    /// Where its logs go, in the order of [`ir::AccessLogs`].
    pub logs: OpenLogs,
    /// What each route is counted as, found at its first request.
    names: Box<[OnceCell<RouteNames>]>,
}

impl ListenerHandle {
    /// What it does now.
    pub fn view(&self) -> Rc<ListenerView> {
        Rc::clone(&self.current.borrow())
    }

    /// Turns true when the listener is gone.
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }
}

impl ListenerView {
    /// Whether somebody wants to know more of its requests than their figures: a log or a trace. Taps are the worker's.
    pub fn wants_detail(&self) -> bool {
        !self.logs.is_empty()
    }

    /// How its requests are traced; `None`: not at all.
    pub fn tracing(&self) -> Option<&ir::Tracing> {
        traced(&self.listener).map(|(tracing, _)| tracing)
    }

    /// Tells what requests of a route are counted as: its rule, else its virtual host.
    pub fn named(&self, worker: &Worker, (host, route): (usize, usize), tell: impl FnOnce(&RouteNames)) {
        let Some(http) = self.listener.http() else { return };
        let Some(names) = http.table.position(host, route).and_then(|at| self.names.get(at)) else { return };
        tell(names.get_or_init(|| {
            let rule = http.table.route(host, route).and_then(|route| route.origin.as_ref()).map(ToString::to_string);
            let host = http.table.config().virtual_hosts.get(host).map(|host| host.name.as_str());
            worker.meters.labels().route(rule, host.unwrap_or_default())
        }));
    }
}

impl Worker {
    /// A worker with nothing to do yet.
    pub fn new(
        Figures { telemetry, stats, overload, given_up, opened }: Figures,
        dns: Arc<Dns>,
        stage: watch::Receiver<Stage>,
        reserved: Reserved,
        tls: Sessions,
        random: Random,
    ) -> Rc<Self> {
        Rc::new(Self {
            random,
            stats,
            dns,
            stage,
            reserved,
            overload,
            given_up,
            opened,
            captured: RefCell::default(),
            tls: Rc::new(tls),
            policy: Memory::default(),
            logs: Rc::new(Desks::new(Arc::clone(&telemetry.logs))),
            meters: Meters::new(&telemetry),
            began: Instant::now(),
            telemetry,
            taps: WorkerTaps::default(),
            quiet: Quiet::default(),
            lives: RefCell::default(),
            connections: RefCell::default(),
            reviewed: Cell::new(0),
            snapshot: RefCell::default(),
            listeners: RefCell::default(),
        })
    }

    /// Does what it is told until the other end is gone.
    pub async fn run(self: Rc<Self>, mut commands: mpsc::Receiver<Command>) {
        let logs = Rc::clone(&self.logs);
        tokio::task::spawn_local(async move { logs.keep_handing_over().await });
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut taps = self.telemetry.taps.watch();
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Connection(stream, peer, listener, counted)) => {
                        self.adopt(stream, peer, &listener, counted);
                    }
                    Some(Command::Snapshot(snapshot)) => self.apply(snapshot),
                    Some(Command::Drain(asked)) => self.drain_listeners(asked),
                    Some(Command::GiveUp) => self.lives.borrow().iter().filter_map(Weak::upgrade).for_each(|life| life.give_up()),
                    Some(Command::Count(said)) => drop(said.send(self.census())),
                    Some(Command::HandOverLogs(done)) => {
                        self.logs.hand_over();
                        // An error means that nobody waits any more.
                        let _ = done.send(());
                    }
                    None => return,
                },
                // The sender lives as long as the worker's telemetry.
                _ = taps.changed() => self.taps.set(Arc::clone(&taps.borrow_and_update())),
                now = sweep.tick() => self.sweep(now),
            }
        }
    }

    /// Asks the connections of some listeners to end, also those that still come.
    fn drain_listeners(&self, asked: ListenerDrain) {
        for listener in self.listeners.borrow().values() {
            if asked.of(listener.current.borrow().listener.config.direction).is_some() {
                listener.closing.send_replace(true);
            }
        }
    }

    /// Serves a connection that another thread accepted.
    fn adopt(self: &Rc<Self>, stream: std::net::TcpStream, peer: SocketAddr, listener: &str, counted: ConnectionCount) {
        match TcpStream::from_std(stream) {
            Ok(stream) => self.serve(stream, peer, listener, counted),
            Err(error) => tracing::debug!(%peer, %error, "a connection was lost on its way to a worker"),
        }
    }

    /// Serves a connection.
    pub fn serve(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, listener: &str, counted: ConnectionCount) {
        let Some(listener) = self.listeners.borrow().get(listener).cloned() else { return };
        tokio::task::spawn_local(downstream::serve(Rc::clone(self), listener, stream, peer, counted));
    }

    /// The listener that a captured connection is handed to; `None`: it stays where it is.
    pub fn captured(&self, direction: ir::Direction, meant: SocketAddr) -> Option<Rc<ListenerHandle>> {
        self.captured.borrow().find(direction, meant).cloned()
    }

    /// Puts a configuration in force.
    pub fn apply(&self, snapshot: Arc<Snapshot>) {
        let before = Rc::clone(&self.snapshot.borrow());
        let clusters = snapshot
            .clusters
            .iter()
            .map(|cluster| {
                let old = before.shared.index_of(cluster.config.name.as_str());
                WorkerCluster::new(Arc::clone(cluster), old.and_then(|index| before.clusters.get(index)))
            })
            .collect();
        close_removed(&before, &snapshot);
        let view = Rc::new(View { shared: Arc::clone(&snapshot), clusters });
        *self.snapshot.borrow_mut() = Rc::clone(&view);
        let mut listeners = self.listeners.borrow_mut();
        listeners.retain(|name, handle| {
            let stays = snapshot.listeners.contains_key(&**name);
            if !stays {
                handle.closing.send_replace(true);
            }
            stays
        });
        let mut rules_changed = false;
        for (name, listener) in &snapshot.listeners {
            rules_changed |= before.shared.listeners.get(name).is_some_and(|old| review::differs(old, listener));
            let current = Rc::new(ListenerView::new(Rc::clone(&view), Arc::clone(listener), &self.logs));
            match listeners.get(name.as_str()) {
                Some(handle) => *handle.current.borrow_mut() = current,
                None => {
                    let handle = ListenerHandle { current: RefCell::new(current), closing: watch::channel(false).0 };
                    listeners.insert(name.as_str().into(), Rc::new(handle));
                }
            }
        }
        let mut captured = Captured::default();
        for (name, listener) in &snapshot.listeners {
            if let Some(handle) = listeners.get(name.as_str()) {
                captured.add(&listener.config, handle);
            }
        }
        *self.captured.borrow_mut() = captured;
        drop(listeners);
        self.opened.want(snapshot.captures_outbound());
        if rules_changed {
            self.review();
        }
    }

    /// The configuration in force.
    pub fn view(&self) -> Rc<View> {
        Rc::clone(&self.snapshot.borrow())
    }

    /// Counts what is rare.
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// A connection was let in.
    pub fn entered(&self, connection: &Rc<Connection>) {
        self.connections.borrow_mut().push(Rc::downgrade(connection));
    }

    /// Ends the connections of callers who would no longer be let in, and gives up those to endpoints that are no longer
    /// believed.
    fn review(&self) {
        for connection in self.connections.borrow().iter().filter_map(Weak::upgrade) {
            review::review(&connection);
        }
        for cluster in &self.snapshot.borrow().clusters {
            cluster.each_pool(|pool| pool.review());
        }
    }

    /// From now on, looks at a connection once a second.
    pub fn watch(&self, life: Rc<Life>) -> Rc<Life> {
        self.lives.borrow_mut().push(Rc::downgrade(&life));
        life
    }

    /// Ends the stream of all connections whose answer has waited longest for its caller, and holds memory meanwhile.
    fn end_heaviest(&self) {
        let lives = self.lives.borrow();
        let living = lives.iter().filter_map(Weak::upgrade).filter_map(|life| Some((life.heaviest_answer()?, life)));
        if let Some((_, life)) = living.max_by_key(|(weight, _)| *weight)
            && life.end_heaviest()
        {
            self.overload.reached.add(Reached::MemoryFull);
        }
    }

    fn sweep(&self, now: Instant) {
        let Overload { reached, budget, .. } = &*self.overload;
        let (limits, pressure) = (self.overload.limits(), budget.pressure());
        self.meters.tick(now.saturating_duration_since(self.began).as_secs());
        let generation = self.tls.generation();
        if self.reviewed.replace(generation) != generation {
            self.review();
        }
        self.connections.borrow_mut().retain(|connection| connection.strong_count() > 0);
        self.lives.borrow_mut().retain(|life| {
            let living = life.upgrade();
            if let Some(life) = &living {
                life.look(&limits.patience, pressure, |limit| reached.add(limit));
                life.refill(&limits.http2.control);
            }
            living.is_some()
        });
        if pressure == Pressure::Full {
            self.end_heaviest();
        }
        for cluster in &self.snapshot.borrow().clusters {
            cluster.sweep(now);
        }
    }
}

/// Idle connections of clusters that are gone close now.
fn close_removed(before: &View, snapshot: &Snapshot) {
    for old in &before.clusters {
        if snapshot.cluster_named(old.shared.config.name.as_str()).is_none() {
            old.each_pool(|pool| pool.close());
        }
    }
}

impl ListenerView {
    fn new(view: Rc<View>, listener: Arc<Listener>, desks: &Desks) -> Self {
        let logs = log::open(desks, &listener.config.access_logs.logs);
        let routes = listener.http().map_or(0, |http| http.table.len());
        Self { view, listener, logs, names: (0..routes).map(|_| OnceCell::new()).collect() }
    }
}

/// One connection from a caller; ends with the guard.
#[derive(Debug)]
pub struct ConnectionCount {
    stats: Arc<WorkerStats>,
    surplus: bool,
}

impl ConnectionCount {
    /// One more.
    pub fn new(stats: Arc<WorkerStats>, entry: Entry) -> Self {
        stats.connections_active.fetch_add(1, Ordering::Relaxed);
        stats.connections_total.fetch_add(1, Ordering::Relaxed);
        Self { stats, surplus: entry != Entry::Free }
    }
}

impl ConnectionCount {
    /// Whether it was let in only to be told that there are too many.
    pub fn is_surplus(&self) -> bool {
        self.surplus
    }
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.stats.connections_active.fetch_sub(1, Ordering::Relaxed);
        if std::thread::panicking() {
            self.stats.panics.fetch_add(1, Ordering::Relaxed);
        }
    }
}
