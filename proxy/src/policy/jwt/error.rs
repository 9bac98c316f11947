//! Why a token is refused, in Envoy's words.

use std::fmt;

use http::StatusCode;

/// Why a request's token does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JwtError {
    /// The request carries none, and needs one.
    Missing,
    /// `nbf` is in the future.
    NotYetValid,
    /// `exp` is past.
    Expired,
    /// Not three parts with dots between.
    Form,
    /// Longer than any token that a header should carry.
    TooLong,
    /// More than one where a provider's token may be: which one would the app believe?
    Several,
    /// RFC 7515 §2: base64url without padding.
    HeaderBase64,
    /// Not an object, or nested too deeply.
    HeaderJson,
    /// `alg` is missing.
    Algorithm,
    /// `none`, an HMAC, or something unheard of.
    AlgorithmUnsupported,
    /// `kid` is not a text.
    KeyId,
    /// It says that it must not be accepted by who does not know its extensions (RFC 7515 §4.1.11). None is known here.
    Critical,
    /// RFC 7515 §2: base64url without padding.
    PayloadBase64,
    /// Not an object, or nested too deeply.
    PayloadJson,
    /// RFC 7519 §4.1.1.
    IssuerText,
    /// RFC 7519 §4.1.2.
    SubjectText,
    /// RFC 7519 §4.1.3.
    AudienceText,
    /// RFC 7519 §4.1.5.
    NotBeforeNumber,
    /// RFC 7519 §4.1.4.
    ExpiryNumber,
    /// A token without an end could never be taken back. Envoy accepts it.
    NoExpiry,
    /// RFC 7515 §2: base64url without padding.
    SignatureBase64,
    /// `iss` is not the provider's.
    Issuer,
    /// It is for somebody else.
    Audience,
    /// None of the keys has made it.
    Signature,
    /// The provider has no key of that name and kind.
    NoKey,
    /// The keys in the rule are not usable.
    NoKeys,
    /// The keys could not be fetched yet, or are too old.
    NotFetched,
    /// The listener requires a provider that it does not define.
    Provider,
}

impl JwtError {
    /// The body of the answer: what Envoy's filter says, and in its manner where it has no words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "Jwt is missing",
            Self::NotYetValid => "Jwt not yet valid",
            Self::Expired => "Jwt is expired",
            Self::Form => "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
            Self::TooLong => "Jwt is longer than 16 KiB",
            Self::Several => "Found multiple Jwt tokens",
            Self::HeaderBase64 => "Jwt header is an invalid Base64url encoded",
            Self::HeaderJson => "Jwt header is an invalid JSON",
            Self::Algorithm => "Jwt header [alg] field is required and must be a string",
            Self::AlgorithmUnsupported => "Jwt header [alg] is not supported",
            Self::KeyId => "Jwt header [kid] field is not a string",
            Self::Critical => "Jwt header [crit] is not supported",
            Self::PayloadBase64 => "Jwt payload is an invalid Base64url encoded",
            Self::PayloadJson => "Jwt payload is an invalid JSON",
            Self::IssuerText => "Jwt payload [iss] field is not a string",
            Self::SubjectText => "Jwt payload [sub] field is not a string",
            Self::AudienceText => "Jwt payload [aud] field is not a string or string list",
            Self::NotBeforeNumber => "Jwt payload [nbf] field is not a positive 64 bit integer",
            Self::ExpiryNumber => "Jwt payload [exp] field is not a positive 64 bit integer",
            Self::NoExpiry => "Jwt payload [exp] field is missing",
            Self::SignatureBase64 => "Jwt signature is an invalid Base64url encoded",
            Self::Issuer => "Jwt issuer is not configured",
            Self::Audience => "Audiences in Jwt are not allowed",
            Self::Signature => "Jwt verification fails",
            Self::NoKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::NoKeys => "Jwks doesn't have any valid public key",
            Self::NotFetched => "Jwks remote fetch is failed",
            Self::Provider => "Jwt provider is not configured",
        }
    }

    /// 401; a good token that is for somebody else is answered with 403 (Envoy).
    pub fn status(self) -> StatusCode {
        if self == Self::Audience { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED }
    }

    /// Of two reasons why neither of two requirements is met, the one that says more: that a token is another provider's
    /// says more than that there is none, and that it is bad says more than both.
    pub(super) fn or(self, other: Self) -> Self {
        if self == Self::Missing || (self == Self::Issuer && other != Self::Missing) { other } else { self }
    }
}

impl fmt::Display for JwtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for JwtError {}
