//! The examples about identities: certificates, policies, tokens.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use http::Method;
use leno_tests::{Call, Origin, Process, Proxy, eventually, free_port, metric, origin, raw, run_leno, skip};

use super::{Copy, moved};

/// A shop with a sidecar, and callers with theirs, at ports of the test's own.
struct Shop {
    copy: Copy,
    app: Origin,
    sidecar: Proxy,
    /// Where its sidecar listens.
    inbound: SocketAddr,
    callers: Vec<Caller>,
    _control_plane: Process,
}

/// The sidecar of a caller.
struct Caller {
    sidecar: Proxy,
    /// Where it listens for its app.
    outbound: SocketAddr,
}

/// The ports that an example's files name.
struct Ports<'a> {
    app: u16,
    inbound: u16,
    /// The shop's own calls.
    outbound: u16,
    /// The callers, with the outbound port that a Sidecar document gives them; every copy moves that of the others.
    callers: &'a [(&'a str, Option<u16>)],
}

impl Shop {
    /// Starts a copy of an example whose bootstraps are `shop.yaml` and `CALLER.yaml`.
    async fn open(example: &str, ports: &Ports<'_>) -> Self {
        let app = origin("shop").await;
        let (tls, inbound) = (free_port(), free_port());
        let mut moved = vec![
            (format!("/tmp/{example}/"), String::new()),
            ("127.0.0.1:15012".to_owned(), format!("127.0.0.1:{tls}")),
            (format!("127.0.0.1:{}", ports.app), app.address().to_string()),
            (format!("http: {}}}", ports.inbound), format!("http: {inbound}}}")),
            (format!("number: {}", ports.inbound), format!("number: {inbound}")),
            (format!("number: {}", ports.outbound), format!("number: {}", free_port())),
        ];
        moved.extend(
            ["15000", "15100", "15200"]
                .map(|port| (format!("admin: 127.0.0.1:{port}"), "admin: 127.0.0.1:0".to_owned())),
        );
        let mut outbound = Vec::new();
        for (name, port) in ports.callers {
            let own = port.map(|port| (port, free_port()));
            moved.extend(own.map(|(old, new)| (format!("number: {old}"), format!("number: {new}"))));
            outbound.push((*name, own.map(|(_, new)| new)));
        }
        let moved: Vec<(&str, String)> = moved.iter().map(|(old, new)| (old.as_str(), new.clone())).collect();
        let copy = Copy::of(example, &moved);
        let control_plane = copy.serve(0, tls);
        copy.token("shop");
        let sidecar = copy.sidecar("shop", "shop", inbound).await;
        let mut callers = Vec::new();
        for (name, port) in outbound {
            copy.token(name);
            let port = port.unwrap_or(copy.outbound.port());
            let sidecar = copy.sidecar(name, name, port).await;
            callers.push(Caller { sidecar, outbound: ([127, 0, 0, 1], port).into() });
        }
        let inbound = ([127, 0, 0, 1], inbound).into();
        Self { copy, app, sidecar, inbound, callers, _control_plane: control_plane }
    }

    /// Of `examples/mtls`.
    async fn with_mtls() -> Self {
        let callers = &[("client", None)];
        Self::open("mtls", &Ports { app: 8083, inbound: 15083, outbound: 15183, callers }).await
    }

    /// Of `examples/authorization`.
    async fn with_policies() -> Self {
        let callers = &[("web", None), ("office", Some(15002))];
        Self::open("authorization", &Ports { app: 8084, inbound: 15084, outbound: 15184, callers }).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mtls_lets_the_client_in_and_nobody_without_a_certificate() {
    let shop = Shop::with_mtls().await;
    assert_eq!(shop.copy.curl("http://shop.example.com/", &[]).await.text(), "shop");
    let said = shop.app.last().header("x-forwarded-client-cert").to_owned();
    assert!(said.starts_with("By=spiffe://cluster.local/ns/default/sa/shop;Hash="), "{said}");
    assert!(said.ends_with(";Subject=\"\";URI=spiffe://cluster.local/ns/default/sa/client"), "{said}");
    let certs = shop.callers[0].sidecar.certs().await.unwrap();
    assert_eq!(certs["certificate"]["id"], "spiffe://cluster.local/ns/default/sa/client");
    assert_eq!(certs["trust_domains"][0]["trust_domain"], "cluster.local");
    let metrics = shop.sidecar.metrics().await;
    assert_eq!(metric(&metrics, "http_requests_total", &["connection_security_policy=\"mutual_tls\""]), 1.0);
    assert!(metric(&metrics, "leno_tls_handshakes_total", &["group=\"X25519MLKEM768\""]) >= 1.0, "{metrics}");

    shop.app.forget();
    let plain = Call::get("http://shop.example.com/").try_send(shop.inbound).await;
    assert!(plain.is_err(), "clear text was answered: {plain:?}");
    assert_eq!(shop.app.count(), 0);

    shop.copy.edit("rules/shop.yaml", "mode: STRICT", "mode: PERMISSIVE");
    eventually("clear text is let in", async || Call::get("http://shop.example.com/").try_send(shop.inbound).await)
        .await;
    assert_eq!(shop.app.last().header("x-forwarded-client-cert"), "");
}

/// What the README shows with the tools of the trade.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mtls_answers_curl_and_openssl_as_its_readme_says() {
    for tool in ["curl", "openssl"] {
        if Command::new(tool).arg("version").stdin(Stdio::null()).output().is_err() {
            return skip("curl and openssl against an inbound port", &format!("there is no {tool}"));
        }
    }
    let shop = Shop::with_mtls().await;
    let own = shop.callers[0].sidecar.state().join("svid.pem").display().to_string();
    let roots = shop.copy.path("control-plane/root.pem").display().to_string();
    let inbound = shop.inbound.to_string();
    let (http, https) = (format!("http://{inbound}/"), format!("https://{inbound}/"));
    let dial = ["s_client", "-connect", &inbound];
    let ask = "GET / HTTP/1.1\r\nhost: shop.example.com\r\nconnection: close\r\n\r\n";
    let rows: [(&str, Vec<&str>, &str, &str); 7] = [
        ("curl", vec!["-sS", &http], "", "curl: ("),
        ("curl", vec!["-sSk", "--http1.1", &https], "", "certificate required"),
        ("openssl", [&dial[..], &["-brief", "-ign_eof", "-CAfile", &roots]].concat(), "", "certificate required"),
        ("openssl", [&dial[..], &["-brief", "-ign_eof", "-CAfile", &roots]].concat(), "", "Verification: OK"),
        ("openssl", [&dial[..], &["-brief", "-ign_eof", "-tls1_2"]].concat(), "", "protocol version"),
        ("curl", vec!["-sSk", "--cert", &own, &https], "", "shop"),
        ("openssl", [&dial[..], &["-quiet", "-cert", &own]].concat(), ask, "\r\n\r\nshop"),
    ];
    for (tool, arguments, input, expected) in rows {
        let reached = usize::from(expected.ends_with("shop"));
        shop.app.forget();
        let said = run(tool, &arguments, input);
        assert!(said.contains(expected), "{tool} {arguments:?} says:\n{said}");
        assert_eq!(shop.app.count(), reached, "{tool} {arguments:?}");
    }
    let log = shop.sidecar.process.log();
    for why in ["in clear text", "the peer shows no certificate", "the peer does not speak TLS 1.3"] {
        assert!(log.contains(why), "{why}:\n{log}");
    }
}

/// All that a tool prints, whether it succeeds or not.
fn run(tool: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end without having read.
    let _ = child.stdin.take().map(|mut stdin| std::io::Write::write_all(&mut stdin, input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authorization_lets_each_caller_do_what_its_policies_say() {
    let shop = Shop::with_policies().await;
    let [web, office] = [0, 1].map(|at| shop.callers[at].outbound);
    let rows = [
        (web, Method::GET, "/items/1", 200),
        (web, Method::GET, "/orders", 403),
        (web, Method::POST, "/items/1", 403),
        (office, Method::GET, "/orders", 200),
        (office, Method::GET, "/debug/vars", 403),
        (office, Method::DELETE, "/items/1", 200),
        (shop.inbound, Method::GET, "/items/1", 403),
    ];
    for (through, method, path, status) in rows {
        shop.app.forget();
        let url = format!("http://shop.example.com{path}");
        let reply = Call::new(method, &url).send(through).await;
        assert_eq!(reply.status, status, "{path} through {through}");
        assert_eq!(reply.text(), if status == 200 { "shop" } else { "RBAC: access denied" });
        assert_eq!(shop.app.count(), usize::from(status == 200));
    }
    let metrics = shop.sidecar.metrics().await;
    assert_eq!(metric(&metrics, "leno_authorization_denied_total", &["kind=\"request\""]), 4.0);
    assert_eq!(metric(&metrics, "leno_authorization_would_deny_total", &[]), 1.0);
    let log = shop.sidecar.process.log();
    for line in [
        "denied by an authorization policy policy=\"none allows it\" action=\"ALLOW\" identity=\"spiffe://cluster.local/ns/default/sa/web\"",
        "denied by an authorization policy policy=\"ns[default]-policy[no-debugging]-rule[0]\" action=\"DENY\"",
        "an authorization policy in dry run would deny it policy=\"ns[default]-policy[no-deleting]-rule[0]\"",
    ] {
        assert!(log.contains(line), "{line}\n{log}");
    }

    let tricks = [
        (web, "/items/../orders", "403"),
        (web, "/items/%2e%2e/orders", "403"),
        (web, "/items%2f..%2forders", "403"),
        (web, "/items;x/../orders", "403"),
        (web, "/%69tems/1", "200"),
        (office, "/x/../debug/vars", "403"),
        (office, "/%64ebug", "403"),
        (office, "/DEBUG", "200"),
        (office, "//debug", "200"),
        (office, "/debug;x", "200"),
    ];
    for (through, path, status) in tricks {
        let ask = format!("GET {path} HTTP/1.1\r\nhost: shop.example.com\r\nconnection: close\r\n\r\n");
        let answer = raw::exchange(through, ask.as_bytes()).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{path}: {answer}");
    }

    shop.copy.edit("rules/policies.yaml", "  annotations: {istio.io/dry-run: \"true\"}\n", "");
    eventually("the trial is over", async || {
        let delete = Call::new(Method::DELETE, "http://shop.example.com/items/1");
        match delete.try_send(office).await?.status {
            403 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
}

#[test]
fn authorization_is_explained_as_its_readme_says() {
    let spiffe = "spiffe://cluster.local/ns/other/sa/web";
    let allowed =
        "allowed by AuthorizationPolicy default/callers rules[1], examples/authorization/rules/policies.yaml:17";
    let rows: [(&[&str], &str, &str); 5] = [
        (
            &["--from", "web", "GET"],
            "/orders",
            "403 denied: there are ALLOW policies for the workload, and none of them",
        ),
        (&["--from", "office", "DELETE"], "/items/1", allowed),
        (
            &["--from", "office", "DELETE"],
            "/items/1",
            "would be denied by AuthorizationPolicy default/no-deleting rules[0]",
        ),
        (&["--from", spiffe, "GET"], "/items", "403 denied"),
        (&["--from", "web", "--plain-text", "GET"], "/items", "403 denied"),
    ];
    for (words, path, expected) in rows {
        let url = format!("http://shop.example.com{path}");
        let said =
            run_leno(&[&["explain", "-o", "wide", "-f", "examples/authorization/rules"], words, &[&url]].concat(), "");
        assert!(said.stdout.contains(expected), "{words:?} {path}:\n{}{}", said.stdout, said.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jwt_tells_users_apart_by_their_tokens() {
    let app = origin("shop").await;
    let (inbound, own) = (free_port(), free_port());
    let mut replacements = moved("jwt", "/tmp/jwt");
    replacements.extend([
        ("number: 15085", format!("number: {inbound}")),
        ("number: 15185", format!("number: {own}")),
        ("127.0.0.1:8085", app.address().to_string()),
    ]);
    let copy = Copy::of("jwt", &replacements);
    let proxy = copy.proxy(inbound).await;
    let rows = [
        ("", "/items", 200, "shop", ""),
        ("", "/orders", 403, "RBAC: access denied", ""),
        ("jason", "/orders", 200, "shop", "jason"),
        ("jason", "/admin", 403, "RBAC: access denied", ""),
        ("anna", "/admin", 200, "shop", "anna"),
        ("expired", "/items", 401, "Jwt is expired", ""),
        ("forged", "/admin", 401, "Jwt verification fails", ""),
    ];
    for (who, path, status, body, user) in rows {
        app.forget();
        let mut call = Call::get(&format!("http://shop.example.com{path}")).header("x-user", "root");
        if !who.is_empty() {
            let token = std::fs::read_to_string(copy.path(&format!("tokens/{who}.jwt"))).unwrap();
            call = call.header("authorization", &format!("Bearer {}", token.trim()));
        }
        let reply = call.send(([127, 0, 0, 1], inbound).into()).await;
        assert_eq!((reply.status, reply.text().as_str()), (status, body), "{who} {path}");
        let realm = format!("Bearer realm=\"http://shop.example.com{path}\", error=\"invalid_token\"");
        assert_eq!(reply.header("www-authenticate"), if status == 401 { &realm } else { "" }, "{who} {path}");
        if status == 200 {
            let seen = app.last();
            assert_eq!((seen.header("x-user"), seen.header("authorization")), (user, ""), "{who} {path}");
        }
        assert_eq!(app.count(), usize::from(status == 200), "{who} {path}");
    }
    let metrics = proxy.metrics().await;
    assert_eq!(metric(&metrics, "leno_jwt_refused_total", &[]), 2.0);
    assert_eq!(metric(&metrics, "leno_authorization_denied_total", &["kind=\"request\""]), 2.0);
}

#[test]
fn jwt_is_explained_as_its_readme_says() {
    let anna = r#"{"iss": "https://login.example.com", "sub": "anna", "aud": "shop", "groups": ["staff"]}"#;
    let rows: [(&str, &[&str], &str); 2] = [
        ("/orders", &[], "403 denied: there are ALLOW policies"),
        ("/admin", &["--token-claims", anna], "allowed by AuthorizationPolicy default/users rules[2]"),
    ];
    for (path, words, expected) in rows {
        let url = format!("http://shop.example.com{path}");
        let said = run_leno(&[&["explain", "-o", "wide", "GET", &url, "-f", "examples/jwt/rules"], words].concat(), "");
        assert!(said.stdout.contains(expected), "{path}:\n{}{}", said.stdout, said.stderr);
    }
}
