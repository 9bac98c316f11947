//! Inputs of HTTP/1, to the byte, and what has to become of each.

mod framing;
mod heads;
mod meaning;

use super::class::Class;

/// One input: what it is about, its bytes, and what has to become of it.
pub(super) type Row = (Class, Input, Expect);

/// Bytes, in as few words as possible.
#[derive(Debug, Clone, Copy)]
pub(super) enum Input {
    /// `GET /x` with these lines behind its `Host`.
    Get(&'static str),
    /// `POST /x` with these lines behind its `Host`, and this body.
    Post(&'static str, &'static str),
    /// `GET` of this target.
    Target(&'static str),
    /// `GET /x` of this host.
    Host(&'static str),
    /// All of it.
    Raw(&'static str),
    /// Too long to be written out.
    Made(fn() -> String),
}

impl Input {
    /// To the byte.
    pub(super) fn bytes(self) -> Vec<u8> {
        let text = match self {
            Self::Get(lines) => format!("GET /x HTTP/1.1\r\nHost: shop\r\n{lines}\r\n\r\n"),
            Self::Post(lines, body) => format!("POST /x HTTP/1.1\r\nHost: shop\r\n{lines}\r\n\r\n{body}"),
            Self::Target(target) => format!("GET {target} HTTP/1.1\r\nHost: shop\r\n\r\n"),
            Self::Host(host) => format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            Self::Raw(all) => all.to_owned(),
            Self::Made(make) => make(),
        };
        text.into_bytes()
    }
}

/// What has to become of an input.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expect {
    /// It is answered with this status, nobody else sees a byte of it, and the connection is closed.
    Refused(u16),
    /// A policy says no, with this status; nobody else sees a byte of it.
    Denied(u16),
    /// The origin sees exactly this request, and the connection carries another.
    Is(&'static str),
    /// The origin sees exactly this request, and the connection is closed.
    Closes(&'static str),
    /// Its body is wrong: the origin never sees a whole request, and the connection is closed.
    Broken,
}

/// All of them.
pub(super) fn rows() -> impl Iterator<Item = Row> {
    [framing::ROWS, heads::ROWS, meaning::ROWS].into_iter().flatten().copied()
}

fn long_extension() -> String {
    let extension = "x".repeat(17 << 10);
    format!("POST /x HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n5;{extension}\r\nhello\r\n0\r\n\r\n")
}

fn many_fields() -> String {
    let fields: String = (0..100).map(|number| format!("x-{number}: y\r\n")).collect();
    format!("GET /x HTTP/1.1\r\nHost: shop\r\n{fields}\r\n")
}

fn large_field() -> String {
    format!("GET /x HTTP/1.1\r\nHost: shop\r\nX: {}\r\n\r\n", "y".repeat(70 << 10))
}

fn long_target() -> String {
    format!("GET /{} HTTP/1.1\r\nHost: shop\r\n\r\n", "y".repeat(65_535))
}
