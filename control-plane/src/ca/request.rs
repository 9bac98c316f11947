//! What counts of a certificate request: its key, and that the caller has it.
//!
//! A request may ask for any name, any usage, to be an authority. None of that is read: who the caller is comes from its
//! credential ([`super::attest`]), and what a certificate may be used for is the same for all. The request's own
//! signature is what proves that the caller holds the private key.

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry as oid;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509;

/// Longest request, PEM. One with an RSA key of 8192 bits and a few names has a third of that.
const MAX_REQUEST: usize = 16 << 10;
/// Bits of an RSA key. Above, verifying a signature is work that a caller could make us do.
const RSA: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Why there is no certificate for a request. The texts end up at whoever runs the caller.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum RequestError {
    /// Nobody asks like this.
    #[error("the certificate request is longer than {MAX_REQUEST} bytes")]
    TooLong,
    /// Not PEM.
    #[error("the certificate request is not PEM (`-----BEGIN CERTIFICATE REQUEST-----`)")]
    Pem,
    /// Not PKCS #10.
    #[error("the certificate request is not PKCS #10")]
    Malformed,
    /// A key that is too weak or too unusual.
    #[error(
        "the key of the certificate request is of a kind that is not accepted; use ECDSA P-256 or P-384, RSA with 2048 to 8192 bits, or Ed25519"
    )]
    Key,
    /// The caller need not have the key.
    #[error("the certificate request is not signed by its own key, so whoever sends it may not have that key")]
    Signature,
}

/// The public key of a request (PKCS #10 in PEM) whose sender has the private one.
pub(crate) fn public_key(pem: &str) -> Result<SubjectPublicKeyInfo, RequestError> {
    if pem.len() > MAX_REQUEST {
        return Err(RequestError::TooLong);
    }
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|_| RequestError::Pem)?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| RequestError::Malformed)?;
    if !rest.is_empty() {
        return Err(RequestError::Malformed);
    }
    let subject = &request.certification_request_info.subject_pki;
    // SHA-1 proves nothing any more, although the verifier below would take it.
    let sha1 = [oid::OID_PKCS1_SHA1WITHRSA, oid::OID_SHA1_WITH_RSA];
    if !is_accepted(subject) {
        return Err(RequestError::Key);
    }
    if sha1.contains(&request.signature_algorithm.algorithm) || request.verify_signature().is_err() {
        return Err(RequestError::Signature);
    }
    SubjectPublicKeyInfo::from_der(subject.raw).map_err(|_| RequestError::Key)
}

fn is_accepted(key: &x509::SubjectPublicKeyInfo<'_>) -> bool {
    let algorithm = &key.algorithm.algorithm;
    let curve = || key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    if *algorithm == oid::OID_PKCS1_RSAENCRYPTION {
        matches!(key.parsed(), Ok(PublicKey::RSA(rsa)) if RSA.contains(&rsa.key_size()))
    } else if *algorithm == oid::OID_KEY_TYPE_EC_PUBLIC_KEY {
        curve().is_some_and(|curve| curve == oid::OID_EC_P256 || curve == oid::OID_NIST_EC_P384)
    } else {
        *algorithm == oid::OID_SIG_ED25519
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _, RsaKeySize};

    use super::*;

    fn request(key: &KeyPair) -> String {
        CertificateParams::new(["ignored.example".to_owned()]).unwrap().serialize_request(key).unwrap().pem().unwrap()
    }

    #[test]
    fn the_key_of_a_request_is_taken_if_it_is_strong_enough() {
        let p256 = KeyPair::generate().unwrap();
        assert_eq!(public_key(&request(&p256)).unwrap().der_bytes(), p256.public_key_raw());
        let rows = [
            ("P-384", KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384), true),
            ("P-521", KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512), false),
            ("Ed25519", KeyPair::generate_for(&rcgen::PKCS_ED25519), true),
            ("RSA 2048", KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048), true),
        ];
        for (what, key, expected) in rows {
            let taken = public_key(&request(&key.unwrap()));
            assert_eq!(taken.is_ok(), expected, "{what}: {taken:?}");
            assert!(expected || taken == Err(RequestError::Key), "{what}");
        }
    }

    /// Made by `openssl req -new -newkey rsa:1024 -nodes -subj / -sha256`.
    const RSA_1024: &str = include_str!("request/rsa1024.csr");

    #[test]
    fn what_is_no_request_or_proves_nothing_is_refused() {
        let key = KeyPair::generate().unwrap();
        let good = request(&key);
        let der = CertificateSigningRequestDer::from_pem_slice(good.as_bytes()).unwrap();
        let pem = |der: &[u8]| super::super::pem::encode("CERTIFICATE REQUEST", der);
        let mut forged = der.to_vec();
        // In the last bytes of the signature.
        let last = forged.len() - 2;
        forged[last] ^= 1;
        let rows = [
            ("nothing", String::new(), RequestError::Pem),
            ("no PEM", "abc".to_owned(), RequestError::Pem),
            ("a key", key.serialize_pem(), RequestError::Pem),
            ("no PKCS #10", pem(b"abc"), RequestError::Malformed),
            ("something behind it", pem(&[&der[..], b"x"].concat()), RequestError::Malformed),
            ("half of it", pem(&der[..der.len() / 2]), RequestError::Malformed),
            ("another signature", pem(&forged), RequestError::Signature),
            ("a weak key", RSA_1024.to_owned(), RequestError::Key),
            ("too long", format!("{good}{}", " ".repeat(MAX_REQUEST)), RequestError::TooLong),
        ];
        for (what, text, expected) in rows {
            assert_eq!(public_key(&text).unwrap_err(), expected, "{what}");
        }
    }
}
