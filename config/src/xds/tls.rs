//! Encryption toward endpoints: Envoy's transport sockets.
//!
//! * Mesh mTLS takes its certificate and roots from the secrets `default` and `ROOTCA`, as in Istio. That is how it is
//!   recognised; Leno has its own identity, so where those secrets come from does not matter.
//! * Auto-mTLS chooses by the endpoint's metadata `tlsMode: istio`.
//! * TLS to the outside names files, or a Kubernetes secret by Istio's name for it.
//!
//! Reading is fail-closed: a context that would not verify the peer has to say so in words.

use super::pb;
use super::refusal::{Problem, Result, Within, each, required, unsupported};
use super::{any, base};
use crate::ir::{ExternalTls, MeshTls, UpstreamProtocol, UpstreamTls};
use pb::cluster::cluster::TransportSocketMatch;
use pb::core::data_source::Specifier;
use pb::core::{DataSource, TransportSocket, transport_socket};
use pb::tls::certificate_validation_context::{SystemRootCerts, TrustChainVerification};
use pb::tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
use pb::tls::subject_alt_name_matcher::SanType;
use pb::tls::tls_parameters::TlsProtocol;
use pb::tls::{
    CertificateValidationContext, CommonTlsContext, SdsSecretConfig, SubjectAltNameMatcher, TlsCertificate,
    TlsParameters, UpstreamTlsContext,
};

/// Istio's secret with the own certificate.
const OWN_CERTIFICATE: &str = "default";
/// Istio's secret with the mesh's roots.
const MESH_ROOTS: &str = "ROOTCA";
/// Istio's name for a Kubernetes secret.
const KUBERNETES: &str = "kubernetes://";
/// Istio: the roots in that secret.
const KUBERNETES_ROOTS: &str = "-cacert";
/// Istio's name for files with certificate and key, parted by `~`.
const FILE_CERTIFICATE: &str = "file-cert:";
/// Istio's name for a file with roots.
const FILE_ROOTS: &str = "file-root:";
/// Where the system's roots are on Debian, Alpine and in Envoy's images. Envoy has no other word for them.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The fields of a cluster that say how its connections are encrypted.
#[derive(Default)]
pub(super) struct Sockets {
    pub(super) matches: Vec<TransportSocketMatch>,
    pub(super) socket: Option<TransportSocket>,
}

pub(super) fn to_xds(tls: &UpstreamTls, protocol: UpstreamProtocol) -> Sockets {
    match tls {
        UpstreamTls::Plain => Sockets::default(),
        UpstreamTls::Mesh(mesh) => Sockets { socket: Some(mesh_to_xds(mesh, protocol)), matches: Vec::new() },
        UpstreamTls::External(tls) => Sockets { socket: Some(external_to_xds(tls, protocol)), matches: Vec::new() },
        UpstreamTls::Auto(mesh) => Sockets {
            socket: None,
            matches: vec![
                TransportSocketMatch {
                    name: "tlsMode-istio".to_owned(),
                    r#match: Some(base::texts([("tlsMode", "istio")])),
                    transport_socket: Some(mesh_to_xds(mesh, protocol)),
                },
                TransportSocketMatch {
                    name: "tlsMode-disabled".to_owned(),
                    r#match: Some(Default::default()),
                    transport_socket: Some(plain_to_xds()),
                },
            ],
        },
    }
}

/// `by_host`: the server name is the request's host (`auto_sni` of the cluster's HTTP options).
pub(super) fn from_xds(sockets: Sockets, by_host: bool) -> Result<UpstreamTls> {
    let Sockets { matches, socket } = sockets;
    let tls = socket.map_or(Ok(UpstreamTls::Plain), |socket| socket_from_xds(socket, by_host));
    let tls = tls.within("transport_socket")?;
    if matches.is_empty() {
        return Ok(tls);
    }
    unsupported(&[("transport_socket", &(tls != UpstreamTls::Plain))])?;
    matches_from_xds(matches, by_host)
}

/// Istio's pair: mesh mTLS for endpoints that have it, clear text for the others.
fn matches_from_xds(matches: Vec<TransportSocketMatch>, by_host: bool) -> Result<UpstreamTls> {
    let mut mesh = None;
    for (index, one) in matches.into_iter().enumerate() {
        let TransportSocketMatch { name: _, r#match, transport_socket } = one;
        let condition = r#match.unwrap_or_default();
        let for_mesh = condition == base::texts([("tlsMode", "istio")]);
        let for_all = condition.fields.is_empty();
        let tls = transport_socket.map_or(Ok(UpstreamTls::Plain), |socket| socket_from_xds(socket, by_host));
        match tls.within("transport_socket").within_item("transport_socket_matches", index)? {
            UpstreamTls::Mesh(tls) if for_mesh => mesh = Some(tls),
            UpstreamTls::Plain if for_all => {}
            UpstreamTls::Plain | UpstreamTls::Auto(_) | UpstreamTls::Mesh(_) | UpstreamTls::External(_) => {
                let reason = "Leno knows mesh mTLS for `tlsMode: istio`, and clear text for everything else";
                return Err(Problem::new("", reason)).within_item("transport_socket_matches", index);
            }
        }
    }
    Ok(mesh.map_or(UpstreamTls::Plain, UpstreamTls::Auto))
}

fn mesh_to_xds(mesh: &MeshTls, protocol: UpstreamProtocol) -> TransportSocket {
    let MeshTls { sni, identities } = mesh;
    let alpn: &[&str] = match protocol {
        UpstreamProtocol::Http2 | UpstreamProtocol::AsDownstream => &["istio-peer-exchange", "istio", "h2"],
        UpstreamProtocol::Http1 | UpstreamProtocol::Tcp => &["istio-peer-exchange", "istio"],
    };
    let validation = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: identities.iter().map(|identity| name_to_xds(identity)).collect(),
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(secret(MESH_ROOTS)),
        ..Default::default()
    };
    context_to_xds(
        CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![secret(OWN_CERTIFICATE)],
            validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
            alpn_protocols: alpn.iter().map(|&name| name.to_owned()).collect(),
            ..Default::default()
        },
        sni,
    )
}

fn external_to_xds(tls: &ExternalTls, protocol: UpstreamProtocol) -> TransportSocket {
    let ExternalTls { sni, subject_alt_names, roots, certificate, key, credential, skip_verify } = tls;
    let alpn: &[&str] = match protocol {
        UpstreamProtocol::Http1 => &["http/1.1"],
        UpstreamProtocol::Http2 => &["h2"],
        UpstreamProtocol::AsDownstream => &["h2", "http/1.1"],
        UpstreamProtocol::Tcp => &[],
    };
    let verification =
        if *skip_verify { TrustChainVerification::AcceptUntrusted } else { TrustChainVerification::VerifyTrustChain };
    let from_secret = credential.is_some() && roots.is_none();
    let validation = CertificateValidationContext {
        trusted_ca: (!from_secret).then(|| file(roots.as_deref().unwrap_or(SYSTEM_ROOTS))),
        match_typed_subject_alt_names: subject_alt_names.iter().map(|name| name_to_xds(name)).collect(),
        trust_chain_verification: verification.into(),
        ..Default::default()
    };
    let validation = match credential {
        Some(name) if from_secret => {
            ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
                default_validation_context: Some(validation),
                validation_context_sds_secret_config: Some(secret(&format!("{KUBERNETES}{name}{KUBERNETES_ROOTS}"))),
                ..Default::default()
            })
        }
        Some(_) | None => ValidationContextType::ValidationContext(validation),
    };
    let own = TlsCertificate {
        certificate_chain: certificate.as_deref().map(file),
        private_key: key.as_deref().map(file),
        ..Default::default()
    };
    context_to_xds(
        CommonTlsContext {
            tls_certificates: (certificate.is_some() || key.is_some()).then_some(own).into_iter().collect(),
            tls_certificate_sds_secret_configs: credential
                .iter()
                .map(|name| secret(&format!("{KUBERNETES}{name}")))
                .collect(),
            validation_context_type: Some(validation),
            alpn_protocols: alpn.iter().map(|&name| name.to_owned()).collect(),
            ..Default::default()
        },
        sni.as_deref().unwrap_or_default(),
    )
}

fn context_to_xds(common: CommonTlsContext, sni: &str) -> TransportSocket {
    let context = UpstreamTlsContext { common_tls_context: Some(common), sni: sni.to_owned(), ..Default::default() };
    socket("envoy.transport_sockets.tls", any::pack(&context))
}

fn plain_to_xds() -> TransportSocket {
    socket("envoy.transport_sockets.raw_buffer", any::pack(&pb::raw_buffer::RawBuffer {}))
}

fn socket(name: &str, config: pb::protobuf::Any) -> TransportSocket {
    TransportSocket { name: name.to_owned(), config_type: Some(transport_socket::ConfigType::TypedConfig(config)) }
}

fn secret(name: &str) -> SdsSecretConfig {
    SdsSecretConfig { name: name.to_owned(), sds_config: Some(base::ads()) }
}

fn file(path: &str) -> DataSource {
    DataSource { specifier: Some(Specifier::Filename(path.to_owned())), watched_directory: None }
}

fn name_to_xds(name: &str) -> SubjectAltNameMatcher {
    let kind = if name.contains("://") { SanType::Uri } else { SanType::Dns };
    SubjectAltNameMatcher {
        san_type: kind.into(),
        matcher: Some(super::matcher::string_to_xds(&crate::ir::StringMatch::exact(name))),
        oid: String::new(),
    }
}

fn socket_from_xds(socket: TransportSocket, by_host: bool) -> Result<UpstreamTls> {
    let TransportSocket { name, config_type } = socket;
    let config = match config_type {
        Some(transport_socket::ConfigType::TypedConfig(config)) => config,
        None if name == "envoy.transport_sockets.raw_buffer" => return Ok(UpstreamTls::Plain),
        None => return Err(Problem::missing("typed_config")),
    };
    if any::is::<pb::raw_buffer::RawBuffer>(&config) {
        return Ok(UpstreamTls::Plain);
    }
    if !any::is::<UpstreamTlsContext>(&config) {
        return Err(Problem::new("", format!("Leno has no transport socket `{name}` (`{}`)", any::type_name(&config))));
    }
    any::unpack(&config).and_then(|context| context_from_xds(context, by_host)).within("typed_config")
}

fn context_from_xds(context: UpstreamTlsContext, by_host: bool) -> Result<UpstreamTls> {
    #[allow(deprecated)]
    let UpstreamTlsContext {
        common_tls_context,
        sni,
        auto_host_sni,
        allow_renegotiation,
        // The name is verified in any case.
        auto_sni_san_validation: _,
        // Tuning, and a check that the library makes anyway.
        max_session_keys: _,
        enforce_rsa_key_usage: _,
    } = context;
    unsupported(&[("auto_host_sni", &auto_host_sni), ("allow_renegotiation", &allow_renegotiation)])?;
    let found = common_from_xds(required("common_tls_context", common_tls_context)?).within("common_tls_context")?;
    let Found { is_mesh, tls } = found;
    if !is_mesh {
        let sni = Some(sni).filter(|sni| !by_host && !sni.is_empty());
        return Ok(UpstreamTls::External(ExternalTls { sni, ..tls }));
    }
    if by_host {
        return Err(Problem::new("sni", "mesh mTLS names its server: leave `auto_sni` of the HTTP options unset"));
    }
    Ok(UpstreamTls::Mesh(MeshTls { sni, identities: tls.subject_alt_names }))
}

/// What a context says, whichever kind of TLS it turns out to be.
#[derive(Default)]
struct Found {
    is_mesh: bool,
    tls: ExternalTls,
}

fn common_from_xds(common: CommonTlsContext) -> Result<Found> {
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
        // Follows from the cluster's protocol.
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
    tls_params.map_or(Ok(()), parameters_from_xds).within("tls_params")?;
    let mut found = Found::default();
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
    Ok(found)
}

/// Leno speaks TLS 1.2 and 1.3 with its own choice of ciphers; what asks for less than that is no demand.
fn parameters_from_xds(parameters: TlsParameters) -> Result<()> {
    let TlsParameters {
        tls_minimum_protocol_version,
        tls_maximum_protocol_version,
        cipher_suites,
        ecdh_curves,
        signature_algorithms,
        compliance_policies,
    } = parameters;
    unsupported(&[
        ("cipher_suites", &cipher_suites),
        ("ecdh_curves", &ecdh_curves),
        ("signature_algorithms", &signature_algorithms),
        ("compliance_policies", &compliance_policies),
    ])?;
    match TlsProtocol::try_from(tls_minimum_protocol_version) {
        Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv10 | TlsProtocol::TlSv11 | TlsProtocol::TlSv12) => {}
        Ok(TlsProtocol::TlSv13) | Err(_) => return Err(Problem::unsupported("tls_minimum_protocol_version")),
    }
    match TlsProtocol::try_from(tls_maximum_protocol_version) {
        Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv13) => Ok(()),
        Ok(TlsProtocol::TlSv10 | TlsProtocol::TlSv11 | TlsProtocol::TlSv12) | Err(_) => {
            Err(Problem::unsupported("tls_maximum_protocol_version"))
        }
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
    if name == OWN_CERTIFICATE {
        found.is_mesh = true;
    } else if let Some(credential) = name.strip_prefix(KUBERNETES) {
        found.tls.credential = Some(credential.to_owned());
    } else if let Some((certificate, key)) = name.strip_prefix(FILE_CERTIFICATE).and_then(|files| files.split_once('~'))
    {
        found.tls.certificate = Some(certificate.to_owned());
        found.tls.key = Some(key.to_owned());
    } else {
        return Err(unknown_secret(&name));
    }
    Ok(())
}

fn unknown_secret(name: &str) -> Problem {
    let known = format!("{OWN_CERTIFICATE}, {MESH_ROOTS}, {KUBERNETES}…, {FILE_CERTIFICATE}… and {FILE_ROOTS}…");
    Problem::new("name", format!("Leno does not know a secret `{name}`; it knows {known}"))
}

fn validation_type_from_xds(found: &mut Found, validation: Option<ValidationContextType>) -> Result<()> {
    let mesh_certificate = found.is_mesh;
    let mesh_roots = match validation {
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
        None => {
            return Err(Problem::new(
                "validation_context",
                "is required: without it the peer is not verified. Name `trusted_ca`, or say \
                 `trust_chain_verification: ACCEPT_UNTRUSTED`",
            ));
        }
    };
    if mesh_certificate != mesh_roots {
        let reason = format!("mesh mTLS takes both secrets, `{OWN_CERTIFICATE}` and `{MESH_ROOTS}`, or neither");
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
    let credential = found.tls.credential.as_deref();
    if name == MESH_ROOTS {
        return Ok(true);
    }
    if let Some(path) = name.strip_prefix(FILE_ROOTS) {
        // Istio: `system` are the roots of the system.
        found.tls.roots = (path != "system").then(|| path.to_owned());
        return Ok(false);
    }
    let of_secret = name.strip_prefix(KUBERNETES).map(|name| name.strip_suffix(KUBERNETES_ROOTS).unwrap_or(name));
    match (of_secret, credential) {
        (Some(name), None) => found.tls.credential = Some(name.to_owned()),
        (Some(name), Some(credential)) if name == credential => {}
        (Some(_), Some(_)) => return Err(Problem::new("name", "certificate and roots come from one secret")),
        (None, _) => return Err(unknown_secret(&name)),
    }
    Ok(false)
}

/// `is_whole`: nothing else says where the roots are.
fn validation_from_xds(found: &mut Found, context: CertificateValidationContext, is_whole: bool) -> Result<()> {
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
        max_verify_depth,
        // Leno watches the file itself.
        watched_directory: _,
        // Nothing without a revocation list, which is refused.
        only_verify_leaf_cert_crl: _,
        // Of servers.
        suppress_client_ca_list: _,
    } = context;
    unsupported(&[
        ("ca_certificate_provider_instance", &ca_certificate_provider_instance),
        ("verify_certificate_spki", &verify_certificate_spki),
        ("verify_certificate_hash", &verify_certificate_hash),
        ("require_signed_certificate_timestamp", &require_signed_certificate_timestamp),
        ("crl", &crl),
        ("allow_expired_certificate", &allow_expired_certificate),
        ("custom_validator_config", &custom_validator_config),
        ("max_verify_depth", &max_verify_depth),
    ])?;
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
    let mut names = each("match_typed_subject_alt_names", match_typed_subject_alt_names, typed_name_from_xds)?;
    names.extend(each("match_subject_alt_names", match_subject_alt_names, name_from_xds)?);
    // Istio writes a name once for each kind of subject that it may be.
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    found.tls.subject_alt_names = names;
    Ok(())
}

fn typed_name_from_xds(name: SubjectAltNameMatcher) -> Result<String> {
    let SubjectAltNameMatcher { san_type, matcher, oid } = name;
    unsupported(&[("oid", &oid)])?;
    match SanType::try_from(san_type) {
        Ok(SanType::Dns | SanType::Uri) => {}
        Ok(SanType::Unspecified | SanType::Email | SanType::IpAddress | SanType::OtherName) | Err(_) => {
            return Err(Problem::new("san_type", "only DNS and URI are supported"));
        }
    }
    name_from_xds(required("matcher", matcher)?).within("matcher")
}

fn name_from_xds(matcher: pb::matcher::StringMatcher) -> Result<String> {
    match super::matcher::string_from_xds(matcher)? {
        crate::ir::StringMatch::Exact { value, ignore_case: false } => Ok(value),
        _ => Err(Problem::new("", "Leno compares names of certificates as a whole: write `exact`")),
    }
}
