//! THE pipeline: what happens to a request, in the order in which it happens.
//!
//! ```text
//! overload → upgrade → head limits → sanitize → token → route → authorization → rate limit → fault
//!                                → redirect / direct response / CORS preflight
//!                                → forward: header rules, rewrite, attempts, answer
//! ```
//!
//! A route is looked up before authorization, since it may bring rules of its own, but does nothing until they are passed.
//! The snapshot is taken once, at the top, and nothing below looks at any other configuration. Everything up to the
//! first byte toward an endpoint is plain synchronous code: only a delay on purpose and [`Way::go`] wait, so a request's
//! future holds little more than the request.

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use leno_config::ir::{self, Action, Forward, Route, WeightedCluster};

use crate::attempt::given_up;
use crate::body::{Body, RequestBody};
use crate::cluster::standing::Moment;
use crate::downstream::upgrade::Upgrade;
use crate::downstream::{Connection, heads};
use crate::error::ProxyError;
use crate::forward::{Destination, Way, apply_rules};
use crate::headers;
use crate::overload::Place;
use crate::policy::fault::{self, Pause};
use crate::policy::grant::while_granted;
use crate::policy::jwt::{Claims, Verified};
use crate::policy::rate_limit::Quota;
use crate::policy::{cors, enforce};
use crate::route::{RequestView, location};
use crate::state::snapshot::HttpHandler;
use crate::telemetry::detail::Detail;
use crate::telemetry::{RequestRecord, Spoken};
use crate::worker::{ListenerView, WorkerCluster};
use crate::{prepare, reply, sanitize};

/// The route of hosts that nobody has declared, where these are not to be called (Istio's REGISTRY_ONLY).
const BLOCKED: &str = "block_all";

/// Answers a request. Never fails: what goes wrong becomes an answer.
///
/// Whoever calls this puts its future on the heap at once: hyper moves what a service returns through half a dozen hands,
/// and an idle HTTP/1.1 connection keeps room for one.
pub async fn serve(connection: Rc<Connection>, mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let is_http1 = request.version() != Version::HTTP_2;
    let view = connection.listener.view();
    let detail = Detail::begin(&connection, &view, &mut request);
    let direction = view.listener.config.direction;
    let mut record = RequestRecord::begin(Rc::clone(&connection), direction, detail);
    let grpc = headers::is_grpc(request.headers());
    let form = connection.worker.meters.form(request.method(), request.version());
    record.speaks(if grpc { Spoken::Grpc } else { Spoken::Http }, form);
    let (mut plan, mut way) = (Plan::default(), None);
    let next = plan.make(&mut way, &connection, &view, request, grpc, &mut record);
    let next = match plan.pause.take() {
        None => next,
        Some(pause) => Box::pin(late(*pause, next, &mut record)).await,
    };
    let is_sent = matches!(next, Ok(Next::Send(_)));
    let answered = match next {
        Ok(Next::Send(way)) => way.go(&connection, &view, &mut plan.outgoing, &mut record).await,
        Ok(Next::Answer(response)) => Ok(*response),
        Err(error) => Err(error),
    };
    if let (Some(place), Ok(response)) = (&plan.place, &answered)
        && matches!(response.body(), Body::Upstream(_))
    {
        place.answered(&connection.worker.random);
    }
    let mut response = answered.unwrap_or_else(|error| {
        record.failed(&error);
        let mut made_here = reply::error(&error, record.flags(), grpc);
        if let Some((route, share)) = plan.rules {
            apply_rules(&mut made_here, route, Some(share));
        }
        if is_http1 && error.is_doubtful() {
            made_here.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        made_here
    });
    if is_sent && given_up::is_failure(&response, grpc) {
        let direction = view.listener.config.direction;
        connection.worker.given_up.note(direction, response.headers_mut(), Moment::now());
    }
    if let Some(quota) = &plan.quota {
        quota.tell(response.headers_mut());
    }
    if is_http1 && connection.life.is_leaving() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    record.answer(&response);
    response.body_mut().carry(record);
    Ok(response)
}

/// An answer after a delay on purpose. On the heap, so that the future of every other request is no larger for it.
async fn late<'p, 'a>(
    pause: Pause,
    next: Result<Next<'p, 'a>, ProxyError>,
    record: &mut RequestRecord,
) -> Result<Next<'p, 'a>, ProxyError> {
    record.delayed();
    let waited = pin!(async {
        pause.over().await;
        Ok(())
    });
    while_granted(record.grant().map(|grant| &**grant), waited).await?;
    next
}

/// What comes next.
enum Next<'p, 'a> {
    /// It goes on.
    Send(&'p mut Way<'a>),
    /// It goes no further, and this is the answer. Rare, so on the heap.
    Answer(Box<Response<Body>>),
}

/// What is to be done with a request. Filled in where it lies: a value that is handed on is copied each time.
#[derive(Default)]
struct Plan<'a> {
    /// What is sent on.
    outgoing: Option<Request<RequestBody>>,
    /// Whose header operations hold for answers made here as well (Envoy).
    rules: Option<(&'a Route, &'a WeightedCluster)>,
    /// A delay on purpose.
    pause: Option<Box<Pause>>,
    /// What is left of a rate limit.
    quota: Option<Box<Quota>>,
    /// Its place at the own app, where these are counted.
    place: Option<Place>,
}

impl<'a> Plan<'a> {
    /// Decides, without waiting for anything.
    fn make<'p>(
        &mut self,
        way: &'p mut Option<Way<'a>>,
        connection: &Connection,
        view: &'a Rc<ListenerView>,
        request: Request<Incoming>,
        grpc: bool,
        record: &mut RequestRecord,
    ) -> Result<Next<'p, 'a>, ProxyError> {
        let (http, manager) = http_of(view)?;
        let (direction, is_surplus) = (view.listener.config.direction, connection.life.is_surplus());
        self.place = connection.worker.overload.admit(direction, is_surplus).map_err(ProxyError::Overloaded)?;
        let (mut parts, body) = request.into_parts();
        let upgrade = Upgrade::take(&mut parts, &body, &manager.upgrades)?;
        heads::check(connection, &parts)?;
        let held = sanitize::request(&mut parts, sanitize::Rules::of(manager, connection.peer.is_some()))?;
        prepare::arrival(&mut parts.headers, connection.forwarded.as_ref());
        let token = enforce::authenticate(connection, http, &mut parts, |parts| look(parts, None))?;
        let seen = look(&parts, token.as_deref().map(Verified::claims));
        let found = find(http, &seen);
        if let Some(found) = found {
            view.named(&connection.worker, found, |names| record.route(found, names));
        }
        let route = found.and_then(|(host, at)| http.table.route(host, at));
        if let Some(route) = route
            && !held.shared(route.refused_in_path).is_empty()
        {
            return Err(sanitize::refused_in_path(held.shared(route.refused_in_path)));
        }
        let to = found.zip(route).and_then(|(found, route)| choose(connection, view, http, found, route));
        if let Some((_, _, _, Some(cluster))) = to {
            record.calls(cluster.target(&connection.worker, || seen.authority));
        } else if to.is_none() && route.is_some_and(|route| route.name == BLOCKED) {
            record.calls(connection.worker.meters.blocked(seen.authority));
        }
        self.rules = to.map(|(route, _, share, _)| (route, share));
        record.granted(enforce::authorize(connection, view, route, &parts, token.as_ref())?);
        if let Some(limiter) = &http.limiter {
            self.quota = limiter.admit(&seen, &connection.worker.stats)?;
        }
        let (Some((host, _)), Some(route)) = (found, route) else { return Err(no_route(&parts)) };
        if let Some(fault) = &route.fault {
            fault::inject(fault, &connection.worker, &mut self.pause)?;
        }
        if let Some(answer) = answer_of(route, &seen, grpc) {
            return Ok(Next::Answer(Box::new(answer)));
        }
        let (route, forward, share, cluster) = to.ok_or_else(|| no_route(&parts))?;
        let cluster = cluster.ok_or_else(|| ProxyError::NoCluster(share.cluster.to_string()))?;
        let host = http.table.config().virtual_hosts.get(host);
        let attempt_count = host.map(|host| host.attempt_count).unwrap_or_default();
        let to = Destination { route, forward, share, cluster, attempt_count };
        let way = way.insert(Way::prepare(to, connection, view, manager.streams, &mut parts, upgrade, grpc)?);
        if let Some(detail) = record.detail() {
            detail.prepared(&way.cluster().shared, &parts);
        }
        self.outgoing = Some(Request::from_parts(parts, RequestBody::new(body, way.end(), record)));
        Ok(Next::Send(way))
    }
}

/// What a route answers by itself.
fn answer_of(route: &Route, seen: &RequestView<'_>, grpc: bool) -> Option<Response<Body>> {
    let mut answer = match &route.action {
        Action::Redirect(redirect) => reply::redirect(redirect, &location(redirect, &route.matcher.path, seen), grpc),
        Action::Direct(direct) => reply::direct(direct, grpc),
        Action::Forward(_) => return cors::preflight(route.cors.as_ref()?, seen.method, seen.headers),
    };
    apply_rules(&mut answer, route, None);
    Some(answer)
}

fn http_of(view: &ListenerView) -> Result<(&HttpHandler, &ir::HttpManager), ProxyError> {
    let both = view.listener.http().zip(view.listener.config.protocol.http());
    // Otherwise a push has made a TCP port of it, and this connection is older.
    both.ok_or(ProxyError::BadRequest { status: StatusCode::BAD_REQUEST, reason: "this port is for TCP now" })
}

/// The virtual host and route that take a request.
pub(crate) fn find(http: &HttpHandler, request: &RequestView<'_>) -> Option<(usize, usize)> {
    let host = http.table.host(request.authority)?;
    http.table.find(host, request).map(|route| (host, route))
}

/// Where a route leads this time: itself and its forwarding, the share that was drawn, and that share's cluster if there
/// is such a one.
type Chosen<'a> = (&'a Route, &'a Forward, &'a WeightedCluster, Option<&'a Rc<WorkerCluster>>);

/// Draws one of the route's clusters, before policies are asked: the header operations of a share hold for their refusals
/// too (Envoy). `None` when the route leads nowhere.
fn choose<'a>(
    connection: &Connection,
    view: &'a ListenerView,
    http: &HttpHandler,
    (host, at): (usize, usize),
    route: &'a Route,
) -> Option<Chosen<'a>> {
    let Action::Forward(forward) = &route.action else { return None };
    let chosen = http.targets.get(http.table.position(host, at)?)?.choose(&connection.worker.random)?;
    let share = forward.clusters.as_slice().get(chosen.share)?;
    Some((route, forward, share, chosen.cluster.and_then(|index| view.view.clusters.get(index))))
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

#[cold]
fn no_route(parts: &Parts) -> ProxyError {
    ProxyError::NoRoute { authority: sanitize::authority(parts).to_owned(), path: parts.uri.path().to_owned() }
}
