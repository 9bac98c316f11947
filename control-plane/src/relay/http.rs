//! What is answered by asking proxies: who is connected, questions to one of them, and what all of them count.
//!
//! | path | answer |
//! |---|---|
//! | `GET /proxies` | all connected proxies, JSON |
//! | `GET /proxies/NODE/PATH?query` | what the admin interface of that proxy answers to `GET /PATH?query` |
//! | `POST /proxies/NODE/logging?level=…` | the same for the one command that may be given from afar |
//! | `GET /figures?window=60s` | what all of them counted in a while that ends now: [`crate::figures`] |
//!
//! NODE is a whole node id (percent-encoded), `NAME.NAMESPACE`, or a name that only one proxy has. An answer is passed on
//! as it comes, at the pace of who reads it; a tap goes on until its reader leaves.
//!
//! A web page that a person opens on this machine reaches loopback too. It cannot read the answers, since they allow no
//! other origin, and commands that come from a page are refused: browsers mark them with `Origin`.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use leno_config::node::Node;
use leno_proxy::relay::wire::Head;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::answer::Answer;
use super::line::AskError;
use super::switchboard::{NotFound, Switchboard};
use crate::ads::push::Hub;
use crate::ads::status::rfc3339;
use crate::figures::gather::Gatherer;
use crate::figures::view;
use crate::percent;

/// Where proxies are.
pub(crate) const PROXIES: &str = "/proxies";
/// Where their figures are.
pub(crate) const FIGURES: &str = "/figures";
/// Answers that are passed on at a time, taps among them; others get 503.
const RELAYED: usize = 128;

/// A connected proxy, as `GET /proxies` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProxyEntry {
    /// Its node id.
    pub(crate) node: String,
    /// Name of the instance.
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) workload: String,
    /// Of its discovery stream; RFC 3339, UTC.
    pub(crate) connected_since: String,
    /// Whether it can be asked.
    pub(crate) relay: bool,
}

/// What an HTTP response may hold here.
pub(crate) type Body = Either<Full<Bytes>, Answer>;

/// Answers what is below [`PROXIES`], and [`FIGURES`].
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    switchboard: Arc<Switchboard>,
    gatherer: Arc<Gatherer>,
    hub: Arc<Hub>,
    room: Arc<Semaphore>,
}

impl Desk {
    pub(crate) fn new(switchboard: Arc<Switchboard>, gatherer: Arc<Gatherer>, hub: Arc<Hub>) -> Self {
        Self { switchboard, gatherer, hub, room: Arc::new(Semaphore::new(RELAYED)) }
    }

    /// Whether the path is answered here.
    pub(crate) fn answers(path: &str) -> bool {
        path == FIGURES || path.strip_prefix(PROXIES).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The answer to a request whose path is one of these.
    pub(crate) async fn answer(&self, request: &Request<()>) -> Response<Body> {
        if request.uri().path() == FIGURES {
            return self.figures(request).await;
        }
        let path = request.uri().path().strip_prefix(PROXIES).unwrap_or_default();
        let Some((node, path)) = split(path) else {
            return match *request.method() {
                Method::GET => self.list(),
                _ => text(StatusCode::METHOD_NOT_ALLOWED, "only GET is understood here"),
            };
        };
        if request.method() != Method::GET && request.headers().contains_key(header::ORIGIN) {
            return text(StatusCode::FORBIDDEN, "a web page may not give commands to proxies");
        }
        let Ok(place) = Arc::clone(&self.room).try_acquire_owned() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "too many answers of proxies are under way; try again");
        };
        let path_and_query = match request.uri().query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        let line = match self.switchboard.find(&node, &self.nodes()) {
            Ok(line) => line,
            Err(error) => return text(not_found(&error), &error.to_string()),
        };
        match line.ask(request.method().as_str(), &path_and_query).await.and_then(respond) {
            Ok(response) => response.map(|answer| Either::Right(answer.with_place(place))),
            Err(error) => text(failed(&error), &format!("{}: {error}", line.id)),
        }
    }

    fn list(&self) -> Response<Body> {
        let entry = |node: &Node, since| ProxyEntry {
            node: node.id(),
            name: node.name.clone(),
            namespace: node.namespace.clone(),
            workload: node.workload.clone(),
            connected_since: rfc3339(since),
            relay: self.switchboard.has(&node.id()),
        };
        let streams = self.hub.streams();
        let mut entries = streams.iter().map(|stream| entry(&stream.node, stream.connected)).collect::<Vec<_>>();
        entries.sort_by(|one, other| one.node.cmp(&other.node));
        entries.dedup_by(|one, other| one.node == other.node);
        json(&entries)
    }

    async fn figures(&self, request: &Request<()>) -> Response<Body> {
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is understood here");
        }
        let query = request.uri().query().unwrap_or_default();
        let window = match query.strip_prefix("window=").map(view::parse_window) {
            Some(window) => window,
            None if query.is_empty() => Ok(view::USUAL),
            None => Err("the only parameter is window, as in /figures?window=60s".to_owned()),
        };
        match window {
            Ok(window) => json(&self.gatherer.view(window).await),
            Err(reason) => text(StatusCode::BAD_REQUEST, &reason),
        }
    }

    /// Everyone who holds a discovery stream.
    fn nodes(&self) -> Vec<Node> {
        self.hub.streams().iter().map(|stream| stream.node.clone()).collect()
    }
}

/// `/NODE/PATH` in two; `None` where no node is named.
fn split(path: &str) -> Option<(String, &str)> {
    let path = path.strip_prefix('/').filter(|path| !path.is_empty())?;
    let end = path.find('/').unwrap_or(path.len());
    let (node, rest) = path.split_at(end);
    Some((percent::decoded(node), if rest.is_empty() { "/" } else { rest }))
}

fn respond((head, answer): (Head, Answer)) -> Result<Response<Answer>, AskError> {
    let Head { id: _, status, content_type } = head;
    let code = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let mut response = Response::new(answer);
    *response.status_mut() = code.filter(|code| code.as_u16() >= 200).ok_or(AskError::Status(status))?;
    if let Ok(value) = header::HeaderValue::from_str(&content_type)
        && !value.is_empty()
    {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    Ok(response)
}

fn not_found(error: &NotFound) -> StatusCode {
    match error {
        NotFound::Unknown { .. } | NotFound::Ambiguous { .. } => StatusCode::NOT_FOUND,
        NotFound::NoStream(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn failed(error: &AskError) -> StatusCode {
    match error {
        AskError::Busy => StatusCode::SERVICE_UNAVAILABLE,
        AskError::Silent => StatusCode::GATEWAY_TIMEOUT,
        AskError::Gone | AskError::Status(_) => StatusCode::BAD_GATEWAY,
    }
}

fn json<T: Serialize>(value: &T) -> Response<Body> {
    match serde_json::to_string(value) {
        Ok(body) => with_type(StatusCode::OK, body, "application/json"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("the answer cannot be written: {error}")),
    }
}

fn text(status: StatusCode, text: &str) -> Response<Body> {
    with_type(status, format!("{text}\n"), "text/plain; charset=utf-8")
}

fn with_type(status: StatusCode, body: String, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(body))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_node_and_what_is_asked_of_it() {
        for (path, expected) in [
            ("", None),
            ("/", None),
            ("/cart-1", Some(("cart-1", "/"))),
            ("/cart-1/", Some(("cart-1", "/"))),
            ("/cart-1.shop/clusters", Some(("cart-1.shop", "/clusters"))),
            ("/sidecar~10.0.0.1~a.b~b.svc/x/y", Some(("sidecar~10.0.0.1~a.b~b.svc", "/x/y"))),
            ("/sidecar%7e1%2f2%7E/x", Some(("sidecar~1/2~", "/x"))),
            ("/100%/x", Some(("100%", "/x"))),
            ("/%zz%4/x", Some(("%zz%4", "/x"))),
        ] {
            let split = split(path);
            assert_eq!(split.as_ref().map(|(node, path)| (node.as_str(), *path)), expected, "{path}");
        }
    }

    #[test]
    fn only_figures_and_what_is_below_proxies_is_answered_here() {
        for (path, expected) in [
            ("/proxies", true),
            ("/proxies/", true),
            ("/proxies/a/b", true),
            ("/figures", true),
            ("/proxiesx", false),
            ("/figures/x", false),
            ("/ready", false),
        ] {
            assert_eq!(Desk::answers(path), expected, "{path}");
        }
    }
}
