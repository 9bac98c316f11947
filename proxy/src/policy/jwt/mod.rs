//! Tokens of end users: JSON Web Tokens (RFC 7519), as Envoy's `jwt_authn` filter verifies them.
//!
//! ```text
//! request ─▶ rule (first that matches) ─▶ requirement ─▶ provider: place ─▶ token ─▶ keys ─▶ claims
//! ```
//!
//! * [`place`]: where a request carries a token; more than one is refused.
//! * [`token`]: its form, times, issuer and audience; the signature last.
//! * [`keys`]: the keys of an issuer, and which algorithms each is good for.
//! * [`claims`]: what a verified token says.
//! * [`cache`]: tokens that were verified before.
//! * [`remote`] and [`fetch`]: keys that the issuer publishes, fetched on the control thread.
//!
//! The cryptography is that of `jsonwebtoken` on aws-lc-rs; every decision is made here. Departures from Envoy, each toward
//! the stricter: a token without `exp` or with `crit` is refused; two tokens in one request are refused, even good ones;
//! the scheme `bearer` is recognised in any case; an audience is compared to the letter; a verified token is also taken
//! out of cookies unless it is to be forwarded.

mod cache;
mod claims;
mod error;
mod fetch;
mod keys;
mod place;
mod remote;
mod requirement;
mod token;

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use leno_config::ir::{self, Jwks, JwtAuthentication, JwtProvider};

use crate::error::ProxyError;
use crate::route::{RequestView, takes};

use cache::Entry;
use place::Place;
use requirement::Requirement;

pub use cache::TokenCache;
pub use claims::Claims;
pub use error::JwtError;
pub use fetch::{FetchError, Fetcher};
pub use keys::{KeySet, KeySetError};
pub use remote::{FetchedKeys, RemoteKeys};
pub use token::Verified;

/// What a listener does about tokens, ready to be asked.
#[derive(Debug)]
pub struct Authenticator {
    source: JwtAuthentication,
    providers: Vec<Provider>,
    rules: Vec<Requirement>,
    /// Headers that say what a token said.
    claimed: Vec<HeaderName>,
}

/// An issuer with its keys.
struct Provider {
    /// Unlike that of every other provider and of the same one with other keys or settings: what was verified for one
    /// number is verified for no other.
    number: u64,
    config: JwtProvider,
    places: Vec<Place>,
    keys: Result<Arc<KeySet>, JwtError>,
}

/// Why a request does not get past the tokens.
#[derive(Debug)]
pub enum Refusal {
    /// Because of its token, or because it has none.
    Token(JwtError),
    /// It could not be made ready for the app.
    Request(ProxyError),
}

impl From<JwtError> for Refusal {
    fn from(error: JwtError) -> Self {
        Self::Token(error)
    }
}

impl Authenticator {
    /// Reads the keys that stand in the rules and takes those that were fetched. `None`: no token is looked at.
    pub fn new(source: &JwtAuthentication, fetched: &FetchedKeys) -> Option<Self> {
        if source.is_empty() {
            return None;
        }
        let providers: Vec<_> = source.providers.iter().map(|config| Provider::new(config, fetched)).collect();
        let names: Vec<&str> = source.providers.iter().map(|provider| provider.name.as_str()).collect();
        let rules = source.rules.iter().map(|rule| Requirement::new(&rule.requirement, &names)).collect();
        let claimed = source.providers.iter().flat_map(|provider| {
            provider.payload_header.iter().chain(provider.claim_headers.iter().map(|claim| &claim.name))
        });
        Some(Self { source: source.clone(), providers, rules, claimed: claimed.cloned().collect() })
    }

    /// Whether it was made from the same rules and has the same keys: then it goes on, and so do its verified tokens.
    pub fn is_made_of(&self, source: &JwtAuthentication, fetched: &FetchedKeys) -> bool {
        let same_keys = |provider: &Provider| match (&provider.config.jwks, &provider.keys) {
            (Jwks::Inline(_), _) => true,
            (Jwks::Remote(remote), Ok(keys)) => {
                fetched.get(&remote.uri).is_some_and(|fetched| Arc::ptr_eq(fetched, keys))
            }
            (Jwks::Remote(remote), Err(_)) => !fetched.contains_key(&remote.uri),
        };
        self.source == *source && self.providers.iter().all(same_keys)
    }

    /// The rules it was made from.
    pub fn source(&self) -> &JwtAuthentication {
        &self.source
    }

    /// Whether a request that was let in with this token, or without one, could be now: by the issuer and audience of its
    /// token. Which of it counts, or why not. Its signature was good and its text is gone; that it has expired since, or
    /// that keys have been exchanged, ends nothing that is under way.
    pub fn would_take<'t>(
        &self,
        request: &RequestView<'_>,
        token: Option<&'t Verified>,
    ) -> Result<Option<&'t Verified>, JwtError> {
        let rule = self.source.rules.iter().position(|rule| takes(&rule.matcher, request));
        match rule.and_then(|rule| self.rules.get(rule)) {
            Some(requirement) => self.is_met(requirement, token),
            None => Ok(None),
        }
    }

    /// Looks at the token of a request as the first rule that takes it says. What a token says is written into the
    /// headers that are kept for it, which nobody else may set, and the token itself is taken out unless it is to be
    /// forwarded.
    pub fn authenticate(
        &self,
        parts: &mut Parts,
        look: impl FnOnce(&Parts) -> RequestView<'_>,
        cache: &TokenCache,
        now: SystemTime,
    ) -> Result<Option<Rc<Verified>>, Refusal> {
        self.remove_claimed(&mut parts.headers);
        let view = look(parts);
        let rule = self.source.rules.iter().position(|rule| takes(&rule.matcher, &view));
        match rule.and_then(|rule| self.rules.get(rule)) {
            Some(requirement) => self.meet(requirement, parts, cache, now),
            None => Ok(None),
        }
    }

    /// Takes away the headers that say what a token said, whoever sent them and whether a rule takes the request or not.
    /// Also in the spelling that some apps (CGI, WSGI) do not tell apart: `x_sub` for `x-sub`.
    fn remove_claimed(&self, headers: &mut HeaderMap) {
        if self.claimed.is_empty() {
            return;
        }
        let alias = |name: &&HeaderName| {
            let same = |one, other| one == other || matches!((one, other), (b'_', b'-') | (b'-', b'_'));
            let spelt = |claimed: &HeaderName| {
                let (name, claimed) = (name.as_str().as_bytes(), claimed.as_str().as_bytes());
                name.len() == claimed.len() && name.iter().zip(claimed).all(|(one, other)| same(*one, *other))
            };
            self.claimed.iter().any(spelt)
        };
        let spoofed: Vec<HeaderName> = headers.keys().filter(alias).cloned().collect();
        for name in spoofed {
            headers.remove(name);
        }
    }

    fn meet(
        &self,
        requirement: &Requirement,
        parts: &mut Parts,
        cache: &TokenCache,
        now: SystemTime,
    ) -> Result<Option<Rc<Verified>>, Refusal> {
        match requirement {
            Requirement::Provider(at) => match self.providers.get(*at) {
                Some(provider) => provider.admit(parts, cache, now).map(Some),
                None => Err(JwtError::Provider.into()),
            },
            Requirement::Unknown => Err(JwtError::Provider.into()),
            Requirement::All(parts_of_it) => {
                let mut last = None;
                for one in parts_of_it {
                    last = self.meet(one, parts, cache, now)?.or(last);
                }
                Ok(last)
            }
            Requirement::Any { of, otherwise } => {
                let mut reason = JwtError::Missing;
                for one in of {
                    match self.meet(one, parts, cache, now) {
                        Err(Refusal::Token(error)) => reason = reason.or(error),
                        done => return done,
                    }
                }
                if otherwise.excuses(reason) { Ok(None) } else { Err(reason.into()) }
            }
        }
    }
}

impl Authenticator {
    fn is_met<'t>(
        &self,
        requirement: &Requirement,
        token: Option<&'t Verified>,
    ) -> Result<Option<&'t Verified>, JwtError> {
        let first = |of: &[Requirement]| {
            let mut reason = JwtError::Missing;
            for one in of {
                match self.is_met(one, token) {
                    Err(error) => reason = reason.or(error),
                    met => return met,
                }
            }
            Err(reason)
        };
        match requirement {
            Requirement::Provider(at) => match (self.providers.get(*at), token) {
                (Some(provider), Some(token)) => token::check_owner(token, &provider.config).map(|()| Some(token)),
                (Some(_), None) => Err(JwtError::Missing),
                (None, _) => Err(JwtError::Provider),
            },
            Requirement::Unknown => Err(JwtError::Provider),
            // Of several tokens only the last is known.
            Requirement::All(of) if of.is_empty() => Ok(None),
            Requirement::All(of) => first(of),
            Requirement::Any { of, otherwise } => match first(of) {
                Err(reason) if otherwise.excuses(reason) => Ok(None),
                done => done,
            },
        }
    }
}

impl Provider {
    fn new(config: &JwtProvider, fetched: &FetchedKeys) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let keys = match &config.jwks {
            Jwks::Inline(text) => KeySet::parse(text.as_bytes()).map(Arc::new).map_err(|error| {
                let provider = &config.name;
                tracing::warn!(%provider, %error, "the keys in the rule cannot be used; its tokens are refused");
                JwtError::NoKeys
            }),
            Jwks::Remote(remote) => fetched.get(&remote.uri).cloned().ok_or(JwtError::NotFetched),
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { number, places: place::places(config), keys, config: config.clone() }
    }

    /// Verifies the request's token and does with it what the provider says.
    fn admit(&self, parts: &mut Parts, cache: &TokenCache, now: SystemTime) -> Result<Rc<Verified>, Refusal> {
        let (token, place) = place::find(&self.places, &parts.headers, parts.uri.query())?;
        let verified = self.verify(&token, cache, now)?;
        if !self.config.forward {
            place.remove(parts).map_err(Refusal::Request)?;
        }
        self.write(&verified, parts);
        Ok(verified)
    }

    fn verify(&self, text: &str, cache: &TokenCache, now: SystemTime) -> Result<Rc<Verified>, JwtError> {
        match cache.find(text) {
            Some(Entry { provider, token }) if provider == self.number => {
                token.check_times(now, self.config.clock_skew)?;
                return Ok(token);
            }
            // Verified for another one: spares reading it again to see that it is not ours.
            Some(Entry { token, .. }) => token::check_issuer(&token, &self.config)?,
            None => {}
        }
        let keys = self.keys.as_deref().map_err(|error| *error);
        let verified = Rc::new(token::verify(text, &self.config, keys, now)?);
        cache.keep(text, Entry { provider: self.number, token: Rc::clone(&verified) });
        Ok(verified)
    }

    fn write(&self, verified: &Verified, parts: &mut Parts) {
        if let Some(name) = &self.config.payload_header
            && let Ok(payload) = HeaderValue::from_str(verified.payload())
        {
            parts.headers.insert(name, payload);
        }
        for ir::ClaimHeader { name, claim } in &self.config.claim_headers {
            if let Some(value) = header_value(verified.claims(), claim) {
                parts.headers.insert(name, value);
            }
        }
    }
}

/// A claim as a header: texts, numbers and truths as they are, lists and objects as JSON in base64url (Envoy). What cannot
/// stand in a header is left out.
fn header_value(claims: &Claims, path: &str) -> Option<HeaderValue> {
    // A key may itself have dots.
    let value = claims.find([path]).or_else(|| claims.find(path.split('.')))?;
    match claims::text_of(value) {
        Some(text) if text.is_empty() => None,
        Some(text) => HeaderValue::from_bytes(text.as_bytes()).ok(),
        None if value.is_null() => None,
        None => HeaderValue::from_str(&URL_SAFE_NO_PAD.encode(value.to_string())).ok(),
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").field("name", &self.config.name).field("keys", &self.keys).finish_non_exhaustive()
    }
}
