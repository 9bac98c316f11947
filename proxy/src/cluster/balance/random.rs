//! At random, in proportion to weights.

use crate::cluster::Member;
use crate::random::Random;

use super::Shares;

pub(super) fn pick(members: &[Member], shares: &Shares, random: &Random) -> Option<usize> {
    (!members.is_empty()).then(|| shares.draw(members.len(), random))
}
