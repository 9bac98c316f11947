//! How a request can fail here, and what the caller hears of it.
//!
//! One place maps a failure to status, body, response flag and sentence: the caller's `x-leno-error`, the metrics and
//! the access log agree word for word. Status, body and flag are Envoy's, which dashboards and people know; the
//! sentence says who, what and where, because "upstream connect error" has never helped anyone on call.

pub mod details;

use std::fmt;
use std::net::SocketAddr;

use http::StatusCode;
use leno_config::ir::{AbortStatus, RbacAction};

use crate::cluster::limits::Overflow;
use crate::overload::Shed;
use crate::policy::jwt::JwtError;
use crate::policy::rate_limit::Quota;
use crate::stream_limits::Overdue;

/// Envoy's response flags, as far as this proxy sets them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flag {
    /// Nothing to say.
    #[default]
    None,
    /// No route.
    NR,
    /// The route names a cluster that is not there.
    NC,
    /// No healthy upstream.
    UH,
    /// Upstream connection failure.
    UF,
    /// Upstream closed the connection before the answer.
    UC,
    /// Upstream reset the stream.
    UR,
    /// Upstream timeout.
    UT,
    /// Upstream spoke nonsense.
    UPE,
    /// Downstream went away.
    DC,
    /// Downstream spoke nonsense.
    DPE,
    /// A name could not be resolved.
    DF,
    /// Refused by the loop guard or another rule of safety, or cut off because the process has to end.
    LR,
    /// An authorization policy or a token says no.
    UAEX,
    /// A limit of the cluster is reached.
    UO,
    /// All retries are used up, or the time for them.
    URX,
    /// A delay on purpose.
    DI,
    /// A failure on purpose.
    FI,
    /// A rate limit is reached.
    RL,
    /// The connection or stream was idle for too long.
    SI,
    /// The stream lasted longer than it may.
    DT,
    /// This proxy has more to do than it can.
    OM,
}

impl Flag {
    /// Every one, in the order in which they are declared.
    pub const ALL: [Self; 22] = [
        Self::None,
        Self::NR,
        Self::NC,
        Self::UH,
        Self::UF,
        Self::UC,
        Self::UR,
        Self::UT,
        Self::UPE,
        Self::DC,
        Self::DPE,
        Self::DF,
        Self::LR,
        Self::UAEX,
        Self::UO,
        Self::URX,
        Self::DI,
        Self::FI,
        Self::RL,
        Self::SI,
        Self::DT,
        Self::OM,
    ];

    /// Envoy's letters, `-` for none.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::NR => "NR",
            Self::NC => "NC",
            Self::UH => "UH",
            Self::UF => "UF",
            Self::UC => "UC",
            Self::UR => "UR",
            Self::UT => "UT",
            Self::UPE => "UPE",
            Self::DC => "DC",
            Self::DPE => "DPE",
            Self::DF => "DF",
            Self::LR => "LR",
            Self::UAEX => "UAEX",
            Self::UO => "UO",
            Self::URX => "URX",
            Self::DI => "DI",
            Self::FI => "FI",
            Self::RL => "RL",
            Self::SI => "SI",
            Self::DT => "DT",
            Self::OM => "OM",
        }
    }
}

/// All that is to be said of one request: notes on its way, and at most one reason for its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flags {
    delayed: bool,
    overflow: bool,
    retries_used_up: bool,
    reason: Flag,
}

impl Flags {
    /// Adds a note ([`Flag::DI`], [`Flag::URX`], and [`Flag::UO`] for a retry that was not allowed), or the reason for the
    /// end if there is none yet: the first word stays.
    pub fn add(&mut self, flag: Flag) {
        match flag {
            Flag::DI => self.delayed = true,
            Flag::URX => self.retries_used_up = true,
            reason if self.reason == Flag::None => self.reason = reason,
            _ => {}
        }
    }

    /// Why it ended; [`Flag::None`]: as it should.
    pub fn reason(&self) -> Flag {
        self.reason
    }

    /// Whether its caller is gone.
    pub fn is_left(self) -> bool {
        self.reason == Flag::DC
    }

    /// A limit did not allow a retry; what the attempt before brought stays the reason.
    pub fn add_retry_overflow(&mut self) {
        self.overflow = true;
    }

    /// Each of them, notes first.
    pub fn iter(self) -> impl Iterator<Item = Flag> {
        let notes = [(self.delayed, Flag::DI), (self.overflow, Flag::UO), (self.retries_used_up, Flag::URX)];
        let notes = notes.into_iter().filter_map(|(said, flag)| said.then_some(flag));
        let is_new = self.reason != Flag::None && !(self.reason == Flag::UO && self.overflow);
        notes.chain(is_new.then_some(self.reason))
    }

    /// Adds the notes of another part of the way.
    pub fn add_notes(&mut self, notes: Self) {
        self.delayed |= notes.delayed;
        self.overflow |= notes.overflow;
        self.retries_used_up |= notes.retries_used_up;
    }
}

impl From<Flag> for Flags {
    fn from(flag: Flag) -> Self {
        let mut flags = Self::default();
        flags.add(flag);
        flags
    }
}

impl fmt::Display for Flags {
    /// Envoy's letters in the order in which things happen, `-` for none: `URX,UT`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = self.iter();
        f.write_str(all.next().unwrap_or_default().as_str())?;
        all.try_for_each(|flag| write!(f, ",{flag}"))
    }
}

/// A request that this proxy answers itself because something went wrong.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// No virtual host or no route takes the request.
    #[error("no route for {authority}{path}")]
    NoRoute {
        /// Requested host.
        authority: String,
        /// Requested path.
        path: String,
    },
    /// The route's cluster is not there.
    #[error(
        "the route leads to cluster {0}, which is not in force: its subset or port does not exist, or /config_dump says why it was refused"
    )]
    NoCluster(String),
    /// The cluster has no usable endpoint.
    #[error("cluster {0} has no healthy endpoint")]
    NoEndpoint(String),
    /// A limit of the cluster is reached (circuit breaking).
    #[error("cluster {cluster} takes no more: {overflow} (connectionPool of its DestinationRule)")]
    Overflow {
        /// Which cluster.
        cluster: String,
        /// Which limit.
        overflow: Overflow,
    },
    /// No connection to the endpoint.
    #[error("cannot connect to {address} of cluster {cluster}: {reason}")]
    Connect {
        /// Whose endpoint.
        cluster: String,
        /// Which.
        address: SocketAddr,
        /// The system's words, or the time limit.
        reason: String,
        /// It was the time limit.
        timed_out: bool,
        /// TCP was there, TLS was not.
        in_tls: bool,
    },
    /// The endpoint closed the connection before it answered.
    #[error("{address} of cluster {cluster} closed the connection before it answered: {reason}")]
    Closed {
        /// Whose endpoint.
        cluster: String,
        /// Which.
        address: SocketAddr,
        /// What the HTTP library saw.
        reason: String,
    },
    /// The endpoint reset the stream.
    #[error("{address} of cluster {cluster} reset the stream: {reason}")]
    Reset {
        /// Whose endpoint.
        cluster: String,
        /// Which.
        address: SocketAddr,
        /// What the HTTP library saw.
        reason: String,
    },
    /// The endpoint said that it did not look at the stream.
    #[error("{address} of cluster {cluster} did not take the stream: {reason}")]
    Refused {
        /// Whose endpoint.
        cluster: String,
        /// Which.
        address: SocketAddr,
        /// What the HTTP library saw.
        reason: String,
    },
    /// One of those, after retries.
    #[error(transparent)]
    Retried(Box<Self>),
    /// The endpoint's answer was not HTTP.
    #[error("{address} of cluster {cluster} did not answer in valid HTTP: {reason}")]
    UpstreamProtocol {
        /// Whose endpoint.
        cluster: String,
        /// Which.
        address: SocketAddr,
        /// What the HTTP library saw.
        reason: String,
    },
    /// The route's time limit.
    #[error("no answer within {0:?}, the route's timeout")]
    Timeout(std::time::Duration),
    /// The time limit of an attempt, and there was no other attempt.
    #[error("no answer within {limit:?}, the limit for one attempt; {attempts} made")]
    TryTimeout {
        /// For each attempt.
        limit: std::time::Duration,
        /// How many there were.
        attempts: u32,
    },
    /// A limit of the listener for one stream; `complete`: all of the request had come.
    #[error("{}", too_long(*.overdue, *.complete))]
    Overdue {
        /// Which.
        overdue: Overdue,
        /// It was the answer that did not come.
        complete: bool,
    },
    /// A host outside the mesh that does not resolve.
    #[error("{host} is not a service of the mesh and does not resolve: {reason}")]
    Dns {
        /// Requested host.
        host: String,
        /// The resolver's words.
        reason: String,
    },
    /// It would call itself, or a link-local address that no rule names.
    #[error("refused to connect to {address}: {reason}")]
    Forbidden {
        /// Where it would have gone.
        address: SocketAddr,
        /// Why not.
        reason: &'static str,
    },
    /// An authorization policy says no. Which one is for the log: a caller that may not come in learns nothing of the rules.
    #[error("{}", denied(*.action))]
    Denied {
        /// Whether nobody allows it or somebody denies it.
        action: RbacAction,
        /// Which policy, `ns[NAMESPACE]-policy[NAME]-rule[INDEX]`; `None`: none allows it.
        policy: Option<Box<str>>,
    },
    /// The policies changed while the answer was awaited, and would not let the request in any more.
    #[error("the policies have changed and no longer allow this; the proxy's log says which")]
    Revoked,
    /// The token of the end user is not good, or there is none.
    #[error("{reason}")]
    Token {
        /// What is wrong with it.
        reason: JwtError,
        /// For what the token would have been, `http://HOST/PATH`.
        realm: String,
    },
    /// A fault on purpose.
    #[error("a `fault` of the route's rule aborts this request on purpose")]
    Fault {
        /// With what.
        with: AbortStatus,
    },
    /// A rate limit is reached.
    #[error("the rate limit {limit} of this workload is reached; there is room again in {} s", .quota.reset)]
    RateLimited {
        /// Which: `NAMESPACE/NAME/INDEX` of its rule.
        limit: String,
        /// What the caller is told of it.
        quota: Quota,
    },
    /// This process has more to do than it can.
    #[error("{0}; try again a moment later")]
    Overloaded(Shed),
    /// The caller left in the middle of its request's body.
    #[error("the caller left in the middle of its request's body")]
    CallerLeft,
    /// A request that is not acceptable HTTP.
    #[error("{reason}")]
    BadRequest {
        /// Its status: mostly 400.
        status: StatusCode,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl ProxyError {
    /// Whether it is not certain where the request ended, so that the bytes behind it must not be taken for another.
    pub fn is_doubtful(&self) -> bool {
        matches!(self, Self::BadRequest { .. } | Self::CallerLeft)
    }
}

/// What the caller gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The flag.
    pub flag: Flag,
    /// Envoy's body.
    pub body: &'static str,
}

const CONNECTION_FAILURE: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure";
const CONNECTION_TIMEOUT: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: connection timeout";
const TERMINATION: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
const OVERFLOW: &str = "upstream connect error or disconnect/reset before headers. reset reason: overflow";
const REMOTE_RESET: &str = "upstream connect error or disconnect/reset before headers. reset reason: remote reset";
const REFUSED: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: remote refused stream reset";
const PROTOCOL_ERROR: &str = "upstream connect error or disconnect/reset before headers. reset reason: protocol error";
const FAULT: &str = "fault filter abort";

/// The same bodies after retries (Envoy).
const RETRIED: [(&str, &str); 6] = [
    (
        CONNECTION_FAILURE,
        "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote connection failure",
    ),
    (
        CONNECTION_TIMEOUT,
        "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: connection timeout",
    ),
    (
        TERMINATION,
        "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: connection termination",
    ),
    (
        REMOTE_RESET,
        "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote reset",
    ),
    (
        REFUSED,
        "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote refused stream reset",
    ),
    (
        PROTOCOL_ERROR,
        "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: protocol error",
    ),
];

fn retried(body: &'static str) -> &'static str {
    RETRIED.iter().find(|(once, _)| *once == body).map_or(body, |(_, again)| again)
}

impl ProxyError {
    /// The same at the end of some retries.
    pub fn after_retries(self) -> Self {
        Self::Retried(Box::new(self))
    }

    /// Why TLS with the endpoint failed, if that was it.
    pub fn transport_failure(&self) -> Option<&str> {
        match self {
            Self::Connect { in_tls: true, reason, .. } => Some(reason),
            Self::Retried(last) => last.transport_failure(),
            _ => None,
        }
    }

    /// Status, flag and body (measured on Envoy 1.40).
    pub fn reply(&self) -> Reply {
        let (status, flag, body) = match self {
            Self::NoRoute { .. } => (StatusCode::NOT_FOUND, Flag::NR, ""),
            Self::NoCluster(_) => (StatusCode::SERVICE_UNAVAILABLE, Flag::NC, ""),
            Self::NoEndpoint(_) => (StatusCode::SERVICE_UNAVAILABLE, Flag::UH, "no healthy upstream"),
            Self::Overflow { .. } => (StatusCode::SERVICE_UNAVAILABLE, Flag::UO, OVERFLOW),
            Self::Connect { timed_out: false, .. } => (StatusCode::SERVICE_UNAVAILABLE, Flag::UF, CONNECTION_FAILURE),
            Self::Connect { timed_out: true, .. } => (StatusCode::SERVICE_UNAVAILABLE, Flag::UF, CONNECTION_TIMEOUT),
            Self::Closed { .. } => (StatusCode::SERVICE_UNAVAILABLE, Flag::UC, TERMINATION),
            Self::Reset { .. } => (StatusCode::SERVICE_UNAVAILABLE, Flag::UR, REMOTE_RESET),
            Self::Refused { .. } => (StatusCode::SERVICE_UNAVAILABLE, Flag::UR, REFUSED),
            Self::UpstreamProtocol { .. } => (StatusCode::BAD_GATEWAY, Flag::UPE, PROTOCOL_ERROR),
            Self::Retried(last) => {
                let Reply { status, flag, body } = last.reply();
                (status, flag, retried(body))
            }
            Self::Timeout(_) | Self::TryTimeout { .. } => {
                (StatusCode::GATEWAY_TIMEOUT, Flag::UT, "upstream request timeout")
            }
            Self::Overdue { overdue, complete } => {
                let status = if *complete { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::REQUEST_TIMEOUT };
                let body = match overdue {
                    Overdue::Idle => "stream timeout",
                    Overdue::TooLong => "downstream duration timeout",
                };
                (status, overdue.flag(), body)
            }
            Self::Dns { .. } => (StatusCode::SERVICE_UNAVAILABLE, Flag::DF, "DNS resolution failure"),
            Self::Forbidden { .. } => (StatusCode::BAD_GATEWAY, Flag::LR, ""),
            Self::Denied { .. } | Self::Revoked => (StatusCode::FORBIDDEN, Flag::UAEX, "RBAC: access denied"),
            Self::Token { reason, .. } => (reason.status(), Flag::UAEX, reason.as_str()),
            Self::Fault { with: AbortStatus::Http(status) } => (*status, Flag::FI, FAULT),
            // Who does not speak gRPC gets a 200 (Envoy).
            Self::Fault { with: AbortStatus::Grpc(_) } => (StatusCode::OK, Flag::FI, FAULT),
            Self::RateLimited { .. } => (StatusCode::TOO_MANY_REQUESTS, Flag::RL, "local_rate_limited"),
            Self::Overloaded(Shed::Concurrency) => {
                (StatusCode::SERVICE_UNAVAILABLE, Flag::OM, "reached concurrency limit")
            }
            Self::Overloaded(Shed::Connections | Shed::Requests) => {
                (StatusCode::SERVICE_UNAVAILABLE, Flag::OM, "envoy overloaded")
            }
            // Nobody hears it.
            Self::CallerLeft => (StatusCode::BAD_REQUEST, Flag::DC, ""),
            Self::BadRequest { status, .. } => (*status, Flag::DPE, ""),
        };
        Reply { status, flag, body }
    }

    /// The status that a gRPC caller gets: what the HTTP one stands for, unless the error has one of its own.
    pub fn grpc_status(&self) -> u32 {
        match self {
            Self::Fault { with: AbortStatus::Grpc(status) } => *status,
            // UNAVAILABLE, which 429 stands for, would ask for a retry.
            Self::RateLimited { .. } => 8,
            _ => grpc_status_of(self.reply().status),
        }
    }
}

/// gRPC's "HTTP to gRPC status code mapping", as Envoy has it.
pub fn grpc_status_of(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

fn too_long(overdue: Overdue, complete: bool) -> &'static str {
    match (overdue, complete) {
        (Overdue::Idle, true) => "no answer came, and nothing else moved, for as long as a stream may be idle",
        (Overdue::Idle, false) => "the rest of the request did not come for as long as a stream may be idle",
        (Overdue::TooLong, _) => "the request lasted as long as a stream may",
    }
}

fn denied(action: RbacAction) -> &'static str {
    match action {
        RbacAction::Allow => "no authorization policy allows this; the proxy's log says who asked",
        RbacAction::Deny | RbacAction::Log => "an authorization policy denies this; the proxy's log says which",
        RbacAction::Custom => {
            "an authorization policy with action CUSTOM takes this; it asks a service outside, which Leno does not do yet, so it is denied"
        }
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_flags_are_in_the_list_of_all() {
        assert!(Flag::ALL.iter().enumerate().all(|(at, flag)| *flag as usize == at));
        assert_eq!(Flag::ALL.last(), Some(&Flag::OM), "the last one declared");
    }

    #[test]
    fn flags_are_listed_notes_first_and_the_first_reason_stays() {
        for (flags, expected) in [
            (&[][..], "-"),
            (&[Flag::UT], "UT"),
            (&[Flag::UT, Flag::DC], "UT"),
            (&[Flag::UT, Flag::URX], "URX,UT"),
            (&[Flag::DI, Flag::FI], "DI,FI"),
            (&[Flag::URX], "URX"),
        ] {
            let mut all = Flags::default();
            flags.iter().for_each(|flag| all.add(*flag));
            assert_eq!(all.to_string(), expected);
        }
        let mut refused = Flags::from(Flag::UF);
        refused.add_retry_overflow();
        assert_eq!(refused.to_string(), "UO,UF");
    }
}
