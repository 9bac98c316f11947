//! The HTTPS server of the webhooks: HTTP/1.1, one POST per question.
//!
//! Whoever reaches the port may ask (the API server shows no certificate, unless each API server is configured to), and
//! learns what injection would do and what is wrong with a rule, of which nothing is secret. What it may cost is bounded:
//! connections, questions at a time, the size of a question and the time for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionResponse, AdmissionReview};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error};

use super::injector;
use super::review::{self, BadReview};
use super::validate::{self, InForce};
use crate::kubernetes::counts::{Counts, ReviewVerdict, Webhook};

/// Connections at a time; an API server keeps a few open.
const CONNECTIONS: usize = 512;
/// Questions that are answered at a time; others get 503, and the API server does what `failurePolicy` says.
const QUESTIONS: usize = 64;
/// For a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// For a question to come in and its answer to be made; the API server waits for 10 s.
const TIMEOUT: Duration = Duration::from_secs(9);
/// An object has 1.5 MiB at most (etcd), and an update brings the old one along.
const MAX_BODY: usize = 4 << 20;
/// Questions under way may end when the process stops.
const DRAIN: Duration = Duration::from_secs(2);

/// Decides about a pod.
pub(crate) type Injector = Arc<dyn Fn(AdmissionReview<DynamicObject>) -> AdmissionResponse + Send + Sync>;

/// What is asked here.
#[derive(Clone)]
pub(crate) struct Webhooks {
    /// `/inject`
    pub(crate) inject: Injector,
    /// For `/validate`.
    pub(crate) in_force: InForce,
    pub(crate) counts: Counts,
}

/// Serves until `stop` resolves.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    webhooks: Webhooks,
    stop: impl Future<Output = ()>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let (room, turns) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Semaphore::new(QUESTIONS)));
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = accept(&listener, &room) => accepted,
        };
        let Some((socket, place)) = accepted else { continue };
        let (acceptor, webhooks, turns) = (acceptor.clone(), webhooks.clone(), Arc::clone(&turns));
        connections.spawn(async move {
            connection(socket, acceptor, webhooks, turns).await;
            drop(place);
        });
    }
    let _ = timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((socket, _)) => Some((socket, place)),
        // Out of descriptors, most likely: wait for some to come back.
        Err(_) => {
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// One client. An error here is the client's: it left, spoke something else, or does not believe us.
async fn connection(socket: TcpStream, acceptor: TlsAcceptor, webhooks: Webhooks, turns: Arc<Semaphore>) {
    let stream = match timeout(HANDSHAKE, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!("a handshake with a caller of the webhooks failed: {error}"),
        Err(_) => return,
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let (webhooks, turns) = (webhooks.clone(), Arc::clone(&turns));
        async move { Ok::<_, Infallible>(answer(request, webhooks, &turns).await) }
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Some(Duration::from_secs(60)))
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(request: Request<Incoming>, webhooks: Webhooks, turns: &Semaphore) -> Response<Full<Bytes>> {
    let question = match asked(&request) {
        Ok(question) => question,
        Err((status, reason)) => return text(status, reason),
    };
    let Ok(_turn) = turns.try_acquire() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "too many questions at a time; try again\n");
    };
    let answered = timeout(TIMEOUT, async {
        // Refused by what it says of itself, before any of it is read.
        if request.body().size_hint().lower() > MAX_BODY as u64 {
            return Err(TOO_LARGE);
        }
        let body = Limited::new(request.into_body(), MAX_BODY).collect().await.map_err(unread)?.to_bytes();
        let work = tokio::task::spawn_blocking(move || decide(question, &body, &webhooks));
        work.await.unwrap_or_else(|panic| {
            error!("a question of the API server could not be answered: {panic}");
            Ok(text(StatusCode::INTERNAL_SERVER_ERROR, "this is a fault in leno, please report it\n"))
        })
    });
    match answered.await {
        Ok(Ok(answer)) => answer,
        Ok(Err((status, reason))) => text(status, reason),
        Err(_) => text(StatusCode::REQUEST_TIMEOUT, "the question did not come in time\n"),
    }
}

type Refused = (StatusCode, &'static str);

const TOO_LARGE: Refused = (StatusCode::PAYLOAD_TOO_LARGE, "the question is larger than any object of Kubernetes\n");

fn asked<B>(request: &Request<B>) -> Result<Webhook, Refused> {
    let question = match request.uri().path() {
        "/inject" => Webhook::Inject,
        "/validate" => Webhook::Validate,
        _ => return Err((StatusCode::NOT_FOUND, "there is: POST /inject, POST /validate\n")),
    };
    if request.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "only POST is understood here\n"));
    }
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    match kind.eq_ignore_ascii_case("application/json") {
        true => Ok(question),
        false => Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "the question has to be application/json\n")),
    }
}

fn unread(error: Box<dyn std::error::Error + Send + Sync>) -> Refused {
    match error.is::<LengthLimitError>() {
        true => TOO_LARGE,
        false => (StatusCode::BAD_REQUEST, "the question did not come whole\n"),
    }
}

fn decide(webhook: Webhook, body: &[u8], webhooks: &Webhooks) -> Result<Response<Full<Bytes>>, Refused> {
    let answer = match (review::read(body), webhook) {
        (Ok(review), Webhook::Inject) => Ok((webhooks.inject)(review)),
        (Ok(review), Webhook::Validate) => Ok(validate::admission(review, &(webhooks.in_force)())),
        (Err(BadReview::Unreadable { uid, reason }), _) => Err(review::refusal(uid, &reason)),
        (Err(reason @ BadReview::NotAReview(_)), _) => {
            webhooks.counts.reviewed(webhook, ReviewVerdict::Failed);
            return Ok(text(StatusCode::BAD_REQUEST, format!("{reason}\n")));
        }
    };
    let verdict = match &answer {
        Ok(answer) if !answer.allowed => ReviewVerdict::Denied,
        Ok(answer) if answer.patch.is_some() => ReviewVerdict::Patched,
        Ok(_) => ReviewVerdict::Allowed,
        Err(_) => ReviewVerdict::Failed,
    };
    webhooks.counts.reviewed(webhook, verdict);
    Ok(match injector::written(answer.unwrap_or_else(|refusal| refusal)) {
        Ok(body) => with_type(StatusCode::OK, Bytes::from(body), "application/json"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer cannot be written: {error}\n")),
    })
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    with_type(status, body.into(), "text/plain; charset=utf-8")
}

fn with_type(status: StatusCode, body: Bytes, content_type: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
