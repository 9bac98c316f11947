//! A connection arrives.
//!
//! * [`captured`]: where a redirected connection was going, and who serves it.
//! * [`accept`]: sockets, and which worker gets a connection.
//! * [`detect`]: HTTP/1.1, HTTP/2 or TLS, by the first bytes.
//! * [`admit`]: in clear text or with a certificate, as the listener wants it.
//! * [`http`]: requests one after another into [`crate::request`].
//! * [`tcp`]: bytes both ways.
//! * [`undeclared`]: whichever of the two it is, by who says what first (`first_words`).
//! * [`upgrade`]: a request that becomes a byte stream.
//! * [`life`]: how long a caller may keep us waiting; `pulse`, `frames` and `flows` are what it knows that from.
//! * [`heads`]: how much of a head is taken.

pub mod accept;
mod admit;
mod captured;
mod detect;
mod first_words;
mod flows;
mod frames;
#[doc(hidden)]
pub mod fuzzing;
pub mod heads;
mod http;
mod life;
mod pulse;
mod rest;
pub mod review;
mod tcp;
mod undeclared;
pub mod upgrade;

use std::cell::{Cell, OnceCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderValue;

use leno_config::ir::{Direction, Intake, MtlsMode, ServerTls};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::overload::callers::{CallerCount, Who};
use crate::overload::reached::Reached;
use crate::policy::grant::Grants;
use crate::policy::sticky::Ends;
use crate::stage::Stage;
use crate::state::snapshot::{Handler, Listener};
use crate::telemetry::LinkName;
use crate::telemetry::party::Link;
use crate::tls::peer::Peer;
use crate::worker::{ConnectionCount, ListenerHandle, Worker};

use admit::{Admitted, Outsider, Verified};
use captured::Captive;

pub use flows::Flow;
pub use life::Life;

/// A caller that vanished without a word is noticed after two minutes, by the kernel: that costs nothing per request,
/// unlike pings.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(20)).with_retries(3);

/// By how much the kernel is later than we are in giving up who takes nothing: whoever gives up says why.
const LATER: Duration = Duration::from_secs(5);

/// A connection that is not served yet.
#[derive(Debug)]
struct Arrival {
    worker: Rc<Worker>,
    listener: Rc<ListenerHandle>,
    caller: SocketAddr,
    local: SocketAddr,
    original: Option<SocketAddr>,
    way: Way,
    /// What is ended for callers who are not of the mesh.
    tls: Option<Arc<ServerTls>>,
    life: Rc<Life>,
}

/// What a connection carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Carries {
    /// It is not known yet.
    #[default]
    Unknown,
    /// HTTP.
    Requests,
    /// Whatever it is, it is passed on.
    Bytes,
}

/// Which of a listener's ways the bytes of a connection go (Envoy: which of its filter chains).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Way {
    /// That of all that go no other.
    #[default]
    Rest,
    /// A branch, by its place in [`Detection::branches`](leno_config::ir::Detection::branches).
    Branch(usize),
}

/// What all requests of a connection share.
#[derive(Debug)]
pub struct Connection {
    /// Its worker.
    pub worker: Rc<Worker>,
    /// The listener it came in by.
    pub listener: Rc<ListenerHandle>,
    /// The address that called.
    pub caller: SocketAddr,
    /// The address that was called: where it was going, if it was redirected.
    pub local: SocketAddr,
    /// The same, if it was redirected.
    pub original: Option<SocketAddr>,
    /// Which way its bytes go.
    pub way: Cell<Way>,
    /// What it carries, once that is known.
    pub carries: Cell<Carries>,
    /// Who called; `None`: in clear text, so nobody knows.
    pub peer: Option<Peer>,
    /// The TLS, not of the mesh, with which it came in.
    pub tls: Option<Arc<ServerTls>>,
    /// What the caller's TLS handshake wanted to reach.
    pub server_name: Option<Arc<str>>,
    /// As whom its requests are counted, where they come in.
    link: LinkName,
    /// The `x-forwarded-client-cert` of its requests.
    pub forwarded: Option<HeaderValue>,
    /// Where its bytes go, once that is settled for the whole connection (TCP) and verified.
    endpoint: OnceCell<Box<Peer>>,
    /// In which phase it is.
    pub life: Rc<Life>,
    /// Its open requests, as far as policies were asked about them.
    pub grants: Grants,
    /// It counts at its caller, where it comes in.
    _counted: Option<CallerCount>,
}

impl Connection {
    /// As whom its requests are counted, where they come in; nobody yet where they go out.
    pub fn link(&self) -> &LinkName {
        &self.link
    }

    /// Its two ends.
    pub fn ends(&self) -> Ends {
        Ends { caller: self.caller, local: self.local }
    }
}

impl Arrival {
    /// As it would be without a certificate.
    fn in_clear_text(&self) -> Connection {
        let Self { worker, listener, caller, local, original, way, tls: _, life } = self;
        Connection {
            worker: Rc::clone(worker),
            listener: Rc::clone(listener),
            caller: *caller,
            local: *local,
            original: *original,
            way: Cell::new(*way),
            carries: Cell::new(Carries::Bytes),
            peer: None,
            tls: None,
            server_name: None,
            link: link(worker, listener, None),
            forwarded: None,
            endpoint: OnceCell::new(),
            life: Rc::clone(life),
            grants: Grants::default(),
            _counted: None,
        }
    }

    /// A limit was reached before it was served.
    #[cold]
    fn reached(&self, limit: Reached) {
        self.worker.overload.reached.add(limit);
    }

    /// Lets it in; from now on, a change of policy or roots can end it. `None`: its caller has too many.
    fn enter(self, verified: Option<Box<Verified>>) -> Option<Rc<Connection>> {
        self.enter_for(verified, None)
    }

    /// The same for a caller without a certificate of the mesh who has named somebody in its handshake: us, or somebody
    /// behind us.
    fn enter_for(self, verified: Option<Box<Verified>>, name: Option<Arc<str>>) -> Option<Rc<Connection>> {
        let counted = self.counted(verified.as_deref())?;
        let Self { worker, listener, caller, local, original, way, tls, life } = self;
        let (peer, server_name, forwarded) = match verified.map(|verified| *verified) {
            Some(Verified { peer, server_name, forwarded }) => (Some(peer), server_name, forwarded),
            None => (None, name, None),
        };
        let (way, carries) = (Cell::new(way), Cell::default());
        let (endpoint, grants) = (OnceCell::new(), Grants::default());
        let link = link(&worker, &listener, peer.as_ref());
        let connection = Rc::new(Connection {
            worker,
            listener,
            caller,
            local,
            original,
            way,
            carries,
            peer,
            tls,
            server_name,
            link,
            forwarded,
            endpoint,
            life,
            grants,
            _counted: counted,
        });
        connection.worker.entered(&connection);
        // The handshake takes a while, and what it was judged by may be out of date: nobody would look again.
        if connection.peer.as_ref().is_some_and(|peer| peer.generation.get() != connection.worker.tls.generation()) {
            review::review(&connection);
        }
        Some(connection)
    }

    /// Counts it at its caller: where it comes in, since who calls out is the own app alone. `None`: that is one too many.
    fn counted(&self, verified: Option<&Verified>) -> Option<Option<CallerCount>> {
        let Self { worker, listener, caller, .. } = self;
        match listener.view().listener.config.direction {
            Direction::Outbound => Some(None),
            Direction::Inbound => {
                let who = verified.map_or(Who::Address(caller.ip()), |one| Who::Identity(one.peer.id.clone()));
                let counted = worker.overload.caller(who);
                if counted.is_none() && worker.quiet.allows() {
                    let who = verified.map_or_else(|| caller.ip().to_string(), |one| one.peer.id.to_string());
                    tracing::info!(caller = %who, "closed a connection: its caller has too many (limits.connections_per_caller)");
                }
                Some(Some(counted?))
            }
        }
    }
}

/// As whom the requests of a connection are counted.
fn link(worker: &Worker, listener: &ListenerHandle, peer: Option<&Peer>) -> LinkName {
    let labels = worker.meters.labels();
    match (listener.view().listener.config.direction, peer) {
        (Direction::Inbound, Some(peer)) => labels.links.intern(Link::with(peer, None)),
        (Direction::Inbound, None) => Arc::clone(labels.in_clear_text()),
        // The own app, which is known; who is called is not yet.
        (Direction::Outbound, _) => Arc::clone(labels.links.unknown()),
    }
}

/// Serves one connection to its end.
pub async fn serve(
    worker: Rc<Worker>,
    listener: Rc<ListenerHandle>,
    stream: TcpStream,
    caller: SocketAddr,
    counted: ConnectionCount,
) {
    // What a caller does not take is not kept for it by the kernel either, once we have given it up.
    let stall = worker.overload.limits().patience.write_stall;
    let prepared = stream
        .set_nodelay(true)
        .and_then(|()| SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE))
        .and_then(|()| SockRef::from(&stream).set_tcp_user_timeout(Some(stall + LATER)));
    let local = match prepared.and_then(|()| stream.local_addr()) {
        Ok(local) => captured::canonical(local),
        Err(error) => return tracing::debug!(peer = %caller, %error, "the caller is gone already"),
    };
    let caller = captured::canonical(caller);
    let (listener, original) = match listener.view().listener.config.intake {
        Intake::Bound | Intake::Handed => (listener, None),
        Intake::Capture => match captured::hand_over(&worker, &listener, &stream, (caller, local)) {
            Some(Captive { listener, meant }) => (listener, Some(meant)),
            None => return,
        },
    };
    let local = original.unwrap_or(local);
    let (kind, mode, tls, way) = {
        let view = listener.view();
        let config = &view.listener.config;
        (Kind::of(&view.listener.handler), config.mtls, config.tls.clone(), way(&view.listener, original))
    };
    let life = worker.watch(Rc::new(Life::new(worker.stats.clone())));
    if counted.is_surplus() {
        // It can be told only in words that it has not asked to be encrypted: a handshake would cost more than it saves.
        if kind != Kind::Http || mode == MtlsMode::Strict || tls.is_some() {
            return;
        }
        life.turn_away();
    }
    let arrival = Arrival { worker, listener, caller, local, original, way, tls, life };
    match kind {
        _ if arrival.tls.is_some() => Box::pin(outsider(arrival, kind, stream)).await,
        // On the heap, and gone when it is over: a handshake needs more room than a connection afterwards.
        Kind::Http => {
            if let Some(Admitted { spoken, stream, caller }) = Box::pin(admit::http(&arrival, mode, stream)).await
                && let Some(connection) = arrival.enter(caller)
            {
                connection.carries.set(Carries::Requests);
                http::serve(connection, spoken, stream).await;
            }
        }
        Kind::Tcp => Box::pin(tcp::serve(arrival, mode, stream)).await,
        Kind::Undeclared => Box::pin(undeclared::serve(arrival, mode, stream)).await,
    }
    drop(counted);
}

/// Serves a caller who is not of the mesh, where a listener ends TLS for such.
async fn outsider(arrival: Arrival, kind: Kind, stream: TcpStream) {
    let Some(Outsider { stream, server_name }) = admit::outside(&arrival, kind, stream).await else { return };
    match kind {
        Kind::Http => {
            let Some((spoken, stream)) = admit::requests(&arrival, stream).await else { return };
            if let Some(connection) = arrival.enter_for(None, server_name) {
                connection.carries.set(Carries::Requests);
                http::serve(connection, spoken, stream).await;
            }
        }
        Kind::Tcp | Kind::Undeclared => {
            if let Some(connection) = arrival.enter_for(None, server_name) {
                tcp::serve_admitted(connection, stream).await;
            }
        }
    }
}

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Tcp,
    Undeclared,
}

impl Kind {
    fn of(handler: &Handler) -> Self {
        match handler {
            Handler::Http(_) => Self::Http,
            Handler::Tcp(_) => Self::Tcp,
            Handler::Detect(_) => Self::Undeclared,
        }
    }
}

/// Where the bytes of a connection go that was going to `original`.
fn way(listener: &Listener, original: Option<SocketAddr>) -> Way {
    let branch = listener.detection().zip(original).and_then(|(detection, to)| detection.by_destination(to.ip()));
    branch.map_or(Way::Rest, Way::Branch)
}

/// Ready when the process or the listener drains.
async fn draining(connection: &Connection) {
    let mut process = connection.worker.stage.clone();
    let mut listener = connection.listener.closing();
    // An error means that the sender is gone, which is the end as well.
    tokio::select! {
        _ = process.wait_for(|stage| *stage >= Stage::Draining) => {}
        _ = listener.wait_for(|closing| *closing) => {}
    }
}
