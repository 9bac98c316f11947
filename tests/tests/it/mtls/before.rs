//! What passes between two sidecars before the first byte of the app: handshakes in the smallest pieces, and what the
//! proxies tell each other.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use leno_tests::pki::{Identity, Leaf};
use leno_tests::{origin, raw, tls};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use super::{PEER, Scene, Stage, mode};

/// A connection that sends one byte at a time, each in a packet of its own.
struct Bytewise(TcpStream);

impl AsyncRead for Bytewise {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Bytewise {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes.get(..1).unwrap_or_default())
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

async fn connect(stage: &Stage, identity: &Identity, alpn: &[&[u8]]) -> tokio_rustls::client::TlsStream<Bytewise> {
    let config = tls::caller(Some(identity), &rustls::version::TLS13, alpn);
    let name = ServerName::try_from("shop.default").expect("a name");
    // TCP_NODELAY: the pieces are not put together again on the way.
    let stream = Bytewise(raw::connect(stage.inbound).await);
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("let in")
}

#[tokio::test]
async fn an_http_port_that_takes_both_understands_a_hello_that_comes_byte_by_byte() {
    let app = origin("app").await;
    let stage = Scene::new(app.address(), &mode("PERMISSIVE")).start().await;
    let identity = stage.root.issue(&Leaf::of(PEER));
    let mut stream = connect(&stage, &identity, &[b"http/1.1"]).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").await.expect("written");
    stream.flush().await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let seen = app.requests().pop().expect("seen");
    assert!(seen.header("x-forwarded-client-cert").ends_with(&format!("URI={PEER}")), "with its identity");
}

#[tokio::test]
async fn a_tcp_port_that_takes_both_understands_a_hello_that_comes_byte_by_byte() {
    let app = raw::Server::echo().await;
    let stage = Scene { protocol: "TCP", ..Scene::new(app.address(), &mode("PERMISSIVE")) }.start().await;
    let identity = stage.root.issue(&Leaf::of(PEER));
    let mut stream = connect(&stage, &identity, &[b"istio"]).await;
    let shares = stream.get_ref().1.negotiated_key_exchange_group().map(|group| group.name());
    assert_eq!(shares, Some(rustls::NamedGroup::X25519MLKEM768), "a hello that is longer than a packet");
    assert_eq!(raw::round_trip(&mut stream, b"anybody there?").await, b"anybody there?");

    // What only begins like a hello is the app's.
    let mut strange = Bytewise(raw::connect(stage.inbound).await);
    let words = b"\x16\x03\x01\0\x05hello";
    assert_eq!(raw::round_trip(&mut strange, words).await, words);
}

/// What a sidecar says of its workload after a handshake with ALPN `leno`.
fn frame(account: &str) -> Vec<u8> {
    let json =
        format!(r#"{{"name":"x","workload":"x","namespace":"default","service_account":"{account}","labels":{{}}}}"#);
    let length = u32::try_from(json.len()).expect("short");
    [length.to_be_bytes().as_slice(), json.as_bytes()].concat()
}

#[tokio::test]
async fn what_proxies_tell_each_other_is_neither_heard_nor_said_by_an_app() {
    let app = raw::Server::echo().await;
    let stage = Scene { protocol: "TCP", ..Scene::new(app.address(), &mode("PERMISSIVE")) }.start().await;
    let identity = stage.root.issue(&Leaf::of(PEER));
    // From a proxy it ends at the proxy, whether it fits the certificate or not: the app hears what comes after it.
    for account in ["reviews", "admin"] {
        let mut stream = connect(&stage, &identity, &[b"leno"]).await;
        stream.write_all(&frame(account)).await.expect("written");
        stream.flush().await.expect("written");
        let length = stream.read_u32().await.expect("an answer");
        let mut told = vec![0; usize::try_from(length).expect("short")];
        stream.read_exact(&mut told).await.expect("an answer");
        assert!(String::from_utf8_lossy(&told).contains(r#""service_account":"shop""#), "{told:?}");
        assert_eq!(raw::round_trip(&mut stream, b"anybody there?").await, b"anybody there?", "{account}");
    }
    // From anybody else it is bytes like others, and nobody is told anything.
    let mut plain = raw::connect(stage.inbound).await;
    assert_eq!(raw::round_trip(&mut plain, &frame("reviews")).await, frame("reviews"));
    let mut other = connect(&stage, &identity, &[b"istio"]).await;
    assert_eq!(raw::round_trip(&mut other, &frame("reviews")).await, frame("reviews"));
    // Who has no certificate says nothing, whatever it negotiates.
    let config = tls::caller(None, &rustls::version::TLS13, &[b"leno"]);
    let name = ServerName::try_from("shop.default").expect("a name");
    let stream = raw::connect(stage.inbound).await;
    let mut nobody = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("half-way");
    let _ = nobody.write_all(&frame("reviews")).await;
    assert!(nobody.read_u32().await.is_err(), "refused before anything is said");
}
