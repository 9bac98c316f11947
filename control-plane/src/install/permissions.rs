//! What the control plane may do in a cluster: read what it routes by, write where a rule stands, and its own few objects.
//!
//! Nothing is granted with a wildcard. Secrets and Leases are its own namespace's alone, and named where Kubernetes lets
//! them be named (a name cannot restrict `create`).

use serde_json::{Value, json};

use leno_config::rules::schema;

/// Group of the webhook configurations.
const WEBHOOKS: &str = "admissionregistration.k8s.io";

/// Rules of the ClusterRole.
pub(crate) fn of_cluster() -> Vec<Value> {
    const READ: [&str; 2] = ["list", "watch"];
    let mut rules = vec![
        rule(&[""], &["services", "pods", "nodes", "namespaces"], &READ),
        // A pod may be made before the watch has told of its namespace.
        rule(&[""], &["namespaces"], &["get"]),
        rule(&["discovery.k8s.io"], &["endpointslices"], &READ),
        rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
        // The mesh's roots, in every namespace with sidecars.
        rule(&[""], &["configmaps"], &["create"]),
        named(rule(&[""], &["configmaps"], &["list", "watch", "patch"]), &["leno-ca-root-cert"]),
        // Other meshes' injectors, which are left their pods, and the caBundle of the own webhooks.
        rule(&[WEBHOOKS], &["mutatingwebhookconfigurations"], &["list", "watch"]),
        named(rule(&[WEBHOOKS], &["mutatingwebhookconfigurations"], &["patch"]), &["leno-injector"]),
        named(
            rule(&[WEBHOOKS], &["validatingwebhookconfigurations"], &["list", "watch", "patch"]),
            &["leno-validator"],
        ),
    ];
    let mut groups: Vec<(&str, Vec<String>)> = Vec::new();
    for kind in schema::custom_kinds() {
        match groups.iter_mut().find(|(group, _)| *group == kind.group) {
            Some((_, plurals)) => plurals.push(kind.plural()),
            None => groups.push((kind.group, vec![kind.plural()])),
        }
    }
    for (group, plurals) in groups {
        let resources: Vec<&str> = plurals.iter().map(String::as_str).collect();
        rules.push(rule(&[group], &resources, &READ));
        let statuses: Vec<String> = plurals.iter().map(|plural| format!("{plural}/status")).collect();
        let statuses: Vec<&str> = statuses.iter().map(String::as_str).collect();
        rules.push(rule(&[group], &statuses, &["patch"]));
    }
    rules
}

/// Rules of the Role in its own namespace.
pub(crate) fn of_namespace() -> Vec<Value> {
    vec![
        rule(&["coordination.k8s.io"], &["leases"], &["create"]),
        named(rule(&["coordination.k8s.io"], &["leases"], &["get", "list", "watch", "update"]), &["leno-leader"]),
        rule(&[""], &["secrets"], &["create"]),
        named(rule(&[""], &["secrets"], &["get", "list", "watch", "update"]), &["leno-ca", "leno-webhook"]),
    ]
}

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": groups, "resources": resources, "verbs": verbs })
}

fn named(mut rule: Value, names: &[&str]) -> Value {
    rule["resourceNames"] = json!(names);
    rule
}
