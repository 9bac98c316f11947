//! Peak EWMA.

use super::*;

fn answer(fixture: &Fixture, at: usize, millis: u64, failed: bool) {
    fixture.state(at).latency.observe(Moment::now(), Duration::from_millis(millis), failed);
}

#[test]
fn the_endpoint_that_answers_sooner_is_preferred() {
    let fixture = Fixture::new(ir::Balance::PeakEwma, &[1, 1]);
    answer(&fixture, 0, 400, false);
    answer(&fixture, 1, 40, false);
    assert!((0..100).all(|_| fixture.pick() == 2));
    let _waiting: Vec<_> = (0..20).map(|_| fixture.state(1).begin()).collect();
    assert!((0..100).all(|_| fixture.pick() == 1), "21 × 40 ms are more than 400 ms");
}

#[test]
fn an_endpoint_that_fails_at_once_does_not_look_fast() {
    let fixture = Fixture::new(ir::Balance::PeakEwma, &[1, 1]);
    answer(&fixture, 0, 0, true);
    answer(&fixture, 1, 300, false);
    assert!((0..100).all(|_| fixture.pick() == 2));
}

#[test]
fn the_time_until_the_answer_is_learnt_from_each_request() {
    let fixture = Fixture::new(ir::Balance::PeakEwma, &[1, 1]);
    let picked = fixture.pick_with(&[], None).expect("a member");
    let failing = picked.endpoint.address.port();
    picked.begin().learn(true);
    assert!((0..100).all(|_| fixture.pick() != failing));
    let fixture = Fixture::new(ir::Balance::Random, &[1, 1]);
    let picked = fixture.pick_with(&[], None).expect("a member");
    assert!(picked.since.is_none(), "nobody else asks the clock");
}
