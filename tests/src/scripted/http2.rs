//! A conversation in HTTP/2: the `h2` crate's, and cut or spoken past where a script wants it.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::script::{Deed, Step, Then};
use super::server::{Socket, Visit, Wire};

/// Between two bytes that trickle.
const TRICKLE: Duration = Duration::from_millis(20);

/// How a stream ends the whole connection.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Close,
    Reset,
    /// The last stream that the caller is told was looked at.
    GoAway(u32),
    Garbage,
}

pub(super) async fn converse(wire: Wire, socket: Socket, visit: Visit) -> io::Result<()> {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(16 << 20).max_concurrent_streams(1000);
    let mut connection = builder.handshake::<_, Bytes>(wire).await.map_err(io::Error::other)?;
    let (ends, mut ending) = mpsc::channel(1);
    let mut streams = JoinSet::new();
    let mut then = Then::Stay;
    loop {
        let (request, respond) = tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok(accepted)) => accepted,
                Some(Err(_)) | None => return Ok(()),
            },
            how = ending.recv() => {
                cut(&socket, how.unwrap_or(Ending::Close)).await;
                return Ok(());
            }
        };
        while streams.try_join_next().is_some() {}
        let (parts, body) = request.into_parts();
        let head = Request::from_parts(parts, ());
        let (entry, step) = visit.book.begin(&visit.server, visit.connection, &head);
        match then {
            Then::Stay => {}
            Then::Close | Then::CloseAtNext => return Ok(()),
            Then::ResetAtNext => {
                socket.will_reset();
                return Ok(());
            }
        }
        if let Ok(step) = &step {
            then = step.then;
        }
        let (visit, ends) = (visit.clone(), ends.clone());
        streams.spawn(async move {
            let Ok(read) = read(body).await else { return };
            visit.book.body(entry, read);
            let mut respond = respond;
            let how = match step {
                Ok(step) => act(&mut respond, &visit.server, &step).await,
                Err(why) => answer(&mut respond, StatusCode::INTERNAL_SERVER_ERROR, &[], &why).map(|()| None),
            };
            if let Ok(Some(how)) = how {
                let _ = ends.send(how).await;
                // A stream that is let go of is reset; this one ends with its connection.
                std::future::pending::<()>().await;
            }
        });
    }
}

async fn cut(socket: &Socket, how: Ending) {
    match how {
        Ending::Close => {}
        Ending::Reset => socket.will_reset(),
        Ending::Garbage => socket.write(b"\x00\x01 this is no HTTP/2"),
        Ending::GoAway(last) => {
            assert!(socket.is_plain, "`goaway` is written past HTTP/2, which TLS does not allow");
            // RFC 9113 §6.8: 8 bytes, type 7, no flags, stream 0; last stream, NO_ERROR.
            let mut frame = vec![0, 0, 8, 7, 0, 0, 0, 0, 0];
            frame.extend(last.to_be_bytes());
            frame.extend([0; 4]);
            socket.write(&frame);
            // So that it is read as what it is, before the end of the connection is.
            tokio::time::sleep(TRICKLE * 5).await;
        }
    }
}

async fn act(respond: &mut SendResponse<Bytes>, name: &str, step: &Step) -> Result<Option<Ending>, h2::Error> {
    tokio::time::sleep(step.after).await;
    match step.deed {
        Deed::Answer(status) => answer(respond, status, &step.headers, name)?,
        Deed::Grpc(status) => {
            let mut head = head(StatusCode::OK, &step.headers);
            head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            head.headers_mut().insert("grpc-status", status.into());
            respond.send_response(head, true)?;
        }
        Deed::GrpcLate(status) => {
            let mut head = head(StatusCode::OK, &step.headers);
            head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            let mut body = respond.send_response(head, false)?;
            // An empty message: a flag and a length.
            body.send_data(Bytes::from_static(&[0; 5]), false)?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status.into());
            body.send_trailers(trailers)?;
        }
        Deed::Half => {
            let mut body = half(respond, step).await?;
            std::future::poll_fn(|context| body.poll_reset(context)).await?;
        }
        Deed::Trickle => {
            let mut body = respond.send_response(head(StatusCode::OK, &step.headers), false)?;
            for byte in name.bytes() {
                tokio::time::sleep(TRICKLE).await;
                body.send_data(Bytes::from(vec![byte]), false)?;
            }
            body.send_data(Bytes::new(), true)?;
        }
        Deed::Hints => {
            for _ in 0..3 {
                respond.send_informational(head(StatusCode::EARLY_HINTS, &[]))?;
            }
            answer(respond, StatusCode::OK, &step.headers, name)?;
        }
        Deed::EndlessHints => loop {
            respond.send_informational(head(StatusCode::EARLY_HINTS, &[]))?;
            tokio::time::sleep(TRICKLE / 4).await;
        },
        Deed::Silent => drop(std::future::poll_fn(|context| respond.poll_reset(context)).await),
        Deed::RefusedStream => respond.send_reset(Reason::REFUSED_STREAM),
        Deed::ResetStream => respond.send_reset(Reason::INTERNAL_ERROR),
        Deed::ResetStreamInBody | Deed::BadTrailer => half(respond, step).await?.send_reset(Reason::INTERNAL_ERROR),
        Deed::ResetInBody => {
            half(respond, step).await?;
            return Ok(Some(Ending::Reset));
        }
        Deed::CloseInBody => {
            half(respond, step).await?;
            return Ok(Some(Ending::Close));
        }
        Deed::Reset => return Ok(Some(Ending::Reset)),
        Deed::Close => return Ok(Some(Ending::Close)),
        Deed::Garbage => return Ok(Some(Ending::Garbage)),
        Deed::GoAway => return Ok(Some(Ending::GoAway(u32::from(respond.stream_id()).saturating_sub(2)))),
    }
    Ok(None)
}

fn answer(
    respond: &mut SendResponse<Bytes>,
    status: StatusCode,
    headers: &[(http::HeaderName, HeaderValue)],
    body: &str,
) -> Result<(), h2::Error> {
    let mut head = head(status, headers);
    head.headers_mut().insert("content-length", body.len().into());
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(Bytes::copy_from_slice(body.as_bytes()), true)
}

fn head(status: StatusCode, headers: &[(http::HeaderName, HeaderValue)]) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = status;
    head.headers_mut().extend(headers.iter().cloned());
    head
}

/// The head and half of the body, and the time to read it.
async fn half(respond: &mut SendResponse<Bytes>, step: &Step) -> Result<SendStream<Bytes>, h2::Error> {
    let mut head = head(StatusCode::OK, &step.headers);
    head.headers_mut().insert("content-length", 10.into());
    let mut body = respond.send_response(head, false)?;
    body.send_data(Bytes::from_static(b"hello"), false)?;
    tokio::time::sleep(TRICKLE * 25).await;
    Ok(body)
}

async fn read(mut body: RecvStream) -> Result<Bytes, h2::Error> {
    let mut all = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        all.extend_from_slice(&piece);
    }
    Ok(all.into())
}
