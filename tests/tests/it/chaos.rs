//! Everything breaks at once, for a while, and every request is accounted for.
//!
//! ```text
//! callers ──▶ sidecar ──▶ relay (slow, narrow, cut, closed) ──▶ scripted server (killed, started again)
//!                ▲
//!           leno serve ◀── rules, again and again
//! ```
//!
//! Three services with two endpoints each. Callers send numbered requests, of which the servers write down every attempt,
//! and one hand breaks things, by a seed that is printed. In the end: none was left without an answer; every answer is
//! one that the breaking explains; who heard 200 was served, and by whom he heard; what is not idempotent was done at most
//! once; and when nothing breaks any more, everything works.
//!
//! `LENO_CHAOS_SECONDS` makes it longer, `LENO_CHAOS_SEED` repeats one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use leno_tests::relay::{Faults, Relay};
use leno_tests::scripted::{Attempt, Fleet, Manner, RUN, SCRIPT, Upstream};
use leno_tests::{Call, Connection, Mesh, Protocol, Random, Reply, eventually, full, mesh};
use tokio::task::JoinSet;

const SERVICES: [&str; 3] = ["front", "cart", "stock"];
const CALLERS: usize = 12;

/// What the upstreams are asked to do: mostly to work.
const SCRIPTS: [&str; 8] = ["200", "200", "200", "200 after=20", "trickle", "200 then=close", "503; 200", "reset"];

/// A request that was made, and what came of it.
struct Made {
    run: String,
    is_idempotent: bool,
    script: &'static str,
    heard: Result<Reply, String>,
}

/// One endpoint: a server, and the line to it.
struct Endpoint {
    server: Upstream,
    line: Relay,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_accounted_for_while_everything_breaks() {
    let seconds = number("LENO_CHAOS_SECONDS").unwrap_or(20);
    let seed = number("LENO_CHAOS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("LENO_CHAOS_SEED={seed} LENO_CHAOS_SECONDS={seconds}");
    let fleet = Fleet::new();
    let mut endpoints = Vec::new();
    for (place, service) in SERVICES.iter().enumerate() {
        for version in ["v1", "v2"] {
            let server = fleet.server(&format!("{service}-{version}"), Manner::Obeys).await;
            let line = Relay::to(server.address(), seed.wrapping_add(place as u64)).await;
            endpoints.push(Endpoint { server, line });
        }
    }
    let mut building = mesh().workers(4).rules(&rules(0));
    for (service, pair) in SERVICES.iter().zip(endpoints.chunks(2)) {
        let instances: Vec<_> = ["v1", "v2"].into_iter().zip(pair.iter().map(|it| it.line.address())).collect();
        building = building.service(service, &instances);
    }
    let mesh = building.start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    let counter = Arc::new(AtomicUsize::new(0));
    for caller in 0..CALLERS {
        let random = Random::new(seed.wrapping_mul(31).wrapping_add(caller as u64));
        callers.spawn(call(mesh.outbound(), random, Arc::clone(&counter), Arc::clone(&stop)));
    }
    let breaks = break_things(&mesh, &mut endpoints, seed, Duration::from_secs(seconds)).await;
    stop.store(true, Ordering::Relaxed);
    let made: Vec<Made> = callers.join_all().await.into_iter().flatten().collect();
    heal(&mesh, &mut endpoints).await;
    account(&fleet, &made, &breaks);
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Rules that do no harm, another set with each generation; the last header says which.
fn rules(generation: usize) -> String {
    let mut rules = String::from(
        "apiVersion: leno.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh, namespace: istio-system}\nspec:\n  \
         defaultTrafficPolicy:\n    connectionPool: {tcp: {connectTimeout: 1s}}\n    \
         outlierDetection: {consecutive5xxErrors: 5, interval: 1s, baseEjectionTime: 1s, maxEjectionPercent: 50}\n",
    );
    for (at, service) in SERVICES.iter().enumerate() {
        let weight = (generation * 17 + at * 31) % 101;
        // None that tries again what was sent and may have been done: that would be the rules' doing (as `5xx` and
        // `gateway-error`, which mean resets as well).
        let on = ["connect-failure", "connect-failure,refused-stream,503", "503"][(generation + at) % 3];
        rules += &format!(
            "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {service}, namespace: default}}
spec:
  hosts: [{service}]
  http:
  - timeout: 2s
    retries: {{attempts: 2, retryOn: '{on}'}}
    headers: {{response: {{set: {{x-generation: '{generation}'}}}}}}
    route:
    - {{destination: {{host: {service}, subset: v1}}, weight: {weight}}}
    - {{destination: {{host: {service}, subset: v2}}, weight: {rest}}}
",
            rest = 101 - weight
        );
    }
    rules
}

/// Numbered requests, one after the other, on a connection of its own.
async fn call(
    through: std::net::SocketAddr,
    mut random: Random,
    counter: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> Vec<Made> {
    let mut made = Vec::new();
    let protocol = *random.pick(&Protocol::ALL);
    let mut connection = Connection::open(through, protocol).await;
    while !stop.load(Ordering::Relaxed) {
        if !connection.is_open() {
            connection = Connection::open(through, protocol).await;
        }
        let run = counter.fetch_add(1, Ordering::Relaxed).to_string();
        let (service, script) = (*random.pick(&SERVICES), *random.pick(&SCRIPTS));
        let is_idempotent = random.below(2) == 0;
        let call = match is_idempotent {
            true => Call::get(&format!("http://{service}/{run}")),
            false => Call::new(Method::POST, &format!("http://{service}/{run}")).body(full(vec![b'x'; 3000])),
        };
        let call = call.over(protocol).header(RUN, &run).header(SCRIPT, script);
        let heard = connection.try_send(call).await;
        made.push(Made { run, is_idempotent, script, heard });
    }
    made
}

/// What was broken, and how often.
type Breaks = BTreeMap<&'static str, usize>;

async fn break_things(mesh: &Mesh, endpoints: &mut [Endpoint], seed: u64, long: Duration) -> Breaks {
    let mut random = Random::new(seed);
    let mut breaks = Breaks::new();
    let (started, mut generation) = (Instant::now(), 0);
    while started.elapsed() < long {
        let at = random.below(endpoints.len());
        let endpoint = &mut endpoints[at];
        let millis = |random: &mut Random, most: usize| Duration::from_millis(random.below(most) as u64);
        let what = match random.below(9) {
            0 => {
                endpoint.server.kill();
                "a server is killed"
            }
            1 | 2 => {
                endpoint.server.start().await;
                "a server is started (again)"
            }
            3 => {
                endpoint.line.cut();
                "a line is cut"
            }
            4 => {
                let (latency, jitter) = (millis(&mut random, 60), millis(&mut random, 60));
                endpoint.line.is(Faults { latency, jitter, ..Faults::NONE });
                "a line is slow"
            }
            5 => {
                endpoint.line.is(Faults { loss_per_mille: 20, bandwidth: Some(200_000), ..Faults::NONE });
                "a line is narrow and loses connections"
            }
            6 => {
                endpoint.line.is(Faults { refuses: true, ..Faults::NONE });
                "a line is closed"
            }
            7 => {
                endpoint.line.is(Faults::NONE);
                "a line is good"
            }
            _ => {
                generation += 1;
                mesh.edit(&rules(generation));
                "rules are pushed"
            }
        };
        *breaks.entry(what).or_default() += 1;
        tokio::time::sleep(millis(&mut random, 200)).await;
    }
    breaks
}

/// Everything is as it was; the sidecar has to notice.
async fn heal(mesh: &Mesh, endpoints: &mut [Endpoint]) {
    for endpoint in endpoints {
        endpoint.line.is(Faults::NONE);
        endpoint.server.start().await;
    }
    mesh.edit(&rules(1000));
    for service in SERVICES {
        let url = format!("http://{service}/");
        eventually(&format!("{service} is well again"), async || {
            for _ in 0..20 {
                let reply = Call::get(&url).header(RUN, "healed").try_send(mesh.outbound()).await?;
                let generation = reply.header("x-generation").to_owned();
                if (reply.status, generation.as_str()) != (200, "1000") {
                    return Err(format!("{} {} {generation}", reply.status, reply.header("x-leno-error")));
                }
            }
            Ok(())
        })
        .await;
    }
    eventually("nothing is counted as under way", async || {
        let active = leno_tests::metric(&mesh.client.metrics().await, "active_requests", &[]);
        if active == 0.0 { Ok(()) } else { Err(format!("{active} requests")) }
    })
    .await;
    let panics = leno_tests::metric(&mesh.client.metrics().await, "leno_panics_total", &[]);
    assert_eq!(panics, 0.0);
}

/// Prints what happened how often, and fails on what nothing explains.
fn account(fleet: &Fleet, made: &[Made], breaks: &Breaks) {
    let mut attempts: BTreeMap<String, Vec<Attempt>> = BTreeMap::new();
    for attempt in fleet.all() {
        attempts.entry(attempt.run.clone()).or_default().push(attempt);
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for made in made {
        let seen = attempts.get(&made.run).map(Vec::as_slice).unwrap_or_default();
        let mut what = outcome(&made.heard);
        if what.starts_with("no answer") && !seen.is_empty() {
            "broken off as it began".clone_into(&mut what);
        }
        if let Some(why) = complaint(made, &what, seen) {
            wrong.push(format!("request {} (`{}`): {what}: {why}", made.run, made.script));
        }
        *counts.entry(what).or_default() += 1;
    }
    eprintln!("{} requests, {} attempts", made.len(), attempts.values().map(Vec::len).sum::<usize>());
    for (what, count) in breaks {
        eprintln!("{count:>7} times {what}");
    }
    for (what, count) in &counts {
        eprintln!("{count:>7} requests: {what}, {}", explanation(what).unwrap_or("which nothing explains"));
    }
    assert!(wrong.is_empty(), "{} of {} requests:\n{}", wrong.len(), made.len(), wrong.join("\n"));
    // Not a share: while all endpoints are out, refusals come as fast as callers can ask.
    assert!(counts.get("200 -").is_some_and(|well| *well >= 100), "hardly anything worked at all");
}

/// Status and flag, or how it broke off.
fn outcome(heard: &Result<Reply, String>) -> String {
    match heard {
        Ok(reply) => {
            let flag = Some(reply.flag()).filter(|flag| !flag.is_empty()).unwrap_or("-");
            format!("{} {flag}", reply.status)
        }
        Err(why) if why.contains("and then") => "broken off".to_owned(),
        Err(why) => format!("no answer: {why}"),
    }
}

/// After retries it is the last attempt's end.
fn explanation(what: &str) -> Option<&'static str> {
    Some(match what.replace("URX,", "").as_str() {
        "200 -" => "served",
        "503 -" => "the server's own answer, passed on",
        "503 UF" => "the endpoint was away, or its line closed",
        "503 UC" => "the line was cut, or the server died or hung up, before an answer",
        "503 UH" => "all endpoints of the subset were left out",
        "503 URX" | "503 UO" => "tried as often as allowed",
        "504 UT" => "the route's two seconds were over",
        "broken off as it began" => "the same, before the answer's head had left the sidecar",
        "broken off" => "the line was cut, or the server died, in the middle of the answer",
        _ => return None,
    })
}

/// What is wrong with a request, if anything.
fn complaint(made: &Made, what: &str, seen: &[Attempt]) -> Option<String> {
    if explanation(what).is_none() {
        return Some("nothing explains it".to_owned());
    }
    let again = seen.iter().filter(|attempt| attempt.number > 0).count();
    // `503; 200` asks to be tried again: the server says that it did nothing.
    if !made.is_idempotent && made.script != "503; 200" && again > 0 {
        return Some(format!("it is not idempotent, and arrived {} times", seen.len()));
    }
    let Ok(reply) = &made.heard else { return None };
    if what == "200 -" && seen.last().is_none_or(|last| last.server != reply.text()) {
        return Some(format!("`{}` was heard, and not of the last who was asked", reply.text()));
    }
    None
}
