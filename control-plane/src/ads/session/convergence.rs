//! A property: whatever is pushed, acknowledged, refused and interrupted, in whatever order, the proxy never holds a
//! route to a cluster that it does not have, and ends up with exactly the newest snapshot.
//!
//! The proxy here is a model of Envoy: it asks for the endpoints of the clusters it gets and for the routes of its
//! listeners, applies what is valid and refuses the rest by name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::snapshot::tests::snapshot;

/// What the mesh looks like: services by number, with the version of their cluster and endpoints.
#[derive(Debug, Clone)]
struct World {
    services: BTreeMap<u8, (u8, u8)>,
    /// A listener with a route table of its own each.
    tables: BTreeSet<u8>,
    revision: u32,
}

impl World {
    /// The version of a route table names the clusters it uses, so that the model can check them.
    fn snapshot(&self) -> Arc<Snapshot> {
        let uses = self.services.keys().map(|service| format!("c{service}")).collect::<Vec<_>>().join(",");
        let mut resources = Vec::new();
        for (service, (cluster, endpoints)) in &self.services {
            resources.push((Kind::Cluster, format!("c{service}"), format!("{cluster}.{}", self.revision / 8)));
            resources.push((Kind::Endpoints, format!("c{service}"), endpoints.to_string()));
        }
        for table in &self.tables {
            resources.push((Kind::Listener, format!("t{table}"), format!("{}", self.revision / 4)));
            resources.push((Kind::Route, format!("t{table}"), format!("{}|{uses}", self.revision)));
        }
        snapshot(&resources.iter().map(|(kind, name, version)| (*kind, &**name, &**version)).collect::<Vec<_>>())
    }
}

/// One step of the history.
#[derive(Debug, Clone)]
enum Event {
    Push(World),
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
    held: BTreeMap<Kind, BTreeMap<String, String>>,
    /// Clusters that wait for endpoints.
    warming: BTreeSet<String>,
    refuse: u8,
    met: u8,
    /// Refused once, refused always.
    verdicts: BTreeMap<(Kind, String, String), bool>,
    subscribed: BTreeMap<Kind, BTreeSet<String>>,
}

impl Proxy {
    /// The first requests of a stream: all kinds at once, with what the proxy holds.
    fn connect(&mut self) -> Vec<(Kind, Request)> {
        // Endpoints that are there warm a cluster; Envoy keeps them in a cache.
        let endpoints = self.held.entry(Kind::Endpoints).or_default();
        self.warming.retain(|cluster| !endpoints.contains_key(cluster));
        let request = |kind: Kind| {
            let held = self.held.get(&kind).cloned().unwrap_or_default();
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
            self.held.entry(kind).or_default().remove(&**name);
        }
        for resource in &response.resources {
            let (name, version) = (resource.name.to_string(), resource.version.to_string());
            // What it has stopped asking for while that was under way it does not take.
            if !has_wildcard(kind) && !self.subscribed.get(&kind).is_some_and(|names| names.contains(&name)) {
                continue;
            }
            if self.refuses(kind, &name, &version) {
                refused.push(name);
                continue;
            }
            match kind {
                Kind::Cluster => drop(self.warming.insert(name.clone())),
                Kind::Endpoints => drop(self.warming.remove(&name)),
                Kind::Secret | Kind::Listener | Kind::Route => {}
            }
            self.held.entry(kind).or_default().insert(name, version);
        }
        let error = (!refused.is_empty()).then(|| refused.iter().map(|name| format!("{name}: field: bad; ")).collect());
        let mut requests = self.follow(kind);
        requests.push((kind, Request { nonce: Some(response.nonce.clone()), error, ..Request::default() }));
        requests
    }

    fn refuses(&mut self, kind: Kind, name: &str, version: &str) -> bool {
        let (refuse, met) = (self.refuse, &mut self.met);
        *self.verdicts.entry((kind, name.to_owned(), version.to_owned())).or_insert_with(|| {
            *met = met.wrapping_add(1);
            refuse != 0 && met.is_multiple_of(refuse)
        })
    }

    /// Endpoints are asked for by cluster, routes by listener.
    fn follow(&mut self, kind: Kind) -> Vec<(Kind, Request)> {
        let dependent = match kind {
            Kind::Cluster => Kind::Endpoints,
            Kind::Listener => Kind::Route,
            Kind::Endpoints | Kind::Secret | Kind::Route => return Vec::new(),
        };
        let wanted = self.held.entry(kind).or_default().keys().cloned().collect::<BTreeSet<_>>();
        let subscribed = self.subscribed.entry(dependent).or_default();
        let subscribe = wanted.difference(subscribed).cloned().collect::<Vec<_>>();
        let unsubscribe = subscribed.difference(&wanted).cloned().collect::<Vec<_>>();
        self.warming.retain(|cluster| kind != Kind::Cluster || wanted.contains(cluster));
        self.held.entry(dependent).or_default().retain(|name, _| wanted.contains(name));
        *subscribed = wanted;
        match subscribe.is_empty() && unsubscribe.is_empty() {
            true => Vec::new(),
            false => vec![(dependent, Request { subscribe, unsubscribe, ..Request::default() })],
        }
    }

    /// Clusters that a route table in force uses and that are neither there nor refused by the proxy itself.
    fn dangling(&self) -> Vec<String> {
        let empty = BTreeMap::new();
        let clusters = self.held.get(&Kind::Cluster).unwrap_or(&empty);
        let tables = self.held.get(&Kind::Route).unwrap_or(&empty);
        let uses = tables.values().filter_map(|version| version.split_once('|')).flat_map(|(_, uses)| uses.split(','));
        let refused = |name: &str| {
            self.verdicts
                .iter()
                .any(|((kind, refused, _), verdict)| *kind == Kind::Cluster && refused == name && *verdict)
        };
        uses.filter(|name| !name.is_empty() && !clusters.contains_key(*name) && !refused(name))
            .map(Into::into)
            .collect()
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
                assert_eq!(proxy.dangling(), Vec::<String>::new());
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

fn world() -> impl Strategy<Value = World> {
    let services = prop::collection::btree_map(0..5_u8, (0..3_u8, 0..3_u8), 0..5);
    (services, prop::collection::btree_set(0..3_u8, 0..3), any::<u16>())
        .prop_map(|(services, tables, revision)| World { services, tables, revision: revision.into() })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => world().prop_map(Event::Push),
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
        first in world(),
        history in prop::collection::vec(event(), 0..120),
        last in world(),
    ) {
        let mut proxy = Proxy::default();
        let mut newest = first.snapshot();
        let mut stream = Stream::open(&mut proxy, Arc::clone(&newest), Instant::now());
        for event in history {
            match event {
                Event::Push(world) => {
                    newest = world.snapshot();
                    stream.session.on_snapshot(Arc::clone(&newest));
                    stream.answer();
                }
                Event::ToProxy => drop(stream.proxy_reads(&mut proxy)),
                Event::ToServer => drop(stream.server_reads()),
                Event::Reconnect => stream = Stream::open(&mut proxy, Arc::clone(&newest), stream.now),
                Event::Refuse(share) => proxy.refuse = share,
            }
            prop_assert_eq!(proxy.dangling(), Vec::<String>::new());
        }
        // Everything gets a version that was not refused, and nothing is refused any more.
        proxy.refuse = 0;
        stream.drain(&mut proxy);
        let last = World { revision: 1 << 20, ..last };
        let newest = last.snapshot();
        stream.session.on_snapshot(Arc::clone(&newest));
        stream.answer();
        stream.drain(&mut proxy);
        for kind in Kind::PUSH_ORDER {
            let expected = newest.set(kind).resources.iter();
            let refused = |name: &str, version: &str| {
                proxy.verdicts.get(&(kind, name.to_owned(), version.to_owned())).copied().unwrap_or_default()
            };
            // Versions of endpoints repeat, so a refused one may come again and leave the older in force.
            let expected = expected
                .map(|(name, resource)| (name.to_string(), resource.version.to_string()))
                .filter(|(name, version)| !refused(name, version))
                .collect::<BTreeMap<_, _>>();
            let held = proxy.held.get(&kind).cloned().unwrap_or_default();
            let held = held.into_iter().filter(|(name, _)| {
                newest.set(kind).resources.get(name.as_str()).is_none_or(|resource| !refused(name, &resource.version))
            });
            prop_assert_eq!(held.collect::<BTreeMap<_, _>>(), expected, "{:?}", kind);
        }
        let cold = proxy.warming.iter().filter(|cluster| {
            !proxy.verdicts.iter().any(|((kind, name, _), verdict)| *kind == Kind::Endpoints && name == *cluster && *verdict)
        });
        prop_assert_eq!(cold.collect::<Vec<_>>(), Vec::<&String>::new());
    }
}
