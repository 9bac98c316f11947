//! The messages by which a proxy asks for its certificate: Istio's own service, so that agents made for Istio work too.
//!
//! Source: `security/v1alpha1/ca.proto` of istio/api. They are written by hand, since two messages with four fields do
//! not need a generator; the numbers are what counts on the wire. Unknown fields are skipped, as protobuf does.

use envoy_types::pb::google::protobuf::Struct;

/// Path of the one method, as HTTP/2 sees it.
pub const METHOD: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// Full name of the service.
pub const SERVICE: &str = "istio.v1.auth.IstioCertificateService";
/// Who a token must be meant for to count as a credential of this service.
pub const AUDIENCE: &str = "istio-ca";

/// Asks for a certificate for a key that stays with the caller.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IstioCertificateRequest {
    /// PKCS#10 request, PEM. Only its public key counts: who the caller is comes from its credential.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// How long the certificate should be good, in seconds; 0: as long as the authority gives. Never longer than that.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// Hints of Istio's agents (`CertSigner`, …); none of them changes what is issued.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<Struct>,
}

/// The certificate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IstioCertificateResponse {
    /// PEM, one certificate each: the leaf, the intermediates, and the root last.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn the_numbers_on_the_wire_are_istios() {
        let request = IstioCertificateRequest { csr: "c".to_owned(), validity_duration: 60, metadata: None };
        assert_eq!(request.encode_to_vec(), [0x0a, 1, b'c', 0x18, 60]);
        let with_metadata = IstioCertificateRequest { metadata: Some(Struct::default()), ..request };
        assert_eq!(with_metadata.encode_to_vec(), [0x0a, 1, b'c', 0x18, 60, 0x22, 0]);
        let response = IstioCertificateResponse { cert_chain: vec!["a".to_owned(), "b".to_owned()] };
        assert_eq!(response.encode_to_vec(), [0x0a, 1, b'a', 0x0a, 1, b'b']);
    }

    #[test]
    fn a_field_of_a_later_version_is_skipped() {
        let decoded = IstioCertificateRequest::decode(&[0x0a, 1, b'c', 0x2a, 1, b'x'][..]).unwrap();
        assert_eq!(decoded, IstioCertificateRequest { csr: "c".to_owned(), ..Default::default() });
    }
}
