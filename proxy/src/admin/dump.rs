//! What is in force, for people and for scripts.

use std::fmt::Write;

use serde::Serialize;
use serde_json::{Value, json};

use crate::state::enforced;

use super::Shared;

/// `/config_dump`: every resource with its version, exactly as the workers run on it.
pub(super) fn config(shared: &Shared) -> Value {
    let effective = shared.effective();
    let resources = &effective.resources;
    let versions = effective.versions();
    json!({
        "node": shared.node,
        "source": shared.source(),
        "listeners": listed(resources.listeners.iter().map(|(name, one)| (name.as_str(), &**one)), &versions.listeners),
        "routes": listed(resources.routes.iter().map(|(name, one)| (name.as_str(), &**one)), &versions.routes),
        "clusters": listed(resources.clusters.iter().map(|(name, one)| (name.as_str(), &**one)), &versions.clusters),
        "endpoints": listed(
            resources.endpoints.iter().map(|(name, one)| (name.as_str(), &**one)),
            &versions.endpoints,
        ),
        "secrets": listed(resources.secrets.iter().map(|(name, one)| (name.as_str(), &**one)), &versions.secrets),
        "not_enforced": enforced::not_enforced(resources),
        "unbound_listeners": shared.unbound(),
    })
}

fn listed<'a, T: Serialize + 'a>(
    resources: impl Iterator<Item = (&'a str, &'a T)>,
    versions: &std::collections::BTreeMap<String, String>,
) -> Value {
    let rows =
        resources.map(|(name, resource)| json!({ "name": name, "version": versions.get(name), "resource": resource }));
    Value::Array(rows.collect())
}

/// `/listeners`: name and address.
pub(super) fn listeners(shared: &Shared) -> String {
    let mut out = String::new();
    for (name, listener) in &shared.snapshot().listeners {
        let _ = writeln!(out, "{name}::{}", listener.config.address);
    }
    out
}

/// `/server_info`.
pub(super) fn server_info(shared: &Shared) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": shared.why_not_ready().unwrap_or_else(|| "LIVE".to_owned()),
        "node": shared.node.id(),
    })
}
