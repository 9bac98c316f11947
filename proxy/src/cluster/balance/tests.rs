use std::net::{Ipv4Addr, SocketAddr};

use super::*;

fn context<'a>(random: &'a Random, tried: &'a [Arc<EndpointState>]) -> PickContext<'a> {
    PickContext { random, tried, hash: None }
}

fn members(weights: &[u32]) -> Vec<Member> {
    weights
        .iter()
        .zip(1_u16..)
        .map(|(weight, port)| Member {
            state: Arc::new(EndpointState::new(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))),
            weight: *weight,
        })
        .collect()
}

fn shares(balance: &ir::Balance, weights: &[u32], picks: u32) -> Vec<f64> {
    let balancer = Balancer::new(balance, members(weights));
    let (cursor, random) = (Cursor::default(), Random::seeded(42));
    let mut counts = vec![0_u32; weights.len()];
    for _ in 0..picks {
        let picked = balancer.pick(&cursor, &context(&random, &[])).expect("there are members");
        counts[usize::from(picked.address.port()) - 1] += 1;
    }
    counts.iter().map(|count| f64::from(*count) / f64::from(picks)).collect()
}

#[test]
fn every_policy_shares_in_proportion_to_weights() {
    let policies = [ir::Balance::LeastRequest { choices: 2 }, ir::Balance::RoundRobin, ir::Balance::Random];
    let weights: [&[u32]; 4] = [&[1, 1, 1, 1], &[1, 2, 3, 4], &[100, 1], &[7]];
    for policy in &policies {
        for weights in weights {
            let total: u32 = weights.iter().sum();
            for (share, weight) in shares(policy, weights, 20_000).iter().zip(weights) {
                let expected = f64::from(*weight) / f64::from(total);
                assert!((share - expected).abs() < 0.015, "{policy:?} {weights:?}: {share} instead of {expected}");
            }
        }
    }
}

#[test]
fn round_robin_with_weights_never_bunches() {
    let balancer = Balancer::new(&ir::Balance::RoundRobin, members(&[1, 3]));
    let (cursor, random) = (Cursor::default(), Random::seeded(1));
    let picks: Vec<u16> =
        (0..400).map(|_| balancer.pick(&cursor, &context(&random, &[])).expect("members").address.port()).collect();
    for window in picks.windows(8) {
        let light = window.iter().filter(|port| **port == 1).count();
        assert!((1..=3).contains(&light), "{window:?}");
    }
}

#[test]
fn least_request_prefers_the_endpoint_with_fewer_requests_in_flight() {
    let balancer = Balancer::new(&ir::Balance::LeastRequest { choices: 2 }, members(&[1, 1]));
    let busy = balancer.members()[0].state.begin();
    for _ in 0..100 {
        let picked = balancer.pick(&Cursor::default(), &context(&Random::seeded(3), &[])).expect("members");
        assert_eq!(picked.address.port(), 2);
    }
    drop(busy);
    assert_eq!(balancer.members()[0].state.active(), 0);
}

#[test]
fn a_tried_endpoint_is_never_picked_again_while_another_is_left() {
    let balancer = Balancer::new(&ir::Balance::Random, members(&[1000, 1, 1]));
    let (cursor, random) = (Cursor::default(), Random::seeded(5));
    let mut tried = Vec::new();
    for _ in 0..3 {
        let picked = balancer.pick(&cursor, &context(&random, &tried)).expect("one is left");
        tried.push(Arc::clone(picked));
    }
    assert!(balancer.pick(&cursor, &context(&random, &tried)).is_none());
    assert!(Balancer::new(&ir::Balance::Random, Vec::new()).pick(&cursor, &context(&random, &[])).is_none());
}
