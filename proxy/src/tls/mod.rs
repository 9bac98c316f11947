//! Encryption on both sides of the proxy.
//!
//! * [`server`]: callers come in with a certificate of the mesh.
//! * [`client`]: connections to endpoints: of the mesh, or outside it.
//! * [`verify`]: whether a peer is who it says it is.
//! * `outside`: what is set up with the files and secrets of an operator.
//! * [`exchange`]: what two sidecars tell each other about their workloads.
//! * [`peer`]: who is at the other end.
//! * [`roots`]: whom to believe outside the mesh, and whom no longer.
//! * [`transport`]: bytes, encrypted or not, as one type.
//!
//! Between sidecars it is TLS 1.3 and nothing else, post-quantum where both can; outside the mesh also TLS 1.2. What is
//! configured once per certificate and bundle lives in [`Sessions`], one per worker; a connection is resumed only within
//! one such generation.

pub mod client;
pub mod exchange;
mod outside;
pub mod peer;
pub mod roots;
pub mod server;
pub mod transport;
pub mod verify;

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use leno_config::identity::SpiffeId;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls_pki_types::CertificateDer;
use webpki::KeyUsage;

use crate::identity::clock::TimeOfDay;
use crate::identity::issued::check_time;
use crate::identity::{Identity, Now, Svid, id_of};
use crate::telemetry::Telemetry;

use exchange::Workload;
use peer::{Peer, Security};
use server::HandshakeError;
use verify::{PeerError, Roots, unix_time};

/// From the connection to the end of the handshake.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// rustls on aws-lc-rs, with AES-128 first: as strong as the P-256 certificates around it, and cheaper.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        Arc::new(provider)
    })
}

fn sha256(bytes: &[u8]) -> rustls::crypto::hash::Output {
    match aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256 {
        rustls::SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider.hash(bytes),
        // A suite for TLS 1.3 is one: this arm exists for the compiler.
        rustls::SupportedCipherSuite::Tls12(suite) => suite.common.hash_provider.hash(bytes),
    }
}

/// What one worker needs for TLS, made anew when the own certificate or the roots change.
#[derive(Debug)]
pub struct Sessions {
    identity: Arc<Identity>,
    telemetry: Arc<Telemetry>,
    /// What is said to peers of the mesh.
    own_words: Arc<[u8]>,
    /// The directory of the mounted secrets.
    credentials: Arc<Path>,
    outside: outside::Servers,
    now: RefCell<Rc<Generation>>,
}

/// One certificate with one set of roots.
#[derive(Debug)]
struct Generation {
    now: Now,
    time: TimeOfDay,
    roots: Arc<Roots>,
    server: Option<Arc<rustls::ServerConfig>>,
    clients: RefCell<client::Configs>,
}

impl Sessions {
    /// For one worker of a proxy whose workload is `own`, and which finds mounted secrets in the directory `credentials`.
    pub fn new(identity: Arc<Identity>, telemetry: Arc<Telemetry>, own: &Workload, credentials: Arc<Path>) -> Self {
        let now = RefCell::new(Rc::new(Generation::new(&identity)));
        let outside = outside::Servers::default();
        Self { identity, telemetry, own_words: own.frame().into(), credentials, outside, now }
    }

    /// Counts a handshake with an endpoint.
    pub fn agreed(&self, security: Security) {
        self.telemetry.handshake("outbound", security);
    }

    /// The generation in force.
    pub fn generation(&self) -> u64 {
        self.current().now.generation
    }

    /// The roots in force.
    pub fn roots(&self) -> Arc<Roots> {
        Arc::clone(&self.current().roots)
    }

    /// Whether an endpoint that was accepted once still would be.
    pub fn still_accepts_server(&self, peer: &Peer) -> bool {
        self.still_accepts(peer, KeyUsage::server_auth()).is_ok()
    }

    /// Whether an endpoint that was accepted once has been revoked since.
    pub fn has_revoked_server(&self, peer: &Peer) -> bool {
        let judged = self.still_accepts(peer, KeyUsage::server_auth());
        matches!(judged, Err(PeerError::Chain(webpki::Error::CertRevoked)))
    }

    /// Whether a caller who was let in once still would be.
    pub fn still_accepts_caller(&self, peer: &Peer) -> Result<(), PeerError> {
        self.still_accepts(peer, KeyUsage::client_auth())
    }

    /// A peer at the end of its handshake. What changed meanwhile was held against all open connections without this one.
    fn settled(&self, peer: Peer, usage: KeyUsage) -> Result<Peer, HandshakeError> {
        self.still_accepts(&peer, usage).map_err(|error| io::Error::other(rustls::Error::from(error)))?;
        Ok(peer)
    }

    /// Asked for every request; a chain is looked at once per generation.
    fn still_accepts(&self, peer: &Peer, usage: KeyUsage) -> Result<(), PeerError> {
        if self.identity.generation() == peer.generation.get() {
            return Ok(());
        }
        let current = self.current();
        if let Some(svid) = current.now.svid.as_ref().filter(|svid| *svid.id() != peer.own) {
            return Err(PeerError::OwnIdentity { was: peer.own.clone(), is: svid.id().clone() });
        }
        current.roots.still_accept(&peer.chain, current.time.now(), usage)?;
        peer.generation.set(current.now.generation);
        Ok(())
    }

    fn current(&self) -> Rc<Generation> {
        let mut now = self.now.borrow_mut();
        let newest = self.identity.generation();
        if now.now.generation != newest {
            *now = Rc::new(Generation::new(&self.identity));
        }
        Rc::clone(&now)
    }
}

impl Generation {
    fn new(identity: &Identity) -> Self {
        let (now, time) = (identity.now(), identity.time().clone());
        let roots = Arc::new(Roots::new(&now.trust));
        let server = now.svid.as_ref().and_then(|svid| server::config(svid, &roots, &time));
        Self { now, time, roots, server, clients: RefCell::default() }
    }

    /// The own certificate, as long as it may be shown. To be asked for every connection: what is configured with a
    /// certificate outlives it.
    fn own(&self) -> Result<&Arc<Svid>, HandshakeError> {
        let svid = self.now.svid.as_ref().ok_or(HandshakeError::NoIdentity)?;
        check_time(svid, self.time.now()).map_err(HandshakeError::NotValidNow)?;
        Ok(svid)
    }

    /// Who has shown a chain (leaf first). A verifier has seen a fresh one; a resumed session's may have ended since.
    fn identify(
        &self,
        chain: &[CertificateDer<'static>],
        security: Security,
        usage: KeyUsage,
    ) -> Result<SpiffeId, HandshakeError> {
        let [leaf, intermediates @ ..] = chain else {
            return Err(io::Error::other(rustls::Error::NoCertificatesPresented).into());
        };
        let id = match security.resumed {
            true => self.roots.verify(leaf, intermediates, unix_time(self.time.now()), usage),
            false => id_of(leaf).map_err(PeerError::from),
        };
        Ok(id.map_err(|error| io::Error::other(rustls::Error::from(error)))?)
    }
}
