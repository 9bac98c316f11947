//! A webhook of a test: real HTTPS, and a closure that answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::certificates::Authority;
use super::{Running, run};
use crate::client::{Body, full};

/// Largest review that is read.
const REVIEW_LIMIT: usize = 3 << 20;

/// An `AdmissionReview` that was sent to a webhook.
#[derive(Debug, Clone)]
pub struct ShownReview(pub Value);

/// What a webhook says to a review: `allowed`, and perhaps `patch` (operations, not yet encoded), `status`, `warnings`.
type Verdict = dyn Fn(&Value) -> Value + Send + Sync;

/// A running webhook. It ends with the value.
#[derive(Debug)]
pub struct Webhook {
    address: SocketAddr,
    authority: Authority,
    reviews: Arc<Mutex<Vec<ShownReview>>>,
    _running: Running,
}

impl Webhook {
    /// Starts one with a certificate of its own for `127.0.0.1` and `leno.leno-system.svc`.
    pub fn start(verdict: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        let authority = Authority::new();
        let tls = authority.accept_http1(&authority.server(&["localhost", "leno.leno-system.svc"]));
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port can be bound");
        let address = listener.local_addr().expect("a listener has an address");
        let reviews = Arc::new(Mutex::new(Vec::new()));
        let (book, verdict): (_, Arc<Verdict>) = (Arc::clone(&reviews), Arc::new(verdict));
        let running = run("webhook", listener, move |listener| serve(listener, tls, verdict, book));
        Self { address, authority, reviews, _running: running }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://127.0.0.1:PORT/`
    pub fn url(&self) -> String {
        format!("https://{}/", self.address)
    }

    /// Its authority, as a configuration carries it.
    pub fn ca_bundle(&self) -> String {
        STANDARD.encode(self.authority.pem())
    }

    /// What it was asked, in order.
    pub fn reviews(&self) -> Vec<ShownReview> {
        self.reviews.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

type Book = Arc<Mutex<Vec<ShownReview>>>;

async fn serve(listener: tokio::net::TcpListener, tls: Arc<rustls::ServerConfig>, verdict: Arc<Verdict>, book: Book) {
    let tls = TlsAcceptor::from(tls);
    let mut conversations = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while conversations.try_join_next().is_some() {}
        let (tls, verdict, book) = (tls.clone(), Arc::clone(&verdict), Arc::clone(&book));
        conversations.spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request| answer(Arc::clone(&verdict), Arc::clone(&book), request));
            // A caller that leaves in the middle is nobody's fault here.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    verdict: Arc<Verdict>,
    book: Book,
    request: http::Request<Incoming>,
) -> Result<http::Response<Body>, std::io::Error> {
    let body = Limited::new(request.into_body(), REVIEW_LIMIT).collect().await.map_err(std::io::Error::other)?;
    let review: Value = serde_json::from_slice(&body.to_bytes()).map_err(std::io::Error::other)?;
    book.lock().unwrap_or_else(PoisonError::into_inner).push(ShownReview(review.clone()));
    let mut response = verdict(&review);
    response["uid"] = review["request"]["uid"].clone();
    if let Some(patch) = response.get("patch").filter(|patch| patch.is_array()) {
        response["patch"] = json!(STANDARD.encode(patch.to_string()));
        response["patchType"] = json!("JSONPatch");
    }
    let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    Ok(http::Response::new(full(answer.to_string())))
}
