//! AuthorizationPolicies as the filters that istiod makes of them for Envoy.
//!
//! One filter per action, in the order in which they are passed: CUSTOM, DENY, ALLOW, AUDIT. One policy of a filter per
//! rule, with conditions on what is done apart from those on who does it; the conditions themselves stand in
//! [`super::authorization_values`].
//!
//! **A condition that cannot be made** is one on a request where the port carries bytes, or one that validation refuses
//! and that came here all the same. It makes an ALLOW rule match nothing; in all other rules it counts as fulfilled. So
//! less passes than is written, never more (Istio's rule for HTTP fields on TCP).

use crate::ir::{Authorization, Permission, Principal, RbacAction, RbacFilter, RbacPolicy, Shadow};
use crate::mesh::{Mesh, Scoped};
use crate::node::Node;
use crate::rules::{
    Attribute, AuthorizationAction, AuthorizationCondition, AuthorizationOperation, AuthorizationPolicy,
    AuthorizationRule, AuthorizationSource,
};

use super::authorization_values::{self as values, Unusable};

/// What a port carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// Requests.
    Http,
    /// Bytes.
    Tcp,
}

/// The filters of a workload's port.
pub(super) fn authorization(mesh: &Mesh, node: &Node, traffic: Traffic) -> Authorization {
    let policies: Vec<_> = mesh.policies(node).collect();
    let tokens = mesh.tokens(node).flat_map(|rule| &rule.spec.jwt_rules);
    let spaced: Vec<&str> = tokens.flat_map(|rule| &rule.space_delimited_claims).map(String::as_str).collect();
    // As istiod: what is audited is audited even if it is then denied.
    let order = [
        AuthorizationAction::Audit,
        AuthorizationAction::Custom,
        AuthorizationAction::Deny,
        AuthorizationAction::Allow,
    ];
    let filter = |action| {
        let of_action = |policy: &&&Scoped<AuthorizationPolicy>| policy.spec.action.unwrap_or_default() == action;
        let (tried, enforced): (Vec<_>, Vec<_>) = policies.iter().filter(of_action).partition(|policy| policy.dry_run);
        let compiler = Compiler { mesh, traffic, action: rbac(action), spaced: &spaced };
        compiler.filter(&enforced, &tried)
    };
    Authorization(order.into_iter().filter_map(filter).collect())
}

fn rbac(action: AuthorizationAction) -> RbacAction {
    match action {
        AuthorizationAction::Allow => RbacAction::Allow,
        AuthorizationAction::Deny => RbacAction::Deny,
        AuthorizationAction::Audit => RbacAction::Log,
        AuthorizationAction::Custom => RbacAction::Custom,
    }
}

/// Makes the policies of one filter.
struct Compiler<'a> {
    mesh: &'a Mesh,
    traffic: Traffic,
    action: RbacAction,
    /// Claims that are lists of words, besides those that always are; with dots into nested ones.
    spaced: &'a [&'a str],
}

type Policies<'p> = [&'p &'p Scoped<AuthorizationPolicy>];

impl Compiler<'_> {
    fn filter(&self, enforced: &Policies<'_>, tried: &Policies<'_>) -> Option<RbacFilter> {
        if enforced.is_empty() && tried.is_empty() {
            return None;
        }
        let shadow = (!tried.is_empty()).then(|| Shadow { action: self.action, policies: self.policies(tried) });
        let (policies, is_enforced) = (self.policies(enforced), !enforced.is_empty());
        Some(RbacFilter { action: self.action, policies, shadow, enforced: is_enforced })
    }

    fn policies(&self, written: &Policies<'_>) -> Vec<RbacPolicy> {
        let mut policies: Vec<RbacPolicy> = written.iter().flat_map(|policy| self.rules(policy)).collect();
        policies.sort_by(|one, other| one.name.cmp(&other.name));
        policies
    }

    fn rules(&self, policy: &Scoped<AuthorizationPolicy>) -> Vec<RbacPolicy> {
        let name = |index: usize| format!("ns[{}]-policy[{}]-rule[{index}]", policy.id.namespace, policy.id.name);
        if policy.spec.rules.is_empty() {
            return vec![RbacPolicy { name: name(0), ..never() }];
        }
        let rules = policy.spec.rules.iter().enumerate();
        let made = rules.filter_map(|(index, rule)| {
            let (permissions, principals) = self.rule(rule, &policy.id.namespace).ok()?;
            Some(RbacPolicy { name: name(index), permissions, principals })
        });
        made.collect()
    }

    fn rule(&self, rule: &AuthorizationRule, namespace: &str) -> Result<(Vec<Permission>, Vec<Principal>), Unusable> {
        let mut permissions = Vec::new();
        for to in non_empty(rule.to.as_deref()) {
            let mut all = Conditions::new(self);
            if let Some(operation) = to.and_then(|to| to.operation.as_ref()) {
                self.operation(operation, &mut all)?;
            }
            for condition in &rule.when {
                self.permission(condition, &mut all)?;
            }
            permissions.push(all.all());
        }
        let mut principals = Vec::new();
        for from in non_empty(rule.from.as_deref()) {
            let mut all = Conditions::new(self);
            if let Some(source) = from.and_then(|from| from.source.as_ref()) {
                self.source(source, namespace, &mut all)?;
            }
            for condition in &rule.when {
                self.principal(condition, namespace, &mut all)?;
            }
            principals.push(all.all());
        }
        Ok((permissions, principals))
    }

    fn operation(&self, operation: &AuthorizationOperation, all: &mut Conditions<Permission>) -> Result<(), Unusable> {
        let AuthorizationOperation { hosts, not_hosts, ports, not_ports, methods, not_methods, paths, not_paths } =
            operation;
        all.add(hosts, not_hosts, |value| self.http(values::host(value)))?;
        all.add(methods, not_methods, |value| self.http(values::method(value)))?;
        all.add(paths, not_paths, |value| self.http(values::path(value)))?;
        all.add(ports, not_ports, values::port)
    }

    fn source(
        &self,
        source: &AuthorizationSource,
        namespace: &str,
        all: &mut Conditions<Principal>,
    ) -> Result<(), Unusable> {
        let expand = |written: &[String]| values::with_aliases(written, &self.mesh.trust_domains());
        all.add(&expand(&source.principals), &expand(&source.not_principals), values::principal)?;
        all.add_claims(&source.request_principals, &source.not_request_principals, |value| {
            self.http(values::request_principal(value))
        })?;
        all.add(&source.service_accounts, &source.not_service_accounts, |value| {
            values::service_account(value, namespace)
        })?;
        let domains = |written: &[String]| values::with_other_domains(written, &self.mesh.trust_domains());
        all.add(&domains(&source.trust_domains), &domains(&source.not_trust_domains), values::trust_domain)?;
        all.add(&source.namespaces, &source.not_namespaces, values::namespace)?;
        all.add(&source.remote_ip_blocks, &source.not_remote_ip_blocks, |value| {
            values::network(value).map(Principal::RemoteIp)
        })?;
        all.add(&source.ip_blocks, &source.not_ip_blocks, |value| values::network(value).map(Principal::DirectIp))
    }

    /// A condition of `when`, where it is on what is done.
    fn permission(&self, condition: &AuthorizationCondition, all: &mut Conditions<Permission>) -> Result<(), Unusable> {
        let AuthorizationCondition { key, values, not_values } = condition;
        match Attribute::parse(key) {
            Ok(Attribute::DestinationIp) => {
                all.add(values, not_values, |value| values::network(value).map(Permission::DestinationIp))
            }
            Ok(Attribute::DestinationPort) => all.add(values, not_values, values::port),
            Ok(Attribute::ServerName) => {
                all.add(values, not_values, |value| values::text(value).map(Permission::ServerName))
            }
            Ok(
                Attribute::RequestHeader(_)
                | Attribute::SourceIp
                | Attribute::RemoteIp
                | Attribute::SourceNamespace
                | Attribute::SourceServiceAccount
                | Attribute::SourcePrincipal
                | Attribute::RequestPrincipal
                | Attribute::Claim(_),
            ) => Ok(()),
            Err(_) => all.unusable(),
        }
    }

    /// A condition of `when`, where it is on who does it.
    fn principal(
        &self,
        condition: &AuthorizationCondition,
        namespace: &str,
        all: &mut Conditions<Principal>,
    ) -> Result<(), Unusable> {
        let AuthorizationCondition { key, values, not_values } = condition;
        match Attribute::parse(key) {
            Ok(Attribute::SourceIp) => {
                all.add(values, not_values, |value| values::network(value).map(Principal::DirectIp))
            }
            Ok(Attribute::RemoteIp) => {
                all.add(values, not_values, |value| values::network(value).map(Principal::RemoteIp))
            }
            Ok(Attribute::SourceNamespace) => all.add(values, not_values, values::namespace),
            Ok(Attribute::SourceServiceAccount) => {
                all.add(values, not_values, |value| values::service_account(value, namespace))
            }
            Ok(Attribute::SourcePrincipal) => {
                let expand = |written: &[String]| values::with_aliases(written, &self.mesh.trust_domains());
                all.add(&expand(values), &expand(not_values), values::principal)
            }
            Ok(Attribute::RequestPrincipal) => {
                all.add_claims(values, not_values, |value| self.http(values::request_principal(value)))
            }
            Ok(Attribute::Claim(path)) => {
                let claim = if self.spaced.contains(&path.join(".").as_str()) { values::words } else { values::claim };
                all.add_claims(values, not_values, |value| self.http(claim(&path, value)))
            }
            Ok(Attribute::RequestHeader(header)) => {
                all.add(values, not_values, |value| self.http(values::header(&header, value)))
            }
            Ok(Attribute::DestinationIp | Attribute::DestinationPort | Attribute::ServerName) => Ok(()),
            Err(_) => all.unusable(),
        }
    }

    /// A condition that only requests can fulfil.
    fn http<T>(&self, condition: Result<T, Unusable>) -> Result<T, Unusable> {
        match self.traffic {
            Traffic::Http => condition,
            Traffic::Tcp => Err(Unusable),
        }
    }
}

/// The entries of a list, or one that says nothing.
fn non_empty<T>(list: Option<&[T]>) -> Vec<Option<&T>> {
    match list.unwrap_or_default() {
        [] => vec![None],
        entries => entries.iter().map(Some).collect(),
    }
}

/// Matches nothing (istiod's form for a policy without rules).
fn never() -> RbacPolicy {
    RbacPolicy {
        name: String::new(),
        permissions: vec![Permission::Not(Box::new(Permission::Any))],
        principals: vec![Principal::Not(Box::new(Principal::Any))],
    }
}

/// Conditions that all have to hold.
struct Conditions<T> {
    all: Vec<T>,
    /// Whether one that cannot be made may count as fulfilled.
    lenient: bool,
}

impl<T: Tree> Conditions<T> {
    fn new(compiler: &Compiler<'_>) -> Self {
        let lenient = match compiler.action {
            RbacAction::Allow => false,
            RbacAction::Deny | RbacAction::Log | RbacAction::Custom => true,
        };
        Self { all: Vec::new(), lenient }
    }

    /// One of `values`, and none of `others`.
    fn add(
        &mut self,
        values: &[String],
        others: &[String],
        make: impl Fn(&str) -> Result<T, Unusable>,
    ) -> Result<(), Unusable> {
        self.add_with(values, others, make, T::or)
    }

    /// The same for conditions on claims, which istiod does not wrap where there is only one.
    fn add_claims(
        &mut self,
        values: &[String],
        others: &[String],
        make: impl Fn(&str) -> Result<T, Unusable>,
    ) -> Result<(), Unusable> {
        self.add_with(values, others, make, |mut made| match made.len() {
            1 => made.remove(0),
            _ => T::or(made),
        })
    }

    fn add_with(
        &mut self,
        values: &[String],
        others: &[String],
        make: impl Fn(&str) -> Result<T, Unusable>,
        or: impl Fn(Vec<T>) -> T,
    ) -> Result<(), Unusable> {
        for (list, wanted) in [(values, true), (others, false)] {
            if list.is_empty() {
                continue;
            }
            // One that cannot be made is enough: the rest would be narrower than what was written.
            match list.iter().map(|value| make(value)).collect::<Result<Vec<T>, _>>() {
                Ok(made) if wanted => self.all.push(or(made)),
                Ok(made) => self.all.push(T::not(or(made))),
                Err(Unusable) => self.unusable()?,
            }
        }
        Ok(())
    }

    fn unusable(&self) -> Result<(), Unusable> {
        if self.lenient { Ok(()) } else { Err(Unusable) }
    }

    fn all(self) -> T {
        match self.all.is_empty() {
            true => T::and(vec![T::any()]),
            false => T::and(self.all),
        }
    }
}

/// Both kinds of conditions are built alike.
trait Tree {
    fn any() -> Self;
    fn and(all: Vec<Self>) -> Self
    where
        Self: Sized;
    fn or(one: Vec<Self>) -> Self
    where
        Self: Sized;
    fn not(this: Self) -> Self;
}

macro_rules! tree {
    ($type:ident) => {
        impl Tree for $type {
            fn any() -> Self {
                Self::Any
            }

            fn and(all: Vec<Self>) -> Self {
                Self::And(all)
            }

            fn or(one: Vec<Self>) -> Self {
                Self::Or(one)
            }

            fn not(this: Self) -> Self {
                Self::Not(Box::new(this))
            }
        }
    };
}

tree!(Permission);
tree!(Principal);
