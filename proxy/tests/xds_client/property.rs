//! Whatever the server does, and in whatever order messages meet: nothing half-made is in force, and in the end the
//! proxy has what the server has.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf::Any;
use leno_config::ir;
use leno_config::xds::{Kind, node_to_xds};
use leno_proxy::state::warming::Effective;
use leno_proxy::xds::Status;
use leno_proxy::xds::session::{Answer, Now, Session};
use proptest::prelude::*;

use crate::build::{
    Wire, eds, eds_as, encrypted, endpoints, garbage, inline_listener, listener, node, nothing_is_refused, passthrough,
    roots, routes, tcp_listener,
};
use crate::server::Server;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Debug, Clone)]
enum Step {
    /// The server gets a resource, in one of some shapes.
    Put(Kind, usize, u8),
    /// The server gets a resource that nobody can read.
    Spoil(Kind, usize),
    Remove(Kind, usize),
    /// The server reads one request.
    Read,
    /// The server sends what it has to say of a kind.
    Push(Kind),
    Reconnect,
    Wait(u64),
}

/// There is one secret, the mesh's roots.
fn name_of(kind: Kind, index: usize) -> &'static str {
    if kind == Kind::Secret { ir::Secret::ROOTS } else { NAMES[index] }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(Kind::PUSH_ORDER.to_vec())
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    prop_oneof![
        6 => (kind(), name.clone(), any::<u8>()).prop_map(|(kind, name, shape)| Step::Put(kind, name, shape)),
        1 => (kind(), name.clone()).prop_map(|(kind, name)| Step::Spoil(kind, name)),
        2 => (kind(), name).prop_map(|(kind, name)| Step::Remove(kind, name)),
        6 => Just(Step::Read),
        6 => kind().prop_map(Step::Push),
        1 => Just(Step::Reconnect),
        1 => (1u64..20).prop_map(Step::Wait),
    ]
}

struct World {
    server: Server,
    session: Session,
    under_way: VecDeque<DeltaDiscoveryRequest>,
    start: Instant,
    seconds: u64,
    changes: u64,
    effective: Effective,
    /// The state before that.
    before: Effective,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            server: Server::default(),
            session: Session::new(node_to_xds(&node()), nothing_is_refused),
            under_way: VecDeque::new(),
            start: Instant::now(),
            seconds: 0,
            changes: 0,
            effective: Effective::default(),
            before: Effective::default(),
        };
        world.connect();
        world
    }

    fn now(&self) -> Now {
        let past = Duration::from_secs(self.seconds);
        Now { steady: self.start + past, wall: SystemTime::UNIX_EPOCH + past }
    }

    fn connect(&mut self) {
        self.server.disconnect();
        self.under_way.clear();
        let now = self.now();
        self.session.connected(now);
    }

    fn put(&mut self, kind: Kind, name: usize, shape: u8) {
        self.changes += 1;
        let version = self.changes.to_string();
        let shape = usize::from(shape);
        let (name, other) = (NAMES[name], NAMES[shape / 4 % NAMES.len()]);
        match kind {
            Kind::Cluster => match shape % 4 {
                0 => self.server.put(eds(name), &version),
                1 => self.server.put(eds_as(name, other), &version),
                2 => self.server.put(encrypted(name), &version),
                _ => self.server.put(passthrough(name), &version),
            },
            Kind::Endpoints => self.server.put(endpoints(name, 1 + shape as u16), &version),
            Kind::Secret => self.server.put(roots(&version), &version),
            Kind::Listener => match shape % 4 {
                0 => self.server.put(inline_listener(name, 1, &[other]), &version),
                1 => self.server.put(tcp_listener(name, 1, other), &version),
                _ => self.server.put(listener(name, 1, other), &version),
            },
            Kind::Route => {
                let bits = NAMES.iter().enumerate().filter(|(bit, _)| shape >> bit & 1 == 1);
                let clusters: Vec<&str> = bits.map(|(_, name)| *name).collect();
                self.server.put(routes(name, &clusters), &version);
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Put(kind, name, shape) => self.put(kind, name, shape),
            Step::Spoil(kind, name) => {
                self.changes += 1;
                self.server.put_raw(kind, garbage(kind, name_of(kind, name), &self.changes.to_string()));
            }
            Step::Remove(kind, name) => self.server.remove(kind, name_of(kind, name)),
            Step::Read => {
                self.read();
            }
            Step::Push(kind) => {
                self.push(kind);
            }
            Step::Reconnect => self.connect(),
            Step::Wait(seconds) => {
                self.seconds += seconds;
                let now = self.now();
                if self.session.deadline().is_some_and(|deadline| deadline <= now.steady) {
                    self.session.elapsed(now);
                }
            }
        }
        self.under_way.extend(std::iter::from_fn(|| self.session.take_request()));
        if let Some(effective) = self.session.take_effective() {
            self.before = std::mem::replace(&mut self.effective, effective);
            self.holds();
        }
    }

    fn read(&mut self) -> bool {
        self.under_way.pop_front().map(|request| self.server.request(request)).is_some()
    }

    fn push(&mut self, kind: Kind) -> bool {
        let now = self.now();
        self.server.response(kind).map(|response| self.session.received(response, now)).is_some()
    }

    /// What holds at any time.
    fn holds(&self) {
        let Effective { resources, .. } = &self.effective;
        let versions = self.effective.versions();
        let accepted = self.session.accepted();
        let mut status = Status::default();
        self.session.describe(&mut status);
        let warming = &status.kinds["routes"].warming;
        for cluster in resources.clusters.values() {
            if let ir::Discovery::Eds { service } = &cluster.discovery {
                let name = service.clone().unwrap_or_else(|| cluster.name.to_string());
                assert!(resources.endpoints.contains_key(name.as_str()), "`{}` has no endpoints", cluster.name);
                let exists = versions.endpoints.contains_key(&name);
                assert!(exists || accepted.is_absent(Kind::Endpoints, &name), "`{}` was not warm", cluster.name);
            }
        }
        let encrypts = |cluster: &Arc<ir::Cluster>| cluster.tls != ir::UpstreamTls::Plain;
        if resources.clusters.values().any(encrypts) && !resources.secrets.contains_key(ir::Secret::ROOTS) {
            assert!(accepted.is_absent(Kind::Secret, ir::Secret::ROOTS), "a cluster was in force without roots");
        }
        for listener in resources.listeners.values() {
            if let ir::ListenerProtocol::Http(manager) = &listener.protocol
                && let ir::RouteSource::Named(name) = &manager.routes
            {
                assert!(resources.routes.contains_key(name), "`{}` has no routes", listener.name);
                // A table that came late, after the listener went ahead without it, may wait for its clusters.
                let is_late = warming.contains_key(name);
                let exists = versions.routes.contains_key(name);
                assert!(exists || is_late || accepted.is_absent(Kind::Route, name), "`{}` was not warm", listener.name);
            }
        }
        for (name, held) in &self.session.in_force().routes {
            // A table that was in force before the cluster was there leads nowhere until it is warm.
            if self.before.versions().routes.get(&**name) == Some(&held.version) {
                continue;
            }
            for cluster in &held.references.clusters {
                let waits = accepted.store().contains(Kind::Cluster, cluster);
                let leads_nowhere = !resources.clusters.contains_key(&**cluster);
                assert!(!(waits && leads_nowhere), "`{name}` leads to `{cluster}`, which is still warming");
            }
        }
        let bytes = accepted
            .store()
            .raw()
            .map(|it| it.name.len() + it.version.len() + it.any.type_url.len() + it.any.value.len());
        assert_eq!(accepted.bytes(), bytes.sum::<usize>());
    }

    /// The server repairs what is broken, everything under way arrives, and everybody has had their time.
    fn comes_to_rest(&mut self) {
        for kind in Kind::PUSH_ORDER {
            for index in 0..NAMES.len() {
                if self.server.versions(kind).contains_key(name_of(kind, index)) {
                    self.put(kind, index, 7);
                }
            }
        }
        for _ in 0..3 {
            loop {
                let mut moved = false;
                while !self.under_way.is_empty() {
                    self.step(Step::Read);
                    moved = true;
                }
                for kind in Kind::PUSH_ORDER {
                    moved |= self.push(kind);
                    self.step(Step::Wait(0));
                }
                if !moved {
                    break;
                }
            }
            self.step(Step::Wait(16));
        }
    }

    fn has_what_the_server_has(&self) {
        let versions = &self.effective.versions();
        assert_eq!(versions.clusters, self.server.versions(Kind::Cluster));
        assert_eq!(versions.listeners, self.server.versions(Kind::Listener));
        let by_name = [
            (Kind::Endpoints, &versions.endpoints),
            (Kind::Secret, &versions.secrets),
            (Kind::Route, &versions.routes),
        ];
        for (kind, in_force) in by_name {
            let served = self.server.versions(kind);
            for (name, version) in in_force {
                let same = served.get(name).is_none_or(|it| it == version);
                assert!(same, "{kind:?} {name}: {version} instead of {:?}", served.get(name));
            }
        }
        let resources = &self.effective.resources;
        let names: BTreeSet<String> = resources.endpoints.keys().map(ToString::to_string).collect();
        assert_eq!(self.server.subscribed(Kind::Endpoints), names);
        let names: BTreeSet<String> = resources.routes.keys().cloned().collect();
        assert_eq!(self.server.subscribed(Kind::Route), names);
        let encrypts = resources.clusters.values().any(|cluster| cluster.tls != ir::UpstreamTls::Plain);
        assert_eq!(self.server.subscribed(Kind::Secret).contains(ir::Secret::ROOTS), encrypts);
        for (name, version) in self.server.versions(Kind::Secret).into_iter().filter(|_| encrypts) {
            assert_eq!(versions.secrets.get(&name), Some(&version));
        }
        for (name, version) in self.server.versions(Kind::Endpoints) {
            if resources.endpoints.contains_key(name.as_str()) {
                assert_eq!(versions.endpoints.get(&name), Some(&version));
            }
        }
        for (name, version) in self.server.versions(Kind::Route) {
            if resources.routes.contains_key(&name) {
                assert_eq!(versions.routes.get(&name), Some(&version));
            }
        }
        assert_eq!(self.server.unanswered(), 0, "every response was acknowledged or refused");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_half_made_is_in_force_and_in_the_end_the_proxy_has_what_the_server_has(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut world = World::new();
        world.step(Step::Wait(0));
        for step in steps {
            world.step(step);
        }
        world.comes_to_rest();
        world.has_what_the_server_has();
    }

    #[test]
    fn whatever_a_server_sends_is_answered_once_and_never_ends_the_session(
        responses in prop::collection::vec(response(), 1..20)
    ) {
        let mut session = Session::new(node_to_xds(&node()), nothing_is_refused);
        let now = Now { steady: Instant::now(), wall: SystemTime::UNIX_EPOCH };
        session.connected(now);
        while session.take_request().is_some() {}
        for response in responses {
            let nonce = response.nonce.clone();
            let answer = session.received(response, now);
            let answers: Vec<_> = std::iter::from_fn(|| session.take_request())
                .filter(|request| !request.response_nonce.is_empty() || request.error_detail.is_some())
                .collect();
            let expected = usize::from(!nonce.is_empty() || answer != Answer::Ack);
            prop_assert_eq!(answers.len(), expected);
            for request in answers {
                prop_assert_eq!(&request.response_nonce, &nonce);
                prop_assert_eq!(request.error_detail.is_some(), answer != Answer::Ack);
            }
        }
    }
}

/// Anything that a message can hold, near enough to a good response to get past the first checks.
fn response() -> impl Strategy<Value = DeltaDiscoveryResponse> {
    let name = || prop_oneof![prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned), ".*"];
    let type_url = || prop_oneof![9 => kind().prop_map(|kind| kind.url().to_owned()), 1 => ".*"];
    let bytes =
        (type_url(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(type_url, value)| Any { type_url, value });
    let good = prop::sample::select(NAMES.to_vec()).prop_map(|name| eds(name).any());
    let resource = (name(), ".{0,3}", prop::option::of(prop_oneof![bytes, good]), any::<bool>()).prop_map(
        |(name, version, resource, is_mortal)| Resource {
            name,
            version,
            resource,
            ttl: is_mortal.then(Default::default),
            ..Default::default()
        },
    );
    let resources = prop::collection::vec(resource, 0..5);
    (resources, prop::collection::vec(name(), 0..3), type_url(), "[0-9]{0,2}").prop_map(
        |(resources, removed_resources, type_url, nonce)| DeltaDiscoveryResponse {
            resources,
            removed_resources,
            type_url,
            nonce,
            ..Default::default()
        },
    )
}
