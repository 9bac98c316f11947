//! The IR as Envoy's xDS v3 messages, both ways.
//!
//! `to_xds` and `from_xds` of a kind stand in one file, so that a field which is written is also read. Two rules hold:
//!
//! * **Writing loses nothing.** What is read back is what was written (tested with arbitrary values), and a real Envoy
//!   accepts it, in the shape Istio gives it. What Envoy has no field for travels as metadata `leno.mesh`.
//! * **Reading overlooks nothing.** Every message is destructured without `..`: a field that Leno lacks is seen. Set, it
//!   is a [`Refusal`] if it changes what happens to a request; if it only changes statistics, logs, traces, tuning or
//!   limits of its own, it is left aside, with the reason beside it. A control plane thus never believes that a rule is
//!   in force which is not.
//!
//! What the rules can say and the data path does not do yet (retries, outlier detection, …) is part of the IR and passes
//! through here like everything else; the data path decides about it.
//!
//! A resource's version is the hash of the IR ([`crate::ir::version`]) and not of the bytes: protobuf maps have no order.
//!
//! A client that is no sidecar of Leno or Istio gets the same resources in other words: an Envoy with certificates of its
//! own has another [`Flavour`], and a client of gRPC another [`Dialect`].

mod access_log;
mod any;
mod balance;
mod base;
mod bind;
pub mod ca;
mod claim;
mod cluster;
mod endpoint;
mod filter;
pub mod grpc;
mod health_check;
mod http_manager;
mod http_options;
mod jwt;
mod limits;
mod listener;
mod matcher;
mod node;
mod pb;
mod policy;
mod rate_limit;
mod rbac;
mod refusal;
mod retry;
mod route;
mod route_action;
mod scalar;
mod secret;
mod tcp;
mod tls;
mod tracing;
mod upstream_http;
mod validation;

use std::collections::BTreeMap;

use prost::Message;
use serde::Serialize;

pub use node::{Dialect, Flavour, dialect_from_xds, flavour_from_xds, node_from_xds, node_to_xds};
pub use refusal::Refusal;

use crate::ir;
use pb::protobuf::Any;

/// The kinds of resource that Leno sends and takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// SDS.
    Secret,
    /// LDS.
    Listener,
    /// RDS.
    Route,
}

impl Kind {
    /// Make before break: a route is pushed after the listener that names it, which comes after the clusters it uses and
    /// the roots by which it knows its callers.
    pub const PUSH_ORDER: [Self; 5] = [Self::Cluster, Self::Endpoints, Self::Secret, Self::Listener, Self::Route];

    /// Its type on the wire.
    pub fn url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The kind of a type on the wire.
    pub fn from_url(url: &str) -> Option<Self> {
        Self::PUSH_ORDER.into_iter().find(|kind| kind.url() == url)
    }

    /// In the plural, for people and statistics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Cluster => "clusters",
            Self::Endpoints => "endpoints",
            Self::Secret => "secrets",
            Self::Listener => "listeners",
            Self::Route => "routes",
        }
    }
}

/// A resource, ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// Equal in every process for an equal resource.
    pub version: String,
    /// The message.
    pub any: Any,
}

/// All resources of one proxy, by kind and by the name they are asked for. Every kind is there, if empty.
pub fn encode(resources: &ir::Resources, flavour: &Flavour) -> BTreeMap<Kind, BTreeMap<String, Encoded>> {
    let ir::Resources { listeners, routes, clusters, endpoints, secrets } = resources;
    let encode = |kind: Kind| -> BTreeMap<String, Encoded> {
        match kind {
            Kind::Cluster => clusters.values().map(|it| (it.name.to_string(), encode_cluster(it, flavour))).collect(),
            Kind::Endpoints => endpoints.values().map(|it| (it.cluster.to_string(), encode_endpoints(it))).collect(),
            Kind::Secret => secrets.values().map(|it| (it.name.clone(), encode_secret(it))).collect(),
            Kind::Listener => listeners.values().map(|it| (it.name.clone(), encode_listener(it, flavour))).collect(),
            Kind::Route => routes.values().map(|it| (it.name.clone(), encode_route(it))).collect(),
        }
    };
    Kind::PUSH_ORDER.into_iter().map(|kind| (kind, encode(kind))).collect()
}

/// One cluster.
pub fn encode_cluster(cluster: &ir::Cluster, flavour: &Flavour) -> Encoded {
    Encoded { version: version(cluster, flavour), any: any::pack(&cluster::to_xds(cluster, flavour)) }
}

/// The members of one cluster.
pub fn encode_endpoints(endpoints: &ir::Endpoints) -> Encoded {
    Encoded { version: ir::version(endpoints), any: any::pack(&endpoint::to_xds(endpoints)) }
}

/// One set of trust bundles.
pub fn encode_secret(secret: &ir::Secret) -> Encoded {
    Encoded { version: ir::version(secret), any: any::pack(&secret::to_xds(secret)) }
}

/// One listener.
pub fn encode_listener(listener: &ir::Listener, flavour: &Flavour) -> Encoded {
    Encoded { version: version(listener, flavour), any: any::pack(&listener::to_xds(listener, flavour)) }
}

/// Resources that are written in different words are different, though they mean the same.
fn version<T: Serialize>(resource: &T, flavour: &Flavour) -> String {
    match flavour {
        Flavour::Sidecar => ir::version(resource),
        Flavour::CertificateFiles { .. } => ir::version(&(resource, flavour)),
    }
}

/// One route table.
pub fn encode_route(table: &ir::RouteConfig) -> Encoded {
    Encoded { version: ir::version(table), any: any::pack(&route::to_xds(table)) }
}

/// A resource as the proxy understands it.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
#[allow(clippy::large_enum_variant)] // On its way into an `Arc`; a cluster is what there is most of.
pub enum Decoded {
    Cluster(ir::Cluster),
    Endpoints(ir::Endpoints),
    Secret(ir::Secret),
    Listener(ir::Listener),
    Route(ir::RouteConfig),
}

impl Decoded {
    /// Its name, as it is asked for.
    pub fn name(&self) -> &str {
        match self {
            Self::Cluster(cluster) => cluster.name.as_str(),
            Self::Endpoints(endpoints) => endpoints.cluster.as_str(),
            Self::Secret(secret) => &secret.name,
            Self::Listener(listener) => &listener.name,
            Self::Route(table) => &table.name,
        }
    }
}

/// Reads a resource. Bytes of any kind end in a value or in a [`Refusal`], never in a panic.
pub fn decode(kind: Kind, any: &Any) -> Result<Decoded, Refusal> {
    match kind {
        Kind::Cluster => read(kind, any, |it: &pb::cluster::Cluster| &it.name, cluster::from_xds, Decoded::Cluster),
        Kind::Endpoints => read(
            kind,
            any,
            |it: &pb::endpoint::ClusterLoadAssignment| &it.cluster_name,
            endpoint::from_xds,
            Decoded::Endpoints,
        ),
        Kind::Secret => read(kind, any, |it: &pb::tls::Secret| &it.name, secret::from_xds, Decoded::Secret),
        Kind::Listener => {
            read(kind, any, |it: &pb::listener::Listener| &it.name, listener::from_xds, Decoded::Listener)
        }
        Kind::Route => read(kind, any, |it: &pb::route::RouteConfiguration| &it.name, route::from_xds, Decoded::Route),
    }
}

fn read<M: Message + prost::Name + Default, T>(
    kind: Kind,
    any: &Any,
    name: impl Fn(&M) -> &String,
    from_xds: impl Fn(M) -> refusal::Result<T>,
    wrap: impl Fn(T) -> Decoded,
) -> Result<Decoded, Refusal> {
    let unnamed = || format!("<one of the {}>", kind.label());
    let message: M = any::unpack(any).map_err(|problem| problem.prefixed("resource").of(&unnamed()))?;
    let name = Some(name(&message).clone()).filter(|name| !name.is_empty()).unwrap_or_else(unnamed);
    from_xds(message).map(wrap).map_err(|problem| problem.of(&name))
}
