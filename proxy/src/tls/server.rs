//! Callers come in with a certificate of the mesh.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use rustls::ServerConfig;
use rustls::server::ServerSessionMemoryCache;
use rustls::sign::SingleCertAndKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use webpki::KeyUsage;

use crate::identity::Svid;
use crate::identity::clock::TimeOfDay;
use crate::identity::issued::IssuedError;

use super::Sessions;
use super::exchange::{self, exchange};
use super::peer::{self, Peer, Security};
use super::transport::{Prefixed, Transport};
use super::verify::{Callers, Roots, in_words};

/// What a caller may ask to speak, by preference: our own exchange, Istio's names, and those of ordinary clients.
const PROTOCOLS: [&[u8]; 8] =
    [exchange::ALPN, b"istio-h2", b"h2", b"istio-http/1.1", b"http/1.1", b"istio", b"istio-http/1.0", b"http/1.0"];
/// Handshakes that one worker remembers for resumption.
const REMEMBERED: usize = 256;

/// Why a caller was not let in.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// There is no certificate to show.
    #[error("this proxy has no certificate yet: /certs on its admin address says why")]
    NoIdentity,
    /// There is one, and it must not be shown.
    #[error(
        "this proxy's own certificate cannot be used now: {0}; it is renewed by the control plane or by new files, and \
         /certs on its admin address says why that has not happened"
    )]
    NotValidNow(IssuedError),
    /// It takes too long.
    #[error("the handshake was not over within {0:?}")]
    TimedOut(Duration),
    /// It failed.
    #[error("{}", in_words(.0))]
    Failed(#[from] io::Error),
}

impl HandshakeError {
    /// Whether the other side has said something that is no TLS: it took us for somebody who waits for its greeting.
    pub fn is_no_tls(&self) -> bool {
        let Self::Failed(error) = self else { return false };
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        matches!(cause, Some(rustls::Error::InvalidMessage(_)))
    }
}

/// A caller that was let in.
#[derive(Debug)]
pub struct Caller {
    /// Its bytes.
    pub stream: Transport,
    /// Who it is.
    pub peer: Peer,
    /// What it wanted to reach.
    pub server_name: Option<Arc<str>>,
    /// The element of `x-forwarded-client-cert` for its requests.
    pub forwarded: Option<HeaderValue>,
}

pub(super) fn config(svid: &Arc<Svid>, roots: &Arc<Roots>, time: &TimeOfDay) -> Option<Arc<ServerConfig>> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(super::provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .inspect_err(|error| tracing::error!(%error, "TLS cannot be set up"))
        .ok()?;
    let resolver = SingleCertAndKey::from(Arc::clone(svid.certified_key()));
    let mut config =
        builder.with_client_cert_verifier(Arc::new(Callers(Arc::clone(roots)))).with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
    config.session_storage = ServerSessionMemoryCache::new(REMEMBERED);
    // One is enough: connections are kept, and each ticket is bytes and work.
    config.send_tls13_tickets = 1;
    config.time_provider = Arc::new(time.clone());
    Some(Arc::new(config))
}

impl Sessions {
    /// Ends TLS, within so much time, with a caller whose first bytes are a handshake's.
    pub async fn accept(&self, stream: Prefixed<TcpStream>, limit: Duration) -> Result<Caller, HandshakeError> {
        tokio::time::timeout(limit, self.handshake(stream)).await.map_err(|_| HandshakeError::TimedOut(limit))?
    }

    async fn handshake(&self, stream: Prefixed<TcpStream>) -> Result<Caller, HandshakeError> {
        let current = self.current();
        let svid = current.own()?;
        let config = current.server.as_ref().ok_or(HandshakeError::NoIdentity)?;
        let mut stream = TlsAcceptor::from(Arc::clone(config)).accept(stream).await?;
        let state = stream.get_ref().1;
        let security = Security::of(state);
        let chain: Arc<[_]> = state.peer_certificates().unwrap_or_default().into();
        let speaks_leno = state.alpn_protocol() == Some(exchange::ALPN);
        let server_name = state.server_name().map(Arc::from);
        let id = current.identify(&chain, security, KeyUsage::client_auth())?;
        let workload = match speaks_leno {
            true => exchange(&mut stream, &self.own_words, &id).await?.map(Arc::new),
            false => None,
        };
        let own = svid.id().clone();
        let peer = Peer { id, own, workload, security, generation: current.now.generation.into(), chain };
        let peer = self.settled(peer, KeyUsage::client_auth())?;
        let forwarded = peer::forwarded(&peer);
        Ok(Caller { stream: Transport::Tls(Box::new(stream.into())), peer, server_name, forwarded })
    }
}
