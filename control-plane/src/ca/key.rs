//! Private keys of the authority: made here or read from PEM, never printed.
//!
//! A key lives in the memory of the TLS library, which wipes it when it is freed; the text it came from or goes to is
//! wiped as well. One type serves for signing certificates and for TLS, so there is one way to read a key.

use std::fmt;
use std::sync::Arc;

use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SubjectPublicKeyInfo};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use zeroize::{Zeroize as _, Zeroizing};

/// Why something is not a private key for this authority.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    /// Not PEM, or not of a key.
    #[error("it is not a private key in PEM")]
    Pem,
    /// Nothing that TLS knows.
    #[error("it is of a kind that certificates cannot be signed with; use ECDSA P-256 or P-384, RSA, or Ed25519")]
    Kind,
    /// The source of random numbers failed.
    #[error("no key could be made: there are no random numbers")]
    Random,
}

/// A private key.
pub(crate) struct Key {
    signer: Arc<dyn rustls::sign::SigningKey>,
    public: SubjectPublicKeyInfo,
    scheme: SignatureScheme,
}

impl Key {
    /// A new ECDSA P-256 key, and its PEM (PKCS #8) for the disk.
    pub(crate) fn generate() -> Result<(Self, Zeroizing<String>), KeyError> {
        let mut pair = KeyPair::generate().map_err(|_| KeyError::Random)?;
        let pem = Zeroizing::new(pair.serialize_pem());
        pair.zeroize();
        Ok((Self::from_pem(pem.as_bytes())?, pem))
    }

    /// The first private key in the text: PKCS #8, PKCS #1 or SEC 1.
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let mut der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::Pem)?;
        let signer = aws_lc_rs::sign::any_supported_type(&der);
        der.zeroize();
        let signer = signer.map_err(|_| KeyError::Kind)?;
        let public = signer.public_key().ok_or(KeyError::Kind)?;
        let public = SubjectPublicKeyInfo::from_der(&public).map_err(|_| KeyError::Kind)?;
        let scheme = scheme(public.algorithm()).ok_or(KeyError::Kind)?;
        Ok(Self { signer, public, scheme })
    }

    /// The other half.
    pub(crate) fn public(&self) -> &SubjectPublicKeyInfo {
        &self.public
    }

    /// For TLS.
    pub(crate) fn signer(&self) -> &Arc<dyn rustls::sign::SigningKey> {
        &self.signer
    }
}

/// How a key of this kind signs a certificate; the pairs have to agree with [`rcgen`]'s names.
fn scheme(algorithm: &SignatureAlgorithm) -> Option<SignatureScheme> {
    let known = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, SignatureScheme::ECDSA_NISTP384_SHA384),
        (&rcgen::PKCS_RSA_SHA256, SignatureScheme::RSA_PKCS1_SHA256),
        (&rcgen::PKCS_ED25519, SignatureScheme::ED25519),
    ];
    known.into_iter().find(|(known, _)| *known == algorithm).map(|(_, scheme)| scheme)
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.public.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.public.algorithm()
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signer = self.signer.choose_scheme(&[self.scheme]).ok_or(rcgen::Error::RemoteKeyError)?;
        signer.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_every_supported_kind_are_read_and_sign() {
        let kinds = [
            (&rcgen::PKCS_ECDSA_P256_SHA256, true),
            (&rcgen::PKCS_ECDSA_P384_SHA384, true),
            (&rcgen::PKCS_RSA_SHA256, true),
            (&rcgen::PKCS_ED25519, true),
            (&rcgen::PKCS_ECDSA_P521_SHA512, false),
        ];
        for (algorithm, expected) in kinds {
            let pem = KeyPair::generate_for(algorithm).unwrap().serialize_pem();
            let signed = Key::from_pem(pem.as_bytes()).map(|key| rcgen::SigningKey::sign(&key, b"message").unwrap());
            assert_eq!(signed.is_ok(), expected, "{algorithm:?}");
        }
        assert!(matches!(Key::from_pem(b"no key"), Err(KeyError::Pem)));
    }

    #[test]
    fn a_key_is_not_printed() {
        let (key, pem) = Key::generate().unwrap();
        let secret = pem.lines().nth(1).unwrap();
        assert!(!format!("{key:?}").contains(secret));
    }
}
