//! Poisoned configurations, more than two hundred as rules and a hundred as xDS: none is applied, not even in part, each is
//! named with its resource and field, and traffic does not notice.

mod rules;
mod xds;

use std::time::{Duration, Instant};

use leno_tests::{PATIENCE, Proxy};
use serde_json::Value;

/// Poisoned rules, at least.
const RULES: usize = 200;
/// Poisoned resources, at least.
const RESOURCES: usize = 100;

/// What proxies hold, by version: any change of anything in force would show.
async fn in_force(proxies: &[&Proxy]) -> Vec<Value> {
    let mut all = Vec::new();
    for proxy in proxies {
        let dump = proxy.config_dump().await;
        let kinds = ["listeners", "routes", "clusters", "endpoints", "secrets"];
        all.push(serde_json::to_value(kinds.map(|kind| dump.versions(kind))).unwrap());
    }
    all
}

/// Looks until there is nothing to complain of, as long as a busy machine may take; what there is at last.
async fn complaint(mut look: impl AsyncFnMut() -> Result<(), String>) -> Option<String> {
    let began = Instant::now();
    loop {
        match look().await {
            Ok(()) => return None,
            Err(why) if began.elapsed() > PATIENCE => return Some(why),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
