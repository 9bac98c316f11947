//! Listeners: where connections come in, how callers come in ([`callers`]), what tells connections apart ([`detect`]) and
//! what is done with them ([`chain`]).
//!
//! Envoy has a chain of filters for each way to come in; Istio's say the same in each of them. Leno has one thing to do
//! for requests, one for bytes, and a mode: chains that do not agree are refused.
//!
//! Captured connections come in by a listener that hands them to others ([`Intake`]), and the ports of such a listener are
//! chains that ask for a `destination_port`.

mod callers;
mod chain;
mod detect;
mod inspectors;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::node::Flavour;
use super::pb;
use super::refusal::{Problem, Result, Within, each, is_false, is_true, nonempty, required, unsupported};
use super::scalar::{duration_to_xds, wrap_bool, wrap_u32};
use super::tls::Callers;
use super::{base, rbac};
use crate::defaults::DETECTION_SILENCE;
use crate::ir::{
    AccessLogs, Authorization, CapturedPort, Direction, Intake, Listener, ListenerProtocol, MtlsMode, Port,
    RouteSource, ServerTls,
};
use callers::Place;
use chain::{Chain, Spoken};
use pb::core::TrafficDirection;
use pb::listener::{AdditionalAddress, FilterChain};

pub(super) fn to_xds(listener: &Listener, flavour: &Flavour) -> pb::listener::Listener {
    let Listener {
        name,
        address,
        additional_addresses,
        direction,
        intake,
        ports,
        mtls,
        tls,
        authorization,
        access_logs,
        protocol,
    } = listener;
    let mut filter_chains = Vec::new();
    for (&port, captured) in ports {
        let CapturedPort { mtls, tls, authorization, access_logs, protocol } = captured;
        let tls = tls.as_deref();
        let way = Way { direction: *direction, mtls: *mtls, tls, authorization, access_logs, protocol };
        filter_chains
            .extend(way.to_xds(flavour).into_iter().map(|chain| of_port(chain, port, listener.port_name(port))));
    }
    let tls = tls.as_deref();
    let way = Way { direction: *direction, mtls: *mtls, tls, authorization, access_logs, protocol };
    filter_chains.extend(way.to_xds(flavour));
    let detects = listener.protocols().any(is_detected);
    let waits_in_vain = listener.modes().any(|mode| mode == MtlsMode::Permissive) || detects;
    let additional =
        |address: &SocketAddr| AdditionalAddress { address: Some(socket_to_xds(address)), ..Default::default() };
    pb::listener::Listener {
        name: name.clone(),
        address: Some(socket_to_xds(address)),
        additional_addresses: additional_addresses.iter().map(additional).collect(),
        traffic_direction: match direction {
            Direction::Inbound => TrafficDirection::Inbound.into(),
            Direction::Outbound => TrafficDirection::Outbound.into(),
        },
        // What comes in must not be handed to a listener for what goes out.
        use_original_dst: wrap_bool(*intake == Intake::Capture && *direction == Direction::Outbound)
            .filter(|it| it.value),
        bind_to_port: (*intake == Intake::Handed).then_some(pb::protobuf::BoolValue { value: false }),
        listener_filters: inspectors::to_xds(listener),
        listener_filters_timeout: detects.then(|| duration_to_xds(DETECTION_SILENCE)),
        // A caller in clear text may wait for the server to speak first.
        continue_on_listener_filters_timeout: waits_in_vain,
        filter_chains,
        ..Default::default()
    }
}

/// What is done with connections, of a listener or of one of its ports.
struct Way<'a> {
    direction: Direction,
    mtls: MtlsMode,
    tls: Option<&'a ServerTls>,
    authorization: &'a Authorization,
    access_logs: &'a AccessLogs,
    protocol: &'a ListenerProtocol,
}

impl Way<'_> {
    fn to_xds(&self, flavour: &Flavour) -> Vec<FilterChain> {
        use super::tls::Inside;
        let Self { direction, mtls, tls, authorization, access_logs, protocol } = *self;
        match protocol {
            ListenerProtocol::Http(manager) => {
                let chain = chain::http_to_xds(manager, direction, authorization, access_logs);
                callers::to_xds((mtls, tls), Inside::Http, chain, flavour)
            }
            ListenerProtocol::Tcp(route) => {
                let chain = chain::tcp_to_xds(route, authorization, access_logs);
                callers::to_xds((mtls, tls), Inside::Bytes, chain, flavour)
            }
            ListenerProtocol::Detect(detection) => detect::to_xds(detection, self, flavour),
        }
    }
}

fn is_detected(protocol: &ListenerProtocol) -> bool {
    match protocol {
        ListenerProtocol::Detect(_) => true,
        ListenerProtocol::Http(_) | ListenerProtocol::Tcp(_) => false,
    }
}

/// The same chain for connections that were meant for a port.
fn of_port(chain: FilterChain, port: Port, name: String) -> FilterChain {
    let mut condition = chain.filter_chain_match.unwrap_or_default();
    condition.destination_port = wrap_u32(port.get().into());
    FilterChain { filter_chain_match: Some(condition), name, ..chain }
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
        // Limits and tuning; Leno spreads connections over its workers, and drains, by itself. Nobody waits for it to tell
        // protocols apart.
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
    unsupported(&[
        ("fcds_config", &fcds_config),
        ("filter_chain_matcher", &filter_chain_matcher),
        ("transparent", &is_true(&transparent)),
        ("freebind", &is_true(&freebind)),
        ("socket_options", &socket_options),
        ("udp_listener_config", &udp_listener_config),
        ("api_listener", &api_listener),
        ("internal_listener", &listener_specifier),
    ])?;
    let filters = each("listener_filters", listener_filters, inspectors::from_xds)?;
    let captures = is_true(&use_original_dst) || filters.contains(&inspectors::Kind::OriginalDestination);
    let unbound = is_false(&bind_to_port) || deprecated_v1.is_some_and(|old| is_false(&old.bind_to_port));
    let intake = match (unbound, captures) {
        (false, false) => Intake::Bound,
        (false, true) => Intake::Capture,
        (true, false) => Intake::Handed,
        (true, true) => {
            let reason = "a listener that captures connections has a socket, and one without hands nothing on";
            return Err(Problem::new("bind_to_port", reason));
        }
    };
    let direction = direction_from_xds(traffic_direction)?;
    let name = nonempty("name", name)?;
    let address = socket_from_xds(required("address", address)?).within("address")?;
    let additional_addresses = each("additional_addresses", additional_addresses, additional_from_xds)?;
    let (own, ports) = chains_from_xds(filter_chains, default_filter_chain, captures)?;
    let Folded { mtls, tls, authorization, access_logs, protocol } = own;
    let listener = Listener {
        name,
        address,
        additional_addresses,
        direction,
        intake,
        ports,
        mtls,
        tls,
        authorization,
        access_logs,
        protocol,
    };
    check_tables(&listener)?;
    Ok(listener)
}

/// What the chains of a listener, or of one of its ports, say together.
struct Folded {
    mtls: MtlsMode,
    tls: Option<Arc<ServerTls>>,
    authorization: Authorization,
    access_logs: AccessLogs,
    protocol: ListenerProtocol,
}

/// A chain and where it stands.
struct Placed {
    field: String,
    place: Place,
    chain: Chain,
}

/// The chains of the listener itself, and of its ports, which only one that `captures` has.
fn chains_from_xds(
    chains: Vec<FilterChain>,
    default: Option<FilterChain>,
    captures: bool,
) -> Result<(Folded, BTreeMap<Port, CapturedPort>)> {
    let mut of_listener = Vec::new();
    let mut of_ports = BTreeMap::<Port, Vec<Placed>>::new();
    for (index, chain) in each("filter_chains", chains, chain::from_xds)?.into_iter().enumerate() {
        let port = chain.condition.port;
        let field = format!("filter_chains[{index}]");
        if port.is_some() && !captures {
            let reason = "connections to other ports than the listener's own come only to one with `use_original_dst` or \
                          the listener filter `envoy.filters.listener.original_dst`";
            return Err(Problem::new("filter_chain_match.destination_port", reason)).within(&field);
        }
        let placed = Placed { field, place: Place::Listed, chain };
        port.map_or(&mut of_listener, |port| of_ports.entry(port).or_default()).push(placed);
    }
    if let Some(chain) = default {
        let field = "default_filter_chain".to_owned();
        let chain = chain::from_xds(chain).within(&field)?;
        of_listener.push(Placed { field, place: Place::Default, chain });
    }
    let port = |(port, chains): (Port, Vec<Placed>)| {
        let Folded { mtls, tls, authorization, access_logs, protocol } = fold(chains)?;
        Ok((port, CapturedPort { mtls, tls, authorization, access_logs, protocol }))
    };
    let ports = of_ports.into_iter().map(port).collect::<Result<_>>()?;
    Ok((fold(of_listener)?, ports))
}

/// Chains may differ in how callers come in, and otherwise only as [`detect`] says; what is logged, the first one says.
fn fold(chains: Vec<Placed>) -> Result<Folded> {
    let Some(first) = chains.first() else { return Err(Problem::missing("filter_chains")) };
    if chains.iter().any(|placed| placed.chain.condition.tells_connections()) || tells_mesh_protocols(&chains) {
        return detect::fold(chains);
    }
    let differs = |placed: &&Placed| {
        placed.chain.spoken != first.chain.spoken || placed.chain.authorization != first.chain.authorization
    };
    if let Some(other) = chains.iter().find(differs) {
        let reason = "does something else with its connections than the first chain; Leno's chains differ in how \
                      callers come in, so give each protocol a listener of its own";
        return Err(Problem::new(&other.field, reason));
    }
    let tls = outside(&chains)?;
    let mtls = match tls {
        Some(_) => MtlsMode::Disable,
        None => callers::mode(&chains, callers::inside(&first.chain.spoken))?,
    };
    let mut named = Vec::new();
    let mut chains = chains.into_iter();
    let Some(Placed { chain, .. }) = chains.next() else { return Err(Problem::missing("filter_chains")) };
    let Chain { condition: _, callers, authorization: Authorization(mut filters), access_logs, spoken } = chain;
    named.extend(callers.into_iter().flat_map(Callers::into_named));
    named.extend(chains.filter_map(|placed| placed.chain.callers).flat_map(Callers::into_named));
    if !named.is_empty() {
        filters.insert(0, rbac::only_callers(named));
    }
    let protocol = match spoken {
        Spoken::Http(manager) => ListenerProtocol::Http(manager),
        Spoken::Bytes(route) => ListenerProtocol::Tcp(route),
    };
    Ok(Folded { mtls, tls, authorization: Authorization(filters), access_logs, protocol })
}

/// TLS for callers who are not of the mesh, which a listener has for all or for none.
fn outside(chains: &[Placed]) -> Result<Option<Arc<ServerTls>>> {
    let ended = |placed: &Placed| match &placed.chain.callers {
        Some(Callers::Outside(tls)) => Some(Arc::clone(tls)),
        Some(Callers::Mesh(_)) | None => None,
    };
    match (chains.iter().find_map(ended), chains) {
        (Some(tls), [only]) if only.chain.condition.transport != callers::Transport::Clear => Ok(Some(tls)),
        (Some(_), _) => {
            let reason = "a listener that ends TLS with another certificate than the mesh's has one chain, for `tls`";
            Err(Problem::new("filter_chains", reason))
        }
        (None, _) => Ok(None),
    }
}

/// Whether callers with a certificate say by their ALPN what they speak (Istio under STRICT).
fn tells_mesh_protocols(chains: &[Placed]) -> bool {
    let is_http = |placed: &Placed| matches!(placed.chain.spoken, Spoken::Http(_));
    let by_alpn = |placed: &Placed| placed.chain.condition.alpn == callers::Alpn::MeshHttp;
    chains.iter().any(is_http) && !chains.iter().all(is_http) && chains.iter().any(by_alpn)
}

/// A listener is warm when its one table is there.
fn check_tables(listener: &Listener) -> Result<()> {
    let named = listener.protocols().filter_map(ListenerProtocol::http).filter_map(|manager| match &manager.routes {
        RouteSource::Named(name) => Some(name),
        RouteSource::Inline(_) => None,
    });
    match named.collect::<std::collections::BTreeSet<_>>().len() {
        0 | 1 => Ok(()),
        count => {
            let reason = format!("name {count} route tables by RDS; one at most, and the others as `route_config`");
            Err(Problem::new("filter_chains", reason))
        }
    }
}

/// Unspecified, as control planes written by hand leave it, is outbound: the side that binds loopback only.
fn direction_from_xds(direction: i32) -> Result<Direction> {
    match TrafficDirection::try_from(direction) {
        Ok(TrafficDirection::Inbound) => Ok(Direction::Inbound),
        Ok(TrafficDirection::Outbound | TrafficDirection::Unspecified) => Ok(Direction::Outbound),
        Err(_) => Err(Problem::new("traffic_direction", format!("Leno does not know direction {direction}"))),
    }
}

fn socket_to_xds(address: &SocketAddr) -> pb::core::Address {
    base::address_to_xds(&address.ip().to_string(), address.port())
}

fn socket_from_xds(address: pb::core::Address) -> Result<SocketAddr> {
    let (host, port) = base::address_from_xds(address)?;
    let ip: IpAddr =
        host.parse().map_err(|_| Problem::new("socket_address.address", format!("`{host}` is not an IP address")))?;
    Ok(SocketAddr::new(ip, port))
}

fn additional_from_xds(additional: AdditionalAddress) -> Result<SocketAddr> {
    // Leno probes all callers alike.
    let AdditionalAddress { address, socket_options, tcp_keepalive: _ } = additional;
    unsupported(&[("socket_options", &socket_options)])?;
    socket_from_xds(required("address", address)?).within("address")
}
