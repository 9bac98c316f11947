//! HTTP/1.1 or HTTP/2, by the first bytes (RFC 9113 §3.4: the preface is chosen so that no HTTP/1.1 server takes it for
//! a request).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::life::{Life, Pulse};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// From the connection to its first bytes.
const SILENCE: Duration = Duration::from_secs(10);

/// What the caller speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    Http2,
}

/// Reads just enough to know; what was read is read again from the result. `None` when the caller left or said nothing
/// for too long.
pub(super) async fn detect(mut stream: TcpStream, life: &Life) -> Option<(Spoken, Prefixed)> {
    let mut first = [0; PREFACE.len()];
    let mut length = 0;
    let told = tokio::time::timeout(SILENCE, async {
        loop {
            let read = match first.get_mut(length..) {
                Some(free) => stream.read(free).await.ok()?,
                None => 0,
            };
            length += read;
            let seen = first.get(..length)?;
            match () {
                () if read == 0 => return None,
                () if seen == PREFACE => return Some(Spoken::Http2),
                () if !PREFACE.starts_with(seen) => return Some(Spoken::Http1),
                () => {}
            }
        }
    })
    .await
    .ok()??;
    let prefix = Bytes::copy_from_slice(first.get(..length)?);
    // Only HTTP/1.1 has heads that can be waited for; HTTP/2 frames come at any time.
    let pulse = (told == Spoken::Http1).then(|| life.pulse());
    Some((told, Prefixed { prefix, stream, pulse }))
}

/// A stream that gives back first what was read ahead.
#[derive(Debug)]
pub(super) struct Prefixed {
    prefix: Bytes,
    stream: TcpStream,
    /// Told when bytes arrive.
    pulse: Option<Arc<Pulse>>,
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            let before = buffer.filled().len();
            let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
            if let Some(pulse) = &self.pulse
                && buffer.filled().len() > before
            {
                pulse.read();
            }
            return polled;
        }
        if let Some(pulse) = &self.pulse {
            pulse.read();
        }
        let length = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(self.prefix.get(..length).unwrap_or_default());
        self.prefix.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
