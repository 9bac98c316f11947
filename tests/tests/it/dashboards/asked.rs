//! What the examples ask Prometheus: the queries of all panels, variables, alerts and recording rules.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use leno_tests::promql::{Selector, selectors};
use leno_tests::workspace;
use serde_json::Value;

/// The window that stands for Grafana's own.
const WINDOW: &str = "1m";

/// One query.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// File and panel, variable or rule.
    pub(super) place: String,
    /// In PromQL, with every variable standing for everything.
    pub(super) query: String,
    /// Labels that its results need: a legend or a text names them.
    pub(super) shown: BTreeSet<String>,
    /// What it is for.
    pub(super) of: Of,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Of {
    /// A panel with this unit.
    Panel {
        unit: String,
    },
    /// The values of this label.
    Variable {
        label: String,
    },
    Alert,
    /// A series of this name.
    Record {
        name: String,
    },
}

impl Asked {
    /// What it names; fails the test where that is not understood.
    pub(super) fn selectors(&self) -> Vec<Selector> {
        selectors(&self.query).unwrap_or_else(|why| panic!("{}: {why}: {}", self.place, self.query))
    }
}

/// All dashboards, by the name of their file.
pub(super) fn dashboards() -> BTreeMap<String, Value> {
    let files = std::fs::read_dir(workspace().join("examples/grafana")).expect("there are dashboards");
    let files = files.flatten().map(|file| file.path()).filter(|path| path.extension().is_some_and(|is| is == "json"));
    files.map(|path| (name_of(&path), read_json(&path))).collect()
}

/// A file beside the Prometheus configuration.
pub(super) fn prometheus_file(name: &str) -> PathBuf {
    workspace().join("examples/prometheus").join(name)
}

/// All rules, in the order in which they stand.
pub(super) fn rules() -> Vec<Value> {
    let text = std::fs::read_to_string(prometheus_file("rules.yml")).expect("there are rules");
    let rules: Value = serde_yaml::from_str(&text).expect("the rules are YAML");
    let groups = rules["groups"].as_array().expect("there are groups").iter();
    groups.flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect()
}

/// Every query of every file.
pub(super) fn everything() -> Vec<Asked> {
    let mut all: Vec<Asked> = rules().iter().map(rule).collect();
    for (file, dashboard) in dashboards() {
        let variables: Vec<&Value> = list(&dashboard["templating"]["list"]).collect();
        for variable in variables.iter().filter(|variable| variable["type"] == "query") {
            all.push(of_variable(&file, variable, &variables));
        }
        for panel in list(&dashboard["panels"]) {
            for target in list(&panel["targets"]) {
                let legend = text(&target["legendFormat"]);
                all.push(Asked {
                    place: format!("{file}: {}", text(&panel["title"])),
                    query: interpolated(text(&target["expr"]), &variables),
                    shown: between(legend, "{{", "}}").into_iter().map(|label| label.trim().to_owned()).collect(),
                    of: Of::Panel { unit: text(&panel["fieldConfig"]["defaults"]["unit"]).to_owned() },
                });
            }
        }
    }
    all
}

fn rule(rule: &Value) -> Asked {
    let (place, of) = match rule["record"].as_str() {
        Some(name) => (name, Of::Record { name: name.to_owned() }),
        None => (text(&rule["alert"]), Of::Alert),
    };
    let annotations = rule["annotations"].as_object().into_iter().flatten().map(|(_, value)| text(value));
    let named = annotations.flat_map(|words| words.split("$labels.").skip(1));
    let is_of_label = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let shown = named.map(|rest| rest.split(|end| !is_of_label(end)).next().unwrap_or_default().to_owned()).collect();
    Asked { place: format!("rules.yml: {place}"), query: text(&rule["expr"]).to_owned(), shown, of }
}

/// `label_values(SELECTOR, LABEL)`
fn of_variable(file: &str, variable: &Value, variables: &[&Value]) -> Asked {
    let asked = text(&variable["query"]["query"]);
    let place = format!("{file}: variable {}", text(&variable["name"]));
    let parts = asked.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
    let (selector, label) =
        parts.and_then(|parts| parts.rsplit_once(", ")).unwrap_or_else(|| panic!("{place}: {asked}"));
    Asked {
        query: format!("count by ({label}) ({})", interpolated(selector, variables)),
        shown: BTreeSet::from([label.to_owned()]),
        of: Of::Variable { label: label.to_owned() },
        place,
    }
}

/// With Grafana's windows and the dashboard's variables replaced; every variable stands for everything.
fn interpolated(query: &str, variables: &[&Value]) -> String {
    let mut query = query.replace("$__rate_interval", WINDOW).replace("$__range", WINDOW);
    for variable in variables {
        query = query.replace(&format!("${}", text(&variable["name"])), ".*");
    }
    assert!(!query.contains('$'), "a variable that is not there: {query}");
    query
}

/// What stands between two signs, each time.
pub(super) fn between<'a>(words: &'a str, begin: &str, end: &str) -> Vec<&'a str> {
    words.split(begin).skip(1).filter_map(|rest| rest.split_once(end)).map(|(inner, _)| inner).collect()
}

pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn read_json(path: &Path) -> Value {
    let text = std::fs::read(path).expect("a dashboard can be read");
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
