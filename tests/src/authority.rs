//! A certificate authority of the test's own, and callers with its certificates.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::raw;

/// Issues SPIFFE certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: String,
}

impl Authority {
    /// A new root.
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = root.self_signed(&key).expect("a certificate");
        Self { issuer: Issuer::new(root, key), root: certificate.pem() }
    }

    /// Writes a certificate for `id`, its key and the root into `directory`: `identity` of a bootstrap.
    pub(crate) fn files(&self, directory: &Path, id: &str) -> Value {
        let (certificate, key) = self.issue(id);
        let file = |name: &str, text: &str| {
            let path = directory.join(name);
            std::fs::write(&path, text).expect("cannot write a file");
            path
        };
        json!({
            "certificate": file("svid.pem", &certificate.pem()),
            "key": file("svid.key", &key.serialize_pem()),
            "roots": file("roots.pem", &self.root),
        })
    }

    /// An encrypted connection of a caller that is `id`. Whom it reaches is not checked.
    pub async fn connect(&self, to: SocketAddr, id: &str) -> TlsStream<TcpStream> {
        let (certificate, key) = self.issue(id);
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_client_auth_cert(vec![certificate.der().clone()], key)
            .expect("a certificate");
        config.alpn_protocols = vec![b"istio-http/1.1".to_vec(), b"istio".to_vec()];
        let name = ServerName::try_from("shop.default.svc.cluster.local").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, raw::connect(to).await).await.expect("no TLS")
    }

    fn issue(&self, id: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = vec![SanType::URI(id.try_into().expect("ASCII"))];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (leaf.signed_by(&key, &self.issuer).expect("a certificate"), key)
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

/// Believes every server.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("the mesh speaks TLS 1.3".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
