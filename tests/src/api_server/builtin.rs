//! Kubernetes' own kinds: what a new object is given, and what is refused.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::definitions;
use super::kinds::{Kind, WEBHOOKS};
use super::pods::{self, set};
use super::state::State;
use super::status::Cause;

/// Defaults of an object, as they are written into it before anybody sees it.
pub(super) fn fill_in(state: &State, kind: &Kind, object: &mut Value) {
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") => pods::fill_in_pod(object),
        ("", "services") => fill_in_service(state, object),
        ("", "secrets") => fill_in_secret(object),
        ("apps", "deployments") => {
            fill_in_workload(object);
            let limits = json!({"maxUnavailable": "25%", "maxSurge": "25%"});
            for (field, default) in [
                ("replicas", json!(1)),
                ("strategy", json!({"type": "RollingUpdate", "rollingUpdate": limits})),
                ("revisionHistoryLimit", json!(10)),
                ("progressDeadlineSeconds", json!(600)),
            ] {
                set(&mut object["spec"], field, default);
            }
        }
        ("apps", "replicasets" | "statefulsets") => {
            fill_in_workload(object);
            set(&mut object["spec"], "replicas", json!(1));
        }
        ("apps", "daemonsets") | ("batch", "jobs") => fill_in_workload(object),
        ("batch", "cronjobs") => fill_in_workload(&mut object["spec"]["jobTemplate"]),
        ("discovery.k8s.io", "endpointslices") => {
            for port in object.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                set(port, "name", json!(""));
                set(port, "protocol", json!("TCP"));
            }
        }
        (WEBHOOKS, plural) => fill_in_webhooks(plural, object),
        _ => {}
    }
}

/// What is wrong with an object.
pub(super) fn check(state: &State, kind: &Kind, object: &Value) -> Vec<Cause> {
    if definitions::defines(kind) {
        return definitions::check(object);
    }
    if kind.is("discovery.k8s.io", "endpointslices") {
        return check_addresses(state, object);
    }
    if kind.is("", "pods") && object["spec"]["containers"].as_array().is_none_or(Vec::is_empty) {
        return vec![Cause::required("spec.containers")];
    }
    Vec::new()
}

fn fill_in_workload(object: &mut Value) {
    pods::fill_in_template(&mut object["spec"]["template"]);
}

/// A secret is kept in base64, in whichever way it was written.
fn fill_in_secret(secret: &mut Value) {
    use base64::Engine as _;
    set(secret, "type", json!("Opaque"));
    let plain = secret.as_object_mut().and_then(|fields| fields.remove("stringData"));
    for (key, text) in plain.iter().filter_map(Value::as_object).flatten() {
        let text = text.as_str().unwrap_or_default();
        secret["data"][key] = json!(base64::engine::general_purpose::STANDARD.encode(text));
    }
}

fn fill_in_service(state: &State, service: &mut Value) {
    let spec = &mut service["spec"];
    for (field, default) in
        [("type", json!("ClusterIP")), ("sessionAffinity", json!("None")), ("internalTrafficPolicy", json!("Cluster"))]
    {
        set(spec, field, default);
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        set(port, "protocol", json!("TCP"));
        let number = port["port"].clone();
        set(port, "targetPort", number);
    }
    if spec["type"] == "ExternalName" {
        spec.as_object_mut().into_iter().for_each(|spec| drop(spec.remove("internalTrafficPolicy")));
        return;
    }
    set(spec, "ipFamilies", json!(["IPv4"]));
    set(spec, "ipFamilyPolicy", json!("SingleStack"));
    set(spec, "clusterIP", json!(state.cluster_ip()));
    let address = spec["clusterIP"].clone();
    set(spec, "clusterIPs", json!([address]));
}

fn fill_in_webhooks(plural: &str, configuration: &mut Value) {
    for webhook in configuration.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
        for (field, default) in [
            ("matchPolicy", json!("Equivalent")),
            ("namespaceSelector", json!({})),
            ("objectSelector", json!({})),
            ("failurePolicy", json!("Fail")),
            ("timeoutSeconds", json!(10)),
        ] {
            set(webhook, field, default);
        }
        if plural == "mutatingwebhookconfigurations" {
            set(webhook, "reinvocationPolicy", json!("Never"));
        }
        for rule in webhook.get_mut("rules").and_then(Value::as_array_mut).into_iter().flatten() {
            set(rule, "scope", json!("*"));
        }
        if let Some(service) = webhook["clientConfig"].get_mut("service") {
            set(service, "port", json!(443));
        }
    }
}

/// Addresses that no endpoint may have: Kubernetes would forward to its own machine.
fn check_addresses(state: &State, slice: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let kind = slice["addressType"].as_str().unwrap_or_default();
    for (at, endpoint) in slice["endpoints"].as_array().into_iter().flatten().enumerate() {
        for (number, address) in endpoint["addresses"].as_array().into_iter().flatten().enumerate() {
            let text = address.as_str().unwrap_or_default();
            let why =
                if kind == "FQDN" { wrong_name(text) } else { wrong_address(text, state.settings.loopback_endpoints) };
            let field = format!("endpoints[{at}].addresses[{number}]");
            causes.extend(why.map(|why| Cause::invalid(&field, address, why)));
        }
    }
    causes
}

fn wrong_name(name: &str) -> Option<&'static str> {
    let is_bare = !name.trim_end_matches('.').contains('.');
    is_bare.then_some("should be a domain with at least two segments separated by dots")
}

fn wrong_address(address: &str, allow_loopback: bool) -> Option<&'static str> {
    let Ok(address) = address.parse::<IpAddr>() else {
        return Some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    };
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if address.is_unspecified() {
        Some("may not be unspecified (0.0.0.0 or ::)")
    } else if address.is_loopback() && !allow_loopback {
        Some("may not be in the loopback range (127.0.0.0/8, ::1/128)")
    } else if is_link_local {
        Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    } else if address.is_multicast() {
        Some("may not be in the multicast range (224.0.0.0/4, ff00::/10)")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_plain_text_is_kept_in_base64() {
        let mut secret = json!({"stringData": {"a": "b"}, "data": {"c": "ZA=="}});
        fill_in_secret(&mut secret);
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "Yg==", "c": "ZA=="}}));
    }

    #[test]
    fn endpoints_are_refused_that_lead_to_the_machine_itself() {
        for (address, is_refused) in [
            ("10.1.2.3", false),
            ("2001:db8::1", false),
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("localhost", true),
            ("0.0.0.0", true),
            ("169.254.1.1", true),
        ] {
            assert_eq!(wrong_address(address, false).is_some(), is_refused, "{address}");
        }
        assert_eq!(wrong_address("127.0.0.1", true), None);
        assert_eq!((wrong_name("a.localhost"), wrong_name("localhost").is_some()), (None, true));
    }
}
