//! Requests of one connection, one after another or side by side, into the pipeline.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use http::Request;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::nest::{Nest, Nested};
use crate::overload::reached::Reached;
use crate::rarely::Rarely;
use crate::request;
use crate::stage::Stage;
use crate::tls::transport::{Prefixed, Transport};
use crate::upstream::h2_windows;

use super::detect::Spoken;
use super::frames::Metered;
use super::heads::Held;
use super::life::News;
use super::pulse::{Outflow, Watched};
use super::{Connection, draining, rest};

/// How long a listener that is gone waits for one more request on a connection that rests.
const LAST_CALL: Duration = Duration::from_secs(1);

/// What a connection hears while it serves requests.
enum Told {
    /// Something of its own life.
    News(News),
    /// It is to finish what it does.
    ToLeave,
}

pub(super) async fn serve(connection: Rc<Connection>, spoken: Spoken, stream: Prefixed<Transport>) {
    let stream = Outflow::new(stream, connection.life.pulse());
    match spoken {
        // On the heap, as the other is: a connection takes what it speaks, not what it might have spoken.
        Spoken::Http2 => Box::pin(serve_http2(connection, stream)).await,
        // Only HTTP/1.1 has heads that can be waited for; HTTP/2 frames come at any time. TLS where it is not wanted is
        // HTTP/1.1 that makes no sense, and is told so.
        Spoken::Http1 | Spoken::Tls => serve_http1(connection, Watched(stream)).await,
    }
}

/// One conversation after another, with a rest between.
async fn serve_http1(connection: Rc<Connection>, mut stream: Watched) {
    connection.life.serves(None);
    connection.life.set_rests(true);
    while let Some(rests) = Box::pin(converse(&connection, stream)).await {
        let Some(woken) = rest::until_awake(&connection, rests).await else { return };
        stream = woken;
    }
}

/// Serves requests until the connection is over (`None`), or rests.
///
/// Errors of a connection are the caller's: it left, or spoke nonsense and was told so. Each request is counted on its
/// own, so there is nothing more to say here.
async fn converse(connection: &Rc<Connection>, stream: Watched) -> Option<Watched> {
    let life = &connection.life;
    let heads = &connection.worker.overload.limits().heads;
    let service = service_fn(|request: Request<Incoming>| {
        if !request.body().is_end_stream() {
            life.body_comes();
        }
        Box::pin(request::serve(Rc::clone(connection), request))
    });
    let mut served = http1::Builder::new()
        .max_headers(heads.fields as usize)
        .max_header_size(heads.bytes as usize)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    loop {
        let told = pin!(async {
            tokio::select! {
                news = life.news() => Told::News(news),
                () = draining(connection) => Told::ToLeave,
            }
        });
        tokio::select! {
            biased;
            ended = &mut served => return log(connection, ended),
            told = Rarely::new(told) => match told {
                Told::News(News::Over) => return None,
                Told::ToLeave => break,
                Told::News(News::Rest) if life.may_rest() => return take_back(served.into_parts()?),
                Told::News(News::Rest | News::Streams) => {}
            }
        }
    }
    // A connection that rests is not closed at once: its caller may have sent a request a moment ago, which would be lost.
    // Who uses it often hears with the next answer that it was the last; the others are not waited for.
    life.leave();
    tokio::select! {
        ended = &mut served => return log(connection, ended),
        () = life.overdue() => return None,
        () = last_call(connection) => {}
    }
    Pin::new(&mut served).graceful_shutdown();
    tokio::select! {
        ended = &mut served => log(connection, ended),
        () = life.overdue() => None,
    }
}

/// The stream out of hyper's hands, with what hyper had read of it.
fn take_back<S>(parts: http1::Parts<TokioIo<Watched>, S>) -> Option<Watched> {
    let mut stream = parts.io.into_inner();
    // Empty, it would still keep the whole buffer that it was cut from.
    if !parts.read_buf.is_empty() {
        stream.0.unread(parts.read_buf);
    }
    Some(stream)
}

/// Ready when a connection that rests is waited for no longer: a process that drains says when, a listener that is gone
/// gives it a moment.
async fn last_call(connection: &Connection) {
    let mut process = connection.worker.stage.clone();
    let mut listener = connection.listener.closing();
    tokio::select! {
        // An error means that the sender is gone, which is the end as well.
        _ = process.wait_for(|stage| *stage >= Stage::Closing) => {}
        () = async {
            let _ = listener.wait_for(|closing| *closing).await;
            tokio::time::sleep(LAST_CALL).await;
        } => {}
    }
}

/// Ready when an HTTP/2 connection hears that it is to end. Not before its first request: a caller who connects while the
/// process drains, and hears of that before it has asked anything, must not ask any more (RFC 9113 §6.8).
async fn goodbye(connection: &Connection) {
    draining(connection).await;
    tokio::select! {
        () = connection.life.used() => {}
        () = last_call(connection) => {}
    }
}

async fn serve_http2(connection: Rc<Connection>, stream: Outflow) {
    let limits = connection.worker.overload.limits();
    let service = service_fn(|request: Request<Incoming>| {
        let (connection, held) = (Rc::clone(&connection), Held::new(&connection.life, &request));
        Box::pin(async move {
            let _held = held;
            request::serve(connection, request).await
        })
    });
    let nest = Nest::default();
    connection.life.serves(Some(nest.turn()));
    let served = http2::Builder::new(nest.clone())
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits.http2.stream_window)
        .initial_connection_window_size(limits.http2.connection_window)
        .max_header_list_size(limits.heads.bytes)
        .max_send_buf_size(h2_windows::SEND_BUFFER)
        .max_concurrent_streams(limits.http2.streams)
        .max_pending_accept_reset_streams(limits.http2.pending_resets as usize)
        .max_local_error_reset_streams(limits.http2.local_resets as usize)
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(Metered::new(stream, limits.http2.control)), service);
    let mut served = Nested::server(nest, served);
    let mut leaves = false;
    loop {
        let stays = !leaves;
        let told = pin!(async {
            tokio::select! {
                news = connection.life.news() => Told::News(news),
                () = told_to_leave(&connection), if stays => Told::ToLeave,
            }
        });
        tokio::select! {
            biased;
            ended = &mut served => {
                log(&connection, ended);
                return;
            }
            told = Rarely::new(told) => match told {
                Told::News(News::Over) => return,
                Told::News(News::Streams) => connection.life.flows().doomed().into_iter().for_each(|stream| served.end(stream)),
                Told::ToLeave => {
                    leaves = true;
                    served.with(|served| served.graceful_shutdown());
                }
                Told::News(News::Rest) => {}
            }
        }
    }
}

/// Ready when an HTTP/2 connection is to end, for whatever reason.
async fn told_to_leave(connection: &Connection) {
    tokio::select! {
        () = goodbye(connection) => {}
        () = connection.life.asked_to_leave() => {}
    }
}

/// Nothing, whatever it was; limits that hyper and the meter have found are counted.
fn log(connection: &Connection, ended: Result<(), hyper::Error>) -> Option<Watched> {
    let error = ended.err()?;
    let reached = &connection.worker.overload.reached;
    if connection.life.is_flooded() {
        reached.add(Reached::ControlFrames);
        if connection.worker.quiet.allows() {
            tracing::info!(
                peer = %connection.caller,
                "closed an HTTP/2 connection: it was flooded with frames that carry nothing (limits.http2_control_burst)"
            );
        }
    } else if error.is_parse_too_large() {
        // hyper does not say of what there was too much: fields, bytes or target.
        reached.add(Reached::HeaderBytes);
    }
    tracing::debug!(peer = %connection.caller, %error, "the connection ended");
    None
}
