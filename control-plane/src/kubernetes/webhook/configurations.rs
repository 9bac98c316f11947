//! The two objects by which the API server knows the webhooks. `leno install` prints them, the tests register them.
//!
//! Whom a webhook is called for, labels decide, since selectors see nothing else. Where a label says that a pod belongs
//! to the mesh, a pod without a sidecar would run outside of it unnoticed: such pods are refused while no control plane
//! answers (`failurePolicy: Fail`). Annotations count too, but for them the webhook has to be called for every other pod
//! of the cluster, and no pod of a stranger may wait for this mesh: there a silent control plane is passed over
//! (`Ignore`) after [`PASSING_TIMEOUT`] seconds. Kubernetes' own namespaces and the control plane's are never asked about.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The MutatingWebhookConfiguration.
pub(crate) const INJECTOR: &str = "leno-injector";
/// The ValidatingWebhookConfiguration.
pub(crate) const VALIDATOR: &str = "leno-validator";

/// Seconds for an answer where a failure is a refusal: what Kubernetes gives by itself.
pub(crate) const TIMEOUT: u32 = 10;
/// Seconds where a failure is passed over.
const PASSING_TIMEOUT: u32 = 2;

/// Groups of rules.
const GROUPS: [&str; 3] = ["networking.istio.io", "security.istio.io", "leno.mesh"];

/// Namespaces that injection never touches.
const SYSTEM: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

const OURS: &str = "leno.mesh/inject";
const ISTIO_NAMESPACE: &str = "istio-injection";
const ISTIO_POD: &str = "sidecar.istio.io/inject";

/// Where the API server finds the webhooks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    /// Of the Service `leno`, and the control plane.
    pub(crate) namespace: &'a str,
    pub(crate) service: &'a str,
    /// The Service's port.
    pub(crate) port: u16,
    /// PEM. `None`: the leader fills it in; until then the API server believes nobody.
    pub(crate) ca: Option<&'a str>,
}

/// Who is called when a pod is made.
pub(crate) fn mutating(target: Target<'_>) -> Value {
    let out = |key: &str, values: &[&str]| selector(key, "NotIn", values);
    let absent = |key: &str| json!({ "key": key, "operator": "DoesNotExist" });
    let named = |key: &str, value: &str| selector(key, "In", &[value]);
    // A pod that says no is not asked about, in whatever namespace.
    let not_out = [out(OURS, &["disabled"]), out(ISTIO_POD, &["false"])];
    let unsaid = [out(OURS, &["enabled"]), out(ISTIO_NAMESPACE, &["enabled"])];
    let no_wish = [absent(OURS), absent(ISTIO_POD)];
    let of_pods = |name: &str, namespaces: &[Value], pods: &[Value], policy: &str, timeout: u32| {
        let mut namespaces = namespaces.to_vec();
        let never = SYSTEM.iter().copied().chain([target.namespace]).collect::<Vec<_>>();
        namespaces.push(out("kubernetes.io/metadata.name", &never));
        json!({
            "name": format!("{name}.inject.leno.mesh"),
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "reinvocationPolicy": "IfNeeded",
            "matchPolicy": "Equivalent",
            "failurePolicy": policy,
            "timeoutSeconds": timeout,
            "clientConfig": client(target, "/inject"),
            "rules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"],
                "scope": "Namespaced",
            }],
            "namespaceSelector": { "matchExpressions": namespaces },
            "objectSelector": { "matchExpressions": pods },
        })
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": metadata(INJECTOR),
        "webhooks": [
            of_pods("namespace", &[named(OURS, "enabled")], &not_out, "Fail", TIMEOUT),
            of_pods("istio-namespace", &[named(ISTIO_NAMESPACE, "enabled"), absent(OURS)], &not_out, "Fail", TIMEOUT),
            of_pods("pod", &[out(OURS, &["enabled"])], &[named(OURS, "enabled")], "Fail", TIMEOUT),
            of_pods(
                "istio-pod",
                &[out(OURS, &["enabled"])],
                &[named(ISTIO_POD, "true"), absent(OURS)],
                "Fail",
                TIMEOUT,
            ),
            of_pods("annotation", &unsaid, &no_wish, "Ignore", PASSING_TIMEOUT),
        ],
    })
}

/// Who is called when a rule is written. While no control plane answers, rules are taken as they come: they are looked at
/// again when one reads them, and their status says what is wrong.
pub(crate) fn validating(target: Target<'_>) -> Value {
    // A kind that Leno does not read is taken, with a word about that.
    let rules = GROUPS.map(|group| {
        json!({
            "apiGroups": [group], "apiVersions": ["*"], "resources": ["*"],
            "operations": ["CREATE", "UPDATE"], "scope": "Namespaced",
        })
    });
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": metadata(VALIDATOR),
        "webhooks": [{
            "name": "rules.validate.leno.mesh",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "matchPolicy": "Equivalent",
            "failurePolicy": "Ignore",
            "timeoutSeconds": TIMEOUT,
            "clientConfig": client(target, "/validate"),
            "rules": rules,
        }],
    })
}

#[expect(clippy::indexing_slicing, reason = "an object that was made here")]
fn client(target: Target<'_>, path: &str) -> Value {
    let Target { namespace, service, port, ca } = target;
    let mut client = json!({ "service": { "namespace": namespace, "name": service, "port": port, "path": path } });
    if let Some(ca) = ca {
        client["caBundle"] = STANDARD.encode(ca).into();
    }
    client
}

fn selector(key: &str, operator: &str, values: &[&str]) -> Value {
    json!({ "key": key, "operator": operator, "values": values })
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "labels": { "app.kubernetes.io/name": "leno", "app.kubernetes.io/managed-by": "leno" },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const TARGET: Target<'_> = Target { namespace: "leno-system", service: "leno", port: 443, ca: Some("PEM") };

    /// As the API server selects: all expressions have to hold.
    fn selects(selector: &Value, labels: &BTreeMap<&str, &str>) -> bool {
        selector["matchExpressions"].as_array().unwrap().iter().all(|expression| {
            let label = labels.get(expression["key"].as_str().unwrap());
            let is_in =
                || expression["values"].as_array().unwrap().iter().any(|value| value.as_str() == label.copied());
            match expression["operator"].as_str().unwrap() {
                "In" => is_in(),
                "NotIn" => !is_in(),
                "DoesNotExist" => label.is_none(),
                operator => panic!("{operator}"),
            }
        })
    }

    #[test]
    fn each_pod_has_one_webhook_at_most_and_a_failure_refuses_where_a_label_says_so() {
        let configuration = mutating(TARGET);
        type Words<'a> = &'a [(&'a str, &'a str)];
        let rows: [(&str, Words<'_>, Words<'_>, Option<&str>); 15] = [
            ("shop", &[(OURS, "enabled")], &[], Some("Fail")),
            ("shop", &[(OURS, "enabled")], &[(OURS, "enabled")], Some("Fail")),
            ("shop", &[(OURS, "enabled")], &[(OURS, "disabled")], None),
            ("shop", &[(OURS, "enabled")], &[(ISTIO_POD, "false")], None),
            ("shop", &[(ISTIO_NAMESPACE, "enabled")], &[], Some("Fail")),
            ("shop", &[(ISTIO_NAMESPACE, "enabled"), (OURS, "disabled")], &[], None),
            ("shop", &[(OURS, "disabled")], &[(OURS, "enabled")], Some("Fail")),
            ("shop", &[], &[(OURS, "enabled")], Some("Fail")),
            ("shop", &[], &[(ISTIO_POD, "true")], Some("Fail")),
            ("shop", &[], &[(ISTIO_POD, "true"), (OURS, "disabled")], None),
            ("shop", &[], &[], Some("Ignore")),
            ("shop", &[(ISTIO_NAMESPACE, "disabled")], &[], Some("Ignore")),
            ("kube-system", &[(OURS, "enabled")], &[(OURS, "enabled")], None),
            ("leno-system", &[], &[], None),
            ("leno-system", &[(ISTIO_NAMESPACE, "enabled")], &[], None),
        ];
        for (name, namespace, pod, expected) in rows {
            let mut of_namespace: BTreeMap<_, _> = namespace.iter().copied().collect();
            of_namespace.insert("kubernetes.io/metadata.name", name);
            let of_pod = pod.iter().copied().collect();
            let called = configuration["webhooks"].as_array().unwrap().iter().filter(|webhook| {
                selects(&webhook["namespaceSelector"], &of_namespace) && selects(&webhook["objectSelector"], &of_pod)
            });
            let policies: Vec<_> = called.map(|webhook| webhook["failurePolicy"].as_str().unwrap()).collect();
            // A pod and its namespace may both say yes: then it is the injector that is idempotent.
            assert_eq!(policies.first().copied(), expected, "{name} {namespace:?} {pod:?}");
            assert!(policies.len() <= 2 && policies.iter().all(|it| Some(*it) == expected), "{namespace:?} {pod:?}");
        }
    }

    #[test]
    fn every_group_of_rules_is_validated_and_both_webhooks_name_the_ca() {
        let configuration = validating(TARGET);
        let rules = configuration["webhooks"][0]["rules"].as_array().unwrap();
        let groups: Vec<_> = rules.iter().map(|rule| rule["apiGroups"][0].as_str().unwrap()).collect();
        assert_eq!(groups, GROUPS);
        for configuration in [mutating(TARGET), configuration] {
            for webhook in configuration["webhooks"].as_array().unwrap() {
                assert_eq!(webhook["clientConfig"]["caBundle"], STANDARD.encode("PEM"));
                assert_eq!(webhook["sideEffects"], "None");
            }
        }
        assert!(mutating(Target { ca: None, ..TARGET })["webhooks"][0]["clientConfig"]["caBundle"].is_null());
    }
}
