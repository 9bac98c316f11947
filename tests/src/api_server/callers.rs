//! Who calls: the token or the certificate of a kubeconfig.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use http::{HeaderMap, header};

use super::request::User;
use super::state::State;
use super::tokens;

/// The callers that a server knows.
#[derive(Debug)]
pub(super) struct Callers {
    admin_token: String,
    certificates: Mutex<BTreeMap<Vec<u8>, User>>,
}

impl Callers {
    /// With this token for the administrator.
    pub(super) fn new(admin_token: String) -> Self {
        Self { admin_token, certificates: Mutex::default() }
    }

    /// The administrator's token.
    pub(super) fn admin_token(&self) -> &str {
        &self.admin_token
    }

    /// From now on, who shows this certificate is this user.
    pub(super) fn knows(&self, certificate: Vec<u8>, user: User) {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).insert(certificate, user);
    }

    /// Whose certificate it is.
    pub(super) fn by_certificate(&self, certificate: &[u8]) -> Option<User> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).get(certificate).cloned()
    }

    /// Who sends a request: a certificate goes before a token.
    pub(super) fn authenticate(&self, state: &State, certified: Option<User>, headers: &HeaderMap) -> Option<User> {
        if certified.is_some() {
            return certified;
        }
        let token = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
        if token == self.admin_token { Some(administrator()) } else { tokens::authenticate(state, token) }
    }
}

/// Who may do everything.
pub(super) fn administrator() -> User {
    User {
        name: "admin".to_owned(),
        uid: None,
        groups: ["system:masters", "system:authenticated"].map(str::to_owned).to_vec(),
        extra: BTreeMap::new(),
    }
}
