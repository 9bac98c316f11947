use std::collections::BTreeSet;
use std::time::Duration;

use envoy_types::pb::google::protobuf::Any;
use leno_config::xds::{Decoded, Kind, Refusal};
use leno_proxy::state::accepted::{Accepted, Applied, Incoming, RESOURCE_LIMIT, TOTAL_LIMIT, Update, Wanted};

use crate::build::{Wire, apply, eds, endpoints, garbage, listener, nothing_is_refused, passthrough, routes};

fn words(applied: &Applied) -> Vec<String> {
    applied.refusals.iter().map(ToString::to_string).collect()
}

#[test]
fn a_resource_is_kept_as_it_came() {
    let mut accepted = Accepted::default();
    let incoming = eds("a").at("1");
    let applied = apply(&mut accepted, Kind::Cluster, vec![incoming.clone()], &[]);
    assert_eq!(applied.changed, ["a"]);
    let held = &accepted.store().clusters["a"];
    assert_eq!(Some(&held.any), incoming.any.as_ref());
    assert_eq!(held.version, "1");
    assert_eq!(*held.resource, eds("a"));
    assert_eq!(held.references.endpoints.as_deref(), Some("a"));
}

#[test]
fn one_bad_resource_is_refused_by_name_and_its_siblings_apply() {
    let mut accepted = Accepted::default();
    apply(&mut accepted, Kind::Cluster, vec![eds("bad").at("1")], &[]);
    let resources = vec![eds("a").at("2"), garbage(Kind::Cluster, "bad", "2"), eds("b").at("2")];
    let applied = apply(&mut accepted, Kind::Cluster, resources, &[]);
    assert_eq!(applied.changed, ["a", "b"]);
    assert_eq!(applied.refusals.len(), 1);
    assert_eq!(applied.refusals[0].resource, "bad");
    assert_eq!(accepted.store().version(Kind::Cluster, "bad"), Some("1"), "the old version stays");
}

#[test]
fn what_cannot_be_accepted_is_refused_with_a_reason() {
    let without_name = Incoming { name: String::new(), ..eds("a").at("1") };
    let other_name = Incoming { name: "b".to_owned(), ..eds("a").at("1") };
    let other_type = Incoming { any: Some(listener("a", 1, "r").any()), ..eds("a").at("1") };
    let without_content = Incoming { any: None, ..eds("a").at("1") };
    let mortal = Incoming { time_to_live: Some(Duration::from_secs(1)), ..eds("a").at("1") };
    let huge = Any { type_url: Kind::Cluster.url().to_owned(), value: vec![0; RESOURCE_LIMIT] };
    let huge = Incoming { any: Some(huge), ..eds("a").at("1") };
    for (resources, expected) in [
        (vec![without_name], "(no name): name: is empty"),
        (vec![other_name], "b: name: is `a` inside the resource"),
        (vec![other_type], "a: resource.type_url: is `type.googleapis.com/envoy.config.listener.v3.Listener` in"),
        (vec![without_content], "a: resource: is missing"),
        (vec![mortal], "a: ttl: is not supported"),
        (vec![huge], "a: resource: has 4194"),
        (vec![eds("a").at("1"), passthrough("a").at("1")], "a: name: stands twice"),
    ] {
        let mut accepted = Accepted::default();
        let applied = apply(&mut accepted, Kind::Cluster, resources, &[]);
        let words = words(&applied);
        assert!(words.len() == 1 && words[0].starts_with(expected), "{words:?} instead of {expected}");
        assert_eq!((applied.changed.len(), accepted.bytes()), (0, 0), "{expected}");
    }
}

#[test]
fn a_name_that_is_both_sent_and_removed_is_refused() {
    let mut accepted = Accepted::default();
    apply(&mut accepted, Kind::Cluster, vec![eds("a").at("1")], &[]);
    let applied = apply(&mut accepted, Kind::Cluster, vec![eds("a").at("2")], &["a"]);
    assert_eq!(words(&applied).len(), 1);
    assert_eq!(accepted.store().version(Kind::Cluster, "a"), Some("1"));
}

#[test]
fn the_data_path_has_the_last_word() {
    fn no_listeners(decoded: &Decoded) -> Option<Refusal> {
        matches!(decoded, Decoded::Listener(_)).then(|| Refusal {
            resource: String::new(),
            field: "filter_chains".to_owned(),
            reason: "cannot be enforced".to_owned(),
        })
    }
    let mut accepted = Accepted::default();
    let update = Update { kind: Kind::Listener, resources: vec![listener("l", 1, "r").at("1")], removed: Vec::new() };
    let applied = accepted.apply(update, Wanted::All, no_listeners);
    assert_eq!(words(&applied), ["l: filter_chains: cannot be enforced"]);
}

#[test]
fn all_resources_together_are_bounded_and_siblings_within_the_bound_apply() {
    // Unknown fields are passed over by protobuf, so a large one makes a large, valid resource.
    fn padded(name: &str) -> Incoming {
        let mut incoming = routes(name, &[]).at("1");
        let padding = RESOURCE_LIMIT - 4096;
        if let Some(any) = &mut incoming.any {
            prost::encoding::bytes::encode(10_000, &vec![0u8; padding], &mut any.value);
        }
        incoming
    }
    let mut accepted = Accepted::default();
    let resources: Vec<Incoming> = (0..17).map(|index| padded(&format!("r{index:02}"))).collect();
    let applied = apply(&mut accepted, Kind::Route, resources, &[]);
    assert_eq!(applied.changed.len(), 16);
    assert_eq!(applied.refusals.len(), 1);
    assert!(applied.refusals[0].reason.contains(&TOTAL_LIMIT.to_string()), "{:?}", applied.refusals);
    assert!(accepted.bytes() <= TOTAL_LIMIT);
    apply(&mut accepted, Kind::Cluster, vec![eds("small").at("1")], &[]);
    assert!(accepted.store().contains(Kind::Cluster, "small"), "a small one still fits");
    for index in 0..17 {
        accepted.forget(Kind::Route, &format!("r{index:02}"));
    }
    accepted.forget(Kind::Cluster, "small");
    assert_eq!(accepted.bytes(), 0);
}

#[test]
fn the_same_bytes_under_a_new_version_are_not_read_again() {
    let mut accepted = Accepted::default();
    apply(&mut accepted, Kind::Cluster, vec![eds("a").at("1")], &[]);
    let before = accepted.store().clusters["a"].resource.clone();
    assert_eq!(apply(&mut accepted, Kind::Cluster, vec![eds("a").at("1")], &[]), Applied::default());
    assert_eq!(apply(&mut accepted, Kind::Cluster, vec![eds("a").at("2")], &[]).changed, ["a"]);
    assert!(std::sync::Arc::ptr_eq(&before, &accepted.store().clusters["a"].resource));
    assert_eq!(accepted.store().version(Kind::Cluster, "a"), Some("2"));
}

#[test]
fn clusters_are_removed_and_subscribed_endpoints_are_not() {
    let mut accepted = Accepted::default();
    apply(&mut accepted, Kind::Cluster, vec![eds("a").at("1")], &[]);
    assert_eq!(apply(&mut accepted, Kind::Cluster, vec![], &["a", "unknown"]).removed, ["a"]);

    let names = BTreeSet::from(["a".into(), "b".into()]);
    let named = |accepted: &mut Accepted, resources, removed: &[&str]| {
        let removed = removed.iter().map(ToString::to_string).collect();
        let update = Update { kind: Kind::Endpoints, resources, removed };
        accepted.apply(update, Wanted::Named(&names), nothing_is_refused)
    };
    let applied = named(&mut accepted, vec![endpoints("a", 1).at("1"), endpoints("not-wanted", 1).at("1")], &[]);
    assert_eq!(applied.changed, ["a"]);
    assert_eq!(named(&mut accepted, vec![], &["a", "b", "not-wanted"]).removed, ["b"]);
    assert!(accepted.store().contains(Kind::Endpoints, "a"), "it stays until nothing refers to it");
    assert!(accepted.is_absent(Kind::Endpoints, "b") && !accepted.is_absent(Kind::Endpoints, "not-wanted"));
    named(&mut accepted, vec![endpoints("b", 1).at("1")], &[]);
    assert!(!accepted.is_absent(Kind::Endpoints, "b"), "it came after all");
}
