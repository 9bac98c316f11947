use super::*;

fn pod_of(value: Value) -> PlacedPod {
    pod(serde_json::from_value(value).unwrap())
}

fn raw(metadata: Value, spec: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": { "podIP": "10.0.0.1",
        "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } })
}

#[test]
fn a_pod_is_kept_with_its_labels_account_node_and_address() {
    let metadata = json!({ "name": "reviews-v1-7d9f-abcde", "namespace": "shop", "labels": { "app": "reviews",
        "pod-template-hash": "7d9f" }, "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "name": "reviews-v1-7d9f", "uid": "u", "controller": true }] });
    let PlacedPod { pod, node, is_ours: _ } = pod_of(raw(
        metadata,
        json!({ "nodeName": "n1", "serviceAccountName": "reviews",
        "containers": [{ "name": "app", "image": "x" }] }),
    ));
    assert_eq!((pod.key, node.as_deref()), (Key::new("shop", "reviews-v1-7d9f-abcde"), Some("n1")));
    assert_eq!((pod.service_account.as_str(), pod.workload.as_str()), ("reviews", "reviews-v1"));
    assert_eq!(pod.address, Some([10, 0, 0, 1].into()));
    assert_eq!((pod.injected, pod.health), (false, Health::Healthy));
}

#[test]
fn a_pod_has_a_sidecar_where_an_injector_noted_it_or_a_container_is_called_so() {
    let container = |list: &str, name: &str| json!({ list: [{ "name": name }] });
    let noted = |name: &str| json!({ "name": "a", "annotations": { name: "{}" } });
    for (what, metadata, spec, injected) in [
        ("nothing", json!({ "name": "a" }), json!({}), false),
        ("our note", noted("leno.mesh/status"), json!({}), true),
        ("Istio's note", noted("sidecar.istio.io/status"), json!({}), true),
        ("another note", noted("leno.mesh/inject"), json!({}), false),
        ("a native sidecar", json!({ "name": "a" }), container("initContainers", "leno-proxy"), true),
        ("a container", json!({ "name": "a" }), container("containers", "istio-proxy"), true),
        ("the app", json!({ "name": "a" }), container("containers", "app"), false),
    ] {
        assert_eq!(pod_of(raw(metadata, spec)).pod.injected, injected, "{what}");
    }
}

#[test]
fn a_workload_is_called_after_its_label_its_owner_or_itself() {
    let owned = |kind: &str, name: &str| {
        json!({ "name": "p", "labels": { "pod-template-hash": "77f" }, "ownerReferences": [
            { "apiVersion": "x/v1", "kind": kind, "name": name, "uid": "u", "controller": true }] })
    };
    let labelled = json!({ "name": "p", "labels": { "service.istio.io/workload-name": "named" } });
    for (metadata, name) in [
        (labelled, "named"),
        (owned("ReplicaSet", "web-77f"), "web"),
        (owned("ReplicaSet", "web"), "web"),
        (owned("StatefulSet", "db"), "db"),
        (owned("Job", "nightly-29384756"), "nightly"),
        (owned("Job", "import"), "import"),
        (json!({ "name": "alone" }), "alone"),
    ] {
        assert_eq!(pod_of(raw(metadata, json!({}))).pod.workload, name);
    }
}

#[test]
fn the_health_of_a_pod_follows_its_conditions_and_its_deletion() {
    let with = |deletion: bool, phase: &str, ready: &str| {
        let mut metadata = json!({ "name": "a" });
        if deletion {
            metadata["deletionTimestamp"] = json!("2026-11-22T10:00:00Z");
        }
        pod_of(json!({ "metadata": metadata, "spec": {}, "status": { "phase": phase,
            "conditions": [{ "type": "Ready", "status": ready }] } }))
        .pod
        .health
    };
    assert_eq!(with(false, "Running", "True"), Health::Healthy);
    assert_eq!(with(false, "Running", "False"), Health::Unhealthy);
    assert_eq!(with(true, "Running", "True"), Health::Draining);
    assert_eq!(with(false, "Succeeded", "True"), Health::Unhealthy);
}

#[test]
fn an_endpoint_is_as_well_as_its_conditions_say() {
    for (ready, serving, terminating, expected) in [
        (None, None, None, Health::Healthy),
        (Some(true), Some(true), Some(false), Health::Healthy),
        // `publishNotReadyAddresses` makes `ready` true, whatever the pod says.
        (Some(true), Some(false), Some(true), Health::Healthy),
        (Some(false), Some(true), Some(true), Health::Draining),
        (Some(false), Some(true), Some(false), Health::Unhealthy),
        (Some(false), Some(false), Some(true), Health::Unhealthy),
        (Some(false), None, None, Health::Unhealthy),
    ] {
        let conditions = EndpointConditions { ready, serving, terminating };
        assert_eq!(endpoint_health(Some(&conditions)), expected, "{ready:?} {serving:?} {terminating:?}");
    }
}

#[test]
fn a_slice_is_its_services_and_names_its_pods() {
    let slice_of = |value: Value| slice(serde_json::from_value(value).unwrap());
    let object = json!({
        "metadata": { "name": "db-x", "namespace": "shop", "labels": { "kubernetes.io/service-name": "db" } },
        "addressType": "IPv4",
        "ports": [{ "name": "mysql", "port": 3306, "protocol": "TCP" }, { "port": 70000 }],
        "endpoints": [
            { "addresses": ["10.0.0.1"], "hostname": "db-0", "zone": "z1", "targetRef": { "kind": "Pod", "name": "db-0" } },
            { "addresses": ["10.0.0.2"], "targetRef": { "kind": "Node", "name": "n" } },
            { "addresses": ["name.example.com"] },
        ],
    });
    let slice = slice_of(object).unwrap();
    assert_eq!(slice.service, Key::new("shop", "db"));
    assert_eq!(*slice.ports, BTreeMap::from([("mysql".to_owned(), Port::new(3306).unwrap())]));
    let [first, second] = &slice.endpoints[..] else { panic!("{slice:?}") };
    assert_eq!(first.pod, Some(Key::new("shop", "db-0")));
    assert_eq!((first.hostname.as_deref(), first.zone.as_deref()), (Some("db-0"), Some("z1")));
    assert_eq!(second.pod, None);
    let of_nobody = json!({ "metadata": { "name": "x" }, "addressType": "IPv4", "endpoints": [] });
    assert_eq!(slice_of(of_nobody), None);
}

#[test]
fn a_node_stands_where_its_labels_say() {
    let of = |labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        locality(&ObjectMeta { labels: Some(labels), ..ObjectMeta::default() })
    };
    assert_eq!(of(&[]), Locality::default());
    let newer = [
        ("topology.kubernetes.io/region", "r1"),
        ("topology.kubernetes.io/zone", "z1"),
        ("topology.istio.io/subzone", "s1"),
    ];
    assert_eq!(of(&newer), Locality::parse("r1/z1/s1"));
    assert_eq!(of(&[("failure-domain.beta.kubernetes.io/zone", "z2")]), Locality::parse("/z2"));
}

fn object(value: Value) -> DynamicObject {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_service_is_read_by_the_fields_that_count_and_whatever_else_it_has() {
    let service = service(&object(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "db", "namespace": "shop", "resourceVersion": "7", "managedFields": [{ "manager": "x" }] },
        "spec": { "clusterIP": "None", "fieldOfTomorrow": 1, "ports": [{ "name": "mysql", "port": 3306, "appProtocol": "mysql",
            "fieldOfTomorrow": 1 }] },
        "status": { "loadBalancer": {} },
    })));
    assert!(service.parsed.diagnostics.is_empty(), "{:?}", service.parsed.diagnostics);
    let [document] = &service.parsed.documents[..] else { panic!() };
    assert_eq!(document.id.to_string(), "Service shop/db");
    assert_eq!(document.place.to_string(), "shop/Service/db");
}

#[test]
fn a_rule_that_only_its_status_or_version_changed_of_says_the_same() {
    let rule_of = |version: &str, conditions: Value, spec: Value| {
        let metadata = json!({ "name": "a", "namespace": "shop", "generation": 3, "uid": "u", "resourceVersion": version,
            "annotations": { LAST_APPLIED: version } });
        let value = json!({ "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": metadata,
            "spec": spec, "status": { "conditions": conditions } });
        rule(&object(value), "VirtualService", "networking.istio.io/v1")
    };
    let spec = json!({ "hosts": ["a"] });
    let one = rule_of("1", json!([]), spec.clone());
    let other = rule_of("2", json!([{ "type": "Accepted", "status": "True" }]), spec);
    assert_eq!(one.text, other.text);
    assert_ne!(one.subject, other.subject, "what a status speaks of is another matter");
    assert_ne!(one.text, rule_of("1", json!([]), json!({ "hosts": ["b"] })).text);
    let unknown = rule_of("1", json!([]), json!({ "hots": ["a"] }));
    assert_eq!(unknown.parsed.diagnostics.first().map(|finding| finding.code), Some("L0005"), "all fields are read");
}
