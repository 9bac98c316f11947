//! What holds for every pod.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::{Settings, Sidecar, uninject};
use super::{inject_with, settings};

fn text() -> impl Strategy<Value = Value> {
    "[a-z][a-z0-9-]{0,8}".prop_map(Value::from)
}

/// A key that is there, there with nothing in it, or missing.
fn perhaps(key: &'static str, value: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Vec<(String, Value)>> {
    let key = move |value: Value| vec![(key.to_owned(), value)];
    prop_oneof![Just(Vec::new()), Just(key(Value::Null)), value.prop_map(key)].boxed()
}

fn handler() -> impl Strategy<Value = Value> {
    let port = prop_oneof![(1_u16..).prop_map(|port| json!(port)), Just(json!("http")), Just(json!("nowhere"))];
    (prop_oneof![Just("httpGet"), Just("tcpSocket"), Just("grpc")], port, option::of(1_u8..9)).prop_map(
        |(kind, port, timeout)| {
            let mut probe = json!({ kind: { "port": port } });
            if let Some(timeout) = timeout {
                probe["timeoutSeconds"] = json!(timeout);
            }
            probe
        },
    )
}

fn container() -> impl Strategy<Value = Value> {
    let probe = || option::of(handler());
    (probe(), probe(), probe(), any::<bool>()).prop_map(|(live, ready, start, named)| {
        let mut container = json!({ "image": "a", "my-own-field": { "x": [1, null] } });
        for (key, probe) in [("livenessProbe", live), ("readinessProbe", ready), ("startupProbe", start)] {
            if let Some(probe) = probe {
                container[key] = probe;
            }
        }
        if named {
            container["ports"] = json!([{ "name": "http", "containerPort": 8080 }]);
        }
        container
    })
}

fn containers(prefix: &'static str, least: usize) -> impl Strategy<Value = Value> {
    vec(container(), least..3).prop_map(move |mut containers| {
        for (index, container) in containers.iter_mut().enumerate() {
            container["name"] = json!(format!("{prefix}{index}"));
        }
        Value::Array(containers)
    })
}

fn annotations() -> impl Strategy<Value = Value> {
    let pairs = prop_oneof![
        Just(("prometheus.io/scrape", "true")),
        Just(("prometheus.io/port", "9102")),
        Just(("prometheus.io/path", "/m")),
        Just(("kubectl.kubernetes.io/default-container", "a0")),
        Just(("leno.mesh/native-sidecar", "false")),
        Just(("leno.mesh/rewrite-probes", "false")),
        Just(("leno.mesh/interception", "NONE")),
        Just(("traffic.sidecar.istio.io/excludeInboundPorts", "22")),
        Just(("my.company/note", "x: y # z")),
    ];
    vec(pairs, 0..5).prop_map(|pairs| {
        pairs.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect::<Map<_, _>>().into()
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let labels = btree_map("[a-z]{1,5}", text(), 0..3).prop_map(|labels| json!(labels));
    let metadata = (perhaps("labels", labels), perhaps("annotations", annotations()))
        .prop_map(|(labels, annotations)| Value::Object(labels.into_iter().chain(annotations).collect()));
    let volumes = vec(text(), 0..3)
        .prop_map(|names| names.into_iter().map(|name| json!({ "name": name, "emptyDir": {} })).collect::<Value>());
    let spec = (
        containers("a", 1),
        perhaps("initContainers", containers("i", 0)),
        perhaps("volumes", volumes),
        perhaps("restartPolicy", Just(json!("Always"))),
    )
        .prop_map(|(containers, init, volumes, policy)| {
            let mut spec = Map::from_iter([("containers".to_owned(), containers)]);
            spec.extend(init.into_iter().chain(volumes).chain(policy));
            Value::Object(spec)
        });
    (perhaps("metadata", metadata), spec)
        .prop_map(|(metadata, spec)| Value::Object(metadata.into_iter().chain([("spec".to_owned(), spec)]).collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_taken_out_again_leaves_the_pod_as_it_was(pod in pod()) {
        let injected = super::injected(&pod);
        prop_assert_eq!(uninject(&injected).unwrap(), Some(pod.clone()));
        prop_assert_eq!(uninject(&pod).unwrap(), None);
    }

    #[test]
    fn twice_is_once(pod in pod()) {
        let injected = super::injected(&pod);
        prop_assert_eq!(inject_with(&injected, &settings()).unwrap().changed, None);
    }

    #[test]
    fn other_settings_replace_the_ones_before(pod in pod()) {
        let other = Settings {
            image: "other:1".to_owned(),
            sidecar: Sidecar::Container,
            rewrite_probes: false,
            resources: super::super::settings::Resources { cpu_limit: None, ..Default::default() },
            ..settings()
        };
        let over = inject_with(&super::injected(&pod), &other).unwrap().changed;
        prop_assert_eq!(over, inject_with(&pod, &other).unwrap().changed);
    }

    #[test]
    fn what_the_app_is_made_of_stays(pod in pod()) {
        let injected = super::injected(&pod);
        for app in pod["spec"]["containers"].as_array().unwrap() {
            let after = super::container(&injected, app["name"].as_str().unwrap());
            prop_assert_eq!(&after["my-own-field"], &app["my-own-field"]);
            prop_assert_eq!(&after["image"], &app["image"]);
        }
        prop_assert_eq!(injected["metadata"].get("labels"), pod.get("metadata").and_then(|all| all.get("labels")));
    }
}
