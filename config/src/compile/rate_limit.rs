//! The limits of a workload: those of its RateLimits, in the order in which these hold.

use std::collections::BTreeMap;

use crate::ir::{HeaderKey, HeaderMatch, Invalid, RateLimit, TokenBucket};
use crate::mesh::Mesh;
use crate::node::Node;
use crate::rules::{Limit, StringMatch};

use super::clusters::duration;
use super::http_match::string;

/// All limits for a workload's HTTP ports. What cannot be a limit is left out; [`crate::validate`] says so.
pub(super) fn limits(mesh: &Mesh, node: &Node) -> Vec<RateLimit> {
    let rules = mesh.rate_limits(node);
    let written = rules.flat_map(|rule| rule.spec.limits.iter().enumerate().map(move |(index, it)| (rule, index, it)));
    written
        .filter_map(|(rule, index, written)| {
            limit(format!("{}/{}/{index}", rule.id.namespace, rule.id.name), written).ok().flatten()
        })
        .collect()
}

/// `None`: it does not say how many requests in which time.
fn limit(name: String, written: &Limit) -> Result<Option<RateLimit>, Invalid> {
    let Limit { requests, per, burst, r#match, by } = written;
    let (Some(requests), Some(per)) = (*requests, duration(per.as_ref())) else { return Ok(None) };
    let bucket = TokenBucket::new(requests.saturating_add(burst.unwrap_or(0)), requests, per)?;
    let conditions = r#match.clone().unwrap_or_default();
    let method = conditions.method.map(|written| (":method".to_owned(), written));
    let headers: BTreeMap<String, StringMatch> = method.into_iter().chain(conditions.headers).collect();
    let header = by.as_ref().and_then(|by| by.header.as_deref());
    let bad = |name: &str| Invalid(format!("`{name}` is not a header name (RFC 9110 §5.1)"));
    Ok(Some(RateLimit {
        name,
        bucket,
        path: conditions.path.as_ref().map(string).transpose()?.flatten(),
        headers: headers
            .iter()
            .map(|(name, written)| {
                let (key, value) = (HeaderKey::parse(name)?, string(written)?);
                Ok(HeaderMatch { key, value, invert: false, missing_is_empty: false })
            })
            .collect::<Result<_, Invalid>>()?,
        by: header.map(|name| name.parse().map_err(|_| bad(name))).transpose()?,
    }))
}
