//! Tokens of end users: JSON Web Tokens (RFC 7519), as Envoy's `jwt_authn` filter verifies them.
//!
//! * [`claims`]: what a verified token says.

mod claims;

pub use claims::Claims;
