//! Where a request stands between two attempts.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::body::RequestBody;
use crate::cluster::limits::Permit;
use crate::cluster::outcome::Outcome;
use crate::cluster::{EndpointState, InFlight};
use crate::error::ProxyError;
use crate::headers::{self, name};
use crate::telemetry::detail::AttemptDetail;
use crate::upstream::pool::Lease;

use super::kept::Kept;
use super::{Arrived, Attempts};

/// An answer that nobody wants is read to its end when it is not longer: cheaper than a new connection.
const SHORT_ANSWER: u64 = 16 << 10;
/// And when it comes in this time.
const SHORT_WHILE: Duration = Duration::from_secs(1);

/// The attempts of one request so far.
pub(super) struct Run<'r, 'a> {
    attempts: &'r Attempts<'a>,
    /// Where there is a timeout.
    began: Option<Instant>,
    /// Which one is under way, from 1.
    pub(super) attempt: u32,
    /// How many of them are by the policy.
    pub(super) retries: u32,
    /// How many of them are for free.
    pub(super) free: u32,
    /// The keep-alive race can happen to the one under way.
    pub(super) races: bool,
    /// It has happened.
    pub(super) raced: bool,
    /// Idle connections are not trusted any more.
    pub(super) fresh: bool,
    /// Endpoints to be left aside.
    pub(super) tried: Vec<Arc<EndpointState>>,
    /// The one under way, at its endpoint.
    in_flight: Option<InFlight>,
    /// What became of it is not told yet.
    is_open: bool,
    /// The request, for the next one.
    pub(super) kept: Option<Kept>,
    /// Counts the retry under way.
    pub(super) permit: Option<Permit>,
    /// What the one before ended with.
    pub(super) error: Option<Box<ProxyError>>,
}

impl<'r, 'a> Run<'r, 'a> {
    /// None yet.
    pub(super) fn new(attempts: &'r Attempts<'a>) -> Self {
        Self {
            attempts,
            began: attempts.plan.limits.request.map(|_| Instant::now()),
            attempt: 0,
            retries: 0,
            free: 0,
            races: false,
            raced: false,
            fresh: false,
            tried: Vec::new(),
            in_flight: None,
            is_open: false,
            kept: None,
            permit: None,
            error: None,
        }
    }

    /// An attempt has got as far as a connection, or not even that.
    pub(super) fn begin(&mut self, in_flight: InFlight, began: Option<Instant>) {
        self.attempt += 1;
        if let (Some(seen), Some(began)) = (&self.attempts.seen, began) {
            seen.attempts.borrow_mut().push(AttemptDetail {
                number: self.attempt,
                endpoint: Arc::clone(in_flight.endpoint()),
                began,
                ended: None,
                outcome: None,
                local: None,
                peer: None,
                status: None,
                protocol: self.attempts.protocol,
                span: seen.trace.and_then(|trace| trace.attempt(&self.attempts.worker.random)),
            });
        }
        self.in_flight = Some(in_flight);
        self.is_open = true;
    }

    /// It has a connection.
    pub(super) fn connected(&self, lease: &Lease) {
        if let Some(seen) = &self.attempts.seen {
            seen.last(|last| {
                (last.local, last.peer) = (lease.local(), lease.peer().cloned());
            });
        }
    }

    /// Tells what became of it.
    pub(super) fn report(&mut self, outcome: Outcome) {
        if let (Some(in_flight), true) = (&self.in_flight, self.is_open) {
            self.attempts.cluster.report(in_flight, outcome);
            if let Some(seen) = &self.attempts.seen {
                seen.last(|last| (last.ended, last.outcome) = (Some(Instant::now()), Some(outcome)));
            }
        }
        self.is_open = false;
    }

    /// The endpoint of the one under way.
    pub(super) fn endpoint(&self) -> Option<&EndpointState> {
        self.in_flight.as_ref().map(|in_flight| &**in_flight.endpoint())
    }

    /// Leaves its endpoint aside from now on.
    pub(super) fn avoid(&mut self) {
        self.tried.extend(self.in_flight.as_ref().map(|in_flight| Arc::clone(in_flight.endpoint())));
    }

    /// It is over, and its endpoint is free of it.
    pub(super) fn end(&mut self) {
        self.in_flight = None;
    }

    /// It was the last one: it lasts as long as its answer.
    pub(super) fn last(&mut self) -> Option<InFlight> {
        self.in_flight.take()
    }

    /// It has brought an answer.
    pub(super) fn answered(&mut self, answer: &Response<Incoming>) {
        self.report(Outcome::of_answer(answer.status(), answer.headers(), self.attempts.plan.grpc));
        if let Some(seen) = &self.attempts.seen {
            seen.last(|last| last.status = Some(answer.status()));
        }
    }

    /// Writes into the request which attempt it is, which span stands for it and how much time is left.
    pub(super) fn mark(&self, request: &mut Request<RequestBody>) {
        let plan = self.attempts.plan;
        let fields = request.headers_mut();
        if let Some(seen) = &self.attempts.seen
            && let Some(trace) = seen.trace
        {
            seen.last(|last| trace.mark(last.span, fields));
        }
        if plan.counted.request {
            fields.insert(name::ATTEMPT_COUNT, headers::number(self.attempt.into()));
        }
        if let (Some(limit), Some(began), true) = (plan.limits.request, self.began, self.attempt > 1) {
            let left = limit.saturating_sub(began.elapsed());
            headers::set_expected_time(fields, plan.limits.per_try.map_or(left, |one| one.min(left)), plan.grpc);
        }
    }
}

impl Drop for Run<'_, '_> {
    fn drop(&mut self) {
        if self.attempts.timed_out.get() {
            self.report(Outcome::TimedOut);
        }
    }
}

/// Does away with an answer that is not taken, and saves its connection where that is cheap.
pub(super) fn discard(arrived: Arrived) {
    let Arrived { response, lease: Lease::Http1(lease), permit: _ } = arrived else { return };
    let body = response.into_body();
    if body.is_end_stream() {
        return lease.release();
    }
    if body.size_hint().upper().is_some_and(|size| size <= SHORT_ANSWER) {
        tokio::task::spawn_local(async move {
            if let Ok(true) = tokio::time::timeout(SHORT_WHILE, read(body)).await {
                lease.release();
            }
        });
    }
}

/// Whether all of it could be read.
async fn read(mut body: Incoming) -> bool {
    while let Some(frame) = body.frame().await {
        if frame.is_err() {
            return false;
        }
    }
    true
}
