//! What the process may have in memory, and what it does as that runs out.
//!
//! | of the budget | what happens |
//! |---|---|
//! | 85 % | connections are asked to leave: `connection: close`, GOAWAY; those that rest go soon |
//! | 92 % | requests are refused: 503 without a body |
//! | 95 % | nobody is accepted, and once a second each worker ends the answer that has waited longest to be taken |
//!
//! The budget is what the bootstrap's `limits.memory` says, of what this process has in memory; else the limit of the control
//! group (in Kubernetes, of the container), of all that is charged to the group: bytes in sockets and a second process count
//! there as well, and the kernel ends whoever goes beyond. Pages of files that nobody uses do not count: they go first. Looked
//! at once a second, and only if there is a budget: a request asks for one byte that hardly ever
//! changes. The addresses for operators are served by a thread of their own and refuse nobody, so probes and metrics have
//! room when nothing else does.

use std::fs;
use std::path::{Path, PathBuf};
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
    /// Whose limit it is; `None`: the process's own.
    group: Option<Group>,
    used: AtomicU64,
    pressure: AtomicU8,
}

impl Budget {
    /// So many bytes, else those of the control group.
    pub fn new(configured: Option<u64>) -> Self {
        let group = if configured.is_none() { Group::own() } else { None };
        Self { limit: configured.or(group.as_ref().map(|group| group.limit)), group, ..Self::default() }
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

    /// Bytes that are in use now, as the budget counts them.
    fn in_use(&self) -> Option<u64> {
        self.group.as_ref().map_or_else(resident, Group::in_use)
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
        let Some(used) = budget.in_use() else { continue };
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
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(resident_line)
}

/// `VmRSS:     1234 kB`.
fn resident_line(line: &str) -> Option<u64> {
    let kibibytes = line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?;
    kibibytes.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A control group with a limit, by either version of control groups.
#[derive(Debug)]
struct Group {
    limit: u64,
    /// The file with all that is charged to it.
    charged: PathBuf,
    /// The file that says what that is.
    stat: PathBuf,
}

impl Group {
    /// The one that this process is in.
    fn own() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").trim_matches('/');
        let root = Path::new("/sys/fs/cgroup");
        [root.join(path), root.to_owned(), root.join("memory")].iter().find_map(|directory| Self::of(directory))
    }

    /// What is in a directory of control groups; `None`: no limit.
    fn of(directory: &Path) -> Option<Self> {
        let files = [("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")];
        files.iter().find_map(|(limit, charged)| {
            let limit = bytes(&fs::read_to_string(directory.join(limit)).ok()?)?;
            Some(Self { limit, charged: directory.join(charged), stat: directory.join("memory.stat") })
        })
    }

    /// All that is charged to it, but for pages of files that have not been used for a while (as the kubelet counts).
    fn in_use(&self) -> Option<u64> {
        let charged = bytes(&fs::read_to_string(&self.charged).ok()?)?;
        let stat = fs::read_to_string(&self.stat).unwrap_or_default();
        let field = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        // Version 1 says first what is its own, and then what is of groups below it too.
        let idle = field("total_inactive_file ").or_else(|| field("inactive_file ")).unwrap_or_default();
        Some(charged.saturating_sub(idle))
    }
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
    fn a_group_counts_all_that_is_charged_to_it_but_idle_pages_of_files() {
        let rows = [
            (["memory.max", "memory.current"], "anon 700\ninactive_file 300\nactive_file 9\n", Some((5000, 700))),
            (
                ["memory.limit_in_bytes", "memory.usage_in_bytes"],
                "inactive_file 1\ntotal_inactive_file 400\n",
                Some((5000, 600)),
            ),
            (["memory.max", "memory.current"], "", Some((5000, 1000))),
            (["memory.high", "memory.current"], "", None),
        ];
        for ([limit, charged], stat, expected) in rows {
            let directory = tempfile::tempdir().expect("a directory");
            for (file, text) in [(limit, "5000\n"), (charged, "1000\n"), ("memory.stat", stat)] {
                fs::write(directory.path().join(file), text).expect("written");
            }
            let group = Group::of(directory.path());
            let read = group.map(|group| (group.limit, group.in_use().expect("it says")));
            assert_eq!(read, expected, "{limit}: {stat}");
        }
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
