//! Conditions on claims of a verified token: Envoy's metadata matchers, as Istio writes them.
//!
//! Envoy's `jwt_authn` filter leaves the payload of a token in the metadata of the request, and others look there. Istio
//! (since 1.23) has it under `payload` of the filter's own namespace; so do the providers that [`super::jwt`] writes.

use super::matcher::{string_from_xds, string_to_xds};
use super::pb;
use super::refusal::{Problem, Result, Within, nonempty, required};
use crate::ir::{ClaimMatch, StringMatch};
use pb::matcher::metadata_matcher::{PathSegment, path_segment::Segment};
use pb::matcher::value_matcher::MatchPattern;
use pb::matcher::{ListMatcher, MetadataMatcher, OrMatcher, ValueMatcher, list_matcher};

/// Where the filter leaves what it verified.
const FILTER: &str = "envoy.filters.http.jwt_authn";
/// Under which key.
pub(super) const PAYLOAD: &str = "payload";

/// A text that matches, or a list with one that does: Envoy tells the two apart, Leno does not.
pub(super) fn to_xds(condition: &ClaimMatch) -> MetadataMatcher {
    let ClaimMatch { path, value, invert } = condition;
    let segment = |key: &str| PathSegment { segment: Some(Segment::Key(key.to_owned())) };
    let text = ValueMatcher { match_pattern: Some(MatchPattern::StringMatch(string_to_xds(value))) };
    let part = list_matcher::MatchPattern::OneOf(Box::new(text.clone()));
    let list = ListMatcher { match_pattern: Some(part) };
    let list = ValueMatcher { match_pattern: Some(MatchPattern::ListMatch(Box::new(list))) };
    MetadataMatcher {
        filter: FILTER.to_owned(),
        path: std::iter::once(segment(PAYLOAD)).chain(path.iter().map(|key| segment(key))).collect(),
        value: Some(ValueMatcher {
            match_pattern: Some(MatchPattern::OrMatch(OrMatcher { value_matchers: vec![text, list] })),
        }),
        invert: *invert,
    }
}

pub(super) fn from_xds(matcher: MetadataMatcher) -> Result<ClaimMatch> {
    let MetadataMatcher { filter, path, value, invert } = matcher;
    if filter != FILTER {
        let reason = format!("Leno keeps claims in `{FILTER}` and knows no other metadata, such as `{filter}`");
        return Err(Problem::new("filter", reason));
    }
    let mut keys = Vec::new();
    for (index, PathSegment { segment }) in path.into_iter().enumerate() {
        let Segment::Key(key) = required("key", segment).within_item("path", index)?;
        keys.push(nonempty("key", key).within_item("path", index)?);
    }
    match keys.split_first() {
        Some((first, claim)) if first == PAYLOAD && !claim.is_empty() => {
            let value = value_from_xds(required("value", value)?).within("value")?;
            Ok(ClaimMatch { path: claim.to_vec(), value, invert })
        }
        _ => Err(Problem::new("path", format!("begins with `{PAYLOAD}` and goes on to a claim"))),
    }
}

/// Whichever of text and list is asked for, the same condition holds for both.
fn value_from_xds(matcher: ValueMatcher) -> Result<StringMatch> {
    let ValueMatcher { match_pattern } = matcher;
    match required("match_pattern", match_pattern)? {
        MatchPattern::StringMatch(text) => string_from_xds(text).within("string_match"),
        MatchPattern::ListMatch(list) => {
            let ListMatcher { match_pattern } = *list;
            let list_matcher::MatchPattern::OneOf(part) = required("one_of", match_pattern).within("list_match")?;
            text_from_xds(*part).within("list_match.one_of")
        }
        MatchPattern::OrMatch(OrMatcher { value_matchers }) => {
            let mut values = Vec::new();
            for (index, one) in value_matchers.into_iter().enumerate() {
                values.push(either_from_xds(one).within_item("or_match.value_matchers", index)?);
            }
            let first = values.pop();
            match first {
                Some(value) if values.iter().all(|other| *other == value) => Ok(value),
                Some(_) | None => {
                    let reason = "Leno takes one condition, on a text and on the parts of a list alike";
                    Err(Problem::new("or_match", reason))
                }
            }
        }
        MatchPattern::NullMatch(_) => Err(Problem::unsupported("null_match")),
        MatchPattern::DoubleMatch(_) => Err(Problem::unsupported("double_match")),
        MatchPattern::BoolMatch(_) => Err(Problem::unsupported("bool_match")),
        MatchPattern::PresentMatch(_) => Err(Problem::unsupported("present_match")),
    }
}

fn either_from_xds(matcher: ValueMatcher) -> Result<StringMatch> {
    match matcher.match_pattern {
        Some(MatchPattern::OrMatch(_)) => Err(Problem::unsupported("or_match")),
        _ => value_from_xds(matcher),
    }
}

fn text_from_xds(matcher: ValueMatcher) -> Result<StringMatch> {
    match matcher.match_pattern {
        Some(MatchPattern::StringMatch(text)) => string_from_xds(text).within("string_match"),
        _ => Err(Problem::new("", "Leno compares the parts of a list as texts: write `string_match`")),
    }
}
