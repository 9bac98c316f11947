//! `leno stat`: how the workloads and services of the mesh are doing, who hurts most first.
//!
//! A workload with a sidecar is told of as its own sidecar counts what comes in. One without is told of as its callers'
//! sidecars count what they sent: nobody else knows.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use anyhow::anyhow;
use leno_proxy::telemetry::figures::Direction;
use serde::Serialize;

use super::Output;
use super::failure::Failure;
use super::mesh_view::{Golden, Scope, bytes, millis, warn};
use super::table::{Cell, Column, Room, Table};
use crate::figures::counters::{Between, Counters};
use crate::figures::view::{Rates, Row, View};

/// What proxies call somebody of whom they know nothing.
const UNKNOWN: &str = "unknown";

/// `leno stat`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// What to show: `deploy` (or `workload`), `svc` (or `service`), one of them with `/NAME`, or a name; nothing: all
    /// workloads
    #[arg(value_name = "KIND/NAME")]
    resources: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Workload,
    Service,
}

/// Which rows are wanted: of a kind, with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    kind: Option<Kind>,
    name: Option<String>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Line {
    kind: Kind,
    name: String,
    namespace: String,
    /// Connected proxies; 0: it has no sidecar, and its callers tell of it.
    meshed: usize,
    #[serde(flatten)]
    golden: Golden,
    /// Connections from callers that are open now.
    connections: u64,
    /// Bytes of bodies and TCP connections per second, both ways.
    bytes_per_s: f64,
}

/// Asks and prints.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let wanted = arguments.resources.iter().map(|text| parse(text)).collect::<Result<Vec<_>, _>>();
    let wanted = wanted.map_err(|error| Failure::usage(anyhow!(error)))?;
    let view = arguments.scope.view()?;
    warn(&view);
    let mut lines = lines(&view);
    lines.retain(|line| arguments.scope.shows(&line.namespace) && is_wanted(&wanted, line));
    arguments.output.print(&lines, |room| match lines.is_empty() {
        true => arguments.scope.nothing("workload is known to the control plane's proxies"),
        false => table(&lines, arguments.scope.namespace_column(), room),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn parse(text: &str) -> Result<Wanted, String> {
    let (kind, name) = match text.split_once('/') {
        Some((kind, name)) => (kind, Some(name.to_owned()).filter(|name| !name.is_empty())),
        None => (text, None),
    };
    let known = match kind {
        "deploy" | "deployment" | "deployments" | "workload" | "workloads" | "wl" => Some(Kind::Workload),
        "svc" | "service" | "services" => Some(Kind::Service),
        _ => None,
    };
    match (known, text.contains('/')) {
        (Some(kind), _) => Ok(Wanted { kind: Some(kind), name }),
        (None, false) => Ok(Wanted { kind: None, name: Some(text.to_owned()) }),
        (None, true) => Err(format!("`{}` is no kind; there are deploy (or workload) and svc", kind.escape_debug())),
    }
}

fn is_wanted(wanted: &[Wanted], line: &Line) -> bool {
    if wanted.is_empty() {
        return line.kind == Kind::Workload || line.meshed == 0;
    }
    wanted.iter().any(|Wanted { kind, name }| {
        kind.is_none_or(|kind| kind == line.kind) && name.as_ref().is_none_or(|name| *name == line.name)
    })
}

/// What is added up for a line.
#[derive(Debug, Default)]
struct Sum {
    meshed: usize,
    connections: u64,
    counters: Counters,
    rates: Rates,
}

impl Sum {
    fn add(&mut self, row: &Row<Between>) {
        self.counters.add(&row.counters);
        self.rates.add(&row.rates);
    }
}

/// All of them, by pain.
fn lines(view: &View) -> Vec<Line> {
    let mut sums: BTreeMap<(Kind, String, String), Sum> = BTreeMap::new();
    let key = |kind, name: &str, namespace: &str| (kind, name.to_owned(), namespace.to_owned());
    for seen in &view.proxies {
        let sum = sums.entry(key(Kind::Workload, &seen.workload, &seen.namespace)).or_default();
        sum.meshed += 1;
        sum.connections += seen.connections_active;
    }
    let rows = || view.requests.iter().chain(&view.tcp);
    let mut told = BTreeSet::new();
    for row in rows().filter(|row| row.of.direction == Direction::Inbound) {
        let Between { destination, service, .. } = &row.of;
        sums.entry(key(Kind::Workload, &destination.workload, &destination.namespace)).or_default().add(row);
        if is_known(&service.name) {
            let key = key(Kind::Service, &service.name, &service.namespace);
            let sum = sums.entry(key.clone()).or_default();
            sum.meshed = 1;
            sum.add(row);
            told.insert(key);
        }
    }
    for row in rows().filter(|row| row.of.direction == Direction::Outbound) {
        let Between { destination, service, .. } = &row.of;
        let workload = key(Kind::Workload, &destination.workload, &destination.namespace);
        let has_sidecar = sums.get(&workload).is_some_and(|sum| sum.meshed > 0);
        if is_known(&destination.workload) && !has_sidecar {
            sums.entry(workload).or_default().add(row);
        }
        let service_key = key(Kind::Service, &service.name, &service.namespace);
        if is_known(&service.name) && !told.contains(&service_key) {
            let sum = sums.entry(service_key).or_default();
            sum.meshed = sum.meshed.max(usize::from(has_sidecar));
            sum.add(row);
        }
    }
    let mut lines: Vec<Line> = sums.into_iter().map(|(key, sum)| line(key, &sum, &view.duration_bounds_ms)).collect();
    // Sorting is stable: what hurts alike stays in the order of names.
    lines.sort_by(|one, other| one.golden.by_pain(&other.golden));
    lines
}

fn is_known(name: &str) -> bool {
    !name.is_empty() && name != UNKNOWN
}

fn line((kind, name, namespace): (Kind, String, String), sum: &Sum, bounds: &[f64]) -> Line {
    Line {
        kind,
        name,
        namespace,
        meshed: sum.meshed,
        golden: Golden::of(&sum.counters, &sum.rates, bounds),
        connections: sum.connections,
        bytes_per_s: sum.rates.received + sum.rates.sent,
    }
}

fn table(lines: &[Line], namespace: Column, room: Room) -> String {
    let mut table = Table::new([
        Column::text("NAME"),
        namespace,
        Column::text("KIND").extra(),
        Column::number("MESHED"),
        Column::number("SUCCESS"),
        Column::number("RPS"),
        Column::number("P50"),
        Column::number("P95").extra(),
        Column::number("P99"),
        Column::number("CONNS"),
        Column::number("BYTES/S"),
        Column::number("REQUESTS").extra(),
        Column::number("FAILED").extra(),
    ]);
    for line in lines {
        let Line { kind, name, namespace, meshed, golden, connections, bytes_per_s } = line;
        let of_workload = *kind == Kind::Workload && *meshed > 0;
        table.push([
            name.into(),
            namespace.into(),
            match kind {
                Kind::Workload => "workload",
                Kind::Service => "service",
            }
            .into(),
            if *meshed == 0 {
                Cell::doubtful("no")
            } else if of_workload {
                (*meshed as u64).into()
            } else {
                "yes".into()
            },
            golden.success_cell(),
            golden.rps_cell(),
            golden.p50_ms.map(millis).into(),
            golden.p95_ms.map(millis).into(),
            golden.p99_ms.map(millis).into(),
            if of_workload { (*connections).into() } else { Cell::nothing() },
            if *bytes_per_s > 0.0 { bytes(*bytes_per_s).into() } else { Cell::nothing() },
            golden.requests.into(),
            golden.failures.into(),
        ]);
    }
    table.render(room)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::mesh_view::example;

    #[test]
    fn who_hurts_most_comes_first_and_who_has_no_sidecar_is_told_of_by_callers() {
        let view = example::view();
        let mut found = lines(&view);
        found.retain(|line| is_wanted(&[], line));
        let expected = "\
NAME         NAMESPACE  MESHED  SUCCESS   RPS    P50    P99  CONNS  BYTES/S
reviews-v2   shop            1   50.00%  2.00  3.8ms  5.0ms      3   300B/s
productpage  shop            2  100.00%  4.00  3.8ms  5.0ms      6   600B/s
mail         shop           no  100.00%  0.50  3.8ms  5.0ms      -    75B/s
";
        let text =
            anstream::adapter::strip_str(&table(&found, Column::text("NAMESPACE"), Room::Columns(80))).to_string();
        assert_eq!(text, expected);
    }

    #[test]
    fn rows_are_chosen_by_kind_and_name() {
        let line = |kind, name: &str, meshed| Line {
            kind,
            name: name.to_owned(),
            namespace: "n".to_owned(),
            meshed,
            golden: Golden::default(),
            connections: 0,
            bytes_per_s: 0.0,
        };
        let workload = line(Kind::Workload, "cart", 1);
        let service = line(Kind::Service, "cart", 1);
        for (text, expected) in [
            (None, (true, false)),
            (Some("deploy"), (true, false)),
            (Some("deploy/cart"), (true, false)),
            (Some("deploy/other"), (false, false)),
            (Some("svc/cart"), (false, true)),
            (Some("svc"), (false, true)),
            (Some("cart"), (true, true)),
            (Some("other"), (false, false)),
        ] {
            let wanted: Vec<Wanted> = text.into_iter().map(|text| parse(text).expect("valid")).collect();
            assert_eq!((is_wanted(&wanted, &workload), is_wanted(&wanted, &service)), expected, "{text:?}");
        }
        assert!(parse("pod/cart").is_err());
    }
}
