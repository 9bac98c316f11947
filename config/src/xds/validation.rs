//! What Envoy's validation context says, wherever it stands: in a secret, or in the TLS of a cluster or listener.

use super::pb;
use super::refusal::{Result, unsupported};
use pb::core::{DataSource, TypedExtensionConfig};
use pb::matcher::StringMatcher;
use pb::tls::certificate_validation_context::SystemRootCerts;
use pb::tls::{CertificateValidationContext, SubjectAltNameMatcher};

/// The fields that mean something in one place or the other. Each place refuses those that it has nothing for.
pub(super) struct Validation {
    pub(super) trusted_ca: Option<DataSource>,
    pub(super) system_root_certs: Option<SystemRootCerts>,
    pub(super) match_typed_subject_alt_names: Vec<SubjectAltNameMatcher>,
    pub(super) match_subject_alt_names: Vec<StringMatcher>,
    pub(super) crl: Option<DataSource>,
    pub(super) trust_chain_verification: i32,
    pub(super) custom_validator_config: Option<TypedExtensionConfig>,
    pub(super) only_verify_leaf_cert_crl: bool,
}

/// Refuses what Leno has for neither.
pub(super) fn from_xds(context: CertificateValidationContext) -> Result<Validation> {
    #[allow(deprecated)]
    let CertificateValidationContext {
        trusted_ca,
        ca_certificate_provider_instance,
        system_root_certs,
        verify_certificate_spki,
        verify_certificate_hash,
        match_typed_subject_alt_names,
        match_subject_alt_names,
        require_signed_certificate_timestamp,
        crl,
        allow_expired_certificate,
        trust_chain_verification,
        custom_validator_config,
        only_verify_leaf_cert_crl,
        max_verify_depth,
        // Leno watches files itself.
        watched_directory: _,
        // What a server tells its callers.
        suppress_client_ca_list: _,
    } = context;
    unsupported(&[
        ("ca_certificate_provider_instance", &ca_certificate_provider_instance),
        ("verify_certificate_spki", &verify_certificate_spki),
        ("verify_certificate_hash", &verify_certificate_hash),
        ("require_signed_certificate_timestamp", &require_signed_certificate_timestamp),
        ("allow_expired_certificate", &allow_expired_certificate),
        ("max_verify_depth", &max_verify_depth),
    ])?;
    Ok(Validation {
        trusted_ca,
        system_root_certs,
        match_typed_subject_alt_names,
        match_subject_alt_names,
        crl,
        trust_chain_verification,
        custom_validator_config,
        only_verify_leaf_cert_crl,
    })
}
