//! Profile `safe`: what a path must not hold, what a rule opts out of, and header names with underscores.

use leno_tests::{Call, mesh};

use super::origin::Origin;

const RULES: &str = r#"
apiVersion: leno.mesh/v1alpha1
kind: MeshConfig
metadata: {name: mesh, namespace: istio-system}
spec: {profile: safe}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: shop
  namespace: default
  annotations: {leno.mesh/allow-in-path: "; files=%2f"}
spec:
  hosts: [shop.default.svc.cluster.local]
  http:
    - name: files
      match: [{uri: {prefix: /files/}}]
      route: [{destination: {host: shop.default.svc.cluster.local}}]
    - name: rest
      route: [{destination: {host: shop.default.svc.cluster.local}}]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_takes_in_its_path_what_its_rule_allows_and_nothing_more() {
    let origin = Origin::start().await;
    let mesh = mesh().service("shop", &[("v1", origin.address())]).rules(RULES).start().await;
    let rows = [
        ("/a", Some("/a")),
        ("/a;b", Some("/a;b")),
        ("/a%2fb", None),
        ("/files/a%2fb", Some("/files/a%2Fb")),
        ("/files/a;b%2F", Some("/files/a;b%2F")),
        ("/files/a%5cb", None),
        ("/a%5Cb", None),
        ("/files/../a%2fb", None),
    ];
    for (path, expected) in rows {
        origin.take();
        let call = Call::get(&format!("http://shop{path}")).header("x_role", "admin").header("x-kept", "1");
        let reply = call.send(mesh.outbound()).await;
        let seen: Vec<String> = origin.take().into_iter().map(super::wire::describe).collect();
        match expected {
            None => assert_eq!((reply.status, seen), (400, vec![]), "{path}"),
            Some(canonical) => {
                assert_eq!((reply.status, seen.len()), (200, 1), "{path}: {seen:?}");
                assert!(seen[0].starts_with(&format!("GET {canonical}\n")), "{path}: {seen:?}");
                assert!(seen[0].contains("x-kept: 1") && !seen[0].contains("x_role"), "{path}: {seen:?}");
            }
        }
    }
}
