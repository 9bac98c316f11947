//! How many requests an app takes at once before they only wait for each other: Envoy's gradient controller.
//!
//! Pure: it is told how long requests took and what time it is, and says how many may be under way. Now and then it lets
//! in only a few, to learn how long a request takes when nobody waits (`ideal`). Between, it compares: as long as requests
//! take no longer than that, more may come, and when they take twice as long, half as many.
//!
//! ```text
//! limit ← limit × gradient + √limit,   gradient = ideal × (1 + slack) / median,  between ½ and 2
//! ```

use std::time::Duration;

/// Fewest requests at once, and as many as there are while the ideal is learnt (Envoy: 3).
pub const FEWEST: u32 = 3;
/// Most requests at once (Envoy: 1000).
pub const MOST: u32 = 1000;
/// How often the limit is looked at (Envoy: 100 ms).
const WINDOW: Duration = Duration::from_millis(100);
/// How often the ideal is learnt anew (Envoy: 60 s).
const LEARN_EVERY: Duration = Duration::from_secs(60);
/// From so many requests (Envoy: 50).
const LEARN_FROM: usize = 50;
/// How much longer than ideal is not yet longer (Envoy: 25 %).
const SLACK: f64 = 0.25;
/// A window with fewer requests says nothing.
const ENOUGH: usize = 5;
/// Requests of a window that are looked at.
const SAMPLES: usize = 1000;
/// So many windows in a row at the fewest mean that the ideal is out of date (Envoy: 5).
const STUCK: u32 = 5;

/// The controller of one app. Times are since any fixed moment.
#[derive(Debug)]
pub struct Gradient {
    limit: f64,
    ideal: Option<Duration>,
    phase: Phase,
    /// How long requests took, in this window.
    samples: Vec<Duration>,
    stuck: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Only requests that began after this moment tell of the ideal.
    Learning { since: Duration },
    /// The window, and when to learn again.
    Steady { until: Duration, learn_at: Duration },
}

impl Gradient {
    /// Learns first.
    pub fn new(now: Duration) -> Self {
        let phase = Phase::Learning { since: now };
        Self { limit: f64::from(FEWEST), ideal: None, phase, samples: Vec::new(), stuck: 0 }
    }

    /// How many may be under way.
    pub fn limit(&self) -> u32 {
        match self.phase {
            Phase::Learning { .. } => FEWEST,
            // Between the fewest and the most, so the cast keeps the value.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Phase::Steady { .. } => self.limit as u32,
        }
    }

    /// A request that began at `began` was answered at `now`. `jitter`, below 1, keeps many proxies from learning at once.
    pub fn answered(&mut self, began: Duration, now: Duration, jitter: f64) {
        let took = now.saturating_sub(began);
        match self.phase {
            Phase::Learning { since } if began < since => {}
            Phase::Learning { .. } => {
                self.samples.push(took);
                if self.samples.len() >= LEARN_FROM {
                    self.ideal = self.median();
                    let learn_at = now + LEARN_EVERY.mul_f64(1.0 + 0.15 * jitter);
                    self.phase = Phase::Steady { until: now + WINDOW, learn_at };
                }
            }
            Phase::Steady { until, learn_at } => {
                if self.samples.len() < SAMPLES {
                    self.samples.push(took);
                }
                if now >= until && self.samples.len() >= ENOUGH {
                    self.adjust();
                    let stuck = self.stuck >= STUCK;
                    self.phase = match now >= learn_at || stuck {
                        true => Phase::Learning { since: now },
                        false => Phase::Steady { until: now + WINDOW, learn_at },
                    };
                }
            }
        }
    }

    fn adjust(&mut self) {
        let (Some(median), Some(ideal)) = (self.median(), self.ideal) else { return };
        let ideal = ideal.as_secs_f64() * (1.0 + SLACK);
        let gradient = (ideal / median.as_secs_f64().max(f64::EPSILON)).clamp(0.5, 2.0);
        let aim = self.limit * gradient;
        self.limit = (aim + aim.sqrt()).clamp(f64::from(FEWEST), f64::from(MOST));
        self.stuck = if self.limit() == FEWEST { self.stuck + 1 } else { 0 };
    }

    /// Of the samples, which are used up.
    fn median(&mut self) -> Option<Duration> {
        let middle = self.samples.len() / 2;
        let median = (!self.samples.is_empty()).then(|| *self.samples.select_nth_unstable(middle).1);
        self.samples.clear();
        median
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_millis(10);

    /// An app that works on `capacity` requests at once, as many callers as the controller lets in, for so many seconds:
    /// the limits that were in force.
    fn run(gradient: &mut Gradient, from: Duration, capacity: u32, seconds: u32) -> Vec<u32> {
        let (mut now, mut limits) = (from, Vec::new());
        while now < from + Duration::from_secs(seconds.into()) {
            let under_way = gradient.limit();
            let took = BASE.mul_f64(f64::from(under_way.max(capacity)) / f64::from(capacity));
            let began = now;
            now += took;
            (0..under_way).for_each(|_| gradient.answered(began, now, 0.5));
            limits.push(gradient.limit());
        }
        limits
    }

    fn average(limits: &[u32]) -> f64 {
        limits.iter().map(|limit| f64::from(*limit)).sum::<f64>() / limits.len() as f64
    }

    #[test]
    fn the_limit_finds_what_the_app_can_do() {
        for capacity in [10, 50, 200] {
            let mut gradient = Gradient::new(Duration::ZERO);
            assert_eq!(gradient.limit(), FEWEST, "it learns first");
            let limits = run(&mut gradient, Duration::ZERO, capacity, 30);
            let steady = average(&limits[limits.len() / 2..]);
            let share = steady / f64::from(capacity);
            // A quarter of slack, and the square root beside it.
            assert!((1.0..2.2).contains(&share), "{steady} for {capacity}");
        }
    }

    #[test]
    fn an_app_that_slows_down_gets_fewer_and_one_that_recovers_gets_more() {
        let mut gradient = Gradient::new(Duration::ZERO);
        let average_of = |limits: Vec<u32>| average(&limits[limits.len() / 2..]);
        let before = average_of(run(&mut gradient, Duration::ZERO, 200, 20));
        let slow = average_of(run(&mut gradient, Duration::from_secs(20), 20, 10));
        let after = average_of(run(&mut gradient, Duration::from_secs(30), 200, 20));
        assert!(slow < before / 3.0 && after > before * 0.7, "{before} {slow} {after}");
    }

    #[test]
    fn the_limit_stays_between_its_bounds_and_the_ideal_is_learnt_again() {
        let mut gradient = Gradient::new(Duration::ZERO);
        let limits = run(&mut gradient, Duration::ZERO, 1_000_000, 200);
        assert!(limits.iter().all(|limit| (FEWEST..=MOST).contains(limit)));
        assert!(limits.contains(&MOST));
        let learnt = limits.windows(2).filter(|pair| pair[0] > FEWEST && pair[1] == FEWEST).count();
        assert!((2..=3).contains(&learnt), "once a minute: {learnt}");
    }

    #[test]
    fn requests_from_before_tell_nothing_of_the_ideal() {
        let mut gradient = Gradient::new(Duration::from_secs(1));
        (0..1000).for_each(|_| gradient.answered(Duration::ZERO, Duration::from_secs(5), 0.0));
        assert_eq!((gradient.limit(), gradient.ideal), (FEWEST, None));
    }
}
