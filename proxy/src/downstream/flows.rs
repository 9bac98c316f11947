//! Bodies that wait for their caller: a request's for its next part, an answer's for somebody who takes it.
//!
//! A body that passes at once never comes here. One that takes longer has a place in its connection's list, and leaves
//! there, with one store a frame, whose turn it is. The worker looks once a second: a place where it has been the caller's
//! turn for too long ends the stream, in HTTP/1.1 the connection. Whose turn it is shows in how bodies are polled: who polls
//! a request's body and finds nothing waits for the caller; when an answer has yielded a frame and is not polled again, it
//! is the caller who does not take it, be it its window or its socket that is full. hyper takes a frame before it has room
//! for it, also the last one, so an answer keeps its place until it is dropped.
//!
//! A request's body is polled by the connection to its endpoint, and can outlive its stream there for as long as nothing
//! comes. So a body knows its stream from the start, and whoever is done with a request ends the body as well
//! ([`Meter::cut`](crate::telemetry::Meter::cut)).

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::life::{Life, looks_of};
use crate::overload::reached::Reached;

/// Not in the list.
const NOWHERE: u32 = u32::MAX;

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The place is free.
    Nobody,
    /// The endpoint's, or ours.
    Ours,
    /// The caller is to send.
    Sends,
    /// The caller is to take.
    Takes,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    turn: Turn,
    /// It was the same turn at the last look, for so many looks.
    looks: u32,
    /// Something has passed since.
    moved: bool,
    /// It is to end.
    doomed: bool,
    /// Its stream, as [`crate::nest::Nest`] numbers them.
    stream: u64,
    /// What has passed.
    bytes: u64,
}

/// How many seconds an answer has waited to be taken, and how many bytes of it have been.
pub(crate) type Weight = (u32, u64);

impl Slot {
    /// What holds memory is an answer that its caller does not take: the windows and buffers on its way are full. One that
    /// moves holds no more of them the longer it is.
    fn weight(&self) -> Option<Weight> {
        (self.turn == Turn::Takes && !self.doomed).then_some((self.looks, self.bytes))
    }
}

/// The bodies of one connection that wait, or have.
#[derive(Debug, Default)]
pub(super) struct Flows {
    slots: RefCell<Vec<Slot>>,
}

impl Flows {
    /// Called once a second: which limit a body has reached; it is doomed then.
    pub(super) fn look(&self, body_idle: Duration, write_stall: Duration, mut reached: impl FnMut(Reached)) {
        for slot in self.slots.borrow_mut().iter_mut() {
            let (limit, which) = match slot.turn {
                Turn::Nobody => continue,
                Turn::Ours => {
                    slot.moved = false;
                    continue;
                }
                Turn::Sends => (body_idle, Reached::BodyIdle),
                Turn::Takes => (write_stall, Reached::WriteStall),
            };
            slot.looks = if std::mem::take(&mut slot.moved) { 0 } else { slot.looks.saturating_add(1) };
            if slot.looks >= looks_of(limit) && !slot.doomed {
                slot.doomed = true;
                reached(which);
            }
        }
    }

    /// Whether nobody has a place.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.borrow().iter().all(|slot| slot.turn == Turn::Nobody)
    }

    /// Of the answer that holds memory for longest: for how long, and how much of it has passed.
    pub(super) fn heaviest(&self) -> Option<Weight> {
        self.slots.borrow().iter().filter_map(Slot::weight).max()
    }

    /// Dooms that one; whether there was one.
    pub(super) fn doom_heaviest(&self) -> bool {
        let mut slots = self.slots.borrow_mut();
        let heaviest = slots.iter_mut().filter(|slot| slot.weight().is_some()).max_by_key(|slot| slot.weight());
        heaviest.map(|slot| slot.doomed = true).is_some()
    }

    /// The streams that are to end.
    pub(super) fn doomed(&self) -> Vec<u64> {
        self.slots.borrow().iter().filter(|slot| slot.doomed).map(|slot| slot.stream).collect()
    }

    fn enter(&self, stream: u64) -> u32 {
        let new = Slot { turn: Turn::Ours, looks: 0, moved: true, doomed: false, stream, bytes: 0 };
        let mut slots = self.slots.borrow_mut();
        let at = slots.iter().position(|slot| slot.turn == Turn::Nobody).unwrap_or(slots.len());
        match slots.get_mut(at) {
            Some(slot) => *slot = new,
            None => slots.push(new),
        }
        u32::try_from(at).unwrap_or(NOWHERE)
    }

    fn change(&self, at: u32, change: impl FnOnce(&mut Slot)) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(at as usize) {
            change(slot);
        }
    }

    fn leave(&self, at: u32) {
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = slots.get_mut(at as usize) {
            (slot.turn, slot.doomed) = (Turn::Nobody, false);
        }
        // Room for many is given back when there is none.
        if slots.len() > 8 && slots.iter().all(|slot| slot.turn == Turn::Nobody) {
            *slots = Vec::new();
        }
    }
}

/// One body's place; it is given back with this.
#[derive(Debug)]
pub struct Flow {
    life: Rc<Life>,
    stream: u64,
    at: u32,
    /// Whether its caller may wait for ever: streams of gRPC rest for hours.
    is_patient: bool,
    /// All of a request's body has come.
    has_come: bool,
}

impl Flow {
    /// Of the stream that is polled just now. It has no place until it needs one.
    pub fn new(life: Rc<Life>, is_patient: bool) -> Self {
        let stream = life.stream();
        Self { life, stream, at: NOWHERE, is_patient, has_come: false }
    }

    /// All of a request's body has come.
    pub fn has_come(&mut self) {
        if !std::mem::replace(&mut self.has_come, true) {
            self.life.body_has_come();
        }
        if self.at != NOWHERE {
            self.life.flows().leave(std::mem::replace(&mut self.at, NOWHERE));
        }
    }

    /// Nothing of a request's body is here, and somebody wants it.
    #[inline]
    pub fn waits(&mut self) {
        if !self.is_patient {
            self.turns(Turn::Sends, 0);
        }
    }

    /// Some of it has come.
    #[inline]
    pub fn comes(&mut self, bytes: usize) {
        if self.at != NOWHERE {
            self.turns(Turn::Ours, bytes);
        }
    }

    /// Some of an answer was handed out, and it is not all.
    #[inline]
    pub fn hands(&mut self, bytes: usize) {
        if !self.is_patient {
            self.turns(Turn::Takes, bytes);
        }
    }

    /// What was handed out is taken; the endpoint has no more yet.
    #[inline]
    pub fn is_taken(&mut self) {
        if self.at != NOWHERE {
            self.turns(Turn::Ours, 0);
        }
    }

    fn turns(&mut self, turn: Turn, bytes: usize) {
        if self.at == NOWHERE {
            self.at = self.life.flows().enter(self.stream);
        }
        self.life.flows().change(self.at, |slot| {
            // To be asked twice is no progress.
            slot.moved |= slot.turn != turn || bytes > 0;
            slot.turn = turn;
            slot.bytes += bytes as u64;
        });
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        if self.at != NOWHERE {
            self.life.flows().leave(self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(3);

    fn look(life: &Life, times: usize) -> Vec<Reached> {
        let mut all = Vec::new();
        (0..times).for_each(|_| life.flows().look(LIMIT, LIMIT * 2, |reached| all.push(reached)));
        all
    }

    #[test]
    fn a_caller_that_does_not_send_or_take_in_time_is_found_once() {
        let life = Rc::new(Life::new(std::sync::Arc::default()));
        let mut request = Flow::new(Rc::clone(&life), false);
        let mut answer = Flow::new(Rc::clone(&life), false);
        request.waits();
        answer.hands(100);
        assert_eq!(look(&life, 3), []);
        assert_eq!(look(&life, 10), [Reached::BodyIdle, Reached::WriteStall]);
        assert_eq!(life.flows().doomed().len(), 2);
        drop((request, answer));
        assert_eq!((life.flows().doomed().len(), look(&life, 10)), (0, Vec::new()));
    }

    #[test]
    fn what_moves_or_waits_for_somebody_else_is_left_alone() {
        let life = Rc::new(Life::new(std::sync::Arc::default()));
        let mut request = Flow::new(Rc::clone(&life), false);
        let mut answer = Flow::new(Rc::clone(&life), false);
        for _ in 0..10 {
            request.waits();
            answer.hands(1);
            assert_eq!(look(&life, 3), []);
            request.comes(1);
            answer.is_taken();
        }
        assert_eq!(look(&life, 20), [], "it is the endpoint's turn");
        let mut grpc = Flow::new(Rc::clone(&life), true);
        grpc.waits();
        grpc.hands(1);
        assert_eq!(look(&life, 20), []);
    }

    #[test]
    fn to_ask_twice_for_what_does_not_come_is_no_progress() {
        let life = Rc::new(Life::new(std::sync::Arc::default()));
        let mut request = Flow::new(Rc::clone(&life), false);
        for _ in 0..3 {
            request.waits();
            assert_eq!(look(&life, 1), []);
        }
        assert_eq!(look(&life, 1), [Reached::BodyIdle]);
    }

    #[test]
    fn the_answer_that_nobody_takes_for_longest_goes_first_and_what_moves_never() {
        let life = Rc::new(Life::new(std::sync::Arc::default()));
        let flow = |bytes| {
            let mut flow = Flow::new(Rc::clone(&life), false);
            flow.hands(bytes);
            flow
        };
        let (mut moving, _stuck) = (flow(1 << 30), [flow(10), flow(500)]);
        look(&life, 2);
        moving.is_taken();
        let _new = flow(1 << 20);
        let mut sending = Flow::new(Rc::clone(&life), false);
        sending.waits();
        let doomed = std::iter::from_fn(|| {
            let heaviest = life.flows().heaviest();
            assert_eq!(life.flows().doom_heaviest(), heaviest.is_some());
            heaviest
        });
        assert_eq!(doomed.collect::<Vec<_>>(), [(1, 500), (1, 10), (0, 1 << 20)]);
    }
}
