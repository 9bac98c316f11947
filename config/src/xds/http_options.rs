//! Protocol options that listeners and clusters share. Leno sizes its windows and limits itself; what is left are the
//! options that change what passes.

use std::time::Duration;

use super::pb;
use super::refusal::{Problem, Result, unsupported};
use super::scalar::{duration_to_xds, positive_duration};
use crate::ir::UnderscoreNames;
use pb::core::http_protocol_options::HeadersWithUnderscoresAction;
use pb::core::{Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions};

/// Options of a listener for every HTTP version: how long a stream may last, and what header names may be.
pub(super) fn downstream_common(options: HttpProtocolOptions) -> Result<(Option<Duration>, UnderscoreNames)> {
    let HttpProtocolOptions {
        headers_with_underscores_action,
        max_stream_duration,
        // Limits; Leno has its own.
        idle_timeout: _,
        max_connection_duration: _,
        max_connection_duration_jitter: _,
        max_headers_count: _,
        max_response_headers_kb: _,
        max_requests_per_connection: _,
    } = options;
    let underscores = match HeadersWithUnderscoresAction::try_from(headers_with_underscores_action) {
        Ok(HeadersWithUnderscoresAction::Allow) => UnderscoreNames::Pass,
        Ok(HeadersWithUnderscoresAction::DropHeader) => UnderscoreNames::Drop,
        Ok(HeadersWithUnderscoresAction::RejectRequest) => UnderscoreNames::Refuse,
        Err(_) => return Err(Problem::unsupported("headers_with_underscores_action")),
    };
    Ok((positive_duration("max_stream_duration", max_stream_duration)?, underscores))
}

/// The same on its way out; none where nothing is said.
pub(super) fn downstream_common_to_xds(
    longest: Option<Duration>,
    underscores: UnderscoreNames,
) -> Option<HttpProtocolOptions> {
    let action = match underscores {
        UnderscoreNames::Pass => HeadersWithUnderscoresAction::Allow,
        UnderscoreNames::Drop => HeadersWithUnderscoresAction::DropHeader,
        UnderscoreNames::Refuse => HeadersWithUnderscoresAction::RejectRequest,
    };
    (longest.is_some() || underscores != UnderscoreNames::Pass).then(|| HttpProtocolOptions {
        max_stream_duration: longest.map(duration_to_xds),
        headers_with_underscores_action: action.into(),
        ..Default::default()
    })
}

/// Options of HTTP/1.1, on either side.
pub(super) fn http1(options: Http1ProtocolOptions) -> Result<()> {
    #[allow(deprecated)]
    let Http1ProtocolOptions {
        accept_http_10,
        default_host_for_http_10,
        allow_chunked_length,
        send_fully_qualified_url,
        ignore_http_11_upgrade,
        // Leno takes the absolute form, passes trailers and takes every method.
        allow_absolute_url: _,
        enable_trailers: _,
        allow_custom_methods: _,
        // Header names compare without case (RFC 9110 §5.1).
        header_key_format: _,
        // How a malformed message ends: always the stream, with an answer where one is possible.
        override_stream_error_on_invalid_http_message: _,
        // Which parser Envoy uses.
        use_balsa_parser: _,
    } = options;
    unsupported(&[
        ("accept_http_10", &accept_http_10),
        ("default_host_for_http_10", &default_host_for_http_10),
        ("allow_chunked_length", &allow_chunked_length),
        ("send_fully_qualified_url", &send_fully_qualified_url),
        ("ignore_http_11_upgrade", &ignore_http_11_upgrade),
    ])
}

/// Options of HTTP/2, on either side.
pub(super) fn http2(options: Http2ProtocolOptions) -> Result<()> {
    #[allow(deprecated)]
    let Http2ProtocolOptions {
        allow_metadata,
        custom_settings_parameters,
        // Windows, limits and guards against floods; Leno has its own.
        hpack_table_size: _,
        max_concurrent_streams: _,
        initial_stream_window_size: _,
        initial_connection_window_size: _,
        max_outbound_frames: _,
        max_outbound_control_frames: _,
        max_consecutive_inbound_frames_with_empty_payload: _,
        max_inbound_priority_frames_per_stream: _,
        max_inbound_window_update_frames_per_data_frame_sent: _,
        connection_keepalive: _,
        max_metadata_size: _,
        max_header_field_size_kb: _,
        stream_reset_burst: _,
        stream_reset_rate: _,
        // Which of Envoy's codecs, and how strict it is.
        use_oghttp2_codec: _,
        enable_huffman_encoding: _,
        disallow_obs_text: _,
        stream_error_on_invalid_http_messaging: _,
        override_stream_error_on_invalid_http_message: _,
        // Allows extended CONNECT; that a peer may use it does not say that it does.
        allow_connect: _,
    } = options;
    unsupported(&[("allow_metadata", &allow_metadata), ("custom_settings_parameters", &custom_settings_parameters)])
}
