//! The proxy asks the app, in the kubelet's place or the scraper's.
//!
//! The app is called where the kubelet would call it: at the pod's own address, since an app may listen nowhere else. Where
//! connections are captured, what leaves for that address would be captured too and come back to this proxy; the redirect
//! rules let through what comes from [`PASS_V4`] and [`PASS_V6`] (Istio's addresses for the same purpose), so such a
//! connection is bound to them.
//!
//! Redirects are followed as the kubelet follows them (`pkg/probe/http`): up to ten, on the same host only; one that leads
//! elsewhere is the answer.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use leno_config::node::{Interception, Node};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::cluster::health::{AskError as GrpcError, serves_grpc};
use crate::dns::{Dns, DnsError};
use crate::tls::client::unverified;
use crate::tls::server::HandshakeError;
use crate::tls::transport::{Prefixed, Transport};

use super::probes::{Action, HttpGet, Probe};

/// What comes from here is let through to the app by the redirect rules.
const PASS_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6));
/// The same for IPv6.
const PASS_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6));
/// Redirects that are followed (Kubernetes).
const REDIRECTS: usize = 10;
/// Bytes of an answer's body that a probe reads; more are nobody's concern (Kubernetes).
const PROBED: usize = 10 << 10;

/// Why the app gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("`{0}` does not resolve")]
    Dns(String, #[source] DnsError),
    #[error("cannot connect to {0}")]
    Connect(SocketAddr, #[source] io::Error),
    #[error("`{0}` has no address")]
    Nowhere(String),
    #[error("no TLS with {0}")]
    Tls(String, #[source] io::Error),
    #[error("TLS cannot be set up")]
    Setup(#[from] HandshakeError),
    #[error("no HTTP answer")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be made")]
    Request(#[from] http::Error),
    #[error("the answer is longer than {} MiB", .0 >> 20)]
    TooLong(usize),
    #[error("more than {REDIRECTS} redirects")]
    Redirects,
    #[error("no gRPC answer")]
    Grpc(#[from] GrpcError),
    #[error("the gRPC service is not serving")]
    NotServing,
}

/// Asks whatever is in the pod.
#[derive(Debug)]
pub(super) struct Asker {
    pod: IpAddr,
    captured: bool,
    dns: Arc<Dns>,
    tls: Arc<ClientConfig>,
}

/// How much of an answer's body is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Its beginning, to see that there is one.
    Beginning,
    /// All of it; more bytes than this are an error.
    All(usize),
}

/// An answer of the app.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Asker {
    /// Asks in the pod of this node.
    pub(super) fn new(node: &Node, dns: Arc<Dns>) -> Result<Self, HandshakeError> {
        let captured = match node.interception {
            Interception::None => false,
            Interception::Redirect | Interception::Tproxy => true,
        };
        Ok(Self { pod: node.ip, captured, dns, tls: Arc::new(unverified()?) })
    }

    /// Makes a probe; whoever calls keeps the time. The status is the app's own, or 200 where it is not asked by HTTP.
    pub(super) async fn probe(&self, probe: &Probe) -> Result<StatusCode, AskError> {
        match &probe.action {
            Action::Http(get) => Ok(self.get(get, Wanted::Beginning).await?.status),
            Action::Tcp { host, port } => {
                self.connect(host.as_deref(), *port).await?;
                Ok(StatusCode::OK)
            }
            Action::Grpc { port, service } => {
                let stream = Transport::Plain(self.connect(None, *port).await?);
                let authority = SocketAddr::new(self.pod, *port).to_string();
                match serves_grpc(stream, &authority, service).await? {
                    true => Ok(StatusCode::OK),
                    false => Err(AskError::NotServing),
                }
            }
        }
    }

    /// Gets something by HTTP, wherever on the same host that leads.
    pub(super) async fn get(&self, get: &HttpGet, wanted: Wanted) -> Result<Reply, AskError> {
        let mut next = get.clone();
        for _ in 0..=REDIRECTS {
            let reply = self.once(&next, wanted).await?;
            match redirected(&next, &self.host(&next), &reply) {
                Some(elsewhere) => next = elsewhere,
                None => return Ok(reply),
            }
        }
        Err(AskError::Redirects)
    }

    /// Whether nobody listens on a port of the pod, or of another address. What hangs may still answer.
    pub(super) async fn is_refused(&self, address: SocketAddr) -> bool {
        let connected = self.dial(address).await;
        connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// As a URL names it.
    fn host(&self, get: &HttpGet) -> String {
        match (&get.host, self.pod) {
            (Some(host), _) if host.parse::<Ipv6Addr>().is_ok() => format!("[{host}]"),
            (Some(host), _) => host.clone(),
            (None, IpAddr::V6(ip)) => format!("[{ip}]"),
            (None, IpAddr::V4(ip)) => ip.to_string(),
        }
    }

    async fn once(&self, get: &HttpGet, wanted: Wanted) -> Result<Reply, AskError> {
        let host = self.host(get);
        let stream = self.connect(get.host.as_deref(), get.port).await?;
        let stream = match get.encrypted {
            true => self.encrypt(&host, stream).await?,
            false => Transport::Plain(stream),
        };
        exchange(stream, request(get, &host)?, wanted).await
    }

    async fn encrypt(&self, host: &str, stream: TcpStream) -> Result<Transport, AskError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let failed = |error| AskError::Tls(host.to_owned(), error);
        let name = ServerName::try_from(bare.to_owned()).map_err(|error| failed(io::Error::other(error)))?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(name, Prefixed::new(Bytes::new(), stream)).await.map_err(failed)?;
        Ok(Transport::Tls(Box::new(stream.into())))
    }

    /// To the first address that accepts; without a host, the pod's.
    async fn connect(&self, host: Option<&str>, port: u16) -> Result<TcpStream, AskError> {
        let found = match host {
            None => vec![self.pod],
            Some(host) => self.dns.resolve(host).await.map_err(|error| AskError::Dns(host.to_owned(), error))?,
        };
        let mut failed = AskError::Nowhere(host.unwrap_or_default().to_owned());
        for ip in found {
            let address = SocketAddr::new(ip, port);
            match self.dial(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = AskError::Connect(address, error),
            }
        }
        Err(failed)
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let (socket, pass) = match address {
            SocketAddr::V4(_) => (TcpSocket::new_v4()?, PASS_V4),
            SocketAddr::V6(_) => (TcpSocket::new_v6()?, PASS_V6),
        };
        if self.captured && address.ip() == self.pod && !self.pod.is_loopback() {
            socket.bind(SocketAddr::new(pass, 0))?;
        }
        socket.connect(address).await
    }
}

/// Sends one request on a connection of its own.
async fn exchange(stream: Transport, request: Request<Empty<Bytes>>, wanted: Wanted) -> Result<Reply, AskError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok(Reply { status: head.status, headers: head.headers, body: read(body, wanted).await? })
    };
    let (mut answer, connection) = (pin!(answer), pin!(connection));
    tokio::select! {
        answered = &mut answer => answered,
        // What it has said until then is still to be read.
        _ = connection => answer.await,
    }
}

async fn read(mut body: Incoming, wanted: Wanted) -> Result<Bytes, AskError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        whole.extend_from_slice(&data);
        match wanted {
            Wanted::Beginning if whole.len() >= PROBED => break,
            Wanted::All(most) if whole.len() > most => return Err(AskError::TooLong(most)),
            Wanted::Beginning | Wanted::All(_) => {}
        }
    }
    Ok(whole.freeze())
}

fn request(get: &HttpGet, host: &str) -> Result<Request<Empty<Bytes>>, http::Error> {
    let mut request = Request::builder().uri(Uri::from(get.path.clone())).body(Empty::new())?;
    *request.headers_mut() = get.headers.clone();
    if !get.headers.contains_key(header::HOST) {
        let usual = if get.encrypted { 443 } else { 80 };
        let named = if get.port == usual { host.to_owned() } else { format!("{host}:{}", get.port) };
        request.headers_mut().insert(header::HOST, HeaderValue::try_from(named)?);
    }
    // One request, one connection: the app need not keep it.
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

/// Where an answer leads on the same host; `None`: it is the answer.
fn redirected(get: &HttpGet, host: &str, reply: &Reply) -> Option<HttpGet> {
    if !matches!(reply.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = reply.headers.get(header::LOCATION)?.to_str().ok()?;
    let location = location.split('#').next().unwrap_or_default();
    let scheme = if get.encrypted { "https" } else { "http" };
    let absolute = match location {
        network if network.starts_with("//") => format!("{scheme}:{network}"),
        whole if whole.starts_with("http://") || whole.starts_with("https://") => whole.to_owned(),
        path => {
            let path = if path.starts_with('/') { path.to_owned() } else { beside(get.path.path(), path) };
            let path = path.parse::<PathAndQuery>().ok()?;
            return Some(HttpGet { path, ..get.clone() });
        }
    };
    let uri: Uri = absolute.parse().ok()?;
    if !uri.host()?.eq_ignore_ascii_case(host) {
        return None;
    }
    let encrypted = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    Some(HttpGet { port, encrypted, path, ..get.clone() })
}

/// A relative reference, in the directory of the path before.
fn beside(path: &str, relative: &str) -> String {
    let directory = path.rfind('/').and_then(|end| path.get(..=end)).unwrap_or("/");
    format!("{directory}{relative}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str) -> HttpGet {
        HttpGet {
            host: None,
            port: 8080,
            encrypted: false,
            path: path.parse().expect("a path"),
            headers: HeaderMap::new(),
        }
    }

    #[test]
    fn redirects_lead_on_only_on_the_same_host() {
        // Status, location, and where that leads: port, TLS, path.
        type Row = (u16, &'static str, Option<(u16, bool, &'static str)>);
        let rows: [Row; 11] = [
            (302, "/ready/", Some((8080, false, "/ready/"))),
            (307, "deep?x=1", Some((8080, false, "/a/deep?x=1"))),
            (301, "http://10.0.0.1:9090/x", Some((9090, false, "/x"))),
            (308, "https://10.0.0.1", Some((443, true, "/"))),
            (303, "//10.0.0.1/y#part", Some((80, false, "/y"))),
            (302, "http://10.0.0.2:8080/x", None),
            (302, "http://169.254.169.254/latest", None),
            (302, "//elsewhere/", None),
            (200, "/ready/", None),
            (304, "/ready/", None),
            (302, "http://[", None),
        ];
        for (status, location, expected) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, HeaderValue::from_static(location));
            let status = StatusCode::from_u16(status).expect("a status");
            let reply = Reply { status, headers, body: Bytes::new() };
            let next = redirected(&get("/a/b"), "10.0.0.1", &reply);
            let found = next.as_ref().map(|next| (next.port, next.encrypted, next.path.as_str()));
            assert_eq!(found, expected, "{status} {location}");
        }
    }

    #[test]
    fn a_request_names_the_host_as_the_kubelet_does() {
        let rows = [
            (8080, false, "10.0.0.1:8080"),
            (80, false, "10.0.0.1"),
            (443, true, "10.0.0.1"),
            (80, true, "10.0.0.1:80"),
        ];
        for (port, encrypted, expected) in rows {
            let request = request(&HttpGet { port, encrypted, ..get("/") }, "10.0.0.1").expect("a request");
            assert_eq!(request.headers()[header::HOST], expected);
        }
        let mut named = get("/");
        named.headers.insert(header::HOST, HeaderValue::from_static("shop"));
        assert_eq!(request(&named, "10.0.0.1").expect("a request").headers()[header::HOST], "shop");
    }
}
