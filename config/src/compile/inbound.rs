//! Connections that were captured on their way to the own app.
//!
//! One listener takes all of them (Istio's `virtualInbound`). Each port of the services that the workload belongs to is
//! one of its [`CapturedPort`]s, or each of the Sidecar's `ingress` where there is one; a connection to any other port is
//! passed on under the same rules, as requests where it is HTTP. The app is called where the caller meant it, at the
//! workload's own address, from [`APP_SOURCES`], by which the rules of redirection know that it has been captured already.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::defaults::{self, APP_SOURCES};
use crate::ir::{
    AccessLogs, Authorization, CapturedPort, Cluster, ClusterName, Detection, Direction, Discovery, HttpManager,
    Intake, Listener, ListenerProtocol, MtlsMode, Origin, Port, RouteSource, ServiceName, TcpRoute, UpstreamProtocol,
    WeightedClusters,
};
use crate::mesh::{PeerMode, Protocol, Sidecar};
use crate::rules::{CaptureMode, ConnectionPoolSettings, IngressListener};

use super::Output;
use super::authorization::Traffic;
use super::clusters::apply_connection_pool;
use super::ingress_tls::Ended;
use super::listeners::{http_manager, inbound_routes, ingress_origin, only_endpoint, port_and_protocol, service_at};
use super::profile;
use super::protection::{Protection, protection};
use super::scope::View;
use super::tokens;

/// Istio's name for connections to ports that nobody declared.
const PASSTHROUGH: &str = "InboundPassthroughCluster";

/// Everything that comes in.
pub(super) fn inbound<'a>(view: &View<'a>, output: &mut Output<'a>) {
    let mut ports = BTreeMap::new();
    let ingress = view.sidecar.filter(|sidecar| !sidecar.spec.ingress.is_empty());
    match ingress {
        Some(sidecar) => {
            for (index, written) in sidecar.spec.ingress.iter().enumerate().filter(|(_, it)| is_captured(it)) {
                let Some((port, protocol)) = written.port.as_ref().and_then(port_and_protocol) else { continue };
                ports
                    .entry(port)
                    .or_insert_with(|| ingress_port(view, sidecar, index, written, (port, protocol), output));
            }
        }
        None => {
            let pool = view.sidecar.and_then(|sidecar| sidecar.spec.inbound_connection_pool.as_ref());
            for own in view.mesh.own_ports(view.node) {
                let target = App { service: Some(own.service.clone()), pool, ..App::called(own.port, own.protocol) };
                ports.insert(own.port, target.port(view, None, output));
            }
        }
    }
    for port in view.mesh.peer_ports(view.node) {
        ports.entry(port).or_insert_with(|| {
            let mode = view.mesh.peer_mode(view.node, port);
            undeclared(view, mode, output)
        });
    }
    // The proxy itself: who calls it by its own port is going round in a circle.
    if let Some(port) = Port::new(defaults::INBOUND_PORT) {
        ports.insert(port, closed(output));
    }
    let CapturedPort { mtls, tls: _, authorization, access_logs, protocol } =
        undeclared(view, view.mesh.peer_mode_of_workload(view.node), output);
    let any = |ip: IpAddr| SocketAddr::new(ip, defaults::INBOUND_PORT);
    let address = any(Ipv4Addr::UNSPECIFIED.into());
    let listener = Listener::new("virtualInbound".to_owned(), address, Direction::Inbound, protocol);
    output.listener(Listener {
        additional_addresses: vec![any(Ipv6Addr::UNSPECIFIED.into())],
        intake: Intake::Capture,
        ports,
        mtls,
        authorization,
        access_logs,
        ..listener
    });
}

/// Whether an ingress listener gets its connections from the listener that captures.
pub(super) fn is_captured(written: &IngressListener) -> bool {
    match written.capture_mode.unwrap_or_default() {
        CaptureMode::Default | CaptureMode::Iptables => true,
        CaptureMode::None => false,
    }
}

/// The app behind a port.
struct App<'a> {
    port: Port,
    protocol: Protocol,
    /// `None`: where the caller meant it.
    endpoint: Option<SocketAddr>,
    service: Option<ServiceName>,
    pool: Option<&'a ConnectionPoolSettings>,
}

impl App<'_> {
    fn called(port: Port, protocol: Protocol) -> Self {
        Self { port, protocol, endpoint: None, service: None, pool: None }
    }

    /// What is done with connections to it.
    fn port<'a>(&self, view: &View<'a>, origin: Option<Origin>, output: &mut Output<'a>) -> CapturedPort {
        let Self { port, protocol, .. } = *self;
        let cluster = self.cluster(view);
        let name = cluster.name.clone();
        output.cluster(cluster);
        let http = |output: &mut Output<'a>| {
            let routes = inbound_routes(&name, &format!("inbound|http|{port}"), protocol, origin.clone());
            with_requests(view, &format!("inbound_0.0.0.0_{port}"), routes, port, output)
        };
        let bytes = |origin: Option<Origin>| tcp_route(&name, &format!("inbound_0.0.0.0_{port}"), origin);
        let mode = view.mesh.peer_mode(view.node, port).mode;
        let (authorization, spoken) = match protocol {
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
                let (authorization, manager) = http(output);
                (authorization, ListenerProtocol::Http(manager))
            }
            Protocol::Tls | Protocol::Tcp | Protocol::Udp => {
                let own = protection(view.mesh, view.node, port, Traffic::Tcp);
                (own.authorization, ListenerProtocol::Tcp(bytes(origin.clone())))
            }
            Protocol::Undeclared => {
                let (authorization, manager) = http(output);
                let connections = protection(view.mesh, view.node, port, Traffic::Tcp).authorization;
                let detection = Detection::new(Vec::new(), Some(manager), bytes(origin.clone()), connections);
                (authorization, ListenerProtocol::Detect(Box::new(detection)))
            }
        };
        CapturedPort { mtls: mode, tls: None, authorization, access_logs: AccessLogs::default(), protocol: spoken }
    }

    fn cluster(&self, view: &View<'_>) -> Cluster {
        let name = ClusterName::inbound(self.port.get());
        let discovery = match self.endpoint {
            Some(address) => Discovery::Static(only_endpoint(&name, Some(address))),
            None => Discovery::OriginalDestination,
        };
        let protocol = match self.protocol {
            Protocol::Http => UpstreamProtocol::Http1,
            Protocol::Http2 | Protocol::Grpc => UpstreamProtocol::Http2,
            Protocol::Undeclared => UpstreamProtocol::AsDownstream,
            Protocol::Tls | Protocol::Tcp | Protocol::Udp => UpstreamProtocol::Tcp,
        };
        // On loopback nothing is captured.
        let is_loopback = self.endpoint.is_some_and(|address| address.ip().is_loopback());
        let source_addresses = if is_loopback { Vec::new() } else { APP_SOURCES.to_vec() };
        let service = self.service.clone();
        let mut cluster = Cluster { protocol, service, source_addresses, ..Cluster::new(name, discovery) };
        profile::begin(view.mesh, &mut cluster);
        if let Some(pool) = self.pool {
            apply_connection_pool(&mut cluster, pool);
        }
        cluster
    }
}

/// A port of the Sidecar's.
fn ingress_port<'a>(
    view: &View<'a>,
    sidecar: &'a Sidecar,
    index: usize,
    written: &'a IngressListener,
    (port, protocol): (Port, Protocol),
    output: &mut Output<'a>,
) -> CapturedPort {
    let Ok(Ended { tls, protocol }) = Ended::of(view, written, (port, protocol)) else { return closed(output) };
    let endpoint = match written.default_endpoint.as_deref().filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => match text.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => return closed(output),
            // The workload's own address is the one that was called.
            Ok(address) if address.ip().is_unspecified() && address.port() == port.get() => None,
            Ok(address) if address.ip().is_unspecified() => Some(SocketAddr::new(view.node.ip, address.port())),
            Ok(address) => Some(address),
            // A Unix socket is not called.
            Err(_) => return closed(output),
        },
    };
    let pool = written.connection_pool.as_ref().or(sidecar.spec.inbound_connection_pool.as_ref());
    let service = service_at(view, sidecar, port.get());
    let app = App { endpoint, pool, service, ..App::called(port, protocol) };
    CapturedPort { tls, ..app.port(view, Some(ingress_origin(sidecar, index)), output) }
}

/// Ports of which nobody says what is spoken: requests where it is HTTP, bytes otherwise, to where the caller meant.
fn undeclared<'a>(view: &View<'a>, mode: PeerMode, output: &mut Output<'a>) -> CapturedPort {
    let name = ClusterName::new(PASSTHROUGH);
    let mut cluster = Cluster {
        protocol: UpstreamProtocol::AsDownstream,
        source_addresses: APP_SOURCES.to_vec(),
        ..Cluster::new(name.clone(), Discovery::OriginalDestination)
    };
    profile::begin(view.mesh, &mut cluster);
    output.cluster(cluster);
    let routes = inbound_routes(&name, PASSTHROUGH, Protocol::Undeclared, None);
    // No policy asks for the port but PeerAuthentication, which has been asked.
    let port = Port::MIN;
    let (authorization, manager) = with_requests(view, PASSTHROUGH, routes, port, output);
    let connections = protection(view.mesh, view.node, port, Traffic::Tcp).authorization;
    let detection = Detection::new(Vec::new(), Some(manager), tcp_route(&name, PASSTHROUGH, None), connections);
    CapturedPort {
        mtls: mode.mode,
        tls: None,
        authorization,
        access_logs: AccessLogs::default(),
        protocol: ListenerProtocol::Detect(Box::new(detection)),
    }
}

/// Nobody is let in.
fn closed(output: &mut Output<'_>) -> CapturedPort {
    let name = output.black_hole();
    CapturedPort {
        mtls: MtlsMode::Disable,
        tls: None,
        authorization: Authorization::default(),
        access_logs: AccessLogs::default(),
        protocol: ListenerProtocol::Tcp(tcp_route(&name, name.as_str(), None)),
    }
}

/// Who may send requests to a port, and what becomes of them.
fn with_requests<'a>(
    view: &View<'a>,
    name: &str,
    routes: RouteSource,
    port: Port,
    output: &mut Output<'a>,
) -> (Authorization, HttpManager) {
    let Protection { peer: _, tokens, authorization, rate_limits } =
        protection(view.mesh, view.node, port, Traffic::Http);
    tokens::clusters(view, &tokens, output);
    let manager = http_manager(view, name, routes, tokens);
    (authorization, HttpManager { rate_limits, ..manager })
}

fn tcp_route(cluster: &ClusterName, name: &str, origin: Option<Origin>) -> TcpRoute {
    TcpRoute {
        stat_prefix: name.to_owned(),
        origin,
        clusters: WeightedClusters::single(cluster.clone()),
        idle_timeout: Some(defaults::TCP_IDLE_TIMEOUT),
        hashes_source: false,
    }
}
