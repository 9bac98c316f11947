//! What one request may have: the route's policy, and what the request asks for besides.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use leno_config::ir::{AttemptCount, RetryOn, RetryPolicy};

use crate::random::Random;
use crate::route::{RequestView, header_holds};

use super::asked::{Asked, AskedRetries};
use super::backoff;
use super::conditions::{Conditions, Failure};
use super::deadline::TimeLimits;

/// Retries of a route that has no policy and a request that asks for them (Envoy).
const ASKED_WITHOUT_POLICY: u32 = 1;

/// When a request is sent again, and how often.
#[derive(Debug, Default)]
pub struct RetryPlan<'a> {
    policy: Option<&'a RetryPolicy>,
    asked: Option<Box<AskedRetries>>,
    on: Conditions,
    /// Besides the first attempt.
    pub attempts: u32,
    /// How long they may take.
    pub limits: TimeLimits,
    /// Who is told which attempt it is.
    pub counted: AttemptCount,
    /// Whether the request speaks gRPC.
    pub grpc: bool,
}

impl<'a> RetryPlan<'a> {
    /// The plan for a request as it is about to leave, `request`. It counts for nobody and has all the time in the world.
    pub fn new<'r>(policy: Option<&'a RetryPolicy>, asked: Asked, request: impl FnOnce() -> RequestView<'r>) -> Self {
        let asked = asked.retries;
        let mut on: Conditions = policy.into_iter().flat_map(|policy| policy.on.iter().copied()).collect();
        let mut attempts = policy.map_or(ASKED_WITHOUT_POLICY, |policy| policy.attempts);
        if let Some(asked) = &asked {
            on = on.or(asked.on);
            attempts = asked.attempts.unwrap_or(attempts);
        }
        let only = policy.map(|policy| policy.request_headers.as_slice()).unwrap_or_default();
        if !only.is_empty() {
            let request = request();
            if !only.iter().any(|condition| header_holds(condition, &request)) {
                on = on.and(Conditions::NOT_PROCESSED);
            }
        }
        Self { policy, asked, on, attempts, ..Self::default() }
    }

    /// Whether an attempt that reached the endpoint could be repeated. Only then is it worth keeping the request: by
    /// Istio's default policy it is not, unless it speaks gRPC. A request without a body is cheap to keep, so that one
    /// that does not say it speaks gRPC may still be answered in it.
    pub fn can_follow_processing(&self, has_body: bool) -> bool {
        let listed = self.policy.is_some_and(|policy| !policy.status_codes.is_empty());
        let asked = self.asked.as_ref().is_some_and(|asked| !asked.status_codes.is_empty());
        self.attempts > 0 && self.on.can_follow_processing(listed || asked, self.grpc || !has_body)
    }

    /// Whether what the peer did not look at is one of the policy's reasons.
    pub fn retries_refused_streams(&self) -> bool {
        self.on.has(RetryOn::RefusedStream)
    }

    /// Whether a failed attempt is repeated, and why.
    pub fn on_failure(&self, failure: Failure) -> Option<RetryOn> {
        self.on.on_failure(failure)
    }

    /// Whether an answer is not taken, and why.
    pub fn on_answer(&self, status: StatusCode, headers: &HeaderMap) -> Option<RetryOn> {
        let asked = self.asked.as_deref();
        let is_listed = |code| {
            self.policy.is_some_and(|policy| policy.status_codes.contains(&code))
                || asked.is_some_and(|asked| asked.status_codes.contains(&code))
        };
        let has_listed_header = |headers: &HeaderMap| {
            let answer = as_view(headers);
            let listed = self.policy.map(|policy| policy.answer_headers.as_slice()).unwrap_or_default();
            listed.iter().any(|condition| header_holds(condition, &answer))
                || asked.is_some_and(|asked| asked.headers.iter().any(|name| headers.contains_key(name)))
        };
        self.on.on_answer(status, headers, is_listed, has_listed_header)
    }

    /// The wait before retry `number`, from 1; `answer` is what was not taken, with the time in seconds since 1970.
    pub fn backoff(&self, number: u32, answer: Option<(&HeaderMap, u64)>, random: &Random) -> Duration {
        use leno_config::defaults::{RETRY_BACKOFF_BASE, RETRY_BACKOFF_FACTOR};
        match self.policy {
            Some(policy) => backoff::before(policy, number, answer, random),
            None => backoff::full_jitter(RETRY_BACKOFF_BASE, RETRY_BACKOFF_BASE * RETRY_BACKOFF_FACTOR, number, random),
        }
    }

    /// Whether an endpoint that was tried is left aside as long as there are others.
    pub fn avoids_previous_hosts(&self) -> bool {
        self.policy.is_some_and(|policy| policy.avoid_previous_hosts)
    }

    /// Whether localities that were tried are left aside after some attempts.
    pub fn other_localities(&self) -> bool {
        self.policy.is_some_and(|policy| policy.other_localities)
    }
}

/// An answer, for conditions that look at requests.
fn as_view(headers: &HeaderMap) -> RequestView<'_> {
    RequestView { method: &Method::GET, scheme: "", authority: "", path: "", query: None, headers, claims: None }
}

/// Whether a request may be repeated even if it had an effect (RFC 9110 §9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}
