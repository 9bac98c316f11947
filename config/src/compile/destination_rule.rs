//! Which settings a cluster is called with: DestinationRule, its subset, its port, and the mesh's default.

use crate::ir::{CookieAttribute, HashPolicy, Port};
use crate::mesh::{DestinationRule, Mesh, port_number};
use crate::rules::{
    ClientTlsSettings, ConnectionPoolSettings, ConsistentHashLb, HttpCookieAttribute, LoadBalancerSettings,
    LocalityLoadBalancerSetting, OutlierDetection, PortSelector, PortTrafficPolicy, RetryBudget, TrafficPolicy,
};

/// The settings of one cluster, block by block.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Policy<'a> {
    pub(super) load_balancer: Option<&'a LoadBalancerSettings>,
    pub(super) connection_pool: Option<&'a ConnectionPoolSettings>,
    pub(super) outlier_detection: Option<&'a OutlierDetection>,
    pub(super) tls: Option<&'a ClientTlsSettings>,
    pub(super) retry_budget: Option<&'a RetryBudget>,
    /// What the mesh says of near and far.
    pub(super) mesh_locality: Option<&'a LocalityLoadBalancerSetting>,
    /// Endpoints are chosen by latency, where nothing says how.
    pub(super) by_latency: bool,
}

impl<'a> Policy<'a> {
    /// For a port of a service, and a subset where one is named.
    ///
    /// The subset's policy replaces the rule's block by block. A port's settings, of the rule and then of the subset,
    /// replace all blocks for it: what they leave out is at its default, not inherited (Istio's
    /// `MergeTrafficPolicy`). At last the mesh's default fills missing connection pools and outlier detection.
    pub(super) fn of(mesh: &'a Mesh, rule: Option<&'a DestinationRule>, port: Port, subset: &str) -> Self {
        let subset = rule.and_then(|rule| rule.subset(subset)).and_then(|subset| subset.traffic_policy.as_ref());
        let mut policy = Self::default();
        for written in rule.and_then(|rule| rule.policy.as_ref()).into_iter().chain(subset) {
            policy = policy.overridden(written, port);
        }
        if let Some(default) = &mesh.settings().default_traffic_policy {
            policy.connection_pool = policy.connection_pool.or(default.connection_pool.as_ref());
            policy.outlier_detection = policy.outlier_detection.or(default.outlier_detection.as_ref());
        }
        policy.mesh_locality = mesh.settings().locality_lb_setting.as_deref();
        policy.by_latency = rule.is_some_and(|rule| rule.by_latency);
        policy
    }

    fn overridden(self, written: &'a TrafficPolicy, port: Port) -> Self {
        let blocks = Self {
            load_balancer: written.load_balancer.as_ref().or(self.load_balancer),
            connection_pool: written.connection_pool.as_ref().or(self.connection_pool),
            outlier_detection: written.outlier_detection.as_ref().or(self.outlier_detection),
            tls: written.tls.as_ref().or(self.tls),
            retry_budget: written.retry_budget.as_ref().or(self.retry_budget),
            ..self
        };
        let selected = |settings: &&PortTrafficPolicy| port_of(settings.port.as_ref()) == Some(port);
        match written.port_level_settings.iter().find(selected) {
            None => blocks,
            Some(settings) => Self {
                load_balancer: settings.load_balancer.as_ref(),
                connection_pool: settings.connection_pool.as_ref(),
                outlier_detection: settings.outlier_detection.as_ref(),
                tls: settings.tls.as_ref(),
                ..blocks
            },
        }
    }

    /// The consistent hash, where that is how endpoints are chosen.
    pub(super) fn consistent_hash(&self) -> Option<&'a ConsistentHashLb> {
        self.load_balancer.and_then(|balancer| balancer.consistent_hash.as_ref())
    }

    /// What a route has to look at for it.
    pub(super) fn hash_policy(&self) -> Option<HashPolicy> {
        let hash = self.consistent_hash()?;
        if let Some(name) = &hash.http_header_name {
            return name.parse().ok().map(HashPolicy::Header);
        }
        if let Some(cookie) = &hash.http_cookie {
            return Some(HashPolicy::Cookie {
                name: cookie.name.clone(),
                path: cookie.path.clone().unwrap_or_default(),
                ttl: cookie.ttl.as_ref().and_then(|ttl| ttl.parse().ok()),
                attributes: cookie.attributes.iter().map(attribute).collect(),
            });
        }
        if let Some(name) = &hash.http_query_parameter_name {
            return Some(HashPolicy::QueryParameter(name.clone()));
        }
        hash.use_source_ip.unwrap_or(false).then_some(HashPolicy::SourceIp)
    }
}

fn attribute(written: &HttpCookieAttribute) -> CookieAttribute {
    CookieAttribute { name: written.name.clone(), value: written.value.clone().unwrap_or_default() }
}

fn port_of(port: Option<&PortSelector>) -> Option<Port> {
    port.and_then(|port| port_number(port.number))
}
