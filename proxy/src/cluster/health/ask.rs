//! One check of one endpoint.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, HeaderValue, TE, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use leno_config::ir::{GrpcProbe, HealthCheck, HealthProbe, HttpProbe, TcpProbe};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Found;
use crate::cluster::{Cluster, EndpointState};
use crate::nest::{Nest, Nested};
use crate::tls::Sessions;
use crate::tls::client::{Encryption, Inside};
use crate::tls::transport::Transport;
use crate::upstream::connect::{ConnectError, connect};

/// What an endpoint sees in `user-agent`.
const AGENT: &str = "Leno/HC";
/// Bytes that are read for what has to be received, and of an answer of gRPC.
const MOST: usize = 64 * 1024;

/// Asks; whoever calls keeps the time.
pub(super) async fn ask(cluster: &Cluster, endpoint: &EndpointState, rules: &HealthCheck, tls: &Sessions) -> Found {
    let asked = match &rules.probe {
        HealthProbe::Http(probe) => http(cluster, endpoint, probe, tls).await,
        HealthProbe::Tcp(probe) => tcp(cluster, endpoint, probe, tls).await,
        HealthProbe::Grpc(probe) => grpc(cluster, endpoint, probe, tls).await,
    };
    asked.unwrap_or_else(|error| {
        tracing::debug!(cluster = %cluster.config.name, address = %endpoint.address, %error, "a health check failed");
        Found::Failed
    })
}

/// Why nothing was found out about an endpoint but that it cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(#[from] ConnectError),
    /// It did not answer in HTTP.
    #[error("no HTTP answer: {0}")]
    Http(#[from] hyper::Error),
    /// The connection ended in the midst of it.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The configuration makes no request.
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    /// The answer has no end, or too much before it.
    #[error("the answer broke off or is too long: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It closed.
    #[error("it closed the connection before it sent what was expected")]
    Closed,
}

async fn open(
    cluster: &Cluster,
    endpoint: &EndpointState,
    inside: Inside,
    tls: &Sessions,
) -> Result<Transport, ConnectError> {
    let config = &cluster.config;
    let encryption = Encryption::new(&config.tls, &endpoint.security, cluster.dns_name());
    let stream = connect(endpoint.address, config.connect_timeout, None).await?;
    Ok(tls.connect(stream, &encryption, inside).await?.stream)
}

async fn http(
    cluster: &Cluster,
    endpoint: &EndpointState,
    probe: &HttpProbe,
    tls: &Sessions,
) -> Result<Found, AskError> {
    let host = probe.host.as_deref().unwrap_or(cluster.config.name.as_str());
    let answer = if probe.http2 {
        let stream = open(cluster, endpoint, Inside::Http2, tls).await?;
        let request = request(Method::GET, host, &probe.path)?.version(Version::HTTP_2).body(Full::default())?;
        send_http2(stream, request, |answer| async move { Ok(answer.status()) }).await?
    } else {
        let stream = open(cluster, endpoint, Inside::Http1, tls).await?;
        let request = Request::builder()
            .uri(&probe.path)
            .header(HOST, host)
            .header(USER_AGENT, AGENT)
            .body(Full::<Bytes>::default())?;
        send_http1(stream, request).await?
    };
    Ok(judge(probe, answer))
}

/// Envoy: an answer that is neither expected nor retriable makes an endpoint unhealthy at once.
fn judge(probe: &HttpProbe, status: StatusCode) -> Found {
    let status = status.as_u16();
    match () {
        () if probe.expected.is_empty() && status == 200 => Found::Well,
        () if probe.expected.iter().any(|range| range.contains(status)) => Found::Well,
        () if probe.retriable.iter().any(|range| range.contains(status)) => Found::Failed,
        () => Found::Unwell,
    }
}

fn request(method: Method, host: &str, path: &str) -> Result<http::request::Builder, http::Error> {
    let uri = http::Uri::builder().scheme("http").authority(host).path_and_query(path).build()?;
    Ok(Request::builder().method(method).uri(uri).header(USER_AGENT, AGENT))
}

/// The connection ends with the answer's head.
async fn send_http1(stream: Transport, request: Request<Full<Bytes>>) -> Result<StatusCode, AskError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = sender.send_request(request);
    tokio::select! {
        answer = answer => Ok(answer?.status()),
        // It has nothing more to say once it has ended; then the answer is there, or never will be.
        ended = connection => match ended {
            Ok(()) => Err(AskError::Closed),
            Err(error) => Err(error.into()),
        },
    }
}

/// The connection ends when `read` has what it wants of the answer.
async fn send_http2<T, F: Future<Output = Result<T, AskError>>>(
    stream: Transport,
    request: Request<Full<Bytes>>,
    read: impl FnOnce(Response<Incoming>) -> F,
) -> Result<T, AskError> {
    let nest = Nest::default();
    let (mut sender, connection) = http2::handshake(nest.clone(), TokioIo::new(stream)).await?;
    let answer = async move { read(sender.send_request(request).await?).await };
    tokio::select! {
        read = answer => read,
        ended = Nested::client(nest, connection) => match ended {
            Ok(()) => Err(AskError::Closed),
            Err(error) => Err(error.into()),
        },
    }
}

async fn tcp(cluster: &Cluster, endpoint: &EndpointState, probe: &TcpProbe, tls: &Sessions) -> Result<Found, AskError> {
    let mut stream = open(cluster, endpoint, Inside::Bytes, tls).await?;
    if !probe.send.is_empty() {
        stream.write_all(&probe.send).await?;
        stream.flush().await?;
    }
    let mut received = Vec::new();
    while !holds(&received, &probe.receive) {
        if received.len() >= MOST || stream.read_buf(&mut received).await? == 0 {
            return Err(AskError::Closed);
        }
    }
    Ok(Found::Well)
}

/// Whether all `parts` are in `received`, one after the other.
fn holds(received: &[u8], parts: &[Vec<u8>]) -> bool {
    let mut rest = received;
    parts.iter().filter(|part| !part.is_empty()).all(|part| {
        let found = rest.windows(part.len()).position(|window| window == part.as_slice());
        found.and_then(|at| rest.get(at + part.len()..)).is_some_and(|after| {
            rest = after;
            true
        })
    })
}

/// `grpc.health.v1.HealthCheckRequest`
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`
#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SERVING`
const SERVING: i32 = 1;
/// In front of a message: one byte whether it is compressed, four for its length.
const PREFIX: usize = 5;

async fn grpc(
    cluster: &Cluster,
    endpoint: &EndpointState,
    probe: &GrpcProbe,
    tls: &Sessions,
) -> Result<Found, AskError> {
    let stream = open(cluster, endpoint, Inside::Http2, tls).await?;
    let authority = probe.authority.as_deref().unwrap_or(cluster.config.name.as_str());
    Ok(if serves_grpc(stream, authority, &probe.service).await? { Found::Well } else { Found::Unwell })
}

/// Whether a server says of a service that it is `SERVING`; the empty name is the server as a whole.
pub(crate) async fn serves_grpc(stream: Transport, authority: &str, service: &str) -> Result<bool, AskError> {
    let request = request(Method::POST, authority, "/grpc.health.v1.Health/Check")?
        .version(Version::HTTP_2)
        .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
        .header(TE, HeaderValue::from_static("trailers"))
        .body(Full::new(framed(&HealthCheckRequest { service: service.to_owned() })))?;
    send_http2(stream, request, |answer| async move {
        let status = answer.status();
        let in_head = grpc_status(answer.headers());
        let body = Limited::new(answer.into_body(), MOST).collect().await.map_err(AskError::Body)?;
        let grpc = in_head.or_else(|| body.trailers().and_then(grpc_status));
        let message = body.to_bytes();
        let serves = message.get(PREFIX..).and_then(|bytes| HealthCheckResponse::decode(bytes).ok());
        Ok(status == StatusCode::OK && grpc == Some(0) && serves.is_some_and(|response| response.status == SERVING))
    })
    .await
}

fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX + message.encoded_len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes.freeze()
}

fn grpc_status(headers: &http::HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use leno_config::ir::StatusRange;

    use super::*;

    #[test]
    fn a_status_is_expected_retriable_or_fatal() {
        let range = |first, last| vec![StatusRange { first, last }];
        let probe =
            |expected, retriable| HttpProbe { host: None, path: "/".to_owned(), expected, retriable, http2: false };
        let usual = probe(Vec::new(), Vec::new());
        let own = probe(range(200, 299), range(500, 503));
        for (probe, status, expected) in [
            (&usual, 200, Found::Well),
            (&usual, 204, Found::Unwell),
            (&own, 204, Found::Well),
            (&own, 503, Found::Failed),
            (&own, 404, Found::Unwell),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(judge(probe, status), expected, "{status}");
        }
    }

    #[test]
    fn what_is_received_may_have_more_between() {
        let parts = [b"+PONG".to_vec(), b"OK".to_vec()];
        for (received, expected) in [("xx+PONG--OK", true), ("OK+PONG", false), ("+PON", false), ("+PONGOK", true)] {
            assert_eq!(holds(received.as_bytes(), &parts), expected, "{received}");
        }
        assert!(holds(b"", &[]));
    }
}
