//! Dashboards and alerts: every metric and every label that they name is emitted, and Prometheus itself agrees.
//!
//! [`form`] looks at the files alone. The tests here hold them against a mesh with mTLS in which everything has happened
//! ([`scene`]): first against what the programs emit, then through Debian's Prometheus, which scrapes them.

mod asked;
mod form;
mod scene;
mod scraped;

use std::collections::{BTreeMap, BTreeSet};

use leno_tests::exposition::names;
use leno_tests::prometheus::{has_prometheus, promtool};

use asked::{Asked, Of, everything};
use scene::Scene;

/// Prefixes of names that are not ours to choose: whoever has dashboards for Istio and Envoy has these.
const OF_OTHERS: [&str; 3] = ["istio_", "envoy_", "pilot_"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_is_emitted() {
    let scene = Scene::start().await;
    scene.is_used().await;
    scene.falls_ill().await;
    let mut emitted = names(&scene.samples().await);
    emitted.insert("up".to_owned(), ["job", "instance"].map(str::to_owned).into());
    let everything = everything();
    let recorded: Vec<(String, BTreeSet<String>)> = everything.iter().filter_map(recorded).collect();
    emitted.extend(recorded);
    let missing: Vec<String> = everything.iter().flat_map(|asked| not_there(asked, &emitted)).collect();
    assert!(missing.is_empty(), "{} names that nobody emits:\n{}", missing.len(), missing.join("\n"));

    if has_prometheus("promtool on the metrics of a mesh") {
        for (job, text) in scene.texts().await {
            let said = promtool(&["check", "metrics"], &text);
            let ours = said.lines().filter(|line| !OF_OTHERS.iter().any(|prefix| line.starts_with(prefix)));
            assert_eq!(ours.collect::<Vec<_>>(), Vec::<&str>::new(), "{job}");
        }
    }
}

/// The series of a recording rule, and the labels by which it is grouped.
fn recorded(asked: &Asked) -> Option<(String, BTreeSet<String>)> {
    let Of::Record { name } = &asked.of else { return None };
    let labels = asked.selectors().into_iter().flat_map(|selector| selector.wanted);
    Some((name.clone(), labels.filter(|label| label != "le").collect()))
}

/// The names in a query that nobody emits.
fn not_there(asked: &Asked, emitted: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut missing = Vec::new();
    for selector in asked.selectors() {
        match emitted.get(&selector.metric) {
            None => missing.push(format!("{}: {}", asked.place, selector.metric)),
            Some(there) => missing.extend(
                selector
                    .labels()
                    .into_iter()
                    .filter(|label| !there.contains(*label))
                    .map(|label| format!("{}: label `{label}` of {}", asked.place, selector.metric)),
            ),
        }
    }
    missing
}
