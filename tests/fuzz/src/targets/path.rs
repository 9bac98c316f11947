//! Path normalisation: byte 0 chooses what is asked for, the rest is the target of a request.

use http::request::Parts;
use http::{Request, Uri};
use leno_config::ir::PathNormalization;
use leno_proxy::sanitize;

use crate::Target;
use crate::input::Input;
use crate::wire::in_clear_text;

pub(crate) const TARGET: Target = Target {
    name: "path",
    property: "a canonical path never leaves the root, is a fixed point, and is what RFC 3986 makes of it segment by segment",
    check,
    words: &["/", "..", "../", "./", "%2e", "%2E%2e", "%2f", "%5c", "%00", "%41", "//", "?", ";", "\\", "#", "..;/"],
};

fn check(data: &[u8]) {
    let mut input = Input(data);
    let choice = input.byte();
    let mut wanted = PathNormalization::BASE;
    wanted.dots = choice & 1 == 0;
    wanted.merge_slashes = choice & 2 != 0;
    let Ok(uri) = Uri::try_from(input.0) else { return };
    let Some(before) = uri.path_and_query().cloned() else { return };
    if !before.path().starts_with('/') {
        return;
    }
    let query = before.query().map(str::to_owned);
    let Ok(target) = Uri::try_from(before.as_str()) else { return };
    let mut parts = head(target);
    let taken = sanitize::request(&mut parts, in_clear_text(wanted));
    let expected = model(before.path(), wanted);
    let Ok(_) = taken else {
        assert_eq!(expected, None, "{before}: refused without a reason");
        return;
    };
    let path = parts.uri.path().to_owned();
    if wanted.dots {
        assert_eq!(Some(path.as_str()), expected.as_deref(), "{before}");
        assert!(path.split('/').all(|segment| !matches!(segment, "." | "..")), "{path}");
    }
    assert!(path.starts_with('/'), "{path}");
    assert!(!path.contains(['\\', '#']) || !wanted.dots, "{path}");
    assert!(!wanted.merge_slashes || !path.contains("//"), "{path}");
    assert_eq!(parts.uri.query(), query.as_deref(), "the query is the app's business");
    let mut again = head(parts.uri.clone());
    sanitize::request(&mut again, in_clear_text(wanted)).expect("what is canonical is taken");
    assert_eq!(again.uri, parts.uri);
}

fn head(uri: Uri) -> Parts {
    let request = Request::builder().uri(uri).header("host", "a").body(()).expect("a request");
    request.into_parts().0
}

/// What RFC 3986 §6.2.2 makes of a path: escapes first, then the segments one by one. `None`: it is to be refused.
fn model(path: &str, wanted: PathNormalization) -> Option<String> {
    let mut plain = String::new();
    let mut rest = path;
    while let Some(letter) = rest.chars().next() {
        let (first, after) = rest.split_at(letter.len_utf8());
        rest = after;
        match first {
            "%" => {
                let digits = rest.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
                let value = u8::from_str_radix(digits, 16).ok()?;
                rest = rest.get(2..).unwrap_or_default();
                match char::from(value) {
                    '\0' => return None,
                    plain_one @ ('a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' | '_' | '~') => plain.push(plain_one),
                    _ => plain.push_str(&format!("%{value:02X}")),
                }
            }
            "\\" | "#" | "\x7f" => return None,
            other => plain.push_str(other),
        }
    }
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = plain.split('/').skip(1).collect();
    for (at, segment) in segments.iter().enumerate() {
        let is_last = at + 1 == segments.len();
        match *segment {
            "." | ".." => {
                if *segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            "" if wanted.merge_slashes && !is_last => {}
            other => kept.push(other),
        }
    }
    Some(format!("/{}", kept.join("/")))
}
