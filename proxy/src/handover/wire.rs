//! What the two processes say: packets of JSON over a Unix socket that keeps packets apart (SOCK_SEQPACKET), with
//! descriptors beside them (SCM_RIGHTS).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg, sockopt,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Changes whenever packets do. [`Hello`] may only grow, so that any two versions can tell each other.
pub(super) const PROTOCOL: u32 = 1;
/// Descriptors in one packet; the kernel takes 253.
pub(super) const AT_ONCE: usize = 32;
/// Bytes of one packet: names of so many listeners fit in well.
const LARGEST: usize = 128 << 10;
/// Sockets that one process may hand to another.
pub(super) const MOST: usize = 65_536;

/// Why the two do not understand each other.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The system says no.
    #[error("the other process cannot be talked to")]
    Io(#[from] io::Error),
    /// Not what this version expects.
    #[error("the other process said something unexpected ({0}); is it a leno-proxy?")]
    Unexpected(String),
    /// Of another user.
    #[error(
        "process {process} belongs to user {user}, this one to user {own}; only processes of one user take over from each other"
    )]
    Stranger {
        /// Its number.
        process: i32,
        /// Whose it is.
        user: u32,
        /// Whose this one is.
        own: u32,
    },
    /// It is gone.
    #[error("the other process has ended")]
    Gone,
    /// It is silent.
    #[error("the other process did not answer in time")]
    Late,
    /// It does not want to.
    #[error("the running proxy refuses: {0}")]
    Refused(String),
}

/// What a new process says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Which protocol it speaks.
    pub protocol: u32,
    /// Its version, for people.
    pub version: String,
    /// Whose proxy it is to be.
    pub node: String,
    /// Its number.
    pub process: u32,
}

/// What a descriptor is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The socket of a listener, as it was asked for.
    Listener {
        /// Its name.
        name: Arc<str>,
        /// The address that was asked for.
        asked: SocketAddr,
    },
    /// A socket for operators.
    Own {
        /// What it is for.
        name: String,
        /// The address that was asked for.
        asked: SocketAddr,
    },
    /// The lock of the state directory.
    Lock,
    /// The socket at which the next one will ask.
    Door,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// The new process wants to take over.
    Hello(Hello),
    /// It may not, and why.
    Refused(String),
    /// Descriptors, in this order; `last`: no more follow.
    Sockets {
        /// What they are.
        parts: Vec<Part>,
        /// Whether that was all.
        last: bool,
    },
    /// The new process could serve.
    Ready,
    /// It is to.
    Yours,
    /// It does.
    Serving,
    /// The running process goes on by itself, and why.
    TakenBack(String),
}

/// A line to the other process.
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

impl Channel {
    /// Over a connected socket, to a process of the same user. Tokio's type is for streams of bytes, but all that is used of
    /// it is that it waits; packets are sent and received below.
    pub(super) fn new(socket: UnixStream) -> Result<Self, WireError> {
        let peer = sockopt::socket_peercred(&socket).map_err(io::Error::from)?;
        let own = rustix::process::geteuid();
        if peer.uid != own {
            let (process, user) = (peer.pid.as_raw_nonzero().get(), peer.uid.as_raw());
            return Err(WireError::Stranger { process, user, own: own.as_raw() });
        }
        Ok(Self(socket))
    }

    /// Says something, with descriptors.
    pub(super) async fn send(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        let bytes = serde_json::to_vec(message).map_err(io::Error::from)?;
        let sent = self.0.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(io::Error::other("too many descriptors for one packet"));
            }
            Ok(sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?)
        });
        match sent.await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                Err(WireError::Gone)
            }
            Err(error) => Err(WireError::Io(error)),
        }
    }

    /// Hears something. Nothing is lost when it is given up while it waits.
    pub(super) async fn receive(&self) -> Result<(Message, Vec<OwnedFd>), WireError> {
        let received = self.0.async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut bytes = vec![0; LARGEST];
            let packet = recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let descriptors: Vec<OwnedFd> = control.drain().flat_map(descriptors).collect();
            bytes.truncate(packet.bytes);
            let is_whole = !packet.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
            Ok((bytes, descriptors, is_whole))
        });
        let (bytes, descriptors, is_whole) = match received.await {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(WireError::Gone),
            Err(error) => return Err(WireError::Io(error)),
        };
        if bytes.is_empty() {
            return Err(WireError::Gone);
        }
        if !is_whole {
            return Err(WireError::Unexpected("a packet that is too large".to_owned()));
        }
        let message = serde_json::from_slice(&bytes).map_err(|error| WireError::Unexpected(error.to_string()))?;
        Ok((message, descriptors))
    }

    /// Says what the descriptors are, in as many packets as they need.
    pub(super) async fn send_sockets(&self, sockets: &[(Part, OwnedFd)]) -> Result<(), WireError> {
        let mut chunks = sockets.chunks(AT_ONCE).peekable();
        loop {
            let chunk = chunks.next().unwrap_or_default();
            let last = chunks.peek().is_none();
            let parts = chunk.iter().map(|(part, _)| part.clone()).collect();
            let descriptors: Vec<BorrowedFd<'_>> = chunk.iter().map(|(_, descriptor)| descriptor.as_fd()).collect();
            self.send(&Message::Sockets { parts, last }, &descriptors).await?;
            if last {
                return Ok(());
            }
        }
    }
}

/// The descriptors of one message beside a packet.
fn descriptors(message: RecvAncillaryMessage<'_>) -> Vec<OwnedFd> {
    match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        // Not asked for; the type can grow.
        _ => Vec::new(),
    }
}
