//! What is logged of requests and connections, and where.

use serde::Serialize;

use super::{Direction, Fraction, Invalid, LogFormat, LogObject, LogText, LogValue};

/// The logs of a listener.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct AccessLogs {
    /// Each by itself; none: nothing is logged.
    pub logs: Vec<AccessLog>,
    /// What a foreign control plane asked for and this proxy cannot do, in a sentence each. A log only tells: it is no
    /// reason to refuse a listener.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

impl AccessLogs {
    /// Whether nobody asked for any.
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty() && self.left_out.is_empty()
    }
}

/// One log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AccessLog {
    /// Where its lines go.
    pub sink: LogSink,
    /// What a line looks like.
    pub format: LogFormat,
    /// Which requests get a line.
    pub filter: LogFilter,
    /// What becomes of what should not be in a log.
    pub sensitive: Sensitive,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogSink {
    /// `/dev/stdout`
    Stdout,
    /// `/dev/stderr`
    Stderr,
    /// A file, which is appended to.
    File(String),
}

impl LogSink {
    /// From a path.
    pub fn at(path: &str) -> Result<Self, Invalid> {
        match path {
            "/dev/stdout" => Ok(Self::Stdout),
            "/dev/stderr" => Ok(Self::Stderr),
            path if path.starts_with('/') && !path.contains('\0') => Ok(Self::File(path.to_owned())),
            path => Err(Invalid(format!("`{path}` is not an absolute path"))),
        }
    }

    /// Its path.
    pub fn path(&self) -> &str {
        match self {
            Self::Stdout => "/dev/stdout",
            Self::Stderr => "/dev/stderr",
            Self::File(path) => path,
        }
    }
}

/// What becomes of credentials (`authorization`, `proxy-authorization`, `cookie`, `set-cookie`) and of queries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sensitive {
    /// That there was something is said, not what.
    #[default]
    Redacted,
    /// As they came.
    Shown,
}

/// Which requests get a line.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFilter {
    /// All of them hold; none: every request.
    And(Vec<LogFilter>),
    /// One of them holds.
    Or(Vec<LogFilter>),
    /// The status; 0 where there was no answer.
    Status(Comparison, u32),
    /// Whole milliseconds from the head of the request to the last byte of the answer.
    Duration(Comparison, u32),
    /// So many of them, drawn at random.
    Sample(Fraction),
    /// One of these flags is set.
    Flags(Vec<ResponseFlag>),
}

impl LogFilter {
    /// All of them hold. One by itself is no list: so it travels, and so it is one.
    pub fn all_of(mut filters: Vec<Self>) -> Self {
        match filters.len() {
            1 => filters.pop().unwrap_or_default(),
            _ => Self::And(filters),
        }
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self::And(Vec::new())
    }
}

/// How a number stands to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Comparison {
    Equal,
    NotEqual,
    AtLeast,
    AtMost,
}

impl Comparison {
    /// Whether `value` stands so to `bound`.
    pub fn holds<T: PartialOrd>(self, value: T, bound: T) -> bool {
        match self {
            Self::Equal => value == bound,
            Self::NotEqual => value != bound,
            Self::AtLeast => value >= bound,
            Self::AtMost => value <= bound,
        }
    }
}

/// One of Envoy's response flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ResponseFlag(&'static str);

impl ResponseFlag {
    /// All that Envoy knows.
    pub const ALL: [&'static str; 28] = [
        "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX", "SI",
        "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO",
    ];

    /// From its letters.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let known = Self::ALL.into_iter().find(|known| *known == text);
        known.map(Self).ok_or_else(|| Invalid(format!("`{text}` is not a response flag")))
    }

    /// Its letters.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

/// Envoy's line with what Istio adds to it.
const TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
    \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
    \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% \
    %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%";

/// Istio's keys, and what one asks next: which attempt, which rule, which trace, why.
const JSON: [(&str, &str); 29] = [
    ("start_time", "%START_TIME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("trace_id", "%TRACE_ID%"),
    ("span_id", "%SPAN_ID%"),
    ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
    ("rule", "%METADATA(ROUTE:leno.mesh)%"),
    ("error", "%RESP(X-LENO-ERROR)%"),
];

/// Who talks to whom, and how that is protected, seen from a listener toward the own app.
const INBOUND: [(&str, &str); 3] = [
    ("source_identity", "%DOWNSTREAM_PEER_URI_SAN%"),
    ("destination_identity", "%DOWNSTREAM_LOCAL_URI_SAN%"),
    ("tls_group", "%DOWNSTREAM_TLS_GROUP%"),
];

/// The same, seen from a listener away from it.
const OUTBOUND: [(&str, &str); 3] = [
    ("source_identity", "%UPSTREAM_LOCAL_URI_SAN%"),
    ("destination_identity", "%UPSTREAM_PEER_URI_SAN%"),
    ("tls_group", "%UPSTREAM_TLS_GROUP%"),
];

impl LogFormat {
    /// Envoy's text.
    #[expect(clippy::expect_used, reason = "a constant of this file")]
    pub fn default_text() -> Self {
        Self::Text(LogText::parse(TEXT).expect("invariant: the default format is valid"))
    }

    /// Istio's keys and our own, for a listener of this direction.
    #[expect(clippy::expect_used, reason = "constants of this file")]
    pub fn default_json(direction: Direction) -> Self {
        let ends = match direction {
            Direction::Inbound => INBOUND,
            Direction::Outbound => OUTBOUND,
        };
        let member = |(key, text): (&str, &str)| {
            let text = LogText::parse(text).expect("invariant: the default format is valid");
            (key.to_owned(), LogValue::Text(text))
        };
        Self::json(JSON.into_iter().chain(ends).map(member).collect::<LogObject>())
            .expect("invariant: the default format is valid")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_formats_are_valid_and_tell_both_directions_apart() {
        assert!(matches!(LogFormat::default_text(), LogFormat::Text(text) if text.pieces().len() > 40));
        assert_ne!(LogFormat::default_json(Direction::Inbound), LogFormat::default_json(Direction::Outbound));
    }

    #[test]
    fn a_sink_is_an_absolute_path() {
        for (path, expected) in
            [("/dev/stdout", Some(LogSink::Stdout)), ("/a/b", Some(LogSink::File("/a/b".to_owned()))), ("a", None)]
        {
            assert_eq!(LogSink::at(path).ok(), expected, "{path}");
        }
    }
}
