//! A text of several documents, split so that the pieces behind each other are the text.

use serde_json::Value;

/// A piece of a text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    /// Line at which it begins in the file, from 1.
    pub(super) line: usize,
    /// Its bytes.
    pub(super) text: String,
    /// What it says; `None`: a separator, comments, or nothing.
    pub(super) value: Option<Value>,
}

/// Splits at lines with `---` and `...`, and reads what is between. An error has a line, from 1, and the parser's words.
pub(super) fn split(text: &str) -> Result<Vec<Piece>, (usize, String)> {
    let mut pieces = Vec::new();
    let mut body = String::new();
    let mut begun = 1;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if is_separator(line) {
            push(&mut pieces, std::mem::take(&mut body), begun)?;
            pieces.push(Piece { line: index + 1, text: line.to_owned(), value: None });
            begun = index + 2;
        } else {
            body.push_str(line);
        }
    }
    push(&mut pieces, body, begun)?;
    Ok(pieces)
}

/// Puts a piece behind a text; two documents of two files get a separator, and a file without a last line end gets one.
pub(super) fn join(text: &mut String, piece: &str) {
    if piece.is_empty() {
        return;
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(piece);
}

/// Reads one document; anchors and merge keys are resolved, as Kubernetes' tools do.
pub(super) fn parse(text: &str) -> Result<Value, (usize, String)> {
    let told = |error: &serde_yaml::Error| {
        let line = error.location().map_or(0, |place| place.line().saturating_sub(1));
        (line, error.to_string())
    };
    let mut value: serde_yaml::Value = serde_yaml::from_str(text).map_err(|error| told(&error))?;
    value.apply_merge().map_err(|error| told(&error))?;
    let mut value = serde_json::to_value(value).map_err(|error| (0, error.to_string()))?;
    octals(&mut value);
    Ok(value)
}

fn push(pieces: &mut Vec<Piece>, text: String, line: usize) -> Result<(), (usize, String)> {
    if text.is_empty() {
        return Ok(());
    }
    let says_nothing = |line: &str| {
        let line = line.trim_start_matches('\u{feff}').trim();
        line.is_empty() || line.starts_with('#') || line.starts_with('%')
    };
    let value = match text.lines().all(says_nothing) {
        true => None,
        false => Some(parse(&text).map_err(|(inside, reason)| (line + inside, reason))?),
    };
    pieces.push(Piece { line, text, value: value.filter(|value| !value.is_null()) });
    Ok(())
}

/// `---` or `...` alone, or with a comment behind. A document that begins in the line of its `---` is left to the parser,
/// which knows what that means.
fn is_separator(line: &str) -> bool {
    let rest = line.strip_prefix("---").or_else(|| line.strip_prefix("..."));
    rest.is_some_and(|rest| rest.trim().is_empty() || (rest.starts_with([' ', '\t']) && rest.trim().starts_with('#')))
}

/// File modes are numbers. Kubernetes reads `0644` as YAML 1.1 does, in octal; the parser takes it for a text, and as a text
/// it would be written where a line has to be written anew.
fn octals(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            // A mode stands beside the path of its file.
            let is_file = entries.contains_key("path");
            for (key, value) in entries {
                let is_mode = key == "defaultMode" || (key == "mode" && is_file);
                let octal = value.as_str().and_then(|text| u32::from_str_radix(text.strip_prefix('0')?, 8).ok());
                match octal.filter(|_| is_mode) {
                    Some(mode) => *value = Value::from(mode),
                    None => octals(value),
                }
            }
        }
        Value::Array(entries) => entries.iter_mut().for_each(octals),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
