//! What this process takes on at once, and a quick no to the rest.
//!
//! Who cannot be served soon is told so at once (503, flag OM, `retry-after`): a request that waits in a queue until its
//! caller has given up costs as much as one that is answered, and helps nobody. Three limits, from the bootstrap's
//! `limits`:
//!
//! * `connections` from callers. A few above the limit are let in to be told; those above these are closed.
//! * `requests` under way, all listeners together.
//! * `adaptive_concurrency`: as many requests to the own app as it can work on ([`gradient`]).
//!
//! Beside them: how many of all connections one caller may have ([`callers`]), how much memory there is ([`budget`]), and
//! how long and how much each caller may ask for ([`limits`]).
//!
//! The addresses for operators are not counted: who looks for the reason gets an answer.

pub mod budget;
pub mod callers;
pub mod gradient;
pub mod limits;
pub mod reached;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use leno_config::ir::Direction;

use crate::random::Random;
use crate::telemetry::WorkerStats;

use budget::{Budget, Pressure};
use callers::{CallerCount, Callers, Who};
use gradient::Gradient;
use reached::{Reached, ReachedCounts};

pub use limits::Limits;

/// The limits of the process at work.
#[derive(Debug)]
pub struct Overload {
    limits: Limits,
    workers: Vec<Arc<WorkerStats>>,
    adaptive: Option<Adaptive>,
    callers: Arc<Callers>,
    /// What the process may have in memory.
    pub budget: Budget,
    /// What was turned away.
    pub shed: ShedCounts,
    /// Which limits of single callers were reached.
    pub reached: ReachedCounts,
}

/// How often each limit turned somebody away.
#[derive(Debug, Default)]
pub struct ShedCounts {
    /// Connections that were closed or told.
    pub connections: AtomicU64,
    /// Requests above `requests`.
    pub requests: AtomicU64,
    /// Requests that the app could not have worked on.
    pub concurrency: AtomicU64,
    /// Requests for which there was no memory.
    pub memory: AtomicU64,
}

/// Why somebody is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Shed {
    /// Too many connections.
    #[error("this proxy has as many connections as `limits.connections` allows")]
    Connections,
    /// Too many requests.
    #[error("this proxy has as many requests under way as `limits.requests` allows")]
    Requests,
    /// The app is busy.
    #[error("the app behind this proxy has as many requests as it can work on (limits.adaptive_concurrency)")]
    Concurrency,
    /// There is no memory for it.
    #[error("this proxy has used 92 % of the memory that `limits.memory` or its control group allows")]
    Memory,
}

/// Whether a new connection is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// It is.
    Free,
    /// To be told that it is not.
    Surplus,
    /// Closed.
    Full,
}

/// A request to the own app, which counts until it is answered.
#[derive(Debug)]
pub struct Place {
    overload: Arc<Overload>,
    began: Duration,
}

#[derive(Debug)]
struct Adaptive {
    start: Instant,
    under_way: AtomicU32,
    limit: AtomicU32,
    /// Never waited for: a sample that finds it taken is one less.
    gradient: Mutex<Gradient>,
}

impl Overload {
    /// Nobody is there yet. `workers`: where connections and requests are counted.
    pub fn new(limits: Limits, workers: Vec<Arc<WorkerStats>>) -> Arc<Self> {
        let adaptive = limits.adaptive_concurrency.then(|| Adaptive {
            start: Instant::now(),
            under_way: AtomicU32::new(0),
            limit: AtomicU32::new(gradient::FEWEST),
            gradient: Mutex::new(Gradient::new(Duration::ZERO)),
        });
        Arc::new(Self {
            limits,
            workers,
            adaptive,
            callers: Arc::default(),
            budget: Budget::new(limits.memory),
            shed: ShedCounts::default(),
            reached: ReachedCounts::default(),
        })
    }

    /// What callers may do.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether a caller may have one more connection, for as long as the guard lives; who may not is counted.
    pub fn caller(&self, who: Who) -> Option<CallerCount> {
        let counted = self.callers.enter(who, self.limits.connections_per_caller);
        if counted.is_none() {
            self.reached.add(Reached::PerCaller);
        }
        counted
    }

    /// Whether one more connection is let in; who is not is counted.
    pub fn entry(&self) -> Entry {
        let open = self.sum(|stats| &stats.connections_active);
        let limit = u64::from(self.limits.connections);
        if open < limit {
            return Entry::Free;
        }
        self.shed.connections.fetch_add(1, Ordering::Relaxed);
        if open < limit + (limit / 16).max(8) { Entry::Surplus } else { Entry::Full }
    }

    /// Lets a request in, which is counted already, or says why not. Costs three comparisons where there is no limit.
    pub fn admit(self: &Arc<Self>, direction: Direction, is_surplus: bool) -> Result<Option<Place>, Shed> {
        if is_surplus {
            return Err(Shed::Connections);
        }
        if self.budget.pressure() >= Pressure::Refusing {
            self.shed.memory.fetch_add(1, Ordering::Relaxed);
            return Err(Shed::Memory);
        }
        if let Some(limit) = self.limits.requests
            && self.sum(|stats| &stats.requests_active) > u64::from(limit)
        {
            self.shed.requests.fetch_add(1, Ordering::Relaxed);
            return Err(Shed::Requests);
        }
        match (&self.adaptive, direction) {
            (Some(adaptive), Direction::Inbound) => self.take_place(adaptive).map(Some),
            (Some(_), Direction::Outbound) | (None, _) => Ok(None),
        }
    }

    /// How many requests the app is thought to work on; `None`: nobody asks.
    pub fn concurrency_limit(&self) -> Option<u32> {
        self.adaptive.as_ref().map(|adaptive| adaptive.limit.load(Ordering::Relaxed))
    }

    fn take_place(self: &Arc<Self>, adaptive: &Adaptive) -> Result<Place, Shed> {
        let before = adaptive.under_way.fetch_add(1, Ordering::Relaxed);
        if before >= adaptive.limit.load(Ordering::Relaxed) {
            adaptive.under_way.fetch_sub(1, Ordering::Relaxed);
            self.shed.concurrency.fetch_add(1, Ordering::Relaxed);
            return Err(Shed::Concurrency);
        }
        Ok(Place { overload: Arc::clone(self), began: adaptive.start.elapsed() })
    }

    fn sum(&self, figure: fn(&WorkerStats) -> &AtomicU64) -> u64 {
        self.workers.iter().map(|stats| figure(stats).load(Ordering::Relaxed)).sum()
    }
}

impl Place {
    /// The app has answered: the controller learns how long that took. What was not its answer tells nothing.
    pub fn answered(&self, random: &Random) {
        let Some(adaptive) = &self.overload.adaptive else { return };
        if let Ok(mut gradient) = adaptive.gradient.try_lock() {
            let jitter = f64::from(random.below(1000)) / 1000.0;
            gradient.answered(self.began, adaptive.start.elapsed(), jitter);
            adaptive.limit.store(gradient.limit(), Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(adaptive) = &self.overload.adaptive {
            adaptive.under_way.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overload(
        connections: u32,
        requests: Option<u32>,
        adaptive_concurrency: bool,
    ) -> (Arc<Overload>, [Arc<WorkerStats>; 2]) {
        let workers = [Arc::default(), Arc::default()];
        let limits = Limits { connections, requests, adaptive_concurrency, memory: Some(1000), ..Limits::default() };
        (Overload::new(limits, workers.to_vec()), workers)
    }

    #[test]
    fn connections_of_all_workers_count_and_a_few_above_are_told() {
        let (overload, [one, two]) = overload(10, None, false);
        for (first, second, expected) in [
            (0, 0, Entry::Free),
            (5, 4, Entry::Free),
            (5, 5, Entry::Surplus),
            (10, 7, Entry::Surplus),
            (9, 9, Entry::Full),
        ] {
            one.connections_active.store(first, Ordering::Relaxed);
            two.connections_active.store(second, Ordering::Relaxed);
            assert_eq!(overload.entry(), expected, "{first} and {second}");
        }
        assert_eq!(overload.shed.connections.load(Ordering::Relaxed), 3);
        assert_eq!(overload.admit(Direction::Inbound, true).err(), Some(Shed::Connections));
    }

    #[test]
    fn requests_above_the_limit_are_turned_away() {
        let (overload, [one, two]) = overload(10, Some(3), false);
        one.requests_active.store(1, Ordering::Relaxed);
        two.requests_active.store(2, Ordering::Relaxed);
        assert!(overload.admit(Direction::Outbound, false).is_ok(), "it counts itself");
        two.requests_active.store(3, Ordering::Relaxed);
        assert_eq!(overload.admit(Direction::Outbound, false).err(), Some(Shed::Requests));
    }

    #[test]
    fn without_memory_requests_are_refused_until_there_is_some() {
        let (overload, _) = overload(10, None, false);
        for (used, refused) in [(900, false), (930, true), (990, true), (100, false)] {
            overload.budget.look(used);
            let admitted = overload.admit(Direction::Inbound, false);
            assert_eq!(admitted.err() == Some(Shed::Memory), refused, "{used}");
        }
    }

    #[test]
    fn a_caller_has_no_more_connections_than_it_may() {
        let limits = Limits { connections_per_caller: 1, ..Limits::default() };
        let overload = Overload::new(limits, Vec::new());
        let who = || Who::Address([127, 0, 0, 1].into());
        let held = overload.caller(who());
        assert!(held.is_some() && overload.caller(who()).is_none());
        assert_eq!(overload.reached.of(Reached::PerCaller), 1);
    }

    #[test]
    fn the_app_gets_as_many_as_the_controller_says_and_places_come_back() {
        let (overload, _) = overload(10, None, true);
        let ask = || overload.admit(Direction::Inbound, false);
        let places: Vec<_> = (0..gradient::FEWEST).map(|_| ask().expect("room")).collect();
        assert_eq!(ask().err(), Some(Shed::Concurrency));
        assert!(overload.admit(Direction::Outbound, false).is_ok(), "only the own app is meant");
        drop(places);
        let random = Random::seeded(1);
        (0..60).for_each(|_| ask().expect("room").expect("a place").answered(&random));
        assert!(overload.concurrency_limit().is_some_and(|limit| limit >= gradient::FEWEST));
    }
}
