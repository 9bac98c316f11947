//! The less busy of some drawn at random ("power of two choices"): close to the least busy of all, for two look-ups.
//!
//! That is for equal weights. Unequal ones are served in turn by `weight / (requests in flight + 1)`, as Envoy does it
//! (active request bias 1): see [`super::schedule`].

use crate::cluster::Member;
use crate::random::Random;

pub(super) fn pick(members: &[Member], choices: u32, random: &Random) -> Option<usize> {
    let count = u32::try_from(members.len()).ok().filter(|count| *count > 0)?;
    let mut best = random.below(count) as usize;
    for _ in 1..choices {
        let mut other = random.below(count) as usize;
        if other == best {
            // Two different ones: the neighbour of a random member is as random.
            other = (other + 1) % members.len();
        }
        if members.get(other)?.state.active() < members.get(best)?.state.active() {
            best = other;
        }
    }
    Some(best)
}

/// The weight of a member at this moment.
pub(super) fn weight(member: &Member) -> f64 {
    f64::from(member.weight) / (f64::from(member.state.active()) + 1.0)
}
