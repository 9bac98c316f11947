//! `AuthorizationPolicy` by itself.
//!
//! Stricter than Istio where a slip of the pen would open or shut more than is meant: a `*` in the middle of a value, a
//! `spiffe://` before a principal.

use super::authorization_values as values;
use super::findings::{Findings, spec};
use super::security::check_scope;
use crate::diagnostic::codes;
use crate::mesh::parse_dry_run;
use crate::rules::{
    Attribute, AuthorizationAction, AuthorizationCondition, AuthorizationOperation, AuthorizationPolicy,
    AuthorizationRule, AuthorizationSource, DRY_RUN_ANNOTATION, Metadata, Path, Resource, closest,
};

pub(super) fn check(rule: &Resource<AuthorizationPolicy>, found: &mut Findings) {
    let policy = &rule.spec;
    let spec = spec();
    check_scope(policy.selector.as_ref(), policy.target_ref.as_ref(), &policy.target_refs, &spec, found);
    check_dry_run(&rule.metadata, found);
    check_action(policy, &spec, found);
    let action = policy.action.unwrap_or_default();
    for (index, rule) in policy.rules.iter().enumerate() {
        Rule { action, path: spec.key("rules").index(index), found }.check(rule);
    }
}

fn check_dry_run(metadata: &Metadata, found: &mut Findings) {
    let Some(text) = metadata.annotations.get(DRY_RUN_ANNOTATION) else { return };
    if parse_dry_run(text).is_none() {
        let path = Path::root().key("metadata").key("annotations").key(DRY_RUN_ANNOTATION);
        let message = format!("`{text}` is neither `true` nor `false`, so the policy is enforced");
        found.add(codes::NO_EFFECT, &path, message).help("write \"true\" to try it, or remove the annotation");
    }
}

fn check_action(policy: &AuthorizationPolicy, spec: &Path, found: &mut Findings) {
    let action = policy.action.unwrap_or_default();
    let path = spec.key("action");
    let is_empty = policy.rules.is_empty();
    match action {
        // Without rules nothing passes: that is how everything is shut.
        AuthorizationAction::Allow => {}
        AuthorizationAction::Deny | AuthorizationAction::Custom if is_empty => {
            let message = format!("`{}` without rules matches nothing", action.as_str());
            found.add(codes::POLICY, &path, message).help("for every request, write `rules: [{}]`");
        }
        AuthorizationAction::Audit if is_empty => {
            found.add(codes::NO_EFFECT, &path, "`AUDIT` without rules logs nothing").help("write `rules: [{}]`");
        }
        AuthorizationAction::Deny | AuthorizationAction::Audit => {}
        AuthorizationAction::Custom => {
            let has_provider = policy.provider.as_ref().is_some_and(|provider| !provider.name.is_empty());
            if !has_provider {
                found.add(codes::REQUIRED, spec, "`CUSTOM` needs `provider.name`");
            }
            let message = "this version asks no service outside: what the rules match is refused with 403";
            found.add(codes::ALWAYS_REFUSED, &path, message).help("use `ALLOW` and `DENY`");
        }
    }
    if policy.provider.is_some() && action != AuthorizationAction::Custom {
        let message = format!("`provider` has no place with `{}`", action.as_str());
        found.add(codes::EXCLUSIVE, &spec.key("provider"), message).on_key().help("remove it");
    }
}

/// One rule of a policy.
struct Rule<'f> {
    action: AuthorizationAction,
    path: Path,
    found: &'f mut Findings,
}

impl Rule<'_> {
    fn check(&mut self, rule: &AuthorizationRule) {
        if rule.from.as_ref().is_some_and(Vec::is_empty) {
            self.empty("from", "anybody");
        }
        for (index, from) in rule.from.iter().flatten().enumerate() {
            let path = self.path.key("from").index(index);
            match &from.source {
                None => {
                    self.found.add(codes::REQUIRED, &path, "it is not said from where").help("add `source`");
                }
                Some(source) => self.source(source, &path.key("source")),
            }
        }
        if rule.to.as_ref().is_some_and(Vec::is_empty) {
            self.empty("to", "anything");
        }
        for (index, to) in rule.to.iter().flatten().enumerate() {
            let path = self.path.key("to").index(index);
            match &to.operation {
                None => {
                    self.found.add(codes::REQUIRED, &path, "it is not said what").help("add `operation`");
                }
                Some(operation) => self.operation(operation, &path.key("operation")),
            }
        }
        for (index, condition) in rule.when.iter().enumerate() {
            self.condition(condition, &self.path.key("when").index(index));
        }
    }

    /// A list without entries: nobody, or everybody? Istio refuses it too.
    fn empty(&mut self, field: &str, meant: &str) {
        let message = format!("`{field}` is an empty list");
        let help = format!("leave it out for {meant}");
        self.found.add(codes::POLICY, &self.path.key(field), message).on_key().help(help);
    }

    fn source(&mut self, source: &AuthorizationSource, path: &Path) {
        if *source == AuthorizationSource::default() {
            let help = "leave `from` out for anybody";
            self.found.add(codes::POLICY, path, "the source is empty").on_key().help(help);
        }
        let identities = [
            ("principals", &source.principals, "notPrincipals", &source.not_principals),
            ("namespaces", &source.namespaces, "notNamespaces", &source.not_namespaces),
            ("serviceAccounts", &source.service_accounts, "notServiceAccounts", &source.not_service_accounts),
            ("trustDomains", &source.trust_domains, "notTrustDomains", &source.not_trust_domains),
            ("requestPrincipals", &source.request_principals, "notRequestPrincipals", &source.not_request_principals),
        ];
        for (field, list, not_field, not_list) in identities {
            for (field, list) in [(field, list), (not_field, not_list)] {
                self.unless_custom(field, !list.is_empty(), &path.key(field));
            }
        }
        let has_accounts = !source.service_accounts.is_empty() || !source.not_service_accounts.is_empty();
        let others = identities.iter().take(2).any(|(_, list, _, not_list)| !list.is_empty() || !not_list.is_empty());
        if has_accounts && others {
            let message = "service accounts stand beside principals or namespaces";
            let field = if source.service_accounts.is_empty() { "notServiceAccounts" } else { "serviceAccounts" };
            self.found.add(codes::EXCLUSIVE, &path.key(field), message).on_key().help("use one of them");
        }
        self.list("principals", &source.principals, &source.not_principals, path, values::principal);
        self.list("namespaces", &source.namespaces, &source.not_namespaces, path, values::pattern);
        self.list(
            "requestPrincipals",
            &source.request_principals,
            &source.not_request_principals,
            path,
            values::pattern,
        );
        self.list("trustDomains", &source.trust_domains, &source.not_trust_domains, path, values::pattern);
        self.list(
            "serviceAccounts",
            &source.service_accounts,
            &source.not_service_accounts,
            path,
            values::service_account,
        );
        for (field, blocks) in [
            ("ipBlocks", &source.ip_blocks),
            ("notIpBlocks", &source.not_ip_blocks),
            ("remoteIpBlocks", &source.remote_ip_blocks),
            ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
        ] {
            self.found.subnets(&path.key(field), blocks);
        }
    }

    fn operation(&mut self, operation: &AuthorizationOperation, path: &Path) {
        if *operation == AuthorizationOperation::default() {
            let help = "leave `to` out for anything";
            self.found.add(codes::POLICY, path, "the operation is empty").on_key().help(help);
        }
        let AuthorizationOperation { hosts, not_hosts, ports, not_ports, methods, not_methods, paths, not_paths } =
            operation;
        self.list("hosts", hosts, not_hosts, path, values::host);
        self.list("ports", ports, not_ports, path, values::port);
        self.list("methods", methods, not_methods, path, values::method);
        self.list("paths", paths, not_paths, path, values::path);
        // What refuses must not be got around by a port behind the host.
        match self.action {
            AuthorizationAction::Deny | AuthorizationAction::Custom => {
                values::port_gets_past(hosts, &path.key("hosts"), self.found);
            }
            AuthorizationAction::Allow => values::port_gets_past(not_hosts, &path.key("notHosts"), self.found),
            AuthorizationAction::Audit => {}
        }
    }

    /// Both forms of a field.
    fn list(
        &mut self,
        field: &str,
        wanted: &[String],
        unwanted: &[String],
        path: &Path,
        check: fn(&str, &Path, &mut Findings),
    ) {
        let not_field: String = match field.split_at_checked(1) {
            Some((first, rest)) => format!("not{}{rest}", first.to_ascii_uppercase()),
            None => String::new(),
        };
        for (field, values) in [(field, wanted), (not_field.as_str(), unwanted)] {
            for (index, value) in values.iter().enumerate() {
                check(value, &path.key(field).index(index), self.found);
            }
        }
    }

    fn condition(&mut self, condition: &AuthorizationCondition, path: &Path) {
        let AuthorizationCondition { key, values, not_values } = condition;
        if key.is_empty() {
            self.found.add(codes::REQUIRED, path, "it is not said on what the condition is").help("add `key`");
            return;
        }
        if values.is_empty() && not_values.is_empty() {
            let message = format!("the condition on `{key}` has no values");
            self.found.add(codes::REQUIRED, path, message).help("add `values` or `notValues`");
        }
        let attribute = match Attribute::parse(key) {
            Ok(attribute) => attribute,
            Err(invalid) => {
                let help = match closest(key, Attribute::KEYS) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("keys are {}", crate::rules::listed(Attribute::KEYS)),
                };
                self.found.add(codes::POLICY, &path.key("key"), invalid.to_string()).help(help);
                return;
            }
        };
        let about_caller = matches!(
            attribute,
            Attribute::SourceNamespace
                | Attribute::SourceServiceAccount
                | Attribute::SourcePrincipal
                | Attribute::RequestPrincipal
                | Attribute::Claim(_)
        );
        self.unless_custom(key, about_caller, &path.key("key"));
        for (field, list) in [("values", values), ("notValues", not_values)] {
            self.values(&attribute, list, &path.key(field));
        }
    }

    fn values(&mut self, attribute: &Attribute, list: &[String], path: &Path) {
        let check = match attribute {
            Attribute::DestinationPort => values::port,
            Attribute::SourcePrincipal => values::principal,
            Attribute::SourceServiceAccount => values::service_account,
            Attribute::RequestHeader(_)
            | Attribute::SourceNamespace
            | Attribute::RequestPrincipal
            | Attribute::Claim(_)
            | Attribute::ServerName => values::pattern,
            Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => {
                self.found.subnets(path, list);
                return;
            }
        };
        for (index, value) in list.iter().enumerate() {
            check(value, &path.index(index), self.found);
        }
    }

    /// What Istio cannot ask of a caller before a service outside has answered.
    fn unless_custom(&mut self, what: &str, is_set: bool, path: &Path) {
        if is_set && self.action == AuthorizationAction::Custom {
            let message = format!("`{what}` cannot be used with `CUSTOM`");
            self.found.add(codes::POLICY, path, message).help("write an `ALLOW` or `DENY` policy beside it");
        }
    }
}
