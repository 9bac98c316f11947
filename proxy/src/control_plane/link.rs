//! One connection to the control plane: TCP, TLS where the address says so, HTTP/2.
//!
//! The handshake is done here and not by tonic, for three reasons: what is wrong comes out in words that name the file
//! and the remedy; the credential is the one of this very moment; and a broken connection is never re-opened behind the
//! caller's back, with credentials of long ago.

use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::Code;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::places::Reached;
use super::token;
use super::{Access, Address, Credential, KeyFiles, Tls};
use crate::identity::{Svid, SvidError};

/// For TCP, TLS and HTTP/2's preface together.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// A PING goes out after so much silence …
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// … and the connection is dead without an answer to it.
const KEEP_ALIVE_DEADLINE: Duration = Duration::from_secs(10);
/// Flow control windows: a full state should not wait for a window at every 64 KiB.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody there.
    #[error("cannot connect to the control plane at {address}")]
    Tcp {
        /// Where it should be.
        address: Address,
        /// What the system says.
        source: io::Error,
    },
    /// Nobody answers.
    #[error("the control plane did not accept the connection within {} s", CONNECT_DEADLINE.as_secs())]
    Deadline,
    /// The root cannot be used.
    #[error("the control plane's root {path}: {reason}; it is a file with PEM certificates, as `leno serve` writes it to root.pem of its state directory", path = .path.display())]
    Root {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The token is gone or no token.
    #[error("cannot use the token in {path}: {reason}; write one with `leno token create`", path = .path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The certificate cannot be used.
    #[error("cannot show the control plane the certificate in {path}", path = .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SvidError,
    },
    /// A file cannot be read.
    #[error("cannot read {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is not who it should be.
    #[error("the control plane at {address} is not the one that {root} vouches for: {reason}", root = .root.display())]
    Untrusted {
        /// Where it is.
        address: Address,
        /// The file with the root.
        root: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// TLS failed in another way.
    #[error("the TLS handshake with the control plane failed")]
    Handshake(#[source] io::Error),
    /// What speaks there is no HTTP/2.
    #[error("the control plane does not speak HTTP/2")]
    Http2(#[source] tonic::transport::Error),
}

/// The control plane says that this proxy may not.
#[derive(Debug, thiserror::Error)]
#[error("the control plane refused {credential}: {message}; {remedy}")]
pub struct Refusal {
    credential: String,
    message: String,
    remedy: String,
}

/// A connection, with what has to go along with each call.
#[derive(Debug, Clone)]
pub struct Link {
    /// The connection.
    pub channel: Channel,
    authorization: Option<MetadataValue<Ascii>>,
    credential: Credential,
    /// Which replica it is.
    peer: SocketAddr,
}

impl Link {
    /// Connects and shows the credential.
    pub async fn open(access: &Access, credential: Credential) -> Result<Self, ConnectError> {
        let authorization = match &credential {
            Credential::Token(path) => Some(authorization(path)?),
            Credential::None | Credential::Certificate(_) | Credential::Own(_) => None,
        };
        let channel = timeout(CONNECT_DEADLINE, connect(access, &credential));
        let (channel, peer) = channel.await.map_err(|_| ConnectError::Deadline)??;
        Ok(Self { channel, authorization, credential, peer })
    }

    /// Which of the control plane's replicas this is.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// A call with this message, and the token if that is the credential.
    pub fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        request
    }

    /// The answer in words of its own, if it is about who this proxy is.
    pub fn refusal(&self, status: &tonic::Status) -> Option<Refusal> {
        matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied).then(|| Refusal {
            credential: self.credential.to_string(),
            message: status.message().escape_default().to_string(),
            remedy: self.credential.remedy(),
        })
    }
}

fn authorization(path: &Path) -> Result<MetadataValue<Ascii>, ConnectError> {
    let wrong = |reason: String| ConnectError::Token { path: path.to_owned(), reason };
    let token = token::read(path).map_err(|error| wrong(error.to_string()))?;
    token::authorization(&token).ok_or_else(|| wrong("it has bytes that no token has".to_owned()))
}

#[expect(clippy::expect_used, reason = "an `Address` is made of a valid host alone")]
async fn connect(access: &Access, credential: &Credential) -> Result<(Channel, SocketAddr), ConnectError> {
    let reached = access.reach().await.map_err(|(address, source)| ConnectError::Tcp { address, source })?;
    let Reached { stream, address, peer } = reached;
    stream.set_nodelay(true).map_err(|source| ConnectError::Tcp { address: address.clone(), source })?;
    let channel = match access.tls() {
        None => speak(&address, stream).await?,
        Some(tls) => {
            let config = Arc::new(client_config(access, tls, credential)?);
            let name = ServerName::try_from(address.host().to_owned()).expect("invariant: an address has a valid host");
            let stream = TlsConnector::from(config).connect(name, stream).await;
            speak(&address, stream.map_err(|error| handshake_error(&address, tls, error))?).await?
        }
    };
    Ok((channel, peer))
}

/// HTTP/2 over the stream, which tonic may use once.
async fn speak<S>(address: &Address, stream: S) -> Result<Channel, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut once = Some(TokioIo::new(stream));
    let connector = service_fn(move |_| {
        ready(once.take().ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection is over")))
    });
    Endpoint::from(address.uri().clone())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_DEADLINE)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(ConnectError::Http2)
}

/// TLS 1.3, the given roots and no others, no resumption: a connection lasts for days, and each begins with the
/// credential of its moment.
#[expect(clippy::expect_used, reason = "the provider has the suites of TLS 1.3")]
fn client_config(access: &Access, tls: &Tls, credential: &Credential) -> Result<ClientConfig, ConnectError> {
    let mut roots = read_roots(&tls.root)?;
    // What is not usable as a root was refused when it became part of the trust.
    roots.add_parsable_certificates(access.roots_of_the_mesh());
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("invariant: aws-lc-rs has cipher suites of TLS 1.3")
        .with_root_certificates(roots);
    let mut config = match client_certificate(credential)? {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn read_roots(path: &Path) -> Result<RootCertStore, ConnectError> {
    let wrong = |reason: String| ConnectError::Root { path: path.to_owned(), reason };
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    match roots.is_empty() {
        true => Err(wrong("there is no certificate in it".to_owned())),
        false => Ok(roots),
    }
}

fn client_certificate(credential: &Credential) -> Result<Option<Arc<CertifiedKey>>, ConnectError> {
    match credential {
        Credential::None | Credential::Token(_) => Ok(None),
        Credential::Own(svid) => Ok(Some(Arc::clone(svid.certified_key()))),
        Credential::Certificate(KeyFiles { certificate, key }) => {
            let read = |path: &PathBuf| {
                std::fs::read(path).map_err(|source| ConnectError::Read { path: path.clone(), source })
            };
            let key = zeroize::Zeroizing::new(read(key)?);
            let svid = Svid::from_pem(&read(certificate)?, &key)
                .map_err(|source| ConnectError::Certificate { path: certificate.clone(), source })?;
            Ok(Some(Arc::clone(svid.certified_key())))
        }
    }
}

fn handshake_error(address: &Address, tls: &Tls, error: io::Error) -> ConnectError {
    let reason = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(certificate)) => match certificate {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => format!(
                "its certificate is not for `{}`; add the name with `leno serve --tls-san`, or use one that it has",
                address.host()
            ),
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate is of another CA; is `control_plane.root` the root.pem of this control plane?"
                    .to_owned()
            }
            other => format!("{}; is the clock of this machine right?", rustls::Error::from(other.clone())),
        },
        Some(_) | None => return ConnectError::Handshake(error),
    };
    ConnectError::Untrusted { address: address.clone(), root: tls.root.clone(), reason }
}
