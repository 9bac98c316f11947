//! Every bound that callers meet, as the bootstrap's `limits` sets it. None of them is "unlimited".
//!
//! Two sets of defaults, by the names of the mesh's profiles. Where nobody but an attacker could notice (a head that does
//! not end, a flood of control frames, too many fields, too many connections of one caller), both are the same. Where a
//! caller in good faith could (a download that pauses, a connection that rests for an hour), `istio` keeps what Envoy and
//! Istio do, and `safe` is strict.

use std::time::Duration;

/// Whose defaults hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Profile {
    /// What callers of an Istio mesh are used to.
    #[default]
    Istio,
    /// As strict as is safe to be.
    Safe,
}

/// What the bootstrap allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections from callers, at least 1.
    pub connections: u32,
    /// Those of one caller where they come in, at least 1: of one identity, in clear text of one address.
    pub connections_per_caller: u32,
    /// Requests under way, at least 1; `None`: as many as the connections carry.
    pub requests: Option<u32>,
    /// Whether the app's own limit is looked for.
    pub adaptive_concurrency: bool,
    /// Bytes that the process may have in memory; `None`: as many as its control group, if that says.
    pub memory: Option<u64>,
    /// How long callers may keep us waiting.
    pub patience: Patience,
    /// What a head may be.
    pub heads: Heads,
    /// What an HTTP/2 connection may be and do.
    pub http2: Http2,
}

/// How long a caller may keep us waiting. What is looked at once a second is whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// From the connection to its first byte.
    pub first_byte: Duration,
    /// From the first byte of a TLS handshake to its end.
    pub handshake: Duration,
    /// From the first byte of the preface of HTTP/2 to the end of its SETTINGS.
    pub preface: Duration,
    /// From the first byte of a head to its last; of one frame of HTTP/2 as well.
    pub head: Duration,
    /// Between two parts of a request's body, while somebody waits for the next. Not for gRPC, nor after an upgrade.
    pub body_idle: Duration,
    /// Between two parts of an answer that the caller takes, while there is more of it. Streams of gRPC may wait longer.
    pub write_stall: Duration,
    /// That a connection may rest between two requests.
    pub connection_idle: Duration,
}

/// What the head of a request may be; more is answered with 431, a longer target with 414.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Fields, in HTTP/2 as well.
    pub fields: u32,
    /// Bytes of all fields.
    pub bytes: u32,
    /// Bytes of the target.
    pub target: u32,
    /// Bytes of all heads that one HTTP/2 connection has under way.
    pub per_connection: u32,
}

/// What an HTTP/2 connection may be and do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2 {
    /// Streams at a time.
    pub streams: u32,
    /// Unread bytes of one stream.
    pub stream_window: u32,
    /// Unread bytes of all streams. h2 counts small DATA frames against half of it, so it is not to be small.
    pub connection_window: u32,
    /// Streams that were reset before anybody had looked at them.
    pub pending_resets: u32,
    /// Streams that we had to reset.
    pub local_resets: u32,
    /// Frames that carry nothing.
    pub control: Control,
}

/// How many frames that carry nothing a connection may send before it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    /// At once.
    pub burst: u32,
    /// More, each second.
    pub per_second: u32,
    /// More, with each request.
    pub per_request: u32,
}

/// Connections from callers, where the system allows as many.
pub const CONNECTIONS: u32 = 10_000;
/// Connections of one caller.
const PER_CALLER: u32 = 1_000;
/// Bytes of all heads of a connection.
const HEADS_PER_CONNECTION: u32 = 1 << 20;
/// What Envoy takes of a head, 60 KiB, and a little more.
const ENVOY_HEAD: u32 = 64 * 1024;

impl Limits {
    /// What holds unless somebody says otherwise.
    pub fn of(profile: Profile) -> Self {
        let patience = Patience {
            first_byte: Duration::from_secs(10),
            handshake: Duration::from_secs(5),
            preface: Duration::from_secs(5),
            head: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            write_stall: Duration::from_secs(30),
            connection_idle: Duration::from_secs(600),
        };
        let heads = Heads { fields: 100, bytes: 32 * 1024, target: 8 * 1024, per_connection: HEADS_PER_CONNECTION };
        let safe = Self {
            connections: CONNECTIONS,
            connections_per_caller: PER_CALLER,
            requests: None,
            adaptive_concurrency: false,
            memory: None,
            patience,
            heads,
            http2: Http2::DEFAULT,
        };
        match profile {
            Profile::Safe => safe,
            Profile::Istio => Self {
                // Envoy closes neither of these sooner: its stream idle timeout is 5 min, its connection's 1 h.
                patience: Patience {
                    write_stall: Duration::from_secs(300),
                    connection_idle: Duration::from_secs(3600),
                    ..patience
                },
                heads: Heads { bytes: ENVOY_HEAD, target: ENVOY_HEAD, ..heads },
                ..safe
            },
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(Profile::default())
    }
}

impl Http2 {
    /// Small windows for streams and a large one for all, so that one slow reader cannot end the others (see
    /// [`crate::upstream::h2_windows`]).
    const DEFAULT: Self = Self {
        streams: 100,
        stream_window: 64 * 1024,
        connection_window: 64 * 1024 * 1024,
        pending_resets: 20,
        local_resets: 200,
        control: Control { burst: 1_000, per_second: 100, per_request: 10 },
    };
}
