//! Asking both data planes, and holding one against the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use leno_tests::scripted::Attempt;
use leno_tests::{Call, Connection, Protocol, eventually};

use super::case::{Ask, Case, Order, Repeats, Securities};
use super::differences;
use super::outcome::{Heard, Outcome, summary};
use super::world::{Kind, Plane, WORKERS, World, host};

/// Cases under way at once: most of them wait.
const AT_ONCE: usize = 12;

/// For what happens beside requests: an ejection is some milliseconds' work of another thread.
const UNTIL: Duration = Duration::from_secs(10);

/// Longer than any answer takes that comes at all.
const ANSWER: Duration = Duration::from_secs(10);
/// Between requests that are under way together.
const APART: Duration = Duration::from_millis(100);

/// Two data planes with so many workers, in clear text or not.
#[derive(Debug, Clone, Copy)]
struct Setting {
    workers: usize,
    mtls: bool,
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({} workers, {})", self.workers, if self.mtls { "mTLS" } else { "clear text" })
    }
}

/// What came of one case in all settings.
#[derive(Debug, Default)]
struct Verdict {
    /// What is wrong, and in which settings.
    failures: BTreeMap<String, Vec<String>>,
    /// Differences that are meant and were seen.
    known: BTreeSet<&'static str>,
    /// Leno says by itself that it does not do all that the rules ask for.
    not_judged: Option<String>,
    asked: usize,
}

/// Tries all cases in all settings; fails the test with everything that is wrong.
pub(super) async fn judge(world: &World, cases: &[Case]) {
    let verdicts: Vec<Verdict> =
        stream::iter(cases).map(|case| judge_case(world, case)).buffer_unordered(AT_ONCE).collect().await;
    let asked: usize = verdicts.iter().map(|verdict| verdict.asked).sum();
    let not_judged: Vec<&String> = verdicts.iter().filter_map(|verdict| verdict.not_judged.as_ref()).collect();
    eprintln!("{} cases, {asked} requests of each data plane, {} cases not judged", cases.len(), not_judged.len());
    for why in not_judged {
        eprintln!("not judged: {why}");
    }
    let failures = verdicts.iter().flat_map(|verdict| &verdict.failures);
    let mut failures: Vec<String> =
        failures.map(|(what, settings)| format!("{what}\n    {}", settings.join(", "))).collect();
    failures.sort();
    let seen: BTreeSet<&str> = verdicts.iter().flat_map(|verdict| verdict.known.iter().copied()).collect();
    for difference in differences::ALL.iter().filter(|it| seen.contains(it.title)) {
        eprintln!("differs: {}: {}", difference.title, difference.why);
    }
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    let expected = differences::ALL.iter().filter(|it| it.cases.iter().any(|case| names.contains(case)));
    for difference in expected.filter(|it| !seen.contains(it.title)) {
        failures.push(format!("a difference that is meant was not seen: {}", difference.title));
    }
    assert!(failures.is_empty(), "{} differences\n{}", failures.len(), failures.join("\n"));
}

async fn judge_case(world: &World, case: &Case) -> Verdict {
    let mut verdict = Verdict::default();
    for mtls in [false, true] {
        if mtls && case.security == Securities::ClearText {
            continue;
        }
        for workers in WORKERS {
            let setting = Setting { workers, mtls };
            let of = |is_leno: bool| {
                let mut planes = world.planes.iter().filter(|plane| plane.workers == workers);
                planes.find(|plane| matches!(plane.kind, Kind::Leno(_)) == is_leno).expect("both kinds are there")
            };
            let envoy = try_case(world, of(false), case, mtls).await;
            verdict.not_judged = not_enforced(of(true), &host(case, mtls)).await;
            let leno = match verdict.not_judged {
                Some(_) => envoy.clone(),
                None => try_case(world, of(true), case, mtls).await,
            };
            for ((ask, envoy), leno) in case.asks.iter().zip(&envoy).zip(&leno) {
                verdict.asked += ask.together;
                compare(case, setting, ask, (envoy, leno), &mut verdict);
            }
        }
    }
    verdict
}

fn compare(case: &Case, setting: Setting, ask: &Ask, (envoy, leno): (&[Outcome], &[Outcome]), verdict: &mut Verdict) {
    let place = format!("{} {ask}", case.name);
    let mut fails = |what: String| verdict.failures.entry(what).or_default().push(setting.to_string());
    let measured = summary(envoy);
    if let Some(expected) = ask.envoy.as_ref().filter(|expected| **expected != measured) {
        fails(format!("{place}\n    Envoy was to say `{expected}`, not `{measured}`"));
    }
    let mut text = String::new();
    let (mut envoy, mut leno) = (envoy.to_vec(), leno.to_vec());
    envoy.sort();
    leno.sort();
    for (envoy, leno) in envoy.iter().zip(&leno) {
        for (field, theirs, ours) in envoy.differences(leno) {
            match differences::known(&case.name, &field, &theirs, &ours) {
                Some(difference) => drop(verdict.known.insert(difference.title)),
                None => write!(text, "\n    {field}: Envoy `{theirs}`, Leno `{ours}`").expect("a String takes text"),
            }
        }
    }
    if !text.is_empty() {
        fails(format!("{place}{text}"));
    }
}

/// What Leno itself lists as not acted on, of the rules of a service.
async fn not_enforced(plane: &Plane, host: &str) -> Option<String> {
    let Kind::Leno(proxy) = &plane.kind else { return None };
    let lines = proxy.config_dump().await.not_enforced();
    lines.into_iter().find(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|word| word == host))
}

/// All requests of a case, one after the other.
async fn try_case(world: &World, plane: &Plane, case: &Case, mtls: bool) -> Vec<Vec<Outcome>> {
    let mut trial = Trial {
        world,
        plane,
        case,
        host: host(case, mtls),
        connections: Vec::new(),
        runs: 0,
        counted: BTreeMap::new(),
    };
    let mut outcomes = Vec::new();
    for ask in &case.asks {
        outcomes.push(match (ask.repeats, &ask.envoy) {
            (Repeats::UntilAsExpected, Some(expected)) => trial.ask_until(ask, expected).await,
            (Repeats::Never, _) | (Repeats::UntilAsExpected, None) => trial.ask(ask).await,
        });
    }
    outcomes
}

/// A case under way in one data plane.
struct Trial<'a> {
    world: &'a World,
    plane: &'a Plane,
    case: &'a Case,
    host: String,
    /// They are kept from one request to the next.
    connections: Vec<(Protocol, Connection)>,
    /// Requests until now.
    runs: usize,
    /// Flags of those, where the data plane only counts, and they have been looked at.
    counted: BTreeMap<(u16, String), u64>,
}

impl Trial<'_> {
    /// Asks again until the outcome is as expected; what it was at last, if it never is.
    async fn ask_until(&mut self, ask: &Ask, expected: &str) -> Vec<Outcome> {
        let started = Instant::now();
        loop {
            let outcomes = self.ask(ask).await;
            if summary(&outcomes) == expected || started.elapsed() > UNTIL {
                return outcomes;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn ask(&mut self, ask: &Ask) -> Vec<Outcome> {
        let first = self.runs;
        self.runs += ask.together;
        let runs: Vec<String> =
            (first..self.runs).map(|number| format!("{}-{}-{number}", self.host, self.plane.name)).collect();
        let heard = match runs.as_slice() {
            [run] => {
                let call = ask.call(&self.host, run);
                let heard = hear(self.connection(ask.protocol).await, call).await;
                let closes = heard.headers.get("connection").is_some_and(|value| value == "close");
                if heard.status == 0 || heard.body.is_err() || closes {
                    self.connections.clear();
                }
                vec![heard]
            }
            // One after the other, each while those before are held: Envoy's workers may look at a limit in the same instant, and
            // let in more than it says.
            runs => {
                let this = &*self;
                let apart = runs.iter().zip(0..).map(|(run, before)| async move {
                    tokio::time::sleep(APART * before).await;
                    this.hear_apart(ask, run).await
                });
                futures_util::future::join_all(apart).await
            }
        };
        let mut flags = self.flags(&runs, &heard).await;
        let mut outcomes = Vec::new();
        for (run, heard) in runs.iter().zip(&heard) {
            let flags = flags.take(run, heard);
            let outcome = Outcome::new(heard, flags, &self.attempts(run, ask.reaches).await);
            outcomes.push(match self.case.order {
                Order::Matters => outcome,
                Order::IsChance => outcome.without_chance(),
            });
        }
        outcomes
    }

    async fn flags(&mut self, runs: &[String], heard: &[Heard]) -> Flags {
        if let Kind::Envoy(envoy) = &self.plane.kind {
            let mut logged = BTreeMap::new();
            for run in runs {
                logged.insert(run.clone(), envoy.flags(run).await);
            }
            return Flags::Logged(logged);
        }
        // What is counted since the last look, without what was asked in between and spoke for itself.
        let silent = heard.iter().filter(|heard| said(heard).is_none()).count();
        for (status, said) in heard.iter().filter_map(|heard| Some((heard.status, said(heard)?))) {
            *self.counted.entry((status, said.to_owned())).or_default() += 1;
        }
        if silent == 0 {
            return Flags::Counted(Vec::new());
        }
        let counted = eventually(&format!("{} counts its requests to {}", self.plane.name, self.host), async || {
            let mut new = Vec::new();
            for (answer, count) in self.plane.counts(&self.host).await {
                let known = self.counted.get(&answer).copied().unwrap_or_default();
                new.extend((known..count).map(|_| answer.clone()));
            }
            if new.len() >= silent { Ok(new) } else { Err(format!("{new:?}")) }
        })
        .await;
        for answer in &counted {
            *self.counted.entry(answer.clone()).or_default() += 1;
        }
        Flags::Counted(counted)
    }

    async fn attempts(&self, run: &str, reaches: usize) -> Vec<Attempt> {
        let started = Instant::now();
        while self.world.fleet.attempts(run).len() < reaches && started.elapsed() < UNTIL {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut attempts = self.world.fleet.attempts(run);
        if self.case.order == Order::IsChance {
            attempts.sort_by(|one, other| one.server.cmp(&other.server));
        }
        attempts
    }

    /// The connection of the request before, if it is open.
    async fn connection(&mut self, wanted: Protocol) -> &mut Connection {
        self.connections.retain(|(_, connection)| connection.is_open());
        if !self.connections.iter().any(|(protocol, _)| *protocol == wanted) {
            self.connections.push((wanted, Connection::open(self.plane.outbound, wanted).await));
        }
        let found = self.connections.iter_mut().find(|(protocol, _)| *protocol == wanted);
        found.map(|(_, connection)| connection).expect("it was opened")
    }

    /// On a connection of its own.
    async fn hear_apart(&self, ask: &Ask, run: &str) -> Heard {
        let mut connection = Connection::open(self.plane.outbound, ask.protocol).await;
        hear(&mut connection, ask.call(&self.host, run)).await
    }
}

async fn hear(connection: &mut Connection, call: Call) -> Heard {
    let nothing = |status| Heard { status, headers: http::HeaderMap::new(), trailers: None, body: Ok(Vec::new()) };
    let Ok(Ok(response)) = tokio::time::timeout(ANSWER, connection.begin(call)).await else { return nothing(0) };
    let (head, mut body) = response.into_parts();
    let (mut read, mut trailers, mut is_whole) = (Vec::new(), None, true);
    loop {
        match tokio::time::timeout(ANSWER, body.frame()).await {
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => read.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
            Ok(None) => break,
            Ok(Some(Err(_))) | Err(_) => {
                is_whole = false;
                break;
            }
        }
    }
    let body = if is_whole { Ok(read) } else { Err(read) };
    Heard { status: head.status.as_u16(), headers: head.headers, trailers, body }
}

/// Where the flags of requests that were just made are found.
enum Flags {
    /// By run.
    Logged(BTreeMap<String, String>),
    /// Of those whose answers do not say it by themselves. Not whose they are: only of which status.
    Counted(Vec<(u16, String)>),
}

impl Flags {
    fn take(&mut self, run: &str, heard: &Heard) -> String {
        match self {
            Self::Logged(logged) => logged.remove(run),
            Self::Counted(counted) => said(heard).map(str::to_owned).or_else(|| {
                // Of an answer that never came, the data plane has a status of its own, or none.
                let at = counted.iter().position(|(status, _)| *status == heard.status);
                let at = at.or_else(|| (heard.status == 0 && !counted.is_empty()).then_some(0))?;
                Some(counted.remove(at).1)
            }),
        }
        .unwrap_or_else(|| "?".to_owned())
    }
}

/// The flags that an answer of Leno's itself names.
fn said(heard: &Heard) -> Option<&str> {
    heard.headers.get("x-leno-error")?.to_str().ok()?.split(';').next()
}
