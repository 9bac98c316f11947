//! One fetch of keys that an issuer publishes.
//!
//! Only the configured address is asked: redirects are not followed, and nothing that a token says can lead anywhere. The
//! whole fetch has one deadline, and its answer a bound.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::dns::{Dns, DnsError};
use crate::tls::provider;
use crate::tls::roots::{self, RootsError};

use super::keys::{KeySet, KeySetError};

/// Longest set of keys.
const MAX_BODY: usize = 1 << 20;
/// Where nothing is said of it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address is not one.
    #[error("the address has no host, or one that no certificate could name")]
    Address,
    /// The name does not resolve.
    #[error("the host does not resolve")]
    Dns(#[source] DnsError),
    /// No connection.
    #[error("cannot connect to {0}")]
    Connect(SocketAddr, #[source] io::Error),
    /// The system's roots cannot be read.
    #[error("there are no roots against which the issuer's certificate could be checked; set SSL_CERT_FILE")]
    Roots(#[source] RootsError),
    /// The handshake failed, mostly because of the certificate.
    #[error("no TLS with {0}")]
    Tls(SocketAddr, #[source] io::Error),
    /// It did not answer in HTTP.
    #[error("no HTTP answer")]
    Http(#[source] hyper::Error),
    /// It did not answer with the keys.
    #[error("it answered {0}, and only 200 will do (redirects are not followed)")]
    Status(StatusCode),
    /// The answer broke off, or is too long.
    #[error("the answer broke off, or is longer than 1 MiB")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The deadline.
    #[error("no complete answer within {0:?}")]
    TimedOut(Duration),
    /// The answer holds no keys.
    #[error("the answer cannot be used")]
    Keys(#[source] KeySetError),
}

/// Fetches keys.
#[derive(Debug)]
pub struct Fetcher {
    dns: Arc<Dns>,
    roots: PathBuf,
}

impl Fetcher {
    /// With the system's roots for `https`: the file that `SSL_CERT_FILE` names, else that of the distribution.
    pub fn from_system(dns: Arc<Dns>) -> Self {
        Self::new(dns, roots::of_system())
    }

    /// With the roots in this PEM file for `https`; it is read at each fetch.
    pub fn new(dns: Arc<Dns>, roots: PathBuf) -> Self {
        Self { dns, roots }
    }

    /// The keys at `uri`; `timeout` is for all of it, 5 s where it is zero.
    pub async fn fetch(&self, uri: &Uri, timeout: Duration) -> Result<KeySet, FetchError> {
        let timeout = if timeout.is_zero() { TIMEOUT } else { timeout };
        let body = tokio::time::timeout(timeout, self.get(uri)).await.map_err(|_| FetchError::TimedOut(timeout))??;
        KeySet::parse(&body).map_err(FetchError::Keys)
    }

    async fn get(&self, uri: &Uri) -> Result<Bytes, FetchError> {
        let host = uri.host().ok_or(FetchError::Address)?;
        let encrypted = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        let (address, stream) = self.connect(host, port).await?;
        if !encrypted {
            return exchange(stream, uri).await;
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| FetchError::Address)?;
        let tls = TlsConnector::from(Arc::new(tls(&self.roots)?));
        let stream = tls.connect(name, stream).await.map_err(|error| FetchError::Tls(address, error))?;
        exchange(stream, uri).await
    }

    /// To the first of its addresses that accepts.
    async fn connect(&self, host: &str, port: u16) -> Result<(SocketAddr, TcpStream), FetchError> {
        let mut failed = FetchError::Address;
        for ip in self.dns.resolve(host).await.map_err(FetchError::Dns)? {
            let address = SocketAddr::new(ip, port);
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok((address, stream)),
                Err(error) => failed = FetchError::Connect(address, error),
            }
        }
        Err(failed)
    }
}

#[expect(clippy::expect_used, reason = "the provider has the suites of both versions")]
fn tls(path: &Path) -> Result<ClientConfig, FetchError> {
    let roots = RootCertStore { roots: roots::read(path).map_err(FetchError::Roots)? };
    let config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_safe_default_protocol_versions()
        .expect("invariant: the provider has the suites of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin, uri: &Uri) -> Result<Bytes, FetchError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(FetchError::Http)?;
    let answer = async move {
        let response = sender.send_request(request(uri)?).await.map_err(FetchError::Http)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(FetchError::Body)?;
        Ok(body.to_bytes())
    };
    let (mut answer, connection) = (pin!(answer), pin!(connection));
    tokio::select! {
        answered = &mut answer => answered,
        // What it has said until then is still to be read.
        _ = connection => answer.await,
    }
}

fn request(uri: &Uri) -> Result<Request<Empty<Bytes>>, FetchError> {
    let authority = uri.authority().ok_or(FetchError::Address)?;
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| FetchError::Address)?;
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from);
    request.headers_mut().insert(header::HOST, host);
    request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    Ok(request)
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AQAB"}]}"#;

    /// Answers one connection with `answer`, after its request; with a certificate, over TLS.
    async fn serve(answer: String, tls: Option<rustls::ServerConfig>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a caller");
            match tls {
                None => speak(stream, &answer).await,
                Some(config) => {
                    if let Ok(stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await {
                        speak(stream, &answer).await;
                    }
                }
            }
        });
        address
    }

    async fn speak(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    async fn fetch(uri: &str, roots: &Path) -> Result<KeySet, FetchError> {
        let fetcher = Fetcher::new(Arc::new(Dns::from_system()), roots.to_owned());
        fetcher.fetch(&uri.parse().expect("a URI"), Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn keys_are_fetched_and_what_is_no_answer_is_said_in_words() {
        let rows = [
            (ok(KEYS), None),
            (format!("HTTP/1.1 200 OK\r\n\r\n{KEYS}"), None),
            (ok("{}"), Some("the answer cannot be used")),
            (
                "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".into(),
                Some("it answered 302"),
            ),
            (ok(&" ".repeat(MAX_BODY + 1)), Some("the answer broke off, or is longer")),
            ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".into(), Some("the answer broke off, or is longer")),
            (String::new(), Some("no HTTP answer")),
        ];
        for (answer, expected) in rows {
            let address = serve(answer.clone(), None).await;
            let found = fetch(&format!("http://{address}/jwks?x=1"), Path::new("/nowhere")).await;
            match (found, expected) {
                (Ok(_), None) => {}
                (Err(error), Some(words)) if error.to_string().starts_with(words) => {}
                (found, _) => panic!("{:.60}: {found:?} instead of {expected:?}", answer),
            }
        }
    }

    #[tokio::test]
    async fn an_issuer_that_says_nothing_does_not_hold_a_fetch_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let fetcher = Fetcher::new(Arc::new(Dns::from_system()), PathBuf::new());
        let uri = format!("http://{address}/").parse().expect("a URI");
        let error = fetcher.fetch(&uri, Duration::from_millis(20)).await.expect_err("silence");
        assert!(matches!(error, FetchError::TimedOut(_)), "{error}");
    }

    #[tokio::test]
    async fn an_issuer_has_to_show_a_certificate_for_its_name_from_a_root_of_the_system() {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let directory = tempfile::tempdir().expect("a directory");
        let (right, wrong) = (directory.path().join("right.pem"), directory.path().join("wrong.pem"));
        std::fs::write(&right, made.cert.pem()).expect("written");
        std::fs::write(&wrong, other.cert.pem()).expect("written");
        let server = || {
            let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
            rustls::ServerConfig::builder_with_provider(Arc::clone(provider()))
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
                .expect("a certificate")
        };
        let address = serve(ok(KEYS), Some(server())).await;
        fetch(&format!("https://{address}/"), &right).await.expect("keys");
        for (host, roots) in [("127.0.0.1", &wrong), ("localhost", &right)] {
            let address = serve(ok(KEYS), Some(server())).await;
            let error = fetch(&format!("https://{host}:{}/", address.port()), roots).await.expect_err(host);
            assert!(matches!(error, FetchError::Tls(..)) && error.source().is_some(), "{error}");
        }
        let error = fetch(&format!("https://{address}/"), Path::new("/nowhere")).await.expect_err("no roots");
        assert!(matches!(error, FetchError::Roots(_) | FetchError::Connect(..)), "{error}");
    }
}
