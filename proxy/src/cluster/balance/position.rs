//! Where one worker stands: the eligible set it knows, and its turn in each pool. The pick of the request path.
//!
//! A pick asks one number whether the standing of any endpoint has changed since. Only then something is built: at once
//! where that is quick, and in the background where tables are large; meanwhile the old table goes on, and endpoints that
//! are out are passed over.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::cluster::standing::Moment;
use crate::cluster::{ClusterStats, EndpointState, Picked};
use crate::random::Random;

use super::eligible::{Eligible, Level, Tables};
use super::pool::{Draw, Turn, Warming};
use super::round_robin::{self, Cursor};
use super::{Balancer, PickContext};

/// How often another endpoint is drawn when one was tried already (Envoy's `host_selection_retry_max_attempts` as Istio
/// sets it).
const RESELECTIONS: u32 = 5;
/// How many endpoints are passed over that a table still holds and that are out.
const DETOURS: u32 = 64;
/// Envoy's `previous_priorities`: so many attempts go by before other priorities are asked, as Istio sets it.
const UPDATE_FREQUENCY: usize = 2;

/// Where a worker stands. Empty until its first pick.
#[derive(Debug, Default)]
pub struct Position(RefCell<Option<Current>>);

#[derive(Debug)]
struct Current {
    eligible: Arc<Eligible>,
    /// By pool.
    turns: Box<[Turn]>,
    /// By level: which locality is next.
    places: Box<[Cursor]>,
    /// Some endpoints are new until then.
    new_until: Option<Moment>,
}

impl Position {
    /// An endpoint for a request; `None` when nobody is there. One that is half-open goes first: one request in the
    /// process is to tell whether it is well.
    pub fn pick(
        &self,
        balancer: &Arc<Balancer>,
        stats: &Arc<ClusterStats>,
        context: &PickContext<'_>,
    ) -> Option<Picked> {
        let number = stats.standing.load(Ordering::Acquire);
        if !self.is_current(number) {
            self.renew(balancer, number, context.random);
        }
        let current = self.0.borrow();
        let current = current.as_ref()?;
        let untried = current.eligible.half_open.iter().filter(|state| !is_tried(state, context));
        let picked = match untried.filter_map(|state| state.claim_probe(stats)).next() {
            Some(probe) => Picked::probing(probe),
            None => {
                let is_stale = current.eligible.standing != number;
                Picked::share(Arc::clone(current.choose(balancer, context, is_stale)?))
            }
        };
        Some(if balancer.settings.learns_latency() { picked.timed(Moment::now()) } else { picked })
    }

    fn is_current(&self, number: u64) -> bool {
        let current = self.0.borrow();
        current.as_ref().is_some_and(|current| current.eligible.standing == number && !current.is_over())
    }

    #[cold]
    fn renew(&self, balancer: &Arc<Balancer>, number: u64, random: &Random) {
        let mut position = self.0.borrow_mut();
        let eligible = balancer.eligible(number);
        if let Some(current) = position.as_mut()
            && Arc::ptr_eq(&current.eligible.tables, &eligible.tables)
            && !current.is_over()
        {
            // Turns go on where they were.
            current.eligible = eligible;
            return;
        }
        let new_until = balancer.new_until();
        let slow_start = warming(balancer, new_until);
        let turns = eligible.tables.pools.iter().map(|pool| pool.turn(random, slow_start)).collect();
        let places = eligible.tables.levels.iter().map(|_| Cursor::default()).collect();
        *position = Some(Current { eligible, turns, places, new_until });
    }
}

impl Current {
    /// Nobody is new any more.
    fn is_over(&self) -> bool {
        self.new_until.is_some_and(|until| until <= Moment::now())
    }

    fn tables(&self) -> &Tables {
        &self.eligible.tables
    }

    /// One that was not tried yet and is not out, as far as that can be had.
    fn choose(&self, balancer: &Balancer, context: &PickContext<'_>, is_stale: bool) -> Option<&Arc<EndpointState>> {
        let hash = if balancer.settings.hashes() { context.hash.unwrap_or_else(|| context.random.next()) } else { 0 };
        let slow_start = warming(balancer, self.new_until);
        let mut draw = Draw { random: context.random, hash, attempt: 0, slow_start };
        let first = self.draw(balancer, context, &draw);
        if context.tried.is_empty() && !is_stale {
            return first;
        }
        let is_out = |state: &Arc<EndpointState>| is_stale && !state.standing().is_available();
        let suits = |state: &&Arc<EndpointState>| !is_tried(state, context) && !is_out(state);
        let mut last = first?;
        let draws = if is_stale { DETOURS } else { RESELECTIONS };
        while !suits(&last) && draw.attempt < draws {
            draw.attempt += 1;
            last = self.draw(balancer, context, &draw)?;
        }
        // Envoy takes the last one. One that was not tried is better, and one that is out is no endpoint at all.
        Some(last)
            .filter(suits)
            .or_else(|| self.tables().iter().find(suits))
            .or(Some(last).filter(|state| !is_out(state)))
    }

    fn draw(&self, balancer: &Balancer, context: &PickContext<'_>, draw: &Draw<'_>) -> Option<&Arc<EndpointState>> {
        let pool = match self.tables().only {
            Some(only) if !context.other_priorities => only,
            _ => self.pool(balancer, context, draw)?,
        };
        let members = self.tables().pools.get(pool)?;
        let picked = members.pick(self.turns.get(pool)?, draw)?;
        members.members.get(picked).map(|member| &member.state)
    }

    /// By priority and locality.
    fn pool(&self, balancer: &Balancer, context: &PickContext<'_>, draw: &Draw<'_>) -> Option<usize> {
        let number = if balancer.settings.hashes() { draw.hash } else { draw.random.next() };
        // Envoy: 1 to 100. Below 101, so that it fits.
        #[allow(clippy::cast_possible_truncation)]
        let number = (number % 100 + 1) as u32;
        let at = self.other_level(balancer, context, number).or_else(|| {
            let mut sum = 0;
            self.tables().levels.iter().position(|level| {
                sum += level.load;
                number <= sum
            })
        })?;
        let (level, place) = (self.tables().levels.get(at)?, self.places.get(at)?);
        let locality = match &level.localities {
            None => 0,
            Some(table) => round_robin::weighted(table, place, draw.random),
        };
        Some(level.pools.start + locality).filter(|pool| level.pools.contains(pool))
    }

    /// Envoy's `previous_priorities`: after some attempts, the priorities that were tried get nothing as long as another
    /// one can take something.
    fn other_level(&self, balancer: &Balancer, context: &PickContext<'_>, number: u32) -> Option<usize> {
        let counts = context.tried.len() - context.tried.len() % UPDATE_FREQUENCY;
        if !context.other_priorities || counts == 0 || balancer.settings.hashes() {
            return None;
        }
        let tried = context.tried.get(..counts).unwrap_or_default();
        let was_tried =
            |level: &Level| tried.iter().any(|endpoint| self.tables().priority_of(endpoint) == Some(level.priority));
        let left = || self.tables().levels.iter().enumerate().filter(|(_, level)| !was_tried(level));
        let available = |level: &Level| level.available(&self.tables().availability);
        let total = left().map(|(_, level)| available(level)).sum::<u32>().min(100);
        let mut sum = 0;
        let found = left().find(|(_, level)| {
            sum += (available(level) * 100).checked_div(total).unwrap_or(0);
            number <= sum
        });
        // What rounding leaves over goes to the first that can take something.
        found.or_else(|| left().find(|(_, level)| available(level) > 0)).map(|(at, _)| at)
    }
}

/// What new endpoints get, as long as there are some.
fn warming(balancer: &Balancer, new_until: Option<Moment>) -> Option<Warming<'_>> {
    balancer.settings.slow_start.as_ref().filter(|_| new_until.is_some()).map(|settings| (settings, Moment::now()))
}

fn is_tried(state: &Arc<EndpointState>, context: &PickContext<'_>) -> bool {
    context.tried.iter().any(|other| Arc::ptr_eq(other, state))
}
