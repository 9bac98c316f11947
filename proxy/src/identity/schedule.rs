//! When to renew, and when to worry.
//!
//! The time of day can be set forward and back under a running process. So two measures count, and the earlier one
//! wins: the time of day, which peers judge the certificate by, and the time that was really spent waiting. A certificate
//! that is not valid at this moment is due at once.

use std::time::{Duration, SystemTime};

/// The time of day is looked at that often.
pub const LOOK: Duration = Duration::from_secs(60);
/// An alarm is not repeated sooner.
const ALARM_EVERY: Duration = Duration::from_secs(300);
/// A certificate is not renewed sooner after it came, however short its life: this is no busy loop.
const SHORTEST: Duration = Duration::from_secs(1);
/// Part of the half-life by which the renewals of many proxies are spread, to either side.
const JITTER: f64 = 0.1;

/// When a certificate is to be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    valid_from: SystemTime,
    valid_until: SystemTime,
    obtained: SystemTime,
    /// From `obtained` to the renewal.
    patience: Duration,
}

impl Plan {
    /// At half of the life that it had left when it was obtained, 10 % sooner or later by a random number of 64 bits.
    /// `valid_from` lies before that, because clocks differ, so it says nothing of a life's length.
    pub fn new(valid: (SystemTime, SystemTime), obtained: SystemTime, random: u64) -> Self {
        let (valid_from, valid_until) = valid;
        let life = valid_until.duration_since(obtained).unwrap_or_default();
        // The fraction needs no more than 53 bits.
        #[allow(clippy::cast_precision_loss)]
        let share = (random >> 11) as f64 / (1u64 << 53) as f64;
        let patience = (life / 2).mul_f64(1.0 - JITTER + 2.0 * JITTER * share).max(SHORTEST);
        Self { valid_from, valid_until, obtained, patience }
    }

    /// When it was obtained.
    pub fn obtained(&self) -> SystemTime {
        self.obtained
    }

    /// When it is renewed, by the time of day.
    pub fn due(&self) -> SystemTime {
        self.obtained + self.patience
    }

    /// The time until then: `now` is the time of day, `waited` what was spent waiting since it was obtained. Zero: now.
    pub fn left(&self, now: SystemTime, waited: Duration) -> Duration {
        if now < self.valid_from || now > self.valid_until {
            return Duration::ZERO;
        }
        let by_day = self.due().duration_since(now).unwrap_or_default();
        by_day.min(self.patience.saturating_sub(waited))
    }

    /// Whether more than half of its life has passed.
    pub fn is_past_half(&self, now: SystemTime) -> bool {
        let life = self.valid_until.duration_since(self.obtained).unwrap_or_default();
        now.duration_since(self.obtained).is_ok_and(|passed| passed >= life / 2)
    }
}

/// Keeps alarms apart.
#[derive(Debug, Default)]
pub struct Alarm {
    last: Option<SystemTime>,
}

impl Alarm {
    /// Whether it is time to cry (again).
    pub fn is_due(&mut self, now: SystemTime) -> bool {
        let is_due = match self.last {
            // An error: the time of day was set back, so nobody knows how long ago the last one was.
            Some(last) => now.duration_since(last).map_or(true, |since| since >= ALARM_EVERY),
            None => true,
        };
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const BACK_DATED: Duration = Duration::from_secs(600);

    fn noon() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    fn plan(random: u64) -> Plan {
        Plan::new((noon() - BACK_DATED, noon() + 24 * HOUR), noon(), random)
    }

    #[test]
    fn it_is_renewed_at_half_of_its_life_more_or_less() {
        let hours = |random| plan(random).due().duration_since(noon()).expect("later").as_secs_f64() / 3600.0;
        assert!((hours(0) - 10.8).abs() < 1e-6, "{}", hours(0));
        assert!((hours(u64::MAX) - 13.2).abs() < 1e-6, "{}", hours(u64::MAX));
        assert!((hours(1 << 63) - 12.0).abs() < 1e-6, "{}", hours(1 << 63));
    }

    #[test]
    fn a_short_life_is_counted_from_when_it_was_obtained_and_never_makes_a_busy_loop() {
        let minute = Plan::new((noon() - BACK_DATED, noon() + Duration::from_secs(60)), noon(), 0);
        assert_eq!(minute.left(noon(), Duration::ZERO), Duration::from_secs(27));
        let none = Plan::new((noon() - BACK_DATED, noon()), noon(), 0);
        assert_eq!(none.left(noon(), Duration::ZERO), SHORTEST);
    }

    #[test]
    fn a_clock_that_is_set_moves_the_renewal_only_to_sooner() {
        let plan = plan(1 << 63);
        let spent = Duration::from_secs(60);
        for (case, now, waited, expected) in [
            ("it runs", noon() + HOUR, HOUR, 11 * HOUR),
            ("one hour forward", noon() + HOUR + spent, spent, 11 * HOUR - spent),
            ("one hour back, still valid", noon() - BACK_DATED / 2, HOUR, 11 * HOUR),
            ("one hour back, not valid yet", noon() - HOUR, spent, Duration::ZERO),
            ("back again and again", noon() + HOUR, 12 * HOUR, Duration::ZERO),
            ("beyond its end", noon() + 25 * HOUR, HOUR, Duration::ZERO),
        ] {
            assert_eq!(plan.left(now, waited), expected, "{case}");
        }
    }

    #[test]
    fn alarms_come_at_once_and_then_every_few_minutes() {
        let mut alarm = Alarm::default();
        let minute = Duration::from_secs(60);
        let cries: Vec<bool> = (0..7).map(|minutes| alarm.is_due(noon() + minute * minutes)).collect();
        assert_eq!(cries, [true, false, false, false, false, true, false]);
        assert!(alarm.is_due(noon()), "a clock that was set back does not silence it");
        assert!(!plan(0).is_past_half(noon() + 11 * HOUR) && plan(0).is_past_half(noon() + 12 * HOUR));
    }
}
