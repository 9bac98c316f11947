//! Route tables of outbound HTTP: every host that a socket serves, by all its names, and what stands behind it.
//!
//! A host is a port of a service. Its rows come from the VirtualService with the most specific host that covers it, of
//! those the oldest that has a row for this proxy; without one there is a single row to the service. Hosts that
//! VirtualServices name and no service has are served as on port 80 (Istio). What is left is for the outbound traffic
//! policy.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use http::StatusCode;

use crate::ir::{
    Action, AttemptCount, ClusterName, DirectResponse, Domain, FilePlace, Forward, HeaderOps, Origin, Port, Route,
    RouteConfig, RouteMatch, Separators, VirtualHost, WeightedClusters,
};
use crate::mesh::{Protocol, Service, ServicePort, VirtualService, in_cluster};
use crate::rules::{Destination, OutboundTrafficMode, OutboundTrafficPolicy, ResourceId};

use super::Output;
use super::destination_rule::Policy;
use super::http_action::{Context, default_retry};
use super::http_route;
use super::scope::{Egress, View};

/// The port that a host without a service is called on.
pub(super) const PLAIN_PORT: Port = Port::new(80).expect("invariant: 80 is not 0");

/// Istio: endpoints are told which attempt they see.
const COUNTED: AttemptCount = AttemptCount { request: true, response: false };

/// Which hosts a table serves.
#[derive(Clone, Copy)]
pub(super) enum Served<'a> {
    /// All of them, on all ports. With the port of a socket that a rule chose, a host without a port means that one, where
    /// the service has it.
    All(Option<Port>),
    /// Those of one port: callers have said which one when they connected.
    Port(Port),
    /// A port of one service.
    Host(&'a Service, Port),
}

impl Served<'_> {
    /// Whether the table has the port of a service.
    fn has(self, service: &Service, port: &ServicePort) -> bool {
        match self {
            Self::All(_) => port.protocol.is_http(),
            Self::Port(number) => {
                let may_be_http = port.protocol == Protocol::Undeclared && service.is_anywhere();
                port.number == number && (port.protocol.is_http() || may_be_http)
            }
            Self::Host(only, number) => port.number == number && std::ptr::eq(only, service),
        }
    }

    /// The port of a service that is meant where none is named.
    fn bare(self, service: &Service) -> Option<Port> {
        match self {
            Self::All(own) => {
                let on_socket = own.and_then(|port| service.port(port)).filter(|port| port.protocol.is_http());
                on_socket.or_else(|| service.bare_http_port()).map(|port| port.number)
            }
            Self::Port(number) | Self::Host(_, number) => Some(number),
        }
    }

    /// Whether it has hosts that only VirtualServices know.
    fn has_plain_hosts(self) -> bool {
        match self {
            Self::All(_) => true,
            Self::Port(number) => number == PLAIN_PORT,
            Self::Host(..) => false,
        }
    }
}

/// Builds the table `name`.
pub(super) fn table<'a>(
    view: &View<'a>,
    egress: &Egress<'a>,
    name: &str,
    served: Served<'a>,
    output: &mut Output<'a>,
) -> RouteConfig {
    let mut table = Table { view, egress, output, compiled: HashMap::new(), covered: HashSet::new() };
    let mut hosts = Vec::new();
    for &service in &egress.services {
        let bare = served.bare(service);
        for port in service.ports.iter().filter(|port| served.has(service, port)) {
            hosts.push(Host {
                name: format!("{}:{}", service.host, port.number),
                domains: names(service, &view.node.namespace),
                port: port.number,
                bare: bare == Some(port.number),
                routes: table.service_routes(service, port.number),
            });
        }
    }
    if served.has_plain_hosts() {
        table.hosts_without_service(&mut hosts);
    }
    let mut virtual_hosts = with_domains(hosts);
    virtual_hosts.push(table.remainder());
    // Names and domains were made unique above, and the last is the only one with `*`.
    RouteConfig::new(name, virtual_hosts).unwrap_or_else(|_| RouteConfig {
        name: name.to_owned(),
        virtual_hosts: Vec::new(),
        ignore_port: false,
    })
}

/// A host before its domains are settled.
struct Host {
    name: String,
    /// The full name first.
    domains: Vec<String>,
    port: Port,
    /// Whether it is meant when no port is named.
    bare: bool,
    routes: Vec<Route>,
}

struct Table<'t, 'a> {
    view: &'t View<'a>,
    egress: &'t Egress<'a>,
    output: &'t mut Output<'a>,
    /// A VirtualService with a wildcard has many hosts; it is compiled once per port.
    compiled: HashMap<(&'a ResourceId, Port), Vec<Route>>,
    /// Hosts of VirtualServices that some service took.
    covered: HashSet<&'a str>,
}

impl<'a> Table<'_, 'a> {
    fn service_routes(&mut self, service: &'a Service, port: Port) -> Vec<Route> {
        let egress = self.egress;
        for (host, rules) in self.view.mesh.virtual_services().covering(&service.host) {
            let seen: Vec<_> = rules.filter(|rule| !rule.http.is_empty() && egress.sees(rule, host)).collect();
            if seen.is_empty() {
                continue;
            }
            self.covered.insert(host);
            // Clusters of its destinations are noted while compiling; the service's own is there in any case.
            self.output.reach(service, port);
            let routes = seen.into_iter().map(|rule| self.compile(rule, port)).find(|routes| !routes.is_empty());
            return routes.unwrap_or_else(|| self.default_routes(service, port));
        }
        self.default_routes(service, port)
    }

    fn compile(&mut self, rule: &'a VirtualService, called: Port) -> Vec<Route> {
        if let Some(routes) = self.compiled.get(&(&rule.id, called)) {
            return routes.clone();
        }
        let mut context = Context { view: self.view, egress: self.egress, called, output: &mut *self.output };
        let routes = http_route::routes(&mut context, rule);
        let shared = rule.hosts.len() > 1 || rule.hosts.iter().any(|host| host.starts_with('*'));
        if shared {
            self.compiled.insert((&rule.id, called), routes.clone());
        }
        routes
    }

    /// Everything to the service, with the mesh's retries.
    fn default_routes(&mut self, service: &'a Service, port: Port) -> Vec<Route> {
        let rule = self.view.destination_rule(service);
        let hash = Policy::of(self.view.mesh, rule, port, "").hash_policy();
        let ResourceId { kind, namespace, name } = service.id.clone();
        let forward = Forward {
            retry: Some(default_retry(hash.is_some())),
            hash: hash.into_iter().collect(),
            ..Forward::plain(WeightedClusters::single(self.output.reach(service, port)))
        };
        vec![row(
            "default",
            Some(Origin { kind, namespace, name, index: 0, place: FilePlace::default() }),
            Action::Forward(forward),
        )]
    }

    /// Hosts that a VirtualService names and no service has; of two that name one, the oldest.
    fn hosts_without_service(&mut self, hosts: &mut Vec<Host>) {
        let (view, egress) = (self.view, self.egress);
        let mut taken = HashSet::new();
        for rule in view.mesh.virtual_services().iter().filter(|rule| !rule.http.is_empty()) {
            for host in rule.hosts.iter().filter(|host| egress.sees(rule, host) && !matches!(host.as_str(), "" | "*")) {
                let has_service = egress.service(host).is_some() || self.covered.contains(host.as_str());
                if has_service || taken.contains(host.as_str()) {
                    continue;
                }
                let routes = self.compile(rule, PLAIN_PORT);
                if !routes.is_empty() {
                    taken.insert(host.as_str());
                    let name = format!("{host}:{PLAIN_PORT}");
                    hosts.push(Host { name, domains: vec![host.clone()], port: PLAIN_PORT, bare: true, routes });
                }
            }
        }
    }

    /// What becomes of all other hosts.
    fn remainder(&mut self) -> VirtualHost {
        let (name, action) = match catch_all(self.view, self.egress, self.output) {
            None => {
                let direct = DirectResponse { status: StatusCode::BAD_GATEWAY, body: Vec::new() };
                ("block_all", Action::Direct(direct))
            }
            Some(cluster) => ("allow_any", Action::Forward(Forward::plain(WeightedClusters::single(cluster)))),
        };
        let routes = vec![row(name, None, action)];
        VirtualHost { name: name.to_owned(), domains: vec![Domain::Any], routes, attempt_count: COUNTED }
    }
}

/// Where everything goes that is for nobody known; `None`: nowhere (REGISTRY_ONLY).
pub(super) fn catch_all<'a>(view: &View<'a>, egress: &Egress<'a>, output: &mut Output<'a>) -> Option<ClusterName> {
    let policy = outbound_policy(view);
    if policy.is_some_and(|policy| policy.mode.unwrap_or_default() == OutboundTrafficMode::RegistryOnly) {
        return None;
    }
    let Some(destination) = policy.and_then(|policy| policy.egress_proxy.as_ref()) else {
        return Some(output.passthrough(view));
    };
    let namespace = view.sidecar.map_or(view.node.namespace.as_str(), |rule| &rule.id.namespace);
    let host = crate::mesh::full_name(&destination.host, namespace);
    let destination = Destination { host, ..destination.clone() };
    Some(output.destination(view, egress, &destination, PLAIN_PORT).cluster)
}

/// Whether a VirtualService names a host that no service has.
pub(super) fn has_plain_hosts(view: &View<'_>, egress: &Egress<'_>) -> bool {
    let is_served = |host: &str| match host.strip_prefix('*') {
        Some(suffix) => egress.services.iter().any(|service| service.host.ends_with(suffix)),
        None => egress.service(host).is_some(),
    };
    let rules = view.mesh.virtual_services().iter().filter(|rule| !rule.http.is_empty());
    let mut hosts = rules.flat_map(|rule| rule.hosts.iter().filter(|host| egress.sees(rule, host)));
    hosts.any(|host| !matches!(host.as_str(), "" | "*") && !is_served(host))
}

/// The Sidecar's policy, else the mesh's; a Sidecar without one says nothing. `None`: unknown hosts are passed on.
fn outbound_policy<'a>(view: &View<'a>) -> Option<&'a OutboundTrafficPolicy> {
    let own = view.sidecar.and_then(|sidecar| sidecar.spec.outbound_traffic_policy.as_ref());
    own.or(view.mesh.settings().outbound_traffic_policy.as_ref())
}

/// A row for every request, which does nothing else.
fn row(name: &str, origin: Option<Origin>, action: Action) -> Route {
    Route {
        name: name.to_owned(),
        origin,
        matcher: RouteMatch::any(),
        action,
        request_headers: HeaderOps::default(),
        response_headers: HeaderOps::default(),
        cors: None,
        fault: None,
        authorization: None,
        refused_in_path: Separators::NONE,
    }
}

/// A row for every request to `clusters`, with what `refine` adds.
pub(super) fn row_to(
    name: &str,
    origin: Option<Origin>,
    clusters: WeightedClusters,
    refine: impl FnOnce(&mut Forward),
) -> Route {
    let mut forward = Forward::plain(clusters);
    refine(&mut forward);
    row(name, origin, Action::Forward(forward))
}

/// All names of a service, the full one first: `reviews.default.svc.cluster.local` is also `reviews.default.svc` and
/// `reviews.default`, in its own namespace just `reviews`, and it has its addresses.
fn names(service: &Service, namespace: &str) -> Vec<String> {
    let mut names = vec![service.host.clone()];
    if let Some((name, own)) = in_cluster(&service.host) {
        if own == namespace {
            names.push(name.to_owned());
        }
        names.extend([format!("{name}.{own}"), format!("{name}.{own}.svc")]);
    }
    names.extend(service.addresses.iter().map(|address| match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }));
    names
}

/// Settles who has which domain: no two hosts may have one. Full names go before shorter ones, whoever comes first.
fn with_domains(hosts: Vec<Host>) -> Vec<VirtualHost> {
    let mut taken = HashSet::from([Domain::Any]);
    let mut domains: Vec<Vec<Domain>> = vec![Vec::new(); hosts.len()];
    for full in [true, false] {
        for (host, domains) in hosts.iter().zip(&mut domains) {
            for name in host.domains.iter().enumerate().filter(|(index, _)| (*index == 0) == full).map(|(_, name)| name)
            {
                let bare = host.bare.then(|| name.clone());
                for text in bare.into_iter().chain([format!("{name}:{}", host.port)]) {
                    domains.extend(Domain::parse(&text).ok().filter(|domain| taken.insert(domain.clone())));
                }
            }
        }
    }
    let mut named = HashSet::new();
    let settled =
        hosts.into_iter().zip(domains).filter(|(host, domains)| !domains.is_empty() && named.insert(host.name.clone()));
    settled
        .map(|(Host { name, routes, .. }, domains)| VirtualHost { name, domains, routes, attempt_count: COUNTED })
        .collect()
}
