use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use leno_config::ir::{FileLine, FilePlace, Plain};
use proptest::prelude::*;

use super::*;
use crate::error::{Flag, Flags};

/// Every header is `text`; what else there is, is always the same.
struct Hostile {
    text: Vec<u8>,
    origin: Origin,
}

impl Hostile {
    fn new(text: &[u8]) -> Self {
        let file = String::from_utf8_lossy(text).into_owned().into();
        let place = FilePlace(Some(Arc::new(FileLine { file, line: 7 })));
        let name = String::from_utf8_lossy(text).into_owned();
        let (kind, namespace) = ("VirtualService".to_owned(), "default".to_owned());
        Self { text: text.to_vec(), origin: Origin { kind, namespace, name, index: 1, place } }
    }
}

impl Tells for Hostile {
    fn value<'s>(&'s self, operator: &'s Operator) -> Value<'s> {
        match operator {
            Operator::RequestHeader(header) if header.name.as_str() == "missing" => Value::Missing,
            Operator::RequestHeader(header) if header.name.as_str() == "cookie" => Value::Redacted,
            Operator::RequestHeader(_) => Value::Text(Cow::Borrowed(&self.text)),
            Operator::ResponseHeader(_) | Operator::ResponseTrailer(_) => Value::BeforeQuery(&self.text),
            Operator::StartTime(format) | Operator::EmitTime(format) => {
                Value::Time(UNIX_EPOCH + Duration::from_millis(1_704_067_199_123), format)
            }
            Operator::RouteMetadata(_) => Value::Rule(&self.origin),
            Operator::Plain(Plain::ResponseFlags) => Value::Flags(Flags::from(Flag::UF)),
            Operator::Plain(Plain::ResponseCode | Plain::BytesSent) => Value::Number(503),
            Operator::Plain(Plain::Protocol) => Value::Word("HTTP/1.1"),
            Operator::Address(..) => Value::Socket(([127, 0, 0, 1], 80).into()),
            Operator::GrpcStatus(_) | Operator::Plain(_) | Operator::Unknown(_) => Value::Missing,
        }
    }
}

fn text(format: &str) -> LogFormat {
    LogFormat::Text(LogText::parse(format).expect("a format"))
}

fn json(members: &[(&str, &str)]) -> LogFormat {
    let member =
        |(key, text): &(&str, &str)| ((*key).to_owned(), LogValue::Text(LogText::parse(text).expect("a format")));
    LogFormat::json(members.iter().map(member).collect()).expect("an object")
}

fn written(format: &LogFormat, text: &[u8]) -> String {
    let mut out = b"before\n".to_vec();
    line(&mut out, format, &Hostile::new(text));
    let whole = String::from_utf8(out).expect("a line is text");
    whole.strip_prefix("before\n").expect("what stood there stays").to_owned()
}

#[test]
fn operators_have_the_types_that_envoy_gives_them() {
    let format = json(&[
        ("code", "%RESPONSE_CODE%"),
        ("both", "%RESPONSE_CODE% %RESPONSE_FLAGS%"),
        ("flags", "%RESPONSE_FLAGS%"),
        ("none", "%REQ(missing)%"),
        ("none_inside", "a %REQ(missing)% b"),
        ("cookie", "%REQ(cookie)%"),
        ("agent", "%REQ(user-agent)%"),
        ("short", "%REQ(user-agent):3%"),
        ("other", "%REQ(missing?user-agent)%"),
        ("rule", "%METADATA(ROUTE:leno.mesh)%"),
        ("start", "%START_TIME%"),
        ("constant", "a \"b\""),
    ]);
    let line = written(&format, b"agent\"1");
    let read: BTreeMap<String, serde_json::Value> = serde_json::from_str(&line).expect(&line);
    let expected = serde_json::json!({
        "code": 503, "both": "503 UF", "flags": "UF", "none": null, "none_inside": "a - b", "cookie": "[redacted]",
        "agent": "agent\"1", "short": "age", "start": "2023-12-31T23:59:59.123Z", "constant": "a \"b\"",
        "rule": {"kind": "VirtualService", "namespace": "default", "name": "agent\"1", "index": 1, "file": "agent\"1", "line": 7},
    });
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(read.get(key), Some(value), "{key}: {line}");
    }
}

#[test]
fn a_text_shows_what_is_missing_and_quotes_what_is_there() {
    let line = written(
        &text("[%START_TIME(%s)%] \"%REQ(a)% %REQ(missing)%\" %RESPONSE_CODE% %METADATA(ROUTE:leno.mesh)%"),
        b"x\"y\n",
    );
    assert_eq!(line, "[1704067199] \"x\\\"y\\n -\" 503 VirtualService default/x\\\"y\\n[1] (x\\\"y\\n:7)\n");
}

#[test]
fn a_line_that_would_be_too_long_is_cut_and_says_so() {
    let long = vec![b'x'; 60_000];
    for format in [text("%REQ(a)% %REQ(b)% %REQ(c)%"), json(&[("a", "%REQ(a)%"), ("b", "%REQ(b)%"), ("c", "%REQ(c)%")])]
    {
        let line = written(&format, &long);
        assert!(line.len() <= LONGEST_LINE && line.contains(CUT), "{} bytes", line.len());
    }
    // One value alone has more room.
    assert!(written(&text("%REQ(a)%"), &long).len() > 8 * 1024);
    // A format that is itself too long.
    let many = "%REQ(a)%ü".repeat(400);
    let line = written(&text(&many), &long);
    assert!(line.len() <= LONGEST_LINE && line.ends_with('\n'), "{} bytes", line.len());
    let keys: Vec<(String, String)> =
        (0..200).map(|key| (format!("{key}{}", "k".repeat(100)), "%REQ(a)%".to_owned())).collect();
    let keys: Vec<(&str, &str)> = keys.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect();
    assert_eq!(written(&json(&keys), &long), "{\"cut\":true}\n");
}

proptest! {
    #[test]
    fn a_line_is_one_line_and_json_is_json_whatever_comes_in(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"\"\\\n\r\t{}%\x1b\x9b\xc2\xe2".to_vec())], 0..300),
        repeat in 1..200_usize,
    ) {
        let bytes = bytes.repeat(repeat);
        let texts = text("%REQ(a)% \"%RESP(b)%\" %REQ(a):5% %METADATA(ROUTE:leno.mesh)%");
        let members = [("a", "%REQ(a)%"), ("b", "x%RESP(b)%"), ("c", "%REQ(a):5%"), ("r", "%METADATA(ROUTE:leno.mesh)%")];
        for format in [texts, json(&members), LogFormat::default_text()] {
            let line = written(&format, &bytes);
            prop_assert!(line.len() <= LONGEST_LINE);
            let (last, before) = (line.chars().last(), line.trim_end_matches('\n'));
            prop_assert_eq!(last, Some('\n'));
            prop_assert!(line.len() - before.len() == 1 && !before.chars().any(char::is_control));
            if let LogFormat::Json(_) = format {
                let read: Result<serde_json::Value, _> = serde_json::from_str(before);
                prop_assert!(read.is_ok(), "{}", before);
            }
        }
    }
}
