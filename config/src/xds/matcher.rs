//! Conditions on text, paths, headers and the query.

use super::claim;
use super::pb;
use super::refusal::{Problem, Result, Within, each, is_false, nonempty, required, unsupported};
use super::scalar::{runtime_fraction_from_xds, wrap_bool};
use crate::ir::{Fraction, HeaderKey, HeaderMatch, PathMatch, QueryMatch, Regex, RouteMatch, StringMatch};
use pb::matcher::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use pb::route::header_matcher::HeaderMatchSpecifier;
use pb::route::query_parameter_matcher::QueryParameterMatchSpecifier;
use pb::route::route_match::PathSpecifier;

/// A whole route match.
pub(super) fn route_to_xds(matcher: &RouteMatch) -> pb::route::RouteMatch {
    let RouteMatch { path, headers, query, claims } = matcher;
    let (path, case_sensitive) = path_to_xds(path);
    pb::route::RouteMatch {
        path_specifier: Some(path),
        case_sensitive: wrap_bool(case_sensitive),
        headers: headers.iter().map(header_to_xds).collect(),
        query_parameters: query.iter().map(query_to_xds).collect(),
        dynamic_metadata: claims.iter().map(claim::to_xds).collect(),
        ..Default::default()
    }
}

pub(super) fn route_from_xds(matcher: pb::route::RouteMatch) -> Result<RouteMatch> {
    let pb::route::RouteMatch {
        case_sensitive,
        runtime_fraction,
        headers,
        query_parameters,
        cookies,
        grpc,
        tls_context,
        dynamic_metadata,
        filter_state,
        path_specifier,
    } = matcher;
    unsupported(&[
        ("cookies", &cookies),
        ("grpc", &grpc),
        ("tls_context", &tls_context),
        ("filter_state", &filter_state),
    ])?;
    let share = runtime_fraction_from_xds(runtime_fraction).within("runtime_fraction")?;
    if share != Fraction::ALL {
        return Err(Problem::new("runtime_fraction", "Leno splits by weights; a match takes all or nothing"));
    }
    Ok(RouteMatch {
        path: path_from_xds(path_specifier, &case_sensitive)?,
        headers: each("headers", headers, header_from_xds)?,
        query: each("query_parameters", query_parameters, query_from_xds)?,
        claims: each("dynamic_metadata", dynamic_metadata, claim::from_xds)?,
    })
}

pub(super) fn string_to_xds(condition: &StringMatch) -> StringMatcher {
    let (pattern, ignore_case) = match condition {
        StringMatch::Exact { value, ignore_case } => (MatchPattern::Exact(value.clone()), *ignore_case),
        StringMatch::Prefix { value, ignore_case } => (MatchPattern::Prefix(value.clone()), *ignore_case),
        StringMatch::Suffix { value, ignore_case } => (MatchPattern::Suffix(value.clone()), *ignore_case),
        StringMatch::Contains { value, ignore_case } => (MatchPattern::Contains(value.clone()), *ignore_case),
        StringMatch::Regex(regex) => (MatchPattern::SafeRegex(regex_to_xds(regex.pattern())), false),
    };
    StringMatcher { ignore_case, match_pattern: Some(pattern) }
}

pub(super) fn string_from_xds(matcher: StringMatcher) -> Result<StringMatch> {
    let StringMatcher { ignore_case, match_pattern } = matcher;
    Ok(match required("match_pattern", match_pattern)? {
        MatchPattern::Exact(value) => StringMatch::Exact { value, ignore_case },
        MatchPattern::Prefix(value) => StringMatch::Prefix { value, ignore_case },
        MatchPattern::Suffix(value) => StringMatch::Suffix { value, ignore_case },
        MatchPattern::Contains(value) => StringMatch::Contains { value, ignore_case },
        // Envoy: `ignore_case` has no effect on an expression.
        MatchPattern::SafeRegex(regex) => StringMatch::Regex(regex_from_xds(regex).within("safe_regex")?),
        MatchPattern::Custom(_) => return Err(Problem::unsupported("custom")),
    })
}

pub(super) fn regex_to_xds(pattern: &str) -> RegexMatcher {
    RegexMatcher { regex: pattern.to_owned(), engine_type: None }
}

pub(super) fn regex_from_xds(matcher: RegexMatcher) -> Result<Regex> {
    Regex::new(&pattern_from_xds(matcher)).within("regex")
}

/// The text of an expression. There is one engine, and its limit is our own.
pub(super) fn pattern_from_xds(matcher: RegexMatcher) -> String {
    let RegexMatcher { regex, engine_type: _ } = matcher;
    regex
}

/// The path's part of a route match, and whether letters compare with their case.
pub(super) fn path_to_xds(path: &PathMatch) -> (PathSpecifier, bool) {
    match path {
        PathMatch::Exact { value, ignore_case } => (PathSpecifier::Path(value.clone()), !ignore_case),
        PathMatch::Prefix { value, ignore_case } => (PathSpecifier::Prefix(value.clone()), !ignore_case),
        PathMatch::SegmentPrefix { value, ignore_case } => {
            (PathSpecifier::PathSeparatedPrefix(value.clone()), !ignore_case)
        }
        PathMatch::Regex(regex) => (PathSpecifier::SafeRegex(regex_to_xds(regex.pattern())), true),
    }
}

pub(super) fn path_from_xds(
    specifier: Option<PathSpecifier>,
    case_sensitive: &Option<pb::protobuf::BoolValue>,
) -> Result<PathMatch> {
    let ignore_case = is_false(case_sensitive);
    Ok(match required("path_specifier", specifier)? {
        PathSpecifier::Prefix(value) => PathMatch::Prefix { value, ignore_case },
        PathSpecifier::Path(value) => PathMatch::Exact { value, ignore_case },
        PathSpecifier::SafeRegex(regex) => PathMatch::Regex(regex_from_xds(regex).within("safe_regex")?),
        PathSpecifier::PathSeparatedPrefix(value) => {
            if value.ends_with('/') || value.contains(['?', '#']) || value.is_empty() {
                return Err(Problem::new(
                    "path_separated_prefix",
                    format!("`{value}` is empty, ends with a slash or holds a `?` or `#`, as Envoy does not allow"),
                ));
            }
            PathMatch::SegmentPrefix { value, ignore_case }
        }
        PathSpecifier::ConnectMatcher(_) => return Err(Problem::unsupported("connect_matcher")),
        PathSpecifier::PathMatchPolicy(_) => return Err(Problem::unsupported("path_match_policy")),
    })
}

pub(super) fn header_to_xds(condition: &HeaderMatch) -> pb::route::HeaderMatcher {
    let HeaderMatch { key, value, invert, missing_is_empty } = condition;
    pb::route::HeaderMatcher {
        name: key.as_str().to_owned(),
        invert_match: *invert,
        treat_missing_header_as_empty: *missing_is_empty,
        header_match_specifier: Some(match value {
            Some(value) => HeaderMatchSpecifier::StringMatch(string_to_xds(value)),
            None => HeaderMatchSpecifier::PresentMatch(true),
        }),
    }
}

pub(super) fn header_from_xds(matcher: pb::route::HeaderMatcher) -> Result<HeaderMatch> {
    let pb::route::HeaderMatcher { name, invert_match, treat_missing_header_as_empty, header_match_specifier } =
        matcher;
    let mut invert = invert_match;
    let ignore_case = false;
    // The single conditions are Envoy's older form of `string_match`; many control planes still write them.
    #[allow(deprecated)]
    let value = match header_match_specifier {
        None | Some(HeaderMatchSpecifier::PresentMatch(true)) => None,
        Some(HeaderMatchSpecifier::PresentMatch(false)) => {
            invert = !invert;
            None
        }
        Some(HeaderMatchSpecifier::StringMatch(value)) => Some(string_from_xds(value).within("string_match")?),
        Some(HeaderMatchSpecifier::ExactMatch(value)) => Some(StringMatch::Exact { value, ignore_case }),
        Some(HeaderMatchSpecifier::PrefixMatch(value)) => Some(StringMatch::Prefix { value, ignore_case }),
        Some(HeaderMatchSpecifier::SuffixMatch(value)) => Some(StringMatch::Suffix { value, ignore_case }),
        Some(HeaderMatchSpecifier::ContainsMatch(value)) => Some(StringMatch::Contains { value, ignore_case }),
        Some(HeaderMatchSpecifier::SafeRegexMatch(regex)) => {
            Some(StringMatch::Regex(regex_from_xds(regex).within("safe_regex_match")?))
        }
        Some(HeaderMatchSpecifier::RangeMatch(_)) => return Err(Problem::unsupported("range_match")),
    };
    let key = HeaderKey::parse(&name).within("name")?;
    Ok(HeaderMatch { key, value, invert, missing_is_empty: treat_missing_header_as_empty })
}

pub(super) fn query_to_xds(condition: &QueryMatch) -> pb::route::QueryParameterMatcher {
    let QueryMatch { name, value } = condition;
    pb::route::QueryParameterMatcher {
        name: name.clone(),
        query_parameter_match_specifier: Some(match value {
            Some(value) => QueryParameterMatchSpecifier::StringMatch(string_to_xds(value)),
            None => QueryParameterMatchSpecifier::PresentMatch(true),
        }),
    }
}

pub(super) fn query_from_xds(matcher: pb::route::QueryParameterMatcher) -> Result<QueryMatch> {
    let pb::route::QueryParameterMatcher { name, query_parameter_match_specifier } = matcher;
    let value = match query_parameter_match_specifier {
        None | Some(QueryParameterMatchSpecifier::PresentMatch(true)) => None,
        Some(QueryParameterMatchSpecifier::PresentMatch(false)) => {
            return Err(Problem::new("present_match", "Leno has no condition that a parameter is absent"));
        }
        Some(QueryParameterMatchSpecifier::StringMatch(value)) => Some(string_from_xds(value).within("string_match")?),
    };
    Ok(QueryMatch { name: nonempty("name", name)?, value })
}
