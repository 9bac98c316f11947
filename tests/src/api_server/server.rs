//! The socket: TLS, HTTP/1.1 and HTTP/2, who is calling, and which answer a path has.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::faults::{Failure, Outage};
use super::request::{Query, Request, Target, User, Verb};
use super::state::State;
use super::status::Status;
use super::{access, discovery, read, tokens, watch, write};
use crate::client::{Body, full};

/// Largest body, as the real server has it.
const BODY_LIMIT: usize = 3 << 20;

/// How long a handshake or a body may take.
const CALLER_PATIENCE: Duration = Duration::from_secs(30);

/// Connections at once.
const CONNECTIONS: usize = 1024;

/// What a request is answered with.
pub(super) enum Reply {
    /// A document.
    Json(StatusCode, Value),
    /// A watch.
    Events(Body),
}

/// Accepts connections until it is dropped, which ends them.
pub(super) async fn serve(listener: TcpListener, tls: Arc<rustls::ServerConfig>, state: Arc<State>) {
    let tls = TlsAcceptor::from(tls);
    let mut conversations = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while conversations.try_join_next().is_some() || conversations.len() >= CONNECTIONS {
            if conversations.len() >= CONNECTIONS {
                conversations.join_next().await;
            }
        }
        let (tls, state) = (tls.clone(), Arc::clone(&state));
        // A caller that leaves in the middle is nobody's fault here.
        conversations.spawn(async move {
            let _ = converse(stream, tls, state).await;
        });
    }
}

async fn converse(stream: TcpStream, tls: TlsAcceptor, state: Arc<State>) -> Result<(), Failed> {
    if state.ledger.outage() == Some(Outage::Closes) {
        return Ok(());
    }
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(CALLER_PATIENCE, tls.accept(stream)).await??;
    let (_, session) = stream.get_ref();
    let is_http2 = session.alpn_protocol() == Some(b"h2".as_slice());
    let certificate = session.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.as_ref().to_vec());
    let user = certificate.and_then(|certificate| state.callers.by_certificate(&certificate));
    let service = service_fn(move |request| {
        let (state, user) = (Arc::clone(&state), user.clone());
        async move { answer(&state, user, request).await.map_err(std::io::Error::other) }
    });
    let io = TokioIo::new(stream);
    if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).serve_connection(io, service).await?;
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(None).serve_connection(io, service).await?;
    }
    Ok(())
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// The response; an error breaks the connection.
async fn answer(
    state: &Arc<State>,
    certified: Option<User>,
    request: http::Request<Incoming>,
) -> Result<Response<Body>, Failed> {
    match state.ledger.outage() {
        Some(Outage::Closes) => return Err("the server is away, as the test wants it".into()),
        Some(Outage::Refuses) => return Ok(text(StatusCode::SERVICE_UNAVAILABLE, "no upstream\n")),
        None => {}
    }
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    if matches!(path.as_str(), "/healthz" | "/livez" | "/readyz") {
        return Ok(text(StatusCode::OK, "ok"));
    }
    let user = match state.callers.authenticate(state, certified, &head.headers) {
        Some(user) => user,
        None => return Ok(refusal(&Status::unauthorized())),
    };
    if let Some(response) = openid(state, &path, &head.headers) {
        return Ok(response);
    }
    let (target, document) = {
        let world = state.world();
        (Target::parse(&path, &world.catalogue), discovery::document(&path, &world.catalogue))
    };
    let Some(target) = target else {
        return Ok(match document {
            Some(document) => json(StatusCode::OK, &document),
            None => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        });
    };
    let query = Query::parse(head.uri.query().unwrap_or_default());
    let verb = match target.verb(&head.method, &query) {
        Ok(verb) => verb,
        Err(status) => return Ok(refusal(&status)),
    };
    let body = tokio::time::timeout(CALLER_PATIENCE, Limited::new(body, BODY_LIMIT).collect()).await?;
    let Ok(body) = body else {
        let why = format!("limit is {BODY_LIMIT}");
        return Ok(refusal(&Status::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", why)));
    };
    let Target { kind, version, namespace, name, subresource } = target;
    let (headers, body) = (head.headers, body.to_bytes());
    let warnings = Arc::default();
    let request = Request { verb, kind, version, namespace, name, subresource, query, headers, user, body, warnings };
    if let Err(status) = access::check(state, &request) {
        return Ok(refusal(&status));
    }
    let planned = state.ledger.begin(verb, &request.kind.plural);
    if let Some(Failure::Refused(status)) = &planned {
        return Ok(refusal(status));
    }
    if planned == Some(Failure::Hangs) {
        std::future::pending::<()>().await;
    }
    let warnings = Arc::clone(&request.warnings);
    let reply = dispatch(state, request).await;
    if planned == Some(Failure::Lost) {
        return Err("the answer is lost, as the test wants it".into());
    }
    let mut response = match reply {
        Ok(Reply::Json(code, value)) => json(code, &value),
        Ok(Reply::Events(body)) => typed(StatusCode::OK, "application/json", body),
        Err(status) => refusal(&status),
    };
    for warning in warnings.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        // As RFC 7234 writes it: 299, by nobody.
        if let Ok(value) = HeaderValue::from_str(&format!("299 - {warning:?}")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    Ok(response)
}

/// Where the keys of tokens are, and the keys.
fn openid(state: &State, path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let accepts = |kind: &str| {
        let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("*/*");
        accept
            .split(',')
            .any(|one| matches!(one.split(';').next(), Some(one) if one.trim() == kind || one.trim() == "*/*"))
    };
    let host = || headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost").to_owned();
    match path {
        "/.well-known/openid-configuration" => Some(json(StatusCode::OK, &tokens::openid_configuration(&host()))),
        "/openid/v1/jwks" if accepts("application/jwk-set+json") => {
            let keys = full(state.tokens.published().to_string());
            Some(typed(StatusCode::OK, "application/jwk-set+json", keys))
        }
        "/openid/v1/jwks" => Some(text(StatusCode::NOT_ACCEPTABLE, "406: Not Acceptable")),
        _ => None,
    }
}

/// Does what a request asks for.
pub(super) async fn dispatch(state: &Arc<State>, request: Request) -> Result<Reply, Status> {
    let made = |answer: write::Answer| answer.map(|(code, value)| Reply::Json(code, value));
    match request.verb {
        Verb::Get => read::get(state, &request).map(|object| Reply::Json(StatusCode::OK, object)),
        Verb::List => read::list(state, &request).map(|list| Reply::Json(StatusCode::OK, list)),
        Verb::Watch => watch::watch(state, request).map(Reply::Events),
        Verb::Create => made(write::create(state, &request).await),
        Verb::Update => made(write::update(state, &request).await),
        Verb::Patch => made(write::patch(state, &request).await),
        Verb::Delete => made(write::delete(state, &request).await),
        Verb::DeleteCollection => made(write::delete_collection(state, &request).await),
    }
}

fn refusal(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json(code, &status.to_value())
}

fn json(code: StatusCode, value: &Value) -> Response<Body> {
    typed(code, "application/json", full(format!("{value}\n")))
}

fn text(code: StatusCode, text: &'static str) -> Response<Body> {
    typed(code, "text/plain; charset=utf-8", full(text))
}

fn typed(code: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
