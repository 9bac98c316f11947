//! Which endpoint gets the next request. One file per policy; each pick costs the same with 10 and with 10 000
//! endpoints.
//!
//! A balancer is shared by all workers and never changes; what changes at a pick (the cursor of round robin) is the
//! worker's own [`Cursor`].

mod alias;
mod least_request;
mod random;
mod round_robin;

use std::sync::Arc;

use leno_config::ir;

use super::{EndpointState, Member};
use crate::random::Random;

use alias::AliasTable;
pub use round_robin::Cursor;

/// What matters when an endpoint is chosen for a request.
#[derive(Debug, Clone, Copy)]
pub struct PickContext<'a> {
    /// Of the worker.
    pub random: &'a Random,
    /// Not these, where there is another.
    pub tried: &'a [Arc<EndpointState>],
    /// For consistent hashing.
    pub hash: Option<u64>,
}

/// How often another endpoint is looked for when the pick was tried already; then the first untried one is taken.
const RESELECTIONS: u32 = 5;

/// Members and the policy among them.
#[derive(Debug)]
pub struct Balancer {
    members: Vec<Member>,
    policy: Policy,
}

#[derive(Debug)]
enum Policy {
    LeastRequest { choices: u32, shares: Shares },
    RoundRobin { shares: Shares },
    Random { shares: Shares },
}

/// How weights come into it.
#[derive(Debug)]
enum Shares {
    /// All weights are equal.
    Even,
    /// Drawn in proportion.
    Weighted(AliasTable),
}

impl Balancer {
    /// A balancer over these members. Consistent hashing is not enforced yet and falls back to Envoy's default,
    /// least request; `/config_dump` says so.
    pub fn new(balance: &ir::Balance, members: Vec<Member>) -> Self {
        let shares = Shares::new(&members);
        let policy = match balance {
            ir::Balance::RoundRobin => Policy::RoundRobin { shares },
            ir::Balance::Random => Policy::Random { shares },
            ir::Balance::LeastRequest { choices } => Policy::LeastRequest { choices: (*choices).max(2), shares },
            ir::Balance::RingHash { .. } | ir::Balance::Maglev { .. } => Policy::LeastRequest { choices: 2, shares },
        };
        Self { members, policy }
    }

    /// All members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// An endpoint that is not among `tried`; `None` when there is none.
    pub fn pick(&self, cursor: &Cursor, context: &PickContext<'_>) -> Option<&Arc<EndpointState>> {
        let PickContext { random, tried, hash: _ } = *context;
        if let [only] = self.members.as_slice() {
            return Some(&only.state).filter(|state| !is_tried(state, tried));
        }
        let first = self.pick_any(cursor, random)?;
        if tried.is_empty() || !is_tried(first, tried) {
            return Some(first);
        }
        (0..RESELECTIONS)
            .filter_map(|_| self.pick_any(cursor, random))
            .chain(self.members.iter().map(|member| &member.state))
            .find(|state| !is_tried(state, tried))
    }

    fn pick_any(&self, cursor: &Cursor, random: &Random) -> Option<&Arc<EndpointState>> {
        let picked = match &self.policy {
            Policy::LeastRequest { choices, shares } => least_request::pick(&self.members, shares, *choices, random),
            Policy::RoundRobin { shares } => round_robin::pick(&self.members, shares, cursor, random),
            Policy::Random { shares } => random::pick(&self.members, shares, random),
        }?;
        self.members.get(picked).map(|member| &member.state)
    }
}

fn is_tried(state: &Arc<EndpointState>, tried: &[Arc<EndpointState>]) -> bool {
    tried.iter().any(|other| Arc::ptr_eq(other, state))
}

impl Shares {
    fn new(members: &[Member]) -> Self {
        let even = members.windows(2).all(|pair| matches!(pair, [one, other] if one.weight == other.weight));
        if even { Self::Even } else { Self::Weighted(AliasTable::new(members.iter().map(|member| member.weight))) }
    }

    /// An index among `count` members.
    fn draw(&self, count: usize, random: &Random) -> usize {
        match self {
            Self::Even => random.below(u32::try_from(count).unwrap_or(u32::MAX)) as usize,
            Self::Weighted(table) => table.draw(random),
        }
    }
}

#[cfg(test)]
mod tests;
