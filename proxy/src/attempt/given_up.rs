//! Only the last hop of a chain tries again.
//!
//! A budget bounds what retries add at one hop. Through three hops a fifth more becomes three quarters more, since each
//! takes for a first failure what the hop after it has already tried again and given up. So a hop tells the one before:
//!
//! ```text
//! app A ─▶ A's outbound ──▶ B's inbound ─▶ app B ─▶ B's outbound ──▶ C (fails)
//!              ▲                │  ▲                     │
//!   does not   │ x-leno-gave-up │  │ one failure is owed │ tried again, gave up
//!   try again  └────────────────┘  └─────────────────────┘
//! ```
//!
//! The two halves of B's sidecar cannot know which of its calls the app's failure comes from: apps do not tell. They
//! keep an account for the process instead: each failure that the outbound half passes to the app is put in, each failure
//! of the app takes one out, and what nobody has taken for a second or two is forgotten. At worst the failure of another
//! request is not tried again, which costs one retry; what is never possible is more of them.
//!
//! Heeded where the cluster has a retry budget, since who has none has not asked to be protected: Istio's own retries stay
//! as they are. The header never reaches an app, and what an app says in it is not passed on.

use std::sync::atomic::{AtomicU64, Ordering};

use http::header::HeaderValue;
use http::{HeaderMap, Response};
use leno_config::ir::Direction;

use crate::cluster::outcome::Outcome;
use crate::cluster::standing::Moment;
use crate::headers::name;

/// Failures that apps have been given and have not answered with yet, of this second and the one before.
///
/// One word, so that it can change at once: the second in the upper half, then two counts of 16 bits. Written only when
/// something fails.
#[derive(Debug, Default)]
pub struct GivenUp(AtomicU64);

impl GivenUp {
    /// Notes a failure on its way to the caller: outbound, that the app is given it; inbound, whether the caller should not
    /// try again since we have.
    pub fn note(&self, direction: Direction, headers: &mut HeaderMap, now: Moment) {
        headers.remove(name::GAVE_UP);
        match direction {
            Direction::Outbound => self.put(now),
            Direction::Inbound => {
                if self.take(now) {
                    headers.insert(name::GAVE_UP, HeaderValue::from_static("true"));
                }
            }
        }
    }

    fn put(&self, now: Moment) {
        self.change(now, |account| Some(Account { now: account.now.saturating_add(1), ..account }));
    }

    /// Whether there was one.
    fn take(&self, now: Moment) -> bool {
        self.change(now, |account| match account {
            Account { before: 0, now: 0 } => None,
            Account { before: 0, now } => Some(Account { before: 0, now: now - 1 }),
            Account { before, now } => Some(Account { before: before - 1, now }),
        })
    }

    fn change(&self, now: Moment, change: impl Fn(Account) -> Option<Account>) -> bool {
        let second = now.seconds();
        let update = |word| Some(change(Account::at(word, second))?.word(second));
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update).is_ok()
    }
}

/// Whether an answer is a failure; of gRPC, where its status stands in the head.
pub fn is_failure<B>(response: &Response<B>, grpc: bool) -> bool {
    response.status().is_server_error()
        || grpc && !Outcome::of_answer(response.status(), response.headers(), true).is_success()
}

/// Whether whoever answered has tried again already, so that nobody before it should.
pub fn has_given_up(headers: &HeaderMap) -> bool {
    headers.contains_key(name::GAVE_UP)
}

/// Two counts, as they stand at some second.
#[derive(Clone, Copy)]
struct Account {
    before: u16,
    now: u16,
}

impl Account {
    fn at(word: u64, second: u32) -> Self {
        let [written, counts] = [word >> 32, word & u64::from(u32::MAX)];
        let [before, now] = [counts >> 16, counts & u64::from(u16::MAX)].map(|count| u16::try_from(count).unwrap_or(0));
        match u64::from(second).checked_sub(written) {
            Some(1) => Self { before: now, now: 0 },
            Some(0) | None => Self { before, now },
            Some(_) => Self { before: 0, now: 0 },
        }
    }

    fn word(self, second: u32) -> u64 {
        u64::from(second) << 32 | u64::from(self.before) << 16 | u64::from(self.now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::default() + Duration::from_millis(millis)
    }

    fn given(account: &GivenUp, now: Moment) {
        account.note(Direction::Outbound, &mut HeaderMap::new(), now);
    }

    /// Whether the caller is told not to try again.
    fn told(account: &GivenUp, now: Moment) -> bool {
        let mut headers = HeaderMap::new();
        account.note(Direction::Inbound, &mut headers, now);
        has_given_up(&headers)
    }

    #[test]
    fn as_many_failures_of_the_app_are_marked_as_it_was_given() {
        let account = GivenUp::default();
        given(&account, at(0));
        given(&account, at(100));
        assert_eq!([at(200), at(900), at(999)].map(|now| told(&account, now)), [true, true, false]);
    }

    #[test]
    fn a_failure_is_forgotten_when_nobody_answers_with_it() {
        let rows = [(0, 1_999, true), (999, 1_000, true), (0, 2_000, false), (500, 60_000, false)];
        for (put, taken, expected) in rows {
            let account = GivenUp::default();
            given(&account, at(put));
            assert_eq!(told(&account, at(taken)), expected, "{put} {taken}");
        }
    }

    #[test]
    fn the_header_is_no_business_of_apps() {
        for direction in [Direction::Inbound, Direction::Outbound] {
            let mut headers = HeaderMap::new();
            headers.insert(name::GAVE_UP, HeaderValue::from_static("true"));
            GivenUp::default().note(direction, &mut headers, at(0));
            assert!(!has_given_up(&headers), "{direction:?}");
        }
    }

    #[test]
    fn what_a_failure_is() {
        let rows = [
            (200, None, false, false),
            (404, None, false, false),
            (503, None, false, true),
            (500, None, true, true),
            (200, Some("0"), true, false),
            (200, Some("14"), true, true),
            // Who has not asked in gRPC may be answered with what looks like it.
            (200, Some("14"), false, false),
        ];
        for (status, grpc_status, grpc, expected) in rows {
            let mut response = Response::builder().status(status).body(()).expect("it is a status");
            if let Some(grpc_status) = grpc_status {
                response.headers_mut().insert("grpc-status", HeaderValue::from_static(grpc_status));
            }
            assert_eq!(is_failure(&response, grpc), expected, "{status} {grpc_status:?} {grpc}");
        }
    }

    #[test]
    fn the_account_is_bounded() {
        let account = GivenUp::default();
        (0..70_000).for_each(|_| given(&account, at(0)));
        let marked = (0..70_000).filter(|_| told(&account, at(0))).count();
        assert_eq!(marked, usize::from(u16::MAX));
    }
}
