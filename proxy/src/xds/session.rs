//! The client's side of one delta ADS session, without any IO: responses, timeouts and lost connections go in, requests
//! and effective states come out.
//!
//! ```text
//!              ┌────────────── disconnected ◀─────────────┐
//!              ▼                                          │
//!        (not connected) ── connected ──▶ first request of each kind, with the versions we have
//!                                                         │
//!   response ──▶ apply ──▶ ACK or NACK ──▶ settle ──▶ subscribe/unsubscribe ──▶ effective state
//! ```
//!
//! A session outlives its connections: what was accepted stays, and the next stream starts with its versions.
//!
//! * Clusters and listeners are wildcard subscriptions, in the form that every server knows (the first request of the
//!   kind names nothing). Endpoints, secrets and route tables are subscribed by name: those which something accepted *or
//!   still in force* refers to, so that what is kept until its successor is warm is kept up to date.
//! * Every response is answered at once and by itself: an ACK carries no subscription change. Subscription changes carry
//!   no nonce.
//! * A name that nothing refers to any more is unsubscribed and forgotten; a response for it that was under way is
//!   acknowledged and passed over. If it is wanted again, the server must send it again (the protocol says so).
//! * A subscribed name that the server does not send within 15 s does not exist. The clock runs only while connected.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
};
use envoy_types::pb::google::rpc;
use leno_config::xds::{Kind, Refusal};

use super::status::{KindStatus, Nack, Status};
use crate::state::accepted::{Accepted, Incoming, Name, Refuse, Store, Update, Wanted};
use crate::state::disk::Saved;
use crate::state::warming::{self, Effective, Missing, Names};

/// So long may the server take to send what was asked for; then it does not exist (xDS protocol).
pub const DOES_NOT_EXIST_AFTER: Duration = Duration::from_secs(15);

/// gRPC's codes.
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;

/// A NACK's text is cut after so many bytes: ten thousand refused resources are one mistake, not ten thousand.
const LONGEST_NACK: usize = 16 << 10;

/// One moment on both clocks: the steady one for waiting, the wall's for people.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Now {
    pub steady: Instant,
    pub wall: SystemTime,
}

impl Now {
    /// Reads both clocks.
    pub fn read() -> Self {
        Self { steady: Instant::now(), wall: SystemTime::now() }
    }
}

/// What became of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// All of it was applied.
    Ack,
    /// Some of it was not: the text that the server gets.
    Nack(String),
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    node: core::Node,
    refuse: Refuse,
    accepted: Accepted,
    in_force: Arc<Store>,
    effective: Effective,
    effective_is_new: bool,
    subscriptions: BTreeMap<Kind, Subscription>,
    connected: bool,
    node_is_sent: bool,
    requests: VecDeque<DeltaDiscoveryRequest>,
    kinds: BTreeMap<Kind, KindStatus>,
    from_disk: bool,
}

/// What was asked for, of one kind.
#[derive(Debug, Default)]
struct Subscription {
    /// On this stream a request of the kind was sent.
    is_started: bool,
    /// By name; empty for the wildcard kinds.
    names: BTreeSet<Name>,
    /// What has not come yet, and when it counts as not existing. For the wildcard kinds, the first answer stands under
    /// the name `*`.
    due: BTreeMap<Name, Instant>,
}

const FIRST_ANSWER: &str = "*";

impl Session {
    /// A session of this node that knows nothing yet. `refuse` is the data path's last word on a valid resource.
    pub fn new(node: core::Node, refuse: Refuse) -> Self {
        let subscriptions = Kind::PUSH_ORDER.into_iter().map(|kind| (kind, Subscription::default()));
        let kinds = Kind::PUSH_ORDER.into_iter().map(|kind| (kind, KindStatus::default()));
        Self {
            node,
            refuse,
            accepted: Accepted::default(),
            in_force: Arc::default(),
            effective: Effective::default(),
            effective_is_new: false,
            subscriptions: subscriptions.collect(),
            connected: false,
            node_is_sent: false,
            requests: VecDeque::new(),
            kinds: kinds.collect(),
            from_disk: false,
        }
    }

    /// Takes over what was in force when the last process ended, before the first connection. A resource that this
    /// program refuses (the one that wrote it may have known more) is left out; the server will send it again.
    pub fn restore(&mut self, saved: Vec<Saved>) -> Vec<Refusal> {
        let mut by_kind: BTreeMap<Kind, Vec<Incoming>> = BTreeMap::new();
        for Saved { kind, name, version, any } in saved {
            let incoming = Incoming { name, version, any: Some(any), time_to_live: None };
            by_kind.entry(kind).or_default().push(incoming);
        }
        let mut refusals = Vec::new();
        for kind in Kind::PUSH_ORDER {
            let update = Update { kind, resources: by_kind.remove(&kind).unwrap_or_default(), removed: Vec::new() };
            refusals.extend(self.accepted.apply(update, Wanted::All, self.refuse).refusals);
        }
        self.from_disk = true;
        self.settle(Missing::IsAbsent, None);
        self.forget_what_nothing_wants();
        refusals
    }

    /// A stream is open: asks for everything, with the versions that are there.
    pub fn connected(&mut self, now: Now) {
        self.disconnected();
        self.connected = true;
        for kind in Kind::PUSH_ORDER {
            let names = self.subscriptions.get(&kind).map(|it| it.names.clone()).unwrap_or_default();
            if is_wildcard(kind) || !names.is_empty() {
                self.request_names(kind, names, BTreeSet::new(), now);
            }
        }
    }

    /// The stream is gone. Requests that were not taken go with it.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.node_is_sent = false;
        self.requests.clear();
        for subscription in self.subscriptions.values_mut() {
            subscription.is_started = false;
            subscription.due.clear();
        }
    }

    /// A response came. The answer is queued; it is returned for the log.
    pub fn received(&mut self, response: DeltaDiscoveryResponse, now: Now) -> Answer {
        let DeltaDiscoveryResponse { type_url, nonce, .. } = &response;
        let (type_url, nonce) = (type_url.clone(), nonce.clone());
        let known =
            Kind::from_url(&type_url).filter(|kind| self.subscriptions.get(kind).is_some_and(|it| it.is_started));
        let Some(kind) = known else {
            let reason = "is not a type that this proxy subscribed to".to_owned();
            let refusal = Refusal { resource: "response".to_owned(), field: "type_url".to_owned(), reason };
            return self.answer(type_url, nonce, &[refusal]);
        };
        let update = update(kind, response);
        let subscription = self.subscriptions.entry(kind).or_default();
        let wanted = if is_wildcard(kind) { Wanted::All } else { Wanted::Named(&subscription.names) };
        let is_first = !self.accepted.is_answered(kind);
        let applied = self.accepted.apply(update, wanted, self.refuse);
        let changed = !applied.changed.is_empty() || !applied.removed.is_empty();
        // A name whose first state was refused is still missing, and its clock runs on.
        let accepted = &self.accepted;
        let is_missing = |name: &str| !accepted.store().contains(kind, name) && !accepted.is_absent(kind, name);
        subscription.due.retain(|name, _| !is_wildcard(kind) && is_missing(name));
        self.from_disk = false;

        let answer = self.answer(type_url, nonce, &applied.refusals);
        let status = self.kinds.entry(kind).or_default();
        status.responses = status.responses.saturating_add(1);
        status.last_response = Some(now.wall);
        if changed {
            status.last_change = Some(now.wall);
        }
        if let Answer::Nack(text) = &answer {
            status.nacks = status.nacks.saturating_add(1);
            status.last_nack = Some(Nack { text: text.clone(), at: now.wall });
        }
        if changed || is_first {
            self.settle(Missing::Wait, Some(now));
        }
        answer
    }

    /// When [`Session::elapsed`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.subscriptions.values().flat_map(|subscription| subscription.due.values()).min().copied()
    }

    /// Time went by: what is overdue does not exist.
    pub fn elapsed(&mut self, now: Now) {
        let mut some = false;
        for (kind, subscription) in &mut self.subscriptions {
            subscription.due.retain(|name, due| {
                let is_due = *due <= now.steady;
                match is_due {
                    true if is_wildcard(*kind) => self.accepted.give_up_on_first_answer(*kind),
                    true => self.accepted.give_up_on(*kind, name),
                    false => {}
                }
                some |= is_due;
                !is_due
            });
        }
        if some {
            self.settle(Missing::Wait, Some(now));
        }
    }

    /// The next request to send, in order.
    pub fn take_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        self.requests.pop_front()
    }

    /// What is in force, if that changed since the last call.
    pub fn take_effective(&mut self) -> Option<Effective> {
        std::mem::take(&mut self.effective_is_new).then(|| self.effective.clone())
    }

    /// The resources in force, as they came: what the disk keeps.
    pub fn in_force(&self) -> &Arc<Store> {
        &self.in_force
    }

    /// Whether the server has not spoken yet since [`Session::restore`].
    pub fn is_from_disk(&self) -> bool {
        self.from_disk
    }

    /// Everything accepted.
    pub fn accepted(&self) -> &Accepted {
        &self.accepted
    }

    /// The session's part of a status; the connection's part is left as it is.
    pub fn describe(&self, status: &mut Status) {
        status.from_disk = self.from_disk;
        status.accepted_bytes = self.accepted.bytes();
        for (kind, of_kind) in &self.kinds {
            let subscribed = self.subscriptions.get(kind);
            let missing = subscribed.into_iter().flat_map(|it| &it.names);
            let missing =
                missing.filter(|name| !self.accepted.store().contains(*kind, name)).map(ToString::to_string).collect();
            status.kinds.insert(kind.label(), KindStatus { missing, ..of_kind.clone() });
        }
    }

    /// Queues the answer to a response.
    fn answer(&mut self, type_url: String, nonce: String, refusals: &[Refusal]) -> Answer {
        let (answer, error_detail) = match refusals {
            [] => (Answer::Ack, None),
            refusals => {
                let text = nack_text(refusals);
                let status = rpc::Status { code: INVALID_ARGUMENT, message: text.clone(), details: Vec::new() };
                (Answer::Nack(text), Some(status))
            }
        };
        // A response without a nonce breaks the protocol. Without one, an ACK would say nothing, but a refusal should
        // still reach somebody's log.
        if !nonce.is_empty() || error_detail.is_some() {
            let request = DeltaDiscoveryRequest { type_url, response_nonce: nonce, error_detail, ..Default::default() };
            self.queue(request);
        }
        answer
    }

    fn settle(&mut self, missing: Missing, now: Option<Now>) {
        let settled = warming::settle(&self.in_force, &self.accepted, missing);
        self.subscribe(&settled.wanted, now);
        for (kind, status) in &mut self.kinds {
            let names = settled.warming.get(kind).into_iter().flatten();
            let version = |name: &Name| self.accepted.store().version(*kind, name).unwrap_or_default().to_owned();
            status.warming = names.map(|name| (name.to_string(), version(name))).collect();
        }
        let complete = settled.complete || self.effective.complete;
        if settled.in_force.is_same(&self.in_force) && complete == self.effective.complete {
            return;
        }
        self.in_force = Arc::new(settled.in_force);
        self.effective = Effective {
            resources: Arc::new(warming::resources(&self.in_force)),
            in_force: Some(Arc::clone(&self.in_force)),
            received_at: now.map(|now| now.wall).or(self.effective.received_at),
            complete,
        };
        self.effective_is_new = true;
    }

    /// Brings the named subscriptions in line.
    fn subscribe(&mut self, wanted: &Names, now: Option<Now>) {
        for (kind, wanted) in wanted {
            let subscription = self.subscriptions.entry(*kind).or_default();
            let added: BTreeSet<Name> = wanted.difference(&subscription.names).cloned().collect();
            let dropped: BTreeSet<Name> = subscription.names.difference(wanted).cloned().collect();
            subscription.names.clone_from(wanted);
            for name in &dropped {
                subscription.due.remove(name);
                self.accepted.forget(*kind, name);
            }
            match now {
                Some(now) if self.connected && !(added.is_empty() && dropped.is_empty()) => {
                    self.request_names(*kind, added, dropped, now);
                }
                Some(_) | None => {}
            }
        }
    }

    /// After a restore: what belongs to something that this program refused.
    fn forget_what_nothing_wants(&mut self) {
        for (kind, subscription) in self.subscriptions.iter().filter(|(kind, _)| !is_wildcard(**kind)) {
            for name in
                self.accepted.store().versions(*kind).keys().filter(|name| !subscription.names.contains(name.as_str()))
            {
                self.accepted.forget(*kind, name);
            }
        }
    }

    /// Queues a request that subscribes and unsubscribes; the first of its kind on this stream says what is there.
    fn request_names(&mut self, kind: Kind, added: BTreeSet<Name>, dropped: BTreeSet<Name>, now: Now) {
        let subscription = self.subscriptions.entry(kind).or_default();
        let due = now.steady.checked_add(DOES_NOT_EXIST_AFTER).unwrap_or(now.steady);
        let store = self.accepted.store();
        let missing = added.iter().filter(|name| !store.contains(kind, name) && !self.accepted.is_absent(kind, name));
        subscription.due.extend(missing.map(|name| (Arc::clone(name), due)));
        let mut initial_resource_versions = HashMap::new();
        if !subscription.is_started {
            subscription.is_started = true;
            initial_resource_versions.extend(store.versions(kind));
            if is_wildcard(kind) && !self.accepted.is_settled(kind) {
                subscription.due.insert(FIRST_ANSWER.into(), due);
            }
        }
        self.queue(DeltaDiscoveryRequest {
            type_url: kind.url().to_owned(),
            resource_names_subscribe: added.iter().map(ToString::to_string).collect(),
            resource_names_unsubscribe: dropped.iter().map(ToString::to_string).collect(),
            initial_resource_versions,
            ..Default::default()
        });
    }

    fn queue(&mut self, mut request: DeltaDiscoveryRequest) {
        if !std::mem::replace(&mut self.node_is_sent, true) {
            request.node = Some(self.node.clone());
        }
        self.requests.push_back(request);
    }
}

/// Whether all resources of a kind are asked for, without naming them.
fn is_wildcard(kind: Kind) -> bool {
    match kind {
        Kind::Cluster | Kind::Listener => true,
        Kind::Endpoints | Kind::Secret | Kind::Route => false,
    }
}

/// Takes a response off the wire. An error of a single resource that says "not found" is a removal; another one is the
/// server's trouble, through which what was accepted stays.
fn update(kind: Kind, response: DeltaDiscoveryResponse) -> Update {
    let DeltaDiscoveryResponse {
        resources,
        removed_resources: mut removed,
        removed_resource_names,
        resource_errors,
        type_url: _,
        nonce: _,
        system_version_info: _,
        control_plane: _,
    } = response;
    removed.extend(removed_resource_names.into_iter().map(|resource| resource.name));
    let not_found = resource_errors
        .into_iter()
        .filter(|error| error.error_detail.as_ref().is_some_and(|detail| detail.code == NOT_FOUND));
    removed.extend(not_found.filter_map(|error| error.resource_name.map(|resource| resource.name)));
    Update { kind, resources: resources.into_iter().map(incoming).collect(), removed }
}

fn incoming(resource: WireResource) -> Incoming {
    // Aliases belong to on-demand virtual hosts, cache control to xDS relays, metadata to people.
    let WireResource { name, resource_name, version, resource, ttl, aliases: _, cache_control: _, metadata: _ } =
        resource;
    let name = if name.is_empty() { resource_name.map(|it| it.name).unwrap_or_default() } else { name };
    let time_to_live = ttl.map(|ttl| Duration::from_secs(u64::try_from(ttl.seconds).unwrap_or(0)));
    Incoming { name, version, any: resource, time_to_live }
}

/// `resource: field.path: reason; resource: …`
fn nack_text(refusals: &[Refusal]) -> String {
    let mut text = String::new();
    for (index, refusal) in refusals.iter().enumerate() {
        let sentence = refusal.to_string();
        if index > 0 && text.len().saturating_add(sentence.len()) > LONGEST_NACK {
            return format!("{text}; and {} more", refusals.len().saturating_sub(index));
        }
        if index > 0 {
            text.push_str("; ");
        }
        let end = (0..=LONGEST_NACK.min(sentence.len())).rev().find(|&end| sentence.is_char_boundary(end)).unwrap_or(0);
        text.push_str(sentence.get(..end).unwrap_or_default());
    }
    text
}
