//! HTTP/2 to HTTP/1.1. Lines are header fields, `NAME<TAB>VALUE`, pseudo headers among them; behind an empty line stands the
//! body. They are encoded here without any check, as an attacker's own client would.

use crate::Target;
use crate::targets::sanitize::is_one;
use crate::wire::{Spoken, requests};

/// As any client sends it: nothing is limited, nothing pushed.
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Largest frame that may be sent without asking.
const LONGEST_FRAME: usize = 16 * 1024;

pub(crate) const TARGET: Target = Target {
    name: "http2_to_http1",
    property: "an HTTP/2 request becomes at most one HTTP/1.1 request, with nothing in it that was not a field or the body",
    check,
    words: &[
        ":method\tGET\n",
        ":path\t/\n",
        ":scheme\thttp\n",
        ":authority\ta\n",
        "host\ta\n",
        "cookie\ta=1\n",
        "te\ttrailers\n",
        "transfer-encoding\tchunked\n",
        "content-length\t3\n",
        "connection\tclose\n",
        ":protocol\twebsocket\n",
        "\r\n",
        "\n\n",
        "\u{0}",
    ],
};

fn check(data: &[u8]) {
    let (fields, body) = parse(data);
    let bytes = encode(&fields, body);
    let requests = requests(&bytes, Spoken::Http2);
    assert!(requests.len() <= 1, "{} requests of one", requests.len());
    for request in requests.iter().flatten() {
        is_one(request);
        let Ok(Some(message)) = &request.read else { continue };
        assert_eq!(message.body, body, "the body is what was sent as one");
        for (name, value) in &message.fields {
            let known = match name.as_str() {
                "host" => sent(&fields, ":authority").chain(sent(&fields, "host")).any(|one| one == value),
                "cookie" => *value == sent(&fields, "cookie").collect::<Vec<_>>().join(b"; ".as_slice()),
                "content-length" => value.as_slice() == body.len().to_string().as_bytes(),
                "transfer-encoding" => value == b"chunked",
                "te" => value == b"trailers",
                name => sent(&fields, name).any(|one| one.trim_ascii() == value),
            };
            assert!(known, "{name}: {} was never sent", String::from_utf8_lossy(value));
        }
    }
}

type Fields<'a> = Vec<(&'a [u8], &'a [u8])>;

/// The values under a name.
fn sent<'a>(fields: &'a Fields<'_>, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    fields.iter().filter(move |(field, _)| *field == name.as_bytes()).map(|(_, value)| *value)
}

fn parse(data: &[u8]) -> (Fields<'_>, &[u8]) {
    let end = data.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = end.map_or((data, &[][..]), |end| data.split_at(end));
    let fields = head.split(|byte| *byte == b'\n').filter_map(|line| {
        let tab = line.iter().position(|byte| *byte == b'\t')?;
        let (name, value) = line.split_at(tab);
        Some((name, value.get(1..).unwrap_or_default()))
    });
    (fields.collect(), body.get(2..).unwrap_or_default())
}

/// One request on stream 1, its fields as literals (RFC 7541 §6.2.2).
fn encode(fields: &Fields<'_>, body: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    let mut bytes = OPENING.to_vec();
    let ends = if body.is_empty() { END_STREAM } else { 0 };
    frame(&mut bytes, 1, END_HEADERS | ends, block.get(..LONGEST_FRAME).unwrap_or(&block));
    let mut chunks = body.chunks(LONGEST_FRAME).peekable();
    while let Some(chunk) = chunks.next() {
        frame(&mut bytes, 0, if chunks.peek().is_none() { END_STREAM } else { 0 }, chunk);
    }
    bytes
}

/// A length of 7 bits and more, and bytes (RFC 7541 §5.1, §5.2).
fn text(block: &mut Vec<u8>, bytes: &[u8]) {
    let mut length = bytes.len();
    if length < 127 {
        block.push(u8::try_from(length).unwrap_or_default());
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push(u8::try_from(length % 128).unwrap_or_default() | 128);
            length /= 128;
        }
        block.push(u8::try_from(length).unwrap_or_default());
    }
    block.extend_from_slice(bytes);
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    bytes.extend_from_slice(length.get(1..).unwrap_or_default());
    bytes.extend_from_slice(&[kind, flags, 0, 0, 0, 1]);
    bytes.extend_from_slice(payload);
}
