//! Conditions on text, headers, paths and queries.

use std::fmt;

use http::HeaderName;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Invalid;

/// A regular expression in RE2's syntax, matched in linear time against the whole text. It is here, so it compiles.
#[derive(Clone)]
pub struct Regex {
    pattern: String,
    full: regex::Regex,
}

/// Largest compiled program: enough for every pattern of the corpus, too small to hurt (64 KiB, `safety.md` asks for it).
const REGEX_LIMIT: usize = 1 << 20;

impl Regex {
    /// Compiles `pattern` so that it has to match the whole text.
    pub fn new(pattern: &str) -> Result<Self, Invalid> {
        let full = compile(&format!("^(?:{pattern})$"), pattern)?;
        Ok(Self { pattern: pattern.to_owned(), full })
    }

    /// Whether the whole of `text` matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.full.is_match(text)
    }

    /// As it was written.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }
}

fn compile(anchored: &str, written: &str) -> Result<regex::Regex, Invalid> {
    // On its own first: `a)(b` must not become valid inside our group.
    regex::RegexBuilder::new(written)
        .size_limit(REGEX_LIMIT)
        .dfa_size_limit(REGEX_LIMIT)
        .build()
        .and_then(|_| regex::RegexBuilder::new(anchored).size_limit(REGEX_LIMIT).dfa_size_limit(REGEX_LIMIT).build())
        .map_err(|error| Invalid(format!("`{written}` is not a regular expression (RE2 syntax): {error}")))
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.pattern)
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl Eq for Regex {}

impl Serialize for Regex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.pattern)
    }
}

impl<'de> Deserialize<'de> for Regex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// A condition on a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StringMatch {
    /// Equal.
    Exact {
        /// The text.
        value: String,
        /// ASCII letters compare without case.
        ignore_case: bool,
    },
    /// Begins with.
    Prefix {
        /// The beginning.
        value: String,
        /// ASCII letters compare without case.
        ignore_case: bool,
    },
    /// Ends with.
    Suffix {
        /// The end.
        value: String,
        /// ASCII letters compare without case.
        ignore_case: bool,
    },
    /// Holds somewhere.
    Contains {
        /// The part.
        value: String,
        /// ASCII letters compare without case.
        ignore_case: bool,
    },
    /// Matches as a whole.
    Regex(Regex),
}

impl StringMatch {
    /// Equal to the letter.
    pub fn exact(value: impl Into<String>) -> Self {
        Self::Exact { value: value.into(), ignore_case: false }
    }

    /// Begins with, to the letter.
    pub fn prefix(value: impl Into<String>) -> Self {
        Self::Prefix { value: value.into(), ignore_case: false }
    }

    /// Whether `text` fulfils the condition.
    pub fn is_match(&self, text: &str) -> bool {
        match self {
            Self::Exact { value, ignore_case: false } => text == value,
            Self::Exact { value, ignore_case: true } => text.eq_ignore_ascii_case(value),
            Self::Prefix { value, ignore_case } => starts_with(text.as_bytes(), value.as_bytes(), *ignore_case),
            Self::Suffix { value, ignore_case } => ends_with(text.as_bytes(), value.as_bytes(), *ignore_case),
            Self::Contains { value, ignore_case: false } => text.contains(value.as_str()),
            Self::Contains { value, ignore_case: true } => {
                value.is_empty()
                    || text.as_bytes().windows(value.len()).any(|part| part.eq_ignore_ascii_case(value.as_bytes()))
            }
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

fn starts_with(text: &[u8], start: &[u8], ignore_case: bool) -> bool {
    text.get(..start.len())
        .is_some_and(|head| if ignore_case { head.eq_ignore_ascii_case(start) } else { head == start })
}

fn ends_with(text: &[u8], end: &[u8], ignore_case: bool) -> bool {
    text.len()
        .checked_sub(end.len())
        .and_then(|at| text.get(at..))
        .is_some_and(|tail| if ignore_case { tail.eq_ignore_ascii_case(end) } else { tail == end })
}

/// A condition on the path, without its query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    /// Equal.
    Exact {
        /// The path.
        value: String,
        /// `ignoreUriCase`.
        ignore_case: bool,
    },
    /// Begins with, character by character: `/foo` matches `/foobar` (VirtualService).
    Prefix {
        /// The beginning.
        value: String,
        /// `ignoreUriCase`.
        ignore_case: bool,
    },
    /// Begins with, segment by segment: `/foo` matches `/foo` and `/foo/bar`, not `/foobar` (Gateway API). No slash at
    /// the end.
    SegmentPrefix {
        /// The beginning.
        value: String,
        /// Letters compare without case.
        ignore_case: bool,
    },
    /// Matches as a whole.
    Regex(Regex),
}

impl PathMatch {
    /// Every path.
    pub fn any() -> Self {
        Self::Prefix { value: "/".to_owned(), ignore_case: false }
    }

    /// Whether `path` (no query) fulfils the condition.
    pub fn is_match(&self, path: &str) -> bool {
        match self {
            Self::Exact { value, ignore_case: false } => path == value,
            Self::Exact { value, ignore_case: true } => path.eq_ignore_ascii_case(value),
            Self::Prefix { value, ignore_case } => starts_with(path.as_bytes(), value.as_bytes(), *ignore_case),
            Self::SegmentPrefix { value, ignore_case } => {
                starts_with(path.as_bytes(), value.as_bytes(), *ignore_case)
                    && matches!(path.as_bytes().get(value.len()), None | Some(b'/'))
            }
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

/// What a header condition looks at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HeaderKey {
    /// `:method`
    Method,
    /// `:scheme`
    Scheme,
    /// `:authority`, port included
    Authority,
    /// `:path`, query included
    Path,
    /// A header field; several values are joined with a comma (RFC 9110 §5.3).
    Name(OrderedName),
}

/// A header name with an order, which [`HeaderName`] lacks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OrderedName(pub HeaderName);

impl PartialOrd for OrderedName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OrderedName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

impl HeaderKey {
    /// From Envoy's form: a header name or one of the four pseudo headers. `host` is `:authority`, as in Envoy.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        match text {
            ":method" => Ok(Self::Method),
            ":scheme" => Ok(Self::Scheme),
            ":authority" => Ok(Self::Authority),
            _ if text.eq_ignore_ascii_case("host") => Ok(Self::Authority),
            ":path" => Ok(Self::Path),
            _ => text
                .parse()
                .map(|name| Self::Name(OrderedName(name)))
                .map_err(|_| Invalid(format!("`{text}` is not a header name (RFC 9110 §5.1)"))),
        }
    }

    /// Envoy's form.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Method => ":method",
            Self::Scheme => ":scheme",
            Self::Authority => ":authority",
            Self::Path => ":path",
            Self::Name(name) => name.0.as_str(),
        }
    }
}

impl Serialize for HeaderKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A condition on one header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeaderMatch {
    /// Which header.
    pub key: HeaderKey,
    /// `None`: that it is there.
    pub value: Option<StringMatch>,
    /// The condition holds when the rest does not (`withoutHeaders`).
    pub invert: bool,
    /// A missing header counts as empty text (Envoy's `treat_missing_header_as_empty`; Istio sets it on
    /// `withoutHeaders` that have a value). Else a missing header never matches, before `invert`... and Envoy answers
    /// a missing header with "no match" whatever `invert` says when there is a value.
    pub missing_is_empty: bool,
}

/// A condition on one query parameter (the first one of that name).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueryMatch {
    /// Name of the parameter.
    pub name: String,
    /// `None`: that it is there.
    pub value: Option<StringMatch>,
}
