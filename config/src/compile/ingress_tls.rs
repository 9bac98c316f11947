//! TLS that a Sidecar's `ingress` listener ends for callers from outside the mesh.
//!
//! As in Istio it is for ports where the mesh's own TLS is off (PeerAuthentication DISABLE), so that there is no doubt which
//! certificate is shown. Istio lets callers in clear text in elsewhere, as if nothing had been asked for; here such a port is
//! closed: who asks for TLS in front of the app must not get clear text.

use std::sync::Arc;

use crate::ir::{MtlsMode, OutsideCallers, Port, ServerTls, TlsVersion};
use crate::mesh::Protocol;
use crate::rules::{IngressListener, ServerTlsMode, ServerTlsSettings, TlsProtocol};

use super::scope::View;

/// What is left when TLS, if there is any, has been ended.
pub(super) struct Ended {
    pub(super) tls: Option<Arc<ServerTls>>,
    /// HTTP where the port is for HTTPS.
    pub(super) protocol: Protocol,
}

/// TLS is asked for where there cannot be any.
pub(super) struct Closed;

impl Ended {
    pub(super) fn of(
        view: &View<'_>,
        written: &IngressListener,
        (port, protocol): (Port, Protocol),
    ) -> Result<Self, Closed> {
        let Some(settings) = &written.tls else { return Ok(Self { tls: None, protocol }) };
        let tls = server(settings).filter(|_| view.mesh.peer_mode(view.node, port).mode == MtlsMode::Disable);
        let name = written.port.as_ref().and_then(|port| port.protocol.as_deref()).unwrap_or_default();
        let protocol = match protocol {
            Protocol::Tls if name.eq_ignore_ascii_case("https") => Protocol::Http,
            Protocol::Tls => Protocol::Tcp,
            Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Tcp => protocol,
            Protocol::Udp | Protocol::Undeclared => return Err(Closed),
        };
        tls.map(|tls| Self { tls: Some(Arc::new(tls)), protocol }).ok_or(Closed)
    }
}

/// `None`: a mode that is for gateways.
fn server(settings: &ServerTlsSettings) -> Option<ServerTls> {
    let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
    let callers = match settings.mode.unwrap_or_default() {
        ServerTlsMode::Simple => None,
        ServerTlsMode::Mutual => Some(OutsideCallers {
            roots: text(&settings.ca_certificates),
            revoked: text(&settings.ca_crl),
            subject_alt_names: settings.subject_alt_names.clone(),
        }),
        ServerTlsMode::Passthrough
        | ServerTlsMode::AutoPassthrough
        | ServerTlsMode::IstioMutual
        | ServerTlsMode::OptionalMutual => return None,
    };
    let min_version = match settings.min_protocol_version.unwrap_or_default() {
        TlsProtocol::V1_3 => TlsVersion::Tls13,
        TlsProtocol::Auto | TlsProtocol::V1_0 | TlsProtocol::V1_1 | TlsProtocol::V1_2 => TlsVersion::Tls12,
    };
    Some(ServerTls {
        certificate: text(&settings.server_certificate),
        key: text(&settings.private_key),
        credential: text(&settings.credential_name),
        callers,
        min_version,
    })
}
