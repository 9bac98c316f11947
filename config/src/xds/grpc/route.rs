//! Route tables: one for each host, since a client comes here by the host's name already.

use super::expression::unknown_to_re2;
use super::verdict::Verdict;
use crate::ir::{
    Action, Forward, HashPolicy, HeaderKey, HeaderMatch, HeaderOps, PathMatch, Regex, RetryOn, RetryPolicy, Route,
    RouteMatch, Separators, StringMatch, VirtualHost, WeightedCluster, WeightedClusters,
};
use crate::xds::scalar::duration_to_xds;
use crate::xds::{pb, route};
use pb::route::route_action::MaxStreamDuration;
use pb::route::{RouteConfiguration, route::Action as Message};

/// gRFC A44: five attempts, the first included.
const MOST_RETRIES: u32 = 4;

pub(super) fn to_xds(host: &VirtualHost, verdict: &mut Verdict) -> RouteConfiguration {
    // Attempts are told by a header of gRPC's own.
    let VirtualHost { name, domains: _, routes, attempt_count: _ } = host;
    let mut messages = Vec::new();
    for (index, written) in routes.iter().enumerate() {
        let mut found = Verdict::default();
        messages.push(route_to_xds(written, &mut found));
        let part = written.origin.as_ref().map_or_else(|| format!("routes[{index}]"), ToString::to_string);
        verdict.take(&part, found);
    }
    RouteConfiguration {
        name: name.clone(),
        virtual_hosts: vec![pb::route::VirtualHost {
            name: name.clone(),
            domains: vec!["*".to_owned()],
            routes: messages,
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// What gRPC knows of a route is written as for Envoy.
fn route_to_xds(written: &Route, verdict: &mut Verdict) -> pb::route::Route {
    let Route {
        name,
        origin,
        matcher,
        action,
        request_headers,
        response_headers,
        cors: _,
        fault,
        authorization,
        // A gRPC client calls methods, which it knows by name.
        refused_in_path: _,
    } = written;
    // Cross-origin policy is for browsers: a gRPC client sends no origin, and the policy does nothing without one.
    refuse_headers("headers", [request_headers, response_headers], verdict);
    if authorization.is_some() {
        verdict.refuse("authorization", "gRPC clients do not decide who may call");
    }
    let known = Route {
        name: name.clone(),
        origin: origin.clone(),
        matcher: matcher_known(matcher, verdict),
        action: action_known(action, verdict),
        request_headers: HeaderOps::default(),
        response_headers: HeaderOps::default(),
        cors: None,
        fault: fault.clone(),
        authorization: None,
        refused_in_path: Separators::NONE,
    };
    let timeout = match &known.action {
        Action::Forward(forward) => forward.timeout,
        Action::Redirect(_) | Action::Direct(_) => None,
    };
    let mut message = route::route_to_xds(&known);
    if let Some(Message::Route(forward)) = &mut message.action {
        // gRPC leaves Envoy's timeouts aside and has this one, which also bounds the caller's own deadline (A31).
        forward.timeout = None;
        #[allow(deprecated)]
        {
            forward.max_grpc_timeout = None;
        }
        forward.max_stream_duration = timeout.map(|timeout| MaxStreamDuration {
            max_stream_duration: Some(duration_to_xds(timeout)),
            ..Default::default()
        });
    }
    message
}

fn refuse_headers<const N: usize>(field: &str, operations: [&HeaderOps; N], verdict: &mut Verdict) {
    if operations.iter().any(|operations| !operations.is_empty()) {
        verdict.refuse(field, "gRPC changes no headers");
    }
}

/// gRFC A28: the path, and metadata.
fn matcher_known(matcher: &RouteMatch, verdict: &mut Verdict) -> RouteMatch {
    let RouteMatch { path, headers, query, claims } = matcher;
    if !query.is_empty() {
        verdict.refuse("match.queryParams", "gRPC has no query, and would skip this route");
    }
    if !claims.is_empty() {
        verdict.refuse("match.headers", "gRPC verifies no tokens, so that there are no claims");
    }
    let headers = headers.iter().map(|condition| header_known(condition, verdict)).collect();
    RouteMatch { path: path_known(path, verdict), headers, query: Vec::new(), claims: Vec::new() }
}

/// Prefixes by segment are unknown to gRPC, and an expression says the same.
fn path_known(path: &PathMatch, verdict: &mut Verdict) -> PathMatch {
    let (value, ignore_case) = match path {
        PathMatch::SegmentPrefix { value, ignore_case } => (value, ignore_case),
        PathMatch::Regex(regex) => {
            expression_verdict("match.uri", regex, verdict);
            return path.clone();
        }
        PathMatch::Exact { .. } | PathMatch::Prefix { .. } => return path.clone(),
    };
    let case = if *ignore_case { "(?i)" } else { "" };
    match Regex::new(&format!("{case}{}(/.*)?", regex::escape(value))) {
        Ok(regex) => PathMatch::Regex(regex),
        Err(error) => {
            verdict.refuse("match.uri", &error.to_string());
            path.clone()
        }
    }
}

fn expression_verdict(field: &str, regex: &Regex, verdict: &mut Verdict) {
    if let Some(part) = unknown_to_re2(regex.pattern()) {
        verdict.refuse(field, &format!("the expressions of gRPC (RE2) may not have {part}"));
    }
}

fn header_known(condition: &HeaderMatch, verdict: &mut Verdict) -> HeaderMatch {
    let HeaderMatch { key, value, invert, missing_is_empty } = condition;
    let field = format!("match.headers[{}]", key.as_str());
    match key {
        HeaderKey::Method | HeaderKey::Scheme | HeaderKey::Authority | HeaderKey::Path => {
            verdict.refuse(&field, "gRPC matches metadata, and this is not");
        }
        HeaderKey::Name(name) if name.0.as_str().ends_with("-bin") => {
            verdict.refuse(&field, "gRPC never matches binary metadata");
        }
        HeaderKey::Name(_) => {}
    }
    if let Some(StringMatch::Regex(regex)) = value {
        expression_verdict(&field, regex, verdict);
    }
    // To gRPC a missing header never matches a value, also where the condition is inverted: Istio's rule, by which it
    // does, cannot be said (measured with C-core).
    if *invert && value.is_some() {
        verdict.refuse(&field, "gRPC has no condition that a missing header, or any value but one, fulfils");
    } else if *missing_is_empty && value.as_ref().is_some_and(|value| value.is_match("")) {
        verdict.refuse(&field, "an empty text matches, and gRPC does not take a missing header for one");
    }
    HeaderMatch { missing_is_empty: false, ..condition.clone() }
}

fn action_known(action: &Action, verdict: &mut Verdict) -> Action {
    match action {
        Action::Forward(forward) => Action::Forward(forward_known(forward, verdict)),
        Action::Redirect(_) => {
            verdict.refuse("redirect", "gRPC does not follow redirects, and would skip this route");
            action.clone()
        }
        Action::Direct(_) => {
            verdict.refuse("directResponse", "gRPC has no answers of its own, and would skip this route");
            action.clone()
        }
    }
}

fn forward_known(forward: &Forward, verdict: &mut Verdict) -> Forward {
    let Forward { clusters, path_rewrite, host_rewrite, timeout, retry, mirrors, hash } = forward;
    if path_rewrite.is_some() || host_rewrite.is_some() {
        verdict.refuse("rewrite", "gRPC calls the method and the host that it was asked for");
    }
    if !mirrors.is_empty() {
        verdict.refuse("mirrors", "gRPC sends no copies");
    }
    for policy in hash {
        match policy {
            HashPolicy::Header(name) if !name.as_str().ends_with("-bin") => {}
            HashPolicy::Header(_) => verdict.refuse("consistentHash", "gRPC never looks at binary metadata"),
            HashPolicy::Cookie { .. } | HashPolicy::SourceIp | HashPolicy::QueryParameter(_) => {
                verdict.refuse("consistentHash", "gRPC hashes headers, and no cookies, addresses or queries");
            }
        }
    }
    let retry = retry.as_ref().and_then(|policy| {
        let mut found = Verdict::default();
        let known = retry_known(policy, *timeout, &mut found);
        verdict.take("retries", found);
        known
    });
    Forward {
        clusters: clusters_known(clusters, verdict),
        path_rewrite: None,
        host_rewrite: None,
        timeout: *timeout,
        retry,
        mirrors: Vec::new(),
        hash: hash.clone(),
    }
}

fn clusters_known(clusters: &WeightedClusters, verdict: &mut Verdict) -> WeightedClusters {
    let mut plain = Vec::new();
    for share in clusters.as_slice() {
        let WeightedCluster { cluster, weight, request_headers, response_headers, host_rewrite } = share;
        refuse_headers("route.headers", [request_headers, response_headers], verdict);
        if host_rewrite.is_some() {
            verdict.refuse("route.headers", "gRPC calls the host that it was asked for");
        }
        plain.push(WeightedCluster::plain(cluster.clone(), *weight));
    }
    WeightedClusters::new(plain).unwrap_or_else(|_| clusters.clone())
}

/// gRFC A44: five statuses of gRPC, and nothing that HTTP knows. What was provably not sent gRPC tries again by itself,
/// and so connect failures and refused streams; a service of gRPC answers with HTTP 200 whatever happened.
fn retry_known(
    policy: &RetryPolicy,
    timeout: Option<std::time::Duration>,
    verdict: &mut Verdict,
) -> Option<RetryPolicy> {
    let RetryPolicy {
        on,
        attempts,
        per_try_timeout,
        status_codes,
        // Conditions of their own, which `knows` judges.
        answer_headers: _,
        request_headers,
        backoff_base: _,
        backoff_max: _,
        // A server of gRPC says when to come back by a trailer that every client knows.
        rate_limited: _,
        // A channel tries the endpoint that its balancer says; with round robin that is another one.
        avoid_previous_hosts: _,
        host_selection_attempts: _,
        other_localities: _,
    } = policy;
    let known = on.iter().copied().filter(|on| knows(*on) == Knows::Status).collect::<std::collections::BTreeSet<_>>();
    let lost = on.iter().filter(|on| match **on {
        RetryOn::RetriableStatusCodes => !status_codes.is_empty(),
        on => knows(on) == Knows::Nothing,
    });
    let lost = lost.map(|on| on.as_str()).collect::<Vec<_>>();
    if !lost.is_empty() {
        let reason = format!("gRPC tries again by its own statuses (unavailable, …) and never on {}", lost.join(","));
        match known.is_empty() {
            true => verdict.refuse("retryOn", &reason),
            false => verdict.leave_out("retryOn", &reason),
        }
    }
    if known.is_empty() || *attempts == 0 {
        return None;
    }
    if !request_headers.is_empty() {
        // Better no retry than one of a request that must not be repeated.
        verdict.leave_out("retries", "gRPC cannot tell which requests may be repeated, and repeats none");
        return None;
    }
    if *attempts > MOST_RETRIES {
        verdict.refuse("attempts", &format!("gRPC tries again {MOST_RETRIES} times at most"));
    }
    if per_try_timeout.is_some_and(|one| timeout.is_none_or(|all| one < all)) {
        verdict.refuse("perTryTimeout", "gRPC bounds a call with all its attempts and not each of them");
    }
    Some(RetryPolicy {
        on: known,
        attempts: *attempts,
        per_try_timeout: None,
        status_codes: Default::default(),
        avoid_previous_hosts: false,
        host_selection_attempts: 0,
        other_localities: false,
        ..policy.clone()
    })
}

/// What gRPC makes of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knows {
    /// It is one of its own.
    Status,
    /// It does so anyway.
    Anyway,
    /// It does not.
    Nothing,
}

fn knows(on: RetryOn) -> Knows {
    match on {
        RetryOn::Cancelled
        | RetryOn::DeadlineExceeded
        | RetryOn::Internal
        | RetryOn::ResourceExhausted
        | RetryOn::Unavailable => Knows::Status,
        RetryOn::ConnectFailure
        | RetryOn::RefusedStream
        | RetryOn::ResetBeforeRequest
        | RetryOn::Http3PostConnectFailure
        | RetryOn::RetriableStatusCodes => Knows::Anyway,
        RetryOn::ServerError
        | RetryOn::GatewayError
        | RetryOn::Reset
        | RetryOn::EnvoyRatelimited
        | RetryOn::Retriable4xx
        | RetryOn::RetriableHeaders => Knows::Nothing,
    }
}
