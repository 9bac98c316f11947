//! HTTP/1.1, HTTP/2 or TLS, by the first bytes (RFC 9113 §3.4: the preface is chosen so that no HTTP/1.1 server takes it
//! for a request; RFC 8446 §5.1: a handshake record begins with 22, which no HTTP does).

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

use crate::overload::limits::Patience;

/// What HTTP/2 begins with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The content type of a handshake record.
pub(super) const HANDSHAKE_RECORD: u8 = 22;

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
    /// It said nothing for too long.
    Silent,
    /// It began what may be HTTP/2, and did not go on.
    Unfinished,
}

/// Reads just enough to know, and returns what was read with it.
pub(super) async fn detect(
    stream: &mut (impl AsyncRead + Unpin),
    patience: &Patience,
) -> Result<(Spoken, Bytes), Undetected> {
    let mut first = [0; PREFACE.len()];
    let mut length = 0;
    let mut deadline = Instant::now() + patience.first_byte;
    loop {
        let late = if length == 0 { Undetected::Silent } else { Undetected::Unfinished };
        let free = first.get_mut(length..).unwrap_or_default();
        let read = timeout_at(deadline, stream.read(free)).await.map_err(|_| late)?.map_err(|_| Undetected::Gone)?;
        if length == 0 {
            deadline = Instant::now() + patience.preface;
        }
        length += read;
        let seen = first.get(..length).unwrap_or_default();
        let spoken = match () {
            () if read == 0 => return Err(Undetected::Gone),
            () if seen.first() == Some(&HANDSHAKE_RECORD) => Spoken::Tls,
            () if seen == PREFACE => Spoken::Http2,
            () if !PREFACE.starts_with(seen) => Spoken::Http1,
            () => continue,
        };
        return Ok((spoken, Bytes::copy_from_slice(seen)));
    }
}
