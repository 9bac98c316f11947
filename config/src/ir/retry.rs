//! When a request is tried again.

use std::collections::BTreeSet;
use std::time::Duration;

use http::HeaderName;
use serde::{Serialize, Serializer};

use super::{HeaderMatch, Invalid};

/// Envoy's retry policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetryPolicy {
    /// When; never empty.
    pub on: BTreeSet<RetryOn>,
    /// Besides the original attempt.
    pub attempts: u32,
    /// For one attempt; `None`: as the request's.
    pub per_try_timeout: Option<Duration>,
    /// Statuses for [`RetryOn::RetriableStatusCodes`].
    pub status_codes: BTreeSet<u16>,
    /// For [`RetryOn::RetriableHeaders`]: an answer that fulfils one of these.
    pub answer_headers: Vec<HeaderMatch>,
    /// Only requests that fulfil one of these, where there are any. What was provably not sent is sent again in any case.
    pub request_headers: Vec<HeaderMatch>,
    /// First back-off interval; full jitter.
    pub backoff_base: Duration,
    /// Largest back-off interval.
    pub backoff_max: Duration,
    /// Where an answer itself says when to come back.
    pub rate_limited: Option<RateLimitedBackoff>,
    /// Never at an endpoint that was tried already (`previous_hosts`).
    pub avoid_previous_hosts: bool,
    /// How often another endpoint is looked for.
    pub host_selection_attempts: u32,
    /// Also in other localities (`previous_priorities`).
    pub other_localities: bool,
}

/// Back-off as the answer asks for it (Envoy's `rate_limited_retry_back_off`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RateLimitedBackoff {
    /// Headers that say it; the first that is there and can be read counts. Not empty.
    pub headers: Vec<ResetHeader>,
    /// An answer that asks for more is not waited for: the usual back-off holds.
    pub max: Duration,
}

/// A header that says when to come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResetHeader {
    /// Such as `retry-after`.
    #[serde(serialize_with = "name_as_text")]
    pub name: HeaderName,
    /// What its number means.
    pub format: ResetFormat,
}

/// What the number in a [`ResetHeader`] means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetFormat {
    /// Seconds from now.
    Seconds,
    /// Seconds since 1970.
    UnixTimestamp,
}

fn name_as_text<S: Serializer>(name: &HeaderName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}

/// A reason to try again; Envoy's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // Envoy documents each under its name (`x-envoy-retry-on`, `x-envoy-retry-grpc-on`).
pub enum RetryOn {
    #[serde(rename = "5xx")]
    ServerError,
    GatewayError,
    Reset,
    ResetBeforeRequest,
    ConnectFailure,
    EnvoyRatelimited,
    #[serde(rename = "retriable-4xx")]
    Retriable4xx,
    RefusedStream,
    RetriableStatusCodes,
    RetriableHeaders,
    #[serde(rename = "http3-post-connect-failure")]
    Http3PostConnectFailure,
    Cancelled,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    Unavailable,
}

impl RetryOn {
    const WORDS: [(&str, Self); 16] = [
        ("5xx", Self::ServerError),
        ("gateway-error", Self::GatewayError),
        ("reset", Self::Reset),
        ("reset-before-request", Self::ResetBeforeRequest),
        ("connect-failure", Self::ConnectFailure),
        ("envoy-ratelimited", Self::EnvoyRatelimited),
        ("retriable-4xx", Self::Retriable4xx),
        ("refused-stream", Self::RefusedStream),
        ("retriable-status-codes", Self::RetriableStatusCodes),
        ("retriable-headers", Self::RetriableHeaders),
        ("http3-post-connect-failure", Self::Http3PostConnectFailure),
        ("cancelled", Self::Cancelled),
        ("deadline-exceeded", Self::DeadlineExceeded),
        ("internal", Self::Internal),
        ("resource-exhausted", Self::ResourceExhausted),
        ("unavailable", Self::Unavailable),
    ];

    /// From Envoy's word.
    pub fn parse(word: &str) -> Result<Self, Invalid> {
        Self::WORDS
            .iter()
            .find(|(text, _)| *text == word)
            .map(|(_, on)| *on)
            .ok_or_else(|| Invalid(format!("`{word}` is not a retry condition of Envoy")))
    }

    /// Envoy's word.
    pub fn as_str(self) -> &'static str {
        Self::WORDS.iter().find(|(_, on)| *on == self).map_or("", |(text, _)| text)
    }

    /// All of Envoy's words, for did-you-mean.
    pub fn words() -> impl Iterator<Item = &'static str> {
        Self::WORDS.iter().map(|(word, _)| *word)
    }
}
