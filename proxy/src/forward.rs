//! A request on its way to an endpoint, and its answer on the way back.
//!
//! [`Way::prepare`] says what the endpoint will see and how long anything may take; [`Way::go`] sends it, again where that
//! is right, and makes the caller's answer of what comes back.

use std::pin::pin;
use std::rc::Rc;

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use leno_config::ir::{AttemptCount, Direction, Forward, Route, StreamLimits, WeightedCluster};
use tokio::time::Instant;

use crate::attempt::deadline::{Clocks, Deadline, TimeLimits};
use crate::attempt::plan::RetryPlan;
use crate::attempt::{Answer, Attempts, Protocol, asked};
use crate::body::{Body, RequestBody, RequestEnd, UpstreamBody};
use crate::cluster::Members;
use crate::downstream::Connection;
use crate::downstream::upgrade::{self, Upgrade};
use crate::error::ProxyError;
use crate::headers::{self, name};
use crate::policy::grant::while_granted;
use crate::policy::sticky::Sticky;
use crate::policy::{cors, mirror};
use crate::request::look;
use crate::telemetry::RequestRecord;
use crate::worker::{ListenerView, WorkerCluster};
use crate::{prepare, sanitize};

/// Where routing sends a request.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// By which route.
    pub route: &'a Route,
    /// What it says about sending.
    pub forward: &'a Forward,
    /// The share that was drawn.
    pub share: &'a WeightedCluster,
    /// Its cluster.
    pub cluster: &'a Rc<WorkerCluster>,
    /// Who is told which attempt it is.
    pub attempt_count: AttemptCount,
}

/// Where a request goes, and what becomes of its answer.
pub struct Way<'a> {
    route: &'a Route,
    share: &'a WeightedCluster,
    cluster: &'a Rc<WorkerCluster>,
    protocol: Protocol,
    plan: RetryPlan<'a>,
    /// Told when the request is complete, where that matters.
    end: Option<RequestEnd>,
    /// How long it may last.
    streams: StreamLimits,
    upgrade: Option<Box<Upgrade>>,
    /// The `Origin` of a page, where the route has a cross-origin policy.
    origin: Option<HeaderValue>,
    /// The request's host, where the cluster goes by it.
    host: Option<String>,
    /// With which endpoint the caller stays.
    sticky: Sticky,
}

impl<'a> Way<'a> {
    /// Makes of the caller's request what the endpoint sees.
    pub fn prepare(
        to: Destination<'a>,
        connection: &Connection,
        view: &ListenerView,
        streams: StreamLimits,
        parts: &mut Parts,
        upgrade: Option<Upgrade>,
        grpc: bool,
    ) -> Result<Self, ProxyError> {
        let Destination { route, forward, share, cluster, attempt_count } = to;
        let mut asked = match view.listener.config.direction {
            Direction::Outbound => asked::take(&mut parts.headers),
            Direction::Inbound => asked::strip(&mut parts.headers),
        };
        let limits = TimeLimits::of(forward, &asked, &parts.headers, grpc);
        let mut way = Way {
            route,
            share,
            cluster,
            protocol: Protocol::of(cluster.shared.config.protocol, parts.version == Version::HTTP_2, upgrade.is_some()),
            plan: RetryPlan::default(),
            end: (limits.is_any() || streams != StreamLimits::default()).then(RequestEnd::default),
            streams,
            origin: route.cors.as_ref().and_then(|_| parts.headers.get(header::ORIGIN).cloned()),
            upgrade: upgrade.map(Box::new),
            host: needs_host(cluster).then(|| sanitize::authority(parts).to_owned()),
            sticky: if cluster.hashes() { Sticky::of(forward, parts, connection.ends()) } else { Sticky::default() },
        };
        prepare::request(parts, route, forward, share, limits.expected(), grpc, &connection.worker.random)?;
        if !route.request_headers.is_empty() || !share.request_headers.is_empty() {
            asked.retries = asked::take_retries(&mut parts.headers).or(asked.retries);
        }
        way.plan = RetryPlan::new(forward.retry.as_ref(), asked, || look(parts, None));
        (way.plan.limits, way.plan.counted, way.plan.grpc) = (limits, attempt_count, grpc);
        if let Some(upgrade) = &way.upgrade {
            upgrade.ask(parts);
        }
        match way.protocol {
            Protocol::Http1 => sanitize::to_http1(parts)?,
            Protocol::Http2 => sanitize::to_http2(parts)?,
        }
        Ok(way)
    }

    /// Where it goes.
    pub fn cluster(&self) -> &WorkerCluster {
        self.cluster
    }

    /// To be told when the request is complete, where that matters.
    pub fn end(&self) -> Option<RequestEnd> {
        self.end.clone()
    }

    /// Sends the request and turns the answer into the caller's.
    pub async fn go(
        &mut self,
        connection: &Rc<Connection>,
        view: &ListenerView,
        outgoing: &mut Option<Request<RequestBody>>,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, ProxyError> {
        if self.upgrade.is_none() {
            mirror::send_copies(connection, &view.view, self.route, outgoing);
        }
        let sent = Instant::now();
        let mut clocks = Clocks::new(self.plan.limits.request, self.streams, self.end.as_ref());
        let Sticky { hash, cookie } = std::mem::take(&mut self.sticky);
        let to = (self.cluster, self.protocol, self.host.as_deref());
        let mut attempts = Attempts::new((&connection.worker, &view.view), to, hash, (&self.plan, self.end.as_ref()));
        attempts.original = connection.original.as_ref();
        attempts.awaited = self.upgrade.as_ref().map(|upgrade| upgrade.awaits()).unwrap_or_default();
        attempts.seen = record.detail().map(|detail| Rc::clone(&detail.seen));
        let sending = pin!(attempts.send(outgoing));
        let sending = while_granted(record.grant().map(|grant| &**grant), sending);
        let answer = match clocks.any() {
            None => sending.await,
            Some(clocks) => Box::pin(clocks.race(sending)).await.inspect_err(|error| attempts.failed(error)),
        };
        record.note(attempts.notes.get());
        if let Some(link) = attempts.link.get() {
            record.reached(link);
        }
        if let Some(detail) = record.detail() {
            detail.upstream_time = Some(sent.elapsed());
        }
        let answer = answer?;
        let took = u64::try_from(sent.elapsed().as_millis()).unwrap_or(u64::MAX);
        let attempt = answer.attempt;
        let mut response = match self.upgrade.take() {
            Some(upgrade) if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                upgrade::tunnel(connection, *upgrade, answer, record)
            }
            Some(_) | None => receive(answer, clocks, record.request_is_over()),
        };
        let fields = response.headers_mut();
        fields.insert(name::SERVICE_TIME, headers::number(took));
        if self.plan.counted.response {
            fields.insert(name::ATTEMPT_COUNT, headers::number(attempt.into()));
        }
        if let Some(cookie) = cookie {
            fields.append(header::SET_COOKIE, *cookie);
        }
        if let Some(cors) = &self.route.cors {
            cors::mark_response(cors, self.origin.as_ref(), fields);
        }
        apply_rules(&mut response, self.route, Some(self.share));
        Ok(response)
    }
}

/// The answer of an endpoint as the caller gets it. What hyper keeps beside a head (upgrades, reason phrases) ends here;
/// the version is that of the caller's connection.
fn receive(answer: Answer, clocks: Clocks, request_is_over: bool) -> Response<Body> {
    let Answer { response, lease, in_flight, permit, attempt: _ } = answer;
    let (mut head, incoming) = response.into_parts();
    headers::remove_hop_by_hop(&mut head.headers);
    let Clocks { deadline, watch } = clocks;
    let deadline = deadline.and_then(Deadline::into_sleep);
    let body = UpstreamBody::new(incoming, lease, (in_flight, permit), deadline, request_is_over);
    let mut passed = Response::new(Body::Upstream(body.watched(watch)));
    *passed.status_mut() = head.status;
    *passed.headers_mut() = head.headers;
    passed
}

/// Whether the address or the name of the server follows the request's host.
fn needs_host(cluster: &WorkerCluster) -> bool {
    matches!(cluster.shared.members, Members::RequestHost) || cluster.follows_host()
}

/// Applies the response header operations of the destination, then of the route (Envoy's order).
pub fn apply_rules(response: &mut Response<Body>, route: &Route, share: Option<&WeightedCluster>) {
    if let Some(share) = share {
        headers::apply(&share.response_headers, response.headers_mut());
    }
    headers::apply(&route.response_headers, response.headers_mut());
}
