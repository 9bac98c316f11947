use std::net::{Ipv4Addr, SocketAddr};

use leno_config::ir::{Fraction, Origins};
use proptest::prelude::*;

use super::*;
use crate::cluster::standing::Standing;

/// A cluster without a worker around it.
struct Rig {
    config: OutlierDetection,
    stats: Arc<ClusterStats>,
    endpoints: Vec<Arc<EndpointState>>,
}

impl Rig {
    fn new(endpoints: u16, config: OutlierDetection) -> Self {
        let endpoint = |port| Arc::new(EndpointState::new(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        Self { config, stats: Arc::default(), endpoints: (1..=endpoints).map(endpoint).collect() }
    }

    fn judge(&self) -> Judge<'_> {
        Judge { config: &self.config, stats: &self.stats, size: self.endpoints.len() }
    }

    /// An endpoint is reported `outcomes`, at one time.
    fn report(&self, endpoint: usize, outcomes: &[Outcome], second: u64) {
        for outcome in outcomes {
            self.judge().note(&self.endpoints[endpoint], None, *outcome, || at(second));
        }
    }

    /// One request probes an endpoint.
    fn probe(&self, endpoint: usize, outcome: Outcome, second: u64) {
        let probe = self.endpoints[endpoint].claim_probe(&self.stats).expect("it is half-open");
        self.judge().note(&self.endpoints[endpoint], Some(&probe), outcome, || at(second));
    }

    fn look(&self, second: u64) {
        self.judge().look(&self.endpoints.iter().collect::<Vec<_>>(), at(second));
    }

    fn standing(&self, endpoint: usize) -> Standing {
        self.endpoints[endpoint].standing()
    }

    fn out(&self) -> usize {
        self.endpoints.iter().filter(|endpoint| endpoint.fitness.is_out()).count()
    }
}

fn at(second: u64) -> Moment {
    Moment::default() + Duration::from_secs(second)
}

fn ejected(second: u64, reason: Reason) -> Standing {
    Standing::Ejected { until: at(second), reason }
}

/// Three errors in a row, 30 s and up to 100 s, half of the cluster.
fn config() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: Some(3),
        consecutive_gateway: None,
        consecutive_local: None,
        split_local: false,
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(100),
        max_ejection_share: Fraction::from_percent(50.0).expect("a percentage"),
        status_codes: Vec::new(),
        success_rate: None,
        failure_percentage: None,
        always_eject_one: false,
        check_readmits: true,
    }
}

const OK: Outcome = Outcome::Answered(200);
const BAD: Outcome = Outcome::Answered(500);
const GATEWAY: Outcome = Outcome::Answered(503);

#[test]
fn who_is_ejected_depends_on_what_counts_and_in_which_order() {
    use Outcome::{Answered, ConnectFailure, Connected, Reset, TimedOut};
    let gateway = OutlierDetection { consecutive_5xx: None, consecutive_gateway: Some(2), ..config() };
    let split = OutlierDetection { split_local: true, consecutive_local: Some(2), ..config() };
    let codes = OutlierDetection { status_codes: vec![404], ..config() };
    let any = Some(Reason::Consecutive5xx);
    let rows: Vec<(&str, OutlierDetection, Vec<Outcome>, Option<Reason>)> = vec![
        ("as many as it takes", config(), vec![BAD, GATEWAY, Answered(599)], any),
        ("one less", config(), vec![BAD, BAD], None),
        ("a success between", config(), vec![BAD, BAD, OK, BAD, BAD], None),
        ("a client's error is none", config(), vec![BAD, BAD, Answered(404), BAD], None),
        ("local errors count as 503 and 504", config(), vec![ConnectFailure, TimedOut, Reset], any),
        ("a connection is a success", config(), vec![Reset, Reset, Connected, Reset], None),
        ("gateway errors", gateway.clone(), vec![GATEWAY, Answered(502)], Some(Reason::ConsecutiveGateway)),
        ("500 is no gateway error", gateway.clone(), vec![GATEWAY, BAD, GATEWAY], None),
        ("local errors are gateway errors", gateway, vec![TimedOut, ConnectFailure], Some(Reason::ConsecutiveGateway)),
        ("local errors apart", split.clone(), vec![Reset, BAD, Reset, Reset], Some(Reason::ConsecutiveLocal)),
        ("who answers was reached", split.clone(), vec![Reset, BAD, Reset, BAD], None),
        ("local errors do not end a row of answers", split, vec![BAD, Reset, BAD, BAD], any),
        ("the codes that are written", codes.clone(), vec![Answered(404), Answered(404), Answered(404)], any),
        ("and no others", codes, vec![BAD, BAD, BAD], None),
    ];
    for (name, config, outcomes, expected) in rows {
        let rig = Rig::new(2, config);
        rig.report(0, &outcomes, 0);
        let standing = expected.map_or(Standing::Available, |reason| ejected(30, reason));
        assert_eq!(rig.standing(0), standing, "{name}");
        assert_eq!(rig.standing(1), Standing::Available, "{name}");
        assert_eq!(rig.stats.ejections.active(), u32::from(expected.is_some()), "{name}");
        assert_eq!(
            rig.stats.standing.load(Ordering::Relaxed),
            u64::from(expected.is_some()),
            "{name}: workers are told"
        );
    }
}

#[test]
fn an_ejection_ends_at_an_interval_and_with_a_probe() {
    let rig = Rig::new(2, config());
    rig.report(0, &[BAD; 3], 0);
    rig.look(29);
    assert_eq!(rig.standing(0), ejected(30, Reason::Consecutive5xx));
    rig.look(30);
    assert_eq!(rig.standing(0), Standing::HalfOpen);
    assert_eq!(rig.stats.ejections.active(), 1, "it has no share yet");
    rig.probe(0, OK, 31);
    assert_eq!((rig.standing(0), rig.stats.ejections.active()), (Standing::Available, 0));
    rig.report(0, &[BAD; 2], 32);
    assert_eq!(rig.standing(0), Standing::Available, "errors from before are forgotten");
}

#[test]
fn a_failed_probe_ejects_for_longer_up_to_a_bound() {
    let rig = Rig::new(2, config());
    rig.report(0, &[BAD; 3], 0);
    let mut now = 0;
    for length in [30, 60, 90, 100, 100] {
        let Standing::Ejected { until, .. } = rig.standing(0) else { panic!("it is not out: {:?}", rig.standing(0)) };
        assert_eq!(until, at(now + length), "{length} s");
        now += length;
        rig.look(now);
        rig.probe(0, GATEWAY, now);
    }
    assert_eq!(rig.endpoints[0].ejections(), 6);
    assert_eq!(rig.stats.ejections.by_reason(Reason::FailedProbe), 5);
    assert_eq!(rig.stats.ejections.active(), 1);
}

#[test]
fn good_conduct_shortens_the_next_ejection() {
    let rig = Rig::new(2, config());
    let eject_and_return = |from: u64, length: u64| {
        rig.report(0, &[BAD; 3], from);
        assert_eq!(rig.standing(0), ejected(from + length, Reason::Consecutive5xx));
        rig.look(from + length);
        rig.probe(0, OK, from + length);
    };
    eject_and_return(0, 30);
    eject_and_return(100, 60);
    rig.look(170);
    eject_and_return(200, 60);
    for second in [300, 310, 320, 330] {
        rig.look(second);
    }
    eject_and_return(400, 30);
}

#[test]
fn old_requests_say_nothing_about_who_is_out() {
    let rig = Rig::new(2, config());
    rig.report(0, &[BAD; 3], 0);
    rig.report(0, &[OK, BAD, BAD, BAD, BAD], 5);
    assert_eq!(rig.standing(0), ejected(30, Reason::Consecutive5xx));
    assert_eq!(rig.endpoints[0].ejections(), 1);
    rig.look(30);
    rig.report(0, &[OK], 31);
    assert_eq!(rig.standing(0), Standing::HalfOpen, "only the probe decides");
}

#[test]
fn no_more_than_a_share_is_out() {
    // Envoy: one more may be ejected while (out + 1) / all is at most the share.
    for (endpoints, percent, always_one, expected) in
        [(10, 10.0, false, 1), (9, 10.0, false, 0), (9, 10.0, true, 1), (4, 50.0, false, 2), (3, 100.0, false, 3)]
    {
        let share = Fraction::from_percent(percent).expect("a percentage");
        let rig = Rig::new(
            endpoints,
            OutlierDetection { max_ejection_share: share, always_eject_one: always_one, ..config() },
        );
        for endpoint in 0..usize::from(endpoints) {
            rig.report(endpoint, &[BAD; 3], 0);
        }
        assert_eq!(rig.out(), expected, "{percent} % of {endpoints}, always one: {always_one}");
        let refused = u64::from(endpoints) - expected as u64;
        assert_eq!(rig.stats.ejections.overflow.load(Ordering::Relaxed), refused);
    }
}

#[test]
fn a_passed_health_check_ends_an_ejection_and_who_is_gone_is_out_no_more() {
    let rig = Rig::new(4, config());
    rig.report(0, &[BAD; 3], 0);
    rig.report(1, &[BAD; 3], 0);
    readmit(&rig.endpoints[0], &rig.stats);
    readmit(&rig.endpoints[0], &rig.stats);
    assert_eq!((rig.standing(0), rig.stats.ejections.active()), (Standing::Available, 1));
    retire(&rig.endpoints[1], &rig.stats);
    retire(&rig.endpoints[1], &rig.stats);
    assert_eq!(rig.stats.ejections.active(), 0);
    rig.report(1, &[BAD; 9], 0);
    assert_eq!(rig.stats.ejections.active(), 0, "who is gone is not ejected");
}

#[test]
fn who_succeeds_far_less_often_than_the_others_is_ejected() {
    let rule = SuccessRate { origins: Origins::External, min_hosts: 5, min_requests: 100, factor: 1900 };
    let rates = |good: u32| -> Vec<Outcome> { (0..100).map(|at| if at < good { OK } else { BAD }).collect() };
    let off = OutlierDetection { consecutive_5xx: None, success_rate: Some(rule), ..config() };
    // The last one of each row; five endpoints with 100 requests are the least.
    for (name, goods, expected) in [
        ("one far below", vec![100, 100, 100, 100, 100, 20], true),
        ("one a little below", vec![100, 99, 98, 97, 96, 96], false),
        ("all alike", vec![50, 50, 50, 50, 50, 50], false),
        ("too few to compare", vec![100, 100, 100, 20], false),
    ] {
        let rig = Rig::new(u16::try_from(goods.len()).expect("few"), off.clone());
        for (endpoint, good) in goods.iter().enumerate() {
            rig.report(endpoint, &rates(*good), 1);
        }
        rig.look(10);
        let last = rig.standing(goods.len() - 1);
        let standing = if expected { ejected(40, Reason::SuccessRate) } else { Standing::Available };
        assert_eq!(last, standing, "{name}");
        assert_eq!(rig.out(), usize::from(expected), "{name}");
    }
}

#[test]
fn who_fails_too_often_is_ejected_by_the_interval() {
    let rule = FailurePercentage { origins: Origins::External, threshold: 85, min_hosts: 1, min_requests: 20 };
    let rig = Rig::new(2, OutlierDetection { consecutive_5xx: None, failure_percentage: Some(rule), ..config() });
    let mostly_bad: Vec<Outcome> = (0..20).map(|at| if at % 7 == 0 { OK } else { BAD }).collect();
    rig.report(0, &mostly_bad[..10], 1);
    rig.look(10);
    rig.report(0, &mostly_bad[10..], 11);
    rig.look(20);
    assert_eq!(rig.out(), 0, "each interval is counted for itself");
    rig.report(0, &mostly_bad, 21);
    rig.look(30);
    assert_eq!(rig.standing(0), ejected(60, Reason::FailurePercentage));
}

#[test]
fn local_errors_have_rates_of_their_own_where_they_are_split() {
    let rule = FailurePercentage { origins: Origins::Local, threshold: 50, min_hosts: 1, min_requests: 10 };
    let split =
        OutlierDetection { consecutive_5xx: None, split_local: true, failure_percentage: Some(rule), ..config() };
    let rig = Rig::new(2, split);
    rig.report(0, &[BAD; 20], 1);
    rig.report(1, &[Outcome::Reset; 20], 1);
    rig.look(10);
    assert_eq!(rig.standing(0), Standing::Available, "nobody asked for the rate of its answers");
    assert_eq!(rig.standing(1), ejected(40, Reason::LocalFailurePercentage));
}

/// What may happen in a cluster.
#[derive(Debug, Clone, Copy)]
enum Event {
    Report(usize, Outcome),
    Look,
    Probe(usize, Option<Outcome>),
    Readmit(usize),
    Retire(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let outcome = || prop::sample::select(vec![OK, BAD, BAD, BAD, GATEWAY, Outcome::TimedOut]);
    prop_oneof![
        8 => (0..6_usize, outcome()).prop_map(|(endpoint, outcome)| Event::Report(endpoint, outcome)),
        2 => Just(Event::Look),
        2 => (0..6_usize, prop::option::of(outcome())).prop_map(|(endpoint, outcome)| Event::Probe(endpoint, outcome)),
        1 => (0..6_usize).prop_map(Event::Readmit),
        1 => (0..6_usize).prop_map(Event::Retire),
    ]
}

proptest! {
    /// Never more than the share is out, and the count of who is out is right at any time.
    #[test]
    fn the_share_holds_and_the_count_is_right(
        events in prop::collection::vec(event(), 1..200),
        percent in 0..=100_u32,
    ) {
        let share = Fraction::from_percent(f64::from(percent)).expect("a percentage");
        let rig = Rig::new(6, OutlierDetection { max_ejection_share: share, ..config() });
        for (second, event) in (0_u64..).step_by(10).zip(events) {
            match event {
                Event::Report(endpoint, outcome) => rig.report(endpoint, &[outcome; 2], second),
                Event::Look => rig.look(second),
                Event::Probe(endpoint, outcome) => {
                    let probe = rig.endpoints[endpoint].claim_probe(&rig.stats);
                    if let (Some(probe), Some(outcome)) = (&probe, outcome) {
                        rig.judge().note(&rig.endpoints[endpoint], Some(probe), outcome, || at(second));
                    }
                }
                Event::Readmit(endpoint) => readmit(&rig.endpoints[endpoint], &rig.stats),
                Event::Retire(endpoint) => retire(&rig.endpoints[endpoint], &rig.stats),
            }
            prop_assert!(rig.out() * 100 <= usize::try_from(percent).expect("small") * 6);
            prop_assert_eq!(rig.out(), usize::try_from(rig.stats.ejections.active()).expect("small"));
        }
    }
}
