//! Rules that look as if they were meant for the whole mesh and hold for one namespace.
//!
//! A rule without a selector is for its namespace, and in the root namespace for the mesh. Which namespace that is, is a
//! setting; what people copy from a page says `istio-system`. Nobody selects workloads of a control plane's namespace by
//! a rule for all of it, so that there, or under a name that says so, the mesh was meant; and a protection that holds
//! for one namespace while its author believes in all of them is worse than none that is known to be missing.

use super::findings::Findings;
use super::index::Index;
use crate::diagnostic::codes;
use crate::rules::{Document, Path, Rule};

/// Where control planes are installed, and their rules for the whole mesh with them.
const ROOTS: [&str; 3] = ["istio-system", "istio-config", "leno-system"];
/// What people call a rule that is for everybody.
const NAMES: [&str; 5] = ["mesh-wide", "meshwide", "mesh-default", "default-mesh", "global"];

pub(super) fn check(document: &Document, index: &Index<'_>, found: &mut Findings) {
    let (namespace, name) = (document.id.namespace.as_str(), document.id.name.as_str());
    let root = index.root_namespace();
    if namespace == root || !is_for_all(&document.rule) {
        return;
    }
    let lower = name.to_ascii_lowercase();
    let why = if ROOTS.contains(&namespace) {
        format!("stands in `{namespace}`, where rules for the whole mesh often are")
    } else if NAMES.iter().any(|word| lower.contains(word)) {
        format!("is called `{name}`")
    } else {
        return;
    };
    let kind = &document.id.kind;
    let message = format!("this {kind} {why}, but it holds for the namespace `{namespace}` alone");
    found.add(codes::NOT_MESH_WIDE, &Path::root().key("metadata").key("namespace"), message).help(format!(
        "rules for the whole mesh stand in `{root}`; MeshConfig's `rootNamespace` says which namespace that is"
    ));
}

/// Whether a rule is for all workloads of its namespace, and in the root namespace for all of the mesh.
fn is_for_all(rule: &Rule) -> bool {
    match rule {
        Rule::PeerAuthentication(rule) => rule.spec.labels().is_none(),
        Rule::AuthorizationPolicy(rule) => {
            let selector = rule.spec.selector.as_ref();
            !rule.spec.has_targets() && selector.is_none_or(|selector| selector.match_labels.is_empty())
        }
        Rule::RequestAuthentication(rule) => {
            let selector = rule.spec.selector.as_ref();
            !rule.spec.has_targets() && selector.is_none_or(|selector| selector.match_labels.is_empty())
        }
        Rule::RateLimit(rule) => rule.spec.selector.as_ref().is_none_or(|selector| selector.match_labels.is_empty()),
        Rule::Sidecar(rule) => rule.spec.workload_selector.as_ref().is_none_or(|selector| selector.labels.is_empty()),
        Rule::DestinationRule(rule) => rule.spec.host.starts_with('*') && rule.spec.workload_selector.is_none(),
        Rule::VirtualService(_)
        | Rule::ServiceEntry(_)
        | Rule::WorkloadEntry(_)
        | Rule::MeshConfig(_)
        | Rule::HealthCheck(_)
        | Rule::Service(_)
        | Rule::EndpointSlice(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::rules::{SourceText, parse};
    use crate::validate::check;

    fn found(namespace: &str, name: &str, spec: &str, config: &str) -> Option<String> {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {spec}\n{config}"
        );
        let parsed = parse(&[SourceText { name: "a.yaml".into(), text: text.into_bytes() }]);
        let finding = check(&parsed).into_iter().find(|finding| finding.code == "L0214")?;
        Some(format!("{} ({})", finding.message, finding.help.unwrap_or_default()))
    }

    const STRICT: &str = "{mtls: {mode: STRICT}}";

    #[test]
    fn a_rule_for_all_beside_the_root_namespace_is_pointed_out_where_the_mesh_was_meant() {
        let root = "---\napiVersion: leno.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\n\
                    spec: {rootNamespace: leno-system}\n";
        let selecting = "{selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}}";
        for (namespace, name, spec, config, expected) in [
            ("leno-system", "default", STRICT, "", true),
            ("istio-system", "default", STRICT, "", false),
            ("istio-system", "default", STRICT, root, true),
            ("leno-system", "default", STRICT, root, false),
            ("leno-system", "default", selecting, "", false),
            ("shop", "default", STRICT, "", false),
            ("shop", "mesh-wide-strict", STRICT, "", true),
        ] {
            assert_eq!(found(namespace, name, spec, config).is_some(), expected, "{namespace}/{name} {spec} {config}");
        }
    }

    #[test]
    fn the_finding_says_where_such_a_rule_belongs() {
        assert_eq!(
            found("leno-system", "default", STRICT, "").as_deref(),
            Some(
                "this PeerAuthentication stands in `leno-system`, where rules for the whole mesh often are, but it holds for \
                 the namespace `leno-system` alone (rules for the whole mesh stand in `istio-system`; MeshConfig's \
                 `rootNamespace` says which namespace that is)"
            )
        );
    }
}
