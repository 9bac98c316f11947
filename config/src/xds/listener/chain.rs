//! One filter chain: filters that decide about a connection, then HTTP or TCP.

use super::callers::{self, Condition};
use super::pb;
use crate::ir::{AccessLogs, Authorization, Direction, HttpManager, TcpRoute};
use crate::xds::refusal::{Problem, Result, Within, is_true, unsupported};
use crate::xds::tls::{self, Callers};
use crate::xds::{access_log, any, base, http_manager, rbac, tcp};
use pb::hcm::HttpConnectionManager;
use pb::listener::{Filter, FilterChain, filter};
use pb::protobuf::Any;
use pb::tcp_proxy::TcpProxy;

/// Istio's filters that only measure, by their types.
const TELEMETRY: [&str; 2] = ["stats.PluginConfig", "envoy.tcp.metadataexchange.config.MetadataExchange"];

/// What a chain says.
pub(super) struct Chain {
    /// Whose connections it takes.
    pub(super) condition: Condition,
    /// It ends TLS, with these. `None`: it takes connections as they are.
    pub(super) callers: Option<Callers>,
    pub(super) authorization: Authorization,
    pub(super) access_logs: AccessLogs,
    pub(super) spoken: Spoken,
}

/// What stands at the end of a chain.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant)] // On its way into a listener.
pub(super) enum Spoken {
    Http(HttpManager),
    Bytes(TcpRoute),
}

/// Requests of every caller, in clear text.
pub(super) fn http_to_xds(
    manager: &HttpManager,
    direction: Direction,
    authorization: &Authorization,
    access_logs: &AccessLogs,
) -> FilterChain {
    let access_log = access_log::to_xds(access_logs);
    let manager = HttpConnectionManager { access_log, ..http_manager::to_xds(manager, direction, authorization) };
    let filters = vec![filter_to_xds("envoy.filters.network.http_connection_manager", any::pack(&manager))];
    FilterChain { filters, ..Default::default() }
}

/// Bytes of every caller, in clear text.
pub(super) fn tcp_to_xds(route: &TcpRoute, authorization: &Authorization, access_logs: &AccessLogs) -> FilterChain {
    let deciding = rbac::to_network(authorization, &route.stat_prefix);
    let proxy = TcpProxy { access_log: access_log::to_xds(access_logs), ..tcp::to_xds(route) };
    let proxy = ("envoy.filters.network.tcp_proxy".to_owned(), any::pack(&proxy));
    let filters = deciding.into_iter().chain([proxy]);
    FilterChain {
        filters: filters.map(|(name, config)| filter_to_xds(&name, config)).collect(),
        metadata: base::origin_to_xds(route.origin.as_ref()),
        ..Default::default()
    }
}

pub(super) fn from_xds(chain: FilterChain) -> Result<Chain> {
    #[allow(deprecated)]
    let FilterChain {
        filter_chain_match,
        mut filters,
        use_proxy_proto,
        metadata,
        transport_socket,
        // Leno has its own limit for handshakes; and a name for statistics.
        transport_socket_connect_timeout: _,
        name: _,
    } = chain;
    unsupported(&[("use_proxy_proto", &is_true(&use_proxy_proto))])?;
    let condition = filter_chain_match.map(callers::condition_from_xds).transpose().within("filter_chain_match")?;
    let callers = transport_socket.map(tls::listener_from_xds).transpose().within("transport_socket")?.flatten();
    let last = filters.len().saturating_sub(1);
    let Some(terminal) = filters.pop() else { return Err(Problem::missing("filters")) };
    let mut authorization = Authorization::default();
    for (index, filter) in filters.into_iter().enumerate() {
        authorization.0.extend(deciding_from_xds(filter).within_item("filters", index)?);
    }
    let (spoken, inside, access_logs) = terminal_from_xds(terminal, metadata.as_ref()).within_item("filters", last)?;
    match (&spoken, authorization.0.is_empty()) {
        (Spoken::Http(_), false) => {
            let reason = "on HTTP, Leno decides about requests: put RBAC among the `http_filters`";
            return Err(Problem::new("filters", reason));
        }
        (Spoken::Http(_), true) => authorization = inside,
        (Spoken::Bytes(_), _) => {}
    }
    Ok(Chain { condition: condition.unwrap_or_default(), callers, authorization, access_logs, spoken })
}

/// A filter before the last one: decides about the connection, or only measures.
fn deciding_from_xds(filter: Filter) -> Result<Option<crate::ir::RbacFilter>> {
    let (name, config) = config_of(filter)?;
    if let Some(filter) = rbac::from_network(&name, &config)? {
        return Ok(Some(filter));
    }
    if TELEMETRY.contains(&any::type_name(&config)) {
        return Ok(None);
    }
    Err(Problem::new("", format!("Leno has no network filter `{name}` (`{}`)", any::type_name(&config))))
}

/// The last filter, who may send requests where that is HTTP, and what is logged.
fn terminal_from_xds(
    filter: Filter,
    metadata: Option<&pb::core::Metadata>,
) -> Result<(Spoken, Authorization, AccessLogs)> {
    let (name, config) = config_of(filter)?;
    if any::is::<HttpConnectionManager>(&config) {
        let mut manager: HttpConnectionManager = any::unpack(&config)?;
        let access_logs = access_log::from_xds(std::mem::take(&mut manager.access_log));
        let (manager, authorization) = http_manager::from_xds(manager)?;
        return Ok((Spoken::Http(manager), authorization, access_logs));
    }
    if any::is::<TcpProxy>(&config) {
        let mut proxy: TcpProxy = any::unpack(&config)?;
        let access_logs = access_log::from_xds(std::mem::take(&mut proxy.access_log));
        let route = tcp::from_xds(proxy, base::origin_from_xds(metadata))?;
        return Ok((Spoken::Bytes(route), Authorization::default(), access_logs));
    }
    let reason =
        format!("a chain ends in HttpConnectionManager or TcpProxy, not in `{name}` (`{}`)", any::type_name(&config));
    Err(Problem::new("", reason))
}

fn filter_to_xds(name: &str, config: Any) -> Filter {
    Filter { name: name.to_owned(), config_type: Some(filter::ConfigType::TypedConfig(config)) }
}

fn config_of(filter: Filter) -> Result<(String, Any)> {
    let Filter { name, config_type } = filter;
    match config_type {
        Some(filter::ConfigType::TypedConfig(config)) => Ok((name, config)),
        Some(filter::ConfigType::ConfigDiscovery(_)) => Err(Problem::unsupported("config_discovery")),
        None => Err(Problem::missing("typed_config")),
    }
}
