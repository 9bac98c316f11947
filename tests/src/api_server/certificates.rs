//! The certificates of a server: its authority, its own, and those of its callers.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

/// The authority of one server, which signs servers and callers alike.
pub(super) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    certificate: rcgen::Certificate,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// A certificate with its key, PEM.
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
    /// DER.
    pub(super) der: CertificateDer<'static>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = named("leno-tests api server");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = key();
        let certificate = params.self_signed(&key).expect("a root signs itself");
        Self { params, key, certificate }
    }

    /// Its certificate, PEM.
    pub(super) fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// For a server at 127.0.0.1, or reached by these names.
    pub(super) fn server(&self, names: &[&str]) -> Pair {
        let mut params = named("server");
        let name = |name: &&str| SanType::DnsName((*name).try_into().expect("a name in ASCII"));
        params.subject_alt_names = names.iter().map(name).collect();
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// For a caller.
    pub(super) fn caller(&self, name: &str) -> Pair {
        let mut params = named(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// TLS of a server whose callers may show a certificate of this authority.
    pub(super) fn accept(&self, server: &Pair) -> Arc<rustls::ServerConfig> {
        self.accept_with(server, &[b"h2", b"http/1.1"])
    }

    /// The same, for HTTP/1.1 alone.
    pub(super) fn accept_http1(&self, server: &Pair) -> Arc<rustls::ServerConfig> {
        self.accept_with(server, &[b"http/1.1"])
    }

    fn accept_with(&self, server: &Pair, alpn: &[&[u8]]) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).expect("a root is a root");
        let callers = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .expect("there is a root");
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the versions are supported")
            .with_client_cert_verifier(callers)
            .with_single_cert(vec![server.der.clone()], private(&server.key))
            .expect("a certificate with its key");
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }

    fn sign(&self, mut params: CertificateParams) -> Pair {
        // Python since 3.13 wants it (RFC 5280, 4.2.1.1).
        params.use_authority_key_identifier_extension = true;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = key();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).expect("an authority signs");
        Pair { certificate: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() }
    }
}

/// SHA-256 of a certificate, in hexadecimal digits.
pub(super) fn fingerprint(der: &[u8]) -> String {
    let suite = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().expect("a suite of TLS 1.3");
    suite.common.hash_provider.hash(der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn private(pem: &str) -> rustls_pki_types::PrivateKeyDer<'static> {
    let key = KeyPair::from_pem(pem).expect("a key that was just written");
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key can be made")
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::minutes(5);
    params.not_after = now + time::Duration::days(1);
    params
}
