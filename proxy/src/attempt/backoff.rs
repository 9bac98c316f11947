//! How long to wait before the next attempt.
//!
//! Full jitter from 0 (Envoy): callers that failed together come back spread over the whole interval, not in a wave at
//! its end. Where the policy says so, an answer that names its own time is taken at its word, and then a little more.

use std::time::Duration;

use http::HeaderMap;
use leno_config::ir::{RateLimitedBackoff, ResetFormat, RetryPolicy};

use crate::random::Random;

/// The wait before retry `number`, from 1: evenly in [0, (2ⁿ-1) · base), at most `max`.
pub fn full_jitter(base: Duration, max: Duration, number: u32, random: &Random) -> Duration {
    let factor = 1_u32.checked_shl(number).map_or(u32::MAX, |power| power - 1);
    below(base.saturating_mul(factor).min(max), random)
}

/// The wait before retry `number` after an answer, or after none.
pub fn before(policy: &RetryPolicy, number: u32, answer: Option<(&HeaderMap, u64)>, random: &Random) -> Duration {
    let asked =
        policy.rate_limited.as_ref().zip(answer).and_then(|(limited, (headers, now))| asked(limited, headers, now));
    match asked {
        // Not before, and not all at once: up to half as long again (Envoy).
        Some(asked) => asked + below(asked / 2, random),
        None => full_jitter(policy.backoff_base, policy.backoff_max, number, random),
    }
}

/// What the first header says that can be read and does not ask for too much; `now` in seconds since 1970.
fn asked(limited: &RateLimitedBackoff, headers: &HeaderMap, now: u64) -> Option<Duration> {
    limited.headers.iter().find_map(|header| {
        let number: u64 = headers.get(&header.name)?.to_str().ok()?.trim().parse().ok()?;
        let seconds = match header.format {
            ResetFormat::Seconds => number,
            ResetFormat::UnixTimestamp => number.checked_sub(now)?,
        };
        Some(Duration::from_secs(seconds)).filter(|wait| !wait.is_zero() && *wait <= limited.max)
    })
}

/// Evenly in [0, `limit`), to the microsecond; an hour at most.
fn below(limit: Duration, random: &Random) -> Duration {
    Duration::from_micros(u64::from(random.below(u32::try_from(limit.as_micros()).unwrap_or(u32::MAX))))
}

#[cfg(test)]
mod tests {
    use leno_config::ir::ResetHeader;

    use super::*;

    const BASE: Duration = Duration::from_millis(25);
    const MAX: Duration = Duration::from_millis(250);

    #[test]
    fn the_wait_is_anywhere_between_nothing_and_its_limit() {
        let random = Random::seeded(11);
        for (number, limit) in [(1, 25), (2, 75), (3, 175), (4, 250), (5, 250), (31, 250), (32, 250), (4_000, 250)] {
            let waits: Vec<_> = (0..2_000).map(|_| full_jitter(BASE, MAX, number, &random).as_micros()).collect();
            let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
            let mean = waits.iter().sum::<u128>() / 2_000;
            assert!(*most < limit * 1_000 && *most > limit * 980, "retry {number}: at most {most} µs");
            assert!(*least < limit * 20, "retry {number}: at least {least} µs");
            assert!((limit * 470..limit * 530).contains(&mean), "retry {number}: {mean} µs in the mean");
        }
    }

    #[test]
    fn without_an_interval_there_is_no_wait() {
        assert_eq!(full_jitter(Duration::ZERO, Duration::ZERO, 3, &Random::seeded(1)), Duration::ZERO);
    }

    #[test]
    fn an_answer_says_when_to_come_back_where_the_policy_listens() {
        let limited = RateLimitedBackoff {
            headers: [("retry-after", ResetFormat::Seconds), ("x-ratelimit-reset", ResetFormat::UnixTimestamp)]
                .map(|(name, format)| ResetHeader { name: name.parse().unwrap(), format })
                .into(),
            max: Duration::from_secs(300),
        };
        type Fields = &'static [(&'static str, &'static str)];
        let rows: [(Fields, Option<u64>); 9] = [
            (&[], None),
            (&[("retry-after", "2")], Some(2)),
            (&[("retry-after", "0")], None),
            (&[("retry-after", "301")], None),
            (&[("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")], None),
            (&[("x-ratelimit-reset", "1010")], Some(10)),
            (&[("x-ratelimit-reset", "990")], None),
            (&[("retry-after", "301"), ("x-ratelimit-reset", "1005")], Some(5)),
            (&[("retry-after", "3"), ("x-ratelimit-reset", "1005")], Some(3)),
        ];
        for (fields, seconds) in rows {
            let headers = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            assert_eq!(asked(&limited, &headers, 1_000), seconds.map(Duration::from_secs), "{fields:?}");
        }
    }
}
