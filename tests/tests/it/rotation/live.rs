//! Connections that are open while something changes about who may have them.

use leno_tests::pki::{Authority, Leaf};
use leno_tests::{Call, Connection, PATIENCE, Protocol, eventually, origin, raw};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{Pair, Side};
use crate::mtls::{Caller, OWN, PEER, Scene, Stage, mode};

/// Who may stay.
const OTHER: &str = "spiffe://cluster.local/ns/default/sa/ratings";
/// The serial number that gets revoked.
const GUILTY: u64 = 0x666;
const INNOCENT: u64 = 0x777;
/// What the app adds to its stream.
const CHUNK: &[u8] = b"4\r\ntick\r\n";

/// What a connection is doing when the change comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// It rests between two requests.
    Idle,
    /// It is in the middle of a response.
    Stream,
    /// It has become a WebSocket.
    Tunnel,
    /// It carries bytes, for an app that speaks TCP.
    Bytes,
}

/// A connection to the proxy: encrypted for its inbound side, in clear text for its outbound one.
struct Held {
    doing: Doing,
    stream: Box<dyn Bytes>,
}

trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

impl Held {
    async fn open(stage: &Stage, caller: &Caller<'_>, doing: Doing) -> Self {
        Self::over(caller.connect(stage.inbound).await.expect("let in"), doing).await
    }

    async fn over(stream: impl Bytes + 'static, doing: Doing) -> Self {
        let mut held = Self { doing, stream: Box::new(stream) };
        match doing {
            Doing::Idle => held.asks().await,
            Doing::Stream => {
                held.says("GET /stream HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
                held.hears(CHUNK).await;
            }
            Doing::Tunnel => {
                held.says(
                    "GET / HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                )
                .await;
                held.hears(b"\r\n\r\n").await;
                held.echoes().await;
            }
            Doing::Bytes => held.echoes().await,
        }
        held
    }

    /// It goes on as if nothing had happened.
    async fn lives(&mut self, ticks: &watch::Sender<u64>) {
        match self.doing {
            Doing::Idle => self.asks().await,
            Doing::Stream => {
                ticks.send_modify(|tick| *tick += 1);
                self.hears(CHUNK).await;
            }
            Doing::Tunnel | Doing::Bytes => self.echoes().await,
        }
    }

    /// The other side ends it.
    async fn ends(mut self, why: &str) {
        let mut rest = [0; 1024];
        let end = async { while matches!(self.stream.read(&mut rest).await, Ok(read) if read > 0) {} };
        let ended = tokio::time::timeout(PATIENCE, end).await;
        assert!(ended.is_ok(), "{why}: a connection that does this is not ended: {:?}", self.doing);
    }

    async fn asks(&mut self) {
        self.says("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
        self.hears(b"\r\n\r\nok").await;
    }

    async fn echoes(&mut self) {
        assert_eq!(raw::round_trip(&mut self.stream, b"anybody there?").await, b"anybody there?");
    }

    async fn says(&mut self, words: &str) {
        self.stream.write_all(words.as_bytes()).await.expect("written");
    }

    /// Reads up to these bytes.
    async fn hears(&mut self, end: &[u8]) -> String {
        let mut heard = Vec::new();
        let hearing = async {
            while !heard.ends_with(end) {
                heard.push(self.stream.read_u8().await?);
            }
            Ok::<_, std::io::Error>(())
        };
        let result = tokio::time::timeout(PATIENCE, hearing).await;
        let heard = String::from_utf8_lossy(&heard).into_owned();
        assert!(matches!(result, Ok(Ok(()))), "{:?}: {result:?} after {heard}", self.doing);
        heard
    }
}

/// An app that answers, streams a chunk at each tick, and echoes in WebSockets.
async fn app(ticks: watch::Receiver<u64>) -> raw::Server {
    raw::Server::start(move |mut stream| {
        let ticks = ticks.clone();
        async move {
            // An error is the end of the conversation.
            let _ = converse(&mut stream, ticks).await;
        }
    })
    .await
}

async fn converse(stream: &mut TcpStream, mut ticks: watch::Receiver<u64>) -> std::io::Result<()> {
    loop {
        let head = raw::read_head(stream).await?.to_ascii_lowercase();
        if head.contains("upgrade: websocket") {
            stream
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
                .await?;
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await?;
            return Ok(());
        }
        if !head.starts_with("get /stream") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
            continue;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
        stream.write_all(CHUNK).await?;
        while ticks.changed().await.is_ok() {
            stream.write_all(CHUNK).await?;
        }
        return Ok(());
    }
}

/// Denies a service account of namespace `default`.
fn denies(id: &str) -> String {
    let principal = id.trim_start_matches("spiffe://");
    format!(
        "{}---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: guilty, namespace: default}}\n\
         spec: {{action: DENY, rules: [{{from: [{{source: {{principals: [{principal}]}}}}]}}]}}\n",
        mode("STRICT")
    )
}

/// What happens to the guilty.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    Policy,
    Revocation,
}

/// Opens connections of two callers, judges one of them, and looks who is still there.
async fn judged(verdict: Verdict, doings: &[Doing]) {
    let ticks = watch::Sender::new(0);
    let rules = mode("STRICT");
    let is_tcp = doings.contains(&Doing::Bytes);
    let app = if is_tcp { raw::Server::echo().await } else { app(ticks.subscribe()).await };
    let protocol = if is_tcp { "TCP" } else { "HTTP" };
    let stage = Scene { protocol, ..Scene::new(app.address(), &rules) }.start().await;
    let innocent_id = match verdict {
        Verdict::Policy => OTHER,
        // Another certificate of the same workload.
        Verdict::Revocation => PEER,
    };
    let guilty = stage.root.issue(&Leaf { serial: GUILTY, ..Leaf::of(PEER) });
    let innocent = stage.root.issue(&Leaf { serial: INNOCENT, ..Leaf::of(innocent_id) });
    let (guilty, innocent) = (Caller::with(&guilty), Caller::with(&innocent));
    let mut ending = Vec::new();
    let mut staying = Vec::new();
    for doing in doings {
        ending.push(Held::open(&stage, &guilty, *doing).await);
        staying.push(Held::open(&stage, &innocent, *doing).await);
    }
    let file = |name: &str, text: &str| std::fs::write(stage.directory.path().join(name), text).expect("written");
    match verdict {
        Verdict::Policy => file("rules/rules.yaml", &denies(PEER)),
        Verdict::Revocation => file("revoked.pem", &stage.root.revoke(&[GUILTY])),
    }
    for held in ending {
        held.ends(&format!("{verdict:?}")).await;
    }
    for held in &mut staying {
        held.lives(&ticks).await;
    }
    let log = stage.proxy.process.log();
    let said = match verdict {
        Verdict::Policy => "its caller is no longer allowed by the authorization policies",
        Verdict::Revocation => "its certificate has been revoked",
    };
    assert!(log.contains(said), "{log}");
}

#[tokio::test]
async fn a_policy_that_denies_a_caller_ends_what_it_has_open_and_nothing_else() {
    judged(Verdict::Policy, &[Doing::Idle, Doing::Stream, Doing::Tunnel]).await;
    judged(Verdict::Policy, &[Doing::Bytes]).await;
}

#[tokio::test]
async fn a_revoked_certificate_ends_what_was_opened_with_it_and_nothing_else() {
    judged(Verdict::Revocation, &[Doing::Idle, Doing::Stream, Doing::Tunnel]).await;
    judged(Verdict::Revocation, &[Doing::Bytes]).await;
}

#[tokio::test]
async fn a_callers_connection_outlives_the_certificate_it_was_answered_with() {
    let ticks = watch::Sender::new(0);
    let app = app(ticks.subscribe()).await;
    let stage = Scene::new(app.address(), &mode("STRICT")).start().await;
    let identity = stage.root.issue(&Leaf::of(PEER));
    let caller = Caller::with(&identity);
    let mut held = Vec::new();
    for doing in [Doing::Idle, Doing::Stream, Doing::Tunnel] {
        held.push(Held::open(&stage, &caller, doing).await);
    }
    let Stage { proxy, root, directory, .. } = stage;
    let side = Side { proxy, files: directory.path().to_owned(), id: OWN.to_owned() };
    for serial in 0x1000..0x1003 {
        side.is_given(&root, serial).await;
        for held in &mut held {
            held.lives(&ticks).await;
        }
    }
}

/// The request that is on its way when a root goes must not be lost, so an idle connection is not just closed.
#[tokio::test]
async fn a_callers_connection_ends_between_two_requests_when_its_root_goes() {
    let ticks = watch::Sender::new(0);
    let app = app(ticks.subscribe()).await;
    let stage = Scene::new(app.address(), &mode("STRICT")).start().await;
    let identity = stage.root.issue(&Leaf::of(PEER));
    let caller = Caller::with(&identity);
    let mut idle = Held::open(&stage, &caller, Doing::Idle).await;
    let mut busy = Vec::new();
    for doing in [Doing::Stream, Doing::Tunnel] {
        busy.push(Held::open(&stage, &caller, doing).await);
    }
    let inbound = stage.inbound;
    let Stage { proxy, root, directory, .. } = stage;
    let side = Side { proxy, files: directory.path().to_owned(), id: OWN.to_owned() };
    let new = Authority::new("new root");
    side.believes(&[&root, &new]).await;
    side.is_given(&new, 0x1000).await;
    idle.asks().await;
    side.believes(&[&new]).await;
    caller.asks(inbound).await.expect_err("the root is gone for new connections");
    eventually("a request is answered, and is said to be the last", async || {
        idle.says("POST / HTTP/1.1\r\nhost: reviews\r\ncontent-length: 0\r\n\r\n").await;
        let head = idle.hears(b"\r\n\r\nok").await;
        if head.contains("connection: close") { Ok(()) } else { Err(head) }
    })
    .await;
    idle.ends("after its last answer").await;
    for held in &mut busy {
        held.lives(&ticks).await;
    }
}

#[tokio::test]
async fn a_pooled_connection_between_sidecars_outlives_the_certificates_of_both() {
    let root = Authority::new("root");
    let app = origin("app").await;
    let pair = Pair::start(app.address(), "HTTP", &root).await;
    let mut connection = Connection::open(pair.outbound, Protocol::Http1).await;
    let mut shown = async || {
        let reply = connection.send(Call::get("http://reviews/")).await;
        assert_eq!(reply.status, 200, "{}", reply.header("x-leno-error"));
        // It says which certificate the caller's sidecar had when it connected.
        app.last().header("x-forwarded-client-cert").to_owned()
    };
    let first = shown().await;
    for serial in 0x1000..0x1003 {
        for side in pair.sides() {
            side.is_given(&root, serial).await;
        }
        assert_eq!(shown().await, first, "the connection of before");
    }
    pair.reviews.believes(&[&root, &Authority::new("another root")]).await;
    assert_eq!(shown().await, first, "a root more is no reason to connect again");
}

#[tokio::test]
async fn a_revoked_endpoint_loses_what_is_open_to_it() {
    let ticks = watch::Sender::new(0);
    let cases: [(&str, &[Doing]); 2] =
        [("HTTP", &[Doing::Idle, Doing::Stream, Doing::Tunnel]), ("TCP", &[Doing::Bytes])];
    for (protocol, doings) in cases {
        let app = if protocol == "TCP" { raw::Server::echo().await } else { app(ticks.subscribe()).await };
        let root = Authority::new("root");
        let pair = Pair::start(app.address(), protocol, &root).await;
        pair.reviews.is_given(&root, GUILTY).await;
        let mut held = Vec::new();
        for doing in doings {
            held.push(Held::over(raw::connect(pair.outbound).await, *doing).await);
        }
        std::fs::write(pair.shop.files.join("revoked.pem"), root.revoke(&[GUILTY])).expect("written");
        for mut held in held {
            match held.doing {
                // In clear text from the test to the sidecar: that stays, and is told.
                Doing::Idle => {
                    eventually("the endpoint is refused", async || {
                        held.says("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
                        let head = held.hears(b"\r\n\r\n").await;
                        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                        let length = length.and_then(|length| length.parse().ok()).ok_or_else(|| head.clone())?;
                        held.stream.read_exact(&mut vec![0; length]).await.map_err(|error| error.to_string())?;
                        if head.contains("it has been revoked") { Ok(()) } else { Err(head) }
                    })
                    .await;
                }
                Doing::Stream | Doing::Tunnel | Doing::Bytes => held.ends("a revoked endpoint").await,
            }
        }
    }
}
