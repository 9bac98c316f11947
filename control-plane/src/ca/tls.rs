//! The encrypted port: TLS 1.3, the control plane's own certificate, and who is at the other end.
//!
//! A client may show a certificate and need not: a process that is new has a token only. One that is shown has to be of
//! the mesh's own roots and to have exactly one URI name, or the handshake fails. Sessions are never resumed: a resumed
//! one would carry an identity past the end of its certificate, and a proxy connects seldom enough.
//!
//! What a handshake uses is made anew when the roots or the trust domain change, and at half of the certificate's life.
//! A connection keeps what it began with.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use leno_proxy::identity::{SvidError, id_of, validity};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::codegen::tokio_stream::Stream;
use tonic::transport::server::Connected;
use tracing::{debug, error};

use super::attest::{Gate, Peer, PeerCertificate};
use super::{Authority, OwnCertificate, SignError, lock};

/// For a handshake, from the first byte to the last.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at a time; others wait in the listener's queue.
const HANDSHAKES: usize = 256;
/// Connections at a time: one for each proxy, and room for those that come back before the old one is known to be dead.
const CONNECTIONS: usize = 24_000;
/// Connections whose handshake is done and that have not been taken yet.
const READY: usize = 16;
/// How often files and clock are looked at. The clock may jump, so a certificate's end is no timer.
const LOOK: Duration = Duration::from_secs(5);

/// Why there are no terms for a handshake.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// The own certificate.
    #[error("this control plane cannot make its own certificate: {0}")]
    Certificate(#[from] SignError),
    /// The roots.
    #[error("the roots of the mesh cannot be used to verify clients: {0}")]
    Roots(#[from] VerifierBuilderError),
    /// The library.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// The terms of new connections.
pub(crate) struct Terms {
    authority: Arc<Authority>,
    now: Mutex<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    /// When the own certificate has lived half of its life.
    renew_at: SystemTime,
}

impl Terms {
    /// With a new certificate.
    pub(crate) fn new(authority: Arc<Authority>, now: SystemTime) -> Result<Arc<Self>, TlsError> {
        let current = current(&authority, now)?;
        Ok(Arc::new(Self { authority, now: Mutex::new(current) }))
    }

    /// Follows the roots, the trust domain, the files of foreign bundles and the clock. Does not return.
    pub(crate) fn keep(self: Arc<Self>) -> impl Future<Output = ()> + Send {
        // From now on, and not from when the future is first polled: what changes in between counts.
        let mut changes = self.authority.changes();
        async move {
            let mut ticks = tokio::time::interval(LOOK);
            loop {
                let changed = tokio::select! {
                    changed = changes.changed() => changed.is_ok(),
                    _ = ticks.tick() => false,
                };
                let terms = Arc::clone(&self);
                let looked = tokio::task::spawn_blocking(move || terms.look(changed, SystemTime::now())).await;
                if let Err(panic) = looked {
                    error!("the control plane's certificate could not be looked after: {panic}");
                }
            }
        }
    }

    fn look(&self, changed: bool, now: SystemTime) {
        if let Err(reason) = self.authority.reread_external() {
            error!("the bundles of other trust domains stay as they are: {reason}");
        }
        if !changed && now < lock(&self.now).renew_at {
            return;
        }
        match current(&self.authority, now) {
            Ok(current) => *lock(&self.now) = current,
            Err(reason) => error!("the control plane keeps its present certificate: {reason}"),
        }
    }

    fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&lock(&self.now).config)
    }
}

fn current(authority: &Authority, now: SystemTime) -> Result<Current, TlsError> {
    let own = authority.own_certificate(now)?;
    let life = own.ends.duration_since(now).unwrap_or_default();
    Ok(Current { config: Arc::new(config(&own, &authority.own_roots())?), renew_at: now + life / 2 })
}

fn config(own: &OwnCertificate, roots: &[CertificateDer<'static>]) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    let chains = WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
        .allow_unauthenticated()
        // Whom we trust is nobody's business before they have said who they are.
        .clear_root_hint_subjects()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(OneName { chains }))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&own.key))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// A chain to a root of the mesh, and exactly one URI name, which is a SPIFFE ID.
#[derive(Debug)]
struct OneName {
    chains: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for OneName {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chains.client_auth_mandatory()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chains.verify_client_cert(end_entity, intermediates, now)?;
        let refused = |_: SvidError| CertificateError::ApplicationVerificationFailure.into();
        id_of(end_entity).map(|_| verified).map_err(refused)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Connections whose handshake is done, for tonic. The listener is closed when this is dropped.
pub(crate) struct Incoming {
    ready: mpsc::Receiver<Connection>,
    _acceptor: JoinSet<()>,
}

impl Incoming {
    /// Accepts until it is dropped.
    pub(crate) fn new(listener: TcpListener, terms: Arc<Terms>, gate: Arc<Gate>) -> Self {
        let (sender, ready) = mpsc::channel(READY);
        let mut acceptor = JoinSet::new();
        acceptor.spawn(accept(listener, terms, gate, sender));
        Self { ready, _acceptor: acceptor }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(context).map(|ready| ready.map(Ok))
    }
}

/// Its handshakes end with it.
async fn accept(listener: TcpListener, terms: Arc<Terms>, gate: Arc<Gate>, ready: mpsc::Sender<Connection>) {
    let (room, handshakes) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Semaphore::new(HANDSHAKES)));
    let mut running = JoinSet::new();
    loop {
        while running.try_join_next().is_some() {}
        // Neither semaphore is ever closed.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok(handshake) = Arc::clone(&handshakes).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, from)) => {
                let (acceptor, gate, ready) = (TlsAcceptor::from(terms.config()), Arc::clone(&gate), ready.clone());
                running.spawn(async move {
                    let connection = shake_hands(acceptor, socket, from, &gate, place).await;
                    drop(handshake);
                    if let Some(connection) = connection {
                        // Nobody takes it any more once the process stops.
                        let _ = ready.send(connection).await;
                    }
                });
            }
            // Out of descriptors, most likely: wait for some to come back.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn shake_hands(
    acceptor: TlsAcceptor,
    socket: TcpStream,
    from: SocketAddr,
    gate: &Gate,
    place: OwnedSemaphorePermit,
) -> Option<Connection> {
    // Small messages go out at once; where that cannot be set, they go out a little later.
    let _ = socket.set_nodelay(true);
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => {
            let certificate = certificate(&stream);
            Some(Connection { stream, peer: Peer { certificate, from }, _place: place })
        }
        Ok(Err(error)) => {
            let reason = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            match reason {
                Some(rustls::Error::InvalidCertificate(reason)) => gate.refused(
                    "a connection",
                    from,
                    "certificate",
                    &format_args!("the client certificate is not one of this mesh: {reason}"),
                ),
                // Port scans, health checks, and clients that do not trust us, who say so themselves.
                Some(_) | None => debug!(%from, "a handshake failed: {error}"),
            }
            None
        }
        Err(_) => {
            debug!(%from, "a handshake took longer than {HANDSHAKE:?}");
            None
        }
    }
}

/// What the handshake has verified; the identity is read again, since the verifier keeps nothing.
fn certificate(stream: &TlsStream<TcpStream>) -> Option<PeerCertificate> {
    let (_, connection) = stream.get_ref();
    let leaf = connection.peer_certificates()?.first()?;
    let (_, ends) = validity(leaf).ok()?;
    Some(PeerCertificate { id: id_of(leaf).ok()?, ends })
}

/// One connection.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
