//! Hot upgrade: a new process takes over from the one that runs, and no connection is refused or cut.
//!
//! ```text
//! running                                     new (`leno-proxy run --upgrade`)
//!                        ◀── hello ──────────  protocol, node, process
//! its ADS stream ends; the newest state
//! goes to disk, and nothing more
//!                        ─── sockets ───────▶  and the lock of the state directory
//! serves what is in force                      starts as ever: state from disk, then its own ADS stream
//!                        ◀── ready ──────────  configured, with a certificate; it accepts nothing yet
//!                        ─── yours ─────────▶
//!                        ◀── serving ────────  accepts
//! closes its copies of the sockets, drains, exits with 0
//! ```
//!
//! **Why nothing is lost.** What is passed (SCM_RIGHTS) is the listening socket itself, and so its queue: a connection that
//! the kernel has completed and nobody has accepted is there for whoever accepts next. A new socket on the same port
//! (SO_REUSEPORT) would have a queue of its own, and closing the old one would reset those who wait in it. For a moment both
//! processes accept, and each serves what it has accepted, to its end.
//!
//! **One owner at any time.** The state directory is locked (`flock`), and the lock goes along with the sockets, since it
//! belongs to the open file and not to the process. From the offer on the new process writes there and follows the control
//! plane; the old one rests. Two proxies can never share a directory by accident: the second is told so and ends.
//!
//! **Going back.** Until the running process has heard `serving` it can take everything back, and does so when the new one
//! ends, breaks the line, or is not ready in time: it had never stopped accepting. The new one, told so or left without an
//! answer in time, exits without having accepted anything. If it is the *running* one that dies meanwhile, the new one goes on:
//! it has all sockets.
//!
//! **Who may.** The socket `handover.sock` stands in the state directory and only its owner can open it (0600); each side
//! asks the kernel who the other is (SO_PEERCRED) and talks to processes of its own user alone. Processes that speak
//! another version of this protocol say so and part.
//!
//! * [`claim`](mod@claim): the new process's side, and the lock. [`giver`]: the running one's.
//! * [`wire`]: packets with descriptors. [`sockets`]: those that are passed.
//! * [`crate::process`] does what is agreed here.

mod claim;
mod giver;
mod sockets;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use claim::{Claim, ClaimError, Taken, Taking, claim};
pub use giver::{Asked, Giver};
pub use sockets::{Inherited, OwnSockets};
pub use wire::{Hello, Part, WireError};

/// Name of the socket in the state directory.
pub const SOCKET: &str = "handover.sock";
/// Name of the file whose lock says who owns the state directory.
pub const LOCK: &str = "lock";
/// From the offer to `ready`: the time of a start, with a control plane that is slow.
pub const READY_DEADLINE: Duration = Duration::from_secs(60);
/// For an answer that takes no work.
pub const WORD_DEADLINE: Duration = Duration::from_secs(10);

/// Whether connections are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Not yet: another process does.
    Shut,
    /// They are.
    Open,
    /// No more: another process does.
    Gone,
}

/// Whether the files of the state directory are this process's to write. Shared by all who write there.
#[derive(Debug, Clone)]
pub struct Ownership(Arc<AtomicBool>);

impl Default for Ownership {
    /// They are.
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Ownership {
    /// Whether they are.
    pub fn is_ours(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// They are from now on, or no more.
    pub fn set(&self, ours: bool) {
        self.0.store(ours, Ordering::Release);
    }
}
