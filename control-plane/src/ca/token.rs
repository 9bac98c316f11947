//! Tokens by which processes without Kubernetes say who they are: JWTs (RFC 7519) that this control plane signs itself.
//!
//! A token names a namespace and a service account in the form that Kubernetes uses, so that the two kinds of token are
//! read alike. Signing and verifying use one key pair (ECDSA P-256) below `--state`, and one algorithm: a token that
//! says another in its header is refused before anything is computed with it. A second audience is for `leno ca rotate`,
//! so that who may read the key may also change the roots, and nobody else.

use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use leno_config::identity::{SpiffeId, SpiffeIdError};
use leno_config::xds::ca::AUDIENCE;
use rcgen::{KeyPair, PublicKeyData as _};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::files::{self, FileError, Readers};
use super::key::{Key, KeyError};

/// Who signs.
pub(crate) const ISSUER: &str = "leno";
/// Who commands of a person on this machine are meant for.
const OPERATOR_AUDIENCE: &str = "leno-operator";
/// What stands before namespace and service account (Kubernetes).
const SUBJECT: &str = "system:serviceaccount:";
/// Longest token. Ours have about 300 bytes, Kubernetes' about 1300.
pub(crate) const MAX_TOKEN: usize = 16 << 10;

/// Who a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// A proxy's certificate and rules.
    Mesh,
    /// A person's commands.
    Operator,
}

/// What a token says, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    /// The first moment at which it is no longer good.
    pub(crate) expires: SystemTime,
}

/// Signs and verifies tokens.
pub(crate) struct TokenKey {
    signing: EncodingKey,
    verifying: DecodingKey,
}

/// Why there is no key for tokens.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenKeyError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is in it.
    #[error("`{path}`: {reason}; remove it to get a new one, which makes all tokens invalid")]
    Key { path: String, reason: KeyError },
}

/// Why no token can be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    /// A name that no identity can have.
    #[error("`{namespace}` and `{service_account}` do not make an identity: {reason}")]
    Name { namespace: String, service_account: String, reason: SpiffeIdError },
    /// A time that no calendar has.
    #[error("the token would end after the end of time")]
    Life,
    /// The library gave up.
    #[error("the token cannot be signed: {0}")]
    Sign(jsonwebtoken::errors::Error),
}

/// Why a token is not believed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum TokenError {
    /// Not three parts, not JSON, a claim of another type, too long.
    #[error("the token is not a JWT with the claims of `leno token create`")]
    Malformed,
    /// `none`, HMAC, anything but ours.
    #[error("the token says that it is signed with `{0}`; only ES256 is accepted")]
    Algorithm(String),
    /// RFC 7515 §4.1.11: what is not understood must not be passed over.
    #[error("the token has a critical header that is not understood")]
    Critical,
    /// Changed, or signed by somebody else.
    #[error(
        "the token is not signed by this control plane; make one with `leno token create --state` of the same directory"
    )]
    Signature,
    /// Signed by our key, and yet not ours.
    #[error("the token is of another issuer than `{ISSUER}`")]
    Issuer,
    /// For somebody else.
    #[error("the token is meant for another audience than `{}`", .0.name())]
    Audience(Audience),
    /// Over.
    #[error("the token has expired; make a new one with `leno token create`")]
    Expired,
    /// Names nobody.
    #[error("the token's subject is not `{SUBJECT}NAMESPACE:SERVICE_ACCOUNT`")]
    Subject,
}

impl Audience {
    fn name(self) -> &'static str {
        match self {
            Self::Mesh => AUDIENCE,
            Self::Operator => OPERATOR_AUDIENCE,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: OneOrMany,
    sub: String,
    iat: u64,
    exp: u64,
}

/// RFC 7519 §4.1.3 allows both.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<String>),
    One(String),
}

/// Of the header, what decides whether a token is looked at.
#[derive(Deserialize)]
struct Head {
    alg: String,
    crit: Option<serde_json::Value>,
}

impl TokenKey {
    /// The key in `ca/token.key` of a state directory; made at the first call, whoever makes it.
    pub(crate) fn open(state: &Path) -> Result<Self, TokenKeyError> {
        let path = state.join("ca").join("token.key");
        files::private_directory(&state.join("ca"))?;
        if files::read(&path)?.is_none() {
            let (_, made) = Key::generate().map_err(|reason| at(&path, reason))?;
            // If another process was first, its key counts.
            files::create(&path, made.as_bytes(), Readers::Owner)?;
        }
        let pem = Zeroizing::new(files::read_present(&path)?);
        Self::from_pem(&pem).map_err(|reason| at(&path, reason))
    }

    /// A key for the life of this process.
    pub(crate) fn transient() -> Result<Self, KeyError> {
        let (_, pem) = Key::generate()?;
        Self::from_pem(pem.as_bytes())
    }

    fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| KeyError::Pem)?;
        let mut der = Zeroizing::new(der.secret_pkcs8_der().to_vec());
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&der.as_slice().into(), &rcgen::PKCS_ECDSA_P256_SHA256);
        let mut pair = pair.map_err(|_| KeyError::Kind)?;
        let verifying = DecodingKey::from_ec_der(pair.der_bytes());
        let signing = EncodingKey::from_ec_der(&der);
        pair.zeroize();
        der.zeroize();
        Ok(Self { signing, verifying })
    }

    /// A token for a workload.
    pub(crate) fn create(
        &self,
        namespace: &str,
        service_account: &str,
        life: Duration,
        now: SystemTime,
    ) -> Result<String, CreateError> {
        // In any trust domain: which one is the mesh's is not the token's business.
        if let Err(reason) = SpiffeId::workload("cluster.local", namespace, service_account) {
            let (namespace, service_account) = (namespace.to_owned(), service_account.to_owned());
            return Err(CreateError::Name { namespace, service_account, reason });
        }
        self.sign(Audience::Mesh, format!("{SUBJECT}{namespace}:{service_account}"), life, now)
    }

    /// A token for one command of a person who may read the key.
    pub(crate) fn create_for_operator(&self, life: Duration, now: SystemTime) -> Result<String, CreateError> {
        self.sign(Audience::Operator, format!("{SUBJECT}leno:operator"), life, now)
    }

    fn sign(&self, audience: Audience, sub: String, life: Duration, now: SystemTime) -> Result<String, CreateError> {
        let exp = now.checked_add(life).ok_or(CreateError::Life)?;
        let aud = OneOrMany::Many(vec![audience.name().to_owned()]);
        let claims = Claims { iss: ISSUER.to_owned(), aud, sub, iat: seconds(now), exp: seconds(exp) };
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.signing).map_err(CreateError::Sign)
    }

    /// What a token says, if it is ours, for this audience, and good now.
    pub(crate) fn verify(&self, token: &str, audience: Audience, now: SystemTime) -> Result<Said, TokenError> {
        check_head(token)?;
        // Claims are checked below, against the time that was given.
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.verifying, &validation);
        let Claims { iss, aud, sub, iat: _, exp } = decoded.map_err(|error| reason(&error))?.claims;
        if iss != ISSUER {
            return Err(TokenError::Issuer);
        }
        let is_for = |name: &str| match &aud {
            OneOrMany::Many(all) => all.iter().any(|one| one == name),
            OneOrMany::One(one) => one == name,
        };
        if !is_for(audience.name()) {
            return Err(TokenError::Audience(audience));
        }
        let expires = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(exp)).ok_or(TokenError::Malformed)?;
        if expires <= now {
            return Err(TokenError::Expired);
        }
        let (namespace, service_account) = subject(&sub).ok_or(TokenError::Subject)?;
        Ok(Said { namespace, service_account, expires })
    }
}

/// Before any key is touched: an algorithm that a token chooses is how verifiers were fooled.
fn check_head(token: &str) -> Result<(), TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::Malformed);
    }
    let (head, _) = token.split_once('.').ok_or(TokenError::Malformed)?;
    let head = URL_SAFE_NO_PAD.decode(head).map_err(|_| TokenError::Malformed)?;
    let Head { alg, crit } = serde_json::from_slice(&head).map_err(|_| TokenError::Malformed)?;
    if alg != "ES256" {
        return Err(TokenError::Algorithm(alg.chars().take(16).flat_map(char::escape_debug).collect()));
    }
    if crit.is_some() {
        return Err(TokenError::Critical);
    }
    Ok(())
}

fn reason(error: &jsonwebtoken::errors::Error) -> TokenError {
    match error.kind() {
        jsonwebtoken::errors::ErrorKind::InvalidSignature => TokenError::Signature,
        _ => TokenError::Malformed,
    }
}

/// Namespace and service account of a user's name; `None`: it is not a service account's, or not one that can have an
/// identity.
pub(crate) fn subject(text: &str) -> Option<(String, String)> {
    let (namespace, service_account) = text.strip_prefix(SUBJECT)?.split_once(':')?;
    SpiffeId::workload("cluster.local", namespace, service_account).ok()?;
    Some((namespace.to_owned(), service_account.to_owned()))
}

fn at(path: &Path, reason: KeyError) -> TokenKeyError {
    TokenKeyError::Key { path: path.display().to_string(), reason }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
