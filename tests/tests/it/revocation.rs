//! Requests that are open when the policies change: those that are no longer allowed end, the others do not notice.

use bytes::Bytes;
use http::{Method, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use leno_tests::{
    Call, Connection, Origin, PATIENCE, Protocol, Sidecar, empty, eventually, metric, raw, sidecar, stream,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};

/// A policy for the workload under test, by its `spec`.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: default}}\nspec: {spec}\n---\n"
    )
}

fn allow(paths: &str) -> String {
    policy("open", &format!("{{rules: [{{to: [{{operation: {{paths: [{paths}]}}}}]}}]}}"))
}

/// Takes `/lost*` away and leaves `/kept*`: by not allowing it any more, and by denying it.
fn edits() -> [String; 2] {
    let denied = policy("closed", "{action: DENY, rules: [{to: [{operation: {paths: [/lost*]}}]}]}");
    [allow("/kept*"), format!("{}{denied}", allow("'/kept*', '/lost*'"))]
}

/// An app that does not answer under `/lost/wait`; else it begins an answer at once and ends it when it is told.
async fn slow_app(done: watch::Receiver<bool>) -> Origin {
    Origin::scripted(move |request| {
        let mut done = done.clone();
        async move {
            if request.uri().path() == "/lost/wait" {
                return std::future::pending().await;
            }
            let (frames, body) = stream();
            tokio::spawn(async move {
                let _ = frames.send(Ok(Frame::data(Bytes::from("begin ")))).await;
                let _ = done.wait_for(|done| *done).await;
                let _ = frames.send(Ok(Frame::data(Bytes::from("end")))).await;
            });
            Response::new(body)
        }
    })
    .await
}

async fn whole(response: Response<Incoming>) -> Result<String, String> {
    let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.expect("the body ends");
    body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).map_err(|error| error.to_string())
}

/// Three connections, or one that three share.
async fn three(shop: &Sidecar, protocol: Protocol) -> [Connection; 3] {
    let one = Connection::open(shop.address(), protocol).await;
    match protocol {
        Protocol::Http1 => {
            [one, Connection::open(shop.address(), protocol).await, Connection::open(shop.address(), protocol).await]
        }
        Protocol::Http2 => [one.share(), one.share(), one],
    }
}

#[tokio::test]
async fn an_open_request_ends_when_a_policy_no_longer_allows_it_and_its_neighbour_goes_on() {
    for (workers, protocol) in [(1, Protocol::Http2), (4, Protocol::Http2), (1, Protocol::Http1), (4, Protocol::Http1)]
    {
        // With policies before, and without: then the sidecar has not looked at the requests at all.
        for (before, edit) in
            [allow("'/lost*', '/kept*'"), String::new()].iter().flat_map(|before| edits().map(|edit| (before, edit)))
        {
            let (finish, done) = watch::channel(false);
            let app = slow_app(done).await;
            let shop = sidecar(app.address(), before).workers(workers).start().await;
            let [mut first, mut second, mut third] = three(&shop, protocol).await;
            let lost = first.begin(Call::get("http://shop/lost/stream")).await.expect("an answer");
            let kept = second.begin(Call::get("http://shop/kept/stream")).await.expect("an answer");
            let waiting = tokio::spawn(async move { third.send(Call::get("http://shop/lost/wait")).await });
            eventually("all three are at the app", async || match app.count() {
                3 => Ok(()),
                count => Err(count.to_string()),
            })
            .await;

            shop.edit(&edit);
            let why = whole(lost).await.expect_err("a stream that is no longer allowed is not a whole one");
            let refused = waiting.await.expect("the caller does not panic");
            assert_eq!(
                (refused.status, refused.text().as_str(), refused.flag()),
                (403, "RBAC: access denied", "UAEX"),
                "{protocol:?}, {why}"
            );
            finish.send(true).expect("the app is there");
            assert_eq!(whole(kept).await.as_deref(), Ok("begin end"), "{protocol:?}");
            let again = second.send(Call::get("http://shop/kept/again")).await;
            assert_eq!((again.status, again.text().as_str()), (200, "begin end"), "on the connection of before");
            eventually("both are counted", async || {
                let metrics = shop.proxy.metrics().await;
                let count = |code: &str| {
                    let code = format!("response_code=\"{code}\"");
                    metric(&metrics, "http_requests_total", &["response_flags=\"UAEX\"", &code])
                };
                if (count("200"), count("403")) == (1.0, 1.0) { Ok(()) } else { Err(metrics) }
            })
            .await;
            let log = shop.log();
            for path in ["/lost/stream", "/lost/wait"] {
                let said = |line: &str| line.contains("ended a request") && line.contains(path);
                assert!(log.lines().any(said), "{path} is not in the log:\n{log}");
            }
            assert!(!log.lines().any(|line| line.contains("ended a") && line.contains("/kept")), "{log}");
        }
    }
}

/// Bytes both ways, over HTTP/1.1 or on a stream of HTTP/2.
trait Tunnel: AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Tunnel for T {}

async fn tunnel(shop: &Sidecar, path: &str, over: Option<&mut Connection>) -> Box<dyn Tunnel> {
    let mut tunnel: Box<dyn Tunnel> = match over {
        Some(http2) => {
            let response = http2.begin(Call::websocket(&format!("http://shop{path}"))).await.expect("an answer");
            assert_eq!(response.status(), 200, "{:?}", response.headers());
            Box::new(TokioIo::new(hyper::upgrade::on(response).await.expect("the stream becomes a tunnel")))
        }
        None => {
            let mut stream = raw::connect(shop.address()).await;
            let head = format!(
                "GET {path} HTTP/1.1\r\nhost: shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.expect("cannot send");
            let answer = raw::read_head(&mut stream).await.expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
            Box::new(stream)
        }
    };
    assert_eq!(raw::round_trip(&mut tunnel, b"hello").await, b"hello");
    tunnel
}

#[tokio::test]
async fn a_tunnel_ends_when_a_policy_no_longer_allows_what_it_was_asked_for() {
    let app = raw::Server::websocket().await;
    for edit in edits() {
        let shop = sidecar(app.address(), &allow("'/lost*', '/kept*'")).start().await;
        let mut http2 = Connection::open(shop.address(), Protocol::Http2).await;
        // What the sidecar allows on the connection is known after the first answer.
        assert_eq!(http2.send(Call::get("http://shop/kept")).await.status, 426);
        let lost = [tunnel(&shop, "/lost", None).await, tunnel(&shop, "/lost", Some(&mut http2)).await];
        let kept = [tunnel(&shop, "/kept", None).await, tunnel(&shop, "/kept", Some(&mut http2)).await];
        shop.edit(&edit);
        for mut tunnel in lost {
            let mut rest = Vec::new();
            // The end, or an error: both is one.
            let ended = tokio::time::timeout(PATIENCE, tunnel.read_to_end(&mut rest)).await;
            assert!(ended.is_ok(), "the tunnel is open");
        }
        for mut tunnel in kept {
            assert_eq!(raw::round_trip(&mut tunnel, b"still there?").await, b"still there?");
        }
        assert_eq!(http2.send(Call::get("http://shop/kept")).await.status, 426);
    }
}

/// A caller that reads nothing stops the answer, and must not keep the way to the app open by that.
#[tokio::test]
async fn a_caller_that_reads_no_answer_sends_nothing_more_either() {
    let (broken, mut breaks) = mpsc::channel(1);
    let app = Origin::scripted(move |request| {
        let broken = broken.clone();
        async move {
            if request.method() == Method::GET {
                return Response::new(empty());
            }
            let (frames, body) = stream();
            tokio::spawn(async move {
                let piece = Bytes::from(vec![0; 64 << 10]);
                while frames.send(Ok(Frame::data(piece.clone()))).await.is_ok() {}
            });
            tokio::spawn(async move {
                let mut upload = request.into_body();
                while let Some(Ok(_)) = upload.frame().await {}
                let _ = broken.send(()).await;
            });
            Response::new(body)
        }
    })
    .await;
    let shop = sidecar(app.address(), &allow("'/lost*', '/kept*'")).start().await;
    let mut connection = Connection::open(shop.address(), Protocol::Http2).await;
    let (upload, body) = stream();
    let call = Call::new(Method::POST, "http://shop/lost").over(Protocol::Http2).body(body);
    let unread = connection.begin(call).await.expect("an answer");
    upload.send(Ok(Frame::data(Bytes::from("more")))).await.expect("it is taken");
    shop.edit(&allow("/kept*"));
    eventually("the request is revoked", async || {
        let log = shop.log();
        if log.contains("ended a request") { Ok(()) } else { Err(log) }
    })
    .await;
    // That nobody takes it is as good.
    let _ = upload.send(Ok(Frame::data(Bytes::from("too much")))).await;
    let ended = tokio::time::timeout(PATIENCE, breaks.recv()).await;
    assert!(matches!(ended, Ok(Some(()))), "the app goes on reading");
    drop(unread);
    assert_eq!(connection.send(Call::get("http://shop/kept")).await.status, 200);
}
