//! Where the bytes of an outbound TCP socket go: those for a service, and apart from them TLS by the server name that its
//! handshake asks for.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::defaults;
use crate::ir::{
    Authorization, Branch, ClusterName, Condition, Detection, FilePlace, Invalid, ListenerProtocol, Origin, Port,
    ServerName, TcpRoute, WeightedCluster, WeightedClusters,
};
use crate::mesh::{Protocol, Service, ServicePort, TcpRule};
use crate::rules::{L4MatchAttributes, ResourceId, RouteDestination, TlsMatchAttributes};

use super::Output;
use super::clusters::duration;
use super::destination_rule::Policy;
use super::http_match::is_source;
use super::scope::{Egress, View};

/// The route of a TCP port of a service: the first rule that holds for this proxy, of the VirtualService that counts for
/// the host; else the service itself.
pub(super) fn route<'a>(
    view: &View<'a>,
    egress: &Egress<'a>,
    service: &'a Service,
    port: Port,
    output: &mut Output<'a>,
) -> TcpRoute {
    let own = output.reach(service, port);
    let ruled = ruled(view, egress, service, port, output);
    let (origin, clusters) = ruled.unwrap_or_else(|| {
        let ResourceId { kind, namespace, name } = service.id.clone();
        (Origin { kind, namespace, name, index: 0, place: FilePlace::default() }, WeightedClusters::single(own))
    });
    toward(view, service, port, origin, clusters)
}

/// A way to some clusters, with what the policy for the service says of its connections.
fn toward(view: &View<'_>, service: &Service, port: Port, origin: Origin, clusters: WeightedClusters) -> TcpRoute {
    let policy = Policy::of(view.mesh, view.destination_rule(service), port, "");
    let written = policy.connection_pool.and_then(|pool| pool.tcp.as_ref()).and_then(|tcp| tcp.idle_timeout.as_ref());
    TcpRoute {
        stat_prefix: ClusterName::outbound(port.get(), "", &service.host).to_string(),
        origin: Some(origin),
        clusters,
        idle_timeout: Some(duration(written).unwrap_or(defaults::TCP_IDLE_TIMEOUT)).filter(|idle| !idle.is_zero()),
        hashes_source: policy.consistent_hash().is_some_and(|hash| hash.use_source_ip.unwrap_or(false)),
    }
}

fn ruled<'a>(
    view: &View<'a>,
    egress: &Egress<'a>,
    service: &'a Service,
    port: Port,
    output: &mut Output<'a>,
) -> Option<(Origin, WeightedClusters)> {
    for (host, rules) in view.mesh.virtual_services().covering(&service.host) {
        let seen: Vec<_> = rules.filter(|rule| !rule.tcp.is_empty() && egress.sees(rule, host)).collect();
        if seen.is_empty() {
            continue;
        }
        let mut holding = seen.iter().flat_map(|rule| &rule.tcp).filter(|rule| holds_for(view, service, rule, port));
        return holding.find_map(|rule| {
            let clusters = clusters(view, egress, &rule.rule.route, port, output).ok()?;
            Some((rule.origin.clone(), clusters))
        });
    }
    None
}

/// What a socket for the bytes of a service alone does with them.
pub(super) fn protocol<'a>(
    view: &View<'a>,
    egress: &Egress<'a>,
    service: &'a Service,
    port: &ServicePort,
    output: &mut Output<'a>,
) -> ListenerProtocol {
    match by_server_name(view, egress, service, port, output) {
        Some(named) => {
            let rest = named.rest.unwrap_or_else(|| nowhere(output));
            by_name(named.branches, rest)
        }
        None => ListenerProtocol::Tcp(route(view, egress, service, port.number, output)),
    }
}

/// Bytes that go by the server name of their handshakes; `rest` are the others.
pub(super) fn by_name(branches: Vec<Branch>, rest: TcpRoute) -> ListenerProtocol {
    ListenerProtocol::Detect(Box::new(Detection::new(branches, None, rest, Authorization::default())))
}

/// A way that ends at once.
pub(super) fn nowhere(output: &mut Output<'_>) -> TcpRoute {
    let cluster = output.black_hole();
    TcpRoute {
        stat_prefix: cluster.to_string(),
        origin: None,
        clusters: WeightedClusters::single(cluster),
        idle_timeout: Some(defaults::TCP_IDLE_TIMEOUT),
        hashes_source: false,
    }
}

/// Where the handshakes for a service go.
#[derive(Default)]
pub(super) struct ByServerName {
    pub(super) branches: Vec<Branch>,
    /// All others (`sniHosts: ["*"]`).
    pub(super) rest: Option<TcpRoute>,
}

/// What the `tls` rules say of a port with TLS; `None`: none of them holds for this proxy, and the server name does not
/// matter. As in Istio, a name that no rule has goes nowhere once there is a rule, and of two rules for one name the first
/// counts.
pub(super) fn by_server_name<'a>(
    view: &View<'a>,
    egress: &Egress<'a>,
    service: &'a Service,
    port: &ServicePort,
    output: &mut Output<'a>,
) -> Option<ByServerName> {
    if port.protocol != Protocol::Tls {
        return None;
    }
    let covering = view.mesh.virtual_services().covering(&service.host);
    let mut seen = covering
        .map(|(host, rules)| rules.filter(|rule| !rule.tls.is_empty() && egress.sees(rule, host)).collect::<Vec<_>>());
    let rules = seen.find(|rules| !rules.is_empty())?;
    let mut found = ByServerName::default();
    for rule in rules.iter().flat_map(|rule| &rule.tls) {
        let holding = rule.rule.r#match.iter().filter(|block| tls_block_holds_for(view, service, block, port.number));
        let names: Vec<&String> = holding.flat_map(|block| &block.sni_hosts).collect();
        if names.is_empty() {
            continue;
        }
        let Ok(clusters) = clusters(view, egress, &rule.rule.route, port.number, output) else { continue };
        let way = toward(view, service, port.number, rule.origin.clone(), clusters);
        for name in names {
            match (name.as_str(), ServerName::parse(name)) {
                ("*", _) => drop(found.rest.get_or_insert_with(|| way.clone())),
                (_, Ok(name)) => {
                    found.branches.push(Branch { condition: Condition::ServerName(name), route: way.clone() });
                }
                (_, Err(_)) => {}
            }
        }
    }
    Some(found).filter(|found| !found.branches.is_empty() || found.rest.is_some())
}

fn holds_for(view: &View<'_>, service: &Service, rule: &TcpRule, called: Port) -> bool {
    let blocks = &rule.rule.r#match;
    blocks.is_empty() || blocks.iter().any(|block| block_holds_for(view, service, block, called))
}

fn block_holds_for(view: &View<'_>, service: &Service, block: &L4MatchAttributes, called: Port) -> bool {
    is_called(view, service, called, block.port, &block.destination_subnets)
        && is_source(view.node, &block.gateways, &block.source_labels, block.source_namespace.as_deref())
}

fn tls_block_holds_for(view: &View<'_>, service: &Service, block: &TlsMatchAttributes, called: Port) -> bool {
    is_called(view, service, called, block.port, &block.destination_subnets)
        && is_source(view.node, &block.gateways, &block.source_labels, block.source_namespace.as_deref())
}

/// Whether a block's port and networks are those of the service. A subnet is compared with the addresses of the service (of
/// a headless one, with those of its endpoints); without capture also with the socket's, which is what a client calls then.
fn is_called(view: &View<'_>, service: &Service, called: Port, port: Option<u32>, subnets: &[String]) -> bool {
    let socket = Some(IpAddr::V4(Ipv4Addr::LOCALHOST)).filter(|_| !view.node.interception.captures());
    let endpoints = service.instances.iter().filter(|_| service.headless);
    let endpoints = endpoints.filter_map(|instance| instance.address.parse().ok());
    let addresses: Vec<IpAddr> = service.addresses.iter().copied().chain(endpoints).chain(socket).collect();
    let is_called = |subnet: &String| {
        let subnet = subnet.parse::<IpNet>().or_else(|_| subnet.parse::<IpAddr>().map(IpNet::from));
        subnet.is_ok_and(|subnet| {
            let covers = |range: &IpNet| subnet.contains(range);
            addresses.iter().any(|address| subnet.contains(address)) || service.ranges.iter().any(covers)
        })
    };
    port.filter(|&port| port != 0).is_none_or(|port| port == u32::from(called.get()))
        && (subnets.is_empty() || subnets.iter().any(is_called))
}

fn clusters<'a>(
    view: &View<'a>,
    egress: &Egress<'a>,
    routes: &[RouteDestination],
    called: Port,
    output: &mut Output<'a>,
) -> Result<WeightedClusters, Invalid> {
    let mut clusters = Vec::with_capacity(routes.len());
    for route in routes {
        let weight = u32::try_from(route.weight.unwrap_or(0)).map_err(|_| Invalid::new("a weight is not negative"))?;
        let destination = route.destination.as_ref().ok_or_else(|| Invalid::new("a route needs a destination"))?;
        let reached = output.destination(view, egress, destination, called);
        clusters.push(WeightedCluster::plain(reached.cluster, weight));
    }
    WeightedClusters::new(clusters)
}
