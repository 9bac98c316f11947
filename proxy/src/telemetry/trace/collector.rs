//! One export to a collector: OTLP over gRPC, or protobuf in a POST.
//!
//! The collector is a cluster like any other: its endpoints come by EDS or DNS, and a service of the mesh is called with
//! mTLS. Both forms are one request with one message, so both go over the same plain hyper connection; it stays open
//! between exports, but not so long that a rotated identity would not be noticed.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, HeaderValue, TE, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use leno_config::ir::{Collector, OtlpProtocol, UpstreamProtocol};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use prost::Message;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::cluster::{Cluster, EndpointState};
use crate::nest::{Nest, Nested};
use crate::random::Random;
use crate::tls::Sessions;
use crate::tls::client::{Encryption, Inside};
use crate::upstream::connect::{ConnectError, connect};

/// What a collector sees in `user-agent`.
const AGENT: &str = concat!("Leno-OTLP/", env!("CARGO_PKG_VERSION"));
/// The method of OTLP's service.
const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// In front of a message of gRPC: one byte whether it is compressed, four for its length.
const PREFIX: usize = 5;
/// Bytes that are read of an answer.
const MOST_ANSWER: usize = 64 * 1024;
/// A connection is opened anew after this.
const LONGEST_LINE: Duration = Duration::from_secs(300);

/// Why spans have not arrived.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    /// Nobody to send them to.
    #[error("cluster {0} has no endpoint; is the address of `tracing.otlp` right, and does its name resolve?")]
    NoEndpoint(String),
    /// It could not be reached.
    #[error("cannot connect to the collector: {0}")]
    Connect(#[from] ConnectError),
    /// The connection broke.
    #[error("the collector broke the connection: {0}")]
    Broken(#[from] hyper::Error),
    /// It took too long.
    #[error("the collector did not answer within {0:?}")]
    TimedOut(Duration),
    /// It asks to come again.
    #[error("the collector is busy: {0}")]
    Busy(String),
    /// It does not want them.
    #[error("the collector refused the spans: {0}")]
    Refused(String),
    /// The request cannot be made of the configuration.
    #[error("the collector's address cannot be used: {0}")]
    Request(#[from] http::Error),
    /// The answer broke off or is too long.
    #[error("the collector's answer cannot be read: {0}")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ExportError {
    /// Whether another try may help (OTLP §failures).
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::NoEndpoint(_) | Self::Connect(_) | Self::Broken(_) | Self::TimedOut(_) | Self::Busy(_) => true,
            Self::Refused(_) | Self::Request(_) | Self::Answer(_) => false,
        }
    }
}

/// What an export brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Taken {
    /// Spans that the collector did not want.
    pub(super) rejected: usize,
    /// Why.
    pub(super) reason: String,
}

/// The connection to a collector, between two exports.
#[derive(Debug, Default)]
pub(super) struct Line(Option<Open>);

#[derive(Debug)]
struct Open {
    sender: Sender,
    endpoint: Arc<EndpointState>,
    encryption: Encryption,
    began: Instant,
    task: AbortHandle,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Line {
    /// Sends one message, within the collector's time.
    pub(super) async fn export(
        &mut self,
        (collector, cluster): (&Collector, &Cluster),
        message: &ExportTraceServiceRequest,
        (tls, random): (&Sessions, &Random),
    ) -> Result<Taken, ExportError> {
        let limit = collector.timeout;
        let exported = tokio::time::timeout(limit, self.send((collector, cluster), message, (tls, random))).await;
        let exported = exported.unwrap_or(Err(ExportError::TimedOut(limit)));
        if exported.is_err() {
            self.0 = None;
        }
        exported
    }

    async fn send(
        &mut self,
        (collector, cluster): (&Collector, &Cluster),
        message: &ExportTraceServiceRequest,
        (tls, random): (&Sessions, &Random),
    ) -> Result<Taken, ExportError> {
        let http2 =
            matches!(collector.protocol, OtlpProtocol::Grpc(_)) || cluster.config.protocol == UpstreamProtocol::Http2;
        let request = request(collector, message, http2)?;
        let open = match self.0.take().filter(|open| open.is_usable(cluster)) {
            Some(open) => self.0.insert(open),
            None => self.0.insert(open(cluster, http2, tls, random).await?),
        };
        let answer = match &mut open.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => sender.send_request(request).await?,
        };
        match collector.protocol {
            OtlpProtocol::Grpc(_) => grpc_answer(answer).await,
            OtlpProtocol::Http(_) => http_answer(answer).await,
        }
    }
}

impl Open {
    /// Whether it leads where the cluster leads now.
    fn is_usable(&self, cluster: &Cluster) -> bool {
        let closed = match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        };
        !closed
            && self.began.elapsed() < LONGEST_LINE
            && cluster.members.states().any(|state| Arc::ptr_eq(state, &self.endpoint))
            && self.encryption == encryption(cluster, &self.endpoint)
    }
}

fn encryption(cluster: &Cluster, endpoint: &EndpointState) -> Encryption {
    Encryption::new(&cluster.config.tls, &endpoint.security, cluster.dns_name())
}

/// To any of the endpoints: whoever failed is likely to be another one next time.
async fn open(cluster: &Cluster, http2: bool, tls: &Sessions, random: &Random) -> Result<Open, ExportError> {
    let count = u32::try_from(cluster.members.len()).unwrap_or(u32::MAX);
    let chosen = usize::try_from(random.below(count)).unwrap_or_default();
    let endpoint = cluster.members.states().nth(chosen);
    let endpoint = Arc::clone(endpoint.ok_or_else(|| ExportError::NoEndpoint(cluster.config.name.to_string()))?);
    let encryption = encryption(cluster, &endpoint);
    let stream = connect(endpoint.address, cluster.config.connect_timeout, None).await?;
    let inside = if http2 { Inside::Http2 } else { Inside::Http1 };
    let stream = TokioIo::new(tls.connect(stream, &encryption, inside).await.map_err(ConnectError::Tls)?.stream);
    // The connection ends with what holds it; why it broke is told by the request that was on it.
    let (sender, task) = if http2 {
        let nest = Nest::default();
        let (sender, connection) = http2::handshake(nest.clone(), stream).await?;
        let task = tokio::task::spawn_local(async move { drop(Nested::client(nest, connection).await) });
        (Sender::Http2(sender), task.abort_handle())
    } else {
        let (sender, connection) = http1::handshake(stream).await?;
        let task = tokio::task::spawn_local(async move { drop(connection.await) });
        (Sender::Http1(sender), task.abort_handle())
    };
    Ok(Open { sender, endpoint, encryption, began: Instant::now(), task })
}

fn request(
    collector: &Collector,
    message: &ExportTraceServiceRequest,
    http2: bool,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let request = Request::builder().method(Method::POST).header(USER_AGENT, AGENT);
    match &collector.protocol {
        OtlpProtocol::Grpc(authority) => {
            let authority = if authority.is_empty() { collector.cluster.as_str() } else { authority };
            let uri = http::Uri::builder().scheme("http").authority(host(authority)).path_and_query(METHOD).build()?;
            request
                .uri(uri)
                .version(Version::HTTP_2)
                .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
                .header(TE, HeaderValue::from_static("trailers"))
                .body(Full::new(framed(message)))
        }
        OtlpProtocol::Http(uri) => {
            let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
            let request = match (http2, uri.authority()) {
                (true, _) => request.uri(uri.clone()).version(Version::HTTP_2),
                (false, Some(host)) => request.uri(path).header(HOST, host.as_str()),
                (false, None) => request.uri(path),
            };
            request
                .header(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"))
                .body(Full::new(message.encode_to_vec().into()))
        }
    }
}

/// The host in a name such as `outbound|4317||collector`, where nobody said whom to ask for.
fn host(authority: &str) -> &str {
    authority.rsplit('|').next().unwrap_or(authority)
}

fn framed(message: &ExportTraceServiceRequest) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put_slice(&message.encode_to_vec());
    bytes.freeze()
}

async fn grpc_answer(answer: Response<Incoming>) -> Result<Taken, ExportError> {
    let (head, body) = answer.into_parts();
    if head.status != StatusCode::OK {
        return Err(of_status(head.status));
    }
    let in_head = grpc_status(&head.headers);
    let body = Limited::new(body, MOST_ANSWER).collect().await.map_err(ExportError::Answer)?;
    let status = in_head.or_else(|| body.trailers().and_then(grpc_status));
    match status {
        Some((0, _)) => Ok(taken(body.to_bytes().get(PREFIX..).unwrap_or_default())),
        // OTLP: CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS.
        Some((code @ (1 | 4 | 8 | 10 | 11 | 14 | 15), words)) => {
            Err(ExportError::Busy(format!("status {code} {words}")))
        }
        Some((code, words)) => Err(ExportError::Refused(format!("status {code} {words}"))),
        None => Err(ExportError::Refused("it does not speak gRPC".to_owned())),
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<(u32, String)> {
    let status = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let words = headers.get("grpc-message").and_then(|words| words.to_str().ok()).unwrap_or_default();
    Some((status, words.to_owned()))
}

async fn http_answer(answer: Response<Incoming>) -> Result<Taken, ExportError> {
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MOST_ANSWER).collect().await.map_err(ExportError::Answer)?;
    if head.status.is_success() { Ok(taken(&body.to_bytes())) } else { Err(of_status(head.status)) }
}

/// OTLP: these may pass, others not.
fn of_status(status: StatusCode) -> ExportError {
    match status.as_u16() {
        429 | 502 | 503 | 504 => ExportError::Busy(status.to_string()),
        _ => ExportError::Refused(status.to_string()),
    }
}

/// An answer that cannot be read is one that says nothing: the spans are there.
fn taken(message: &[u8]) -> Taken {
    let partial = ExportTraceServiceResponse::decode(message).ok().and_then(|answer| answer.partial_success);
    partial.map_or_else(Taken::default, |partial| Taken {
        rejected: usize::try_from(partial.rejected_spans).unwrap_or_default(),
        reason: partial.error_message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collector(protocol: OtlpProtocol) -> Collector {
        let cluster = "outbound|4317||otel.example.com".to_owned();
        Collector { cluster, protocol, timeout: Duration::from_secs(1), service: String::new() }
    }

    #[test]
    fn a_request_says_what_the_protocol_wants() {
        let message = ExportTraceServiceRequest::default();
        let grpc = request(&collector(OtlpProtocol::Grpc(String::new())), &message, true).expect("a request");
        assert_eq!(grpc.uri().to_string(), format!("http://otel.example.com{METHOD}"));
        assert_eq!(grpc.headers()[CONTENT_TYPE], "application/grpc");
        let uri = Collector::uri("http://otel.example.com:4318/v1/traces").expect("an address");
        let http = request(&collector(OtlpProtocol::Http(uri)), &message, false).expect("a request");
        assert_eq!(
            (http.uri().path(), &http.headers()[HOST]),
            ("/v1/traces", &HeaderValue::from_static("otel.example.com:4318"))
        );
        assert_eq!(http.headers()[CONTENT_TYPE], "application/x-protobuf");
    }

    #[test]
    fn only_what_passes_is_tried_again() {
        for (status, expected) in
            [(429, true), (503, true), (502, true), (504, true), (400, false), (404, false), (500, false)]
        {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(of_status(status).is_passing(), expected, "{status}");
        }
    }

    #[test]
    fn a_collector_may_take_a_part() {
        assert_eq!(taken(b""), Taken::default());
        assert_eq!(taken(b"\xff\xff"), Taken::default());
        // partial_success { rejected_spans: 3, error_message: "no" }
        assert_eq!(taken(b"\x0a\x06\x08\x03\x12\x02no"), Taken { rejected: 3, reason: "no".to_owned() });
    }
}
