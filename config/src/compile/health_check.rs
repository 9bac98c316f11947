//! From a HealthCheck rule to what the proxy does.

use std::time::Duration;

use crate::defaults;
use crate::ir::{GrpcProbe, HealthCheck, HealthProbe, HttpProbe, StatusRange, TcpProbe, UpstreamProtocol};
use crate::mesh::Service;
use crate::rules::{self, DurationText};

use super::clusters::duration;

/// The check of a cluster that speaks `protocol`. A rule without one of the three ways is one of its protocol.
pub(super) fn compile(rule: &rules::HealthCheck, service: &Service, protocol: UpstreamProtocol) -> HealthCheck {
    let or = |text: &Option<DurationText>, default: Duration| {
        duration(text.as_ref()).filter(|value| !value.is_zero()).unwrap_or(default)
    };
    let count = |value: Option<u32>, default: u32| value.filter(|&count| count > 0).unwrap_or(default);
    HealthCheck {
        probe: probe(rule, service, protocol),
        interval: or(&rule.interval, defaults::HEALTH_INTERVAL),
        idle_interval: or(&rule.idle_interval, defaults::HEALTH_IDLE_INTERVAL),
        timeout: or(&rule.timeout, defaults::HEALTH_TIMEOUT),
        unhealthy_threshold: count(rule.unhealthy_threshold, defaults::HEALTH_UNHEALTHY_THRESHOLD),
        healthy_threshold: count(rule.healthy_threshold, defaults::HEALTH_HEALTHY_THRESHOLD),
        jitter_percent: defaults::HEALTH_JITTER_PERCENT,
    }
}

fn probe(rule: &rules::HealthCheck, service: &Service, protocol: UpstreamProtocol) -> HealthProbe {
    if let Some(grpc) = &rule.grpc {
        let service_name = grpc.service.clone().unwrap_or_default();
        return HealthProbe::Grpc(GrpcProbe { service: service_name, authority: Some(service.host.clone()) });
    }
    if let Some(http) = &rule.http {
        let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
        return HealthProbe::Http(HttpProbe {
            host: Some(text(&http.host).unwrap_or_else(|| service.host.clone())),
            path: text(&http.path).unwrap_or_else(|| "/".to_owned()),
            expected: ranges(&http.status),
            retriable: ranges(&http.retriable),
            http2: protocol == UpstreamProtocol::Http2,
        });
    }
    let bytes = |value: &Option<String>| value.clone().unwrap_or_default().into_bytes();
    let tcp = rule.tcp.as_ref();
    HealthProbe::Tcp(TcpProbe {
        send: tcp.map(|tcp| bytes(&tcp.send)).unwrap_or_default(),
        receive: tcp.map(|tcp| bytes(&tcp.receive)).into_iter().filter(|bytes| !bytes.is_empty()).collect(),
    })
}

fn ranges(written: &[rules::NumberOrText]) -> Vec<StatusRange> {
    written.iter().filter_map(|text| status_range(&text.to_string())).collect()
}

/// `200` or `200-299`; `None`: it is none.
pub(crate) fn status_range(text: &str) -> Option<StatusRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| text.trim().parse::<u16>().ok().filter(|status| (100..600).contains(status));
    let (first, last) = (status(first)?, status(last)?);
    (first <= last).then_some(StatusRange { first, last })
}
