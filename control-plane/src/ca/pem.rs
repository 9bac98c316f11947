//! DER as PEM (RFC 7468), and certificates back from it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// Characters per line (RFC 7468 §2).
const LINE: usize = 64;

/// One block.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

/// A certificate.
pub(crate) fn certificate(certificate: &CertificateDer<'_>) -> String {
    encode("CERTIFICATE", certificate)
}

/// Certificates, one after the other.
pub(crate) fn certificates<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> String {
    certificates.into_iter().map(certificate).collect()
}

/// All certificates of a text; what is not a certificate is passed over. `None`: some block is broken.
pub(crate) fn read_certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for length in [0, 1, 47, 48, 49, 96, 1000] {
            let der = CertificateDer::from(vec![7; length]);
            let pem = certificate(&der);
            assert!(pem.lines().all(|line| line.len() <= LINE), "{pem}");
            assert_eq!(read_certificates(pem.as_bytes()).unwrap(), [der], "{length} bytes");
        }
        assert_eq!(read_certificates(b"nothing"), Some(Vec::new()));
        assert_eq!(read_certificates(b"-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n"), None);
    }
}
