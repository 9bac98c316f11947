//! What becomes of the path once a route has won. The query always stays.

use leno_config::ir::{PathMatch, PathRewrite, Redirect};

use super::RequestView;

/// The new path of a request, its query included.
pub fn rewrite_path(rewrite: &PathRewrite, matched: &PathMatch, path: &str, query: Option<&str>) -> String {
    let mut new = match rewrite {
        PathRewrite::Prefix(prefix) => replace_prefix(prefix, matched, path),
        PathRewrite::Full(full) => full.clone(),
        PathRewrite::Regex { pattern, substitution } => {
            pattern.compiled().replace_all(path, groups(substitution).as_str()).into_owned()
        }
    };
    if !new.starts_with('/') {
        new.insert(0, '/');
    }
    if let Some(query) = query {
        // A rule may write a query of its own into the path; then the request's follows it.
        new.push(if new.contains('?') { '&' } else { '?' });
        new.push_str(query);
    }
    new
}

/// Only the matched prefix is replaced; where an exact path or an expression matched, the whole path (Istio).
fn replace_prefix(prefix: &str, matched: &PathMatch, path: &str) -> String {
    let length = match matched {
        PathMatch::Prefix { value, .. } | PathMatch::SegmentPrefix { value, .. } => value.len(),
        PathMatch::Exact { .. } | PathMatch::Regex(_) => path.len(),
    };
    let rest = path.get(length..).unwrap_or_default();
    // Gateway API: a prefix `/` that replaces `/api` in `/api/v1` must not leave two slashes.
    match (matched, prefix.strip_suffix('/')) {
        (PathMatch::SegmentPrefix { .. }, Some(trimmed)) if rest.starts_with('/') => format!("{trimmed}{rest}"),
        _ => format!("{prefix}{rest}"),
    }
}

/// RE2 writes a group as `\1`, Rust's crate as `${1}`; a dollar sign means itself in RE2.
fn groups(substitution: &str) -> String {
    let mut out = String::with_capacity(substitution.len().saturating_add(8));
    let mut characters = substitution.chars();
    while let Some(character) = characters.next() {
        match character {
            '$' => out.push_str("$$"),
            '\\' => match characters.next() {
                Some(digit) if digit.is_ascii_digit() => {
                    out.push_str("${");
                    out.push(digit);
                    out.push('}');
                }
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            other => out.push(other),
        }
    }
    out
}

/// The `location` of a redirect (Envoy's rules: a port that is the default of the scheme is left out, and a new scheme
/// drops the default port of the old one).
pub fn location(redirect: &Redirect, matched: &PathMatch, request: &RequestView<'_>) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(request.scheme);
    let (host, port) = split_port(request.authority);
    let port = match redirect.port {
        Some(port) => Some(port),
        None if redirect.host.is_some() => None,
        None => port.filter(|port| Some(*port) != default_port(request.scheme) || redirect.scheme.is_none()),
    };
    let host = redirect.host.as_deref().unwrap_or(host);
    let path = match &redirect.path {
        Some(rewrite) => rewrite_path(rewrite, matched, request.path, request.query),
        None => match request.query {
            Some(query) => format!("{}?{query}", request.path),
            None => request.path.to_owned(),
        },
    };
    match port.filter(|port| Some(*port) != default_port(scheme)) {
        Some(port) => format!("{scheme}://{host}:{port}{path}"),
        None => format!("{scheme}://{host}{path}"),
    }
}

fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (authority, None),
        },
        _ => (authority, None),
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}
