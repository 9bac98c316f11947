//! How often this workload may be asked (Envoy's local rate limit).
//!
//! ```text
//! request ─▶ limits that are about it ─▶ a token from the bucket of each, or of the header's value ─▶ on
//!                                   └──▶ one has none: 429, flag RL; what the others gave is given back
//! ```
//!
//! After authorization, so that who may not come in uses up nobody's share, and before everything that costs something.
//! The buckets are the process's ([`bucket`]), not a worker's, and outlive a push of configuration that does not change
//! their limit. Every answer says how much is left (`x-ratelimit-*`, draft-polli-ratelimit-headers-03, in Envoy's reading),
//! a refusal also when to come back (`retry-after`).

pub mod bucket;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use http::{HeaderMap, HeaderValue, header};
use leno_config::ir;

use crate::error::ProxyError;
use crate::headers::name;
use crate::route::{RequestView, header_holds, joined};
use crate::telemetry::{WorkerStats, add};

use bucket::{Bucket, Pace, Table, Taken};

/// The limits of a listener.
#[derive(Debug)]
pub struct Limiter {
    limits: Box<[Arc<Limit>]>,
}

/// One limit, with its buckets.
#[derive(Debug)]
pub struct Limit {
    config: ir::RateLimit,
    pace: Pace,
    buckets: Buckets,
}

#[derive(Debug)]
enum Buckets {
    One(Bucket),
    ByHeader(Table),
}

/// Limits by their names: those of the snapshot before, to be carried over, and those of the new one.
pub type KnownLimits = HashMap<String, Arc<Limit>>;

/// What is left to a caller, of the limit that has least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// What a full bucket holds.
    pub limit: u32,
    /// What is left.
    pub remaining: u32,
    /// Seconds until there is something again; 0: there is.
    pub reset: u64,
}

impl Limiter {
    /// The limits of a listener; `None` where it has none. Those that `before` knows go on; `known` is what the new
    /// snapshot knows so far.
    pub fn new(
        listener: &str,
        limits: &[ir::RateLimit],
        before: &KnownLimits,
        known: &mut KnownLimits,
    ) -> Option<Arc<Self>> {
        let limits: Box<[_]> = limits.iter().map(|config| Limit::known(listener, config, before, known)).collect();
        (!limits.is_empty()).then(|| Arc::new(Self { limits }))
    }

    /// Lets a request in, or says why not. `None`: no limit is about it.
    pub fn admit(&self, request: &RequestView<'_>, stats: &WorkerStats) -> Result<Option<Box<Quota>>, ProxyError> {
        self.admit_at(request, now()).inspect_err(|_| add(&stats.rate_limited, 1))
    }

    fn admit_at(&self, request: &RequestView<'_>, now: u64) -> Result<Option<Box<Quota>>, ProxyError> {
        let mut least: Option<Quota> = None;
        for (at, limit) in self.limits.iter().enumerate() {
            let Some(bucket) = limit.bucket(request, now) else { continue };
            match bucket.take(limit.pace, now) {
                Taken::Token { remaining, wait } => {
                    let quota = Quota { limit: limit.pace.capacity(), remaining, reset: seconds(wait) };
                    least = Some(least.filter(|least| least.remaining <= remaining).unwrap_or(quota));
                }
                Taken::Refused { wait } => {
                    // What a refused request took from the others it took for nothing.
                    let before = self.limits.iter().take(at);
                    before.filter_map(|limit| Some((limit, limit.bucket(request, now)?))).for_each(
                        |(limit, bucket)| {
                            bucket.give_back(limit.pace);
                        },
                    );
                    let quota = Quota { limit: limit.pace.capacity(), remaining: 0, reset: seconds(wait) };
                    return Err(ProxyError::RateLimited { limit: limit.config.name.clone(), quota });
                }
            }
        }
        Ok(least.map(Box::new))
    }

    /// Its limits, by the names under which they are carried over.
    pub fn known(&self, listener: &str) -> impl Iterator<Item = (String, Arc<Limit>)> {
        self.limits.iter().map(move |limit| (key(listener, &limit.config), Arc::clone(limit)))
    }
}

impl Limit {
    fn known(listener: &str, config: &ir::RateLimit, before: &KnownLimits, known: &mut KnownLimits) -> Arc<Self> {
        let key = key(listener, config);
        let same = |limit: &&Arc<Self>| limit.config == *config;
        if let Some(limit) = known.get(&key).filter(same).or_else(|| before.get(&key).filter(same)) {
            let limit = Arc::clone(limit);
            known.insert(key, Arc::clone(&limit));
            return limit;
        }
        let buckets = match config.by {
            None => Buckets::One(Bucket::default()),
            Some(_) => Buckets::ByHeader(Table::new()),
        };
        let limit = Arc::new(Self { config: config.clone(), pace: Pace::new(config.bucket), buckets });
        known.insert(key, Arc::clone(&limit));
        limit
    }

    /// The bucket that a request takes from; `None`: the limit is not about it.
    fn bucket(&self, request: &RequestView<'_>, now: u64) -> Option<&Bucket> {
        let ir::RateLimit { path, headers, by, .. } = &self.config;
        if path.as_ref().is_some_and(|path| !path.is_match(request.path))
            || !headers.iter().all(|condition| header_holds(condition, request))
        {
            return None;
        }
        match (&self.buckets, by) {
            (Buckets::One(bucket), _) => Some(bucket),
            (Buckets::ByHeader(table), Some(name)) => {
                let value: Cow<'_, str> = joined(request.headers, name)?;
                Some(table.bucket(value.as_bytes(), now))
            }
            (Buckets::ByHeader(_), None) => None,
        }
    }
}

impl Quota {
    /// Tells the caller.
    pub fn tell(&self, headers: &mut HeaderMap) {
        headers.insert(name::RATE_LIMIT, HeaderValue::from(self.limit));
        headers.insert(name::RATE_REMAINING, HeaderValue::from(self.remaining));
        headers.insert(name::RATE_RESET, HeaderValue::from(self.reset));
    }

    /// Tells a caller who was refused, and when to come back.
    pub fn tell_refused(&self, headers: &mut HeaderMap) {
        self.tell(headers);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(self.reset.max(1)));
    }
}

/// A limit of a rule is one in all listeners of the workload; that of a foreign control plane belongs to its listener.
fn key(listener: &str, config: &ir::RateLimit) -> String {
    if config.name.contains('/') { config.name.clone() } else { format!("{listener}|{}", config.name) }
}

fn seconds(nanos: u64) -> u64 {
    nanos.div_ceil(1_000_000_000)
}

/// Nanoseconds since the process first asked.
fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Method;
    use leno_config::ir::{StringMatch, TokenBucket};

    use super::*;

    fn limit(name: &str, requests: u32, path: &str, by: Option<&'static str>) -> ir::RateLimit {
        ir::RateLimit {
            name: name.to_owned(),
            bucket: TokenBucket::new(requests, requests, Duration::from_secs(3600)).expect("a bucket"),
            path: Some(StringMatch::prefix(path)),
            headers: Vec::new(),
            by: by.map(http::HeaderName::from_static),
        }
    }

    fn limiter(limits: &[ir::RateLimit]) -> Arc<Limiter> {
        Limiter::new("in", limits, &KnownLimits::new(), &mut KnownLimits::new()).expect("limits")
    }

    /// What is left after a request: `Err` when it was refused, with the limit's name.
    fn ask(limiter: &Limiter, path: &str, key: Option<&str>) -> Result<Option<u32>, String> {
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            headers.insert("x-api-key", key.parse().expect("a value"));
        }
        let request = RequestView {
            method: &Method::GET,
            scheme: "http",
            authority: "shop",
            path,
            query: None,
            headers: &headers,
            claims: None,
        };
        match limiter.admit_at(&request, 1) {
            Ok(quota) => Ok(quota.map(|quota| quota.remaining)),
            Err(ProxyError::RateLimited { limit, .. }) => Err(limit),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_limit_is_about_the_requests_that_it_names() {
        let limits = limiter(&[limit("a/b/0", 2, "/api", None), limit("a/b/1", 1, "/", Some("x-api-key"))]);
        assert_eq!(ask(&limits, "/other", None), Ok(None), "no limit is about it");
        assert_eq!(ask(&limits, "/api", None), Ok(Some(1)));
        assert_eq!(ask(&limits, "/other", Some("k")), Ok(Some(0)));
        assert_eq!(ask(&limits, "/other", Some("k")), Err("a/b/1".to_owned()));
        assert_eq!(ask(&limits, "/other", Some("l")), Ok(Some(0)), "another value");
    }

    #[test]
    fn a_refused_request_uses_up_nothing() {
        let limits = limiter(&[limit("a/b/0", 3, "/", None), limit("a/b/1", 1, "/", Some("x-api-key"))]);
        assert_eq!(ask(&limits, "/", Some("k")), Ok(Some(0)), "of two limits the one with least");
        for _ in 0..10 {
            assert_eq!(ask(&limits, "/", Some("k")), Err("a/b/1".to_owned()));
        }
        assert_eq!(ask(&limits, "/", None), Ok(Some(1)), "one of three was used");
    }

    #[test]
    fn a_limit_goes_on_over_pushes_and_listeners_as_long_as_it_says_the_same() {
        let (one, foreign) = (limit("a/b/0", 1, "/", None), limit("edge", 1, "/", None));
        let mut first = KnownLimits::new();
        let before = Limiter::new("in", &[one.clone(), foreign.clone()], &KnownLimits::new(), &mut first);
        let before = before.expect("limits");
        let (known, mut new) = (before.known("in").collect(), KnownLimits::new());
        let mut built = |listener, limits: &[ir::RateLimit]| {
            let limiter = Limiter::new(listener, limits, &known, &mut new).expect("limits");
            limiter.limits.iter().map(Arc::clone).collect::<Vec<_>>()
        };
        let same = |one: &Arc<Limit>, other: &Arc<Limit>| Arc::ptr_eq(one, other);
        let (kept, other) = (built("in", &[one.clone(), foreign.clone()]), built("in2", &[one.clone(), foreign]));
        assert!(same(&kept[0], &before.limits[0]) && same(&kept[1], &before.limits[1]));
        assert!(same(&other[0], &kept[0]), "a rule's limit is the workload's");
        assert!(!same(&other[1], &kept[1]), "a foreign one is the listener's");
        let changed = ir::RateLimit { path: None, ..one };
        assert!(!same(&built("in", &[changed])[0], &kept[0]), "what says something else begins anew");
    }
}
