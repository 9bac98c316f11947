//! Encryption: Envoy's transport sockets, toward endpoints and toward callers.
//!
//! * Mesh mTLS takes its certificate and roots from the secrets `default` and `ROOTCA`, as in Istio. That is how it is
//!   recognised; Leno has its own identity, so where those secrets come from does not matter.
//! * Auto-mTLS chooses by the endpoint's metadata `tlsMode: istio`.
//! * TLS to the outside names files, or a Kubernetes secret by Istio's name for it.
//!
//! Between sidecars Leno speaks TLS 1.3 alone and says so; a control plane that would allow less is none the worse for
//! it. Reading is fail-closed: a context that would not verify the peer has to say so in words.

mod context;
mod listener;
mod mesh;

pub(super) use listener::{Callers, Inside, from_xds as listener_from_xds, outside_to_xds, to_xds as listener_to_xds};

use super::node::Flavour;
use super::pb;
use super::refusal::{Problem, Result, Within, required, unsupported};
use super::{any, base};
use crate::ir::{Credential, ExternalTls, MeshTls, StringMatch, TlsVersion, UpstreamProtocol, UpstreamTls};
use context::{Found, Side};
use pb::cluster::cluster::TransportSocketMatch;
use pb::core::data_source::Specifier;
use pb::core::{DataSource, TransportSocket, transport_socket};
use pb::tls::certificate_validation_context::TrustChainVerification;
use pb::tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
use pb::tls::subject_alt_name_matcher::SanType;
use pb::tls::tls_parameters::TlsProtocol;
use pb::tls::{
    CertificateValidationContext, CommonTlsContext, SdsSecretConfig, SubjectAltNameMatcher, TlsCertificate,
    TlsParameters, UpstreamTlsContext,
};

/// Istio's name for a Kubernetes secret.
const KUBERNETES: &str = "kubernetes://";
/// Istio: the roots in that secret.
const KUBERNETES_ROOTS: &str = "-cacert";
/// Where the system's roots are on Debian, Alpine and in Envoy's images. Envoy has no other word for them.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The fields of a cluster that say how its connections are encrypted.
#[derive(Default)]
pub(super) struct Sockets {
    pub(super) matches: Vec<TransportSocketMatch>,
    pub(super) socket: Option<TransportSocket>,
}

pub(super) fn to_xds(tls: &UpstreamTls, protocol: UpstreamProtocol, flavour: &Flavour) -> Sockets {
    match tls {
        UpstreamTls::Plain => Sockets::default(),
        UpstreamTls::Mesh(mesh) => Sockets { socket: Some(mesh_to_xds(mesh, protocol, flavour)), matches: Vec::new() },
        UpstreamTls::External(tls) => Sockets { socket: Some(external_to_xds(tls, protocol)), matches: Vec::new() },
        UpstreamTls::Auto(mesh) => Sockets {
            socket: None,
            matches: vec![
                TransportSocketMatch {
                    name: "tlsMode-istio".to_owned(),
                    r#match: Some(base::texts([("tlsMode", "istio")])),
                    transport_socket: Some(mesh_to_xds(mesh, protocol, flavour)),
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

/// Where a cluster says the server name comes from, if not from its TLS context.
pub(super) struct Naming<'a> {
    /// The request's host (`auto_sni` of the HTTP options).
    pub(super) by_request: bool,
    /// The name of the only endpoint, where that is known (`auto_host_sni` asks for it).
    pub(super) endpoint: Option<&'a str>,
}

pub(super) fn from_xds(sockets: Sockets, naming: &Naming<'_>) -> Result<UpstreamTls> {
    let Sockets { matches, socket } = sockets;
    let tls = socket.map_or(Ok(UpstreamTls::Plain), |socket| socket_from_xds(socket, naming));
    let tls = tls.within("transport_socket")?;
    if matches.is_empty() {
        return Ok(tls);
    }
    unsupported(&[("transport_socket", &(tls != UpstreamTls::Plain))])?;
    matches_from_xds(matches, naming)
}

/// Istio's pair: mesh mTLS for endpoints that have it, clear text for the others.
fn matches_from_xds(matches: Vec<TransportSocketMatch>, naming: &Naming<'_>) -> Result<UpstreamTls> {
    let mut mesh = None;
    for (index, one) in matches.into_iter().enumerate() {
        let TransportSocketMatch { name: _, r#match, transport_socket } = one;
        let condition = r#match.unwrap_or_default();
        let for_mesh = condition == base::texts([("tlsMode", "istio")]);
        let for_all = condition.fields.is_empty();
        let tls = transport_socket.map_or(Ok(UpstreamTls::Plain), |socket| socket_from_xds(socket, naming));
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

fn mesh_to_xds(mesh: &MeshTls, protocol: UpstreamProtocol, flavour: &Flavour) -> TransportSocket {
    let MeshTls { sni, identities } = mesh;
    let alpn: &[&str] = match protocol {
        UpstreamProtocol::Http2 | UpstreamProtocol::AsDownstream => &["istio-peer-exchange", "istio", "h2"],
        UpstreamProtocol::Http1 | UpstreamProtocol::Tcp => &["istio-peer-exchange", "istio"],
    };
    context_to_xds(mesh::to_xds(alpn, identities, flavour), sni)
}

fn external_to_xds(tls: &ExternalTls, protocol: UpstreamProtocol) -> TransportSocket {
    let ExternalTls { sni, subject_alt_names, roots, revoked, certificate, key, credential, skip_verify, min_version } =
        tls;
    let alpn: &[&str] = match protocol {
        UpstreamProtocol::Http1 => &["http/1.1"],
        UpstreamProtocol::Http2 => &["h2"],
        UpstreamProtocol::AsDownstream => &["h2", "http/1.1"],
        UpstreamProtocol::Tcp => &[],
    };
    let validation =
        validation_to_xds(roots.as_deref(), revoked.as_deref(), subject_alt_names, credential.as_ref(), *skip_verify);
    let own = TlsCertificate {
        certificate_chain: certificate.as_deref().map(file),
        private_key: key.as_deref().map(file),
        ..Default::default()
    };
    context_to_xds(
        CommonTlsContext {
            tls_params: Some(versions(version_to_xds(*min_version))),
            tls_certificates: (certificate.is_some() || key.is_some()).then_some(own).into_iter().collect(),
            tls_certificate_sds_secret_configs: credential
                .iter()
                .filter(|credential| credential.is_shown)
                .map(|credential| secret(&format!("{KUBERNETES}{}", credential.name)))
                .collect(),
            validation_context_type: Some(validation),
            alpn_protocols: alpn.iter().map(|&name| name.to_owned()).collect(),
            ..Default::default()
        },
        sni.as_deref().unwrap_or_default(),
    )
}

/// Whom to believe outside the mesh.
fn validation_to_xds(
    roots: Option<&str>,
    revoked: Option<&str>,
    names: &[String],
    credential: Option<&Credential>,
    skip_verify: bool,
) -> ValidationContextType {
    let verification =
        if skip_verify { TrustChainVerification::AcceptUntrusted } else { TrustChainVerification::VerifyTrustChain };
    let secret_with_roots = credential.filter(|_| roots.is_none());
    let validation = CertificateValidationContext {
        trusted_ca: secret_with_roots.is_none().then(|| file(roots.unwrap_or(SYSTEM_ROOTS))),
        match_typed_subject_alt_names: names.iter().map(|name| name_to_xds(name)).collect(),
        crl: revoked.map(file),
        trust_chain_verification: verification.into(),
        ..Default::default()
    };
    match secret_with_roots {
        Some(Credential { name, is_shown: _ }) => {
            ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
                default_validation_context: Some(validation),
                validation_context_sds_secret_config: Some(secret(&format!("{KUBERNETES}{name}{KUBERNETES_ROOTS}"))),
                ..Default::default()
            })
        }
        None => ValidationContextType::ValidationContext(validation),
    }
}

fn version_to_xds(version: TlsVersion) -> TlsProtocol {
    match version {
        TlsVersion::Tls12 => TlsProtocol::TlSv12,
        TlsVersion::Tls13 => TlsProtocol::TlSv13,
    }
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

/// Envoy's clients stop at TLS 1.2 unless they are told.
fn versions(oldest: TlsProtocol) -> TlsParameters {
    TlsParameters {
        tls_minimum_protocol_version: oldest.into(),
        tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
        ..Default::default()
    }
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

fn socket_from_xds(socket: TransportSocket, naming: &Naming<'_>) -> Result<UpstreamTls> {
    match config_of::<UpstreamTlsContext>(socket)? {
        Some(context) => context_from_xds(context, naming).within("typed_config"),
        None => Ok(UpstreamTls::Plain),
    }
}

/// The TLS context of a socket; `None` for clear text.
fn config_of<M: prost::Message + prost::Name + Default>(socket: TransportSocket) -> Result<Option<M>> {
    let TransportSocket { name, config_type } = socket;
    let config = match config_type {
        Some(transport_socket::ConfigType::TypedConfig(config)) => config,
        None if name == "envoy.transport_sockets.raw_buffer" => return Ok(None),
        None => return Err(Problem::missing("typed_config")),
    };
    if any::is::<pb::raw_buffer::RawBuffer>(&config) {
        return Ok(None);
    }
    if !any::is::<M>(&config) {
        return Err(Problem::new("", format!("Leno has no transport socket `{name}` (`{}`)", any::type_name(&config))));
    }
    any::unpack(&config).map(Some).within("typed_config")
}

fn context_from_xds(context: UpstreamTlsContext, naming: &Naming<'_>) -> Result<UpstreamTls> {
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
    unsupported(&[("allow_renegotiation", &allow_renegotiation)])?;
    let common = required("common_tls_context", common_tls_context)?;
    let Found { is_mesh, names, tls, side: _ } = context::read(common, Side::Peer).within("common_tls_context")?;
    // Whole names, as the context was read for a peer.
    let names = names.iter().filter_map(whole).map(str::to_owned).collect();
    let sni = server_name(sni, auto_host_sni, naming)?;
    if !is_mesh {
        let sni = Some(sni).filter(|sni| !naming.by_request && !sni.is_empty());
        return Ok(UpstreamTls::External(ExternalTls { sni, subject_alt_names: names, ..tls }));
    }
    if naming.by_request {
        return Err(Problem::new("sni", "mesh mTLS names its server: leave `auto_sni` of the HTTP options unset"));
    }
    Ok(UpstreamTls::Mesh(MeshTls { sni, identities: names }))
}

/// With `auto_host_sni`, Envoy names the endpoint. Leno's clusters have one name, so there has to be one endpoint.
fn server_name(written: String, auto_host_sni: bool, naming: &Naming<'_>) -> Result<String> {
    match (auto_host_sni, naming.endpoint) {
        (false, _) => Ok(written),
        (true, Some(name)) => Ok(name.to_owned()),
        (true, None) => {
            let reason = "Leno has one server name for a cluster: write `sni`, or give the cluster a single DNS name";
            Err(Problem::new("auto_host_sni", reason))
        }
    }
}

/// The text of a condition that compares the whole name.
fn whole(condition: &StringMatch) -> Option<&str> {
    match condition {
        StringMatch::Exact { value, ignore_case: false } => Some(value),
        StringMatch::Exact { .. }
        | StringMatch::Prefix { .. }
        | StringMatch::Suffix { .. }
        | StringMatch::Contains { .. }
        | StringMatch::Regex(_) => None,
    }
}
