//! Limits of a workload: Envoy's local rate limit filter.
//!
//! Each limit is a descriptor with a bucket of its own, and beside it the actions that make a request fit it: a fixed
//! text (its name), conditions on headers, the value of a header. A path without its query is a condition on `:path`
//! with whatever query behind it. What Envoy does with them is what Leno does, with two differences: there a bucket
//! belongs to a listener and here to the workload, and Envoy forgets the value that was not asked for longest, when there
//! are too many, where Leno lets new ones share.
//!
//! Read are the same and the simplest form, one bucket for all requests; only for a whole listener.

use http::HeaderName;

use super::matcher;
use super::pb;
use super::refusal::{Problem, Result, Within, each, is_false, nonempty, required, unsupported};
use super::scalar::{
    duration_from_xds, duration_to_xds, runtime_fraction_from_xds, runtime_fraction_to_xds, u32_or, wrap_u32,
};
use crate::ir::{Fraction, HeaderKey, HeaderMatch, OrderedName, RateLimit, Regex, StringMatch, TokenBucket};
use pb::local_rate_limit::LocalRateLimit;
use pb::rate_limit::rate_limit_descriptor::Entry;
use pb::rate_limit::{LocalRateLimitDescriptor, XRateLimitHeadersRfcVersion};
use pb::route::rate_limit::action::{ActionSpecifier, GenericKey, HeaderValueMatch, RequestHeaders};
use pb::route::rate_limit::{Action, XRateLimitOption};

/// The key of a limit's name.
const NAME: &str = "limit";
/// The key and the value of a limit's conditions.
const CONDITIONS: (&str, &str) = ("match", "true");
/// The key of the header's value.
const BY: &str = "by";
/// What may stand behind a path.
const QUERY: &str = r"(?:\?.*)?";
/// Values of a header that Envoy keeps apart; Leno has about as many places.
const VALUES: u32 = 10_000;
/// Envoy's keys where an action names none.
const GENERIC_KEY: &str = "generic_key";
const HEADER_MATCH: &str = "header_match";

pub(super) fn to_xds(limits: &[RateLimit]) -> LocalRateLimit {
    LocalRateLimit {
        stat_prefix: "rate_limit".to_owned(),
        filter_enabled: Some(runtime_fraction_to_xds(Fraction::ALL)),
        filter_enforced: Some(runtime_fraction_to_xds(Fraction::ALL)),
        descriptors: limits.iter().map(descriptor).collect(),
        rate_limits: limits.iter().map(actions).collect(),
        enable_x_ratelimit_headers: XRateLimitHeadersRfcVersion::DraftVersion03.into(),
        rate_limited_as_resource_exhausted: true,
        max_dynamic_descriptors: limits.iter().any(|limit| limit.by.is_some()).then_some(VALUES).and_then(wrap_u32),
        enable_retry_after_header: true,
        ..Default::default()
    }
}

fn descriptor(limit: &RateLimit) -> LocalRateLimitDescriptor {
    let entry = |key: &str, value: &str| Entry { key: key.to_owned(), value: value.to_owned() };
    let (key, value) = CONDITIONS;
    let conditions = has_conditions(limit).then(|| entry(key, value));
    // An empty value stands for each.
    let by = limit.by.as_ref().map(|_| entry(BY, ""));
    let entries = std::iter::once(entry(NAME, &limit.name)).chain(conditions).chain(by).collect();
    LocalRateLimitDescriptor { entries, token_bucket: Some(bucket_to_xds(limit.bucket)), shadow_mode: false }
}

fn has_conditions(limit: &RateLimit) -> bool {
    limit.path.is_some() || !limit.headers.is_empty()
}

fn actions(limit: &RateLimit) -> pb::route::RateLimit {
    let action = |specifier| Action { action_specifier: Some(specifier) };
    let name = ActionSpecifier::GenericKey(GenericKey {
        descriptor_key: NAME.to_owned(),
        descriptor_value: limit.name.clone(),
        ..Default::default()
    });
    let conditions = has_conditions(limit).then(|| {
        let path = limit.path.as_ref().map(path_to_xds);
        let headers = path.iter().chain(&limit.headers).map(matcher::header_to_xds).collect();
        let (key, value) = (CONDITIONS.0.to_owned(), CONDITIONS.1.to_owned());
        ActionSpecifier::HeaderValueMatch(HeaderValueMatch {
            descriptor_key: key,
            descriptor_value: value,
            headers,
            ..Default::default()
        })
    });
    let by = limit.by.as_ref().map(|name| {
        ActionSpecifier::RequestHeaders(RequestHeaders {
            header_name: name.as_str().to_owned(),
            descriptor_key: BY.to_owned(),
            skip_if_absent: false,
        })
    });
    let actions = std::iter::once(name).chain(conditions).chain(by).map(action).collect();
    pb::route::RateLimit { actions, ..Default::default() }
}

fn bucket_to_xds(bucket: TokenBucket) -> pb::kinds::TokenBucket {
    pb::kinds::TokenBucket {
        max_tokens: bucket.capacity(),
        tokens_per_fill: wrap_u32(bucket.tokens()),
        fill_interval: Some(duration_to_xds(bucket.per())),
    }
}

fn bucket_from_xds(bucket: pb::kinds::TokenBucket) -> Result<TokenBucket> {
    let pb::kinds::TokenBucket { max_tokens, tokens_per_fill, fill_interval } = bucket;
    let per = duration_from_xds(required("fill_interval", fill_interval)?).within("fill_interval")?;
    Ok(TokenBucket::new(max_tokens, u32_or(tokens_per_fill, 1), per)?)
}

/// A condition on `:path` that says the same of the path without its query.
fn path_to_xds(path: &StringMatch) -> HeaderMatch {
    let followed = |pattern: String| {
        let pattern = format!("{pattern}{QUERY}");
        Regex::new(&pattern).map_or_else(|_| StringMatch::exact(pattern), StringMatch::Regex)
    };
    let sensitive = |value: &str, ignore_case: bool| {
        let value = regex::escape(value);
        if ignore_case { format!("(?i:{value})") } else { value }
    };
    let value = match path {
        StringMatch::Prefix { .. } => path.clone(),
        StringMatch::Exact { value, ignore_case } => followed(sensitive(value, *ignore_case)),
        StringMatch::Suffix { value, ignore_case } => followed(format!("[^?]*{}", sensitive(value, *ignore_case))),
        StringMatch::Contains { value, ignore_case } => {
            followed(format!("[^?]*{}[^?]*", sensitive(value, *ignore_case)))
        }
        StringMatch::Regex(regex) => followed(format!("(?:{})", regex.pattern())),
    };
    HeaderMatch { key: HeaderKey::Path, value: Some(value), invert: false, missing_is_empty: false }
}

/// The path of a condition on `:path` that looks at no query; `None` where it does.
fn path_from_xds(condition: &HeaderMatch) -> Option<StringMatch> {
    let HeaderMatch { key: HeaderKey::Path, value: Some(value), invert: false, missing_is_empty: false } = condition
    else {
        return None;
    };
    match value {
        StringMatch::Prefix { value: text, .. } if !text.contains('?') => Some(value.clone()),
        StringMatch::Regex(regex) => {
            let pattern = regex.pattern().strip_suffix(QUERY)?;
            match pattern.strip_prefix("(?:").and_then(|rest| rest.strip_suffix(')')) {
                Some(inner) => Regex::new(inner).ok().map(StringMatch::Regex),
                None => {
                    let text = unescaped(pattern);
                    (regex::escape(&text) == pattern).then(|| StringMatch::exact(text))
                }
            }
        }
        StringMatch::Exact { .. }
        | StringMatch::Prefix { .. }
        | StringMatch::Suffix { .. }
        | StringMatch::Contains { .. } => None,
    }
}

fn unescaped(pattern: &str) -> String {
    let mut letters = pattern.chars();
    let mut text = String::with_capacity(pattern.len());
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => text.extend(letters.next()),
            other => text.push(other),
        }
    }
    text
}

/// The limits of a listener; none where the filter is switched off.
pub(super) fn from_xds(filter: LocalRateLimit) -> Result<Vec<RateLimit>> {
    let LocalRateLimit {
        stat_prefix,
        status,
        token_bucket,
        filter_enabled,
        filter_enforced,
        request_headers_to_add_when_not_enforced,
        response_headers_to_add,
        descriptors,
        stage,
        local_rate_limit_per_downstream_connection,
        local_cluster_rate_limit,
        always_consume_default_token_bucket,
        rate_limits,
        // Of routes and virtual hosts, whose own `rate_limits` are refused.
        vh_rate_limits: _,
        // Headers that inform; Leno sends them always.
        enable_x_ratelimit_headers: _,
        enable_retry_after_header: _,
        // Leno's refusal of a gRPC call is RESOURCE_EXHAUSTED, which says what it is.
        rate_limited_as_resource_exhausted: _,
        // Leno's own number holds.
        max_dynamic_descriptors: _,
    } = filter;
    let other_status = status.is_some_and(|status| !matches!(status.code, 0 | 429));
    let not_always = is_false(&always_consume_default_token_bucket) && token_bucket.is_some();
    unsupported(&[
        ("status", &other_status),
        ("request_headers_to_add_when_not_enforced", &request_headers_to_add_when_not_enforced),
        ("response_headers_to_add", &response_headers_to_add),
        ("stage", &stage),
        ("local_rate_limit_per_downstream_connection", &local_rate_limit_per_downstream_connection),
        ("local_cluster_rate_limit", &local_cluster_rate_limit),
        ("always_consume_default_token_bucket", &not_always),
    ])?;
    // Envoy: without a word, nobody is limited.
    let share = |field: &str, fraction: Option<_>| match fraction {
        None => Ok(Fraction::NONE),
        Some(fraction) => runtime_fraction_from_xds(Some(fraction)).within(field),
    };
    let shares = [share("filter_enabled", filter_enabled)?, share("filter_enforced", filter_enforced)?];
    if shares.contains(&Fraction::NONE) {
        return Ok(Vec::new());
    }
    if shares != [Fraction::ALL; 2] {
        return Err(Problem::new("filter_enabled", "a limit holds for all requests or for none"));
    }
    let whole = token_bucket.map(bucket_from_xds).transpose().within("token_bucket")?;
    let mut limits: Vec<RateLimit> = whole
        .into_iter()
        .map(|bucket| RateLimit { name: stat_prefix.clone(), bucket, path: None, headers: Vec::new(), by: None })
        .collect();
    let sources = each("rate_limits", rate_limits, source_from_xds)?;
    for (index, descriptor) in descriptors.into_iter().enumerate() {
        let name = format!("{stat_prefix}[{index}]");
        limits.push(limit_from_xds(descriptor, &sources, name).within_item("descriptors", index)?);
    }
    Ok(limits)
}

/// Where an entry of a request comes from.
enum Source {
    /// Always this key and value.
    Fixed(String, String),
    /// This key and value, where the conditions hold.
    When(String, String, Vec<HeaderMatch>),
    /// This key, and a header's value.
    Header(String, HeaderName),
}

fn source_from_xds(limit: pb::route::RateLimit) -> Result<Vec<Source>> {
    let pb::route::RateLimit {
        stage,
        disable_key,
        actions,
        limit,
        hits_addend,
        apply_on_stream_done,
        x_ratelimit_option,
    } = limit;
    let other_headers = x_ratelimit_option != i32::from(XRateLimitOption::Unspecified);
    unsupported(&[
        ("stage", &stage),
        ("disable_key", &disable_key),
        ("limit", &limit),
        ("hits_addend", &hits_addend),
        ("apply_on_stream_done", &apply_on_stream_done),
        ("x_ratelimit_option", &other_headers),
    ])?;
    each("actions", actions, action_from_xds)
}

fn action_from_xds(action: Action) -> Result<Source> {
    let or = |key: String, default: &str| if key.is_empty() { default.to_owned() } else { key };
    match required("action_specifier", action.action_specifier)? {
        ActionSpecifier::GenericKey(GenericKey { descriptor_value, default_value, descriptor_key }) => {
            unsupported(&[("generic_key.default_value", &default_value)])?;
            Ok(Source::Fixed(or(descriptor_key, GENERIC_KEY), descriptor_value))
        }
        ActionSpecifier::HeaderValueMatch(HeaderValueMatch {
            descriptor_value,
            default_value,
            descriptor_key,
            expect_match,
            headers,
        }) => {
            unsupported(&[
                ("header_value_match.default_value", &default_value),
                ("header_value_match.expect_match", &is_false(&expect_match)),
            ])?;
            let conditions = each("headers", headers, matcher::header_from_xds).within("header_value_match")?;
            Ok(Source::When(or(descriptor_key, HEADER_MATCH), descriptor_value, conditions))
        }
        ActionSpecifier::RequestHeaders(RequestHeaders { header_name, descriptor_key, skip_if_absent }) => {
            unsupported(&[("request_headers.skip_if_absent", &skip_if_absent)])?;
            let bad = |_| Problem::new("request_headers.header_name", format!("`{header_name}` is not a header name"));
            let name = header_name.parse().map_err(bad)?;
            Ok(Source::Header(nonempty("request_headers.descriptor_key", descriptor_key)?, name))
        }
        _ => Err(Problem::new("", "only generic_key, header_value_match and request_headers are supported")),
    }
}

/// `name` is that of a descriptor without one.
fn limit_from_xds(descriptor: LocalRateLimitDescriptor, sources: &[Vec<Source>], name: String) -> Result<RateLimit> {
    let LocalRateLimitDescriptor { entries, token_bucket, shadow_mode } = descriptor;
    unsupported(&[("shadow_mode", &shadow_mode)])?;
    let bucket = bucket_from_xds(required("token_bucket", token_bucket)?).within("token_bucket")?;
    let mut made = sources.iter().filter_map(|sources| conditions(&entries, sources));
    let Some(Conditions { name: own, headers, by }) = made.next() else {
        return Err(Problem::new("entries", "none of `rate_limits` makes them, so nobody is limited"));
    };
    if made.next().is_some() {
        return Err(Problem::new("entries", "several of `rate_limits` make them; Leno takes one"));
    }
    let mut by = by.into_iter();
    let (first, more) = (by.next(), by.next());
    if more.is_some() {
        return Err(Problem::new("entries", "several entries have no value; Leno tells requests apart by one header"));
    }
    let mut headers = headers;
    let at = headers.iter().position(|condition| path_from_xds(condition).is_some());
    let path = at.map(|at| headers.remove(at)).as_ref().and_then(path_from_xds);
    Ok(RateLimit { name: own.unwrap_or(name), bucket, path, headers, by: first })
}

/// What has to hold for a request to have the entries of a descriptor.
#[derive(Default)]
struct Conditions {
    name: Option<String>,
    headers: Vec<HeaderMatch>,
    by: Vec<HeaderName>,
}

/// `None`: these sources do not make these entries.
fn conditions(entries: &[Entry], sources: &[Source]) -> Option<Conditions> {
    if entries.len() != sources.len() {
        return None;
    }
    let mut made = Conditions::default();
    for (Entry { key, value }, source) in entries.iter().zip(sources) {
        match source {
            Source::Fixed(own, text) if own == key && text == value => {
                if key == NAME {
                    made.name = Some(value.clone());
                }
            }
            Source::When(own, text, conditions) if own == key && text == value => {
                made.headers.extend(conditions.iter().cloned());
            }
            Source::Header(own, name) if own == key && value.is_empty() => made.by.push(name.clone()),
            Source::Header(own, name) if own == key => made.headers.push(HeaderMatch {
                key: HeaderKey::Name(OrderedName(name.clone())),
                value: Some(StringMatch::exact(value)),
                invert: false,
                missing_is_empty: false,
            }),
            Source::Fixed(..) | Source::When(..) | Source::Header(..) => return None,
        }
    }
    Some(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_on_the_path_comes_back_from_the_wire() {
        let regex = |pattern| StringMatch::Regex(Regex::new(pattern).expect(pattern));
        for path in [StringMatch::exact("/a.b/(c)"), StringMatch::prefix("/a"), regex("/a|/b/.*")] {
            let wire = path_to_xds(&path);
            assert_eq!(path_from_xds(&wire), Some(path), "{wire:?}");
        }
    }

    #[test]
    fn a_condition_on_the_path_looks_at_no_query() {
        let regex = |pattern| StringMatch::Regex(Regex::new(pattern).expect(pattern));
        let rows = [
            (StringMatch::exact("/a"), "/a", true),
            (StringMatch::exact("/a"), "/a?b=/c", true),
            (StringMatch::exact("/a"), "/ab", false),
            (regex("/a|/b"), "/b?x", true),
            (regex("/a|/b"), "/ab", false),
            (StringMatch::Suffix { value: "z".into(), ignore_case: false }, "/a?z", false),
            (StringMatch::Contains { value: "Z".into(), ignore_case: true }, "/azb?", true),
        ];
        for (path, target, expected) in rows {
            let wire = path_to_xds(&path).value.expect("a value");
            assert_eq!(wire.is_match(target), expected, "{path:?} {target}");
        }
    }
}
