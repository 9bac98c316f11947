//! What the connections of one server share.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;

use super::callers::Callers;
use super::faults::Ledger;
use super::kinds::Catalogue;
use super::schema::{Rule, Rules};
use super::store::Store;
use super::tokens::Tokens;
use crate::random::Random;

/// Letters of generated names, without those that make words (Kubernetes' `rand.SafeEncodeString`).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The first address that is given to a service.
const FIRST_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// Of one server.
pub(super) struct State {
    world: Mutex<World>,
    signals: watch::Sender<Signals>,
    pub(super) ledger: Ledger,
    pub(super) callers: Callers,
    pub(super) settings: Settings,
    pub(super) tokens: Tokens,
    /// Certificate of the authority, PEM, which every namespace is told.
    pub(super) ca: String,
    rules: Mutex<Rules>,
    /// Where the services of webhooks really are: by namespace, name and port.
    services: Mutex<BTreeMap<(String, String, u16), SocketAddr>>,
    next_service: AtomicU32,
    random: Mutex<Random>,
    /// Milliseconds that the clock is ahead of the machine's.
    ahead: AtomicI64,
    /// Whether roles count.
    authorizes: AtomicBool,
}

/// What is remembered, and which kinds there are.
#[derive(Debug)]
pub(super) struct World {
    pub(super) store: Store,
    pub(super) catalogue: Catalogue,
}

/// How a server differs from the usual one.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    /// EndpointSlices may name 127/8 and `::1`, which the real server refuses.
    pub(super) loopback_endpoints: bool,
    /// The first objects of a new custom resource wait, as they do in the real server.
    pub(super) warm_up: Duration,
}

/// What makes watches look up. Each number only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signals {
    /// Version of the store.
    pub(super) version: u64,
    /// How often watches were told that they expired.
    pub(super) expired: u64,
    /// How often watches were cut.
    pub(super) dropped: u64,
    /// How often bookmarks were asked for.
    pub(super) bookmarks: u64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl State {
    /// A cluster without an object.
    pub(super) fn new(settings: Settings, ca: String) -> Self {
        let mut store = Store::new();
        let catalogue = Catalogue::built_in();
        for kind in catalogue.kinds() {
            store.serve(&kind.key());
        }
        let signals = Signals { version: store.version(), expired: 0, dropped: 0, bookmarks: 0 };
        // Names need not come back with a seed: no test may depend on them.
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
        let token = format!("admin-{seed:016x}");
        Self {
            callers: Callers::new(token),
            world: Mutex::new(World { store, catalogue }),
            signals: watch::Sender::new(signals),
            ledger: Ledger::default(),
            settings,
            tokens: Tokens::default(),
            ca,
            rules: Mutex::default(),
            services: Mutex::default(),
            next_service: AtomicU32::new(FIRST_SERVICE.into()),
            random: Mutex::new(Random::new(seed)),
            ahead: AtomicI64::new(0),
            authorizes: AtomicBool::new(false),
        }
    }

    /// Everything, to be read or changed at once; never held across an await. Changes go through [`change`](Self::change).
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something and tells the watches.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.world();
        let changed = change(&mut world);
        let version = world.store.version();
        // Under the lock, so that the version never goes back.
        self.signals.send_modify(|signals| signals.version = version);
        changed
    }

    /// What watches listen to.
    pub(super) fn signals(&self) -> watch::Receiver<Signals> {
        self.signals.subscribe()
    }

    /// Tells the watches something else.
    pub(super) fn signal(&self, signal: impl FnOnce(&mut Signals)) {
        self.signals.send_modify(signal);
    }

    /// The time of this server.
    pub(super) fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + time::Duration::milliseconds(self.ahead.load(Ordering::Relaxed))
    }

    /// Puts the clock forward.
    pub(super) fn advance(&self, by: Duration) {
        self.ahead.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Whether roles count.
    pub(super) fn authorizes(&self) -> bool {
        self.authorizes.load(Ordering::Relaxed)
    }

    /// Lets roles count from now on.
    pub(super) fn authorize(&self) {
        self.authorizes.store(true, Ordering::Relaxed);
    }

    /// What the rules in CEL mean.
    pub(super) fn rules(&self) -> Rules {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says what a rule in CEL means.
    pub(super) fn rule(&self, text: &str, holds: Rule) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned(), holds);
    }

    /// Where a service really is.
    pub(super) fn service(&self, namespace: &str, name: &str, port: u16) -> Option<SocketAddr> {
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.get(&(namespace.to_owned(), name.to_owned(), port)).copied()
    }

    /// Says where a service really is.
    pub(super) fn route(&self, namespace: &str, name: &str, port: u16, address: SocketAddr) {
        let key = (namespace.to_owned(), name.to_owned(), port);
        self.services.lock().unwrap_or_else(PoisonError::into_inner).insert(key, address);
    }

    /// The next address of a service.
    pub(super) fn cluster_ip(&self) -> String {
        Ipv4Addr::from(self.next_service.fetch_add(1, Ordering::Relaxed)).to_string()
    }

    /// Five letters at the end of a name.
    pub(super) fn suffix(&self) -> String {
        let mut random = self.random();
        (0..5).map(|_| char::from(*random.pick(ALPHABET))).collect()
    }

    /// A random UUID (RFC 9562, version 4).
    pub(super) fn uuid(&self) -> String {
        let mut random = self.random();
        let mut hex =
            |digits: usize| -> String { (0..digits).map(|_| char::from(*random.pick(b"0123456789abcdef"))).collect() };
        let [a, b, c, d, e] = [hex(8), hex(4), hex(3), hex(3), hex(12)];
        format!("{a}-{b}-4{c}-a{d}-{e}")
    }

    fn random(&self) -> MutexGuard<'_, Random> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `2026-11-22T08:14:36Z`, as `metav1.Time`
pub(super) fn timestamp(time: OffsetDateTime) -> String {
    let (date, month) = (time.date(), u8::from(time.month()));
    let (hour, minute, second) = time.time().as_hms();
    format!("{:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", date.year(), date.day())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_written_as_kubernetes_writes_it() {
        let time = OffsetDateTime::from_unix_timestamp(1_795_335_276).unwrap();
        assert_eq!(timestamp(time), "2026-11-22T08:14:36Z");
    }

    #[test]
    fn the_clock_can_be_put_forward() {
        let state = State::new(Settings::default(), String::new());
        let before = state.now();
        state.advance(Duration::from_secs(3600));
        assert!(state.now() - before >= time::Duration::hours(1));
    }

    #[test]
    fn names_end_in_letters_that_make_no_words() {
        let state = State::new(Settings::default(), String::new());
        let suffix = state.suffix();
        assert!(suffix.len() == 5 && suffix.bytes().all(|letter| ALPHABET.contains(&letter)), "{suffix}");
        assert_ne!(state.uuid(), state.uuid());
    }
}
