//! Policies of a TCP listener: what can be said of a connection.
//!
//! A condition on a request never holds there, and a real Envoy refuses a filter that has one on a header. It is written
//! as what it is: never.

use crate::ir::{Permission, Principal, RbacPolicy};

/// The policy without conditions on requests.
pub(super) fn policy(policy: &RbacPolicy) -> RbacPolicy {
    let RbacPolicy { name, permissions, principals } = policy;
    RbacPolicy {
        name: name.clone(),
        permissions: permissions.iter().map(permission).collect(),
        principals: principals.iter().map(principal).collect(),
    }
}

fn permission(condition: &Permission) -> Permission {
    match condition {
        Permission::Header(_) | Permission::Path(_) | Permission::PathTemplate(_) => {
            Permission::Not(Box::new(Permission::Any))
        }
        Permission::And(conditions) => Permission::And(conditions.iter().map(permission).collect()),
        Permission::Or(conditions) => Permission::Or(conditions.iter().map(permission).collect()),
        Permission::Not(condition) => Permission::Not(Box::new(permission(condition))),
        Permission::Any
        | Permission::DestinationPort(_)
        | Permission::DestinationPorts { .. }
        | Permission::DestinationIp(_)
        | Permission::ServerName(_)
        | Permission::Claim(_) => condition.clone(),
    }
}

fn principal(condition: &Principal) -> Principal {
    match condition {
        Principal::Header(_) | Principal::Path(_) => Principal::Not(Box::new(Principal::Any)),
        Principal::And(conditions) => Principal::And(conditions.iter().map(principal).collect()),
        Principal::Or(conditions) => Principal::Or(conditions.iter().map(principal).collect()),
        Principal::Not(condition) => Principal::Not(Box::new(principal(condition))),
        Principal::Any
        | Principal::Authenticated(_)
        | Principal::DirectIp(_)
        | Principal::RemoteIp(_)
        | Principal::Claim(_) => condition.clone(),
    }
}
