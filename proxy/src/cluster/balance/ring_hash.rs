//! Consistent hashing on a ring, as Envoy builds it: the same key finds the same endpoint in both.
//!
//! Every endpoint stands at many places of the ring, at the xxHash64 of `ADDRESS_0`, `ADDRESS_1`, …; a key belongs to the
//! first place at or behind its own hash. When an endpoint leaves, its places fall to their neighbours and nothing else
//! moves, as long as the number of places per endpoint stays the same.
//!
//! A place costs 12 bytes, so that the largest ring that a rule can ask for (8 Mi) takes 96 MiB; Istio's default is one of
//! at least 1 024 places.

use std::fmt::Write;

use xxhash_rust::xxh64::xxh64;

use crate::cluster::Member;

/// Places in the order of their hashes.
#[derive(Debug)]
pub(super) struct Ring {
    hashes: Box<[u64]>,
    /// Index of the member that stands there.
    owners: Box<[u32]>,
}

impl Ring {
    /// `shares` belong to `members` and add up to 1; `min` and `max` bound the number of places.
    pub(super) fn new(members: &[Member], shares: &[f64], min: u64, max: u64) -> Self {
        let mut places = places(members, shares, scale(shares, min, max));
        places.sort_unstable();
        Self {
            hashes: places.iter().map(|(hash, _)| *hash).collect(),
            owners: places.iter().map(|(_, owner)| *owner).collect(),
        }
    }

    /// How many places there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    /// The member that `hash` belongs to; with `attempt` the one so many places further on.
    pub(super) fn at(&self, hash: u64, attempt: u32) -> Option<usize> {
        let place = self.hashes.partition_point(|place| *place < hash) % self.hashes.len().max(1);
        let place = (place + attempt as usize) % self.owners.len().max(1);
        self.owners.get(place).map(|owner| *owner as usize)
    }
}

/// How many places there are: so many that the lightest endpoint has a whole number of them.
#[allow(clippy::cast_precision_loss)] // Rings are smaller than 2^53.
fn scale(shares: &[f64], min: u64, max: u64) -> f64 {
    let lightest = shares.iter().copied().fold(1.0, f64::min);
    ((lightest * min as f64).ceil() / lightest).min(max as f64)
}

/// Running sums, so that what is not whole for one endpoint goes to the next (Envoy).
fn places(members: &[Member], shares: &[f64], scale: f64) -> Vec<(u64, u32)> {
    // A ring is at most 2^23 places long.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let mut places = Vec::with_capacity(scale.ceil() as usize);
    let (mut made, mut wanted) = (0.0, 0.0);
    let mut key = String::new();
    for ((member, share), owner) in members.iter().zip(shares).zip(0_u32..) {
        wanted += scale * share;
        key.clear();
        // Writing to a string cannot fail.
        let _ = write!(key, "{}_", member.state.address);
        let name = key.len();
        let mut at = 0_u64;
        while made < wanted {
            key.truncate(name);
            let _ = write!(key, "{at}");
            places.push((xxh64(key.as_bytes(), 0), owner));
            at += 1;
            made += 1.0;
        }
    }
    places
}
