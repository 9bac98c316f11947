//! What a log line looks like: text with operators in it, or JSON of such texts.
//!
//! A format is compiled here, once per configuration: what a request finds is a list of pieces. Its text can be had back,
//! in one form for all that mean the same, which is what travels and what a version is made of.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

use super::{FormatError, Operator};

/// Bytes of one text; a line has at most sixteen times as many.
const LONGEST_TEXT: usize = 4096;
/// Keys of a JSON object, and lists and objects inside each other.
const MOST_KEYS: usize = 200;
const DEEPEST: usize = 8;

/// What a line looks like.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text; a line's end is not part of it.
    Text(LogText),
    /// One JSON object a line.
    Json(LogObject),
}

/// Members of a JSON object, in the order of their names (as Envoy writes them).
pub type LogObject = BTreeMap<String, LogValue>;

/// A value in JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogValue {
    /// Text. One operator and nothing else has the operator's own type: a number, a text, null.
    Text(LogText),
    /// The same in every line.
    Number(f64),
    /// The same in every line.
    Bool(bool),
    /// The same in every line.
    Null,
    /// More of them.
    Object(LogObject),
    /// More of them.
    List(Vec<LogValue>),
}

/// Text with operators in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogText(Vec<Piece>);

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// As it stands.
    Literal(String),
    /// What an operator brings, and at most so many characters of it.
    Value(Operator, Option<u32>),
}

/// What becomes of an operator that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strange {
    Refused,
    Kept,
}

impl LogText {
    /// What a person wrote: what is not known is refused.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        Self::read(text, Strange::Refused)
    }

    /// What a foreign control plane wrote: operators that are not known stay, and come out as missing.
    pub fn tolerant(text: &str) -> Result<Self, FormatError> {
        Self::read(text, Strange::Kept)
    }

    /// Piece by piece.
    pub fn pieces(&self) -> &[Piece] {
        &self.0
    }

    fn read(text: &str, strange: Strange) -> Result<Self, FormatError> {
        if text.len() > LONGEST_TEXT {
            return Err(FormatError::new(format!("a format is at most {LONGEST_TEXT} bytes, this is {}", text.len())));
        }
        if strange == Strange::Refused && text.chars().any(char::is_control) {
            return Err(FormatError::new(
                "a line of the log is one line: there is a line break or a tab in its format",
            )
            .help("leave it out; every line is ended by itself"));
        }
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            if let Some(next) = after.strip_prefix('%') {
                literal.push('%');
                rest = next;
                continue;
            }
            let (command, next) = Command::split(after).ok_or_else(|| not_a_command(after))?;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(command.compile(strange)?);
            rest = next;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self(pieces))
    }
}

fn not_a_command(after: &str) -> FormatError {
    let shown: String = after.chars().take(20).collect();
    FormatError::new(format!("no operator begins with `%{shown}`"))
        .help("an operator is `%NAME%`, `%NAME(ARGUMENT)%` or `%NAME(ARGUMENT):LENGTH%`; a percent sign is `%%`")
}

/// `NAME(ARGUMENT):LENGTH`
struct Command<'a> {
    whole: &'a str,
    word: &'a str,
    argument: Option<&'a str>,
    length: Option<&'a str>,
}

impl<'a> Command<'a> {
    /// What stands up to the closing `%`, and what follows it.
    fn split(text: &'a str) -> Option<(Self, &'a str)> {
        let is_word = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
        let (word, after) = text.split_at(text.find(|letter| !is_word(letter))?);
        if word.is_empty() {
            return None;
        }
        let (argument, length, next) = match after.strip_prefix('(') {
            None => Self::end(after).map(|(length, next)| (None, length, next))?,
            // The argument may hold parentheses and percent signs of its own (`%3f`): it ends where an operator can.
            Some(inside) => inside.match_indices(')').find_map(|(at, _)| {
                let (argument, after) = (inside.get(..at)?, inside.get(at.saturating_add(1)..)?);
                Self::end(after).map(|(length, next)| (Some(argument), length, next))
            })?,
        };
        let whole = text.strip_suffix(next)?.strip_suffix('%')?;
        Some((Self { whole, word, argument, length }, next))
    }

    /// `%`, or `:LENGTH%`.
    fn end(text: &'a str) -> Option<(Option<&'a str>, &'a str)> {
        if let Some(next) = text.strip_prefix('%') {
            return Some((None, next));
        }
        let (length, next) = text.strip_prefix(':')?.split_once('%')?;
        let is_number = !length.is_empty() && length.bytes().all(|digit| digit.is_ascii_digit());
        is_number.then_some((Some(length), next))
    }

    fn compile(&self, strange: Strange) -> Result<Piece, FormatError> {
        let length = self.length.map(|length| self.longest(length, strange)).transpose()?;
        match (Operator::parse(self.word, self.argument), strange) {
            (Ok(operator), _) => Ok(Piece::Value(operator, length)),
            (Err(_), Strange::Kept) => Ok(Piece::Value(Operator::Unknown(self.whole.to_owned()), None)),
            (Err(error), Strange::Refused) => Err(error),
        }
    }

    fn longest(&self, length: &str, strange: Strange) -> Result<u32, FormatError> {
        if strange == Strange::Refused && !Operator::takes_length(self.word) {
            return Err(FormatError::new(format!("`%{}%` is never cut: it takes no length", self.word)));
        }
        length.parse().map_err(|_| FormatError::new(format!("`{length}` is not a length")))
    }
}

impl LogFormat {
    /// Refuses objects that are too large to be a line.
    pub fn json(object: LogObject) -> Result<Self, FormatError> {
        let keys = check(&object, 1)?;
        if keys == 0 {
            return Err(FormatError::new("an object without keys says nothing"));
        }
        Ok(Self::Json(object))
    }

    /// Operators that this proxy has nothing for, as they were written.
    pub fn unknown(&self) -> Vec<&str> {
        let mut found = Vec::new();
        match self {
            Self::Text(text) => unknown_in_text(text, &mut found),
            Self::Json(object) => object.values().for_each(|value| unknown_in(value, &mut found)),
        }
        found
    }
}

/// How many keys there are in all.
fn check(object: &LogObject, depth: usize) -> Result<usize, FormatError> {
    let mut keys = object.len();
    for value in object.values() {
        keys = keys.saturating_add(check_value(value, depth.saturating_add(1))?);
    }
    if keys > MOST_KEYS {
        return Err(FormatError::new(format!("a line has at most {MOST_KEYS} keys, this has more")));
    }
    Ok(keys)
}

fn check_value(value: &LogValue, depth: usize) -> Result<usize, FormatError> {
    if depth > DEEPEST {
        return Err(FormatError::new(format!("objects are at most {DEEPEST} deep inside each other")));
    }
    match value {
        LogValue::Text(_) | LogValue::Number(_) | LogValue::Bool(_) | LogValue::Null => Ok(0),
        LogValue::Object(object) => check(object, depth),
        LogValue::List(list) => {
            let deeper = depth.saturating_add(1);
            list.iter().try_fold(list.len(), |keys, value| Ok(keys.saturating_add(check_value(value, deeper)?)))
        }
    }
}

fn unknown_in<'a>(value: &'a LogValue, found: &mut Vec<&'a str>) {
    match value {
        LogValue::Text(text) => unknown_in_text(text, found),
        LogValue::Number(_) | LogValue::Bool(_) | LogValue::Null => {}
        LogValue::Object(object) => object.values().for_each(|value| unknown_in(value, found)),
        LogValue::List(list) => list.iter().for_each(|value| unknown_in(value, found)),
    }
}

fn unknown_in_text<'a>(text: &'a LogText, found: &mut Vec<&'a str>) {
    found.extend(text.0.iter().filter_map(|piece| match piece {
        Piece::Value(Operator::Unknown(text), _) => Some(text.as_str()),
        Piece::Value(..) | Piece::Literal(_) => None,
    }));
}

impl fmt::Display for LogText {
    /// As it is written, each operator in its shorter form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in &self.0 {
            match piece {
                Piece::Literal(text) => f.write_str(&text.replace('%', "%%"))?,
                Piece::Value(operator, None) => write!(f, "%{operator}%")?,
                Piece::Value(operator, Some(length)) => write!(f, "%{operator}:{length}%")?,
            }
        }
        Ok(())
    }
}

impl Serialize for LogText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_comes_back_in_one_form() {
        for (written, expected) in [
            ("", ""),
            ("plain %% text", "plain %% text"),
            (
                "%REQUEST_HEADER(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH):10%",
                "%REQ(:method)% %REQ(x-envoy-original-path?:path):10%",
            ),
            ("[%START_TIME%] %START_TIME(%s.%3f)%", "[%START_TIME%] %START_TIME(%s.%3f)%"),
            (
                "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%%DOWNSTREAM_LOCAL_PORT%",
                "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%%DOWNSTREAM_LOCAL_PORT%",
            ),
            ("%RESPONSE_TRAILER(grpc-status)%%GRPC_STATUS%", "%TRAILER(grpc-status)%%GRPC_STATUS(CAMEL_STRING)%"),
            ("%METADATA(ROUTE:leno.mesh:name):5%", "%METADATA(ROUTE:leno.mesh:name):5%"),
        ] {
            let text = LogText::parse(written).unwrap_or_else(|error| panic!("{written}: {error}"));
            assert_eq!(text.to_string(), expected);
            assert_eq!(LogText::parse(expected), Ok(text.clone()), "{expected}");
            assert_eq!(LogText::tolerant(expected), Ok(text), "{expected}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_remedy() {
        for (written, what, help) in [
            ("%RESPONSE_COD%", "`RESPONSE_COD`", "`%RESPONSE_CODE%`"),
            ("%REQ%", "needs the name of a header", "user-agent"),
            ("%REQ(a b)%", "`a b`", "user-agent"),
            ("%PROTOCOL:5%", "never cut", ""),
            ("%PROTOCOL(x)%", "nothing in parentheses", ""),
            ("100% sure", "no operator", "%%"),
            ("%START_TIME(%Q)%", "`%Q`", "%3f"),
            ("%ENVIRONMENT(TOKEN)%", "not for logs", "secrets"),
            ("%FILTER_STATE(a)%", "nothing that `FILTER_STATE`", "leave it out"),
            ("%METADATA(CLUSTER:a)%", "METADATA(CLUSTER:a)", "ROUTE"),
            ("a\nb", "one line", ""),
        ] {
            let error = LogText::parse(written).expect_err(written);
            assert!(error.what.contains(what), "{written}: {error}");
            assert!(error.help.unwrap_or_default().contains(help), "{written}");
        }
    }

    #[test]
    fn what_a_stranger_asks_for_stays_and_is_named() {
        let text = LogText::tolerant("%RESPONSE_CODE% %FILTER_STATE(a:b):3% %ENVIRONMENT(TOKEN)%\n").expect("tolerant");
        assert_eq!(text.to_string(), "%RESPONSE_CODE% %FILTER_STATE(a:b):3% %ENVIRONMENT(TOKEN)%\n");
        assert_eq!(LogFormat::Text(text).unknown(), ["FILTER_STATE(a:b):3", "ENVIRONMENT(TOKEN)"]);
    }

    #[test]
    fn an_object_is_bounded() {
        let text = |text| LogValue::Text(LogText::parse(text).expect("valid"));
        let many = (0..=MOST_KEYS).map(|key| (key.to_string(), text("a"))).collect();
        assert!(LogFormat::json(many).is_err());
        let deep = (0..=DEEPEST).fold(text("a"), |inner, _| LogValue::List(vec![inner]));
        assert!(LogFormat::json([("a".to_owned(), deep)].into()).is_err());
        assert!(LogFormat::json(LogObject::new()).is_err());
    }
}
