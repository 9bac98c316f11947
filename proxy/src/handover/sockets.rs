//! The sockets that go from one process to the next.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::wire::Part;
use super::{Gate, WireError};
use crate::downstream::accept::Door;

/// What came from the process before and is not used yet.
#[derive(Debug, Default)]
pub struct Inherited {
    listeners: Vec<(Door, std::net::TcpListener)>,
    own: Vec<(String, SocketAddr, std::net::TcpListener)>,
    /// The lock of the state directory.
    pub(super) lock: Option<OwnedFd>,
    /// Where the next process will ask.
    pub(super) door: Option<OwnedFd>,
}

impl Inherited {
    /// Takes a descriptor for what the other process says it is, if it is that.
    pub(super) fn put(&mut self, part: Part, descriptor: OwnedFd) -> Result<(), WireError> {
        match part {
            Part::Listener { name, asked } => self.listeners.push(((name, asked), listener(descriptor)?)),
            Part::Own { name, asked } => self.own.push((name, asked, listener(descriptor)?)),
            Part::Lock => self.lock = Some(descriptor),
            Part::Door => self.door = Some(descriptor),
        }
        Ok(())
    }

    /// How many sockets there are.
    pub(super) fn len(&self) -> usize {
        self.listeners.len() + self.own.len()
    }

    /// The socket of a listener: the one that had its name, or else the one that was asked to be at the very address.
    pub fn take_listener(&mut self, door: &Door) -> Option<std::net::TcpListener> {
        let asked = door.1;
        let named = self.listeners.iter().position(|(there, _)| there == door);
        let at =
            named.or_else(|| self.listeners.iter().position(|((_, there), _)| *there == asked && asked.port() != 0))?;
        Some(self.listeners.swap_remove(at).1)
    }

    /// The sockets for operators.
    fn take_own(&mut self) -> Vec<(String, SocketAddr, std::net::TcpListener)> {
        std::mem::take(&mut self.own)
    }

    /// Lets go of what nobody wanted. The process before still has it, and serves who waits there.
    pub fn clear(&mut self) {
        self.listeners.clear();
    }
}

/// A descriptor that is a listening TCP socket.
fn listener(descriptor: OwnedFd) -> Result<std::net::TcpListener, WireError> {
    let listens = rustix::net::sockopt::socket_acceptconn(&descriptor).map_err(io::Error::from)?;
    let socket = std::net::TcpListener::from(descriptor);
    // Fails where it is of another family.
    socket.local_addr()?;
    if !listens {
        return Err(WireError::Unexpected("a socket that does not listen".to_owned()));
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The sockets at which this process answers operators, the kubelet and scrapers. On the control thread alone.
#[derive(Debug)]
pub struct OwnSockets {
    inherited: RefCell<Vec<(String, SocketAddr, std::net::TcpListener)>>,
    open: RefCell<Vec<(Part, Rc<TcpListener>)>>,
    gate: watch::Receiver<Gate>,
}

impl OwnSockets {
    /// With those of the process before.
    pub fn new(inherited: &mut Inherited, gate: watch::Receiver<Gate>) -> Self {
        Self { inherited: RefCell::new(inherited.take_own()), open: RefCell::default(), gate }
    }

    /// The socket for `name`: the one from the process before if it was asked to be there too, else a new one.
    pub async fn open(&self, name: &str, asked: SocketAddr) -> io::Result<Rc<TcpListener>> {
        let socket = match self.take(name, asked) {
            Some(socket) => TcpListener::from_std(socket)?,
            None => TcpListener::bind(asked).await?,
        };
        let socket = Rc::new(socket);
        self.open.borrow_mut().push((Part::Own { name: name.to_owned(), asked }, Rc::clone(&socket)));
        Ok(socket)
    }

    fn take(&self, name: &str, asked: SocketAddr) -> Option<std::net::TcpListener> {
        let mut inherited = self.inherited.borrow_mut();
        let at = inherited.iter().position(|(there, address, _)| there == name && *address == asked)?;
        Some(inherited.swap_remove(at).2)
    }

    /// Whether connections are accepted.
    pub fn gate(&self) -> watch::Receiver<Gate> {
        self.gate.clone()
    }

    /// Copies for the next process.
    pub fn lend(&self) -> io::Result<Vec<(Part, OwnedFd)>> {
        let open = self.open.borrow();
        open.iter().map(|(part, socket)| Ok((part.clone(), socket.as_fd().try_clone_to_owned()?))).collect()
    }

    /// Lets go of all; who accepts on one lets go of it when the gate is gone.
    pub fn forget(&self) {
        self.open.borrow_mut().clear();
        self.inherited.borrow_mut().clear();
    }
}
