//! A connection of HTTP/1.1 that rests gives its buffers back.
//!
//! hyper keeps some 16 KiB for each connection, whether anything is asked or not. Most connections of a sidecar ask nothing
//! most of the time, so one that has rested for a second or two is taken out of hyper's hands: what is left is the socket,
//! with TLS its keys, and a task that waits for the first bytes. They are handed to hyper with the socket, which starts
//! anew. A connection in use never rests that long, so no request of a busy one pays for it.
//!
//! Only where rest is proven ([`Life::may_rest`](super::Life::may_rest)): a byte that hyper still had to write would be lost,
//! and the rest of a body would be taken for a request. What hyper has read and not used comes back with the socket.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use crate::telemetry::add;

use super::life::{Life, News};
use super::pulse::Watched;
use super::{Connection, draining};

/// What is taken of the first bytes; the rest waits for hyper.
const FIRST: usize = 512;
/// How long the end of a connection may take that nobody uses.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Waits until there is something to do on a connection; `None`: it is over.
pub(super) async fn until_awake(connection: &Connection, mut stream: Watched) -> Option<Watched> {
    let _resting = Resting::new(&connection.life);
    let first = loop {
        tokio::select! {
            read = first(&mut stream) => break read.ok()?,
            news = connection.life.news() => if news == News::Over {
                break Bytes::new();
            },
            // Who serves requests knows what is to be done then.
            () = draining(connection) => return Some(stream),
        }
    };
    if first.is_empty() {
        // In TLS the end is said; a socket that is full or gone hears nothing.
        let _ = tokio::time::timeout(LAST_WORDS, stream.shutdown()).await;
        return None;
    }
    stream.0.unread(first);
    Some(stream)
}

/// One connection that rests; it does as long as this lives, and is not told to rest again every second.
struct Resting<'a>(&'a Life);

impl<'a> Resting<'a> {
    fn new(life: &'a Life) -> Self {
        add(&life.stats.connections_resting, 1);
        life.set_rests(false);
        Self(life)
    }
}

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.set_rests(true);
        let resting = &self.0.stats.connections_resting;
        resting.store(resting.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
    }
}

/// The first bytes, none at the end. The room for them is on the stack, and only while they are looked for.
async fn first(stream: &mut Watched) -> io::Result<Bytes> {
    poll_fn(|context| {
        let mut room = [0; FIRST];
        let mut buffer = ReadBuf::new(&mut room);
        ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer))?;
        Ok(Bytes::copy_from_slice(buffer.filled())).into()
    })
    .await
}
