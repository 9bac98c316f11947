//! The sockets of a proxy.
//!
//! Without capture of connections a proxy opens what the Sidecar rule names. Where that names no port of its own, or
//! where there is no rule, there is one HTTP socket for all hosts, `127.0.0.1:15001`, and one TCP socket on loopback for
//! each distinct TCP port of the services; a TCP port of two services belongs to the one in the proxy's namespace, then
//! to the oldest, since bytes do not say whom they are for. Where connections are captured, there are only those sockets
//! here that a rule sets apart from that (`captureMode: NONE`).
//!
//! Two rules for one address: the first has it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::defaults;
use crate::ir::{
    Address, AttemptCount, Branch, Cluster, ClusterName, Condition, Direction, Discovery, Domain, Endpoint, Endpoints,
    FilePlace, Health, HttpManager, JwtAuthentication, Listener, ListenerProtocol, Locality, LocalityEndpoints, Origin,
    PathNormalization, Port, RetryOn, RetryPolicy, RouteConfig, RouteSource, ServerName, ServiceName, StreamLimits,
    TcpRoute, UnderscoreNames, UpstreamProtocol, VirtualHost, WeightedClusters,
};
use crate::mesh::{Instance, Protocol, Resolution, Service, ServicePort, Sidecar, port_number, selects};
use crate::rules::{EgressListener, IngressListener, SidecarPort};

use super::Output;
use super::authorization::Traffic;
use super::clusters::apply_connection_pool;
use super::http_action::default_retry;
use super::inbound::is_captured;
use super::ingress_tls::Ended;
use super::protection::{Protection, protection};
use super::routes::Served;
use super::scope::{Egress, View};
use super::tcp_route;
use super::tokens;
use super::{profile, routes, tracing};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Sockets toward the own app: those of the Sidecar's `ingress`.
pub(super) fn inbound<'a>(view: &View<'a>, output: &mut Output<'a>) {
    let Some(sidecar) = view.sidecar else { return };
    let captures = view.node.interception.captures();
    for (index, written) in sidecar.spec.ingress.iter().enumerate() {
        if captures && is_captured(written) {
            continue;
        }
        let Some((port, protocol)) = written.port.as_ref().and_then(port_and_protocol) else { continue };
        let Ok(Ended { tls, protocol }) = Ended::of(view, written, (port, protocol)) else { continue };
        let Some(address) = bind(written.bind.as_deref(), view.node.ip) else { continue };
        let address = SocketAddr::new(address, port.get());
        let Some(cluster) = app(view, sidecar, written, address, protocol) else { continue };
        if output.is_taken(address) {
            continue;
        }
        let origin = ingress_origin(sidecar, index);
        let name = format!("inbound_{}_{port}", address.ip());
        let traffic = if protocol.is_http() { Traffic::Http } else { Traffic::Tcp };
        let Protection { peer, tokens, authorization, rate_limits } = protection(view.mesh, view.node, port, traffic);
        tokens::clusters(view, &tokens, output);
        let protocol = if protocol.is_http() {
            let routes = inbound_routes(&cluster.name, &format!("inbound|http|{port}"), protocol, Some(origin));
            ListenerProtocol::Http(HttpManager { rate_limits, ..http_manager(view, &name, routes, tokens) })
        } else {
            ListenerProtocol::Tcp(TcpRoute {
                stat_prefix: name.clone(),
                origin: Some(origin),
                clusters: WeightedClusters::single(cluster.name.clone()),
                idle_timeout: Some(defaults::TCP_IDLE_TIMEOUT),
                hashes_source: false,
            })
        };
        output.cluster(cluster);
        let listener = Listener::new(name, address, Direction::Inbound, protocol);
        output.listener(Listener { mtls: peer.mode, tls, authorization, ..listener });
    }
}

/// Sockets toward other services.
pub(super) fn outbound<'a>(view: &View<'a>, output: &mut Output<'a>) {
    for egress in view.egress() {
        match egress.written {
            Some(written) => chosen(view, &egress, written, output),
            None => shared(view, &egress, output),
        }
    }
}

/// Whether the app is said to be at the node's own address: `0.0.0.0:PORT` or `[::]:PORT`.
pub(super) fn is_on_node(endpoint: &str) -> bool {
    endpoint.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified())
}

/// The cluster of the app behind an ingress listener; `None`: it is at a Unix socket, or not an address.
fn app(
    view: &View<'_>,
    sidecar: &Sidecar,
    written: &IngressListener,
    listener: SocketAddr,
    protocol: Protocol,
) -> Option<Cluster> {
    let endpoint = written.default_endpoint.as_deref().filter(|text| !text.is_empty());
    let mut address = match endpoint {
        Some(text) => text.parse().ok()?,
        None => SocketAddr::new(LOOPBACK, listener.port()),
    };
    if address.ip().is_unspecified() {
        address.set_ip(view.node.ip);
    }
    let name = ClusterName::inbound(listener.port());
    // Behind a listener at the app's own address there is only the listener again: no app, then.
    let app = Some(address).filter(|&address| address != listener && address.port() != 0);
    let endpoints = only_endpoint(&name, app);
    let protocol = match protocol {
        Protocol::Http => UpstreamProtocol::Http1,
        Protocol::Http2 | Protocol::Grpc => UpstreamProtocol::Http2,
        Protocol::Tls | Protocol::Tcp | Protocol::Udp | Protocol::Undeclared => UpstreamProtocol::Tcp,
    };
    let service = service_at(view, sidecar, listener.port());
    let mut cluster = Cluster { protocol, service, ..Cluster::new(name, Discovery::Static(endpoints)) };
    profile::begin(view.mesh, &mut cluster);
    if let Some(pool) = written.connection_pool.as_ref().or(sidecar.spec.inbound_connection_pool.as_ref()) {
        apply_connection_pool(&mut cluster, pool);
    }
    Some(cluster)
}

/// The endpoints of a cluster that has one or none.
pub(super) fn only_endpoint(cluster: &ClusterName, address: Option<SocketAddr>) -> Endpoints {
    let endpoint = address.map(|address| Endpoint {
        address: Address::Socket(address),
        weight: 1,
        health: Health::Unknown,
        mesh_tls: false,
        identity: None,
        labels: BTreeMap::new(),
        workload: None,
    });
    let endpoints = endpoint.into_iter().collect();
    let locality = LocalityEndpoints { locality: Locality::default(), priority: 0, weight: None, endpoints };
    Endpoints { cluster: cluster.clone(), localities: vec![locality], overprovisioning: Endpoints::OVERPROVISIONING }
}

/// The service whose calls come to a port of the workloads that a Sidecar is for: the first by name, as Istio has it, where
/// several share them. A Sidecar for all workloads of its namespace says so of one service only.
pub(super) fn service_at(view: &View<'_>, sidecar: &Sidecar, port: u16) -> Option<ServiceName> {
    let everybody = BTreeMap::new();
    let selector = sidecar.selector.as_ref().unwrap_or(&everybody);
    let is_there = |service: &&Service| {
        let mut instances = service.instances.iter().filter(|instance| selects(selector, &instance.labels));
        let at = |instance: &Instance| service.ports.iter().any(|its| instance.port(its).map(Port::get) == Some(port));
        service.id.namespace == sidecar.id.namespace && instances.any(at)
    };
    let mut services: Vec<_> = view.mesh.services().filter(is_there).collect();
    services.sort_by(|one, other| one.host.cmp(&other.host));
    match services.as_slice() {
        [first, ..] if !selector.is_empty() => Some(first.named()),
        [only] => Some(only.named()),
        _ => None,
    }
}

/// Everything to the app. It is called once more only where the request had not begun, and never for gRPC, whose clients
/// do that themselves (Istio).
pub(super) fn inbound_routes(
    cluster: &ClusterName,
    name: &str,
    protocol: Protocol,
    origin: Option<Origin>,
) -> RouteSource {
    let retry = RetryPolicy { on: [RetryOn::ResetBeforeRequest].into(), ..default_retry(false) };
    let route = routes::row_to("default", origin, WeightedClusters::single(cluster.clone()), |forward| {
        forward.retry = Some(retry).filter(|_| protocol != Protocol::Grpc);
    });
    let name = name.to_owned();
    let (domains, routes) = (vec![Domain::Any], vec![route]);
    let host = VirtualHost { name: name.clone(), domains, routes, attempt_count: AttemptCount::default() };
    RouteSource::Inline(Arc::new(RouteConfig { name, virtual_hosts: vec![host], ignore_port: false }))
}

/// An egress listener with a port of its own.
pub(super) fn chosen<'a>(view: &View<'a>, egress: &Egress<'a>, written: &EgressListener, output: &mut Output<'a>) {
    let Some((port, protocol)) = written.port.as_ref().and_then(port_and_protocol) else { return };
    let Some(address) = bind(written.bind.as_deref(), LOOPBACK) else { return };
    let address = SocketAddr::new(address, port.get());
    if protocol.is_http() {
        http(view, egress, address, Served::All(Some(port)), output);
        return;
    }
    // The port of the socket may be any free one: then it stands for the service's first TCP port.
    let is_tcp = |service: &&&Service| service.ports.iter().any(|port| port.protocol.is_bytes());
    let has_port = |service: &&&Service| {
        service.port(port).is_some_and(|port| !port.protocol.is_http() && port.protocol != Protocol::Udp)
    };
    let services = preferred(view, egress);
    let same = services.iter().find(has_port).map(|&service| (service, port));
    let found = same.or_else(|| {
        let service = *services.iter().find(is_tcp)?;
        Some((service, service.ports.iter().find(|port| port.protocol.is_bytes())?.number))
    });
    if protocol == Protocol::Tls && services.iter().filter(|service| service.port(port).is_some_and(is_tls)).count() > 1
    {
        by_server_name(view, egress, &services, port, address, output);
    } else if let Some((service, port)) = found {
        tcp(view, egress, service, port, address, output);
    }
}

fn is_tls(port: &ServicePort) -> bool {
    port.protocol == Protocol::Tls
}

/// One socket for several services with TLS, which their callers' handshakes tell apart.
fn by_server_name<'a>(
    view: &View<'a>,
    egress: &Egress<'a>,
    services: &[&'a Service],
    number: Port,
    address: SocketAddr,
    output: &mut Output<'a>,
) {
    if output.is_taken(address) {
        return;
    }
    let (mut branches, mut rest) = (Vec::new(), None);
    for &service in services {
        let Some(port) = service.port(number).filter(|port| is_tls(port)) else { continue };
        match tcp_route::by_server_name(view, egress, service, port, output) {
            Some(named) => {
                branches.extend(named.branches);
                rest = rest.or(named.rest);
            }
            None => branches.extend(ServerName::parse(&service.host).ok().map(|name| Branch {
                condition: Condition::ServerName(name),
                route: tcp_route::route(view, egress, service, number, output),
            })),
        }
    }
    let rest = rest.unwrap_or_else(|| tcp_route::nowhere(output));
    let protocol = tcp_route::by_name(branches, rest);
    output.listener(Listener::new(listener_name(address), address, Direction::Outbound, protocol));
}

/// The sockets of all listeners without a port: one for HTTP, one for each TCP port.
fn shared<'a>(view: &View<'a>, egress: &Egress<'a>, output: &mut Output<'a>) {
    http(view, egress, SocketAddr::new(LOOPBACK, defaults::OUTBOUND_PORT), Served::All(None), output);
    let mut ports = BTreeMap::<Port, &Service>::new();
    for service in preferred(view, egress) {
        // Without an address of its own a service that the client finds itself could only be called in a circle.
        if service.resolution != Resolution::None {
            for port in service.ports.iter().filter(|port| port.protocol.is_bytes()) {
                ports.entry(port.number).or_insert(service);
            }
        }
    }
    for (port, service) in ports {
        tcp(view, egress, service, port, SocketAddr::new(LOOPBACK, port.get()), output);
    }
}

/// Services in the order in which they have a right to a port.
pub(super) fn preferred<'a>(view: &View<'a>, egress: &Egress<'a>) -> Vec<&'a Service> {
    let mut services = egress.services.clone();
    services.sort_by_key(|service| (service.id.namespace != view.node.namespace, &service.age));
    services
}

fn http<'a>(view: &View<'a>, egress: &Egress<'a>, address: SocketAddr, served: Served<'a>, output: &mut Output<'a>) {
    if output.is_taken(address) {
        return;
    }
    let name = listener_name(address);
    // A table is named by its port; a second socket on the same port, at another address, has a table of its own.
    let port = address.port().to_string();
    let table = if output.resources.routes.contains_key(&port) { name.clone() } else { port };
    let protocol = ListenerProtocol::Http(outbound_http(view, egress, &table, served, address, output));
    output.listener(Listener::new(name, address, Direction::Outbound, protocol));
}

/// Requests to the hosts of a table, at an address. A table that is there already is not made again.
pub(super) fn outbound_http<'a>(
    view: &View<'a>,
    egress: &Egress<'a>,
    table: &str,
    served: Served<'a>,
    address: SocketAddr,
    output: &mut Output<'a>,
) -> HttpManager {
    if !output.resources.routes.contains_key(table) {
        let routes = routes::table(view, egress, table, served, output);
        output.routes(routes);
    }
    let hosts = output.resources.routes.get(table).into_iter().flat_map(|table| &table.virtual_hosts);
    let tokens = match hosts.flat_map(|host| &host.routes).any(|route| !route.matcher.claims.is_empty()) {
        true => tokens::outbound(view.mesh, view.node),
        false => JwtAuthentication::default(),
    };
    tokens::clusters(view, &tokens, output);
    http_manager(view, &format!("outbound_{}", listener_name(address)), RouteSource::Named(table.to_owned()), tokens)
}

fn tcp<'a>(
    view: &View<'a>,
    egress: &Egress<'a>,
    service: &'a Service,
    port: Port,
    address: SocketAddr,
    output: &mut Output<'a>,
) {
    if output.is_taken(address) {
        return;
    }
    let protocol = match service.port(port) {
        Some(port) => tcp_route::protocol(view, egress, service, port, output),
        None => ListenerProtocol::Tcp(tcp_route::route(view, egress, service, port, output)),
    };
    output.listener(Listener::new(listener_name(address), address, Direction::Outbound, protocol));
}

pub(super) fn http_manager(
    view: &View<'_>,
    stat_prefix: &str,
    routes: RouteSource,
    jwt: JwtAuthentication,
) -> HttpManager {
    HttpManager {
        stat_prefix: stat_prefix.to_owned(),
        routes,
        upgrades: defaults::UPGRADES.iter().map(|&token| token.to_owned()).collect(),
        path: PathNormalization::BASE,
        underscores: UnderscoreNames::Pass,
        jwt,
        rate_limits: Vec::new(),
        streams: StreamLimits::default(),
        tracing: tracing::tracing(view),
    }
}

pub(super) fn listener_name(address: SocketAddr) -> String {
    format!("{}_{}", address.ip(), address.port())
}

pub(super) fn port_and_protocol(written: &SidecarPort) -> Option<(Port, Protocol)> {
    let port = port_number(written.number)?;
    let protocol = written.protocol.as_deref().and_then(Protocol::parse).unwrap_or(Protocol::Tcp);
    (protocol != Protocol::Udp).then_some((port, protocol))
}

/// The address to listen on; `None`: a Unix socket, or not an address.
fn bind(written: Option<&str>, default: IpAddr) -> Option<IpAddr> {
    written.filter(|text| !text.is_empty()).map_or(Some(default), |text| text.parse().ok())
}

pub(super) fn ingress_origin(sidecar: &Sidecar, index: usize) -> Origin {
    let id = &sidecar.id;
    Origin {
        kind: id.kind.clone(),
        namespace: id.namespace.clone(),
        name: id.name.clone(),
        index: u32::try_from(index).unwrap_or(u32::MAX),
        place: FilePlace::default(),
    }
}
