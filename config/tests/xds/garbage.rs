//! Bytes that no control plane means to send: a refusal or a value, never a panic.

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::google::protobuf::value::Kind as ValueKind;
use envoy_types::pb::google::protobuf::{Any, ListValue, Struct, Value};
use leno_config::xds::{
    Flavour, Kind, decode, encode_cluster, encode_endpoints, encode_listener, encode_route, encode_secret,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use prost::Message;

use crate::strategies;

fn any(kind: Kind, value: Vec<u8>) -> Any {
    Any { type_url: kind.url().to_owned(), value }
}

fn kinds() -> impl Strategy<Value = Kind> {
    select(Kind::PUSH_ORDER.to_vec())
}

/// A valid resource, as bytes.
fn valid() -> impl Strategy<Value = (Kind, Vec<u8>)> {
    prop_oneof![
        strategies::cluster().prop_map(|it| (Kind::Cluster, encode_cluster(&it, &Flavour::Sidecar).any.value)),
        strategies::endpoints().prop_map(|it| (Kind::Endpoints, encode_endpoints(&it).any.value)),
        strategies::secret().prop_map(|it| (Kind::Secret, encode_secret(&it).any.value)),
        strategies::listener().prop_map(|it| (Kind::Listener, encode_listener(&it, &Flavour::Sidecar).any.value)),
        strategies::route_config().prop_map(|it| (Kind::Route, encode_route(&it).any.value)),
    ]
}

/// One change to bytes.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Cut(Index),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any_index(), proptest::num::u8::ANY).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => (any_index(), proptest::num::u8::ANY).prop_map(|(at, byte)| Change::Insert(at, byte)),
        1 => any_index().prop_map(Change::Remove),
        1 => any_index().prop_map(Change::Cut),
    ]
}

fn any_index() -> impl Strategy<Value = Index> {
    proptest::prelude::any::<Index>()
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    match change {
        Change::Set(at, byte) => *at.get_mut(bytes) = *byte,
        Change::Insert(at, byte) => bytes.insert(at.index(bytes.len()), *byte),
        Change::Remove(at) => drop(bytes.remove(at.index(bytes.len()))),
        Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn random_bytes_do_no_harm(kind in kinds(), bytes in vec(proptest::num::u8::ANY, 0..200)) {
        let _ = decode(kind, &any(kind, bytes));
    }

    #[test]
    fn damaged_resources_do_no_harm((kind, mut bytes) in valid(), changes in vec(change(), 1..8)) {
        for change in &changes {
            apply(&mut bytes, change);
        }
        if let Err(refusal) = decode(kind, &any(kind, bytes)) {
            prop_assert!(!refusal.resource.is_empty() && !refusal.reason.is_empty(), "{}", refusal);
        }
    }
}

#[test]
fn a_resource_of_another_kind_is_refused_with_both_names() {
    let refusal = decode(Kind::Cluster, &any(Kind::Route, Vec::new())).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "<one of the clusters>: resource: is a `envoy.config.route.v3.RouteConfiguration`, not a \
         `envoy.config.cluster.v3.Cluster`"
    );
}

#[test]
fn messages_nested_without_end_are_refused() {
    let mut value = Value { kind: Some(ValueKind::BoolValue(true)) };
    for _ in 0..500 {
        value = Value { kind: Some(ValueKind::ListValue(ListValue { values: vec![value] })) };
    }
    let fields = Struct { fields: [("deep".to_owned(), value)].into() };
    let metadata = Metadata { filter_metadata: [("deep".to_owned(), fields)].into(), ..Default::default() };
    let table = RouteConfiguration { name: "deep".to_owned(), metadata: Some(metadata), ..Default::default() };
    let refusal = decode(Kind::Route, &any(Kind::Route, table.encode_to_vec())).unwrap_err();
    assert!(refusal.reason.contains("recursion"), "{refusal}");
}
