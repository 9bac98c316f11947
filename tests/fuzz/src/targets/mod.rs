//! One file per target: what its bytes mean, and what must hold.

pub(crate) mod client_hello;
pub(crate) mod detection;
pub(crate) mod http2_to_http1;
pub(crate) mod jwt;
pub(crate) mod log_format;
pub(crate) mod original_destination;
pub(crate) mod path;
pub(crate) mod peer_words;
pub(crate) mod rules;
pub(crate) mod sanitize;
pub(crate) mod saved_rules;
pub(crate) mod snapshot;
pub(crate) mod spiffe_id;
pub(crate) mod trace_context;
pub(crate) mod xds;
