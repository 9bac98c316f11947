//! `leno status --proxy`: how circuit breakers, health checks and limits stand in one proxy, by its own words.
//!
//! The control plane does not know: proxies do not report what they learn about endpoints, and two of them may well
//! differ. So the proxy itself is asked, at its admin address.

use std::fmt::Write as _;

use leno_proxy::admin::clusters::{ClusterStatus, EndpointStatus, LimitStatus};

use super::status::{age, aligned};

/// Where a proxy says it.
pub(super) const PATH: &str = "/clusters?format=json";

/// One row per endpoint, then what is limited.
pub(super) fn table(clusters: &[ClusterStatus]) -> String {
    let mut rows = vec![
        ["CLUSTER", "ENDPOINT", "BREAKER", "HEALTH", "EJECTIONS", "ACTIVE", "REQUESTS", "ERRORS"].map(str::to_owned),
    ];
    for cluster in clusters {
        rows.extend(cluster.endpoints.iter().map(|endpoint| row(&cluster.name, endpoint)));
    }
    let mut text = match rows.len() {
        1 => "The proxy knows no endpoint.\n".to_owned(),
        _ => aligned(&rows),
    };
    for cluster in clusters {
        for (what, LimitStatus { limit, active, overflows }) in &cluster.limits {
            if let Some(limit) = limit {
                // Writing to a String does not fail.
                let _ = writeln!(text, "{}: {active} of {limit} {what}, {overflows} refused", cluster.name);
            }
        }
    }
    text
}

fn row(cluster: &str, endpoint: &EndpointStatus) -> [String; 8] {
    let EndpointStatus { address, breaker, reason, open_for_ms, ejections, healthy, active, requests, errors, .. } =
        endpoint;
    let left = open_for_ms.map(|millis| format!(" for {}", age(std::time::Duration::from_millis(millis))));
    let reason = reason.as_ref().map(|reason| format!(" ({reason})"));
    let breaker = format!("{breaker}{}{}", left.unwrap_or_default(), reason.unwrap_or_default());
    let health = match healthy {
        None => "-",
        Some(true) => "healthy",
        Some(false) => "UNHEALTHY",
    };
    [
        cluster.to_owned(),
        address.to_string(),
        breaker,
        health.to_owned(),
        ejections.to_string(),
        active.to_string(),
        requests.to_string(),
        errors.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_table_shows_breakers_health_and_limits() {
        let endpoint = |port: u16, breaker: &str, reason: Option<&str>, healthy| EndpointStatus {
            address: ([10, 0, 0, 1], port).into(),
            weight: 1,
            breaker: breaker.to_owned(),
            reason: reason.map(str::to_owned),
            open_for_ms: reason.map(|_| 61_000),
            ejections: 2,
            healthy,
            active: 1,
            requests: 70,
            successes: 60,
            errors: 9,
        };
        let cluster = ClusterStatus {
            name: "outbound|80||app".to_owned(),
            counts: BTreeMap::new(),
            limits: BTreeMap::from([
                ("connections".to_owned(), LimitStatus { limit: None, active: 3, overflows: 0 }),
                ("requests".to_owned(), LimitStatus { limit: Some(5), active: 2, overflows: 7 }),
            ]),
            ejected: Some(1),
            endpoints: vec![
                endpoint(80, "open", Some("consecutive_5xx"), Some(true)),
                endpoint(81, "closed", None, Some(false)),
            ],
            found_by: None,
        };
        let expected = "\
CLUSTER            ENDPOINT      BREAKER                           HEALTH      EJECTIONS   ACTIVE   REQUESTS   ERRORS
outbound|80||app   10.0.0.1:80   open for 1m1s (consecutive_5xx)   healthy     2           1        70         9
outbound|80||app   10.0.0.1:81   closed                            UNHEALTHY   2           1        70         9
outbound|80||app: 2 of 5 requests, 7 refused
";
        assert_eq!(table(&[cluster]), expected);
        assert_eq!(table(&[]), "The proxy knows no endpoint.\n");
    }
}
