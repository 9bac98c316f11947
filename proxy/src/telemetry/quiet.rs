//! Lines that strangers can cause, kept few.

use std::cell::Cell;

use tokio::time::{Duration, Instant};

/// Lines in one period.
const LINES: u32 = 100;
const PERIOD: Duration = Duration::from_secs(1);

/// Lets a hundred lines a second through, and says how many it held back. One per worker, and one for all whom the control plane
/// refuses.
#[derive(Debug, Default)]
pub struct Quiet {
    began: Cell<Option<Instant>>,
    lines: Cell<u32>,
}

impl Quiet {
    /// Whether one more line may be written now.
    pub fn allows(&self) -> bool {
        self.allows_at(Instant::now())
    }

    /// Writes a line, if one may be written now.
    pub fn spend(&self, write: impl FnOnce()) {
        if self.allows() {
            write();
        }
    }

    fn allows_at(&self, now: Instant) -> bool {
        if self.began.get().is_none_or(|began| now.saturating_duration_since(began) >= PERIOD) {
            let held_back = self.lines.replace(0).saturating_sub(LINES);
            self.began.set(Some(now));
            if held_back > 0 {
                tracing::info!("{held_back} more lines of this kind were held back");
            }
        }
        self.lines.set(self.lines.get().saturating_add(1));
        self.lines.get() <= LINES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_lines_a_second_and_no_more() {
        let (quiet, now) = (Quiet::default(), Instant::now());
        assert_eq!((0..1000).filter(|_| quiet.allows_at(now)).count(), 100);
        assert!(!quiet.allows_at(now + PERIOD / 2));
        assert!(quiet.allows_at(now + PERIOD));
    }
}
