//! One token: its form, what it claims, and whether its issuer says so (RFC 7515, RFC 7519).

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use leno_config::ir::JwtProvider;
use serde_json::{Map, Value};

use super::claims::Claims;
use super::error::JwtError;
use super::keys::{KeySet, algorithm};

/// Longest token that is looked at.
const MAX_TOKEN: usize = 16 * 1024;

/// A token whose signature, issuer and audience are good. Its times have to be looked at whenever it is used.
#[derive(Debug)]
pub struct Verified {
    claims: Claims,
    payload: Box<str>,
    expires: Duration,
    not_before: Duration,
}

impl Verified {
    /// What it says.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Its payload in base64url, as the token has it.
    pub(super) fn payload(&self) -> &str {
        &self.payload
    }

    /// Whether it is good at `now`, give or take `skew`.
    pub(super) fn check_times(&self, now: SystemTime, skew: Duration) -> Result<(), JwtError> {
        // Whole seconds, as in tokens.
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        if now.saturating_add(skew.as_secs()) < self.not_before.as_secs() {
            return Err(JwtError::NotYetValid);
        }
        if now > self.expires.as_secs().saturating_add(skew.as_secs()) {
            return Err(JwtError::Expired);
        }
        Ok(())
    }
}

/// What a token's header says that matters here. Where its keys are to be fetched (`jku`, `x5u`) or what they are (`jwk`,
/// `x5c`) is the provider's business and nobody else's.
struct Header {
    algorithm: Algorithm,
    key_id: Option<String>,
}

/// Verifies a token against a provider. Cheap questions come first, the signature last (Envoy's order).
pub(super) fn verify(
    token: &str,
    provider: &JwtProvider,
    keys: Result<&KeySet, JwtError>,
    now: SystemTime,
) -> Result<Verified, JwtError> {
    if token.len() > MAX_TOKEN {
        return Err(JwtError::TooLong);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(JwtError::Form)?;
    let (header, payload) = message.split_once('.').ok_or(JwtError::Form)?;
    if header.is_empty() || payload.is_empty() || payload.contains('.') {
        return Err(JwtError::Form);
    }
    let header = Header::parse(header)?;
    let verified = parse_payload(payload)?;
    if signature.is_empty() {
        return Err(JwtError::Form);
    }
    if URL_SAFE_NO_PAD.decode(signature).is_err() {
        return Err(JwtError::SignatureBase64);
    }
    check_issuer(&verified, provider)?;
    verified.check_times(now, provider.clock_skew)?;
    check_audience(&verified, provider)?;
    keys?.verify(header.algorithm, header.key_id.as_deref(), message.as_bytes(), signature)?;
    Ok(verified)
}

/// Whether a token that was verified before could be this provider's.
pub(super) fn check_owner(token: &Verified, provider: &JwtProvider) -> Result<(), JwtError> {
    check_issuer(token, provider)?;
    check_audience(token, provider)
}

/// Whether a token that is otherwise known is this provider's.
pub(super) fn check_issuer(token: &Verified, provider: &JwtProvider) -> Result<(), JwtError> {
    let Some(wanted) = &provider.issuer else { return Ok(()) };
    match token.claims.find(["iss"]) {
        Some(Value::String(issuer)) if issuer == wanted => Ok(()),
        Some(_) | None => Err(JwtError::Issuer),
    }
}

/// Equal to the letter (RFC 7519 §4.1.3). Envoy would take `https://a/` for `a`.
fn check_audience(token: &Verified, provider: &JwtProvider) -> Result<(), JwtError> {
    let allowed = |audience: &Value| provider.audiences.iter().any(|wanted| audience == wanted);
    let found = match token.claims.find(["aud"]) {
        _ if provider.audiences.is_empty() => true,
        Some(Value::Array(audiences)) => audiences.iter().any(allowed),
        Some(audience) => allowed(audience),
        None => false,
    };
    if found { Ok(()) } else { Err(JwtError::Audience) }
}

impl Header {
    fn parse(encoded: &str) -> Result<Self, JwtError> {
        let json = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| JwtError::HeaderBase64)?;
        let fields: Map<String, Value> = serde_json::from_slice(&json).map_err(|_| JwtError::HeaderJson)?;
        let name = fields.get("alg").and_then(Value::as_str).ok_or(JwtError::Algorithm)?;
        let algorithm = algorithm(name).ok_or(JwtError::AlgorithmUnsupported)?;
        if fields.contains_key("crit") {
            return Err(JwtError::Critical);
        }
        let key_id = match fields.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(JwtError::KeyId),
        };
        Ok(Self { algorithm, key_id })
    }
}

fn parse_payload(encoded: &str) -> Result<Verified, JwtError> {
    let json = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| JwtError::PayloadBase64)?;
    let claims = Claims::parse(&json).ok_or(JwtError::PayloadJson)?;
    for (name, error) in [("iss", JwtError::IssuerText), ("sub", JwtError::SubjectText)] {
        if claims.find([name]).is_some_and(|value| !value.is_string()) {
            return Err(error);
        }
    }
    match claims.find(["aud"]) {
        None | Some(Value::String(_)) => {}
        Some(Value::Array(audiences)) if audiences.iter().all(Value::is_string) => {}
        Some(_) => return Err(JwtError::AudienceText),
    }
    let expires = seconds(&claims, "exp", JwtError::ExpiryNumber)?.ok_or(JwtError::NoExpiry)?;
    let not_before = seconds(&claims, "nbf", JwtError::NotBeforeNumber)?.unwrap_or_default();
    Ok(Verified { claims, payload: encoded.into(), expires, not_before })
}

/// A time since 1970; it may have a fraction (RFC 7519 §2).
fn seconds(claims: &Claims, name: &str, error: JwtError) -> Result<Option<Duration>, JwtError> {
    let Some(value) = claims.find([name]) else { return Ok(None) };
    let whole = value.as_u64().map(Duration::from_secs);
    let time = whole.or_else(|| Duration::try_from_secs_f64(value.as_f64()?).ok());
    time.map(Some).ok_or(error)
}
