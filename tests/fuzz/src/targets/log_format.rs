//! Formats of access logs and what fills them. Byte 0 chooses who wrote the format and its shape; a NUL parts the format from
//! what a stranger's headers say.

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

use leno_config::ir::{LogFormat, LogText, LogValue, Operator, Origin, Plain};
use leno_proxy::telemetry::log::facts::{Tells, Value};
use leno_proxy::telemetry::log::render::{self, LONGEST_LINE};

use crate::Target;
use crate::input::Input;

pub(crate) const TARGET: Target = Target {
    name: "log_format",
    property: "a format has one text, and a line is one line of text without control characters and valid JSON where it is \
               JSON, whatever strangers send",
    check,
    words: &[
        "%REQ(a)%",
        "%REQ(a?b):10%",
        "%RESP(b)%",
        "%TRAILER(grpc-status)%",
        "%START_TIME(%s.%3f)%",
        "%START_TIME%",
        "%RESPONSE_CODE%",
        "%METADATA(ROUTE:leno.mesh)%",
        "%FILTER_STATE(x)%",
        "%PROTOCOL%",
        "%GRPC_STATUS%",
        "%%",
        "\u{0}",
        "\u{1b}[31m",
        "\r\n",
        "\"",
        "\\",
    ],
};

fn check(data: &[u8]) {
    let mut input = Input(data);
    let choice = input.byte();
    let end = input.0.iter().position(|byte| *byte == 0).unwrap_or(input.0.len());
    let (format, value) = input.0.split_at(end);
    let Ok(format) = std::str::from_utf8(format) else { return };
    let read = if choice & 1 == 0 { LogText::parse(format) } else { LogText::tolerant(format) };
    let Ok(text) = read else { return };
    has_one_text(&text, choice & 1 == 0);
    let stranger = Stranger::new(value.get(1..).unwrap_or_default());
    let shape = match choice & 2 == 0 {
        true => LogFormat::Text(text),
        false => {
            let list = LogValue::List(vec![LogValue::Text(text.clone()), LogValue::Null]);
            let members = [("text".to_owned(), LogValue::Text(text)), (stranger.origin.name.clone(), list)];
            LogFormat::json(members.into()).expect("two keys are not too many")
        }
    };
    is_one_line(&shape, &stranger);
}

fn has_one_text(text: &LogText, strict: bool) {
    let written = text.to_string();
    let again = LogText::tolerant(&written).unwrap_or_else(|error| panic!("{written}: {error}"));
    assert_eq!(&again, text, "{written}");
    if strict {
        assert_eq!(LogText::parse(&written).as_ref(), Ok(text), "{written}");
    }
}

fn is_one_line(format: &LogFormat, stranger: &Stranger) {
    let mut out = b"before\n".to_vec();
    render::line(&mut out, format, stranger);
    let whole = String::from_utf8(out).expect("a line is text");
    let line = whole.strip_prefix("before\n").expect("what stood there stays");
    assert!(line.len() <= LONGEST_LINE, "{} bytes", line.len());
    let line = line.strip_suffix('\n').expect("a line ends");
    assert!(!line.chars().any(char::is_control), "{line:?}");
    if let LogFormat::Json(_) = format {
        let read: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(read.is_ok_and(|value| value.is_object()), "{line}");
    }
}

/// Whose headers, and names of rules, are all the same text.
struct Stranger {
    text: Vec<u8>,
    origin: Origin,
}

impl Stranger {
    fn new(text: &[u8]) -> Self {
        let name = String::from_utf8_lossy(text).into_owned();
        let (kind, namespace) = ("VirtualService".to_owned(), "default".to_owned());
        let origin = Origin { kind, namespace, name, index: 1, place: Default::default() };
        Self { text: text.to_vec(), origin }
    }
}

impl Tells for Stranger {
    fn value<'s>(&'s self, operator: &'s Operator) -> Value<'s> {
        match operator {
            Operator::RequestHeader(_) => Value::Text(Cow::Borrowed(&self.text)),
            Operator::ResponseHeader(_) | Operator::ResponseTrailer(_) => Value::BeforeQuery(&self.text),
            Operator::StartTime(format) | Operator::EmitTime(format) => {
                Value::Time(UNIX_EPOCH + Duration::from_millis(1_704_067_199_123), format)
            }
            Operator::RouteMetadata(_) => Value::Rule(&self.origin),
            Operator::Plain(Plain::ResponseCode | Plain::BytesSent) => Value::Number(503),
            Operator::Plain(Plain::Protocol) => Value::Word("HTTP/1.1"),
            Operator::Address(..) => Value::Socket(([127, 0, 0, 1], 80).into()),
            Operator::GrpcStatus(_) => Value::Redacted,
            Operator::Plain(_) | Operator::Unknown(_) => Value::Missing,
        }
    }
}
