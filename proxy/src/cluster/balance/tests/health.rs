//! Standing, priorities and panic.

use super::*;

const RANDOM: ir::Balance = ir::Balance::Random;

/// Members of several priorities, so many in each.
fn prioritised(counts: &[usize]) -> Membership {
    let mut membership = Membership::flat(members(&vec![1; counts.iter().sum()]));
    let mut first = 0;
    membership.groups = counts
        .iter()
        .enumerate()
        .map(|(priority, count)| {
            let members = first..first + count;
            first += count;
            Group { priority, weight: None, members, locality: leno_config::ir::Locality::default() }
        })
        .collect();
    membership
}

#[test]
fn who_is_ejected_gets_nothing_and_the_rest_share() {
    for policy in SIMPLE {
        let fixture = Fixture::new(policy.clone(), &[1, 1, 1]);
        fixture.eject(1);
        let shares = fixture.shares(4_000);
        assert_shares(&shares, &[(1, 1.0), (3, 1.0)], 0.05, &format!("{policy:?}"));
        fixture.eject(0);
        fixture.eject(2);
        assert_eq!(fixture.pick(), 0, "{policy:?}: a panic threshold of 0 is none");
    }
}

#[test]
fn one_request_probes_a_half_open_endpoint_before_it_gets_its_share() {
    for policy in [RANDOM, ir::Balance::RingHash { min: 1024, max: 8 << 20 }] {
        let fixture = Fixture::new(policy, &[1, 1]);
        fixture.eject(1);
        assert!((0..50).all(|_| fixture.pick() == 1));
        fixture.half_open(1);
        let probe = fixture.pick_with(&[], Some(1)).expect("a member");
        assert!(probe.probe.is_some());
        assert_eq!(probe.endpoint.address.port(), 2);
        assert!((0..50).all(|_| fixture.pick() == 1), "one probe at a time");
        drop(probe);
        let tried = [Arc::clone(fixture.state(1))];
        assert_eq!(fixture.pick_with(&tried, None).map(|picked| picked.endpoint.address.port()), Some(1));
        let probe = fixture.pick_with(&[], None).expect("a member");
        assert!(
            probe.probe.as_deref().is_some_and(|probe| probe.succeed()),
            "it came to nothing, so another one is sent"
        );
        fixture.stats.changed();
        assert_eq!(fixture.shares(200).len(), 2);
    }
}

#[test]
fn what_the_control_plane_says_of_health_counts() {
    use ir::Health::*;
    for (healths, expected) in [
        ([Healthy, Unknown, Unhealthy], &[(1, 1.0), (2, 1.0)][..]),
        ([Draining, Timeout, Healthy], &[(3, 1.0)]),
        ([Degraded, Healthy, Healthy], &[(2, 46.5), (3, 46.5), (1, 7.0)]),
        ([Degraded, Degraded, Unhealthy], &[(1, 1.0), (2, 1.0)]),
        ([Unhealthy, Draining, Timeout], &[(0, 1.0)]),
    ] {
        let mut membership = Membership::flat(members(&[1, 1, 1]));
        membership.members.iter_mut().zip(healths).for_each(|(member, health)| member.health = health);
        let mut expected = expected.to_vec();
        expected.sort_by_key(|(port, _)| *port);
        let shares = Fixture::of(&cluster(RANDOM), membership).shares(10_000);
        assert_shares(&shares, &expected, 0.02, &format!("{healths:?}"));
    }
}

#[test]
fn traffic_spills_over_to_the_next_priority_in_proportion_to_health() {
    let fixture = Fixture::of(&cluster(RANDOM), prioritised(&[4, 2]));
    let by_priority = |fixture: &Fixture| {
        let shares = fixture.shares(10_000);
        (1..=4).filter_map(|port| shares.get(&port)).sum::<f64>()
    };
    assert!((by_priority(&fixture) - 1.0).abs() < 1e-9);
    // Half of them are left: 1.4 × 50 %.
    fixture.eject(0);
    assert!((by_priority(&fixture) - 1.0).abs() < 1e-9, "75 % × 1.4 is enough");
    fixture.eject(1);
    assert!((by_priority(&fixture) - 0.7).abs() < 0.02);
    fixture.eject(2);
    fixture.eject(3);
    assert!(by_priority(&fixture) < 1e-9);
    assert_eq!(fixture.shares(100).len(), 2, "the second priority has it all");
}

#[test]
fn below_the_panic_threshold_health_is_left_aside() {
    let panicking =
        ir::Cluster { panic_threshold: ir::Fraction::from_percent(50.0).expect("a percentage"), ..cluster(RANDOM) };
    let fixture = Fixture::of(&panicking, Membership::flat(members(&[1; 4])));
    fixture.eject(0);
    fixture.eject(1);
    assert_eq!(fixture.shares(400).len(), 2, "half of them is not below");
    fixture.eject(2);
    assert_eq!(fixture.shares(400).len(), 4);
}

#[test]
fn a_retry_goes_to_another_priority_where_the_rule_wants_that() {
    let fixture = Fixture::of(&cluster(RANDOM), prioritised(&[3, 1, 1]));
    let pick = |tried: &[Arc<EndpointState>]| {
        let first = PickContext::first(&fixture.random, None);
        let context = PickContext { tried, other_priorities: true, ..first };
        fixture.position.pick(&fixture.balancer, &fixture.stats, &context).map(|picked| picked.endpoint.address.port())
    };
    let tried = |ports: &[usize]| ports.iter().map(|at| Arc::clone(fixture.state(*at))).collect::<Vec<_>>();
    for (before, allowed) in [
        (tried(&[]), &[1, 2, 3][..]),
        (tried(&[0]), &[2, 3]),
        (tried(&[0, 1]), &[4]),
        // Envoy would ask the fourth once more; one that was not tried is better.
        (tried(&[0, 1, 3]), &[3]),
        (tried(&[0, 1, 3, 2]), &[5]),
        (tried(&[0, 1, 3, 4]), &[3]),
    ] {
        for _ in 0..50 {
            let picked = pick(&before).expect("members");
            assert!(allowed.contains(&picked), "{picked} after {:?}", before.len());
        }
    }
}
