//! Faults on purpose: a wait, a failure, or both, for a share of a route's requests (Envoy's fault filter).
//!
//! They come after authorization, so that who may not come in learns nothing of them, and before everything that answers
//! or sends a request: no timeout and no retry applies to a request that waits here or fails here. Each share is drawn by
//! itself. A request that waits holds itself and the snapshot it began with, no connection and no place in a limit; so
//! many may wait and no more ([`MAX_DELAYED`], Envoy's `max_active_faults`), and the next ones go on at once.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use leno_config::ir::{AbortStatus, Fault, Fraction};

use crate::error::ProxyError;
use crate::random::Random;
use crate::telemetry::add;
use crate::worker::Worker;

/// Requests that one worker lets wait at once. Envoy sets no limit of its own; a delay of minutes on a busy route would
/// otherwise collect requests until the memory ends.
const MAX_DELAYED: u32 = 8192;

/// How many requests of a worker wait.
#[derive(Debug, Default)]
pub struct Waiting(Rc<Cell<u32>>);

/// A request's wait, which counts until it is dropped.
#[derive(Debug)]
pub struct Pause {
    length: Duration,
    waiting: Rc<Cell<u32>>,
}

/// Draws what becomes of one request of a route with a fault.
///
/// What it has to wait comes into `pause`. The error is what it fails with, and is due after the wait.
#[cold]
pub fn inject(fault: &Fault, worker: &Worker, pause: &mut Option<Box<Pause>>) -> Result<(), ProxyError> {
    let Drawn { delay, abort } = draw(fault, &worker.random);
    let stats = &worker.stats;
    if let Some(length) = delay {
        *pause = worker.policy.waiting().begin(length).map(Box::new);
        add(if pause.is_some() { &stats.faults_delayed } else { &stats.faults_left_out }, 1);
    }
    let Some(with) = abort else { return Ok(()) };
    add(&stats.faults_aborted, 1);
    Err(ProxyError::Fault { with: with.clone() })
}

impl Pause {
    /// Ready when the wait is over.
    pub async fn over(self) {
        tokio::time::sleep(self.length).await;
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.waiting.set(self.waiting.get().saturating_sub(1));
    }
}

impl Waiting {
    /// One more waits, if there is room.
    fn begin(&self, length: Duration) -> Option<Pause> {
        let now = self.0.get();
        (now < MAX_DELAYED).then(|| {
            self.0.set(now + 1);
            Pause { length, waiting: Rc::clone(&self.0) }
        })
    }
}

/// What befalls a request.
#[derive(Debug, PartialEq, Eq)]
struct Drawn<'a> {
    delay: Option<Duration>,
    abort: Option<&'a AbortStatus>,
}

fn draw<'a>(fault: &'a Fault, random: &Random) -> Drawn<'a> {
    let hits = |share: Fraction| random.below(Fraction::ALL.millionths()) < share.millionths();
    let delay = fault.delay.as_ref().filter(|delay| hits(delay.share)).map(|delay| delay.duration);
    let abort = fault.abort.as_ref().filter(|abort| hits(abort.share)).map(|abort| &abort.with);
    Drawn { delay, abort }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use leno_config::ir::{FaultAbort, FaultDelay};

    use super::*;

    const LENGTH: Duration = Duration::from_millis(50);

    fn fault(delay: Option<f64>, abort: Option<f64>) -> Fault {
        let share = |percent| Fraction::from_percent(percent).expect("a percentage");
        Fault {
            delay: delay.map(|percent| FaultDelay { duration: LENGTH, share: share(percent) }),
            abort: abort
                .map(|percent| FaultAbort { with: AbortStatus::Http(StatusCode::IM_A_TEAPOT), share: share(percent) }),
        }
    }

    #[test]
    fn each_share_is_drawn_by_itself() {
        // Of 100 000 requests: delayed, failed, both. Within four standard deviations.
        let rows = [
            (Some(100.0), None, [100_000, 0, 0]),
            (None, Some(100.0), [0, 100_000, 0]),
            (Some(0.0), Some(0.0), [0, 0, 0]),
            (Some(100.0), Some(100.0), [100_000, 100_000, 100_000]),
            (Some(50.0), Some(20.0), [50_000, 20_000, 10_000]),
            (Some(0.1), Some(99.9), [100, 99_900, 100]),
        ];
        for (delay, abort, expected) in rows {
            let (fault, random) = (fault(delay, abort), Random::seeded(11));
            let mut seen = [0_i64; 3];
            for _ in 0..100_000 {
                let drawn = draw(&fault, &random);
                let (delayed, failed) = (drawn.delay == Some(LENGTH), drawn.abort.is_some());
                for (count, is_one) in seen.iter_mut().zip([delayed, failed, delayed && failed]) {
                    *count += i64::from(is_one);
                }
            }
            for (count, wanted) in seen.into_iter().zip(expected) {
                let share = wanted as f64 / 100_000.0;
                let deviation = (100_000.0 * share * (1.0 - share)).sqrt();
                assert!((count - wanted).abs() as f64 <= 4.0 * deviation, "{delay:?} {abort:?}: {seen:?}");
            }
        }
    }

    #[test]
    fn only_so_many_requests_wait() {
        let waiting = Waiting::default();
        let mut pauses: Vec<_> = (0..MAX_DELAYED).map(|_| waiting.begin(LENGTH).expect("room")).collect();
        assert!(waiting.begin(LENGTH).is_none());
        pauses.pop();
        assert!(waiting.begin(LENGTH).is_some(), "a request that goes makes room");
    }

    #[tokio::test]
    async fn a_wait_lasts_as_long_as_the_rule_says() {
        let before = tokio::time::Instant::now();
        Waiting::default().begin(LENGTH).expect("room").over().await;
        assert!(before.elapsed() >= LENGTH);
    }
}
