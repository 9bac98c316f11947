mod hashing;
mod health;
mod latency;
mod places;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::*;
use crate::cluster::membership::Group;
use crate::cluster::standing::Reason;
use crate::cluster::{ClusterStats, Picked};

/// A worker at a cluster.
struct Fixture {
    balancer: Arc<Balancer>,
    position: Position,
    stats: Arc<ClusterStats>,
    random: Random,
}

fn members(weights: &[u32]) -> Vec<Member> {
    weights
        .iter()
        .zip(1_u16..)
        .map(|(weight, port)| {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            Member::new(Arc::new(EndpointState::new(address)), *weight)
        })
        .collect()
}

fn cluster(balance: ir::Balance) -> ir::Cluster {
    let name = ir::ClusterName::new("c");
    ir::Cluster { balance, ..ir::Cluster::new(name, ir::Discovery::Eds { service: None }) }
}

impl Fixture {
    fn new(balance: ir::Balance, weights: &[u32]) -> Self {
        Self::of(&cluster(balance), Membership::flat(members(weights)))
    }

    fn of(cluster: &ir::Cluster, membership: Membership) -> Self {
        Self {
            balancer: Arc::new(Balancer::new(cluster, membership, 0)),
            position: Position::default(),
            stats: Arc::default(),
            random: Random::seeded(42),
        }
    }

    fn pick_with(&self, tried: &[Arc<EndpointState>], hash: Option<u64>) -> Option<Picked> {
        let context = PickContext { tried, ..PickContext::first(&self.random, hash) };
        self.position.pick(&self.balancer, &self.stats, &context)
    }

    /// The port of the next one; 0 when there is none.
    fn pick(&self) -> u16 {
        self.pick_with(&[], None).map_or(0, |picked| picked.endpoint.address.port())
    }

    fn hashed(&self, hash: u64) -> u16 {
        self.pick_with(&[], Some(hash)).map_or(0, |picked| picked.endpoint.address.port())
    }

    /// Shares of the ports in `picks` picks.
    fn shares(&self, picks: u32) -> BTreeMap<u16, f64> {
        let mut counts = BTreeMap::new();
        for _ in 0..picks {
            *counts.entry(self.pick()).or_insert(0.0) += 1.0 / f64::from(picks);
        }
        counts
    }

    fn state(&self, at: usize) -> &Arc<EndpointState> {
        &self.balancer.members()[at].state
    }

    fn eject(&self, at: usize) {
        assert!(self.state(at).fitness.eject(Moment::now(), Reason::Consecutive5xx));
        self.stats.changed();
    }

    fn half_open(&self, at: usize) {
        assert!(self.state(at).fitness.half_open(Moment::now()));
        self.stats.changed();
    }
}

/// Each share is where `weights` put it, give or take `bound`.
fn assert_shares(found: &BTreeMap<u16, f64>, weights: &[(u16, f64)], bound: f64, what: &str) {
    let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
    assert_eq!(
        found.keys().copied().collect::<Vec<_>>(),
        weights.iter().map(|(port, _)| *port).collect::<Vec<_>>(),
        "{what}"
    );
    for (port, weight) in weights {
        let (share, expected) = (found[port], weight / total);
        assert!((share - expected).abs() < bound, "{what}: {port} has {share} instead of {expected}");
    }
}

const SIMPLE: [ir::Balance; 4] =
    [ir::Balance::LeastRequest { choices: 2 }, ir::Balance::RoundRobin, ir::Balance::Random, ir::Balance::PeakEwma];

#[test]
fn every_policy_shares_in_proportion_to_weights() {
    let weights: [&[u32]; 4] = [&[1, 1, 1, 1], &[1, 2, 3, 4], &[100, 1], &[7]];
    // Latencies that are equal are a draw, which the weights decide.
    for policy in SIMPLE.iter().filter(|policy| **policy != ir::Balance::PeakEwma) {
        for weights in weights {
            let expected: Vec<_> = weights.iter().zip(1..).map(|(weight, port)| (port, f64::from(*weight))).collect();
            let shares = Fixture::new(policy.clone(), weights).shares(20_000);
            assert_shares(&shares, &expected, 0.015, &format!("{policy:?} {weights:?}"));
        }
    }
}

/// Chi-square with 9 degrees of freedom: above 27.9 once in a thousand, and the seed is fixed.
#[test]
fn ten_equal_endpoints_get_equal_shares() {
    for policy in [ir::Balance::LeastRequest { choices: 2 }, ir::Balance::Random] {
        let shares = Fixture::new(policy.clone(), &[1; 10]).shares(10_000);
        let chi: f64 = shares.values().map(|share| (share * 10_000.0 - 1_000.0).powi(2) / 1_000.0).sum();
        assert!(shares.len() == 10 && chi < 27.9, "{policy:?}: {chi} {shares:?}");
    }
    let shares = Fixture::new(ir::Balance::RoundRobin, &[1; 10]).shares(10_000);
    assert!(shares.values().all(|share| (share - 0.1).abs() < 1e-9), "in turn: {shares:?}");
}

#[test]
fn turns_with_weights_never_bunch() {
    for policy in [ir::Balance::RoundRobin, ir::Balance::LeastRequest { choices: 2 }] {
        let fixture = Fixture::new(policy.clone(), &[1, 3]);
        let picks: Vec<u16> = (0..400).map(|_| fixture.pick()).collect();
        for window in picks.windows(8) {
            let light = window.iter().filter(|port| **port == 1).count();
            assert!((1..=3).contains(&light), "{policy:?} {window:?}");
        }
    }
}

#[test]
fn round_robin_begins_anywhere_and_goes_on_where_it_was() {
    let starts: std::collections::BTreeSet<u16> = (0..64)
        .map(|seed| {
            let fixture = Fixture { random: Random::seeded(seed), ..Fixture::new(ir::Balance::RoundRobin, &[1; 4]) };
            fixture.pick()
        })
        .collect();
    assert_eq!(starts.len(), 4, "workers do not all begin with the first");
    let fixture = Fixture::new(ir::Balance::RoundRobin, &[1; 4]);
    let first = fixture.pick();
    fixture.stats.changed();
    assert_eq!(fixture.pick(), first % 4 + 1, "something changed that is nothing to this cluster's tables");
}

#[test]
fn least_request_prefers_the_endpoint_with_fewer_requests_in_flight() {
    let fixture = Fixture::new(ir::Balance::LeastRequest { choices: 2 }, &[1, 1]);
    let busy = fixture.state(0).begin();
    assert!((0..100).all(|_| fixture.pick() == 2));
    drop(busy);
    assert_eq!(fixture.state(0).active(), 0);
}

#[test]
fn weighted_least_request_divides_the_weight_by_the_requests_in_flight() {
    let fixture = Fixture::new(ir::Balance::LeastRequest { choices: 2 }, &[4, 1]);
    let _busy: Vec<_> = (0..3).map(|_| fixture.state(0).begin()).collect();
    let shares = fixture.shares(1_000);
    assert_shares(&shares, &[(1, 1.0), (2, 1.0)], 0.02, "4 / (3 + 1) and 1 / (0 + 1)");
}

#[test]
fn another_endpoint_than_those_tried_is_picked_while_there_is_one() {
    for policy in SIMPLE {
        let fixture = Fixture::new(policy.clone(), &[1000, 1, 1]);
        let mut tried = Vec::new();
        for _ in 0..3 {
            let picked = fixture.pick_with(&tried, None).expect("one is left");
            assert!(tried.iter().all(|tried| !Arc::ptr_eq(tried, &picked.endpoint)), "{policy:?}");
            tried.push(picked.endpoint);
        }
        assert!(fixture.pick_with(&tried, None).is_some(), "{policy:?}: all were tried, so any will do (Envoy)");
        assert!(Fixture::new(policy, &[]).pick_with(&[], None).is_none());
    }
}

#[test]
fn a_new_endpoint_gets_its_share_slowly() {
    let window = Duration::from_secs(3600);
    let slow = |min: f64| ir::SlowStart {
        window,
        aggression: 1.0,
        min_share: ir::Fraction::from_percent(min).expect("a percentage"),
    };
    for policy in [ir::Balance::RoundRobin, ir::Balance::LeastRequest { choices: 2 }] {
        let with = |slow_start| ir::Cluster { slow_start: Some(slow_start), ..cluster(policy.clone()) };
        let fixture = Fixture::of(&with(slow(25.0)), Membership::flat(members(&[1, 1])));
        assert_shares(&fixture.shares(2_000), &[(1, 1.0), (2, 1.0)], 0.02, "all are new: none is preferred");
        // The first has been there for an hour.
        fixture.state(0).healthy_since.store(1, Ordering::Relaxed);
        let later = Moment::now() + window;
        fixture.state(1).is_healthy(later, true);
        let shares = slow_shares(&fixture, later);
        assert_shares(&shares, &[(1, 4.0), (2, 1.0)], 0.03, &format!("{policy:?}"));
        let instant = ir::SlowStart { window: Duration::ZERO, ..slow(10.0) };
        let fixture = Fixture::of(&with(instant), Membership::flat(members(&[1, 1])));
        assert_eq!(fixture.balancer.new_until(), None, "its time is over");
    }
}

/// Shares at a moment of the future.
fn slow_shares(fixture: &Fixture, now: Moment) -> BTreeMap<u16, f64> {
    let settings = fixture.balancer.settings.slow_start.as_ref().expect("slow start");
    let eligible = fixture.balancer.eligible(0);
    let pool = &eligible.tables.pools[0];
    let turn = pool.turn(&fixture.random, Some((settings, now)));
    let draw = pool::Draw { random: &fixture.random, hash: 0, attempt: 0, slow_start: Some((settings, now)) };
    let mut counts = BTreeMap::new();
    for _ in 0..2_000 {
        let picked = pool.pick(&turn, &draw).expect("members");
        *counts.entry(pool.members[picked].state.address.port()).or_insert(0.0) += 1.0 / 2_000.0;
    }
    counts
}

#[test]
fn a_carried_over_endpoint_is_not_new_again_and_one_that_failed_its_checks_is() {
    let settings = ir::SlowStart {
        window: Duration::from_secs(3600),
        aggression: 1.0,
        min_share: ir::Fraction::from_percent(10.0).expect("a percentage"),
    };
    let cluster = ir::Cluster { slow_start: Some(settings), ..cluster(ir::Balance::RoundRobin) };
    let membership = Membership::flat(members(&[1, 1]));
    let since = |fixture: &Fixture| fixture.state(0).healthy_since.load(Ordering::Relaxed);
    let fixture = Fixture::of(&cluster, membership.clone());
    fixture.state(0).healthy_since.store(1, Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(5));
    let fixture = Fixture::of(&cluster, membership);
    assert_eq!(since(&fixture), 1, "a push");
    for is_unhealthy in [true, false] {
        assert!(fixture.state(0).fitness.set_unhealthy(is_unhealthy));
        fixture.stats.changed();
        fixture.pick();
    }
    assert!(since(&fixture) > 1, "it passes its checks again");
}
