//! What can be said of dashboards and alerts without a mesh: that they are made as they should be.

use std::collections::BTreeSet;

use leno_tests::promql::Selector;
use leno_tests::run_leno;

use super::asked::{Asked, Of, between, dashboards, everything, list, rules, text};

/// Functions that turn a counter into something that can be added and compared.
const OF_COUNTERS: [&str; 2] = ["rate", "increase"];

#[test]
fn every_dashboard_can_be_found_and_moved_to_another_prometheus() {
    let mut uids = BTreeSet::new();
    for (file, dashboard) in dashboards() {
        let uid = text(&dashboard["uid"]);
        assert!(uid.starts_with("leno-") && uids.insert(uid.to_owned()), "{file}: uid `{uid}`");
        let mut variables = list(&dashboard["templating"]["list"]);
        assert!(variables.any(|variable| variable["type"] == "datasource"), "{file}: no variable for the data source");
        let mut ids = BTreeSet::new();
        for panel in list(&dashboard["panels"]) {
            let title = text(&panel["title"]);
            assert!(!title.is_empty() && ids.insert(panel["id"].to_string()), "{file}: {panel}");
            if panel["type"] == "row" {
                continue;
            }
            assert!(text(&panel["description"]).ends_with('.'), "{file}: {title}: a sentence says what it shows");
            for target in list(&panel["targets"]).chain([panel]) {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{file}: {title}");
            }
        }
    }
    assert_eq!(uids.len(), 4, "{uids:?}");
}

#[test]
fn counters_are_read_as_rates_and_histograms_by_their_buckets() {
    for asked in everything() {
        for selector in asked.selectors() {
            if let Some(why) = complaint(&asked, &selector) {
                panic!("{}: {} {why}: {}", asked.place, selector.metric, asked.query);
            }
        }
    }
}

fn complaint(asked: &Asked, selector: &Selector) -> Option<&'static str> {
    let is_within = |functions: &[&str]| selector.within.iter().any(|name| functions.contains(&name.as_str()));
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| selector.metric.ends_with(suffix));
    let is_counter =
        ends(&["_total", "_bucket", "_sum", "_count"]) && !selector.metric.starts_with("envoy_cluster_membership");
    let is_listed = matches!(asked.of, Of::Variable { .. });
    if is_counter && !is_within(&OF_COUNTERS) && !is_listed {
        return Some("is a counter, and is not read as a rate");
    }
    if is_within(&["histogram_quantile"]) != selector.metric.ends_with("_bucket") {
        return Some("is no bucket of a histogram, or is read without histogram_quantile");
    }
    if selector.metric.ends_with("_bucket") && !(selector.wanted.contains("le") && is_within(&["sum"])) {
        return Some("is not summed by `le`");
    }
    let Of::Panel { unit } = &asked.of else { return None };
    let quantile = selector.metric.strip_suffix("_bucket");
    let expected = match quantile {
        Some(metric) if metric.ends_with("_milliseconds") => "ms",
        Some(metric) if metric.ends_with("_seconds") => "s",
        Some(metric) if metric.ends_with("_bytes") => "bytes",
        _ => return None,
    };
    // A table has units of its own for each column.
    (unit != expected && unit != "short").then_some("is shown in another unit")
}

#[test]
fn every_alert_says_what_is_wrong_and_which_command_is_next() {
    let mut commands = BTreeSet::new();
    for rule in rules().iter().filter(|rule| rule["alert"].is_string()) {
        let name = text(&rule["alert"]);
        let [summary, description, runbook] =
            ["summary", "description", "runbook"].map(|key| text(&rule["annotations"][key]));
        assert!(summary.len() > 10 && description.ends_with('.'), "{name}: {summary} {description}");
        assert!(["page", "ticket"].contains(&text(&rule["labels"]["severity"])), "{name}");
        let named: Vec<&str> = between(runbook, "`leno ", "`");
        assert!(!named.is_empty(), "{name}: {runbook}");
        commands.extend(named.into_iter().map(str::to_owned));
    }
    for command in commands {
        let words = command.split(' ').take_while(|word| word.starts_with(|first: char| first.is_ascii_lowercase()));
        let words: Vec<&str> = words.chain(["--help"]).collect();
        let help = run_leno(&words, "");
        assert_eq!(help.code, 0, "`leno {command}` is no command: {}", help.stderr);
    }
}
