//! Protocol detection: byte 0 says how the rest, a connection's first bytes, is cut into packets.

use std::pin::Pin;
use std::task::{Context, Poll};

use leno_proxy::downstream::fuzzing::{First, declared, undeclared};
use tokio::io::{AsyncRead, ReadBuf};

use crate::input::Input;
use crate::{Target, wire};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const TARGET: Target = Target {
    name: "detection",
    property: "what a connection is taken for depends on its bytes and not on how they arrive, and no byte is lost",
    check,
    words: &["GET ", " HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\u{16}\u{3}\u{1}", "\r\n", "/"],
};

fn check(data: &[u8]) {
    let mut input = Input(data);
    let size = usize::from(input.byte()).max(1);
    let bytes = input.0;
    where_http_is_declared(bytes, size);
    where_nothing_is(bytes);
}

fn where_http_is_declared(bytes: &[u8], size: usize) {
    let (first, read) = wire::block_on(async { declared(&mut Cut { rest: bytes, size }).await });
    let expected = match () {
        () if bytes.first() == Some(&22) => First::Tls,
        () if bytes.starts_with(PREFACE) => First::Http2,
        () if PREFACE.starts_with(bytes) => First::TooLittle,
        () => First::Http1,
    };
    assert_eq!(first, expected, "in packets of {size}");
    assert!(bytes.starts_with(&read), "what was read is handed on as it came");
}

/// What has been decided stays, whatever comes behind it: else the cut between two packets would decide.
fn where_nothing_is(bytes: &[u8]) {
    // More would take the square of it.
    let bytes = bytes.get(..1024).unwrap_or(bytes);
    let mut decided: Option<(usize, First)> = None;
    for length in 0..=bytes.len() {
        let found = undeclared(bytes.get(..length).unwrap_or_default());
        match &decided {
            Some((before, first)) => assert_eq!(&found, first, "after {before} bytes, and after {length}"),
            None if found != First::TooLittle => decided = Some((length, found)),
            None => {}
        }
    }
}

/// Hands its bytes out piece by piece.
struct Cut<'a> {
    rest: &'a [u8],
    size: usize,
}

impl AsyncRead for Cut<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let (now, later) = self.rest.split_at(self.rest.len().min(self.size).min(into.remaining()));
        into.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}
