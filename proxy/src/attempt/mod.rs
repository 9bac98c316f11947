//! Sending a request until it is answered.
//!
//! ```text
//! choose ─▶ connect ─▶ send ─▶ an answer that is taken ─────────────────────────────▶ passed on
//!    ▲                   │
//!    │                   ├─▶ provably not looked at ─▶ at once, for free ─┐
//!    │                   └─▶ a reason of the policy ─▶ retry left, budget,│wait ─┐
//!    └───────────────────────────────────────────────────────────────────┴──────┘
//! ```
//!
//! There are two kinds of second attempts.
//!
//! **For free** goes what had no effect, whatever the policy says, and as often as [`MOST_FREE`]: hyper hands the request
//! back because not a byte of it left; the peer says that it did not look at the stream (REFUSED_STREAM, above GOAWAY's
//! last); and once, on a new connection, an idempotent request without a body whose *reused* connection closed before the
//! first byte of an answer (RFC 9110 §9.2.2): the keep-alive race, for which nobody should see a 503.
//!
//! **By the policy** goes everything else: [`conditions`] says whether what happened is a reason, [`plan`] what this request
//! may have, [`crate::cluster::budget`] whether the cluster can bear it, [`backoff`] when. When the policy is at its end,
//! the caller gets what the last attempt brought.
//!
//! Nothing is tried again once the head of an answer has been passed on.
//!
//! What a request costs that is answered at once: nothing is kept of a request that could not be sent again anyway
//! ([`Attempts::keep`]), waits and limits for one attempt live on the heap and only when there are any, and no counter of
//! retries is touched.

pub mod asked;
pub mod backoff;
pub mod choice;
pub mod conditions;
pub mod deadline;
mod failure;
pub mod given_up;
mod kept;
pub mod plan;
pub mod replay;
mod run;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Request, Response, Version};
use hyper::body::Incoming;
use leno_config::ir::{RetryOn, UpstreamProtocol};
use tokio::time::Instant;

use crate::body::{RequestBody, RequestEnd};
use crate::cluster::limits::{Limit, Permit};
use crate::cluster::outcome::Outcome;
use crate::cluster::retries::RetryStats;
use crate::cluster::{EndpointState, InFlight, Members};
use crate::error::{Flag, Flags, ProxyError};
use crate::sanitize::{self, Awaited};
use crate::telemetry::detail::Seen;
use crate::upstream::connect::NoConnection;
use crate::upstream::pool::{Lease, Pool};
use crate::upstream::send::SendFailure;
use crate::worker::{View, Worker, WorkerCluster};

use conditions::Failure;
use failure::Failed;
use kept::Kept;
use plan::{RetryPlan, is_idempotent};
use run::Run;

/// Attempts for free of one request: a bound on what an unlucky row of dying connections can cost.
const MOST_FREE: u32 = 4;
/// Addresses of a host outside the mesh that are tried when connecting fails.
const MOST_ADDRESSES: usize = 3;

/// An answer, with what it holds until its body ends.
#[derive(Debug)]
pub struct Answer {
    /// Its head, and its body to come.
    pub response: Response<Incoming>,
    /// The connection it comes over.
    pub lease: Lease,
    /// It counts at its endpoint.
    pub in_flight: InFlight,
    /// It counts in its cluster.
    pub permit: Permit,
    /// Which attempt brought it, from 1.
    pub attempt: u32,
}

/// Where and how a request is sent.
#[derive(Debug)]
pub struct Attempts<'a> {
    /// The worker that sends.
    pub worker: &'a Worker,
    /// The snapshot the request sees.
    pub view: &'a View,
    /// Where to.
    pub cluster: &'a Rc<WorkerCluster>,
    /// What is spoken.
    pub protocol: Protocol,
    /// The request's host, for a cluster of [`Members::RequestHost`].
    pub host: Option<&'a str>,
    /// Where the caller's connection was going before it was captured, for a cluster of [`Members::OriginalDestination`].
    pub original: Option<&'a SocketAddr>,
    /// What consistent hashing goes by.
    pub hash: Option<u64>,
    /// How often.
    pub plan: &'a RetryPlan<'a>,
    /// When the request is complete, where there is a limit for one attempt.
    pub end: Option<&'a RequestEnd>,
    /// What is to be said of the way.
    pub notes: Cell<Flags>,
    /// The request's time is over: what is under way is the endpoint's fault.
    pub timed_out: Cell<bool>,
    /// As whom the last attempt is counted: a number. `None`: there was no endpoint.
    pub link: Cell<Option<u32>>,
    /// What the caller takes for an answer.
    pub awaited: Awaited,
    /// Each attempt, where somebody wants to know.
    pub seen: Option<Rc<Seen>>,
}

/// What is spoken with the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
}

impl Protocol {
    /// The same, as HTTP has it.
    pub fn version(self) -> Version {
        match self {
            Self::Http1 => Version::HTTP_11,
            Self::Http2 => Version::HTTP_2,
        }
    }

    /// What a cluster speaks with a caller who came by `http2`. An upgrade always travels over HTTP/1.1.
    pub fn of(upstream: UpstreamProtocol, http2: bool, upgrade: bool) -> Self {
        match upstream {
            UpstreamProtocol::Http2 if !upgrade => Self::Http2,
            UpstreamProtocol::AsDownstream if http2 && !upgrade => Self::Http2,
            UpstreamProtocol::Http1
            | UpstreamProtocol::Http2
            | UpstreamProtocol::AsDownstream
            | UpstreamProtocol::Tcp => Self::Http1,
        }
    }
}

/// An answer that may not be the last.
struct Arrived {
    response: Response<Incoming>,
    lease: Lease,
    permit: Permit,
}

/// What comes after an attempt.
enum Next {
    Taken(Arrived),
    Failed(ProxyError),
    AtOnce,
    After(Duration),
}

impl<'a> Attempts<'a> {
    /// Nothing has been sent yet. Who sends; where to, in which protocol, for which host; by which hash; how often, and
    /// what tells the end of the request.
    pub fn new(
        (worker, view): (&'a Worker, &'a View),
        (cluster, protocol, host): (&'a Rc<WorkerCluster>, Protocol, Option<&'a str>),
        hash: Option<u64>,
        (plan, end): (&'a RetryPlan<'a>, Option<&'a RequestEnd>),
    ) -> Self {
        let (notes, timed_out) = (Cell::default(), Cell::new(false));
        let link = Cell::default();
        let (original, seen, awaited) = (None, None, Awaited::default());
        Self { worker, view, cluster, protocol, host, original, hash, plan, end, notes, timed_out, link, seen, awaited }
    }

    /// Sends the request, again where that is safe or the policy says so, and returns the head of the answer.
    ///
    /// The request is taken out of `outgoing`: an argument by value would lie in the future twice.
    pub async fn send(&self, outgoing: &mut Option<Request<RequestBody>>) -> Result<Answer, ProxyError> {
        self.cluster.shared.stats.requests.fetch_add(1, Ordering::Relaxed);
        let mut run = Run::new(self);
        loop {
            let next = match self.once(&mut run, outgoing).await {
                Ok(arrived) => self.after_answer(&mut run, arrived, outgoing),
                Err(failed) => self.after_failure(&mut run, failed, outgoing),
            };
            match next {
                Next::Taken(Arrived { response, lease, permit }) => {
                    let in_flight = run.last().ok_or_else(|| ProxyError::NoEndpoint(self.name()))?;
                    return Ok(Answer { response, lease, in_flight, permit, attempt: run.attempt });
                }
                Next::Failed(error) => return Err(error),
                Next::AtOnce => run.end(),
                Next::After(wait) => {
                    run.end();
                    Box::pin(tokio::time::sleep(wait)).await;
                }
            }
        }
    }

    /// One attempt at one endpoint. When it ends without an answer, the request is back in `outgoing` if hyper or a failed
    /// connect left it here, or in `run.kept` if that was worth while.
    async fn once(
        &self,
        run: &mut Run<'_, 'a>,
        outgoing: &mut Option<Request<RequestBody>>,
    ) -> Result<Arrived, Failed> {
        let Some(picked) = self.choose(&run.tried).await.map_err(Failed::here)? else {
            return Err(Failed::here(
                run.error.take().map_or_else(|| ProxyError::NoEndpoint(self.name()), |error| *error),
            ));
        };
        let address = picked.endpoint.address;
        let began = self.seen.as_ref().map(|_| Instant::now());
        let in_flight = picked.begin();
        let leased = self.lease(in_flight.endpoint(), run.fresh).await;
        run.begin(in_flight, began);
        let (mut lease, permit) = match leased {
            Ok(leased) => leased,
            Err(NoConnection::Refused(overflow)) => {
                return Err(Failed::here(ProxyError::Overflow { cluster: self.name(), overflow }));
            }
            Err(NoConnection::Failed(error)) => {
                run.report(Outcome::of_connect(&error));
                self.miss(run);
                return Err(Failed::connect(self.name(), address, &error));
            }
        };
        run.connected(&lease);
        self.link.set(Some(lease.link()));
        if let Some(request) = outgoing {
            run.mark(request);
            run.kept = self.keep(run, request, &lease);
        }
        let Some(request) = outgoing.take() else { return Err(Failed::here(ProxyError::NoEndpoint(self.name()))) };
        let sending = lease.send(request);
        let sent = match self.plan.limits.per_try {
            None => sending.await,
            Some(limit) => match Box::pin(deadline::within(limit, self.end, sending)).await {
                Some(sent) => sent,
                None => return Err(self.took_too_long(run, limit)),
            },
        };
        lease.answered();
        let failure = match sent {
            Ok(mut response) => match sanitize::response(&mut response, self.awaited) {
                Ok(()) => return Ok(Arrived { response, lease, permit }),
                // Its connection ends with its lease.
                Err(reason) => {
                    run.report(Outcome::Reset);
                    return Err(Failed::nonsense(self.name(), address, reason));
                }
            },
            Err(failure) => failure,
        };
        let failed = Failed::send(self.name(), address, &failure);
        match failure {
            SendFailure::Unsent(back) => *outgoing = Some(*back),
            SendFailure::Unprocessed(_) | SendFailure::Closed(_) | SendFailure::Reset(_) | SendFailure::Protocol(_) => {
                run.report(Outcome::Reset)
            }
            // Nothing is to be learned of the endpoint.
            SendFailure::Body(_) => {}
        }
        Err(failed)
    }

    /// Nobody was reached: remembers whom it was meant for.
    #[cold]
    fn miss(&self, run: &Run<'_, 'a>) {
        if let Some(endpoint) = run.endpoint() {
            let pool = self.cluster.pool(self.worker, endpoint, self.host);
            self.link.set(Some(pool.place().unreached().id()));
        }
    }

    /// What is kept of a request costs something, so it is kept only where it can be of use: where the policy could
    /// repeat what the endpoint has seen; for what the peer did not look at, over HTTP/2 (its body only where the policy
    /// has heard of such streams: without, it is over when the body moves); and for the keep-alive race.
    fn keep(&self, run: &mut Run<'_, 'a>, request: &mut Request<RequestBody>, lease: &Lease) -> Option<Kept> {
        let empty = matches!(request.body(), RequestBody::Empty);
        let http2 = self.protocol == Protocol::Http2;
        let refused = http2 && self.plan.retries_refused_streams();
        let by_policy = run.retries < self.plan.attempts && (refused || self.plan.can_follow_processing(!empty));
        run.races = !run.raced && empty && lease.is_reused() && is_idempotent(request.method());
        let free = run.races || http2 && run.free < MOST_FREE;
        (by_policy || free).then(|| Kept::of(request, if by_policy { replay::MOST_KEPT } else { 0 }))
    }

    /// An attempt has brought an answer: it is taken, unless it is a reason for another attempt and there is one left.
    fn after_answer(
        &self,
        run: &mut Run<'_, 'a>,
        arrived: Arrived,
        outgoing: &mut Option<Request<RequestBody>>,
    ) -> Next {
        let (status, headers) = (arrived.response.status(), arrived.response.headers());
        run.answered(&arrived.response);
        run.permit = None;
        let Some(reason) = self.plan.on_answer(status, headers) else {
            if run.retries > 0 {
                self.stats().count(|stats| &stats.succeeded);
            }
            if let Some(kept) = &mut run.kept {
                kept.never();
            }
            return Next::Taken(arrived);
        };
        let kept = run.kept.take();
        if self.cluster.shared.config.limits.retry_budget.is_some() && given_up::has_given_up(headers) {
            self.stats().count(|stats| &stats.given_up);
            return Next::Taken(arrived);
        }
        if !self.again(run, reason, kept.and_then(Kept::again), outgoing) {
            return Next::Taken(arrived);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let wait = self.plan.backoff(run.retries, Some((headers, now)), &self.worker.random);
        run::discard(arrived);
        Next::After(wait)
    }

    /// An attempt has failed: for free again, by the policy again, or that was it.
    fn after_failure(
        &self,
        run: &mut Run<'_, 'a>,
        failed: Failed,
        outgoing: &mut Option<Request<RequestBody>>,
    ) -> Next {
        run.permit = None;
        let Failed { failure, error } = failed;
        let Some(failure) = failure else { return Next::Failed(error) };
        let request = outgoing.take().or_else(|| run.kept.take().and_then(Kept::again));
        if self.is_free(run, failure) && request.is_some() {
            *outgoing = request;
            run.error = Some(Box::new(error));
            return Next::AtOnce;
        }
        match self.plan.on_failure(failure) {
            Some(reason) if self.again(run, reason, request, outgoing) => {
                Next::After(self.plan.backoff(run.retries, None, &self.worker.random))
            }
            Some(_) | None if run.retries > 0 => Next::Failed(error.after_retries()),
            Some(_) | None => Next::Failed(error),
        }
    }

    /// Whether what failed is tried again at once, whatever the policy says: it had no effect.
    fn is_free(&self, run: &mut Run<'_, 'a>, failure: Failure) -> bool {
        let free = match failure {
            // Of a host outside the mesh, each address is tried once.
            Failure::NotConnected => {
                let outside = matches!(self.cluster.shared.members, Members::RequestHost);
                if outside {
                    run.avoid();
                }
                return outside && run.tried.len() < MOST_ADDRESSES;
            }
            Failure::NotSent => run.free < MOST_FREE,
            Failure::Refused => {
                run.avoid();
                run.free < MOST_FREE
            }
            Failure::Closed => std::mem::take(&mut run.races),
            Failure::Broken | Failure::TimedOut => false,
        };
        if free {
            run.free += 1;
            // Other idle connections may have gone the same way.
            run.raced |= failure == Failure::Closed;
            run.fresh = failure == Failure::Closed || run.free > 1;
            self.cluster.shared.stats.unsent_retries.fetch_add(1, Ordering::Relaxed);
        }
        free
    }

    /// Whether there is one more attempt by the policy, which is then prepared. Envoy's order: what could not be kept
    /// is past help and past counting, then the number of attempts, then the budget.
    fn again(
        &self,
        run: &mut Run<'_, 'a>,
        reason: RetryOn,
        request: Option<Request<RequestBody>>,
        outgoing: &mut Option<Request<RequestBody>>,
    ) -> bool {
        let stats = self.stats();
        if run.retries >= self.plan.attempts {
            self.note(|notes| notes.add(Flag::URX));
            stats.count(|stats| &stats.used_up);
            return false;
        }
        if request.is_none() {
            stats.count(|stats| &stats.body_too_large);
            return false;
        }
        match self.cluster.admit(Limit::Retries) {
            Ok(permit) => run.permit = Some(permit),
            Err(_) => {
                self.note(Flags::add_retry_overflow);
                return false;
            }
        }
        if self.plan.avoids_previous_hosts() || self.plan.other_localities() {
            run.avoid();
        }
        stats.begin(reason);
        run.retries += 1;
        *outgoing = request;
        true
    }

    /// A connection that can carry the request, and leave to use it. As Envoy has it, who has no connection yet counts
    /// as pending, and who has one as a request. `fresh`: none that has carried a request before, over HTTP/1.1. Opening
    /// one is rare and its future large: it goes to the heap, so that every request's future stays small.
    async fn lease(&self, endpoint: &EndpointState, fresh: bool) -> Result<(Lease, Permit), NoConnection> {
        let pool = self.cluster.pool(self.worker, endpoint, self.host);
        let idle = match self.protocol {
            Protocol::Http1 if fresh => None,
            Protocol::Http1 => pool.idle_http1().map(Lease::Http1),
            Protocol::Http2 => pool.idle_http2().map(Lease::Http2),
        };
        let lease = match idle {
            Some(lease) => lease,
            None => Box::pin(self.new_lease(pool)).await?,
        };
        match self.cluster.admit(Limit::Requests) {
            Ok(permit) => Ok((lease, permit)),
            Err(overflow) => {
                lease.unused();
                Err(overflow.into())
            }
        }
    }

    async fn new_lease(&self, pool: Rc<Pool>) -> Result<Lease, NoConnection> {
        let _pending = self.cluster.admit(Limit::Pending)?;
        let allowed = self.cluster.shared.config.limits.connections;
        match self.protocol {
            Protocol::Http1 => pool.new_http1(allowed).await.map(Lease::Http1),
            Protocol::Http2 => pool.new_http2(allowed).await.map(Lease::Http2),
        }
    }

    #[cold]
    fn took_too_long(&self, run: &mut Run<'_, 'a>, limit: Duration) -> Failed {
        run.report(Outcome::TimedOut);
        self.stats().count(|stats| &stats.try_timeouts);
        Failed { failure: Some(Failure::TimedOut), error: ProxyError::TryTimeout { limit, attempts: run.attempt } }
    }

    /// Notes how all of it ended. If the request's time is over, the attempt under way, which is dropped next, is its
    /// endpoint's fault.
    pub fn failed(&self, error: &ProxyError) {
        if let ProxyError::Timeout(_) = error {
            self.timed_out.set(true);
            self.stats().count(|stats| &stats.timeouts);
        } else if let ProxyError::Overdue { complete: true, .. } = error {
            self.timed_out.set(true);
        }
    }

    fn stats(&self) -> &RetryStats {
        &self.cluster.shared.stats.retries
    }

    fn note(&self, add: impl FnOnce(&mut Flags)) {
        let mut notes = self.notes.get();
        add(&mut notes);
        self.notes.set(notes);
    }

    fn name(&self) -> String {
        self.cluster.shared.config.name.to_string()
    }
}
