//! One form of a path: what routing sees is what policy sees is what is forwarded.
//!
//! RFC 3986 §6.2.2, which is Istio's BASE: dot segments are resolved, what need not be escaped is not, escapes are in
//! upper case; slashes are merged where the listener says so. What could be read in two ways is refused or, where an app
//! may want it, told to whoever decides ([`Separators`]).

use std::borrow::Cow;

use leno_config::ir::{PathNormalization, Separators};

use crate::error::ProxyError;

use super::bad;

/// The canonical form of a path, borrowed when there is nothing to do, which is nearly always; and what it holds that
/// some servers take for a separator.
pub(super) fn canonical(path: &str, wanted: PathNormalization) -> Result<(Cow<'_, str>, Separators), ProxyError> {
    let bytes = path.as_bytes();
    let Found { escaped, dotted, doubled, semicolon } = look(bytes)?;
    let mut held = if semicolon { Separators::SEMICOLON } else { Separators::NONE };
    let decoded: Cow<'_, [u8]> = if wanted.dots && escaped { Cow::Owned(decode(bytes)?) } else { Cow::Borrowed(bytes) };
    if escaped {
        held = held.and(escaped_separators(&decoded));
    }
    let resolve = wanted.dots && (dotted || escaped);
    if !(resolve || wanted.merge_slashes && doubled) {
        return Ok((Cow::Borrowed(path), held));
    }
    let segments = segments(&decoded, wanted);
    let mut canonical = Vec::with_capacity(decoded.len());
    for segment in &segments {
        canonical.push(b'/');
        canonical.extend_from_slice(segment);
    }
    if canonical.is_empty() {
        canonical.push(b'/');
    }
    String::from_utf8(canonical).map(|path| (Cow::Owned(path), held)).map_err(|_| bad("the path is not text"))
}

/// What there is to do.
#[derive(Default)]
struct Found {
    escaped: bool,
    dotted: bool,
    doubled: bool,
    semicolon: bool,
}

/// One walk. A segment that begins with a dot need not be `.` or `..`, but it is rare.
fn look(path: &[u8]) -> Result<Found, ProxyError> {
    let mut found = Found::default();
    let mut before = 0;
    for &byte in path {
        match byte {
            b'.' => found.dotted |= before == b'/',
            b'/' => found.doubled |= before == b'/',
            b'%' => found.escaped = true,
            b';' => found.semicolon = true,
            b'\\' => return Err(bad("the path has a backslash, which some servers take for a slash")),
            0..=0x1f | 0x7f => return Err(bad("the path has a control character")),
            _ => {}
        }
        before = byte;
    }
    Ok(found)
}

/// The segments that are left.
fn segments(path: &[u8], wanted: PathNormalization) -> Vec<&[u8]> {
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut rest = path.strip_prefix(b"/").unwrap_or(path).split(|byte| *byte == b'/').peekable();
    while let Some(segment) = rest.next() {
        let last = rest.peek().is_none();
        match segment {
            b"." if wanted.dots => {
                if last {
                    segments.push(b"");
                }
            }
            b".." if wanted.dots => {
                segments.pop();
                if last {
                    segments.push(b"");
                }
            }
            b"" if wanted.merge_slashes && !last => {}
            other => segments.push(other),
        }
    }
    segments
}

/// `%41` is `A`; what is not unreserved stays escaped. Refuses escapes that are none, and NUL.
fn decode(path: &[u8]) -> Result<Vec<u8>, ProxyError> {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (high, low) = (bytes.next().and_then(hex), bytes.next().and_then(hex));
        let (Some(high), Some(low)) = (high, low) else {
            return Err(bad("the path has a `%` without two hexadecimal digits behind it"));
        };
        match high << 4 | low {
            0 => return Err(bad("the path has an escaped NUL")),
            plain if plain.is_ascii_alphanumeric() || matches!(plain, b'-' | b'.' | b'_' | b'~') => out.push(plain),
            _ => out.extend_from_slice(&[b'%', digit(high), digit(low)]),
        }
    }
    Ok(out)
}

fn escaped_separators(path: &[u8]) -> Separators {
    path.windows(3).fold(Separators::NONE, |held, three| match three {
        [b'%', b'2', b'F' | b'f'] => held.and(Separators::ESCAPED_SLASH),
        [b'%', b'5', b'C' | b'c'] => held.and(Separators::ESCAPED_BACKSLASH),
        [b'%', b'3', b'B' | b'b'] => held.and(Separators::SEMICOLON),
        _ => held,
    })
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'A' + value - 10 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_meaning() {
        let merge = PathNormalization { dots: true, merge_slashes: true };
        let rows = [
            ("/plain", PathNormalization::BASE, Some("/plain")),
            ("/a/./b", PathNormalization::BASE, Some("/a/b")),
            ("/a/../b", PathNormalization::BASE, Some("/b")),
            ("/rw/../echo", PathNormalization::BASE, Some("/echo")),
            ("/../../x", PathNormalization::BASE, Some("/x")),
            ("/a/b/..", PathNormalization::BASE, Some("/a/")),
            ("/a/.", PathNormalization::BASE, Some("/a/")),
            ("/..", PathNormalization::BASE, Some("/")),
            ("/a/%2e%2E/b", PathNormalization::BASE, Some("/b")),
            ("/%41%2fb", PathNormalization::BASE, Some("/A%2Fb")),
            ("/a//b", PathNormalization::BASE, Some("/a//b")),
            ("/a//b", merge, Some("/a/b")),
            ("//a/", merge, Some("/a/")),
            ("/...", PathNormalization::BASE, Some("/...")),
            ("/a/.hidden", PathNormalization::BASE, Some("/a/.hidden")),
            ("/a..;/b", PathNormalization::BASE, Some("/a..;/b")),
            ("/%zz", PathNormalization::BASE, None),
            ("/%4", PathNormalization::BASE, None),
            ("/%00", PathNormalization::BASE, None),
            ("/a\\b", PathNormalization::BASE, None),
            ("/a\u{7f}b", PathNormalization::BASE, None),
        ];
        for (given, wanted, expected) in rows {
            let found = canonical(given, wanted).ok().map(|(path, _)| path);
            assert_eq!(found.as_deref(), expected, "{given}");
            if let Some(once) = found {
                let twice = canonical(&once, wanted).ok().map(|(path, _)| path);
                assert_eq!(twice.as_deref(), expected, "canonical is a fixed point");
            }
        }
    }

    #[test]
    fn separators_are_found_however_they_are_written() {
        let raw = PathNormalization { dots: false, merge_slashes: false };
        let rows = [
            ("/a", "", PathNormalization::BASE),
            ("/a%2fb%2Fc", "%2f", PathNormalization::BASE),
            ("/a%5Cb", "%5c", PathNormalization::BASE),
            ("/a;b", ";", PathNormalization::BASE),
            ("/a%3bb", ";", PathNormalization::BASE),
            ("/..;/%5c%2f", "%2f %5c ;", PathNormalization::BASE),
            ("/%252f", "", PathNormalization::BASE),
            ("/a%2fb;", "%2f ;", raw),
        ];
        for (path, expected, wanted) in rows {
            let (_, held) = canonical(path, wanted).expect(path);
            assert_eq!(held.to_string(), expected, "{path}");
        }
    }
}
