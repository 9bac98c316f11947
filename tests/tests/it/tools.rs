//! The harness' own servers and lines do what they say: otherwise the judge would judge something else.

use std::time::{Duration, Instant};

use leno_tests::relay::{Faults, Relay};
use leno_tests::scripted::{Fleet, Manner, RUN, SCRIPT};
use leno_tests::{Call, Connection, Protocol, Reply, full, raw};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn call(run: &str, script: &str, protocol: Protocol) -> Call {
    Call::new(http::Method::POST, "http://server/x")
        .over(protocol)
        .header(RUN, run)
        .header(SCRIPT, script)
        .body(full("four"))
}

/// Status and body, or how it broke off.
fn said(reply: &Result<Reply, String>) -> String {
    match reply {
        Ok(reply) => format!("{} {}", reply.status, reply.text()),
        Err(why) if why.contains("and then") => "broken off".to_owned(),
        Err(_) => "nothing".to_owned(),
    }
}

#[tokio::test]
async fn a_server_does_what_the_request_says() {
    let fleet = Fleet::new();
    let server = fleet.server("v1", Manner::Obeys).await;
    let (one, two) = (Protocol::Http1, Protocol::Http2);
    let cases: [(&str, &[Protocol], &str); 15] = [
        ("200", &[one, two], "200 v1"),
        ("503 retry-after:1", &[one, two], "503 v1"),
        ("hints", &[one, two], "200 v1"),
        ("trickle", &[one, two], "200 v1"),
        ("reset", &[one, two], "nothing"),
        ("close", &[one, two], "nothing"),
        ("garbage", &[one, two], "nothing"),
        ("reset-in-body", &[one, two], "broken off"),
        ("close-in-body", &[one, two], "broken off"),
        ("bad-trailer", &[one], "broken off"),
        ("reset-stream-in-body", &[two], "broken off"),
        ("refused-stream", &[two], "nothing"),
        ("reset-stream", &[two], "nothing"),
        ("goaway", &[two], "nothing"),
        ("nonsense", &[one, two], "500 `nonsense` is no deed of a script"),
    ];
    for (script, protocols, expected) in cases {
        for protocol in protocols {
            let run = format!("{script} {protocol:?}");
            let reply = call(&run, script, *protocol).try_send(server.address()).await;
            assert_eq!(said(&reply), expected, "{run}");
            let attempts = fleet.attempts(&run);
            assert_eq!(attempts.len(), 1, "{run}");
            assert_eq!((&*attempts[0].body, attempts[0].server.as_str()), (&b"four"[..], "v1"), "{run}");
        }
    }
}

#[tokio::test]
async fn the_steps_of_a_script_are_counted_over_all_servers() {
    let fleet = Fleet::new();
    let (one, other) = (fleet.server("v1", Manner::Obeys).await, fleet.server("v2", Manner::Obeys).await);
    for (server, expected) in [(&one, "503 v1"), (&other, "404 v2"), (&one, "200 v1"), (&other, "200 v2")] {
        let reply = call("17", "503; 404; 200", Protocol::Http1).try_send(server.address()).await;
        assert_eq!(said(&reply), expected);
    }
    assert_eq!(fleet.attempts("17").iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_connection_can_end_when_the_next_request_comes() {
    let fleet = Fleet::new();
    let server = fleet.server("v1", Manner::Obeys).await;
    for (then, protocol) in
        [("close-at-next", Protocol::Http1), ("reset-at-next", Protocol::Http1), ("close-at-next", Protocol::Http2)]
    {
        let mut connection = Connection::open(server.address(), protocol).await;
        let first = connection.try_send(call("first", &format!("200 then={then}"), protocol)).await;
        assert_eq!(said(&first), "200 v1");
        let second = connection.try_send(call("second", "200", protocol)).await;
        assert_eq!(said(&second), "nothing", "{then}");
    }
}

#[tokio::test]
async fn a_server_can_be_away_in_three_ways() {
    let fleet = Fleet::new();
    let refuses = fleet.server("v1", Manner::Refuses).await;
    let refused = tokio::net::TcpStream::connect(refuses.address()).await;
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    let ignores = fleet.server("v1", Manner::Ignores).await;
    let connecting = tokio::net::TcpStream::connect(ignores.address());
    assert!(tokio::time::timeout(Duration::from_millis(300), connecting).await.is_err(), "it never connects");
    let resets = fleet.server("v1", Manner::Resets).await;
    let mut stream = raw::connect(resets.address()).await;
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_server_is_killed_with_its_connections_and_comes_back_where_it_was() {
    let fleet = Fleet::new();
    let mut server = fleet.server("v1", Manner::Obeys).await;
    let mut connection = Connection::open(server.address(), Protocol::Http1).await;
    assert_eq!(said(&connection.try_send(call("a", "200", Protocol::Http1)).await), "200 v1");
    server.kill();
    assert_eq!(said(&connection.try_send(call("b", "200", Protocol::Http1)).await), "nothing");
    server.start().await;
    assert_eq!(said(&call("c", "200", Protocol::Http1).try_send(server.address()).await), "200 v1");
}

#[tokio::test]
async fn a_line_is_as_slow_and_as_narrow_as_it_is_told_to_be_and_keeps_the_order() {
    let echo = raw::Server::echo().await;
    let line = Relay::to(echo.address(), 1).await;
    let mut stream = raw::connect(line.address()).await;
    line.is(Faults { latency: Duration::from_millis(100), jitter: Duration::from_millis(50), ..Faults::NONE });
    let started = Instant::now();
    let words: Vec<u8> = (0..100).collect();
    assert_eq!(raw::round_trip(&mut stream, &words).await, words);
    assert!(started.elapsed() >= Duration::from_millis(200), "there and back");
    line.is(Faults { bandwidth: Some(100_000), ..Faults::NONE });
    let started = Instant::now();
    let words = vec![7; 20_000];
    let (mut read, mut write) = stream.split();
    let mut back = vec![0; words.len()];
    let (sent, received) = tokio::join!(write.write_all(&words), read.read_exact(&mut back));
    assert!(sent.is_ok() && received.is_ok() && back == words);
    assert!(started.elapsed() >= Duration::from_millis(150), "20 kB at 100 kB/s: {:?}", started.elapsed());
}

#[tokio::test]
async fn a_line_is_cut_or_loses_what_is_on_it() {
    let echo = raw::Server::echo().await;
    let line = Relay::to(echo.address(), 1).await;
    let mut stream = raw::connect(line.address()).await;
    assert_eq!(raw::round_trip(&mut stream, b"hello").await, b"hello");
    line.cut();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    line.is(Faults { loss_per_mille: 1000, ..Faults::NONE });
    let mut stream = raw::connect(line.address()).await;
    stream.write_all(b"hello").await.unwrap();
    assert!(stream.read(&mut [0; 1]).await.is_err());
    line.is(Faults { refuses: true, ..Faults::NONE });
    let mut stream = raw::connect(line.address()).await;
    assert!(stream.read(&mut [0; 1]).await.is_err());
    line.is(Faults::NONE);
    let mut stream = raw::connect(line.address()).await;
    assert_eq!(raw::round_trip(&mut stream, b"hello").await, b"hello");
    assert_eq!(line.lost(), 2);
}
