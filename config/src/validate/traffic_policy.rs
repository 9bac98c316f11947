//! How endpoints are called: of a DestinationRule, of its subsets and ports, and of the whole mesh.

use super::findings::Findings;
use super::values::{Wildcard, Zero};
use super::{load_balancer, tls};
use crate::diagnostic::codes;
use crate::rules::{
    ConnectionPoolSettings, H2UpgradePolicy, HttpSettings, OutlierDetection, Path, TcpSettings, TrafficPolicy,
    TunnelSettings,
};

pub(super) fn check(policy: &TrafficPolicy, path: &Path, found: &mut Findings) {
    if *policy == TrafficPolicy::default() {
        found.add(codes::NO_EFFECT, path, "the policy is empty").help("remove it, or say something in it");
    }
    if let Some(settings) = &policy.load_balancer {
        load_balancer::check(settings, &path.key("loadBalancer"), found);
    }
    if let Some(settings) = &policy.connection_pool {
        check_connection_pool(settings, &path.key("connectionPool"), found);
    }
    if let Some(outlier) = &policy.outlier_detection {
        check_outlier(outlier, &path.key("outlierDetection"), found);
    }
    if let Some(settings) = &policy.tls {
        tls::check_client(settings, &path.key("tls"), found);
    }
    if let Some(tunnel) = &policy.tunnel {
        check_tunnel(tunnel, &path.key("tunnel"), found);
    }
    if let Some(percent) = policy.retry_budget.as_ref().and_then(|budget| budget.percent) {
        found.percentage(&path.key("retryBudget").key("percent"), percent);
    }
    check_ports(policy, &path.key("portLevelSettings"), found);
}

fn check_ports(policy: &TrafficPolicy, path: &Path, found: &mut Findings) {
    let mut seen = Vec::new();
    for (index, settings) in policy.port_level_settings.iter().enumerate() {
        let path = path.index(index);
        let number = settings.port.as_ref().and_then(|port| port.number);
        let port = path.key("port").key("number");
        found.port(&port, number);
        if let Some(number) = number {
            if seen.contains(&number) {
                found.add(codes::DUPLICATE_NAME, &port, format!("port {number} stands twice"));
            }
            seen.push(number);
        }
        if let Some(settings) = &settings.load_balancer {
            load_balancer::check(settings, &path.key("loadBalancer"), found);
        }
        if let Some(settings) = &settings.connection_pool {
            check_connection_pool(settings, &path.key("connectionPool"), found);
        }
        if let Some(outlier) = &settings.outlier_detection {
            check_outlier(outlier, &path.key("outlierDetection"), found);
        }
        if let Some(settings) = &settings.tls {
            tls::check_client(settings, &path.key("tls"), found);
        }
    }
}

pub(super) fn check_connection_pool(settings: &ConnectionPoolSettings, path: &Path, found: &mut Findings) {
    if settings.tcp.is_none() && settings.http.is_none() {
        found.add(codes::NO_EFFECT, path, "the connection pool is empty").help("add `tcp` or `http`");
    }
    if let Some(tcp) = &settings.tcp {
        check_tcp(tcp, &path.key("tcp"), found);
    }
    if let Some(http) = &settings.http {
        check_http(http, &path.key("http"), found);
    }
}

fn check_tcp(tcp: &TcpSettings, path: &Path, found: &mut Findings) {
    found.not_negative(&path.key("maxConnections"), tcp.max_connections);
    found.duration(&path.key("connectTimeout"), tcp.connect_timeout.as_ref(), Zero::Refused);
    found.duration(&path.key("maxConnectionDuration"), tcp.max_connection_duration.as_ref(), Zero::Refused);
    found.duration(&path.key("idleTimeout"), tcp.idle_timeout.as_ref(), Zero::Allowed);
    if let Some(keepalive) = &tcp.tcp_keepalive {
        let path = path.key("tcpKeepalive");
        found.duration(&path.key("time"), keepalive.time.as_ref(), Zero::Refused);
        found.duration(&path.key("interval"), keepalive.interval.as_ref(), Zero::Refused);
    }
}

fn check_http(http: &HttpSettings, path: &Path, found: &mut Findings) {
    for (field, number) in [
        ("http1MaxPendingRequests", http.http1_max_pending_requests),
        ("http2MaxRequests", http.http2_max_requests),
        ("maxRequestsPerConnection", http.max_requests_per_connection),
        ("maxRetries", http.max_retries),
        ("maxConcurrentStreams", http.max_concurrent_streams),
    ] {
        found.not_negative(&path.key(field), number);
    }
    found.duration(&path.key("idleTimeout"), http.idle_timeout.as_ref(), Zero::Allowed);
    if http.h2_upgrade_policy == Some(H2UpgradePolicy::Upgrade) && http.use_client_protocol == Some(true) {
        let message = "`useClientProtocol` stands beside `h2UpgradePolicy: UPGRADE`";
        found.add(codes::EXCLUSIVE, &path.key("useClientProtocol"), message).on_key().help("remove one of the two");
    }
}

fn check_outlier(outlier: &OutlierDetection, path: &Path, found: &mut Findings) {
    found.duration(&path.key("interval"), outlier.interval.as_ref(), Zero::Refused);
    found.duration(&path.key("baseEjectionTime"), outlier.base_ejection_time.as_ref(), Zero::Refused);
    for (field, percent) in
        [("maxEjectionPercent", outlier.max_ejection_percent), ("minHealthPercent", outlier.min_health_percent)]
    {
        if let Some(percent) = percent {
            found.percentage(&path.key(field), f64::from(percent));
        }
    }
    if outlier.consecutive_errors.is_some() {
        let path = path.key("consecutiveErrors");
        found.not_negative(&path, outlier.consecutive_errors);
        let help = "use `consecutiveGatewayErrors` or `consecutive5xxErrors`";
        found.add(codes::DEPRECATED, &path, "`consecutiveErrors` is going away").on_key().help(help);
    }
    let is_split = outlier.split_external_local_origin_errors == Some(true);
    if outlier.consecutive_local_origin_failures.is_some_and(|number| number > 0) && !is_split {
        let message = "local failures are not counted apart";
        found
            .add(codes::NO_EFFECT, &path.key("consecutiveLocalOriginFailures"), message)
            .on_key()
            .help("add `splitExternalLocalOriginErrors: true`");
    }
    for (index, status) in outlier.outlier_detection_http_error_codes.iter().enumerate() {
        if !(200..=599).contains(status) {
            let path = path.key("outlierDetectionHttpErrorCodes").index(index);
            found.add(codes::STATUS, &path, format!("{status} is not the status of an answer"));
        }
    }
}

fn check_tunnel(tunnel: &TunnelSettings, path: &Path, found: &mut Findings) {
    found.host(&path.key("targetHost"), &tunnel.target_host, Wildcard::Refused);
    found.port(&path.key("targetPort"), tunnel.target_port);
    if let Some(protocol) = tunnel.protocol.as_deref().filter(|protocol| !matches!(*protocol, "" | "CONNECT" | "POST"))
    {
        let message = format!("`{protocol}` is not a way to tunnel");
        found.add(codes::PROTOCOL, &path.key("protocol"), message).help("it is `CONNECT` or `POST`");
    }
}
