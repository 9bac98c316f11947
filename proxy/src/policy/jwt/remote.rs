//! Keys that issuers publish, fetched and kept fresh on the control thread.
//!
//! An issuer that is down must not take the services down that believe it: the last good keys stay for a day, and it is
//! asked again after a pause that doubles. Keys older than that are forgotten: then its tokens are refused, because a key
//! that was withdrawn would otherwise be good forever. Workers get the keys with a snapshot, as they get everything.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use leno_config::ir::{self, Jwks};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::random::Random;
use crate::telemetry::Telemetry;

use super::fetch::{FetchError, Fetcher};
use super::keys::KeySet;

/// How long keys are good that cannot be fetched again.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// After the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause after a failure.
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// Keys are not fetched more often.
const MIN_REFRESH: Duration = Duration::from_secs(1);
/// A year.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The keys of each address from which some could be fetched.
pub type FetchedKeys = HashMap<Uri, Arc<KeySet>>;

/// What is to be fetched: how long one fetch may take, and how often.
type Wanted = HashMap<Uri, (Duration, Duration)>;

/// All remote keys of a proxy.
#[derive(Debug)]
pub struct RemoteKeys {
    wanted: watch::Sender<Wanted>,
    fetched: watch::Receiver<FetchedKeys>,
}

impl RemoteKeys {
    /// None yet. Fetches on a task of its own, which ends with this value.
    pub fn new(fetcher: Fetcher, telemetry: Arc<Telemetry>, random: Random) -> Self {
        let (wanted, addresses) = watch::channel(Wanted::new());
        let (found, fetched) = watch::channel(FetchedKeys::new());
        tokio::task::spawn_local(keep_fresh(Arc::new(fetcher), telemetry, random, addresses, found));
        Self { wanted, fetched }
    }

    /// What is known now.
    pub fn fetched(&mut self) -> FetchedKeys {
        self.fetched.borrow_and_update().clone()
    }

    /// From now on, the keys that these resources name; new ones are fetched at once.
    pub fn want(&self, resources: &ir::Resources) {
        let addresses = addresses_of(resources);
        self.wanted.send_if_modified(|wanted| {
            let differs = *wanted != addresses;
            *wanted = addresses;
            differs
        });
    }

    /// Ready when keys have changed.
    pub async fn changed(&mut self) {
        if self.fetched.changed().await.is_err() {
            // The task ends only with the process.
            std::future::pending::<()>().await;
        }
    }
}

/// Where two providers name one address, it is fetched as often as the more impatient one wants.
fn addresses_of(resources: &ir::Resources) -> Wanted {
    let protocols = resources.listeners.values().flat_map(|listener| listener.protocols());
    let managers = protocols.filter_map(ir::ListenerProtocol::http);
    let mut wanted = Wanted::new();
    for provider in managers.flat_map(|manager| &manager.jwt.providers) {
        let Jwks::Remote(remote) = &provider.jwks else { continue };
        let (timeout, refresh) = wanted.entry(remote.uri.clone()).or_insert((remote.timeout, remote.refresh));
        *timeout = remote.timeout.max(*timeout);
        *refresh = remote.refresh.min(*refresh);
    }
    wanted
}

async fn keep_fresh(
    fetcher: Arc<Fetcher>,
    telemetry: Arc<Telemetry>,
    random: Random,
    mut wanted: watch::Receiver<Wanted>,
    found: watch::Sender<FetchedKeys>,
) {
    let mut schedule = Schedule::default();
    let mut under_way: JoinSet<(Uri, Result<KeySet, FetchError>)> = JoinSet::new();
    loop {
        schedule.want(&wanted.borrow_and_update(), Instant::now());
        for (uri, timeout) in schedule.due(Instant::now()) {
            let fetcher = Arc::clone(&fetcher);
            under_way.spawn_local(async move {
                let fetched = fetcher.fetch(&uri, timeout).await;
                (uri, fetched)
            });
        }
        publish(&found, schedule.good(Instant::now()));
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            Some(done) = under_way.join_next() => match done {
                Ok((uri, Ok(keys))) => schedule.fetched(&uri, keys, Instant::now(), &random),
                Ok((uri, Err(error))) => {
                    telemetry.keys_not_fetched();
                    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    let keys = if schedule.failed(&uri, Instant::now()) { "the last good ones stay" } else { "there are none" };
                    tracing::warn!(%uri, %error, %cause, "cannot fetch an issuer's keys; {keys}");
                }
                // A bug; it is logged as the panic that it was, and counts as a failure after the fetch's time.
                Err(error) => tracing::error!(%error, "a fetch of keys panicked"),
            },
            () = tokio::time::sleep_until(schedule.next(Instant::now())) => {}
        }
    }
}

fn publish(found: &watch::Sender<FetchedKeys>, good: FetchedKeys) {
    found.send_if_modified(|known| {
        let same = known.len() == good.len()
            && known.iter().all(|(uri, keys)| good.get(uri).is_some_and(|other| Arc::ptr_eq(keys, other)));
        *known = good;
        !same
    });
}

/// When which keys are fetched. Pure: time is an argument.
#[derive(Debug, Default)]
struct Schedule {
    entries: HashMap<Uri, Entry>,
}

#[derive(Debug)]
struct Entry {
    timeout: Duration,
    refresh: Duration,
    /// The last good keys and since when.
    keys: Option<(Arc<KeySet>, Instant)>,
    /// When they are fetched again; while a fetch is under way, when it would be given up.
    next: Instant,
    failures: u32,
}

impl Schedule {
    fn want(&mut self, wanted: &Wanted, now: Instant) {
        self.entries.retain(|uri, _| wanted.contains_key(uri));
        for (uri, (timeout, refresh)) in wanted {
            let entry = self.entries.entry(uri.clone()).or_insert_with(|| Entry {
                timeout: *timeout,
                refresh: *refresh,
                keys: None,
                next: now,
                failures: 0,
            });
            entry.timeout = *timeout;
            entry.refresh = (*refresh).max(MIN_REFRESH);
        }
    }

    /// What is to be fetched now. Until it is known how that went, it is not due again.
    fn due(&mut self, now: Instant) -> Vec<(Uri, Duration)> {
        let due = self.entries.iter_mut().filter(|(_, entry)| entry.next <= now);
        due.map(|(uri, entry)| {
            entry.next = later(now, entry.timeout.saturating_add(LAST_PAUSE));
            (uri.clone(), entry.timeout)
        })
        .collect()
    }

    /// Next time a little earlier than it has to be, so that proxies that started together do not ask together.
    fn fetched(&mut self, uri: &Uri, keys: KeySet, now: Instant, random: &Random) {
        let Some(entry) = self.entries.get_mut(uri) else { return };
        let keys = match &entry.keys {
            Some((before, _)) if **before == keys => Arc::clone(before),
            Some(_) | None => Arc::new(keys),
        };
        entry.keys = Some((keys, now));
        let early = entry.refresh.checked_div(10_000).unwrap_or_default().saturating_mul(random.below(1_000));
        entry.next = later(now, entry.refresh.saturating_sub(early));
        entry.failures = 0;
    }

    /// Whether there are keys all the same.
    fn failed(&mut self, uri: &Uri, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(uri) else { return false };
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(entry.failures.min(16)));
        entry.next = later(now, pause.min(LAST_PAUSE));
        entry.failures = entry.failures.saturating_add(1);
        entry.is_good(now)
    }

    fn good(&self, now: Instant) -> FetchedKeys {
        let good = self.entries.iter().filter(|(_, entry)| entry.is_good(now));
        good.filter_map(|(uri, entry)| Some((uri.clone(), Arc::clone(&entry.keys.as_ref()?.0)))).collect()
    }

    /// When there is something to do: fetch, or forget.
    fn next(&self, now: Instant) -> Instant {
        let ends = self.entries.values().filter(|entry| entry.is_good(now)).filter_map(Entry::end);
        let fetches = self.entries.values().map(|entry| entry.next);
        ends.chain(fetches).min().unwrap_or_else(|| later(now, MAX_AGE))
    }
}

/// Times in a rule may be longer than a clock can tell; that is as good as never.
fn later(now: Instant, pause: Duration) -> Instant {
    now.checked_add(pause).or_else(|| now.checked_add(NEVER)).unwrap_or(now)
}

impl Entry {
    fn end(&self) -> Option<Instant> {
        self.keys.as_ref().map(|(_, since)| later(*since, MAX_AGE))
    }

    fn is_good(&self, now: Instant) -> bool {
        self.end().is_some_and(|end| now < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(x: &str) -> KeySet {
        let text = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}]}}"#);
        KeySet::parse(text.as_bytes()).expect("keys")
    }

    fn schedule(refresh: Duration, now: Instant) -> (Schedule, Uri) {
        let uri = Uri::from_static("http://issuer/jwks");
        let mut schedule = Schedule::default();
        schedule.want(&Wanted::from([(uri.clone(), (Duration::from_secs(5), refresh))]), now);
        (schedule, uri)
    }

    #[test]
    fn keys_are_fetched_at_once_and_then_about_as_often_as_asked() {
        let start = Instant::now();
        let (mut schedule, uri) = schedule(Duration::from_secs(1200), start);
        assert_eq!(schedule.due(start), [(uri.clone(), Duration::from_secs(5))]);
        assert_eq!(schedule.due(start), [], "a fetch is under way");
        assert!(schedule.good(start).is_empty());
        schedule.fetched(&uri, keys("AQAB"), start, &Random::seeded(1));
        let next = schedule.next(start) - start;
        assert!(next > Duration::from_secs(1080) && next <= Duration::from_secs(1200), "{next:?}");
        let before = Arc::clone(&schedule.good(start)[&uri]);
        schedule.fetched(&uri, keys("AQAB"), start, &Random::seeded(1));
        assert!(Arc::ptr_eq(&before, &schedule.good(start)[&uri]), "the same keys again change nothing");
        schedule.fetched(&uri, keys("AQAC"), start, &Random::seeded(1));
        assert!(!Arc::ptr_eq(&before, &schedule.good(start)[&uri]));
    }

    #[test]
    fn an_issuer_that_is_down_is_asked_after_a_growing_pause_and_its_keys_stay_for_a_day() {
        let start = Instant::now();
        let (mut schedule, uri) = schedule(Duration::from_secs(1200), start);
        schedule.fetched(&uri, keys("AQAB"), start, &Random::seeded(1));
        let mut pauses = Vec::new();
        let mut now = start;
        for _ in 0..8 {
            assert!(schedule.failed(&uri, now), "the last good keys stay");
            pauses.push((schedule.next(now) - now).as_secs());
            now = schedule.next(now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(schedule.good(start + MAX_AGE - Duration::from_secs(1)).len(), 1);
        assert!(schedule.good(start + MAX_AGE).is_empty(), "keys older than a day are no longer believed");
        assert!(!schedule.failed(&uri, start + MAX_AGE));
    }

    #[test]
    fn what_nobody_names_any_more_is_forgotten() {
        let start = Instant::now();
        let (mut schedule, uri) = schedule(Duration::ZERO, start);
        schedule.fetched(&uri, keys("AQAB"), start, &Random::seeded(1));
        assert!(
            schedule.next(start) >= start + MIN_REFRESH - MIN_REFRESH / 10,
            "a refresh of nothing is not a busy loop"
        );
        schedule.want(&Wanted::new(), start);
        assert!(schedule.good(start).is_empty());
        schedule.fetched(&uri, keys("AQAB"), start, &Random::seeded(1));
        assert!(schedule.good(start).is_empty(), "an answer that comes too late");
    }
}
