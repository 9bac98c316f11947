//! TLS toward callers: Envoy's DownstreamTlsContext.
//!
//! A real Envoy takes the first of *its* protocols that the caller offers, and knows how to speak `h2` and `http/1.1`
//! alone: `istio` or `leno`, once chosen, would make it take HTTP/2 for HTTP/1.1. So HTTP listeners name neither, as in
//! Istio, and a caller of the mesh, which offers both after its own name, is understood by all. On TCP the protocol means
//! nothing to Envoy, and `istio` tells the caller that it speaks to the mesh without Istio's exchange of metadata.
//! Leno's own listeners know by themselves what they offer.
//!
//! A listener may also end TLS with another certificate, of a file or a secret, for callers who are not of the mesh.

use std::sync::Arc;

use super::context::{Found, Side};
use super::{any, config_of, context, file, mesh, pb, socket, version_to_xds, versions, whole};
use crate::ir::{Credential, ExternalTls, OutsideCallers, ServerTls, StringMatch};
use crate::xds::node::Flavour;
use crate::xds::refusal::{Problem, Result, Within, is_true, required, unsupported};
use crate::xds::scalar::wrap_bool;
use pb::core::TransportSocket;
use pb::tls::{CommonTlsContext, DownstreamTlsContext, TlsCertificate};

/// What is spoken inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::xds) enum Inside {
    Http,
    Bytes,
}

/// Callers of the mesh, with a certificate.
pub(in crate::xds) fn to_xds(inside: Inside, flavour: &Flavour) -> TransportSocket {
    let alpn: &[&str] = match inside {
        Inside::Http => &["h2", "http/1.1"],
        Inside::Bytes => &["istio"],
    };
    let context = DownstreamTlsContext {
        common_tls_context: Some(mesh::to_xds(alpn, &[], flavour)),
        require_client_certificate: wrap_bool(true),
        ..Default::default()
    };
    socket("envoy.transport_sockets.tls", any::pack(&context))
}

/// Callers from outside the mesh.
pub(in crate::xds) fn outside_to_xds(inside: Inside, tls: &ServerTls) -> TransportSocket {
    let ServerTls { certificate, key, credential, callers, min_version } = tls;
    let alpn: &[&str] = match inside {
        Inside::Http => &["h2", "http/1.1"],
        Inside::Bytes => &[],
    };
    let validation = callers.as_ref().map(|callers| {
        let OutsideCallers { roots, revoked, subject_alt_names } = callers;
        let credential = credential.clone().map(|name| Credential { name, is_shown: true });
        super::validation_to_xds(roots.as_deref(), revoked.as_deref(), subject_alt_names, credential.as_ref(), false)
    });
    let own = TlsCertificate {
        certificate_chain: certificate.as_deref().map(file),
        private_key: key.as_deref().map(file),
        ..Default::default()
    };
    let common = CommonTlsContext {
        tls_params: Some(versions(version_to_xds(*min_version))),
        tls_certificates: (certificate.is_some() || key.is_some()).then_some(own).into_iter().collect(),
        tls_certificate_sds_secret_configs: credential
            .iter()
            .map(|name| super::secret(&format!("{}{name}", super::KUBERNETES)))
            .collect(),
        validation_context_type: validation,
        alpn_protocols: alpn.iter().map(|&name| name.to_owned()).collect(),
        ..Default::default()
    };
    let context = DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: wrap_bool(callers.is_some()),
        ..Default::default()
    };
    socket("envoy.transport_sockets.tls", any::pack(&context))
}

/// With whom a listener ends TLS.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::xds) enum Callers {
    /// Those of the mesh: conditions of which the SPIFFE ID fulfils one; none: everybody whom the roots vouch for.
    Mesh(Vec<StringMatch>),
    /// Others.
    Outside(Arc<ServerTls>),
}

impl Callers {
    /// The conditions.
    pub(in crate::xds) fn into_named(self) -> Vec<StringMatch> {
        match self {
            Self::Mesh(names) => names,
            Self::Outside(_) => Vec::new(),
        }
    }
}

/// `None`: clear text.
pub(in crate::xds) fn from_xds(socket: TransportSocket) -> Result<Option<Callers>> {
    config_of(socket)?.map(context_from_xds).transpose().within("typed_config")
}

fn context_from_xds(context: DownstreamTlsContext) -> Result<Callers> {
    let DownstreamTlsContext {
        common_tls_context,
        require_client_certificate,
        require_sni,
        ocsp_staple_policy,
        // Leno resumes sessions its own way: only with the same identity and the same roots.
        disable_stateful_session_resumption: _,
        session_timeout: _,
        session_ticket_keys_type: _,
        // There is one certificate, and the ciphers of TLS 1.3 are all good.
        full_scan_certs_on_sni_mismatch: _,
        prefer_client_ciphers: _,
    } = context;
    unsupported(&[("require_sni", &is_true(&require_sni)), ("ocsp_staple_policy", &ocsp_staple_policy)])?;
    let common = required("common_tls_context", common_tls_context)?;
    let verifies = is_true(&require_client_certificate);
    let side = if verifies { Side::Caller } else { Side::Nobody };
    let found = context::read(common, side).within("common_tls_context")?;
    match (found.is_mesh, verifies) {
        (true, true) => Ok(Callers::Mesh(found.names)),
        (true, false) => {
            let reason = "callers of the mesh show a certificate: write `true`";
            Err(Problem::new("require_client_certificate", reason))
        }
        (false, _) => outside_from_xds(found, verifies).within("common_tls_context"),
    }
}

fn outside_from_xds(found: Found, verifies: bool) -> Result<Callers> {
    let Found { is_mesh: _, side: _, names, tls } = found;
    let ExternalTls {
        sni: _,
        subject_alt_names: _,
        roots,
        revoked,
        certificate,
        key,
        credential,
        skip_verify,
        min_version,
    } = tls;
    if skip_verify && verifies {
        return Err(Problem::new("trust_chain_verification", "a certificate that is asked for is verified"));
    }
    let credential = credential.filter(|credential| credential.is_shown);
    if credential.is_none() && (certificate.is_none() || key.is_none()) {
        return Err(Problem::missing("tls_certificates"));
    }
    let subject_alt_names = names.iter().filter_map(whole).map(str::to_owned).collect();
    let callers = verifies.then_some(OutsideCallers { roots, revoked, subject_alt_names });
    let credential = credential.map(|credential| credential.name);
    Ok(Callers::Outside(Arc::new(ServerTls { certificate, key, credential, callers, min_version })))
}
