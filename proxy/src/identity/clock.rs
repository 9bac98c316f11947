//! What time it is, and waiting: an argument, so that tests live through a day in a moment.

use std::future::Future;
use std::time::{Duration, SystemTime};

/// A clock that can be read and waited on.
pub trait Clock {
    /// The time of day, which an operator may set forward and back.
    fn now(&self) -> SystemTime;

    /// Waits; not longer when somebody sets the time of day.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;
}

/// The machine's.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> {
        tokio::time::sleep(duration)
    }
}
