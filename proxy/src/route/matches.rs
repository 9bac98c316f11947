//! Whether one route takes a request, and in words why not.

use std::borrow::Cow;

use http::HeaderMap;
use leno_config::ir::{HeaderKey, HeaderMatch, PathMatch, QueryMatch, Route, RouteMatch, StringMatch};

use crate::policy::jwt::Claims;

use super::RequestView;

/// All conditions hold.
pub(crate) fn takes(matcher: &RouteMatch, request: &RequestView<'_>) -> bool {
    matcher.path.is_match(request.path)
        && matcher.headers.iter().all(|condition| header_holds(condition, request))
        && matcher.query.iter().all(|condition| query_holds(condition, request))
        && matcher.claims.iter().all(|condition| Claims::fulfil(request.claims, condition))
}

/// The first condition that fails, as a person would say it; `None` when the route takes the request.
pub fn why_not(route: &Route, request: &RequestView<'_>) -> Option<String> {
    let RouteMatch { path, headers, query, claims } = &route.matcher;
    if !path.is_match(request.path) {
        return Some(format!("path `{}` {}", request.path, path_in_words(path)));
    }
    if let Some(failed) = headers.iter().find(|condition| !header_holds(condition, request)) {
        return Some(header_in_words(failed, request));
    }
    if let Some(failed) = query.iter().find(|condition| !query_holds(condition, request)) {
        return Some(query_in_words(failed, request));
    }
    let failed = claims.iter().find(|condition| !Claims::fulfil(request.claims, condition))?;
    let name = failed.path.join(".");
    Some(match failed.invert {
        true => format!("claim `{name}` of the verified token is one that the rule excludes"),
        false if request.claims.is_none() => format!("claim `{name}` is missing: there is no verified token"),
        false => format!("claim `{name}` of the verified token is missing, or is one {}", in_words(&failed.value)),
    })
}

fn query_in_words(failed: &QueryMatch, request: &RequestView<'_>) -> String {
    let name = &failed.name;
    match (&failed.value, parameter(request, name)) {
        (_, None) => format!("query parameter `{name}` is missing"),
        (Some(value), Some(found)) => format!("query parameter `{name}` is `{found}`, {}", in_words(value)),
        (None, Some(_)) => format!("query parameter `{name}` is there"),
    }
}

/// Whether a header condition holds, on all its lines joined.
pub(crate) fn header_holds(condition: &HeaderMatch, request: &RequestView<'_>) -> bool {
    let found = value_of(&condition.key, request);
    let Some(wanted) = &condition.value else {
        return found.is_some() != condition.invert;
    };
    match found {
        Some(value) => wanted.is_match(&value) != condition.invert,
        None if condition.missing_is_empty => wanted.is_match("") != condition.invert,
        // Envoy: a value condition never holds for a header that is not there, inverted or not.
        None => false,
    }
}

fn value_of<'a>(key: &HeaderKey, request: &RequestView<'a>) -> Option<Cow<'a, str>> {
    match key {
        HeaderKey::Method => Some(Cow::Borrowed(request.method.as_str())),
        HeaderKey::Scheme => Some(Cow::Borrowed(request.scheme)),
        HeaderKey::Authority => Some(Cow::Borrowed(request.authority)),
        HeaderKey::Path => Some(match request.query {
            Some(query) => Cow::Owned(format!("{}?{query}", request.path)),
            None => Cow::Borrowed(request.path),
        }),
        HeaderKey::Name(name) => joined(request.headers, &name.0),
    }
}

/// All values of a header, joined with a comma (RFC 9110 §5.3, Envoy): looking at the first alone would let a second
/// one slip past a rule.
pub(crate) fn joined<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<Cow<'a, str>> {
    let mut values = headers.get_all(name).iter();
    let first = String::from_utf8_lossy(values.next()?.as_bytes());
    Some(values.fold(first, |mut all, value| {
        all.to_mut().push(',');
        all.to_mut().push_str(&String::from_utf8_lossy(value.as_bytes()));
        all
    }))
}

fn query_holds(condition: &QueryMatch, request: &RequestView<'_>) -> bool {
    match (parameter(request, &condition.name), &condition.value) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(found), Some(wanted)) => wanted.is_match(found),
    }
}

/// The first parameter of that name, not decoded (Envoy).
fn parameter<'a>(request: &RequestView<'a>, name: &str) -> Option<&'a str> {
    request.query?.split('&').find_map(|pair| match pair.split_once('=') {
        Some((key, value)) => (key == name).then_some(value),
        None => (pair == name).then_some(""),
    })
}

fn path_in_words(path: &PathMatch) -> String {
    match path {
        PathMatch::Exact { value, .. } => format!("is not `{value}`"),
        PathMatch::Prefix { value, .. } => format!("does not begin with `{value}`"),
        PathMatch::SegmentPrefix { value, .. } => format!("is not below `{value}`"),
        PathMatch::Regex(regex) => format!("does not match `{}`", regex.pattern()),
    }
}

fn header_in_words(condition: &HeaderMatch, request: &RequestView<'_>) -> String {
    let name = match &condition.key {
        HeaderKey::Method => "method".to_owned(),
        HeaderKey::Scheme => "scheme".to_owned(),
        HeaderKey::Authority => "authority".to_owned(),
        HeaderKey::Path => "path with query".to_owned(),
        HeaderKey::Name(name) => format!("header `{}`", name.0),
    };
    match (value_of(&condition.key, request), &condition.value) {
        (None, _) if !condition.invert => format!("{name} is missing"),
        (Some(found), Some(_)) if condition.invert => format!("{name} is `{found}`, which the rule excludes"),
        (None, _) => format!("{name} is missing, which the rule excludes"),
        (Some(_), None) => format!("{name} is there, which the rule excludes"),
        (Some(found), Some(wanted)) => format!("{name} is `{found}`, {}", in_words(wanted)),
    }
}

fn in_words(wanted: &StringMatch) -> String {
    match wanted {
        StringMatch::Exact { value, .. } => format!("not `{value}`"),
        StringMatch::Prefix { value, .. } => format!("which does not begin with `{value}`"),
        StringMatch::Suffix { value, .. } => format!("which does not end with `{value}`"),
        StringMatch::Contains { value, .. } => format!("which does not contain `{value}`"),
        StringMatch::Regex(regex) => format!("which does not match `{}`", regex.pattern()),
    }
}
