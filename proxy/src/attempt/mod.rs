//! Sending a request until it is answered, as far as that is safe.
//!
//! This version sends again only what cannot have had an effect:
//! * hyper hands the request back: not a byte of it left (a connection that the peer closed while it was idle);
//! * the endpoint cannot be connected to: another one is tried;
//! * the peer says it did not look at the stream (REFUSED_STREAM, GOAWAY), and the body has not moved;
//! * a *reused* connection closes before the first byte of an answer, and the request is idempotent and has no body
//!   (RFC 9110 §9.2.2): the keep-alive race, for which nobody should see a 503.

pub mod deadline;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::request::Parts;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use leno_config::ir::{Discovery, UpstreamProtocol};

use crate::body::{Reclaimable, RequestBody};
use crate::cluster::balance::PickContext;
use crate::cluster::limits::{Limit, Permit};
use crate::cluster::outcome::Outcome;
use crate::cluster::{EndpointState, InFlight, Members, Picked};
use crate::error::ProxyError;
use crate::tls::server::HandshakeError;
use crate::upstream::connect::{ConnectError, NoConnection, is_link_local};
use crate::upstream::pool::{Lease, Pool};
use crate::upstream::send::SendFailure;
use crate::worker::{View, Worker, WorkerCluster};

/// Sends of one request, the first included: a bound on what an unlucky row of dying connections can cost.
const MAX_SENDS: usize = 5;
/// Endpoints that are tried when connecting fails: Istio's default policy has two retries.
const MAX_ENDPOINTS: usize = 3;

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
    /// What consistent hashing goes by.
    pub hash: Option<u64>,
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

impl Attempts<'_> {
    /// Sends the request, again where that is safe, and returns the head of the answer.
    ///
    /// The request is taken out of `outgoing`: an argument by value would lie in the future twice.
    pub async fn send(&self, outgoing: &mut Option<Request<RequestBody>>) -> Result<Answer, ProxyError> {
        self.cluster.shared.stats.requests.fetch_add(1, Ordering::Relaxed);
        let mut tried: Vec<Arc<EndpointState>> = Vec::new();
        let mut failure = None;
        for _ in 0..MAX_SENDS {
            let Some(picked) = self.endpoint(&tried).await? else { break };
            let endpoint = Arc::clone(&picked.endpoint);
            let in_flight = picked.begin();
            let (mut lease, permit) = match self.lease(&endpoint).await {
                Ok(lease) => lease,
                Err(NoConnection::Refused(overflow)) => {
                    return Err(ProxyError::Overflow { cluster: self.name(), overflow });
                }
                Err(NoConnection::Failed(error)) => {
                    self.cluster.report(&in_flight, Outcome::of_connect(&error));
                    failure = Some(self.connect_error(endpoint.address, &error));
                    tried.push(endpoint);
                    if tried.len() < MAX_ENDPOINTS {
                        continue;
                    }
                    break;
                }
            };
            let Some(mut request) = outgoing.take() else { break };
            let copy = Copy::keep(&mut request, &lease, self.protocol);
            match lease.send(request).await {
                Ok(response) => {
                    self.cluster.report(&in_flight, Outcome::of_answer(response.status(), response.headers()));
                    return Ok(Answer { response, lease, in_flight, permit });
                }
                Err(SendFailure::Unsent(back)) => {
                    failure = Some(self.closed(endpoint.address, "it was closed before the request could be sent"));
                    *outgoing = Some(*back);
                }
                Err(failed) => {
                    self.cluster.report(&in_flight, Outcome::Reset);
                    *outgoing = copy.and_then(|copy| copy.again(&failed));
                    failure = Some(self.send_error(endpoint.address, failed));
                }
            }
            if outgoing.is_none() {
                break;
            }
            self.cluster.shared.stats.unsent_retries.fetch_add(1, Ordering::Relaxed);
        }
        Err(failure.unwrap_or_else(|| ProxyError::NoEndpoint(self.name())))
    }

    /// The next endpoint to try; `None` when there is none left.
    async fn endpoint(&self, tried: &[Arc<EndpointState>]) -> Result<Option<Picked>, ProxyError> {
        let picked = match &self.cluster.shared.members {
            Members::Balanced(_) => {
                let context =
                    PickContext { random: &self.worker.random, tried, other_priorities: false, hash: self.hash };
                let untried = |picked: &Picked| tried.iter().all(|tried| !Arc::ptr_eq(tried, &picked.endpoint));
                self.cluster.pick(&context).filter(untried)
            }
            Members::RequestHost => Box::pin(self.resolve(tried)).await?.map(Picked::share),
            Members::OriginalDestination => None,
        };
        if let Some(picked) = &picked {
            self.guard(picked.endpoint.address)?;
        }
        Ok(picked)
    }

    /// The request's host is outside the mesh: its own name says where it is. One address after another: `localhost` is
    /// `::1` and `127.0.0.1`, and an app often listens on one of them only.
    async fn resolve(&self, tried: &[Arc<EndpointState>]) -> Result<Option<Arc<EndpointState>>, ProxyError> {
        let authority = self.host.unwrap_or_default();
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            _ => (authority, Some(80)),
        };
        let failed = |reason: String| ProxyError::Dns { host: host.to_owned(), reason };
        let port = port.ok_or_else(|| failed("the port is not a number below 65536".to_owned()))?;
        let found = self.worker.dns.resolve(host).await.map_err(|error| failed(error.to_string()))?;
        let mut allowed =
            found.iter().filter(|ip| !is_link_local(**ip)).map(|ip| SocketAddr::new(*ip, port)).peekable();
        if allowed.peek().is_none() {
            let first = found.first().ok_or_else(|| failed("it has no address".to_owned()))?;
            let reason = "a link-local address is reached only when a rule names it";
            return Err(ProxyError::Forbidden { address: SocketAddr::new(*first, port), reason });
        }
        let untried = allowed.find(|address| tried.iter().all(|tried| tried.address != *address));
        Ok(untried.map(|address| Arc::new(EndpointState::new(address))))
    }

    /// A proxy that calls its own listener goes round in a circle until something breaks. Its own inbound listener is a
    /// legitimate endpoint of its own service, though, and ends at the app.
    fn guard(&self, address: SocketAddr) -> Result<(), ProxyError> {
        let reserved = self.worker.reserved.get().is_some_and(|reserved| reserved.contains(&address));
        let own = match self.cluster.shared.config.discovery {
            Discovery::Eds { .. } => self.view.shared.is_own_outbound(address),
            Discovery::Static(_) | Discovery::Dns(_) | Discovery::OriginalDestination | Discovery::RequestHost => {
                self.view.shared.is_own(address)
            }
        };
        if reserved {
            let reason = "it is an address of this proxy for operators";
            return Err(ProxyError::Forbidden { address, reason });
        }
        if own {
            let reason = "it is a listener of this very proxy, and the request would go round in a circle";
            return Err(ProxyError::Forbidden { address, reason });
        }
        Ok(())
    }

    /// A connection that can carry the request, and leave to use it. As Envoy has it, who has no connection yet counts
    /// as pending, and who has one as a request. Opening one is rare and its future large: it goes to the heap, so that
    /// every request's future stays small.
    async fn lease(&self, endpoint: &EndpointState) -> Result<(Lease, Permit), NoConnection> {
        let pool = self.cluster.pool(self.worker, endpoint, self.host);
        let idle = match self.protocol {
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

    fn name(&self) -> String {
        self.cluster.shared.config.name.to_string()
    }

    fn connect_error(&self, address: SocketAddr, error: &ConnectError) -> ProxyError {
        let timed_out = match error {
            ConnectError::TimedOut(_) | ConnectError::Tls(HandshakeError::TimedOut) => true,
            ConnectError::Io(_)
            | ConnectError::Tls(
                HandshakeError::NoIdentity | HandshakeError::NotValidNow(_) | HandshakeError::Failed(_),
            ) => false,
        };
        ProxyError::Connect { cluster: self.name(), address, reason: error.to_string(), timed_out }
    }

    fn closed(&self, address: SocketAddr, reason: &str) -> ProxyError {
        ProxyError::Closed { cluster: self.name(), address, reason: reason.to_owned() }
    }

    fn send_error(&self, address: SocketAddr, failure: SendFailure) -> ProxyError {
        let cluster = self.name();
        match failure {
            SendFailure::Unsent(_) => self.closed(address, "it was closed before the request could be sent"),
            SendFailure::Closed(error) => ProxyError::Closed { cluster, address, reason: error.to_string() },
            SendFailure::Unprocessed(error) | SendFailure::Reset(error) => {
                ProxyError::Reset { cluster, address, reason: error.to_string() }
            }
            SendFailure::Protocol(error) => {
                ProxyError::UpstreamProtocol { cluster, address, reason: error.to_string() }
            }
        }
    }
}

/// What is kept of a request that may have to be sent again.
struct Copy {
    head: Parts,
    body: Option<Rc<Reclaimable>>,
    idempotent: bool,
}

impl Copy {
    /// A copy costs something, so it is kept only where it can be of use.
    fn keep(request: &mut Request<RequestBody>, lease: &Lease, protocol: Protocol) -> Option<Self> {
        let empty = matches!(request.body(), RequestBody::Empty);
        let idempotent = matches!(
            *request.method(),
            Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
        );
        let worth = match protocol {
            Protocol::Http1 => empty && idempotent && lease.is_reused(),
            Protocol::Http2 => true,
        };
        if !worth {
            return None;
        }
        let body = (!empty).then(|| {
            let shared = std::mem::replace(request.body_mut(), RequestBody::Empty).reclaimable();
            *request.body_mut() = RequestBody::Reclaimable(Rc::clone(&shared));
            shared
        });
        let mut head = Request::new(()).into_parts().0;
        head.method = request.method().clone();
        head.uri = request.uri().clone();
        head.version = request.version();
        head.headers = request.headers().clone();
        Some(Self { head, body, idempotent })
    }

    /// The request to be sent once more, where that is safe after this failure.
    fn again(self, failure: &SendFailure) -> Option<Request<RequestBody>> {
        let body = match &self.body {
            Some(shared) => shared.reclaim(),
            None => Some(RequestBody::Empty),
        };
        let safe = match failure {
            SendFailure::Unprocessed(_) => true,
            SendFailure::Closed(_) => self.idempotent && self.body.is_none(),
            SendFailure::Unsent(_) | SendFailure::Reset(_) | SendFailure::Protocol(_) => false,
        };
        body.filter(|_| safe).map(|body| Request::from_parts(self.head, body))
    }
}
