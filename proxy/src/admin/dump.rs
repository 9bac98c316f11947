//! What is in force, for people and for scripts.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use serde::Serialize;
use serde_json::{Value, json};

use crate::cluster::Members;
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

/// `/clusters`: one line per fact, as Envoy writes it.
pub(super) fn clusters(shared: &Shared) -> String {
    let mut out = String::new();
    for cluster in &shared.snapshot().clusters {
        let name = &cluster.config.name;
        let stats = &cluster.stats;
        for (fact, count) in [
            ("rq_total", &stats.requests),
            ("cx_total", &stats.connections),
            ("cx_tls", &stats.encrypted),
            ("cx_connect_fail", &stats.connect_failures),
            ("rq_unsent_retry", &stats.unsent_retries),
            ("rq_retry_overflow", &stats.retry_overflows),
        ] {
            let _ = writeln!(out, "{name}::{fact}::{}", count.load(Ordering::Relaxed));
        }
        for (fact, count) in stats.retries.facts() {
            let _ = writeln!(out, "{name}::{fact}::{count}");
        }
        for (reason, count) in stats.retries.reasons() {
            let _ = writeln!(out, "{name}::rq_retry::{reason}::{count}");
        }
        match &cluster.members {
            Members::Balanced(balancer) => {
                for member in balancer.members() {
                    let state = &member.state;
                    let address = state.address;
                    let _ = writeln!(out, "{name}::{address}::health_flags::healthy");
                    let _ = writeln!(out, "{name}::{address}::weight::{}", member.weight);
                    let _ = writeln!(out, "{name}::{address}::rq_active::{}", state.active());
                    let _ = writeln!(out, "{name}::{address}::rq_total::{}", state.requests.load(Ordering::Relaxed));
                }
            }
            Members::RequestHost => {
                let _ = writeln!(out, "{name}::endpoints::by the host of each request");
            }
            Members::OriginalDestination => {
                let _ = writeln!(out, "{name}::endpoints::by the original destination");
            }
        }
    }
    out
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
