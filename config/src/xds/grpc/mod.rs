//! The same resources for a client of gRPC that speaks xDS by itself, without a proxy (gRFC A27).
//!
//! Such a client takes Envoy's messages and means something else by them. It asks for a listener by the name that the
//! app dials, `xds:///reviews:9080`, and knows a part of the rest: what it does not know it refuses (a cluster with
//! `lb_policy: LEAST_REQUEST`), leaves out (header operations, mirrors, timeouts), or takes for a route that is not there,
//! so that the *next* one is used (redirects, conditions on the query). A snapshot for Envoy would thus break, or worse,
//! do something else without a word. So it is written anew here, for what gRPC does understand:
//!
//! ```text
//!   virtual host  ──▶  one API listener per name (host:port, and host where that is meant) ──▶ one route table
//!   cluster       ──▶  EDS, or one DNS name; round robin, least request, ring hash
//!   endpoints     ──▶  every locality with its weight, no priority missing, no address twice
//! ```
//!
//! What cannot be said is *remarked* ([`Remark`]), and the remark is shown to the operator for every client that asks for
//! the resource:
//!
//! * [`Outcome::Refused`]: requests would be treated differently from what the rules say. The resource is not sent; a
//!   route table that the client has from before stays in force, a cluster does not.
//! * [`Outcome::LeftOut`]: a protection of the client or of its peers is missing, and what is sent means the same to each
//!   request. Refusing would take a service away because it is guarded too well.
//!
//! What was measured on grpcio and grpc-js is in the end-to-end suites; the documents are gRFCs A27, A28, A31, A32, A33,
//! A37, A42, A44, A48, A50 and A52. Not here: resources for servers (A36), and credentials (A29), so that a cluster whose
//! rule demands TLS is refused and auto-mTLS means clear text.

mod cluster;
mod endpoint;
mod expression;
mod listener;
mod route;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};

pub use verdict::{Outcome, Remark, Remarks};

use super::pb::protobuf::Any;
use super::{Encoded, Kind, any};
use crate::ir::{self, Domain, Resources, RouteConfig, RouteSource, VirtualHost};
use verdict::Verdict;

/// What a client of gRPC is to hold, and what it cannot be told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Encoding {
    /// By kind and by the name they are asked for. Every kind is there, if empty.
    pub resources: BTreeMap<Kind, BTreeMap<String, Encoded>>,
    /// Of what is refused or not whole.
    pub remarks: Remarks,
}

/// All resources of one client, from those that a sidecar in its place would hold. Only what leads away from it counts.
pub fn encode(resources: &Resources) -> Encoding {
    let mut encoding = Encoding::default();
    for kind in Kind::PUSH_ORDER {
        encoding.resources.insert(kind, BTreeMap::new());
    }
    let mut taken = BTreeSet::new();
    for host in tables(resources).flat_map(|table| &table.virtual_hosts) {
        encoding.host(host, &mut taken);
    }
    for cluster in resources.clusters.values() {
        encoding.cluster(cluster);
    }
    for endpoints in resources.endpoints.values() {
        encoding.endpoints(endpoints);
    }
    encoding
}

/// The tables of outbound HTTP.
fn tables(resources: &Resources) -> impl Iterator<Item = &RouteConfig> {
    let outbound = resources.listeners.values().filter(|listener| listener.direction == ir::Direction::Outbound);
    outbound.filter_map(|listener| match &listener.protocol.http()?.routes {
        RouteSource::Named(name) => resources.routes.get(name).map(|table| &**table),
        RouteSource::Inline(table) => Some(&**table),
    })
}

impl Encoding {
    /// A host that can be dialled: names with a `*` in them are never asked for.
    fn host(&mut self, host: &VirtualHost, taken: &mut BTreeSet<String>) {
        let exact = host.domains.iter().filter_map(|domain| match domain {
            Domain::Exact(name) => Some(name.clone()),
            Domain::Suffix(_) | Domain::Prefix(_) | Domain::Any => None,
        });
        let names = exact.filter(|name| taken.insert(name.clone())).collect::<Vec<_>>();
        if names.is_empty() {
            return;
        }
        for name in names {
            let listener = any::pack(&listener::to_xds(&name, &host.name));
            self.add(Kind::Listener, &name, version(&(&name, &host.name)), listener, Verdict::default());
        }
        let mut verdict = Verdict::default();
        let table = route::to_xds(host, &mut verdict);
        self.add(Kind::Route, &host.name, version(host), any::pack(&table), verdict);
    }

    fn cluster(&mut self, cluster: &ir::Cluster) {
        let mut verdict = Verdict::default();
        let message = cluster::to_xds(cluster, &mut verdict);
        self.add(Kind::Cluster, cluster.name.as_str(), version(cluster), any::pack(&message), verdict);
        if let Some(endpoints) = cluster::own_endpoints(cluster) {
            self.endpoints(endpoints);
        }
    }

    fn endpoints(&mut self, endpoints: &ir::Endpoints) {
        let mut verdict = Verdict::default();
        let message = endpoint::to_xds(endpoints, &mut verdict);
        self.add(Kind::Endpoints, endpoints.cluster.as_str(), version(endpoints), any::pack(&message), verdict);
    }

    fn add(&mut self, kind: Kind, name: &str, version: String, any: Any, verdict: Verdict) {
        let remark = verdict.into_remark();
        let refused = remark.as_ref().is_some_and(|remark| remark.outcome == Outcome::Refused);
        self.remarks.extend(remark.map(|remark| ((kind, name.to_owned()), remark)));
        if !refused {
            self.resources.entry(kind).or_default().insert(name.to_owned(), Encoded { version, any });
        }
    }
}

/// Never that of the same resource in Envoy's words.
fn version<T: serde::Serialize>(resource: &T) -> String {
    ir::version(&("grpc", resource))
}
