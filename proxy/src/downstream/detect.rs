//! HTTP/1.1, HTTP/2 or TLS, by the first bytes (RFC 9113 §3.4: the preface is chosen so that no HTTP/1.1 server takes it
//! for a request; RFC 8446 §5.1: a handshake record begins with 22, which no HTTP does).

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What HTTP/2 begins with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The content type of a handshake record.
pub(super) const HANDSHAKE_RECORD: u8 = 22;
/// From the connection to its first bytes.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// What the caller speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    Http2,
    Tls,
}

/// Why it cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Undetected {
    /// The caller left.
    Gone,
    /// It said nothing, or too little, for too long.
    Silent,
}

/// Reads just enough to know, and returns what was read with it.
pub(super) async fn detect(stream: &mut (impl AsyncRead + Unpin)) -> Result<(Spoken, Bytes), Undetected> {
    let mut first = [0; PREFACE.len()];
    let mut length = 0;
    let spoken = tokio::time::timeout(SILENCE, async {
        loop {
            let read = match first.get_mut(length..) {
                Some(free) => stream.read(free).await.ok()?,
                None => 0,
            };
            length += read;
            let seen = first.get(..length)?;
            match () {
                () if read == 0 => return None,
                () if seen.first() == Some(&HANDSHAKE_RECORD) => return Some(Spoken::Tls),
                () if seen == PREFACE => return Some(Spoken::Http2),
                () if !PREFACE.starts_with(seen) => return Some(Spoken::Http1),
                () => {}
            }
        }
    })
    .await
    .map_err(|_| Undetected::Silent)?
    .ok_or(Undetected::Gone)?;
    Ok((spoken, Bytes::copy_from_slice(first.get(..length).unwrap_or_default())))
}
