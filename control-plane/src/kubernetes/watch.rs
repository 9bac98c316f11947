//! Watches: one task per kind of object, which reads what the API server says and hands it on in order.
//!
//! Lists, resource versions, bookmarks, expiry (an ERROR event of code 410) and reconnects are kube-runtime's; what is
//! added here is what a mesh must not get wrong:
//!
//! * A list that is repeated, after an expiry or a long outage, is handed on as a whole when it is complete
//!   ([`Event::All`]): what was deleted in between goes, and at no time is anything missing that is there.
//! * An API server that is away changes nothing: what was known stays known, and the watch goes on with kube-runtime's
//!   back-off (0.8 s to 30 s, jittered). It is logged once when it begins and once when it is over.
//! * A kind of rules whose definition is not installed is none that is missing: it is looked for again every
//!   [`LOOKS_AGAIN`], and until then there are no rules of this kind.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt as _};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, DefaultBackoff, Error, watcher};
use kube::{Api, Client, Resource};
use leno_config::mesh::Key;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::client::{CallError, answer};
use super::counts::Counts;
use super::objects::key_of;

/// Between two looks for a kind that is not installed.
const LOOKS_AGAIN: Duration = Duration::from_secs(30);

/// What has happened to the objects of one kind.
#[derive(Debug, Clone)]
pub(crate) enum Event<T> {
    /// These are all that there are.
    All(Vec<(Key, T)>),
    /// One is new, or another.
    Put(Key, T),
    /// One is gone.
    Gone(Key),
}

/// A kind of object under watch.
pub(super) struct Watch<N, W> {
    /// For people and metrics: `Service`, …
    pub(super) kind: &'static str,
    /// Says of which kind an event is.
    pub(super) wrap: W,
    pub(super) news: mpsc::Sender<N>,
    pub(super) counts: Counts,
}

impl<N, W> Watch<N, W> {
    /// Watches a kind that every cluster has. `keep` says what is kept of an object; `None`: nothing, as if it were not
    /// there. Returns when nobody listens any more.
    pub(super) async fn follow<K, T>(&self, api: Api<K>, keep: impl Fn(K) -> Option<T>)
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        W: Fn(Event<T>) -> N,
    {
        let mut outage = Outage::none(self.kind);
        let mut stream = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
        while self.step(&mut stream, &keep, &mut outage).await != Step::Closed {}
    }

    /// Watches a kind that is served in the first of these versions that there is, once there is one.
    pub(super) async fn follow_installed<T>(
        &self,
        client: Client,
        versions: &[ApiResource],
        absent: impl Fn() -> N,
        keep: impl Fn(&ApiResource, DynamicObject) -> Option<T>,
    ) where
        W: Fn(Event<T>) -> N,
    {
        let mut outage = Outage::none(self.kind);
        loop {
            let Some(version) = self.installed(&client, versions, &mut outage).await else {
                if self.news.send(absent()).await.is_err() {
                    return;
                }
                tokio::time::sleep(LOOKS_AGAIN).await;
                continue;
            };
            let api = Api::<DynamicObject>::all_with(client.clone(), version);
            let mut stream = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
            loop {
                match self.step(&mut stream, &|object| keep(version, object), &mut outage).await {
                    Step::Taken => {}
                    Step::Closed => return,
                    Step::NotInstalled => break,
                }
            }
        }
    }

    /// The version that is served; waits while nobody can tell.
    async fn installed<'a>(
        &self,
        client: &Client,
        versions: &'a [ApiResource],
        outage: &mut Outage,
    ) -> Option<&'a ApiResource> {
        let mut backoff = DefaultBackoff::default();
        'again: loop {
            for version in versions {
                let api = Api::<DynamicObject>::all_with(client.clone(), version);
                match answer(api.list(&ListParams::default().limit(1))).await {
                    Ok(_) => return Some(version),
                    Err(error) if error.status() == Some(404) => {}
                    Err(error) => {
                        self.counts.error(self.kind);
                        outage.begin(&describe_call(&error), error.status());
                        tokio::time::sleep(backoff.next().unwrap_or(LOOKS_AGAIN)).await;
                        continue 'again;
                    }
                }
            }
            outage.end();
            return None;
        }
    }

    /// Hands on what the stream says next; a list when it is complete.
    async fn step<K: Resource, T>(
        &self,
        stream: &mut (impl Stream<Item = watcher::Result<watcher::Event<K>>> + Unpin),
        keep: &impl Fn(K) -> Option<T>,
        outage: &mut Outage,
    ) -> Step
    where
        W: Fn(Event<T>) -> N,
    {
        let mut listed = Vec::new();
        loop {
            let Some(next) = stream.next().await else { return Step::Closed };
            let event = match next {
                Ok(event) => event,
                Err(error) => {
                    self.counts.error(self.kind);
                    let status = status(&error);
                    if matches!(error, Error::InitialListFailed(_)) && status == Some(404) {
                        return Step::NotInstalled;
                    }
                    // An expiry is no outage: the list that follows says all.
                    if status != Some(410) {
                        outage.begin(&error.to_string(), status);
                    }
                    continue;
                }
            };
            // It only says that a list will be asked for.
            if !matches!(event, watcher::Event::Init) {
                outage.end();
            }
            let key = |object: &K| key_of(object.meta());
            let event = match event {
                watcher::Event::Init => {
                    listed.clear();
                    continue;
                }
                watcher::Event::InitApply(object) => {
                    let key = key(&object);
                    listed.extend(keep(object).map(|kept| (key, kept)));
                    continue;
                }
                watcher::Event::InitDone => {
                    self.counts.listed(self.kind);
                    Event::All(std::mem::take(&mut listed))
                }
                watcher::Event::Apply(object) => {
                    self.counts.event(self.kind);
                    let key = key(&object);
                    match keep(object) {
                        Some(kept) => Event::Put(key, kept),
                        None => Event::Gone(key),
                    }
                }
                watcher::Event::Delete(object) => {
                    self.counts.event(self.kind);
                    Event::Gone(key(&object))
                }
            };
            return match self.news.send((self.wrap)(event)).await {
                Ok(()) => Step::Taken,
                Err(_) => Step::Closed,
            };
        }
    }
}

/// What became of a look at the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Something was handed on.
    Taken,
    /// Nobody listens any more.
    Closed,
    /// There is no such kind.
    NotInstalled,
}

/// A time during which the API server says nothing of a kind. Two lines of log each, however often it is tried.
struct Outage {
    kind: &'static str,
    since: Option<Instant>,
}

impl Outage {
    fn none(kind: &'static str) -> Self {
        Self { kind, since: None }
    }

    fn begin(&mut self, error: &str, status: Option<u16>) {
        if self.since.is_some() {
            return;
        }
        self.since = Some(Instant::now());
        let kind = self.kind;
        match status {
            Some(403) => warn!(
                kind,
                "the API server does not let this service account watch these; what was known stays in force. Apply the \
                 ClusterRole of Leno: {error}"
            ),
            Some(401) => {
                warn!(kind, "the API server does not accept our credential; what was known stays in force: {error}")
            }
            _ => warn!(kind, "the API server does not answer; what was known stays in force until it does: {error}"),
        }
    }

    fn end(&mut self) {
        if let Some(since) = self.since.take() {
            let after = format!("{:.1} s", since.elapsed().as_secs_f64());
            info!(kind = self.kind, after, "the API server answers again");
        }
    }
}

fn describe_call(error: &CallError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

/// The status that the API server answered with.
fn status(error: &Error) -> Option<u16> {
    let of = |error: &kube::Error| match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    };
    match error {
        Error::InitialListFailed(error) | Error::WatchStartFailed(error) | Error::WatchFailed(error) => of(error),
        Error::WatchError(status) => Some(status.code),
        Error::NoResourceVersion => None,
    }
}
