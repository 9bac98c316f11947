//! How often a workload may be asked.

use std::time::Duration;

use http::HeaderName;
use serde::{Serialize, Serializer};

use super::{HeaderMatch, Invalid, StringMatch};

/// One limit of a listener. A request passes when every limit that is about it has a token left for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RateLimit {
    /// Unique in the listener. `NAMESPACE/NAME/INDEX` of the rule when compiled from rules: limits of one name are one in
    /// all listeners of a workload.
    pub name: String,
    /// How many requests.
    pub bucket: TokenBucket,
    /// Only requests with such a path, query excluded; `None`: with any.
    pub path: Option<StringMatch>,
    /// Only requests with all of these headers.
    pub headers: Vec<HeaderMatch>,
    /// Each value of this header has a bucket of its own, and requests without it are not limited; `None`: one bucket.
    #[serde(serialize_with = "name")]
    pub by: Option<HeaderName>,
}

/// Tokens, of which a request takes one. They come evenly, as long as there is room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TokenBucket {
    capacity: u32,
    tokens: u32,
    per: Duration,
}

impl TokenBucket {
    /// Shortest time in which tokens are counted (Envoy).
    pub const SHORTEST: Duration = Duration::from_millis(50);
    /// Longest time in which tokens are counted.
    pub const LONGEST: Duration = Duration::from_secs(24 * 3600);
    /// Most tokens in such a time, and most that a bucket holds.
    pub const MOST: u32 = 1_000_000;

    /// A bucket that holds `capacity` tokens and gains `tokens` in the time `per`.
    pub fn new(capacity: u32, tokens: u32, per: Duration) -> Result<Self, Invalid> {
        for (what, number) in [("holds", capacity), ("gains", tokens)] {
            if !(1..=Self::MOST).contains(&number) {
                let most = Self::MOST;
                return Err(Invalid(format!("a bucket that {what} {number} tokens is not between 1 and {most}")));
            }
        }
        if !(Self::SHORTEST..=Self::LONGEST).contains(&per) {
            return Err(Invalid(format!("{per:?} is not between 50ms and 24h")));
        }
        Ok(Self { capacity, tokens, per })
    }

    /// Tokens that it holds when nobody has asked for long.
    pub fn capacity(self) -> u32 {
        self.capacity
    }

    /// Tokens that it gains in the time [`per`](Self::per).
    pub fn tokens(self) -> u32 {
        self.tokens
    }

    /// The time in which it gains [`tokens`](Self::tokens).
    pub fn per(self) -> Duration {
        self.per
    }
}

fn name<S: Serializer>(name: &Option<HeaderName>, serializer: S) -> Result<S::Ok, S::Error> {
    name.as_ref().map(HeaderName::as_str).serialize(serializer)
}
