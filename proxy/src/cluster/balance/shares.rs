//! How weights come into a draw.

use crate::cluster::Member;
use crate::random::Random;

use super::alias::AliasTable;

/// How weights come into a draw.
#[derive(Debug)]
pub(super) enum Shares {
    /// All weights are equal.
    Even,
    /// Drawn in proportion.
    Weighted(AliasTable),
}

impl Shares {
    pub(super) fn new(members: &[Member]) -> Self {
        let even = members.windows(2).all(|pair| matches!(pair, [one, other] if one.weight == other.weight));
        if even { Self::Even } else { Self::Weighted(AliasTable::new(members.iter().map(|member| member.weight))) }
    }

    /// An index among `count` members; `None` without any.
    pub(super) fn draw(&self, count: usize, random: &Random) -> Option<usize> {
        match self {
            _ if count == 0 => None,
            Self::Even => Some(random.below(u32::try_from(count).unwrap_or(u32::MAX)) as usize),
            Self::Weighted(table) => Some(table.draw(random)),
        }
    }

    /// Two indices, different ones where weights are equal and there are two.
    pub(super) fn draw_two(&self, count: usize, random: &Random) -> Option<(usize, usize)> {
        let (one, other) = (self.draw(count, random)?, self.draw(count, random)?);
        // The neighbour of a random member is as random.
        let other = if one == other && matches!(self, Self::Even) { (other + 1) % count } else { other };
        Some((one, other))
    }
}
