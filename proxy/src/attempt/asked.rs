//! What a request asks for itself: Envoy's headers for timeouts and retries.
//!
//! They are honoured where the own app calls (an outbound listener) and where a rule of the route writes them, and they
//! never leave: the next proxy would obey them once more. From outside, which is everyone who calls the own app, they are
//! taken away unread: a stranger must not say how often the app is called. Envoy decides what is outside by
//! `x-forwarded-for`, which anyone can write.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

use super::conditions::Conditions;

/// What a request asks for itself.
#[derive(Debug, Default)]
pub struct Asked {
    /// Instead of the route's timeout; zero: none.
    pub timeout: Option<Duration>,
    /// Instead of the policy's time for one attempt; zero: none.
    pub per_try: Option<Duration>,
    /// Besides the route's policy. Rare, so on the heap.
    pub retries: Option<Box<AskedRetries>>,
}

/// Retries that a request asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct AskedRetries {
    /// When, besides the policy's conditions.
    pub on: Conditions,
    /// How often, instead of the policy's number.
    pub attempts: Option<u32>,
    /// For `retriable-status-codes`, besides the policy's.
    pub status_codes: Vec<u16>,
    /// For `retriable-headers`: answers that have one of these.
    pub headers: Vec<HeaderName>,
}

const TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const PER_TRY: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
const MAX_RETRIES: HeaderName = HeaderName::from_static("x-envoy-max-retries");
const RETRY_ON: HeaderName = HeaderName::from_static("x-envoy-retry-on");
const RETRY_GRPC_ON: HeaderName = HeaderName::from_static("x-envoy-retry-grpc-on");
const STATUS_CODES: HeaderName = HeaderName::from_static("x-envoy-retriable-status-codes");
const HEADER_NAMES: HeaderName = HeaderName::from_static("x-envoy-retriable-header-names");
/// What Envoy understands besides and Leno does not do: taken away, for it means this proxy.
const OTHERS: [HeaderName; 5] = [
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response"),
    HeaderName::from_static("x-envoy-upstream-alt-stat-name"),
    // What only proxies say.
    HeaderName::from_static("x-envoy-internal"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
];

/// Takes what the own app asks for.
pub fn take(headers: &mut HeaderMap) -> Asked {
    if !is_there(headers) {
        return Asked::default();
    }
    let timeout = text(headers, TIMEOUT).and_then(millis);
    let per_try = text(headers, PER_TRY).and_then(millis);
    OTHERS.into_iter().for_each(|name| drop(headers.remove(name)));
    Asked { timeout, per_try, retries: take_retries(headers) }
}

/// Takes the retries that a rule of the route asks for. Times it cannot: they are settled before it speaks (Envoy).
pub fn take_retries(headers: &mut HeaderMap) -> Option<Box<AskedRetries>> {
    if !is_there(headers) {
        return None;
    }
    let on = [text(headers, RETRY_ON), text(headers, RETRY_GRPC_ON)].into_iter().flatten();
    let retries = AskedRetries {
        on: on.fold(Conditions::default(), |all, words| all.or(Conditions::parse(&words))),
        attempts: text(headers, MAX_RETRIES).and_then(|text| text.trim().parse().ok()),
        status_codes: listed(text(headers, STATUS_CODES)),
        headers: listed(text(headers, HEADER_NAMES)),
    };
    (retries != AskedRetries::default()).then(|| Box::new(retries))
}

/// Takes away what somebody outside asks for: nothing is what is left.
pub fn strip(headers: &mut HeaderMap) -> Asked {
    drop(take(headers));
    Asked::default()
}

/// Whether a look is worth while: most requests have none of these headers, and a walk over the names that compares a
/// few bytes costs less than a dozen look-ups. The letter after the prefix leaves out what proxies tell each other with
/// every request (`attempt-count`, `original-path`, `peer-…`, `decorator-…`).
fn is_there(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let rest = name.as_str().as_bytes().strip_prefix(b"x-envoy-");
        rest.is_some_and(|rest| matches!(rest.first(), Some(b'u' | b'm' | b'r' | b'h' | b'e' | b'i')))
    })
}

fn text(headers: &mut HeaderMap, name: HeaderName) -> Option<String> {
    headers.remove(name).and_then(|value| value.to_str().ok().map(str::to_owned))
}

/// Envoy: whole milliseconds; anything else is as if it were not there.
fn millis(text: String) -> Option<Duration> {
    text.trim().parse().ok().map(Duration::from_millis)
}

fn listed<T: std::str::FromStr>(text: Option<String>) -> Vec<T> {
    text.iter().flat_map(|text| text.split(',')).filter_map(|one| one.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use leno_config::ir::RetryOn;

    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_an_app_asks_for_is_read_and_taken_away() {
        let mut headers = map(&[
            ("x-envoy-upstream-rq-timeout-ms", "1500"),
            ("x-envoy-upstream-rq-per-try-timeout-ms", " 20 "),
            ("x-envoy-max-retries", "7"),
            ("x-envoy-retry-on", "5xx, nonsense,retriable-status-codes"),
            ("x-envoy-retry-grpc-on", "unavailable"),
            ("x-envoy-retriable-status-codes", "418,x,429"),
            ("x-envoy-retriable-header-names", "X-Again"),
            ("x-envoy-hedge-on-per-try-timeout", "true"),
            ("x-envoy-original-path", "/"),
            ("x-own", "kept"),
        ]);
        let asked = take(&mut headers);
        assert_eq!(asked.timeout, Some(Duration::from_millis(1500)));
        assert_eq!(asked.per_try, Some(Duration::from_millis(20)));
        let on = [RetryOn::ServerError, RetryOn::RetriableStatusCodes, RetryOn::Unavailable];
        let headers_named = vec![HeaderName::from_static("x-again")];
        let retries = AskedRetries {
            on: on.into_iter().collect(),
            attempts: Some(7),
            status_codes: vec![418, 429],
            headers: headers_named,
        };
        assert_eq!(asked.retries.as_deref(), Some(&retries));
        assert_eq!(headers, map(&[("x-envoy-original-path", "/"), ("x-own", "kept")]));
    }

    #[test]
    fn what_cannot_be_read_is_as_if_it_were_not_there_and_still_goes() {
        for (name, value) in [
            ("x-envoy-upstream-rq-timeout-ms", "1s"),
            ("x-envoy-upstream-rq-timeout-ms", "-1"),
            ("x-envoy-max-retries", "99999999999"),
            ("x-envoy-retry-on", "sunshine"),
        ] {
            let mut headers = map(&[(name, value)]);
            let asked = take(&mut headers);
            assert!(asked.timeout.is_none() && asked.retries.is_none(), "{name}: {value}: {asked:?}");
            assert!(headers.is_empty(), "{name}");
        }
    }

    #[test]
    fn somebody_outside_asks_in_vain() {
        let mut headers = map(&[
            ("x-envoy-retry-on", "5xx"),
            ("x-envoy-expected-rq-timeout-ms", "1"),
            ("x-envoy-internal", "true"),
            ("x-envoy-attempt-count", "2"),
        ]);
        strip(&mut headers);
        assert_eq!(headers, map(&[("x-envoy-attempt-count", "2")]));
    }
}
