//! Chains where each connection tells what is spoken ([`Detection`]).
//!
//! Envoy goes down one level after the other (destination port, destination address, server name, transport, protocols) and
//! never back up: where any chain asks for clear text, a chain that asks for nothing takes no clear text any more. So the
//! bytes that are left are spelled out:
//!
//! ```text
//!                   TLS, mesh, HTTP   TLS, mesh, other   TLS, other         clear, HTTP   clear, other
//! strict            mTLS, requests    mTLS, bytes        mTLS, bytes        (closed)      (closed)
//! permissive        mTLS, requests    mTLS, bytes        bytes as they are  requests      bytes
//! disable           bytes as they are, by their server name where there is one  requests  bytes
//! ```
//!
//! This is also what Istio writes for ports without a declared protocol. Only Istio's own clients say in the handshake that
//! they speak HTTP; what others send is bytes for Envoy (for Leno's listeners it is not).

use std::collections::BTreeSet;

use super::callers::{Alpn, CLEAR, CLEAR_HTTP, Condition, MESH_BYTES, MESH_HTTP, Place, TLS, Transport};
use super::callers::{taking, with_certificate};
use super::chain::{Chain, Spoken, http_to_xds, tcp_to_xds};
use super::pb;
use super::{Folded, Placed, Way};
use crate::ir::{
    self, AccessLogs, Authorization, Branch, Detection, HttpManager, ListenerProtocol, MtlsMode, StringMatch, TcpRoute,
};
use crate::xds::node::Flavour;
use crate::xds::refusal::{Problem, Result, Within};
use crate::xds::tls::{Callers, Inside};
use crate::xds::{base, rbac};
use pb::listener::{FilterChain, FilterChainMatch};

pub(super) fn to_xds(detection: &Detection, way: &Way<'_>, flavour: &Flavour) -> Vec<FilterChain> {
    let bytes = |route: &TcpRoute| tcp_to_xds(route, &detection.authorization, way.access_logs);
    let http = detection.http.as_ref();
    let http = http.map(|manager| http_to_xds(manager, way.direction, way.authorization, way.access_logs));
    let rest = bytes(&detection.tcp);
    let mut chains = Vec::new();
    if way.mtls != MtlsMode::Disable {
        let alpn: &[&str] = if way.mtls == MtlsMode::Strict { &[] } else { &MESH_BYTES };
        let requests = http.iter().map(|http| (taking(http, "mtls-http", TLS, &MESH_HTTP), Inside::Http));
        let all = requests.chain([(taking(&rest, "mtls", TLS, alpn), Inside::Bytes)]);
        chains.extend(all.map(|(chain, inside)| with_certificate(chain, inside, flavour)));
    }
    if way.mtls != MtlsMode::Strict {
        chains.extend(detection.branches().iter().map(|branch| branch_to_xds(branch, bytes(&branch.route))));
        chains.extend(http.iter().map(|http| taking(http, "http", CLEAR, &CLEAR_HTTP)));
        chains.extend([taking(&rest, "handshakes", TLS, &[]), taking(&rest, "clear", CLEAR, &[])]);
    }
    chains
}

fn branch_to_xds(branch: &Branch, chain: FilterChain) -> FilterChain {
    let condition = match &branch.condition {
        ir::Condition::Destination(range) => {
            FilterChainMatch { prefix_ranges: vec![base::range_to_xds(range)], ..Default::default() }
        }
        ir::Condition::ServerName(name) => FilterChainMatch {
            server_names: vec![name.to_string()],
            transport_protocol: TLS.to_owned(),
            ..Default::default()
        },
    };
    FilterChain { filter_chain_match: Some(condition), name: branch.route.stat_prefix.clone(), ..chain }
}

/// Reads chains that tell connections apart by more than how callers come in.
pub(super) fn fold(chains: Vec<Placed>) -> Result<Folded> {
    let mut read = Read::default();
    for Placed { field, place, chain } in chains {
        read.chain(chain, place).within(&field)?;
    }
    read.finish()
}

/// Which connections a chain takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Taken {
    MeshHttp,
    MeshBytes,
    ClearHttp,
    ClearBytes,
    Handshakes,
    /// What is left.
    Rest,
    /// Those of a branch.
    Branch,
}

#[derive(Default)]
struct Read {
    taken: BTreeSet<Taken>,
    http: Option<(HttpManager, Authorization)>,
    bytes: Option<(TcpRoute, Authorization)>,
    branches: Vec<(Branch, Authorization)>,
    callers: Vec<StringMatch>,
    access_logs: Option<AccessLogs>,
}

impl Read {
    fn chain(&mut self, chain: Chain, place: Place) -> Result<()> {
        let taken = taken(&chain, place)?;
        let Chain { condition, callers, authorization, access_logs, spoken } = chain;
        self.access_logs.get_or_insert(access_logs);
        if let Some(Callers::Outside(_)) = callers {
            let reason =
                "where each connection tells what it carries, TLS is ended with the certificate of the mesh alone";
            return Err(Problem::new("transport_socket", reason));
        }
        for caller in callers.into_iter().flat_map(Callers::into_named) {
            if !self.callers.contains(&caller) {
                self.callers.push(caller);
            }
        }
        let is_first = self.taken.insert(taken);
        let again = || Problem::new("", "takes connections that another chain takes already");
        match spoken {
            Spoken::Bytes(route) if taken == Taken::Branch => {
                let Condition { destinations, server_names, .. } = condition;
                let destinations = destinations.into_iter().map(ir::Condition::Destination);
                let names = server_names.into_iter().map(ir::Condition::ServerName);
                for condition in destinations.chain(names) {
                    if self.branches.iter().any(|(branch, _)| branch.condition == condition) {
                        return Err(again());
                    }
                    self.branches.push((Branch { condition, route: route.clone() }, authorization.clone()));
                }
                Ok(())
            }
            _ if !is_first => Err(again()),
            Spoken::Http(manager) => same(&mut self.http, (manager, authorization)),
            Spoken::Bytes(route) => same(&mut self.bytes, (route, authorization)),
        }
    }

    fn finish(self) -> Result<Folded> {
        let Self { taken, http, bytes, branches, callers, access_logs } = self;
        let problem = |reason: &str| Problem::new("filter_chains", reason);
        let has = |wanted: Taken| taken.contains(&wanted);
        let clear_bytes = has(Taken::Rest) || (has(Taken::ClearBytes) && has(Taken::Handshakes));
        let some_clear = has(Taken::Rest) || has(Taken::ClearBytes) || has(Taken::Handshakes) || has(Taken::ClearHttp);
        let mtls = match (has(Taken::MeshHttp), has(Taken::MeshBytes)) {
            (false, false) if clear_bytes => MtlsMode::Disable,
            (true, true) if clear_bytes && has(Taken::ClearHttp) => MtlsMode::Permissive,
            (true, true) if !some_clear => MtlsMode::Strict,
            _ => {
                return Err(problem(
                    "chains that tell HTTP from other bytes take both of those who come with a certificate of the mesh, \
                     or of those who come in clear text (other TLS included), or of all of them",
                ));
            }
        };
        if !branches.is_empty() && mtls != MtlsMode::Disable {
            return Err(problem("callers with a certificate of the mesh are not told apart by where they go"));
        }
        let Some((tcp, mut connections)) = bytes else { return Err(problem("nothing takes what is not HTTP")) };
        if branches.iter().any(|(_, authorization)| *authorization != connections) {
            return Err(problem("who may connect is the same for all bytes of a port"));
        }
        let (http, mut requests) = http.unzip();
        if !callers.is_empty() {
            let named = rbac::only_callers(callers);
            connections.0.insert(0, named.clone());
            requests.get_or_insert_default().0.insert(0, named);
        }
        let branches = branches.into_iter().map(|(branch, _)| branch).collect();
        let detection = Detection::new(branches, http, tcp, connections);
        Ok(Folded {
            mtls,
            tls: None,
            authorization: requests.unwrap_or_default(),
            access_logs: access_logs.unwrap_or_default(),
            protocol: ListenerProtocol::Detect(Box::new(detection)),
        })
    }
}

/// What all chains of a kind say.
fn same<T: PartialEq>(known: &mut Option<T>, value: T) -> Result<()> {
    match known {
        Some(known) if *known != value => {
            let reason = "does something else than another chain of its port for the same protocol";
            Err(Problem::new("", reason))
        }
        Some(_) => Ok(()),
        None => {
            *known = Some(value);
            Ok(())
        }
    }
}

fn taken(chain: &Chain, place: Place) -> Result<Taken> {
    let Chain { condition, callers, spoken, .. } = chain;
    let Condition { port: _, destinations, server_names, transport, alpn } = condition;
    let (by_address, by_name) = (!destinations.is_empty(), !server_names.is_empty());
    let ends_tls = callers.is_some();
    let is_http = matches!(spoken, Spoken::Http(_));
    let found = match (ends_tls, is_http, transport, alpn) {
        _ if place == Place::Default => (!ends_tls && !is_http).then_some(Taken::Rest),
        (false, false, Transport::Any, Alpn::Any) if by_address != by_name => Some(Taken::Branch),
        (false, false, Transport::Tls, Alpn::Any) if by_name && !by_address => Some(Taken::Branch),
        _ if by_address || by_name => None,
        (true, true, Transport::Any | Transport::Tls, Alpn::MeshHttp) => Some(Taken::MeshHttp),
        (true, false, Transport::Any | Transport::Tls, Alpn::Any | Alpn::Mesh) => Some(Taken::MeshBytes),
        (false, true, Transport::Any | Transport::Clear, Alpn::ClearHttp) => Some(Taken::ClearHttp),
        (false, false, Transport::Clear, Alpn::Any) => Some(Taken::ClearBytes),
        (false, false, Transport::Tls, Alpn::Any) => Some(Taken::Handshakes),
        (false, false, Transport::Any, Alpn::Any) => Some(Taken::Rest),
        _ => None,
    };
    found.ok_or_else(|| {
        let reason = "Leno tells HTTP from other bytes by `application_protocols` (`http/1.1` and its kind in clear text, \
                      `istio-http/1.1` and its kind in TLS), and bytes from each other by `prefix_ranges` or by \
                      `server_names`; a chain asks for one of these, and requests are for HTTP";
        Problem::new("filter_chain_match", reason)
    })
}
