//! Small resources for the tests, as the IR and as they travel.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;
use leno_config::ir::{self, ClusterName};
use leno_config::node::{Interception, Node};
use leno_config::xds::{self, Decoded, Kind, Refusal};
use leno_proxy::state::accepted::{Accepted, Applied, Incoming, Update, Wanted};

/// A cluster that asks for endpoints under its own name.
pub(crate) fn eds(name: &str) -> ir::Cluster {
    ir::Cluster::new(ClusterName::new(name), ir::Discovery::Eds { service: None })
}

/// A cluster that asks for endpoints under another name.
pub(crate) fn eds_as(name: &str, service: &str) -> ir::Cluster {
    ir::Cluster::new(ClusterName::new(name), ir::Discovery::Eds { service: Some(service.to_owned()) })
}

/// A cluster that needs nothing.
pub(crate) fn passthrough(name: &str) -> ir::Cluster {
    ir::Cluster::new(ClusterName::new(name), ir::Discovery::RequestHost)
}

/// A cluster that needs nothing but the mesh's roots.
pub(crate) fn encrypted(name: &str) -> ir::Cluster {
    let mesh = ir::MeshTls { sni: "outbound_.80_._.a".to_owned(), identities: Vec::new() };
    ir::Cluster { tls: ir::UpstreamTls::Mesh(mesh), ..passthrough(name) }
}

/// A listener that takes callers of the mesh alone.
pub(crate) fn strict(name: &str, port: u16, cluster: &str) -> ir::Listener {
    ir::Listener { mtls: ir::MtlsMode::Strict, ..tcp_listener(name, port, cluster) }
}

/// The mesh's roots. What stands in them is not looked at.
pub(crate) fn roots(text: &str) -> ir::Secret {
    let bundle = ir::TrustBundle { roots: text.to_owned() };
    let bundles = BTreeMap::from([("td.example".to_owned(), bundle)]);
    ir::Secret { name: ir::Secret::ROOTS.to_owned(), bundles, revoked: None }
}

/// One endpoint on a port of this machine.
pub(crate) fn endpoints(name: &str, port: u16) -> ir::Endpoints {
    let endpoint = ir::Endpoint {
        address: ir::Address::Socket(SocketAddr::from(([127, 0, 0, 1], port))),
        weight: 1,
        health: ir::Health::Unknown,
        mesh_tls: false,
        identity: None,
        labels: BTreeMap::new(),
        workload: None,
    };
    let locality = ir::LocalityEndpoints {
        locality: ir::Locality::default(),
        priority: 0,
        weight: None,
        endpoints: vec![endpoint],
    };
    ir::Endpoints {
        cluster: ClusterName::new(name),
        localities: vec![locality],
        overprovisioning: ir::Endpoints::OVERPROVISIONING,
    }
}

/// A route table that sends everything to these clusters, in equal shares.
pub(crate) fn routes(name: &str, clusters: &[&str]) -> ir::RouteConfig {
    let host = ir::VirtualHost {
        name: "all".to_owned(),
        domains: vec![ir::Domain::Any],
        routes: if clusters.is_empty() { Vec::new() } else { vec![route(clusters)] },
        attempt_count: ir::AttemptCount::default(),
    };
    ir::RouteConfig::new(name, vec![host]).unwrap()
}

fn route(clusters: &[&str]) -> ir::Route {
    ir::Route {
        name: String::new(),
        origin: None,
        matcher: ir::RouteMatch::any(),
        action: ir::Action::Forward(ir::Forward {
            clusters: weighted(clusters),
            path_rewrite: None,
            host_rewrite: None,
            timeout: None,
            retry: None,
            mirrors: Vec::new(),
            hash: Vec::new(),
        }),
        request_headers: ir::HeaderOps::default(),
        response_headers: ir::HeaderOps::default(),
        cors: None,
        fault: None,
        authorization: None,
        refused_in_path: ir::Separators::NONE,
    }
}

fn weighted(clusters: &[&str]) -> ir::WeightedClusters {
    let shares = clusters.iter().map(|name| ir::WeightedCluster::plain(ClusterName::new(*name), 1));
    ir::WeightedClusters::new(shares.collect()).unwrap()
}

/// An HTTP listener whose routes are a resource of their own.
pub(crate) fn listener(name: &str, port: u16, table: &str) -> ir::Listener {
    http(name, port, ir::RouteSource::Named(table.to_owned()))
}

/// An HTTP listener with its routes inside.
pub(crate) fn inline_listener(name: &str, port: u16, clusters: &[&str]) -> ir::Listener {
    http(name, port, ir::RouteSource::Inline(Arc::new(routes("inline", clusters))))
}

/// A TCP listener.
pub(crate) fn tcp_listener(name: &str, port: u16, cluster: &str) -> ir::Listener {
    ir::Listener {
        name: name.to_owned(),
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        direction: ir::Direction::Outbound,
        additional_addresses: Vec::new(),
        intake: Default::default(),
        ports: Default::default(),
        mtls: Default::default(),
        tls: None,
        authorization: Default::default(),
        access_logs: Default::default(),
        protocol: ir::ListenerProtocol::Tcp(ir::TcpRoute {
            stat_prefix: name.to_owned(),
            origin: None,
            clusters: weighted(&[cluster]),
            idle_timeout: Some(leno_config::defaults::TCP_IDLE_TIMEOUT),
            hashes_source: false,
        }),
    }
}

fn http(name: &str, port: u16, routes: ir::RouteSource) -> ir::Listener {
    ir::Listener {
        name: name.to_owned(),
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        direction: ir::Direction::Outbound,
        additional_addresses: Vec::new(),
        intake: Default::default(),
        ports: Default::default(),
        mtls: Default::default(),
        tls: None,
        authorization: Default::default(),
        access_logs: Default::default(),
        protocol: ir::ListenerProtocol::Http(ir::HttpManager {
            stat_prefix: name.to_owned(),
            routes,
            upgrades: vec!["websocket".to_owned()],
            path: ir::PathNormalization::BASE,
            underscores: ir::UnderscoreNames::Pass,
            jwt: Default::default(),
            rate_limits: Vec::new(),
            streams: Default::default(),
            tracing: None,
        }),
    }
}

/// A resource of any kind, with its kind and name.
pub(crate) trait Wire {
    const KIND: Kind;
    fn name(&self) -> String;
    fn into_resources(self) -> ir::Resources;

    fn any(self) -> Any
    where
        Self: Sized,
    {
        let name = self.name();
        xds::encode(&self.into_resources(), &xds::Flavour::Sidecar)
            .remove(&Self::KIND)
            .and_then(|mut of_kind| of_kind.remove(&name))
            .unwrap()
            .any
    }

    /// As it comes in a response.
    fn at(self, version: &str) -> Incoming
    where
        Self: Sized,
    {
        Incoming { name: self.name(), version: version.to_owned(), any: Some(self.any()), time_to_live: None }
    }
}

impl Wire for ir::Cluster {
    const KIND: Kind = Kind::Cluster;
    fn name(&self) -> String {
        self.name.to_string()
    }
    fn into_resources(self) -> ir::Resources {
        ir::Resources { clusters: BTreeMap::from([(self.name.clone(), Arc::new(self))]), ..Default::default() }
    }
}

impl Wire for ir::Endpoints {
    const KIND: Kind = Kind::Endpoints;
    fn name(&self) -> String {
        self.cluster.to_string()
    }
    fn into_resources(self) -> ir::Resources {
        ir::Resources { endpoints: BTreeMap::from([(self.cluster.clone(), Arc::new(self))]), ..Default::default() }
    }
}

impl Wire for ir::Secret {
    const KIND: Kind = Kind::Secret;
    fn name(&self) -> String {
        self.name.clone()
    }
    fn into_resources(self) -> ir::Resources {
        ir::Resources { secrets: BTreeMap::from([(self.name.clone(), Arc::new(self))]), ..Default::default() }
    }
}

impl Wire for ir::Listener {
    const KIND: Kind = Kind::Listener;
    fn name(&self) -> String {
        self.name.clone()
    }
    fn into_resources(self) -> ir::Resources {
        ir::Resources { listeners: BTreeMap::from([(self.name.clone(), Arc::new(self))]), ..Default::default() }
    }
}

impl Wire for ir::RouteConfig {
    const KIND: Kind = Kind::Route;
    fn name(&self) -> String {
        self.name.clone()
    }
    fn into_resources(self) -> ir::Resources {
        ir::Resources { routes: BTreeMap::from([(self.name.clone(), Arc::new(self))]), ..Default::default() }
    }
}

/// Bytes that are no resource, under the right type.
pub(crate) fn garbage(kind: Kind, name: &str, version: &str) -> Incoming {
    let any = Any { type_url: kind.url().to_owned(), value: vec![0xff; 16] };
    Incoming { name: name.to_owned(), version: version.to_owned(), any: Some(any), time_to_live: None }
}

/// A data path that can do everything.
pub(crate) fn nothing_is_refused(_: &Decoded) -> Option<Refusal> {
    None
}

/// Applies resources without regard to subscriptions.
pub(crate) fn apply(accepted: &mut Accepted, kind: Kind, resources: Vec<Incoming>, removed: &[&str]) -> Applied {
    let removed = removed.iter().map(|&name| name.to_owned()).collect();
    accepted.apply(Update { kind, resources, removed }, Wanted::All, nothing_is_refused)
}

/// This proxy.
pub(crate) fn node() -> Node {
    Node {
        name: "productpage-1".to_owned(),
        ip: [127, 0, 0, 1].into(),
        namespace: "default".to_owned(),
        service_account: "productpage".to_owned(),
        workload: "productpage".to_owned(),
        labels: BTreeMap::from([("app".to_owned(), "productpage".to_owned())]),
        locality: ir::Locality::default(),
        interception: Interception::None,
    }
}
