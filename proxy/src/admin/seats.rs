//! Room for a number of connections, where those that only sit make room for those that come.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

use super::CONNECTIONS;

/// All seats of one address, in the order in which they were taken.
#[derive(Default)]
pub(super) struct Seats {
    taken: Vec<Rc<Seat>>,
    freed: Rc<Notify>,
}

/// One connection's.
pub(super) struct Seat {
    /// Requests that are being answered: one at most, since this is HTTP/1.
    asks: Cell<usize>,
    wanted: Notify,
    freed: Rc<Notify>,
}

/// A request that is being answered.
pub(super) struct Asks<'a>(&'a Seat);

impl Seats {
    /// A seat: a free one, or that of the connection that has been here longest of those that ask nothing. Where all are
    /// being answered, the first that is done makes room.
    pub(super) async fn take(&mut self) -> Rc<Seat> {
        loop {
            // Who has gone has only left his place in the list.
            self.taken.retain(|seat| Rc::strong_count(seat) > 1);
            if self.taken.len() < CONNECTIONS {
                break;
            }
            if let Some(index) = self.taken.iter().position(|seat| seat.asks.get() == 0) {
                self.taken.remove(index).wanted.notify_one();
                break;
            }
            self.freed.notified().await;
        }
        let seat = Rc::new(Seat { asks: Cell::new(0), wanted: Notify::new(), freed: Rc::clone(&self.freed) });
        self.taken.push(Rc::clone(&seat));
        seat
    }
}

impl Seat {
    /// Says that a request is being answered, until it is dropped.
    pub(super) fn asks(&self) -> Asks<'_> {
        self.asks.set(self.asks.get() + 1);
        Asks(self)
    }

    /// Resolves when somebody else needs the seat and nothing is asked any more.
    pub(super) async fn is_wanted(&self) {
        self.wanted.notified().await;
        while self.asks.get() > 0 {
            self.freed.notified().await;
        }
    }
}

impl Drop for Asks<'_> {
    fn drop(&mut self) {
        self.0.asks.set(self.0.asks.get().saturating_sub(1));
        self.0.freed.notify_waiters();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn who_asks_nothing_makes_room_and_who_asks_stays() {
        let mut seats = Seats::default();
        let mut all = Vec::new();
        for _ in 0..CONNECTIONS {
            all.push(seats.take().await);
        }
        let first = all[0].asks();
        let newest = seats.take().now_or_never().expect("there is room: the second asks nothing");
        assert!(all[1].is_wanted().now_or_never().is_some());
        assert!(all[0].is_wanted().now_or_never().is_none());
        drop(first);
        let asking: Vec<_> = all.iter().skip(2).chain([&newest]).map(|seat| seat.asks()).collect();
        let again = all[0].asks();
        assert!(seats.take().now_or_never().is_none(), "all are being answered");
        drop(again);
        assert!(seats.take().now_or_never().is_some(), "one is done");
        drop(asking);
    }

    #[tokio::test]
    async fn who_has_gone_leaves_a_free_seat() {
        let mut seats = Seats::default();
        for _ in 0..3 * CONNECTIONS {
            drop(seats.take().now_or_never().expect("a free seat"));
        }
        assert!(seats.taken.len() <= CONNECTIONS);
    }
}
