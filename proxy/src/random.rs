//! Random numbers of a worker: fast, seeded, not for secrets.

use std::cell::Cell;

/// SplitMix64 (Steele, Lea, Flood 2014): one addition and three multiplications a number, and any seed will do.
#[derive(Debug)]
pub struct Random(Cell<u64>);

impl Random {
    /// The same seed gives the same numbers.
    pub fn seeded(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// A seed that differs in every process and thread.
    pub fn from_entropy() -> Self {
        use std::hash::BuildHasher;
        // The standard library's hasher keys come from the system's entropy.
        Self::seeded(std::collections::hash_map::RandomState::new().hash_one(std::process::id()))
    }

    /// All 64 bits.
    pub fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Evenly among `0..bound`; 0 when `bound` is 0. By multiplication (Lemire), whose bias is below 2⁻³² for the
    /// bounds of this program.
    pub fn below(&self, bound: u32) -> u32 {
        // The high half of a 32-bit by 32-bit product fits 32 bits.
        #[allow(clippy::cast_possible_truncation)]
        let below = (((self.next() >> 32) * u64::from(bound)) >> 32) as u32;
        below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_below_their_bound_and_reach_all_of_it() {
        let random = Random::seeded(7);
        let mut seen = [0_u32; 10];
        for _ in 0..10_000 {
            seen[random.below(10) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "{seen:?}");
        assert_eq!(random.below(0), 0);
    }
}
