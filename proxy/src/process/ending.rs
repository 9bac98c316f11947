//! When a process that was asked to end does so: pure, so that the rule can be tried without waiting.

use std::time::{Duration, Instant};

use crate::worker::Census;

/// How long the app has to be gone: one look may fall between two of its sockets.
pub(super) const GONE: Duration = Duration::from_secs(1);
/// How long nothing has to be under way while the app is still there. Istio's `MINIMUM_DRAIN_DURATION`, which is the time
/// that a removed endpoint takes to be known everywhere: until then a peer that is silent may only be slow to hear of it.
pub(super) const QUIET: Duration = Duration::from_secs(5);

/// A process on its way to its end.
#[derive(Debug)]
pub(super) struct Ending {
    /// The latest.
    pub(super) latest: Instant,
    quiet: Duration,
    /// Since when nothing has happened, and what was counted then.
    still: (Instant, u64),
    /// Since when the app is gone; `None`: it is there.
    gone: Option<Instant>,
}

/// Why it ends now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The app is gone.
    AppGone,
    /// Nothing is under way any more.
    Quiet,
    /// Another process takes what is new, and no connection is left here.
    Empty,
    /// It was given no more time.
    TimeOver,
}

impl Ending {
    /// Begins to end: at most for `limit`, and before that when nothing was under way for `quiet`.
    pub(super) fn new(now: Instant, limit: Duration, quiet: Duration) -> Self {
        Self { latest: now + limit, quiet, still: (now, 0), gone: None }
    }

    /// Takes what one look has found; `refused`: each port of the app refuses connections, or it has none.
    pub(super) fn look(&mut self, now: Instant, census: Census, refused: bool) -> Option<Reason> {
        let Census { under_way, from_app, moves } = census;
        if under_way > 0 || moves != self.still.1 {
            self.still = (now, moves);
        }
        self.gone = (refused && from_app == 0).then(|| self.gone.unwrap_or(now));
        let lasted = |since: Instant, least| now.saturating_duration_since(since) >= least;
        if now >= self.latest {
            Some(Reason::TimeOver)
        } else if self.gone.is_some_and(|since| lasted(since, GONE)) {
            Some(Reason::AppGone)
        } else if lasted(self.still.0, self.quiet) {
            Some(Reason::Quiet)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At so many milliseconds: under way, held by the app, moves, refused.
    type Look = (u64, u64, u64, u64, bool);

    #[test]
    fn it_ends_when_the_app_is_gone_or_nothing_is_under_way_or_the_time_is_over() {
        let rows: &[(&str, &[Look], Option<Reason>)] = &[
            ("the app is gone", &[(0, 0, 0, 0, true), (1000, 0, 0, 0, true)], Some(Reason::AppGone)),
            ("not for long enough", &[(0, 0, 0, 0, true), (999, 0, 0, 0, true)], None),
            ("it was there between", &[(0, 0, 0, 0, true), (500, 0, 0, 0, false), (1400, 0, 0, 0, true)], None),
            ("its port is closed, and it still calls others", &[(0, 0, 1, 0, true), (4000, 0, 1, 0, true)], None),
            (
                "peers cannot keep it when the app is gone",
                &[(0, 3, 0, 1, true), (1000, 3, 0, 9, true)],
                Some(Reason::AppGone),
            ),
            ("nothing happens", &[(0, 0, 1, 7, false), (5000, 0, 1, 7, false)], Some(Reason::Quiet)),
            ("a request lasts", &[(0, 1, 0, 7, false), (9000, 1, 0, 7, false)], None),
            (
                "requests come and go between looks",
                &[(0, 0, 0, 7, false), (4000, 0, 0, 8, false), (8000, 0, 0, 8, false)],
                None,
            ),
            ("the time is over", &[(0, 1, 1, 7, false), (30_000, 1, 1, 8, false)], Some(Reason::TimeOver)),
        ];
        let start = Instant::now();
        for (name, looks, expected) in rows {
            let mut ending = Ending::new(start, Duration::from_secs(30), QUIET);
            let mut found = None;
            for (at, under_way, from_app, moves, refused) in *looks {
                assert_eq!(found, None, "{name}: too early");
                let census = Census { under_way: *under_way, from_app: *from_app, moves: *moves };
                found = ending.look(start + Duration::from_millis(*at), census, *refused);
            }
            assert_eq!(found, *expected, "{name}");
        }
    }
}
