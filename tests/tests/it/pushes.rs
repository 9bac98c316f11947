//! Many pushes under load: what is numbered arrives once.

use std::collections::BTreeMap;

use leno_tests::{Recorded, eventually, free_port, mesh, origin};

use crate::load::{Load, NUMBER};

const PUSHES: usize = 50;

/// Each push changes the split and a header, adds a service and takes the one before away, so that every kind of
/// resource comes and goes.
fn rules(push: usize, somewhere: u16) -> String {
    let weight = 10 + push % 9 * 10;
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: app}}
spec:
  hosts: [app]
  http:
  - headers: {{response: {{set: {{x-push: \"{push}\"}}}}}}
    route:
    - destination: {{host: app, subset: v1}}
      weight: {weight}
    - destination: {{host: app, subset: v2}}
      weight: {}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: passing-{push}}}
spec:
  hosts: [passing-{push}.example.com]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {somewhere}}}}}]
",
        100 - weight
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_pushes_lose_no_request_and_double_none() {
    for workers in [1, 4] {
        let (v1, v2) = (origin("v1").await, origin("v2").await);
        let somewhere = free_port();
        let instances = [("v1", v1.address()), ("v2", v2.address())];
        let mesh = mesh().service("app", &instances).workers(workers).rules(&rules(0, somewhere)).start().await;
        let load = Load::start(mesh.outbound(), "http://app/", 4);
        for push in 1..=PUSHES {
            mesh.edit(&rules(push, somewhere));
            let expected = push.to_string();
            eventually("the push is in force", async || {
                let seen = mesh.get("http://app/").await.header("x-push").to_owned();
                if seen == expected { Ok(()) } else { Err(format!("push {seen}, not {expected}")) }
            })
            .await;
        }
        load.flows(100).await;
        let totals = load.stop().await;
        totals.must_be_flawless();

        let mut arrived = BTreeMap::<usize, usize>::new();
        let numbered = |request: &Recorded| request.header(NUMBER).parse::<usize>().ok();
        for number in v1.requests().iter().chain(&v2.requests()).filter_map(numbered) {
            *arrived.entry(number).or_default() += 1;
        }
        let doubled: Vec<_> = arrived.iter().filter(|(_, times)| **times != 1).collect();
        assert!(doubled.is_empty(), "arrived more than once: {doubled:?}");
        let lost: Vec<_> = totals.numbers.iter().filter(|number| !arrived.contains_key(number)).collect();
        assert!(lost.is_empty(), "answered and never arrived: {lost:?}");
        assert_eq!(arrived.len(), totals.numbers.len());
    }
}
