//! TLS with whoever is not of the mesh: from the operator's files, or from a Kubernetes secret that is mounted beside the
//! proxy (`credentialName`).
//!
//! A secret is a directory of its name with the keys that Kubernetes has for TLS: `tls.crt`, `tls.key` and `ca.crt`. So it
//! is the kubelet that says which workload may read it, and neither the control plane nor a snapshot ever holds a key.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use leno_config::ir::{Credential, ExternalTls, OutsideCallers, ServerTls, TlsVersion};
use rustls::client::WantsClientCert;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::control_plane::KeyFiles;

use super::Sessions;
use super::client::{Inside, builder};
use super::peer::Security;
use super::roots;
use super::server::HandshakeError;
use super::transport::{Prefixed, Transport};
use super::verify::{Expected, Named, Outside};

/// Configurations of listeners that one worker keeps; more are made anew.
const MAX_SERVERS: usize = 256;

/// What one configuration is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Files {
    /// `None`: nobody is verified.
    roots: Option<PathBuf>,
    revoked: Option<PathBuf>,
    own: Option<KeyFiles>,
}

impl Files {
    /// Those behind `tls`; secrets are below `credentials`.
    pub(super) fn of(tls: &ExternalTls, credentials: &Path) -> Result<Self, HandshakeError> {
        let secret = tls.credential.as_ref().map(|credential| directory(credential, credentials)).transpose()?;
        let of_secret = |file: &str| secret.as_ref().map(|directory| directory.join(file));
        let named = |file: &Option<String>| file.as_ref().map(PathBuf::from);
        let roots = || named(&tls.roots).or_else(|| of_secret("ca.crt")).unwrap_or_else(roots::of_system);
        let own = match (named(&tls.certificate), named(&tls.key)) {
            (Some(certificate), Some(key)) => Some(KeyFiles { certificate, key }),
            _ => tls
                .credential
                .as_ref()
                .filter(|credential| credential.is_shown)
                .and_then(|_| Some(KeyFiles { certificate: of_secret("tls.crt")?, key: of_secret("tls.key")? })),
        };
        Ok(Self { roots: (!tls.skip_verify).then(roots), revoked: named(&tls.revoked), own })
    }

    /// Those of a listener.
    fn of_server(tls: &ServerTls, credentials: &Path) -> Result<Self, HandshakeError> {
        let ServerTls { certificate, key, credential, callers, min_version } = tls.clone();
        let verifies = callers.is_some();
        let OutsideCallers { roots, revoked, subject_alt_names: _ } = callers.unwrap_or_default();
        let credential = credential.map(|name| Credential { name, is_shown: true });
        let skip_verify = !verifies;
        let same = ExternalTls {
            roots,
            revoked,
            certificate,
            key,
            credential,
            skip_verify,
            min_version,
            ..Default::default()
        };
        Self::of(&same, credentials)
    }

    /// When each of them was written, so that a configuration is made anew after a change.
    pub(super) fn written(&self) -> Vec<Option<SystemTime>> {
        let Self { roots, revoked, own } = self;
        let own = own.iter().flat_map(|own| [&own.certificate, &own.key]);
        let all = roots.iter().chain(revoked).chain(own);
        all.map(|path| std::fs::metadata(path).and_then(|it| it.modified()).ok()).collect()
    }

    /// Whom to believe; `None`: nobody is verified.
    fn outside(&self) -> Result<Option<Outside>, HandshakeError> {
        let Some(roots) = &self.roots else { return Ok(None) };
        let anchors = roots::read(roots).map_err(io::Error::other)?;
        let revoked = self.revoked.as_deref().map(roots::revoked).transpose().map_err(io::Error::other)?;
        Ok(Some(Outside { anchors, revoked }))
    }
}

fn directory(credential: &Credential, credentials: &Path) -> Result<PathBuf, HandshakeError> {
    match Credential::is_name(&credential.name) {
        true => Ok(credentials.join(&credential.name)),
        false => Err(io::Error::other(format!("`{}` is no name of a Kubernetes secret", credential.name)).into()),
    }
}

/// Outside the mesh everybody speaks what they speak: TLS 1.2 as well, unless it is too old.
static NEWEST: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

fn versions(oldest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    match oldest {
        TlsVersion::Tls12 => rustls::ALL_VERSIONS,
        TlsVersion::Tls13 => NEWEST,
    }
}

/// Toward a server.
pub(super) fn client(tls: &ExternalTls, files: &Files) -> Result<ClientConfig, HandshakeError> {
    let verifier = match files.outside()? {
        Some(outside) => Expected::Names(outside, tls.subject_alt_names.clone()),
        None => Expected::Anybody,
    };
    let builder: rustls::ConfigBuilder<ClientConfig, WantsClientCert> = builder(versions(tls.min_version), verifier)?;
    Ok(match &files.own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified(own)?))),
        None => builder.with_no_client_auth(),
    })
}

/// A caller from outside the mesh that was let in.
#[derive(Debug)]
pub struct Outsider {
    /// Its bytes.
    pub stream: Transport,
    /// How they are protected.
    pub security: Security,
    /// What it wanted to reach.
    pub server_name: Option<Arc<str>>,
}

/// By listener and what is spoken inside, with the times at which the files were written.
pub(super) type Servers = RefCell<HashMap<(Arc<ServerTls>, Inside), (Vec<Option<SystemTime>>, Arc<ServerConfig>)>>;

impl Sessions {
    /// Ends TLS, within so much time, with a caller who is not of the mesh, and whose first bytes are a handshake's.
    pub async fn accept_outside(
        &self,
        stream: Prefixed<TcpStream>,
        (tls, inside): (&Arc<ServerTls>, Inside),
        limit: Duration,
    ) -> Result<Outsider, HandshakeError> {
        let config = self.server_outside(tls, inside)?;
        let handshake = TlsAcceptor::from(config).accept(stream);
        let stream = tokio::time::timeout(limit, handshake).await.map_err(|_| HandshakeError::TimedOut(limit))??;
        let state = stream.get_ref().1;
        let (security, server_name) = (Security::of(state), state.server_name().map(Arc::from));
        Ok(Outsider { stream: Transport::Tls(Box::new(stream.into())), security, server_name })
    }

    /// The configuration of a listener. It is made anew when a file it is made of has changed.
    fn server_outside(&self, tls: &Arc<ServerTls>, inside: Inside) -> Result<Arc<ServerConfig>, HandshakeError> {
        let files = Files::of_server(tls, &self.credentials)?;
        let written = files.written();
        let key = (Arc::clone(tls), inside);
        if let Some((when, config)) = self.outside.borrow().get(&key)
            && *when == written
        {
            return Ok(Arc::clone(config));
        }
        let mut config = server(tls, &files)?;
        config.alpn_protocols = match inside {
            Inside::Http1 | Inside::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Inside::Bytes => Vec::new(),
        };
        config.time_provider = Arc::new(self.identity.time().clone());
        let config = Arc::new(config);
        let mut configs = self.outside.borrow_mut();
        if configs.len() >= MAX_SERVERS {
            configs.clear();
        }
        configs.insert(key, (written, Arc::clone(&config)));
        Ok(config)
    }
}

/// Toward callers. Who shows a certificate is verified each time: a session that was resumed would outlive a revocation.
fn server(tls: &ServerTls, files: &Files) -> Result<ServerConfig, HandshakeError> {
    let own = files.own.as_ref().ok_or(HandshakeError::NoIdentity)?;
    let resolver = Arc::new(SingleCertAndKey::from(certified(own)?));
    let builder = ServerConfig::builder_with_provider(Arc::clone(super::provider()))
        .with_protocol_versions(versions(tls.min_version))
        .map_err(io::Error::other)?;
    Ok(match (files.outside()?, &tls.callers) {
        (Some(outside), Some(callers)) => {
            let verifier = Arc::new(Named { outside, names: callers.subject_alt_names.clone() });
            let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(resolver);
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config
        }
        (_, _) => builder.with_no_client_auth().with_cert_resolver(resolver),
    })
}

fn certified(files: &KeyFiles) -> Result<CertifiedKey, HandshakeError> {
    let KeyFiles { certificate, key } = files;
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(certificate, &error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, &error))?;
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&private).map_err(io::Error::other)?;
    Ok(CertifiedKey::new(chain, signer))
}

fn unreadable(path: &Path, error: &rustls_pki_types::pem::Error) -> HandshakeError {
    io::Error::other(format!("cannot use {}: {error}", path.display())).into()
}
