//! YAML in and out. The only file that knows which libraries do it.
//!
//! One parser decides what is accepted: serde-saphyr, which keeps places, has a budget and is written without `unsafe`.
//! It reads a document into a tree of [`Node`]s, each with its place; kinds are read from the tree
//! ([`super::reader`]), and findings that come later look their place up in it again. Words such as `yes` and `on` are
//! text, as in YAML 1.2.
//!
//! Writing is yaml_serde's, whose output people know from Kubernetes' tools.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{DefaultMessageFormatter, Error, Location, MessageFormatter, Spanned};

use super::path::{Path, Step};

/// Mappings and lists inside each other. Our kinds have 15 at most; a level costs up to 25 KiB of stack in a debug build,
/// and a thread may have 2 MiB.
const MAX_DEPTH: usize = 40;
/// Nodes of one document, copies by aliases included.
const MAX_NODES: usize = 500_000;
/// Events of one document that aliases may repeat.
const MAX_REPLAYED: usize = 20_000;
/// Bytes of one document.
pub(crate) const MAX_DOCUMENT: usize = 4 << 20;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) at: Span,
    pub(crate) value: Value,
}

/// A part of a document's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    /// From 1, counted from the beginning of the document's text.
    pub(crate) line: u32,
    /// From 1, in characters.
    pub(crate) column: u32,
    /// In bytes; empty where the end is not known.
    pub(crate) bytes: Range<usize>,
}

/// What a [`Node`] holds.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order written; a key that stands twice is here twice.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) at: Span,
    pub(crate) text: String,
}

/// A key that stands a second time.
#[derive(Debug)]
pub(crate) struct Repeat {
    /// From the top of the text.
    pub(crate) path: String,
    pub(crate) key: String,
    pub(crate) first: Span,
    pub(crate) second: Span,
}

/// Why a text could not be read.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Where, if the parser knows.
    pub(crate) at: Option<Span>,
    /// The parser's words.
    pub(crate) message: String,
    /// A limit was hit; else the text is not YAML.
    pub(crate) too_large: bool,
}

/// Reads one document.
pub(crate) fn parse(text: &str) -> Result<Node, Refusal> {
    if text.len() > MAX_DOCUMENT {
        return Err(Refusal {
            at: None,
            message: format!("the document has {} bytes, more than {MAX_DOCUMENT}", text.len()),
            too_large: true,
        });
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_documents: 1,
            max_anchors: 1_000,
            max_aliases: 10_000,
            max_merge_keys: 1_000,
            max_total_scalar_bytes: 2 * MAX_DOCUMENT,
            max_recorded_anchor_bytes: 2 * MAX_DOCUMENT,
            max_recorded_anchor_events: 200_000,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPLAYED },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        emit_comments: false,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| refusal(text, &error))
}

fn refusal(text: &str, error: &Error) -> Refusal {
    let mut error = error.without_snippet();
    while let Error::AliasError { error: inner, .. } = error {
        error = inner;
    }
    let message = DefaultMessageFormatter.format_message(error).into_owned();
    let is_limit = matches!(
        error,
        Error::Budget { .. }
            | Error::AliasReplayLimitExceeded { .. }
            | Error::AliasExpansionLimitExceeded { .. }
            | Error::AliasReplayStackDepthExceeded { .. }
            | Error::AliasReplayCounterOverflow { .. }
    );
    // The scanner's own limits come without a variant.
    let too_large = is_limit || message.contains("limit exceeded");
    Refusal { at: error.location().and_then(|location| Span::of(&location, text)), message, too_large }
}

/// As YAML, the way Kubernetes' tools write it.
pub(crate) fn write<T: serde::Serialize>(value: &T) -> Result<String, String> {
    serde_yaml::to_string(value).map_err(|error| error.to_string())
}

impl Node {
    /// A word for the type, for messages.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => format!("the truth value `{value}`"),
            Value::Signed(value) => format!("the number {value}"),
            Value::Unsigned(value) => format!("the number {value}"),
            Value::Float(value) => format!("the number {value}"),
            Value::Text(text) if text.chars().count() <= 40 => format!("the text `{text}`"),
            Value::Text(_) => "a text".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }

    /// The value of a key of a mapping.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, node)| node)
    }

    fn entry(&self, key: &str) -> Option<(&Key, &Node)> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(found, _)| found.text == key).map(|(key, node)| (key, node)),
            _ => None,
        }
    }

    /// The first key of a mapping without braces, else the value as a whole.
    fn start(&self) -> &Span {
        match &self.value {
            Value::Map(entries) => match entries.first() {
                Some((key, _)) if (key.at.line, key.at.column) == (self.at.line, self.at.column) => &key.at,
                Some(_) | None => &self.at,
            },
            _ => &self.at,
        }
    }

    /// Takes out keys that stand a second time in their mapping.
    pub(crate) fn take_repeats(&mut self) -> Vec<Repeat> {
        let mut repeats = Vec::new();
        self.repeats(&Path::root(), &mut repeats);
        repeats
    }

    fn repeats(&mut self, path: &Path, found: &mut Vec<Repeat>) {
        match &mut self.value {
            Value::Map(entries) => {
                let mut first: HashMap<String, Span> = HashMap::with_capacity(entries.len());
                entries.retain(|(key, _)| match first.get(&key.text) {
                    Some(first) => {
                        found.push(Repeat {
                            path: path.key(&key.text).to_string(),
                            key: key.text.clone(),
                            first: first.clone(),
                            second: key.at.clone(),
                        });
                        false
                    }
                    None => {
                        first.insert(key.text.clone(), key.at.clone());
                        true
                    }
                });
                for (key, node) in entries {
                    node.repeats(&path.key(&key.text), found);
                }
            }
            Value::List(entries) => {
                for (index, node) in entries.iter_mut().enumerate() {
                    node.repeats(&path.index(index), found);
                }
            }
            Value::Null | Value::Bool(_) | Value::Signed(_) | Value::Unsigned(_) | Value::Float(_) | Value::Text(_) => {
            }
        }
    }

    /// The text of a scalar that is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Where `path` stands, or as much of it as there is.
    pub(crate) fn locate(&self, path: &str, aim: Aim) -> Span {
        let mut node = self;
        let mut span = &self.at;
        for step in Path::steps(path) {
            let next = match (&step, &node.value) {
                (Step::Key(key), _) => node.entry(key).map(|(key, node)| (&key.at, node)),
                (Step::Index(index), Value::List(entries)) => entries.get(*index).map(|node| (node.start(), node)),
                (Step::Index(_), _) => None,
            };
            let Some((at, inner)) = next else { break };
            node = inner;
            span = match (&node.value, aim) {
                (Value::Map(_) | Value::List(_) | Value::Null, _) | (_, Aim::Key) => at,
                _ => &node.at,
            };
        }
        span.clone()
    }
}

/// What to point at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    /// A scalar itself, the key of anything larger.
    Value,
    /// The key.
    Key,
}

impl Span {
    /// The very beginning.
    pub(crate) fn start() -> Self {
        Self { line: 1, column: 1, bytes: 0..0 }
    }

    /// From the parser's; `None` where it does not know.
    fn of(location: &Location, text: &str) -> Option<Self> {
        let line = u32::try_from(location.line()).ok().filter(|line| *line > 0)?;
        let column = u32::try_from(location.column()).ok().filter(|column| *column > 0)?;
        let start = location.span().byte_offset().and_then(|offset| usize::try_from(offset).ok()).unwrap_or(text.len());
        let length = location.span().byte_len().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        let start = start.min(text.len());
        Some(Self { line, column, bytes: start..start.saturating_add(length).min(text.len()) })
    }

    fn of_node(location: &Location) -> Self {
        let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).max(1);
        let offset = |offset: Option<u64>| offset.and_then(|offset| usize::try_from(offset).ok()).unwrap_or(0);
        let start = offset(location.span().byte_offset());
        let end = start.saturating_add(offset(location.span().byte_len()));
        Self { line: number(location.line()), column: number(location.column()), bytes: start..end }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { at: Span::of_node(&referenced), value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(u64::try_from(value).map_or(Value::Signed(value), Value::Unsigned))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Unsigned(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = entries.next_element()? {
            list.push(node);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(Spanned { value: text, referenced, .. }) = entries.next_key::<Spanned<String>>()? {
            if map.len() >= MAX_NODES {
                return Err(A::Error::custom("a mapping has too many entries"));
            }
            map.push((Key { at: Span::of_node(&referenced), text }, entries.next_value()?));
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# A comment
spec:
  http:
  - name: \"a b\"
    route:
    - {weight: -3, headers: {x.y: é, z: }}
";

    #[test]
    fn every_value_knows_its_place() {
        let tree = parse(TEXT).unwrap();
        for (path, line, column, text) in [
            ("spec", 2, 1, "spec"),
            ("spec.http[0].name", 4, 11, "\"a b\""),
            ("spec.http[0].route", 5, 5, "route"),
            ("spec.http[0].route[0].weight", 6, 16, "-3"),
            ("spec.http[0].route[0].headers[\"x.y\"]", 6, 35, "é"),
            ("spec.http[0].route[0].headers.z", 6, 38, "z"),
            ("spec.http[0].route[0].missing[3]", 6, 7, ""),
        ] {
            let span = tree.locate(path, Aim::Value);
            assert_eq!((span.line, span.column), (line, column), "{path}");
            assert!(TEXT[span.bytes.clone()].starts_with(text), "{path}: {:?}", &TEXT[span.bytes]);
        }
        let key = tree.locate("spec.http[0].name", Aim::Key);
        assert_eq!((key.line, key.column), (4, 5));
    }

    #[test]
    fn scalars_have_the_types_of_yaml_1_2() {
        let tree = parse("[true, yes, 1, -1, 1.5, '1', ~, 007, 1.2.3, 2024-01-01T00:00:00Z]").unwrap();
        let Value::List(entries) = tree.value else { panic!("a list") };
        let types: Vec<String> = entries.iter().map(Node::describe).collect();
        assert_eq!(
            types,
            [
                "the truth value `true`",
                "the text `yes`",
                "the number 1",
                "the number -1",
                "the number 1.5",
                "the text `1`",
                "nothing",
                "the text `007`",
                "the text `1.2.3`",
                "the text `2024-01-01T00:00:00Z`",
            ]
        );
    }

    #[test]
    fn hostile_documents_are_refused_with_a_reason() {
        let bomb = (0..30).fold("a0: &a0 [x, x]\n".to_owned(), |text, level| {
            format!("{text}a{}: &a{} [*a{level}, *a{level}]\n", level + 1, level + 1)
        });
        let deep_flow = "[".repeat(10_000);
        let deep_block: String = (0..10_000).map(|level| format!("{}a:\n", " ".repeat(level))).take(2_000).collect();
        let deep_list = "- ".repeat(10_000);
        for (text, too_large) in [
            (bomb.as_str(), true),
            (deep_flow.as_str(), true),
            (deep_block.as_str(), true),
            (deep_list.as_str(), true),
            ("a: b: c", false),
            ("a:\n\t- b", false),
            ("a: [1, 2", false),
            ("a: *nobody", false),
            ("key: \"unclosed", false),
            ("{{ template }}", false),
        ] {
            let refusal = parse(text).unwrap_err();
            assert!(!refusal.message.is_empty());
            assert!(!too_large || refusal.too_large, "{}: {}", &text[..text.len().min(40)], refusal.message);
        }
    }

    #[test]
    fn the_deepest_document_that_is_read_fits_a_small_stack() {
        for (open, close) in [("[", "]"), ("{a: ", "}")] {
            let text = format!("{}1{}", open.repeat(MAX_DEPTH), close.repeat(MAX_DEPTH));
            let read = std::thread::Builder::new().stack_size(1536 << 10).spawn(move || parse(&text).is_ok()).unwrap();
            assert!(read.join().unwrap());
        }
        assert!(parse(&format!("{}1{}", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1))).unwrap_err().too_large);
    }

    #[test]
    fn a_scalar_of_a_megabyte_is_read() {
        let text = format!("a: {}", "x".repeat(1 << 20));
        assert_eq!(parse(&text).unwrap().get("a").and_then(Node::text).map(str::len), Some(1 << 20));
        assert!(parse(&"x".repeat(MAX_DOCUMENT + 1)).unwrap_err().too_large);
    }
}
