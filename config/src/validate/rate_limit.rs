//! `RateLimit` by itself.

use std::time::Duration;

use http::HeaderName;

use super::findings::{Findings, spec};
use super::security::check_selector;
use super::values::Zero;
use crate::diagnostic::codes;
use crate::ir::TokenBucket;
use crate::rules::{Limit, LimitMatch, Path, RateLimit};

pub(super) fn check(rule: &RateLimit, found: &mut Findings) {
    let spec = spec();
    if let Some(selector) = &rule.selector {
        check_selector(selector, &spec, found);
    }
    if rule.limits.is_empty() {
        found.add(codes::REQUIRED, &spec, "the rule limits nothing").help("add `limits: [{requests: …, per: …}]`");
    }
    for (index, limit) in rule.limits.iter().enumerate() {
        check_limit(limit, &spec.key("limits").index(index), found);
    }
}

fn check_limit(limit: &Limit, path: &Path, found: &mut Findings) {
    let Limit { requests, per, burst, r#match, by } = limit;
    let most = TokenBucket::MOST;
    match requests {
        None => {
            found.add(codes::REQUIRED, path, "the limit has no number of requests").help("add `requests`");
        }
        Some(1..=TokenBucket::MOST) => {
            let all = requests.unwrap_or_default().saturating_add(burst.unwrap_or_default());
            if all > most {
                let message = format!("{all} requests at once are more than {most}");
                found.add(codes::NUMBER, &path.key("burst"), message).help("`requests` and `burst` count together");
            }
        }
        Some(number) => {
            let message = format!("{number} requests are no limit");
            found.add(codes::NUMBER, &path.key("requests"), message).help(format!("it is 1 to {most}"));
        }
    }
    match per {
        None => {
            found.add(codes::REQUIRED, path, "the limit has no time").help("add `per`, as in `per: 1s`");
        }
        Some(per) => {
            let (shortest, longest) = (TokenBucket::SHORTEST, TokenBucket::LONGEST);
            let in_range = |written: Duration| (shortest..=longest).contains(&written);
            let path = path.key("per");
            found.duration(&path, Some(per), Zero::Refused);
            if per.parse().is_ok_and(|written| written >= Duration::from_millis(1) && !in_range(written)) {
                let help = "the shortest is 50ms, as in Envoy, and the longest 24h";
                found.add(codes::DURATION, &path, format!("`{per}` is out of range")).help(help);
            }
        }
    }
    if let Some(conditions) = r#match {
        check_match(conditions, &path.key("match"), found);
    }
    if let Some(by) = by {
        let path = path.key("by");
        match by.header.as_deref() {
            None => {
                found.add(codes::REQUIRED, &path, "`by` names nothing").help("add `header`");
            }
            Some(name) => check_header(name, &path.key("header"), found),
        }
    }
}

fn check_match(conditions: &LimitMatch, path: &Path, found: &mut Findings) {
    let LimitMatch { path: on_path, method, headers } = conditions;
    if *conditions == LimitMatch::default() {
        let message = "the condition is empty, so the limit is for all requests";
        found.add(codes::NO_EFFECT, path, message).on_key().help("remove it, or add `path`, `method` or `headers`");
    }
    for (field, written) in [("path", on_path), ("method", method)] {
        if let Some(written) = written {
            found.string_match(&path.key(field), written);
        }
    }
    for (name, written) in headers {
        let path = path.key("headers").key(name);
        if name.parse::<HeaderName>().is_err() {
            let help = "for the path or the method, write `path` or `method`";
            found.add(codes::HEADER, &path, format!("`{name}` is not a header name")).on_key().help(help);
        }
        found.string_match(&path, written);
    }
}

fn check_header(name: &str, path: &Path, found: &mut Findings) {
    if name.parse::<HeaderName>().is_err() {
        found.add(codes::HEADER, path, format!("`{name}` is not a header name")).help("as in `x-api-key`");
    }
}
