//! Inputs of HTTP/2 for an endpoint of HTTP/1.1, and what has to become of each.

use Expect::{Is, Refused, RefusedLate, Reset};
use Input::{Body, Fields, Get, Head, Post, Trailers};

use super::class::Class::{self, *};
use super::h2frames::Part;

/// One input: what it is about, its fields, and what has to become of it.
pub(super) type Row = (Class, Input, Expect);

type List = &'static [(&'static [u8], &'static [u8])];

/// A message, in as few words as possible.
#[derive(Debug, Clone, Copy)]
pub(super) enum Input {
    /// `GET /x` with these fields.
    Get(List),
    /// `POST /x` with these fields, and this body.
    Post(List, &'static str),
    /// The same with trailers.
    Trailers(List, &'static str, List),
    /// This head, pseudo fields and all.
    Head(List),
    /// This method with this body.
    Body(&'static str, &'static str),
    /// `GET /x` with so many fields.
    Fields(usize),
}

/// What has to become of a message.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expect {
    /// It is answered with this status, and nobody else sees a byte of it.
    Refused(u16),
    /// The origin sees exactly this request, and its answer is not passed on.
    RefusedLate(u16, &'static str),
    /// Its stream ends with an error, or its connection (RFC 9113 §8.1.1); the origin sees no whole request.
    Reset,
    /// The origin sees exactly this request.
    Is(&'static str),
}

impl Input {
    /// Its frames.
    pub(super) fn parts(self) -> Vec<Part> {
        let field = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
        let head = |method: &str, fields: List| {
            let pseudo = [(":method", method), (":scheme", "http"), (":path", "/x"), (":authority", "shop")];
            let pseudo = pseudo.into_iter().map(|(name, value)| field(name.as_bytes(), value.as_bytes()));
            Part::Head(pseudo.chain(fields.iter().map(|(name, value)| field(name, value))).collect())
        };
        let bare = |fields: List| Part::Head(fields.iter().map(|(name, value)| field(name, value)).collect());
        match self {
            Self::Get(fields) => vec![head("GET", fields)],
            Self::Post(fields, body) => vec![head("POST", fields), Part::Data(body)],
            Self::Trailers(fields, body, trailers) => vec![head("POST", fields), Part::Data(body), bare(trailers)],
            Self::Head(fields) => vec![bare(fields)],
            Self::Body(method, body) => vec![head(method, &[]), Part::Data(body)],
            Self::Fields(count) => {
                let Part::Head(mut fields) = head("GET", &[]) else { return Vec::new() };
                fields.extend((0..count).map(|number| field(format!("x-{number}").as_bytes(), b"y")));
                vec![Part::Head(fields)]
            }
        }
    }
}

#[rustfmt::skip] // One row a line.
pub(super) const ROWS: &[Row] = &[
    (H2Length, Post(&[(b"content-length", b"5")], "hello"), Is("POST /x\ncontent-length: 5\nhost: shop\n\nhello")),
    (H2Length, Post(&[(b"content-length", b"4")], "hello"), Reset),
    (H2Length, Post(&[(b"content-length", b"6")], "hello"), Reset),
    (H2Length, Post(&[(b"content-length", b"0")], "hello"), Reset),
    (H2Length, Post(&[(b"content-length", b"+5")], "hello"), Reset),
    (H2Length, Post(&[(b"content-length", b"5, 5")], "hello"), Reset),
    (H2Length, Post(&[(b"content-length", b"05")], "hello"), Is("POST /x\ncontent-length: 5\nhost: shop\n\nhello")),
    (H2Length, Post(&[(b"content-length", b"")], "hello"), Reset),
    (H2Length, Post(&[(b"content-length", b"99999999999999999999999")], "hello"), Reset),
    (H2Length, Post(&[(b"content-length", b"five")], "hello"), Reset),
    (H2Length, Post(&[(b"content-length", b"0x5")], "hello"), Reset),
    (H2Length, Post(&[(b"content-length", b"-5")], "hello"), Reset),
    (H2Length, Post(&[(b"content-length", b"5.0")], "hello"), Reset),
    (H2Length, Post(&[(b"content-length", b"5"), (b"content-length", b"5")], "hello"), Is("POST /x\ncontent-length: 5\nhost: shop\n\nhello")),
    (H2Length, Post(&[(b"content-length", b"5"), (b"content-length", b"6")], "hello"), Reset),
    (H2Length, Post(&[(b"content-length", b"6"), (b"content-length", b"5")], "hello"), Reset),
    (H2Length, Get(&[(b"content-length", b"5")]), Reset),
    (H2Length, Get(&[(b"content-length", b"0")]), Is("GET /x\ncontent-length: 0\nhost: shop")),
    (H2Length, Post(&[], "hello"), Is("POST /x\nhost: shop\ntransfer-encoding: chunked\n\nhello")),
    (H2Connection, Get(&[(b"transfer-encoding", b"chunked")]), Reset),
    (H2Connection, Get(&[(b"transfer-encoding", b"gzip, chunked")]), Reset),
    (H2Connection, Get(&[(b"connection", b"close")]), Reset),
    (H2Connection, Get(&[(b"connection", b"x-a")]), Reset),
    (H2Connection, Get(&[(b"keep-alive", b"timeout=5")]), Reset),
    (H2Connection, Get(&[(b"proxy-connection", b"keep-alive")]), Reset),
    (H2Connection, Get(&[(b"upgrade", b"websocket")]), Reset),
    (H2Connection, Get(&[(b"te", b"gzip")]), Reset),
    (H2Connection, Get(&[(b"te", b"trailers, gzip")]), Reset),
    (H2Connection, Get(&[(b"te", b"trailers")]), Is("GET /x\nhost: shop")),
    (H2Connection, Get(&[(b"http2-settings", b"AAMAAABkAAQAAP__")]), Is("GET /x\nhost: shop\nhttp2-settings: AAMAAABkAAQAAP__")),
    (H2Injection, Get(&[(b"x", b"a\r\nhost: other")]), Reset),
    (H2Injection, Get(&[(b"x", b"a\nb")]), Reset),
    (H2Injection, Get(&[(b"x", b"a\rb")]), Reset),
    (H2Injection, Get(&[(b"x", b"a\x00b")]), Reset),
    (H2Injection, Get(&[(b"x", b"a\x01b")]), Reset),
    (H2Injection, Get(&[(b"x", b"a\x7fb")]), Reset),
    (H2Injection, Get(&[(b"x\r\ny", b"a")]), Reset),
    (H2Injection, Get(&[(b"x\n", b"a")]), Reset),
    (H2Injection, Get(&[(b"x:y", b"a")]), Reset),
    (H2Injection, Get(&[(b"x y", b"a")]), Reset),
    (H2Injection, Get(&[(b"X", b"a")]), Reset),
    (H2Injection, Get(&[(b"x\x00", b"a")]), Reset),
    (H2Injection, Get(&[(b"", b"a")]), Reset),
    (H2Injection, Get(&[(b"x\xe4", b"a")]), Reset),
    (H2Injection, Get(&[(b"x\x7f", b"a")]), Reset),
    (H2Injection, Get(&[(b":x", b"a")]), Reset),
    (H2Injection, Get(&[(b"x(", b"a")]), Reset),
    (H2Injection, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x\r\ny: z"), (b":authority", b"shop")]), Reset),
    (H2Injection, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x HTTP/1.1\r\nhost: other\r\n\r\n"), (b":authority", b"shop")]), Reset),
    (H2Injection, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x y"), (b":authority", b"shop")]), Reset),
    (H2Injection, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/\x00"), (b":authority", b"shop")]), Reset),
    (H2Injection, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x\n"), (b":authority", b"shop")]), Reset),
    (H2Injection, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/\x7f"), (b":authority", b"shop")]), Reset),
    (H2Injection, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x\ty"), (b":authority", b"shop")]), Reset),
    (H2Injection, Head(&[(b":method", b"GET /y HTTP/1.1\r\nx: y\r\n\r\nGET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop")]), Reset),
    (H2Injection, Head(&[(b":method", b"G ET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop")]), Reset),
    (H2Injection, Head(&[(b":method", b""), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop")]), Reset),
    (H2Injection, Head(&[(b":method", b"GET\r\n"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop")]), Reset),
    (H2Injection, Head(&[(b":method", b"G\x00T"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop")]), Reset),
    (H2Injection, Head(&[(b":method", b"G@T"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop")]), Reset),
    (H2Injection, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop\r\nx: y")]), Reset),
    (H2Injection, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop other")]), Reset),
    (H2Injection, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop\x00")]), Reset),
    (H2EdgeSpace, Get(&[(b"x", b" a")]), Refused(400)),
    (H2EdgeSpace, Get(&[(b"x", b"a ")]), Refused(400)),
    (H2EdgeSpace, Get(&[(b"x", b"\ta")]), Refused(400)),
    (H2EdgeSpace, Get(&[(b"x", b"a\t")]), Refused(400)),
    (H2EdgeSpace, Get(&[(b"x", b" ")]), Refused(400)),
    (H2EdgeSpace, Get(&[(b"x", b" a ")]), Refused(400)),
    (H2EdgeSpace, Get(&[(b"x", b"a b")]), Is("GET /x\nhost: shop\nx: a b")),
    (H2EdgeSpace, Get(&[(b"x", b"")]), Is("GET /x\nhost: shop\nx: ")),
    (H2EdgeSpace, Get(&[(b"cookie", b" a=b")]), Refused(400)),
    (H2EdgeSpace, Post(&[(b"content-length", b" 5")], "hello"), Reset),
    (H2Cookies, Get(&[(b"cookie", b"a=1"), (b"cookie", b"b=2")]), Is("GET /x\ncookie: a=1; b=2\nhost: shop")),
    (H2Cookies, Get(&[(b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"), (b"cookie", b"c=3")]), Is("GET /x\ncookie: a=1; b=2; c=3\nhost: shop\nx: y")),
    (H2Cookies, Get(&[(b"cookie", b"a=1; b=2")]), Is("GET /x\ncookie: a=1; b=2\nhost: shop")),
    (H2ExtendedConnect, Head(&[(b":method", b"CONNECT"), (b":protocol", b"spdy"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop")]), Refused(403)),
    (H2ExtendedConnect, Head(&[(b":method", b"CONNECT"), (b":protocol", b"connect-udp"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop")]), Refused(403)),
    (H2ExtendedConnect, Head(&[(b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop")]), RefusedLate(502, "GET /x\nhost: shop\nsec-websocket-key: bGVuby1oMi10by1oMS1rZQ==\nupgrade: websocket")),
    (H2ExtendedConnect, Head(&[(b":method", b"CONNECT"), (b":authority", b"shop:80")]), Refused(404)),
    (H2ExtendedConnect, Head(&[(b":method", b"CONNECT"), (b":authority", b"169.254.169.254:80")]), Refused(404)),
    (H2ExtendedConnect, Head(&[(b":method", b"GET"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop")]), Reset),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x")]), Refused(400)),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b"host", b"shop")]), Is("GET /x\nhost: shop")),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop"), (b"host", b"shop")]), Is("GET /x\nhost: shop")),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop"), (b"host", b"SHOP")]), Is("GET /x\nhost: shop")),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop"), (b"host", b"other")]), Refused(400)),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop"), (b"host", b"shop"), (b"host", b"shop")]), Refused(400)),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b"host", b"shop"), (b"host", b"other")]), Refused(400)),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"u@shop")]), Refused(400)),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop:x")]), Refused(400)),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop,other")]), Refused(400)),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop/x")]), Reset),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"")]), Reset),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop:99999")]), Refused(400)),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"ftp"), (b":path", b"/x"), (b":authority", b"shop")]), Refused(400)),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/x"), (b":authority", b"shop")]), Is("GET /x\nhost: shop")),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":path", b"/x"), (b":authority", b"shop")]), Reset),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b""), (b":path", b"/x"), (b":authority", b"shop")]), Refused(400)),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"ht tp"), (b":path", b"/x"), (b":authority", b"shop")]), Reset),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b""), (b":authority", b"shop")]), Reset),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"shop")]), Reset),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"x"), (b":authority", b"shop")]), Reset),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"*"), (b":authority", b"shop")]), Refused(400)),
    (H2Pseudo, Head(&[(b":method", b"OPTIONS"), (b":scheme", b"http"), (b":path", b"*"), (b":authority", b"shop")]), Refused(404)),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"http://shop/x"), (b":authority", b"shop")]), Reset),
    (H2Pseudo, Head(&[(b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop")]), Reset),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop"), (b":path", b"/y")]), Reset),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop"), (b":method", b"POST")]), Reset),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop"), (b":authority", b"other")]), Reset),
    (H2Pseudo, Head(&[(b"x", b"y"), (b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop")]), Reset),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop"), (b":status", b"200")]), Reset),
    (H2Pseudo, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop"), (b":foo", b"bar")]), Reset),
    (H2Pseudo, Head(&[(b":method", b"MMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMM"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"shop")]), Refused(400)),
    (PathDots, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/a/../b"), (b":authority", b"shop")]), Is("GET /b\nhost: shop")),
    (PathDots, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/a/%2e%2e/b"), (b":authority", b"shop")]), Is("GET /b\nhost: shop")),
    (PathDots, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/.."), (b":authority", b"shop")]), Is("GET /\nhost: shop")),
    (PathSeparator, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/a%2fb"), (b":authority", b"shop")]), Is("GET /a%2Fb\nhost: shop")),
    (DoubleSlash, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"//x"), (b":authority", b"shop")]), Is("GET //x\nhost: shop")),
    (PathSeparator, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/a;b"), (b":authority", b"shop")]), Is("GET /a;b\nhost: shop")),
    (PathEscape, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/%00"), (b":authority", b"shop")]), Refused(400)),
    (PathEscape, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/%zz"), (b":authority", b"shop")]), Refused(400)),
    (PathEscape, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/a\\b"), (b":authority", b"shop")]), Refused(400)),
    (Fragment, Head(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x#f"), (b":authority", b"shop")]), Is("GET /x\nhost: shop")),
    (H2Trailers, Trailers(&[(b"trailer", b"content-length")], "hello", &[(b"content-length", b"5")]), Is("POST /x\nhost: shop\ntrailer: content-length\ntransfer-encoding: chunked\n\nhello")),
    (H2Trailers, Trailers(&[(b"trailer", b"host")], "hello", &[(b"host", b"other")]), Is("POST /x\nhost: shop\ntrailer: host\ntransfer-encoding: chunked\n\nhello")),
    (H2Trailers, Trailers(&[(b"trailer", b"authorization")], "hello", &[(b"authorization", b"x")]), Is("POST /x\nhost: shop\ntrailer: authorization\ntransfer-encoding: chunked\n\nhello")),
    (H2Trailers, Trailers(&[(b"trailer", b"x-forwarded-for")], "hello", &[(b"x-forwarded-for", b"1.2.3.4")]), Is("POST /x\nhost: shop\ntrailer: x-forwarded-for\ntransfer-encoding: chunked\n\nhello")),
    (H2Trailers, Trailers(&[(b"trailer", b"x-sum")], "hello", &[(b"x-sum", b"1")]), Is("POST /x\nhost: shop\ntrailer: x-sum\ntransfer-encoding: chunked\n\nhello\n(trailer) x-sum: 1")),
    (H2Trailers, Trailers(&[], "hello", &[(b"x-sum", b"1")]), Is("POST /x\nhost: shop\ntransfer-encoding: chunked\n\nhello")),
    (H2Trailers, Trailers(&[], "hello", &[(b":path", b"/y")]), Is("POST /x\nhost: shop\ntransfer-encoding: chunked\n\nhello")),
    (H2Trailers, Trailers(&[], "hello", &[(b"transfer-encoding", b"chunked")]), Reset),
    (HeaderBomb, Fields(101), Refused(431)),
    (HeaderBomb, Fields(1500), Refused(431)),
    (Expectation, Post(&[(b"expect", b"100-continue"), (b"content-length", b"5")], "hello"), Is("POST /x\ncontent-length: 5\nhost: shop\n\nhello")),
    (Expectation, Get(&[(b"expect", b"y")]), Refused(417)),
    (BodyWithGet, Body("GET", "hello"), Is("GET /x\nhost: shop\ntransfer-encoding: chunked\n\nhello")),
    (Underscore, Get(&[(b"x_role", b"a")]), Is("GET /x\nhost: shop\nx_role: a")),
    (Spoofing, Get(&[(b"x-forwarded-client-cert", b"URI=spiffe://a/ns/a/sa/a")]), Is("GET /x\nhost: shop")),
    (FirstValueOnly, Get(&[(b"x-role", b"a"), (b"x-role", b"b")]), Is("GET /x\nhost: shop\nx-role: a\nx-role: b")),
    (Token, Get(&[(b"authorization", b"Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJ0ZXN0In0.")]), Refused(401)),
    (Plain, Get(&[(b"accept", b"*/*")]), Is("GET /x\naccept: */*\nhost: shop")),
];
