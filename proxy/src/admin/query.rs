//! What stands after the `?`, read strictly: a filter with a typing error must not be taken for no filter.

use std::str::FromStr;
use std::time::Duration;

use regex::{Regex, RegexBuilder};

/// The longest query.
const MAX_QUERY: usize = 8 << 10;
/// What one regular expression may take, in bytes: compiled, and for its cache.
const MAX_REGEX: usize = 1 << 20;

/// Why a query is not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum QueryError {
    /// It is longer than anything that is meant well.
    #[error("the query is longer than {MAX_QUERY} bytes")]
    TooLong,
    /// Its encoding is broken.
    #[error("`{0}` is not valid percent-encoding of UTF-8; write a `%` as %25")]
    Encoding(String),
    /// The same parameter twice.
    #[error("`{0}` stands there twice")]
    Twice(String),
    /// A parameter that the page does not know.
    #[error("there is no parameter `{name}` here{hint}; there are: {known}")]
    Unknown {
        /// As it was written.
        name: String,
        /// Did you mean …
        hint: String,
        /// Those that there are.
        known: String,
    },
    /// A value that makes no sense.
    #[error("{name}={value}: {reason}")]
    Value {
        /// Whose.
        name: String,
        /// As it was written.
        value: String,
        /// What would be right.
        reason: String,
    },
}

/// Parameters in the order in which they were written.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads what stands after the `?`. A `+` is a `+`, as regular expressions need it.
    pub(super) fn parse(text: &str) -> Result<Self, QueryError> {
        if text.len() > MAX_QUERY {
            return Err(QueryError::TooLong);
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(QueryError::Twice(name));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// The same, where only these parameters make sense.
    pub(super) fn of(text: &str, known: &[&str]) -> Result<Self, QueryError> {
        let query = Self::parse(text)?;
        match query.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => Err(QueryError::Unknown {
                name: name.clone(),
                hint: did_you_mean(name, known.iter().copied()),
                known: if known.is_empty() { "none".to_owned() } else { known.join(", ") },
            }),
            None => Ok(query),
        }
    }

    /// All of them.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A parameter's value; `None`: it is not there or empty.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.pairs().find_map(|(known, value)| (known == name && !value.is_empty()).then_some(value))
    }

    /// A switch: `name`, `name=1` and `name=true` turn it on.
    pub(super) fn switch(&self, name: &str) -> Result<bool, QueryError> {
        match self.pairs().find(|(known, _)| *known == name) {
            None | Some((_, "0" | "false")) => Ok(false),
            Some((_, "" | "1" | "true")) => Ok(true),
            Some((_, value)) => Err(Self::wrong(name, value, "say 1 or 0")),
        }
    }

    /// One of several words; `None`: it is not there.
    pub(super) fn one_of<'w>(&self, name: &str, words: &[&'w str]) -> Result<Option<&'w str>, QueryError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let found = words.iter().find(|word| **word == value).copied();
        found.map(Some).ok_or_else(|| Self::wrong(name, value, format!("say one of {}", words.join(", "))))
    }

    /// A value of some type; `what` tells what it has to be.
    pub(super) fn parsed<T: FromStr>(&self, name: &str, what: &str) -> Result<Option<T>, QueryError> {
        let value = self.value(name);
        value.map(|value| value.parse().map_err(|_| Self::wrong(name, value, format!("is not {what}")))).transpose()
    }

    /// A length of time, as `250ms`, `60s`, `5m` or `1h`; `None`: it is not there.
    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>, QueryError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let digits = value.find(|character: char| !character.is_ascii_digit()).unwrap_or(value.len());
        let (amount, unit) = value.split_at(digits);
        let scale = match unit {
            "ms" => Some(1),
            "s" => Some(1_000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        let millis = amount.parse::<u64>().ok().zip(scale).and_then(|(amount, scale)| amount.checked_mul(scale));
        millis
            .map(Duration::from_millis)
            .map(Some)
            .ok_or_else(|| Self::wrong(name, value, "write it as 250ms, 60s or 5m"))
    }

    /// A regular expression, which may match anywhere.
    pub(super) fn regex(&self, name: &str) -> Result<Option<Regex>, QueryError> {
        let compiled = |value: &str| {
            let built = RegexBuilder::new(value).size_limit(MAX_REGEX).dfa_size_limit(MAX_REGEX).build();
            built.map_err(|error| Self::wrong(name, value, format!("is not a regular expression: {error}")))
        };
        self.value(name).map(compiled).transpose()
    }

    /// A value that makes no sense.
    pub(super) fn wrong(name: &str, value: &str, reason: impl Into<String>) -> QueryError {
        QueryError::Value { name: name.to_owned(), value: value.to_owned(), reason: reason.into() }
    }
}

/// ` (did you mean …?)`, where a word comes close to what was written; else nothing.
pub(super) fn did_you_mean<'w>(written: &str, words: impl Iterator<Item = &'w str>) -> String {
    const CLOSE: f64 = 0.6;
    let rated = words.map(|word| (strsim::normalized_damerau_levenshtein(written, word), word));
    let best = rated.filter(|(likeness, _)| *likeness >= CLOSE).max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.map_or_else(String::new, |(_, word)| format!(" (did you mean `{word}`?)"))
}

/// Percent-decoded (RFC 3986 §2.1); control characters mean nothing good.
fn decoded(text: &str) -> Result<String, QueryError> {
    let broken = || QueryError::Encoding(text.chars().filter(|c| !c.is_control()).take(100).collect());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes().iter();
    while let Some(byte) = rest.next() {
        if *byte == b'%' {
            let mut digit = || rest.next().and_then(|byte| char::from(*byte).to_digit(16));
            let (high, low) = (digit().ok_or_else(broken)?, digit().ok_or_else(broken)?);
            bytes.push(u8::try_from(high << 4 | low).map_err(|_| broken())?);
        } else {
            bytes.push(*byte);
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| broken())?;
    if text.contains(char::is_control) { Err(broken()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query; its pairs, or what is said of it.
    type Row = (&'static str, Result<&'static [(&'static str, &'static str)], &'static str>);

    #[test]
    fn a_query_is_decoded_strictly() {
        let rows: &[Row] = &[
            ("", Ok(&[])),
            ("a", Ok(&[("a", "")])),
            ("a=1&b=x%20y", Ok(&[("a", "1"), ("b", "x y")])),
            ("a=b=c&", Ok(&[("a", "b=c")])),
            ("filter=a.+b", Ok(&[("filter", "a.+b")])),
            ("a=%C3%A4", Ok(&[("a", "ä")])),
            ("a=%", Err("not valid percent-encoding")),
            ("a=%4", Err("not valid percent-encoding")),
            ("a=%zz", Err("not valid percent-encoding")),
            ("a=%ff", Err("not valid percent-encoding")),
            ("a=%0a", Err("not valid percent-encoding")),
            ("a=1&a=2", Err("`a` stands there twice")),
        ];
        for (text, expected) in rows {
            match (Query::parse(text), expected) {
                (Ok(query), Ok(pairs)) => assert_eq!(query.pairs().collect::<Vec<_>>(), *pairs, "{text}"),
                (Err(error), Err(says)) => assert!(error.to_string().contains(says), "{text}: {error}"),
                (read, _) => panic!("{text}: {read:?}"),
            }
        }
        assert!(matches!(Query::parse(&"a".repeat(MAX_QUERY + 1)), Err(QueryError::TooLong)));
    }

    #[test]
    fn a_parameter_that_nobody_knows_is_refused_with_a_guess() {
        let error = Query::of("fliter=x", &["filter", "format"]).expect_err("unknown").to_string();
        assert!(error.contains("did you mean `filter`") && error.contains("filter, format"), "{error}");
        assert_eq!(did_you_mean("zzz", ["filter"].into_iter()), "");
    }

    #[test]
    fn a_value_is_what_it_has_to_be_or_is_refused() {
        let query = Query::parse("on&off=0&odd=maybe&format=xml&max=ten&n=7&x=").expect("valid");
        assert!(query.switch("on").expect("a switch") && !query.switch("off").expect("a switch"));
        assert!(!query.switch("absent").expect("a switch"));
        assert!(query.switch("odd").is_err());
        assert!(query.one_of("format", &["json", "text"]).is_err());
        assert!(query.parsed::<u32>("max", "a number").is_err());
        assert_eq!(query.parsed::<u32>("n", "a number").expect("a number"), Some(7));
        assert!(query.duration("n").is_err() && query.duration("absent").expect("none").is_none());
        let minutes = Query::parse("d=5m").and_then(|query| query.duration("d")).expect("a duration");
        assert_eq!(minutes, Some(Duration::from_secs(300)));
        assert_eq!(query.value("x"), None);
    }

    #[test]
    fn a_regular_expression_is_bounded() {
        for (text, is_taken) in [("a=^x.*$", true), ("a=(", false), ("a=(((a{100}){100}){100})", false)] {
            assert_eq!(Query::parse(text).and_then(|query| query.regex("a")).is_ok(), is_taken, "{text}");
        }
    }
}
