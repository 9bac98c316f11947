//! In turn by weights that change from pick to pick: earliest deadline first, as Envoy does it.
//!
//! Each endpoint is due again 1/weight after its last turn. The weight is asked for at that moment, so that it can depend
//! on requests in flight (weighted least request) and on the time (slow start). A pick moves one entry of a heap, without
//! allocation; the heap belongs to one worker.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use crate::random::Random;

/// When each of some endpoints has its next turn.
#[derive(Debug)]
pub(super) struct Schedule(RefCell<Turns>);

#[derive(Debug)]
struct Turns {
    heap: BinaryHeap<Due>,
    /// Breaks ties: who had a turn longer ago comes first.
    turns: u64,
}

#[derive(Debug)]
struct Due {
    at: f64,
    turn: u64,
    index: usize,
}

impl Schedule {
    /// A schedule of `count` endpoints, in which each begins somewhere in its own period: so the first picks after a
    /// rebuild are as fair as the later ones, and workers do not all begin with the same endpoint.
    pub(super) fn new(count: usize, random: &Random, weight: impl Fn(usize) -> f64) -> Self {
        let heap = (0..count).map(|index| Due { at: unit(random) / positive(weight(index)), turn: 0, index }).collect();
        Self(RefCell::new(Turns { heap, turns: 0 }))
    }

    /// The endpoint whose turn it is; its next one depends on its weight now.
    pub(super) fn next(&self, weight: impl Fn(usize) -> f64) -> Option<usize> {
        let mut turns = self.0.borrow_mut();
        turns.turns += 1;
        let turn = turns.turns;
        let mut due = turns.heap.peek_mut()?;
        due.at += 1.0 / positive(weight(due.index));
        due.turn = turn;
        let index = due.index;
        // Sinks to its new place.
        drop::<PeekMut<'_, Due>>(due);
        Some(index)
    }
}

/// A number in 0..1.
#[allow(clippy::cast_precision_loss)] // 53 bits fit.
fn unit(random: &Random) -> f64 {
    (random.next() >> 11) as f64 / (1_u64 << 53) as f64
}

/// No weight may keep an endpoint waiting forever.
fn positive(weight: f64) -> f64 {
    if weight > 1e-9 { weight } else { 1e-9 }
}

impl Ord for Due {
    /// The heap gives the greatest first: that is the one due first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.total_cmp(&self.at).then_with(|| other.turn.cmp(&self.turn))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_in_proportion_to_weights_and_never_bunch() {
        let weights = [1.0, 3.0];
        let schedule = Schedule::new(2, &Random::seeded(1), |index| weights[index]);
        let picks: Vec<_> = (0..400).filter_map(|_| schedule.next(|index| weights[index])).collect();
        assert_eq!(picks.len(), 400);
        for window in picks.windows(8) {
            let light = window.iter().filter(|index| **index == 0).count();
            assert!((1..=3).contains(&light), "{window:?}");
        }
    }

    #[test]
    fn equal_weights_take_turns_and_nobody_starves() {
        let schedule = Schedule::new(3, &Random::seeded(2), |_| 1.0);
        let picks: Vec<_> = (0..9).filter_map(|_| schedule.next(|_| 1.0)).collect();
        assert_eq!(picks[..3], picks[3..6]);
        assert_eq!(picks[3..6], picks[6..]);
        let schedule = Schedule::new(2, &Random::seeded(3), |_| 0.0);
        assert!((0..4).all(|_| schedule.next(|_| 0.0).is_some()));
        assert!(Schedule::new(0, &Random::seeded(4), |_| 1.0).next(|_| 1.0).is_none());
    }
}
