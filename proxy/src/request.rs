//! THE pipeline: what happens to a request, in the order in which it happens.
//!
//! ```text
//! sanitize → route → redirect / direct response / CORS preflight
//!                  → header rules, rewrite → attempts → header rules → body
//! ```
//!
//! The snapshot is taken once, at the top, and nothing below looks at any other configuration.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use leno_config::ir::{self, Action, Forward, Route, WeightedCluster};
use tokio::time::{Instant, Sleep};

use crate::attempt::{Answer, Attempts, Protocol};
use crate::body::{Body, RequestBody, RequestEnd, UpstreamBody};
use crate::downstream::Connection;
use crate::downstream::upgrade::{self, Upgrade};
use crate::error::{Flag, ProxyError};
use crate::headers::{self, name};
use crate::policy::cors;
use crate::route::{RequestView, location, rewrite_path};
use crate::state::snapshot::{Chosen, Handler, HttpHandler};
use crate::telemetry::RequestRecord;
use crate::worker::ListenerView;
use crate::{reply, sanitize};

/// Answers a request. Never fails: what goes wrong becomes an answer.
pub async fn serve(connection: &Connection, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let started = Instant::now();
    let grpc = headers::is_grpc(request.headers());
    let view = connection.listener.view();
    let mut exchange = Exchange { connection, view: &view, started, route: None };
    let (response, flag) = match exchange.answer(request).await {
        Ok(response) => (response, Flag::None),
        Err(error) => (reply::error(&error, grpc), error.reply().flag),
    };
    let slot = view.slot(&connection.worker, exchange.route);
    let status = response.status().as_u16();
    let record = RequestRecord::new(slot, connection.worker.stats.clone(), started, status, flag);
    Ok(response.map(|body| body.with_record(record)))
}

/// One request and its answer.
struct Exchange<'a> {
    connection: &'a Connection,
    view: &'a Rc<ListenerView>,
    started: Instant,
    /// Virtual host and route, once found.
    route: Option<(usize, usize)>,
}

impl Exchange<'_> {
    async fn answer(&mut self, request: Request<Incoming>) -> Result<Response<Body>, ProxyError> {
        let view = Rc::clone(self.view);
        let Handler::Http(http) = &view.listener.handler else {
            return Err(ProxyError::BadRequest { status: StatusCode::BAD_REQUEST, reason: "this port is for TCP" });
        };
        let ir::ListenerProtocol::Http(manager) = &view.listener.config.protocol else {
            return Err(ProxyError::BadRequest { status: StatusCode::BAD_REQUEST, reason: "this port is for TCP" });
        };
        let (mut parts, body) = request.into_parts();
        let upgrade = Upgrade::take(&mut parts, &manager.upgrades)?;
        sanitize::request(&mut parts, manager.path)?;
        let (host, at) = self.find(http, &parts)?;
        let route = http.table.route(host, at).ok_or_else(|| no_route(&parts))?;
        match &route.action {
            Action::Redirect(redirect) => {
                let to = location(redirect, &route.matcher.path, &self.look(&parts));
                Ok(with_rules(reply::redirect(redirect, &to), route, None))
            }
            Action::Direct(direct) => Ok(with_rules(reply::direct(direct), route, None)),
            Action::Forward(forward) => {
                let preflight =
                    route.cors.as_ref().and_then(|cors| cors::preflight(cors, &parts.method, &parts.headers));
                if let Some(answer) = preflight {
                    return Ok(answer);
                }
                let position = http.table.position(host, at).unwrap_or_default();
                let chosen = http.targets.get(position).and_then(|all| all.choose(&self.connection.worker.random));
                let chosen = chosen.ok_or_else(|| no_route(&parts))?;
                self.forward(parts, body, upgrade, route, forward, chosen).await
            }
        }
    }

    fn find(&mut self, http: &HttpHandler, parts: &Parts) -> Result<(usize, usize), ProxyError> {
        let look = self.look(parts);
        let host = http.table.host(look.authority).ok_or_else(|| no_route(parts))?;
        let route = http.table.find(host, &look).ok_or_else(|| no_route(parts))?;
        self.route = Some((host, route));
        Ok((host, route))
    }

    fn look<'a>(&self, parts: &'a Parts) -> RequestView<'a> {
        RequestView {
            method: &parts.method,
            scheme: "http",
            authority: sanitize::authority(parts),
            path: parts.uri.path(),
            query: parts.uri.query(),
            headers: &parts.headers,
        }
    }

    async fn forward(
        &self,
        mut parts: Parts,
        body: Incoming,
        upgrade: Option<Upgrade>,
        route: &Route,
        forward: &Forward,
        chosen: Chosen,
    ) -> Result<Response<Body>, ProxyError> {
        let share = forward.clusters.as_slice().get(chosen.share).ok_or_else(|| no_route(&parts))?;
        let cluster = chosen.cluster.and_then(|index| self.view.view.clusters.get(index));
        let cluster = cluster.ok_or_else(|| ProxyError::NoCluster(share.cluster.to_string()))?;
        let origin = route.cors.as_ref().and_then(|_| parts.headers.get(header::ORIGIN).cloned());
        let http2 = parts.version == Version::HTTP_2;
        let timeout = timeout_of(forward, &parts.headers);

        self.prepare(&mut parts, route, forward, share, timeout)?;
        if let Some(upgrade) = &upgrade {
            upgrade.ask(&mut parts)?;
        }
        let end = timeout.map(|_| RequestEnd::default());
        let body = RequestBody::new(body, end.clone());
        let protocol = Protocol::of(cluster.shared.config.protocol, http2, upgrade.is_some());
        let attempts = Attempts { worker: &self.connection.worker, view: &self.view.view, cluster, protocol };
        let mut deadline = timeout.zip(end).map(|(limit, end)| Deadline::new(limit, end));
        let sent = Instant::now();
        let sending = pin!(attempts.send(parts, body));
        let answer = match &mut deadline {
            None => sending.await?,
            Some(deadline) => within(deadline, sending).await?,
        };
        let took = sent.elapsed();

        let record = || {
            let slot = self.view.slot(&self.connection.worker, self.route);
            let stats = self.connection.worker.stats.clone();
            RequestRecord::new(slot, stats, self.started, StatusCode::SWITCHING_PROTOCOLS.as_u16(), Flag::None)
        };
        let mut response = match upgrade {
            Some(upgrade) if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                upgrade::tunnel(self.connection, upgrade, answer, record())
            }
            Some(_) | None => receive(answer, deadline),
        };
        let headers = response.headers_mut();
        headers.insert(name::SERVICE_TIME, HeaderValue::from(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)));
        if let Some(cors) = &route.cors {
            cors::mark_response(cors, origin.as_ref(), headers);
        }
        Ok(with_rules(response, route, Some(share)))
    }

    /// What the endpoint sees differs from what the caller sent by this.
    fn prepare(
        &self,
        parts: &mut Parts,
        route: &Route,
        forward: &Forward,
        share: &WeightedCluster,
        timeout: Option<Duration>,
    ) -> Result<(), ProxyError> {
        let fields = &mut parts.headers;
        headers::remove_hop_by_hop(fields);
        if !fields.contains_key(name::REQUEST_ID) {
            fields.insert(name::REQUEST_ID, headers::request_id(&self.connection.worker.random));
        }
        if !fields.contains_key(name::FORWARDED_PROTO) {
            fields.insert(name::FORWARDED_PROTO, HeaderValue::from_static("http"));
        }
        if let Some(limit) = timeout {
            let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            fields.insert(name::EXPECTED_TIME, HeaderValue::from(millis));
        }
        headers::apply(&route.request_headers, fields);
        headers::apply(&share.request_headers, fields);
        if let Some(rewrite) = &forward.path_rewrite {
            let original = parts.uri.path_and_query().map_or("/", |target| target.as_str());
            if let Ok(original) = HeaderValue::from_str(original) {
                parts.headers.insert(name::ORIGINAL_PATH, original);
            }
            let target = rewrite_path(rewrite, &route.matcher.path, parts.uri.path(), parts.uri.query());
            sanitize::set_target(parts, target)?;
        }
        match forward.host_rewrite.as_deref().or(share.host_rewrite.as_deref()) {
            Some(host) => sanitize::set_host(parts, host),
            None => Ok(()),
        }
    }
}

/// The answer of an endpoint as the caller gets it.
fn receive(answer: Answer, deadline: Option<Deadline>) -> Response<Body> {
    let Answer { response, lease, in_flight } = answer;
    let (mut head, incoming) = response.into_parts();
    headers::remove_hop_by_hop(&mut head.headers);
    let deadline = deadline.and_then(Deadline::into_sleep);
    let body = UpstreamBody::new(incoming, lease, in_flight, deadline);
    // What hyper keeps beside a head (upgrades, reason phrases) ends here; the version is the caller's connection's.
    let mut passed = Response::new(Body::Upstream(body));
    *passed.status_mut() = head.status;
    *passed.headers_mut() = head.headers;
    passed
}

/// Applies the response header operations of the route, then of the destination.
fn with_rules(mut response: Response<Body>, route: &Route, share: Option<&WeightedCluster>) -> Response<Body> {
    headers::apply(&route.response_headers, response.headers_mut());
    if let Some(share) = share {
        headers::apply(&share.response_headers, response.headers_mut());
    }
    response
}

#[cold]
fn no_route(parts: &Parts) -> ProxyError {
    ProxyError::NoRoute { authority: sanitize::authority(parts).to_owned(), path: parts.uri.path().to_owned() }
}

/// The route's timeout; a gRPC caller may ask for less, and for any where the route has none (Istio).
fn timeout_of(forward: &Forward, fields: &HeaderMap) -> Option<Duration> {
    const GRPC: HeaderName = name::GRPC_TIMEOUT;
    let asked = if fields.contains_key(GRPC) { headers::grpc_timeout(fields) } else { None };
    match (forward.timeout, asked) {
        (Some(route), Some(asked)) => Some(route.min(asked)),
        (route, asked) => route.or(asked),
    }
}

/// A route's timeout: it runs from the end of the request to the end of the answer (Envoy).
struct Deadline {
    limit: Duration,
    end: RequestEnd,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    fn new(limit: Duration, end: RequestEnd) -> Self {
        Self { limit, end, sleep: None }
    }

    /// Never ready before the request is complete; then after the limit.
    async fn passed(&mut self) {
        let Self { limit, end, sleep } = self;
        std::future::poll_fn(|context| end.poll(context)).await;
        sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(*limit))).as_mut().await;
    }

    fn into_sleep(self) -> Option<Pin<Box<Sleep>>> {
        self.sleep.or_else(|| Some(Box::pin(tokio::time::sleep(self.limit))))
    }
}

async fn within<T>(
    deadline: &mut Deadline,
    work: impl Future<Output = Result<T, ProxyError>> + Unpin,
) -> Result<T, ProxyError> {
    let limit = deadline.limit;
    tokio::select! {
        biased;
        done = work => done,
        () = deadline.passed() => Err(ProxyError::Timeout(limit)),
    }
}
