//! AuthorizationPolicies at a workload's door.

use leno_tests::pki::{Authority, Leaf};
use leno_tests::{Call, Protocol, Sidecar, Speaks, eventually, metric, origin, raw, sidecar};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::mtls::Caller;

/// A policy for the workload under test, by its `spec`.
fn policy(name: &str, annotations: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: default, annotations: {{{annotations}}}}}\nspec: {spec}\n---\n"
    )
}

const DENY_ADMIN: &str = "{action: DENY, rules: [{to: [{operation: {paths: [/admin, /admin/*]}}]}]}";

async fn in_front_of(app: &leno_tests::Origin, rules: &str) -> Sidecar {
    sidecar(app.address(), rules).start().await
}

#[tokio::test]
async fn a_denied_request_is_told_so_and_never_reaches_the_app() {
    let app = origin("shop").await;
    for workers in [1, 4] {
        let shop = sidecar(app.address(), &policy("closed", "", DENY_ADMIN)).workers(workers).start().await;
        for protocol in Protocol::ALL {
            app.forget();
            assert_eq!(Call::get("http://shop/a").over(protocol).send(shop.address()).await.status, 200);
            let reply = Call::get("http://shop/admin/users?x=1").over(protocol).send(shop.address()).await;
            assert_eq!((reply.status, reply.text().as_str(), reply.flag()), (403, "RBAC: access denied", "UAEX"));
            assert!(!reply.header("x-leno-error").contains("closed"), "the caller does not learn which policy it was");
            assert_eq!(app.count(), 1);
        }
        let call = Call::get("http://shop/admin/x").header("content-type", "application/grpc").over(Protocol::Http2);
        let reply = call.send(shop.address()).await;
        assert_eq!(
            (reply.status, reply.header("grpc-status"), reply.header("grpc-message")),
            (200, "7", "RBAC: access denied")
        );

        let metrics = shop.proxy.metrics().await;
        assert_eq!(metric(&metrics, "leno_authorization_denied_total", &["kind=\"request\""]), 3.0);
        assert_eq!(metric(&metrics, "http_requests_total", &["response_flags=\"UAEX\""]), 3.0);
        let log = shop.log();
        let line = log.lines().find(|line| line.contains("ns[default]-policy[closed]-rule[0]"));
        let line = line.unwrap_or_else(|| panic!("no line names the policy:\n{log}"));
        assert!(line.contains("/admin/users") && line.contains("127.0.0.1") && !line.contains("x=1"), "{line}");
    }
}

/// Whatever is written on the request line: a request either does not get through, or the app is asked for something that
/// the rule does not protect. The app here takes paths as they are; what it would decode further is not the rule's.
#[tokio::test]
async fn no_spelling_of_a_path_gets_past_a_rule() {
    let app = origin("shop").await;
    let shop = in_front_of(&app, &policy("closed", "", DENY_ADMIN)).await;
    let targets = [
        "/admin",
        "/admin/",
        "/admin/users",
        "/admin?x",
        "/admin#x",
        "/./admin",
        "/x/../admin",
        "/x/./../admin/users",
        "/%61dmin",
        "/%61%64%6d%69%6e",
        "/admi%6E/users",
        "/x/%2e%2e/admin",
        "/x/%2E./admin",
        "/x/.%2e/admin",
        "/%2e/admin",
        "//admin",
        "///admin/users",
        "/admin//users",
        "/x//../admin",
        "/x/..//admin",
        "/admin/../admin",
        "/admin/.",
        "/admin/..",
        "/ADMIN",
        "/Admin",
        "/aDmin/users",
        "/admin;x",
        "/admin;/users",
        "/;/admin",
        "/x;/../admin",
        "/admin%3bx",
        "/admin%2fusers",
        "/admin%2Fusers",
        "/%2fadmin",
        "/x%2f..%2fadmin",
        "/x/..%2fadmin",
        "/admin%00",
        "/admin%",
        "/admin%zz",
        "/admin%5cusers",
        "/admin\\users",
        "/\\admin",
        "/x/..\\admin",
        "/admin%20",
        "/admin%09",
        "/admin.",
        "/..%61dmin",
        "/%2561dmin",
        "/admin/%2e%2e/x",
        "http://shop/admin",
        "http://shop/x/../admin",
        "HTTP://shop/%61dmin",
        "/..",
        "/../admin",
        "/../../admin/",
        "/x/%2e%2e/%2e%2e/admin",
        "/.//admin",
        "/admin/./",
        "/adm%69n/%75sers",
    ];
    let (mut through, mut stopped) = (0, 0);
    for target in targets {
        app.forget();
        let request = format!("GET {target} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n");
        let answer = raw::exchange(shop.address(), request.as_bytes()).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        match app.requests().as_slice() {
            [] => {
                stopped += 1;
                assert!(matches!(status, "403" | "400"), "{target}: {answer}");
            }
            [seen] => {
                through += 1;
                let path = seen.path.split('?').next().unwrap_or_default();
                assert!(path != "/admin" && !path.starts_with("/admin/"), "{target} reached the app as {path}");
                assert!(!path.split('/').any(|part| part == ".." || part == "."), "{target} reached the app as {path}");
                assert_eq!(status, "200", "{target}");
            }
            more => panic!("{target} became {} requests", more.len()),
        }
    }
    assert!(through > 10 && stopped > 20, "both happen: {through} {stopped}");
}

#[tokio::test]
async fn what_an_allow_policy_does_not_name_is_denied() {
    let app = origin("shop").await;
    let spec = "{rules: [{to: [{operation: {methods: [GET], paths: ['/items/{*}', /public*]}}], \
                when: [{key: 'request.headers[x-team]', values: [red, blue]}]}]}";
    let shop = in_front_of(&app, &policy("open", "", spec)).await;
    let rows: [(&str, &[&str], u16); 10] = [
        ("GET /items/7", &["x-team: red"], 200),
        ("GET /public/a/b", &["x-team: blue"], 200),
        ("GET /items/7/8", &["x-team: red"], 403),
        ("POST /items/7", &["x-team: red"], 403),
        ("GET /items/7", &["x-team: green"], 403),
        ("GET /items/7", &[], 403),
        ("GET /items/7", &["x-team: red", "x-team: green"], 403),
        ("GET /items/7", &["x-team: green", "x-team: red"], 403),
        ("OPTIONS /items/7", &["x-team: red", "origin: http://a", "access-control-request-method: GET"], 403),
        ("GET /nowhere", &["x-team: red"], 403),
    ];
    for (line, headers, status) in rows {
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let request = format!("{line} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n{headers}\r\n");
        let answer = raw::exchange(shop.address(), request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}{answer}");
    }
    let hidden = "GET /items/7 HTTP/1.1\r\nhost: shop\r\nconnection: close, x-team\r\nx-team: red\r\n\r\n";
    let answer = raw::exchange(shop.address(), hidden.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "a header that the app would not get: {answer}");

    shop.edit(&policy("nobody", "", "{}"));
    eventually("nobody is allowed any more", async || {
        let reply = Call::get("http://shop/items/7").header("x-team", "red").try_send(shop.address()).await?;
        if reply.status == 403 { Ok(()) } else { Err(reply.text()) }
    })
    .await;
}

#[tokio::test]
async fn a_dry_run_denies_nothing_and_says_what_it_would() {
    let app = origin("shop").await;
    let rules = policy("tried", "istio.io/dry-run: 'true'", DENY_ADMIN);
    let shop = in_front_of(&app, &rules).await;
    for path in ["/a", "/admin"] {
        assert_eq!(Call::get(&format!("http://shop{path}")).send(shop.address()).await.status, 200);
    }
    let metrics = shop.proxy.metrics().await;
    assert_eq!(metric(&metrics, "leno_authorization_would_deny_total", &[]), 1.0);
    assert_eq!(metric(&metrics, "leno_authorization_denied_total", &[]), 0.0);
    let log = shop.log();
    assert!(log.lines().any(|line| line.contains("would deny") && line.contains("policy[tried]")), "{log}");
}

#[tokio::test]
async fn an_audit_is_a_line_in_the_log_and_custom_is_a_refusal_with_a_reason() {
    let app = origin("shop").await;
    let audit = policy("watch", "", "{action: AUDIT, rules: [{to: [{operation: {paths: [/watched]}}]}]}");
    let custom =
        policy("ask", "", "{action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {paths: [/asked]}}]}]}");
    let shop = in_front_of(&app, &format!("{audit}{custom}")).await;
    assert_eq!(Call::get("http://shop/watched").send(shop.address()).await.status, 200);
    let log = shop.log();
    assert!(log.lines().any(|line| line.contains("audited") && line.contains("policy[watch]")), "{log}");
    assert_eq!(metric(&shop.proxy.metrics().await, "leno_authorization_audited_total", &[]), 1.0);
    let reply = Call::get("http://shop/asked").send(shop.address()).await;
    assert_eq!((reply.status, reply.flag()), (403, "UAEX"));
    assert!(reply.header("x-leno-error").contains("CUSTOM"), "{}", reply.header("x-leno-error"));
}

#[tokio::test]
async fn a_tcp_caller_that_is_denied_is_closed_before_the_app_is_called() {
    let app = raw::Server::greeting("hello ").await;
    let rules = policy("http-only", "", "{action: DENY, rules: [{to: [{operation: {paths: [/x]}}]}]}");
    let shop = sidecar(app.address(), &rules).speaks(Speaks::Tcp).start().await;
    assert_eq!(raw::exchange(shop.address(), b"ping").await, "", "a field of HTTP counts as matching in a DENY rule");
    assert_eq!(app.connections(), 0);
    assert_eq!(metric(&shop.proxy.metrics().await, "leno_authorization_denied_total", &["kind=\"connection\""]), 1.0);

    shop.edit(&policy("local", "", "{rules: [{from: [{source: {ipBlocks: [127.0.0.0/8]}}]}]}"));
    let mut stream = eventually("the caller is let in and greeted", async || {
        let mut stream = raw::connect(shop.address()).await;
        stream.write_all(b"me").await.map_err(|error| error.to_string())?;
        let mut greeting = [0; 8];
        stream.read_exact(&mut greeting).await.map_err(|error| error.to_string())?;
        assert_eq!(&greeting, b"hello me");
        Ok(stream)
    })
    .await;
    assert_eq!(raw::round_trip(&mut stream, b"ping").await, b"ping");

    shop.edit(&policy("elsewhere", "", "{rules: [{from: [{source: {ipBlocks: [192.0.2.0/24]}}]}]}"));
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(leno_tests::PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection that is no longer allowed ends");
}

#[tokio::test]
async fn who_calls_is_what_the_certificate_says() {
    let (app, authority) = (origin("shop").await, Authority::new("root"));
    let spec = "{rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/cart]}}]}, \
                {from: [{source: {namespaces: [ops]}}], to: [{operation: {paths: [/status]}}]}]}";
    let shop = sidecar(app.address(), &policy("cart-only", "", spec))
        .identity(&authority, "spiffe://cluster.local/ns/default/sa/shop")
        .start()
        .await;
    let rows = [
        ("spiffe://cluster.local/ns/default/sa/cart", "/a", "200"),
        ("spiffe://cluster.local/ns/default/sa/cart2", "/a", "403"),
        ("spiffe://cluster.local/ns/default/sa/Cart", "/a", "403"),
        ("spiffe://cluster.local/ns/other/sa/cart", "/a", "403"),
        ("spiffe://cluster.local/ns/ops/sa/probe", "/status", "200"),
        ("spiffe://cluster.local/ns/ops/sa/probe", "/a", "403"),
        ("spiffe://cluster.local/ns/opsx/sa/probe", "/status", "403"),
    ];
    for (id, path, status) in rows {
        let mut stream = Caller::with(&authority.issue(&Leaf::of(id))).connect(shop.address()).await.expect("let in");
        let request = format!("GET {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("cannot send");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{id} {path}: {answer}");
    }
    let claimed =
        Call::get("http://shop/a").header("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/default/sa/cart");
    assert_eq!(claimed.send(shop.address()).await.status, 403, "in clear text, nobody is anybody");
}

#[tokio::test]
async fn a_connection_whose_caller_is_no_longer_allowed_is_ended() {
    let app = origin("shop").await;
    let shop = in_front_of(&app, &policy("open", "", "{rules: [{}]}")).await;
    let mut idle = raw::connect(shop.address()).await;
    idle.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await.expect("cannot send");
    assert!(raw::read_head(&mut idle).await.expect("an answer").starts_with("HTTP/1.1 200"));
    shop.edit(&policy("nobody", "", "{}"));
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(leno_tests::PATIENCE, idle.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the idle connection ends");
}
