//! HTTP on a listener: Envoy's HttpConnectionManager.

use std::sync::Arc;
use std::time::Duration;

use super::filter::{self, Listed};
use super::pb;
use super::refusal::{Problem, Result, Within, each, is_false, is_true, nonempty, required, unsupported};
use super::scalar::{limit_from_xds, limit_to_xds, wrap_bool};
use super::{base, http_options, route, tracing};
use crate::ir::{Authorization, Direction, HttpManager, PathNormalization, RouteSource, StreamLimits};
use pb::hcm::HttpConnectionManager;
use pb::hcm::http_connection_manager::{
    CodecType, ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier, SetCurrentClientCertDetails,
    StripPortMode, UpgradeConfig,
};

/// Envoy: a stream may be quiet for so long where nobody says anything.
const ENVOY_STREAM_IDLE: Duration = Duration::from_secs(300);

/// `authorization`: of the listener; it stands among the filters.
pub(super) fn to_xds(
    manager: &HttpManager,
    direction: Direction,
    authorization: &Authorization,
) -> HttpConnectionManager {
    let HttpManager { stat_prefix, routes, upgrades, path, underscores, jwt, rate_limits, streams, tracing } = manager;
    let PathNormalization { dots, merge_slashes } = path;
    let StreamLimits { idle, longest } = *streams;
    HttpConnectionManager {
        stat_prefix: stat_prefix.clone(),
        route_specifier: Some(match routes {
            RouteSource::Named(name) => {
                RouteSpecifier::Rds(pb::hcm::Rds { config_source: Some(base::ads()), route_config_name: name.clone() })
            }
            RouteSource::Inline(table) => RouteSpecifier::RouteConfig(route::to_xds(table)),
        }),
        http_filters: filter::to_xds(direction, jwt, authorization, rate_limits),
        upgrade_configs: upgrades
            .iter()
            .map(|upgrade| UpgradeConfig { upgrade_type: upgrade.clone(), ..Default::default() })
            .collect(),
        normalize_path: wrap_bool(*dots),
        merge_slashes: *merge_slashes,
        stream_idle_timeout: limit_to_xds(idle),
        common_http_protocol_options: http_options::downstream_common_to_xds(longest, *underscores),
        // Istio's sidecars: x-forwarded-for passes untouched, and the certificate of the caller is told to the own app
        // only.
        use_remote_address: wrap_bool(false),
        tracing: tracing.as_deref().map(tracing::to_xds),
        forward_client_cert_details: match direction {
            Direction::Inbound => ForwardClientCertDetails::SanitizeSet.into(),
            Direction::Outbound => ForwardClientCertDetails::Sanitize.into(),
        },
        set_current_client_cert_details: (direction == Direction::Inbound).then(|| SetCurrentClientCertDetails {
            subject: wrap_bool(true),
            dns: true,
            uri: true,
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(super) fn from_xds(manager: HttpConnectionManager) -> Result<(HttpManager, Authorization)> {
    #[allow(deprecated)]
    let HttpConnectionManager {
        codec_type,
        stat_prefix,
        http_filters,
        add_user_agent,
        common_http_protocol_options,
        http_protocol_options,
        http2_protocol_options,
        scheme_header_transformation,
        original_ip_detection_extensions,
        early_header_mutation_extensions,
        via,
        forward_client_cert_matcher,
        upgrade_configs,
        normalize_path,
        merge_slashes,
        path_with_escaped_slashes_action,
        local_reply_config,
        strip_matching_host_port,
        path_normalization_options,
        strip_trailing_host_dot,
        typed_header_validation_config,
        append_x_forwarded_port,
        forward_proto_config,
        route_specifier,
        strip_port_mode,
        stream_idle_timeout,
        tracing,
        // Logs, which were taken out before; request ids.
        access_log: _,
        access_log_flush_interval: _,
        flush_access_log_on_new_request: _,
        access_log_options: _,
        generate_request_id: _,
        preserve_external_request_id: _,
        always_set_request_id_in_response: _,
        request_id_extension: _,
        // Headers by which a proxy tells of itself.
        server_name: _,
        server_header_transformation: _,
        proxy_status_config: _,
        append_local_overload: _,
        // Where a request comes from: Leno takes the address of the connection and lets x-forwarded-for pass.
        use_remote_address: _,
        xff_num_trusted_hops: _,
        internal_address_config: _,
        skip_xff_append: _,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6: _,
        add_proxy_protocol_connection_state: _,
        // Limits and timeouts; Leno has its own.
        max_request_headers_kb: _,
        stream_flush_timeout: _,
        request_timeout: _,
        request_headers_timeout: _,
        drain_timeout: _,
        drain_timeout_jitter: _,
        delayed_close_timeout: _,
        http1_safe_max_connection_duration: _,
        // Of HTTP/3, which codec_type asks for.
        http3_protocol_options: _,
        // x-forwarded-client-cert: inbound tells of the verified caller, outbound nothing, and what a client claims is
        // never passed on.
        forward_client_cert_details: _,
        set_current_client_cert_details: _,
        // 100 Continue passes through in any case.
        proxy_100_continue: _,
        // How a malformed message ends: always the stream, with an answer where one is possible.
        stream_error_on_invalid_http_message: _,
    } = manager;
    unsupported(&[
        ("add_user_agent", &is_true(&add_user_agent)),
        ("scheme_header_transformation", &scheme_header_transformation),
        ("original_ip_detection_extensions", &original_ip_detection_extensions),
        ("early_header_mutation_extensions", &early_header_mutation_extensions),
        ("via", &via),
        ("forward_client_cert_matcher", &forward_client_cert_matcher),
        ("local_reply_config", &local_reply_config),
        ("strip_matching_host_port", &strip_matching_host_port),
        ("path_normalization_options", &path_normalization_options),
        ("strip_trailing_host_dot", &strip_trailing_host_dot),
        ("typed_header_validation_config", &typed_header_validation_config),
        ("append_x_forwarded_port", &append_x_forwarded_port),
        ("forward_proto_config", &forward_proto_config),
        ("strip_any_host_port", &matches!(strip_port_mode, Some(StripPortMode::StripAnyHostPort(true)))),
    ])?;
    check_codec(codec_type)?;
    let (longest, underscores) = common_http_protocol_options
        .map_or(Ok(Default::default()), http_options::downstream_common)
        .within("common_http_protocol_options")?;
    let idle = limit_from_xds("stream_idle_timeout", stream_idle_timeout, ENVOY_STREAM_IDLE)?;
    http_protocol_options.map_or(Ok(()), http_options::http1).within("http_protocol_options")?;
    http2_protocol_options.map_or(Ok(()), http_options::http2).within("http2_protocol_options")?;
    let Listed { jwt, authorization, rate_limits } = filter::from_xds(http_filters)?;
    let manager = HttpManager {
        stat_prefix,
        routes: routes_from_xds(route_specifier)?,
        upgrades: each("upgrade_configs", upgrade_configs, upgrade_from_xds)?.into_iter().flatten().collect(),
        path: path_from_xds(&normalize_path, merge_slashes, path_with_escaped_slashes_action)?,
        underscores,
        jwt,
        rate_limits,
        streams: StreamLimits { idle, longest },
        tracing: tracing.map_or(Ok(None), tracing::from_xds).within("tracing")?,
    };
    Ok((manager, authorization))
}

/// Leno tells HTTP/1.1 and HTTP/2 apart by itself, whichever is asked for.
fn check_codec(codec: i32) -> Result<()> {
    match CodecType::try_from(codec) {
        Ok(CodecType::Auto | CodecType::Http1 | CodecType::Http2) => Ok(()),
        Ok(CodecType::Http3) | Err(_) => Err(Problem::new("codec_type", "only AUTO, HTTP1 and HTTP2 are supported")),
    }
}

fn routes_from_xds(specifier: Option<RouteSpecifier>) -> Result<RouteSource> {
    match required("route_specifier", specifier)? {
        RouteSpecifier::Rds(pb::hcm::Rds { config_source, route_config_name }) => {
            base::require_ads(config_source).within("rds.config_source")?;
            Ok(RouteSource::Named(nonempty("rds.route_config_name", route_config_name)?))
        }
        RouteSpecifier::RouteConfig(mut table) => {
            if table.name.is_empty() {
                // Only a table of its own is asked for by name.
                table.name = "inline".to_owned();
            }
            Ok(RouteSource::Inline(Arc::new(route::from_xds(table).within("route_config")?)))
        }
        RouteSpecifier::ScopedRoutes(_) => Err(Problem::unsupported("scoped_routes")),
    }
}

/// The token of an upgrade that passes; nothing where it is switched off.
fn upgrade_from_xds(upgrade: UpgradeConfig) -> Result<Option<String>> {
    let UpgradeConfig { upgrade_type, filters, enabled } = upgrade;
    unsupported(&[("filters", &filters)])?;
    if upgrade_type.eq_ignore_ascii_case("connect") || upgrade_type.eq_ignore_ascii_case("connect-udp") {
        return Err(Problem::new("upgrade_type", format!("Leno does not take `{upgrade_type}`")));
    }
    let token = nonempty("upgrade_type", upgrade_type)?.to_ascii_lowercase();
    Ok((!is_false(&enabled)).then_some(token))
}

/// Unset, the path is made canonical: a rule by prefix is worth nothing if `/public/../admin` passes it. Envoy leaves
/// this to a switch at run time; Istio always sets it.
fn path_from_xds(
    normalize: &Option<pb::protobuf::BoolValue>,
    merge_slashes: bool,
    escaped_slashes: i32,
) -> Result<PathNormalization> {
    match PathWithEscapedSlashesAction::try_from(escaped_slashes) {
        Ok(
            PathWithEscapedSlashesAction::ImplementationSpecificDefault | PathWithEscapedSlashesAction::KeepUnchanged,
        ) => Ok(PathNormalization { dots: !is_false(normalize), merge_slashes }),
        Ok(
            PathWithEscapedSlashesAction::RejectRequest
            | PathWithEscapedSlashesAction::UnescapeAndRedirect
            | PathWithEscapedSlashesAction::UnescapeAndForward,
        )
        | Err(_) => Err(Problem::new("path_with_escaped_slashes_action", "only KEEP_UNCHANGED is supported")),
    }
}
