//! A connection of which nobody has declared what it carries: each tells for itself.
//!
//! The endpoint that bytes would go to is called in parallel with listening to the caller, if policy would let such a
//! caller in. What is heard first decides ([`super::first_words`]): neither side ever waits for the other on our account,
//! so an app that greets its callers (MySQL, SMTP) is heard at once, and HTTP loses nothing either.
//!
//! | it turns out to be | the connection that was opened meanwhile |
//! |---|---|
//! | bytes | carries them; what either side has said so far goes first |
//! | HTTP/1 | waits in the pool for the request, if the endpoint speaks clear text and none waits there; else it is closed |
//! | HTTP/2, the mesh's TLS | is closed, or was never finished |
//!
//! Where TLS of the mesh is ended, the same is asked once more of what is inside. A TCP listener that takes both clear
//! text and TLS (PERMISSIVE) is served here too: there, whatever is not the mesh's TLS is bytes.

use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use leno_config::ir::{Condition, Direction, MtlsMode};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::policy::enforce;
use crate::telemetry::add;
use crate::tls::transport::{Prefixed, Transport};

use super::admit::{self, Verified};
use super::detect::Spoken;
use super::first_words::{Detection, Event, Expected, Known, Verdict};
use super::tcp::{self, NoUpstream, Upstream};
use super::{Arrival, Carries, Connection, Way, http};

/// Bytes that are read at a time while it is not known what they are.
const READ: usize = 2048;

/// Serves one connection to its end.
pub(super) async fn serve(arrival: Arrival, mode: MtlsMode, stream: TcpStream) {
    let stream = Prefixed::new(Bytes::new(), stream);
    match mode {
        MtlsMode::Strict => {
            let Some((stream, caller)) = admit::tcp_strict(&arrival, stream).await else { return };
            inside(arrival, caller, stream).await;
        }
        MtlsMode::Disable | MtlsMode::Permissive => outside(arrival, mode, stream).await,
    }
}

/// In clear text, as far as it is known.
async fn outside(arrival: Arrival, mode: MtlsMode, stream: Prefixed<TcpStream>) {
    let would_be = arrival.in_clear_text();
    let mesh_tls = mode == MtlsMode::Permissive;
    let expected = Expected { http: looks_for_http(&would_be), mesh_tls, names: looks_for_names(&would_be) };
    let Some(heard) = listen(&would_be, stream, expected).await else { return };
    let Heard { stream, verdict, calling } = heard;
    match verdict {
        Verdict::Mesh => {
            drop(calling);
            let Some((stream, caller)) = admit::accept(&arrival, stream).await else { return };
            inside(arrival, caller, stream).await;
        }
        Verdict::Http(_) | Verdict::Bytes(_) | Verdict::Nothing => {
            let name = match &verdict {
                Verdict::Bytes(Known::Tls(name)) => name.clone(),
                Verdict::Bytes(Known::Endpoint | Known::Caller | Known::Silence)
                | Verdict::Http(_)
                | Verdict::Mesh
                | Verdict::Nothing => None,
            };
            let Some(connection) = arrival.enter_for(None, name) else { return };
            let heard = Heard { stream: stream.map(Transport::Plain), verdict, calling };
            settle(connection, heard).await;
        }
    }
}

/// Within the mesh's TLS. What a certificate allows is known now, so the app is called as soon as policy lets it.
async fn inside(arrival: Arrival, caller: Box<Verified>, stream: Transport) {
    let Some(connection) = arrival.enter(Some(caller)) else { return };
    let expected = Expected { http: looks_for_http(&connection), mesh_tls: false, names: false };
    let stream = Prefixed::new(Bytes::new(), stream);
    let heard = match expected.http {
        true => listen(&connection, stream, expected).await,
        // Bytes, whatever they are.
        false => Some(Heard { stream, verdict: Verdict::Bytes(Known::Caller), calling: Calling::NotYet }),
    };
    if let Some(heard) = heard {
        settle(Rc::clone(&connection), heard).await;
    }
}

/// Connections to a range of addresses that is somebody's carry bytes, whatever they are (Envoy: a filter chain by
/// destination is the more specific match).
fn looks_for_http(connection: &Connection) -> bool {
    let view = connection.listener.view();
    connection.way.get() == Way::Rest && view.listener.http().is_some()
}

/// Whether a handshake may lead elsewhere than the rest of the bytes.
fn looks_for_names(connection: &Connection) -> bool {
    let view = connection.listener.view();
    let has_names = |detection: &leno_config::ir::Detection| {
        detection.branches().iter().any(|branch| matches!(branch.condition, Condition::ServerName(_)))
    };
    connection.way.get() == Way::Rest && view.listener.detection().is_some_and(has_names)
}

/// What was heard, and how far the call to the endpoint has come.
struct Heard<'c, S> {
    stream: Prefixed<S>,
    verdict: Verdict,
    calling: Calling<'c>,
}

/// The call to the endpoint that bytes would go to.
enum Calling<'c> {
    NotYet,
    UnderWay(Pin<Box<dyn Future<Output = Result<Upstream, NoUpstream>> + 'c>>),
    Over(Box<Result<Upstream, NoUpstream>>),
}

/// Listens to both sides until it is known what the connection carries. `None`: it is over.
async fn listen<'c, S>(connection: &'c Connection, stream: Prefixed<S>, expected: Expected) -> Option<Heard<'c, S>>
where
    S: AsyncRead + Unpin,
{
    let mut stream = stream;
    let may_call = enforce::may_call(connection);
    let mut calling = match may_call {
        true => Calling::UnderWay(Box::pin(tcp::open(connection))),
        false => Calling::NotYet,
    };
    let patience = &connection.worker.overload.limits().patience;
    let mut detection = Detection::new(expected, Instant::now(), (patience.first_byte, patience.handshake));
    let mut heard = Vec::new();
    let mut ended = false;
    let verdict = loop {
        heard.reserve(READ);
        let read = tokio::select! {
            // The caller first: who asks for something in words that are known needs no other call.
            biased;
            read = stream.read_buf(&mut heard), if !ended => Some(read.ok()?),
            event = calling.next() => match detection.on(event, Instant::now()) {
                Some(verdict) => break verdict,
                None => continue,
            },
            () = tokio::time::sleep_until(detection.deadline()) => None,
            () = connection.life.overdue() => return None,
        };
        let event = match read {
            Some(0) if !may_call => return None,
            Some(0) => {
                ended = true;
                Event::Ended
            }
            Some(_) => Event::Heard(&heard),
            None => Event::Late,
        };
        if let Some(verdict) = detection.on(event, Instant::now()) {
            break verdict;
        }
    };
    if verdict == Verdict::Nothing {
        return None;
    }
    if expected.http {
        count(connection, &verdict);
    }
    stream.unread(heard.into());
    Some(Heard { stream, verdict, calling })
}

impl Calling<'_> {
    /// Ready when the endpoint has something to say, or when it turns out that there is none.
    async fn next(&mut self) -> Event<'static> {
        if let Self::UnderWay(opening) = self {
            let opened = opening.as_mut().await;
            let failed = opened.is_err();
            *self = Self::Over(Box::new(opened));
            if failed {
                return Event::Unreachable;
            }
        }
        match self {
            Self::Over(opened) => match &mut **opened {
                Ok(upstream) => {
                    upstream.hear().await;
                    Event::Answered
                }
                Err(_) => std::future::pending().await,
            },
            Self::NotYet | Self::UnderWay(_) => std::future::pending().await,
        }
    }

    /// The connection, for the bytes of one that was let in.
    async fn over(self, connection: &Connection) -> Result<Upstream, NoUpstream> {
        match self {
            Self::NotYet => tcp::open(connection).await,
            Self::UnderWay(opening) => opening.await,
            Self::Over(opened) => *opened,
        }
    }

    /// The connection is not needed after all; it can carry the request that comes.
    async fn spare(self, connection: &Connection, spoken: Spoken) {
        match (self, spoken) {
            (Self::Over(opened), Spoken::Http1) => {
                if let Ok(upstream) = *opened {
                    upstream.keep_for_requests(&connection.worker).await;
                }
            }
            (Self::Over(_) | Self::UnderWay(_) | Self::NotYet, _) => {}
        }
    }
}

/// It is known what it carries.
async fn settle(connection: Rc<Connection>, heard: Heard<'_, Transport>) {
    let Heard { stream, verdict, calling } = heard;
    match verdict {
        Verdict::Http(spoken) => {
            calling.spare(&connection, spoken).await;
            connection.carries.set(Carries::Requests);
            http::serve(connection, spoken, stream).await;
        }
        Verdict::Bytes(_) | Verdict::Mesh | Verdict::Nothing => {
            let calling = match by_server_name(&connection) {
                Some(way) => {
                    connection.way.set(way);
                    Calling::NotYet
                }
                None => calling,
            };
            let Some(record) = tcp::let_in(connection) else { return };
            let upstream = calling.over(record.connection()).await;
            tcp::pass(record, stream, upstream).await;
        }
    }
}

/// Where TLS for a name goes, if that is elsewhere than the rest.
fn by_server_name(connection: &Connection) -> Option<Way> {
    let name = connection.server_name.as_deref().filter(|_| connection.peer.is_none())?;
    if connection.way.get() != Way::Rest {
        return None;
    }
    let view = connection.listener.view();
    view.listener.detection()?.by_server_name(name).map(Way::Branch)
}

/// Counts what it turned out to be, and says where somebody had better declare it.
fn count(connection: &Connection, verdict: &Verdict) {
    let stats = &connection.worker.stats;
    let counter = match verdict {
        Verdict::Http(Spoken::Http1) => &stats.detected_http1,
        Verdict::Http(Spoken::Http2) => &stats.detected_http2,
        Verdict::Http(Spoken::Tls) | Verdict::Mesh | Verdict::Bytes(Known::Tls(_)) => &stats.detected_tls,
        Verdict::Bytes(Known::Caller) => &stats.detected_bytes,
        Verdict::Bytes(Known::Endpoint) => &stats.detected_greeting,
        Verdict::Bytes(Known::Silence) => &stats.detected_nothing,
        Verdict::Nothing => return,
    };
    add(counter, 1);
    if *verdict == Verdict::Bytes(Known::Silence) && connection.worker.quiet.allows() {
        let view = connection.listener.view();
        let (listener, local, peer) = (&view.listener.config.name, connection.local, connection.caller);
        let whose = match view.listener.config.direction {
            Direction::Inbound => "own",
            Direction::Outbound => "called",
        };
        tracing::info!(
            %listener, %local, %peer,
            "nobody has said what this connection carries, so it is bytes: name port {} of the {whose} service `tcp-…` or \
             `http-…`, or set its appProtocol",
            local.port()
        );
    }
}

#[cfg(test)]
mod tests;
