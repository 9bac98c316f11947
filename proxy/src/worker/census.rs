//! How much a worker has to do, counted when the process is to end.
//!
//! Counted then and not always: a request pays nothing for it.

use std::rc::Weak;
use std::sync::atomic::Ordering;

use leno_config::ir::Direction;

use crate::downstream::Life;

use super::Worker;

/// What one worker, or all of them, have to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Connections on which something is under way: a request, a tunnel, or bytes of TCP, which nobody can tell from rest.
    pub under_way: u64,
    /// Connections that the own app holds, also those that rest: who holds one is there.
    pub from_app: u64,
    /// Changes whenever something has happened.
    pub moves: u64,
}

impl Census {
    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            under_way: self.under_way + other.under_way,
            from_app: self.from_app + other.from_app,
            moves: self.moves.wrapping_add(other.moves),
        }
    }
}

impl Worker {
    /// What it has to do now.
    pub(super) fn census(&self) -> Census {
        let (lives, connections) = (self.lives.borrow(), self.connections.borrow());
        let lives: Vec<_> = lives.iter().filter_map(Weak::upgrade).collect();
        let is_from_app = |direction| match direction {
            Direction::Outbound => true,
            Direction::Inbound => false,
        };
        let connections = connections.iter().filter_map(Weak::upgrade);
        let from_app = connections.filter(|one| is_from_app(one.listener.view().listener.config.direction));
        let accepted = self.stats.connections_total.load(Ordering::Relaxed);
        let changes = lives.iter().map(|life| life.changes()).fold(accepted, u64::wrapping_add);
        Census {
            under_way: lives.iter().filter(|life| Life::is_busy(life)).count() as u64,
            from_app: from_app.count() as u64,
            moves: changes,
        }
    }
}
