//! Lines: a format filled with facts.
//!
//! A line is written straight behind the lines that wait in the worker's buffer: nothing is made to be copied. It is at
//! most 16 KiB long. Where it would be longer, it is written again with shorter values, each marked where it was cut: a
//! caller with 60 KiB of headers gets a line like everybody else, and JSON stays JSON.

use std::fmt;
use std::io::Write as _;
use std::time::SystemTime;

use leno_config::ir::{LogFormat, LogObject, LogText, LogValue, Operator, Origin, Piece, TimeFormat};

use super::escape::{CUT, Style, escape, is_plain};
use super::facts::{Tells, Value};
use super::{decimal, time};
use crate::telemetry::redact::REDACTED;

/// Bytes of a line, its end included.
pub const LONGEST_LINE: usize = 16 * 1024;
/// Bytes of one value, from the first try to the last.
const LONGEST_VALUES: [usize; 4] = [8 * 1024, 1024, 128, 16];

/// Writes one line, with its end.
pub fn line(out: &mut Vec<u8>, format: &LogFormat, facts: &impl Tells) {
    let start = out.len();
    for longest in LONGEST_VALUES {
        out.truncate(start);
        let pen = Pen { facts, longest };
        match format {
            LogFormat::Text(text) => pen.text(out, text, Style::Text),
            LogFormat::Json(object) => pen.object(out, object),
        }
        if out.len().saturating_sub(start) < LONGEST_LINE {
            out.push(b'\n');
            return;
        }
    }
    // Only a format that is itself nearly as long as a line comes here.
    match format {
        LogFormat::Text(_) => cut(out, start),
        LogFormat::Json(_) => {
            out.truncate(start);
            out.extend_from_slice(b"{\"cut\":true}");
        }
    }
    out.push(b'\n');
}

/// Ends a text between two characters, and says so.
fn cut(out: &mut Vec<u8>, start: usize) {
    const KEPT: usize = LONGEST_LINE - 1 - CUT.len();
    let mut end = start.saturating_add(KEPT);
    // A byte that continues a character.
    while end > start && out.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
        end = end.saturating_sub(1);
    }
    out.truncate(end);
    out.extend_from_slice(CUT.as_bytes());
}

/// Facts, and how much of each is told.
struct Pen<'a, F> {
    facts: &'a F,
    longest: usize,
}

impl<F: Tells> Pen<'_, F> {
    /// A text; inside a string of JSON where the style says so.
    fn text(&self, out: &mut Vec<u8>, text: &LogText, style: Style) {
        for piece in text.pieces() {
            match piece {
                // A person wrote it, who may want a quotation mark; but a line stays one line.
                Piece::Literal(literal) if style == Style::Text && !literal.chars().any(char::is_control) => {
                    out.extend_from_slice(literal.as_bytes());
                }
                Piece::Literal(literal) => whole(out, literal.as_bytes(), style),
                Piece::Value(operator, length) => match self.facts.value(operator) {
                    Value::Missing => out.push(b'-'),
                    value => self.value(out, &value, style, self.longest_of(*length)),
                },
            }
        }
    }

    fn object(&self, out: &mut Vec<u8>, object: &LogObject) {
        out.push(b'{');
        for (index, (key, value)) in object.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            string(out, |out| whole(out, key.as_bytes(), Style::Json));
            out.push(b':');
            self.json(out, value);
        }
        out.push(b'}');
    }

    fn json(&self, out: &mut Vec<u8>, value: &LogValue) {
        match value {
            LogValue::Text(text) => match text.pieces() {
                [Piece::Value(operator, length)] => self.typed(out, operator, *length),
                _ => string(out, |out| self.text(out, text, Style::Json)),
            },
            LogValue::Number(number) if number.is_finite() => print(out, number),
            LogValue::Number(_) | LogValue::Null => out.extend_from_slice(b"null"),
            LogValue::Bool(value) => print(out, value),
            LogValue::Object(object) => self.object(out, object),
            LogValue::List(list) => {
                out.push(b'[');
                for (index, value) in list.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    self.json(out, value);
                }
                out.push(b']');
            }
        }
    }

    /// An operator by itself, in its own type (Envoy).
    fn typed(&self, out: &mut Vec<u8>, operator: &Operator, length: Option<u32>) {
        match self.facts.value(operator) {
            Value::Missing => out.extend_from_slice(b"null"),
            Value::Number(number) => decimal::number(out, number),
            Value::Rule(origin) => rule(out, origin),
            value => string(out, |out| self.value(out, &value, Style::Json, self.longest_of(length))),
        }
    }

    /// How much of a value is told, and whether it is said that there was more: not where the format asks for no more.
    fn longest_of(&self, length: Option<u32>) -> (usize, bool) {
        match length.and_then(|length| usize::try_from(length).ok()) {
            Some(length) if length <= self.longest => (length, false),
            Some(_) | None => (self.longest, true),
        }
    }

    fn value(&self, out: &mut Vec<u8>, value: &Value<'_>, style: Style, (longest, says_so): (usize, bool)) {
        // What is never cut, with a `return`, before what may be.
        let was_cut = match value {
            Value::Missing => return,
            Value::Number(number) => return decimal::number(out, *number),
            Value::Word(word) => return out.extend_from_slice(word.as_bytes()),
            Value::Redacted => return out.extend_from_slice(REDACTED.as_bytes()),
            Value::Socket(address) => return decimal::socket(out, *address),
            Value::Ip(address) => return decimal::ip(out, *address),
            Value::Flags(flags) => return print(out, flags),
            Value::Time(moment, format) => return self.time(out, *moment, format, style),
            Value::Text(bytes) => escape(out, bytes, style, longest),
            Value::Fields(fields) => {
                let mut left = longest;
                fields.iter().enumerate().any(|(index, field)| {
                    if index > 0 {
                        out.push(b',');
                    }
                    let was_cut = escape(out, field.as_bytes(), style, left);
                    left = left.saturating_sub(field.len()).saturating_sub(1);
                    was_cut
                })
            }
            Value::BeforeQuery(bytes) => {
                let was_cut = escape(out, bytes, style, longest);
                out.push(b'?');
                out.extend_from_slice(REDACTED.as_bytes());
                was_cut
            }
            Value::Rule(origin) => {
                let place = origin.place.0.as_deref();
                let place = place.map(|place| format!(" ({}:{})", place.file, place.line)).unwrap_or_default();
                escape(out, format!("{origin}{place}").as_bytes(), style, longest)
            }
        };
        if was_cut && says_so {
            out.extend_from_slice(CUT.as_bytes());
        }
    }

    /// Never cut either; but its literal parts are what a person wrote.
    fn time(&self, out: &mut Vec<u8>, moment: SystemTime, format: &TimeFormat, style: Style) {
        let start = out.len();
        time::write(out, moment, format);
        if !out.iter().skip(start).all(|byte| is_plain(*byte)) {
            let text = out.split_off(start);
            whole(out, &text, style);
        }
    }
}

/// As `leno explain -o json` has it, and as the metadata of the route.
fn rule(out: &mut Vec<u8>, origin: &Origin) {
    let member = |out: &mut Vec<u8>, key: &str, value: &str| {
        out.extend_from_slice(key.as_bytes());
        string(out, |out| whole(out, value.as_bytes(), Style::Json));
    };
    let place = origin.place.0.as_deref();
    out.push(b'{');
    if let Some(place) = place {
        member(out, "\"file\":", &place.file);
        out.push(b',');
    }
    out.extend_from_slice(b"\"index\":");
    decimal::number(out, origin.index.into());
    member(out, ",\"kind\":", &origin.kind);
    if let Some(place) = place {
        out.extend_from_slice(b",\"line\":");
        decimal::number(out, place.line.into());
    }
    member(out, ",\"name\":", &origin.name);
    member(out, ",\"namespace\":", &origin.namespace);
    out.push(b'}');
}

fn string(out: &mut Vec<u8>, contents: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    contents(out);
    out.push(b'"');
}

/// What is never cut.
fn whole(out: &mut Vec<u8>, bytes: &[u8], style: Style) {
    let _ = escape(out, bytes, style, usize::MAX);
}

/// What holds nothing that would have to be escaped.
fn print(out: &mut Vec<u8>, value: impl fmt::Display) {
    // Writing to a `Vec` does not fail.
    let _ = write!(out, "{value}");
}

#[cfg(test)]
mod tests;
