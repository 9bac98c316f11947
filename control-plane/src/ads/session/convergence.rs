//! A property: whatever is pushed, acknowledged, refused and interrupted, in whatever order, the proxy never holds a
//! route to a cluster that it does not have, and ends up with exactly the newest snapshot.
//!
//! The proxy here is a model of Envoy: it asks for the endpoints of the clusters it gets and for the routes of its
//! listeners, applies what is valid and refuses the rest by name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::ads::model::{Holdings, Mesh, mesh};

/// One step of the history.
#[derive(Debug, Clone)]
enum Event {
    Push(Mesh),
    /// The proxy reads one response.
    ToProxy,
    /// The control plane reads one request.
    ToServer,
    /// The stream breaks; what was under way is lost.
    Reconnect,
    /// From now on, every so many-th new version is refused; 0: none.
    Refuse(u8),
}

#[derive(Default)]
struct Proxy {
    holdings: Holdings,
    /// Clusters that wait for endpoints.
    warming: BTreeSet<String>,
    subscribed: BTreeMap<Kind, BTreeSet<String>>,
}

impl Proxy {
    /// The first requests of a stream: all kinds at once, with what the proxy holds.
    fn connect(&mut self) -> Vec<(Kind, Request)> {
        // Endpoints that are there warm a cluster; Envoy keeps them in a cache.
        let endpoints = self.holdings.held.entry(Kind::Endpoints).or_default();
        self.warming.retain(|cluster| !endpoints.contains_key(cluster));
        let request = |kind: Kind| {
            let held = self.holdings.held.get(&kind).cloned().unwrap_or_default();
            let names = self.subscribed.get(&kind).cloned().unwrap_or_default();
            (kind, Request { subscribe: names.into_iter().collect(), initial_versions: held, ..Request::default() })
        };
        let worth = |(kind, request): &(Kind, Request)| has_wildcard(*kind) || !request.subscribe.is_empty();
        Kind::PUSH_ORDER.into_iter().map(request).filter(worth).collect()
    }

    fn hear(&mut self, response: &Response) -> Vec<(Kind, Request)> {
        let kind = response.kind;
        let mut refused = Vec::new();
        for name in &response.removed {
            self.holdings.held.entry(kind).or_default().remove(&**name);
        }
        for resource in &response.resources {
            let (name, version) = (resource.name.to_string(), resource.version.to_string());
            // What it has stopped asking for while that was under way it does not take.
            if !has_wildcard(kind) && !self.subscribed.get(&kind).is_some_and(|names| names.contains(&name)) {
                continue;
            }
            if self.holdings.refuses(kind, &name, &version) {
                refused.push(name);
                continue;
            }
            match kind {
                Kind::Cluster => drop(self.warming.insert(name.clone())),
                Kind::Endpoints => drop(self.warming.remove(&name)),
                Kind::Secret | Kind::Listener | Kind::Route => {}
            }
            self.holdings.held.entry(kind).or_default().insert(name, version);
        }
        let error = (!refused.is_empty()).then(|| refused.iter().map(|name| format!("{name}: field: bad; ")).collect());
        let mut requests = self.follow(kind);
        requests.push((kind, Request { nonce: Some(response.nonce.clone()), error, ..Request::default() }));
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
        let subscribed = self.subscribed.entry(dependent).or_default();
        let subscribe = wanted.difference(subscribed).cloned().collect::<Vec<_>>();
        let unsubscribe = subscribed.difference(&wanted).cloned().collect::<Vec<_>>();
        self.warming.retain(|cluster| kind != Kind::Cluster || wanted.contains(cluster));
        self.holdings.held.entry(dependent).or_default().retain(|name, _| wanted.contains(name));
        *subscribed = wanted;
        match subscribe.is_empty() && unsubscribe.is_empty() {
            true => Vec::new(),
            false => vec![(dependent, Request { subscribe, unsubscribe, ..Request::default() })],
        }
    }
}

struct Stream {
    session: Session,
    now: Instant,
    to_proxy: VecDeque<Response>,
    to_server: VecDeque<(Kind, Request)>,
}

impl Stream {
    fn open(proxy: &mut Proxy, snapshot: Arc<Snapshot>, now: Instant) -> Self {
        let mut session = Session::new(now);
        session.on_snapshot(snapshot);
        Self { session, now, to_proxy: VecDeque::new(), to_server: proxy.connect().into() }
    }

    fn proxy_reads(&mut self, proxy: &mut Proxy) -> bool {
        let Some(response) = self.to_proxy.pop_front() else { return false };
        self.to_server.extend(proxy.hear(&response));
        true
    }

    fn server_reads(&mut self) -> bool {
        let Some((kind, request)) = self.to_server.pop_front() else { return false };
        self.session.on_request(kind, request).unwrap();
        self.answer();
        true
    }

    fn answer(&mut self) {
        self.to_proxy.extend(std::iter::from_fn(|| self.session.poll(self.now)));
    }

    /// Until nothing is under way and nothing is waited for.
    fn drain(&mut self, proxy: &mut Proxy) {
        for _ in 0..10_000 {
            if self.proxy_reads(proxy) || self.server_reads() {
                assert_eq!(proxy.holdings.dangling(), Vec::<String>::new());
            } else if let Some(deadline) = self.session.deadline(self.now) {
                assert!(deadline > self.now);
                self.now = deadline;
                self.answer();
            } else {
                return;
            }
        }
        panic!("the stream never comes to rest");
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => mesh().prop_map(Event::Push),
        10 => Just(Event::ToProxy),
        10 => Just(Event::ToServer),
        1 => Just(Event::Reconnect),
        1 => (0..6_u8).prop_map(Event::Refuse),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_proxy_never_dangles_and_ends_with_the_newest_snapshot(
        first in mesh(),
        history in prop::collection::vec(event(), 0..120),
        last in mesh(),
    ) {
        let mut proxy = Proxy::default();
        let mut newest = first.snapshot();
        let mut stream = Stream::open(&mut proxy, Arc::clone(&newest), Instant::now());
        for event in history {
            match event {
                Event::Push(mesh) => {
                    newest = mesh.snapshot();
                    stream.session.on_snapshot(Arc::clone(&newest));
                    stream.answer();
                }
                Event::ToProxy => drop(stream.proxy_reads(&mut proxy)),
                Event::ToServer => drop(stream.server_reads()),
                Event::Reconnect => stream = Stream::open(&mut proxy, Arc::clone(&newest), stream.now),
                Event::Refuse(share) => proxy.holdings.refuse = share,
            }
            prop_assert_eq!(proxy.holdings.dangling(), Vec::<String>::new());
        }
        // Everything gets a version that was not refused, and nothing is refused any more.
        proxy.holdings.refuse = 0;
        stream.drain(&mut proxy);
        let last = Mesh { revision: 1 << 20, ..last };
        let newest = last.snapshot();
        stream.session.on_snapshot(Arc::clone(&newest));
        stream.answer();
        stream.drain(&mut proxy);
        for kind in Kind::PUSH_ORDER {
            let [held, expected] = proxy.holdings.beside(&newest, kind);
            prop_assert_eq!(held, expected, "{:?}", kind);
        }
        let cold = proxy.warming.iter().filter(|cluster| !proxy.holdings.has_refused(Kind::Endpoints, cluster));
        prop_assert_eq!(cold.collect::<Vec<_>>(), Vec::<&String>::new());
    }
}
