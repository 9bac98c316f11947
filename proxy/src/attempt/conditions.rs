//! Whether what became of an attempt is a reason for another one: Envoy's conditions, as a table and nothing else.
//!
//! | what happened | tried again under |
//! |---|---|
//! | no connection | `connect-failure`, `reset-before-request`, `reset`, `gateway-error`, `5xx` |
//! | the peer did not look at it | `refused-stream`, `reset`, `gateway-error`, `5xx` |
//! | closed, reset or nonsense before an answer, or no answer in the attempt's time | `reset`, `gateway-error`, `5xx` |
//! | an answer with `x-envoy-ratelimited` | `envoy-ratelimited` alone |
//! | any other answer | `5xx`, `gateway-error` (502, 503, 504), `retriable-4xx` (409), `retriable-status-codes`, `retriable-headers`, and by `grpc-status` among its headers `cancelled`, `deadline-exceeded`, `internal`, `resource-exhausted`, `unavailable` |
//!
//! A `grpc-status` that comes after messages is in trailers, when the answer has long been passed on: no reason.

use http::{HeaderMap, HeaderName, StatusCode};
use leno_config::ir::RetryOn;

use crate::headers::name;

/// A set of [`RetryOn`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conditions(u32);

/// What became of an attempt that brought no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection, so that not a byte was sent.
    NotConnected,
    /// The connection ended before a byte was sent.
    NotSent,
    /// The peer says that it did not look at the request.
    Refused,
    /// The connection ended before the head of an answer.
    Closed,
    /// The stream was reset before the head of an answer, or what came was nonsense.
    Broken,
    /// The time for one attempt was over.
    TimedOut,
}

impl Conditions {
    /// Those of gRPC, which look at `grpc-status`.
    pub const GRPC: Self = Self::of(&[
        RetryOn::Cancelled,
        RetryOn::DeadlineExceeded,
        RetryOn::Internal,
        RetryOn::ResourceExhausted,
        RetryOn::Unavailable,
    ]);
    /// Those under which an attempt is repeated of which the endpoint has seen nothing.
    pub const NOT_PROCESSED: Self =
        Self::of(&[RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::ResetBeforeRequest]);
    /// Those that need no further condition to be met by something that the endpoint has seen.
    const PROCESSED: Self = Self::of(&[
        RetryOn::ServerError,
        RetryOn::GatewayError,
        RetryOn::Reset,
        RetryOn::EnvoyRatelimited,
        RetryOn::Retriable4xx,
        RetryOn::RetriableHeaders,
    ]);

    /// These.
    #[expect(clippy::indexing_slicing, reason = "below the length; a const fn has no iterators")]
    pub const fn of(several: &[RetryOn]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < several.len() {
            bits |= 1 << several[at] as u32;
            at += 1;
        }
        Self(bits)
    }

    /// Envoy's words, separated by commas; those it does not know are left aside (`x-envoy-retry-on`).
    pub fn parse(words: &str) -> Self {
        words.split(',').filter_map(|word| RetryOn::parse(word.trim()).ok()).collect()
    }

    /// Whether this is one of them.
    pub fn has(self, on: RetryOn) -> bool {
        self.0 & 1 << on as u32 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// All of both.
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those of both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether an attempt that the endpoint may have seen could be repeated; `codes`: whether any status is listed, `grpc`:
    /// whether a `grpc-status` is to be expected.
    pub fn can_follow_processing(self, codes: bool, grpc: bool) -> bool {
        !self.and(Self::PROCESSED).is_empty()
            || codes && self.has(RetryOn::RetriableStatusCodes)
            || grpc && !self.and(Self::GRPC).is_empty()
    }

    /// The condition that a failed attempt fulfils.
    pub fn on_failure(self, failure: Failure) -> Option<RetryOn> {
        let own = match failure {
            Failure::NotConnected => [Some(RetryOn::ConnectFailure), Some(RetryOn::ResetBeforeRequest)],
            Failure::NotSent => [Some(RetryOn::ResetBeforeRequest), None],
            Failure::Refused => [Some(RetryOn::RefusedStream), None],
            Failure::Closed | Failure::Broken | Failure::TimedOut => [None, None],
        };
        let general = [RetryOn::Reset, RetryOn::ServerError, RetryOn::GatewayError];
        own.into_iter().flatten().chain(general).find(|on| self.has(*on))
    }

    /// The condition that an answer fulfils; `is_listed` and `has_listed_header` say whether its status and one of its
    /// headers are among those that the policy lists.
    pub fn on_answer(
        self,
        status: StatusCode,
        headers: &HeaderMap,
        is_listed: impl FnOnce(u16) -> bool,
        has_listed_header: impl FnOnce(&HeaderMap) -> bool,
    ) -> Option<RetryOn> {
        if self.is_empty() {
            return None;
        }
        let code = status.as_u16();
        let by_status = match code {
            500..=599 if self.has(RetryOn::ServerError) => Some(RetryOn::ServerError),
            502..=504 if self.has(RetryOn::GatewayError) => Some(RetryOn::GatewayError),
            409 if self.has(RetryOn::Retriable4xx) => Some(RetryOn::Retriable4xx),
            _ => None,
        };
        let listed = || self.has(RetryOn::RetriableStatusCodes) && is_listed(code);
        let header = || self.has(RetryOn::RetriableHeaders) && has_listed_header(headers);
        let reason = by_status
            .or_else(|| listed().then_some(RetryOn::RetriableStatusCodes))
            .or_else(|| header().then_some(RetryOn::RetriableHeaders))
            .or_else(|| self.on_grpc_status(headers));
        let limited = self.has(RetryOn::EnvoyRatelimited);
        if (reason.is_some() || limited) && headers.contains_key(RATE_LIMITED) {
            return limited.then_some(RetryOn::EnvoyRatelimited);
        }
        reason
    }

    fn on_grpc_status(self, headers: &HeaderMap) -> Option<RetryOn> {
        if self.and(Self::GRPC).is_empty() {
            return None;
        }
        let on = match headers.get(name::GRPC_STATUS)?.as_bytes() {
            b"1" => RetryOn::Cancelled,
            b"4" => RetryOn::DeadlineExceeded,
            b"8" => RetryOn::ResourceExhausted,
            b"13" => RetryOn::Internal,
            b"14" => RetryOn::Unavailable,
            _ => return None,
        };
        self.has(on).then_some(on)
    }
}

/// An Envoy before the endpoint has refused the request because of a rate limit.
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

impl FromIterator<RetryOn> for Conditions {
    fn from_iter<I: IntoIterator<Item = RetryOn>>(several: I) -> Self {
        several.into_iter().fold(Self::default(), |all, on| all.or(Self::of(&[on])))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn on_answer(words: &str, status: u16, fields: &[(&'static str, &'static str)]) -> Option<&'static str> {
        let headers = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let status = StatusCode::from_u16(status).unwrap();
        let listed = |code| code == 418;
        let header = |headers: &HeaderMap| headers.contains_key("x-again");
        Conditions::parse(words).on_answer(status, &headers, listed, header).map(RetryOn::as_str)
    }

    #[test]
    fn an_answer_is_a_reason_under_these_conditions_and_no_other() {
        const DEFAULT: &str = leno_config::defaults::RETRY_ON;
        type Row = (&'static str, u16, &'static [(&'static str, &'static str)], Option<&'static str>);
        let rows: &[Row] = &[
            ("5xx", 500, &[], Some("5xx")),
            ("5xx", 599, &[], Some("5xx")),
            ("5xx", 499, &[], None),
            ("5xx", 200, &[("grpc-status", "14")], None),
            ("gateway-error", 501, &[], None),
            ("gateway-error", 502, &[], Some("gateway-error")),
            ("gateway-error", 504, &[], Some("gateway-error")),
            ("gateway-error", 505, &[], None),
            ("retriable-4xx", 409, &[], Some("retriable-4xx")),
            ("retriable-4xx", 404, &[], None),
            ("retriable-status-codes", 418, &[], Some("retriable-status-codes")),
            ("retriable-status-codes", 503, &[], None),
            ("5xx", 418, &[], None),
            ("retriable-headers", 200, &[("x-again", "1")], Some("retriable-headers")),
            ("retriable-headers", 200, &[], None),
            ("reset,connect-failure,refused-stream,reset-before-request", 503, &[], None),
            ("cancelled", 200, &[("grpc-status", "1")], Some("cancelled")),
            ("deadline-exceeded", 200, &[("grpc-status", "4")], Some("deadline-exceeded")),
            ("resource-exhausted", 200, &[("grpc-status", "8")], Some("resource-exhausted")),
            ("internal", 200, &[("grpc-status", "13")], Some("internal")),
            ("unavailable", 200, &[("grpc-status", "14")], Some("unavailable")),
            ("unavailable", 200, &[("grpc-status", "13")], None),
            ("unavailable", 200, &[("grpc-status", "0")], None),
            ("unavailable", 200, &[("grpc-status", "nonsense")], None),
            (DEFAULT, 503, &[], None),
            (DEFAULT, 200, &[("grpc-status", "14")], Some("unavailable")),
            ("5xx", 503, &[("x-envoy-ratelimited", "true")], None),
            ("5xx,envoy-ratelimited", 503, &[("x-envoy-ratelimited", "true")], Some("envoy-ratelimited")),
            ("envoy-ratelimited", 429, &[("x-envoy-ratelimited", "true")], Some("envoy-ratelimited")),
            ("envoy-ratelimited", 429, &[], None),
            ("5xx", 503, &[("x-envoy-overloaded", "true")], Some("5xx")),
            ("", 503, &[], None),
        ];
        for (words, status, fields, expected) in rows {
            assert_eq!(on_answer(words, *status, fields), *expected, "{words} after {status} {fields:?}");
        }
    }

    #[test]
    fn a_failure_is_a_reason_under_these_conditions_and_no_other() {
        let all = [
            Failure::NotConnected,
            Failure::NotSent,
            Failure::Refused,
            Failure::Closed,
            Failure::Broken,
            Failure::TimedOut,
        ];
        let rows: [(&str, &[Failure]); 8] = [
            ("5xx", &all),
            ("gateway-error", &all),
            ("reset", &all),
            ("reset-before-request", &[Failure::NotConnected, Failure::NotSent]),
            ("connect-failure", &[Failure::NotConnected]),
            ("refused-stream", &[Failure::Refused]),
            ("retriable-4xx,retriable-status-codes,retriable-headers,unavailable,envoy-ratelimited", &[]),
            ("", &[]),
        ];
        for (words, expected) in rows {
            let conditions = Conditions::parse(words);
            for failure in all {
                let reason = conditions.on_failure(failure);
                assert_eq!(reason.is_some(), expected.contains(&failure), "{words} after {failure:?}: {reason:?}");
            }
        }
    }

    #[test]
    fn only_conditions_that_an_answer_or_a_reset_can_fulfil_are_worth_a_copy() {
        let rows = [
            ("connect-failure,refused-stream,reset-before-request", true, true, false),
            ("5xx", false, false, true),
            ("reset", false, false, true),
            ("retriable-status-codes", false, false, false),
            ("retriable-status-codes", true, false, true),
            ("unavailable", false, false, false),
            ("unavailable", false, true, true),
        ];
        for (words, codes, grpc, expected) in rows {
            assert_eq!(Conditions::parse(words).can_follow_processing(codes, grpc), expected, "{words}");
        }
    }
}
