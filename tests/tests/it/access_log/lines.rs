//! What a line says.

use bytes::Bytes;
use hyper::body::Frame;
use leno_tests::{Call, Connection, Origin, Protocol, Speaks, eventually, full, origin, raw, sidecar, stream};
use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::io::AsyncWriteExt as _;

use super::{json_into, mesh_config, wait_for_json, wait_for_lines};

/// Every key that is asked for has this value.
fn says(line: &Value, expected: &Value) {
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(line[key], *value, "{key} of {line:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_told_with_the_bytes_and_the_time_of_the_whole() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("access.log");
    let app = origin("shop").await;
    let shop = sidecar(app.address(), &json_into(&file)).start().await;
    for protocol in Protocol::ALL {
        let call = Call::new(http::Method::POST, "http://shop/cart?id=7").over(protocol).header("user-agent", "t\"1\"");
        let reply = call.header("x-request-id", "r-1").body(full(vec![b'x'; 1000])).send(shop.address()).await;
        assert_eq!(reply.status, 200);
    }
    let read = wait_for_json(&file, 2).await;
    for (line, spoken) in read.iter().zip(["HTTP/1.1", "HTTP/2"]) {
        says(
            line,
            &json!({
                "method": "POST", "path": "/cart?[redacted]", "protocol": spoken, "authority": "shop",
                "response_code": 200, "response_flags": "-", "response_code_details": "via_upstream",
                "bytes_received": 1000, "bytes_sent": 4, "user_agent": "t\"1\"", "request_id": "r-1", "attempts": 1,
                "upstream_host": app.address().to_string(), "error": null, "route_name": "default",
                "upstream_cluster": format!("inbound|{}||", shop.address().port()),
                "downstream_local_address": shop.address().to_string(), "source_identity": null, "tls_group": null,
            }),
        );
        assert!(line["duration"].is_u64() && line["upstream_service_time"].is_string(), "{line:#}");
        let local = line["upstream_local_address"].as_str().expect("an address");
        assert!(local.starts_with("127.0.0.1:"), "{local}");
        assert_eq!(line["rule"]["kind"], "Sidecar");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_here_says_why_in_envoys_words_and_ours() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("access.log");
    let app = raw::Server::closing().await;
    let deny = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: no}\nspec: {action: DENY, rules: [{to: [{operation: {paths: [/secret]}}]}]}\n";
    let shop = sidecar(app.address(), &(json_into(&file) + deny)).start().await;
    let cases = [
        ("/secret", 403, "UAEX", "rbac_access_denied_matched_policy[ns[default]-policy[no]-rule[0]]"),
        ("/a", 503, "UC", "upstream_reset_before_response_started{connection_termination}"),
    ];
    for (path, status, ..) in cases {
        let call = Call::new(http::Method::POST, &format!("http://shop{path}")).body(full("x"));
        let reply = call.send(shop.address()).await;
        assert_eq!(reply.status, status, "{path}");
    }
    let read = wait_for_json(&file, cases.len()).await;
    for (line, (path, status, flag, details)) in read.iter().zip(cases) {
        let expected =
            json!({"path": path, "response_code": status, "response_flags": flag, "response_code_details": details});
        says(line, &expected);
        assert!(line["error"].as_str().is_some_and(|error| error.starts_with(&format!("{flag}; "))), "{line:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_request_and_one_without_a_route_have_a_line_too() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("access.log");
    let app = origin("shop").await;
    let rules = json_into(&file)
        + "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: there}\nspec: {hosts: [there.example.com], http: [{match: [{uri: {prefix: /old}}], redirect: {uri: /new}}, {match: [{uri: {prefix: /words}}], directResponse: {status: 418, body: {string: hi}}}]}\n";
    let shop = sidecar(app.address(), &rules).start().await;
    raw::exchange(shop.address(), b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n").await;
    wait_for_json(&file, 1).await;
    for (path, status) in [("/old", 301), ("/words", 418), ("/nowhere", 404)] {
        assert_eq!(Call::get(&format!("http://there.example.com{path}")).send(shop.outbound()).await.status, status);
    }
    let read = wait_for_json(&file, 4).await;
    for (line, (status, flag, details)) in read.iter().zip([
        (400, "DPE", None),
        (301, "-", Some("direct_response")),
        (418, "-", Some("direct_response")),
        (404, "NR", Some("route_not_found")),
    ]) {
        says(line, &json!({"response_code": status, "response_flags": flag}));
        if let Some(details) = details {
            assert_eq!(line["response_code_details"], details, "{line:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_line_comes_when_the_body_ends_or_its_reader_leaves() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("access.log");
    let (frames, body) = stream();
    let body = std::sync::Mutex::new(Some(body));
    let app = Origin::scripted(move |_| {
        let body = body.lock().unwrap().take().unwrap_or_else(|| {
            let (endless, body) = stream();
            tokio::spawn(
                async move { while endless.send(Ok(Frame::data(Bytes::from(vec![b'x'; 1024])))).await.is_ok() {} },
            );
            body
        });
        async { http::Response::new(body) }
    })
    .await;
    let shop = sidecar(app.address(), &json_into(&file)).start().await;
    let mut caller = Connection::open(shop.address(), Protocol::Http1).await;
    let response = caller.begin(Call::get("http://shop/slow")).await.unwrap();
    frames.send(Ok(Frame::data(Bytes::from_static(b"first")))).await.unwrap();
    // The head and a part of the body are here; the line is not.
    assert_eq!(super::lines(&file).len(), 0);
    frames.send(Ok(Frame::data(Bytes::from_static(b"second")))).await.unwrap();
    drop(frames);
    let whole = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    assert_eq!(&whole[..], b"firstsecond");
    says(&wait_for_json(&file, 1).await[0], &json!({"path": "/slow", "bytes_sent": 11, "response_flags": "-"}));

    let mut leaving = Connection::open(shop.address(), Protocol::Http1).await;
    drop(leaving.begin(Call::get("http://shop/endless")).await.unwrap());
    drop(leaving);
    let left = &wait_for_json(&file, 2).await[1];
    let details = "downstream_remote_disconnect";
    says(
        left,
        &json!({"path": "/endless", "response_flags": "DC", "response_code": 200, "response_code_details": details}),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_is_one_line_with_the_bytes_that_passed() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("access.log");
    let app = raw::Server::websocket().await;
    let shop = sidecar(app.address(), &json_into(&file)).start().await;
    let mut caller = raw::connect(shop.address()).await;
    let ask = b"GET /chat HTTP/1.1\r\nhost: shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    caller.write_all(ask).await.unwrap();
    assert!(raw::read_head(&mut caller).await.unwrap().contains("101"));
    assert_eq!(raw::round_trip(&mut caller, b"hello").await, b"hello");
    drop(caller);
    let line = &wait_for_json(&file, 1).await[0];
    says(line, &json!({"path": "/chat", "response_code": 101, "bytes_received": 5, "bytes_sent": 5}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tcp_connection_is_one_line() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("access.log");
    let app = raw::Server::echo().await;
    let shop = sidecar(app.address(), &json_into(&file)).speaks(Speaks::Tcp).start().await;
    let mut caller = raw::connect(shop.address()).await;
    let local = caller.local_addr().unwrap();
    assert_eq!(raw::round_trip(&mut caller, b"hello").await, b"hello");
    drop(caller);
    // The harness has connected once to see whether the port is open.
    let line = eventually("the line of the connection", async || {
        let found = super::lines(&file)
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .find(|line| line["downstream_remote_address"] == local.to_string());
        found.ok_or_else(|| format!("{:#?}", super::lines(&file)))
    })
    .await;
    says(
        &line,
        &json!({
            "method": null, "protocol": null, "response_code": 0, "bytes_received": 5, "bytes_sent": 5,
            "upstream_host": app.address().to_string(), "response_flags": "-",
        }),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_the_filter_asks_for_is_logged() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("access.log");
    let app = Origin::answering(|request| {
        let status = request.header("x-status").parse::<u16>().unwrap();
        http::Response::builder().status(status).body(leno_tests::empty()).unwrap()
    })
    .await;
    let log = format!(
        "{{custom: {{text: '%RESPONSE_CODE% %REQ(x-n)%'}}, path: {}, filter: {{minStatus: 500}}}}",
        file.display()
    );
    let shop = sidecar(app.address(), &mesh_config(&log)).start().await;
    for (number, status) in [("1", "200"), ("2", "500"), ("3", "404"), ("4", "501")] {
        let call = Call::new(http::Method::POST, "http://shop/").header("x-status", status).header("x-n", number);
        call.send(shop.address()).await;
    }
    assert_eq!(wait_for_lines(&file, 2).await, ["500 2", "501 4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_can_neither_end_a_line_nor_make_it_long_nor_read_secrets_in_it() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("access.log");
    let app = origin("shop").await;
    let custom = "{a: '%REQ(authorization)%', c: '%REQ(cookie)%', p: '%REQ(:PATH)%', u: '%REQ(user-agent)%', t: 'x %REQ(x-evil)% y', l: '%REQ(x-long)%'}";
    let with = |sensitive: &str| {
        mesh_config(&format!("{{custom: {{json: {custom}}}, path: {}, sensitive: {sensitive}}}", file.display()))
    };
    let shop = sidecar(app.address(), &with("redacted")).start().await;
    let evil = b"\"\\\x80\xff\xc2\x9b31m\xe2\x80\xae\t{}";
    let ask = |long: usize| {
        let mut ask = b"GET /x?token=s3cret HTTP/1.1\r\nhost: shop\r\nauthorization: Bearer s3cret\r\ncookie: a=s3cret\r\nconnection: close\r\nuser-agent: ".to_vec();
        ask.extend_from_slice(evil);
        ask.extend_from_slice(b"\r\nx-evil: ");
        ask.extend_from_slice(evil);
        ask.extend_from_slice(format!("\r\nx-long: {}\r\n\r\n", "ü".repeat(long)).as_bytes());
        ask
    };
    assert!(raw::exchange(shop.address(), &ask(1)).await.starts_with("HTTP/1.1 200"));
    assert!(raw::exchange(shop.address(), &ask(30_000)).await.starts_with("HTTP/1.1 200"));
    let read = wait_for_lines(&file, 2).await;
    for line in &read {
        assert!(line.len() < 16 * 1024 && !line.contains("s3cret"), "{line}");
        assert!(line.chars().all(|one| !one.is_control() && one != '\u{202e}'), "{line}");
        let parsed: Value = serde_json::from_str(line).unwrap();
        says(&parsed, &json!({"a": "[redacted]", "c": "[redacted]", "p": "/x?[redacted]"}));
        assert!(parsed["u"].as_str().unwrap().starts_with("\"\\\u{fffd}\u{fffd}\u{9b}31m\u{202e}\t{}"), "{line}");
    }
    assert!(read[1].contains("[cut]"), "{}", read[1]);
    shop.edit(&with("shown"));
    eventually("secrets are shown where somebody asks for them", async || {
        raw::exchange(shop.address(), &ask(1)).await;
        let shown =
            super::lines(&file).iter().any(|line| line.contains("Bearer s3cret") && line.contains("token=s3cret"));
        shown.then_some(()).ok_or_else(|| "not yet".to_owned())
    })
    .await;
}
