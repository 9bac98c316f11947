//! What becomes of a request that a route has taken.

use http::Method;
use leno_tests::{Call, Mesh, Origin, Protocol, Recorded, eventually, free_port, mesh, origin};

/// A mesh with service `app`, whose VirtualService has this `http:` list.
async fn routed(app: &Origin, http: &str) -> Mesh {
    let rules = format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: app}}
spec:
  hosts: [app]
  http:{http}"
    );
    mesh().service("app", &[("v1", app.address())]).rules(&rules).start().await
}

async fn seen_after(mesh: &Mesh, app: &Origin, call: Call) -> Recorded {
    let reply = mesh.send(call).await;
    assert_eq!(reply.status, 200, "{} {}", reply.text(), reply.header("x-leno-error"));
    app.last()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_are_rewritten_and_queries_stay() {
    let app = origin("app").await;
    let mesh = routed(
        &app,
        r#"
  - match: [{uri: {prefix: /old/}}]
    rewrite: {uri: /new/}
    route: [{destination: {host: app}}]
  - match: [{uri: {exact: /one}}]
    rewrite: {uri: /two}
    route: [{destination: {host: app}}]
  - match: [{uri: {prefix: /re}}]
    rewrite: {uriRegexRewrite: {match: "/re/([a-z]+)/(.*)", rewrite: "/\\2/\\1"}}
    route: [{destination: {host: app}}]
  - match: [{uri: {prefix: /host}}]
    rewrite: {authority: elsewhere.example.com}
    route: [{destination: {host: app}}]
  - route: [{destination: {host: app}}]
"#,
    )
    .await;
    for (asked, path) in [
        ("/old/a?b=c&d", "/new/a?b=c&d"),
        ("/one?x", "/two?x"),
        ("/re/users/12?q=1", "/12/users?q=1"),
        ("/untouched?q", "/untouched?q"),
        ("/a/../b/./c", "/b/c"),
    ] {
        let seen = seen_after(&mesh, &app, Call::get(&format!("http://app{asked}"))).await;
        assert_eq!(seen.path, path, "{asked}");
        assert_eq!(seen.host, "app", "{asked}");
    }
    let seen = seen_after(&mesh, &app, Call::get("http://app/host")).await;
    assert_eq!(seen.host, "elsewhere.example.com");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_name_the_new_place_and_keep_the_query() {
    let app = origin("app").await;
    let mesh = routed(
        &app,
        "
  - match: [{uri: {exact: /a}}]
    redirect: {uri: /b}
  - match: [{uri: {exact: /c}}]
    redirect: {authority: other.example.com, scheme: https, redirectCode: 308}
  - match: [{uri: {exact: /d}}]
    redirect: {uri: /e, redirectCode: 302, port: 8080}
",
    )
    .await;
    for (path, status, location) in [
        ("/a?x=1", 301, "http://app/b?x=1"),
        ("/c?x=1", 308, "https://other.example.com/c?x=1"),
        ("/d", 302, "http://app:8080/e"),
    ] {
        let reply = mesh.get(&format!("http://app{path}")).await;
        assert_eq!((reply.status, reply.header("location")), (status, location), "{path}");
    }
    assert_eq!(app.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_are_set_added_and_removed_on_both_ways() {
    let app = Origin::answering(|_| {
        http::Response::builder()
            .header("x-secret", "1")
            .header("x-kept", "app")
            .body(leno_tests::full("ok"))
            .expect("valid headers")
    })
    .await;
    let mesh = routed(
        &app,
        r#"
  - match: [{uri: {exact: /split}}]
    headers:
      request: {add: {x-add: route}}
    route:
    - destination: {host: app, subset: v1}
      weight: 1
      headers:
        request: {add: {x-add: share}}
    - destination: {host: app}
      weight: 0
  - headers:
      request: {set: {x-set: route}, add: {x-add: route}, remove: [x-gone]}
      response: {set: {x-by: mesh}, remove: [x-secret]}
    route:
    - destination: {host: app}
      headers:
        request: {add: {x-add: destination}}
"#,
    )
    .await;
    let call = Call::get("http://app/").header("x-set", "caller").header("x-add", "caller").header("x-gone", "1");
    let reply = mesh.send(call).await;
    let seen = app.last();
    assert_eq!(seen.headers.get_all("x-set").iter().collect::<Vec<_>>(), ["route"]);
    assert_eq!(seen.headers.get_all("x-add").iter().collect::<Vec<_>>(), ["caller", "route", "destination"]);
    assert!(!seen.headers.contains_key("x-gone"));
    assert_eq!((reply.header("x-by"), reply.header("x-kept")), ("mesh", "app"));
    assert!(!reply.headers.contains_key("x-secret"));
    mesh.send(Call::get("http://app/split").header("x-add", "caller")).await;
    let added: Vec<_> = app.last().headers.get_all("x-add").iter().cloned().collect();
    assert_eq!(added, ["caller", "share", "route"], "of several destinations, each has its own before the route's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hop_by_hop_headers_stay_on_their_hop() {
    let app = origin("app").await;
    let mesh = routed(&app, "\n  - route: [{destination: {host: app}}]\n").await;
    let call = Call::get("http://app/")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("keep-alive", "timeout=5")
        .header("proxy-connection", "keep-alive")
        .header("te", "gzip")
        .header("x-end-to-end", "1");
    let seen = seen_after(&mesh, &app, call).await;
    for gone in ["x-hop", "keep-alive", "proxy-connection", "te", "connection"] {
        assert!(!seen.headers.contains_key(gone), "{gone} reached the app: {:?}", seen.headers);
    }
    assert_eq!(seen.header("x-end-to-end"), "1");
    assert_eq!(seen.header("x-request-id").len(), 36, "a request has an id (UUID)");
    assert_eq!(seen.header("x-forwarded-proto"), "http");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preflights_are_answered_by_the_policy_and_others_are_forwarded() {
    let app = origin("app").await;
    let mesh = routed(
        &app,
        "
  - corsPolicy:
      allowOrigins: [{exact: https://shop.example.com}]
      allowMethods: [GET, PUT]
      allowHeaders: [x-token]
      maxAge: 60s
      allowCredentials: true
    route: [{destination: {host: app}}]
",
    )
    .await;
    let preflight = |origin: &'static str| {
        let headers = [("origin", origin), ("access-control-request-method", "PUT")];
        let mesh = &mesh;
        async move { mesh.ask(Method::OPTIONS, "http://app/", &headers).await }
    };
    let allowed = preflight("https://shop.example.com").await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.header("access-control-allow-origin"), "https://shop.example.com");
    assert_eq!(allowed.header("access-control-allow-methods").replace(' ', ""), "GET,PUT");
    assert_eq!(allowed.header("access-control-max-age"), "60");
    assert_eq!(allowed.header("access-control-allow-credentials"), "true");
    assert_eq!(app.count(), 0, "an answered preflight is not forwarded");
    let foreign = preflight("https://evil.example.com").await;
    assert_eq!(foreign.header("access-control-allow-origin"), "");
    assert_eq!(app.count(), 1, "a preflight that matches nothing is forwarded (Istio's default)");
    let plain = mesh.ask(Method::GET, "http://app/", &[("origin", "https://shop.example.com")]).await;
    assert_eq!(plain.header("access-control-allow-origin"), "https://shop.example.com");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_answers_to_all_its_names_with_and_without_port() {
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).start().await;
    let names = ["app", "app.default", "app.default.svc", "app.default.svc.cluster.local", "APP.Default"];
    for protocol in Protocol::ALL {
        for name in names {
            for port in ["", ":80"] {
                let reply = mesh.send(Call::get(&format!("http://{name}{port}/")).over(protocol)).await;
                assert_eq!((reply.status, reply.text().as_str()), (200, "app"), "{protocol:?} {name}{port}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absolute_form_request_goes_where_its_line_says() {
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).start().await;
    let request = "GET http://app/path?q HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n";
    let answer = leno_tests::raw::exchange(mesh.outbound(), request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = app.last();
    assert_eq!((seen.host.as_str(), seen.path.as_str()), ("app", "/path?q"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_hosts_are_called_or_refused_as_the_policy_says() {
    let outside = origin("outside").await;
    let app = origin("app").await;
    let url = format!("http://localhost:{}/", outside.address().port());
    let policy = |mode: &str| {
        format!(
            "apiVersion: leno.mesh/v1alpha1
kind: MeshConfig
metadata: {{name: mesh}}
spec:
  outboundTrafficPolicy: {{mode: {mode}}}
"
        )
    };
    let mesh = mesh().service("app", &[("v1", app.address())]).rules(&policy("ALLOW_ANY")).start().await;
    assert_eq!(mesh.get(&url).await.text(), "outside");
    let nowhere = mesh.get(&format!("http://localhost:{}/", free_port())).await;
    assert_eq!((nowhere.status, nowhere.flag()), (503, "UF"));
    let own_listener = mesh.get(&format!("http://127.0.0.1:{}/", mesh.outbound().port())).await;
    assert_eq!((own_listener.status, own_listener.flag()), (502, "LR"), "the sidecar does not call itself");
    mesh.edit(&policy("REGISTRY_ONLY"));
    eventually("the host is refused", async || match mesh.get(&url).await.status {
        502 => Ok(()),
        status => Err(status.to_string()),
    })
    .await;
    let calls = outside.count();
    assert_eq!((mesh.get(&url).await.status, outside.count()), (502, calls));
    assert_eq!(mesh.get("http://app/").await.text(), "app");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_outside_the_mesh_is_found_by_its_name() {
    let (app, outside) = (origin("app").await, origin("outside").await);
    let rules = format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: outside}}
spec:
  hosts: [outside.example.com]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: localhost, ports: {{http: {}}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: any}}
spec:
  hosts: [\"*.example.com\"]
  http: [{{directResponse: {{status: 200, body: {{string: wildcard}}}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: outside}}
spec:
  hosts: [outside.example.com]
  http: [{{route: [{{destination: {{host: outside.example.com}}}}]}}]
",
        outside.address().port()
    );
    let mesh = mesh().service("app", &[("v1", app.address())]).rules(&rules).start().await;
    // Its name is looked up beside the configuration; until then it has no endpoint.
    mesh.answers("http://outside.example.com/", "outside").await;
    assert_eq!(outside.last().host, "outside.example.com");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delegate_refines_its_root() {
    let app = origin("app").await;
    let rules = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: root}
spec:
  hosts: [app]
  http:
  - match: [{uri: {prefix: /shop}}]
    delegate: {name: shop}
  - directResponse: {status: 200, body: {string: root}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  http:
  - match: [{uri: {prefix: /shop/cart}}]
    directResponse: {status: 200, body: {string: cart}}
  - directResponse: {status: 200, body: {string: shop}}
";
    let mesh = mesh().service("app", &[("v1", app.address())]).rules(rules).start().await;
    for (path, answer) in [("/shop/cart/1", "cart"), ("/shop", "shop"), ("/", "root")] {
        assert_eq!(mesh.get(&format!("http://app{path}")).await.text(), answer, "{path}");
    }
}
