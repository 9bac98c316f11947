//! What became of a request, and in what two outcomes differ.

use std::collections::BTreeMap;
use std::fmt;

use http::HeaderMap;
use leno_tests::scripted::{self, Attempt};

/// Headers of an answer that say which proxy it was, or what time it is.
const OF_THE_PROXY: &[&str] = &["date", "server", "x-envoy-upstream-service-time", "x-leno-error"];

/// Headers of a request that are another one each time, or belong to the test.
const OF_THE_MOMENT: &[&str] = &["x-request-id", scripted::RUN, scripted::SCRIPT];

/// Of a message without a body, one length is as good as none (RFC 9110 §8.6).
const NO_BODY: (&str, &str) = ("content-length", "0");

/// What became of one request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Outcome {
    /// Its status; 0: the connection ended without an answer.
    pub(super) status: u16,
    /// Envoy's letters, with commas between; `-` for none.
    pub(super) flags: String,
    /// Its body, and whether it broke off.
    body: String,
    headers: BTreeMap<String, String>,
    trailers: BTreeMap<String, String>,
    /// The attempts at it.
    pub(super) seen: Vec<Seen>,
}

/// An attempt, as far as it can be compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seen {
    pub(super) server: String,
    head: String,
    headers: BTreeMap<String, String>,
    body: usize,
}

/// What the caller got.
pub(super) struct Heard {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) trailers: Option<HeaderMap>,
    /// `Err`: it broke off.
    pub(super) body: Result<Vec<u8>, Vec<u8>>,
}

impl Outcome {
    pub(super) fn new(heard: &Heard, flags: String, attempts: &[Attempt]) -> Self {
        let body = match &heard.body {
            Ok(bytes) => text(bytes),
            // How much of it came through is chance.
            Err(_) => "(broken off)".to_owned(),
        };
        Self {
            status: heard.status,
            flags,
            body,
            headers: plain(&heard.headers, OF_THE_PROXY),
            trailers: heard.trailers.as_ref().map(|map| plain(map, &[])).unwrap_or_default(),
            seen: attempts.iter().map(Seen::new).collect(),
        }
    }

    /// Without what depends on the endpoint that was drawn.
    pub(super) fn without_chance(mut self) -> Self {
        self.body.clear();
        self.headers.clear();
        for seen in &mut self.seen {
            *seen = Seen { server: seen.server.clone(), head: String::new(), headers: BTreeMap::new(), body: 0 };
        }
        self
    }

    /// Where they differ, field by field: name, what is here, what is there.
    pub(super) fn differences(&self, other: &Self) -> Vec<(String, String, String)> {
        let (mine, theirs) = (self.fields(), other.fields());
        let names: std::collections::BTreeSet<&String> = mine.keys().chain(theirs.keys()).collect();
        let of = |fields: &BTreeMap<String, String>, name: &String| fields.get(name).cloned().unwrap_or_default();
        let all = names.into_iter().map(|name| (name.clone(), of(&mine, name), of(&theirs, name)));
        all.filter(|(_, mine, theirs)| mine != theirs).collect()
    }

    fn fields(&self) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::from([
            ("status".to_owned(), self.status.to_string()),
            ("flags".to_owned(), self.flags.clone()),
            ("body".to_owned(), self.body.clone()),
            ("attempts".to_owned(), self.servers()),
        ]);
        let mut add = |place: &str, headers: &BTreeMap<String, String>| {
            fields.extend(headers.iter().map(|(name, value)| (format!("{place} {name}"), value.clone())));
        };
        add("header", &self.headers);
        add("trailer", &self.trailers);
        // Attempts are copies of one another, but for what differs between them in both proxies alike.
        if let Some(last) = self.seen.last() {
            add("sent", &last.headers);
            fields.insert("sent head".to_owned(), last.head.clone());
            fields.insert("sent body".to_owned(), last.body.to_string());
        }
        fields
    }

    /// Who saw attempts at it, in their order: `v1,v1,v2`; `-` for nobody.
    fn servers(&self) -> String {
        let servers: Vec<&str> = self.seen.iter().map(|seen| seen.server.as_str()).collect();
        if servers.is_empty() { "-".to_owned() } else { servers.join(",") }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.status, self.flags, self.servers())
    }
}

impl Seen {
    fn new(attempt: &Attempt) -> Self {
        let mut headers = plain(&attempt.headers, OF_THE_MOMENT);
        for name in ["x-envoy-expected-rq-timeout-ms", "grpc-timeout"] {
            if let Some(left) = headers.get_mut(name).filter(|_| attempt.number > 0) {
                "(what is left)".clone_into(left);
            }
        }
        Self {
            server: attempt.server.clone(),
            head: format!("{:?} {} {} {}", attempt.version, attempt.method, attempt.host, attempt.path),
            headers,
            body: attempt.body.len(),
        }
    }
}

/// Several outcomes in one line, equal ones counted: `2× 200 - v1 | 503 UO -`.
pub(super) fn summary(outcomes: &[Outcome]) -> String {
    let mut counted: BTreeMap<String, usize> = BTreeMap::new();
    for outcome in outcomes {
        *counted.entry(outcome.to_string()).or_default() += 1;
    }
    let one = |(text, count): (String, usize)| if count == 1 { text } else { format!("{count}× {text}") };
    counted.into_iter().map(one).collect::<Vec<_>>().join(" | ")
}

fn text(bytes: &[u8]) -> String {
    if bytes.len() > 200 { format!("{} bytes", bytes.len()) } else { String::from_utf8_lossy(bytes).into_owned() }
}

fn plain(headers: &HeaderMap, without: &[&str]) -> BTreeMap<String, String> {
    let mut plain: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| !without.contains(&name.as_str())) {
        let value = String::from_utf8_lossy(value.as_bytes());
        if (name.as_str(), &*value) == NO_BODY {
            continue;
        }
        plain.entry(name.to_string()).and_modify(|all| *all += &format!(", {value}")).or_insert_with(|| value.into());
    }
    plain
}
