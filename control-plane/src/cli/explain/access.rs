//! Whether the called workload lets the request in: what its sidecar would say of caller, token and request.
//!
//! The protection is compiled as the control plane compiles it, for the workload behind each endpoint that the request
//! may go to, and asked by the data plane's own evaluator.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use leno_config::compile::{Protection, Traffic, protection};
use leno_config::identity::SpiffeId;
use leno_config::ir::{
    Address, Cluster, Discovery, Endpoint, FilePlace, MtlsMode, Origin, Port, RbacAction, Resources, UpstreamTls,
};
use leno_config::mesh::{Mesh, PeerMode};
use leno_config::node::Node;
use leno_config::rules::ResourceId;
use leno_proxy::explain::{Access, RulePlace, Token, Tried, verified};
use leno_proxy::policy::authorization::{self, Caller, Decision, Denial, Verdict};
use leno_proxy::policy::jwt::Claims;
use leno_proxy::route::RequestView;

use super::by_rules::place;

/// Workloads that are looked at; those of one kind count once.
const MAX_WORKLOADS: usize = 16;

/// Who calls, as far as the connection and a token say it.
#[derive(Debug)]
pub(super) struct Credentials {
    /// The identity of the caller's sidecar; `None`: it comes in clear text.
    pub(super) identity: Option<SpiffeId>,
    /// Where the connection comes from.
    pub(super) address: IpAddr,
    /// What a good token of an issuer says that the workload may know.
    pub(super) claims: Option<Claims>,
}

/// A request on its way to a cluster.
pub(super) struct Question<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) resources: &'a Resources,
    /// Who sends it.
    pub(super) node: &'a Node,
    pub(super) credentials: &'a Credentials,
    /// As it leaves the caller's sidecar.
    pub(super) request: RequestView<'a>,
}

impl Question<'_> {
    /// What the workloads behind a cluster say, those alike once.
    pub(super) fn ask(&self, cluster: &str) -> Vec<Access> {
        let Some(found) = self.resources.clusters.get(cluster) else { return Vec::new() };
        let mut seen = BTreeSet::new();
        let mut answers = Vec::new();
        for (node, port, is_mesh) in self.workloads(found) {
            if answers.len() < MAX_WORKLOADS
                && seen.insert((node.namespace.clone(), node.labels.clone(), port, is_mesh))
            {
                answers.push(self.access(&node, port, is_mesh, found));
            }
        }
        answers
    }

    /// The workloads behind a cluster, their ports, and whether they are called with the mesh's TLS. Where no endpoint is
    /// known, one as the service selects them, called with it.
    fn workloads(&self, cluster: &Cluster) -> Vec<(Node, Port, bool)> {
        let Some((port, subset, host)) = parts(cluster.name.as_str()) else { return Vec::new() };
        let namespace = self.node.namespace.as_str();
        let members: Vec<&Endpoint> = match &cluster.discovery {
            Discovery::Eds { .. } => {
                self.resources.endpoints.get(&cluster.name).iter().flat_map(|all| all.iter()).collect()
            }
            Discovery::Static(members) | Discovery::Dns(members) => members.iter().collect(),
            Discovery::OriginalDestination | Discovery::RequestHost => Vec::new(),
        };
        if members.is_empty() {
            let selected = self.mesh.proxy_behind(host, namespace, port, subset);
            return selected.into_iter().map(|(node, port)| (node, port, true)).collect();
        }
        let known = members.into_iter().filter_map(|endpoint| {
            let number = match &endpoint.address {
                Address::Socket(address) => Port::new(address.port())?,
                Address::Name { port, .. } => *port,
            };
            let is_mesh = match &cluster.tls {
                UpstreamTls::Auto(_) => endpoint.mesh_tls,
                UpstreamTls::Mesh(_) => true,
                UpstreamTls::Plain | UpstreamTls::External(_) => false,
            };
            Some((self.mesh.proxy_at(host, namespace, endpoint)?, number, is_mesh))
        });
        known.collect()
    }

    fn access(&self, node: &Node, port: Port, is_mesh: bool, cluster: &Cluster) -> Access {
        let Protection { peer: PeerMode { mode, by }, tokens, authorization, rate_limits } =
            protection(self.mesh, node, port, Traffic::Http);
        let shown = self.credentials.identity.clone().filter(|_| is_mesh);
        let identity = shown.filter(|_| mode != MtlsMode::Disable);
        let mut access = Access {
            workload: format!("{}/{}", node.namespace, node.name),
            port: port.get(),
            mtls: mode,
            mtls_by: by.map(|id| self.place(&whole(id))),
            tokens: self.mesh.request_authentications(node).into_iter().map(|id| self.place(&whole(id))).collect(),
            token: Token::Missing,
            allowed: true,
            status: None,
            reason: String::new(),
            by: None,
            would_deny: None,
            audited_by: None,
            rate_limits: rate_limits.iter().filter_map(|it| limit_origin(&it.name)).map(|it| self.place(&it)).collect(),
            identity,
        };
        if mode == MtlsMode::Strict && access.identity.is_none() {
            access.allowed = false;
            access.reason = "the connection is closed: STRICT asks for a certificate of the mesh".to_owned();
            return access;
        }
        let claims = match verified(&tokens, self.credentials.claims.as_ref()) {
            Ok(claims) => claims,
            Err(reason) => {
                (access.allowed, access.status, access.reason) = (false, Some(401), reason.to_owned());
                access.token = self.credentials.claims.as_ref().map_or(Token::Missing, |_| Token::Refused);
                return access;
            }
        };
        access.token = claims.map_or(Token::Missing, |_| Token::Taken);
        let server_name = match (&cluster.tls, &access.identity) {
            (UpstreamTls::Auto(tls) | UpstreamTls::Mesh(tls), Some(_)) => Some(tls.sni.as_str()),
            (UpstreamTls::Plain | UpstreamTls::External(_), _) | (_, None) => None,
        };
        let identity = access.identity.clone();
        let caller = Caller {
            identity: identity.as_ref(),
            direct: SocketAddr::new(self.credentials.address, 0),
            local: SocketAddr::new(node.ip, port.get()),
            server_name,
        };
        let decision = authorization::check(&authorization, &caller, Some(&RequestView { claims, ..self.request }));
        self.decide(&decision, &mut access);
        access
    }

    fn decide(&self, decision: &Decision<'_>, access: &mut Access) {
        let rule = |name: &str| origin(name).map(|origin| self.place(&origin));
        match decision.verdict {
            Verdict::Allowed(Some(policy)) => {
                access.by = rule(policy);
                access.reason = "allowed".to_owned();
            }
            Verdict::Allowed(None) => access.reason = "allowed: no ALLOW policy is for the workload".to_owned(),
            Verdict::Denied(Denial { action, policy }) => {
                access.by = policy.and_then(rule);
                access.allowed = false;
                access.status = Some(403);
                access.reason = match (action, policy) {
                    (RbacAction::Custom, _) => "refused: CUSTOM asks a service outside, which Leno has none of",
                    (_, Some(_)) => "denied",
                    (_, None) => "denied: there are ALLOW policies for the workload, and none of them matches",
                }
                .to_owned();
            }
        }
        access.would_deny = decision.would_deny.map(|denial| Tried { by: denial.policy.and_then(rule) });
        access.audited_by = decision.audited.and_then(rule);
    }

    fn place(&self, origin: &Origin) -> RulePlace {
        place(self.mesh, origin)
    }
}

/// Port, subset and host of `outbound|PORT|SUBSET|HOST`.
fn parts(cluster: &str) -> Option<(Port, &str, &str)> {
    let mut parts = cluster.strip_prefix("outbound|")?.splitn(3, '|');
    Some((parts.next()?.parse().ok()?, parts.next()?, parts.next()?))
}

/// A rule as a whole.
fn whole(id: ResourceId) -> Origin {
    let ResourceId { kind, namespace, name } = id;
    Origin { kind, namespace, name, index: 0, place: FilePlace::default() }
}

/// The rule behind `ns[NAMESPACE]-policy[NAME]-rule[INDEX]`.
fn origin(policy: &str) -> Option<Origin> {
    let (namespace, rest) = policy.strip_prefix("ns[")?.split_once("]-policy[")?;
    let (name, index) = rest.strip_suffix(']')?.split_once("]-rule[")?;
    Some(Origin {
        kind: "AuthorizationPolicy".to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        index: index.parse().ok()?,
        place: FilePlace::default(),
    })
}

/// The rule behind `NAMESPACE/NAME/INDEX`.
fn limit_origin(limit: &str) -> Option<Origin> {
    let mut parts = limit.splitn(3, '/');
    let (namespace, name, index) = (parts.next()?, parts.next()?, parts.next()?);
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    let (index, place) = (index.parse().ok()?, FilePlace::default());
    Some(Origin { kind: "RateLimit".to_owned(), namespace, name, index, place })
}

/// The headers as they come to the called workload.
pub(super) fn forwarded(
    headers: &HeaderMap,
    share: &leno_config::ir::HeaderOps,
    route: &leno_config::ir::HeaderOps,
) -> HeaderMap {
    let mut headers = headers.clone();
    leno_proxy::headers::apply(share, &mut headers);
    leno_proxy::headers::apply(route, &mut headers);
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_policies_lead_to_their_rules() {
        let found = origin("ns[shop]-policy[cart.v1]-rule[12]").unwrap();
        assert_eq!((found.namespace.as_str(), found.name.as_str(), found.index), ("shop", "cart.v1", 12));
        for name in ["", "ns[a]-policy[b]", "ns[a]-policy[b]-rule[x]", "foreign"] {
            assert!(origin(name).is_none(), "{name}");
        }
    }

    #[test]
    fn names_of_clusters_have_three_parts() {
        let found = parts("outbound|9080|v1|reviews.default.svc.cluster.local").unwrap();
        assert_eq!((found.0.get(), found.1, found.2), (9080, "v1", "reviews.default.svc.cluster.local"));
        for name in ["PassthroughCluster", "inbound|80||", "outbound|x||a"] {
            assert!(parts(name).is_none(), "{name}");
        }
    }
}
