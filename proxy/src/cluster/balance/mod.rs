//! Which endpoint gets the next request. One file per policy; a pick costs the same with 10 and with 10 000 endpoints, or
//! grows with their logarithm where weights are in play.
//!
//! ```text
//! Balancer (shared)           who belongs to the cluster, how one of them is chosen
//!   └ Eligible (shared)       who may get requests now: rebuilt when an endpoint is ejected, comes back, …
//!       └ Level, Pool         a priority's healthy or degraded members; a locality's, where these have weights
//! Position (per worker)       the Eligible it knows, and its turn in each pool
//! ```
//!
//! A pick draws a priority by its [`load`], a locality by its weight, and a member by the policy. Where all of this is
//! decided beforehand, which is the common case, it costs a comparison.

mod alias;
mod eligible;
mod least_request;
mod load;
mod maglev;
mod peak_ewma;
mod pool;
mod position;
mod ring_hash;
mod round_robin;
mod schedule;
mod shares;
mod slow_start;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use leno_config::ir;

use super::EndpointState;
use super::membership::{Group, Member, Membership};
use super::standing::Moment;
use crate::random::Random;

use eligible::Eligible;
pub use peak_ewma::Latency;
pub use position::Position;
use shares::Shares;

/// What matters when an endpoint is chosen for a request.
#[derive(Debug, Clone, Copy)]
pub struct PickContext<'a> {
    /// Of the worker.
    pub random: &'a Random,
    /// Not these, where there is another.
    pub tried: &'a [Arc<EndpointState>],
    /// Nor their priorities, once there are some (`retryRemoteLocalities`, Envoy's `previous_priorities`).
    pub other_priorities: bool,
    /// For consistent hashing; `None`: any endpoint will do (Envoy).
    pub hash: Option<u64>,
}

impl<'a> PickContext<'a> {
    /// For a first attempt.
    pub fn first(random: &'a Random, hash: Option<u64>) -> Self {
        Self { random, tried: &[], other_priorities: false, hash }
    }
}

/// Tables with more entries are built in the background: a worker that waits for one keeps its callers waiting.
const LARGE: u64 = 8 * 1024;

/// Who belongs to a cluster, and how one of them is chosen.
#[derive(Debug)]
pub struct Balancer {
    settings: Settings,
    membership: Membership,
    latest: Mutex<Arc<Eligible>>,
    /// The standing that `latest` was built for.
    built: AtomicU64,
    is_building: AtomicBool,
}

/// What the cluster's configuration says.
#[derive(Debug)]
struct Settings {
    balance: ir::Balance,
    /// Percent; 0: health is never left aside.
    panic_threshold: u32,
    locality_weighted: bool,
    slow_start: Option<ir::SlowStart>,
}

impl Balancer {
    /// A balancer over these members, with all tables built. `number` is the cluster's standing.
    pub fn new(cluster: &ir::Cluster, membership: Membership, number: u64) -> Self {
        let settings = Settings {
            balance: cluster.balance.clone(),
            // Envoy rounds to whole percents.
            panic_threshold: (cluster.panic_threshold.millionths() + 5_000) / 10_000,
            locality_weighted: cluster.locality_weighted,
            slow_start: cluster.slow_start.clone(),
        };
        let eligible = Eligible::new(&settings, &membership, number, None);
        let (latest, built) = (Mutex::new(Arc::new(eligible)), AtomicU64::new(number));
        Self { settings, membership, latest, built, is_building: AtomicBool::new(false) }
    }

    /// All members, eligible or not.
    pub fn members(&self) -> &[Member] {
        &self.membership.members
    }

    /// All members by priority and locality.
    pub fn groups(&self) -> impl Iterator<Item = (&Group, &[Member])> {
        self.membership.groups.iter().map(|group| (group, self.membership.of_group(group)))
    }

    /// Whether it goes by how soon endpoints answer, and so measures it.
    pub fn learns_latency(&self) -> bool {
        self.settings.learns_latency()
    }

    /// Whether requests are spread by a hash.
    pub fn hashes(&self) -> bool {
        self.settings.hashes()
    }

    /// Who is eligible at this standing; or a little earlier, when the tables are still being built.
    fn eligible(self: &Arc<Self>, number: u64) -> Arc<Eligible> {
        if self.built.load(Ordering::Acquire) != number {
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) if self.is_large() => self.build_later(&runtime, number),
                Ok(_) | Err(_) => self.build(&mut self.latest(), number),
            }
        }
        Arc::clone(&self.latest())
    }

    fn build_later(self: &Arc<Self>, runtime: &tokio::runtime::Handle, number: u64) {
        if !self.is_building.swap(true, Ordering::AcqRel) {
            let this = Arc::clone(self);
            runtime.spawn_blocking(move || {
                let before = Arc::clone(&this.latest().tables);
                let eligible = Eligible::new(&this.settings, &this.membership, number, Some(&before));
                *this.latest() = Arc::new(eligible);
                this.built.store(number, Ordering::Release);
                this.is_building.store(false, Ordering::Release);
            });
        }
    }

    /// The worker that comes first builds for all.
    fn build(&self, latest: &mut Arc<Eligible>, number: u64) {
        if latest.standing != number {
            let before = Arc::clone(&latest.tables);
            *latest = Arc::new(Eligible::new(&self.settings, &self.membership, number, Some(&before)));
            self.built.store(number, Ordering::Release);
        }
    }

    fn latest(&self) -> MutexGuard<'_, Arc<Eligible>> {
        // What it holds is replaced as a whole, so that nothing half done can be left behind.
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_large(&self) -> bool {
        match self.settings.balance {
            ir::Balance::RingHash { min, .. } => min.max(self.members().len() as u64) > LARGE,
            ir::Balance::Maglev { table } => table > LARGE,
            ir::Balance::LeastRequest { .. }
            | ir::Balance::RoundRobin
            | ir::Balance::Random
            | ir::Balance::PeakEwma => false,
        }
    }

    /// When the youngest member has its full share; `None`: all have.
    fn new_until(&self) -> Option<Moment> {
        let window = self.settings.slow_start.as_ref()?.window;
        let now = Moment::now();
        let left = |member: &Member| window.checked_sub(member.state.healthy_for(now)).filter(|left| !left.is_zero());
        self.members().iter().filter_map(left).max().map(|left| now + left)
    }
}

impl Settings {
    fn hashes(&self) -> bool {
        matches!(self.balance, ir::Balance::RingHash { .. } | ir::Balance::Maglev { .. })
    }

    fn learns_latency(&self) -> bool {
        self.balance == ir::Balance::PeakEwma
    }
}

#[cfg(test)]
mod tests;
