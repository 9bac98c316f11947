//! TLS toward callers: Envoy's DownstreamTlsContext.
//!
//! A real Envoy takes the first of *its* protocols that the caller offers, and knows how to speak `h2` and `http/1.1`
//! alone: `istio` or `leno`, once chosen, would make it take HTTP/2 for HTTP/1.1. So HTTP listeners name neither, as in
//! Istio, and a caller of the mesh, which offers both after its own name, is understood by all. On TCP the protocol means
//! nothing to Envoy, and `istio` tells the caller that it speaks to the mesh without Istio's exchange of metadata.
//! Leno's own listeners know by themselves what they offer.

use super::context::{Found, Side};
use super::{any, config_of, context, mesh, pb, socket};
use crate::ir::StringMatch;
use crate::xds::node::Flavour;
use crate::xds::refusal::{Problem, Result, Within, is_true, required, unsupported};
use crate::xds::scalar::wrap_bool;
use pb::core::TransportSocket;
use pb::tls::DownstreamTlsContext;

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

/// Conditions of which a caller's SPIFFE ID fulfils one; none: everybody whom the roots vouch for. `None`: clear text.
pub(in crate::xds) fn from_xds(socket: TransportSocket) -> Result<Option<Vec<StringMatch>>> {
    config_of(socket)?.map(context_from_xds).transpose().within("typed_config")
}

fn context_from_xds(context: DownstreamTlsContext) -> Result<Vec<StringMatch>> {
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
    if !is_true(&require_client_certificate) {
        let reason = "Leno ends TLS for callers of the mesh alone, which show a certificate: write `true`";
        return Err(Problem::new("require_client_certificate", reason));
    }
    let common = required("common_tls_context", common_tls_context)?;
    let Found { is_mesh, names, side: _, tls: _ } = context::read(common, Side::Caller).within("common_tls_context")?;
    if !is_mesh {
        let reason = "Leno ends TLS with the certificate of the mesh alone: name the secrets `default` and `ROOTCA`";
        return Err(Problem::new("common_tls_context", reason));
    }
    Ok(names)
}
