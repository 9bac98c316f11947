//! What time it is, and waiting: an argument, so that tests live through a day in a moment.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::UnixTime;

/// A clock that can be read and waited on.
pub trait Clock {
    /// The time of day, which an operator may set forward and back.
    fn now(&self) -> SystemTime;

    /// Waits; not longer when somebody sets the time of day.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>
    where
        Self: Sized;
}

/// Whatever clock, for those who only look at the time of day. Handshakes go by it, too.
#[derive(Clone)]
pub struct TimeOfDay(Arc<dyn Clock + Send + Sync>);

impl TimeOfDay {
    /// As `clock` shows it.
    pub fn of(clock: impl Clock + Send + Sync + 'static) -> Self {
        Self(Arc::new(clock))
    }

    /// What time it is.
    pub fn now(&self) -> SystemTime {
        self.0.now()
    }
}

impl Default for TimeOfDay {
    fn default() -> Self {
        Self::of(SystemClock)
    }
}

impl fmt::Debug for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TimeOfDay").field(&self.now()).finish()
    }
}

impl rustls::time_provider::TimeProvider for TimeOfDay {
    fn current_time(&self) -> Option<UnixTime> {
        let since_epoch = self.now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since_epoch))
    }
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
