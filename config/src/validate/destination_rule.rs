//! `DestinationRule` by itself.

use super::findings::{Findings, spec};
use super::traffic_policy;
use super::values::Wildcard;
use crate::diagnostic::codes;
use crate::rules::{DestinationRule, LOAD_BALANCER_ANNOTATION, PEAK_EWMA, Path, Resource, SimpleLb};

pub(super) fn check(written: &Resource<DestinationRule>, found: &mut Findings) {
    check_annotation(written, found);
    let rule = &written.spec;
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

/// The one annotation with a meaning. It replaces what is `simple`, and nothing else.
fn check_annotation(written: &Resource<DestinationRule>, found: &mut Findings) {
    let Some(word) = written.metadata.annotations.get(LOAD_BALANCER_ANNOTATION) else { return };
    let path = Path::root().key("metadata").key("annotations").key(LOAD_BALANCER_ANNOTATION);
    if word != PEAK_EWMA {
        let message = format!("`{word}` is not a policy that is asked for here, so the rule's own counts");
        found.add(codes::NO_EFFECT, &path, message).help(format!("write `{PEAK_EWMA}`, or remove the annotation"));
    }
    let balancer = written.spec.traffic_policy.as_ref().and_then(|policy| policy.load_balancer.as_ref());
    let stands = |field: &str| format!("`{field}` stands in the rule and goes before it");
    let stronger = balancer.and_then(|balancer| match (&balancer.consistent_hash, balancer.simple) {
        (Some(_), _) => Some(stands("consistentHash")),
        (None, Some(SimpleLb::Passthrough)) => Some(stands("simple: PASSTHROUGH")),
        (None, _) => None,
    });
    if let Some(message) = stronger {
        found.add(codes::NO_EFFECT, &path, message).help("remove one of the two");
    }
}
