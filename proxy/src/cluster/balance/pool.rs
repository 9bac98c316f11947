//! Endpoints that one policy chooses among: those of a priority, or of one of its localities where these have weights.

use leno_config::ir;

use crate::cluster::Member;
use crate::cluster::standing::Moment;
use crate::random::Random;

use super::maglev::Table;
use super::ring_hash::Ring;
use super::round_robin::Cursor;
use super::schedule::Schedule;
use super::{Shares, least_request, peak_ewma, round_robin, slow_start};

/// Members and the policy among them. Shared by all workers.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) members: Box<[Member]>,
    policy: Policy,
}

#[derive(Debug)]
enum Policy {
    LeastRequest { choices: u32, is_even: bool },
    RoundRobin { shares: Shares },
    Random { shares: Shares },
    PeakEwma { shares: Shares },
    RingHash(Ring),
    Maglev(Table),
}

/// Where one worker stands in a pool.
#[derive(Debug)]
pub(super) struct Turn {
    cursor: Cursor,
    /// Where weights matter that change from pick to pick.
    schedule: Option<Schedule>,
}

/// What a pick in a pool goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draw<'a> {
    pub(super) random: &'a Random,
    /// Of the request, or a random number.
    pub(super) hash: u64,
    /// How often an endpoint was drawn in vain for this pick.
    pub(super) attempt: u32,
    /// New endpoints get their share slowly, and some are new.
    pub(super) slow_start: Option<Warming<'a>>,
}

/// How new endpoints get their share, and the time now.
pub(super) type Warming<'a> = (&'a ir::SlowStart, Moment);

impl Pool {
    /// `shares` are those of the members for consistent hashing, and empty otherwise.
    pub(super) fn new(balance: &ir::Balance, members: Vec<Member>, shares: &[f64]) -> Self {
        let policy = match balance {
            ir::Balance::LeastRequest { choices } => {
                let is_even = matches!(Shares::new(&members), Shares::Even);
                Policy::LeastRequest { choices: (*choices).max(2), is_even }
            }
            ir::Balance::RoundRobin => Policy::RoundRobin { shares: Shares::new(&members) },
            ir::Balance::Random => Policy::Random { shares: Shares::new(&members) },
            ir::Balance::PeakEwma => Policy::PeakEwma { shares: Shares::new(&members) },
            ir::Balance::RingHash { min, max } => Policy::RingHash(Ring::new(&members, shares, *min, *max)),
            ir::Balance::Maglev { table } => Policy::Maglev(Table::new(&members, shares, *table)),
        };
        Self { members: members.into(), policy }
    }

    /// Where a worker begins.
    pub(super) fn turn(&self, random: &Random, slow_start: Option<Warming<'_>>) -> Turn {
        let is_scheduled = match &self.policy {
            Policy::LeastRequest { is_even, .. } => slow_start.is_some() || !is_even,
            Policy::RoundRobin { .. } => slow_start.is_some(),
            Policy::Random { .. } | Policy::PeakEwma { .. } | Policy::RingHash(_) | Policy::Maglev(_) => false,
        };
        let schedule = || Schedule::new(self.members.len(), random, |index| self.weight(index, slow_start));
        Turn { cursor: Cursor::default(), schedule: is_scheduled.then(schedule) }
    }

    /// The index of a member; `None` when there is none.
    pub(super) fn pick(&self, turn: &Turn, draw: &Draw<'_>) -> Option<usize> {
        if self.members.len() == 1 {
            return Some(0);
        }
        if let Some(schedule) = &turn.schedule {
            return schedule.next(|index| self.weight(index, draw.slow_start));
        }
        let random = draw.random;
        match &self.policy {
            Policy::LeastRequest { choices, .. } => least_request::pick(&self.members, *choices, random),
            Policy::RoundRobin { shares } => round_robin::pick(self.members.len(), shares, &turn.cursor, random),
            Policy::Random { shares } => shares.draw(self.members.len(), random),
            Policy::PeakEwma { shares } => peak_ewma::pick(&self.members, shares, random),
            Policy::RingHash(ring) => ring.at(draw.hash, draw.attempt),
            Policy::Maglev(table) => table.at(draw.hash, draw.attempt),
        }
    }

    /// The weight of a member at this moment, for policies that are served in turn by it.
    fn weight(&self, index: usize, slow_start: Option<Warming<'_>>) -> f64 {
        let Some(member) = self.members.get(index) else { return 0.0 };
        let weight = match &self.policy {
            Policy::LeastRequest { .. } => least_request::weight(member),
            Policy::RoundRobin { .. }
            | Policy::Random { .. }
            | Policy::PeakEwma { .. }
            | Policy::RingHash(_)
            | Policy::Maglev(_) => f64::from(member.weight),
        };
        weight * slow_start.map_or(1.0, |(settings, now)| slow_start::factor(settings, member.state.healthy_for(now)))
    }
}
