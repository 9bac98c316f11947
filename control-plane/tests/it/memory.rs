//! What an idle proxy costs. The figure goes to stderr; the test holds its order of magnitude.

use std::fmt::Write as _;

use crate::client::Client;
use crate::process::{Place, Serve};

/// As many proxies as are connected.
const PROXIES: usize = 500;
/// As many services as each of them knows.
const SERVICES: usize = 300;
/// Resident memory per proxy in a debug build: connection, stream, and what the session remembers of 300 clusters, 300
/// sets of endpoints, a listener and a route table. The resources themselves are shared.
const MOST_PER_PROXY: usize = 120 << 10;

#[tokio::test]
async fn a_thousand_idle_proxies_are_cheap() {
    let place = Place::new();
    let mut rules = String::new();
    for service in 0..SERVICES {
        write!(
            rules,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: s{service}}}\nspec:\n  \
             hosts: [service-{service}.example.com]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  \
             resolution: STATIC\n  endpoints: [{{address: 127.0.0.1}}]\n"
        )
        .unwrap();
    }
    place.write("services.yaml", &rules);
    let mut serve = place.serve();
    serve.waits_for("rules in force");
    let mut first = Client::connect(serve.xds, "first").await;
    assert!(first.everything().await.len() > 2 * SERVICES);
    let before = resident(&serve);
    let mut proxies = Vec::new();
    for index in 0..PROXIES {
        let mut client = Client::connect(serve.xds, &format!("proxy-{index}")).await;
        client.everything().await;
        proxies.push(client);
    }
    let per_proxy = resident(&serve).saturating_sub(before) / PROXIES;
    eprintln!("memory of the control plane per idle proxy with {SERVICES} services: {} KiB", per_proxy >> 10);
    assert!(per_proxy < MOST_PER_PROXY, "{per_proxy} bytes");
}

/// Bytes of resident memory.
fn resident(serve: &Serve) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", serve.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}
