//! Who is connected, and how a new generation of the rules reaches them.
//!
//! Every stream waits on the same [`watch`] channel, which holds the newest generation only: a stream that is busy or
//! slow misses those in between and never queues any. What a proxy is to hold is worked out by the generation, once for
//! all proxies of the same scope.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use leno_config::mesh::Key;
use leno_config::node::Node;
use leno_config::xds::{Dialect, Kind};
use tokio::sync::watch;

use super::edits::{Edits, Settled};
use super::session::Session;
use super::variant::Protocol;
use crate::generation::Generation;
use crate::metrics::Metrics;

/// Most proxies that are connected at a time.
pub(crate) const MAX_STREAMS: usize = 20_000;

/// All streams of this process and what they wait for.
#[derive(Debug)]
pub(crate) struct Hub {
    /// `None` before the first complete load.
    newest: watch::Sender<Option<Arc<Generation>>>,
    /// Set once, when the process stops.
    stopping: watch::Sender<bool>,
    streams: Mutex<BTreeMap<u64, Arc<Stream>>>,
    next_stream: AtomicU64,
    edits: Mutex<Edits>,
    metrics: Metrics,
}

/// One connected proxy.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) node: Node,
    pub(crate) protocol: Protocol,
    /// In whose words it is spoken to.
    pub(crate) dialect: Dialect,
    pub(crate) connected: SystemTime,
    session: Mutex<Session>,
    /// Number of the newest generation that the session was given; 0: none.
    given: AtomicU64,
    /// Number of the newest generation of which the proxy has answered everything; 0: none.
    answered: AtomicU64,
    /// What it refuses at this moment.
    refusals: Mutex<BTreeMap<Kind, Refusal>>,
}

/// Resources of a kind that a proxy does not take.
#[derive(Debug)]
struct Refusal {
    text: Arc<str>,
    /// The newest generation of which it has all resources of the kind.
    good: u64,
}

/// How far a rule has come among the proxies that are connected.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Proxies that have it.
    pub(crate) has: usize,
    /// Proxies.
    pub(crate) of: usize,
    /// Those that have refused something that it may be part of: name, and why.
    pub(crate) refused: Vec<(String, Arc<str>)>,
}

/// More proxies than one process serves.
#[derive(Debug, thiserror::Error)]
#[error("{MAX_STREAMS} proxies are connected already; start another control plane over the same rules")]
pub(crate) struct Full;

impl Hub {
    /// Nobody is connected and nothing is known.
    pub(crate) fn new(metrics: Metrics) -> Arc<Self> {
        let hub = Arc::new(Self {
            newest: watch::Sender::new(None),
            stopping: watch::Sender::new(false),
            streams: Mutex::default(),
            next_stream: AtomicU64::new(0),
            edits: Mutex::default(),
            metrics,
        });
        hub.metrics.watch(Arc::downgrade(&hub));
        hub
    }

    /// From now on this is what proxies are to hold.
    pub(crate) fn publish(&self, generation: Arc<Generation>) {
        self.newest.send_replace(Some(generation));
    }

    /// The same for a generation that makes no difference to anybody who is connected: nobody is woken.
    pub(crate) fn put(&self, generation: Arc<Generation>) {
        self.newest.send_if_modified(|newest| {
            *newest = Some(generation);
            false
        });
    }

    /// Pods whose proxies are connected.
    pub(crate) fn names(&self) -> HashSet<Key> {
        let streams = lock(&self.streams);
        let key = |stream: &Arc<Stream>| Key::new(stream.node.namespace.as_str(), stream.node.name.as_str());
        streams.values().map(key).collect()
    }

    /// The same for a generation that an edit made, which was noticed at this time.
    pub(crate) fn publish_edit(&self, generation: Arc<Generation>, noticed: Instant) {
        let streams = lock(&self.streams).keys().copied().collect::<Vec<_>>();
        lock(&self.edits).begin(generation.number(), noticed, streams.into_iter());
        self.publish(generation);
    }

    /// The newest generation, and word of every later one.
    pub(crate) fn generations(&self) -> watch::Receiver<Option<Arc<Generation>>> {
        self.newest.subscribe()
    }

    /// The newest generation as it is now.
    pub(crate) fn newest(&self) -> Option<Arc<Generation>> {
        self.newest.borrow().clone()
    }

    /// Ends all streams.
    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Resolves when [`Hub::stop`] was called.
    pub(crate) async fn stopped(&self) {
        // The sender lives as long as the hub, so that the only way to return is the wanted one.
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }

    /// Whether [`Hub::stop`] was called.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Enters a proxy into the list; it leaves it when the returned value is dropped.
    pub(crate) fn connect(
        self: &Arc<Self>,
        node: Node,
        (protocol, dialect): (Protocol, Dialect),
        now: Instant,
    ) -> Result<Connection, Full> {
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let session = Mutex::new(protocol.session(now));
        let stream = Arc::new(Stream {
            node,
            protocol,
            dialect,
            connected: SystemTime::now(),
            session,
            given: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            refusals: Mutex::default(),
        });
        let mut streams = lock(&self.streams);
        if streams.len() >= MAX_STREAMS {
            return Err(Full);
        }
        streams.insert(id, Arc::clone(&stream));
        Ok(Connection { hub: Arc::clone(self), id, stream })
    }

    /// Who has what came into force with generation `since`. Resources of a kind count where it may be `part` of them.
    pub(crate) fn reach(&self, since: u64, part: impl Fn(Kind) -> bool) -> Reach {
        let mut reach = Reach::default();
        for stream in lock(&self.streams).values() {
            reach.of += 1;
            match stream.lacks(since, &part) {
                _ if stream.answered.load(Ordering::Relaxed) < since => {}
                Some(text) => reach.refused.push((format!("{}.{}", stream.node.name, stream.node.namespace), text)),
                None => reach.has += 1,
            }
        }
        reach
    }

    /// Everyone who is connected, in the order of connecting.
    pub(crate) fn streams(&self) -> Vec<Arc<Stream>> {
        lock(&self.streams).values().cloned().collect()
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn count(&self, settled: &Settled) {
        settled.proxy.iter().for_each(|after| self.metrics.proxy_converged(*after));
        settled.edits.iter().for_each(|after| self.metrics.converged(*after));
    }
}

impl Stream {
    /// The state of the stream, for a moment: never across an await.
    pub(crate) fn session(&self) -> MutexGuard<'_, Session> {
        lock(&self.session)
    }

    /// Notes that the session was given what this generation makes for it.
    pub(crate) fn was_given(&self, number: u64) {
        self.given.store(number, Ordering::Relaxed);
    }

    /// Notes that the proxy refuses resources of a kind, for this reason. What it had of the generation that it answered
    /// last it keeps, however many it refuses from now on.
    pub(crate) fn refuses(&self, kind: Kind, text: &str) {
        let good = self.answered.load(Ordering::Relaxed);
        let text = Arc::<str>::from(text);
        let mut refusals = lock(&self.refusals);
        let refusal = Refusal { text: Arc::clone(&text), good };
        refusals.entry(kind).or_insert(refusal).text = text;
    }

    /// Notes that everything up to this generation is answered, and forgets refusals of what has been replaced.
    fn has_answered(&self, number: u64) {
        self.answered.store(number, Ordering::Relaxed);
        let mut refusals = lock(&self.refusals);
        if !refusals.is_empty() {
            let session = self.session();
            refusals.retain(|kind, _| session.refuses(*kind));
        }
    }

    /// Why it lacks what came into force with generation `since`, if it has refused it.
    fn lacks(&self, since: u64, part: &impl Fn(Kind) -> bool) -> Option<Arc<str>> {
        let refusals = lock(&self.refusals);
        let lacking = refusals.iter().find(|(kind, refusal)| refusal.good < since && part(**kind));
        lacking.map(|(_, refusal)| Arc::clone(&refusal.text))
    }

    /// Whether something is ready for it and not sent, where this is the newest generation.
    pub(crate) fn waits_for(&self, newest: u64) -> bool {
        self.given.load(Ordering::Relaxed) < newest || self.session().has_something_due()
    }
}

/// A proxy's place in the list.
#[derive(Debug)]
pub(crate) struct Connection {
    hub: Arc<Hub>,
    id: u64,
    pub(crate) stream: Arc<Stream>,
}

impl Connection {
    /// Notes that the proxy has answered all that the generation it was given makes for it. `settled` is the newest of
    /// which that is known, so that it is told once.
    pub(crate) fn settle(&self, settled: &mut u64, now: Instant) {
        let given = self.stream.given.load(Ordering::Relaxed);
        if given > *settled && self.stream.session().is_settled() {
            *settled = given;
            self.stream.has_answered(given);
            let answered = lock(&self.hub.edits).answered(self.id, given, now);
            self.hub.count(&answered);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        lock(&self.hub.streams).remove(&self.id);
        let left = lock(&self.hub.edits).left(self.id);
        self.hub.count(&left);
    }
}

/// The data behind these locks is whole between two statements, so that a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
