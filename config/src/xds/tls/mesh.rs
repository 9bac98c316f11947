//! TLS between sidecars, as both ends write it.

use super::{name_to_xds, pb, secret, versions};
use crate::ir::Secret;
use crate::xds::node::Flavour;
use pb::core::config_source::ConfigSourceSpecifier;
use pb::core::{ApiVersion, ConfigSource, PathConfigSource};
use pb::tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
use pb::tls::tls_parameters::TlsProtocol;
use pb::tls::{CertificateValidationContext, CommonTlsContext, SdsSecretConfig};

/// `identities`: of the peer, one of them; empty: whom the roots vouch for.
pub(super) fn to_xds(alpn: &[&str], identities: &[String], flavour: &Flavour) -> CommonTlsContext {
    let validation = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: identities.iter().map(|identity| name_to_xds(identity)).collect(),
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(secret(Secret::ROOTS)),
        ..Default::default()
    };
    CommonTlsContext {
        tls_params: Some(versions(TlsProtocol::TlSv13)),
        tls_certificate_sds_secret_configs: vec![own_certificate(flavour)],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
        alpn_protocols: alpn.iter().map(|&name| name.to_owned()).collect(),
        ..Default::default()
    }
}

/// A key is no part of what a control plane sends: a client has it from beside itself.
fn own_certificate(flavour: &Flavour) -> SdsSecretConfig {
    match flavour {
        Flavour::Sidecar => secret(Secret::OWN_CERTIFICATE),
        Flavour::CertificateFiles { directory } => {
            let path = format!("{directory}/{}.yaml", Secret::OWN_CERTIFICATE);
            SdsSecretConfig {
                name: Secret::OWN_CERTIFICATE.to_owned(),
                sds_config: Some(ConfigSource {
                    resource_api_version: ApiVersion::V3.into(),
                    config_source_specifier: Some(ConfigSourceSpecifier::PathConfigSource(PathConfigSource {
                        path,
                        // The agent renames a finished file to this path, which Envoy sees without being told where
                        // to look.
                        ..Default::default()
                    })),
                    ..Default::default()
                }),
            }
        }
    }
}
