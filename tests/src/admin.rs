//! What the programs say of themselves over HTTP.

use std::collections::BTreeMap;

use serde_json::Value;

/// `/config_dump` of a proxy.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigDump(pub Value);

impl ConfigDump {
    /// The version of each resource in force, by kind (`clusters`, `endpoints`, `listeners`, `routes`) and name.
    pub fn versions(&self, kind: &str) -> BTreeMap<String, String> {
        let listed = self.0[kind].as_array().unwrap_or_else(|| panic!("no `{kind}` in /config_dump:\n{:#}", self.0));
        let text = |value: &Value| value.as_str().map(str::to_owned);
        listed.iter().filter_map(|entry| Some((text(&entry["name"])?, text(&entry["version"])?))).collect()
    }

    /// What is served without a part of what its rules ask for.
    pub fn not_enforced(&self) -> Vec<String> {
        let list = self.0["not_enforced"].as_array().cloned().unwrap_or_default();
        list.iter().map(|entry| entry.as_str().map_or_else(|| entry.to_string(), str::to_owned)).collect()
    }
}

/// The sum of the series of a metric whose labels hold all of `labels` (`response_code="200"`), in Prometheus' text.
pub fn metric(text: &str, name: &str, labels: &[&str]) -> f64 {
    let samples = text.lines().filter(|line| {
        let rest = line.strip_prefix(name).unwrap_or_default();
        rest.starts_with(['{', ' ']) && labels.iter().all(|label| rest.contains(label))
    });
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_of_the_series_that_have_the_labels() {
        let text = "# HELP a_total x\na_total{code=\"200\",flags=\"-\"} 3\na_total{code=\"503\",flags=\"UH\"} 2\na_total_x 9\nb 4\n";
        assert_eq!(metric(text, "a_total", &[]), 5.0);
        assert_eq!(metric(text, "a_total", &["flags=\"UH\""]), 2.0);
        assert_eq!(metric(text, "b", &[]), 4.0);
        assert_eq!(metric(text, "c", &[]), 0.0);
    }
}
