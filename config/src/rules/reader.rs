//! From a tree of YAML to the structs of a kind, with every fault found.
//!
//! serde stops at the first fault; people want all of them. So a struct is read from a tree that is already there, and
//! reading is repeated: what could not be read is left out the next time, as if it had not been written. An unknown
//! field never stops the reading. At the end there are the struct, as complete as it can be, and the list of faults.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, IntoDeserializer, Visitor};

use super::path::Path;
use super::yaml::{Node, Value};
use crate::diagnostic::{Code, codes};

/// Faults of one document that are looked for; a document with more is a different kind of document.
const MAX_FAULTS: usize = 50;

/// Something wrong with a document.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) path: String,
    /// It is the key that is wrong, not the value.
    pub(crate) on_key: bool,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

/// Reads a `T` from `node`, which stands at `path`. `None`: nothing could be made of it.
pub(crate) fn read<T: for<'a> Deserialize<'a>>(node: &Node, path: &Path) -> (Option<T>, Vec<Fault>) {
    let mut faults = Vec::new();
    let mut left_out = BTreeSet::new();
    loop {
        let notes = Notes { left_out, faults: RefCell::default() };
        let result = T::deserialize(Reader { node, trail: Trail::Root(path), notes: &notes });
        let seen = notes.faults.into_inner();
        left_out = notes.left_out;
        match result {
            Ok(value) => return (Some(value), [faults, seen].concat()),
            Err(Stop { node: culprit, fault }) => {
                faults.push(*fault);
                // Seen before, or the whole: nothing more can be left out.
                if !left_out.insert(culprit) || culprit == address(node) || faults.len() >= MAX_FAULTS {
                    return (None, [faults, seen].concat());
                }
            }
        }
    }
}

/// What one pass knows and finds.
struct Notes {
    /// Values that an earlier pass could not read, by their address in the tree.
    left_out: BTreeSet<usize>,
    /// Faults that did not stop the pass.
    faults: RefCell<Vec<Fault>>,
}

/// Tells nodes of one tree apart. The tree does not move while it is read.
fn address(node: &Node) -> usize {
    std::ptr::from_ref(node) as usize
}

/// The path of a node, kept on the stack and written out only for a fault.
#[derive(Clone, Copy)]
enum Trail<'p> {
    Root(&'p Path),
    Key(&'p Trail<'p>, &'p str),
    Index(&'p Trail<'p>, usize),
}

impl Trail<'_> {
    fn path(&self) -> Path {
        match self {
            Self::Root(path) => (*path).clone(),
            Self::Key(outer, key) => outer.path().key(key),
            Self::Index(outer, index) => outer.path().index(*index),
        }
    }
}

/// Why a pass ended.
#[derive(Debug)]
struct Stop {
    /// Which value could not be read; 0 where the reader of a single value does not know.
    node: usize,
    fault: Box<Fault>,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fault.message)
    }
}

impl std::error::Error for Stop {}

impl de::Error for Stop {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let fault = Fault {
            code: codes::WRONG_TYPE,
            path: String::new(),
            on_key: false,
            message: message.to_string(),
            help: None,
        };
        Self { node: 0, fault: Box::new(fault) }
    }
}

/// serde's view of one node.
#[derive(Clone, Copy)]
struct Reader<'de, 'p> {
    node: &'de Node,
    trail: Trail<'p>,
    notes: &'p Notes,
}

impl<'de> Reader<'de, '_> {
    fn stop(&self, code: Code, message: String, help: Option<String>) -> Stop {
        let fault = Fault { code, path: self.trail.path().to_string(), on_key: false, message, help };
        Stop { node: address(self.node), fault: Box::new(fault) }
    }

    fn expected(&self, what: &str, help: Option<String>) -> Stop {
        self.stop(codes::WRONG_TYPE, format!("{what} is expected here, not {}", self.node.describe()), help)
    }

    /// Says where, if the reader of the value did not know.
    fn place(&self, mut stop: Stop) -> Stop {
        if stop.node == 0 {
            stop.node = address(self.node);
            stop.fault.path = self.trail.path().to_string();
        }
        stop
    }

    fn is_left_out(&self, node: &Node) -> bool {
        self.notes.left_out.contains(&address(node))
    }

    fn signed(&self) -> Result<i64, Stop> {
        match &self.node.value {
            Value::Signed(value) => Ok(*value),
            Value::Unsigned(value) => i64::try_from(*value).map_err(|_| self.too_large()),
            Value::Float(value) => whole(*value).ok_or_else(|| self.expected("a whole number", None)),
            Value::Text(text) if text.parse::<i64>().is_ok() => {
                Err(self.expected("a number", Some("write it without quotes".to_owned())))
            }
            _ => Err(self.expected("a number", None)),
        }
    }

    fn too_large(&self) -> Stop {
        self.stop(codes::NUMBER, "the number is too large".to_owned(), None)
    }

    fn integer<T: TryFrom<i64>>(&self, lowest: i64, highest: i64) -> Result<T, Stop> {
        let value = self.signed()?;
        T::try_from(value).map_err(|_| {
            let message = format!("{value} is out of range");
            self.stop(codes::NUMBER, message, Some(format!("the field takes {lowest} to {highest}")))
        })
    }

    fn text(&self) -> Result<&'de str, Stop> {
        match &self.node.value {
            Value::Text(text) => Ok(text),
            Value::Bool(_) | Value::Signed(_) | Value::Unsigned(_) | Value::Float(_) => {
                Err(self.expected("a text", Some("put it into quotes".to_owned())))
            }
            Value::Null | Value::List(_) | Value::Map(_) => Err(self.expected("a text", None)),
        }
    }
}

/// `5.0` is 5.
fn whole(value: f64) -> Option<i64> {
    // Within these bounds every whole number is exact, so the cast keeps it.
    #[allow(clippy::cast_possible_truncation)]
    (value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i64)
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty;)+) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
            #[allow(clippy::cast_possible_wrap, clippy::cast_lossless)]
            let value: $type = self.integer(<$type>::MIN as i64, <$type>::MAX as i64)?;
            visitor.$visit(value).map_err(|stop| self.place(stop))
        }
    )+};
}

impl<'de> de::Deserializer<'de> for Reader<'de, '_> {
    type Error = Stop;

    integers! {
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        let value = self.integer(0, i64::MAX)?;
        visitor.visit_u64(value).map_err(|stop| self.place(stop))
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        #[allow(clippy::cast_precision_loss)]
        let value = match &self.node.value {
            Value::Float(value) => *value,
            Value::Signed(value) => *value as f64,
            Value::Unsigned(value) => *value as f64,
            _ => return Err(self.expected("a number", None)),
        };
        visitor.visit_f64(value).map_err(|stop| self.place(stop))
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::Bool(value) => visitor.visit_bool(*value).map_err(|stop| self.place(stop)),
            _ => Err(self.expected("`true` or `false`", None)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_borrowed_str(self.text()?).map_err(|stop| self.place(stop))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::List(entries) => visitor.visit_seq(Entries { reader: self, rest: entries.iter().enumerate() }),
            _ => Err(self.expected("a list", Some("begin each entry with `- `".to_owned()))),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::Map(entries) => {
                visitor.visit_map(Fields { reader: self, rest: entries.iter(), value: None, known: None })
            }
            _ => Err(self.expected("a mapping", None)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::Map(entries) => {
                visitor.visit_map(Fields { reader: self, rest: entries.iter(), value: None, known: Some(fields) })
            }
            _ => Err(self.expected("a mapping", Some(format!("its fields are {}", listed(fields))))),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        let text = self.text()?;
        if !words.contains(&text) {
            let help = match closest(text, words) {
                Some(word) => format!("did you mean `{word}`?"),
                None => format!("it is one of {}", listed(words)),
            };
            return Err(self.stop(codes::UNKNOWN_WORD, format!("`{text}` is not a word of this field"), Some(help)));
        }
        visitor.visit_enum(text.into_deserializer())
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Signed(value) => visitor.visit_i64(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
        }
        .map_err(|stop| self.place(stop))
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// The entries of a list.
struct Entries<'de, 'p> {
    reader: Reader<'de, 'p>,
    rest: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> de::SeqAccess<'de> for Entries<'de, '_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Stop> {
        let reader = self.reader;
        let Some((index, node)) = self.rest.find(|(_, node)| !reader.is_left_out(node)) else { return Ok(None) };
        let inner = Reader { node, trail: Trail::Index(&reader.trail, index), notes: reader.notes };
        seed.deserialize(inner).map(Some).map_err(|stop| inner.place(stop))
    }
}

/// The entries of a mapping.
struct Fields<'de, 'p> {
    reader: Reader<'de, 'p>,
    rest: std::slice::Iter<'de, (super::yaml::Key, Node)>,
    value: Option<(&'de str, &'de Node)>,
    /// The fields of the struct; `None`: any key.
    known: Option<&'static [&'static str]>,
}

impl<'de> Fields<'de, '_> {
    /// Notes a field that the struct does not have.
    fn unknown(&self, key: &str, known: &[&str]) {
        let help = match closest(key, known) {
            Some(field) => format!("did you mean `{field}`?"),
            None => format!("fields here are {}", listed(known)),
        };
        self.reader.notes.faults.borrow_mut().push(Fault {
            code: codes::UNKNOWN_FIELD,
            path: self.reader.trail.path().key(key).to_string(),
            on_key: true,
            message: format!("there is no field `{key}` here"),
            help: Some(help),
        });
    }

    /// The next entry that counts.
    fn next_entry(&mut self) -> Option<(&'de str, &'de Node)> {
        loop {
            let (key, node) = self.rest.next()?;
            if self.reader.is_left_out(node) {
                continue;
            }
            if let Some(known) = self.known {
                if !known.contains(&key.text.as_str()) {
                    self.unknown(&key.text, known);
                    continue;
                }
                // A field without a value is a field that was left out (Kubernetes drops it too).
                if matches!(node.value, Value::Null) {
                    continue;
                }
            }
            return Some((&key.text, node));
        }
    }
}

impl<'de> de::MapAccess<'de> for Fields<'de, '_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Stop> {
        self.value = self.next_entry();
        let Some((key, _)) = self.value else { return Ok(None) };
        seed.deserialize(de::value::BorrowedStrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Stop> {
        let (key, node) = self.value.take().ok_or_else(|| <Stop as de::Error>::custom("a value without a key"))?;
        let reader = self.reader;
        let inner = Reader { node, trail: Trail::Key(&reader.trail, key), notes: reader.notes };
        seed.deserialize(inner).map_err(|stop| inner.place(stop))
    }
}

/// The word that was probably meant.
pub(crate) fn closest<'w>(written: &str, words: &[&'w str]) -> Option<&'w str> {
    let bare = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    let wanted = bare(written);
    words
        .iter()
        .map(|word| (strsim::normalized_damerau_levenshtein(&wanted, &bare(word)), *word))
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, word)| word)
}

/// `a`, `b` and `c`
pub(crate) fn listed(words: &[&str]) -> String {
    match words {
        [] => "none".to_owned(),
        [only] => format!("`{only}`"),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(|word| format!("`{word}`")).collect();
            format!("{} and `{last}`", first.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{DestinationRule, VirtualService, yaml};

    fn faults<T: for<'a> Deserialize<'a>>(text: &str) -> Vec<(String, String, Option<String>)> {
        let tree = yaml::parse(text).unwrap();
        let (_, faults) = read::<T>(&tree, &Path::root().key("spec"));
        faults.into_iter().map(|fault| (fault.path, fault.message, fault.help)).collect()
    }

    fn paths<T: for<'a> Deserialize<'a>>(text: &str) -> Vec<String> {
        faults::<T>(text).into_iter().map(|(path, ..)| path).collect()
    }

    #[test]
    fn all_faults_of_a_document_are_found() {
        let text = "
hosts: reviews
htttp: []
http:
- route:
  - destination: {host: 5}
    weight: ninety
  retries: {attempts: 1, per_try_timeout: 2s}
- timeout: 5
  macth: []
- retries: {attempts: 99999999999}
tcp: {}
";
        let mut found = paths::<VirtualService>(text);
        found.sort();
        assert_eq!(
            found,
            [
                "spec.hosts",
                "spec.http[0].retries.per_try_timeout",
                "spec.http[0].route[0].destination.host",
                "spec.http[0].route[0].weight",
                "spec.http[1].macth",
                "spec.http[1].timeout",
                "spec.http[2].retries.attempts",
                "spec.htttp",
                "spec.tcp",
            ]
        );
    }

    #[test]
    fn the_rest_of_a_document_is_read_all_the_same() {
        let tree = yaml::parse("{hosts: [a, 5, b], http: [{name: x, timeout: 1}]}").unwrap();
        let (rule, faults) = read::<VirtualService>(&tree, &Path::root());
        let rule = rule.unwrap();
        assert_eq!(rule.hosts, ["a", "b"]);
        assert_eq!(rule.http[0].name.as_deref(), Some("x"));
        assert_eq!(faults.len(), 2);
    }

    #[test]
    fn a_slip_of_the_pen_is_answered_with_what_was_meant() {
        for (text, help) in [
            ("htp: []", "did you mean `http`?"),
            ("export_to: []", "did you mean `exportTo`?"),
            ("http: [{retires: {}}]", "did you mean `retries`?"),
            ("http: [{timeOut: 1s}]", "did you mean `timeout`?"),
            ("http: [{redirect: {derivePort: FROM_REQUEST}}]", "did you mean `FROM_REQUEST_PORT`?"),
            ("http: [{corsPolicy: {unmatchedPreflights: x}}]", "it is one of `UNSPECIFIED`, `FORWARD` and `IGNORE`"),
            ("hosts: [1]", "put it into quotes"),
            ("http: [{mirrorPercent: '5'}]", "write it without quotes"),
            ("http: {}", "begin each entry with `- `"),
        ] {
            let found = faults::<VirtualService>(text);
            assert_eq!(found.first().and_then(|fault| fault.2.as_deref()), Some(help), "{text}: {found:?}");
        }
    }

    #[test]
    fn empty_values_are_values_left_out() {
        let tree = yaml::parse("{host: a, subsets:, trafficPolicy: {tls:, loadBalancer: {}}}").unwrap();
        let (rule, faults) = read::<DestinationRule>(&tree, &Path::root());
        assert!(faults.is_empty(), "{faults:?}");
        let policy = rule.unwrap().traffic_policy.unwrap();
        assert!(policy.tls.is_none() && policy.load_balancer.is_some());
    }

    #[test]
    fn a_condition_without_a_value_is_a_fault_and_not_presence() {
        let found = faults::<VirtualService>("http: [{match: [{headers: {x-user: }}]}]");
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, "spec.http[0].match[0].headers.x-user");
    }

    #[test]
    fn a_document_full_of_faults_ends() {
        let text = format!("hosts: [{}]", "1, ".repeat(10_000));
        assert!(faults::<VirtualService>(&text).len() <= MAX_FAULTS);
    }
}
