//! Who may come in, and in which dress: the listener's [`MtlsMode`] against what the caller does.
//!
//! | mode | clear text | TLS |
//! |---|---|---|
//! | `Disable` | comes in | HTTP: answered 400 as nonsense; TCP: bytes like any others |
//! | `Permissive` | comes in | with a certificate of the mesh; TCP without the mesh's ALPN: passed on, it is the app's |
//! | `Strict` | closed | with a certificate of the mesh |
//! | `Disable`, with TLS for others | closed | with the listener's own certificate, and one of the caller if it asks |

use std::sync::Arc;

use bytes::Bytes;
use leno_config::ir::MtlsMode;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::overload::reached::Reached;
use crate::telemetry::add;
use crate::tls;
use crate::tls::client::Inside;
use crate::tls::server::{Caller, HandshakeError};
use crate::tls::transport::{Prefixed, Transport};
use crate::worker::Worker;

use super::detect::{HANDSHAKE_RECORD, Spoken, Undetected, detect};
use super::{Arrival, Kind};

/// What a STRICT listener demands.
const STRICT: &str = "mTLS (STRICT)";

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
    let patience = &arrival.worker.overload.limits().patience;
    let (spoken, prefix) = told(arrival, detect(&mut stream, patience).await)?;
    match (spoken, mode) {
        (Spoken::Tls, MtlsMode::Permissive | MtlsMode::Strict) => {
            let (stream, caller) = accept(arrival, Prefixed::new(prefix, stream)).await?;
            let (spoken, stream) = requests(arrival, stream).await?;
            Some(Admitted { spoken, stream, caller: Some(caller) })
        }
        (Spoken::Http1 | Spoken::Http2, MtlsMode::Strict) => {
            refuse_plain(arrival, STRICT);
            None
        }
        (Spoken::Tls, MtlsMode::Disable)
        | (Spoken::Http1 | Spoken::Http2, MtlsMode::Disable | MtlsMode::Permissive) => {
            Some(Admitted { spoken, stream: Prefixed::new(prefix, Transport::Plain(stream)), caller: None })
        }
    }
}

/// Tells what is spoken within TLS that has been ended.
pub(super) async fn requests(arrival: &Arrival, mut stream: Transport) -> Option<(Spoken, Prefixed<Transport>)> {
    let patience = &arrival.worker.overload.limits().patience;
    let (spoken, prefix) = told(arrival, detect(&mut stream, patience).await)?;
    Some((spoken, Prefixed::new(prefix, stream)))
}

/// A caller of a listener that ends TLS for those who are not of the mesh; `None` when it is not let in.
pub(super) async fn outside(arrival: &Arrival, kind: Kind, stream: TcpStream) -> Option<Outsider> {
    let tls = arrival.tls.as_ref()?;
    let stream = begun(arrival, Prefixed::new(Bytes::new(), stream), "TLS (`tls` of the Sidecar's `ingress`)").await?;
    let inside = match kind {
        Kind::Http => Inside::Http2,
        Kind::Tcp | Kind::Undeclared => Inside::Bytes,
    };
    let worker = &arrival.worker;
    match worker.tls.accept_outside(stream, (tls, inside), worker.overload.limits().patience.handshake).await {
        Ok(outsider) => {
            worker.telemetry().handshake("inbound", outsider.security);
            Some(Outsider { stream: outsider.stream, server_name: outsider.server_name })
        }
        Err(error) => {
            refused(arrival, &error);
            None
        }
    }
}

/// A caller that is not of the mesh.
pub(super) struct Outsider {
    pub(super) stream: Transport,
    pub(super) server_name: Option<Arc<str>>,
}

/// Counts what was told of a caller by its first bytes.
fn told<T>(arrival: &Arrival, detected: Result<(Spoken, T), Undetected>) -> Option<(Spoken, T)> {
    let stats = &arrival.worker.stats;
    match &detected {
        Err(Undetected::Silent) => arrival.reached(Reached::FirstByte),
        Err(Undetected::Unfinished) => arrival.reached(Reached::Preface),
        Ok(_) | Err(Undetected::Gone) => {}
    }
    let count = match &detected {
        Ok((Spoken::Http1, _)) => &stats.detected_http1,
        Ok((Spoken::Http2, _)) => &stats.detected_http2,
        Ok((Spoken::Tls, _)) => &stats.detected_tls,
        Err(Undetected::Silent | Undetected::Unfinished) => &stats.detected_nothing,
        Err(Undetected::Gone) => return None,
    };
    add(count, 1);
    detected.ok()
}

/// A caller of a TCP listener that wants certificates; `None` when it is not let in.
pub(super) async fn tcp_strict(arrival: &Arrival, stream: Prefixed<TcpStream>) -> Option<(Transport, Box<Verified>)> {
    let stream = begun(arrival, stream, STRICT).await?;
    accept(arrival, stream).await
}

/// The caller, once it has begun TLS, which the listener demands.
async fn begun(arrival: &Arrival, mut stream: Prefixed<TcpStream>, demanded: &str) -> Option<Prefixed<TcpStream>> {
    let mut first = [0];
    let patience = arrival.worker.overload.limits().patience.first_byte;
    let Ok(read) = tokio::time::timeout(patience, stream.read(&mut first)).await else {
        arrival.reached(Reached::FirstByte);
        return None;
    };
    match first.get(..read.ok()?)? {
        [] => None,
        [HANDSHAKE_RECORD] => {
            stream.unread(Bytes::copy_from_slice(&first));
            Some(stream)
        }
        _ => {
            refuse_plain(arrival, demanded);
            None
        }
    }
}

/// Ends TLS with a caller that has begun it.
pub(super) async fn accept(arrival: &Arrival, stream: Prefixed<TcpStream>) -> Option<(Transport, Box<Verified>)> {
    let worker = &arrival.worker;
    match worker.tls.accept(stream, worker.overload.limits().patience.handshake).await {
        Ok(Caller { stream, peer, server_name, forwarded }) => {
            worker.telemetry().handshake("inbound", peer.security);
            Some((stream, Box::new(Verified { peer, server_name, forwarded })))
        }
        Err(error) => {
            refused(arrival, &error);
            None
        }
    }
}

fn refused(arrival: &Arrival, error: &HandshakeError) {
    let Arrival { worker, listener, caller, .. } = arrival;
    worker.telemetry().handshake_failed();
    if matches!(error, HandshakeError::TimedOut(_)) {
        arrival.reached(Reached::Handshake);
    }
    if is_worth_a_line(worker, error) {
        let listener = &listener.view().listener.config.name;
        tracing::info!(%listener, peer = %caller, "refused a TLS connection: {error}");
    }
}

fn refuse_plain(arrival: &Arrival, demanded: &str) {
    let Arrival { worker, listener, caller, .. } = arrival;
    worker.telemetry().refused_plain();
    if worker.quiet.allows() {
        let listener = &listener.view().listener.config.name;
        tracing::info!(%listener, peer = %caller, "refused a connection in clear text: this listener demands {demanded}");
    }
}

/// A caller that went away in the middle is nobody's business; a refusal is, as long as there are not too many.
fn is_worth_a_line(worker: &Worker, error: &HandshakeError) -> bool {
    let gone = match error {
        HandshakeError::Failed(error) => matches!(
            error.kind(),
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
        ),
        HandshakeError::NoIdentity | HandshakeError::NotValidNow(_) | HandshakeError::TimedOut(_) => false,
    };
    !gone && worker.quiet.allows()
}
