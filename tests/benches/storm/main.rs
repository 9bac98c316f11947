//! What connections cost, and what becomes of a sidecar in a storm: each part prints rows of a table.
//!
//!     cargo build --release --workspace --bins && cargo bench -p leno-tests --bench storm -- [idle|slow|steady|floods]…
//!
//! * `idle`: KiB for each connection that rests, in clear text and with mTLS, on HTTP/1.1 and HTTP/2.
//! * `slow`: 8 000 connections with half a head each, in clear text and within TLS: KiB for each, what is left when they are
//!   gone, and CPU.
//! * `steady`: a million requests and 100 000 connections: memory before, half way, and after.
//! * `floods`: how long a caller in good faith waits beside each flood of HTTP/2.
//!
//! All of it needs descriptors (`ulimit -n`), as many as connections here and as many in the sidecar. Where there are fewer,
//! there are fewer connections, and the row says so.
//!
//! **Another allocator** for comparison: build with the system's, and let the loader put any other in its place.
//!
//!     export CARGO_TARGET_DIR=target/system RUSTFLAGS="--cfg leno_system_allocator"
//!     cargo build --release --workspace --bins
//!     LENO_PRELOAD=/usr/lib/x86_64-linux-gnu/libjemalloc.so.2 cargo bench -p leno-tests --bench storm -- slow steady

mod floods;
mod idle;
mod slow;
mod steady;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use leno_tests::pki::{Authority, Leaf};
use leno_tests::{Origin, Sidecar, full, sidecar, tls};
use rustix::process::{Resource, getrlimit};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// What all parts call.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n";
/// How long the sidecar may take to be as it will stay: connections rest after two seconds, memory goes back after one.
const SETTLES: Duration = Duration::from_secs(6);

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_asked = |part: &str| asked.is_empty() || asked.iter().any(|word| word == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime starts").block_on(async {
        if is_asked("idle") {
            idle::run().await;
        }
        if is_asked("slow") {
            slow::run().await;
        }
        if is_asked("steady") {
            steady::run().await;
        }
        if is_asked("floods") {
            floods::run().await;
        }
    });
}

/// How many connections there can be at a time, of so many.
fn scaled(wanted: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current.map_or(wanted, |files| files as usize);
    // Two thirds: a sidecar may need as many toward its app.
    wanted.min(files * 2 / 3)
}

/// What a row says of that.
fn of(number: usize, wanted: usize) -> String {
    if number == wanted { format!("{number}") } else { format!("{number} (of {wanted}: `ulimit -n`)") }
}

fn kibibytes(bytes: u64) -> u64 {
    bytes / 1024
}

/// A sidecar in front of an app.
struct Bench {
    shop: Sidecar,
    authority: Authority,
    _app: Origin,
}

impl Bench {
    /// As it is by default, but for bounds on the number of connections and on heads that take their time.
    async fn start() -> Self {
        let app = Origin::answering(|_| Response::new(full("app"))).await;
        let authority = Authority::new("root");
        let limits =
            json!({"connections": 100_000, "connections_per_caller": 100_000, "head": "1h", "first_byte": "1h"});
        let mut builder = sidecar(app.address(), "")
            .identity(&authority, "spiffe://cluster.local/ns/default/sa/shop")
            .bootstrap("limits", limits);
        let preload = std::env::var_os("LENO_PRELOAD").map(PathBuf::from);
        if let Some(preload) = &preload {
            builder = builder.environment("LD_PRELOAD", preload);
        }
        let shop = builder.start().await;
        Self { shop, authority, _app: app }
    }

    fn address(&self) -> SocketAddr {
        self.shop.address()
    }

    fn memory(&self) -> u64 {
        self.shop.proxy.process.resident_memory()
    }

    /// Milliseconds of CPU so far.
    fn cpu(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.shop.proxy.process.pid())).unwrap_or_default();
        // After the name, which ends with the last parenthesis: user and system time are the 12th and 13th, in ticks.
        let fields =
            stat.rsplit_once(')').map(|(_, rest)| rest.split_ascii_whitespace().skip(11)).into_iter().flatten();
        fields.take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10
    }

    /// How to begin TLS with it.
    fn connector(&self, alpn: &[&[u8]]) -> TlsConnector {
        let caller = self.authority.issue(&Leaf::of("spiffe://cluster.local/ns/default/sa/caller"));
        TlsConnector::from(Arc::new(tls::caller(Some(&caller), &rustls::version::TLS13, alpn)))
    }
}

/// Bytes both ways.
trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Bytes for S {}

/// A connection, within TLS or not.
async fn connect(to: SocketAddr, tls: Option<&TlsConnector>) -> Box<dyn Bytes> {
    let stream = leno_tests::raw::connect(to).await;
    match tls {
        None => Box::new(stream),
        Some(connector) => {
            let name = rustls_pki_types::ServerName::try_from("shop").expect("a name");
            Box::new(connector.connect(name, stream).await.expect("a handshake"))
        }
    }
}
