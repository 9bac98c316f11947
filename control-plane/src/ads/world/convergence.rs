//! A property: whatever is pushed, acknowledged, refused and interrupted, in whatever order, the client ends up with
//! exactly the newest snapshot; and as long as its stream holds, it never has a route to a cluster that it lacks.
//!
//! The client here is a model of Envoy's and gRPC's: it lists what it wants in every request, coalesces requests that
//! have not gone out yet, knows of a nonce only what it has read, and takes absence for deletion.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::ads::model::{Holdings, Mesh, mesh};
use crate::snapshot::Snapshot;

/// How a client asks for clusters and listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// For everything (Envoy).
    Wildcard,
    /// By name, of all that there could be (gRPC).
    Names,
}

#[derive(Debug, Clone)]
enum Event {
    Push(Mesh),
    /// The client reads one response.
    ToClient,
    /// The control plane reads one request.
    ToServer,
    /// The stream breaks; what was under way is lost.
    Reconnect,
    /// From now on, every so many-th new version is refused; 0: none.
    Refuse(u8),
}

#[derive(Default)]
struct Client {
    holdings: Holdings,
    /// Of this stream.
    nonces: BTreeMap<Kind, String>,
    wanted: BTreeMap<Kind, BTreeSet<String>>,
}

impl Client {
    fn new(manner: Manner) -> Self {
        let mut client = Self::default();
        if manner == Manner::Names {
            client.wanted.insert(Kind::Cluster, (0..5).map(|service| format!("c{service}")).collect());
            client.wanted.insert(Kind::Listener, (0..3).map(|table| format!("t{table}")).collect());
        }
        client
    }

    fn connect(&mut self) -> Vec<(Kind, Request)> {
        self.nonces.clear();
        let worth = |kind: &Kind| has_wildcard(*kind) || self.wanted.get(kind).is_some_and(|names| !names.is_empty());
        Kind::PUSH_ORDER.into_iter().filter(worth).map(|kind| (kind, self.request(kind, None))).collect()
    }

    fn request(&self, kind: Kind, error: Option<String>) -> Request {
        Request {
            names: self.wanted.get(&kind).into_iter().flatten().cloned().collect(),
            nonce: self.nonces.get(&kind).cloned(),
            error,
        }
    }

    fn hear(&mut self, response: &Response) -> Vec<(Kind, Request)> {
        let kind = response.kind;
        let mut refused = Vec::new();
        let mut held = self.holdings.held.remove(&kind).unwrap_or_default();
        if has_wildcard(kind) {
            held.retain(|name, _| response.resources.iter().any(|resource| *resource.name == **name));
        }
        // What it has stopped asking for in the meantime it does not take.
        let wanted = |name: &str| self.wanted.get(&kind).is_some_and(|names| names.contains(name));
        let taken = response.resources.iter().filter(|resource| has_wildcard(kind) || wanted(&resource.name));
        for resource in taken.collect::<Vec<_>>() {
            let (name, version) = (resource.name.to_string(), resource.version.to_string());
            match self.holdings.refuses(kind, &name, &version) {
                true => refused.push(name),
                false => drop(held.insert(name, version)),
            }
        }
        self.holdings.held.insert(kind, held);
        self.nonces.insert(kind, response.nonce.clone());
        let error = (!refused.is_empty()).then(|| refused.iter().map(|name| format!("{name}: field: bad; ")).collect());
        let mut requests = self.follow(kind);
        requests.push((kind, self.request(kind, error)));
        requests
    }

    /// Endpoints are asked for by cluster, routes by listener.
    fn follow(&mut self, kind: Kind) -> Vec<(Kind, Request)> {
        let dependent = match kind {
            Kind::Cluster => Kind::Endpoints,
            Kind::Listener => Kind::Route,
            Kind::Endpoints | Kind::Secret | Kind::Route => return Vec::new(),
        };
        let wanted = self.holdings.held.entry(kind).or_default().keys().cloned().collect::<BTreeSet<_>>();
        self.holdings.held.entry(dependent).or_default().retain(|name, _| wanted.contains(name));
        match self.wanted.insert(dependent, wanted.clone()) {
            Some(old) if old == wanted => Vec::new(),
            None if wanted.is_empty() => Vec::new(),
            Some(_) | None => vec![(dependent, self.request(dependent, None))],
        }
    }
}

struct Stream {
    world: World,
    session: Session,
    now: Instant,
    to_client: VecDeque<Response>,
    to_server: VecDeque<(Kind, Request)>,
}

impl Stream {
    fn open(client: &mut Client, snapshot: Arc<Snapshot>, now: Instant) -> Self {
        let mut session = Session::undivided(now);
        session.on_snapshot(snapshot);
        let to_server = client.connect().into();
        Self { world: World::default(), session, now, to_client: VecDeque::new(), to_server }
    }

    fn client_reads(&mut self, client: &mut Client) -> bool {
        let Some(response) = self.to_client.pop_front() else { return false };
        self.to_server.extend(client.hear(&response));
        true
    }

    fn server_reads(&mut self) -> bool {
        let Some((kind, request)) = self.to_server.pop_front() else { return false };
        self.world.on_request(&mut self.session, kind, request).unwrap();
        self.answer();
        true
    }

    fn answer(&mut self) {
        while let Some(response) = self.world.poll(&mut self.session, self.now).unwrap() {
            self.to_client.push_back(response);
        }
    }

    /// Until nothing is under way and nothing is waited for.
    fn drain(&mut self, client: &mut Client) {
        for _ in 0..10_000 {
            if self.client_reads(client) || self.server_reads() {
                continue;
            }
            let Some(deadline) = self.session.deadline(self.now) else { return };
            assert!(deadline > self.now);
            self.now = deadline;
            self.answer();
        }
        panic!("the stream never comes to rest");
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => mesh().prop_map(Event::Push),
        10 => Just(Event::ToClient),
        10 => Just(Event::ToServer),
        1 => Just(Event::Reconnect),
        1 => (0..6_u8).prop_map(Event::Refuse),
    ]
}

fn manner() -> impl Strategy<Value = Manner> {
    prop_oneof![Just(Manner::Wildcard), Just(Manner::Names)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_client_ends_with_the_newest_snapshot_and_does_not_dangle_while_its_stream_holds(
        manner in manner(),
        first in mesh(),
        history in prop::collection::vec(event(), 0..120),
        last in mesh(),
    ) {
        let mut client = Client::new(manner);
        let mut newest = first.snapshot();
        let mut stream = Stream::open(&mut client, Arc::clone(&newest), Instant::now());
        let mut holds = true;
        for event in history {
            match event {
                Event::Push(mesh) => {
                    newest = mesh.snapshot();
                    stream.session.on_snapshot(Arc::clone(&newest));
                    stream.answer();
                }
                Event::ToClient => drop(stream.client_reads(&mut client)),
                Event::ToServer => drop(stream.server_reads()),
                Event::Reconnect => {
                    holds = false;
                    stream = Stream::open(&mut client, Arc::clone(&newest), stream.now);
                }
                Event::Refuse(share) => client.holdings.refuse = share,
            }
            prop_assert!(!holds || client.holdings.dangling().is_empty(), "{:?}", client.holdings.dangling());
        }
        client.holdings.refuse = 0;
        stream.drain(&mut client);
        let newest = Mesh { revision: 1 << 20, ..last }.snapshot();
        stream.session.on_snapshot(Arc::clone(&newest));
        stream.answer();
        stream.drain(&mut client);
        for kind in Kind::PUSH_ORDER {
            let [held, expected] = client.holdings.beside(&newest, kind);
            prop_assert_eq!(held, expected, "{:?}", kind);
        }
    }
}
