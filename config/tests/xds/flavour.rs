//! The same resources in the words of another kind of client.

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::google::protobuf::value::Kind as ValueKind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use leno_config::xds::{
    Decoded, Dialect, Flavour, Kind, decode, dialect_from_xds, encode_cluster, encode_listener, flavour_from_xds,
};

use crate::messages;

fn files() -> Flavour {
    Flavour::CertificateFiles { directory: "/run/leno/sds".to_owned() }
}

fn node(value: ValueKind) -> Node {
    let fields = [("LENO_SDS_DIRECTORY".to_owned(), Value { kind: Some(value) })].into();
    Node { metadata: Some(Struct { fields }), ..Node::default() }
}

#[test]
fn a_node_asks_for_certificate_files_by_their_directory() {
    assert_eq!(flavour_from_xds(&Node::default()).unwrap(), Flavour::Sidecar);
    for text in ["/run/leno/sds", "/run/leno/sds/"] {
        assert_eq!(flavour_from_xds(&node(ValueKind::StringValue(text.to_owned()))).unwrap(), files());
    }
    let long = format!("/{}", "a".repeat(5000));
    for wrong in ["", "relative", "/", "/with\0zero", &long] {
        let refusal = flavour_from_xds(&node(ValueKind::StringValue(wrong.to_owned()))).unwrap_err();
        assert_eq!(refusal.field, "metadata.LENO_SDS_DIRECTORY", "{wrong}");
    }
    assert!(flavour_from_xds(&node(ValueKind::BoolValue(true))).is_err());
}

#[test]
fn the_certificate_is_named_by_its_file_and_the_roots_come_over_the_stream() {
    let listener = messages::ir_strict_listener();
    let (usual, other) = (encode_listener(&listener, &Flavour::Sidecar), encode_listener(&listener, &files()));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(text(&other.any.value).contains("/run/leno/sds/default.yaml"));
    assert!(!text(&other.any.value).contains("ROOTCA.yaml"));
    assert!(!text(&usual.any.value).contains("default.yaml"));
    // Bytes that differ never share a version: equal ones are kept once for all clients.
    assert_ne!(usual.version, other.version);
    assert_eq!(decode(Kind::Listener, &other.any), Ok(Decoded::Listener(listener)));
}

#[test]
fn clusters_differ_as_listeners_do() {
    let cluster = &messages::ir_clusters()[0];
    let (usual, other) = (encode_cluster(cluster, &Flavour::Sidecar), encode_cluster(cluster, &files()));
    assert_ne!(usual.version, other.version);
    assert_ne!(usual.any, other.any);
    assert_eq!(decode(Kind::Cluster, &usual.any), decode(Kind::Cluster, &other.any));
}

#[test]
fn grpc_is_known_by_its_name_and_metadata_have_the_last_word() {
    let node = |agent: &str, generator: Option<&str>| {
        let text = |text: &str| Value { kind: Some(ValueKind::StringValue(text.to_owned())) };
        let fields = generator.map(|generator| ("GENERATOR".to_owned(), text(generator))).into_iter().collect();
        Node { user_agent_name: agent.to_owned(), metadata: Some(Struct { fields }), ..Node::default() }
    };
    let envoy = || Dialect::Envoy(Flavour::Sidecar);
    let rows = [
        ("gRPC C-core linux Python", None, Dialect::Grpc),
        ("gRPC Node Pure JS", None, Dialect::Grpc),
        ("envoy", None, envoy()),
        ("leno", None, envoy()),
        ("", None, envoy()),
        ("my client", Some("grpc"), Dialect::Grpc),
        ("gRPC Java", Some("envoy"), envoy()),
    ];
    for (agent, generator, expected) in rows {
        assert_eq!(dialect_from_xds(&node(agent, generator)).unwrap(), expected, "{agent} {generator:?}");
    }
    assert_eq!(dialect_from_xds(&node("envoy", Some("api"))).unwrap_err().field, "metadata.GENERATOR");
}
