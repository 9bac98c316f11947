//! Traces: Envoy's OpenTelemetry tracer on the HttpConnectionManager.
//!
//! What is asked for and cannot be done never refuses a listener: traffic without traces is better than none. It is kept
//! as a foreign provider, and `/config_dump` lists it among what is not enforced.

use std::sync::Arc;
use std::time::Duration;

use super::any::{is, pack, unpack};
use super::pb;
use super::refusal::{Problem, Result, Within, each, nonempty, required};
use super::scalar::{
    duration_from_xds, duration_to_xds, percent_from_xds, percent_to_xds, positive_duration, u32_or, wrap_bool,
    wrap_u32,
};
use crate::defaults;
use crate::ir::{Collector, CustomTag, Fraction, OtlpProtocol, TagValue, Tracing, TracingProvider};
use pb::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use pb::core::http_uri::HttpUpstreamType;
use pb::core::{GrpcService, HttpService, HttpUri};
use pb::custom_tag::custom_tag::{self, Type};
use pb::hcm::http_connection_manager;
use pb::trace::OpenTelemetryConfig;
use pb::trace::tracing::Http as Provider;
use pb::trace::tracing::http::ConfigType;

/// The name of Envoy's tracer.
const TRACER: &str = "envoy.tracers.opentelemetry";

pub(super) fn to_xds(tracing: &Tracing) -> http_connection_manager::Tracing {
    let Tracing { provider, sampling, attempts, longest_path, tags } = tracing;
    http_connection_manager::Tracing {
        client_sampling: Some(percent_to_xds(Fraction::ALL)),
        random_sampling: Some(percent_to_xds(*sampling)),
        overall_sampling: Some(percent_to_xds(Fraction::ALL)),
        max_path_tag_length: wrap_u32(*longest_path),
        custom_tags: tags.iter().map(tag_to_xds).collect(),
        provider: Some(match provider {
            TracingProvider::OpenTelemetry(collector) => Provider {
                name: TRACER.to_owned(),
                config_type: Some(ConfigType::TypedConfig(pack(&collector_to_xds(collector)))),
            },
            TracingProvider::Foreign(name) => Provider { name: name.clone(), config_type: None },
        }),
        spawn_upstream_span: wrap_bool(*attempts),
        ..Default::default()
    }
}

/// `None`: no provider is named, so nothing is traced.
pub(super) fn from_xds(tracing: http_connection_manager::Tracing) -> Result<Option<Arc<Tracing>>> {
    let http_connection_manager::Tracing {
        // Of `x-client-trace-id`, by which a stranger may ask for a trace: Leno listens to its own app alone.
        client_sampling: _,
        random_sampling,
        overall_sampling,
        // Events of a span's streams.
        verbose: _,
        max_path_tag_length,
        custom_tags,
        provider,
        spawn_upstream_span,
        // Names of spans by a format; Leno names them as OpenTelemetry's conventions do.
        operation: _,
        upstream_operation: _,
        no_context_propagation,
    } = tracing;
    let Some(provider) = provider else { return Ok(None) };
    let share = |field: &str, percent: Option<pb::kinds::Percent>| {
        percent.map_or(Ok(Fraction::ALL), |percent| percent_from_xds(percent).within(field))
    };
    let random = share("random_sampling", random_sampling)?;
    let overall = share("overall_sampling", overall_sampling)?;
    let provider = match no_context_propagation {
        true => TracingProvider::Foreign(format!("{} with no_context_propagation", provider.name)),
        false => provider_from_xds(provider).within("provider")?,
    };
    Ok(Some(Arc::new(Tracing {
        provider,
        sampling: if random.millionths() < overall.millionths() { random } else { overall },
        attempts: spawn_upstream_span.is_some_and(|wanted| wanted.value),
        longest_path: u32_or(max_path_tag_length, Tracing::LONGEST_PATH),
        tags: each("custom_tags", custom_tags, tag_from_xds)?.into_iter().flatten().collect(),
    })))
}

fn provider_from_xds(provider: Provider) -> Result<TracingProvider> {
    let Provider { name, config_type } = provider;
    let Some(ConfigType::TypedConfig(config)) = config_type else {
        return Ok(TracingProvider::Foreign(nonempty("name", name)?));
    };
    if !is::<OpenTelemetryConfig>(&config) {
        return Ok(TracingProvider::Foreign(nonempty("name", name)?));
    }
    collector_from_xds(unpack(&config).within("typed_config")?).within("typed_config")
}

fn collector_to_xds(collector: &Collector) -> OpenTelemetryConfig {
    let Collector { cluster, protocol, timeout, service } = collector;
    let timeout = Some(duration_to_xds(*timeout));
    let config = OpenTelemetryConfig { service_name: service.clone(), ..Default::default() };
    match protocol {
        OtlpProtocol::Grpc(authority) => {
            let target =
                EnvoyGrpc { cluster_name: cluster.clone(), authority: authority.clone(), ..Default::default() };
            let target_specifier = Some(TargetSpecifier::EnvoyGrpc(target));
            let service = GrpcService { timeout, target_specifier, ..Default::default() };
            OpenTelemetryConfig { grpc_service: Some(service), ..config }
        }
        OtlpProtocol::Http(uri) => {
            let http_upstream_type = Some(HttpUpstreamType::Cluster(cluster.clone()));
            let http_uri = Some(HttpUri { uri: uri.to_string(), timeout, http_upstream_type });
            OpenTelemetryConfig { http_service: Some(HttpService { http_uri, ..Default::default() }), ..config }
        }
    }
}

fn collector_from_xds(config: OpenTelemetryConfig) -> Result<TracingProvider> {
    let OpenTelemetryConfig {
        grpc_service,
        http_service,
        exporter,
        service_name,
        // Attributes of the resource: Leno knows its own.
        resource_detectors: _,
        sampler,
        // Spans that wait; Leno has its own bound.
        max_cache_size: _,
        set_telemetry_sdk_resource_attributes: _,
        set_service_name_resource_attribute: _,
        set_instrumentation_scope: _,
    } = config;
    let foreign = |what: &str| Ok(TracingProvider::Foreign(format!("{TRACER} with {what}")));
    if sampler.is_some() {
        return foreign("a sampler");
    }
    if exporter.is_some() {
        return foreign("an exporter");
    }
    match (grpc_service, http_service) {
        (Some(service), None) => grpc_from_xds(service, service_name).within("grpc_service"),
        (None, Some(service)) => http_from_xds(service, service_name).within("http_service"),
        (Some(_), Some(_)) => foreign("two services"),
        (None, None) => foreign("no service"),
    }
}

fn grpc_from_xds(service: GrpcService, name: String) -> Result<TracingProvider> {
    // What is tried again is for Leno to say.
    let GrpcService { timeout, initial_metadata, retry_policy: _, target_specifier } = service;
    let foreign = |what: &str| Ok(TracingProvider::Foreign(format!("{TRACER} with {what}")));
    if !initial_metadata.is_empty() {
        return foreign("initial_metadata");
    }
    // Of the stream between Envoy and its cluster.
    let EnvoyGrpc { cluster_name, authority, retry_policy: _, max_receive_message_length: _, skip_envoy_headers: _ } =
        match target_specifier {
            Some(TargetSpecifier::EnvoyGrpc(target)) => target,
            Some(TargetSpecifier::GoogleGrpc(_)) => return foreign("google_grpc"),
            None => return Err(Problem::missing("target_specifier")),
        };
    Ok(TracingProvider::OpenTelemetry(Collector {
        cluster: nonempty("envoy_grpc.cluster_name", cluster_name)?,
        protocol: OtlpProtocol::Grpc(authority),
        timeout: positive_duration("timeout", timeout)?.unwrap_or(defaults::OTLP_TIMEOUT),
        service: name,
    }))
}

fn http_from_xds(service: HttpService, name: String) -> Result<TracingProvider> {
    // Formatters serve the headers.
    let HttpService { http_uri, request_headers_to_add, formatters: _ } = service;
    if !request_headers_to_add.is_empty() {
        return Ok(TracingProvider::Foreign(format!("{TRACER} with request_headers_to_add")));
    }
    let HttpUri { uri, timeout, http_upstream_type } = required("http_uri", http_uri)?;
    let Some(HttpUpstreamType::Cluster(cluster)) = http_upstream_type else {
        return Err(Problem::missing("http_uri.cluster"));
    };
    let timeout = required("http_uri.timeout", timeout)?;
    Ok(TracingProvider::OpenTelemetry(Collector {
        cluster: nonempty("http_uri.cluster", cluster)?,
        protocol: OtlpProtocol::Http(Collector::uri(&uri).within("http_uri.uri")?),
        timeout: duration_from_xds(timeout).within("http_uri.timeout").map(or_default)?,
        service: name,
    }))
}

fn or_default(timeout: Duration) -> Duration {
    if timeout.is_zero() { defaults::OTLP_TIMEOUT } else { timeout }
}

fn tag_to_xds(tag: &CustomTag) -> pb::custom_tag::CustomTag {
    let CustomTag { name, value } = tag;
    pb::custom_tag::CustomTag {
        tag: name.clone(),
        r#type: Some(match value {
            TagValue::Literal(value) => Type::Literal(custom_tag::Literal { value: value.clone() }),
            TagValue::Header { name, default } => {
                let (name, default_value) = (name.as_str().to_owned(), default.clone());
                Type::RequestHeader(custom_tag::Header { name, default_value })
            }
        }),
    }
}

/// `None`: it would say something that Leno does not know, of which a span can do without.
fn tag_from_xds(tag: pb::custom_tag::CustomTag) -> Result<Option<CustomTag>> {
    let pb::custom_tag::CustomTag { tag: name, r#type } = tag;
    let name = nonempty("tag", name)?;
    let value = match required("type", r#type)? {
        Type::Literal(custom_tag::Literal { value }) => TagValue::Literal(value),
        Type::RequestHeader(custom_tag::Header { name, default_value }) => {
            let name = name.parse().map_err(|_| Problem::new("request_header.name", "is not a header name"))?;
            TagValue::Header { name, default: default_value }
        }
        // Of the process, of a filter, and of a log's format.
        Type::Environment(_) | Type::Metadata(_) | Type::Value(_) => return Ok(None),
    };
    Ok(Some(CustomTag { name, value }))
}
