//! `leno status --proxy`: how circuit breakers, health checks and limits stand in one proxy, by its own words.
//!
//! The control plane does not know: proxies do not report what they learn about endpoints, and two of them may well
//! differ. So the proxy itself is asked, at its admin address.

use std::fmt::Write as _;

use leno_proxy::admin::clusters::{ClusterStatus, EndpointStatus, LimitStatus};

use super::status::age;
use super::table::{Cell, Column, Room, Table};

/// Where a proxy says it.
pub(super) const PATH: &str = "/clusters?format=json";

const COLUMNS: [Column; 8] = [
    Column::text("ENDPOINT"),
    Column::text("BREAKER").wrapped(),
    Column::text("HEALTH"),
    Column::number("EJECTIONS").extra(),
    Column::number("ACTIVE").extra(),
    Column::number("REQUESTS"),
    Column::number("ERRORS"),
    Column::text("CLUSTER"),
];

/// One row per endpoint, then what is limited.
pub(super) fn table(clusters: &[ClusterStatus], room: Room) -> String {
    let mut table = Table::new(COLUMNS);
    for cluster in clusters {
        cluster.endpoints.iter().for_each(|endpoint| table.push(row(&cluster.name, endpoint)));
    }
    let mut text = match table.is_empty() {
        true => "The proxy knows no endpoint.\n".to_owned(),
        false => table.render(room),
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

fn row(cluster: &str, endpoint: &EndpointStatus) -> [Cell; 8] {
    let EndpointStatus { address, ejections, active, requests, errors, .. } = endpoint;
    [
        address.to_string().into(),
        breaker(endpoint),
        match endpoint.healthy {
            None => Cell::nothing(),
            Some(true) => Cell::good("healthy"),
            Some(false) => Cell::bad("UNHEALTHY"),
        },
        (*ejections).into(),
        u64::from(*active).into(),
        (*requests).into(),
        (*errors).into(),
        cluster.into(),
    ]
}

/// How the circuit breaker of an endpoint stands, for how long, and why.
pub(super) fn breaker(endpoint: &EndpointStatus) -> Cell {
    let EndpointStatus { breaker, reason, open_for_ms, .. } = endpoint;
    let left = open_for_ms.map(|millis| format!(" for {}", age(std::time::Duration::from_millis(millis))));
    let reason = reason.as_ref().map(|reason| format!(" ({reason})"));
    let text = format!("{breaker}{}{}", left.unwrap_or_default(), reason.unwrap_or_default());
    match breaker.as_str() {
        "closed" => Cell::good(text),
        "open" => Cell::bad(text),
        _ => Cell::doubtful(text),
    }
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
            priority: 0,
            locality: String::new(),
            advertised: None,
            identity: None,
            ewma_ms: None,
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
            name: "outbound|80||app.default".to_owned(),
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
        let shown = |room| anstream::adapter::strip_str(&table(std::slice::from_ref(&cluster), room)).to_string();
        let narrow = "\
ENDPOINT     BREAKER             HEALTH     REQUESTS  ERRORS  CLUSTER
10.0.0.1:80  open for 1m1s       healthy          70       9  outbound|80||app.…
             (consecutive_5xx)
10.0.0.1:81  closed              UNHEALTHY        70       9  outbound|80||app.…
outbound|80||app.default: 2 of 5 requests, 7 refused
";
        assert_eq!(shown(Room::Columns(80)), narrow);
        let wide = "\
ENDPOINT     BREAKER                          HEALTH     EJECTIONS  ACTIVE  REQUESTS  ERRORS  CLUSTER
10.0.0.1:80  open for 1m1s (consecutive_5xx)  healthy            2       1        70       9  outbound|80||app.default
10.0.0.1:81  closed                           UNHEALTHY          2       1        70       9  outbound|80||app.default
outbound|80||app.default: 2 of 5 requests, 7 refused
";
        assert_eq!(shown(Room::Unbounded), wide);
        assert_eq!(table(&[], Room::Columns(80)), "The proxy knows no endpoint.\n");
    }
}
