//! Whether a connection that was let in would still be.
//!
//! Asked again when a listener's rules change, and when roots or revocations do. Who is no longer allowed is cut off, with
//! streams in the middle. Whose root has merely been replaced finishes what it does: its certificate was good when the
//! connection began, and a rotation must not cost a request.

use leno_config::ir::MtlsMode;

use crate::policy::enforce;
use crate::state::snapshot::Listener;
use crate::tls::verify::PeerError;

use super::Connection;

/// Whether the same caller could fare differently.
pub fn differs(old: &Listener, new: &Listener) -> bool {
    old.config.mtls != new.config.mtls || old.config.authorization != new.config.authorization
}

/// Ends the connection if its caller would no longer be let in.
pub fn review(connection: &Connection) {
    let view = connection.listener.view();
    let config = &view.listener.config;
    if !enforce::may_stay(connection, &view) {
        return cut(connection, "its caller is no longer allowed by the authorization policies");
    }
    if connection.endpoint.get().is_some_and(|endpoint| connection.worker.tls.has_revoked_server(endpoint)) {
        return cut(connection, "the certificate of the endpoint it leads to has been revoked");
    }
    match &connection.peer {
        None if config.mtls == MtlsMode::Strict => cut(connection, "this listener demands mTLS now (STRICT)"),
        None => {}
        Some(peer) => match connection.worker.tls.still_accepts_caller(peer) {
            Ok(()) => {}
            Err(PeerError::Chain(webpki::Error::CertRevoked)) => cut(connection, "its certificate has been revoked"),
            Err(_) => connection.life.leave(),
        },
    }
}

fn cut(connection: &Connection, reason: &str) {
    let listener = &connection.listener.view().listener.config.name;
    if connection.worker.quiet.allows() {
        tracing::info!(%listener, peer = %connection.caller, "ended a connection: {reason}");
    }
    connection.life.cut();
}
