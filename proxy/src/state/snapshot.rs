//! One immutable view of everything: listeners with their route tables, clusters with their balancers.
//!
//! A request takes the snapshot once and never looks at configuration again. Names are resolved here, once per push:
//! a route knows its clusters by index, so that the request path hashes nothing but the host. What did not change is
//! shared with the snapshot before: a push of one route costs one route.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use leno_config::ir;

use crate::cluster::balance::Balancer;
use crate::cluster::{Cluster, ClusterStats, KnownEndpoints, Members, Membership};
use crate::policy::jwt::{Authenticator, FetchedKeys};
use crate::policy::rate_limit::{KnownLimits, Limiter};
use crate::route::RouteTable;

/// What names resolve to, for clusters of [`ir::Discovery::Dns`].
pub type Resolved = HashMap<String, Vec<std::net::IpAddr>>;

/// Everything a worker needs.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// What it was built from.
    pub resources: Arc<ir::Resources>,
    /// By name.
    pub listeners: BTreeMap<String, Arc<Listener>>,
    /// Routes refer to them by index.
    pub clusters: Vec<Arc<Cluster>>,
    by_name: HashMap<ir::ClusterName, usize>,
    /// Ports of the own listeners: nearly every address is cleared by one look here.
    own_ports: HashSet<u16, foldhash::fast::RandomState>,
}

/// A listener and what it does with connections.
#[derive(Debug)]
pub struct Listener {
    /// As configured.
    pub config: Arc<ir::Listener>,
    /// What is spoken.
    pub handler: Handler,
}

/// What a listener does with connections.
#[derive(Debug)]
pub enum Handler {
    /// HTTP.
    Http(HttpHandler),
    /// Bytes.
    Tcp(Targets),
}

/// Routes and where they lead.
#[derive(Debug)]
pub struct HttpHandler {
    /// Which route takes a request.
    pub table: Arc<RouteTable>,
    /// Where each route leads, by [`RouteTable::position`]; empty for those that forward nothing.
    pub targets: Vec<Targets>,
    /// What is asked of tokens; `None`: nothing.
    pub authenticator: Option<Arc<Authenticator>>,
    /// How often one may ask; `None`: without limit.
    pub limiter: Option<Arc<Limiter>>,
}

/// Weighted clusters, resolved.
#[derive(Debug, Default)]
pub struct Targets {
    entries: Box<[Target]>,
    total: u32,
}

#[derive(Debug)]
struct Target {
    weight: u32,
    /// Index into [`Snapshot::clusters`]; `None`: there is no such cluster (503, NC).
    cluster: Option<usize>,
}

/// Which of a route's clusters a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// Index into the route's weighted clusters.
    pub share: usize,
    /// Index into [`Snapshot::clusters`]; `None`: there is no such cluster.
    pub cluster: Option<usize>,
}

impl Targets {
    /// Draws one in proportion to the weights. `None` when there is no target at all.
    pub fn choose(&self, random: &crate::random::Random) -> Option<Chosen> {
        let mut left = if self.entries.len() > 1 { random.below(self.total) } else { 0 };
        self.entries.iter().enumerate().find_map(|(share, target)| {
            if left < target.weight {
                return Some(Chosen { share, cluster: target.cluster });
            }
            left -= target.weight;
            None
        })
    }
}

impl Snapshot {
    /// Builds the snapshot for `resources`, sharing with `old` what is the same and carrying over what was learnt.
    pub fn build(old: &Self, resources: Arc<ir::Resources>, resolved: &Resolved, keys: &FetchedKeys) -> Self {
        let clusters: Vec<_> =
            resources.clusters.values().map(|config| old.cluster(config, &resources, resolved)).collect();
        let by_name: HashMap<_, _> =
            resources.clusters.keys().enumerate().map(|(index, name)| (name.clone(), index)).collect();
        let (limits, mut known_limits) = (old.limits(), KnownLimits::new());
        let mut limiter =
            |listener: &str, limits_of: &[ir::RateLimit]| Limiter::new(listener, limits_of, &limits, &mut known_limits);
        let listeners = resources
            .listeners
            .iter()
            .map(|(name, config)| {
                (name.clone(), Arc::new(old.listener(config, &resources, &by_name, keys, &mut limiter)))
            })
            .collect();
        let own_ports = resources.listeners.values().map(|listener| listener.address.port()).collect();
        Self { resources, listeners, clusters, by_name, own_ports }
    }

    /// A cluster by name.
    pub fn cluster_named(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.index_of(name).and_then(|index| self.clusters.get(index))
    }

    /// Where a cluster stands in [`clusters`](Self::clusters).
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The addresses of the own listeners that face the own app: calling one would go round in a circle.
    pub fn is_own_outbound(&self, address: SocketAddr) -> bool {
        self.own_ports.contains(&address.port())
            && self.listeners.values().any(|listener| {
                listener.config.direction == ir::Direction::Outbound && reaches(address, listener.config.address)
            })
    }

    /// Whether `address` reaches any of the own listeners.
    pub fn is_own(&self, address: SocketAddr) -> bool {
        self.own_ports.contains(&address.port())
            && self.listeners.values().any(|listener| reaches(address, listener.config.address))
    }

    /// The rate limits in force, with what is left of them.
    fn limits(&self) -> KnownLimits {
        let limiters = self.listeners.iter().filter_map(|(name, listener)| match &listener.handler {
            Handler::Http(http) => Some((name, http.limiter.as_ref()?)),
            Handler::Tcp(_) => None,
        });
        limiters.flat_map(|(name, limiter)| limiter.known(name)).collect()
    }

    fn cluster(&self, config: &Arc<ir::Cluster>, resources: &ir::Resources, resolved: &Resolved) -> Arc<Cluster> {
        let before = self.cluster_named(config.name.as_str());
        if let Some(before) = before
            && self.is_unchanged(before, config, resources)
        {
            return Arc::clone(before);
        }
        let stats = before.map_or_else(|| Arc::new(ClusterStats::default()), |before| Arc::clone(&before.stats));
        let mut known = before.map(|before| before.members.known()).unwrap_or_default();
        let known = &mut known;
        let balanced = |endpoints: Option<&ir::Endpoints>, known: &mut KnownEndpoints| {
            let membership = endpoints.map_or_else(|| Membership::flat(Vec::new()), |some| Membership::of(some, known));
            Members::Balanced(Arc::new(Balancer::new(config, membership, stats.standing.load(Ordering::Acquire))))
        };
        let told = match &config.discovery {
            ir::Discovery::Eds { service } => {
                resources.endpoints.get(service.as_deref().unwrap_or(config.name.as_str()))
            }
            ir::Discovery::Static(_)
            | ir::Discovery::Dns(_)
            | ir::Discovery::OriginalDestination
            | ir::Discovery::RequestHost => None,
        };
        let members = match &config.discovery {
            ir::Discovery::Eds { .. } => balanced(told.map(Arc::as_ref), known),
            ir::Discovery::Static(endpoints) => balanced(Some(endpoints), known),
            ir::Discovery::Dns(endpoints) => balanced(Some(&resolve(endpoints, resolved)), known),
            ir::Discovery::OriginalDestination => Members::OriginalDestination,
            ir::Discovery::RequestHost => Members::RequestHost,
        };
        Arc::new(Cluster { config: Arc::clone(config), members, told: told.cloned(), stats })
    }

    /// Same configuration, same endpoints, nothing that DNS could have changed.
    fn is_unchanged(&self, before: &Cluster, config: &ir::Cluster, resources: &ir::Resources) -> bool {
        let same_endpoints = match &config.discovery {
            ir::Discovery::Eds { service } => {
                let name = service.as_deref().unwrap_or(config.name.as_str());
                match (self.resources.endpoints.get(name), resources.endpoints.get(name)) {
                    (Some(old), Some(new)) => Arc::ptr_eq(old, new) || old == new,
                    (None, None) => true,
                    (Some(_), None) | (None, Some(_)) => false,
                }
            }
            ir::Discovery::Dns(_) => false,
            ir::Discovery::Static(_) | ir::Discovery::OriginalDestination | ir::Discovery::RequestHost => true,
        };
        same_endpoints && *before.config == *config
    }

    fn listener(
        &self,
        config: &Arc<ir::Listener>,
        resources: &ir::Resources,
        by_name: &HashMap<ir::ClusterName, usize>,
        keys: &FetchedKeys,
        limiter: &mut impl FnMut(&str, &[ir::RateLimit]) -> Option<Arc<Limiter>>,
    ) -> Listener {
        let handler = match &config.protocol {
            ir::ListenerProtocol::Tcp(tcp) => Handler::Tcp(Targets::new(&tcp.clusters, by_name)),
            ir::ListenerProtocol::Detect(detection) => Handler::Tcp(Targets::new(&detection.tcp.clusters, by_name)),
            ir::ListenerProtocol::Http(http) => {
                let routes = match &http.routes {
                    ir::RouteSource::Inline(routes) => Arc::clone(routes),
                    ir::RouteSource::Named(name) => resources.routes.get(name).map_or_else(
                        || {
                            Arc::new(ir::RouteConfig {
                                name: name.clone(),
                                virtual_hosts: Vec::new(),
                                ignore_port: false,
                            })
                        },
                        Arc::clone,
                    ),
                };
                let table = self.table(&config.name, &routes);
                let targets = routes
                    .virtual_hosts
                    .iter()
                    .flat_map(|host| &host.routes)
                    .map(|route| match &route.action {
                        ir::Action::Forward(forward) => Targets::new(&forward.clusters, by_name),
                        ir::Action::Redirect(_) | ir::Action::Direct(_) => Targets::default(),
                    })
                    .collect();
                let authenticator = self.authenticator(&config.name, &http.jwt, keys);
                let limiter = limiter(&config.name, &http.rate_limits);
                Handler::Http(HttpHandler { table, targets, authenticator, limiter })
            }
        };
        Listener { config: Arc::clone(config), handler }
    }

    /// The one of the snapshot before, with the tokens it has verified, when nothing about it has changed.
    fn authenticator(
        &self,
        listener: &str,
        rules: &ir::JwtAuthentication,
        keys: &FetchedKeys,
    ) -> Option<Arc<Authenticator>> {
        let before = match self.listeners.get(listener).map(|listener| &listener.handler) {
            Some(Handler::Http(before)) => before.authenticator.as_ref(),
            Some(Handler::Tcp(_)) | None => None,
        };
        match before {
            Some(before) if before.is_made_of(rules, keys) => Some(Arc::clone(before)),
            Some(_) | None => Authenticator::new(rules, keys).map(Arc::new),
        }
    }

    /// The table of the snapshot before, when it was made from the same routes.
    fn table(&self, listener: &str, routes: &Arc<ir::RouteConfig>) -> Arc<RouteTable> {
        match self.listeners.get(listener).map(|listener| &listener.handler) {
            Some(Handler::Http(HttpHandler { table, .. })) if Arc::ptr_eq(table.config(), routes) => Arc::clone(table),
            Some(Handler::Http(_) | Handler::Tcp(_)) | None => Arc::new(RouteTable::new(Arc::clone(routes))),
        }
    }
}

impl Targets {
    fn new(clusters: &ir::WeightedClusters, by_name: &HashMap<ir::ClusterName, usize>) -> Self {
        let entries = clusters
            .as_slice()
            .iter()
            .map(|share| Target { weight: share.weight, cluster: by_name.get(&share.cluster).copied() })
            .collect();
        Self { entries, total: clusters.total() }
    }
}

/// Whether a connection to `address` arrives at a socket bound to `bound`.
fn reaches(address: SocketAddr, bound: SocketAddr) -> bool {
    address.port() == bound.port()
        && (address.ip() == bound.ip()
            || address.ip().is_unspecified()
            || (bound.ip().is_unspecified() && address.ip().is_loopback()))
}

/// Every address of every name is an endpoint (Envoy's STRICT_DNS); a name that is not resolved yet brings none.
fn resolve(endpoints: &ir::Endpoints, resolved: &Resolved) -> ir::Endpoints {
    let mut flat = endpoints.clone();
    for locality in &mut flat.localities {
        locality.endpoints = locality
            .endpoints
            .iter()
            .flat_map(|endpoint| {
                let addresses: Vec<SocketAddr> = match &endpoint.address {
                    ir::Address::Socket(address) => vec![*address],
                    ir::Address::Name { host, port } => {
                        let ips = resolved.get(host).map(Vec::as_slice).unwrap_or_default();
                        ips.iter().map(|ip| SocketAddr::new(*ip, port.get())).collect()
                    }
                };
                addresses
                    .into_iter()
                    .map(|address| ir::Endpoint { address: ir::Address::Socket(address), ..endpoint.clone() })
            })
            .collect();
    }
    flat
}

#[cfg(test)]
mod tests;
