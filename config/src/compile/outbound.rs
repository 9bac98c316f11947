//! Connections that were captured on their way from the own app.
//!
//! One listener takes all of them (Istio's `virtualOutbound`) and hands each to the listener of the address it was meant
//! for; what belongs to nobody goes where it was meant to go (ALLOW_ANY) or nowhere (REGISTRY_ONLY). The others have no
//! socket, and Istio's names:
//!
//! * `0.0.0.0_PORT`: requests on that port for any host. They share it whatever their addresses are, since a request says
//!   whom it is for. Of bytes, only those come here that say it as well: by a server name (TLS), or by a range of
//!   addresses; and those for a service that has no address of its own, of which there can be one.
//! * `ADDRESS_PORT`: bytes for the service that has the address. A port of undeclared protocol is served there too, by a
//!   table for this one host.
//! * the same for each endpoint of a headless service: DNS has told the app one of them, and that one is called.
//!
//! An `egress` listener of the Sidecar with a port is the same for its hosts on that port, and with `captureMode: NONE` a
//! socket as without capture. Two that want one address: the first has it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::defaults;
use crate::ir::{
    AccessLogs, Authorization, Branch, CapturedPort, Condition, Detection, Direction, Intake, Listener,
    ListenerProtocol, MtlsMode, Port, ServerName, TcpRoute, WeightedClusters,
};
use crate::mesh::{Protocol, Service, ServicePort};
use crate::rules::{CaptureMode, EgressListener};

use super::Output;
use super::listeners::{self, listener_name, outbound_http, preferred};
use super::routes::{PLAIN_PORT, Served, catch_all, has_plain_hosts};
use super::scope::{Egress, View};
use super::tcp_route;

const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

/// Everything that goes out.
pub(super) fn outbound<'a>(view: &View<'a>, output: &mut Output<'a>) {
    let all = view.egress();
    for egress in &all {
        match egress.written {
            Some(written) if is_bound(written) => listeners::chosen(view, egress, written, output),
            Some(written) => {
                let number = written.port.as_ref().and_then(listeners::port_and_protocol).map(|(port, _)| port);
                let bind = written.bind.as_deref().filter(|text| !text.is_empty()).map(str::parse::<IpAddr>);
                // Nothing is redirected to a Unix socket.
                if let (Some(number), Ok(bind)) = (number, bind.transpose()) {
                    port(view, egress, number, bind, output);
                }
            }
            None => {
                let ports = egress.services.iter().flat_map(|service| &service.ports).map(|port| port.number);
                for number in ports.chain([PLAIN_PORT]).collect::<BTreeSet<_>>() {
                    port(view, egress, number, None, output);
                }
            }
        }
    }
    // There is one at least: everything, where no rule says less.
    if let Some(last) = all.last() {
        rest(view, last, output);
    }
}

/// Whether the app calls an egress listener by its address.
fn is_bound(written: &EgressListener) -> bool {
    match written.capture_mode.unwrap_or_default() {
        CaptureMode::None => true,
        CaptureMode::Default | CaptureMode::Iptables => false,
    }
}

/// The listener that takes all connections. What nobody else takes is bytes to it.
fn rest<'a>(view: &View<'a>, egress: &Egress<'a>, output: &mut Output<'a>) {
    let any = |ip: IpAddr| SocketAddr::new(ip, defaults::OUTBOUND_PORT);
    let [address, more] = ANY.map(any);
    let protocol = ListenerProtocol::Tcp(passed_on(view, egress, output));
    let listener = Listener::new("virtualOutbound".to_owned(), address, Direction::Outbound, protocol);
    // The proxy itself: who calls it by its own port is going round in a circle.
    let own = Port::new(defaults::OUTBOUND_PORT).map(|port| (port, closed(output)));
    output.listener(Listener {
        additional_addresses: vec![more],
        intake: Intake::Capture,
        ports: own.into_iter().collect(),
        ..listener
    });
}

/// All listeners of one port. `bind` is the address of an egress listener; without one, requests and what else has no
/// address of its own come to any.
fn port<'a>(view: &View<'a>, egress: &Egress<'a>, number: Port, bind: Option<IpAddr>, output: &mut Output<'a>) {
    let mut shared = Shared::default();
    let mut services = preferred(view, egress);
    // One endpoint of a headless service is known better by its own name.
    services.sort_by_key(|service| service.of.is_none());
    for service in services {
        let Some(port) = service.port(number) else { continue };
        let addresses = addresses(service);
        match port.protocol {
            Protocol::Udp => {}
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => shared.http = true,
            Protocol::Undeclared if service.is_anywhere() => {
                shared.http = true;
                shared.owner.get_or_insert(service);
            }
            Protocol::Undeclared | Protocol::Tls | Protocol::Tcp => {
                alone(view, egress, service, port, &addresses, output);
                shared.bytes(view, egress, service, port, output);
            }
        }
    }
    shared.http |= number == PLAIN_PORT && has_plain_hosts(view, egress);
    shared.listener(view, egress, number, bind, output);
}

/// Addresses by which bytes are known to be for a service; of a headless one those of its endpoints.
fn addresses(service: &Service) -> Vec<IpAddr> {
    let own = service.addresses.iter().copied();
    let of_endpoints = service.instances.iter().filter(|_| service.headless).map(|instance| &instance.address);
    own.chain(of_endpoints.filter_map(|text| text.parse().ok())).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The listeners of a service's own addresses: one for a service, which has an address of each family at most; one for
/// each endpoint of a headless service, at the port where that one listens.
fn alone<'a>(
    view: &View<'a>,
    egress: &Egress<'a>,
    service: &'a Service,
    port: &ServicePort,
    addresses: &[IpAddr],
    output: &mut Output<'a>,
) {
    let at = |ip: IpAddr| {
        let own = service.instances.iter().find(|instance| service.headless && instance.address.parse() == Ok(ip));
        let number = own.and_then(|instance| instance.port(port)).unwrap_or(port.number);
        SocketAddr::new(ip, number.get())
    };
    let free: Vec<_> = addresses.iter().map(|&ip| at(ip)).filter(|&address| !output.is_handed(address)).collect();
    let groups: Vec<&[SocketAddr]> = if service.headless { free.chunks(1).collect() } else { vec![free.as_slice()] };
    for group in groups {
        let Some((&first, more)) = group.split_first() else { continue };
        let protocol = match port.protocol {
            Protocol::Undeclared => {
                let tcp = tcp_route::route(view, egress, service, port.number, output);
                let table = format!("{}:{}", service.host, port.number);
                let http = outbound_http(view, egress, &table, Served::Host(service, port.number), first, output);
                let detection = Detection::new(Vec::new(), Some(http), tcp, Authorization::default());
                ListenerProtocol::Detect(Box::new(detection))
            }
            Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Tls | Protocol::Tcp | Protocol::Udp => {
                tcp_route::protocol(view, egress, service, port, output)
            }
        };
        let listener = Listener::new(listener_name(first), first, Direction::Outbound, protocol);
        output.listener(Listener { additional_addresses: more.to_vec(), intake: Intake::Handed, ..listener });
    }
}

/// What the services of a port share: its listener at any address.
#[derive(Default)]
struct Shared<'a> {
    http: bool,
    branches: Vec<Branch>,
    /// Who gets the bytes that say nothing.
    owner: Option<&'a Service>,
    /// Where they go, if a rule says so.
    rest: Option<TcpRoute>,
}

impl<'a> Shared<'a> {
    /// Takes the bytes of a service that are not for an address of its own.
    fn bytes(
        &mut self,
        view: &View<'a>,
        egress: &Egress<'a>,
        service: &'a Service,
        port: &ServicePort,
        output: &mut Output<'a>,
    ) {
        if let Some(named) = tcp_route::by_server_name(view, egress, service, port, output)
            && (service.is_anywhere() || !service.ranges.is_empty())
        {
            self.branches.extend(named.branches);
            self.rest = self.rest.take().or(named.rest);
            return;
        }
        let mut conditions: Vec<_> = service.ranges.iter().map(|&range| Condition::Destination(range)).collect();
        if service.is_anywhere() {
            match (port.protocol, ServerName::parse(&service.host)) {
                (Protocol::Tls, Ok(name)) => conditions.push(Condition::ServerName(name)),
                _ => {
                    self.owner.get_or_insert(service);
                }
            }
        }
        if !conditions.is_empty() {
            let route = tcp_route::route(view, egress, service, port.number, output);
            self.branches.extend(conditions.into_iter().map(|condition| Branch { condition, route: route.clone() }));
        }
    }

    fn listener(
        self,
        view: &View<'a>,
        egress: &Egress<'a>,
        number: Port,
        bind: Option<IpAddr>,
        output: &mut Output<'a>,
    ) {
        let Self { http, branches, owner, rest } = self;
        let is_owned = owner.is_some() || rest.is_some();
        let all = bind.map_or(ANY.to_vec(), |ip| vec![ip]);
        let mut addresses = all.into_iter().map(|ip| SocketAddr::new(ip, number.get()));
        let Some(address) = addresses.next().filter(|&address| !output.is_handed(address)) else { return };
        let tcp = |output: &mut Output<'a>| match (rest, owner) {
            (Some(route), _) => route,
            (None, Some(service)) => tcp_route::route(view, egress, service, number, output),
            (None, None) => passed_on(view, egress, output),
        };
        let name = listener_name(address);
        let table = if bind.is_some() { name.clone() } else { number.to_string() };
        let requests =
            |output: &mut Output<'a>| outbound_http(view, egress, &table, Served::Port(number), address, output);
        let protocol = match (http, branches.is_empty(), is_owned) {
            (false, true, false) => return,
            (true, true, false) => ListenerProtocol::Http(requests(output)),
            (false, true, true) => ListenerProtocol::Tcp(tcp(output)),
            _ => {
                let http = http.then(|| requests(output));
                ListenerProtocol::Detect(Box::new(Detection::new(
                    branches,
                    http,
                    tcp(output),
                    Authorization::default(),
                )))
            }
        };
        let listener = Listener::new(name, address, Direction::Outbound, protocol);
        output.listener(Listener { additional_addresses: addresses.collect(), intake: Intake::Handed, ..listener });
    }
}

/// The way of bytes that are for nobody known.
fn passed_on<'a>(view: &View<'a>, egress: &Egress<'a>, output: &mut Output<'a>) -> TcpRoute {
    let cluster = catch_all(view, egress, output).unwrap_or_else(|| output.black_hole());
    TcpRoute {
        stat_prefix: cluster.to_string(),
        origin: None,
        clusters: WeightedClusters::single(cluster),
        idle_timeout: Some(defaults::TCP_IDLE_TIMEOUT),
        hashes_source: false,
    }
}

/// Nobody is let in.
fn closed(output: &mut Output<'_>) -> CapturedPort {
    CapturedPort {
        mtls: MtlsMode::Disable,
        tls: None,
        authorization: Authorization::default(),
        access_logs: AccessLogs::default(),
        protocol: ListenerProtocol::Tcp(tcp_route::nowhere(output)),
    }
}
