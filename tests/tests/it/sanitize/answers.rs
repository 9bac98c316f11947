//! The same strictness for answers: one canonical answer, or 502 and a closed connection.

use std::sync::Arc;

use leno_tests::raw::Server;
use leno_tests::{get, raw, sidecar};
use tokio::io::AsyncWriteExt as _;

use Becomes::{Bad, Last, Passed};

/// What has to become of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Becomes {
    /// It is passed on, and its connection carries another.
    Passed(u16, &'static str),
    /// It is passed on, and its connection is closed.
    Last(u16, &'static str),
    /// 502, and its connection is closed.
    Bad,
}

/// What an endpoint says, to the byte.
const ROWS: [(&str, Becomes); 39] = [
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Passed(200, "ok")),
    ("HTTP/1.1 200 OK\r\nContent-Length: 02\r\n\r\nok", Passed(200, "ok")),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", Passed(200, "ok")),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Passed(200, "ok")),
    ("HTTP/1.1 204 No Content\r\n\r\n", Passed(204, "")),
    ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", Passed(204, "")),
    ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Passed(200, "ok")),
    ("HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Passed(200, "ok")),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", Last(200, "ok")),
    ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", Last(200, "ok")),
    // Another answer behind it, for whoever asks next.
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        Last(200, "ok"),
    ),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n", Last(200, "ok")),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\nok", Bad),
    ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2a\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok", Bad),
    ("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Bad),
    ("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", Bad),
    ("HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 99 OK\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", Bad),
    ("220 mail.example.com ESMTP\r\n", Bad),
];

/// Longer ones, with the same end: 502 or, where the connection had just to be given up, 503.
fn long() -> [String; 3] {
    [
        "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(20_000),
        format!("HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nok", "X: y\r\n".repeat(101)),
        format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 2\r\n\r\nok", "y".repeat(70 << 10)),
    ]
}

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood";

/// An endpoint that answers `/N` with row N, and never closes a connection by itself.
async fn endpoint() -> Server {
    let answers: Vec<String> = ROWS.iter().map(|(answer, _)| (*answer).to_owned()).chain(long()).collect();
    let answers = Arc::new(answers);
    Server::start(move |mut stream| {
        let answers = Arc::clone(&answers);
        async move {
            while let Ok(head) = raw::read_head(&mut stream).await {
                let path = head.split(' ').nth(1).unwrap_or_default();
                let row: Option<usize> = path.trim_start_matches('/').parse().ok();
                let answer = row.and_then(|row| answers.get(row)).map_or(GOOD, String::as_str);
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_canonical_or_502_and_its_connection_is_closed() {
    let endpoint = endpoint().await;
    let proxy = sidecar(endpoint.address(), "").start().await;
    let ask = async |path: String| get(proxy.address(), &format!("http://shop/{path}")).await;
    let mut wrong = Vec::new();
    let all = ROWS.into_iter().map(|(answer, becomes)| (answer.to_owned(), becomes));
    for (row, (answer, becomes)) in all.chain(long().map(|answer| (answer, Bad))).enumerate() {
        ask("good".to_owned()).await;
        let before = endpoint.connections();
        let reply = ask(row.to_string()).await;
        let good = ask("good".to_owned()).await;
        let opened = endpoint.connections() - before;
        let came = match (reply.status, opened) {
            (502 | 503, 1..) => "bad".to_owned(),
            (status, opened) => format!("{status} {:?} and {opened} new", reply.text()),
        };
        let expected = match becomes {
            Bad => "bad".to_owned(),
            Passed(status, body) => format!("{status} {body:?} and 0 new"),
            Last(status, body) => format!("{status} {body:?} and 1 new"),
        };
        if came != expected || good.text() != "good" {
            let answer: String = answer.chars().take(100).collect();
            wrong.push(format!("{answer:?}: {came}, not {expected}; then {:?}", good.text()));
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}
