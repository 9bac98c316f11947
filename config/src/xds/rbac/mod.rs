//! Who may do what: Envoy's RBAC filters of HTTP and TCP, and what a route says instead of them.
//!
//! A policy of Istio's CUSTOM action asks a service outside, which neither Leno nor an Envoy that Leno drives has. It
//! travels as a filter that denies what matches, which is what Leno does with it, under a name of its own.
//!
//! Envoy has one override of a route for all filters of a name. So all have Istio's name, and a route that says something
//! else speaks for all of them, in Envoy and in Leno alike.

mod condition;
mod connection;

use super::any;
use super::pb;
use super::refusal::{Problem, Result, Within, each, unsupported};
use crate::ir::{Authorization, RbacAction, RbacFilter, RbacPolicy, Shadow, StringMatch};
use condition::{permission_from_xds, permission_to_xds, principal_from_xds, principal_to_xds};
use pb::protobuf::Any;
use pb::rbac::rbac::Action;
use pb::{http_rbac, network_rbac};

/// Istio's name of the HTTP filters; routes refer to them by it.
pub(super) const HTTP: &str = "envoy.filters.http.rbac";
/// Istio's name of the TCP filters.
const NETWORK: &str = "envoy.filters.network.rbac";
/// What Leno adds to the name of a filter with policies of action CUSTOM.
const CUSTOM: &str = ".custom";

/// Name and configuration of every filter of an HTTP listener.
pub(super) fn to_http(authorization: &Authorization) -> Vec<(String, Any)> {
    let Authorization(filters) = authorization;
    filters.iter().map(|filter| (name(HTTP, filter), any::pack(&http_to_xds(filter)))).collect()
}

/// Name and configuration of every filter of a TCP listener.
pub(super) fn to_network(authorization: &Authorization, stat_prefix: &str) -> Vec<(String, Any)> {
    let Authorization(filters) = authorization;
    // Envoy insists on a name for the statistics.
    let stat_prefix = if stat_prefix.is_empty() { "tcp." } else { stat_prefix };
    let rules = |action: RbacAction, policies: &[RbacPolicy]| {
        rules_to_xds(action, &policies.iter().map(connection::policy).collect::<Vec<_>>())
    };
    let to_xds = |filter: &RbacFilter| {
        let RbacFilter { action, policies, shadow, enforced } = filter;
        network_rbac::Rbac {
            rules: enforced.then(|| rules(*action, policies)),
            shadow_rules: shadow.as_ref().map(|Shadow { action, policies }| rules(*action, policies)),
            stat_prefix: stat_prefix.to_owned(),
            ..Default::default()
        }
    };
    filters.iter().map(|filter| (name(NETWORK, filter), any::pack(&to_xds(filter)))).collect()
}

/// What a route says instead of the listener. Envoy's override holds one filter; where several are meant, it denies
/// everything rather than forget one.
pub(super) fn to_route(authorization: &Authorization) -> Any {
    let Authorization(filters) = authorization;
    let rbac = match filters.as_slice() {
        [] => None,
        [only] => Some(http_to_xds(only)),
        _ => Some(http_rbac::Rbac { rules: Some(rules_to_xds(RbacAction::Allow, &[])), ..Default::default() }),
    };
    any::pack(&http_rbac::RbacPerRoute { rbac })
}

/// A filter of an HTTP listener; `None` where it is no RBAC filter.
pub(super) fn from_http(name: &str, config: &Any) -> Result<Option<RbacFilter>> {
    let Some(rbac) = any::unpack_if::<http_rbac::Rbac>(config).within("typed_config")? else { return Ok(None) };
    let is_custom = name.strip_suffix(CUSTOM) == Some(HTTP);
    if !is_custom && name != HTTP {
        let reason = format!("a route could not speak for an RBAC filter called `{name}`: call it `{HTTP}`");
        return Err(Problem::new("name", reason));
    }
    http_from_xds(rbac, is_custom).map(Some).within("typed_config")
}

/// A filter of a TCP listener; `None` where it is no RBAC filter.
pub(super) fn from_network(name: &str, config: &Any) -> Result<Option<RbacFilter>> {
    let Some(rbac) = any::unpack_if::<network_rbac::Rbac>(config).within("typed_config")? else { return Ok(None) };
    let network_rbac::Rbac {
        rules,
        matcher,
        shadow_rules,
        shadow_matcher,
        // Statistics.
        shadow_rules_stat_prefix: _,
        stat_prefix: _,
        // Nothing that the conditions look at changes while a connection lives.
        enforcement_type: _,
        // How long a connection that is denied is kept waiting.
        delay_deny: _,
    } = rbac;
    let matchers: [(&str, &dyn super::refusal::IsSet); 2] =
        [("matcher", &matcher), ("shadow_matcher", &shadow_matcher)];
    unsupported(&matchers).within("typed_config")?;
    filter_from_xds(rules, shadow_rules, name.ends_with(CUSTOM)).map(Some).within("typed_config")
}

pub(super) fn from_route(config: http_rbac::RbacPerRoute) -> Result<Authorization> {
    let http_rbac::RbacPerRoute { rbac } = config;
    let filter = rbac.map(|rbac| http_from_xds(rbac, false)).transpose().within("rbac")?;
    Ok(Authorization(filter.into_iter().collect()))
}

/// Denies callers with a certificate of the mesh whose SPIFFE ID fulfils none of the conditions. That is how a TLS
/// context that names its callers is enforced.
pub(super) fn only_callers(names: Vec<StringMatch>) -> RbacFilter {
    use crate::ir::{Permission, Principal};
    let named = names.into_iter().map(|name| Principal::Authenticated(Some(name))).collect();
    let others = vec![Principal::Authenticated(None), Principal::Not(Box::new(Principal::Or(named)))];
    let policy = RbacPolicy {
        name: "match_subject_alt_names".to_owned(),
        permissions: vec![Permission::Any],
        principals: vec![Principal::And(others)],
    };
    RbacFilter { action: RbacAction::Deny, policies: vec![policy], shadow: None, enforced: true }
}

fn name(base: &str, filter: &RbacFilter) -> String {
    let suffix = if filter.action == RbacAction::Custom { CUSTOM } else { "" };
    format!("{base}{suffix}")
}

fn http_to_xds(filter: &RbacFilter) -> http_rbac::Rbac {
    let RbacFilter { action, policies, shadow, enforced } = filter;
    http_rbac::Rbac {
        rules: enforced.then(|| rules_to_xds(*action, policies)),
        shadow_rules: shadow.as_ref().map(shadow_to_xds),
        ..Default::default()
    }
}

fn http_from_xds(rbac: http_rbac::Rbac, is_custom: bool) -> Result<RbacFilter> {
    let http_rbac::Rbac {
        rules,
        matcher,
        shadow_rules,
        shadow_matcher,
        // Statistics, and metadata that nothing in Leno looks at.
        rules_stat_prefix: _,
        shadow_rules_stat_prefix: _,
        track_per_rule_stats: _,
    } = rbac;
    unsupported(&[("matcher", &matcher), ("shadow_matcher", &shadow_matcher)])?;
    filter_from_xds(rules, shadow_rules, is_custom)
}

/// Without rules a filter passes everything; Leno then takes the action of the dry run for the filter's own.
fn filter_from_xds(
    rules: Option<pb::rbac::Rbac>,
    shadow_rules: Option<pb::rbac::Rbac>,
    is_custom: bool,
) -> Result<RbacFilter> {
    let rules = rules.map(|rules| rules_from_xds(rules, is_custom)).transpose().within("rules")?;
    let shadow = shadow_rules.map(|rules| rules_from_xds(rules, is_custom)).transpose().within("shadow_rules")?;
    let shadow = shadow.map(|(action, policies)| Shadow { action, policies });
    let enforced = rules.is_some();
    let (action, policies) = rules.unwrap_or_else(|| {
        let action = shadow.as_ref().map_or(RbacAction::Allow, |shadow| shadow.action);
        (action, Vec::new())
    });
    Ok(RbacFilter { action, policies, shadow, enforced })
}

fn shadow_to_xds(shadow: &Shadow) -> pb::rbac::Rbac {
    let Shadow { action, policies } = shadow;
    rules_to_xds(*action, policies)
}

fn rules_to_xds(action: RbacAction, policies: &[RbacPolicy]) -> pb::rbac::Rbac {
    let action = match action {
        RbacAction::Allow => Action::Allow,
        RbacAction::Deny | RbacAction::Custom => Action::Deny,
        RbacAction::Log => Action::Log,
    };
    let mut by_name = std::collections::HashMap::new();
    for policy in policies {
        let RbacPolicy { name, permissions, principals } = policy;
        let policy = pb::rbac::Policy {
            permissions: permissions.iter().map(permission_to_xds).collect(),
            principals: principals.iter().map(principal_to_xds).collect(),
            ..Default::default()
        };
        // Of two policies of one name, none may be lost.
        let mut name = name.clone();
        while by_name.contains_key(&name) {
            name.push('\'');
        }
        by_name.insert(name, policy);
    }
    pb::rbac::Rbac { action: action.into(), policies: by_name, audit_logging_options: None }
}

fn rules_from_xds(rules: pb::rbac::Rbac, is_custom: bool) -> Result<(RbacAction, Vec<RbacPolicy>)> {
    // What is logged besides changes nothing.
    let pb::rbac::Rbac { action, policies, audit_logging_options: _ } = rules;
    let action = match Action::try_from(action) {
        Ok(Action::Allow) => RbacAction::Allow,
        Ok(Action::Deny) if is_custom => RbacAction::Custom,
        Ok(Action::Deny) => RbacAction::Deny,
        Ok(Action::Log) => RbacAction::Log,
        Err(_) => return Err(Problem::new("action", format!("Leno does not know action {action}"))),
    };
    let mut policies: Vec<_> = policies.into_iter().collect();
    policies.sort_by(|(left, _), (right, _)| left.cmp(right));
    let read = |(name, policy): (String, pb::rbac::Policy)| {
        let field = format!("policies[{name}]");
        policy_from_xds(name, policy).within(&field)
    };
    Ok((action, policies.into_iter().map(read).collect::<Result<_>>()?))
}

fn policy_from_xds(name: String, policy: pb::rbac::Policy) -> Result<RbacPolicy> {
    let pb::rbac::Policy { permissions, principals, condition, checked_condition, cel_config } = policy;
    unsupported(&[("condition", &condition), ("checked_condition", &checked_condition), ("cel_config", &cel_config)])?;
    Ok(RbacPolicy {
        name,
        permissions: each("permissions", permissions, permission_from_xds)?,
        principals: each("principals", principals, principal_from_xds)?,
    })
}
