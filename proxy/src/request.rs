//! THE pipeline: what happens to a request, in the order in which it happens.
//!
//! ```text
//! overload → sanitize → token → authorization → rate limit → fault → redirect / direct response / CORS preflight
//!                                                                  → header rules, rewrite → copies → attempts → header rules → body
//! ```
//!
//! A route is looked up before authorization, since it may bring rules of its own, but does nothing until they are passed.
//! The snapshot is taken once, at the top, and nothing below looks at any other configuration. Everything up to the
//! first byte toward an endpoint is plain synchronous code: only a delay on purpose and [`Attempts::send`] wait, so a
//! request's future holds little more than the request.

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use leno_config::ir::{self, Action, Direction, Forward, Route, StreamLimits, WeightedCluster};
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
use crate::overload::Place;
use crate::policy::fault::{self, Pause};
use crate::policy::grant::while_granted;
use crate::policy::jwt::{Claims, Verified};
use crate::policy::rate_limit::Quota;
use crate::policy::sticky::Sticky;
use crate::policy::{cors, enforce, mirror};
use crate::route::{RequestView, location};
use crate::state::snapshot::{Handler, HttpHandler};
use crate::telemetry::RequestRecord;
use crate::worker::{ListenerView, WorkerCluster};
use crate::{prepare, reply, sanitize};

/// Answers a request. Never fails: what goes wrong becomes an answer.
pub async fn serve(connection: &Rc<Connection>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let is_http1 = request.version() != Version::HTTP_2;
    let mut record = RequestRecord::begin(Rc::clone(&connection.life));
    let view = connection.listener.view();
    let grpc = headers::is_grpc(request.headers());
    let mut outgoing = None;
    let mut beside = Beside::default();
    let planned = plan(connection, &view, request, grpc, &mut record, &mut outgoing, &mut beside);
    let answered = match (planned, beside.pause.take()) {
        (Ok(Plan::Answer(response)), None) => Ok(response),
        (Ok(Plan::Forward(way)), None) => way.go(connection, &view, &mut outgoing, &mut record).await,
        (Err(error), None) => Err(error),
        (planned, Some(pause)) => Box::pin(late(*pause, planned, connection, &view, &mut outgoing, &mut record)).await,
    };
    if let (Some(place), Ok(response)) = (&beside.place, &answered)
        && matches!(response.body(), Body::Upstream(_))
    {
        place.answered(&connection.worker.random);
    }
    let mut response = answered.unwrap_or_else(|error| {
        record.flag(error.reply().flag);
        reply::error(&error, record.flags(), grpc)
    });
    if let Some(quota) = &beside.quota {
        quota.tell(response.headers_mut());
    }
    if is_http1 && connection.life.is_leaving() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    record.answer(response.status(), || view.slot(&connection.worker, None, connection.peer.is_some()));
    Ok(response.map(|body| body.with_record(record)))
}

/// The same after a delay on purpose. On the heap, so that the future of every other request is no larger for it.
async fn late(
    pause: Pause,
    planned: Result<Plan<'_>, ProxyError>,
    connection: &Rc<Connection>,
    view: &ListenerView,
    outgoing: &mut Option<Request<RequestBody>>,
    record: &mut RequestRecord,
) -> Result<Response<Body>, ProxyError> {
    record.delayed();
    let waited = pin!(async {
        pause.over().await;
        Ok(())
    });
    while_granted(record.grant().map(|grant| &**grant), waited).await?;
    match planned? {
        Plan::Answer(response) => Ok(response),
        Plan::Forward(way) => way.go(connection, view, outgoing, record).await,
    }
}

/// What few requests have beside their plan.
#[derive(Default)]
struct Beside {
    /// A delay on purpose.
    pause: Option<Box<Pause>>,
    /// What is left of a rate limit.
    quota: Option<Box<Quota>>,
    /// Its place at the own app, where these are counted.
    place: Option<Place>,
}

/// What is to be done with a request.
enum Plan<'a> {
    /// Answered here.
    Answer(Response<Body>),
    /// Sent on.
    Forward(Way<'a>),
}

/// Where a request goes, and what becomes of its answer.
struct Way<'a> {
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

fn plan<'a>(
    connection: &Connection,
    view: &'a Rc<ListenerView>,
    request: Request<Incoming>,
    grpc: bool,
    record: &mut RequestRecord,
    outgoing: &mut Option<Request<RequestBody>>,
    beside: &mut Beside,
) -> Result<Plan<'a>, ProxyError> {
    let (http, manager) = http_of(view)?;
    let (direction, is_surplus) = (view.listener.config.direction, connection.life.is_surplus());
    beside.place = connection.worker.overload.admit(direction, is_surplus).map_err(ProxyError::Overloaded)?;
    let (mut parts, body) = request.into_parts();
    let upgrade = Upgrade::take(&mut parts, &manager.upgrades)?;
    sanitize::request(&mut parts, manager.path)?;
    prepare::arrival(&mut parts.headers, connection.forwarded.as_ref());
    let token = enforce::authenticate(connection, http, &mut parts, |parts| look(parts, None))?;
    let claims = token.as_deref().map(Verified::claims);
    let found = find(http, &look(&parts, claims));
    if found.is_some() {
        record.route(view.slot(&connection.worker, found, connection.peer.is_some()));
    }
    let route = found.and_then(|(host, at)| http.table.route(host, at));
    record.granted(enforce::authorize(connection, view, route, &parts, token.as_ref())?);
    if let Some(limiter) = &http.limiter {
        beside.quota = limiter.admit(&look(&parts, claims), &connection.worker.stats)?;
    }
    let (Some((host, at)), Some(route)) = (found, route) else { return Err(no_route(&parts)) };
    if let Some(fault) = &route.fault {
        fault::inject(fault, &connection.worker, &mut beside.pause)?;
    }
    let forward = match &route.action {
        Action::Redirect(redirect) => {
            let to = location(redirect, &route.matcher.path, &look(&parts, claims));
            return Ok(Plan::Answer(with_rules(reply::redirect(redirect, &to), route, None)));
        }
        Action::Direct(direct) => return Ok(Plan::Answer(with_rules(reply::direct(direct), route, None))),
        Action::Forward(forward) => forward,
    };
    if let Some(answer) = route.cors.as_ref().and_then(|cors| cors::preflight(cors, &parts.method, &parts.headers)) {
        return Ok(Plan::Answer(answer));
    }
    let (share, cluster) = choose(connection, view, http, (host, at), forward).ok_or_else(|| no_route(&parts))??;
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
        end: (limits.is_any() || manager.streams != StreamLimits::default()).then(RequestEnd::default),
        streams: manager.streams,
        origin: route.cors.as_ref().and_then(|_| parts.headers.get(header::ORIGIN).cloned()),
        upgrade: upgrade.map(Box::new),
        host: needs_host(cluster).then(|| sanitize::authority(&parts).to_owned()),
        sticky: if cluster.hashes() { Sticky::of(forward, &parts, connection.ends()) } else { Sticky::default() },
    };
    prepare::request(&mut parts, route, forward, share, limits.expected(), grpc, &connection.worker.random)?;
    if !route.request_headers.is_empty() || !share.request_headers.is_empty() {
        asked.retries = asked::take_retries(&mut parts.headers).or(asked.retries);
    }
    let counted = http.table.config().virtual_hosts.get(host).map(|host| host.attempt_count).unwrap_or_default();
    way.plan = RetryPlan::new(forward.retry.as_ref(), asked, &look(&parts, None));
    (way.plan.limits, way.plan.counted, way.plan.grpc) = (limits, counted, grpc);
    if let Some(upgrade) = &way.upgrade {
        upgrade.ask(&mut parts);
    }
    match way.protocol {
        Protocol::Http1 => sanitize::to_http1(&mut parts)?,
        Protocol::Http2 => sanitize::to_http2(&mut parts)?,
    }
    *outgoing = Some(Request::from_parts(parts, RequestBody::new(body, way.end.clone(), record.grant())));
    Ok(Plan::Forward(way))
}

fn http_of(view: &ListenerView) -> Result<(&HttpHandler, &ir::HttpManager), ProxyError> {
    match (&view.listener.handler, &view.listener.config.protocol) {
        (Handler::Http(http), ir::ListenerProtocol::Http(manager)) => Ok((http, manager)),
        // A push has made a TCP port of it, and this connection is older.
        _ => Err(ProxyError::BadRequest { status: StatusCode::BAD_REQUEST, reason: "this port is for TCP now" }),
    }
}

/// The virtual host and route that take a request.
pub(crate) fn find(http: &HttpHandler, request: &RequestView<'_>) -> Option<(usize, usize)> {
    let host = http.table.host(request.authority)?;
    http.table.find(host, request).map(|route| (host, route))
}

/// Draws one of the route's clusters. `None` when the route has none, which the compiler and the wire both rule out.
fn choose<'a>(
    connection: &Connection,
    view: &'a ListenerView,
    http: &HttpHandler,
    (host, at): (usize, usize),
    forward: &'a Forward,
) -> Option<Result<(&'a WeightedCluster, &'a Rc<WorkerCluster>), ProxyError>> {
    let chosen = http.targets.get(http.table.position(host, at)?)?.choose(&connection.worker.random)?;
    let share = forward.clusters.as_slice().get(chosen.share)?;
    let cluster = chosen.cluster.and_then(|index| view.view.clusters.get(index));
    Some(cluster.map(|cluster| (share, cluster)).ok_or_else(|| ProxyError::NoCluster(share.cluster.to_string())))
}

/// What routes and policies see of a request.
pub(crate) fn look<'a>(parts: &'a Parts, claims: Option<&'a Claims>) -> RequestView<'a> {
    RequestView {
        method: &parts.method,
        scheme: "http",
        authority: sanitize::authority(parts),
        path: parts.uri.path(),
        query: parts.uri.query(),
        headers: &parts.headers,
        claims,
    }
}

/// Whether the address or the name of the server follows the request's host.
fn needs_host(cluster: &WorkerCluster) -> bool {
    matches!(cluster.shared.members, Members::RequestHost) || cluster.follows_host()
}

#[cold]
fn no_route(parts: &Parts) -> ProxyError {
    ProxyError::NoRoute { authority: sanitize::authority(parts).to_owned(), path: parts.uri.path().to_owned() }
}

impl Way<'_> {
    /// Sends the request and turns the answer into the caller's.
    async fn go(
        mut self,
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
        let attempts = Attempts::new((&connection.worker, &view.view), to, hash, (&self.plan, self.end.as_ref()));
        let sending = pin!(attempts.send(outgoing));
        let sending = while_granted(record.grant().map(|grant| &**grant), sending);
        let answer = match clocks.any() {
            None => sending.await,
            Some(clocks) => Box::pin(clocks.race(sending)).await.inspect_err(|error| attempts.failed(error)),
        };
        record.note(attempts.notes.get());
        let answer = answer?;
        let took = u64::try_from(sent.elapsed().as_millis()).unwrap_or(u64::MAX);
        let attempt = answer.attempt;
        let mut response = match self.upgrade.take() {
            Some(upgrade) if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                upgrade::tunnel(connection, *upgrade, answer, record)
            }
            Some(_) | None => receive(answer, clocks),
        };
        let fields = response.headers_mut();
        fields.insert(name::SERVICE_TIME, HeaderValue::from(took));
        if self.plan.counted.response {
            fields.insert(name::ATTEMPT_COUNT, HeaderValue::from(attempt));
        }
        if let Some(cookie) = cookie {
            fields.append(header::SET_COOKIE, *cookie);
        }
        if let Some(cors) = &self.route.cors {
            cors::mark_response(cors, self.origin.as_ref(), fields);
        }
        Ok(with_rules(response, self.route, Some(self.share)))
    }
}

/// The answer of an endpoint as the caller gets it. What hyper keeps beside a head (upgrades, reason phrases) ends here;
/// the version is that of the caller's connection.
fn receive(answer: Answer, clocks: Clocks) -> Response<Body> {
    let Answer { response, lease, in_flight, permit, attempt: _ } = answer;
    let (mut head, incoming) = response.into_parts();
    headers::remove_hop_by_hop(&mut head.headers);
    let Clocks { deadline, watch } = clocks;
    let body = UpstreamBody::new(incoming, lease, (in_flight, permit), deadline.and_then(Deadline::into_sleep));
    let mut passed = Response::new(Body::Upstream(body.watched(watch)));
    *passed.status_mut() = head.status;
    *passed.headers_mut() = head.headers;
    passed
}

/// Applies the response header operations of the destination, then of the route (Envoy's order).
fn with_rules(mut response: Response<Body>, route: &Route, share: Option<&WeightedCluster>) -> Response<Body> {
    if let Some(share) = share {
        headers::apply(&share.response_headers, response.headers_mut());
    }
    headers::apply(&route.response_headers, response.headers_mut());
    response
}
