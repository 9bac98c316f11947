//! (mesh, which proxy) → IR: names resolved, defaults applied, one file per kind of output.
//!
//! * [`mod@scope`]: what the proxy sees; [`listeners`]: its sockets, and, where connections are captured, [`outbound`] and
//!   [`inbound`]: where they go; [`routes`]: hosts and their route tables, whose rows
//!   [`http_route`] makes of VirtualServices; [`tcp_route`]: where bytes go; [`clusters`]: how services are called, by the
//!   rules that [`destination_rule`] finds; [`endpoints`]: who they are, in the order of [`locality`].
//!   [`mod@health_check`]: how endpoints are asked whether they are well.
//! * [`mod@protection`]: what stands before the own app: [`mod@authorization`] and [`tokens`].
//! * [`mod@access_log`]: what is written of requests.
//!
//! The work goes from the sockets inward, and only what a route can reach is compiled further: a cluster exists
//! because a route, or a host without one, names its service and port. With it come all subsets of the service, also
//! those that no route names yet, so that a canary's first percent finds a warm cluster and changes a route alone.
//!
//! Compilation cannot fail. What a rule says wrongly was refused by [`crate::validate`]; if it comes here all the same,
//! the one route is left out that cannot be made, and an unknown destination is named by its route as Istio does, so
//! that the proxy answers 503 NC.

mod access_log;
mod authorization;
mod authorization_values;
mod clusters;
mod destination_rule;
mod endpoints;
mod health_check;
mod http_action;
mod http_filters;
mod http_match;
mod http_route;
mod inbound;
mod ingress_tls;
mod listeners;
mod locality;
mod outbound;
mod outside;
mod profile;
mod protection;
mod rate_limit;
mod routes;
mod scope;
mod tcp_route;
mod tokens;
mod tracing;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::ir::{Cluster, ClusterName, Discovery, Listener, Port, Resources, RouteConfig, UpstreamProtocol};
use crate::mesh::{Mesh, Service, port_number};
use crate::node::Node;
use crate::rules::Destination;

pub use authorization::Traffic;
pub use protection::{Protection, protection};
pub use scope::{Scope, scope};

pub(crate) use authorization_values::is_template;
pub(crate) use health_check::status_range;

use scope::{Egress, View};

/// Everything that the proxy `node` needs to know. The same input gives the same output, in every process.
pub fn compile(mesh: &Mesh, node: &Node) -> Resources {
    let view = View::new(mesh, node);
    let mut output = Output::default();
    listeners::inbound(&view, &mut output);
    if node.interception.captures() {
        inbound::inbound(&view, &mut output);
        outbound::outbound(&view, &mut output);
    } else {
        listeners::outbound(&view, &mut output);
    }
    tracing::cluster(&view, &mut output);
    let reached = std::mem::take(&mut output.reached);
    for ((_, port), service) in reached {
        clusters::outbound(&view, service, port, &mut output.resources);
    }
    profile::finish(mesh, &mut output);
    access_log::finish(mesh, &mut output);
    output.resources
}

/// Of all that [`compile`] makes, the clusters that call these ports of these hosts, and their endpoints: what a change of
/// endpoints leads to, and all that it leads to as long as [`Change::beyond_clusters`](crate::mesh::Change) is not set.
/// Names are those of resources that [`compile`] has made before; others make nothing.
pub fn compile_clusters<'a>(
    mesh: &'a Mesh,
    node: &'a Node,
    ports: impl IntoIterator<Item = (&'a str, Port)>,
) -> Resources {
    let view = View::new(mesh, node);
    let mut output = Output::default();
    for (host, port) in ports {
        if let Some(service) = mesh.service(host, &node.namespace) {
            clusters::outbound(&view, service, port, &mut output.resources);
        }
    }
    profile::finish(mesh, &mut output);
    output.resources
}

/// What has been compiled so far, and the services that it reaches.
#[derive(Default)]
struct Output<'a> {
    resources: Resources,
    reached: BTreeMap<(&'a str, Port), &'a Service>,
    /// Addresses of the listeners with sockets, by port.
    bound: HashMap<u16, Vec<IpAddr>>,
    /// Addresses of the others.
    handed: HashSet<SocketAddr>,
}

impl<'a> Output<'a> {
    fn listener(&mut self, listener: Listener) {
        for address in listener.addresses() {
            if listener.intake.has_sockets() {
                self.bound.entry(address.port()).or_default().push(address.ip());
            } else {
                self.handed.insert(address);
            }
        }
        self.resources.listeners.insert(listener.name.clone(), Arc::new(listener));
    }

    /// Whether a listener has the address, or one that contains it.
    fn is_taken(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        let meets = |other: &IpAddr| ip == *other || ip.is_unspecified() || other.is_unspecified();
        self.bound.get(&address.port()).is_some_and(|bound| bound.iter().any(meets))
    }

    /// Whether a listener without a socket has the address already.
    fn is_handed(&self, address: SocketAddr) -> bool {
        self.handed.contains(&address) || self.resources.listeners.contains_key(&listeners::listener_name(address))
    }

    fn routes(&mut self, routes: RouteConfig) {
        self.resources.routes.insert(routes.name.clone(), Arc::new(routes));
    }

    fn cluster(&mut self, cluster: Cluster) {
        self.resources.clusters.insert(cluster.name.clone(), Arc::new(cluster));
    }

    /// To where a captured connection was meant to go; without capture, to whatever host a request names.
    fn passthrough(&mut self, view: &View<'_>) -> ClusterName {
        let name = ClusterName::new("PassthroughCluster");
        self.cluster(match view.node.interception.captures() {
            true => Cluster {
                protocol: UpstreamProtocol::AsDownstream,
                ..Cluster::new(name.clone(), Discovery::OriginalDestination)
            },
            false => Cluster::new(name.clone(), Discovery::RequestHost),
        });
        name
    }

    /// To nobody (Istio's name).
    fn black_hole(&mut self) -> ClusterName {
        let name = ClusterName::new("BlackHoleCluster");
        let nobody = listeners::only_endpoint(&name, None);
        self.cluster(Cluster {
            protocol: UpstreamProtocol::Tcp,
            ..Cluster::new(name.clone(), Discovery::Static(nobody))
        });
        name
    }

    /// The cluster of a port of a service.
    fn reach(&mut self, service: &'a Service, port: Port) -> ClusterName {
        self.reached.entry((&service.host, port)).or_insert(service);
        ClusterName::outbound(port.get(), "", &service.host)
    }

    /// The cluster of a rule's destination. Without a port it is the service's only one, else the port that was called.
    fn destination(
        &mut self,
        view: &View<'a>,
        egress: &Egress<'a>,
        destination: &Destination,
        called: Port,
    ) -> Reached<'a> {
        let host = destination.host.as_str();
        let service = egress.service(host).or_else(|| view.mesh.service(host, &view.node.namespace));
        let written = destination.port.as_ref().and_then(|port| port_number(port.number));
        let only = service.and_then(|service| match service.ports.as_slice() {
            [only] => Some(only.number),
            _ => None,
        });
        let port = written.or(only).unwrap_or(called);
        let subset = destination.subset.clone().unwrap_or_default();
        let known = service.filter(|service| service.port(port).is_some());
        if let Some(service) = known {
            self.reached.entry((&service.host, port)).or_insert(service);
        }
        Reached { cluster: ClusterName::outbound(port.get(), &subset, host), service: known, port, subset }
    }
}

/// Where a rule's destination leads.
struct Reached<'a> {
    cluster: ClusterName,
    /// `None`: nobody knows it, and there will be no such cluster.
    service: Option<&'a Service>,
    port: Port,
    subset: String,
}
