//! What the first words of a connection say of the rest, where nobody has declared it: HTTP, the mesh's TLS, or bytes.
//!
//! Pure: [`Detection`] is told what happened and says what follows. Whoever speaks first decides.
//!
//! ```text
//!              the endpoint speaks, or ends ─────────────────────────────────▶ bytes
//!   silence ─┬─ the caller speaks ─┬─ a request line up to ` HTTP/1.`, or the preface of HTTP/2 ─▶ HTTP
//!            │                     ├─ a ClientHello with the mesh's ALPN ────▶ the mesh's TLS, and inside of it once more
//!            │                     ├─ anything else, another ClientHello too ▶ bytes
//!            │                     └─ too little, and no more of it in time ─▶ HTTP if it looks like it, else bytes
//!            ├─ the caller ends without a word ─── the endpoint has none either ─▶ nothing was meant
//!            └─ nobody speaks for 10 s ──────────────────────────────────────▶ bytes
//! ```
//!
//! Why so: Istio listens to the caller alone, for ever, and a client of MySQL that waits for its greeting waits with it;
//! Linkerd gives up after 10 s, which are lost on each connection; Envoy after a time that is wrong for somebody. Here the
//! endpoint is called meanwhile ([`super::undeclared`]), so that none of the times below ever stands between two who have
//! something to say: they only bound how long a proxy may be in doubt.
//!
//! A word is HTTP/1 only with its version: `GET key` is Redis as well, and nothing else than HTTP says ` HTTP/1.` (RFC
//! 9112 §3). What is not HTTP to the letter is bytes, to which rules about requests do not apply: an ALLOW then never
//! holds, and a DENY always does.

use std::sync::Arc;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::time::Instant;

use crate::tls::exchange;

use super::detect::{HANDSHAKE_RECORD, PREFACE, Spoken};

/// How long a caller who has begun to say something may take to make it clear.
const BEGUN: Duration = Duration::from_millis(250);
/// The longest method of a request (`VERSION-CONTROL` has 15 letters).
const LONGEST_METHOD: usize = 32;
/// The longest ClientHello that is looked into: one record. A post-quantum share spans two packets, not two records.
const MAX_HELLO: usize = 16 * 1024 + 5;
/// The longest request line that is waited for; more than hyper takes.
pub(super) const MOST_HEARD: usize = 64 * 1024;
/// What every request line has after its target, up to the digit.
const VERSION: &[u8] = b" HTTP/1.";

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expected {
    /// HTTP; otherwise it is bytes like any other.
    pub(super) http: bool,
    /// TLS of the mesh, to be ended here.
    pub(super) mesh_tls: bool,
    /// Handshakes that go elsewhere than the rest, by the server name they ask for.
    pub(super) names: bool,
}

/// What the caller's words so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Words {
    /// Too few to tell. Whether they look like a request to an origin server (`GET /`).
    Few { like_http: bool },
    /// The beginning of a ClientHello.
    HalfHello,
    /// HTTP/1.1 or HTTP/2.
    Http(Spoken),
    /// A ClientHello that wants the mesh.
    Mesh,
    /// A ClientHello that wants somebody else, maybe by name.
    OtherTls(Option<Arc<str>>),
    /// None of these.
    Other,
}

impl Words {
    /// What `heard`, all that the caller has said, is.
    pub(super) fn of(heard: &[u8]) -> Self {
        match heard.first() {
            None => Self::Few { like_http: false },
            Some(&HANDSHAKE_RECORD) => hello(heard),
            Some(_) if heard.starts_with(PREFACE) => Self::Http(Spoken::Http2),
            Some(_) if PREFACE.starts_with(heard) => Self::Few { like_http: false },
            Some(_) => request_line(heard),
        }
    }
}

/// `METHOD SP TARGET SP HTTP/1.`, as far as it is there.
fn request_line(heard: &[u8]) -> Words {
    let method = heard.iter().take_while(|byte| is_token(**byte)).count();
    if method == 0 || method > LONGEST_METHOD {
        return Words::Other;
    }
    let Some(target) = heard.get(method + 1..) else { return Words::Few { like_http: false } };
    if heard.get(method) != Some(&b' ') {
        return Words::Other;
    }
    let like_http = target.first() == Some(&b'/');
    let Some(end) = target.iter().position(|byte| *byte <= b' ' || *byte == 0x7f) else {
        return if heard.len() < MOST_HEARD { Words::Few { like_http } } else { in_doubt(like_http) };
    };
    let version = target.get(end..).unwrap_or_default();
    match () {
        () if end == 0 => Words::Other,
        () if version.starts_with(VERSION) => Words::Http(Spoken::Http1),
        () if VERSION.starts_with(version) => Words::Few { like_http },
        () => Words::Other,
    }
}

/// A character of a method (RFC 9110 §5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn in_doubt(like_http: bool) -> Words {
    if like_http { Words::Http(Spoken::Http1) } else { Words::Other }
}

/// A ClientHello, as far as it is there. Whether TLS is the mesh's or the app's shows in its ALPN.
fn hello(heard: &[u8]) -> Words {
    let mut acceptor = Acceptor::default();
    let mut rest = heard;
    while !rest.is_empty() {
        match acceptor.read_tls(&mut rest) {
            Ok(taken) if taken > 0 => {}
            Ok(_) | Err(_) => break,
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let mut protocols = hello.alpn().into_iter().flatten();
                let is_mesh = protocols.any(|name| name == exchange::ALPN || name.starts_with(b"istio"));
                return if is_mesh { Words::Mesh } else { Words::OtherTls(hello.server_name().map(Arc::from)) };
            }
            Err(_) => return Words::Other,
        }
    }
    if heard.len() > MAX_HELLO { Words::Other } else { Words::HalfHello }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event<'a> {
    /// The caller has spoken; all that it has said so far.
    Heard(&'a [u8]),
    /// The caller says no more, but listens.
    Ended,
    /// The endpoint has spoken, or has nothing to say.
    Answered,
    /// There is no endpoint to be waited for.
    Unreachable,
    /// The [`deadline`](Detection::deadline) has come.
    Late,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Requests come.
    Http(Spoken),
    /// TLS is to be ended, and what is inside is told apart in its turn.
    Mesh,
    /// Bytes, and how that is known.
    Bytes(Known),
    /// Somebody has only looked whether the port is open.
    Nothing,
}

/// By what a connection is known to be bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// The endpoint has spoken first.
    Endpoint,
    /// The caller has said something else.
    Caller,
    /// The caller begins TLS with somebody else, maybe by name.
    Tls(Option<Arc<str>>),
    /// Nobody has said enough, for long enough.
    Silence,
}

/// One connection of which it is not known yet.
#[derive(Debug)]
pub(super) struct Detection {
    expected: Expected,
    deadline: Instant,
    /// How long a handshake may take.
    handshake: Duration,
    words: Words,
    /// The caller has said something.
    begun: bool,
    /// The caller says no more.
    ended: bool,
}

impl Detection {
    /// It begins now; nobody may be silent for longer than so, nor have half a ClientHello for longer than `handshake`.
    pub(super) fn new(expected: Expected, now: Instant, (silence, handshake): (Duration, Duration)) -> Self {
        Self { expected, deadline: now + silence, handshake, words: Words::of(&[]), begun: false, ended: false }
    }

    /// When it is [`Event::Late`].
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Something happened at `now`; what follows, once that is known.
    pub(super) fn on(&mut self, event: Event<'_>, now: Instant) -> Option<Verdict> {
        match event {
            Event::Heard(heard) => self.heard(heard, now),
            // Who has said nothing may yet want to hear (`nc HOST PORT < /dev/null`).
            Event::Ended if !self.begun => {
                self.ended = true;
                self.deadline = self.deadline.min(now + BEGUN);
                None
            }
            Event::Ended => Some(Verdict::Bytes(Known::Caller)),
            Event::Answered => Some(Verdict::Bytes(Known::Endpoint)),
            // Nobody greets the caller, who may yet ask for something that can be answered in words.
            Event::Unreachable if self.ended => Some(Verdict::Nothing),
            // Or is about to begin TLS with somebody else, who can be reached.
            Event::Unreachable if self.expected.names => None,
            Event::Unreachable => {
                self.deadline = self.deadline.min(now + BEGUN);
                None
            }
            Event::Late if self.ended => Some(Verdict::Nothing),
            Event::Late => Some(match self.words {
                Words::Few { like_http: true } if self.expected.http => Verdict::Http(Spoken::Http1),
                Words::Few { .. }
                | Words::HalfHello
                | Words::Http(_)
                | Words::Mesh
                | Words::OtherTls(_)
                | Words::Other => Verdict::Bytes(Known::Silence),
            }),
        }
    }

    fn heard(&mut self, heard: &[u8], now: Instant) -> Option<Verdict> {
        self.words = Words::of(heard);
        let first = !std::mem::replace(&mut self.begun, !heard.is_empty());
        let Expected { http, mesh_tls, names: _ } = self.expected;
        match &self.words {
            Words::Few { .. } if http => {
                if first {
                    self.deadline = self.deadline.min(now + BEGUN);
                }
                None
            }
            Words::HalfHello => {
                if first {
                    self.deadline = self.deadline.min(now + self.handshake);
                }
                None
            }
            Words::Http(spoken) if http => Some(Verdict::Http(*spoken)),
            Words::Mesh if mesh_tls => Some(Verdict::Mesh),
            Words::OtherTls(name) => Some(Verdict::Bytes(Known::Tls(name.clone()))),
            Words::Few { .. } | Words::Http(_) | Words::Mesh | Words::Other => Some(Verdict::Bytes(Known::Caller)),
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::client_hello;
