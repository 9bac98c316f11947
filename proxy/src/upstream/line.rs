//! Who waits for a connection to one endpoint, and how many connections there are.
//!
//! The rules are Envoy's. A cluster has a limit of connections, counted for the whole process; a pool without any may
//! open one all the same, so that nobody waits for what never comes. Who can neither have an idle connection nor open one
//! waits in line: for a connection that is given back, or for one that ends and makes room. So a waiting line always has
//! connections of its own pool before it, and needs to hear from no other pool and no other worker.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{Notify, oneshot};

use crate::cluster::ClusterStats;
use crate::cluster::limits::Limit;
use crate::forwarding::forward_writes;
use crate::rarely::RarelyRead;
use crate::tls::transport::Transport;

use super::opened::Noted;

/// Requests in one line, whatever the rules allow.
const LONGEST: usize = 16 * 1024;

/// Those who wait for a connection `C` of one pool.
#[derive(Debug)]
pub(super) struct Line<C> {
    doors: Arc<Doors>,
    stats: Arc<ClusterStats>,
    waiting: RefCell<VecDeque<oneshot::Sender<C>>>,
    /// Those who wait for room only.
    for_room: Cell<usize>,
}

/// The connections of one pool. Shared with them, which may end anywhere.
#[derive(Debug, Default)]
struct Doors {
    open: AtomicUsize,
    room: Notify,
}

/// What becomes of those who wait.
#[derive(Debug)]
pub(super) enum Turn<C> {
    /// A connection was given back.
    Connection(C),
    /// A connection has ended, or has room: try again.
    Room,
}

impl<C> Line<C> {
    pub(super) fn new(stats: Arc<ClusterStats>) -> Self {
        Self { doors: Arc::default(), stats, waiting: RefCell::default(), for_room: Cell::new(0) }
    }

    /// The right to open one more connection, of `allowed` in the whole cluster.
    pub(super) fn slot(&self, allowed: Option<u32>) -> Option<Slot> {
        let usage = &self.stats.usage;
        if !usage.take(Limit::Connections, allowed) {
            self.stats.connection_overflows.fetch_add(1, Ordering::Relaxed);
            if self.doors.open.load(Ordering::Relaxed) > 0 {
                return None;
            }
            usage.take(Limit::Connections, None);
        }
        self.doors.open.fetch_add(1, Ordering::Relaxed);
        Some(Slot { doors: Arc::clone(&self.doors), stats: Arc::clone(&self.stats) })
    }

    /// Gives a connection to whoever has waited longest; back to the caller when nobody waits.
    pub(super) fn offer(&self, mut connection: C) -> Option<C> {
        loop {
            let Some(next) = self.waiting.borrow_mut().pop_front() else { return Some(connection) };
            match next.send(connection) {
                Ok(()) => return None,
                // That one has gone.
                Err(back) => connection = back,
            }
        }
    }

    /// Waits until a connection is given back or ends. `None`: the line is too long.
    pub(super) async fn turn(&self) -> Option<Turn<C>> {
        let (sender, turn) = oneshot::channel();
        {
            let mut waiting = self.waiting.borrow_mut();
            if waiting.len() >= LONGEST {
                waiting.retain(|sender| !sender.is_closed());
            }
            if waiting.len() >= LONGEST {
                return None;
            }
            waiting.push_back(sender);
        }
        tokio::select! {
            biased;
            connection = turn => Some(connection.map_or(Turn::Room, Turn::Connection)),
            () = self.doors.room.notified() => Some(Turn::Room),
        }
    }

    /// Waits until a connection ends or has room for one more stream.
    pub(super) async fn room(&self) {
        let _waiting = Waiting::new(&self.for_room);
        self.doors.room.notified().await;
    }

    /// A stream has ended on a shared connection.
    pub(super) fn made_room(&self) {
        if self.for_room.get() > 0 {
            self.doors.room.notify_one();
        }
    }
}

/// One who waits for room, until dropped.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// One connection's place among those allowed.
#[derive(Debug)]
pub(super) struct Slot {
    doors: Arc<Doors>,
    stats: Arc<ClusterStats>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.doors.open.fetch_sub(1, Ordering::Relaxed);
        self.stats.usage.give_back(Limit::Connections);
        self.doors.room.notify_one();
    }
}

/// A connection's bytes with its place: it counts for as long as its socket is open, whoever holds it by then.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) bytes: RarelyRead<Transport>,
    #[allow(dead_code)] // Held for its end.
    pub(super) slot: Slot,
    /// It is remembered, for the loop guard.
    #[allow(dead_code)] // Held for its end.
    pub(super) noted: Option<Box<Noted>>,
    /// Before the head of an answer.
    pub(super) prelude: Arc<Prelude>,
}

/// How much an endpoint may still say before it answers: hyper skips 1xx heads, however many there are (RFC 9110 §15.2
/// sets no limit). Atomic only because hyper wants its streams `Send`: there is one thread.
#[derive(Debug)]
pub(super) struct Prelude(AtomicU32);

impl Prelude {
    /// Bytes of all heads up to the answer's own, which alone may have 64 KiB.
    const MOST: u32 = 256 << 10;
    /// No answer is awaited.
    const OFF: u32 = u32::MAX;

    /// A request is sent.
    pub(super) fn begin(&self) {
        self.0.store(Self::MOST, Ordering::Relaxed);
    }

    /// The answer has begun.
    pub(super) fn end(&self) {
        self.0.store(Self::OFF, Ordering::Relaxed);
    }

    /// Whether anything more may come.
    fn check(&self) -> io::Result<()> {
        match self.0.load(Ordering::Relaxed) {
            0 => Err(io::Error::new(io::ErrorKind::InvalidData, "256 KiB of 1xx responses and no answer")),
            _ => Ok(()),
        }
    }

    fn came(&self, bytes: usize) {
        let left = self.0.load(Ordering::Relaxed);
        if left != Self::OFF {
            self.0.store(left.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX)), Ordering::Relaxed);
        }
    }
}

impl Default for Prelude {
    fn default() -> Self {
        Self(AtomicU32::new(Self::OFF))
    }
}

impl AsyncRead for Counted {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.prelude.check()?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.bytes).poll_read(context, buffer);
        self.prelude.came(buffer.filled().len() - before);
        polled
    }
}

forward_writes!(Counted, bytes);

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> (Line<u32>, Arc<ClusterStats>) {
        let stats = Arc::new(ClusterStats::default());
        (Line::new(Arc::clone(&stats)), stats)
    }

    #[test]
    fn a_pool_without_a_connection_may_open_one_whatever_the_limit() {
        let stats = Arc::new(ClusterStats::default());
        let (one, other): (Line<u32>, Line<u32>) = (Line::new(Arc::clone(&stats)), Line::new(Arc::clone(&stats)));
        let first = one.slot(Some(1));
        assert!(first.is_some() && one.slot(Some(1)).is_none(), "it has one");
        let second = other.slot(Some(1));
        assert!(second.is_some() && other.slot(Some(1)).is_none(), "another pool has none");
        assert_eq!(stats.usage.get(Limit::Connections), 2);
        assert_eq!(stats.connection_overflows.load(Ordering::Relaxed), 3, "each try is counted (Envoy)");
        drop((first, second));
        assert_eq!(stats.usage.get(Limit::Connections), 0);
        assert!(one.slot(Some(1)).is_some());
    }

    #[tokio::test]
    async fn who_waits_longest_gets_the_connection_and_who_has_gone_gets_none() {
        let (line, _) = line();
        let mut gone = Box::pin(line.turn());
        let mut first = Box::pin(line.turn());
        let mut second = Box::pin(line.turn());
        for turn in [&mut gone, &mut first, &mut second] {
            assert!(futures_util::poll!(turn).is_pending());
        }
        drop(gone);
        assert_eq!(line.offer(7), None);
        assert_eq!(line.offer(8), None);
        assert_eq!(line.offer(9), Some(9), "nobody waits any longer");
        assert!(matches!(first.await, Some(Turn::Connection(7))));
        assert!(matches!(second.await, Some(Turn::Connection(8))));
    }

    #[tokio::test]
    async fn the_end_of_a_connection_makes_room_for_one_who_waits() {
        let (line, _) = line();
        let slot = line.slot(Some(1));
        let mut turn = Box::pin(line.turn());
        assert!(futures_util::poll!(&mut turn).is_pending());
        drop(slot);
        assert!(matches!(turn.await, Some(Turn::Room)));
    }
}
