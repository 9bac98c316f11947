//! Callers with TLS, whom it does not matter to whom they talk.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, SupportedProtocolVersion};

use crate::anybody::Anybody;
use crate::pki::Identity;

/// For a caller with this certificate, or none. Whom it reaches is not checked.
pub fn caller(identity: Option<&Identity>, version: &'static SupportedProtocolVersion, alpn: &[&[u8]]) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)));
    let mut config = match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain.clone(), identity.key()).expect("a key"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}
