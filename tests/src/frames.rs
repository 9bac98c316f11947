//! Frames of HTTP/2 made by hand: what no library would send.

/// What a connection begins with (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub const DATA: u8 = 0;
/// Header fields.
pub const HEADERS: u8 = 1;
/// Priorities, which nobody uses any more.
pub const PRIORITY: u8 = 2;
/// The end of a stream.
pub const RST_STREAM: u8 = 3;
/// What the sender allows.
pub const SETTINGS: u8 = 4;
/// Is there anybody?
pub const PING: u8 = 6;
/// The end of a connection.
pub const GOAWAY: u8 = 7;
/// Room for more.
pub const WINDOW_UPDATE: u8 = 8;
/// More header fields.
pub const CONTINUATION: u8 = 9;

/// The stream has no more.
pub const END_STREAM: u8 = 0x1;
/// There are no more header fields.
pub const END_HEADERS: u8 = 0x4;

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, size @ ..] = u32::try_from(payload.len()).expect("a frame is short").to_be_bytes();
    [&size[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The preface with SETTINGS, of which each is a number and a value.
pub fn hello(settings: &[(u16, u32)]) -> Vec<u8> {
    let values = settings.iter().flat_map(|(key, value)| [&key.to_be_bytes()[..], &value.to_be_bytes()[..]].concat());
    [PREFACE, &frame(SETTINGS, 0, 0, &values.collect::<Vec<_>>())].concat()
}

/// The fields of a request for `http://shop/`, none of which the other side remembers (RFC 7541 §6.2.2).
pub fn fields(method: &str) -> Vec<u8> {
    fields_of(method, "/")
}

fn fields_of(method: &str, path: &str) -> Vec<u8> {
    let literal =
        |name: u8, value: &str| [&[name, u8::try_from(value.len()).expect("short")], value.as_bytes()].concat();
    // Names by their number in the static table: 1 `:authority`, 2 `:method`, 4 `:path`; 6 is `:scheme: http`.
    [literal(2, method), literal(4, path), vec![0x86], literal(1, "shop")].concat()
}

/// A request for `http://shop/` without a body.
pub fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields("GET"))
}

/// The same for another path.
pub fn get_of(path: &str, stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields_of("GET", path))
}

/// One whose body comes later.
pub fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &fields("POST"))
}

/// One with a field that is sent once, of so many bytes, and repeated so many times by a byte each.
pub fn bomb(stream: u32, first: bool, value: usize, times: usize) -> Vec<u8> {
    let mut block = fields("GET");
    if first {
        // To be remembered: `a`, and a value whose length is written in seven bits and more (RFC 7541 §5.1).
        block.extend([0x40, 1, b'a']);
        let mut rest = value;
        if rest < 127 {
            block.push(u8::try_from(rest).expect("below 127"));
        } else {
            block.push(127);
            rest -= 127;
            while rest >= 128 {
                block.push(u8::try_from(rest % 128).expect("seven bits") | 128);
                rest /= 128;
            }
            block.push(u8::try_from(rest).expect("seven bits"));
        }
        block.extend(std::iter::repeat_n(b'x', value));
    }
    // 62 is the first that the other side remembers.
    block.extend(std::iter::repeat_n(0x80 | 62, times));
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
}
