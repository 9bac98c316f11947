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

use super::class::Class::{self, *};
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
#[rustfmt::skip] // One difference a line.
const DIFFERENCES: &[(Peer, Class, Does, &str)] = &[
    (Nginx, LengthAndChunked, Refuses, "400 for both together; Leno goes by `chunked` and closes (RFC 9112 §6.3 allows either)"),
    (Nginx, LengthTwice, Refuses, "400 for any second Content-Length; Leno takes equal ones for one"),
    (Nginx, LengthForm, Refuses, "a tab before the value is not optional space for it (RFC 9110 §5.6.3 says that it is)"),
    (Nginx, CodingForm, Refuses, "a tab before the value, or spaces behind it, are not optional space for it"),
    (Nginx, CodingForm, Differs, "sends a chunked body that it has whole with a Content-Length"),
    (Nginx, CodingInHttp10, Forwards, "serves HTTP/1.0, which Leno does not (Envoy)"),
    (Nginx, Expectation, Refuses, "400 for any second Expect; Leno takes equal ones for one"),
    (Nginx, Expectation, Forwards, "passes over expectations that it does not know (RFC 9110 §10.1.1: 417)"),
    (Nginx, Expectation, Differs, "sends a chunked body that it has whole with a Content-Length"),
    (Nginx, ZeroLength, Differs, "sends a chunked body that it has whole with a Content-Length, and drops one of 0"),
    (Nginx, BodyWithGet, Differs, "sends a chunked body that it has whole with a Content-Length"),
    (Nginx, ChunkLineEnd, Forwards, "takes a bare LF for the end of a chunk line (RFC 9112 §7.1: CRLF only)"),
    (Nginx, ChunkSize, Forwards, "skips what stands behind the size up to the end of its line"),
    (Nginx, ChunkSize, Differs, "sends a chunked body that it has whole with a Content-Length"),
    (Nginx, ChunkExtension, Forwards, "skips extensions of any length and with any bytes"),
    (Nginx, ChunkExtension, Differs, "sends a chunked body that it has whole with a Content-Length"),
    (Nginx, ChunkTrailer, Forwards, "drops trailers without looking at them"),
    (Nginx, ChunkTrailer, Differs, "drops trailers, and sends the body with a Content-Length"),
    (Nginx, Control, Forwards, "takes DEL in a value"),
    (Nginx, Control, Mangles, "passes control characters other than NUL on (RFC 9110 §5.5 forbids them)"),
    (Nginx, BareCr, Forwards, "takes CR CR LF for the end of a line"),
    (Nginx, BareLf, Forwards, "takes `GET /x` alone for HTTP/0.9"),
    (Nginx, Name, Forwards, "drops fields whose names are none, and goes on"),
    (Nginx, HostForm, Forwards, "looks at the form of Host only as far as it needs it"),
    (Nginx, HostDiffers, Forwards, "lets the target win over Host (RFC 9112 §3.2.2), which here keeps what the client sent"),
    (Nginx, HostDiffers, Differs, "matches the normalised path, but forwards the one that came"),
    (Nginx, Fragment, Differs, "matches without the fragment, but forwards it"),
    (Nginx, PathDots, Refuses, "400 for a path that leads above the root; Leno stays there (RFC 3986 §5.2.4)"),
    (Nginx, PathDots, Differs, "matches the normalised path, but forwards the one that came"),
    (Nginx, PathEscape, Forwards, "takes a backslash for a letter"),
    (Nginx, PathEscape, Differs, "matches the normalised path, but forwards the one that came"),
    (Nginx, PathSeparator, Refuses, "decodes %2f before it resolves dots, and finds itself above the root"),
    (Nginx, PathSeparator, Forwards, "takes a backslash for a letter"),
    (Nginx, PathSeparator, Differs, "matches the normalised path, but forwards the one that came"),
    (Nginx, Version, Forwards, "serves HTTP/1.0 and 0.9, and other minor versions as 1.1"),
    (Nginx, Method, Forwards, "has no limit for methods but that of the line"),
    (Nginx, UpgradeEarlyBytes, Forwards, "does not take part in upgrades unless it is told to"),
    (Nginx, UpgradeEarlyBytes, Differs, "does not take part in upgrades unless it is told to"),
    (Nginx, UpgradeAnswered200, Differs, "does not take part in upgrades unless it is told to"),
    (Nginx, UpgradeH2c, Differs, "removes Upgrade, but not what Connection names beside it"),
    (Nginx, UpgradeOther, Forwards, "does not take part in upgrades unless it is told to"),
    (Nginx, H2Length, Refuses, "wants one Content-Length, written once"),
    (Nginx, H2Length, Forwards, "finds a length that does not fit when it has sent the head already, or not at all"),
    (Nginx, H2Connection, Forwards, "passes over fields of HTTP/1 connections in HTTP/2 (RFC 9113 §8.2.2: malformed)"),
    (Nginx, H2Injection, Forwards, "takes DEL in a value, and drops fields whose names are none"),
    (Nginx, H2Injection, Mangles, "passes control characters other than NUL, CR and LF on"),
    (Nginx, H2EdgeSpace, Forwards, "takes space at the edges of a value (RFC 9113 §8.2.1: malformed)"),
    (Nginx, H2ExtendedConnect, Refuses, "does not know extended CONNECT"),
    (Nginx, H2Pseudo, Refuses, "takes `:authority` or Host, but not both (RFC 9113 §8.3.1 allows equal ones)"),
    (Nginx, H2Pseudo, Forwards, "looks at scheme, authority and method only as far as it needs them"),
    (Nginx, H2Trailers, Refuses, "does not take trailers of requests in HTTP/2"),
    (Nginx, HeaderBomb, Forwards, "counts bytes of a head, not its fields"),
    (Nginx, DoubleSlash, Differs, "matches the normalised path, but forwards the one that came"),
    (Nginx, Underscore, Differs, "drops names with an underscore, as profile `safe` does"),
    (Nginx, Spoofing, Differs, "knows nothing of x-forwarded-client-cert and Envoy's fields"),
    (Nginx, HopByHop, Differs, "does not remove what Connection names (RFC 9110 §7.6.1: must)"),
    (Nginx, Identity, Differs, "knows nothing of x-forwarded-client-cert"),
    (Nginx, Token, Forwards, "has no rule about tokens here"),
    (Nginx, LogInjection, Differs, "forwards escapes as they came"),
    (Nginx, LogInjection, Mangles, "passes control characters other than NUL on"),
    (Nginx, Plain, Differs, "sends a chunked body that it has whole with a Content-Length, or forwards the fragment"),
    (Haproxy, LengthAndChunked, Refuses, "looks at a Content-Length beside `chunked` too, and this one is none"),
    (Haproxy, LengthAndChunked, Mangles, "forwards `Chunked` as it is written"),
    (Haproxy, LengthTwice, Forwards, "takes a list of equal lengths for one (RFC 9110 §8.6 allows it)"),
    (Haproxy, LengthTwice, Differs, "forwards a length as it is written"),
    (Haproxy, LengthForm, Forwards, "joins folded lines (RFC 9112 §5.2 allows it)"),
    (Haproxy, LengthForm, Differs, "forwards a length as it is written"),
    (Haproxy, LengthForm, Mangles, "takes lengths that overflow"),
    (Haproxy, CodingForm, Forwards, "joins folded lines (RFC 9112 §5.2 allows it)"),
    (Haproxy, CodingForm, Mangles, "forwards `Chunked` as it is written"),
    (Haproxy, CodingInHttp10, Forwards, "serves HTTP/1.0, with Transfer-Encoding as well"),
    (Haproxy, Expectation, Forwards, "leaves Expect to the server"),
    (Haproxy, Expectation, Differs, "leaves Expect to the server"),
    (Haproxy, ZeroLength, Differs, "forwards a length as it is written"),
    (Haproxy, EarlyAnswer, Mangles, "uses a connection again whose request is not over (the class of 0.CL)"),
    (Haproxy, ChunkLineEnd, Forwards, "takes a bare LF for the end of a chunk line (RFC 9112 §7.1: CRLF only)"),
    (Haproxy, ChunkSize, Forwards, "takes a bare LF behind the data of a chunk, so that a size one too large fits"),
    (Haproxy, ChunkTrailer, Forwards, "passes trailers on without looking at their names"),
    (Haproxy, ChunkTrailer, Differs, "passes trailers on, whatever they are"),
    (Haproxy, Control, Forwards, "takes DEL in a value"),
    (Haproxy, Control, Mangles, "passes control characters other than NUL on (RFC 9110 §5.5 forbids them)"),
    (Haproxy, ObsFold, Forwards, "joins folded lines (RFC 9112 §5.2 allows it)"),
    (Haproxy, HostMissing, Forwards, "serves HTTP/1.1 without Host (RFC 9112 §3.2: 400)"),
    (Haproxy, HostTwice, Forwards, "takes equal Hosts for one (RFC 9112 §3.2: 400)"),
    (Haproxy, HostForm, Forwards, "does not look at the form of Host"),
    (Haproxy, HostDiffers, Refuses, "400 for an absolute target without a path"),
    (Haproxy, HostDiffers, Forwards, "takes the default port for none"),
    (Haproxy, HostDiffers, Differs, "forwards an absolute target as it is"),
    (Haproxy, Star, Forwards, "leaves `*` to the server"),
    (Haproxy, Connect, Forwards, "leaves CONNECT to the server"),
    (Haproxy, Fragment, Refuses, "400 for a fragment; Leno never sees it, and neither does anybody behind it"),
    (Haproxy, PathDots, Differs, "does not touch paths unless it is told to"),
    (Haproxy, PathEscape, Forwards, "does not look into paths unless it is told to"),
    (Haproxy, PathEscape, Differs, "does not touch paths unless it is told to"),
    (Haproxy, PathSeparator, Forwards, "takes a backslash for a letter"),
    (Haproxy, PathSeparator, Differs, "does not touch paths unless it is told to"),
    (Haproxy, Version, Forwards, "serves HTTP/1.0, and other minor versions as 1.1"),
    (Haproxy, Version, Mangles, "passes a version on that is none of its own"),
    (Haproxy, Method, Forwards, "has no limit for methods, and takes several spaces behind them"),
    (Haproxy, UpgradeEarlyBytes, Refuses, "wants a Sec-WebSocket-Key"),
    (Haproxy, UpgradeEarlyBytes, Forwards, "takes an upgrade with a body"),
    (Haproxy, UpgradeAnswered200, Refuses, "wants a Sec-WebSocket-Key"),
    (Haproxy, UpgradeH2c, Differs, "passes an upgrade to h2c on"),
    (Haproxy, UpgradeOther, Forwards, "passes any upgrade on"),
    (Haproxy, UpgradeOther, Differs, "passes Upgrade on that Connection does not name"),
    (Haproxy, H2Length, Forwards, "takes a list of equal lengths for one, and a length without a body in a head that ends its stream"),
    (Haproxy, H2Length, Differs, "forwards a length as it is written"),
    (Haproxy, H2Injection, Forwards, "takes DEL in a value, and any letter in a name"),
    (Haproxy, H2Injection, Mangles, "passes control characters other than NUL, CR and LF on"),
    (Haproxy, H2EdgeSpace, Forwards, "takes space at the edges of a value (RFC 9113 §8.2.1: malformed)"),
    (Haproxy, H2ExtendedConnect, Forwards, "leaves CONNECT to the server"),
    (Haproxy, H2ExtendedConnect, Differs, "draws its own Sec-WebSocket-Key"),
    (Haproxy, H2Pseudo, Forwards, "looks at scheme and authority only as far as it needs them"),
    (Haproxy, H2Trailers, Refuses, "resets a stream whose trailers it does not like"),
    (Haproxy, H2Trailers, Differs, "passes trailers on, whatever they are"),
    (Haproxy, HeaderBomb, Forwards, "takes 101 fields in HTTP/1 or HTTP/2"),
    (Haproxy, DoubleSlash, Differs, "does not touch paths unless it is told to"),
    (Haproxy, Spoofing, Differs, "knows nothing of x-forwarded-client-cert and Envoy's fields"),
    (Haproxy, HopByHop, Differs, "does not remove what Connection names (RFC 9110 §7.6.1: must)"),
    (Haproxy, Identity, Differs, "knows nothing of x-forwarded-client-cert"),
    (Haproxy, Token, Forwards, "has no rule about tokens here"),
    (Haproxy, LogInjection, Differs, "forwards escapes as they came"),
    (Haproxy, LogInjection, Mangles, "passes control characters other than NUL on"),
    (Haproxy, Plain, Refuses, "400 for a fragment"),
];

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
