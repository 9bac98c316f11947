//! `leno routes`: what each rule does with its requests, and whether splits come out as they are written.
//!
//! What is observed is what the callers' sidecars counted. What is configured is what is in force there, and not what
//! stands in a file: a split that was edited and has not arrived is seen as what it is.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use leno_proxy::telemetry::figures::Direction;
use serde::Serialize;
use serde_json::Value;

use super::Output;
use super::ask::{Question, ask, ask_whom};
use super::failure::Failure;
use super::mesh_view::{Golden, Scope, millis, rate, share, warn};
use super::table::{Cell, Column, Room, Table};
use crate::figures::counters::{Counters, OnRoute};
use crate::figures::view::{Rates, View};

/// Where a proxy says what its routes are.
const DUMP: &str = "/config_dump?resource=routes";
/// Proxies that are asked for their routes; one per workload.
const ASKED: usize = 50;

/// `leno routes`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Only routes to this service: a short name or a host
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    #[command(flatten)]
    scope: Scope,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Whose route it is: workload, its namespace, and the rule.
type Rule = (String, String, String);
/// Shares (0 to 1) by cluster.
type Shares = BTreeMap<String, f64>;

/// One destination of a rule.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Line {
    /// Whose sidecars follow the rule.
    workload: String,
    namespace: String,
    route: String,
    cluster: String,
    /// Share of the rule's requests by its weights, 0 to 1; `null`: not known.
    configured: Option<f64>,
    /// Share that it got.
    observed: Option<f64>,
    #[serde(flatten)]
    golden: Golden,
    /// Further attempts at the cluster per second, whatever rule led there.
    retries_per_s: f64,
}

/// Asks and prints.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let view = arguments.scope.view()?;
    warn(&view);
    let configured = configured(&arguments.scope, &view);
    let mut lines = lines(&view, &configured);
    lines.retain(|line| {
        let wanted = arguments.service.as_ref().is_none_or(|service| leads_to(&line.cluster, service));
        wanted && arguments.scope.shows(&line.namespace)
    });
    arguments.output.print(&lines, |room| match lines.is_empty() {
        true => arguments.scope.nothing("route has been used in this window"),
        false => table(&lines, room),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The weights in force at one proxy of each workload. Whoever cannot be asked is left out: what is observed is shown all
/// the same.
fn configured(scope: &Scope, view: &View) -> BTreeMap<Rule, Shares> {
    let used: BTreeSet<_> = view.routes.iter().map(|row| (&row.of.of.workload, &row.of.of.namespace)).collect();
    let mut found = BTreeMap::new();
    for (workload, namespace) in used.into_iter().take(ASKED) {
        let seen = view.proxies.iter().find(|seen| (&seen.workload, &seen.namespace) == (workload, namespace));
        let Some(seen) = seen else { continue };
        let answer = match &scope.proxy {
            Some(proxy) => ask_whom("the proxy", "is it running?", proxy, &Question::get(DUMP)),
            None => ask(&scope.address, &Question::get(&format!("/proxies/{}{DUMP}", seen.node))),
        };
        let dump = answer.ok().filter(|(code, _)| code.is_success());
        let Some(dump) = dump.and_then(|(_, text)| serde_json::from_str::<Value>(&text).ok()) else { continue };
        let mut of_rules = BTreeMap::new();
        shares(&dump, &mut of_rules);
        let rule = |route| (workload.clone(), namespace.clone(), route);
        found.extend(of_rules.into_iter().map(|(route, shares)| (rule(route), shares)));
    }
    found
}

/// The weights of all routes that stand somewhere in a dump, by the rule that they were made from.
fn shares(dump: &Value, found: &mut BTreeMap<String, Shares>) {
    match dump {
        Value::Array(list) => list.iter().for_each(|value| shares(value, found)),
        Value::Object(fields) => {
            let clusters = dump.pointer("/action/forward/clusters").and_then(Value::as_array);
            match (dump.get("origin").and_then(rule), clusters) {
                (Some(rule), Some(clusters)) => {
                    found.insert(rule, of_clusters(clusters));
                }
                _ => fields.values().for_each(|value| shares(value, found)),
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// As figures name a rule.
fn rule(origin: &Value) -> Option<String> {
    let text = |key: &str| origin.get(key).and_then(Value::as_str);
    let index = origin.get("index").and_then(Value::as_u64)?;
    Some(format!("{} {}/{}[{index}]", text("kind")?, text("namespace")?, text("name")?))
}

fn of_clusters(clusters: &[Value]) -> Shares {
    let mut weights: BTreeMap<String, f64> = BTreeMap::new();
    for entry in clusters {
        let name = entry.get("cluster").and_then(Value::as_str);
        let weight = entry.get("weight").and_then(Value::as_f64);
        if let (Some(name), Some(weight)) = (name, weight) {
            *weights.entry(name.to_owned()).or_default() += weight;
        }
    }
    let total = weights.values().sum::<f64>();
    if total > 0.0 {
        weights.values_mut().for_each(|weight| *weight /= total);
    }
    weights
}

/// A line for each destination that a rule leads to, whether it got requests or not.
fn lines(view: &View, configured: &BTreeMap<Rule, Shares>) -> Vec<Line> {
    let mut rules: BTreeMap<Rule, BTreeMap<String, (Counters, Rates)>> = BTreeMap::new();
    for row in view.routes.iter().filter(|row| row.of.direction == Direction::Outbound) {
        let OnRoute { of, route, cluster, .. } = &row.of;
        let rule = rules.entry((of.workload.clone(), of.namespace.clone(), route.clone())).or_default();
        let (counters, rates) = rule.entry(cluster.clone()).or_default();
        counters.add(&row.counters);
        rates.add(&row.rates);
    }
    let mut lines = Vec::new();
    for (rule, mut destinations) in rules {
        let shares = configured.get(&rule);
        for cluster in shares.into_iter().flat_map(Shares::keys) {
            destinations.entry(cluster.clone()).or_default();
        }
        // Answers that were made here (a fault, a denial) went to no destination.
        let sent = destinations.iter().filter(|(cluster, _)| !cluster.is_empty());
        let total = sent.map(|(_, (counters, _))| counters.requests).sum::<u64>();
        for (cluster, (counters, rates)) in destinations {
            #[allow(clippy::cast_precision_loss)]
            let observed = (total > 0 && !cluster.is_empty()).then(|| counters.requests as f64 / total as f64);
            let (workload, namespace, route) = rule.clone();
            lines.push(Line {
                configured: shares.and_then(|shares| shares.get(&cluster).copied()),
                observed,
                golden: Golden::of(&counters, &rates, &view.duration_bounds_ms),
                retries_per_s: retries(view, &workload, &namespace, &cluster),
                workload,
                namespace,
                route,
                cluster,
            });
        }
    }
    lines
}

fn retries(view: &View, workload: &str, namespace: &str, cluster: &str) -> f64 {
    let of = view.retries.iter().filter(|row| {
        let of = &row.of;
        (of.of.workload.as_str(), of.of.namespace.as_str(), of.cluster.as_str()) == (workload, namespace, cluster)
    });
    of.map(|row| row.rates.requests).sum()
}

/// The parts of `outbound|80|v1|app.default.svc.cluster.local`.
fn parts(cluster: &str) -> Option<(&str, &str, &str)> {
    let mut parts = cluster.splitn(4, '|').skip(1);
    Some((parts.next()?, parts.next()?, parts.next()?))
}

/// `app.default:80 v1`
fn destination(cluster: &str) -> String {
    match parts(cluster) {
        Some((port, subset, host)) => {
            let host = host.strip_suffix(".svc.cluster.local").unwrap_or(host);
            format!("{host}:{port} {subset}").trim_end().to_owned()
        }
        None if cluster.is_empty() => "(answered here)".to_owned(),
        None => cluster.to_owned(),
    }
}

fn leads_to(cluster: &str, service: &str) -> bool {
    let host = parts(cluster).map_or(cluster, |(_, _, host)| host);
    host == service || host.strip_prefix(service).is_some_and(|rest| rest.starts_with('.'))
}

fn table(lines: &[Line], room: Room) -> String {
    let mut table = Table::new([
        Column::text("DESTINATION"),
        Column::text("FROM").extra(),
        Column::text("ROUTE").wrapped(),
        Column::number("SPLIT"),
        Column::number("SEEN"),
        Column::number("SUCCESS"),
        Column::number("RPS"),
        Column::number("P50").extra(),
        Column::number("P95").extra(),
        Column::number("P99"),
        Column::number("RETRY/S"),
        Column::number("REQUESTS").extra(),
    ]);
    for line in lines {
        let Line { workload, cluster, configured, observed, golden, retries_per_s, .. } = line;
        table.push([
            destination(cluster).into(),
            workload.into(),
            named(line, room).into(),
            configured.map(share).into(),
            observed.map(share).into(),
            golden.success_cell(),
            golden.rps_cell(),
            golden.p50_ms.map(millis).into(),
            golden.p95_ms.map(millis).into(),
            golden.p99_ms.map(millis).into(),
            if *retries_per_s > 0.0 { Cell::doubtful(rate(*retries_per_s)) } else { Cell::nothing() },
            golden.requests.into(),
        ]);
    }
    table.render(room)
}

/// Where there is little room, a rule of the workload's own namespace that could be of no other kind goes by its name.
fn named(line: &Line, room: Room) -> &str {
    let own = line.route.strip_prefix("VirtualService ").and_then(|rule| rule.strip_prefix(line.namespace.as_str()));
    match (room, own.and_then(|rule| rule.strip_prefix('/'))) {
        (Room::Columns(_), Some(name)) => name,
        (Room::Columns(_) | Room::Unbounded, _) => &line.route,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::mesh_view::example;

    #[test]
    fn weights_are_found_by_their_rule_wherever_they_stand_in_a_dump() {
        let origin = json!({"kind": "VirtualService", "namespace": "shop", "name": "reviews", "index": 1});
        let clusters = json!([{"cluster": "a", "weight": 3}, {"cluster": "b", "weight": 1}]);
        let route = json!({"origin": origin, "action": {"forward": {"clusters": clusters}}});
        let direct = json!({"origin": origin, "action": {"direct": {}}});
        let dump = json!({"routes": [{"resource": {"virtual_hosts": [{"routes": [direct, route]}]}}]});
        let mut found = BTreeMap::new();
        shares(&dump, &mut found);
        let expected = BTreeMap::from([("a".to_owned(), 0.75), ("b".to_owned(), 0.25)]);
        assert_eq!(found, BTreeMap::from([("VirtualService shop/reviews[1]".to_owned(), expected)]));
    }

    #[test]
    fn a_destination_that_gets_nothing_is_shown_too() {
        let rule = ("productpage".to_owned(), "shop".to_owned(), example::ROUTE.to_owned());
        let shares = ["v1", "v2", "v3"].map(|version| (example::cluster(version), 1.0 / 3.0));
        let found = lines(&example::view(), &BTreeMap::from([(rule, Shares::from(shares))]));
        let expected = "\
DESTINATION         ROUTE       SPLIT  SEEN  SUCCESS   RPS    P99  RETRY/S
reviews.shop:80 v1  reviews[0]  33.3%   25%  100.00%  0.50  5.0ms        -
reviews.shop:80 v2  reviews[0]  33.3%   75%  100.00%  1.50  5.0ms     0.20
reviews.shop:80 v3  reviews[0]  33.3%    0%        -     -      -        -
";
        let text = anstream::adapter::strip_str(&table(&found, Room::Columns(80))).to_string();
        assert_eq!(text, expected);
    }

    #[test]
    fn clusters_are_named_as_people_do() {
        for (cluster, service, name, leads) in [
            ("outbound|80|v1|app.default.svc.cluster.local", "app", "app.default:80 v1", true),
            ("outbound|80||app.default.svc.cluster.local", "app.default", "app.default:80", true),
            ("outbound|80||app.default.svc.cluster.local", "ap", "app.default:80", false),
            ("outbound|443||example.com", "example.com", "example.com:443", true),
            ("", "app", "(answered here)", false),
            ("strange", "strange", "strange", true),
        ] {
            assert_eq!(destination(cluster), name);
            assert_eq!(leads_to(cluster, service), leads, "{cluster} {service}");
        }
    }
}
