//! `MeshConfig` by itself.

use super::findings::{Findings, spec};
use super::values::is_host;
use super::{access_log, load_balancer, sidecar, tracing, traffic_policy};
use crate::diagnostic::codes;
use crate::identity::check_trust_domain;
use crate::rules::{MeshConfig, is_dns_label};

pub(super) fn check(config: &MeshConfig, found: &mut Findings) {
    let spec = spec();
    if let Some(domain) = config.trust_domain.as_deref().filter(|domain| !is_trust_domain(domain)) {
        let message = format!("`{domain}` is not a trust domain");
        found.add(codes::HOST, &spec.key("trustDomain"), message).help("use small letters, digits, `-`, `_` and `.`");
    }
    for (index, alias) in config.trust_domain_aliases.iter().enumerate().filter(|(_, alias)| !is_trust_domain(alias)) {
        let path = spec.key("trustDomainAliases").index(index);
        let help = "use small letters, digits, `-`, `_` and `.`";
        found.add(codes::HOST, &path, format!("`{alias}` is not a trust domain")).help(help);
    }
    if let Some(namespace) = config.root_namespace.as_deref().filter(|namespace| !is_dns_label(namespace)) {
        found.add(codes::EXPORT_TO, &spec.key("rootNamespace"), format!("`{namespace}` is not a namespace"));
    }
    if let Some(policy) = &config.outbound_traffic_policy {
        sidecar::check_outbound(policy, &spec.key("outboundTrafficPolicy"), found);
    }
    if let Some(policy) = config.default_traffic_policy.as_ref().filter(|policy| **policy != Default::default()) {
        traffic_policy::check(policy, &spec.key("defaultTrafficPolicy"), found);
    }
    if let Some(setting) = &config.locality_lb_setting {
        load_balancer::check_locality(setting, &spec.key("localityLbSetting"), found);
    }
    if let Some(log) = &config.access_log {
        access_log::check(log, &spec.key("access_log"), found);
    }
    if let Some(tracing) = &config.tracing {
        tracing::check(tracing, &spec.key("tracing"), found);
    }
}

/// What may be the host of a SPIFFE ID.
fn is_trust_domain(text: &str) -> bool {
    check_trust_domain(text).is_ok() && is_host(text)
}
