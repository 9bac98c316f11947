//! An origin that records bytes, and takes nothing for a request that is not canonical to the letter.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Fields that proxies add: they differ from run to run or say nothing of the message.
const ADDED: [&str; 8] = [
    "x-request-id",
    "x-forwarded-proto",
    "x-envoy-attempt-count",
    "x-envoy-expected-rq-timeout-ms",
    "connection",
    "keep-alive",
    "te",
    "date",
];

/// What has come by one connection.
#[derive(Debug, Clone)]
pub(super) enum Seen {
    /// A whole request: its line without the version, its fields and its body, each on a line.
    Request(String),
    /// Bytes that are no request, or not in the one form that is canonical.
    Nonsense(String),
}

/// The origin, in the test's own process.
pub(super) struct Origin {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Origin {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("cannot listen");
        let address = listener.local_addr().expect("a listener has an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let memory = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, Arc::clone(&memory)));
            }
        });
        Self { address, seen, task }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has come since the last call.
    pub(super) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(mut stream: TcpStream, memory: Arc<Mutex<Vec<Seen>>>) {
    let (mut bytes, mut spent) = (Vec::new(), false);
    loop {
        match request(&bytes) {
            Ok(Some((request, _))) if spent => {
                let said = format!("a connection that had an early answer was used again: {request}");
                memory.lock().unwrap_or_else(PoisonError::into_inner).push(Seen::Nonsense(said));
                return;
            }
            Ok(Some((request, used))) => {
                bytes.drain(..used);
                let early = request.contains("/early");
                spent = early;
                memory.lock().unwrap_or_else(PoisonError::into_inner).push(Seen::Request(request));
                let answer = if early { "early" } else { "ok" };
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Ok(None) => {
                if stream.read_buf(&mut bytes).await.map_or(0, |read| read) == 0 {
                    return;
                }
            }
            Err(why) => {
                let said = format!("{why}: {}", String::from_utf8_lossy(&bytes).escape_debug());
                memory.lock().unwrap_or_else(PoisonError::into_inner).push(Seen::Nonsense(said));
                return;
            }
        }
    }
}

/// The first request among the bytes and how many of them it takes; `None`: not all of it is here.
fn request(bytes: &[u8]) -> Result<Option<(String, usize)>, &'static str> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "a head that is not UTF-8")?;
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let words: Vec<&str> = line.split(' ').collect();
    let ([method, target, "HTTP/1.1"] | [method, target, "HTTP/1.0"]) = words[..] else {
        return Err("no request line");
    };
    let mut fields = Vec::new();
    let (mut length, mut chunked) = (None, false);
    for line in lines {
        let (name, value) = line.split_once(": ").or_else(|| line.split_once(':')).ok_or("a line without a colon")?;
        let name = name.to_ascii_lowercase();
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) || value.bytes().any(|byte| byte < b' ' && byte != b'\t') {
            return Err("a line that is no field");
        }
        match name.as_str() {
            "content-length" if length.is_some() => return Err("two lengths"),
            "content-length" => length = Some(value.parse::<usize>().map_err(|_| "no length")?),
            "transfer-encoding" if chunked || value != "chunked" => return Err("a coding that is not `chunked`"),
            "transfer-encoding" => chunked = true,
            _ => {}
        }
        if !ADDED.contains(&name.as_str()) {
            fields.push(format!("{name}: {value}"));
        }
    }
    // Their order says nothing (RFC 9110 §5.3), but for those of one name, which a stable sort keeps.
    fields.sort_by(|one, other| one.split(':').next().cmp(&other.split(':').next()));
    let mut text = format!("{method} {target}");
    fields.iter().for_each(|field| text.push_str(&format!("\n{field}")));
    if target.starts_with("/early") {
        // It does not wait for the body, and does not forgive what comes instead of it.
        let used = end + 4 + rest_of_early(&bytes[end + 4..], length.unwrap_or(0));
        return Ok(Some((text, used)));
    }
    let rest = &bytes[end + 4..];
    let (body, used) = match (length, chunked) {
        (Some(_), true) => return Err("a length and a coding"),
        (None, true) => match chunks(rest)? {
            Some(all) => all,
            None => return Ok(None),
        },
        (Some(length), false) if rest.len() < length => return Ok(None),
        (length, false) => (rest[..length.unwrap_or(0)].to_vec(), length.unwrap_or(0)),
    };
    if !body.is_empty() {
        text.push_str(&format!("\n\n{}", String::from_utf8_lossy(&body)));
    }
    Ok(Some((text, end + 4 + used)))
}

/// How many of the bytes are the body, as far as it is here.
fn rest_of_early(bytes: &[u8], length: usize) -> usize {
    bytes.len().min(length)
}

/// A body in chunks, without extensions; its trailers are appended to it.
fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = bytes[at..].windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&bytes[at..at + end]).map_err(|_| "a chunk size that is no text")?;
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("a chunk size that is none");
        }
        let size = usize::from_str_radix(size, 16).map_err(|_| "a chunk size that is too large")?;
        at += end + 2;
        if size == 0 {
            break;
        }
        if bytes.len() < at + size + 2 {
            return Ok(None);
        }
        body.extend_from_slice(&bytes[at..at + size]);
        if &bytes[at + size..at + size + 2] != b"\r\n" {
            return Err("a chunk that does not end with its size");
        }
        at += size + 2;
    }
    loop {
        let Some(end) = bytes[at..].windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        if end == 0 {
            return Ok(Some((body, at + 2)));
        }
        body.extend_from_slice(b"\n(trailer) ");
        body.extend_from_slice(&bytes[at..at + end]);
        at += end + 2;
    }
}
