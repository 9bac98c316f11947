//! What a route does: forward, redirect, answer.

use std::time::Duration;

use super::filter::{Setting, per_filter_from_xds};
use super::matcher;
use super::pb;
use super::policy;
use super::refusal::{Problem, Result, Within, each, nonempty, required, unsupported};
use super::retry;
use super::route::{mirrors_from_xds, old_cors, request_headers, response_headers};
use super::scalar::{limit_from_xds, limit_to_xds, positive_duration, wrap_u32};
use crate::ir::{
    ClusterName, Cors, DirectResponse, Forward, PathRewrite, Redirect, RewritePattern, WeightedCluster,
    WeightedClusters,
};
use pb::core::data_source::Specifier;
use pb::matcher::RegexMatchAndSubstitute;
use pb::route::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
use pb::route::route_action::{ClusterSpecifier, HostRewriteSpecifier, MaxStreamDuration};
use pb::route::weighted_cluster::{ClusterWeight, cluster_weight};

/// Envoy: `RouteAction.timeout` where nobody says anything.
const ENVOY_TIMEOUT: Duration = Duration::from_secs(15);

/// Largest body of a direct response (Istio).
const LARGEST_DIRECT_BODY: usize = 1 << 20;

/// The expression by which [`PathRewrite::Full`] travels: Envoy has no field that replaces the whole path and leaves the
/// text alone (`path_rewrite` is a format string, unknown to Envoys of 2025).
const WHOLE_PATH: &str = "(?s)^.*$";

pub(super) fn forward_to_xds(forward: &Forward) -> pb::route::RouteAction {
    let Forward { clusters, path_rewrite, host_rewrite, timeout, retry, mirrors, hash } = forward;
    let (prefix_rewrite, regex_rewrite) = match path_rewrite {
        None => (String::new(), None),
        Some(PathRewrite::Prefix(prefix)) => (prefix.clone(), None),
        Some(PathRewrite::Full(path)) => (String::new(), Some(substitute(WHOLE_PATH, path.replace('\\', r"\\")))),
        Some(PathRewrite::Regex { pattern, substitution }) => {
            (String::new(), Some(substitute(pattern.pattern(), substitution.clone())))
        }
    };
    // Istio writes `max_grpc_timeout`: its successor, `max_stream_duration`, counts the time of the answer's body too.
    #[allow(deprecated)]
    pb::route::RouteAction {
        cluster_specifier: Some(clusters_to_xds(clusters)),
        prefix_rewrite,
        regex_rewrite,
        host_rewrite_specifier: host_rewrite.clone().map(HostRewriteSpecifier::HostRewriteLiteral),
        timeout: limit_to_xds(*timeout),
        max_grpc_timeout: limit_to_xds(*timeout),
        retry_policy: retry.as_ref().map(retry::to_xds),
        request_mirror_policies: mirrors.iter().map(policy::mirror_to_xds).collect(),
        hash_policy: hash.iter().map(policy::hash_to_xds).collect(),
        ..Default::default()
    }
}

/// The action, and the cross-origin policy that Envoy's older form keeps in it.
pub(super) fn forward_from_xds(action: pb::route::RouteAction) -> Result<(Forward, Setting<Cors>)> {
    #[allow(deprecated)]
    let pb::route::RouteAction {
        cluster_not_found_response_code,
        metadata_match,
        prefix_rewrite,
        regex_rewrite,
        path_rewrite_policy,
        path_rewrite,
        append_x_forwarded_host,
        timeout,
        retry_policy,
        retry_policy_typed_config,
        request_mirror_policies,
        priority,
        rate_limits,
        hash_policy,
        cors,
        max_grpc_timeout,
        grpc_timeout_offset,
        upgrade_configs,
        internal_redirect_policy,
        internal_redirect_action,
        hedge_policy,
        max_stream_duration,
        cluster_specifier,
        host_rewrite_specifier,
        // Limits that Leno has its own of.
        idle_timeout: _,
        flush_timeout: _,
        // Of TLS early data, which Leno does not take.
        early_data_policy: _,
        // Nothing without rate limits and internal redirects.
        include_vh_rate_limits: _,
        max_internal_redirects: _,
    } = action;
    unsupported(&[
        ("cluster_not_found_response_code", &cluster_not_found_response_code),
        ("metadata_match", &metadata_match),
        ("path_rewrite_policy", &path_rewrite_policy),
        ("path_rewrite", &path_rewrite),
        ("append_x_forwarded_host", &append_x_forwarded_host),
        ("retry_policy_typed_config", &retry_policy_typed_config),
        ("priority", &priority),
        ("rate_limits", &rate_limits),
        ("upgrade_configs", &upgrade_configs),
        ("internal_redirect_policy", &internal_redirect_policy),
        ("internal_redirect_action", &internal_redirect_action),
        ("hedge_policy", &hedge_policy),
    ])?;
    let timeout = limit_from_xds("timeout", timeout, ENVOY_TIMEOUT)?;
    same_timeout("max_grpc_timeout", max_grpc_timeout, timeout)?;
    unsupported(&[("grpc_timeout_offset", &positive_duration("grpc_timeout_offset", grpc_timeout_offset)?)])?;
    if let Some(duration) = max_stream_duration {
        stream_duration_from_xds(duration, timeout).within("max_stream_duration")?;
    }
    let forward = Forward {
        clusters: clusters_from_xds(cluster_specifier)?,
        path_rewrite: path_rewrite_from_xds(prefix_rewrite, regex_rewrite)?,
        host_rewrite: host_rewrite_from_xds(host_rewrite_specifier)?,
        timeout,
        retry: retry_policy.map(retry::from_xds).transpose().within("retry_policy")?.flatten(),
        mirrors: mirrors_from_xds(request_mirror_policies)?,
        hash: policy::hashes_from_xds(hash_policy)?,
    };
    Ok((forward, old_cors(cors)?))
}

/// Leno has one timeout, and a client's `grpc-timeout` counts within it: every other field says the same or nothing.
fn same_timeout(field: &str, duration: Option<pb::protobuf::Duration>, timeout: Option<Duration>) -> Result<()> {
    match positive_duration(field, duration)? {
        None => Ok(()),
        duration if duration == timeout => Ok(()),
        Some(_) => {
            Err(Problem::new(field, "Leno has one timeout for a route: set it to the same as `timeout`, or not"))
        }
    }
}

fn stream_duration_from_xds(duration: MaxStreamDuration, timeout: Option<Duration>) -> Result<()> {
    let MaxStreamDuration { max_stream_duration, grpc_timeout_header_max, grpc_timeout_header_offset } = duration;
    same_timeout("max_stream_duration", max_stream_duration, timeout)?;
    same_timeout("grpc_timeout_header_max", grpc_timeout_header_max, timeout)?;
    let offset = positive_duration("grpc_timeout_header_offset", grpc_timeout_header_offset)?;
    unsupported(&[("grpc_timeout_header_offset", &offset)])
}

fn substitute(pattern: &str, substitution: String) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute { pattern: Some(matcher::regex_to_xds(pattern)), substitution }
}

fn path_rewrite_from_xds(prefix: String, regex: Option<RegexMatchAndSubstitute>) -> Result<Option<PathRewrite>> {
    match (prefix.is_empty(), regex) {
        (true, None) => Ok(None),
        (false, None) => Ok(Some(PathRewrite::Prefix(prefix))),
        (true, Some(regex)) => regex_rewrite_from_xds(regex).within("regex_rewrite").map(Some),
        (false, Some(_)) => {
            Err(Problem::new("regex_rewrite", "stands beside `prefix_rewrite`; a path has one rewrite"))
        }
    }
}

fn regex_rewrite_from_xds(rewrite: RegexMatchAndSubstitute) -> Result<PathRewrite> {
    let RegexMatchAndSubstitute { pattern, substitution } = rewrite;
    let pattern = matcher::pattern_from_xds(required("pattern", pattern)?);
    if pattern == WHOLE_PATH
        && let Some(path) = without_groups(&substitution)
    {
        return Ok(PathRewrite::Full(path));
    }
    Ok(PathRewrite::Regex { pattern: RewritePattern::new(&pattern).within("pattern.regex")?, substitution })
}

/// A substitution that names no group, as plain text.
fn without_groups(substitution: &str) -> Option<String> {
    let mut text = String::with_capacity(substitution.len());
    let mut letters = substitution.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if letters.next() == Some('\\') => text.push('\\'),
            '\\' => return None,
            _ => text.push(letter),
        }
    }
    Some(text)
}

fn host_rewrite_from_xds(specifier: Option<HostRewriteSpecifier>) -> Result<Option<String>> {
    match specifier {
        None => Ok(None),
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => Ok(Some(host).filter(|host| !host.is_empty())),
        Some(HostRewriteSpecifier::AutoHostRewrite(automatic)) if !automatic.value => Ok(None),
        Some(HostRewriteSpecifier::AutoHostRewrite(_)) => Err(Problem::unsupported("auto_host_rewrite")),
        Some(HostRewriteSpecifier::HostRewriteHeader(_)) => Err(Problem::unsupported("host_rewrite_header")),
        Some(HostRewriteSpecifier::HostRewritePathRegex(_)) => Err(Problem::unsupported("host_rewrite_path_regex")),
        Some(HostRewriteSpecifier::HostRewrite(_)) => {
            Err(Problem::new("host_rewrite", "is a format string; use `host_rewrite_literal`"))
        }
    }
}

fn clusters_to_xds(clusters: &WeightedClusters) -> ClusterSpecifier {
    match clusters.as_slice() {
        [only] if *only == WeightedCluster::plain(only.cluster.clone(), only.weight) => {
            ClusterSpecifier::Cluster(only.cluster.to_string())
        }
        several => ClusterSpecifier::WeightedClusters(pb::route::WeightedCluster {
            clusters: several.iter().map(share_to_xds).collect(),
            ..Default::default()
        }),
    }
}

fn share_to_xds(share: &WeightedCluster) -> ClusterWeight {
    let WeightedCluster { cluster, weight, request_headers, response_headers, host_rewrite } = share;
    let (request_headers_to_add, request_headers_to_remove) = policy::headers_to_xds(request_headers);
    let (response_headers_to_add, response_headers_to_remove) = policy::headers_to_xds(response_headers);
    ClusterWeight {
        name: cluster.to_string(),
        weight: wrap_u32(*weight),
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        host_rewrite_specifier: host_rewrite.clone().map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
        ..Default::default()
    }
}

fn clusters_from_xds(specifier: Option<ClusterSpecifier>) -> Result<WeightedClusters> {
    match required("cluster_specifier", specifier)? {
        ClusterSpecifier::Cluster(name) => Ok(WeightedClusters::single(ClusterName::new(nonempty("cluster", name)?))),
        ClusterSpecifier::WeightedClusters(clusters) => weighted_from_xds(clusters).within("weighted_clusters"),
        ClusterSpecifier::ClusterHeader(_) => Err(Problem::unsupported("cluster_header")),
        ClusterSpecifier::ClusterSpecifierPlugin(_) => Err(Problem::unsupported("cluster_specifier_plugin")),
        ClusterSpecifier::InlineClusterSpecifierPlugin(_) => {
            Err(Problem::unsupported("inline_cluster_specifier_plugin"))
        }
    }
}

fn weighted_from_xds(clusters: pb::route::WeightedCluster) -> Result<WeightedClusters> {
    #[allow(deprecated)]
    let pb::route::WeightedCluster {
        clusters,
        random_value_specifier,
        // Envoy ignores it, too: the sum counts.
        total_weight: _,
        // A key of a runtime layer, which Leno has none of.
        runtime_key_prefix: _,
    } = clusters;
    match random_value_specifier {
        None => {}
        Some(pb::route::weighted_cluster::RandomValueSpecifier::HeaderName(_)) => {
            return Err(Problem::unsupported("header_name"));
        }
        Some(pb::route::weighted_cluster::RandomValueSpecifier::UseHashPolicy(hash)) => {
            unsupported(&[("use_hash_policy", &hash.value)])?;
        }
    }
    WeightedClusters::new(each("clusters", clusters, share_from_xds)?).within("clusters")
}

fn share_from_xds(share: ClusterWeight) -> Result<WeightedCluster> {
    let ClusterWeight {
        name,
        cluster_header,
        weight,
        metadata_match,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        typed_per_filter_config,
        host_rewrite_specifier,
    } = share;
    unsupported(&[("cluster_header", &cluster_header), ("metadata_match", &metadata_match)])?;
    let filters = per_filter_from_xds(typed_per_filter_config)?;
    let says_nothing = filters.cors == Setting::Inherit && filters.fault == Setting::Inherit;
    unsupported(&[("typed_per_filter_config", &!says_nothing)])?;
    Ok(WeightedCluster {
        cluster: ClusterName::new(nonempty("name", name)?),
        weight: required("weight", weight)?.value,
        request_headers: request_headers(request_headers_to_add, request_headers_to_remove)?,
        response_headers: response_headers(response_headers_to_add, response_headers_to_remove)?,
        host_rewrite: host_rewrite_specifier
            .map(|cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host)| host)
            .filter(|host| !host.is_empty()),
    })
}

pub(super) fn redirect_to_xds(redirect: &Redirect) -> pb::route::RedirectAction {
    let Redirect { status, host, scheme, port, path } = redirect;
    let code = match status.as_u16() {
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::MovedPermanently,
    };
    pb::route::RedirectAction {
        host_redirect: host.clone().unwrap_or_default(),
        port_redirect: port.unwrap_or_default().into(),
        response_code: code.into(),
        strip_query: false,
        scheme_rewrite_specifier: scheme.clone().map(SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: path.as_ref().map(|path| match path {
            PathRewrite::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(prefix.clone()),
            PathRewrite::Full(path) => PathRewriteSpecifier::PathRedirect(path.clone()),
            PathRewrite::Regex { pattern, substitution } => {
                PathRewriteSpecifier::RegexRewrite(substitute(pattern.pattern(), substitution.clone()))
            }
        }),
    }
}

pub(super) fn redirect_from_xds(redirect: pb::route::RedirectAction) -> Result<Redirect> {
    let pb::route::RedirectAction {
        host_redirect,
        port_redirect,
        response_code,
        strip_query,
        scheme_rewrite_specifier,
        path_rewrite_specifier,
    } = redirect;
    unsupported(&[("strip_query", &strip_query)])?;
    let code = match RedirectResponseCode::try_from(response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => 301,
        Ok(RedirectResponseCode::Found) => 302,
        Ok(RedirectResponseCode::SeeOther) => 303,
        Ok(RedirectResponseCode::TemporaryRedirect) => 307,
        Ok(RedirectResponseCode::PermanentRedirect) => 308,
        Err(_) => return Err(Problem::new("response_code", format!("Leno does not know redirect {response_code}"))),
    };
    let port = u16::try_from(port_redirect)
        .map_err(|_| Problem::new("port_redirect", format!("a port is at most 65535, this is {port_redirect}")))?;
    let scheme = match scheme_rewrite_specifier {
        None | Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => None,
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".to_owned()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme),
    };
    let path = match path_rewrite_specifier {
        None => None,
        Some(PathRewriteSpecifier::PathRedirect(path)) => Some(PathRewrite::Full(path)),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => Some(PathRewrite::Prefix(prefix)),
        Some(PathRewriteSpecifier::RegexRewrite(RegexMatchAndSubstitute { pattern, substitution })) => {
            let pattern = matcher::pattern_from_xds(required("regex_rewrite.pattern", pattern)?);
            let pattern = RewritePattern::new(&pattern).within("regex_rewrite.pattern.regex")?;
            Some(PathRewrite::Regex { pattern, substitution })
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => {
            return Err(Problem::new("path_rewrite", "is a format string; use `path_redirect`"));
        }
    };
    Ok(Redirect {
        status: Redirect::status(code)?,
        host: Some(host_redirect).filter(|host| !host.is_empty()),
        scheme,
        port: Some(port).filter(|port| *port != 0),
        path,
    })
}

pub(super) fn direct_to_xds(direct: &DirectResponse) -> pb::route::DirectResponseAction {
    let DirectResponse { status, body } = direct;
    let specifier = match std::str::from_utf8(body) {
        Ok(text) => Specifier::InlineString(text.to_owned()),
        Err(_) => Specifier::InlineBytes(body.clone()),
    };
    pb::route::DirectResponseAction {
        status: status.as_u16().into(),
        body: (!body.is_empty())
            .then_some(pb::core::DataSource { specifier: Some(specifier), watched_directory: None }),
        body_format: None,
    }
}

pub(super) fn direct_from_xds(direct: pb::route::DirectResponseAction) -> Result<DirectResponse> {
    let pb::route::DirectResponseAction { status, body, body_format } = direct;
    unsupported(&[("body_format", &body_format)])?;
    let body = body.map(inline_from_xds).transpose().within("body")?.unwrap_or_default();
    if body.len() > LARGEST_DIRECT_BODY {
        return Err(Problem::new("body", format!("has {} bytes, more than {LARGEST_DIRECT_BODY}", body.len())));
    }
    Ok(DirectResponse { status: policy::status_from_xds(status).within("status")?, body })
}

/// Bytes that stand in the message: a control plane does not make the proxy read files.
fn inline_from_xds(source: pb::core::DataSource) -> Result<Vec<u8>> {
    let pb::core::DataSource { watched_directory: _, specifier } = source;
    match specifier {
        None => Ok(Vec::new()),
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes),
        Some(Specifier::InlineString(text)) => Ok(text.into_bytes()),
        Some(Specifier::Filename(_)) => Err(Problem::unsupported("filename")),
        Some(Specifier::EnvironmentVariable(_)) => Err(Problem::unsupported("environment_variable")),
    }
}
