//! Who may get requests now, and in which proportions: priorities, then localities, then a policy's tables.
//!
//! It is built once per snapshot, outside the workers, and again when another endpoint is available than before; all
//! workers share it. In the common case (one priority, nobody out) a pick goes straight to the one pool.

use std::ops::Range;
use std::sync::Arc;

use leno_config::ir;

use crate::cluster::membership::{Group, Membership};
use crate::cluster::{EndpointState, Member};

use super::Settings;
use super::alias::AliasTable;
use super::load::{self, Availability, Counted, Load};
use super::pool::Pool;
use crate::cluster::standing::{Moment, Standing};

/// Who may get requests, at one standing of the cluster.
#[derive(Debug)]
pub(super) struct Eligible {
    /// The number of that standing.
    pub(super) standing: u64,
    /// The same as before where only probes came and went.
    pub(super) tables: Arc<Tables>,
    /// Those that wait for a request which tells whether they are well again.
    pub(super) half_open: Box<[Arc<EndpointState>]>,
}

/// Whom a pick finds.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) pools: Box<[Pool]>,
    /// Healthy members of all priorities, then the degraded ones.
    pub(super) levels: Box<[Level]>,
    /// The pool that gets everything.
    pub(super) only: Option<usize>,
    /// By priority.
    pub(super) availability: Box<[Availability]>,
    /// By member.
    standings: Box<[Fit]>,
}

/// The healthy or the degraded members of a priority.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) priority: usize,
    pub(super) is_degraded: bool,
    /// Percent of all requests.
    pub(super) load: u32,
    /// One, or one per locality.
    pub(super) pools: Range<usize>,
    /// Shares of the localities.
    pub(super) localities: Option<AliasTable>,
}

/// What matters of a standing for these tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Available,
    /// Ejected, or about to be probed.
    Out,
    /// By a health check.
    Unhealthy,
}

impl Fit {
    fn of(standing: Standing) -> Self {
        match standing {
            Standing::Available => Self::Available,
            Standing::Ejected { .. } | Standing::HalfOpen | Standing::Probing => Self::Out,
            Standing::Unhealthy => Self::Unhealthy,
        }
    }
}

/// What a level takes of a priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Healthy,
    Degraded,
    /// In panic.
    All,
}

impl Level {
    /// How much traffic its priority can take here.
    pub(super) fn available(&self, availability: &[Availability]) -> u32 {
        let of = availability.get(self.priority).copied().unwrap_or_default();
        if self.is_degraded { of.degraded } else { of.healthy }
    }
}

impl Eligible {
    /// `before`: what was built last. Members that have become healthy since are new from now on.
    pub(super) fn new(settings: &Settings, membership: &Membership, number: u64, before: Option<&Arc<Tables>>) -> Self {
        let standings: Vec<Standing> = membership.members.iter().map(|member| member.state.standing()).collect();
        let fits: Box<[Fit]> = standings.iter().map(|standing| Fit::of(*standing)).collect();
        let is_half_open = |(member, standing): (&Member, &Standing)| {
            (*standing == Standing::HalfOpen).then(|| Arc::clone(&member.state))
        };
        let half_open = membership.members.iter().zip(&standings).filter_map(is_half_open).collect();
        greet(membership, &fits, before.map(|before| &*before.standings));
        let tables = match before {
            Some(before) if before.standings == fits => Arc::clone(before),
            Some(_) | None => Arc::new(Tables::new(settings, membership, fits)),
        };
        Self { standing: number, tables, half_open }
    }
}

/// Slow start begins when an endpoint is seen healthy first, and again when it passes its health checks again (Envoy).
fn greet(membership: &Membership, fits: &[Fit], before: Option<&[Fit]>) {
    let now = Moment::now();
    for (at, (member, fit)) in membership.members.iter().zip(fits).enumerate() {
        if Part::Healthy.takes(member, *fit) {
            let was_unhealthy = before.and_then(|before| before.get(at)) == Some(&Fit::Unhealthy);
            member.state.is_healthy(now, was_unhealthy);
        }
    }
}

impl Tables {
    fn new(settings: &Settings, membership: &Membership, standings: Box<[Fit]>) -> Self {
        let counted = counted(membership, &standings);
        let loads = load::loads(&counted, membership.overprovisioning, settings.panic_threshold);
        let mut builder = Builder { settings, membership, standings: &standings, pools: Vec::new() };
        let mut levels = Vec::with_capacity(2 * loads.len());
        for is_degraded in [false, true] {
            levels.extend(loads.iter().enumerate().map(|(priority, load)| builder.level(priority, is_degraded, *load)));
        }
        let pools = builder.pools;
        let mut loaded = levels.iter().filter(|level| level.load > 0);
        let only = match (loaded.next(), loaded.next()) {
            (Some(level), None) if level.pools.len() == 1 => Some(level.pools.start),
            _ => None,
        };
        let availability = counted.iter().map(|counted| counted.availability(membership.overprovisioning)).collect();
        Self { pools: pools.into(), levels: levels.into(), only, availability, standings }
    }

    /// All that a pick can find.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<EndpointState>> {
        let loaded = self.levels.iter().filter(|level| level.load > 0);
        let pools = loaded.flat_map(|level| self.pools.get(level.pools.clone()).unwrap_or_default());
        pools.flat_map(|pool| pool.members.iter().map(|member| &member.state))
    }

    /// The priority in which an endpoint stands.
    pub(super) fn priority_of(&self, endpoint: &Arc<EndpointState>) -> Option<usize> {
        let holds = |level: &&Level| {
            let pools = self.pools.get(level.pools.clone()).unwrap_or_default();
            pools.iter().any(|pool| pool.members.iter().any(|member| Arc::ptr_eq(&member.state, endpoint)))
        };
        self.levels.iter().find(holds).map(|level| level.priority)
    }
}

/// Members by priority. Half-open ones are not healthy yet.
fn counted(membership: &Membership, standings: &[Fit]) -> Vec<Counted> {
    let priorities = membership.groups.last().map_or(0, |group| group.priority + 1);
    let mut counted = vec![Counted::default(); priorities];
    for group in &membership.groups {
        let Some(counted) = counted.get_mut(group.priority) else { continue };
        let standings = standings.get(group.members.clone()).unwrap_or_default();
        for (member, standing) in membership.of_group(group).iter().zip(standings) {
            counted.all += 1;
            counted.healthy += usize::from(Part::Healthy.takes(member, *standing));
            counted.degraded += usize::from(Part::Degraded.takes(member, *standing));
        }
    }
    counted
}

impl Part {
    fn takes(self, member: &Member, fit: Fit) -> bool {
        let is_available = fit == Fit::Available;
        match self {
            Self::Healthy => is_available && matches!(member.health, ir::Health::Unknown | ir::Health::Healthy),
            Self::Degraded => is_available && member.health == ir::Health::Degraded,
            Self::All => true,
        }
    }
}

struct Builder<'a> {
    settings: &'a Settings,
    membership: &'a Membership,
    standings: &'a [Fit],
    pools: Vec<Pool>,
}

impl Builder<'_> {
    fn level(&mut self, priority: usize, is_degraded: bool, of: Load) -> Level {
        let load = if is_degraded { of.degraded } else { of.healthy };
        let part = match (of.is_panicking, is_degraded) {
            (true, _) => Part::All,
            (false, true) => Part::Degraded,
            (false, false) => Part::Healthy,
        };
        let first = self.pools.len();
        // Tables of hashes are large, and no retry goes to a priority that has no load.
        let localities = if self.settings.hashes() && load == 0 { None } else { self.fill(priority, part) };
        Level { priority, is_degraded, load, pools: first..self.pools.len(), localities }
    }

    /// Adds the pools of a part of a priority: one per locality where these have weights. In panic places do not matter.
    fn fill(&mut self, priority: usize, part: Part) -> Option<AliasTable> {
        let membership = self.membership;
        let groups: Vec<&Group> = membership.groups.iter().filter(|group| group.priority == priority).collect();
        let is_weighted = self.settings.locality_weighted && groups.iter().any(|group| group.weight.is_some());
        let parts: Vec<(&Group, Vec<Member>)> =
            groups.into_iter().map(|group| (group, self.part(group, part))).collect();
        if is_weighted && !self.settings.hashes() && part != Part::All {
            return self.by_locality(parts);
        }
        let shares = if self.settings.hashes() { normalised(&parts, is_weighted) } else { Vec::new() };
        // Envoy: a locality without a weight gets nothing, where others have one.
        let hashed = |group: &Group| !self.settings.hashes() || !is_weighted || group.weight.is_some();
        let members: Vec<Member> =
            parts.into_iter().filter(|(group, _)| hashed(group)).flat_map(|(_, members)| members).collect();
        if !members.is_empty() {
            self.pools.push(Pool::new(&self.settings.balance, members, &shares));
        }
        None
    }

    fn part(&self, group: &Group, part: Part) -> Vec<Member> {
        let standings = self.standings.get(group.members.clone()).unwrap_or_default();
        let members = self.membership.of_group(group).iter().zip(standings);
        members.filter(|(member, standing)| part.takes(member, **standing)).map(|(member, _)| member.clone()).collect()
    }

    /// A locality's weight shrinks with its healthy share, once that is below what overprovisioning covers (Envoy).
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn by_locality(&mut self, parts: Vec<(&Group, Vec<Member>)>) -> Option<AliasTable> {
        let enough = f64::from(self.membership.overprovisioning) / 100.0;
        let mut weights = Vec::new();
        for (group, members) in parts {
            if let Some(weight) = group.weight.filter(|_| !members.is_empty()) {
                let available = members.len() as f64 / group.members.len() as f64;
                weights.push(f64::from(weight) * (available * enough).min(1.0));
                self.pools.push(Pool::new(&self.settings.balance, members, &[]));
            }
        }
        let heaviest = weights.iter().copied().fold(0.0, f64::max);
        // In millionths of the heaviest.
        let scaled = weights.iter().map(|weight| ((weight / heaviest * 1e6).round() as u32).max(1));
        (weights.len() > 1).then(|| AliasTable::new(scaled))
    }
}

/// Each member's part of the whole for consistent hashing (Envoy: without regard to the health of localities).
#[allow(clippy::cast_precision_loss)] // Sums of weights are below 2^53.
fn normalised(parts: &[(&Group, Vec<Member>)], is_weighted: bool) -> Vec<f64> {
    let sum = |members: &[Member]| members.iter().map(|member| u64::from(member.weight)).sum::<u64>() as f64;
    if !is_weighted {
        let total: f64 = parts.iter().map(|(_, members)| sum(members)).sum();
        let all = parts.iter().flat_map(|(_, members)| members);
        return all.map(|member| f64::from(member.weight) / total).collect();
    }
    let localities: f64 = parts.iter().filter_map(|(group, _)| group.weight).map(f64::from).sum();
    let mut shares = Vec::new();
    for (group, members) in parts {
        let Some(weight) = group.weight else { continue };
        let (locality, total) = (f64::from(weight) / localities, sum(members));
        shares.extend(members.iter().map(|member| f64::from(member.weight) * locality / total));
    }
    shares
}
