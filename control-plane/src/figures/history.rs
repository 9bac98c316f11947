//! One proxy: what was added in each step of the last ten minutes.
//!
//! Kept are the additions between two looks and not the counters themselves, for three reasons. What did not change costs
//! nothing. A process that starts anew, and a row that went away and came back, begin at 0, and the difference to what was
//! there before would be wrong: here, whatever is less than before was counted anew. And a window is a plain sum.
//!
//! Steps are ten seconds for two minutes, and a minute after that.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use leno_proxy::telemetry::figures::{Figures, Party};

use super::counters::{Counters, Key, Row};

/// How far back anything is known, in milliseconds.
pub(crate) const SPAN_MS: u64 = 600_000;
/// A step is no shorter than this, …
const STEP_MS: u64 = 10_000;
/// … and when it is so old, …
const FINE_MS: u64 = 120_000;
/// … it becomes part of one that is no longer than this.
const COARSE_MS: u64 = 60_000;
/// Rows of one proxy that are followed; the metrics of a proxy have a bound of the same size.
const ROWS: usize = 30_000;

/// Of one proxy. Times are of its clock, so that clocks that differ do not matter.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) connections_active: u64,
    pub(crate) requests_active: u64,
    started_ms: u64,
    taken_ms: u64,
    /// The counters at the last look, by a hash of what tells their rows apart.
    counters: HashMap<u64, Counters>,
    hasher: RandomState,
    /// The oldest first.
    steps: VecDeque<Step>,
}

/// What was added between two looks.
#[derive(Debug)]
struct Step {
    from_ms: u64,
    to_ms: u64,
    added: BTreeMap<Arc<Key>, Counters>,
}

/// What was added in a while that ends with the last look.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// How long it was; 0: only one look has been taken yet.
    pub(crate) span_ms: u64,
    pub(crate) added: BTreeMap<Arc<Key>, Counters>,
}

impl History {
    /// Takes one look at a process of any age, and counts everything since its start.
    pub(crate) fn take_all(&mut self, figures: &Figures) {
        let mut step = Step { from_ms: figures.started_ms, to_ms: figures.taken_ms, added: BTreeMap::new() };
        self.all_rows(figures, &HashMap::new(), &mut step);
        self.note(figures);
        self.push(step);
    }

    /// Takes a look.
    pub(crate) fn take(&mut self, figures: &Figures) {
        let restarted = figures.started_ms != self.started_ms;
        if !restarted && figures.taken_ms <= self.taken_ms {
            // Answers that overtook each other.
            return;
        }
        let known = std::mem::take(&mut self.counters);
        let known = if restarted { HashMap::new() } else { known };
        let mut step = Step {
            from_ms: if restarted { figures.started_ms } else { self.taken_ms },
            to_ms: figures.taken_ms,
            added: BTreeMap::new(),
        };
        self.all_rows(figures, &known, &mut step);
        self.note(figures);
        // What a process counted before anybody looked belongs to no moment, unless the process is that young.
        if step.to_ms.saturating_sub(step.from_ms) <= SPAN_MS {
            self.push(step);
        }
        self.tidy();
    }

    fn note(&mut self, figures: &Figures) {
        (self.connections_active, self.requests_active) = (figures.connections_active, figures.requests_active);
        (self.started_ms, self.taken_ms) = (figures.started_ms, figures.taken_ms);
    }

    fn all_rows(&mut self, figures: &Figures, known: &HashMap<u64, Counters>, step: &mut Step) {
        let Figures { own, requests, routes, tcp, retries, .. } = figures;
        self.rows(own, requests, known, step);
        self.rows(own, routes, known, step);
        self.rows(own, tcp, known, step);
        self.rows(own, retries, known, step);
    }

    /// Adds rows of one kind to the step, and remembers their counters.
    fn rows<R: Row>(&mut self, own: &Party, rows: &[R], known: &HashMap<u64, Counters>, step: &mut Step) {
        for row in rows.iter().take(ROWS) {
            let key = row.key(own);
            let hash = self.hasher.hash_one((format!("{key:?}"), row.end()));
            let counters = row.counters();
            let since = known.get(&hash).and_then(|before| counters.since(before)).unwrap_or_else(|| counters.clone());
            self.counters.insert(hash, counters);
            if !since.is_nothing() {
                step.added.entry(Arc::new(key)).or_default().add(&since);
            }
        }
    }

    fn push(&mut self, step: Step) {
        match self.steps.back_mut() {
            Some(last) if step.to_ms.saturating_sub(last.from_ms) <= STEP_MS && last.to_ms == step.from_ms => {
                last.join(step);
            }
            Some(_) | None => self.steps.push_back(step),
        }
    }

    /// Lets go of what is too old, and makes few steps of many old ones.
    fn tidy(&mut self) {
        let age = |ms: u64| self.taken_ms.saturating_sub(ms);
        self.steps.retain(|step| age(step.to_ms) < SPAN_MS);
        let mut steps: VecDeque<Step> = VecDeque::with_capacity(self.steps.len());
        for step in std::mem::take(&mut self.steps) {
            match steps.back_mut() {
                Some(last)
                    if age(step.to_ms) > FINE_MS
                        && step.to_ms.saturating_sub(last.from_ms) <= COARSE_MS
                        && last.to_ms == step.from_ms =>
                {
                    last.join(step);
                }
                Some(_) | None => steps.push_back(step),
            }
        }
        self.steps = steps;
    }

    /// What was added within so many milliseconds before the last look: the newest step, and all whose middle lies in the
    /// window.
    pub(crate) fn window(&self, window_ms: u64) -> Window {
        let begins = self.taken_ms.saturating_sub(window_ms);
        let mut found = Window::default();
        for (at, step) in self.steps.iter().rev().enumerate() {
            let middle = step.from_ms + step.to_ms.saturating_sub(step.from_ms) / 2;
            if at > 0 && middle < begins {
                break;
            }
            found.span_ms = self.taken_ms.saturating_sub(step.from_ms);
            for (key, counters) in &step.added {
                found.added.entry(Arc::clone(key)).or_default().add(counters);
            }
        }
        found
    }
}

impl Step {
    /// The step after this one becomes a part of it.
    fn join(&mut self, next: Self) {
        self.to_ms = next.to_ms;
        for (key, counters) in next.added {
            self.added.entry(key).or_default().add(&counters);
        }
    }
}

#[cfg(test)]
mod tests {
    use leno_proxy::telemetry::figures::{Distribution, RequestRow};

    use super::*;

    const STARTED: u64 = 1_000_000;

    /// A look after so many seconds, with these counts of requests by status.
    fn look(started: u64, seconds: u64, requests: &[(u16, u64)]) -> Figures {
        let row = |(code, requests): &(u16, u64)| RequestRow {
            code: *code,
            requests: *requests,
            duration: Distribution { buckets: vec![0, *requests], sum: 0.0 },
            ..RequestRow::default()
        };
        Figures {
            started_ms: started,
            taken_ms: started + seconds * 1000,
            requests: requests.iter().map(row).collect(),
            ..Figures::default()
        }
    }

    /// Requests, failures and seconds of a window.
    fn window(history: &History, seconds: u64) -> (u64, u64, u64) {
        let window = history.window(seconds * 1000);
        let mut sum = Counters::default();
        window.added.values().for_each(|counters| sum.add(counters));
        assert_eq!(sum.durations.iter().sum::<u64>(), sum.requests);
        (sum.requests, sum.failures, window.span_ms / 1000)
    }

    #[test]
    fn a_young_process_is_known_from_its_start_and_an_old_one_from_the_first_look() {
        let mut young = History::default();
        young.take(&look(STARTED, 30, &[(200, 7), (500, 2)]));
        assert_eq!(window(&young, 60), (9, 2, 30));
        let mut old = History::default();
        old.take(&look(STARTED, 6000, &[(200, 7)]));
        assert_eq!(window(&old, 60), (0, 0, 0));
        old.take(&look(STARTED, 6010, &[(200, 9)]));
        assert_eq!(window(&old, 60), (2, 0, 10));
    }

    #[test]
    fn a_window_has_the_steps_whose_middle_lies_in_it() {
        let mut history = History::default();
        for seconds in (0..=100).step_by(10) {
            history.take(&look(STARTED, 6000 + seconds, &[(200, seconds)]));
        }
        for (asked, expected) in [(10, 10), (30, 30), (34, 30), (36, 40), (100, 100), (600, 100), (1, 10)] {
            assert_eq!(window(&history, asked), (expected, 0, expected), "{asked}");
        }
    }

    #[test]
    fn looks_in_quick_succession_are_one_step() {
        let mut history = History::default();
        for seconds in 0..=100 {
            history.take(&look(STARTED, 6000 + seconds, &[(200, seconds)]));
        }
        assert_eq!(history.steps.len(), 10);
        assert_eq!(window(&history, 30), (30, 0, 30));
    }

    #[test]
    fn a_restart_and_a_row_that_comes_back_are_counted_anew() {
        let mut history = History::default();
        history.take(&look(STARTED, 6000, &[(200, 1000), (503, 50)]));
        history.take(&look(STARTED, 6010, &[(200, 1010)]));
        history.take(&look(STARTED, 6020, &[(200, 1010), (503, 3)]));
        assert_eq!(window(&history, 60), (13, 3, 20));
        // Five seconds later another process has begun.
        history.take(&look(STARTED + 6_025_000, 5, &[(200, 4)]));
        assert_eq!(window(&history, 60), (17, 3, 30));
        assert_eq!(window(&history, 5), (4, 0, 5));
    }

    #[test]
    fn old_steps_become_coarse_and_then_go() {
        let mut history = History::default();
        for seconds in (0..=3000).step_by(10) {
            history.take(&look(STARTED, 6000 + seconds, &[(200, seconds)]));
        }
        assert!(history.steps.len() <= 12 + 2 + 9, "{}", history.steps.len());
        let (requests, _, seconds) = window(&history, 600);
        assert_eq!(requests, seconds);
        assert!((540..=660).contains(&seconds), "{seconds}");
    }

    #[test]
    fn a_look_that_was_overtaken_changes_nothing() {
        let mut history = History::default();
        history.take(&look(STARTED, 6000, &[(200, 10)]));
        history.take(&look(STARTED, 6010, &[(200, 20)]));
        history.take(&look(STARTED, 6005, &[(200, 15)]));
        assert_eq!(window(&history, 60), (10, 0, 10));
    }
}
