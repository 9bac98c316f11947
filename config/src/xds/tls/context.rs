//! Reading what both ends of a TLS connection say: certificates, and whom to believe.

use super::{KUBERNETES, KUBERNETES_ROOTS, SYSTEM_ROOTS, pb, whole};
use crate::ir::{Credential, ExternalTls, Secret, StringMatch, TlsVersion};
use crate::xds::refusal::{Problem, Result, Within, each, required, unsupported};
use crate::xds::validation::{self, Validation};
use pb::core::DataSource;
use pb::core::data_source::Specifier;
use pb::tls::certificate_validation_context::{SystemRootCerts, TrustChainVerification};
use pb::tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
use pb::tls::subject_alt_name_matcher::SanType;
use pb::tls::tls_parameters::TlsProtocol;
use pb::tls::{
    CertificateValidationContext, CommonTlsContext, SdsSecretConfig, SubjectAltNameMatcher, TlsCertificate,
    TlsParameters,
};

/// Istio's name for files with certificate and key, parted by `~`.
const FILE_CERTIFICATE: &str = "file-cert:";
/// Istio's name for a file with roots.
const FILE_ROOTS: &str = "file-root:";

/// Whose certificate is verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Side {
    /// An endpoint's: it has one of some names.
    #[default]
    Peer,
    /// A caller's: of the mesh, where a condition says which names may call, or of others, who have one of some names.
    Caller,
    /// Nobody's.
    Nobody,
}

/// What a context says, whichever kind of TLS it turns out to be.
#[derive(Default)]
pub(super) struct Found {
    pub(super) side: Side,
    /// Certificate and roots are those of the mesh.
    pub(super) is_mesh: bool,
    /// Of the peer; one of them.
    pub(super) names: Vec<StringMatch>,
    /// Everything else, but for the server name.
    pub(super) tls: ExternalTls,
}

pub(super) fn read(common: CommonTlsContext, side: Side) -> Result<Found> {
    #[allow(deprecated)]
    let CommonTlsContext {
        tls_params,
        tls_certificates,
        tls_certificate_sds_secret_configs,
        tls_certificate_provider_instance,
        custom_tls_certificate_selector,
        tls_certificate_certificate_provider,
        tls_certificate_certificate_provider_instance,
        custom_handshaker,
        key_log,
        validation_context_type,
        // Follows from the protocol.
        alpn_protocols: _,
    } = common;
    unsupported(&[
        ("tls_certificate_provider_instance", &tls_certificate_provider_instance),
        ("custom_tls_certificate_selector", &custom_tls_certificate_selector),
        ("tls_certificate_certificate_provider", &tls_certificate_certificate_provider),
        ("tls_certificate_certificate_provider_instance", &tls_certificate_certificate_provider_instance),
        ("custom_handshaker", &custom_handshaker),
        ("key_log", &key_log),
    ])?;
    let mut found = Found { side, ..Found::default() };
    let several = "one certificate is enough";
    for (index, certificate) in tls_certificates.into_iter().enumerate() {
        if index > 0 {
            return Err(Problem::new("", several)).within_item("tls_certificates", index);
        }
        certificate_from_xds(&mut found.tls, certificate).within_item("tls_certificates", index)?;
    }
    for (index, secret) in tls_certificate_sds_secret_configs.into_iter().enumerate() {
        if index > 0 {
            return Err(Problem::new("", several)).within_item("tls_certificate_sds_secret_configs", index);
        }
        certificate_secret_from_xds(&mut found, secret).within_item("tls_certificate_sds_secret_configs", index)?;
    }
    validation_type_from_xds(&mut found, validation_context_type)?;
    if let Some(parameters) = tls_params {
        found.tls.min_version = parameters_from_xds(parameters, found.is_mesh).within("tls_params")?;
    }
    Ok(found)
}

/// Leno speaks TLS 1.2 and 1.3 with its own choice of ciphers, between sidecars 1.3 alone; what asks for less than that
/// is no demand.
fn parameters_from_xds(parameters: TlsParameters, is_mesh: bool) -> Result<TlsVersion> {
    let TlsParameters {
        tls_minimum_protocol_version,
        tls_maximum_protocol_version,
        cipher_suites,
        ecdh_curves,
        signature_algorithms,
        compliance_policies,
    } = parameters;
    unsupported(&[
        // They are those of TLS 1.2 and older.
        ("cipher_suites", &(!is_mesh && !cipher_suites.is_empty())),
        ("ecdh_curves", &ecdh_curves),
        ("signature_algorithms", &signature_algorithms),
        ("compliance_policies", &compliance_policies),
    ])?;
    match TlsProtocol::try_from(tls_maximum_protocol_version) {
        Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv13) => {}
        Ok(TlsProtocol::TlSv10 | TlsProtocol::TlSv11 | TlsProtocol::TlSv12) | Err(_) => {
            return Err(Problem::unsupported("tls_maximum_protocol_version"));
        }
    }
    match TlsProtocol::try_from(tls_minimum_protocol_version) {
        Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv10 | TlsProtocol::TlSv11 | TlsProtocol::TlSv12) => {
            Ok(TlsVersion::Tls12)
        }
        Ok(TlsProtocol::TlSv13) => Ok(TlsVersion::Tls13),
        Err(_) => Err(Problem::unsupported("tls_minimum_protocol_version")),
    }
}

fn certificate_from_xds(tls: &mut ExternalTls, certificate: TlsCertificate) -> Result<()> {
    let TlsCertificate {
        certificate_chain,
        private_key,
        pkcs12,
        private_key_provider,
        password,
        tls_params,
        // Leno watches the files themselves.
        watched_directory: _,
        // What a server would add.
        ocsp_staple: _,
        signed_certificate_timestamp: _,
    } = certificate;
    unsupported(&[
        ("pkcs12", &pkcs12),
        ("private_key_provider", &private_key_provider),
        ("password", &password),
        ("tls_params", &tls_params),
    ])?;
    tls.certificate = certificate_chain.map(file_from_xds).transpose().within("certificate_chain")?;
    tls.key = private_key.map(file_from_xds).transpose().within("private_key")?;
    Ok(())
}

fn file_from_xds(source: DataSource) -> Result<String> {
    let DataSource { specifier, watched_directory: _ } = source;
    match specifier {
        Some(Specifier::Filename(path)) if !path.is_empty() => Ok(path),
        _ => Err(Problem::new("", "Leno takes certificates, keys and roots from files: write `filename`")),
    }
}

fn certificate_secret_from_xds(found: &mut Found, secret: SdsSecretConfig) -> Result<()> {
    // Where the secret comes from does not matter: its name says what it is.
    let SdsSecretConfig { name, sds_config: _ } = secret;
    if name == Secret::OWN_CERTIFICATE {
        found.is_mesh = true;
    } else if let Some(credential) = name.strip_prefix(KUBERNETES) {
        found.tls.credential = Some(credential_from_xds(credential, true)?);
    } else if let Some((certificate, key)) = name.strip_prefix(FILE_CERTIFICATE).and_then(|files| files.split_once('~'))
    {
        found.tls.certificate = Some(certificate.to_owned());
        found.tls.key = Some(key.to_owned());
    } else {
        return Err(unknown_secret(&name));
    }
    Ok(())
}

fn credential_from_xds(name: &str, is_shown: bool) -> Result<Credential> {
    match Credential::is_name(name) {
        true => Ok(Credential { name: name.to_owned(), is_shown }),
        false => Err(Problem::new("name", format!("`{name}` is no name of a Kubernetes secret"))),
    }
}

fn unknown_secret(name: &str) -> Problem {
    let (own, roots) = (Secret::OWN_CERTIFICATE, Secret::ROOTS);
    let known = format!("{own}, {roots}, {KUBERNETES}…, {FILE_CERTIFICATE}… and {FILE_ROOTS}…");
    Problem::new("name", format!("Leno does not know a secret `{name}`; it knows {known}"))
}

fn validation_type_from_xds(found: &mut Found, validation: Option<ValidationContextType>) -> Result<()> {
    let mesh_certificate = found.is_mesh;
    let mesh_roots = match validation {
        Some(_) if found.side == Side::Nobody && !found.is_mesh => {
            let reason =
                "nobody's certificate is verified that is not asked for: write `require_client_certificate: true`";
            return Err(Problem::new("validation_context", reason));
        }
        Some(ValidationContextType::ValidationContext(context)) => {
            validation_from_xds(found, context, true).within("validation_context")?;
            false
        }
        Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) => {
            roots_secret_from_xds(found, secret).within("validation_context_sds_secret_config")?
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            combined_from_xds(found, combined).within("combined_validation_context")?
        }
        #[allow(deprecated)]
        Some(
            ValidationContextType::ValidationContextCertificateProvider(_)
            | ValidationContextType::ValidationContextCertificateProviderInstance(_),
        ) => return Err(Problem::unsupported("validation_context_certificate_provider")),
        None if found.side == Side::Nobody => false,
        None => {
            return Err(Problem::new(
                "validation_context",
                "is required: without it the peer is not verified. Name `trusted_ca`, or say \
                 `trust_chain_verification: ACCEPT_UNTRUSTED`",
            ));
        }
    };
    if mesh_certificate != mesh_roots {
        let (own, roots) = (Secret::OWN_CERTIFICATE, Secret::ROOTS);
        let reason = format!("mesh mTLS takes both secrets, `{own}` and `{roots}`, or neither");
        return Err(Problem::new("", reason));
    }
    Ok(())
}

fn combined_from_xds(found: &mut Found, combined: CombinedCertificateValidationContext) -> Result<bool> {
    #[allow(deprecated)]
    let CombinedCertificateValidationContext {
        default_validation_context,
        validation_context_sds_secret_config,
        validation_context_certificate_provider,
        validation_context_certificate_provider_instance,
    } = combined;
    unsupported(&[
        ("validation_context_certificate_provider", &validation_context_certificate_provider),
        ("validation_context_certificate_provider_instance", &validation_context_certificate_provider_instance),
    ])?;
    let context = default_validation_context.unwrap_or_default();
    validation_from_xds(found, context, false).within("default_validation_context")?;
    let secret = required("validation_context_sds_secret_config", validation_context_sds_secret_config)?;
    roots_secret_from_xds(found, secret).within("validation_context_sds_secret_config")
}

/// Notes where the roots are; says whether they are the mesh's.
fn roots_secret_from_xds(found: &mut Found, secret: SdsSecretConfig) -> Result<bool> {
    // Where the secret comes from does not matter: its name says what it is.
    let SdsSecretConfig { name, sds_config: _ } = secret;
    if name == Secret::ROOTS {
        return Ok(true);
    }
    if let Some(path) = name.strip_prefix(FILE_ROOTS) {
        // Istio: `system` are the roots of the system.
        found.tls.roots = (path != "system").then(|| path.to_owned());
        return Ok(false);
    }
    let of_secret = name.strip_prefix(KUBERNETES).map(|name| name.strip_suffix(KUBERNETES_ROOTS).unwrap_or(name));
    match (of_secret, &found.tls.credential) {
        (Some(name), None) => found.tls.credential = Some(credential_from_xds(name, false)?),
        (Some(name), Some(credential)) if *name == credential.name => {}
        (Some(_), Some(_)) => return Err(Problem::new("name", "certificate and roots come from one secret")),
        (None, _) => return Err(unknown_secret(&name)),
    }
    Ok(false)
}

/// `is_whole`: nothing else says where the roots are.
fn validation_from_xds(found: &mut Found, context: CertificateValidationContext, is_whole: bool) -> Result<()> {
    let Validation {
        trusted_ca,
        system_root_certs,
        match_typed_subject_alt_names,
        match_subject_alt_names,
        crl,
        trust_chain_verification,
        custom_validator_config,
        only_verify_leaf_cert_crl,
    } = validation::from_xds(context)?;
    unsupported(&[
        // Without a list it says nothing.
        ("only_verify_leaf_cert_crl", &(only_verify_leaf_cert_crl && crl.is_some())),
        ("custom_validator_config", &custom_validator_config),
    ])?;
    found.tls.revoked = crl.map(file_from_xds).transpose().within("crl")?;
    found.tls.skip_verify = match TrustChainVerification::try_from(trust_chain_verification) {
        Ok(TrustChainVerification::VerifyTrustChain) => false,
        Ok(TrustChainVerification::AcceptUntrusted) => true,
        Err(_) => return Err(Problem::unsupported("trust_chain_verification")),
    };
    let system = matches!(system_root_certs, Some(SystemRootCerts {}));
    if is_whole && trusted_ca.is_none() && !system && !found.tls.skip_verify {
        return Err(Problem::new("trusted_ca", "is required: without it the peer is not verified"));
    }
    let roots = trusted_ca.map(file_from_xds).transpose().within("trusted_ca")?;
    found.tls.roots = roots.filter(|path| path != SYSTEM_ROOTS);
    let side = if found.is_mesh { found.side } else { Side::Peer };
    let typed = each("match_typed_subject_alt_names", match_typed_subject_alt_names, |it| typed_from_xds(it, side))?;
    let any_type = each("match_subject_alt_names", match_subject_alt_names, |it| name_from_xds(it, side))?;
    for name in typed.into_iter().chain(any_type) {
        // Istio writes a name once for each kind of subject that it may be.
        if !found.names.contains(&name) {
            found.names.push(name);
        }
    }
    Ok(())
}

fn typed_from_xds(name: SubjectAltNameMatcher, side: Side) -> Result<StringMatch> {
    let SubjectAltNameMatcher { san_type, matcher, oid } = name;
    unsupported(&[("oid", &oid)])?;
    match (SanType::try_from(san_type), side) {
        (Ok(SanType::Uri), _) | (Ok(SanType::Dns), Side::Peer) => {}
        (_, Side::Peer | Side::Nobody) => return Err(Problem::new("san_type", "only DNS and URI are supported")),
        (_, Side::Caller) => return Err(Problem::new("san_type", "a caller is known by its SPIFFE ID: only URI")),
    }
    name_from_xds(required("matcher", matcher)?, side).within("matcher")
}

fn name_from_xds(matcher: pb::matcher::StringMatcher, side: Side) -> Result<StringMatch> {
    let name = crate::xds::matcher::string_from_xds(matcher)?;
    match side {
        Side::Peer | Side::Nobody if whole(&name).is_none() => {
            Err(Problem::new("", "Leno compares names of certificates as a whole: write `exact`"))
        }
        Side::Peer | Side::Caller | Side::Nobody => Ok(name),
    }
}
