//! The address that connections to a cluster come from: Envoy's `BindConfig`.

use std::net::IpAddr;

use super::base;
use super::pb;
use super::refusal::{Problem, Result, Within, each, is_true, unsupported};
use pb::core::{BindConfig, ExtraSourceAddress, SocketAddress, socket_address::PortSpecifier};

/// Any port of each address; Envoy takes the one of the endpoint's family.
pub(super) fn to_xds(addresses: &[IpAddr]) -> Option<BindConfig> {
    let socket = |address: &IpAddr| SocketAddress {
        address: address.to_string(),
        port_specifier: Some(PortSpecifier::PortValue(0)),
        ..Default::default()
    };
    let (first, others) = addresses.split_first()?;
    Some(BindConfig {
        source_address: Some(socket(first)),
        extra_source_addresses: others
            .iter()
            .map(|address| ExtraSourceAddress { address: Some(socket(address)), socket_options: None })
            .collect(),
        ..Default::default()
    })
}

pub(super) fn from_xds(config: BindConfig) -> Result<Vec<IpAddr>> {
    #[allow(deprecated)]
    let BindConfig {
        source_address,
        freebind,
        socket_options,
        extra_source_addresses,
        additional_source_addresses,
        local_address_selector,
        // When a namespace is looked for, of which an address names none here.
        validate_network_namespaces: _,
    } = config;
    unsupported(&[
        ("freebind", &is_true(&freebind)),
        ("socket_options", &socket_options),
        ("local_address_selector", &local_address_selector),
    ])?;
    let mut addresses =
        source_address.map(address_from_xds).transpose().within("source_address")?.into_iter().collect();
    let extra = |extra: ExtraSourceAddress| {
        let ExtraSourceAddress { address, socket_options } = extra;
        unsupported(&[("socket_options", &socket_options)])?;
        address.map(address_from_xds).transpose().within("address")
    };
    let add = |addresses: &mut Vec<IpAddr>, more: Vec<Option<IpAddr>>| addresses.extend(more.into_iter().flatten());
    add(&mut addresses, each("extra_source_addresses", extra_source_addresses, extra)?);
    let older = |address: SocketAddress| address_from_xds(address).map(Some);
    add(&mut addresses, each("additional_source_addresses", additional_source_addresses, older)?);
    Ok(addresses)
}

fn address_from_xds(address: SocketAddress) -> Result<IpAddr> {
    let address = pb::core::Address { address: Some(pb::core::address::Address::SocketAddress(address)) };
    let (host, port) = base::address_from_xds(address)?;
    if port != 0 {
        return Err(Problem::new("port_value", "connections need a port each: write 0"));
    }
    host.parse().map_err(|_| Problem::new("address", format!("`{host}` is not an IP address")))
}
