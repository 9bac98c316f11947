//! What the fuzz targets (`tests/fuzz`) ask of the machinery around a connection, which is otherwise nobody's business.
//!
//! Everything else that they feed is public already. Behind no feature of Cargo: a feature would be unified into every build
//! of the workspace or compile the tree a second time, while functions that no program calls are in no program.

use std::net::SocketAddr;

use bytes::Bytes;
use leno_config::ir::Direction;
use tokio::io::AsyncRead;

use crate::overload::Limits;

use super::captured::{self, Ours};
use super::detect::{self, Spoken};
use super::first_words::Words;

/// What the first bytes of a connection are taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum First {
    /// HTTP/1.1, or something that is answered in its words.
    Http1,
    /// HTTP/2.
    Http2,
    /// TLS; where nothing is declared, TLS of the mesh.
    Tls,
    /// TLS with somebody else, maybe by name.
    OtherTls(Option<String>),
    /// Bytes.
    Other,
    /// Too little to tell.
    TooLittle,
}

impl From<Spoken> for First {
    fn from(spoken: Spoken) -> Self {
        match spoken {
            Spoken::Http1 => Self::Http1,
            Spoken::Http2 => Self::Http2,
            Spoken::Tls => Self::Tls,
        }
    }
}

/// Where HTTP is declared: what the caller speaks, and the bytes that were read to know.
pub async fn declared(stream: &mut (impl AsyncRead + Unpin)) -> (First, Bytes) {
    match detect::detect(stream, &Limits::default().patience).await {
        Ok((spoken, read)) => (spoken.into(), read),
        Err(_) => (First::TooLittle, Bytes::new()),
    }
}

/// Where nothing is declared: what all that a caller has `heard` say so far is.
pub fn undeclared(heard: &[u8]) -> First {
    match Words::of(heard) {
        Words::Few { .. } | Words::HalfHello => First::TooLittle,
        Words::Http(spoken) => spoken.into(),
        Words::Mesh => First::Tls,
        Words::OtherTls(name) => First::OtherTls(name.map(|name| name.to_string())),
        Words::Other => First::Other,
    }
}

/// What belongs to a proxy, as the loop guard sees it.
#[derive(Debug, Clone, Default)]
pub struct Belongings {
    /// Addresses of its listeners.
    pub listeners: Vec<SocketAddr>,
    /// Connections that it has opened: from, to.
    pub opened: Vec<(SocketAddr, SocketAddr)>,
}

impl Ours for Belongings {
    fn listens(&self, address: SocketAddr) -> bool {
        self.listeners.contains(&address)
    }

    fn opened(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.opened.contains(&(from, to))
    }
}

/// Where a connection of `caller` that was accepted at `local` goes on to, by what the socket calls its original
/// destination; `None`: it is closed.
pub fn goes_on_to(
    direction: Direction,
    (caller, local): (SocketAddr, SocketAddr),
    original: Option<SocketAddr>,
    ours: &Belongings,
) -> Option<SocketAddr> {
    captured::judge(direction, (caller, local), original.map(captured::canonical), ours).ok()
}
