//! Other meshes' injectors in the same cluster, known by their MutatingWebhookConfigurations.
//!
//! What counts is what the API server does: a pod that another mesh's injector is called for gets that mesh's sidecar,
//! whatever labels were meant. So the selectors are evaluated as the API server evaluates them, and the names of labels,
//! revisions and tags (`istio-revision-tag-stable`) need not be known here. Webhooks that change pods for other ends (policy
//! engines, certificates) are nobody's rivals, so that only injectors are looked at that are known by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

/// Mesh, and how the names of its webhooks end.
const INJECTORS: [(&str, &str); 5] = [
    ("Istio", "sidecar-injector.istio.io"),
    ("Linkerd", "linkerd-proxy-injector.linkerd.io"),
    ("Consul", "connect-injector.consul.hashicorp.com"),
    ("Kuma", "kuma-injector.kuma.io"),
    ("Open Service Mesh", "osm-inject.k8s.io"),
];

/// The label that every namespace has.
const NAME: &str = "kubernetes.io/metadata.name";

/// The injectors of other meshes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Others(Vec<Injector>);

/// One webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Injector {
    /// The mesh.
    who: &'static str,
    /// Name of the configuration.
    configuration: String,
    namespaces: Selector,
    pods: Selector,
}

/// An injector that takes a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken<'a> {
    /// The mesh.
    pub(crate) who: &'static str,
    /// Name of its MutatingWebhookConfiguration.
    pub(crate) configuration: &'a str,
}

impl Others {
    /// Of MutatingWebhookConfigurations, ours among them.
    pub(crate) fn read<'a>(configurations: impl IntoIterator<Item = &'a Value>) -> Self {
        let of_one = |configuration: &'a Value| {
            let name = configuration.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            let webhooks = configuration.get("webhooks").and_then(Value::as_array).into_iter().flatten();
            webhooks.filter_map(move |webhook| Injector::read(name, webhook))
        };
        Self(configurations.into_iter().flat_map(of_one).collect())
    }

    /// The first that the API server calls for a pod with these labels, in a namespace with those.
    pub(crate) fn taking(
        &self,
        pod: &BTreeMap<String, String>,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Option<Taken<'_>> {
        let mut labels = labels.clone();
        labels.insert(NAME.to_owned(), namespace.to_owned());
        let takes = |injector: &&Injector| injector.namespaces.selects(&labels) && injector.pods.selects(pod);
        let found = self.0.iter().find(takes)?;
        Some(Taken { who: found.who, configuration: &found.configuration })
    }
}

/// For people: who, by which configurations.
impl fmt::Display for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: BTreeSet<String> =
            self.0.iter().map(|injector| format!("{} ({})", injector.who, injector.configuration)).collect();
        match named.is_empty() {
            true => f.write_str("none"),
            false => f.write_str(&named.into_iter().collect::<Vec<_>>().join(", ")),
        }
    }
}

impl Injector {
    /// `None`: it is no injector that is known, or is not called when pods are made.
    fn read(configuration: &str, webhook: &Value) -> Option<Self> {
        let name = webhook.get("name")?.as_str()?;
        let (who, _) = INJECTORS.iter().find(|(_, end)| name.ends_with(end))?;
        let has = |rule: &Value, field: &str, word: &str| {
            let mut words = rule.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
            words.any(|it| it == word || it == "*")
        };
        let mut rules = webhook.get("rules").and_then(Value::as_array).into_iter().flatten();
        let is_called = rules.any(|rule| has(rule, "resources", "pods") && has(rule, "operations", "CREATE"));
        is_called.then(|| Self {
            who,
            configuration: configuration.to_owned(),
            namespaces: Selector::read(webhook.get("namespaceSelector")),
            pods: Selector::read(webhook.get("objectSelector")),
        })
    }
}

/// A `LabelSelector`: all requirements have to hold, and where there is none, everything is selected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Selector(Vec<(String, Needs)>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Needs {
    OneOf(Vec<String>),
    NoneOf(Vec<String>),
    Some,
    Nothing,
    /// An operator that is not known: as if it held, so that a rival is rather seen than not.
    Unknown,
}

impl Selector {
    fn read(selector: Option<&Value>) -> Self {
        let Some(selector) = selector else { return Self::default() };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let labels = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
        let equal = labels.map(|(key, value)| (key.clone(), Needs::OneOf(vec![text(value)])));
        let expressions = selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten();
        let expressions = expressions.map(|expression| {
            let values = || {
                let values = expression.get("values").and_then(Value::as_array);
                values.into_iter().flatten().map(text).collect()
            };
            let needs = match expression.get("operator").and_then(Value::as_str) {
                Some("In") => Needs::OneOf(values()),
                Some("NotIn") => Needs::NoneOf(values()),
                Some("Exists") => Needs::Some,
                Some("DoesNotExist") => Needs::Nothing,
                Some(_) | None => Needs::Unknown,
            };
            (expression.get("key").map(text).unwrap_or_default(), needs)
        });
        Self(equal.chain(expressions).collect())
    }

    fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(key, needs)| match (labels.get(key), needs) {
            (Some(value), Needs::OneOf(values)) => values.contains(value),
            // A label that is not there is none of them (apimachinery `labels.Requirement.Matches`).
            (Some(value), Needs::NoneOf(values)) => !values.contains(value),
            (None, Needs::NoneOf(_) | Needs::Nothing) | (Some(_), Needs::Some) | (_, Needs::Unknown) => true,
            (None, Needs::OneOf(_) | Needs::Some) | (Some(_), Needs::Nothing) => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As Istio's chart has them (1.27, `istiod/templates/mutatingwebhook.yaml` and `revision-tags.yaml`), in short.
    fn istio() -> Others {
        let rules =
            json!([{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]);
        let is =
            |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
        let webhook = |name: &str, namespaces: Value, pods: Value| {
            json!({
                "name": format!("{name}.sidecar-injector.istio.io"), "rules": rules,
                "namespaceSelector": {"matchExpressions": namespaces}, "objectSelector": {"matchExpressions": pods},
            })
        };
        let not_out = is("sidecar.istio.io/inject", "NotIn", &["false"]);
        let of_default = json!({
            "metadata": {"name": "istio-sidecar-injector"},
            "webhooks": [
                webhook("namespace", json!([is("istio-injection", "In", &["enabled"])]), json!([not_out])),
                webhook(
                    "object",
                    json!([is("istio-injection", "DoesNotExist", &[]), is("istio.io/rev", "DoesNotExist", &[])]),
                    json!([is("sidecar.istio.io/inject", "In", &["true"]), is("istio.io/rev", "DoesNotExist", &[])]),
                ),
            ],
        });
        let of_tag = json!({
            "metadata": {"name": "istio-revision-tag-stable"},
            "webhooks": [webhook(
                "rev.namespace",
                json!([is("istio.io/rev", "In", &["stable"]), is("istio-injection", "DoesNotExist", &[])]),
                json!([not_out]),
            )],
        });
        let of_others = json!({
            "metadata": {"name": "policy"},
            "webhooks": [{"name": "mutate.policy.example", "rules": rules, "namespaceSelector": {}}],
        });
        let ours =
            crate::kubernetes::webhook::configurations::mutating(crate::kubernetes::webhook::configurations::Target {
                namespace: "leno-system",
                service: "leno",
                port: 443,
                ca: None,
            });
        Others::read([&of_default, &of_tag, &of_others, &ours])
    }

    #[test]
    fn an_injector_takes_what_its_selectors_select() {
        let others = istio();
        type Words<'a> = &'a [(&'a str, &'a str)];
        let rows: [(Words<'_>, Words<'_>, Option<&str>); 9] = [
            (&[], &[], None),
            (&[("leno.mesh/inject", "enabled")], &[], None),
            (&[("istio-injection", "enabled")], &[], Some("istio-sidecar-injector")),
            (&[("istio-injection", "enabled")], &[("sidecar.istio.io/inject", "false")], None),
            (&[("istio-injection", "disabled")], &[("sidecar.istio.io/inject", "true")], None),
            (&[], &[("sidecar.istio.io/inject", "true")], Some("istio-sidecar-injector")),
            (&[("istio.io/rev", "stable")], &[], Some("istio-revision-tag-stable")),
            (&[("istio.io/rev", "canary")], &[], None),
            (&[("istio.io/rev", "stable"), ("istio-injection", "disabled")], &[], None),
        ];
        let map = |words: Words<'_>| words.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        for (namespace, pod, expected) in rows {
            let found = others.taking(&map(pod), "shop", &map(namespace));
            assert_eq!(found.map(|taken| taken.configuration), expected, "{namespace:?} {pod:?}");
            assert!(found.is_none_or(|taken| taken.who == "Istio"));
        }
    }

    #[test]
    fn a_webhook_that_is_not_called_for_new_pods_takes_none() {
        let webhook = |rules: Value| {
            let webhook = json!({"name": "a.sidecar-injector.istio.io", "rules": rules});
            Others::read([&json!({"metadata": {"name": "a"}, "webhooks": [webhook]})])
        };
        let none = BTreeMap::new();
        for (rules, takes) in [
            (json!([{"operations": ["CREATE"], "resources": ["pods"]}]), true),
            (json!([{"operations": ["*"], "resources": ["*"]}]), true),
            (json!([{"operations": ["UPDATE"], "resources": ["pods"]}]), false),
            (json!([{"operations": ["CREATE"], "resources": ["services"]}]), false),
            (json!([]), false),
        ] {
            assert_eq!(webhook(rules.clone()).taking(&none, "shop", &none).is_some(), takes, "{rules}");
        }
    }
}
