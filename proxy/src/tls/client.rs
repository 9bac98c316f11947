//! Encrypted connections to endpoints: of the mesh, or outside it.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use leno_config::identity::SpiffeId;
use leno_config::ir::{ExternalTls, UpstreamTls};
use rustls::ClientConfig;
use rustls::client::{Resumption, WantsClientCert};
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::{IpAddr, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use webpki::KeyUsage;

use crate::cluster::EndpointSecurity;

use super::exchange::{self, exchange};
use super::peer::{Peer, Security};
use super::server::HandshakeError;
use super::transport::{Prefixed, Transport};
use super::verify::Expected;
use super::{Generation, HANDSHAKE, Sessions, outside};

/// Configurations that one worker keeps; more are made anew.
const MAX_CONFIGS: usize = 1024;
/// Handshakes that are remembered per configuration for resumption.
const REMEMBERED: usize = 8;

/// How the connections to one endpoint are encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Encryption {
    /// Not at all.
    None,
    /// With both identities of the mesh.
    Mesh {
        /// Who may answer; with nobody, no connection is opened.
        expected: Vec<SpiffeId>,
        /// The server name.
        sni: String,
    },
    /// To the outside.
    External {
        /// As configured.
        tls: ExternalTls,
        /// The server name, where the configuration has none.
        host: Option<String>,
    },
}

impl Encryption {
    /// What a cluster wants for one of its endpoints. `host` is the request's, or the endpoint's name.
    pub fn new(cluster: &UpstreamTls, endpoint: &EndpointSecurity, host: Option<&str>) -> Self {
        match cluster {
            UpstreamTls::Auto(_) if !endpoint.mesh_tls => Self::None,
            UpstreamTls::Plain => Self::None,
            UpstreamTls::Auto(mesh) | UpstreamTls::Mesh(mesh) => {
                let listed = || mesh.identities.iter().filter_map(|id| SpiffeId::parse(id).ok()).collect();
                let expected = endpoint.identity.clone().map_or_else(listed, |one| vec![one]);
                Self::Mesh { expected, sni: mesh.sni.clone() }
            }
            UpstreamTls::External(tls) => {
                let host = host.filter(|_| tls.sni.is_none()).map(str::to_owned);
                Self::External { tls: tls.clone(), host }
            }
        }
    }
}

/// What is spoken inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Inside {
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
    /// Anything.
    Bytes,
}

/// An endpoint that was reached.
#[derive(Debug)]
pub struct Reached {
    /// Its bytes.
    pub stream: Transport,
    /// Who it is, if it is of the mesh.
    pub peer: Option<Peer>,
    /// How the bytes are protected; `None`: in clear text.
    pub security: Option<Security>,
    /// Where it begins.
    pub local: Option<std::net::SocketAddr>,
}

/// By what distinguishes them, and when the files they are made of were written.
pub(super) type Configs = HashMap<(Encryption, Inside), (Vec<Option<SystemTime>>, Arc<ClientConfig>)>;

impl Sessions {
    /// Begins TLS with an endpoint, as far as `encryption` wants it.
    pub async fn connect(
        &self,
        stream: TcpStream,
        encryption: &Encryption,
        inside: Inside,
    ) -> Result<Reached, HandshakeError> {
        if *encryption == Encryption::None {
            let local = stream.local_addr().ok();
            return Ok(Reached { stream: Transport::Plain(stream), peer: None, security: None, local });
        }
        let handshake = self.begin(stream, encryption, inside);
        tokio::time::timeout(HANDSHAKE, handshake).await.map_err(|_| HandshakeError::TimedOut(HANDSHAKE))?
    }

    async fn begin(
        &self,
        stream: TcpStream,
        encryption: &Encryption,
        inside: Inside,
    ) -> Result<Reached, HandshakeError> {
        let (current, local) = (self.current(), stream.local_addr().ok());
        let own = match encryption {
            Encryption::Mesh { .. } => Some(current.own()?.id().clone()),
            Encryption::External { .. } | Encryption::None => None,
        };
        let config = current.client(encryption, inside, &self.credentials)?;
        let connector = TlsConnector::from(config);
        let mut stream =
            connector.connect(server_name(encryption)?, Prefixed::new(bytes::Bytes::new(), stream)).await?;
        let state = stream.get_ref().1;
        let security = Security::of(state);
        let peer = match own {
            Some(own) => {
                let chain: Arc<[_]> = state.peer_certificates().unwrap_or_default().into();
                let id = current.identify(&chain, security, KeyUsage::server_auth())?;
                let workload = match state.alpn_protocol() == Some(exchange::ALPN) {
                    true => exchange(&mut stream, &self.own_words, &id).await?.map(Arc::new),
                    false => None,
                };
                let peer = Peer { id, own, workload, security, generation: current.now.generation.into(), chain };
                Some(self.settled(peer, KeyUsage::server_auth())?)
            }
            None => None,
        };
        Ok(Reached { stream: Transport::Tls(Box::new(stream.into())), peer, security: Some(security), local })
    }
}

fn server_name(encryption: &Encryption) -> Result<ServerName<'static>, HandshakeError> {
    let nameless = || ServerName::IpAddress(IpAddr::from(std::net::Ipv4Addr::UNSPECIFIED));
    match encryption {
        // A name that DNS does not allow is not sent: the peer is known by its identity in any case.
        Encryption::Mesh { sni, .. } => Ok(ServerName::try_from(sni.clone()).unwrap_or_else(|_| nameless())),
        Encryption::External { tls, host } => {
            let name = tls.sni.as_deref().or(host.as_deref());
            match name {
                Some(name) => ServerName::try_from(name.to_owned()).map_err(|_| {
                    HandshakeError::Failed(io::Error::other(format!("`{name}` is not a server name for TLS")))
                }),
                None if tls.skip_verify || !tls.subject_alt_names.is_empty() => Ok(nameless()),
                None => Err(HandshakeError::Failed(io::Error::other(
                    "no server name to verify: set `sni` or `subjectAltNames` in the DestinationRule's tls",
                ))),
            }
        }
        Encryption::None => Ok(nameless()),
    }
}

impl Generation {
    /// The configuration for one kind of connection. It is made anew when a file it is made of has changed.
    fn client(
        &self,
        encryption: &Encryption,
        inside: Inside,
        credentials: &Path,
    ) -> Result<Arc<ClientConfig>, HandshakeError> {
        let files = match encryption {
            Encryption::External { tls, .. } => Some((tls, outside::Files::of(tls, credentials)?)),
            Encryption::Mesh { .. } | Encryption::None => None,
        };
        let written = files.as_ref().map(|(_, files)| files.written()).unwrap_or_default();
        let key = (encryption.clone(), inside);
        if let Some((when, config)) = self.clients.borrow().get(&key)
            && *when == written
        {
            return Ok(Arc::clone(config));
        }
        let mut config = match (encryption, &files) {
            (Encryption::Mesh { expected, .. }, _) => self.of_mesh(expected)?,
            (_, Some((tls, files))) => outside::client(tls, files)?,
            (Encryption::External { .. } | Encryption::None, None) => return Err(HandshakeError::NoIdentity),
        };
        config.alpn_protocols = protocols(encryption, inside);
        config.resumption = Resumption::in_memory_sessions(REMEMBERED);
        config.time_provider = Arc::new(self.time.clone());
        let config = Arc::new(config);
        let mut configs = self.clients.borrow_mut();
        if configs.len() >= MAX_CONFIGS {
            configs.clear();
        }
        configs.insert(key, (written, Arc::clone(&config)));
        Ok(config)
    }

    fn of_mesh(&self, expected: &[SpiffeId]) -> Result<ClientConfig, HandshakeError> {
        let verifier = Expected::Mesh(Arc::clone(&self.roots), expected.to_vec());
        let own = SingleCertAndKey::from(Arc::clone(self.own()?.certified_key()));
        Ok(builder(&[&rustls::version::TLS13], verifier)?.with_client_cert_resolver(Arc::new(own)))
    }
}

pub(super) fn builder(
    versions: &[&'static rustls::SupportedProtocolVersion],
    verifier: Expected,
) -> Result<rustls::ConfigBuilder<ClientConfig, WantsClientCert>, HandshakeError> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(super::provider()))
        .with_protocol_versions(versions)
        .map_err(io::Error::other)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

/// For the kubelet's questions to an app, which verify nobody's certificate (Kubernetes).
pub(crate) fn unverified() -> Result<ClientConfig, HandshakeError> {
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    Ok(builder(&versions, Expected::Anybody)?.with_no_client_auth())
}

fn protocols(encryption: &Encryption, inside: Inside) -> Vec<Vec<u8>> {
    let names: &[&[u8]] = match (encryption, inside) {
        // The last is what a peer that knows no mesh takes, a real Envoy among them.
        (Encryption::Mesh { .. }, Inside::Http1) => &[exchange::ALPN, b"istio", b"http/1.1"],
        (Encryption::Mesh { .. }, Inside::Http2) => &[exchange::ALPN, b"istio", b"h2"],
        (Encryption::Mesh { .. }, Inside::Bytes) => &[exchange::ALPN, b"istio"],
        (Encryption::External { .. }, Inside::Http1) => &[b"http/1.1"],
        (Encryption::External { .. }, Inside::Http2) => &[b"h2"],
        (Encryption::External { .. }, Inside::Bytes) | (Encryption::None, _) => &[],
    };
    names.iter().map(|name| name.to_vec()).collect()
}
