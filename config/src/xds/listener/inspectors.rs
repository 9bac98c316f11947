//! Listener filters: who looks at a connection before a chain is chosen.
//!
//! Leno does by itself what these do, and needs none of them to be told. They are written for Envoy, and for no port that
//! gets along without: an inspector waits for the caller's first bytes, which those of a server that speaks first never
//! sends.

use super::pb;
use crate::ir::{CapturedPort, Direction, Intake, Listener, ListenerProtocol, MtlsMode, Port};
use crate::xds::any;
use crate::xds::refusal::{Problem, Result};
use pb::kinds::Int32Range;
use pb::listener::listener_filter::ConfigType;
use pb::listener::listener_filter_chain_match_predicate::{MatchSet, Rule};
use pb::listener::{ListenerFilter, ListenerFilterChainMatchPredicate};
use pb::protobuf::Any;

/// What a listener filter does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Finds out where a captured connection was meant to go.
    OriginalDestination,
    /// Looks at the first bytes, only to choose a chain.
    Inspector,
}

pub(super) fn to_xds(listener: &Listener) -> Vec<ListenerFilter> {
    let mut filters = Vec::new();
    // With `use_original_dst`, Envoy adds it by itself.
    if listener.intake == Intake::Capture && listener.direction == Direction::Inbound {
        filters.push(filter("envoy.filters.listener.original_dst", any::pack(&pb::original_dst::OriginalDst {})));
    }
    let tls = ("envoy.filters.listener.tls_inspector", any::pack(&pb::tls_inspector::TlsInspector::default()));
    let http = ("envoy.filters.listener.http_inspector", any::pack(&pb::http_inspector::HttpInspector::default()));
    let asks: [fn(bool, &ListenerProtocol) -> bool; 2] = [asks_for_tls, asks_for_http];
    for ((name, config), asks) in [tls, http].into_iter().zip(asks) {
        let own = asks(listener.mtls != MtlsMode::Disable || listener.tls.is_some(), &listener.protocol);
        let of_port = |port: &CapturedPort| asks(port.mtls != MtlsMode::Disable || port.tls.is_some(), &port.protocol);
        if own || listener.ports.values().any(of_port) {
            let content = listener.ports.iter().filter(|(_, port)| !of_port(port)).map(|(&port, _)| port);
            filters.push(ListenerFilter { filter_disabled: one_of(content), ..filter(name, config) });
        }
    }
    filters
}

/// Whether a chain is chosen by what the TLS inspector sees.
fn asks_for_tls(ends_tls: bool, protocol: &ListenerProtocol) -> bool {
    let detects = match protocol {
        ListenerProtocol::Detect(_) => true,
        ListenerProtocol::Http(_) | ListenerProtocol::Tcp(_) => false,
    };
    ends_tls || detects
}

/// Whether a chain is chosen by what the HTTP inspector sees.
fn asks_for_http(_: bool, protocol: &ListenerProtocol) -> bool {
    match protocol {
        ListenerProtocol::Detect(detection) => detection.http.is_some(),
        ListenerProtocol::Http(_) | ListenerProtocol::Tcp(_) => false,
    }
}

/// Connections to one of these ports.
fn one_of(ports: impl Iterator<Item = Port>) -> Option<ListenerFilterChainMatchPredicate> {
    let predicate = |rule| ListenerFilterChainMatchPredicate { rule: Some(rule) };
    let one = |port: Port| {
        let (start, end) = (i32::from(port.get()), i32::from(port.get()).saturating_add(1));
        predicate(Rule::DestinationPortRange(Int32Range { start, end }))
    };
    let mut rules: Vec<_> = ports.map(one).collect();
    match rules.len() {
        0 | 1 => rules.pop(),
        // Envoy wants two at least.
        _ => Some(predicate(Rule::OrMatch(MatchSet { rules }))),
    }
}

fn filter(name: &str, config: Any) -> ListenerFilter {
    ListenerFilter { name: name.to_owned(), config_type: Some(ConfigType::TypedConfig(config)), filter_disabled: None }
}

/// Where a filter is switched off does not matter: what it sees is not what Leno goes by.
pub(super) fn from_xds(filter: ListenerFilter) -> Result<Kind> {
    let ListenerFilter { name, filter_disabled: _, config_type } = filter;
    match config_type {
        Some(ConfigType::TypedConfig(config)) if any::is::<pb::original_dst::OriginalDst>(&config) => {
            Ok(Kind::OriginalDestination)
        }
        Some(ConfigType::TypedConfig(config))
            if any::is::<pb::tls_inspector::TlsInspector>(&config)
                || any::is::<pb::http_inspector::HttpInspector>(&config) =>
        {
            Ok(Kind::Inspector)
        }
        _ => Err(Problem::new("", format!("Leno has no listener filter `{name}`; leave it out"))),
    }
}
