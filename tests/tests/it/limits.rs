//! What one caller may have, and what happens where memory or descriptors run out.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use leno_tests::pki::{Authority, Leaf};
use leno_tests::{Call, Connection, Origin, Protocol, Sidecar, eventually, full, metric, origin, raw, sidecar, tls};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n";
const ID: &str = "spiffe://cluster.local/ns/default/sa/shop";

async fn reached(shop: &Sidecar, limit: &str) -> f64 {
    metric(&shop.proxy.metrics().await, "leno_downstream_limit_total", &[&format!("limit=\"{limit}\"")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_only_so_many_connections_where_they_come_in() {
    let app = origin("app").await;
    for workers in [1, 4] {
        let limits = json!({"connections_per_caller": 3});
        let shop = sidecar(app.address(), "").workers(workers).bootstrap("limits", limits).start().await;
        let mut held = Vec::new();
        for _ in 0..3 {
            let mut connection = Connection::open(shop.address(), Protocol::Http1).await;
            assert_eq!(connection.send(Call::get("http://shop/")).await.status, 200);
            held.push(connection);
        }
        assert_eq!(raw::exchange(shop.address(), REQUEST).await, "", "it is closed without a word");
        assert!(reached(&shop, "connections_per_caller").await >= 1.0);
        held.pop();
        eventually("there is room again", async || {
            let mut stream = raw::connect(shop.address()).await;
            stream.write_all(REQUEST).await.map_err(|error| error.to_string())?;
            raw::read_head(&mut stream).await.map_err(|error| error.to_string())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_has_only_so_many_connections_and_another_has_its_own() {
    let (app, authority) = (origin("app").await, Authority::new("root"));
    let limits = json!({"connections_per_caller": 2});
    let shop = sidecar(app.address(), "").identity(&authority, ID).bootstrap("limits", limits).start().await;
    let caller = |name: &str| authority.issue(&Leaf::of(&format!("spiffe://cluster.local/ns/default/sa/{name}")));
    let (one, other) = (caller("one"), caller("other"));
    let ask = async |identity| {
        let config = tls::caller(Some(identity), &rustls::version::TLS13, &[b"http/1.1"]);
        let stream = raw::connect(shop.address()).await;
        let name = ServerName::try_from("shop").expect("a name");
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake");
        let _ = stream.write_all(REQUEST).await;
        let mut answer = [0; 1024];
        let read = stream.read(&mut answer).await.unwrap_or_default();
        (read > 0).then_some(stream)
    };
    let held = [ask(&one).await, ask(&one).await];
    assert!(held.iter().all(Option::is_some));
    assert!(ask(&one).await.is_none(), "the third is closed");
    assert!(ask(&other).await.is_some());
    assert_eq!(reached(&shop, "connections_per_caller").await, 1.0);
}

/// The app's own connections are not counted by their caller: they have but one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_own_app_may_have_as_many_as_there_are() {
    let app = origin("app").await;
    let shop = sidecar(app.address(), "").bootstrap("limits", json!({"connections_per_caller": 1})).start().await;
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut connection = Connection::open(shop.outbound(), Protocol::Http1).await;
        assert!(connection.send(Call::get("http://nowhere/")).await.status > 0);
        held.push(connection);
    }
    assert_eq!(reached(&shop, "connections_per_caller").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_memory_nobody_is_accepted_and_operators_are_still_answered() {
    let app = origin("app").await;
    // Less than the process has anyway.
    let shop = sidecar(app.address(), "").bootstrap("limits", json!({"memory": "16Mi"})).start().await;
    eventually("memory is full", async || match metric(&shop.proxy.metrics().await, "leno_memory_used_bytes", &[]) {
        used if used > f64::from(16 << 20) => Ok(()),
        used => Err(used.to_string()),
    })
    .await;
    let mut stream = raw::connect(shop.address()).await;
    stream.write_all(REQUEST).await.expect("it waits in the queue");
    let mut answer = [0; 16];
    let waited = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut answer)).await;
    assert!(waited.is_err(), "nobody has accepted it");
    assert_eq!(shop.proxy.readiness().await, Ok(200));
    assert_eq!(app.count(), 0);
}

/// The descriptors that a process has open.
fn descriptors(pid: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process has descriptors").count() as u64
}

/// Whether the other side has closed it.
fn has_ended(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// CPU of a process, in hundredths of a second.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process has figures");
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_ascii_whitespace().skip(11)).into_iter().flatten();
    fields.take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_callers_are_turned_away_at_leisure_and_served_when_there_are_some() {
    let app = Origin::answering(|_| Response::new(full("app"))).await;
    for workers in [1, 4] {
        let shop = sidecar(app.address(), "").workers(workers).start().await;
        assert_eq!(Call::get("http://shop/").send(shop.address()).await.text(), "app");
        let pid = shop.proxy.process.pid();
        let process = Pid::from_raw(pid.cast_signed());
        let room = descriptors(pid) + 8;
        prlimit(process, Resource::Nofile, Rlimit { current: Some(room), maximum: Some(room) }).expect("its limit");
        let mut held = Vec::new();
        for _ in 0..100 {
            held.push(raw::connect(shop.address()).await);
        }
        // All but a few are told, by an end, that there is no room.
        eventually("most are told", async || {
            let told = held.iter().filter(|stream| has_ended(stream)).count();
            if told >= 80 { Ok(()) } else { Err(format!("{told} of {}", held.len())) }
        })
        .await;
        // One waits in the queue all the time, and who spins about it takes all of a second.
        let (_waits, began) = (raw::connect(shop.address()).await, ticks(pid));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(ticks(pid) - began < 50, "{} hundredths of a second of CPU", ticks(pid) - began);
        drop(held);
        eventually("it serves again", async || {
            let reply = Call::get("http://shop/").try_send(shop.address()).await?;
            if reply.text() == "app" { Ok(()) } else { Err(format!("{} `{}`", reply.status, reply.text())) }
        })
        .await;
        assert!(reached(&shop, "descriptors").await >= 80.0);
    }
}
