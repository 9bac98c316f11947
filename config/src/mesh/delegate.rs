//! Delegates: a rule of one VirtualService hands its requests to the rules of another, one level deep.
//!
//! Every rule of the delegate is merged with the rule that names it: conditions pairwise, so that a request has to
//! fulfil one of each side; what the delegate leaves open (rewrite, timeout, retries, …) it inherits. A pair whose
//! conditions contradict each other, or where the delegate would take more than it was given, is left out (Istio's
//! `mergeHTTPRoute`). A merged rule is the delegate's: its origin points to where its destination is written.

use std::collections::{BTreeMap, HashMap};

use crate::rules::{HttpMatchRequest, StringMatch};

use super::virtual_service::HttpRule;
use super::visibility::Visibility;

/// A VirtualService without hosts.
#[derive(Debug)]
pub(super) struct Delegate {
    pub(super) visibility: Visibility,
    pub(super) rules: Vec<HttpRule>,
}

/// Replaces each rule of a VirtualService in `namespace` that delegates by the rules it delegates to. A delegate that
/// is missing or not visible takes its rule with it.
pub(super) fn merge(
    namespace: &str,
    rules: Vec<HttpRule>,
    delegates: &HashMap<(&str, &str), Delegate>,
) -> Vec<HttpRule> {
    let mut merged = Vec::with_capacity(rules.len());
    for root in rules {
        let Some(reference) = &root.rule.delegate else {
            merged.push(root);
            continue;
        };
        let place = reference.namespace.as_deref().filter(|place| !place.is_empty()).unwrap_or(namespace);
        let Some(delegate) = delegates.get(&(place, reference.name.as_str())) else { continue };
        if delegate.visibility.allows(namespace) {
            // A second level would be a loop waiting to happen; Istio knows one.
            let leaves = delegate.rules.iter().filter(|leaf| leaf.rule.delegate.is_none());
            merged.extend(leaves.filter_map(|leaf| merge_rules(&root, leaf)));
        }
    }
    merged
}

fn merge_rules(HttpRule { rule: root, allowed_in_path, .. }: &HttpRule, leaf: &HttpRule) -> Option<HttpRule> {
    let allowed_in_path = allowed_in_path.and(leaf.allowed_in_path);
    let conditions = merge_conditions(&root.r#match, &leaf.rule.r#match)?;
    let mut rule = leaf.rule.clone();
    rule.r#match = conditions;
    rule.name = join(root.name.as_deref(), leaf.rule.name.as_deref());
    inherit(&mut rule.rewrite, &root.rewrite);
    inherit(&mut rule.direct_response, &root.direct_response);
    inherit(&mut rule.timeout, &root.timeout);
    inherit(&mut rule.retries, &root.retries);
    inherit(&mut rule.fault, &root.fault);
    inherit(&mut rule.mirror, &root.mirror);
    inherit(&mut rule.mirror_percent, &root.mirror_percent);
    inherit(&mut rule.mirror_percentage, &root.mirror_percentage);
    inherit(&mut rule.cors_policy, &root.cors_policy);
    inherit(&mut rule.headers, &root.headers);
    if rule.mirrors.is_empty() {
        rule.mirrors.clone_from(&root.mirrors);
    }
    Some(HttpRule { origin: leaf.origin.clone(), rule, allowed_in_path })
}

fn inherit<T: Clone>(leaf: &mut Option<T>, root: &Option<T>) {
    if leaf.is_none() {
        leaf.clone_from(root);
    }
}

fn join(root: Option<&str>, leaf: Option<&str>) -> Option<String> {
    let text = |name: Option<&str>| name.filter(|name| !name.is_empty()).map(str::to_owned);
    match (text(root), text(leaf)) {
        (Some(root), Some(leaf)) => Some(format!("{root}-{leaf}")),
        (root, leaf) => leaf.or(root),
    }
}

/// Every pair of blocks that do not contradict each other. `None`: some block of the leaf fits no block of the root.
fn merge_conditions(root: &[HttpMatchRequest], leaf: &[HttpMatchRequest]) -> Option<Vec<HttpMatchRequest>> {
    if root.is_empty() || leaf.is_empty() {
        return Some(if root.is_empty() { leaf } else { root }.to_vec());
    }
    let mut merged = Vec::new();
    for leaf in leaf {
        let before = merged.len();
        merged.extend(root.iter().filter(|root| !conflict(root, leaf)).map(|root| merge_blocks(root, leaf)));
        if merged.len() == before {
            return None;
        }
    }
    Some(merged)
}

fn merge_blocks(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> HttpMatchRequest {
    let or = |leaf: &Option<StringMatch>, root: &Option<StringMatch>| leaf.clone().or_else(|| root.clone());
    HttpMatchRequest {
        name: join(root.name.as_deref(), leaf.name.as_deref()),
        uri: or(&leaf.uri, &root.uri),
        scheme: or(&leaf.scheme, &root.scheme),
        method: or(&leaf.method, &root.method),
        authority: or(&leaf.authority, &root.authority),
        headers: union(&root.headers, &leaf.headers),
        port: leaf.port.filter(|&port| port != 0).or(root.port),
        source_labels: union(&root.source_labels, &leaf.source_labels),
        gateways: if leaf.gateways.is_empty() { &root.gateways } else { &leaf.gateways }.clone(),
        query_params: union(&root.query_params, &leaf.query_params),
        ignore_uri_case: leaf.ignore_uri_case.or(root.ignore_uri_case),
        without_headers: union(&root.without_headers, &leaf.without_headers),
        source_namespace: leaf.source_namespace.clone().or_else(|| root.source_namespace.clone()),
        stat_prefix: leaf.stat_prefix.clone().or_else(|| root.stat_prefix.clone()),
    }
}

fn union<T: Clone>(root: &BTreeMap<String, T>, leaf: &BTreeMap<String, T>) -> BTreeMap<String, T> {
    root.iter().chain(leaf).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn conflict(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> bool {
    let texts = [
        (&root.uri, &leaf.uri),
        (&root.scheme, &leaf.scheme),
        (&root.method, &leaf.method),
        (&root.authority, &leaf.authority),
    ];
    let maps = [
        (&root.headers, &leaf.headers),
        (&root.without_headers, &leaf.without_headers),
        (&root.query_params, &leaf.query_params),
    ];
    let ports = (root.port.unwrap_or(0), leaf.port.unwrap_or(0));
    let differs = |key: &String, value: &String| root.source_labels.get(key).is_some_and(|other| other != value);
    texts.iter().any(|(root, leaf)| matches!((root, leaf), (Some(root), Some(leaf)) if contradicts(root, leaf)))
        || maps.iter().any(|(root, leaf)| {
            leaf.iter().any(|(key, leaf)| root.get(key).is_some_and(|root| contradicts(root, leaf)))
        })
        || root.ignore_uri_case.unwrap_or(false) != leaf.ignore_uri_case.unwrap_or(false)
        || (ports.0 != 0 && ports.1 != 0 && ports.0 != ports.1)
        || root
            .source_namespace
            .as_ref()
            .is_some_and(|root| leaf.source_namespace.as_ref().is_some_and(|leaf| leaf != root))
        || leaf.source_labels.iter().any(|(key, value)| differs(key, value))
        || (!root.gateways.is_empty() && leaf.gateways.iter().any(|gateway| !root.gateways.contains(gateway)))
}

/// Whether the leaf's condition is not the root's or a narrower one. What two regular expressions have in common
/// nobody can say in general, so a regular expression goes with nothing else.
fn contradicts(root: &StringMatch, leaf: &StringMatch) -> bool {
    let text = |value: &Option<String>| value.as_deref().filter(|value| !value.is_empty()).map(str::to_owned);
    let kinds = |value: &StringMatch| (text(&value.exact), text(&value.prefix), text(&value.regex));
    match (kinds(root), kinds(leaf)) {
        ((None, None, None), _) | (_, (None, None, None)) => false,
        ((_, _, Some(_)), _) | (_, (_, _, Some(_))) => true,
        ((Some(root), _, _), (leaf, _, _)) => leaf.as_ref() != Some(&root),
        ((None, Some(root), _), (Some(leaf), _, _) | (None, Some(leaf), _)) => !leaf.starts_with(&root),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(written: &str) -> StringMatch {
        serde_yaml::from_str(written).unwrap()
    }

    #[test]
    fn a_delegate_may_narrow_a_condition_but_not_widen_it() {
        for (root, leaf, contradiction) in [
            ("{prefix: /api}", "{prefix: /api/v1}", false),
            ("{prefix: /api}", "{prefix: /}", true),
            ("{prefix: /api}", "{exact: /api/v1}", false),
            ("{prefix: /api}", "{exact: /other}", true),
            ("{exact: /api}", "{exact: /api}", false),
            ("{exact: /api}", "{exact: /other}", true),
            ("{exact: /api}", "{prefix: /api}", true),
            ("{regex: /a.*}", "{prefix: /api}", true),
            ("{prefix: /api}", "{regex: /api.*}", true),
            ("{regex: /a.*}", "{regex: /a.*}", true),
            ("{}", "{exact: yes}", false),
            ("{exact: \"yes\"}", "{}", false),
        ] {
            assert_eq!(contradicts(&text(root), &text(leaf)), contradiction, "{root} {leaf}");
        }
    }

    #[test]
    fn blocks_merge_pairwise_and_a_block_that_fits_nowhere_drops_the_rule() {
        let blocks = |written: &str| serde_yaml::from_str::<Vec<HttpMatchRequest>>(written).unwrap();
        let root = blocks("[{uri: {prefix: /a}, name: a}, {uri: {prefix: /b}, port: 80, name: b}]");
        for (leaf, merged) in [
            ("[{uri: {prefix: /a/1}}]", Some("[{uri: {prefix: /a/1}, name: a}]")),
            (
                "[{method: {exact: GET}, name: get}]",
                Some(
                    "[{uri: {prefix: /a}, method: {exact: GET}, name: a-get}, \
                     {uri: {prefix: /b}, port: 80, method: {exact: GET}, name: b-get}]",
                ),
            ),
            ("[{port: 81}]", Some("[{uri: {prefix: /a}, port: 81, name: a}]")),
            ("[{uri: {prefix: /a/1}}, {uri: {exact: /c}}]", None),
            ("[{uri: {prefix: /a/1}, ignoreUriCase: true}]", None),
        ] {
            assert_eq!(merge_conditions(&root, &blocks(leaf)), merged.map(blocks), "{leaf}");
        }
        assert_eq!(merge_conditions(&root, &[]), Some(root.clone()));
        assert_eq!(merge_conditions(&[], &root), Some(root));
    }
}
