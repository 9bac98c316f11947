//! Issuers of tokens, and the question that is asked of them.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey};
use leno_config::ir::{Jwks, JwtAuthentication, JwtProvider, JwtRequirement, JwtRule, RouteMatch};
use leno_proxy::policy::jwt::{Authenticator, FetchedKeys, JwtError, Refusal, TokenCache};
use rcgen::{KeyPair, RsaKeySize};
use serde_json::{Value, json};

use crate::support::{head, view};

/// 2030-01-01, in seconds.
pub(crate) const NOW: u64 = 1_893_456_000;
pub(crate) const ISSUER: &str = "https://issuer.example";

/// Somebody who signs.
pub(crate) struct Signer {
    pub(crate) algorithm: Algorithm,
    pub(crate) name: &'static str,
    pub(crate) key: EncodingKey,
    pub(crate) public: Value,
}

impl Signer {
    pub(crate) fn rsa(algorithm: Algorithm, name: &'static str) -> Self {
        let pair = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key");
        let key = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).expect("a key");
        Self::new(algorithm, name, key)
    }

    pub(crate) fn new(algorithm: Algorithm, name: &'static str, key: EncodingKey) -> Self {
        let public = Jwk::from_encoding_key(&key, algorithm).expect("a public key");
        let mut public = serde_json::to_value(public).expect("JSON");
        // As issuers publish keys: good for all algorithms of their kind.
        let fields = public.as_object_mut().expect("an object");
        fields.remove("alg");
        Self { algorithm, name, key, public }
    }

    pub(crate) fn published(&self, extra: &Value) -> Value {
        let mut key = self.public.clone();
        let fields = key.as_object_mut().expect("an object");
        fields.extend(extra.as_object().expect("an object").clone());
        key
    }

    pub(crate) fn sign(&self, header: &Value, payload: &Value) -> String {
        let message = format!("{}.{}", encoded(header), encoded(payload));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, self.algorithm).expect("a signature");
        format!("{message}.{signature}")
    }

    pub(crate) fn token(&self, payload: &Value) -> String {
        self.sign(&json!({"alg": self.name, "kid": "one"}), payload)
    }
}

pub(crate) fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// An RSA key takes long to make; the tests share this one.
pub(crate) fn rsa() -> &'static Signer {
    static KEY: OnceLock<Signer> = OnceLock::new();
    KEY.get_or_init(|| Signer::rsa(Algorithm::RS256, "RS256"))
}

pub(crate) fn p256() -> &'static Signer {
    static KEY: OnceLock<Signer> = OnceLock::new();
    KEY.get_or_init(|| ec(Algorithm::ES256, "ES256", &rcgen::PKCS_ECDSA_P256_SHA256))
}

pub(crate) fn ec(algorithm: Algorithm, name: &'static str, kind: &'static rcgen::SignatureAlgorithm) -> Signer {
    let pair = KeyPair::generate_for(kind).expect("a key");
    Signer::new(algorithm, name, EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("a key"))
}

pub(crate) fn payload() -> Value {
    json!({"iss": ISSUER, "sub": "eve", "aud": "shop", "exp": NOW + 600, "iat": NOW})
}

/// `payload()` with something else in it; `null` takes a claim out.
pub(crate) fn with(other: Value) -> Value {
    let mut payload = payload();
    let Value::Object(other) = other else { panic!("an object") };
    let fields = payload.as_object_mut().expect("an object");
    fields.extend(other);
    fields.retain(|_, value| !value.is_null());
    payload
}

pub(crate) fn key_set(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

pub(crate) fn provider(name: &str, keys: &str) -> JwtProvider {
    JwtProvider {
        name: name.to_owned(),
        issuer: Some(ISSUER.to_owned()),
        audiences: vec!["shop".to_owned()],
        jwks: Jwks::Inline(keys.to_owned()),
        from_headers: Vec::new(),
        from_params: Vec::new(),
        from_cookies: Vec::new(),
        forward: false,
        payload_header: None,
        claim_headers: Vec::new(),
        clock_skew: Duration::from_secs(60),
    }
}

/// Istio's: a token has to be good, or not there.
pub(crate) fn optional(name: &str) -> JwtRequirement {
    JwtRequirement::Any(vec![JwtRequirement::Provider(name.to_owned()), JwtRequirement::AllowMissing])
}

pub(crate) fn rules(providers: Vec<JwtProvider>, requirement: JwtRequirement) -> JwtAuthentication {
    JwtAuthentication { providers, rules: vec![JwtRule { matcher: RouteMatch::any(), requirement }] }
}

pub(crate) fn authenticator(rules: &JwtAuthentication) -> Authenticator {
    Authenticator::new(rules, &FetchedKeys::new()).expect("there are rules")
}

/// What comes out: the subject of the token, nothing, or the reason for a refusal.
pub(crate) fn ask(
    authenticator: &Authenticator,
    parts: &mut Parts,
    cache: &TokenCache,
    at: u64,
) -> Result<Option<String>, JwtError> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
    match authenticator.authenticate(parts, |parts| view(parts, None), cache, now) {
        Ok(None) => Ok(None),
        Ok(Some(verified)) => {
            let subject = verified.claims().find(["sub"]).and_then(Value::as_str).unwrap_or_default();
            Ok(Some(subject.to_owned()))
        }
        Err(Refusal::Token(error)) => Err(error),
        Err(Refusal::Request(error)) => panic!("{error}"),
    }
}

pub(crate) fn bearer(token: &str) -> Parts {
    head("GET http://shop/a", &[("authorization", &format!("Bearer {token}"))])
}
