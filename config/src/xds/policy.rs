//! What is done to a request besides sending it on: header operations, cross-origin policy, faults, hashing, copies.

use std::time::Duration;

use http::HeaderName;

use super::matcher;
use super::pb;
use super::refusal::{Problem, Result, Within, each, is_true, nonempty, required, unsupported};
use super::scalar::{
    duration_from_xds, duration_to_xds, fraction_from_xds, fraction_to_xds, optional_duration,
    runtime_fraction_from_xds, runtime_fraction_to_xds, wrap_bool,
};
use crate::ir::{
    AbortStatus, ClusterName, CookieAttribute, Cors, Fault, FaultAbort, FaultDelay, Fraction, HashPolicy, HeaderField,
    HeaderOps, Mirror,
};
use pb::core::header_value_option::HeaderAppendAction;
use pb::route::route_action::hash_policy::{self, PolicySpecifier};

/// Header operations on the wire: what to add or set, and what to remove.
pub(super) type HeaderMessages = (Vec<pb::core::HeaderValueOption>, Vec<String>);

/// In Istio's order: set, then add. Envoy removes first, then sets, then adds, whatever the order on the wire.
pub(super) fn headers_to_xds(operations: &HeaderOps) -> HeaderMessages {
    let HeaderOps { remove, set, add } = operations;
    let set = set.iter().map(|field| field_to_xds(field, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = add.iter().map(|field| field_to_xds(field, HeaderAppendAction::AppendIfExistsOrAdd));
    (set.chain(add).collect(), remove.iter().map(|name| name.as_str().to_owned()).collect())
}

/// Reads header operations; `to_add` and `to_remove` name the fields they came in.
pub(super) fn headers_from_xds(
    (to_add, add): (&str, Vec<pb::core::HeaderValueOption>),
    (to_remove, remove): (&str, Vec<String>),
) -> Result<HeaderOps> {
    let mut operations = HeaderOps::default();
    for (index, option) in add.into_iter().enumerate() {
        let Some((field, overwrite)) = field_from_xds(option).within_item(to_add, index)? else { continue };
        if overwrite { operations.set.push(field) } else { operations.add.push(field) }
    }
    operations.remove = each(to_remove, remove, |name| {
        refuse_host(&name)?;
        name.parse().map_err(|_| Problem::new("", format!("`{name}` is not a header name (RFC 9110 §5.1)")))
    })?;
    Ok(operations)
}

/// One set of operations that does what `first` and then `second` do.
pub(super) fn headers_then(first: HeaderOps, second: &HeaderOps) -> HeaderOps {
    let overridden =
        |name: &HeaderName| second.remove.contains(name) || second.set.iter().any(|field| field.name() == name);
    let HeaderOps { mut remove, mut set, mut add } = first;
    set.retain(|field| !overridden(field.name()));
    add.retain(|field| !overridden(field.name()));
    remove.extend(second.remove.iter().filter(|name| !remove.contains(name)).cloned().collect::<Vec<_>>());
    set.extend(second.set.iter().cloned());
    add.extend(second.add.iter().cloned());
    HeaderOps { remove, set, add }
}

fn field_to_xds(field: &HeaderField, action: HeaderAppendAction) -> pb::core::HeaderValueOption {
    let value = String::from_utf8_lossy(field.value().as_bytes()).replace('%', "%%");
    pb::core::HeaderValueOption {
        append_action: action.into(),
        keep_empty_value: value.is_empty(),
        header: Some(pb::core::HeaderValue { key: field.name().as_str().to_owned(), value, raw_value: Vec::new() }),
        ..Default::default()
    }
}

/// The field, and whether it overwrites. Nothing where Envoy would do nothing.
fn field_from_xds(option: pb::core::HeaderValueOption) -> Result<Option<(HeaderField, bool)>> {
    #[allow(deprecated)] // `append` is what Istio wrote until it dropped Envoys without `append_action`.
    let pb::core::HeaderValueOption { header, append, append_action, keep_empty_value } = option;
    let pb::core::HeaderValue { key, value, raw_value } = required("header", header)?;
    unsupported(&[("header.raw_value", &raw_value)])?;
    let overwrite = match (append, HeaderAppendAction::try_from(append_action)) {
        (None, Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => false,
        (None, Ok(HeaderAppendAction::OverwriteIfExistsOrAdd)) => true,
        (Some(append), Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => !append.value,
        (Some(_), _) => return Err(Problem::new("append", "stands beside `append_action`, as Envoy does not allow")),
        (None, Ok(HeaderAppendAction::AddIfAbsent | HeaderAppendAction::OverwriteIfExists) | Err(_)) => {
            return Err(Problem::new(
                "append_action",
                "only APPEND_IF_EXISTS_OR_ADD and OVERWRITE_IF_EXISTS_OR_ADD are supported",
            ));
        }
    };
    refuse_host(&key).within("header.key")?;
    let value = literal(&value).within("header.value")?;
    let field = HeaderField::new(&key, &value).within("header")?;
    Ok((keep_empty_value || !value.is_empty()).then_some((field, overwrite)))
}

/// Envoy does not let header operations touch these; a rewrite is what is meant.
fn refuse_host(name: &str) -> Result<()> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return Err(Problem::new(
            "",
            format!("`{name}` is not changed by header operations; use a host or path rewrite"),
        ));
    }
    Ok(())
}

/// Envoy's header values are format strings; Leno takes those that say nothing but themselves.
fn literal(value: &str) -> Result<String> {
    let mut text = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        text.push('%');
        rest = after.strip_prefix('%').ok_or_else(|| {
            Problem::new("", "Leno does not support substitution commands (`%…%`); write `%%` for a percent sign")
        })?;
    }
    text.push_str(rest);
    Ok(text)
}

pub(super) fn cors_to_xds(policy: &Cors) -> pb::cors::CorsPolicy {
    let Cors {
        allow_origins,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials,
        forward_unmatched_preflights,
    } = policy;
    pb::cors::CorsPolicy {
        allow_origin_string_match: allow_origins.iter().map(matcher::string_to_xds).collect(),
        allow_methods: allow_methods.clone(),
        allow_headers: allow_headers.clone(),
        expose_headers: expose_headers.clone(),
        max_age: max_age.map(|age| age.as_secs().to_string()).unwrap_or_default(),
        allow_credentials: wrap_bool(*allow_credentials),
        forward_not_matching_preflights: wrap_bool(*forward_unmatched_preflights),
        filter_enabled: Some(runtime_fraction_to_xds(Fraction::ALL)),
        shadow_enabled: None,
        allow_private_network_access: None,
    }
}

/// `None` where the policy is switched off.
pub(super) fn cors_from_xds(policy: pb::cors::CorsPolicy) -> Result<Option<Cors>> {
    let pb::cors::CorsPolicy {
        allow_origin_string_match,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials,
        filter_enabled,
        allow_private_network_access,
        forward_not_matching_preflights,
        // Only counts what would have been refused.
        shadow_enabled: _,
    } = policy;
    unsupported(&[("allow_private_network_access", &is_true(&allow_private_network_access))])?;
    let enabled = runtime_fraction_from_xds(filter_enabled).within("filter_enabled")?;
    if enabled != Fraction::ALL && enabled != Fraction::NONE {
        return Err(Problem::new("filter_enabled", "a policy holds for all requests or for none"));
    }
    let seconds = |text: String| match text.parse() {
        _ if text.is_empty() => Ok(None),
        Ok(seconds) => Ok(Some(Duration::from_secs(seconds))),
        Err(_) => Err(Problem::new("max_age", format!("`{text}` is not a number of seconds"))),
    };
    let policy = Cors {
        allow_origins: each("allow_origin_string_match", allow_origin_string_match, matcher::string_from_xds)?,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age: seconds(max_age)?,
        allow_credentials: is_true(&allow_credentials),
        forward_unmatched_preflights: forward_not_matching_preflights.is_none_or(|forward| forward.value),
    };
    Ok((enabled == Fraction::ALL).then_some(policy))
}

/// Envoy's older form, which stands in the route itself.
pub(super) fn old_cors_from_xds(policy: pb::route::CorsPolicy) -> Result<Option<Cors>> {
    let pb::route::CorsPolicy {
        allow_origin_string_match,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials,
        shadow_enabled,
        allow_private_network_access,
        forward_not_matching_preflights,
        enabled_specifier,
    } = policy;
    cors_from_xds(pb::cors::CorsPolicy {
        allow_origin_string_match,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials,
        filter_enabled: enabled_specifier
            .map(|pb::route::cors_policy::EnabledSpecifier::FilterEnabled(fraction)| fraction),
        shadow_enabled,
        allow_private_network_access,
        forward_not_matching_preflights,
    })
}

pub(super) fn fault_to_xds(fault: &Fault) -> pb::fault::HttpFault {
    use pb::common_fault::fault_delay::FaultDelaySecifier;
    use pb::fault::fault_abort::ErrorType;
    let Fault { delay, abort } = fault;
    pb::fault::HttpFault {
        delay: delay.as_ref().map(|FaultDelay { duration, share }| pb::common_fault::FaultDelay {
            percentage: Some(fraction_to_xds(*share)),
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(duration_to_xds(*duration))),
        }),
        abort: abort.as_ref().map(|FaultAbort { with, share }| pb::fault::FaultAbort {
            percentage: Some(fraction_to_xds(*share)),
            error_type: Some(match with {
                AbortStatus::Http(status) => ErrorType::HttpStatus(status.as_u16().into()),
                AbortStatus::Grpc(status) => ErrorType::GrpcStatus(*status),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(super) fn fault_from_xds(fault: pb::fault::HttpFault) -> Result<Fault> {
    let pb::fault::HttpFault {
        delay,
        abort,
        upstream_cluster,
        headers,
        downstream_nodes,
        max_active_faults,
        response_rate_limit,
        // Keys of a runtime layer, which Leno has none of: the values written here hold.
        delay_percent_runtime: _,
        abort_percent_runtime: _,
        delay_duration_runtime: _,
        abort_http_status_runtime: _,
        max_active_faults_runtime: _,
        response_rate_limit_percent_runtime: _,
        abort_grpc_status_runtime: _,
        // Statistics and logs.
        disable_downstream_cluster_stats: _,
        filter_metadata: _,
    } = fault;
    unsupported(&[
        ("upstream_cluster", &upstream_cluster),
        ("headers", &headers),
        ("downstream_nodes", &downstream_nodes),
        ("max_active_faults", &max_active_faults),
        ("response_rate_limit", &response_rate_limit),
    ])?;
    Ok(Fault {
        delay: delay.map(delay_from_xds).transpose().within("delay")?,
        abort: abort.map(abort_from_xds).transpose().within("abort")?,
    })
}

fn delay_from_xds(delay: pb::common_fault::FaultDelay) -> Result<FaultDelay> {
    use pb::common_fault::fault_delay::FaultDelaySecifier;
    let pb::common_fault::FaultDelay { percentage, fault_delay_secifier } = delay;
    let duration = match required("fixed_delay", fault_delay_secifier)? {
        FaultDelaySecifier::FixedDelay(duration) => duration_from_xds(duration).within("fixed_delay")?,
        FaultDelaySecifier::HeaderDelay(_) => return Err(Problem::unsupported("header_delay")),
    };
    Ok(FaultDelay { duration, share: share_from_xds(percentage)? })
}

fn abort_from_xds(abort: pb::fault::FaultAbort) -> Result<FaultAbort> {
    use pb::fault::fault_abort::ErrorType;
    let pb::fault::FaultAbort { percentage, response_body, error_type } = abort;
    unsupported(&[("response_body", &response_body)])?;
    let with = match required("error_type", error_type)? {
        ErrorType::HttpStatus(status) => AbortStatus::Http(status_from_xds(status).within("http_status")?),
        ErrorType::GrpcStatus(status @ 0..=16) => AbortStatus::Grpc(status),
        ErrorType::GrpcStatus(status) => {
            return Err(Problem::new("grpc_status", format!("a gRPC status is between 0 and 16, this is {status}")));
        }
        ErrorType::HeaderAbort(_) => return Err(Problem::unsupported("header_abort")),
    };
    Ok(FaultAbort { with, share: share_from_xds(percentage)? })
}

/// Envoy: a fault without a percentage never happens.
fn share_from_xds(percentage: Option<pb::kinds::FractionalPercent>) -> Result<Fraction> {
    percentage.map_or(Ok(Fraction::NONE), fraction_from_xds).within("percentage")
}

/// The status of an answer made by the proxy.
pub(super) fn status_from_xds(status: u32) -> Result<http::StatusCode> {
    u16::try_from(status)
        .ok()
        .filter(|status| (200..=599).contains(status))
        .and_then(|status| http::StatusCode::from_u16(status).ok())
        .ok_or_else(|| Problem::new("", format!("a status is between 200 and 599, this is {status}")))
}

pub(super) fn hash_to_xds(policy: &HashPolicy) -> pb::route::route_action::HashPolicy {
    let specifier = match policy {
        HashPolicy::Header(name) => {
            PolicySpecifier::Header(hash_policy::Header { header_name: name.as_str().to_owned(), regex_rewrite: None })
        }
        HashPolicy::Cookie { name, path, ttl, attributes } => PolicySpecifier::Cookie(hash_policy::Cookie {
            name: name.clone(),
            path: path.clone(),
            ttl: ttl.map(duration_to_xds),
            attributes: attributes
                .iter()
                .map(|CookieAttribute { name, value }| hash_policy::CookieAttribute {
                    name: name.clone(),
                    value: value.clone(),
                })
                .collect(),
        }),
        HashPolicy::SourceIp => {
            PolicySpecifier::ConnectionProperties(hash_policy::ConnectionProperties { source_ip: true })
        }
        HashPolicy::QueryParameter(name) => {
            PolicySpecifier::QueryParameter(hash_policy::QueryParameter { name: name.clone() })
        }
    };
    pb::route::route_action::HashPolicy { terminal: false, policy_specifier: Some(specifier) }
}

/// All policies of a route.
pub(super) fn hashes_from_xds(policies: Vec<pb::route::route_action::HashPolicy>) -> Result<Vec<HashPolicy>> {
    let last = policies.len().saturating_sub(1);
    let mut hashes = Vec::with_capacity(policies.len());
    for (index, policy) in policies.into_iter().enumerate() {
        let pb::route::route_action::HashPolicy { terminal, policy_specifier } = policy;
        if terminal && index != last {
            // Behind the last one there is nothing that it could end.
            return Err(Problem::unsupported("terminal")).within_item("hash_policy", index);
        }
        hashes.push(hash_from_xds(policy_specifier).within_item("hash_policy", index)?);
    }
    Ok(hashes)
}

fn hash_from_xds(specifier: Option<PolicySpecifier>) -> Result<HashPolicy> {
    Ok(match required("policy_specifier", specifier)? {
        PolicySpecifier::Header(hash_policy::Header { header_name, regex_rewrite }) => {
            unsupported(&[("header.regex_rewrite", &regex_rewrite)])?;
            let bad = |_| Problem::new("header.header_name", format!("`{header_name}` is not a header name"));
            HashPolicy::Header(header_name.parse().map_err(bad)?)
        }
        PolicySpecifier::Cookie(hash_policy::Cookie { name, ttl, path, attributes }) => {
            let attributes = each("cookie.attributes", attributes, |attribute| {
                let hash_policy::CookieAttribute { name, value } = attribute;
                Ok(CookieAttribute { name: nonempty("name", name)?, value })
            })?;
            HashPolicy::Cookie {
                name: nonempty("cookie.name", name)?,
                path,
                ttl: optional_duration("cookie.ttl", ttl)?,
                attributes,
            }
        }
        PolicySpecifier::ConnectionProperties(hash_policy::ConnectionProperties { source_ip: true }) => {
            HashPolicy::SourceIp
        }
        PolicySpecifier::ConnectionProperties(hash_policy::ConnectionProperties { source_ip: false }) => {
            return Err(Problem::new("connection_properties.source_ip", "is the only property there is; set it"));
        }
        PolicySpecifier::QueryParameter(hash_policy::QueryParameter { name }) => {
            HashPolicy::QueryParameter(nonempty("query_parameter.name", name)?)
        }
        PolicySpecifier::FilterState(_) => return Err(Problem::unsupported("filter_state")),
    })
}

pub(super) fn mirror_to_xds(mirror: &Mirror) -> pb::route::route_action::RequestMirrorPolicy {
    let Mirror { cluster, share } = mirror;
    pb::route::route_action::RequestMirrorPolicy {
        cluster: cluster.to_string(),
        runtime_fraction: Some(runtime_fraction_to_xds(*share)),
        // As Istio: a copy is no part of the trace.
        trace_sampled: wrap_bool(false),
        ..Default::default()
    }
}

pub(super) fn mirror_from_xds(mirror: pb::route::route_action::RequestMirrorPolicy) -> Result<Mirror> {
    let pb::route::route_action::RequestMirrorPolicy {
        cluster,
        cluster_header,
        runtime_fraction,
        disable_shadow_host_suffix_append,
        request_headers_mutations,
        host_rewrite_literal,
        // Tracing.
        trace_sampled: _,
    } = mirror;
    unsupported(&[
        ("cluster_header", &cluster_header),
        ("disable_shadow_host_suffix_append", &disable_shadow_host_suffix_append),
        ("request_headers_mutations", &request_headers_mutations),
        ("host_rewrite_literal", &host_rewrite_literal),
    ])?;
    Ok(Mirror {
        cluster: ClusterName::new(nonempty("cluster", cluster)?),
        share: runtime_fraction_from_xds(runtime_fraction).within("runtime_fraction")?,
    })
}
