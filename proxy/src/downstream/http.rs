//! Requests of one connection, one after another or side by side, into the pipeline.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::nest::{Nest, Nested};
use crate::rarely::Rarely;
use crate::request;
use crate::stage::Stage;
use crate::tls::transport::{Prefixed, Transport};
use crate::upstream::h2_windows;

use super::detect::Spoken;
use super::life::Watched;
use super::{Connection, draining};

/// Fields in a head; more are answered with 431 (Envoy).
const MAX_HEADERS: usize = 100;
/// Bytes of a head; more are answered with 431 (Envoy: 60 KiB).
const MAX_HEAD: usize = 64 * 1024;
/// How long a listener that is gone waits for one more request on a connection that rests.
const LAST_CALL: Duration = Duration::from_secs(1);

/// What a connection hears while it serves requests.
enum Told {
    /// It is over.
    Over,
    /// It is to finish what it does.
    ToLeave,
}

pub(super) async fn serve(connection: Rc<Connection>, spoken: Spoken, stream: Prefixed<Transport>) {
    match spoken {
        Spoken::Http2 => serve_http2(connection, stream).await,
        // Only HTTP/1.1 has heads that can be waited for; HTTP/2 frames come at any time. TLS where it is not wanted is
        // HTTP/1.1 that makes no sense, and is told so.
        Spoken::Http1 | Spoken::Tls => {
            let stream = Watched { stream, pulse: connection.life.pulse() };
            serve_http1(connection, stream).await;
        }
    }
}

/// Errors of a connection are the caller's: it left, or spoke nonsense and was told so. Each request is counted on its
/// own, so there is nothing more to say here.
async fn serve_http1(connection: Rc<Connection>, stream: Watched) {
    let service = service_fn(|request| Box::pin(request::serve(Rc::clone(&connection), request)));
    let served = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut served = pin!(served);
    let told = pin!(async {
        tokio::select! {
            () = connection.life.overdue() => Told::Over,
            () = draining(&connection) => Told::ToLeave,
        }
    });
    tokio::select! {
        biased;
        ended = served.as_mut() => return log(&connection, ended),
        told = Rarely::new(told) => match told {
            Told::Over => return,
            Told::ToLeave => {}
        }
    }
    // A connection that rests is not closed at once: its caller may have sent a request a moment ago, which would be lost.
    // Who uses it often hears with the next answer that it was the last; the others are not waited for.
    connection.life.leave();
    tokio::select! {
        ended = served.as_mut() => return log(&connection, ended),
        () = connection.life.overdue() => return,
        () = last_call(&connection) => {}
    }
    served.as_mut().graceful_shutdown();
    tokio::select! {
        ended = served.as_mut() => log(&connection, ended),
        () = connection.life.overdue() => {}
    }
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

async fn serve_http2(connection: Rc<Connection>, stream: Prefixed<Transport>) {
    let service = service_fn(|request| Box::pin(request::serve(Rc::clone(&connection), request)));
    let nest = Nest::default();
    let served = http2::Builder::new(nest.clone())
        .timer(TokioTimer::new())
        .initial_stream_window_size(h2_windows::STREAM)
        .initial_connection_window_size(h2_windows::CONNECTION)
        .max_header_list_size(h2_windows::HEADER_LIST)
        .max_send_buf_size(h2_windows::SEND_BUFFER)
        .max_concurrent_streams(h2_windows::STREAMS)
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(stream), service);
    let mut served = Nested::server(nest, served);
    let told = pin!(async {
        tokio::select! {
            () = connection.life.overdue() => Told::Over,
            () = goodbye(&connection) => Told::ToLeave,
            () = connection.life.asked_to_leave() => Told::ToLeave,
        }
    });
    tokio::select! {
        biased;
        ended = &mut served => return log(&connection, ended),
        told = Rarely::new(told) => match told {
            Told::Over => return,
            Told::ToLeave => {}
        }
    }
    served.with(|served| served.graceful_shutdown());
    tokio::select! {
        ended = &mut served => log(&connection, ended),
        () = connection.life.overdue() => {}
    }
}

fn log(connection: &Connection, ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(peer = %connection.caller, %error, "the connection ended");
    }
}
