//! The same inputs through Debian's nginx and haproxy: where they decide otherwise, and why.
//!
//! What counts is what the origin sees, since that is what smuggling is made of. A difference that is not in
//! [`DIFFERENCES`] fails the test, and so does one that is there and is not found: both mean that somebody has changed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use leno_tests::{eventually, free_port, skip};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::class::Class;
use super::origin::Origin;
use super::{h2frames, http1, http2, wire};

/// Rows at a time; each of the lanes has an origin of its own.
const LANES: usize = 8;
/// A server that waits for more bytes says so by silence.
const SILENCE: Duration = Duration::from_secs(5);

/// Another proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Peer {
    Nginx,
    Haproxy,
}
use Peer::{Haproxy, Nginx};

/// What it does that Leno does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Does {
    /// Refuses what Leno forwards.
    Refuses,
    /// Forwards what Leno refuses.
    Forwards,
    /// Forwards something else.
    Differs,
    /// Forwards something that the origin does not take for a canonical request.
    Mangles,
}
use Does::{Differs, Forwards, Mangles, Refuses};

/// Each difference and its reason.
const DIFFERENCES: &[(Peer, Class, Does, &str)] = &[];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_and_haproxy_decide_the_same_but_where_it_is_said_why_not() {
    let mut found = BTreeMap::new();
    for peer in [Nginx, Haproxy] {
        if let Err(why) = Command::new(program(peer)).arg("-v").output() {
            skip(program(peer), &why.to_string());
            return;
        }
        compare(peer, &mut found).await;
    }
    let mut wrong = Vec::new();
    for ((peer, class, does), rows) in &found {
        println!("{peer:?} {class:?} {does:?}: {} rows, as {}", rows.len(), rows[0]);
        if !DIFFERENCES.iter().any(|(a, b, c, _)| (a, b, c) == (peer, class, does)) {
            wrong.push(format!("new: ({peer:?}, {class:?}, {does:?}): {}", rows.join("\n        ")));
        }
    }
    for (peer, class, does, reason) in DIFFERENCES {
        assert!(!reason.is_empty());
        if !found.contains_key(&(*peer, *class, *does)) {
            wrong.push(format!("gone: ({peer:?}, {class:?}, {does:?})"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn program(peer: Peer) -> &'static str {
    match peer {
        Nginx => "nginx",
        Haproxy => "haproxy",
    }
}

type Found = BTreeMap<(Peer, Class, Does), Vec<String>>;

/// A row of either version, and what the origin sees by way of Leno.
#[derive(Clone)]
enum Sent {
    Http1(Vec<u8>),
    Http2(Vec<h2frames::Part>),
}

async fn compare(peer: Peer, found: &mut Found) {
    let mut lanes = Vec::new();
    for _ in 0..LANES {
        let origin = Origin::start().await;
        let [http1, http2] = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        lanes.push((origin, http1, http2));
    }
    let _running = Running::start(peer, &lanes).await;
    let mut work: Vec<Vec<(Class, Sent, Option<String>)>> = vec![Vec::new(); LANES];
    for (at, row) in rows().enumerate() {
        work[at % LANES].push(row);
    }
    let mut tasks = JoinSet::new();
    for ((origin, http1, http2), rows) in lanes.into_iter().zip(work) {
        tasks.spawn(async move {
            let mut differences = Vec::new();
            for (class, sent, ours) in rows {
                let (seen, text) = match &sent {
                    Sent::Http1(bytes) => {
                        let came = wire::ask(http1, &origin, bytes, SILENCE).await;
                        (came.seen, String::from_utf8_lossy(bytes).into_owned())
                    }
                    Sent::Http2(parts) => {
                        (h2frames::ask(http2, &origin, parts, SILENCE).await.seen, format!("{parts:?}"))
                    }
                };
                if let Some(does) = difference(ours.as_deref(), &seen) {
                    let text: String = text.escape_debug().take(160).collect();
                    differences.push((class, does, format!("{text} -> {seen:?}")));
                }
            }
            differences
        });
    }
    while let Some(differences) = tasks.join_next().await {
        for (class, does, row) in differences.expect("a lane") {
            found.entry((peer, class, does)).or_default().push(row);
        }
    }
}

fn rows() -> impl Iterator<Item = (Class, Sent, Option<String>)> {
    let http1 = http1::rows().map(|(class, input, expect)| {
        let ours = match expect {
            http1::Expect::Is(canonical) | http1::Expect::Closes(canonical) => Some(canonical.to_owned()),
            http1::Expect::Refused(_) | http1::Expect::Denied(_) | http1::Expect::Broken => None,
        };
        (class, Sent::Http1(input.bytes()), ours)
    });
    let http2 = http2::ROWS.iter().map(|(class, input, expect)| {
        let ours = match expect {
            http2::Expect::Is(canonical) | http2::Expect::RefusedLate(_, canonical) => Some((*canonical).to_owned()),
            http2::Expect::Refused(_) | http2::Expect::Reset => None,
        };
        (*class, Sent::Http2(input.parts()), ours)
    });
    http1.chain(http2)
}

fn difference(ours: Option<&str>, seen: &[String]) -> Option<Does> {
    if seen.iter().any(|one| one.starts_with("(nonsense)")) {
        return Some(Mangles);
    }
    match (ours, seen) {
        (None, []) => None,
        (Some(ours), [only]) if only == ours => None,
        (Some(_), []) => Some(Refuses),
        (None, _) => Some(Forwards),
        (Some(_), _) => Some(Differs),
    }
}

/// The program, for as long as this lives.
struct Running {
    child: Child,
    _directory: TempDir,
}

impl Running {
    async fn start(peer: Peer, lanes: &[(Origin, SocketAddr, SocketAddr)]) -> Self {
        let directory = TempDir::with_prefix("leno-test-").expect("cannot create a directory");
        let file = directory.path().join("conf");
        let (text, arguments) = match peer {
            Nginx => (nginx(directory.path().to_str().expect("text"), lanes), vec!["-e", "stderr", "-c"]),
            Haproxy => (haproxy(lanes), vec!["-db", "-q", "-f"]),
        };
        std::fs::write(&file, text).expect("cannot write a file");
        let mut command = Command::new(program(peer));
        command.args(arguments).arg(&file).current_dir(directory.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("it was there a moment ago");
        for (_, http1, http2) in lanes {
            for address in [http1, http2] {
                eventually("it listens", async || {
                    tokio::net::TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string())
                })
                .await;
            }
        }
        Self { child, _directory: directory }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As a sidecar: it streams, keeps the host and the path, and speaks HTTP/1.1 to the origin.
fn nginx(directory: &str, lanes: &[(Origin, SocketAddr, SocketAddr)]) -> String {
    let servers: String = lanes
        .iter()
        .map(|(origin, http1, http2)| {
            format!(
                "server {{ listen {http1}; listen {http2} http2; location / {{ proxy_pass http://{}; \
                 proxy_http_version 1.1; proxy_request_buffering off; proxy_set_header Host $http_host; \
                 proxy_set_header Connection \"\"; }} }}\n",
                origin.address()
            )
        })
        .collect();
    format!(
        "daemon off; master_process off; pid {directory}/pid; error_log stderr crit;\n\
         events {{ worker_connections 512; }}\n\
         http {{ access_log off; client_body_temp_path {directory}/a; proxy_temp_path {directory}/b; \
         fastcgi_temp_path {directory}/c; uwsgi_temp_path {directory}/d; scgi_temp_path {directory}/e;\n{servers}}}\n"
    )
}

fn haproxy(lanes: &[(Origin, SocketAddr, SocketAddr)]) -> String {
    let listeners: String = lanes
        .iter()
        .enumerate()
        .map(|(lane, (origin, http1, http2))| {
            format!(
                "listen lane{lane}\n  bind {http1}\n  bind {http2} proto h2\n  server origin {}\n",
                origin.address()
            )
        })
        .collect();
    format!("defaults\n  mode http\n  timeout connect 10s\n  timeout client 10s\n  timeout server 10s\n{listeners}")
}
