//! The state of one stream, without sockets and without a clock.
//!
//! In go requests ([`Session::on_request`]) and snapshots ([`Session::on_snapshot`]); out come responses
//! ([`Session::poll`]), in the order that [`super::order`] allows, and the time at which something may go out that
//! nobody asks for ([`Session::deadline`]). What a stream remembers per kind is what the client subscribed to, what it
//! was sent, and which responses it has not yet acknowledged. The difference between that and the newest snapshot *is*
//! the queue: however slow a proxy is, and however many snapshots it misses, what waits for it is bounded by what there
//! is, and is never older than the newest.
//!
//! The rules of the protocol that are easy to get wrong, all of them here:
//!
//! * A name that is subscribed to again is answered again. An unknown name is answered too, as removed, so that the
//!   client need not wait for its timeout.
//! * A first request without names means everything, for clusters and listeners only; so does `*`.
//! * A refusal is told by its error text alone. The refused version is not sent again.
//! * A nonce that is not under way acknowledges nothing, but the subscriptions beside it count.
//! * Versions that a client brings along when it reconnects are what it holds: only the difference is sent.
//! * Endpoints are sent again after their cluster: a proxy that replaces a cluster waits for them.
//!
//! Nothing here is about the *delta* variant in particular, except that it speaks of changes; [`super::world`] puts them
//! into the words of the other one, and [`super::wire`] knows the messages of both.

mod holdings;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use leno_config::xds::Kind;
use leno_config::xds::grpc::{Outcome, Remarks};

pub(crate) use holdings::{Holding, Standing};

use super::order::{self, GRACE, PATIENCE, Progress, Step, View};
use crate::snapshot::{Resource, Set, Snapshot};

/// Most names that one stream may subscribe to, or bring versions of, per kind. Ten times the largest mesh that the
/// tests know; a client beyond it is broken or hostile.
pub(crate) const MAX_NAMES: usize = 200_000;

/// Most responses of one kind that wait for their acknowledgement. The oldest is forgotten, as if it had been
/// acknowledged, when a client asks on and on without acknowledging anything.
const MAX_IN_FLIGHT: usize = 64;

/// Most bytes of resources in one response. Peers accept 64 MiB; the rest goes into the next response.
pub(super) const MAX_RESPONSE: usize = 60 << 20;

/// Stands for all resources of a kind.
pub(super) const WILDCARD: &str = "*";

/// What a client says about one kind of resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) subscribe: Vec<String>,
    pub(crate) unsubscribe: Vec<String>,
    /// What the client holds from an earlier stream; counts in the first request of a kind only.
    pub(crate) initial_versions: BTreeMap<String, String>,
    /// The response that is acknowledged or refused; `None` where the request only subscribes.
    pub(crate) nonce: Option<String>,
    /// Why the response is refused; `None`: it is accepted.
    pub(crate) error: Option<String>,
}

/// What a client is told about one kind of resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) kind: Kind,
    /// Unique on the stream.
    pub(crate) nonce: String,
    /// Of the set that the response leads to.
    pub(crate) version: Arc<str>,
    pub(crate) resources: Vec<Arc<Resource>>,
    /// Names that do not exist (any more).
    pub(crate) removed: Vec<Arc<str>>,
}

/// What a request turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Received {
    /// It subscribes, unsubscribes, or means nothing any more.
    Subscription,
    /// It accepts a response.
    Ack,
    /// It refuses a response, with this text.
    Nack(String),
}

/// A client that wants more than a stream may cost.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("more than {MAX_NAMES} names of one kind on a stream; subscribe to `*`, or to what the proxy uses")]
pub(crate) struct TooManyNames;

/// Where a kind stands on a stream, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KindStatus {
    /// Version of the set that the client was last brought to.
    pub(crate) sent: Option<Arc<str>>,
    /// Version of the set that the client last accepted.
    pub(crate) acked: Option<Arc<str>>,
    /// When `sent` was sent.
    pub(crate) since: Instant,
    /// Text of the last refusal, until what was refused is replaced.
    pub(crate) nack: Option<Arc<str>>,
    /// What the client was sent or brought along: name and version.
    pub(crate) resources: Vec<(Arc<str>, Arc<str>)>,
}

/// The state of one stream.
#[derive(Debug)]
pub(crate) struct Session {
    opened: Instant,
    portions: Portions,
    /// Newest; `None` until there is one, and until then nothing is answered.
    snapshot: Option<Arc<Snapshot>>,
    kinds: BTreeMap<Kind, KindState>,
    last_nonce: u64,
    /// Since when listeners or routes wait for clusters.
    waiting_since: Option<Instant>,
    /// Clusters sent before the client asked for any endpoints: those are owed even where the client brings their
    /// newest version along.
    clusters_before_endpoints: BTreeSet<Arc<str>>,
}

/// Whether what is due of a kind may be sent in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Portions {
    /// As much as one message takes.
    Fitting,
    /// Of the kinds that have a wildcard all at once: what is missing would be deleted.
    Whole,
}

#[derive(Debug, Default)]
struct KindState {
    /// The client has asked for this kind.
    seen: bool,
    wildcard: Wildcard,
    /// Subscribed by name.
    names: BTreeSet<Arc<str>>,
    /// What the client holds as far as we know, name → version: sent or brought along. Empty at rest.
    held: BTreeMap<Arc<str>, Arc<str>>,
    /// The client holds of this set exactly what it subscribed to, and nothing is due. That is how nearly all streams
    /// are nearly all of the time, and then they need no list of their own.
    at_rest: Option<Arc<Set>>,
    /// Of `held`: refused in this version, so the client uses an older one.
    rejected: BTreeSet<Arc<str>>,
    /// To be answered whatever `held` says.
    owed: BTreeSet<Arc<str>>,
    /// A wildcard subscription is answered once even where there is nothing to say.
    owes_answer: bool,
    in_flight: VecDeque<InFlight>,
    /// What is to be sent; `None` where it has to be worked out anew.
    due: Option<Due>,
    report: Report,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Wildcard {
    #[default]
    Off,
    /// By a first request without names.
    Implied,
    /// By `*`.
    Asked,
}

#[derive(Debug)]
struct InFlight {
    nonce: String,
    version: Arc<str>,
    resources: Vec<(Arc<str>, Arc<str>)>,
}

/// What is to be sent of one kind.
#[derive(Debug, Default)]
struct Due {
    /// New, changed, or asked for.
    resources: Vec<Arc<Resource>>,
    /// Asked for and not there.
    absent: Vec<Arc<str>>,
    /// Held and not there any more.
    removals: Vec<Arc<str>>,
    /// Something of it was asked for.
    asked: bool,
}

#[derive(Debug, Default)]
struct Report {
    sent: Option<Arc<str>>,
    acked: Option<Arc<str>>,
    since: Option<Instant>,
    nack: Option<Arc<str>>,
}

impl Session {
    /// A stream that has just been opened.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            opened: now,
            portions: Portions::Fitting,
            snapshot: None,
            kinds: BTreeMap::new(),
            last_nonce: 0,
            waiting_since: None,
            clusters_before_endpoints: BTreeSet::new(),
        }
    }

    /// The same for a client to which absence means deletion: clusters and listeners are never sent in parts, however
    /// large they are together.
    pub(crate) fn undivided(now: Instant) -> Self {
        Self { portions: Portions::Whole, ..Self::new(now) }
    }

    /// Takes what the client says about a kind. Call [`Session::poll`] afterwards.
    pub(crate) fn on_request(&mut self, kind: Kind, request: Request) -> Result<Received, TooManyNames> {
        let set = self.snapshot.as_deref().map(|snapshot| &**snapshot.set(kind));
        let state = self.kinds.entry(kind).or_default();
        let received = state.settle(request.nonce.as_deref(), request.error);
        if !state.seen || !request.subscribe.is_empty() || !request.unsubscribe.is_empty() {
            state.stir();
            let first = !std::mem::replace(&mut state.seen, true);
            if first && request.subscribe.is_empty() && has_wildcard(kind) {
                state.wildcard = Wildcard::Implied;
                state.owes_answer = true;
            }
            for name in request.subscribe {
                state.subscribe(kind, shared(name, set), set);
            }
            for name in request.unsubscribe {
                state.unsubscribe(kind, shared(name, set));
            }
            if first {
                state.bring_along(request.initial_versions, set);
            }
            if first && kind == Kind::Endpoints {
                let owed = std::mem::take(&mut self.clusters_before_endpoints);
                state.owed.extend(owed.into_iter().filter(|name| state.names.contains(name)));
            }
            if state.names.len() > MAX_NAMES || state.held.len() > MAX_NAMES || state.owed.len() > MAX_NAMES {
                return Err(TooManyNames);
            }
        }
        Ok(received)
    }

    /// From now on the client is to hold this. Call [`Session::poll`] afterwards.
    pub(crate) fn on_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        for (kind, state) in &mut self.kinds {
            let set = snapshot.set(*kind);
            match self.snapshot.as_ref().is_some_and(|old| old.set(*kind).version == set.version) {
                // An equal set; that of the old snapshot is not kept for its sake.
                true => state.at_rest = state.at_rest.take().map(|_| Arc::clone(set)),
                false => state.stir(),
            }
        }
        self.snapshot = Some(snapshot);
    }

    /// The next response that may be sent, if there is one. To be called until it returns `None`, after every event and
    /// at [`Session::deadline`].
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Response> {
        let snapshot = Arc::clone(self.snapshot.as_ref()?);
        for (kind, state) in &mut self.kinds {
            state.work_out_due(snapshot.set(*kind), now);
        }
        let mut view = self.view(now);
        if view.waits_for_clusters() {
            let since = *self.waiting_since.get_or_insert(now);
            view.impatient = now.saturating_duration_since(since) >= PATIENCE;
        } else {
            self.waiting_since = None;
        }
        let (kind, step) = match order::next(&view)? {
            step @ (Step::Send(kind) | Step::Remove(kind)) => (kind, step),
        };
        let set = snapshot.set(kind);
        self.last_nonce += 1;
        let nonce = self.last_nonce.to_string();
        let response = self.kinds.entry(kind).or_default().respond(step, self.portions, set, nonce, now);
        if kind == Kind::Cluster {
            self.owe_endpoints(&response);
        }
        Some(response)
    }

    /// When [`Session::poll`] should be called although nothing happened; always later than `now`.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let patience = self.waiting_since.map(|since| since + PATIENCE);
        let grace = self.view(now).waits_for_subscriptions().then_some(self.opened + GRACE);
        // What is due since a deadline that has passed waits for the client, not for the clock.
        [patience, grace].into_iter().flatten().filter(|deadline| *deadline > now).min()
    }

    /// Whether the client has subscribed to a resource, by name or with all others.
    pub(crate) fn has_asked_for(&self, kind: Kind, name: &str) -> bool {
        self.kinds.get(&kind).is_some_and(|state| state.wildcard != Wildcard::Off || state.names.contains(name))
    }

    /// Whether the client is known to use this version of a resource: it was sent, and accepted, or brought along.
    pub(crate) fn has_accepted(&self, kind: Kind, name: &str, version: &str) -> bool {
        let Some(state) = self.kinds.get(&kind) else { return false };
        let mut under_way = state.in_flight.iter().flat_map(|sent| &sent.resources);
        if state.rejected.contains(name) || under_way.any(|(sent, _)| **sent == *name) {
            return false;
        }
        let held = match &state.at_rest {
            Some(set) => state.wanted(set).find(|resource| *resource.name == *name).map(|resource| &resource.version),
            None => state.held.get(name),
        };
        held.is_some_and(|held| **held == *version)
    }

    /// Whether the client refuses a resource of this kind that it was sent and that nothing has replaced.
    pub(crate) fn refuses(&self, kind: Kind) -> bool {
        self.kinds.get(&kind).is_some_and(|state| !state.rejected.is_empty())
    }

    /// Whether something waits to be sent.
    pub(crate) fn has_something_due(&self) -> bool {
        let waits = |progress: Progress| progress.due || progress.removals;
        self.kinds.values().any(|state| waits(state.progress()))
    }

    /// Whether a response waits for its answer.
    pub(crate) fn owes_an_answer(&self) -> bool {
        self.kinds.values().any(|state| !state.in_flight.is_empty())
    }

    /// Whether the client has answered all that the snapshot makes for it. To be asked after [`Session::poll`] returned
    /// `None`. What a refusal holds back (clusters that the old routes still use) is not waited for.
    pub(crate) fn is_settled(&self) -> bool {
        let refused = self.kinds.values().any(|state| !state.rejected.is_empty());
        let settled = |progress: Progress| !progress.due && !progress.in_flight && (refused || !progress.removals);
        self.snapshot.is_some() && self.kinds.values().all(|state| settled(state.progress()))
    }

    /// What could not be said of resources that the client has asked for by name.
    pub(crate) fn remarks(&self) -> Remarks {
        let Some(snapshot) = &self.snapshot else { return Remarks::new() };
        let is_asked =
            |(kind, name): &(Kind, String)| self.kinds.get(kind).is_some_and(|it| it.names.contains(name.as_str()));
        let asked = snapshot.remarks().iter().filter(|(resource, _)| is_asked(resource));
        asked.map(|(resource, remark)| (resource.clone(), remark.clone())).collect()
    }

    /// Why a resource is not there, where that is because it could not be said.
    pub(super) fn refusal(&self, kind: Kind, name: &str) -> Option<String> {
        let remark = self.snapshot.as_ref()?.remarks().get(&(kind, name.to_owned()))?;
        (remark.outcome == Outcome::Refused).then(|| remark.reason.clone())
    }

    /// Where each kind stands that the client has asked for.
    pub(crate) fn status(&self) -> BTreeMap<Kind, KindStatus> {
        let status = |state: &KindState| KindStatus {
            sent: state.report.sent.clone(),
            acked: state.report.acked.clone(),
            since: state.report.since.unwrap_or(self.opened),
            nack: state.report.nack.clone(),
            resources: match &state.at_rest {
                Some(set) => state.wanted(set).map(held).collect(),
                None => state.held.iter().map(|(name, version)| (Arc::clone(name), Arc::clone(version))).collect(),
            },
        };
        self.kinds.iter().filter(|(_, state)| state.seen).map(|(kind, state)| (*kind, status(state))).collect()
    }

    fn view(&self, now: Instant) -> View {
        let progress = |kind| self.kinds.get(&kind).map(KindState::progress).unwrap_or_default();
        View {
            clusters: progress(Kind::Cluster),
            endpoints: progress(Kind::Endpoints),
            secrets: progress(Kind::Secret),
            listeners: progress(Kind::Listener),
            routes: progress(Kind::Route),
            impatient: false,
            grown_up: now.saturating_duration_since(self.opened) >= GRACE,
        }
    }

    /// A proxy that gets a cluster anew waits for its endpoints, changed or not.
    fn owe_endpoints(&mut self, clusters: &Response) {
        let names = clusters.resources.iter().map(|resource| Arc::clone(&resource.name));
        match self.kinds.get_mut(&Kind::Endpoints).filter(|endpoints| endpoints.seen) {
            Some(endpoints) => {
                endpoints.stir();
                let held = |name: &Arc<str>| endpoints.names.contains(name) && endpoints.held.contains_key(name);
                let owed = names.filter(held).collect::<Vec<_>>();
                endpoints.owed.extend(owed);
            }
            None => self.clusters_before_endpoints.extend(names),
        }
    }
}

impl KindState {
    /// Something changes: what is due has to be worked out anew, from a list of what is held.
    fn stir(&mut self) {
        self.due = None;
        if let Some(set) = self.at_rest.take() {
            self.held = self.wanted(&set).map(held).collect();
        }
    }

    /// What the client subscribed to, of a set.
    fn wanted<'a>(&'a self, set: &'a Set) -> impl Iterator<Item = &'a Arc<Resource>> {
        let everything = (self.wildcard != Wildcard::Off).then(|| set.resources.values());
        let named = self.wildcard == Wildcard::Off;
        let named = named.then(|| self.names.iter().filter_map(|name| set.resources.get(name)));
        everything.into_iter().flatten().chain(named.into_iter().flatten())
    }

    /// Notes what the client says about a response: everything up to it is decided.
    fn settle(&mut self, nonce: Option<&str>, error: Option<String>) -> Received {
        let position = nonce.and_then(|nonce| self.in_flight.iter().position(|sent| sent.nonce == nonce));
        let decided = position.map(|last| self.in_flight.drain(..=last).collect::<Vec<_>>()).unwrap_or_default();
        match (decided.last(), error) {
            (last, Some(text)) => {
                if let Some(last) = last {
                    self.reject(last, &text);
                }
                self.report.nack = Some(text.as_str().into());
                Received::Nack(text)
            }
            (Some(last), None) => {
                self.report.acked = Some(Arc::clone(&last.version));
                for (name, _) in decided.iter().flat_map(|sent| &sent.resources) {
                    self.rejected.remove(name);
                }
                if self.rejected.is_empty() {
                    self.report.nack = None;
                }
                Received::Ack
            }
            (None, None) => Received::Subscription,
        }
    }

    /// A refusal names the resources it is about; where it does not, it is about all of the response. One that names what
    /// is refused already (it stood beside the changes, in a message with everything) is about nothing else.
    fn reject(&mut self, response: &InFlight, text: &str) {
        self.stir();
        let current = |(name, version): &&(Arc<str>, Arc<str>)| self.held.get(name) == Some(version);
        let resources = response.resources.iter().filter(current).map(|(name, _)| name);
        let named = resources.clone().filter(|name| text.contains(&***name)).cloned().collect::<Vec<_>>();
        let is_known = named.is_empty() && self.rejected.iter().any(|name| text.contains(&**name));
        let rejected = if named.is_empty() && !is_known { resources.cloned().collect() } else { named };
        self.rejected.extend(rejected);
    }

    fn subscribe(&mut self, kind: Kind, name: Arc<str>, set: Option<&Set>) {
        if &*name != WILDCARD || !has_wildcard(kind) {
            self.owed.insert(Arc::clone(&name));
            self.names.insert(name);
            return;
        }
        if self.wildcard == Wildcard::Asked {
            self.owed.extend(set.into_iter().flat_map(|set| set.resources.keys().cloned()));
        }
        self.wildcard = Wildcard::Asked;
        self.owes_answer = true;
    }

    fn unsubscribe(&mut self, kind: Kind, name: Arc<str>) {
        if &*name == WILDCARD && has_wildcard(kind) {
            self.wildcard = Wildcard::Off;
            self.owes_answer = false;
            self.held.retain(|name, _| self.names.contains(name));
            self.rejected.retain(|name| self.names.contains(name));
            self.owed.retain(|name| self.names.contains(name));
        } else if !self.names.remove(&name) {
            // It never was subscribed to.
        } else if self.wildcard != Wildcard::Off {
            // The client forgets the name and has to learn whether the wildcard still covers it.
            self.owed.insert(name);
        } else {
            self.held.remove(&name);
            self.rejected.remove(&name);
            self.owed.remove(&name);
        }
    }

    /// Takes what the client holds from an earlier stream: of that, only the difference is sent.
    fn bring_along(&mut self, versions: BTreeMap<String, String>, set: Option<&Set>) {
        for (name, version) in versions {
            let name = shared(name, set);
            if self.wildcard == Wildcard::Off && !self.names.contains(&name) {
                continue;
            }
            self.owed.remove(&name);
            let known = set.and_then(|set| set.resources.get(&name)).map(|resource| &resource.version);
            let version = match known {
                Some(known) if **known == *version => Arc::clone(known),
                Some(_) | None => version.into(),
            };
            self.held.insert(name, version);
        }
    }

    /// Compares what the client holds with what it is to hold, where that may have changed.
    fn work_out_due(&mut self, set: &Arc<Set>, now: Instant) {
        if self.due.is_some() {
            return;
        }
        let mut due = Due { asked: self.owes_answer, ..Due::default() };
        let is_new = |resource: &&Arc<Resource>| {
            self.held.get(&resource.name).is_none_or(|held| *held != resource.version)
                || self.owed.contains(&resource.name)
        };
        due.resources.extend(self.wanted(set).filter(is_new).cloned());
        let gone = |name: &&Arc<str>| !set.resources.contains_key(*name);
        due.removals.extend(self.held.keys().filter(gone).cloned());
        // What is held and gone is answered in its turn, so that routes which still use it do not break.
        due.absent.extend(self.owed.iter().filter(gone).filter(|name| !self.held.contains_key(*name)).cloned());
        due.asked |= !due.absent.is_empty() || self.owed.iter().any(|name| set.resources.contains_key(name));
        if due.resources.is_empty() && due.removals.is_empty() && !due.asked {
            self.rest(set, now);
        }
        self.due = Some(due);
    }

    /// The client holds what it is to hold.
    fn rest(&mut self, set: &Arc<Set>, now: Instant) {
        self.held = BTreeMap::new();
        self.at_rest = Some(Arc::clone(set));
        let decided = self.in_flight.is_empty() && self.rejected.is_empty();
        if decided && self.report.sent.as_ref() != Some(&set.version) {
            // Another set, but not for what this client wants of it (or it brought all of it along).
            self.report.sent = Some(Arc::clone(&set.version));
            self.report.acked = Some(Arc::clone(&set.version));
            self.report.since = Some(now);
        }
    }

    fn progress(&self) -> Progress {
        let due = self.due.as_ref();
        let asked = due.is_some_and(|due| due.asked);
        Progress {
            seen: self.seen,
            due: asked || due.is_some_and(|due| !due.resources.is_empty()),
            asked,
            removals: due.is_some_and(|due| !due.removals.is_empty()),
            in_flight: !self.in_flight.is_empty(),
            rejected: !self.rejected.is_empty(),
        }
    }

    /// Composes the response and notes what it makes the client hold.
    fn respond(&mut self, step: Step, portions: Portions, set: &Set, nonce: String, now: Instant) -> Response {
        let (Step::Send(kind) | Step::Remove(kind)) = step;
        let Due { mut resources, absent, removals, asked: _ } = self.due.take().unwrap_or_default();
        if portions == Portions::Fitting || !has_wildcard(kind) {
            fit(&mut resources);
        }
        let (resources, removed) = match (step, kind) {
            (Step::Send(_), Kind::Listener) => (resources, [absent, removals].concat()),
            (Step::Send(_), Kind::Cluster | Kind::Endpoints | Kind::Secret | Kind::Route) => (resources, absent),
            (Step::Remove(_), _) => (Vec::new(), removals),
        };
        for name in &removed {
            self.held.remove(name);
            self.rejected.remove(name);
            self.owed.remove(name);
        }
        for resource in &resources {
            self.held.insert(Arc::clone(&resource.name), Arc::clone(&resource.version));
            self.owed.remove(&resource.name);
        }
        if matches!(step, Step::Send(_)) {
            self.owes_answer = false;
        }
        let versions = resources.iter().map(|resource| (Arc::clone(&resource.name), Arc::clone(&resource.version)));
        if self.in_flight.len() == MAX_IN_FLIGHT {
            self.in_flight.pop_front();
        }
        let version = Arc::clone(&set.version);
        let in_flight = InFlight { nonce: nonce.clone(), version: Arc::clone(&version), resources: versions.collect() };
        self.in_flight.push_back(in_flight);
        self.report.sent = Some(Arc::clone(&version));
        self.report.since = Some(now);
        Response { kind, nonce, version, resources, removed }
    }
}

fn held(resource: &Arc<Resource>) -> (Arc<str>, Arc<str>) {
    (Arc::clone(&resource.name), Arc::clone(&resource.version))
}

/// Whether a kind can be subscribed to as a whole. It is these kinds of which the state-of-the-world variant deletes what
/// a response does not hold.
pub(super) fn has_wildcard(kind: Kind) -> bool {
    match kind {
        Kind::Cluster | Kind::Listener => true,
        Kind::Endpoints | Kind::Secret | Kind::Route => false,
    }
}

/// The name as the snapshot already holds it, so that a thousand streams share it.
fn shared(name: String, set: Option<&Set>) -> Arc<str> {
    let known = set.and_then(|set| set.resources.get_key_value(name.as_str()));
    known.map_or_else(|| name.into(), |(known, _)| Arc::clone(known))
}

/// Leaves as many resources as fit into a response, at least one.
fn fit(resources: &mut Vec<Arc<Resource>>) {
    let mut total = 0_usize;
    let over = resources.iter().position(|resource| {
        total = total.saturating_add(resource.bytes.len());
        total > MAX_RESPONSE
    });
    if let Some(over) = over {
        resources.truncate(over.max(1));
    }
}

#[cfg(test)]
mod convergence;
#[cfg(test)]
mod tests;
