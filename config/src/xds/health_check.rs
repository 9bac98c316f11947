//! Active health checks.

use super::pb;
use super::refusal::{Problem, Result, Within, each, nonempty, required, unsupported};
use super::scalar::{duration_to_xds, positive_duration, u32_or, wrap_u32};
use crate::defaults;
use crate::ir::{GrpcProbe, HealthCheck, HealthProbe, HttpProbe, StatusRange, TcpProbe};
use pb::core::health_check::{self, GrpcHealthCheck, HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck, payload};
use pb::kinds::{CodecClientType, Int64Range};

/// `GET`, and nothing said.
const METHODS: [pb::core::RequestMethod; 2] =
    [pb::core::RequestMethod::MethodUnspecified, pb::core::RequestMethod::Get];

pub(super) fn to_xds(check: &HealthCheck) -> pb::core::HealthCheck {
    let HealthCheck { probe, interval, idle_interval, timeout, unhealthy_threshold, healthy_threshold, jitter_percent } =
        check;
    pb::core::HealthCheck {
        timeout: Some(duration_to_xds(*timeout)),
        interval: Some(duration_to_xds(*interval)),
        no_traffic_interval: Some(duration_to_xds(*idle_interval)),
        interval_jitter_percent: *jitter_percent,
        unhealthy_threshold: wrap_u32(*unhealthy_threshold),
        healthy_threshold: wrap_u32(*healthy_threshold),
        health_checker: Some(match probe {
            HealthProbe::Http(probe) => HealthChecker::HttpHealthCheck(http_to_xds(probe)),
            HealthProbe::Tcp(TcpProbe { send, receive }) => HealthChecker::TcpHealthCheck(TcpHealthCheck {
                send: (!send.is_empty()).then(|| payload_to_xds(send)),
                receive: receive.iter().map(|bytes| payload_to_xds(bytes)).collect(),
                proxy_protocol_config: None,
            }),
            HealthProbe::Grpc(GrpcProbe { service, authority }) => HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
                service_name: service.clone(),
                authority: authority.clone().unwrap_or_default(),
                initial_metadata: Vec::new(),
            }),
        }),
        ..Default::default()
    }
}

fn http_to_xds(probe: &HttpProbe) -> HttpHealthCheck {
    let HttpProbe { host, path, expected, retriable, http2 } = probe;
    let codec = if *http2 { CodecClientType::Http2 } else { CodecClientType::Http1 };
    HttpHealthCheck {
        host: host.clone().unwrap_or_default(),
        path: path.clone(),
        expected_statuses: expected.iter().map(range_to_xds).collect(),
        retriable_statuses: retriable.iter().map(range_to_xds).collect(),
        codec_client_type: codec.into(),
        ..Default::default()
    }
}

fn range_to_xds(range: &StatusRange) -> Int64Range {
    Int64Range { start: range.first.into(), end: i64::from(range.last).saturating_add(1) }
}

fn payload_to_xds(bytes: &[u8]) -> Payload {
    let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Payload { payload: Some(payload::Payload::Text(hex)) }
}

/// Several checks of one cluster have to pass all in Envoy; Leno has one.
pub(super) fn all_from_xds(checks: Vec<pb::core::HealthCheck>) -> Result<Option<HealthCheck>> {
    let mut checks = each("health_checks", checks, from_xds)?;
    match checks.len() {
        0 | 1 => Ok(checks.pop()),
        _ => Err(Problem::new("health_checks", "Leno checks an endpoint in one way; write one health check")),
    }
}

#[allow(deprecated)]
fn from_xds(check: pb::core::HealthCheck) -> Result<HealthCheck> {
    let pb::core::HealthCheck {
        timeout,
        interval,
        interval_jitter_percent,
        unhealthy_threshold,
        healthy_threshold,
        alt_port,
        no_traffic_interval,
        tls_options,
        transport_socket_match_criteria,
        health_checker,
        // When exactly the next check is due; Leno has one interval, with some per cent of jitter, and its first check
        // is at once.
        initial_jitter: _,
        interval_jitter: _,
        no_traffic_healthy_interval: _,
        unhealthy_interval: _,
        unhealthy_edge_interval: _,
        healthy_edge_interval: _,
        // Leno opens a connection for each check, so that it also learns whether that works.
        reuse_connection: _,
        // What is logged where.
        event_log_path: _,
        event_logger: _,
        event_service: _,
        always_log_health_check_failures: _,
        always_log_health_check_success: _,
    } = check;
    unsupported(&[
        ("alt_port", &alt_port),
        ("tls_options", &tls_options),
        ("transport_socket_match_criteria", &transport_socket_match_criteria),
    ])?;
    let needed = |field: &str, value| required(field, positive_duration(field, value)?);
    Ok(HealthCheck {
        probe: probe_from_xds(required("health_checker", health_checker)?)?,
        interval: needed("interval", interval)?,
        idle_interval: positive_duration("no_traffic_interval", no_traffic_interval)?
            .unwrap_or(defaults::HEALTH_IDLE_INTERVAL),
        timeout: needed("timeout", timeout)?,
        unhealthy_threshold: threshold("unhealthy_threshold", unhealthy_threshold)?,
        healthy_threshold: threshold("healthy_threshold", healthy_threshold)?,
        jitter_percent: interval_jitter_percent.min(100),
    })
}

fn threshold(field: &str, value: Option<pb::protobuf::UInt32Value>) -> Result<u32> {
    required(field, value).map(|value| u32_or(Some(value), 1).max(1))
}

fn probe_from_xds(checker: HealthChecker) -> Result<HealthProbe> {
    match checker {
        HealthChecker::HttpHealthCheck(http) => http_from_xds(http).within("http_health_check").map(HealthProbe::Http),
        HealthChecker::TcpHealthCheck(tcp) => tcp_from_xds(tcp).within("tcp_health_check").map(HealthProbe::Tcp),
        HealthChecker::GrpcHealthCheck(GrpcHealthCheck { service_name, authority, initial_metadata }) => {
            unsupported(&[("grpc_health_check.initial_metadata", &initial_metadata)])?;
            let authority = Some(authority).filter(|authority| !authority.is_empty());
            Ok(HealthProbe::Grpc(GrpcProbe { service: service_name, authority }))
        }
        HealthChecker::CustomHealthCheck(health_check::CustomHealthCheck { name, config_type: _ }) => {
            Err(Problem::new("custom_health_check", format!("Leno has no health check `{name}`")))
        }
    }
}

fn http_from_xds(check: HttpHealthCheck) -> Result<HttpProbe> {
    let HttpHealthCheck {
        host,
        path,
        send,
        receive,
        request_headers_to_add,
        request_headers_to_remove,
        expected_statuses,
        retriable_statuses,
        codec_client_type,
        service_name_matcher,
        method,
        // Of what is received, which is refused.
        response_buffer_size: _,
    } = check;
    unsupported(&[
        ("send", &send),
        ("receive", &receive),
        ("request_headers_to_add", &request_headers_to_add),
        ("request_headers_to_remove", &request_headers_to_remove),
        ("service_name_matcher", &service_name_matcher),
    ])?;
    if !METHODS.iter().any(|known| i32::from(*known) == method) {
        return Err(Problem::new("method", "Leno checks with GET"));
    }
    let http2 = match CodecClientType::try_from(codec_client_type) {
        Ok(CodecClientType::Http1) => false,
        Ok(CodecClientType::Http2) => true,
        Ok(CodecClientType::Http3) | Err(_) => return Err(Problem::unsupported("codec_client_type")),
    };
    Ok(HttpProbe {
        host: Some(host).filter(|host| !host.is_empty()),
        path: nonempty("path", path)?,
        expected: each("expected_statuses", expected_statuses, range_from_xds)?,
        retriable: each("retriable_statuses", retriable_statuses, range_from_xds)?,
        http2,
    })
}

/// Envoy: from `start` to before `end`, within 100 to 599.
fn range_from_xds(range: Int64Range) -> Result<StatusRange> {
    let Int64Range { start, end } = range;
    let status = |value: i64| u16::try_from(value).ok().filter(|status| (100..600).contains(status));
    match (status(start), status(end.saturating_sub(1))) {
        (Some(first), Some(last)) if first <= last => Ok(StatusRange { first, last }),
        _ => Err(Problem::new("", format!("{start} to {end} is not a range of statuses"))),
    }
}

fn tcp_from_xds(check: TcpHealthCheck) -> Result<TcpProbe> {
    let TcpHealthCheck { send, receive, proxy_protocol_config } = check;
    unsupported(&[("proxy_protocol_config", &proxy_protocol_config)])?;
    Ok(TcpProbe {
        send: send.map(payload_from_xds).transpose().within("send")?.unwrap_or_default(),
        receive: each("receive", receive, payload_from_xds)?,
    })
}

/// Text is hexadecimal.
fn payload_from_xds(payload: Payload) -> Result<Vec<u8>> {
    let bytes = match required("payload", payload.payload)? {
        payload::Payload::Binary(bytes) => bytes,
        payload::Payload::Text(hex) => {
            let digits: Option<Vec<u8>> =
                hex.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
            match digits {
                Some(digits) if digits.len() % 2 == 0 => {
                    digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect()
                }
                Some(_) | None => return Err(Problem::new("text", "is written in hexadecimal digits, two a byte")),
            }
        }
    };
    match bytes.is_empty() {
        true => Err(Problem::new("", "is not empty")),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_to_send_are_written_in_hexadecimal() {
        let text = |text: &str| Payload { payload: Some(payload::Payload::Text(text.to_owned())) };
        assert_eq!(payload_from_xds(text("50494e47")).ok(), Some(b"PING".to_vec()));
        assert_eq!(payload_from_xds(payload_to_xds(b"\x00\xff")).ok(), Some(vec![0, 255]));
        for bad in ["5", "xy", ""] {
            assert!(payload_from_xds(text(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_range_of_statuses_ends_before_its_end() {
        let range = |start, end| range_from_xds(Int64Range { start, end }).ok();
        assert_eq!(range(200, 300), Some(StatusRange { first: 200, last: 299 }));
        for (start, end) in [(200, 200), (0, 300), (200, 700), (i64::MIN, i64::MIN)] {
            assert_eq!(range(start, end), None, "{start} to {end}");
        }
    }
}
