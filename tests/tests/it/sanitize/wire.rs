//! What a server makes of an input: the answer, whether the connection lives, and what the origin behind it has seen.

use std::net::SocketAddr;
use std::time::Duration;

use leno_tests::{PATIENCE, raw};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::origin::{Origin, Seen};

/// What came of one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Came {
    /// The status of the first answer; `None`: there was none.
    pub(super) status: Option<u16>,
    /// What the origin saw, nonsense included.
    pub(super) seen: Vec<String>,
    /// Whether the connection has carried another request behind it.
    pub(super) reusable: bool,
}

/// A request that nobody can misunderstand.
const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: shop\r\n\r\n";

/// Sends the input by a connection of its own, and a request behind it when it was answered. `patience`: how long an
/// answer may take; one that does not come is none.
pub(super) async fn ask(server: SocketAddr, origin: &Origin, input: &[u8], patience: Duration) -> Came {
    origin.take();
    let mut stream = raw::connect(server).await;
    // A server may refuse and close before it has read all.
    let _ = stream.write_all(input).await;
    let mut unread = Vec::new();
    let status = answer(&mut stream, &mut unread, patience).await;
    let mut reusable = false;
    // Bytes that come by themselves are another answer.
    if status.is_some() && unread.is_empty() && stream.write_all(PROBE).await.is_ok() {
        reusable = answer(&mut stream, &mut unread, patience).await == Some(200);
    }
    drop(stream);
    let mut seen: Vec<String> = origin.take().into_iter().map(describe).collect();
    if reusable {
        let probe = seen.iter().rposition(|one| one.starts_with("GET /probe"));
        reusable = probe.map(|at| seen.remove(at)).is_some();
    }
    Came { status, seen, reusable }
}

pub(super) fn describe(seen: Seen) -> String {
    match seen {
        Seen::Request(request) => request,
        Seen::Nonsense(why) => format!("(nonsense) {why}"),
    }
}

/// The status of the next answer that is not 1xx, with its body read; `None` when the connection ends first.
async fn answer(stream: &mut TcpStream, unread: &mut Vec<u8>, patience: Duration) -> Option<u16> {
    loop {
        let end = loop {
            if let Some(end) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            more(stream, unread, patience).await?;
        };
        let head = String::from_utf8_lossy(&unread[..end]).to_ascii_lowercase();
        let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        unread.drain(..end);
        if status < 200 {
            continue;
        }
        while unread.len() < length.unwrap_or(0) {
            if more(stream, unread, patience).await.is_none() {
                return Some(status);
            }
        }
        unread.drain(..length.unwrap_or(0));
        return Some(status);
    }
}

async fn more(stream: &mut TcpStream, unread: &mut Vec<u8>, patience: Duration) -> Option<()> {
    match tokio::time::timeout(patience, stream.read_buf(unread)).await {
        Ok(Ok(read)) if read > 0 => Some(()),
        _ => None,
    }
}

/// For what has to come.
pub(super) const LONG: Duration = PATIENCE;
