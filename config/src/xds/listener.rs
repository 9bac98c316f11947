//! Listeners: a socket with one filter chain, which ends in HTTP or in TCP.

use std::net::{IpAddr, SocketAddr};

use super::pb;
use super::refusal::{Problem, Result, Within, each, is_false, is_true, nonempty, required, unsupported};
use super::{any, base, http_manager, tcp};
use crate::ir::{Direction, Listener, ListenerProtocol};
use pb::core::TrafficDirection;
use pb::listener::{Filter, FilterChain, FilterChainMatch, ListenerFilter, filter, listener_filter};
use pb::protobuf::Any;

/// Istio's filters that only measure, by their types.
const TELEMETRY: [&str; 2] = ["stats.PluginConfig", "envoy.tcp.metadataexchange.config.MetadataExchange"];

pub(super) fn to_xds(listener: &Listener) -> pb::listener::Listener {
    let Listener { name, address, direction, protocol, mtls: _, authorization: _ } = listener;
    let (filter_name, config, origin) = match protocol {
        ListenerProtocol::Http(manager) => (
            "envoy.filters.network.http_connection_manager",
            any::pack(&http_manager::to_xds(manager, *direction)),
            None,
        ),
        ListenerProtocol::Tcp(route) => {
            ("envoy.filters.network.tcp_proxy", any::pack(&tcp::to_xds(route)), route.origin.as_ref())
        }
    };
    let chain = FilterChain {
        filters: vec![Filter {
            name: filter_name.to_owned(),
            config_type: Some(filter::ConfigType::TypedConfig(config)),
        }],
        metadata: base::origin_to_xds(origin),
        ..Default::default()
    };
    pb::listener::Listener {
        name: name.clone(),
        address: Some(base::address_to_xds(&address.ip().to_string(), address.port())),
        traffic_direction: match direction {
            Direction::Inbound => TrafficDirection::Inbound.into(),
            Direction::Outbound => TrafficDirection::Outbound.into(),
        },
        filter_chains: vec![chain],
        ..Default::default()
    }
}

pub(super) fn from_xds(listener: pb::listener::Listener) -> Result<Listener> {
    #[allow(deprecated)]
    let pb::listener::Listener {
        name,
        address,
        additional_addresses,
        filter_chains,
        fcds_config,
        filter_chain_matcher,
        use_original_dst,
        default_filter_chain,
        deprecated_v1,
        listener_filters,
        transparent,
        freebind,
        socket_options,
        traffic_direction,
        udp_listener_config,
        api_listener,
        bind_to_port,
        listener_specifier,
        // Statistics and logs.
        stat_prefix: _,
        stats_matcher: _,
        metadata: _,
        access_log: _,
        // Limits and tuning; Leno spreads connections over its workers, and drains, by itself.
        per_connection_buffer_limit_bytes: _,
        per_connection_buffer_high_watermark_timeout: _,
        drain_type: _,
        listener_filters_timeout: _,
        continue_on_listener_filters_timeout: _,
        tcp_fast_open_queue_length: _,
        connection_balance_config: _,
        reuse_port: _,
        enable_reuse_port: _,
        tcp_backlog_size: _,
        max_connections_to_accept_per_socket_event: _,
        enable_mptcp: _,
        ignore_global_conn_limit: _,
        bypass_overload_manager: _,
        tcp_keepalive: _,
    } = listener;
    let unbound = is_false(&bind_to_port) || deprecated_v1.is_some_and(|old| is_false(&old.bind_to_port));
    unsupported(&[
        ("additional_addresses", &additional_addresses),
        ("fcds_config", &fcds_config),
        ("filter_chain_matcher", &filter_chain_matcher),
        ("use_original_dst", &is_true(&use_original_dst)),
        ("transparent", &is_true(&transparent)),
        ("freebind", &is_true(&freebind)),
        ("socket_options", &socket_options),
        ("udp_listener_config", &udp_listener_config),
        ("api_listener", &api_listener),
        ("bind_to_port", &unbound),
        ("internal_listener", &listener_specifier),
    ])?;
    each("listener_filters", listener_filters, listener_filter_from_xds)?;
    let direction = direction_from_xds(traffic_direction)?;
    let name = nonempty("name", name)?;
    let address = socket_from_xds(required("address", address)?).within("address")?;
    Ok(Listener::new(name, address, direction, chains_from_xds(filter_chains, default_filter_chain)?))
}

/// Unspecified, as control planes written by hand leave it, is outbound: the side that binds loopback only.
fn direction_from_xds(direction: i32) -> Result<Direction> {
    match TrafficDirection::try_from(direction) {
        Ok(TrafficDirection::Inbound) => Ok(Direction::Inbound),
        Ok(TrafficDirection::Outbound | TrafficDirection::Unspecified) => Ok(Direction::Outbound),
        Err(_) => Err(Problem::new("traffic_direction", format!("Leno does not know direction {direction}"))),
    }
}

fn socket_from_xds(address: pb::core::Address) -> Result<SocketAddr> {
    let (host, port) = base::address_from_xds(address)?;
    let ip: IpAddr =
        host.parse().map_err(|_| Problem::new("socket_address.address", format!("`{host}` is not an IP address")))?;
    Ok(SocketAddr::new(ip, port))
}

/// Filters that look at the first bytes only to choose a chain: with one chain there is nothing to choose.
fn listener_filter_from_xds(filter: ListenerFilter) -> Result<()> {
    let ListenerFilter { name, filter_disabled: _, config_type } = filter;
    match config_type {
        Some(listener_filter::ConfigType::TypedConfig(config))
            if any::is::<pb::tls_inspector::TlsInspector>(&config)
                || any::is::<pb::http_inspector::HttpInspector>(&config) =>
        {
            Ok(())
        }
        _ => Err(Problem::new("", format!("Leno has no listener filter `{name}`; leave it out"))),
    }
}

/// The one chain, which may be the default one.
fn chains_from_xds(mut chains: Vec<FilterChain>, default: Option<FilterChain>) -> Result<ListenerProtocol> {
    match (chains.pop(), default) {
        (Some(chain), None) if chains.is_empty() => chain_from_xds(chain).within("filter_chains[0]"),
        (None, Some(chain)) => chain_from_xds(chain).within("default_filter_chain"),
        (None, None) => Err(Problem::missing("filter_chains")),
        (Some(_), None) => Err(Problem::new("filter_chains[1]", "Leno takes one filter chain for a listener")),
        (Some(_), Some(_)) => Err(Problem::new("default_filter_chain", "Leno takes one filter chain for a listener")),
    }
}

fn chain_from_xds(chain: FilterChain) -> Result<ListenerProtocol> {
    #[allow(deprecated)]
    let FilterChain {
        filter_chain_match,
        mut filters,
        use_proxy_proto,
        metadata,
        transport_socket,
        // Of TLS, and a name for statistics.
        transport_socket_connect_timeout: _,
        name: _,
    } = chain;
    unsupported(&[("use_proxy_proto", &is_true(&use_proxy_proto))])?;
    filter_chain_match.map_or(Ok(()), match_from_xds).within("filter_chain_match")?;
    transport_socket.map_or(Ok(()), plain_from_xds).within("transport_socket")?;
    let last = filters.len().saturating_sub(1);
    let Some(terminal) = filters.pop() else { return Err(Problem::missing("filters")) };
    each("filters", filters, |filter| {
        let (name, config) = config_of(filter)?;
        if TELEMETRY.contains(&any::type_name(&config)) {
            return Ok(());
        }
        Err(Problem::new("", format!("Leno has no network filter `{name}` (`{}`)", any::type_name(&config))))
    })?;
    terminal_from_xds(terminal, metadata.as_ref()).within_item("filters", last)
}

fn terminal_from_xds(filter: Filter, metadata: Option<&pb::core::Metadata>) -> Result<ListenerProtocol> {
    let (name, config) = config_of(filter)?;
    if any::is::<pb::hcm::HttpConnectionManager>(&config) {
        return Ok(ListenerProtocol::Http(http_manager::from_xds(any::unpack(&config)?)?));
    }
    if any::is::<pb::tcp_proxy::TcpProxy>(&config) {
        return Ok(ListenerProtocol::Tcp(tcp::from_xds(any::unpack(&config)?, base::origin_from_xds(metadata))?));
    }
    let reason =
        format!("a chain ends in HttpConnectionManager or TcpProxy, not in `{name}` (`{}`)", any::type_name(&config));
    Err(Problem::new("", reason))
}

fn config_of(filter: Filter) -> Result<(String, Any)> {
    let Filter { name, config_type } = filter;
    match config_type {
        Some(filter::ConfigType::TypedConfig(config)) => Ok((name, config)),
        Some(filter::ConfigType::ConfigDiscovery(_)) => Err(Problem::unsupported("config_discovery")),
        None => Err(Problem::missing("typed_config")),
    }
}

/// The only chain takes every connection, so it must not ask for anything.
fn match_from_xds(condition: FilterChainMatch) -> Result<()> {
    let FilterChainMatch {
        destination_port,
        prefix_ranges,
        address_suffix,
        suffix_len,
        direct_source_prefix_ranges,
        source_type,
        source_prefix_ranges,
        source_ports,
        server_names,
        transport_protocol,
        application_protocols,
    } = condition;
    unsupported(&[
        ("destination_port", &destination_port),
        ("prefix_ranges", &prefix_ranges),
        ("address_suffix", &address_suffix),
        ("suffix_len", &suffix_len),
        ("direct_source_prefix_ranges", &direct_source_prefix_ranges),
        ("source_type", &source_type),
        ("source_prefix_ranges", &source_prefix_ranges),
        ("source_ports", &source_ports),
        ("server_names", &server_names),
        ("transport_protocol", &transport_protocol),
        ("application_protocols", &application_protocols),
    ])
}

/// Clear text; TLS on a listener is refused rather than left out.
fn plain_from_xds(socket: pb::core::TransportSocket) -> Result<()> {
    let pb::core::TransportSocket { name, config_type } = socket;
    match config_type {
        Some(pb::core::transport_socket::ConfigType::TypedConfig(config))
            if any::is::<pb::raw_buffer::RawBuffer>(&config) =>
        {
            Ok(())
        }
        None if name == "envoy.transport_sockets.raw_buffer" => Ok(()),
        _ => Err(Problem::new("", format!("Leno's listeners speak clear text for now, not `{name}`"))),
    }
}
