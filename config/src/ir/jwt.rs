//! Tokens of end users: Envoy's `jwt_authn` filter.

use std::time::Duration;

use http::{HeaderName, Uri};
use serde::{Serialize, Serializer};

use super::{Invalid, RouteMatch};

/// Which tokens a listener verifies. The first rule whose `matcher` takes the request decides; none: no token is looked
/// at.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct JwtAuthentication {
    /// Who issues tokens.
    pub providers: Vec<JwtProvider>,
    /// Which of them a request needs.
    pub rules: Vec<JwtRule>,
}

impl JwtAuthentication {
    /// Whether no token is looked at.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

/// Requests of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JwtRule {
    /// Which requests.
    pub matcher: RouteMatch,
    /// What they need.
    pub requirement: JwtRequirement,
}

/// What a request needs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JwtRequirement {
    /// A valid token of the provider with this name.
    Provider(String),
    /// One of them.
    Any(Vec<JwtRequirement>),
    /// All of them.
    All(Vec<JwtRequirement>),
    /// No token will do; a bad one is refused.
    AllowMissing,
    /// Nothing is refused; a valid token's claims can be used.
    AllowMissingOrFailed,
}

/// An issuer of tokens and where a request carries them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JwtProvider {
    /// Unique in the listener.
    pub name: String,
    /// `iss` must be this; `None`: any.
    pub issuer: Option<String>,
    /// `aud` must hold one of these; empty: any.
    pub audiences: Vec<String>,
    /// The keys that sign.
    pub jwks: Jwks,
    /// Where a token may be; when this, `from_params` and `from_cookies` are all empty: `Authorization: Bearer` and
    /// the query parameter `access_token` (Envoy).
    pub from_headers: Vec<JwtHeader>,
    /// Query parameters.
    pub from_params: Vec<String>,
    /// Cookies.
    pub from_cookies: Vec<String>,
    /// The token goes on to the app.
    pub forward: bool,
    /// Receives the payload in base64url.
    #[serde(serialize_with = "optional_name")]
    pub payload_header: Option<HeaderName>,
    /// Receive single claims.
    pub claim_headers: Vec<ClaimHeader>,
    /// Tolerance for `exp` and `nbf`. Envoy: 60 s.
    pub clock_skew: Duration,
}

/// A header that carries a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JwtHeader {
    /// Its name.
    #[serde(serialize_with = "name")]
    pub name: HeaderName,
    /// What stands before the token, as `Bearer `.
    pub prefix: String,
}

/// A header made of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClaimHeader {
    /// Its name.
    #[serde(serialize_with = "name")]
    pub name: HeaderName,
    /// The claim, with dots into nested ones.
    pub claim: String,
}

/// The keys of an issuer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Jwks {
    /// Written in the rule: a JSON Web Key Set (RFC 7517).
    Inline(String),
    /// Fetched, kept and refreshed.
    Remote(RemoteJwks),
}

/// Where keys are fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RemoteJwks {
    /// `http://` or `https://`; the only address that is ever asked, whatever a token says.
    #[serde(serialize_with = "uri")]
    pub uri: Uri,
    /// The cluster through which Envoy asks.
    pub cluster: String,
    /// For one fetch.
    pub timeout: Duration,
    /// They are fetched again after it. Istio: 20 min; Envoy: 10 min.
    pub refresh: Duration,
}

impl RemoteJwks {
    /// Checks an address of keys.
    pub fn uri(text: &str) -> Result<Uri, Invalid> {
        let uri: Uri = text.parse().map_err(|error| Invalid(format!("`{text}` is not a URL: {error}")))?;
        match (uri.scheme_str(), uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))) {
            (Some("http" | "https"), true) => Ok(uri),
            _ => Err(Invalid(format!("`{text}` is not a URL like https://issuer.example/jwks.json"))),
        }
    }
}

fn name<S: Serializer>(name: &HeaderName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}

fn optional_name<S: Serializer>(name: &Option<HeaderName>, serializer: S) -> Result<S::Ok, S::Error> {
    match name {
        Some(name) => serializer.serialize_some(name.as_str()),
        None => serializer.serialize_none(),
    }
}

fn uri<S: Serializer>(uri: &Uri, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(uri)
}
