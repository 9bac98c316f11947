//! HTTP/2 by hand: frames to the byte, for what no library would say.

use std::net::SocketAddr;
use std::time::Duration;

use leno_tests::raw;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::origin::Origin;
use super::wire::describe;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// A frame of a message.
#[derive(Debug, Clone)]
pub(super) enum Part {
    /// HEADERS, with these fields in this order.
    Head(Vec<(Vec<u8>, Vec<u8>)>),
    /// DATA.
    Data(&'static str),
}

/// What came of a message on a stream of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Came {
    /// `None`: the stream was reset, or the connection ended.
    pub(super) status: Option<u16>,
    /// What the origin saw, nonsense included.
    pub(super) seen: Vec<String>,
}

/// Sends a message, the last part of which ends the stream, and waits for its answer.
pub(super) async fn ask(server: SocketAddr, origin: &Origin, message: &[Part], patience: Duration) -> Came {
    origin.take();
    let mut stream = raw::connect(server).await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, SETTINGS, 0, 0, &[]);
    for (at, part) in message.iter().enumerate() {
        let end = if at + 1 == message.len() { END_STREAM } else { 0 };
        match part {
            Part::Head(fields) => frame(&mut bytes, HEADERS, END_HEADERS | end, 1, &block(fields)),
            Part::Data(text) => frame(&mut bytes, DATA, end, 1, text.as_bytes()),
        }
    }
    let _ = stream.write_all(&bytes).await;
    let status = answer(&mut stream, patience).await;
    Came { status, seen: origin.take().into_iter().map(describe).collect() }
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    bytes.extend_from_slice(&u32::try_from(payload.len()).expect("short").to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

/// Literals without a name index, neither compressed nor remembered (RFC 7541 §6.2.2).
fn block(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            number(&mut bytes, text.len());
            bytes.extend_from_slice(text);
        }
    }
    bytes
}

/// An integer with a prefix of seven bits (RFC 7541 §5.1).
fn number(bytes: &mut Vec<u8>, value: usize) {
    if value < 127 {
        return bytes.push(u8::try_from(value).expect("small"));
    }
    bytes.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).expect("small") | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).expect("small"));
}

/// The status of the answer on stream 1.
async fn answer(stream: &mut TcpStream, patience: Duration) -> Option<u16> {
    let mut unread = Vec::new();
    loop {
        while let Some(length) = whole(&unread) {
            let (kind, flags) = (unread[3], unread[4]);
            let id = u32::from_be_bytes([unread[5], unread[6], unread[7], unread[8]]);
            let payload: Vec<u8> = unread.drain(..9 + length).skip(9).collect();
            match kind {
                SETTINGS if flags & ACK == 0 => {
                    let mut acknowledged = Vec::new();
                    frame(&mut acknowledged, SETTINGS, ACK, 0, &[]);
                    let _ = stream.write_all(&acknowledged).await;
                }
                HEADERS if id == 1 => return status(&payload).filter(|status| *status >= 200),
                RESET if id == 1 => return None,
                GOAWAY => return None,
                _ => {}
            }
        }
        match tokio::time::timeout(patience, stream.read_buf(&mut unread)).await {
            Ok(Ok(read)) if read > 0 => {}
            _ => return None,
        }
    }
}

/// The length of the first frame, if all of it is here.
fn whole(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(..3)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    (bytes.len() >= 9 + length).then_some(length)
}

/// `:status`, which comes first: from the static table, or a literal whose digits may be compressed (RFC 7541).
fn status(block: &[u8]) -> Option<u16> {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    // An update of the table's size may stand before.
    let start = block.iter().position(|byte| byte & 0xe0 != 0x20)?;
    let block = &block[start..];
    let first = *block.first()?;
    if (0x88..=0x8e).contains(&first) {
        return INDEXED.get(usize::from(first - 0x88)).copied();
    }
    let length = *block.get(1)?;
    let text = block.get(2..2 + usize::from(length & 0x7f))?;
    if length & 0x80 == 0 {
        return std::str::from_utf8(text).ok()?.parse().ok();
    }
    let mut bits = text.iter().flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1)));
    let mut status = 0;
    for _ in 0..3 {
        // 0 to 2 have five bits, 3 to 9 six (RFC 7541, appendix B).
        let five = (0..5).try_fold(0, |code, _| bits.next().map(|bit| code << 1 | bit))?;
        let digit = if five < 3 { five } else { (five << 1 | bits.next()?) - 0x19 + 3 };
        status = status * 10 + digit;
    }
    Some(status)
}
