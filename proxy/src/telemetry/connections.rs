//! The series of TCP connections.

use leno_config::ir::Direction;

use crate::error::Flags;

use super::labels::{Labels, LinkName, TargetName};
use super::names::OTHER;
use super::series::{Block, Book, Key, Table, Total};

/// Connections opened.
pub const OPENED: usize = 0;
/// Connections that have ended.
pub const CLOSED: usize = 1;
/// Bytes that came from callers.
pub const RECEIVED: usize = 2;
/// Bytes that went to callers.
pub const SENT: usize = 3;
/// Figures of one series.
pub const FIGURES: usize = 4;

/// All series of connections.
pub type TcpBook = Book<TcpKey, FIGURES>;
/// One worker's.
pub type TcpTable = Table<TcpKey, FIGURES>;
/// The figures of one series from one worker.
pub type TcpBlock = Block<FIGURES>;
/// One series, summed.
pub type TcpTotal = Total<TcpKey, FIGURES>;

/// What a series of connections is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TcpKey {
    /// Which way.
    pub direction: Direction,
    /// Number of the other side.
    pub link: u32,
    /// Number of what is called.
    pub target: u32,
    /// How they end; nothing for what is counted before that.
    pub flags: Flags,
}

/// The texts of that.
#[derive(Debug, Clone)]
pub struct TcpNames {
    /// The other side.
    pub link: LinkName,
    /// What is called.
    pub target: TargetName,
}

impl Key for TcpKey {
    type Names = TcpNames;

    fn names(&self, labels: &Labels) -> TcpNames {
        TcpNames { link: labels.links.of(self.link), target: labels.targets.of(self.target) }
    }

    fn folded(self) -> Self {
        Self { link: OTHER, target: OTHER, ..self }
    }

    fn last(self) -> Self {
        Self { flags: Flags::default(), ..self.folded() }
    }
}
