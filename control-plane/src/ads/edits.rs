//! How long an edit takes to be in force everywhere.
//!
//! An edit begins when a change of the files is noticed, and ends when the last proxy that was connected by then has
//! answered all that the change made for it. A proxy that refuses has answered: whether it is right is counted elsewhere,
//! and waiting for it would wait for a person. One that leaves is not waited for; if nobody answered at all, nothing is
//! known and nothing is said. A proxy that goes straight to a newer state of the rules has answered the older ones too.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Most edits that are followed at a time. The oldest is given up: a proxy that has not answered sixty-four edits is
/// stuck, which shows elsewhere.
const MAX_EDITS: usize = 64;

/// The edits that are under way.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    under_way: VecDeque<Edit>,
}

#[derive(Debug)]
struct Edit {
    /// Of the generation that it made.
    number: u64,
    noticed: Instant,
    /// Streams that have not answered.
    waiting: BTreeSet<u64>,
    /// The last answer so far.
    answered: Option<Instant>,
}

/// What has become known.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// From each edit to this proxy's answer.
    pub(crate) proxy: Vec<Duration>,
    /// From each edit to the last proxy's answer.
    pub(crate) edits: Vec<Duration>,
}

impl Edits {
    /// An edit made generation `number`, while these streams were connected.
    pub(crate) fn begin(&mut self, number: u64, noticed: Instant, streams: impl Iterator<Item = u64>) {
        let waiting = streams.collect::<BTreeSet<_>>();
        if waiting.is_empty() {
            return;
        }
        if self.under_way.len() == MAX_EDITS {
            self.under_way.pop_front();
        }
        self.under_way.push_back(Edit { number, noticed, waiting, answered: None });
    }

    /// A stream has answered all that generation `number` made for it.
    pub(crate) fn answered(&mut self, stream: u64, number: u64, now: Instant) -> Settled {
        let mut settled = Settled::default();
        for edit in self.under_way.iter_mut().filter(|edit| edit.number <= number) {
            if edit.waiting.remove(&stream) {
                edit.answered = Some(now);
                settled.proxy.push(now.saturating_duration_since(edit.noticed));
            }
        }
        settled.edits = self.ended();
        settled
    }

    /// A stream has ended, and is not waited for any more.
    pub(crate) fn left(&mut self, stream: u64) -> Settled {
        for edit in &mut self.under_way {
            edit.waiting.remove(&stream);
        }
        Settled { proxy: Vec::new(), edits: self.ended() }
    }

    /// Takes out those that nobody is waited for any more.
    fn ended(&mut self) -> Vec<Duration> {
        let mut ended = Vec::new();
        self.under_way.retain(|edit| {
            if !edit.waiting.is_empty() {
                return true;
            }
            ended.extend(edit.answered.map(|answered| answered.saturating_duration_since(edit.noticed)));
            false
        });
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn settled(proxy: &[Duration], edits: &[Duration]) -> Settled {
        Settled { proxy: proxy.to_vec(), edits: edits.to_vec() }
    }

    #[test]
    fn an_edit_ends_with_the_last_answer() {
        let (mut edits, start) = (Edits::default(), Instant::now());
        edits.begin(5, start, [1, 2].into_iter());
        assert_eq!(edits.answered(1, 5, start + ms(10)), settled(&[ms(10)], &[]));
        assert_eq!(edits.answered(1, 5, start + ms(20)), settled(&[], &[]), "once");
        assert_eq!(edits.answered(2, 5, start + ms(30)), settled(&[ms(30)], &[ms(30)]));
        assert_eq!(edits.answered(2, 5, start + ms(40)), settled(&[], &[]));
    }

    #[test]
    fn an_answer_to_a_newer_generation_answers_the_older_ones() {
        let (mut edits, start) = (Edits::default(), Instant::now());
        edits.begin(5, start, [1].into_iter());
        edits.begin(6, start + ms(5), [1].into_iter());
        assert_eq!(edits.answered(1, 4, start + ms(7)), settled(&[], &[]), "an older one answers nothing");
        assert_eq!(edits.answered(1, 6, start + ms(10)), settled(&[ms(10), ms(5)], &[ms(10), ms(5)]));
    }

    #[test]
    fn who_leaves_is_not_waited_for_and_nobody_says_nothing() {
        let (mut edits, start) = (Edits::default(), Instant::now());
        edits.begin(5, start, [1, 2].into_iter());
        edits.answered(1, 5, start + ms(10));
        assert_eq!(edits.left(2), settled(&[], &[ms(10)]), "the last answer counts, not the leaving");
        edits.begin(6, start, [3].into_iter());
        assert_eq!(edits.left(3), settled(&[], &[]));
        edits.begin(7, start, [].into_iter());
        assert!(edits.under_way.is_empty());
    }

    #[test]
    fn a_proxy_that_never_answers_costs_a_bounded_list() {
        let (mut edits, start) = (Edits::default(), Instant::now());
        for number in 0..1000 {
            edits.begin(number, start, [1].into_iter());
        }
        assert_eq!(edits.under_way.len(), MAX_EDITS);
        assert_eq!(edits.answered(1, 1000, start).edits.len(), MAX_EDITS);
    }
}
