use std::net::{Ipv4Addr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::cluster::Picked;

const SECOND: Duration = Duration::from_secs(1);

fn endpoint() -> (Arc<EndpointState>, Arc<ClusterStats>) {
    (Arc::new(EndpointState::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)))), Arc::default())
}

fn at(seconds: u64) -> Moment {
    Moment::default() + SECOND * u32::try_from(seconds).expect("a small number")
}

fn half_open() -> (Arc<EndpointState>, Arc<ClusterStats>) {
    let (endpoint, stats) = endpoint();
    assert!(endpoint.fitness.eject(at(1), Reason::Consecutive5xx));
    assert!(endpoint.fitness.half_open(at(1)));
    (endpoint, stats)
}

#[test]
fn an_ejected_endpoint_says_why_and_until_when() {
    let (endpoint, _) = endpoint();
    for reason in Reason::ALL {
        assert!(endpoint.fitness.eject(at(30), reason));
        assert_eq!(endpoint.standing(), Standing::Ejected { until: at(30), reason });
        assert!(!endpoint.fitness.eject(at(40), reason), "it is out already");
        assert!(endpoint.fitness.readmit() && !endpoint.fitness.readmit());
        assert_eq!(endpoint.standing(), Standing::Available);
    }
}

#[test]
fn an_ejection_ends_when_its_time_is_over_and_not_before() {
    let (endpoint, _) = endpoint();
    assert!(endpoint.fitness.eject(at(30), Reason::SuccessRate));
    assert!(!endpoint.fitness.half_open(at(29)));
    assert!(endpoint.fitness.half_open(at(30)) && !endpoint.fitness.half_open(at(31)));
    assert_eq!(endpoint.standing(), Standing::HalfOpen);
    assert!(endpoint.fitness.is_out(), "it does not have its share yet");
}

#[test]
fn one_caller_gets_the_probe_and_its_outcome_decides() {
    for (succeeds, expected) in
        [(true, Standing::Available), (false, Standing::Ejected { until: at(60), reason: Reason::FailedProbe })]
    {
        let (endpoint, stats) = half_open();
        let probe = endpoint.claim_probe(&stats).expect("it is half-open");
        assert_eq!(endpoint.standing(), Standing::Probing);
        assert!(endpoint.claim_probe(&stats).is_none(), "a second caller gets nothing");
        assert!(if succeeds { probe.succeed() } else { probe.fail(at(60)) });
        drop(probe);
        assert_eq!(endpoint.standing(), expected);
        assert_eq!(stats.probes.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn a_probe_that_comes_to_nothing_is_given_back() {
    let (endpoint, stats) = half_open();
    let picked = Picked::probing(endpoint.claim_probe(&stats).expect("it is half-open"));
    let before = stats.standing.load(Ordering::Relaxed);
    drop(picked.begin());
    assert_eq!(endpoint.standing(), Standing::HalfOpen);
    assert!(stats.standing.load(Ordering::Relaxed) > before, "the workers are told");
    assert!(endpoint.claim_probe(&stats).is_some(), "the next caller gets it");
}

#[test]
fn a_probe_that_was_overtaken_decides_nothing() {
    let (endpoint, stats) = half_open();
    let overtaken = endpoint.claim_probe(&stats).expect("it is half-open");
    assert!(endpoint.fitness.readmit(), "a health check passed");
    assert!(endpoint.fitness.eject(at(5), Reason::ConsecutiveGateway) && endpoint.fitness.half_open(at(5)));
    let current = endpoint.claim_probe(&stats).expect("it is half-open again");
    assert!(!overtaken.fail(at(90)));
    drop(overtaken);
    assert_eq!(endpoint.standing(), Standing::Probing);
    assert!(current.succeed());
}

#[test]
fn health_checks_and_the_breaker_do_not_disturb_each_other() {
    let (endpoint, stats) = half_open();
    assert!(endpoint.fitness.set_unhealthy(true) && !endpoint.fitness.set_unhealthy(true));
    assert_eq!(endpoint.standing(), Standing::Unhealthy);
    assert!(endpoint.claim_probe(&stats).is_none(), "nobody is sent where the checks fail");
    assert!(endpoint.fitness.set_unhealthy(false));
    let probe = endpoint.claim_probe(&stats).expect("it is half-open");
    assert!(endpoint.fitness.set_unhealthy(true));
    assert!(probe.succeed());
    assert_eq!(endpoint.standing(), Standing::Unhealthy);
    assert!(!endpoint.fitness.is_out());
}

#[test]
fn who_is_gone_is_out_no_more_and_stays_so() {
    let (endpoint, stats) = half_open();
    let probe = endpoint.claim_probe(&stats).expect("it is half-open");
    assert!(endpoint.fitness.retire() && !endpoint.fitness.retire());
    assert!(!endpoint.fitness.eject(at(9), Reason::Consecutive5xx));
    drop(probe);
    assert!(!endpoint.fitness.is_out());
}

/// What may happen to an endpoint.
#[derive(Debug, Clone, Copy)]
enum Event {
    Eject,
    HalfOpen,
    Claim,
    Succeed,
    Fail,
    Drop,
    Readmit,
    Unhealthy(bool),
}

fn event() -> impl Strategy<Value = Event> {
    use Event::*;
    prop_oneof![
        Just(Eject),
        Just(HalfOpen),
        Just(Claim),
        Just(Claim),
        Just(Succeed),
        Just(Fail),
        Just(Drop),
        Just(Readmit),
        any::<bool>().prop_map(Unhealthy)
    ]
}

proptest! {
    /// Whatever happens in whatever order, there is one probe at a time, and none is lost.
    #[test]
    fn never_two_probes_and_none_is_lost(events in prop::collection::vec(event(), 1..60)) {
        let (endpoint, stats) = endpoint();
        let mut probes = Vec::new();
        for (second, event) in (0_u64..).zip(events) {
            match event {
                Event::Eject => drop(endpoint.fitness.eject(at(second), Reason::Consecutive5xx)),
                Event::HalfOpen => drop(endpoint.fitness.half_open(at(second))),
                Event::Claim => {
                    let (is_probing, claimed) = (endpoint.standing() == Standing::Probing, endpoint.claim_probe(&stats));
                    prop_assert!(!(is_probing && claimed.is_some()));
                    probes.extend(claimed);
                }
                Event::Succeed => drop(probes.pop().map(|probe| probe.succeed())),
                Event::Fail => drop(probes.pop().map(|probe| probe.fail(at(second)))),
                Event::Drop => drop(probes.pop()),
                Event::Readmit => drop(endpoint.fitness.readmit()),
                Event::Unhealthy(is_unhealthy) => drop(endpoint.fitness.set_unhealthy(is_unhealthy)),
            }
        }
        probes.clear();
        endpoint.fitness.set_unhealthy(false);
        prop_assert_ne!(endpoint.standing(), Standing::Probing, "nobody is left who could end it");
    }
}
