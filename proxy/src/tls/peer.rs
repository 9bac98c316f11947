//! Who is at the other end of an encrypted connection.

use std::cell::Cell;
use std::fmt::Write as _;
use std::sync::Arc;

use http::HeaderValue;
use leno_config::identity::SpiffeId;
use rustls::CommonState;
use rustls_pki_types::CertificateDer;

use super::exchange::Workload;

/// A verified peer.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Who it is.
    pub id: SpiffeId,
    /// Who this proxy was to it: a connection speaks for the identity with which it began.
    pub own: SpiffeId,
    /// What it says of itself, where it speaks Leno and its certificate bears it out.
    pub workload: Option<Arc<Workload>>,
    /// How the bytes are protected.
    pub security: Security,
    /// The generation of [`crate::identity::Now`] that accepted it last.
    pub generation: Cell<u64>,
    /// Its chain, leaf first: looked at again when roots or revocations change.
    pub chain: Arc<[CertificateDer<'static>]>,
}

/// What a handshake agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Security {
    /// `TLSv1.3`
    pub version: &'static str,
    /// `X25519MLKEM768`, `X25519`, `secp256r1`, …
    pub group: &'static str,
    /// The handshake continued an earlier one.
    pub resumed: bool,
}

impl Security {
    /// What `state` agreed on.
    pub(super) fn of(state: &CommonState) -> Self {
        use rustls::{HandshakeKind, NamedGroup, ProtocolVersion};
        let version = match state.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "unknown",
        };
        let group = match state.negotiated_key_exchange_group().map(|group| group.name()) {
            Some(NamedGroup::X25519MLKEM768) => "X25519MLKEM768",
            Some(NamedGroup::secp256r1MLKEM768) => "secp256r1MLKEM768",
            Some(NamedGroup::X25519) => "X25519",
            Some(NamedGroup::secp256r1) => "secp256r1",
            Some(NamedGroup::secp384r1) => "secp384r1",
            Some(NamedGroup::MLKEM768) => "MLKEM768",
            Some(_) | None => "other",
        };
        Self { version, group, resumed: state.handshake_kind() == Some(HandshakeKind::Resumed) }
    }
}

/// The element of `x-forwarded-client-cert` that says who called, in Envoy's form: `By=…;Hash=…;Subject="";URI=…`.
/// SPIFFE IDs hold nothing that would have to be quoted.
pub(super) fn forwarded(peer: &Peer) -> Option<HeaderValue> {
    let hash = peer.chain.first().map(|leaf| super::sha256(leaf))?;
    let mut text = format!("By={};Hash=", peer.own);
    for byte in hash.as_ref() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    let _ = write!(text, ";Subject=\"\";URI={}", peer.id);
    HeaderValue::from_str(&text).ok()
}
