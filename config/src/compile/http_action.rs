//! What becomes of a request: destinations, redirect, answer; rewrite, timeout, retries, copies.

use std::collections::BTreeSet;
use std::time::Duration;

use http::StatusCode;

use crate::defaults;
use crate::ir::{
    Action, DirectResponse, Forward, Fraction, HashPolicy, Invalid, Mirror, PathMatch, PathRewrite, Port, Redirect,
    RetryOn, RetryPolicy, RewritePattern, WeightedCluster, WeightedClusters,
};
use crate::rules::{
    HttpBody, HttpDirectResponse, HttpRedirect, HttpRetry, HttpRewrite, HttpRoute, RedirectPortSelection,
};

use super::clusters::duration;
use super::destination_rule::Policy;
use super::http_filters::{Headers, share_or};
use super::scope::{Egress, View};
use super::{Output, Reached};

/// Largest body of a direct response (Istio).
const MAX_BODY: usize = 1 << 20;

/// Where a rule is compiled: through which socket, called on which port.
pub(super) struct Context<'c, 'a> {
    pub(super) view: &'c View<'a>,
    pub(super) egress: &'c Egress<'a>,
    pub(super) called: Port,
    pub(super) output: &'c mut Output<'a>,
}

/// The action of a rule. `path` is what its route matches, `authority` what its header operations make of the host.
pub(super) fn action(
    context: &mut Context<'_, '_>,
    rule: &HttpRoute,
    path: &PathMatch,
    authority: Option<String>,
) -> Result<Action, Invalid> {
    if let Some(written) = &rule.redirect {
        return redirect(written, context.called).map(Action::Redirect);
    }
    if let Some(written) = &rule.direct_response {
        return direct(written).map(Action::Direct);
    }
    forward(context, rule, path, authority).map(Action::Forward)
}

fn forward(
    context: &mut Context<'_, '_>,
    rule: &HttpRoute,
    path: &PathMatch,
    authority: Option<String>,
) -> Result<Forward, Invalid> {
    let mut hash = Vec::new();
    let mut clusters = Vec::with_capacity(rule.route.len());
    // The header operations of a single destination are the route's.
    let single = rule.route.len() == 1;
    for route in &rule.route {
        let weight = route.weight.unwrap_or(0);
        let weight =
            u32::try_from(weight).map_err(|_| Invalid(format!("a weight is not negative, this is {weight}")))?;
        let Some(destination) = &route.destination else {
            return Err(Invalid::new("a route needs a destination"));
        };
        let headers = if single { Headers::default() } else { Headers::new(route.headers.as_ref())? };
        let reached = context.output.destination(context.view, context.egress, destination, context.called);
        if weight > 0 || single {
            hash.extend(hash_policy(context.view, &reached).filter(|policy| !hash.contains(policy)));
        }
        clusters.push(WeightedCluster {
            request_headers: headers.request,
            response_headers: headers.response,
            host_rewrite: headers.authority,
            ..WeightedCluster::plain(reached.cluster, weight)
        });
    }
    let rewrite = rule.rewrite.as_ref();
    let single_hash = clusters.len() == 1 && !hash.is_empty();
    let written = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    Ok(Forward {
        clusters: WeightedClusters::new(clusters)?,
        path_rewrite: rewrite.map(|rewrite| path_rewrite(rewrite, path)).transpose()?.flatten(),
        host_rewrite: rewrite.and_then(|rewrite| rewrite.authority.as_ref().and_then(written)).or(authority),
        timeout: duration(rule.timeout.as_ref()).filter(|timeout| !timeout.is_zero()),
        retry: match &rule.retries {
            None => Some(default_retry(single_hash)),
            Some(retries) => retry(retries, single_hash),
        },
        mirrors: mirrors(context, rule)?,
        hash,
    })
}

/// What the DestinationRule of a destination hashes by.
pub(super) fn hash_policy(view: &View<'_>, reached: &Reached<'_>) -> Option<HashPolicy> {
    let rule = view.destination_rule(reached.service?);
    Policy::of(view.mesh, rule, reached.port, &reached.subset).hash_policy()
}

fn path_rewrite(written: &HttpRewrite, path: &PathMatch) -> Result<Option<PathRewrite>, Invalid> {
    if let Some(regex) = &written.uri_regex_rewrite {
        let pattern = RewritePattern::new(&regex.r#match)?;
        return Ok(Some(PathRewrite::Regex { pattern, substitution: regex.rewrite.clone() }));
    }
    let uri = written.uri.as_ref().filter(|uri| !uri.is_empty());
    Ok(uri.map(|uri| match path {
        PathMatch::Prefix { .. } | PathMatch::SegmentPrefix { .. } => PathRewrite::Prefix(uri.clone()),
        PathMatch::Exact { .. } | PathMatch::Regex(_) => PathRewrite::Full(uri.clone()),
    }))
}

fn mirrors(context: &mut Context<'_, '_>, rule: &HttpRoute) -> Result<Vec<Mirror>, Invalid> {
    let mut wanted = Vec::new();
    if let Some(destination) = &rule.mirror {
        let whole = rule.mirror_percent.map_or(Ok(Fraction::ALL), |percent| Fraction::from_percent(f64::from(percent)));
        wanted.push((destination, share_or(rule.mirror_percentage.as_ref(), whole?)?));
    }
    for mirror in &rule.mirrors {
        if let Some(destination) = &mirror.destination {
            wanted.push((destination, share_or(mirror.percentage.as_ref(), Fraction::ALL)?));
        }
    }
    wanted.retain(|(_, share)| *share > Fraction::NONE);
    let mirror = |(destination, share)| {
        let reached = context.output.destination(context.view, context.egress, destination, context.called);
        Mirror { cluster: reached.cluster, share }
    };
    Ok(wanted.into_iter().map(mirror).collect())
}

/// The mesh's retries, which every route has that says nothing else. With a hash that names one endpoint, the one that
/// was tried is not avoided: it is where the request belongs.
pub(super) fn default_retry(hashed: bool) -> RetryPolicy {
    RetryPolicy {
        on: retry_on(defaults::RETRY_ON).0,
        attempts: defaults::RETRY_ATTEMPTS,
        per_try_timeout: None,
        status_codes: BTreeSet::new(),
        answer_headers: Vec::new(),
        request_headers: Vec::new(),
        rate_limited: None,
        backoff_base: defaults::RETRY_BACKOFF_BASE,
        backoff_max: defaults::RETRY_BACKOFF_BASE.saturating_mul(defaults::RETRY_BACKOFF_FACTOR),
        avoid_previous_hosts: !hashed,
        host_selection_attempts: defaults::HOST_SELECTION_ATTEMPTS,
        other_localities: false,
    }
}

/// A rule's retries over the default; `None`: no attempts, no retries.
fn retry(written: &HttpRetry, hashed: bool) -> Option<RetryPolicy> {
    let attempts = written.attempts.and_then(|attempts| u32::try_from(attempts).ok()).filter(|&count| count > 0)?;
    let default = default_retry(hashed);
    let (on, status_codes) = match written.retry_on.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => retry_on(text),
        None => (default.on.clone(), default.status_codes.clone()),
    };
    let base = duration(written.backoff.as_ref()).filter(|base| !base.is_zero()).unwrap_or(default.backoff_base);
    (!on.is_empty()).then_some(RetryPolicy {
        on,
        attempts,
        per_try_timeout: duration(written.per_try_timeout.as_ref()).filter(|timeout| !timeout.is_zero()),
        status_codes,
        backoff_base: base,
        backoff_max: base.checked_mul(defaults::RETRY_BACKOFF_FACTOR).unwrap_or(Duration::MAX),
        avoid_previous_hosts: written.retry_ignore_previous_hosts.unwrap_or(default.avoid_previous_hosts),
        other_localities: written.retry_remote_localities.unwrap_or(false),
        ..default
    })
}

/// Envoy's words, and statuses between them: a number means that status, and that statuses are retried at all.
fn retry_on(text: &str) -> (BTreeSet<RetryOn>, BTreeSet<u16>) {
    let (mut on, mut codes) = (BTreeSet::new(), BTreeSet::new());
    for word in text.split(',').map(str::trim) {
        match word.parse::<u16>() {
            Ok(code) if (100..600).contains(&code) => {
                codes.insert(code);
                on.insert(RetryOn::RetriableStatusCodes);
            }
            // A word that Envoy does not know never comes true.
            Ok(_) | Err(_) => on.extend(RetryOn::parse(word)),
        }
    }
    (on, codes)
}

fn redirect(written: &HttpRedirect, called: Port) -> Result<Redirect, Invalid> {
    let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
    let code = u16::try_from(written.redirect_code.filter(|&code| code != 0).unwrap_or(301)).unwrap_or(0);
    let written_port = match written.port {
        Some(port) => Some(u16::try_from(port).map_err(|_| Invalid(format!("{port} is not a port")))?),
        None if written.derive_port == Some(RedirectPortSelection::FromRequestPort) => Some(called.get()),
        None => None,
    };
    let scheme = text(&written.scheme);
    // A sidecar is called in clear text. The port that a scheme means anyway is not written out.
    let is_default = |port: &u16| match scheme.as_deref().unwrap_or("http") {
        "https" => *port == 443,
        _ => *port == 80,
    };
    let port = written_port.filter(|port| !is_default(port));
    Ok(Redirect {
        status: Redirect::status(code)?,
        host: text(&written.authority),
        port,
        path: text(&written.uri).map(PathRewrite::Full).or(text(&written.prefix_rewrite).map(PathRewrite::Prefix)),
        scheme,
    })
}

fn direct(written: &HttpDirectResponse) -> Result<DirectResponse, Invalid> {
    let code = written.status.unwrap_or(0);
    let status = u16::try_from(code).ok().filter(|code| (200..600).contains(code));
    let status = status.and_then(|code| StatusCode::from_u16(code).ok());
    let body = written.body.as_ref().map(body).transpose()?.unwrap_or_default();
    if body.len() > MAX_BODY {
        return Err(Invalid(format!("the body of an answer is at most {MAX_BODY} bytes, this is {}", body.len())));
    }
    let wrong = || Invalid(format!("the status of an answer is between 200 and 599, not {code}"));
    Ok(DirectResponse { status: status.ok_or_else(wrong)?, body })
}

fn body(written: &HttpBody) -> Result<Vec<u8>, Invalid> {
    match (&written.string, &written.bytes) {
        (Some(text), _) => Ok(text.clone().into_bytes()),
        (None, Some(encoded)) => base64(encoded).ok_or_else(|| Invalid::new("the body's `bytes` are not base64")),
        (None, None) => Ok(Vec::new()),
    }
}

/// Standard base64 (RFC 4648 §4), with or without padding.
fn base64(encoded: &str) -> Option<Vec<u8>> {
    let digits = encoded.bytes().filter(|byte| !byte.is_ascii_whitespace());
    let (mut bytes, mut buffer, mut bits, mut padded) = (Vec::new(), 0_u32, 0_u32, false);
    for digit in digits {
        let value = match digit {
            b'=' => {
                padded = true;
                continue;
            }
            _ if padded => return None,
            b'A'..=b'Z' => digit.wrapping_sub(b'A'),
            b'a'..=b'z' => digit.wrapping_sub(b'a').wrapping_add(26),
            b'0'..=b'9' => digit.wrapping_sub(b'0').wrapping_add(52),
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        buffer = (buffer << 6 | u32::from(value)) & 0xff_ffff;
        // Between 0 and 13.
        bits = bits.saturating_add(6);
        if let Some(rest) = bits.checked_sub(8) {
            bits = rest;
            bytes.push((buffer >> bits & 0xff) as u8);
        }
    }
    (bits < 6).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_with_and_without_padding() {
        for (encoded, bytes) in [
            ("", Some("")),
            ("bGVubw==", Some("leno")),
            ("bGVubw", Some("leno")),
            ("d2VhdmU=", Some("weave")),
            ("d2Vh\ndmU=", Some("weave")),
            ("d2VhdmU==x", None),
            ("bGVub*==", None),
            ("b", None),
        ] {
            assert_eq!(base64(encoded).as_deref(), bytes.map(str::as_bytes), "{encoded}");
        }
    }

    #[test]
    fn words_and_statuses_of_retry_on_are_told_apart() {
        let (on, codes) = retry_on("reset, 503,gateway-error,nonsense,42");
        assert_eq!(on, BTreeSet::from([RetryOn::Reset, RetryOn::GatewayError, RetryOn::RetriableStatusCodes]));
        assert_eq!(codes, BTreeSet::from([503]));
    }
}
