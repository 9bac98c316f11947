//! Where the bytes of an outbound TCP socket go.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::defaults;
use crate::ir::{FilePlace, Invalid, Origin, Port, TcpRoute, WeightedCluster, WeightedClusters};
use crate::mesh::{Service, TcpRule};
use crate::rules::{L4MatchAttributes, ResourceId};

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
    let ResourceId { kind, namespace, name } = service.id.clone();
    let (origin, clusters) = ruled.unwrap_or_else(|| {
        (Origin { kind, namespace, name, index: 0, place: FilePlace::default() }, WeightedClusters::single(own.clone()))
    });
    let policy = Policy::of(view.mesh, view.destination_rule(service), port, "");
    let written = policy.connection_pool.and_then(|pool| pool.tcp.as_ref()).and_then(|tcp| tcp.idle_timeout.as_ref());
    TcpRoute {
        stat_prefix: own.as_str().to_owned(),
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
            let clusters = clusters(view, egress, rule, port, output).ok()?;
            Some((rule.origin.clone(), clusters))
        });
    }
    None
}

fn holds_for(view: &View<'_>, service: &Service, rule: &TcpRule, called: Port) -> bool {
    let blocks = &rule.rule.r#match;
    blocks.is_empty() || blocks.iter().any(|block| block_holds_for(view, service, block, called))
}

/// Whether a block holds. A subnet is compared with the addresses of the service (of a headless one, with those of its
/// endpoints); without capture also with the socket's, which is what a client calls then.
fn block_holds_for(view: &View<'_>, service: &Service, block: &L4MatchAttributes, called: Port) -> bool {
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
    block.port.filter(|&port| port != 0).is_none_or(|port| port == u32::from(called.get()))
        && (block.destination_subnets.is_empty() || block.destination_subnets.iter().any(is_called))
        && is_source(view.node, &block.gateways, &block.source_labels, block.source_namespace.as_deref())
}

fn clusters<'a>(
    view: &View<'a>,
    egress: &Egress<'a>,
    rule: &TcpRule,
    called: Port,
    output: &mut Output<'a>,
) -> Result<WeightedClusters, Invalid> {
    let mut clusters = Vec::with_capacity(rule.rule.route.len());
    for route in &rule.rule.route {
        let weight = u32::try_from(route.weight.unwrap_or(0)).map_err(|_| Invalid::new("a weight is not negative"))?;
        let destination = route.destination.as_ref().ok_or_else(|| Invalid::new("a route needs a destination"))?;
        let reached = output.destination(view, egress, destination, called);
        clusters.push(WeightedCluster::plain(reached.cluster, weight));
    }
    WeightedClusters::new(clusters)
}
