//! Localities with weights.

use super::*;

/// Localities of one priority: weight and members.
fn localities(groups: &[(Option<u32>, usize)]) -> Membership {
    let mut membership = Membership::flat(members(&vec![1; groups.iter().map(|(_, count)| count).sum()]));
    let mut first = 0;
    membership.groups = groups
        .iter()
        .map(|(weight, count)| {
            let members = first..first + count;
            first += count;
            Group { priority: 0, weight: *weight, members, locality: leno_config::ir::Locality::default() }
        })
        .collect();
    membership
}

fn fixture(balance: ir::Balance, groups: &[(Option<u32>, usize)]) -> Fixture {
    Fixture::of(&ir::Cluster { locality_weighted: true, ..cluster(balance) }, localities(groups))
}

#[test]
fn localities_get_their_shares_whatever_their_size() {
    for policy in [ir::Balance::Random, ir::Balance::RoundRobin, ir::Balance::LeastRequest { choices: 2 }] {
        let shares = fixture(policy.clone(), &[(Some(80), 1), (Some(20), 2)]).shares(10_000);
        assert_shares(&shares, &[(1, 80.0), (2, 10.0), (3, 10.0)], 0.02, &format!("{policy:?}"));
        let flat = Fixture::of(&cluster(policy.clone()), localities(&[(Some(80), 1), (Some(20), 2)])).shares(10_000);
        assert_shares(&flat, &[(1, 1.0), (2, 1.0), (3, 1.0)], 0.02, "nobody asks for it");
    }
}

#[test]
fn a_locality_without_a_weight_gets_nothing_beside_one_that_has() {
    let shares = fixture(ir::Balance::Random, &[(Some(1), 1), (None, 2)]).shares(100);
    assert_eq!(shares.keys().copied().collect::<Vec<_>>(), [1]);
    let shares = fixture(ir::Balance::Random, &[(None, 1), (None, 2)]).shares(3_000);
    assert_shares(&shares, &[(1, 1.0), (2, 1.0), (3, 1.0)], 0.05, "none has: all endpoints count alike");
}

#[test]
fn the_weight_of_a_locality_shrinks_with_its_health() {
    let fixture = fixture(ir::Balance::Random, &[(Some(50), 4), (Some(50), 1)]);
    fixture.eject(0);
    let share = |fixture: &Fixture| fixture.shares(10_000).get(&5).copied().unwrap_or_default();
    assert!((share(&fixture) - 0.5).abs() < 0.02, "75 % × 1.4 is enough");
    fixture.eject(1);
    // 50 × 0.7 against 50.
    assert!((share(&fixture) - 50.0 / 85.0).abs() < 0.02);
    (2..4).for_each(|at| fixture.eject(at));
    assert!((share(&fixture) - 1.0).abs() < 1e-9);
}

#[test]
fn a_ring_gives_localities_their_shares_too() {
    for policy in [ir::Balance::RingHash { min: 8192, max: 8 << 20 }, ir::Balance::Maglev { table: 65_537 }] {
        let shares = fixture(policy.clone(), &[(Some(80), 1), (Some(20), 2), (None, 1)]).shares(10_000);
        assert_shares(&shares, &[(1, 80.0), (2, 10.0), (3, 10.0)], 0.03, &format!("{policy:?}"));
    }
}
