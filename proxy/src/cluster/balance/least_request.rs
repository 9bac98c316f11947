//! The less busy of some drawn at random ("power of two choices"): close to the least busy of all, for two look-ups.
//!
//! With unequal weights the draw is in proportion to the weight and the comparison divides by it, so an idle cluster
//! shares by weight and a busy one evens out requests *per weight*.

use crate::cluster::Member;
use crate::random::Random;

use super::Shares;

pub(super) fn pick(members: &[Member], shares: &Shares, choices: u32, random: &Random) -> Option<usize> {
    if members.is_empty() {
        return None;
    }
    let mut best = shares.draw(members.len(), random);
    for _ in 1..choices {
        let mut other = shares.draw(members.len(), random);
        if other == best && matches!(shares, Shares::Even) {
            // Two different ones: the neighbour of a random member is as random.
            other = (other + 1) % members.len();
        }
        if load(members.get(other)?, members.get(best)?) {
            best = other;
        }
    }
    Some(best)
}

/// Whether `one` has fewer requests in flight per weight than `other`.
fn load(one: &Member, other: &Member) -> bool {
    u64::from(one.state.active()) * u64::from(other.weight) < u64::from(other.state.active()) * u64::from(one.weight)
}
