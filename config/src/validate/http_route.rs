//! One rule for HTTP: what it does with requests.

use super::findings::Findings;
use super::values::Zero;
use super::{fault_injection, http_match};
use crate::diagnostic::codes;
use crate::ir::{HeaderField, Redirect, RetryOn, RewritePattern};
use crate::rules::{
    CorsPolicy, HeaderOperations, Headers, HttpDirectResponse, HttpRedirect, HttpRetry, HttpRewrite, HttpRoute,
    HttpRouteDestination, Path, closest,
};

/// Largest body of a direct response (Istio).
const MAX_BODY: usize = 1 << 20;

pub(super) fn check(route: &HttpRoute, path: &Path, found: &mut Findings) {
    check_action(route, path, found);
    for (index, block) in route.r#match.iter().enumerate() {
        http_match::check(block, &path.key("match").index(index), found);
    }
    check_destinations(&route.route, &path.key("route"), found);
    if let Some(redirect) = &route.redirect {
        check_redirect(redirect, &path.key("redirect"), found);
    }
    if let Some(response) = &route.direct_response {
        check_direct_response(response, &path.key("directResponse"), found);
    }
    if let Some(rewrite) = &route.rewrite {
        check_rewrite(rewrite, &path.key("rewrite"), found);
    }
    found.duration(&path.key("timeout"), route.timeout.as_ref(), Zero::Allowed);
    if let Some(retries) = &route.retries {
        check_retries(retries, &path.key("retries"), found);
    }
    if let Some(fault) = &route.fault {
        fault_injection::check(fault, &path.key("fault"), found);
    }
    check_mirrors(route, path, found);
    if let Some(cors) = &route.cors_policy {
        check_cors(cors, &path.key("corsPolicy"), found);
    }
    check_headers(route.headers.as_ref(), &path.key("headers"), found);
    if route.websocket_upgrade.is_some() {
        let path = path.key("websocketUpgrade");
        found.add(codes::NO_EFFECT, &path, "WebSockets pass always").help("remove the field");
    }
}

/// Exactly one of the things that can become of a request, and nothing beside it that contradicts.
fn check_action(route: &HttpRoute, path: &Path, found: &mut Findings) {
    let actions: Vec<&str> = [
        ("route", !route.route.is_empty()),
        ("redirect", route.redirect.is_some()),
        ("directResponse", route.direct_response.is_some()),
        ("delegate", route.delegate.is_some()),
    ]
    .into_iter()
    .filter(|(_, is_set)| *is_set)
    .map(|(name, _)| name)
    .collect();
    match actions.as_slice() {
        [] => {
            let help = "add one of `route`, `redirect`, `directResponse` and `delegate`";
            found.add(codes::REQUIRED, path, "the rule does not say what becomes of a request").help(help);
        }
        [only @ ("redirect" | "directResponse")] => {
            for (field, is_set) in [
                ("rewrite", route.rewrite.is_some()),
                ("fault", route.fault.is_some()),
                ("mirror", route.mirror.is_some()),
                ("mirrors", !route.mirrors.is_empty()),
            ] {
                if is_set {
                    let message = format!("`{field}` stands beside `{only}`, which sends nothing on");
                    found.add(codes::EXCLUSIVE, &path.key(field), message).on_key().help("remove one of the two");
                }
            }
        }
        [_] => {}
        [first, others @ ..] => {
            for other in others {
                let message = format!("`{other}` stands beside `{first}`; a rule does one thing");
                found.add(codes::EXCLUSIVE, &path.key(other), message).on_key().help("remove one of the two");
            }
        }
    }
    if route.delegate.as_ref().is_some_and(|delegate| delegate.name.is_empty()) {
        found.add(codes::REQUIRED, &path.key("delegate"), "the delegate has no name").help("add `name`");
    }
}

fn check_destinations(destinations: &[HttpRouteDestination], path: &Path, found: &mut Findings) {
    for (index, destination) in destinations.iter().enumerate() {
        let path = path.index(index);
        found.destination(&path.key("destination"), destination.destination.as_ref());
        check_headers(destination.headers.as_ref(), &path.key("headers"), found);
    }
    check_weights(destinations.iter().map(|destination| destination.weight), path, found);
}

/// No share is negative, and of several one is above 0.
pub(super) fn check_weights(weights: impl Iterator<Item = Option<i32>> + Clone, path: &Path, found: &mut Findings) {
    let mut has_negative = false;
    for (index, weight) in weights.clone().enumerate() {
        if let Some(weight @ ..=-1) = weight {
            has_negative = true;
            let path = path.index(index).key("weight");
            found.add(codes::WEIGHT, &path, format!("the weight {weight} is negative")).help("weights are 0 or more");
        }
    }
    let total: i64 = weights.clone().map(|weight| i64::from(weight.unwrap_or(0))).sum();
    let several = weights.count() > 1;
    if several && total == 0 && !has_negative {
        found
            .add(codes::WEIGHT, path, "the weights add up to 0, so that no destination gets anything")
            .help("give at least one destination a `weight` above 0");
    } else if total > i64::from(u32::MAX) {
        found.add(codes::WEIGHT, path, format!("the weights add up to {total}, more than {}", u32::MAX));
    }
}

fn check_redirect(redirect: &HttpRedirect, path: &Path, found: &mut Findings) {
    let HttpRedirect { uri, prefix_rewrite, authority, port, derive_port, scheme, redirect_code } = redirect;
    let says_something = uri.is_some()
        || prefix_rewrite.is_some()
        || authority.is_some()
        || port.is_some()
        || derive_port.is_some()
        || scheme.is_some();
    if !says_something && redirect_code.is_none() {
        let help = "add one of `uri`, `authority`, `scheme` and `port`";
        found.add(codes::REQUIRED, path, "the redirect leads back to where it came from").help(help);
    }
    if uri.is_some() && prefix_rewrite.is_some() {
        found.add(codes::EXCLUSIVE, &path.key("prefixRewrite"), "`prefixRewrite` stands beside `uri`").on_key();
    }
    if port.is_some() && derive_port.is_some() {
        found.add(codes::EXCLUSIVE, &path.key("derivePort"), "`derivePort` stands beside `port`").on_key();
    }
    found.optional_port(&path.key("port"), *port);
    if let Some(scheme) = scheme.as_deref().filter(|scheme| !matches!(*scheme, "http" | "https")) {
        let message = format!("`{scheme}` is not a scheme of a redirect");
        found.add(codes::PATH, &path.key("scheme"), message).help("it is `http` or `https`");
    }
    for (field, value) in [("uri", uri), ("prefixRewrite", prefix_rewrite), ("authority", authority)] {
        if let Some(value) = value {
            check_header_text(value, &path.key(field), found);
        }
    }
    if let Some(code) = *redirect_code
        && let Err(invalid) = Redirect::status(u16::try_from(code).unwrap_or(u16::MAX))
    {
        found.add(codes::STATUS, &path.key("redirectCode"), invalid.to_string());
    }
}

fn check_direct_response(response: &HttpDirectResponse, path: &Path, found: &mut Findings) {
    match response.status {
        None => {
            found.add(codes::REQUIRED, path, "the answer has no status").help("add `status`");
        }
        Some(status) if !(200..=599).contains(&status) => {
            let message = format!("{status} cannot be the status of an answer");
            found.add(codes::STATUS, &path.key("status"), message).help("it is 200 to 599");
        }
        Some(_) => {}
    }
    let Some(body) = &response.body else { return };
    let path = path.key("body");
    match (&body.string, &body.bytes) {
        (Some(_), Some(_)) => {
            found.add(codes::EXCLUSIVE, &path, "`string` and `bytes` stand together").help("remove one of the two");
        }
        (None, None) => {
            found.add(codes::REQUIRED, &path, "the body is neither `string` nor `bytes`");
        }
        (Some(text), None) if text.len() > MAX_BODY => {
            found.add(codes::NUMBER, &path.key("string"), "the body is larger than 1 MiB");
        }
        (None, Some(bytes)) if !is_base64(bytes) => {
            found.add(codes::PATH, &path.key("bytes"), "the body is not base64");
        }
        (None, Some(bytes)) if (bytes.len() / 4).saturating_mul(3) > MAX_BODY => {
            found.add(codes::NUMBER, &path.key("bytes"), "the body is larger than 1 MiB");
        }
        (Some(_), None) | (None, Some(_)) => {}
    }
}

/// Whether a text is base64 of either alphabet, with or without padding.
fn is_base64(text: &str) -> bool {
    let bare = text.trim_end_matches('=');
    let padding = text.len().saturating_sub(bare.len());
    let is_alphabet = bare.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'-' | b'_'));
    is_alphabet && bare.len() % 4 != 1 && (padding == 0 || (padding <= 2 && text.len().is_multiple_of(4)))
}

fn check_rewrite(rewrite: &HttpRewrite, path: &Path, found: &mut Findings) {
    let HttpRewrite { uri, authority, uri_regex_rewrite } = rewrite;
    if uri.is_none() && authority.is_none() && uri_regex_rewrite.is_none() {
        let help = "add one of `uri`, `authority` and `uriRegexRewrite`";
        found.add(codes::REQUIRED, path, "the rewrite says nothing").help(help);
    }
    if uri.is_some() && uri_regex_rewrite.is_some() {
        found.add(codes::EXCLUSIVE, &path.key("uriRegexRewrite"), "`uriRegexRewrite` stands beside `uri`").on_key();
    }
    for (field, value) in [("uri", uri), ("authority", authority)] {
        if let Some(value) = value {
            check_header_text(value, &path.key(field), found);
        }
    }
    let Some(by_regex) = uri_regex_rewrite else { return };
    let path = path.key("uriRegexRewrite");
    if by_regex.r#match.is_empty() {
        found.add(codes::REQUIRED, &path, "the rewrite has no `match`");
    }
    match RewritePattern::new(&by_regex.r#match) {
        Err(invalid) => {
            found.add(codes::REGEX, &path.key("match"), invalid.to_string()).help("the syntax is RE2's");
        }
        Ok(pattern) => {
            let groups = pattern.compiled().captures_len();
            for group in referenced_groups(&by_regex.rewrite).filter(|group| *group >= groups) {
                let message = format!("`\\{group}` names a group that `match` does not have");
                found.add(codes::REGEX, &path.key("rewrite"), message);
            }
        }
    }
    check_header_text(&by_regex.rewrite, &path.key("rewrite"), found);
}

/// The numbers behind backslashes.
fn referenced_groups(text: &str) -> impl Iterator<Item = usize> {
    let mut bytes = text.bytes();
    std::iter::from_fn(move || {
        loop {
            if bytes.next()? == b'\\' {
                let next = bytes.next()?;
                if let Some(group) = char::from(next).to_digit(10) {
                    return usize::try_from(group).ok();
                }
            }
        }
    })
}

/// Text that ends up in a header line.
fn check_header_text(text: &str, path: &Path, found: &mut Findings) {
    if text.chars().any(char::is_control) {
        found.add(codes::PATH, path, "the text has control characters");
    }
}

fn check_retries(retries: &HttpRetry, path: &Path, found: &mut Findings) {
    let HttpRetry {
        attempts,
        per_try_timeout,
        retry_on,
        retry_remote_localities,
        retry_ignore_previous_hosts,
        backoff,
    } = retries;
    if let Some(attempts @ ..=-1) = *attempts {
        found.add(codes::NUMBER, &path.key("attempts"), format!("{attempts} attempts are too few")).help("0 is none");
    }
    let says_more = per_try_timeout.is_some()
        || retry_on.is_some()
        || retry_remote_localities.is_some()
        || retry_ignore_previous_hosts.is_some()
        || backoff.is_some();
    if *attempts == Some(0) && says_more {
        let message = "with 0 attempts nothing is tried again, whatever else is said here";
        found.add(codes::NO_EFFECT, &path.key("attempts"), message).help("raise `attempts`, or remove the rest");
    }
    found.duration(&path.key("perTryTimeout"), per_try_timeout.as_ref(), Zero::Allowed);
    found.duration(&path.key("backoff"), backoff.as_ref(), Zero::Refused);
    let words: Vec<&str> = RetryOn::words().collect();
    for word in retry_on.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|word| !word.is_empty()) {
        let path = path.key("retryOn");
        if let Ok(status) = word.parse::<u32>() {
            if !(100..=599).contains(&status) {
                found.add(codes::STATUS, &path, format!("{status} is not a status"));
            }
        } else if let Err(invalid) = RetryOn::parse(word) {
            let finding = found.add(codes::RETRY, &path, invalid.to_string());
            if let Some(meant) = closest(word, &words) {
                finding.help(format!("did you mean `{meant}`?"));
            }
        }
    }
}

fn check_mirrors(route: &HttpRoute, path: &Path, found: &mut Findings) {
    if route.mirror.is_some() && !route.mirrors.is_empty() {
        found.add(codes::EXCLUSIVE, &path.key("mirrors"), "`mirrors` stands beside `mirror`").on_key();
    }
    if route.mirror.is_some() {
        found.destination(&path.key("mirror"), route.mirror.as_ref());
    }
    for (index, mirror) in route.mirrors.iter().enumerate() {
        let path = path.key("mirrors").index(index);
        found.destination(&path.key("destination"), mirror.destination.as_ref());
        found.percent(&path.key("percentage"), mirror.percentage.as_ref());
    }
    found.percent(&path.key("mirrorPercentage"), route.mirror_percentage.as_ref());
    if let Some(percent) = route.mirror_percent {
        let path = path.key("mirrorPercent");
        found.percentage(&path, f64::from(percent));
        found.add(codes::DEPRECATED, &path, "`mirrorPercent` is going away").help("use `mirrorPercentage: {value: …}`");
    }
    if route.mirror.is_none() && (route.mirror_percentage.is_some() || route.mirror_percent.is_some()) {
        let field = if route.mirror_percentage.is_some() { "mirrorPercentage" } else { "mirrorPercent" };
        found.add(codes::NO_EFFECT, &path.key(field), "there is no `mirror`, so nothing is copied").on_key();
    }
}

fn check_cors(cors: &CorsPolicy, path: &Path, found: &mut Findings) {
    for (index, origin) in cors.allow_origins.iter().enumerate() {
        let path = path.key("allowOrigins").index(index);
        found.string_match(&path, origin);
        if origin.exact.is_none() && origin.prefix.is_none() && origin.regex.is_none() {
            found.add(codes::MATCH, &path, "the origin says nothing").help("use `exact`, `prefix` or `regex`");
        }
    }
    if !cors.allow_origin.is_empty() {
        let path = path.key("allowOrigin");
        found.add(codes::DEPRECATED, &path, "`allowOrigin` is going away").on_key().help("use `allowOrigins`");
    }
    for (field, names) in [
        ("allowMethods", &cors.allow_methods),
        ("allowHeaders", &cors.allow_headers),
        ("exposeHeaders", &cors.expose_headers),
    ] {
        for (index, name) in names.iter().enumerate() {
            // Methods and header names are both tokens.
            if name != "*" && name.parse::<http::HeaderName>().is_err() {
                let message = format!("`{name}` cannot stand in `{field}`");
                found.add(codes::HEADER, &path.key(field).index(index), message);
            }
        }
    }
    found.duration(&path.key("maxAge"), cors.max_age.as_ref(), Zero::Allowed);
    if let Some(Ok(age)) = cors.max_age.as_ref().map(crate::rules::DurationText::parse)
        && age.subsec_nanos() != 0
    {
        let message = "browsers count whole seconds";
        found.add(codes::DURATION, &path.key("maxAge"), message).help("write a number of seconds: `24h`, `600s`");
    }
}

fn check_headers(headers: Option<&Headers>, path: &Path, found: &mut Findings) {
    let Some(headers) = headers else { return };
    for (field, operations) in [("request", &headers.request), ("response", &headers.response)] {
        if let Some(operations) = operations {
            check_operations(operations, &path.key(field), found);
        }
    }
}

fn check_operations(operations: &HeaderOperations, path: &Path, found: &mut Findings) {
    for (field, headers) in [("set", &operations.set), ("add", &operations.add)] {
        for (name, value) in headers {
            let path = path.key(field).key(name);
            if name.starts_with(':') && name != ":authority" {
                let message = format!("`{name}` is not changed by header operations");
                found.add(codes::NO_EFFECT, &path, message).on_key().help("use `rewrite`");
            } else if let Err(invalid) = HeaderField::new(name.strip_prefix(':').unwrap_or(name), value) {
                found.add(codes::HEADER, &path, invalid.to_string());
            }
        }
    }
    for (index, name) in operations.remove.iter().enumerate() {
        let path = path.key("remove").index(index);
        if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
            found.add(codes::NO_EFFECT, &path, format!("`{name}` cannot be removed"));
        } else if name.parse::<http::HeaderName>().is_err() {
            found.add(codes::HEADER, &path, format!("`{name}` is not a header name (RFC 9110 §5.1)"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_told_from_other_texts() {
        for text in ["", "aGk=", "aGk", "aGVsbG8gd29ybGQ=", "_-8"] {
            assert!(is_base64(text), "{text}");
        }
        for text in ["a", "a===", "aGk==", "a b", "é"] {
            assert!(!is_base64(text), "{text}");
        }
    }

    #[test]
    fn groups_are_those_behind_a_backslash() {
        assert_eq!(referenced_groups(r"/\1/a\\2\0").collect::<Vec<_>>(), [1, 0]);
    }
}
