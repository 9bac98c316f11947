//! Who may come in, and in which dress: the listener's [`MtlsMode`] against what the caller does.
//!
//! | mode | clear text | TLS |
//! |---|---|---|
//! | `Disable` | comes in | HTTP: answered 400 as nonsense; TCP: bytes like any others |
//! | `Permissive` | comes in | with a certificate of the mesh; TCP without the mesh's ALPN: passed on, it is the app's |
//! | `Strict` | closed | with a certificate of the mesh |

use std::sync::Arc;

use bytes::Bytes;
use leno_config::ir::MtlsMode;
use rustls::server::Acceptor;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::telemetry::add;
use crate::tls::server::{Caller, HandshakeError};
use crate::tls::transport::{Prefixed, Transport};
use crate::tls::{self, exchange};
use crate::worker::Worker;

use super::Arrival;
use super::detect::{HANDSHAKE_RECORD, SILENCE, Spoken, Undetected, detect};

/// The longest ClientHello that is looked into: one record. A post-quantum share spans two packets, not two records.
const MAX_HELLO: usize = 16 * 1024 + 5;

/// A caller that was let in by an HTTP listener.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) spoken: Spoken,
    pub(super) stream: Prefixed<Transport>,
    pub(super) caller: Option<Box<Verified>>,
}

/// What a caller with a certificate brings.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) peer: tls::peer::Peer,
    pub(super) server_name: Option<Arc<str>>,
    pub(super) forwarded: Option<http::HeaderValue>,
}

/// A caller of an HTTP listener; `None` when it is not let in.
pub(super) async fn http(arrival: &Arrival, mode: MtlsMode, mut stream: TcpStream) -> Option<Admitted> {
    let (spoken, prefix) = told(arrival, detect(&mut stream).await)?;
    match (spoken, mode) {
        (Spoken::Tls, MtlsMode::Permissive | MtlsMode::Strict) => {
            let (mut stream, caller) = accept(arrival, Prefixed::new(prefix, stream)).await?;
            let (spoken, prefix) = told(arrival, detect(&mut stream).await)?;
            Some(Admitted { spoken, stream: Prefixed::new(prefix, stream), caller: Some(caller) })
        }
        (Spoken::Http1 | Spoken::Http2, MtlsMode::Strict) => {
            refuse_plain(arrival);
            None
        }
        (Spoken::Tls, MtlsMode::Disable)
        | (Spoken::Http1 | Spoken::Http2, MtlsMode::Disable | MtlsMode::Permissive) => {
            Some(Admitted { spoken, stream: Prefixed::new(prefix, Transport::Plain(stream)), caller: None })
        }
    }
}

/// Counts what was told of a caller by its first bytes.
fn told<T>(arrival: &Arrival, detected: Result<(Spoken, T), Undetected>) -> Option<(Spoken, T)> {
    let stats = &arrival.worker.stats;
    let count = match &detected {
        Ok((Spoken::Http1, _)) => &stats.detected_http1,
        Ok((Spoken::Http2, _)) => &stats.detected_http2,
        Ok((Spoken::Tls, _)) => &stats.detected_tls,
        Err(Undetected::Silent) => &stats.detected_nothing,
        Err(Undetected::Gone) => return None,
    };
    add(count, 1);
    detected.ok()
}

/// A caller of a TCP listener that wants certificates; `None` when it is not let in.
pub(super) async fn tcp_strict(arrival: &Arrival, mut stream: TcpStream) -> Option<(Transport, Box<Verified>)> {
    let mut first = [0];
    let read = tokio::time::timeout(SILENCE, stream.read(&mut first)).await.ok()?.ok()?;
    match first.get(..read)? {
        [] => None,
        [HANDSHAKE_RECORD] => accept(arrival, Prefixed::new(Bytes::copy_from_slice(&first), stream)).await,
        _ => {
            refuse_plain(arrival);
            None
        }
    }
}

/// A caller of a TCP listener that takes both, whose first bytes are there. Whether TLS is the mesh's or the app's shows
/// in its ALPN.
pub(super) async fn tcp_either(
    arrival: &Arrival,
    mut stream: TcpStream,
) -> Option<(Prefixed<Transport>, Option<Box<Verified>>)> {
    let hello = tokio::time::timeout(tls::HANDSHAKE, read_hello(&mut stream)).await.ok()??;
    match hello {
        Hello::Mesh(read) => {
            let (stream, caller) = accept(arrival, Prefixed::new(read, stream)).await?;
            Some((Prefixed::new(Bytes::new(), stream), Some(caller)))
        }
        Hello::Other(read) => Some((Prefixed::new(read, Transport::Plain(stream)), None)),
    }
}

enum Hello {
    Mesh(Bytes),
    Other(Bytes),
}

/// Reads until a ClientHello is complete or the bytes are something else.
async fn read_hello(stream: &mut TcpStream) -> Option<Hello> {
    let mut read = Vec::with_capacity(2048);
    let mut acceptor = Acceptor::default();
    let mut fed = 0;
    loop {
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
        if read.first() != Some(&HANDSHAKE_RECORD) || read.len() > MAX_HELLO {
            return Some(Hello::Other(read.into()));
        }
        while let Some(mut rest) = read.get(fed..).filter(|rest| !rest.is_empty()) {
            match acceptor.read_tls(&mut rest) {
                Ok(taken) if taken > 0 => fed += taken,
                Ok(_) | Err(_) => return Some(Hello::Other(read.into())),
            }
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let mut protocols = hello.alpn().into_iter().flatten();
                let is_mesh = protocols.any(|name| name == exchange::ALPN || name.starts_with(b"istio"));
                let read = read.into();
                return Some(if is_mesh { Hello::Mesh(read) } else { Hello::Other(read) });
            }
            Err(_) => return Some(Hello::Other(read.into())),
        }
    }
}

async fn accept(arrival: &Arrival, stream: Prefixed<TcpStream>) -> Option<(Transport, Box<Verified>)> {
    let Arrival { worker, listener, caller, .. } = arrival;
    match worker.tls.accept(stream).await {
        Ok(Caller { stream, peer, server_name, forwarded }) => {
            worker.telemetry().handshake("inbound", peer.security);
            Some((stream, Box::new(Verified { peer, server_name, forwarded })))
        }
        Err(error) => {
            worker.telemetry().handshake_failed();
            if is_worth_a_line(worker, &error) {
                let listener = &listener.view().listener.config.name;
                tracing::info!(%listener, peer = %caller, "refused a TLS connection: {error}");
            }
            None
        }
    }
}

fn refuse_plain(arrival: &Arrival) {
    let Arrival { worker, listener, caller, .. } = arrival;
    worker.telemetry().refused_plain();
    if worker.quiet.allows() {
        let listener = &listener.view().listener.config.name;
        tracing::info!(%listener, peer = %caller, "refused a connection in clear text: this listener demands mTLS (STRICT)");
    }
}

/// A caller that went away in the middle is nobody's business; a refusal is, as long as there are not too many.
fn is_worth_a_line(worker: &Worker, error: &HandshakeError) -> bool {
    let gone = match error {
        HandshakeError::Failed(error) => matches!(
            error.kind(),
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
        ),
        HandshakeError::NoIdentity | HandshakeError::NotValidNow(_) | HandshakeError::TimedOut => false,
    };
    !gone && worker.quiet.allows()
}
