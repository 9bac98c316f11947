//! `Sidecar` by itself.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::findings::{Findings, spec};
use super::service_entry::check_protocol;
use super::traffic_policy::check_connection_pool;
use super::values::is_host;
use super::workload_entry::AddressKind;
use super::{tls, values};
use crate::diagnostic::codes;
use crate::rules::{
    CaptureMode, EgressListener, IngressListener, OutboundTrafficMode, OutboundTrafficPolicy, Path, Sidecar,
    SidecarPort, is_dns_label,
};

pub(super) fn check(sidecar: &Sidecar, found: &mut Findings) {
    let spec = spec();
    if *sidecar == Sidecar::default() {
        found.add(codes::NO_EFFECT, &spec, "the rule is empty").help("add `ingress` or `egress`");
    }
    if let Some(selector) = &sidecar.workload_selector {
        found.labels(&spec.key("workloadSelector").key("labels"), &selector.labels);
    }
    let mut taken = BTreeSet::new();
    for (index, listener) in sidecar.ingress.iter().enumerate() {
        let path = spec.key("ingress").index(index);
        check_ingress(listener, &path, found);
        taken_twice(&mut taken, listener.port.as_ref(), listener.bind.as_deref(), &path, found);
    }
    check_egress(&sidecar.egress, &spec.key("egress"), found);
    if let Some(pool) = &sidecar.inbound_connection_pool {
        check_connection_pool(pool, &spec.key("inboundConnectionPool"), found);
    }
    if let Some(policy) = &sidecar.outbound_traffic_policy {
        check_outbound(policy, &spec.key("outboundTrafficPolicy"), found);
    }
}

pub(super) fn check_outbound(policy: &OutboundTrafficPolicy, path: &Path, found: &mut Findings) {
    let Some(proxy) = &policy.egress_proxy else { return };
    let path = path.key("egressProxy");
    found.destination(&path, Some(proxy));
    if policy.mode != Some(OutboundTrafficMode::AllowAny) {
        let message = "nothing is passed on without ALLOW_ANY";
        found.add(codes::NO_EFFECT, &path, message).on_key().help("add `mode: ALLOW_ANY`");
    }
}

/// One socket cannot be opened twice.
fn taken_twice(
    taken: &mut BTreeSet<(u32, String)>,
    port: Option<&SidecarPort>,
    bind: Option<&str>,
    path: &Path,
    found: &mut Findings,
) {
    let Some(number) = port.and_then(|port| port.number) else { return };
    if !taken.insert((number, bind.unwrap_or_default().to_owned())) {
        let path = path.key("port").key("number");
        found.add(codes::DUPLICATE_NAME, &path, format!("port {number} stands twice")).help("each socket once");
    }
}

fn check_ingress(listener: &IngressListener, path: &Path, found: &mut Findings) {
    match &listener.port {
        None => {
            found.add(codes::REQUIRED, path, "the listener has no port").help("add `port: {number: …, protocol: …}`");
        }
        Some(port) => {
            found.port(&path.key("port").key("number"), port.number);
            check_protocol(port.protocol.as_deref(), &path.key("port").key("protocol"), found);
        }
    }
    check_bind(listener.bind.as_deref(), listener.capture_mode, &path.key("bind"), found);
    if let Some(endpoint) = listener.default_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty()) {
        check_default_endpoint(endpoint, &path.key("defaultEndpoint"), found);
    }
    if let Some(settings) = &listener.tls {
        tls::check_server(settings, &path.key("tls"), found);
    }
    if let Some(pool) = &listener.connection_pool {
        check_connection_pool(pool, &path.key("connectionPool"), found);
    }
}

/// The app is behind its own sidecar, so on its own host.
fn check_default_endpoint(endpoint: &str, path: &Path, found: &mut Findings) {
    let help = "write `127.0.0.1:PORT`, `0.0.0.0:PORT` (the node's own address) or `unix:///path`";
    match endpoint.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => {
            found.add(codes::PORT, path, "0 is not a port").help("ports are 1 to 65535");
        }
        Ok(address) if !address.ip().is_loopback() && !address.ip().is_unspecified() => {
            found.add(codes::ADDRESS, path, format!("`{endpoint}` is not on the workload's own host")).help(help);
        }
        Ok(_) => {}
        Err(_) if AddressKind::of(endpoint) == AddressKind::UnixSocket => {}
        Err(_) => {
            found.add(codes::ADDRESS, path, format!("`{endpoint}` is not an address with a port")).help(help);
        }
    }
}

fn check_bind(bind: Option<&str>, capture: Option<CaptureMode>, path: &Path, found: &mut Findings) {
    let Some(bind) = bind.filter(|bind| !bind.is_empty()) else { return };
    if AddressKind::of(bind) == AddressKind::UnixSocket {
        if capture == Some(CaptureMode::Iptables) {
            found.add(codes::ADDRESS, path, "connections to a Unix socket cannot be captured");
        }
    } else if bind.parse::<IpAddr>().is_err() {
        let message = format!("`{bind}` is not an address");
        found.add(codes::ADDRESS, path, message).help("write `127.0.0.1`, `0.0.0.0` or `unix:///path`");
    }
}

fn check_egress(listeners: &[EgressListener], path: &Path, found: &mut Findings) {
    let mut taken = BTreeSet::new();
    let mut without_port = 0_usize;
    for (index, listener) in listeners.iter().enumerate() {
        let path = path.index(index);
        match &listener.port {
            None => {
                without_port = without_port.saturating_add(1);
                if index.saturating_add(1) < listeners.len() {
                    let message = "a listener without a port takes everything, so it comes last";
                    found.add(codes::UNREACHABLE, &path, message);
                }
                if listener.bind.as_deref().is_some_and(|bind| !bind.is_empty()) {
                    let message = "an address is of no use without a port";
                    found.add(codes::REQUIRED, &path.key("bind"), message).help("add `port`");
                }
            }
            Some(port) => {
                let is_socket = listener.bind.as_deref().map(AddressKind::of) == Some(AddressKind::UnixSocket);
                if !(is_socket && port.number.unwrap_or(0) == 0) {
                    found.port(&path.key("port").key("number"), port.number);
                }
                check_protocol(port.protocol.as_deref(), &path.key("port").key("protocol"), found);
            }
        }
        check_bind(listener.bind.as_deref(), listener.capture_mode, &path.key("bind"), found);
        taken_twice(&mut taken, listener.port.as_ref(), listener.bind.as_deref(), &path, found);
        check_egress_hosts(&listener.hosts, &path, found);
    }
    if without_port > 1 {
        found.add(codes::EXCLUSIVE, path, "several listeners have no port").help("one of them takes everything");
    }
}

fn check_egress_hosts(hosts: &[String], path: &Path, found: &mut Findings) {
    if hosts.is_empty() {
        found.add(codes::REQUIRED, path, "the listener has no hosts").help("add `hosts: [\"./*\"]`");
    }
    let path = path.key("hosts");
    for (index, written) in hosts.iter().enumerate() {
        let path = path.index(index);
        let Some((namespace, host)) = written.split_once('/') else {
            let message = format!("`{written}` names no namespace");
            found.add(codes::HOST, &path, message).help(format!("write `./{written}` or `*/{written}`"));
            continue;
        };
        if !matches!(namespace, "." | "*" | "~") && !is_dns_label(namespace) {
            let help = "write a namespace, `.` for this one, `*` for any or `~` for none";
            found.add(codes::EXPORT_TO, &path, format!("`{namespace}` is not a namespace")).help(help);
        }
        if !is_host(host) {
            found.host(&path, host, values::Wildcard::Allowed);
        }
    }
    found.unique(hosts.iter().enumerate().map(|(index, host)| (path.index(index), host.as_str())));
}
