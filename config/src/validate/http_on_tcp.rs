//! Conditions on requests at ports that carry bytes: they mean something else there.
//!
//! The ports of a workload are those of its Sidecar's `ingress`. Where a policy may be for such a workload, its rules
//! with conditions on requests are told what becomes of them: an ALLOW rule matches nothing, in every other rule the
//! condition counts as fulfilled (Istio).

use std::collections::BTreeMap;

use super::findings::{Findings, spec};
use super::index::{Index, TcpPort};
use crate::diagnostic::codes;
use crate::rules::{
    Attribute, AuthorizationAction, AuthorizationOperation, AuthorizationPolicy, AuthorizationRule, Document, Path,
};

pub(super) fn check(document: &Document, policy: &AuthorizationPolicy, index: &Index<'_>, found: &mut Findings) {
    if policy.has_targets() {
        return;
    }
    let none = BTreeMap::new();
    let selector = policy.selector.as_ref().map_or(&none, |selector| &selector.match_labels);
    let namespace = Some(document.id.namespace.as_str()).filter(|own| *own != index.root_namespace());
    let ports: Vec<&TcpPort<'_>> =
        index.tcp_ports(namespace).filter(|port| may_be_one(selector, port.selector)).collect();
    let action = policy.action.unwrap_or_default();
    for (at, rule) in policy.rules.iter().enumerate() {
        let path = spec().key("rules").index(at);
        let Some(condition) = first_condition(rule, &path) else { continue };
        let Some(port) = ports.iter().find(|port| reaches(rule, port.number)) else { continue };
        let what = match action {
            AuthorizationAction::Allow => "the rule matches nothing there",
            AuthorizationAction::Deny => "there it counts as fulfilled, so the rule denies more than it says",
            AuthorizationAction::Custom => "there it counts as fulfilled, so the rule refuses more than it says",
            AuthorizationAction::Audit => "there it counts as fulfilled, so the rule logs more than it says",
        };
        let message = format!(
            "port {} of {} at {} carries bytes, and this is a condition on requests: {what}",
            port.number, port.document.id, port.document.place
        );
        found
            .add(codes::HTTP_ON_TCP, &condition, message)
            .on_key()
            .help("name the ports that the rule is for, by `ports` in every `to`");
    }
}

/// Whether some workload may have both.
fn may_be_one(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> bool {
    one.iter().all(|(key, value)| other.get(key).is_none_or(|otherwise| otherwise == value))
}

/// Whether a port is among those that a rule with such a condition is for.
fn reaches(rule: &AuthorizationRule, port: u32) -> bool {
    let is_port = |written: &String| written.parse() == Ok(port);
    let mut operations = rule.to.iter().flatten().filter_map(|to| to.operation.as_ref()).peekable();
    operations.peek().is_none()
        || operations.any(|operation: &AuthorizationOperation| {
            (http_field(operation).is_some() || !condition_is_in_operation(rule))
                && (operation.ports.is_empty() || operation.ports.iter().any(is_port))
                && !operation.not_ports.iter().any(is_port)
        })
}

/// Whether all conditions on requests stand in `to`.
fn condition_is_in_operation(rule: &AuthorizationRule) -> bool {
    source_field(rule).is_none() && when_index(rule).is_none()
}

fn first_condition(rule: &AuthorizationRule, path: &Path) -> Option<Path> {
    if let Some((index, field)) = source_field(rule) {
        return Some(path.key("from").index(index).key("source").key(field));
    }
    let in_operation = rule.to.iter().flatten().enumerate().find_map(|(index, to)| {
        let field = http_field(to.operation.as_ref()?)?;
        Some(path.key("to").index(index).key("operation").key(field))
    });
    in_operation.or_else(|| Some(path.key("when").index(when_index(rule)?).key("key")))
}

fn source_field(rule: &AuthorizationRule) -> Option<(usize, &'static str)> {
    rule.from.iter().flatten().enumerate().find_map(|(index, from)| {
        let source = from.source.as_ref()?;
        let fields = [
            ("requestPrincipals", &source.request_principals),
            ("notRequestPrincipals", &source.not_request_principals),
        ];
        fields.into_iter().find(|(_, list)| !list.is_empty()).map(|(field, _)| (index, field))
    })
}

fn http_field(operation: &AuthorizationOperation) -> Option<&'static str> {
    let fields = [
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
        ("methods", &operation.methods),
        ("notMethods", &operation.not_methods),
        ("paths", &operation.paths),
        ("notPaths", &operation.not_paths),
    ];
    fields.into_iter().find(|(_, list)| !list.is_empty()).map(|(field, _)| field)
}

fn when_index(rule: &AuthorizationRule) -> Option<usize> {
    rule.when.iter().position(|condition| Attribute::parse(&condition.key).is_ok_and(|key| key.is_http()))
}
