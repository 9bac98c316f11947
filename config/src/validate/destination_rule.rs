//! `DestinationRule` by itself.

use super::findings::{Findings, spec};
use super::traffic_policy;
use super::values::Wildcard;
use crate::rules::DestinationRule;

pub(super) fn check(rule: &DestinationRule, found: &mut Findings) {
    let spec = spec();
    found.host(&spec.key("host"), &rule.host, Wildcard::Allowed);
    if let Some(policy) = &rule.traffic_policy {
        traffic_policy::check(policy, &spec.key("trafficPolicy"), found);
    }
    let path = spec.key("subsets");
    for (index, subset) in rule.subsets.iter().enumerate() {
        let path = path.index(index);
        found.subset_name(&path.key("name"), &subset.name);
        found.labels(&path.key("labels"), &subset.labels);
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy::check(policy, &path.key("trafficPolicy"), found);
        }
    }
    let names = rule.subsets.iter().enumerate();
    found.unique(names.map(|(index, subset)| (path.index(index).key("name"), subset.name.as_str())));
    found.export_to(&spec.key("exportTo"), &rule.export_to);
    if let Some(selector) = &rule.workload_selector {
        found.labels(&spec.key("workloadSelector").key("matchLabels"), &selector.match_labels);
    }
}
