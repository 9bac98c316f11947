//! Days of a certificate's life, in a moment.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use leno_proxy::handover::Ownership;
use leno_proxy::identity::keeper::Keeper;
use leno_proxy::identity::{Keyring, Origin, store};
use tokio::sync::watch;

use crate::answers::cart;
use crate::authority::{TestAuthority, TestClock};
use crate::ca::{DAY, HOUR, MINUTE, noon};

type Asked = Arc<Mutex<Vec<(SystemTime, bool)>>>;

struct Life {
    keyring: Keyring,
    clock: TestClock,
    asked: Asked,
}

impl Life {
    /// Lives until the clock says stop.
    async fn run(
        authority: TestAuthority,
        (clock, stop): (TestClock, watch::Receiver<bool>),
        random: fn() -> u64,
        state: Option<&Path>,
    ) -> Self {
        let keyring = Keyring::new(Origin::ControlPlane);
        let asked = Arc::clone(&authority.asked);
        let state = state.map(Path::to_owned);
        let keeper =
            Keeper { authority, clock: clock.clone(), random, account: cart(), state, ownership: Ownership::default() };
        let ended = tokio::time::timeout(Duration::from_secs(60), keeper.run(&keyring, stop));
        ended.await.expect("it ends when it is told to");
        Self { keyring, clock, asked }
    }

    /// Hours from the start to each answer.
    fn answered(&self) -> Vec<f64> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(_, is_up)| *is_up).map(|(at, _)| hours(*at)).collect()
    }
}

fn hours(at: SystemTime) -> f64 {
    at.duration_since(noon()).map_or(-1.0, |since| since.as_secs_f64() / 3600.0)
}

/// In the middle of the jitter.
fn half() -> u64 {
    1 << 63
}

#[tokio::test]
async fn each_certificate_is_renewed_at_half_of_its_life_with_a_new_key() {
    let authority = TestAuthority::new(DAY, |_| true);
    let keys = Arc::clone(&authority.keys);
    let life = Life::run(authority, TestClock::new(noon(), 5 * DAY + HOUR), half, None).await;
    let answered = life.answered();
    assert_eq!((answered.len(), keys.lock().unwrap().len()), (11, 11), "{answered:?}");
    for (number, at) in answered.iter().enumerate() {
        assert!((at - 12.0 * number as f64).abs() < 0.05, "{answered:?}");
    }
    let report = life.keyring.report();
    assert_eq!((report.renewed, report.failed, report.error), (11, 0, None));
    assert!(life.clock.naps().iter().all(|nap| *nap <= MINUTE), "the time of day is looked at every minute");
    let now = life.keyring.identity().now();
    assert!(now.svid.is_some() && !now.trust.roots("cluster.local").is_empty(), "usable before any secret came");
}

#[tokio::test]
async fn a_life_of_a_minute_is_kept_up_too() {
    let clock = TestClock::new(noon(), 10 * MINUTE);
    let life = Life::run(TestAuthority::new(MINUTE, |_| true), clock, half, None).await;
    assert!((20..=22).contains(&life.answered().len()), "{:?}", life.answered());
}

#[tokio::test]
async fn an_authority_that_is_down_is_asked_again_with_back_off_and_the_old_certificate_stays() {
    let outage = |at: SystemTime| !(10.0..20.0).contains(&hours(at));
    let life = Life::run(TestAuthority::new(DAY, outage), TestClock::new(noon(), 22 * HOUR), || u64::MAX, None).await;
    let asked = life.asked.lock().unwrap().clone();
    let failed: Vec<SystemTime> = asked.iter().filter(|(_, is_up)| !is_up).map(|(at, _)| *at).collect();
    let gaps: Vec<u64> =
        failed.windows(2).map(|pair| pair[1].duration_since(pair[0]).unwrap().as_secs_f64().round() as u64).collect();
    assert_eq!(gaps[..8], [1, 2, 4, 8, 16, 32, 60, 60], "full jitter, at its most");
    assert!(gaps[8..].iter().all(|gap| *gap == 60), "never slower than a minute: {gaps:?}");
    let report = life.keyring.report();
    assert_eq!((report.renewed, report.failed as usize, report.error), (2, failed.len(), None));
    let svid = life.keyring.identity().now().svid.expect("a certificate");
    assert!(hours(svid.valid_until()) > 43.0, "the new one, since the authority is back");
}

#[tokio::test]
async fn an_authority_that_never_comes_back_leaves_a_certificate_that_expires_and_a_reason() {
    let first_only = |at: SystemTime| hours(at) < 1.0;
    let life = Life::run(TestAuthority::new(DAY, first_only), TestClock::new(noon(), 30 * HOUR), half, None).await;
    let svid = life.keyring.identity().now().svid.expect("the last one is still shown");
    assert!(!svid.is_valid_at(noon() + 30 * HOUR), "but nothing may be opened with it");
    let error = life.keyring.report().error.expect("a reason");
    assert!(error.text.contains("did not issue a certificate within"), "{}", error.text);
}

#[tokio::test]
async fn a_clock_that_is_set_by_an_hour_loses_no_certificate() {
    for (case, seconds, life_time) in [
        ("forward, long life", 3600, DAY),
        ("back, long life", -3600, DAY),
        ("forward, short life", 3600, 10 * MINUTE),
        ("back, short life", -3600, 10 * MINUTE),
    ] {
        let (clock, stop) = TestClock::new(noon() + 10 * HOUR, 2 * HOUR);
        let clock = clock.jump(30 * MINUTE, seconds);
        let life = Life::run(TestAuthority::new(life_time, |_| true), (clock, stop), half, None).await;
        let svid = life.keyring.identity().now().svid.expect(case);
        let now = leno_proxy::identity::clock::Clock::now(&life.clock);
        assert!(svid.is_valid_at(now), "{case}");
        assert_eq!(life.keyring.report().failed, 0, "{case}");
        assert!(life.clock.waited() >= 2 * HOUR, "{case}");
        let most = if life_time == DAY { 2 } else { 30 };
        assert!(life.answered().len() <= most, "{case}: no flood of requests: {}", life.answered().len());
    }
}

#[tokio::test]
async fn a_restart_with_the_authority_down_goes_on_with_the_stored_certificate() {
    let state = tempfile::tempdir().unwrap();
    let clock = TestClock::new(noon(), HOUR);
    let first = Life::run(TestAuthority::new(DAY, |_| true), clock, half, Some(state.path())).await;
    let serial = |life: &Life| life.keyring.identity().now().svid.map(|svid| svid.certified_key().cert.clone());
    assert_eq!(first.answered().len(), 1);

    let clock = TestClock::new(noon() + 2 * HOUR, HOUR);
    let second = Life::run(TestAuthority::new(DAY, |_| false), clock, half, Some(state.path())).await;
    assert_eq!(serial(&second), serial(&first));
    assert!(second.asked.lock().unwrap().is_empty(), "it is not due yet");
    assert_eq!(second.keyring.report().renewed, 0);
    assert!(!second.keyring.identity().now().trust.roots("cluster.local").is_empty(), "with its roots");

    let clock = TestClock::new(noon() + 13 * HOUR, HOUR);
    let third = Life::run(TestAuthority::new(DAY, |_| true), clock, half, Some(state.path())).await;
    assert_eq!(third.answered(), [13.0], "half of its life passed while nobody ran");
    assert_ne!(serial(&third), serial(&first));
}

#[tokio::test]
async fn a_stored_certificate_of_no_use_is_replaced_at_once() {
    let state = tempfile::tempdir().unwrap();
    for (case, contents) in [("damaged", Some("-----BEGIN PRIVATE KEY-----")), ("expired", None)] {
        if let Some(contents) = contents {
            std::fs::write(state.path().join(store::FILE), contents).unwrap();
        }
        let start = noon() + if contents.is_some() { Duration::ZERO } else { 3 * DAY };
        let clock = TestClock::new(start, HOUR);
        let life = Life::run(TestAuthority::new(DAY, |_| true), clock, half, Some(state.path())).await;
        assert_eq!(life.answered().len(), 1, "{case}");
        let stored = store::load(state.path(), &cart(), start + MINUTE).unwrap().expect(case);
        assert_eq!(stored.obtained, start, "{case}");
    }
}
