//! How long a request may take.
//!
//! The request's timeout runs from the end of the request to the end of the answer, over all attempts and the waits
//! between them; the limit for one attempt runs from the moment when that has a connection and the request is complete to
//! the head of its answer (Envoy). A limit for one attempt that is not below the whole says nothing.

use std::pin::{Pin, pin};
use std::time::Duration;

use http::HeaderMap;
use leno_config::ir::{Forward, StreamLimits};
use tokio::time::Sleep;

use super::asked::Asked;
use crate::body::RequestEnd;
use crate::error::ProxyError;
use crate::headers;
use crate::stream_limits::Watch;

/// How long a request may take; `None`: as long as it likes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeLimits {
    /// All of it.
    pub request: Option<Duration>,
    /// One attempt; below the whole.
    pub per_try: Option<Duration>,
}

impl TimeLimits {
    /// The limits of a request: the route's, unless it asks for others. A gRPC caller may ask for less than the route's,
    /// and for any where the route has none (Istio).
    pub fn of(forward: &Forward, asked: &Asked, fields: &HeaderMap, grpc: bool) -> Self {
        let route = match (forward.timeout, grpc.then(|| headers::grpc_timeout(fields)).flatten()) {
            (Some(route), Some(asked)) => Some(route.min(asked)),
            (route, asked) => route.or(asked),
        };
        let policy = forward.retry.as_ref().and_then(|policy| policy.per_try_timeout);
        let positive = |limit: &Duration| !limit.is_zero();
        let request = asked.timeout.or(route).filter(positive);
        let per_try = asked.per_try.or(policy).filter(positive);
        Self { request, per_try: per_try.filter(|limit| request.is_none_or(|request| *limit < request)) }
    }

    /// What the endpoint is told it has.
    pub fn expected(&self) -> Option<Duration> {
        self.per_try.or(self.request)
    }

    /// Whether there is any.
    pub fn is_any(&self) -> bool {
        self.expected().is_some()
    }
}

/// A request's timeout at work.
#[derive(Debug)]
pub struct Deadline {
    limit: Duration,
    end: RequestEnd,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// Not running before `end`, the end of the request.
    pub fn new(limit: Duration, end: RequestEnd) -> Self {
        Self { limit, end, sleep: None }
    }

    /// What the work brings, unless it takes too long.
    pub async fn race<T>(
        &mut self,
        work: impl Future<Output = Result<T, ProxyError>> + Unpin,
    ) -> Result<T, ProxyError> {
        let limit = self.limit;
        tokio::select! {
            biased;
            done = work => done,
            () = self.passed() => Err(ProxyError::Timeout(limit)),
        }
    }

    async fn passed(&mut self) {
        let Self { limit, end, sleep } = self;
        std::future::poll_fn(|context| end.poll(context)).await;
        sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(*limit))).as_mut().await;
    }

    /// What is left of it, for the body of the answer.
    pub fn into_sleep(self) -> Option<Pin<Box<Sleep>>> {
        self.sleep.or_else(|| Some(Box::pin(tokio::time::sleep(self.limit))))
    }
}

/// What limits the time of one request.
#[derive(Debug)]
pub struct Clocks {
    /// The request's timeout.
    pub deadline: Option<Deadline>,
    /// The listener's limits for one stream.
    pub watch: Option<Box<Watch>>,
}

impl Clocks {
    /// `end` tells of the request; without it, nothing is limited.
    pub fn new(timeout: Option<Duration>, streams: StreamLimits, end: Option<&RequestEnd>) -> Self {
        let deadline = timeout.zip(end.cloned()).map(|(limit, end)| Deadline::new(limit, end));
        Self { deadline, watch: end.and_then(|end| Watch::new(streams, end.clone())) }
    }

    /// Where there is any.
    pub fn any(&mut self) -> Option<&mut Self> {
        (self.deadline.is_some() || self.watch.is_some()).then_some(self)
    }

    /// What the work brings, unless it takes too long.
    pub async fn race<T>(
        &mut self,
        work: impl Future<Output = Result<T, ProxyError>> + Unpin,
    ) -> Result<T, ProxyError> {
        match (&mut self.deadline, &mut self.watch) {
            (None, None) => work.await,
            (Some(deadline), None) => deadline.race(work).await,
            (None, Some(watch)) => watch.race(work).await,
            (Some(deadline), Some(watch)) => deadline.race(pin!(watch.race(work))).await,
        }
    }
}

/// What one attempt brings; `None`: it took longer than `limit` from `end`, the end of the request, if that is still to
/// come.
pub async fn within<T>(limit: Duration, end: Option<&RequestEnd>, attempt: impl Future<Output = T>) -> Option<T> {
    let passed = async {
        if let Some(end) = end {
            std::future::poll_fn(|context| end.poll(context)).await;
        }
        tokio::time::sleep(limit).await;
    };
    tokio::select! {
        biased;
        done = attempt => Some(done),
        () = pin!(passed) => None,
    }
}

#[cfg(test)]
mod tests {
    use leno_config::ir::{ClusterName, RetryOn, RetryPolicy, WeightedClusters};

    use super::*;

    fn policy(per_try: u64) -> RetryPolicy {
        RetryPolicy {
            on: [RetryOn::ServerError].into(),
            attempts: 1,
            per_try_timeout: Some(Duration::from_millis(per_try)).filter(|limit| !limit.is_zero()),
            status_codes: Default::default(),
            answer_headers: Vec::new(),
            request_headers: Vec::new(),
            backoff_base: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            rate_limited: None,
            avoid_previous_hosts: true,
            host_selection_attempts: 5,
            other_localities: false,
        }
    }

    #[test]
    fn the_limits_are_the_routes_unless_the_request_asks_for_others() {
        type Row = (u64, u64, &'static [(&'static str, &'static str)], bool, Option<u64>, Option<u64>);
        let rows: [Row; 13] = [
            (0, 0, &[], false, None, None),
            (1_000, 0, &[], false, Some(1_000), None),
            (1_000, 200, &[], false, Some(1_000), Some(200)),
            (1_000, 1_000, &[], false, Some(1_000), None),
            (0, 200, &[], false, None, Some(200)),
            (1_000, 200, &[("x-envoy-upstream-rq-timeout-ms", "150")], false, Some(150), None),
            (1_000, 200, &[("x-envoy-upstream-rq-timeout-ms", "0")], false, None, Some(200)),
            (1_000, 200, &[("x-envoy-upstream-rq-per-try-timeout-ms", "50")], false, Some(1_000), Some(50)),
            (1_000, 200, &[("x-envoy-upstream-rq-per-try-timeout-ms", "0")], false, Some(1_000), None),
            (1_000, 0, &[("grpc-timeout", "300m")], true, Some(300), None),
            (1_000, 0, &[("grpc-timeout", "3S")], true, Some(1_000), None),
            (0, 0, &[("grpc-timeout", "3S")], true, Some(3_000), None),
            (0, 0, &[("grpc-timeout", "3S")], false, None, None),
        ];
        for (route, policy_limit, fields, grpc, request, per_try) in rows {
            let mut forward = Forward::plain(WeightedClusters::single(ClusterName::new("a")));
            forward.timeout = Some(Duration::from_millis(route)).filter(|limit| !limit.is_zero());
            forward.retry = Some(policy(policy_limit));
            let mut headers: HeaderMap =
                fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            let asked = super::super::asked::take(&mut headers);
            let limits = TimeLimits::of(&forward, &asked, &headers, grpc);
            let millis = |limit: Option<u64>| limit.map(Duration::from_millis);
            let expected = TimeLimits { request: millis(request), per_try: millis(per_try) };
            assert_eq!(limits, expected, "{route} ms, {policy_limit} ms, {fields:?}");
        }
    }

    #[tokio::test]
    async fn the_time_of_an_attempt_does_not_run_before_the_end_of_the_request() {
        const SHORT: Duration = Duration::from_millis(1);
        let end = RequestEnd::default();
        let slow = async {
            tokio::time::sleep(20 * SHORT).await;
            7
        };
        assert_eq!(within(SHORT, Some(&end), slow).await, Some(7));
        end.signal();
        assert_eq!(within(SHORT, Some(&end), std::future::pending::<u8>()).await, None);
        assert_eq!(within(SHORT, None, std::future::pending::<u8>()).await, None);
    }
}
