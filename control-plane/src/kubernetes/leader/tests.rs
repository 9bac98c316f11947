//! Tables for single moves, and a small world for what no table covers: several electors, messages that are late, lost
//! or answered to nobody, replicas that die.

use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn wall() -> MicroTime {
    MicroTime(Timestamp::UNIX_EPOCH)
}

fn held_by(identity: &str, version: u32) -> Lease {
    let spec = LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(15),
        renew_time: Some(MicroTime(Timestamp::from_second(i64::from(version)).unwrap())),
        lease_transitions: Some(3),
        ..LeaseSpec::default()
    };
    let metadata = ObjectMeta { resource_version: Some(version.to_string()), ..ObjectMeta::default() };
    Lease { metadata, spec: Some(spec) }
}

fn claim(step: Move) -> Option<Lease> {
    match step {
        Move::Claim(lease) => Some(*lease),
        Move::Wait(_) | Move::Read => None,
    }
}

#[test]
fn a_lease_is_claimed_when_it_is_missing_free_ours_or_over() {
    let released = |version| {
        let mut lease = held_by("", version);
        lease.spec.as_mut().unwrap().lease_duration_seconds = Some(1);
        lease
    };
    let rows = [
        ("there is none", None, 0, true),
        ("it was released", Some(released(1)), 0, true),
        ("it is ours, of before", Some(held_by("us", 1)), 0, true),
        ("another's, just seen", Some(held_by("another", 1)), 0, false),
        ("another's, not renewed for almost as long", Some(held_by("another", 1)), 14, false),
        ("another's, not renewed for as long as it lasts", Some(held_by("another", 1)), 15, true),
    ];
    for (what, lease, after, expected) in rows {
        let start = Instant::now();
        let mut elector = Elector::new("us".to_owned(), Terms::USUAL, start);
        assert_eq!(elector.next("leader", start, &wall()), Move::Read, "{what}");
        elector.read(lease, start);
        let step = elector.next("leader", start + after * SECOND, &wall());
        assert_eq!(claim(step).is_some(), expected, "{what}");
    }
}

#[test]
fn the_time_of_a_lease_begins_anew_with_its_contents_and_not_with_its_metadata() {
    let start = Instant::now();
    let at = |seconds: u32| start + seconds * SECOND;
    let mut elector = Elector::new("us".to_owned(), Terms::USUAL, start);
    elector.read(Some(held_by("another", 1)), start);
    let mut labelled = held_by("another", 1);
    labelled.metadata.resource_version = Some("2".to_owned());
    elector.noticed(Some(labelled), at(10));
    assert_eq!(elector.next("leader", at(14), &wall()), Move::Wait(at(15)), "a label is no renewal");
    elector.noticed(Some(held_by("another", 3)), at(14));
    assert_eq!(elector.next("leader", at(15), &wall()), Move::Wait(at(29)));
    elector.noticed(Some(held_by("", 4)), at(16));
    assert!(claim(elector.next("leader", at(16), &wall())).is_some(), "released");
}

#[test]
fn a_claim_counts_changes_of_holders_and_keeps_what_is_not_ours() {
    let start = Instant::now();
    let mut elector = Elector::new("us".to_owned(), Terms::USUAL, start);
    let mut lease = held_by("another", 1);
    lease.metadata.labels = Some([("kept".to_owned(), "yes".to_owned())].into());
    elector.read(Some(lease), start);
    let claimed = claim(elector.next("leader", start + 15 * SECOND, &wall())).unwrap();
    assert_eq!(claimed.metadata.resource_version.as_deref(), Some("1"));
    assert!(claimed.metadata.labels.is_some());
    let spec = claimed.spec.clone().unwrap();
    assert_eq!((spec.lease_transitions, spec.lease_duration_seconds), (Some(4), Some(15)));
    assert_eq!(spec.acquire_time, Some(wall()));
    elector.granted(start + 15 * SECOND, claimed, start + 16 * SECOND);
    let later = MicroTime(Timestamp::from_second(99).unwrap());
    let renewed = claim(elector.next("leader", start + 17 * SECOND, &later)).unwrap().spec.unwrap();
    assert_eq!((renewed.lease_transitions, renewed.acquire_time), (Some(4), Some(wall())));
    assert_eq!(renewed.renew_time, Some(later));
}

#[test]
fn leadership_counts_from_when_the_claim_was_sent_and_ends_before_the_lease() {
    let start = Instant::now();
    let at = |seconds: u32| start + seconds * SECOND;
    let mut elector = Elector::new("us".to_owned(), Terms::USUAL, start);
    elector.read(None, start);
    assert!(!elector.is_leader(start));
    elector.granted(at(1), held_by("us", 1), at(4));
    assert_eq!(elector.leads_until(), Some(at(11)));
    for seconds in [6, 8, 10] {
        elector.failed(at(seconds), 0.5);
        assert!(elector.is_leader(at(seconds)));
    }
    assert!(!elector.is_leader(at(11)));
    assert_eq!(elector.next("leader", at(12), &wall()), Move::Read, "what was seen may be stale");
    elector.read(Some(held_by("another", 2)), at(12));
    assert!(!elector.is_leader(at(12)));
    assert_eq!(elector.leader(), Some("another"));
}

#[test]
fn who_reads_that_another_leads_stands_down_at_once() {
    let start = Instant::now();
    let mut elector = Elector::new("us".to_owned(), Terms::USUAL, start);
    elector.granted(start, held_by("us", 1), start);
    elector.noticed(Some(held_by("another", 0)), start + SECOND);
    assert!(elector.is_leader(start + SECOND), "a watch may be late");
    elector.outrun(start + 2 * SECOND);
    elector.read(Some(held_by("another", 2)), start + 2 * SECOND);
    assert!(!elector.is_leader(start + 2 * SECOND));
}

#[test]
fn only_a_leader_gives_the_lease_back() {
    let start = Instant::now();
    let mut elector = Elector::new("us".to_owned(), Terms::USUAL, start);
    elector.read(Some(held_by("another", 1)), start);
    assert_eq!(elector.resign(start, &wall()), None);
    elector.granted(start, held_by("us", 2), start);
    let given = elector.resign(start + SECOND, &wall()).unwrap();
    assert_eq!(given.metadata.resource_version.as_deref(), Some("2"));
    assert_eq!(given.spec.unwrap().holder_identity, None);
    assert!(!elector.is_leader(start + SECOND));
}

/// Random numbers from a seed (xorshift64*), so that a failure can be had again.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

/// How a message fares.
#[derive(Clone, Copy)]
struct Weather {
    /// Of 100 messages, so many never arrive, and so many answers.
    lost: u64,
    /// Longest way there, and longest way back.
    slow: Duration,
}

/// A message under way.
struct Message {
    what: Move,
    sent: Instant,
    arrives: Option<Instant>,
    answered: Option<Instant>,
    /// What the server said, once it has arrived.
    answer: Option<Result<Option<Lease>, ()>>,
    given_up: Instant,
}

struct Replica {
    elector: Elector,
    message: Option<Message>,
    /// Watch events on their way.
    news: Vec<(Instant, Option<Lease>)>,
    is_alive: bool,
}

/// The API server, its clients and the time.
struct World {
    now: Instant,
    lease: Option<Lease>,
    version: u64,
    replicas: Vec<Replica>,
    dice: Dice,
    weather: Weather,
    born: usize,
}

/// Claims are given up after this.
const PATIENCE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(50);

impl World {
    fn new(replicas: usize, seed: u64, weather: Weather) -> Self {
        let now = Instant::now();
        let mut world =
            Self { now, lease: None, version: 0, replicas: Vec::new(), dice: Dice(seed | 1), weather, born: 0 };
        for _ in 0..replicas {
            let replica = world.replica();
            world.replicas.push(replica);
        }
        world
    }

    fn replica(&mut self) -> Replica {
        self.born += 1;
        let elector = Elector::new(format!("replica-{}", self.born), Terms::USUAL, self.now);
        Replica { elector, message: None, news: Vec::new(), is_alive: true }
    }

    fn way(&mut self) -> Option<Instant> {
        let is_lost = self.dice.throw(100) < self.weather.lost;
        let millis = u64::try_from(self.weather.slow.as_millis()).unwrap() + 1;
        let arrives = self.now + Duration::from_millis(self.dice.throw(millis));
        (!is_lost).then_some(arrives)
    }

    /// What the API server does with a message: the version decides.
    fn serve(&mut self, what: &Move) -> Result<Option<Lease>, ()> {
        let Move::Claim(claim) = what else { return Ok(self.lease.clone()) };
        let present = self.lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        if claim.metadata.resource_version != present {
            return Err(());
        }
        self.version += 1;
        let mut lease = (**claim).clone();
        lease.metadata.resource_version = Some(self.version.to_string());
        self.lease = Some(lease.clone());
        for index in 0..self.replicas.len() {
            if let Some(at) = self.way() {
                self.replicas[index].news.push((at, Some(lease.clone())));
            }
        }
        Ok(Some(lease))
    }

    fn step(&mut self) {
        self.now += TICK;
        for index in 0..self.replicas.len() {
            self.deliver(index);
            if self.replicas[index].is_alive {
                self.act(index);
            }
        }
        let leaders = self.leaders();
        assert!(leaders.len() <= 1, "two leaders at a time: {leaders:?}");
    }

    /// A message that was sent arrives, whether or not its sender lives.
    fn deliver(&mut self, index: usize) {
        let Some(mut message) = self.replicas[index].message.take() else { return };
        if message.answer.is_none() && message.arrives.is_some_and(|at| at <= self.now) {
            message.answer = Some(self.serve(&message.what));
            message.answered = self.way();
        }
        self.replicas[index].message = Some(message);
    }

    fn act(&mut self, index: usize) {
        let now = self.now;
        // Different for each claim that is granted.
        let wall = MicroTime(Timestamp::from_second(i64::try_from(self.version).unwrap()).unwrap());
        #[allow(clippy::cast_precision_loss)]
        let jitter = self.dice.throw(1000) as f64 / 1000.0;
        let way = self.way();
        let Replica { elector, message, news, .. } = &mut self.replicas[index];
        if let Some(sent) = message.take_if(|it| it.given_up <= now || it.answered.is_some_and(|at| at <= now)) {
            match (sent.answered.is_some_and(|at| at <= now), sent.answer, sent.what) {
                (true, Some(Ok(Some(lease))), Move::Claim(_)) => elector.granted(sent.sent, lease, now),
                (true, Some(Ok(lease)), _) => elector.read(lease, now),
                (true, Some(Err(())), _) => elector.outrun(now),
                (_, None, _) | (false, Some(_), _) => elector.failed(now, jitter),
            }
        }
        if message.is_some() {
            return;
        }
        // As the driver does, news are looked at between two calls.
        for (_, lease) in news.extract_if(.., |(at, _)| *at <= now) {
            elector.noticed(lease, now);
        }
        match elector.next("leader", now, &wall) {
            Move::Wait(_) => {}
            what @ (Move::Read | Move::Claim(_)) => {
                let leads = elector.leads_until().filter(|until| *until > now);
                let given_up = leads.map_or(now + PATIENCE, |until| until.min(now + PATIENCE));
                *message = Some(Message { what, sent: now, arrives: way, answered: None, answer: None, given_up });
            }
        }
    }

    fn leaders(&self) -> Vec<usize> {
        let leads = |replica: &Replica| replica.is_alive && replica.elector.is_leader(self.now);
        (0..self.replicas.len()).filter(|index| leads(&self.replicas[*index])).collect()
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.step();
        }
    }

    /// Until somebody leads; how long it took.
    fn run_until_led(&mut self, at_most: Duration) -> Duration {
        let begin = self.now;
        while self.leaders().is_empty() {
            self.step();
            assert!(self.now < begin + at_most, "nobody leads after {at_most:?}");
        }
        self.now - begin
    }
}

const FAIR: Weather = Weather { lost: 0, slow: Duration::from_millis(100) };

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn there_are_never_two_leaders(seed: u64, replicas in 2..=3usize, lost in 0..60u64, slow in 0..8000u64) {
        let mut world = World::new(replicas, seed, Weather { lost, slow: Duration::from_millis(slow) });
        for _ in 0..6 {
            world.run(20 * SECOND);
            // One dies, and another is born in its place: with a name of its own.
            let victim = usize::try_from(world.dice.throw(replicas as u64)).unwrap();
            let newborn = world.replica();
            let dead = std::mem::replace(&mut world.replicas[victim], newborn);
            world.replicas.push(Replica { is_alive: false, ..dead });
        }
        world.weather = FAIR;
        world.run_until_led(40 * SECOND);
    }

    #[test]
    fn the_place_of_a_dead_leader_is_taken_within_the_lease(seed: u64, replicas in 2..=3usize, lived in 0..5000u64) {
        let mut world = World::new(replicas, seed, FAIR);
        world.run_until_led(SECOND);
        world.run(Duration::from_millis(lived));
        let leader = world.leaders()[0];
        world.replicas[leader].is_alive = false;
        // The lease, what the last renewal took to be seen and what the claim takes.
        let took = world.run_until_led(Terms::USUAL.lease + SECOND);
        prop_assert!(took >= Terms::USUAL.lease - Terms::USUAL.retry - SECOND, "{took:?}");
    }
}
