//! What the three kinds of `security.istio.io` share: whom a rule is for.

use super::findings::Findings;
use super::values::is_host;
use crate::diagnostic::codes;
use crate::rules::{LabelSelector, Path, PolicyTargetReference};

/// A selector, or gateways and waypoints; not both.
pub(super) fn check_scope(
    selector: Option<&LabelSelector>,
    target: Option<&PolicyTargetReference>,
    targets: &[PolicyTargetReference],
    path: &Path,
    found: &mut Findings,
) {
    if let Some(selector) = selector {
        check_selector(selector, path, found);
    }
    let single = target.map(|target| (path.key("targetRef"), target));
    let several = targets.iter().enumerate().map(|(at, target)| (path.key("targetRefs").index(at), target));
    for (path, target) in single.into_iter().chain(several) {
        check_target(target, &path, found);
    }
    let given =
        [("selector", selector.is_some()), ("targetRef", target.is_some()), ("targetRefs", !targets.is_empty())];
    let given: Vec<&str> = given.into_iter().filter(|(_, is_set)| *is_set).map(|(field, _)| field).collect();
    let last = given.last().copied().unwrap_or_default();
    match given.as_slice() {
        [] | ["selector"] => {}
        [_] => {
            let message = "the rule is for gateways and waypoints, so no sidecar follows it";
            found
                .add(codes::NO_EFFECT, &path.key(last), message)
                .on_key()
                .help("write `selector` for the workloads that it is to protect");
        }
        [first, ..] => {
            let message = format!("`{last}` stands beside `{first}`");
            found.add(codes::EXCLUSIVE, &path.key(last), message).on_key().help("remove one of the two");
        }
    }
}

/// Labels of workloads.
pub(super) fn check_selector(selector: &LabelSelector, path: &Path, found: &mut Findings) {
    let path = path.key("selector");
    found.labels(&path.key("matchLabels"), &selector.match_labels);
    if selector.match_labels.is_empty() {
        let message = "the selector asks for no label, so the rule is for all workloads";
        found.add(codes::NO_EFFECT, &path, message).on_key().help("remove it, or add `matchLabels`");
    }
}

fn check_target(target: &PolicyTargetReference, path: &Path, found: &mut Findings) {
    let PolicyTargetReference { group, kind, name, namespace } = target;
    let is_kind = kind.starts_with(|c: char| c.is_ascii_alphabetic())
        && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && kind.len() <= 63;
    if kind.is_empty() {
        found.add(codes::REQUIRED, path, "the target has no kind").help("add `kind`");
    } else if !is_kind {
        found.add(codes::POLICY, &path.key("kind"), format!("`{kind}` is not a kind"));
    }
    if name.is_empty() {
        found.add(codes::REQUIRED, path, "the target has no name").help("add `name`");
    }
    if let Some(group) = group.as_deref().filter(|group| !group.is_empty() && (!is_host(group) || group.contains('_')))
    {
        found.add(codes::POLICY, &path.key("group"), format!("`{group}` is not a group of kinds"));
    }
    if let Some(namespace) = namespace.as_deref().filter(|namespace| !namespace.is_empty()) {
        let message = format!("the target is in namespace `{namespace}`, and a rule holds in its own alone");
        found.add(codes::POLICY, &path.key("namespace"), message).help("remove it, and write the rule there");
    }
}
