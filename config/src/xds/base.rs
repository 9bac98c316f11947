//! What every resource uses: addresses, metadata and where other resources come from.

use std::sync::Arc;

use ipnet::IpNet;

use super::pb;
use super::refusal::{Problem, Result, required, unsupported};
use super::scalar::wrap_u32;
use crate::ir;
use pb::protobuf::{Struct, Value, value::Kind as ValueKind};

/// Istio's part of Envoy's metadata.
pub(super) const ISTIO: &str = "istio";
/// Our own part of Envoy's metadata.
pub(super) const NAMESPACE: &str = "leno.mesh";

/// A TCP address; the host is an IP address or a DNS name.
pub(super) fn address_to_xds(host: &str, port: u16) -> pb::core::Address {
    let socket = pb::core::SocketAddress {
        address: host.to_owned(),
        port_specifier: Some(pb::core::socket_address::PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    pb::core::Address { address: Some(pb::core::address::Address::SocketAddress(socket)) }
}

/// Host and port of a TCP address.
pub(super) fn address_from_xds(address: pb::core::Address) -> Result<(String, u16)> {
    use pb::core::address::Address;
    use pb::core::socket_address::{PortSpecifier, Protocol};
    let socket = match required("socket_address", address.address)? {
        Address::SocketAddress(socket) => socket,
        Address::Pipe(_) => return Err(Problem::unsupported("pipe")),
        Address::EnvoyInternalAddress(_) => return Err(Problem::unsupported("envoy_internal_address")),
    };
    let pb::core::SocketAddress {
        protocol,
        address,
        resolver_name,
        network_namespace_filepath,
        port_specifier,
        // Of an IPv6 address: that it takes IPv4 as well. The system decides.
        ipv4_compat: _,
    } = socket;
    if Protocol::try_from(protocol) != Ok(Protocol::Tcp) {
        return Err(Problem::new("socket_address.protocol", "only TCP is supported"));
    }
    unsupported(&[
        ("socket_address.resolver_name", &resolver_name),
        ("socket_address.network_namespace_filepath", &network_namespace_filepath),
    ])?;
    let port = match port_specifier {
        Some(PortSpecifier::PortValue(port)) => port,
        Some(PortSpecifier::NamedPort(_)) => return Err(Problem::unsupported("socket_address.named_port")),
        None => return Err(Problem::missing("socket_address.port_value")),
    };
    let port = u16::try_from(port)
        .map_err(|_| Problem::new("socket_address.port_value", format!("a port is at most 65535, this is {port}")))?;
    Ok((address, port))
}

/// A range of addresses.
pub(super) fn range_to_xds(range: &IpNet) -> pb::core::CidrRange {
    pb::core::CidrRange { address_prefix: range.addr().to_string(), prefix_len: wrap_u32(range.prefix_len().into()) }
}

/// Reads a range of addresses.
pub(super) fn range_from_xds(range: pb::core::CidrRange) -> Result<IpNet> {
    let pb::core::CidrRange { address_prefix, prefix_len } = range;
    let address = address_prefix
        .parse()
        .map_err(|_| Problem::new("address_prefix", format!("`{address_prefix}` is not an IP address")))?;
    // Envoy: 0 where it is not said.
    let length = prefix_len.map_or(0, |length| length.value);
    u8::try_from(length)
        .ok()
        .and_then(|length| IpNet::new(address, length).ok())
        .ok_or_else(|| Problem::new("prefix_len", format!("{length} is longer than the address")))
}

/// The aggregated stream, the only source of resources.
pub(super) fn ads() -> pb::core::ConfigSource {
    pb::core::ConfigSource {
        resource_api_version: pb::core::ApiVersion::V3.into(),
        // Wait for ever: without its routes or endpoints a listener or cluster would only fail.
        initial_fetch_timeout: Some(pb::protobuf::Duration::default()),
        config_source_specifier: Some(pb::core::config_source::ConfigSourceSpecifier::Ads(
            pb::core::AggregatedConfigSource {},
        )),
        ..Default::default()
    }
}

/// Refuses every source but the stream that this resource came by.
pub(super) fn require_ads(source: Option<pb::core::ConfigSource>) -> Result<()> {
    use pb::core::config_source::ConfigSourceSpecifier;
    let Some(source) = source else { return Err(Problem::new("", "is required: `ads: {}`")) };
    let pb::core::ConfigSource {
        authorities,
        resource_api_version,
        config_source_specifier,
        // Leno waits as long as it takes.
        initial_fetch_timeout: _,
    } = source;
    unsupported(&[("authorities", &authorities)])?;
    match pb::core::ApiVersion::try_from(resource_api_version) {
        Ok(pb::core::ApiVersion::Auto | pb::core::ApiVersion::V3) => {}
        _ => return Err(Problem::new("resource_api_version", "only V3 is supported")),
    }
    #[allow(deprecated)]
    let other = match config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => return Ok(()),
        Some(ConfigSourceSpecifier::Path(_)) => "path",
        Some(ConfigSourceSpecifier::PathConfigSource(_)) => "path_config_source",
        Some(ConfigSourceSpecifier::ApiConfigSource(_)) => "api_config_source",
        None => "",
    };
    Err(Problem::new(other, "Leno takes all resources from one aggregated stream: write `ads: {}`"))
}

/// A struct of texts.
pub(super) fn texts<K: Into<String>, V: Into<String>>(fields: impl IntoIterator<Item = (K, V)>) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, value)| (key.into(), text(value))).collect() }
}

/// A text as a value of a struct.
pub(super) fn text(value: impl Into<String>) -> Value {
    Value { kind: Some(ValueKind::StringValue(value.into())) }
}

/// The text under `key`, if it is one.
pub(super) fn text_of<'a>(fields: &'a Struct, key: &str) -> Option<&'a str> {
    match fields.fields.get(key)?.kind.as_ref()? {
        ValueKind::StringValue(text) => Some(text),
        _ => None,
    }
}

/// Metadata of one namespace, or none where there is nothing to say.
pub(super) fn metadata(parts: impl IntoIterator<Item = (&'static str, Struct)>) -> Option<pb::core::Metadata> {
    let filter_metadata: std::collections::HashMap<_, _> = parts
        .into_iter()
        .filter(|(_, fields)| !fields.fields.is_empty())
        .map(|(namespace, fields)| (namespace.to_owned(), fields))
        .collect();
    (!filter_metadata.is_empty())
        .then(|| pb::core::Metadata { filter_metadata, typed_filter_metadata: Default::default() })
}

/// The rule that something was compiled from, as metadata `leno.mesh`.
pub(super) fn origin_to_xds(origin: Option<&ir::Origin>) -> Option<pb::core::Metadata> {
    let ir::Origin { kind, namespace, name, index, place: ir::FilePlace(place) } = origin?;
    let mut fields = texts([("kind", kind), ("namespace", namespace), ("name", name)]);
    fields.fields.insert("index".to_owned(), Value { kind: Some(ValueKind::NumberValue((*index).into())) });
    if let Some(place) = place {
        fields.fields.extend(texts([("file", place.file.as_ref())]).fields);
        fields.fields.insert("line".to_owned(), Value { kind: Some(ValueKind::NumberValue(place.line.into())) });
    }
    metadata([(NAMESPACE, fields)])
}

/// Metadata is only told to the operator: what is not ours, or not whole, is left aside.
pub(super) fn origin_from_xds(metadata: Option<&pb::core::Metadata>) -> Option<ir::Origin> {
    let fields = metadata?.filter_metadata.get(NAMESPACE)?;
    Some(ir::Origin {
        kind: text_of(fields, "kind")?.to_owned(),
        namespace: text_of(fields, "namespace")?.to_owned(),
        name: text_of(fields, "name")?.to_owned(),
        index: whole_of(fields, "index")?,
        place: ir::FilePlace(text_of(fields, "file").zip(whole_of(fields, "line")).map(|(file, line)| {
            let file = file.into();
            Arc::new(ir::FileLine { file, line })
        })),
    })
}

fn whole_of(fields: &Struct, name: &str) -> Option<u32> {
    let number = match fields.fields.get(name)?.kind.as_ref()? {
        ValueKind::NumberValue(number) => *number,
        _ => return None,
    };
    if !(0.0..=f64::from(u32::MAX)).contains(&number) {
        return None;
    }
    // In range by the test above.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some(number as u32)
}
