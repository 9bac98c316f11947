//! Resources of xDS: byte 0 is the kind, the rest the message.

use envoy_types::pb::google::protobuf::Any;
use leno_config::xds::{
    Decoded, Encoded, Flavour, Kind, decode, encode_cluster, encode_endpoints, encode_listener, encode_route,
    encode_secret,
};

use crate::Target;
use crate::input::Input;

pub(crate) const TARGET: Target = Target {
    name: "xds",
    property: "what is taken means the same after it was written and read again, under the same version and name, and a \
               refusal names its resource",
    check,
    words: &[
        "type.googleapis.com/",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "envoy.filters.http.router",
        "leno.mesh",
        "/",
        "*",
    ],
};

fn check(data: &[u8]) {
    let mut input = Input(data);
    let kind = Kind::PUSH_ORDER[usize::from(input.byte()) % Kind::PUSH_ORDER.len()];
    let any = Any { type_url: kind.url().to_owned(), value: input.0.to_vec() };
    match decode(kind, &any) {
        Ok(read) => is_a_fixed_point(kind, &without_what_was_left_aside(read)),
        Err(refusal) => {
            let sentence = refusal.to_string();
            let (resource, reason) = sentence.split_once(": ").unwrap_or_default();
            assert!(!resource.is_empty() && !reason.is_empty(), "`{sentence}` names no resource or no reason");
        }
    }
}

/// Which access logs of a foreign control plane were left aside is said to the operator and not passed on.
fn without_what_was_left_aside(mut read: Decoded) -> Decoded {
    if let Decoded::Listener(listener) = &mut read {
        listener.access_logs.left_out.clear();
        listener.ports.values_mut().for_each(|port| port.access_logs.left_out.clear());
    }
    read
}

fn is_a_fixed_point(kind: Kind, read: &Decoded) {
    let written = encode(read);
    let again = decode(kind, &written.any).unwrap_or_else(|refusal| panic!("{refusal}: {read:?}"));
    let again = without_what_was_left_aside(again);
    assert!(again == *read, "{}", difference(&format!("{read:?}"), &format!("{again:?}")));
    assert_eq!(encode(&again).version, written.version);
    assert_eq!(again.name(), read.name());
}

/// Where two texts begin to differ: resources are long.
fn difference(read: &str, again: &str) -> String {
    let same = read.chars().zip(again.chars()).take_while(|(one, other)| one == other).count();
    let around = |text: &str| text.chars().skip(same.saturating_sub(80)).take(240).collect::<String>();
    format!("read:            …{}…\nwritten and read: …{}…", around(read), around(again))
}

fn encode(decoded: &Decoded) -> Encoded {
    match decoded {
        Decoded::Cluster(cluster) => encode_cluster(cluster, &Flavour::Sidecar),
        Decoded::Endpoints(endpoints) => encode_endpoints(endpoints),
        Decoded::Secret(secret) => encode_secret(secret),
        Decoded::Listener(listener) => encode_listener(listener, &Flavour::Sidecar),
        Decoded::Route(table) => encode_route(table),
    }
}
