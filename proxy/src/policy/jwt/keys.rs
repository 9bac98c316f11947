//! The keys of an issuer: a JSON Web Key Set (RFC 7517), and whether one of them has made a signature.
//!
//! A key is good for the algorithms of its own kind and no others: what a token says of its algorithm chooses among
//! keys, never how a key is read. So an RSA key is never taken for the secret of an HMAC, because no HMAC is known here
//! at all.

use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_128;

use super::error::JwtError;

/// Keys of one set that are kept: a token without `kid` is tried against each that fits.
const MAX_KEYS: usize = 64;

/// Why a text is not a set of keys.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// Not JSON, or not of that form.
    #[error("it is not a JSON Web Key Set (an object with `keys`, RFC 7517): {0}")]
    Json(#[source] serde_json::Error),
    /// Every key in it is of a kind that is not accepted.
    #[error("none of its {0} keys can verify a signature: RSA, P-256, P-384 and Ed25519 can, shared secrets cannot")]
    NoUsableKey(usize),
}

/// The usable keys of a set; at least one. Equal when it was read from the same text.
pub struct KeySet {
    keys: Vec<Key>,
    digest: u128,
}

struct Key {
    id: Option<String>,
    algorithms: &'static [Algorithm],
    key: DecodingKey,
}

/// A key as it is written; of the rest, nothing matters.
#[derive(Deserialize)]
struct Written {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct WrittenSet {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a set. Keys that cannot be used here (shared secrets, encryption, other curves) are left out.
    pub fn parse(json: &[u8]) -> Result<Self, KeySetError> {
        let written: WrittenSet = serde_json::from_slice(json).map_err(KeySetError::Json)?;
        let count = written.keys.len();
        let readable = written.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
        let keys: Vec<Key> = readable.filter_map(Key::new).take(MAX_KEYS).collect();
        if keys.is_empty() { Err(KeySetError::NoUsableKey(count)) } else { Ok(Self { keys, digest: xxh3_128(json) }) }
    }

    /// Whether a key of this name and for this algorithm made the signature. Without a name, every key of the algorithm
    /// is tried; a key without a name goes for all names (Envoy).
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        message: &[u8],
        signature: &str,
    ) -> Result<(), JwtError> {
        let named = |key: &&Key| id.is_none() || key.id.is_none() || key.id.as_deref() == id;
        let mut fitting = self.keys.iter().filter(named).filter(|key| key.algorithms.contains(&algorithm)).peekable();
        if fitting.peek().is_none() {
            return Err(JwtError::NoKey);
        }
        let made = |key: &Key| jsonwebtoken::crypto::verify(signature, message, &key.key, algorithm) == Ok(true);
        if fitting.any(made) { Ok(()) } else { Err(JwtError::Signature) }
    }
}

impl Key {
    fn new(written: Written) -> Option<Self> {
        let Written { kty, kid, alg, purpose, key_ops, crv, n, e, x, y } = written;
        let signs = purpose.is_none_or(|purpose| purpose == "sig")
            && key_ops.is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
        if !signs {
            return None;
        }
        let (every, key): (&'static [Algorithm], _) = match (kty.as_str(), crv.as_deref()) {
            ("RSA", _) => (&RSA, DecodingKey::from_rsa_components(&n?, &e?).ok()?),
            ("EC", Some("P-256")) => (&[Algorithm::ES256], DecodingKey::from_ec_components(&x?, &y?).ok()?),
            ("EC", Some("P-384")) => (&[Algorithm::ES384], DecodingKey::from_ec_components(&x?, &y?).ok()?),
            ("OKP", Some("Ed25519")) => (&[Algorithm::EdDSA], DecodingKey::from_ed_components(&x?).ok()?),
            _ => return None,
        };
        let algorithms = match alg {
            None => every,
            Some(only) => {
                let only = algorithm(&only)?;
                let at = every.iter().position(|one| *one == only)?;
                every.get(at..=at)?
            }
        };
        Some(Self { id: kid, algorithms, key })
    }
}

const RSA: [Algorithm; 6] =
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

/// The algorithms that are accepted, by the names of RFC 7518 §3.1 and RFC 8037 §3.1: signatures by a private key alone.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "RS256" => Some(Algorithm::RS256),
        "RS384" => Some(Algorithm::RS384),
        "RS512" => Some(Algorithm::RS512),
        "PS256" => Some(Algorithm::PS256),
        "PS384" => Some(Algorithm::PS384),
        "PS512" => Some(Algorithm::PS512),
        "ES256" => Some(Algorithm::ES256),
        "ES384" => Some(Algorithm::ES384),
        "EdDSA" => Some(Algorithm::EdDSA),
        _ => None,
    }
}

impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| (&key.id, key.algorithms))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(keys: &str) -> Result<usize, String> {
        KeySet::parse(keys.as_bytes()).map(|set| set.keys.len()).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_that_cannot_verify_a_signature_are_left_out() {
        let rows: [(&str, usize); 13] = [
            (r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#, 1),
            (
                r#"{"kty":"RSA","n":"AQAB","e":"AQAB","alg":"PS256","use":"sig","key_ops":["verify"],"x5u":"http://x"}"#,
                1,
            ),
            (r#"{"kty":"RSA","n":"AQAB","e":"AQAB","alg":"HS256"}"#, 0),
            (r#"{"kty":"RSA","n":"AQAB","e":"AQAB","alg":"ES256"}"#, 0),
            (r#"{"kty":"RSA","n":"AQAB","e":"AQAB","use":"enc"}"#, 0),
            (r#"{"kty":"RSA","n":"AQAB","e":"AQAB","key_ops":["encrypt"]}"#, 0),
            (r#"{"kty":"RSA","n":"!","e":"AQAB"}"#, 0),
            (r#"{"kty":"RSA","e":"AQAB"}"#, 0),
            (r#"{"kty":"oct","k":"c2VjcmV0","alg":"HS256"}"#, 0),
            (r#"{"kty":"EC","crv":"P-256","x":"AQAB","y":"AQAB"}"#, 1),
            (r#"{"kty":"EC","crv":"P-521","x":"AQAB","y":"AQAB"}"#, 0),
            (r#"{"kty":"OKP","crv":"Ed25519","x":"AQAB"}"#, 1),
            (r#"{"kty":"OKP","crv":"X25519","x":"AQAB"}"#, 0),
        ];
        for (key, expected) in rows {
            let found = set(&format!(r#"{{"keys":[{key}]}}"#)).unwrap_or_default();
            assert_eq!(found, expected, "{key}");
        }
        assert_eq!(set(r#"{"keys":[{"kty":"oct","k":"a"},1,{"kty":"OKP","crv":"Ed25519","x":"AQAB"}]}"#), Ok(1));
    }

    #[test]
    fn what_is_no_set_of_keys_is_refused_in_words() {
        for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]}"#, r#"{"keys":[{}]}"#] {
            let error = set(text).expect_err(text);
            assert!(error.starts_with("it is not a JSON Web Key Set") || error.starts_with("none of its"), "{error}");
        }
    }
}
