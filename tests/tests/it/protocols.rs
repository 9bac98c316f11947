//! HTTP/1.1, HTTP/2, WebSocket and TCP, in every combination of the two sides.

use http::{HeaderMap, Method, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use leno_tests::{
    Call, Connection, Mesh, Origin, PATIENCE, Protocol, empty, free_port, full, mesh, origin, raw, stream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Sends every request's body and trailers back.
async fn echo() -> Origin {
    Origin::answering(|request| {
        let trailers = request.trailers.clone();
        let body = Full::new(request.body.clone()).map_err(|never| match never {});
        http::Response::new(body.with_trailers(async move { trailers.map(Ok) }).boxed())
    })
    .await
}

/// Services `one` (HTTP/1.1 to the app) and `two` (HTTP/2), bare and behind sidecars of their own, with one worker and
/// with four.
async fn meshes(app: &Origin) -> [Mesh; 4] {
    let instances = [("v1", app.address())];
    let builder = |workers| {
        let builder = mesh().workers(workers);
        let builder = builder.service_on("one", (80, "http", "HTTP"), &instances);
        builder.service_on("two", (81, "http2", "HTTP2"), &instances)
    };
    [
        builder(1).start().await,
        builder(4).start().await,
        builder(1).behind_sidecars().start().await,
        builder(4).behind_sidecars().start().await,
    ]
}

const UPSTREAMS: [(&str, Version); 2] = [("http://one/", Version::HTTP_11), ("http://two:81/", Version::HTTP_2)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_pass_between_all_protocols() {
    let app = echo().await;
    for mesh in meshes(&app).await {
        for protocol in Protocol::ALL {
            for (url, version) in UPSTREAMS {
                let what = format!("{protocol:?} → {version:?}");
                for size in [0, 1, 1000, 1 << 20] {
                    let body = vec![b'x'; size];
                    let call = Call::new(Method::POST, url).over(protocol).body(full(body.clone()));
                    let reply = mesh.send(call).await;
                    assert_eq!(
                        (reply.status, reply.body.len()),
                        (200, size),
                        "{what}: {}",
                        reply.header("x-leno-error")
                    );
                    assert_eq!(reply.body, body, "{what}");
                }
                assert_eq!(app.last().version, version, "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_pass_where_both_sides_have_them() {
    let app = echo().await;
    for mesh in meshes(&app).await {
        for (url, version) in UPSTREAMS {
            let (frames, body) = stream();
            let call = Call::new(Method::POST, url)
                .over(Protocol::Http2)
                .header("te", "trailers")
                .header("trailer", "x-checksum")
                .body(body);
            let send = async {
                let mut trailers = HeaderMap::new();
                trailers.insert("x-checksum", "42".parse().expect("a value"));
                frames.send(Ok(Frame::data("abc".into()))).await.expect("the body is read");
                frames.send(Ok(Frame::trailers(trailers))).await.expect("the body is read");
                drop(frames);
            };
            let (reply, ()) = tokio::join!(mesh.send(call), send);
            assert_eq!(reply.text(), "abc", "{version:?}");
            let sum = |map: &Option<HeaderMap>| map.as_ref().and_then(|map| map.get("x-checksum").cloned());
            assert_eq!(sum(&app.last().trailers).map(|value| value.len()), Some(2), "{version:?}: to the app");
            if version == Version::HTTP_2 {
                assert_eq!(sum(&reply.trailers).map(|value| value.len()), Some(2), "{version:?}: from the app");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_request_has_no_body_and_keeps_its_length() {
    let app = Origin::answering(|request| {
        let body = if request.method == Method::HEAD { empty() } else { full("four") };
        http::Response::builder().header("content-length", "4").body(body).expect("a length is a header value")
    })
    .await;
    for mesh in meshes(&app).await {
        for protocol in Protocol::ALL {
            for (url, version) in UPSTREAMS {
                let mut connection = Connection::open(mesh.outbound(), protocol).await;
                let head = connection.send(Call::new(Method::HEAD, url)).await;
                assert_eq!((head.header("content-length"), head.body.len()), ("4", 0), "{protocol:?} → {version:?}");
                let get = connection.send(Call::get(url)).await;
                assert_eq!(get.text(), "four", "{protocol:?} → {version:?}: the connection stays in step");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_unknown_length_stays_chunked_and_a_known_length_stays_known() {
    let app = origin("app").await;
    for mesh in meshes(&app).await {
        // A GET too: hyper would leave its body out in silence.
        let rows =
            [("POST", "one", "chunked"), ("POST", "two:81", ""), ("GET", "one", "chunked"), ("GET", "two:81", "")];
        for (method, host, chunked) in rows {
            let request = format!(
                "{method} / HTTP/1.1\r\nhost: {host}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
                 3\r\nabc\r\n2\r\nde\r\n0\r\nx-checksum: 42\r\n\r\n"
            );
            let answer = raw::exchange_within(PATIENCE, mesh.outbound(), request.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            let seen = app.last();
            assert_eq!(
                (&*seen.body, seen.header("transfer-encoding"), seen.header("content-length")),
                (&b"abcde"[..], chunked, ""),
                "{method} {host}"
            );
        }
        for protocol in Protocol::ALL {
            for (url, _) in UPSTREAMS {
                mesh.send(Call::new(Method::POST, url).over(protocol).body(full("abc"))).await;
                let seen = app.last();
                assert_eq!((seen.header("content-length"), seen.header("transfer-encoding")), ("3", ""), "{url}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_of_unknown_length_is_chunked_and_a_known_length_stays_known() {
    let app = Origin::answering(|request| match request.path.as_str() {
        "/known" => http::Response::new(full("abc")),
        _ => {
            let (frames, body) = stream();
            tokio::spawn(async move {
                for piece in ["abc", "de"] {
                    let _ = frames.send(Ok(Frame::data(piece.into()))).await;
                }
            });
            http::Response::new(body)
        }
    })
    .await;
    for mesh in meshes(&app).await {
        for host in ["one", "two:81"] {
            let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            let known =
                raw::exchange_within(PATIENCE, mesh.outbound(), ask("/known").as_bytes()).await.to_ascii_lowercase();
            assert!(known.contains("\r\ncontent-length: 3\r\n") && known.ends_with("\r\n\r\nabc"), "{host}: {known}");
            assert!(!known.contains("transfer-encoding"), "{host}: {known}");
            let unknown =
                raw::exchange_within(PATIENCE, mesh.outbound(), ask("/unknown").as_bytes()).await.to_ascii_lowercase();
            assert!(unknown.contains("\r\ntransfer-encoding: chunked\r\n"), "{host}: {unknown}");
            assert!(!unknown.contains("content-length"), "{host}: {unknown}");
            assert!(unknown.ends_with("\r\n0\r\n\r\n"), "{host}: {unknown}");
            let url = format!("http://{host}/unknown");
            assert_eq!(mesh.send(Call::get(&url).over(Protocol::Http2)).await.text(), "abcde", "{host}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interim_response_is_not_taken_for_the_answer() {
    let server = raw::Server::start(|mut stream| async move {
        while raw::read_head(&mut stream).await.is_ok() {
            let answer = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n\
                          HTTP/1.1 100 Continue\r\n\r\n\
                          HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfinal";
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await;
    let instances = [("v1", server.address())];
    let bare = mesh().service("app", &instances).start().await;
    let behind = mesh().service("app", &instances).behind_sidecars().workers(4).start().await;
    for mesh in [bare, behind] {
        for protocol in Protocol::ALL {
            let mut connection = Connection::open(mesh.outbound(), protocol).await;
            for _ in 0..3 {
                let reply = connection.send(Call::get("http://app/")).await;
                assert_eq!((reply.status, reply.text().as_str()), (200, "final"), "{protocol:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_expects_100_continue_gets_it_before_it_sends() {
    let app = echo().await;
    for mesh in meshes(&app).await {
        let mut connection = raw::connect(mesh.outbound()).await;
        let head = "POST / HTTP/1.1\r\nhost: one\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n";
        connection.write_all(head.as_bytes()).await.expect("cannot send");
        let interim = raw::read_head(&mut connection).await.expect("an interim response");
        assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
        connection.write_all(b"hello").await.expect("cannot send");
        let head = raw::read_head(&mut connection).await.expect("a response");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(app.last().body, "hello");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_the_app_are_used_again() {
    let app = origin("app").await;
    for mesh in meshes(&app).await {
        for (url, version) in UPSTREAMS {
            app.forget();
            for _ in 0..20 {
                // Each on a connection of its own on this side.
                assert_eq!(mesh.get(url).await.status, 200);
            }
            let used: std::collections::BTreeSet<_> = app.requests().iter().map(|request| request.connection).collect();
            // Each of at most four workers has a connection of its own.
            assert!(used.len() <= 4, "{version:?}: 20 requests one after the other took {} connections", used.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_share_one_http2_connection() {
    let app = echo().await;
    for mesh in meshes(&app).await {
        for (url, version) in UPSTREAMS {
            let connection = Connection::open(mesh.outbound(), Protocol::Http2).await;
            let mut calls = tokio::task::JoinSet::new();
            for number in 0..200 {
                let mut connection = connection.share();
                let call = Call::new(Method::POST, url).body(full(format!("body {number}")));
                calls.spawn(async move { (number, connection.send(call).await) });
            }
            while let Some(done) = calls.join_next().await {
                let (number, reply) = done.expect("a caller does not panic");
                assert_eq!(reply.text(), format!("body {number}"), "{version:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_passes_in_both_directions() {
    let server = raw::Server::websocket().await;
    for mesh in chat_meshes(&server).await {
        let mut connection = raw::connect(mesh.outbound()).await;
        let head = "GET /chat HTTP/1.1\r\nhost: chat\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
        connection.write_all(head.as_bytes()).await.expect("cannot send");
        let head = raw::read_head(&mut connection).await.expect("a response").to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(head.contains("upgrade: websocket"), "{head}");
        for words in [&b"hello"[..], &[0x81, 0x05, 1, 2, 3, 4, 5], &[7; 100_000]] {
            assert_eq!(raw::round_trip(&mut connection, words).await, words);
        }
        connection.shutdown().await.expect("cannot end");
        let mut rest = Vec::new();
        connection.read_to_end(&mut rest).await.expect("the other side ends too");
        assert!(rest.is_empty());
    }
}

/// HTTP/2 asks with an extended CONNECT (RFC 8441); the app is asked in HTTP/1.1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_passes_on_a_stream_of_http2() {
    let server = raw::Server::websocket().await;
    for mesh in chat_meshes(&server).await {
        let mut connection = Connection::open(mesh.outbound(), Protocol::Http2).await;
        // What the sidecar allows on the connection is known after the first answer.
        assert_eq!(connection.send(Call::get("http://chat/")).await.status, 426);
        let response = connection.begin(Call::websocket("http://chat/chat")).await.expect("a response");
        assert_eq!(response.status(), 200, "{:?}", response.headers());
        let upgraded = hyper::upgrade::on(response).await.expect("the stream becomes a tunnel");
        let mut tunnel = TokioIo::new(upgraded);
        for words in [&b"hello"[..], &[0x81, 0x05, 1, 2, 3, 4, 5], &[7; 100_000]] {
            assert_eq!(raw::round_trip(&mut tunnel, words).await, words);
        }
        assert_eq!(connection.send(Call::get("http://chat/")).await.status, 426, "other streams go on beside it");
        tunnel.shutdown().await.expect("cannot end");
        let mut rest = Vec::new();
        tunnel.read_to_end(&mut rest).await.expect("the other side ends too");
        assert!(rest.is_empty());
    }
}

async fn chat_meshes(server: &raw::Server) -> [Mesh; 3] {
    let instances = [("v1", server.address())];
    let builder = || mesh().service("chat", &instances);
    [builder().start().await, builder().workers(4).start().await, builder().workers(4).behind_sidecars().start().await]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_that_no_route_allows_is_refused() {
    let app = origin("app").await;
    let mesh = mesh().service("app", &[("v1", app.address())]).start().await;
    let request = "GET / HTTP/1.1\r\nhost: app\r\nconnection: upgrade\r\nupgrade: chess\r\n\r\n";
    let mut connection = raw::connect(mesh.outbound()).await;
    connection.write_all(request.as_bytes()).await.expect("cannot send");
    let head = raw::read_head(&mut connection).await.expect("a response");
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    assert_eq!(app.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_passes_whoever_speaks_first_and_whoever_ends_first() {
    let (echo, greeting) = (raw::Server::echo().await, raw::Server::greeting("220 ready\r\n").await);
    for (workers, behind) in [(1, false), (4, false), (4, true)] {
        let (first, second) = (free_port(), free_port());
        let builder = mesh()
            .workers(workers)
            .service_on("echo", (first, "tcp", "TCP"), &[("v1", echo.address())])
            .service_on("mail", (second, "tcp-smtp", "TCP"), &[("v1", greeting.address())]);
        let builder = if behind { builder.behind_sidecars() } else { builder };
        let _mesh = builder.start().await;

        let mut connection = raw::connect(([127, 0, 0, 1], first).into()).await;
        let words = vec![b'z'; 300_000];
        assert_eq!(raw::round_trip(&mut connection, &words).await, words, "behind sidecars: {behind}");
        // Half a connection stays open until its own end.
        connection.write_all(b"last words").await.expect("cannot send");
        connection.shutdown().await.expect("cannot end");
        let mut rest = String::new();
        connection.read_to_string(&mut rest).await.expect("the other half still flows");
        assert_eq!(rest, "last words", "behind sidecars: {behind}");

        let mut connection = raw::connect(([127, 0, 0, 1], second).into()).await;
        let mut greeted = [0; 11];
        connection.read_exact(&mut greeted).await.expect("a greeting");
        assert_eq!(&greeted, b"220 ready\r\n", "behind sidecars: {behind}");
        assert_eq!(raw::round_trip(&mut connection, b"QUIT").await, b"QUIT");
    }
}
