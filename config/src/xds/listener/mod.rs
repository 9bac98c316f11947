//! Listeners: a socket, how callers come in ([`callers`]) and what is done with their connections ([`chain`]).
//!
//! Envoy has a chain of filters for each way to come in; Istio's say the same in each of them. Leno has one thing to do
//! and a mode: chains that do not agree are refused.

mod callers;
mod chain;

use std::net::{IpAddr, SocketAddr};

use super::node::Flavour;
use super::pb;
use super::refusal::{Problem, Result, Within, each, is_false, is_true, nonempty, required, unsupported};
use super::{any, base, rbac};
use crate::ir::{AccessLogs, Authorization, Direction, Listener, ListenerProtocol, MtlsMode};
use callers::Place;
use chain::Chain;
use pb::core::TrafficDirection;
use pb::listener::{FilterChain, ListenerFilter, listener_filter};

pub(super) fn to_xds(listener: &Listener, flavour: &Flavour) -> pb::listener::Listener {
    let Listener { name, address, direction, mtls, authorization, access_logs, protocol } = listener;
    let chain = chain::to_xds(protocol, *direction, authorization, access_logs);
    let inside = callers::inside(protocol);
    let inspector = ListenerFilter {
        name: "envoy.filters.listener.tls_inspector".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(any::pack(
            &pb::tls_inspector::TlsInspector::default(),
        ))),
        filter_disabled: None,
    };
    pb::listener::Listener {
        name: name.clone(),
        address: Some(base::address_to_xds(&address.ip().to_string(), address.port())),
        traffic_direction: match direction {
            Direction::Inbound => TrafficDirection::Inbound.into(),
            Direction::Outbound => TrafficDirection::Outbound.into(),
        },
        listener_filters: (*mtls != MtlsMode::Disable).then_some(inspector).into_iter().collect(),
        // A caller in clear text may wait for the server to speak first.
        continue_on_listener_filters_timeout: *mtls == MtlsMode::Permissive,
        filter_chains: callers::to_xds(*mtls, inside, chain, flavour),
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
        // Statistics; and a log of connections that no chain takes, of which Leno has none.
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
    let Folded { mtls, authorization, access_logs, protocol } = fold(filter_chains, default_filter_chain)?;
    Ok(Listener { name, address, direction, mtls, authorization, access_logs, protocol })
}

/// What the chains of a listener say together.
struct Folded {
    mtls: MtlsMode,
    authorization: Authorization,
    access_logs: AccessLogs,
    protocol: ListenerProtocol,
}

/// Chains may differ in how callers come in, and in nothing else; what is logged, the first one says.
fn fold(chains: Vec<FilterChain>, default: Option<FilterChain>) -> Result<Folded> {
    let mut read = each("filter_chains", chains, |chain| chain::from_xds(chain, Place::Listed))?;
    let listed = read.len();
    if let Some(chain) = default {
        read.push(chain::from_xds(chain, Place::Default).within("default_filter_chain")?);
    }
    let mut chains = read.into_iter();
    let Some(Chain { entry, callers, authorization, access_logs, protocol }) = chains.next() else {
        return Err(Problem::missing("filter_chains"));
    };
    let mut entries = vec![entry];
    let mut named = callers;
    for (index, chain) in chains.enumerate() {
        let at = index + 1;
        let field = if at < listed { format!("filter_chains[{at}]") } else { "default_filter_chain".to_owned() };
        if chain.protocol != protocol || chain.authorization != authorization {
            let reason = "does something else with its connections than the first chain; Leno's chains differ in how \
                          callers come in, so give each protocol a listener of its own";
            return Err(Problem::new(&field, reason));
        }
        entries.push(chain.entry);
        named.extend(chain.callers);
    }
    let mtls = callers::mode(&entries, callers::inside(&protocol)).within("filter_chains")?;
    let Authorization(mut filters) = authorization;
    if !named.is_empty() {
        filters.insert(0, rbac::only_callers(named));
    }
    Ok(Folded { mtls, authorization: Authorization(filters), access_logs, protocol })
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

/// Filters that look at the first bytes only to choose a chain, which Leno does by itself.
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
