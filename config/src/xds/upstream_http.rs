//! What a cluster says about HTTP: `HttpProtocolOptions`, and Envoy's older fields for the same.

use std::collections::HashMap;
use std::time::Duration;

use super::pb;
use super::refusal::{Problem, Result, Within, required, unsupported};
use super::scalar::{duration_to_xds, limit_from_xds, limit_to_xds, positive_duration, u32_or, wrap_u32};
use super::{any, filter, http_options, limits};
use crate::defaults;
use crate::ir::{Cluster, UpstreamProtocol, UpstreamTls};
use pb::cluster::cluster::ClusterProtocolSelection;
use pb::protobuf::Any;
use pb::upstream_http::HttpProtocolOptions;
use pb::upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
use pb::upstream_http::http_protocol_options::{
    ExplicitHttpConfig, OutlierDetection, UpstreamProtocolOptions, UseDownstreamHttpConfig,
};

/// The key of the HTTP options among a cluster's protocol options.
const KEY: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// What the HTTP options say.
pub(super) struct Options {
    pub(super) protocol: UpstreamProtocol,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_requests_per_connection: Option<u32>,
    pub(super) max_connection_duration: Option<Duration>,
    /// Of HTTP/2.
    pub(super) max_concurrent_streams: Option<u32>,
    /// The server name of TLS is the request's host.
    pub(super) auto_sni: bool,
    /// Of outlier detection: the statuses that count as errors.
    pub(super) status_codes: Vec<u16>,
}

/// All protocol options of a cluster.
pub(super) fn to_xds(cluster: &Cluster) -> HashMap<String, Any> {
    HashMap::from([(KEY.to_owned(), any::pack(&options_to_xds(cluster)))])
}

/// Reads the protocol options; `older` makes the same of Envoy's older fields, which count where the message is missing.
pub(super) fn from_xds(options: HashMap<String, Any>, older: impl FnOnce() -> HttpProtocolOptions) -> Result<Options> {
    match protocol_options_from_xds(options)? {
        Some(options) => options_from_xds(options).within(&format!("typed_extension_protocol_options[{KEY}]")),
        None => options_from_xds(older()),
    }
}

fn options_to_xds(cluster: &Cluster) -> HttpProtocolOptions {
    let Cluster { protocol, idle_timeout, max_requests_per_connection, outlier, tls, .. } = cluster;
    let http2 = pb::core::Http2ProtocolOptions {
        max_concurrent_streams: cluster.max_concurrent_streams.and_then(wrap_u32),
        ..Default::default()
    };
    let by_host = matches!(tls, UpstreamTls::External(external) if external.sni.is_none());
    let statuses = outlier.as_ref().and_then(|outlier| limits::statuses_to_xds(&outlier.status_codes));
    let explicit =
        |config| UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(config) });
    HttpProtocolOptions {
        common_http_protocol_options: Some(pb::core::HttpProtocolOptions {
            idle_timeout: limit_to_xds(*idle_timeout),
            max_requests_per_connection: max_requests_per_connection.and_then(wrap_u32),
            max_connection_duration: cluster.max_connection_duration.map(duration_to_xds),
            ..Default::default()
        }),
        upstream_http_protocol_options: by_host
            .then(|| pb::core::UpstreamHttpProtocolOptions { auto_sni: true, ..Default::default() }),
        outlier_detection: statuses.map(|matcher| OutlierDetection { error_matcher: Some(matcher) }),
        upstream_protocol_options: Some(match protocol {
            UpstreamProtocol::Http1 | UpstreamProtocol::Tcp => {
                explicit(ProtocolConfig::HttpProtocolOptions(Default::default()))
            }
            UpstreamProtocol::Http2 => explicit(ProtocolConfig::Http2ProtocolOptions(http2)),
            UpstreamProtocol::AsDownstream => {
                UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                    http_protocol_options: Some(Default::default()),
                    http2_protocol_options: Some(http2),
                    http3_protocol_options: None,
                })
            }
        }),
        ..Default::default()
    }
}

/// The HTTP options among a cluster's protocol options.
fn protocol_options_from_xds(options: HashMap<String, Any>) -> Result<Option<HttpProtocolOptions>> {
    let mut found = None;
    let mut options: Vec<_> = options.into_iter().collect();
    options.sort_by(|(left, _), (right, _)| left.cmp(right));
    for (name, config) in options {
        let field = format!("typed_extension_protocol_options[{name}]");
        if let Some(options) = any::unpack_if(&config).within(&field)? {
            found = Some(options);
        } else if !any::is::<pb::upstream_tcp::TcpProtocolOptions>(&config) {
            // Those of TCP hold an idle timeout, which the listener has as well.
            return Err(Problem::new(&field, format!("Leno does not know `{}`", any::type_name(&config))));
        }
    }
    Ok(found)
}

/// Envoy's older fields as the newer message.
pub(super) fn older(
    common: Option<pb::core::HttpProtocolOptions>,
    max_requests: Option<pb::protobuf::UInt32Value>,
    upstream: Option<pb::core::UpstreamHttpProtocolOptions>,
    http1: Option<pb::core::Http1ProtocolOptions>,
    http2: Option<pb::core::Http2ProtocolOptions>,
    selection: i32,
) -> HttpProtocolOptions {
    let explicit = |config| ExplicitHttpConfig { protocol_config: Some(config) };
    let mut common = common.unwrap_or_default();
    common.max_requests_per_connection = common.max_requests_per_connection.or(max_requests);
    let protocol = if selection == i32::from(ClusterProtocolSelection::UseDownstreamProtocol) {
        UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: http1,
            http2_protocol_options: http2,
            http3_protocol_options: None,
        })
    } else {
        UpstreamProtocolOptions::ExplicitHttpConfig(explicit(match http2 {
            Some(http2) => ProtocolConfig::Http2ProtocolOptions(http2),
            None => ProtocolConfig::HttpProtocolOptions(http1.unwrap_or_default()),
        }))
    };
    HttpProtocolOptions {
        common_http_protocol_options: Some(common),
        upstream_http_protocol_options: upstream,
        upstream_protocol_options: Some(protocol),
        ..Default::default()
    }
}

fn options_from_xds(options: HttpProtocolOptions) -> Result<Options> {
    let HttpProtocolOptions {
        common_http_protocol_options,
        upstream_http_protocol_options,
        http_filters,
        header_validation_config,
        outlier_detection,
        request_mirror_policies,
        hash_policy,
        retry_policy,
        upstream_protocol_options,
    } = options;
    unsupported(&[
        ("header_validation_config", &header_validation_config),
        ("request_mirror_policies", &request_mirror_policies),
        ("hash_policy", &hash_policy),
        ("retry_policy", &retry_policy),
    ])?;
    filter::upstream_from_xds("http_filters", http_filters)?;
    let common = common_http_protocol_options.unwrap_or_default();
    let Common { idle_timeout, max_requests_per_connection, max_connection_duration } =
        common_http_from_xds(common).within("common_http_protocol_options")?;
    let (protocol, max_concurrent_streams) =
        protocol_from_xds(required("upstream_protocol_options", upstream_protocol_options)?)?;
    let pb::core::UpstreamHttpProtocolOptions { auto_sni, auto_san_validation: _, override_auto_sni_header } =
        upstream_http_protocol_options.unwrap_or_default();
    unsupported(&[("upstream_http_protocol_options.override_auto_sni_header", &override_auto_sni_header)])?;
    let statuses = outlier_detection.and_then(|OutlierDetection { error_matcher }| error_matcher);
    Ok(Options {
        protocol,
        idle_timeout,
        max_requests_per_connection,
        max_connection_duration,
        max_concurrent_streams,
        auto_sni,
        status_codes: statuses
            .map_or(Ok(Vec::new()), limits::statuses_from_xds)
            .within("outlier_detection.error_matcher")?,
    })
}

/// What holds for every HTTP version.
struct Common {
    idle_timeout: Option<Duration>,
    max_requests_per_connection: Option<u32>,
    max_connection_duration: Option<Duration>,
}

fn common_http_from_xds(common: pb::core::HttpProtocolOptions) -> Result<Common> {
    let pb::core::HttpProtocolOptions {
        idle_timeout,
        max_connection_duration,
        max_stream_duration,
        max_requests_per_connection,
        // Spreads the ends of connections over time.
        max_connection_duration_jitter: _,
        // Limits; Leno has its own.
        max_headers_count: _,
        max_response_headers_kb: _,
        // Of listeners.
        headers_with_underscores_action: _,
    } = common;
    unsupported(&[("max_stream_duration", &positive_duration("max_stream_duration", max_stream_duration)?)])?;
    Ok(Common {
        idle_timeout: limit_from_xds("idle_timeout", idle_timeout, defaults::POOL_IDLE_TIMEOUT)?,
        max_requests_per_connection: Some(u32_or(max_requests_per_connection, 0)).filter(|limit| *limit > 0),
        max_connection_duration: positive_duration("max_connection_duration", max_connection_duration)?,
    })
}

/// What is spoken, and how many requests an HTTP/2 connection carries at a time.
fn protocol_from_xds(options: UpstreamProtocolOptions) -> Result<(UpstreamProtocol, Option<u32>)> {
    let streams = |options: &pb::core::Http2ProtocolOptions| {
        options.max_concurrent_streams.map(|value| value.value).filter(|limit| *limit > 0)
    };
    match options {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config }) => {
            match required("explicit_http_config.protocol_config", protocol_config)? {
                ProtocolConfig::HttpProtocolOptions(options) => {
                    http_options::http1(options).within("explicit_http_config.http_protocol_options")?;
                    Ok((UpstreamProtocol::Http1, None))
                }
                ProtocolConfig::Http2ProtocolOptions(options) => {
                    let streams = streams(&options);
                    http_options::http2(options).within("explicit_http_config.http2_protocol_options")?;
                    Ok((UpstreamProtocol::Http2, streams))
                }
                ProtocolConfig::Http3ProtocolOptions(_) => {
                    Err(Problem::unsupported("explicit_http_config.http3_protocol_options"))
                }
            }
        }
        UpstreamProtocolOptions::UseDownstreamProtocolConfig(config) => {
            let UseDownstreamHttpConfig { http_protocol_options, http2_protocol_options, http3_protocol_options: _ } =
                config;
            let field = "use_downstream_protocol_config";
            let streams = http2_protocol_options.as_ref().and_then(streams);
            http_protocol_options.map_or(Ok(()), http_options::http1).within("http_protocol_options").within(field)?;
            http2_protocol_options
                .map_or(Ok(()), http_options::http2)
                .within("http2_protocol_options")
                .within(field)?;
            Ok((UpstreamProtocol::AsDownstream, streams))
        }
        UpstreamProtocolOptions::AutoConfig(_) => Err(Problem::unsupported("auto_config")),
    }
}
