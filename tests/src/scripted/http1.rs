//! A conversation in HTTP/1.1, written by hand.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Version};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};

use super::script::{Deed, Step, Then};
use super::server::{Socket, Visit, Wire};

/// Between two bytes that trickle, and between two hints.
const TRICKLE: Duration = Duration::from_millis(20);

/// Whether the connection carries another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goes {
    On,
    Ends,
}

pub(super) async fn converse(mut wire: Wire, socket: &Socket, visit: &Visit) -> io::Result<()> {
    let mut then = Then::Stay;
    while let Some(head) = read_head(&mut wire).await? {
        let (entry, step) = visit.book.begin(&visit.server, visit.connection, &head);
        match then {
            Then::Stay => {}
            // Everything that came is read, so that closing does not turn into a RST.
            Then::Close | Then::CloseAtNext => return end(&mut wire, socket, Deed::Close).await,
            Then::ResetAtNext => return end(&mut wire, socket, Deed::Reset).await,
        }
        let expects = head.headers().get("expect").is_some();
        if expects {
            wire.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let body = read_body(&mut wire, &head).await?;
        visit.book.body(entry, body);
        let goes = match step {
            Ok(step) => {
                then = step.then;
                tokio::time::sleep(step.after).await;
                act(&mut wire, socket, &visit.server, &head, &step).await?
            }
            Err(why) => answer(&mut wire, StatusCode::INTERNAL_SERVER_ERROR, "", &why, &head).await?,
        };
        if goes == Goes::Ends || then == Then::Close {
            break;
        }
    }
    wire.shutdown().await
}

async fn act(wire: &mut Wire, socket: &Socket, name: &str, head: &Request<()>, step: &Step) -> io::Result<Goes> {
    let more: String = step
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    match step.deed {
        Deed::Answer(status) => answer(wire, status, &more, name, head).await,
        Deed::Grpc(status) => {
            let more = format!("{more}content-type: application/grpc\r\ngrpc-status: {status}\r\n");
            answer(wire, StatusCode::OK, &more, "", head).await
        }
        Deed::ResetInBody | Deed::CloseInBody => {
            let half = format!("HTTP/1.1 200 OK\r\n{more}content-length: 10\r\n\r\nhello");
            wire.write_all(half.as_bytes()).await?;
            wire.flush().await?;
            // So that the half has been read when the rest does not come.
            tokio::time::sleep(TRICKLE * 25).await;
            let ending = if step.deed == Deed::ResetInBody { Deed::Reset } else { Deed::Close };
            end(wire, socket, ending).await.map(|()| Goes::Ends)
        }
        Deed::Half => {
            let half = format!("HTTP/1.1 200 OK\r\n{more}content-length: 10\r\n\r\nhello");
            wire.write_all(half.as_bytes()).await?;
            wire.flush().await?;
            wire.read_to_end(&mut Vec::new()).await?;
            Ok(Goes::Ends)
        }
        Deed::Trickle => {
            wire.write_all(format!("HTTP/1.1 200 OK\r\n{more}content-length: {}\r\n\r\n", name.len()).as_bytes())
                .await?;
            for byte in name.bytes() {
                tokio::time::sleep(TRICKLE).await;
                wire.write_all(&[byte]).await?;
                wire.flush().await?;
            }
            Ok(Goes::On)
        }
        Deed::Silent => {
            let mut rest = Vec::new();
            wire.read_to_end(&mut rest).await?;
            Ok(Goes::Ends)
        }
        Deed::Garbage => {
            wire.write_all(b"\x00\x01 this is no HTTP\r\n\r\n").await?;
            Ok(Goes::Ends)
        }
        Deed::EndlessHints => loop {
            wire.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n").await?;
            wire.flush().await?;
            tokio::time::sleep(TRICKLE / 4).await;
        },
        Deed::Hints => {
            wire.write_all(&b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n".repeat(3)).await?;
            answer(wire, StatusCode::OK, &more, name, head).await
        }
        Deed::BadTrailer => {
            let text =
                format!("HTTP/1.1 200 OK\r\n{more}transfer-encoding: chunked\r\n\r\n2\r\nv1\r\n0\r\n\x00bad\r\n\r\n");
            wire.write_all(text.as_bytes()).await?;
            Ok(Goes::Ends)
        }
        // What HTTP/1.1 has no word for: the connection is all that can be cut.
        Deed::Reset
        | Deed::GrpcLate(_)
        | Deed::RefusedStream
        | Deed::ResetStream
        | Deed::ResetStreamInBody
        | Deed::GoAway => end(wire, socket, Deed::Reset).await.map(|()| Goes::Ends),
        Deed::Close => end(wire, socket, Deed::Close).await.map(|()| Goes::Ends),
    }
}

/// Ends the connection, with a RST or a FIN.
async fn end(wire: &mut Wire, socket: &Socket, how: Deed) -> io::Result<()> {
    if how == Deed::Reset {
        socket.will_reset();
        return Ok(());
    }
    wire.shutdown().await
}

async fn answer(wire: &mut Wire, status: StatusCode, more: &str, body: &str, head: &Request<()>) -> io::Result<Goes> {
    let has_body = status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED;
    let length = if has_body { format!("content-length: {}\r\n", body.len()) } else { String::new() };
    let sent = if has_body && head.method() != Method::HEAD { body } else { "" };
    let text = format!("HTTP/1.1 {} Scripted\r\n{more}{length}\r\n{sent}", status.as_u16());
    wire.write_all(text.as_bytes()).await?;
    wire.flush().await?;
    let closes = head.headers().get("connection").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
    Ok(if closes { Goes::Ends } else { Goes::On })
}

/// The next request's head; `None` when the caller has left, or does not speak HTTP.
async fn read_head(wire: &mut Wire) -> io::Result<Option<Request<()>>> {
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        if wire.read_until(b'\n', &mut line).await? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let Some((first, headers)) = lines.split_first() else { return Ok(None) };
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut head = Request::builder().method(method).uri(target).version(Version::HTTP_11);
    for (name, value) in headers.iter().filter_map(|line| line.split_once(':')) {
        head = head.header(name, value.trim());
    }
    Ok(head.body(()).ok())
}

async fn read_body(wire: &mut Wire, head: &Request<()>) -> io::Result<Bytes> {
    let header = |name: &str| head.headers().get(name).and_then(|value| value.to_str().ok());
    let mut body = Vec::new();
    if header("transfer-encoding").is_some() {
        loop {
            let size = read_line(wire).await?;
            let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16);
            let size = size.map_err(io::Error::other)?;
            let begin = body.len();
            body.resize(begin + size, 0);
            wire.read_exact(&mut body[begin..]).await?;
            if size == 0 {
                // Trailers.
                while !read_line(wire).await?.is_empty() {}
                break;
            }
            read_line(wire).await?;
        }
    } else if let Some(length) = header("content-length").and_then(|length| length.parse().ok()) {
        body.resize(length, 0);
        wire.read_exact(&mut body).await?;
    }
    Ok(body.into())
}

async fn read_line(wire: &mut Wire) -> io::Result<String> {
    let mut line = String::new();
    wire.read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}
