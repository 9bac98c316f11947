//! Rings and tables.

use proptest::prelude::*;
use xxhash_rust::xxh64::xxh64;

use super::*;

const RING: ir::Balance = ir::Balance::RingHash { min: 1024, max: 8 << 20 };
const MAGLEV: ir::Balance = ir::Balance::Maglev { table: 65_537 };

fn key(at: u64) -> u64 {
    xxh64(&at.to_le_bytes(), 7)
}

#[test]
fn a_key_stays_with_its_endpoint_and_keys_are_spread() {
    for (policy, bound) in [(RING, 0.05), (MAGLEV, 0.02)] {
        let (one, other) = (Fixture::new(policy.clone(), &[1; 5]), Fixture::new(policy.clone(), &[1; 5]));
        let mut counts = BTreeMap::new();
        for at in 0..10_000 {
            let picked = one.hashed(key(at));
            assert_eq!((one.hashed(key(at)), other.hashed(key(at))), (picked, picked), "in every worker and process");
            *counts.entry(picked).or_insert(0.0) += 1e-4;
        }
        assert_shares(&counts, &[(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (5, 1.0)], bound, &format!("{policy:?}"));
    }
}

#[test]
fn weights_decide_how_much_of_a_ring_an_endpoint_has() {
    for policy in [RING, MAGLEV] {
        let fixture = Fixture::new(policy.clone(), &[1, 2, 5]);
        let mut counts = BTreeMap::new();
        for at in 0..20_000 {
            *counts.entry(fixture.hashed(key(at))).or_insert(0.0) += 5e-5;
        }
        assert_shares(&counts, &[(1, 1.0), (2, 2.0), (3, 5.0)], 0.05, &format!("{policy:?}"));
    }
}

#[test]
fn without_a_key_the_endpoint_is_drawn_at_random() {
    for policy in [RING, MAGLEV] {
        assert_eq!(Fixture::new(policy, &[1; 3]).shares(300).len(), 3);
    }
}

/// Worked out by the rules of Envoy's documentation: with two endpoints and at least 3 places each has 2, at the xxHash64
/// of its address, `_` and a number.
#[test]
fn a_small_ring_is_as_envoy_builds_it() {
    let fixture = Fixture::new(ir::Balance::RingHash { min: 3, max: 8 << 20 }, &[1, 1]);
    let mut places: Vec<(u64, u16)> = [1, 2]
        .into_iter()
        .flat_map(|port| [0, 1].map(|at| (xxh64(format!("127.0.0.1:{port}_{at}").as_bytes(), 0), port)))
        .collect();
    places.sort_unstable();
    for (at, (hash, port)) in places.iter().enumerate() {
        assert_eq!(fixture.hashed(*hash), *port, "at its place");
        assert_eq!(fixture.hashed(hash - 1), *port, "before its place");
        assert_eq!(fixture.hashed(hash + 1), places[(at + 1) % places.len()].1, "behind it");
    }
    assert_eq!(fixture.hashed(u64::MAX), places[0].1, "a ring has no end");
}

#[test]
fn a_ring_is_never_larger_than_its_maximum() {
    let members = members(&[1, 1000]);
    let ring = ring_hash::Ring::new(&members, &[1.0 / 1001.0, 1000.0 / 1001.0], 1024, 2048);
    assert_eq!(ring.len(), 2002, "the lightest has two places");
    let ring = ring_hash::Ring::new(&members, &[1.0 / 1001.0, 1000.0 / 1001.0], 1024, 1500);
    // One more where sums round up (Envoy).
    assert!((1500..=1501).contains(&ring.len()));
}

#[test]
fn a_table_is_full_and_gives_each_the_same_number_of_entries() {
    let members = members(&[1; 7]);
    let table = maglev::Table::new(&members, &[1.0 / 7.0; 7], 101);
    let mut counts = [0; 7];
    (0..101).for_each(|entry| counts[table.at(entry, 0).expect("it is full")] += 1);
    assert!(counts.iter().all(|count| (14..=15).contains(count)), "{counts:?}");
    assert!(maglev::Table::new(&[], &[], 101).at(5, 0).is_none());
}

#[test]
fn an_endpoint_that_is_out_is_skipped_and_finds_its_keys_again() {
    for policy in [RING, MAGLEV] {
        let fixture = Fixture::new(policy.clone(), &[1; 4]);
        let before: Vec<u16> = (0..2_000).map(|at| fixture.hashed(key(at))).collect();
        fixture.eject(1);
        assert!((0..2_000).all(|at| fixture.hashed(key(at)) != 2), "{policy:?}");
        assert!(fixture.state(1).fitness.readmit());
        fixture.stats.changed();
        assert!((0..2_000).zip(&before).all(|(at, before)| fixture.hashed(key(at)) == *before), "{policy:?}");
    }
}

#[tokio::test]
async fn a_large_table_is_built_in_the_background_and_who_is_out_is_skipped_meanwhile() {
    let fixture = Fixture::new(ir::Balance::RingHash { min: 100_000, max: 8 << 20 }, &[1; 10]);
    assert_ne!(fixture.pick(), 0);
    fixture.eject(4);
    for at in 0..500 {
        assert_ne!(fixture.hashed(key(at)), 5);
    }
    while fixture.balancer.built.load(Ordering::Acquire) == 0 {
        tokio::task::yield_now().await;
        assert_ne!(fixture.hashed(key(1)), 5);
    }
    let whole = Fixture::of(&cluster(ir::Balance::RingHash { min: 100_000, max: 8 << 20 }), {
        let members = members(&[1; 10]).into_iter().enumerate().filter(|(at, _)| *at != 4);
        Membership::flat(members.map(|(_, member)| member).collect())
    });
    assert!((0..500).all(|at| fixture.hashed(key(at)) == whole.hashed(key(at))), "as if it had never been there");
}

#[test]
fn what_is_tried_again_goes_elsewhere_along_the_ring() {
    for policy in [RING, MAGLEV] {
        let fixture = Fixture::new(policy.clone(), &[1; 10]);
        for at in 0..200 {
            let first = fixture.pick_with(&[], Some(key(at))).expect("members").endpoint;
            let second = fixture.pick_with(&[Arc::clone(&first)], Some(key(at))).expect("members").endpoint;
            assert!(!Arc::ptr_eq(&first, &second), "{policy:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// When one of n leaves, its keys move and hardly any other: 1/n of all, twice that at most. The number of places per
    /// endpoint is a power of two of them, so that it stays the same.
    #[test]
    fn about_one_in_n_keys_moves_when_an_endpoint_leaves(count in 3_usize..40, leaver in any::<prop::sample::Index>()) {
        for policy in [ir::Balance::RingHash { min: 4096, max: 8 << 20 }, MAGLEV] {
            let all = members(&vec![1; count]);
            let leaver = leaver.index(count);
            let rest = all.iter().enumerate().filter(|(at, _)| *at != leaver).map(|(_, member)| member.clone()).collect();
            let before = Fixture::of(&cluster(policy.clone()), Membership::flat(all));
            let after = Fixture::of(&cluster(policy.clone()), Membership::flat(rest));
            let keys = 4_000;
            let moved = (0..keys).filter(|at| before.hashed(key(*at)) != after.hashed(key(*at))).count();
            let share = moved as f64 / keys as f64;
            let fair = 1.0 / count as f64;
            prop_assert!(share < 2.0 * fair + 0.02, "{policy:?}: {share} of the keys moved, {fair} would be fair");
        }
    }
}
