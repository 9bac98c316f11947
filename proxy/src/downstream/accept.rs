//! Sockets, and which worker gets a connection.
//!
//! One socket per listener, owned here and never closed while connections wait in its queue (SO_REUSEPORT sockets lose
//! theirs). With one worker the acceptor runs on that worker's thread and hands over in place; with more it has a
//! thread of its own and gives each connection to the worker that has the fewest.
//!
//! Where there are no descriptors left, a caller would wait in the queue for an answer that nobody can give, and the
//! acceptor would be told again and again that somebody waits. So one descriptor is kept to spare: it is given up to accept
//! and close whoever waits, and taken again, ten times a second and not more, until descriptors come back.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};

use crate::handover::Gate;
use crate::overload::budget::{self, Pressure};
use crate::overload::reached::Reached;
use crate::overload::{Entry, Overload};
use crate::telemetry::{Quiet, WorkerStats};
use crate::worker::{Command, ConnectionCount, Worker};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// After an error that is not one connection's (no descriptors left), so that the acceptor does not spin; and where memory
/// has run out, until it is looked at again.
const PAUSE: Duration = Duration::from_millis(100);
/// Callers that are turned away for want of descriptors, between two pauses.
const TURNED_AWAY: usize = 64;

/// One of a listener's sockets: the listener's name, and the address that was asked for.
pub type Door = (Arc<str>, SocketAddr);

/// What the acceptor is told.
#[derive(Debug)]
pub enum AcceptorCommand {
    /// A listener's socket.
    Listen(Door, std::net::TcpListener),
    /// The listener is gone; connections that wait in its queue are still handed over. The sender is dropped when that
    /// is done.
    Close(Door, oneshot::Sender<()>),
    /// Copies of all sockets are wanted, for a process that takes over.
    Lend(oneshot::Sender<Vec<(Door, OwnedFd)>>),
}

/// Binds a listener's socket. The address may be in TIME_WAIT from the process before, never shared with a living one.
/// `[::]` does not stand for IPv4 as well (Envoy): that is an address of its own.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether an address cannot be bound because the host has no such addresses, IPv6 say.
pub fn is_of_the_host(error: &io::Error) -> bool {
    let family = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(family)
}

/// Whom connections are given to.
#[derive(Debug)]
pub enum Hand {
    /// The worker on this very thread.
    InPlace(Rc<Worker>),
    /// The least busy of several.
    Over(Vec<WorkerPort>),
}

/// How the acceptor reaches a worker.
#[derive(Debug, Clone)]
pub struct WorkerPort {
    /// Its ear.
    pub commands: mpsc::Sender<Command>,
    /// How busy it is.
    pub stats: Arc<WorkerStats>,
}

/// A listener's socket, and how its task is told to close it.
struct Listening {
    socket: Rc<TcpListener>,
    close: oneshot::Sender<oneshot::Sender<()>>,
}

/// Accepts on all listeners until the other end is gone; nothing before the gate is open.
pub async fn run(
    mut commands: mpsc::Receiver<AcceptorCommand>,
    hand: Hand,
    overload: Arc<Overload>,
    gate: watch::Receiver<Gate>,
) {
    tokio::task::spawn_local(budget::watch(Arc::clone(&overload)));
    let hand = Rc::new((hand, overload, Spare::default()));
    let mut open: HashMap<Door, Listening> = HashMap::new();
    while let Some(command) = commands.recv().await {
        match command {
            AcceptorCommand::Listen(door, socket) => match TcpListener::from_std(socket) {
                Ok(socket) => {
                    let (close, closed) = oneshot::channel();
                    let (name, socket) = (Arc::clone(&door.0), Rc::new(socket));
                    open.insert(door, Listening { socket: Rc::clone(&socket), close });
                    tokio::task::spawn_local(accept(socket, name, Rc::clone(&hand), closed, gate.clone()));
                }
                Err(error) => tracing::error!(listener = %door.0, %error, "the listener's socket cannot be used"),
            },
            AcceptorCommand::Close(door, done) => {
                if let Some(Listening { close, .. }) = open.remove(&door) {
                    // An error means that the socket is closed already.
                    let _ = close.send(done);
                }
            }
            AcceptorCommand::Lend(lent) => {
                let copies = open.iter().filter_map(|(door, Listening { socket, .. })| {
                    let copy = socket.as_fd().try_clone_to_owned();
                    let copy = copy.inspect_err(|error| {
                        tracing::warn!(listener = %door.0, %error, "the listener's socket cannot be handed over");
                    });
                    Some((door.clone(), copy.ok()?))
                });
                // An error means that nobody waits any more.
                let _ = lent.send(copies.collect());
            }
        }
    }
}

async fn accept(
    socket: Rc<TcpListener>,
    name: Arc<str>,
    hand: Rc<(Hand, Arc<Overload>, Spare)>,
    mut closed: oneshot::Receiver<oneshot::Sender<()>>,
    mut gate: watch::Receiver<Gate>,
) {
    tokio::select! {
        // An error means that the process is at its end.
        _ = gate.wait_for(|gate| *gate != Gate::Shut) => {}
        _done = &mut closed => return,
    }
    let (hand, overload, spare) = &*hand;
    loop {
        if overload.budget.pressure() == Pressure::Full && closed.is_empty() {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        // In this order: the queue is empty when the end is seen, so nobody who got in is turned away. What is received
        // at the end is dropped last, which tells that the socket is closed.
        let accepted = tokio::select! {
            biased;
            accepted = socket.accept() => accepted,
            done = &mut closed => {
                drop(socket);
                drop(done);
                return;
            }
        };
        match accepted {
            Ok((stream, peer)) => hand.over(stream, peer, &name, overload.entry()).await,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                let turned_away = spare.turn_away(&socket).await;
                (0..turned_away).for_each(|_| overload.reached.add(Reached::Descriptors));
                if spare.may_tell() {
                    tracing::warn!(
                        listener = %name, %error, turned_away,
                        "cannot accept connections for the moment; let the process open more files (ulimit -n)"
                    );
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// A descriptor that is kept to be given up.
#[derive(Debug)]
struct Spare {
    held: RefCell<Option<File>>,
    quiet: Quiet,
}

impl Default for Spare {
    fn default() -> Self {
        Self { held: RefCell::new(one()), quiet: Quiet::default() }
    }
}

/// Any descriptor.
fn one() -> Option<File> {
    File::open("/dev/null").ok()
}

impl Spare {
    /// Closes those who wait, in the place of the spare descriptor; how many.
    async fn turn_away(&self, socket: &TcpListener) -> usize {
        let mut turned_away = 0;
        if self.held.take().is_some() {
            // Who waits is there at once; nobody is waited for.
            while turned_away < TURNED_AWAY
                && let Some(Ok(accepted)) = poll_fn(|context| Poll::Ready(at_once(socket.poll_accept(context)))).await
            {
                drop(accepted);
                turned_away += 1;
            }
        }
        *self.held.borrow_mut() = one();
        turned_away
    }

    /// Whether a line in the log is not one of too many.
    fn may_tell(&self) -> bool {
        self.quiet.allows()
    }
}

fn at_once<T>(polled: Poll<T>) -> Option<T> {
    match polled {
        Poll::Ready(ready) => Some(ready),
        Poll::Pending => None,
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

impl Hand {
    async fn over(&self, stream: TcpStream, peer: SocketAddr, listener: &Arc<str>, entry: Entry) {
        if entry == Entry::Full {
            return tracing::debug!(%peer, "closed a connection: there are too many (limits.connections)");
        }
        match self {
            Self::InPlace(worker) => {
                let counted = ConnectionCount::new(Arc::clone(&worker.stats), entry);
                worker.serve(stream, peer, listener, counted);
            }
            Self::Over(workers) => {
                let least = workers.iter().min_by_key(|one| one.stats.connections_active.load(Ordering::Relaxed));
                if let (Some(worker), Ok(stream)) = (least, stream.into_std()) {
                    // Counted here already: a burst must not find the same worker idle again and again.
                    let counted = ConnectionCount::new(Arc::clone(&worker.stats), entry);
                    let connection = Command::Connection(stream, peer, Arc::clone(listener), counted);
                    // An error means that the worker is gone, and with it the process.
                    let _ = worker.commands.send(connection).await;
                }
            }
        }
    }
}
