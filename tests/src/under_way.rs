//! What is under way for long: a gRPC stream, a WebSocket and a download, through a sidecar and to a [`scene`](crate::scene).

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::client::{Call, Connection, Protocol, stream};
use crate::raw;
use crate::scene::DOWNLOAD;
use crate::wait::PATIENCE;

/// For a download's rest.
const LONG: Duration = Duration::from_secs(120);

/// One of each.
pub struct UnderWay {
    calls: mpsc::Sender<std::io::Result<Frame<Bytes>>>,
    answers: Incoming,
    websocket: TcpStream,
    downloads: Vec<(Incoming, usize)>,
}

impl UnderWay {
    /// Begins them; the download in HTTP/1.1 and in HTTP/2.
    pub async fn open(through: SocketAddr) -> Self {
        let (calls, body) = stream();
        let call = Call::new(Method::POST, "http://calls:81/stream").over(Protocol::Http2);
        let call = call.header("content-type", "application/grpc").header("te", "trailers").body(body);
        let answers = begin(through, call, Protocol::Http2).await.into_body();
        let mut websocket = raw::connect(through).await;
        let asks = "GET /websocket HTTP/1.1\r\nhost: shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
        websocket.write_all(asks.as_bytes()).await.expect("cannot send");
        let head = raw::read_head(&mut websocket).await.expect("the upgrade is answered");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let mut downloads = Vec::new();
        for protocol in Protocol::ALL {
            let call = Call::get("http://shop/download").over(protocol);
            downloads.push((begin(through, call, protocol).await.into_body(), 0));
        }
        let mut all = Self { calls, answers, websocket, downloads };
        all.go_on("as they begin").await;
        all
    }

    /// Each goes on; fails the test where one does not.
    pub async fn go_on(&mut self, when: &str) {
        self.calls.send(Ok(Frame::data(Bytes::from_static(b"ping")))).await.expect("the stream is read");
        let answer = tokio::time::timeout(PATIENCE, self.answers.frame()).await;
        let answer = answer.unwrap_or_else(|_| panic!("the gRPC stream is silent {when}"));
        let answer = answer.and_then(Result::ok).and_then(|frame| frame.into_data().ok());
        assert_eq!(answer.as_deref(), Some(&b"ping"[..]), "the gRPC stream {when}");
        assert_eq!(raw::round_trip(&mut self.websocket, b"ping").await, b"ping", "the WebSocket {when}");
        for (body, length) in &mut self.downloads {
            let frame = tokio::time::timeout(PATIENCE, body.frame()).await;
            let frame = frame.unwrap_or_else(|_| panic!("the download is silent {when}"));
            let frame = frame.and_then(Result::ok).unwrap_or_else(|| panic!("the download breaks off {when}"));
            *length += frame.data_ref().map_or(0, Bytes::len);
        }
    }

    /// Each comes to its own end, whole.
    pub async fn end(mut self, when: &str) {
        self.go_on(when).await;
        drop(self.calls);
        let rest = tokio::time::timeout(PATIENCE, self.answers.collect()).await.expect("the gRPC stream ends");
        let rest = rest.unwrap_or_else(|error| panic!("the gRPC stream {when}: {error}"));
        let status = rest.trailers().and_then(|trailers| trailers.get("grpc-status").cloned());
        assert_eq!(status.as_ref().and_then(|status| status.to_str().ok()), Some("0"), "{when}");
        self.websocket.shutdown().await.expect("the WebSocket can be closed");
        let mut after = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, self.websocket.read_to_end(&mut after)).await;
        assert!(matches!(closed, Ok(Ok(0))), "the WebSocket ends {when}: {closed:?}");
        for (body, length) in self.downloads {
            let rest = tokio::time::timeout(LONG, body.collect()).await.expect("the download ends");
            let rest = rest.unwrap_or_else(|error| panic!("the download {when}: {error}"));
            assert_eq!(length + rest.to_bytes().len(), DOWNLOAD, "the download {when}");
        }
    }
}

async fn begin(through: SocketAddr, call: Call, protocol: Protocol) -> Response<Incoming> {
    let mut connection = Connection::open(through, protocol).await;
    let response = connection.begin(call).await.unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(response.status(), 200);
    response
}
