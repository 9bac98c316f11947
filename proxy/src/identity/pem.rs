//! Writing PEM (RFC 7468). Reading is in the TLS library.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// Bytes in a line of 64 characters.
const LINE: usize = 48;

/// Certificates, one after the other.
pub(super) fn certificates(certificates: &[CertificateDer<'_>]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        write(&mut text, "CERTIFICATE", certificate);
    }
    text
}

/// Revocation lists, one after the other.
pub(super) fn revocations(lists: &[CertificateRevocationListDer<'_>]) -> String {
    let mut text = String::new();
    for list in lists {
        write(&mut text, "X509 CRL", list);
    }
    text
}

/// A private key. The text is erased when it is dropped, and was never copied: its buffer is large enough from the start.
pub(super) fn key(key: &PrivateKeyDer<'_>) -> Zeroizing<String> {
    let (label, der) = match key {
        PrivateKeyDer::Pkcs1(der) => ("RSA PRIVATE KEY", der.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(der) => ("EC PRIVATE KEY", der.secret_sec1_der()),
        PrivateKeyDer::Pkcs8(der) => ("PRIVATE KEY", der.secret_pkcs8_der()),
        // A kind that the library learns later; today it has these three.
        other => ("PRIVATE KEY", other.secret_der()),
    };
    let mut text = Zeroizing::new(String::with_capacity(der.len().saturating_mul(2).saturating_add(128)));
    write(&mut text, label, der);
    text
}

fn write(text: &mut String, label: &str, der: &[u8]) {
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    for line in der.chunks(LINE) {
        STANDARD.encode_string(line, text);
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
}
