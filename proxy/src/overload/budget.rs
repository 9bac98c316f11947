//! What the process may have in memory, and what it does as that runs out.
//!
//! | of the budget | what happens |
//! |---|---|
//! | 85 % | connections are asked to leave: `connection: close`, GOAWAY; those that rest go soon |
//! | 92 % | requests are refused: 503 without a body |
//! | 95 % | nobody is accepted, and once a second each worker ends the answer that has waited longest to be taken |
//!
//! The budget is what the bootstrap's `limits.memory` says, else the limit of the control group (in Kubernetes, of the
//! container). Looked at once a second, and only if there is a budget: a request asks for one byte that hardly ever
//! changes. The addresses for operators are served by a thread of their own and refuse nobody, so probes and metrics have
//! room when nothing else does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use super::Overload;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How far memory has run out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Pressure {
    /// There is room.
    #[default]
    None,
    /// From 85 %: connections are asked to leave.
    Tight,
    /// From 92 %: requests are refused.
    Refusing,
    /// From 95 %: nobody is accepted.
    Full,
}

impl Pressure {
    /// With so many bytes in use out of so many.
    pub fn of(used: u64, limit: u64) -> Self {
        match u128::from(used) * 100 / u128::from(limit.max(1)) {
            0..85 => Self::None,
            85..92 => Self::Tight,
            92..95 => Self::Refusing,
            95.. => Self::Full,
        }
    }

    fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::None,
            1 => Self::Tight,
            2 => Self::Refusing,
            3.. => Self::Full,
        }
    }
}

/// The budget at work.
#[derive(Debug, Default)]
pub struct Budget {
    limit: Option<u64>,
    used: AtomicU64,
    pressure: AtomicU8,
}

impl Budget {
    /// So many bytes, else those of the control group.
    pub fn new(configured: Option<u64>) -> Self {
        Self { limit: configured.or_else(of_control_group), ..Self::default() }
    }

    /// In bytes; `None`: nobody has set one.
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Bytes in use when it was looked last.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// How far it is used up.
    pub fn pressure(&self) -> Pressure {
        Pressure::from_byte(self.pressure.load(Ordering::Relaxed))
    }

    /// So many bytes are in use; the step, if it is another than before.
    pub fn look(&self, used: u64) -> Option<Pressure> {
        let now = Pressure::of(used, self.limit?);
        self.used.store(used, Ordering::Relaxed);
        let before = Pressure::from_byte(self.pressure.swap(now as u8, Ordering::Relaxed));
        (before != now).then_some(now)
    }
}

/// Looks at the budget for as long as the process lives.
pub async fn watch(overload: Arc<Overload>) {
    let budget = &overload.budget;
    let Some(limit) = budget.limit() else { return };
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let Some(used) = resident() else { continue };
        match budget.look(used) {
            Some(Pressure::None) => tracing::info!(used, limit, "there is memory again"),
            Some(step @ (Pressure::Tight | Pressure::Refusing | Pressure::Full)) => {
                tracing::warn!(used, limit, ?step, "memory runs out: see `limits.memory`, or the container's limit");
            }
            None => {}
        }
    }
}

/// Bytes of this process that are in memory.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(resident_line)
}

/// `VmRSS:     1234 kB`.
fn resident_line(line: &str) -> Option<u64> {
    let kibibytes = line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?;
    kibibytes.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the control group of this process allows it, by either version of control groups.
fn of_control_group() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").trim_end_matches('/');
    [
        format!("/sys/fs/cgroup{path}/memory.max"),
        "/sys/fs/cgroup/memory.max".to_owned(),
        "/sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned(),
    ]
    .iter()
    .find_map(|file| bytes(&std::fs::read_to_string(file).ok()?))
}

/// A number of bytes; `max`, and what version 1 says instead, is none.
fn bytes(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| (1..1 << 60).contains(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_are_where_they_are_said_to_be() {
        use Pressure::{Full, None, Refusing, Tight};
        for (used, expected) in [
            (0, None),
            (849, None),
            (850, Tight),
            (919, Tight),
            (920, Refusing),
            (949, Refusing),
            (950, Full),
            (5000, Full),
        ] {
            assert_eq!(Pressure::of(used, 1000), expected, "{used}");
            assert_eq!(Pressure::from_byte(expected as u8), expected);
        }
        assert_eq!(Pressure::of(u64::MAX, u64::MAX), Full);
    }

    #[test]
    fn a_step_is_told_once_and_goes_when_there_is_room_again() {
        let budget = Budget { limit: Some(1000), ..Budget::default() };
        let steps = [100, 860, 870, 960, 100].map(|used| budget.look(used));
        assert_eq!(steps, [None, Some(Pressure::Tight), None, Some(Pressure::Full), Some(Pressure::None)]);
        assert_eq!(Budget::default().look(5000), None, "without a budget there are no steps");
    }

    #[test]
    fn what_the_kernel_says_is_understood() {
        assert_eq!(resident_line("VmRSS:\t   12 kB"), Some(12 * 1024));
        assert_eq!(resident_line("VmSize:\t   12 kB"), None);
        assert!(resident().is_some_and(|bytes| bytes > 1 << 20), "this very process");
        for (text, expected) in
            [("max\n", None), ("9223372036854771712\n", None), ("1048576\n", Some(1 << 20)), ("", None)]
        {
            assert_eq!(bytes(text), expected, "{text:?}");
        }
    }
}
