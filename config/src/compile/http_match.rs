//! Conditions of a VirtualService on HTTP requests, and those that are decided here, for one proxy.

use std::collections::BTreeMap;

use crate::ir::{
    ClaimMatch, HeaderKey, HeaderMatch, Invalid, PathMatch, Port, QueryMatch, Regex, RouteMatch, StringMatch,
};
use crate::mesh::{MESH_GATEWAY, selects};
use crate::node::Node;
use crate::rules::{self, HttpMatchRequest, routed_claim};

/// Headers under these names are conditions of their own and ignored among headers (Istio).
const PSEUDO_NAMES: [&str; 4] = ["uri", "scheme", "method", "authority"];

/// Whether a block holds for this proxy and port at all. With `gateways`, the source is not looked at (Istio).
pub(super) fn holds_for(node: &Node, block: &HttpMatchRequest, called: Port) -> bool {
    let port = block.port.filter(|&port| port != 0);
    port.is_none_or(|port| port == u32::from(called.get()))
        && is_source(node, &block.gateways, &block.source_labels, block.source_namespace.as_deref())
}

/// Whether the proxy is among those that a block names.
pub(super) fn is_source(
    node: &Node,
    gateways: &[String],
    labels: &BTreeMap<String, String>,
    namespace: Option<&str>,
) -> bool {
    if !gateways.is_empty() {
        return gateways.iter().any(|gateway| gateway == MESH_GATEWAY);
    }
    selects(labels, &node.labels) && namespace.filter(|name| !name.is_empty()).is_none_or(|name| name == node.namespace)
}

/// The conditions of a block on requests.
pub(super) fn route_match(block: &HttpMatchRequest) -> Result<RouteMatch, Invalid> {
    let (mut headers, mut claims) = (Vec::new(), Vec::new());
    for (written, invert) in [(&block.headers, false), (&block.without_headers, true)] {
        for (name, value) in written {
            match routed_claim(name) {
                Some(path) => claims.push(claim(path?, value, invert)?),
                None if PSEUDO_NAMES.contains(&name.as_str()) => {}
                None => headers.push(header(name, value, invert)?),
            }
        }
    }
    headers.sort_by(|one, other| one.key.cmp(&other.key));
    for (name, value) in [(":method", &block.method), (":authority", &block.authority), (":scheme", &block.scheme)] {
        if let Some(value) = value {
            headers.push(header(name, value, false)?);
        }
    }
    let query =
        |(name, value): (&String, &rules::StringMatch)| Ok(QueryMatch { name: name.clone(), value: string(value)? });
    Ok(RouteMatch {
        path: path(block)?,
        headers,
        query: block.query_params.iter().map(query).collect::<Result<_, _>>()?,
        claims,
    })
}

/// A condition on a claim of a verified token. Without a value: that the claim is there.
fn claim(path: Vec<String>, written: &rules::StringMatch, invert: bool) -> Result<ClaimMatch, Invalid> {
    let value = match string(written)? {
        Some(value) => value,
        None => StringMatch::Regex(Regex::new("(?s).+")?),
    };
    Ok(ClaimMatch { path, value, invert })
}

fn header(name: &str, written: &rules::StringMatch, invert: bool) -> Result<HeaderMatch, Invalid> {
    let value = string(written)?;
    // A missing header is not the value that must not be there, so the rule matches; Envoy has to be told.
    let missing_is_empty = invert && value.is_some();
    Ok(HeaderMatch { key: HeaderKey::parse(name)?, value, invert, missing_is_empty })
}

/// A condition on a text; `None`: that it is there, written `{}` or as the regular expression `*` (which is none).
pub(super) fn string(written: &rules::StringMatch) -> Result<Option<StringMatch>, Invalid> {
    Ok(match (&written.exact, &written.prefix, &written.regex) {
        (Some(exact), _, _) => Some(StringMatch::exact(exact)),
        (None, Some(prefix), _) => Some(StringMatch::prefix(prefix)),
        (None, None, Some(regex)) if regex == "*" => None,
        (None, None, Some(regex)) => Some(StringMatch::Regex(Regex::new(regex)?)),
        (None, None, None) => None,
    })
}

fn path(block: &HttpMatchRequest) -> Result<PathMatch, Invalid> {
    let ignore_case = block.ignore_uri_case.unwrap_or(false);
    let Some(uri) = &block.uri else { return Ok(PathMatch::any()) };
    Ok(match string(uri)? {
        None => PathMatch::any(),
        Some(StringMatch::Exact { value, .. }) => PathMatch::Exact { value, ignore_case },
        Some(StringMatch::Prefix { value, .. }) => PathMatch::Prefix { value, ignore_case },
        Some(StringMatch::Regex(regex)) => PathMatch::Regex(regex),
        Some(StringMatch::Suffix { .. } | StringMatch::Contains { .. }) => {
            return Err(Invalid::new("a VirtualService has no suffix or part of a path"));
        }
    })
}
