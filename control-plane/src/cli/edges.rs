//! `leno edges`: who talks to whom, as whom, and whether anybody could listen in.
//!
//! Both ends of a connection tell of it. With mTLS both know each other, and the called counts. In clear text only the
//! caller knows both: what it counted is shown, and what the called counted from somebody unknown only as far as it is
//! more than callers with a sidecar account for.

use std::collections::BTreeMap;
use std::process::ExitCode;

use leno_proxy::telemetry::figures::{Direction, Party};
use serde::Serialize;

use super::Output;
use super::failure::Failure;
use super::mesh_view::{Golden, Scope, rate, warn};
use super::table::{Cell, Column, Room, Table};
use crate::figures::counters::{Between, Counters};
use crate::figures::view::{Rates, Row, View};

/// What proxies call somebody of whom they know nothing.
const UNKNOWN: &str = "unknown";
/// Callers without a sidecar are shown if they account for more than this share: counts of two sides are never taken at
/// the very same moment.
const NOTICEABLE: f64 = 0.1;

/// `leno edges`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Only edges that begin or end at one of these workloads or services
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// One end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct End {
    /// A workload; a service where nobody said which workload it was; or `unknown`.
    name: String,
    namespace: String,
    /// SPIFFE ID; `null`: it has shown none.
    identity: Option<String>,
}

/// What tells one edge from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Edge {
    source: End,
    destination: End,
    /// `mutual_tls`, `tls`, `none` or `unknown`.
    security: String,
    /// What the handshake agreed on; `null` in clear text.
    group: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Line {
    #[serde(flatten)]
    edge: Edge,
    #[serde(flatten)]
    golden: Golden,
    /// TCP connections opened in the window.
    connections_opened: u64,
}

/// Asks and prints.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let view = arguments.scope.view()?;
    warn(&view);
    let mut lines = lines(&view);
    let is_named = |end: &End| arguments.names.contains(&end.name);
    lines.retain(|Line { edge: Edge { source, destination, .. }, .. }| {
        let shown = arguments.scope.shows(&source.namespace) || arguments.scope.shows(&destination.namespace);
        shown && (arguments.names.is_empty() || is_named(source) || is_named(destination))
    });
    arguments.output.print(&lines, |room| match lines.is_empty() {
        true => arguments.scope.nothing("workloads have talked to each other in this window"),
        false => table(&lines, room),
    })?;
    Ok(ExitCode::SUCCESS)
}

type Sums = BTreeMap<Edge, (Counters, Rates)>;

fn lines(view: &View) -> Vec<Line> {
    let rows = || view.requests.iter().chain(&view.tcp);
    let mut edges = Sums::new();
    // Who is called without giving a name, by workload and namespace: requests and connections that callers account for.
    let mut accounted: BTreeMap<(String, String), u64> = BTreeMap::new();
    for row in rows().filter(|row| is_told_by_called(row)) {
        add(&mut edges, row);
    }
    for row in rows().filter(|row| row.of.direction == Direction::Outbound && !is_mutual(row)) {
        let end = destination(&row.of);
        *accounted.entry((end.name, end.namespace)).or_default() += weight(row);
        add(&mut edges, row);
    }
    // With mTLS to somebody whose proxy is not connected here.
    for row in rows().filter(|row| row.of.direction == Direction::Outbound && is_mutual(row)) {
        let (source, destination) = (source(&row.of), destination(&row.of));
        let is_told = |edge: &Edge| {
            (&edge.source.name, &edge.source.namespace) == (&source.name, &source.namespace)
                && (&edge.destination.name, &edge.destination.namespace) == (&destination.name, &destination.namespace)
        };
        let called = rows().filter(|row| is_told_by_called(row)).any(|row| is_told(&edge(&row.of)));
        if !called {
            add(&mut edges, row);
        }
    }
    let mut unknown = Sums::new();
    for row in rows().filter(|row| row.of.direction == Direction::Inbound && !is_told_by_called(row)) {
        add(&mut unknown, row);
    }
    for (edge, (counters, rates)) in unknown {
        let key = (edge.destination.name.clone(), edge.destination.namespace.clone());
        let known = accounted.get(&key).copied().unwrap_or_default();
        let counted = counters.requests.saturating_add(counters.opened);
        #[allow(clippy::cast_precision_loss)]
        let is_noticeable = counted.saturating_sub(known) as f64 > counted as f64 * NOTICEABLE;
        if is_noticeable {
            edges.insert(edge, (counters, rates));
        }
    }
    let line = |(edge, (counters, rates)): (Edge, (Counters, Rates))| Line {
        golden: Golden::of(&counters, &rates, &view.duration_bounds_ms),
        connections_opened: counters.opened,
        edge,
    };
    edges.into_iter().map(line).collect()
}

/// The called knows who called.
fn is_told_by_called(row: &Row<Between>) -> bool {
    row.of.direction == Direction::Inbound && is_known(&row.of.source.workload)
}

fn is_mutual(row: &Row<Between>) -> bool {
    row.of.security == "mutual_tls"
}

fn weight(row: &Row<Between>) -> u64 {
    row.counters.requests.saturating_add(row.counters.opened)
}

fn add(edges: &mut Sums, row: &Row<Between>) {
    let (counters, rates) = edges.entry(edge(&row.of)).or_default();
    counters.add(&row.counters);
    rates.add(&row.rates);
}

fn edge(between: &Between) -> Edge {
    Edge {
        source: source(between),
        destination: destination(between),
        security: between.security.clone(),
        group: Some(between.group.clone()).filter(|group| !group.is_empty() && group != "-"),
    }
}

fn source(between: &Between) -> End {
    end(&between.source, None)
}

fn destination(between: &Between) -> End {
    let Between { destination, service, .. } = between;
    end(destination, Some((&service.name, &service.namespace)))
}

fn end(party: &Party, service: Option<(&String, &String)>) -> End {
    let identity = Some(party.principal.clone()).filter(|principal| is_known(principal));
    let (name, namespace) = match service.filter(|(name, _)| !is_known(&party.workload) && is_known(name)) {
        Some((name, namespace)) => (name, namespace),
        None => (&party.workload, &party.namespace),
    };
    End { name: name.clone(), namespace: namespace.clone(), identity }
}

fn is_known(name: &str) -> bool {
    !name.is_empty() && name != UNKNOWN
}

fn table(lines: &[Line], room: Room) -> String {
    let mut table = Table::new([
        Column::text("SRC"),
        Column::text("DST"),
        Column::text("SRC_NS").extra(),
        Column::text("DST_NS").extra(),
        Column::text("SECURED"),
        Column::number("RPS"),
        Column::text("SRC_ID").extra(),
        Column::text("DST_ID").extra(),
        Column::number("SUCCESS").extra(),
        Column::number("TCP").extra(),
    ]);
    for Line { edge: Edge { source, destination, security, group }, golden, connections_opened } in lines {
        table.push([
            (&source.name).into(),
            (&destination.name).into(),
            (&source.namespace).into(),
            (&destination.namespace).into(),
            secured(security, group.as_deref()),
            if golden.requests > 0 { rate(golden.rps).into() } else { Cell::nothing() },
            source.identity.as_deref().into(),
            destination.identity.as_deref().into(),
            golden.success_cell(),
            if *connections_opened > 0 { (*connections_opened).into() } else { Cell::nothing() },
        ]);
    }
    table.render(room)
}

fn secured(security: &str, group: Option<&str>) -> Cell {
    match (security, group) {
        ("mutual_tls", Some(group)) => Cell::good(format!("√ {group}")),
        ("mutual_tls", None) => Cell::good("√"),
        ("tls", group) => Cell::doubtful(format!("TLS {}", group.unwrap_or_default()).trim_end()),
        ("none", _) => Cell::bad("× clear text"),
        _ => Cell::doubtful("? not reached"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::mesh_view::example;

    #[test]
    fn every_edge_is_shown_once_with_what_it_is_secured_by() {
        let found = lines(&example::view());
        let told: Vec<String> = found
            .iter()
            .map(|line| {
                let Edge { source, destination, security, group } = &line.edge;
                let group = group.as_deref().unwrap_or("-");
                format!("{} > {} {security} {group} {}", source.name, destination.name, line.golden.requests)
            })
            .collect();
        assert_eq!(
            told,
            [
                "productpage > mail none - 30",
                "productpage > reviews-v2 mutual_tls X25519MLKEM768 120",
                "unknown > productpage none - 240",
            ]
        );
        let text = anstream::adapter::strip_str(&table(&found, Room::Columns(200))).to_string();
        assert!(text.contains("√ X25519MLKEM768"), "{text}");
        assert!(text.contains("× clear text"), "{text}");
        assert!(!text.contains("/sa/"), "identities need more room: {text}");
        assert!(table(&found, Room::Unbounded).contains("shop/sa/productpage"));
    }
}
