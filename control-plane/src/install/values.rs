//! What an operator may choose: the values of the Helm chart.

use serde::Deserialize;
use serde_json::{Map, Value};

/// The chart's own defaults.
const DEFAULTS: &str = include_str!("../../../packaging/helm/leno/values.yaml");

/// Everything an operator may choose, complete.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Values {
    /// Image of the control plane; empty: `leno:<version>`.
    pub(crate) image: String,
    /// Image of the sidecars; empty: `leno-proxy:<version>`.
    pub(crate) proxy_image: String,
    /// Image of their set-up containers; empty: `leno-init:<version>`.
    pub(crate) init_image: String,
    /// `imagePullPolicy` of the control plane.
    pub(crate) image_pull_policy: String,
    /// Secrets for its registry: `[{name}]`.
    pub(crate) image_pull_secrets: Vec<Value>,
    /// Replicas, at least 1.
    pub(crate) replicas: u32,
    /// The address of all ports, as it stands before a colon.
    pub(crate) listen_address: String,
    /// What the control plane logs.
    pub(crate) log_level: String,
    /// `text` or `json`.
    pub(crate) log_format: String,
    /// Of the control plane, as Kubernetes has them.
    pub(crate) resources: Value,
    /// On which nodes it may run.
    pub(crate) node_selector: Value,
    /// Which taints it bears.
    pub(crate) tolerations: Vec<Value>,
    /// Empty: none.
    pub(crate) priority_class_name: String,
    /// What pods get, by the injector's own keys.
    pub(crate) injection: Map<String, Value>,
    /// Whether replicas leave one by one.
    pub(crate) pod_disruption_budget: Switch,
    /// Whether the control plane's other ports are closed.
    pub(crate) network_policy: Switch,
    /// Whether the Prometheus operator is told where metrics are.
    pub(crate) pod_monitor: PodMonitor,
}

/// Something that is there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Switch {
    /// It is.
    pub(crate) enabled: bool,
}

/// For the Prometheus operator.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PodMonitor {
    /// There is one.
    pub(crate) enabled: bool,
    /// How often it scrapes, as Prometheus writes it.
    pub(crate) interval: String,
}

/// Why values are not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ValuesError {
    /// Not YAML, or of another shape.
    #[error("{place}: {source}")]
    Shape {
        /// Whose.
        place: String,
        /// Where and what.
        source: serde_yaml::Error,
    },
    /// A file of values is a mapping.
    #[error("{0}: values are a mapping of keys, as in the chart's values.yaml")]
    NoMapping(String),
    /// A `--set` without a value.
    #[error("--set {0}: write KEY=VALUE, as replicas=3 or podMonitor.enabled=true")]
    NoValue(String),
    /// A key that is not understood.
    #[error("{0}; the keys are those of the chart's values.yaml")]
    Unknown(serde_json::Error),
    /// A value that its key cannot have.
    #[error("{key}: {source}; see the chart's values.yaml")]
    Value {
        /// The outermost key.
        key: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A number out of its range.
    #[error("replicas: {0} is not between 1 and 20")]
    Replicas(u32),
}

impl Values {
    /// The defaults, with these files of values (name, text) and then these `KEY=VALUE` on top, in their order.
    pub(crate) fn merged(files: &[(String, String)], set: &[String]) -> Result<Self, ValuesError> {
        let mut all = mapping("the defaults", DEFAULTS)?;
        for (name, text) in files {
            merge(&mut all, mapping(name, text)?);
        }
        for one in set {
            merge(&mut all, assignment(one)?);
        }
        let values: Self = serde_json::from_value(all.clone()).map_err(|source| match culprit(&all) {
            Some(key) => ValuesError::Value { key, source },
            None => ValuesError::Unknown(source),
        })?;
        if !(1..=20).contains(&values.replicas) {
            return Err(ValuesError::Replicas(values.replicas));
        }
        Ok(values)
    }
}

/// The key whose value by itself makes the defaults invalid.
fn culprit(all: &Value) -> Option<String> {
    let defaults = mapping("the defaults", DEFAULTS).ok()?;
    let known = defaults.as_object()?;
    let mut chosen = all.as_object()?.iter().filter(|(key, _)| known.contains_key(*key));
    let is_wrong = |key: &str, value: &Value| {
        let mut one = defaults.clone();
        one[key] = value.clone();
        serde_json::from_value::<Values>(one).is_err()
    };
    chosen.find(|(key, value)| is_wrong(key, value)).map(|(key, _)| key.clone())
}

fn mapping(place: &str, text: &str) -> Result<Value, ValuesError> {
    let shape = |source| ValuesError::Shape { place: place.to_owned(), source };
    match serde_yaml::from_str(text).map_err(shape)? {
        Value::Null => Ok(Value::Object(Map::new())),
        mapping @ Value::Object(_) => Ok(mapping),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(ValuesError::NoMapping(place.to_owned()))
        }
    }
}

/// `podMonitor.enabled=true` as a mapping. The value is YAML, so that `true` and `3` are what they look like.
fn assignment(text: &str) -> Result<Value, ValuesError> {
    let (path, value) = text.split_once('=').ok_or_else(|| ValuesError::NoValue(text.to_owned()))?;
    if path.split('.').any(str::is_empty) {
        return Err(ValuesError::NoValue(text.to_owned()));
    }
    let shape = |source| ValuesError::Shape { place: format!("--set {path}"), source };
    let value: Value = if value.is_empty() { "".into() } else { serde_yaml::from_str(value).map_err(shape)? };
    Ok(path.rsplit('.').fold(value, |value, key| Value::Object(Map::from_iter([(key.to_owned(), value)]))))
}

/// Mappings are merged, all else is replaced, as Helm does.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
