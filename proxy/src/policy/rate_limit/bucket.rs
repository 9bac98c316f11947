//! Token buckets that all workers share, without a lock.
//!
//! A bucket is one number: the time at which it will be full again (the theoretical arrival time of GCRA, ITU-T I.371).
//! A request that is let in moves it on by the time that one token takes to come, with one compare-and-swap; a request
//! may come in as long as that time is not further away than a full bucket. So tokens come evenly, nothing has to run to
//! refill, and a bucket whose time has passed is as good as one that nobody has ever used.
//!
//! The last is what makes buckets by the value of a header possible in bounded room: [`Table`] is a hash table of fixed
//! size without chains, whose places are free again as soon as their time has passed. A map that grows would need a lock
//! on the request path or a share for each worker, and a share is no limit (100 an hour on four workers would be 25 for
//! whoever has one connection).

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use leno_config::ir::TokenBucket;

/// Groups of places in a table. A value belongs to one group, by its hash.
const GROUPS: usize = 4096;
/// Places in a group.
const PLACES: usize = 4;
/// How often a place is looked for while others take them.
const LOOKS: u32 = 4;

/// How tokens come, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// One token.
    interval: u64,
    /// How far behind a bucket may be and still have a token.
    tolerance: u64,
    capacity: u32,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It has its token.
    Token {
        /// Tokens that are left.
        remaining: u32,
        /// Nanoseconds until there is one again; 0: there is.
        wait: u64,
    },
    /// There is none.
    Refused {
        /// Nanoseconds until there is one.
        wait: u64,
    },
}

/// One bucket.
#[derive(Debug, Default)]
pub struct Bucket(AtomicU64);

/// A bucket for each of many keys.
///
/// Which keys share a place is up to a hash whose seed nobody knows. When all places of a key's group are taken by others
/// that still count, it shares with the one that has most left: together they get what one may have. So a flood of
/// made-up keys can make honest newcomers share, never let anybody exceed a limit by making the table forget. Two workers
/// that look for a place in the same instant may give one key two places, or two keys one; the error is a token or, once,
/// a bucket.
#[derive(Debug)]
pub struct Table {
    places: Box<[Place]>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Place {
    /// The hash of the key; 0: nobody's yet.
    key: AtomicU64,
    bucket: Bucket,
}

impl Pace {
    /// The pace of a bucket.
    pub fn new(bucket: TokenBucket) -> Self {
        let per = u64::try_from(bucket.per().as_nanos()).unwrap_or(u64::MAX);
        let interval = (per / u64::from(bucket.tokens())).max(1);
        let tolerance = interval.saturating_mul(u64::from(bucket.capacity()) - 1);
        Self { interval, tolerance, capacity: bucket.capacity() }
    }

    /// Tokens of a full bucket.
    pub fn capacity(self) -> u32 {
        self.capacity
    }
}

impl Bucket {
    /// Takes a token at the time `now`, in nanoseconds since any fixed moment.
    pub fn take(&self, pace: Pace, now: u64) -> Taken {
        let mut full = self.0.load(Ordering::Relaxed);
        loop {
            let start = full.max(now);
            let behind = start - now;
            if behind > pace.tolerance {
                return Taken::Refused { wait: behind - pace.tolerance };
            }
            let after = start.saturating_add(pace.interval);
            match self.0.compare_exchange_weak(full, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return pace.left(after - now),
                Err(other) => full = other,
            }
        }
    }

    /// Gives a token back that was taken for nothing.
    pub fn give_back(&self, pace: Pace) {
        self.0.fetch_sub(pace.interval, Ordering::Relaxed);
    }

    /// Whether it is as good as new.
    fn is_full(&self, now: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= now
    }
}

impl Pace {
    /// What is left in a bucket that is full in `behind`.
    fn left(self, behind: u64) -> Taken {
        let room = self.tolerance.saturating_add(self.interval).saturating_sub(behind);
        let remaining = u32::try_from(room / self.interval).unwrap_or(u32::MAX);
        Taken::Token { remaining, wait: if remaining > 0 { 0 } else { behind.saturating_sub(self.tolerance) } }
    }
}

impl Table {
    /// All places free; 256 KiB.
    pub fn new() -> Self {
        let places = (0..GROUPS * PLACES).map(|_| Place::default()).collect();
        Self { places, hasher: RandomState::new() }
    }

    /// The bucket of a key.
    pub fn bucket(&self, key: &[u8], now: u64) -> &Bucket {
        self.of_hash(self.hasher.hash_one(key), now)
    }

    #[expect(clippy::indexing_slicing, reason = "a table has GROUPS × PLACES places")]
    fn of_hash(&self, hash: u64, now: u64) -> &Bucket {
        let key = hash.max(1);
        let group = usize::try_from(hash >> 32).unwrap_or_default() % GROUPS;
        let (groups, _) = self.places.as_chunks::<PLACES>();
        // The table is never empty: the group is there.
        let Some(places) = groups.get(group) else { return &self.places[0].bucket };
        for _ in 0..LOOKS {
            if let Some(own) = places.iter().find(|place| place.key.load(Ordering::Relaxed) == key) {
                return &own.bucket;
            }
            let Some(free) = places.iter().find(|place| place.bucket.is_full(now)) else { break };
            let before = free.key.load(Ordering::Relaxed);
            if free.key.compare_exchange(before, key, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return &free.bucket;
            }
        }
        let [first, rest @ ..] = places;
        let full = |place: &Place| place.bucket.0.load(Ordering::Relaxed);
        let most = rest.iter().fold(first, |most, other| if full(other) < full(most) { other } else { most });
        &most.bucket
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn pace(capacity: u32, tokens: u32, per: Duration) -> Pace {
        Pace::new(TokenBucket::new(capacity, tokens, per).expect("a bucket"))
    }

    fn is_taken(taken: Taken) -> bool {
        matches!(taken, Taken::Token { .. })
    }

    #[test]
    fn a_bucket_has_what_it_holds_and_then_what_comes() {
        // Ten a second and five more: one every 100 ms.
        let (bucket, pace) = (Bucket::default(), pace(15, 10, Duration::from_secs(1)));
        let now = 7 * SECOND;
        for remaining in (0..15).rev() {
            let wait = if remaining == 0 { SECOND / 10 } else { 0 };
            assert_eq!(bucket.take(pace, now), Taken::Token { remaining, wait });
        }
        assert_eq!(bucket.take(pace, now), Taken::Refused { wait: SECOND / 10 });
        assert_eq!(bucket.take(pace, now + SECOND / 20), Taken::Refused { wait: SECOND / 20 });
        assert!(is_taken(bucket.take(pace, now + SECOND / 10)));
        assert!(!is_taken(bucket.take(pace, now + SECOND / 10)));
        // After a second there are ten, after an hour no more than it holds.
        let later = |at| (0..100).filter(|_| is_taken(bucket.take(pace, at))).count();
        assert_eq!((later(now + SECOND / 10 + SECOND), later(now + 3600 * SECOND)), (10, 15));
    }

    #[test]
    fn a_token_that_is_given_back_can_be_taken_again() {
        let (bucket, pace) = (Bucket::default(), pace(1, 1, Duration::from_secs(3600)));
        assert!(is_taken(bucket.take(pace, SECOND)));
        assert!(!is_taken(bucket.take(pace, SECOND)));
        bucket.give_back(pace);
        assert!(is_taken(bucket.take(pace, SECOND)));
    }

    #[test]
    fn the_extremes_of_what_a_rule_may_say_do_not_overflow() {
        for (capacity, tokens, per) in [
            (TokenBucket::MOST, 1, TokenBucket::LONGEST),
            (1, TokenBucket::MOST, TokenBucket::SHORTEST),
            (TokenBucket::MOST, TokenBucket::MOST, TokenBucket::SHORTEST),
            (1, 1, TokenBucket::LONGEST),
        ] {
            let (bucket, pace) = (Bucket::default(), pace(capacity, tokens, per));
            let count = (0..1000).filter(|_| is_taken(bucket.take(pace, u64::MAX / 4))).count();
            assert_eq!(count, 1000.min(capacity as usize), "{capacity} {tokens} {per:?}");
        }
    }

    #[test]
    fn threads_that_ask_at_once_share_exactly_what_there_is() {
        let (bucket, pace) = (Bucket::default(), pace(1000, 1, Duration::from_secs(3600)));
        let taken: usize = std::thread::scope(|scope| {
            let ask = || (0..1000).filter(|_| is_taken(bucket.take(pace, SECOND))).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(taken, 1000);
    }

    #[test]
    fn each_key_has_a_bucket_of_its_own() {
        let (table, pace) = (Table::new(), pace(3, 1, Duration::from_secs(3600)));
        let taken = |key: &str, at| is_taken(table.bucket(key.as_bytes(), at).take(pace, at));
        for key in ["a", "b", "c"] {
            let count = (0..10).filter(|_| taken(key, SECOND)).count();
            assert_eq!(count, 3, "{key}");
        }
    }

    #[test]
    fn made_up_keys_never_give_anybody_more() {
        let (table, pace) = (Table::new(), pace(1, 1, Duration::from_secs(3600)));
        let take = |hash, at| is_taken(table.of_hash(hash, at).take(pace, at));
        assert!(take(1, SECOND) && !take(1, SECOND));
        // All of one group: three more places, and then nothing, while the first still counts.
        let passed = (2..100_u64).filter(|hash| take(*hash, SECOND)).count();
        assert_eq!(passed, PLACES - 1);
        assert!(!take(1, SECOND), "it was not forgotten");
        // When their time has passed, their places are free.
        let later = 3601 * SECOND + SECOND;
        assert!(take(100, later) && take(101, later));
        // Over all groups, a flood is let in once for each place and no more.
        let all = (0..1_000_000_u64).filter(|hash| take(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15), 8000 * SECOND));
        assert!(all.count() <= GROUPS * PLACES);
    }
}
