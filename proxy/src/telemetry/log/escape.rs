//! Bytes from the wire, as part of a line.
//!
//! A line is one line, and shows what is there: whoever may choose a header must not be able to end the line, to close a
//! quotation mark, to colour a terminal or to turn the direction of writing. Control characters (C0, DEL, C1), the
//! separators of lines and paragraphs, and what steers bidirectional text are written by their number; bytes that are no
//! UTF-8 too.

use std::io::Write as _;

/// Where the bytes will stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// In a text, mostly between quotation marks.
    Text,
    /// In a string of JSON.
    Json,
}

/// What stands behind a value that was too long.
pub(super) const CUT: &str = "[cut]";

/// Writes at most `longest` bytes of `bytes`, escaped; returns whether there were more. Never splits a character.
pub(super) fn escape(out: &mut Vec<u8>, bytes: &[u8], style: Style, longest: usize) -> bool {
    // Nearly always.
    if bytes.len() <= longest && bytes.iter().all(|byte| is_plain(*byte)) {
        out.extend_from_slice(bytes);
        return false;
    }
    escape_some(out, bytes, style, longest)
}

/// Whether a byte stands for itself, wherever it is.
pub(super) fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

#[cold]
fn escape_some(out: &mut Vec<u8>, bytes: &[u8], style: Style, longest: usize) -> bool {
    let mut left = longest;
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid();
        let fits = valid
            .char_indices()
            .map(|(at, one)| at.saturating_add(one.len_utf8()))
            .take_while(|end| *end <= left)
            .last();
        let end = if valid.len() <= left { valid.len() } else { fits.unwrap_or(0) };
        text(out, valid.get(..end).unwrap_or_default(), style);
        if end < valid.len() {
            return true;
        }
        left = left.saturating_sub(end);
        if chunk.invalid().len() > left {
            return true;
        }
        left = left.saturating_sub(chunk.invalid().len());
        invalid(out, chunk.invalid(), style);
    }
    false
}

/// What is plain is copied as a whole.
fn text(out: &mut Vec<u8>, text: &str, style: Style) {
    let mut rest = text;
    while let Some(at) = rest.find(is_special) {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain.as_bytes());
        let mut chars = special.chars();
        if let Some(one) = chars.next() {
            character(out, one, style);
        }
        rest = chars.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
}

fn is_special(one: char) -> bool {
    matches!(one,
        '"' | '\\'
        | '\u{0}'..='\u{1f}'
        | '\u{7f}'..='\u{9f}'
        | '\u{61c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}'
        | '\u{feff}')
}

fn character(out: &mut Vec<u8>, one: char, style: Style) {
    let short: &[u8] = match one {
        '"' => b"\\\"",
        '\\' => b"\\\\",
        '\n' => b"\\n",
        '\r' => b"\\r",
        '\t' => b"\\t",
        _ => b"",
    };
    if !short.is_empty() {
        out.extend_from_slice(short);
        return;
    }
    let code = u32::from(one);
    // Writing to a `Vec` does not fail.
    let _ = match style {
        Style::Text if code < 0x80 => write!(out, "\\x{code:02x}"),
        Style::Text => write!(out, "\\u{{{code:x}}}"),
        // All that is special is in the basic plane.
        Style::Json => write!(out, "\\u{code:04x}"),
    };
}

/// JSON has nothing for a byte that is no text: it becomes what every decoder makes of it.
fn invalid(out: &mut Vec<u8>, bytes: &[u8], style: Style) {
    match style {
        Style::Text => bytes.iter().for_each(|byte| drop(write!(out, "\\x{byte:02x}"))),
        Style::Json if bytes.is_empty() => {}
        Style::Json => out.extend_from_slice("\u{fffd}".as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_the_wire_ends_a_line_or_steers_a_terminal() {
        for (bytes, text, json) in [
            (&b"plain /path"[..], r"plain /path", r"plain /path"),
            (b"a\"b\\c", r#"a\"b\\c"#, r#"a\"b\\c"#),
            (b"a\nb\r\tc", r"a\nb\r\tc", r"a\nb\r\tc"),
            (b"\x1b[31mred\x07\0\x7f", r"\x1b[31mred\x07\x00\x7f", r"\u001b[31mred\u0007\u0000\u007f"),
            ("\u{9b}31m".as_bytes(), r"\u{9b}31m", r"\u009b31m"),
            (
                "\u{2028}\u{202e}\u{2066}\u{feff}".as_bytes(),
                r"\u{2028}\u{202e}\u{2066}\u{feff}",
                r"\u2028\u202e\u2066\ufeff",
            ),
            ("käse 🧀".as_bytes(), "käse 🧀", "käse 🧀"),
            (b"\xff\xfe a", r"\xff\xfe a", "\u{fffd}\u{fffd} a"),
            (b"\xe2\x82", r"\xe2\x82", "\u{fffd}"),
        ] {
            for (style, expected) in [(Style::Text, text), (Style::Json, json)] {
                let mut out = Vec::new();
                assert!(!escape(&mut out, bytes, style, 4096));
                assert_eq!(String::from_utf8(out).expect("text"), expected, "{style:?}");
            }
        }
    }

    #[test]
    fn a_value_is_cut_between_characters() {
        for (longest, expected, more) in
            [(0, "", true), (2, "k", true), (3, "kä", true), (4, "käs", true), (5, "käse", false)]
        {
            let mut out = Vec::new();
            assert_eq!(escape(&mut out, "käse".as_bytes(), Style::Text, longest), more, "{longest}");
            assert_eq!(String::from_utf8(out).expect("text"), expected);
        }
    }
}
