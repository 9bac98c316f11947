//! Weighted splits, within what chance explains.

use std::collections::BTreeMap;

use leno_tests::{Call, Connection, Mesh, Origin, Protocol, eventually, mesh, origin};

const REQUESTS: u32 = 2000;

/// Standard deviations that a count may be off; chance goes further once in 16 000 checks. The sidecars' random numbers
/// have a fixed seed: what holds once holds always.
const SIGMAS: f64 = 4.0;

async fn start(workers: usize, origins: &[(&str, &Origin)], shares: &[(&str, u32)]) -> Mesh {
    let instances: Vec<_> = origins.iter().map(|(version, origin)| (*version, origin.address())).collect();
    mesh().service("app", &instances).workers(workers).rules(&rules(shares)).start().await
}

/// The rules name their shares in a header of every answer, so that the test sees when they are in force.
fn rules(shares: &[(&str, u32)]) -> String {
    let share = |(subset, weight): &(&str, u32)| {
        format!("    - destination: {{host: app, subset: {subset}}}\n      weight: {weight}\n")
    };
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: app}}
spec:
  hosts: [app]
  http:
  - headers: {{response: {{set: {{x-shares: \"{}\"}}}}}}
    route:
{}",
        title(shares),
        shares.iter().map(share).collect::<String>()
    )
}

fn title(shares: &[(&str, u32)]) -> String {
    shares.iter().map(|(subset, weight)| format!("{subset}={weight}")).collect::<Vec<_>>().join(" ")
}

/// Sends requests on a few connections of both protocols and counts the answers.
async fn observe(mesh: &Mesh) -> BTreeMap<String, u32> {
    let mut seen = BTreeMap::new();
    let mut connections = Vec::new();
    for number in 0..8 {
        connections.push(Connection::open(mesh.outbound(), Protocol::ALL[number % 2]).await);
    }
    for number in 0..REQUESTS as usize {
        let connection = &mut connections[number % 8];
        let reply = connection.send(Call::get("http://app/")).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        *seen.entry(reply.text()).or_default() += 1;
    }
    seen
}

fn must_agree(seen: &BTreeMap<String, u32>, shares: &[(&str, u32)]) {
    let total: u32 = shares.iter().map(|(_, weight)| weight).sum();
    for (version, weight) in shares {
        let share = f64::from(*weight) / f64::from(total);
        let expected = f64::from(REQUESTS) * share;
        let allowed = SIGMAS * (expected * (1.0 - share)).sqrt();
        let count = f64::from(seen.get(*version).copied().unwrap_or_default());
        assert!((count - expected).abs() <= allowed, "{version}: {count}, expected {expected} ± {allowed}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_split_as_the_weights_say() {
    let (v1, v2, v3) = (origin("v1").await, origin("v2").await, origin("v3").await);
    for workers in [1, 4] {
        let cases: [&[(&str, u32)]; 5] = [
            &[("v1", 80), ("v2", 20)],
            &[("v1", 99), ("v2", 1)],
            // They need not add up to 100.
            &[("v1", 1), ("v2", 1), ("v3", 2)],
            // Nothing means nothing.
            &[("v1", 0), ("v2", 100)],
            // A single destination gets everything, whatever its weight.
            &[("v3", 7)],
        ];
        for case in cases {
            let mesh = start(workers, &[("v1", &v1), ("v2", &v2), ("v3", &v3)], case).await;
            must_agree(&observe(&mesh).await, case);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_follows_the_rules_when_they_are_edited() {
    let (v1, v2) = (origin("v1").await, origin("v2").await);
    for workers in [1, 4] {
        let (before, after) = ([("v1", 80), ("v2", 20)], [("v1", 20), ("v2", 80)]);
        let mesh = start(workers, &[("v1", &v1), ("v2", &v2)], &before).await;
        must_agree(&observe(&mesh).await, &before);
        mesh.edit(&rules(&after));
        eventually("the shares are in force", async || {
            let seen = mesh.get("http://app/").await.header("x-shares").to_owned();
            if seen == title(&after) { Ok(()) } else { Err(seen) }
        })
        .await;
        must_agree(&observe(&mesh).await, &after);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_rules_every_instance_gets_its_part() {
    let (v1, v2) = (origin("v1").await, origin("v2").await);
    let mesh = mesh().service("app", &[("v1", v1.address()), ("v2", v2.address())]).start().await;
    let seen = observe(&mesh).await;
    // Least request among idle instances is a fair coin.
    must_agree(&seen, &[("v1", 1), ("v2", 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_robin_visits_the_instances_in_turn() {
    let (v1, v2) = (origin("v1").await, origin("v2").await);
    let rules = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: in-turn}
spec:
  host: app
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}
";
    let mesh = mesh().service("app", &[("v1", v1.address()), ("v2", v2.address())]).rules(rules).start().await;
    let seen = observe(&mesh).await;
    assert_eq!(seen.values().copied().collect::<Vec<_>>(), [REQUESTS / 2; 2], "{seen:?}");
}
