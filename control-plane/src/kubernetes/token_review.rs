//! Tokens of service accounts, which the API server vouches for.
//!
//! A sidecar shows the token that the kubelet keeps fresh in a file of its pod, meant for the audience `istio-ca`. Whether
//! it is good, the API server says (TokenReview); it also knows whether pod and service account still exist, which a
//! signature alone does not. The identity is the namespace and service account of the user name. A token that is bound to
//! a pod names it, and then a node may only claim to be that pod (see [`crate::ads::credentials`]).
//!
//! Anybody who reaches the port may send tokens, so the API server is not asked more than it can bear: [`IN_FLIGHT`]
//! questions at a time, and an answer is remembered for a moment, as the API server itself does. Without an answer nobody
//! is let in by a token; certificates of the mesh go on to be renewed, since nobody has to be asked about them.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use kube::api::PostParams;
use kube::{Api, Client};
use leno_config::xds::ca::AUDIENCE;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::ca::attest::{Answer, Attested, Attestor, Bearer, Means, Refusal, Shown};
use crate::ca::token;

/// Questions at a time; who has to wait for longer than the deadline is refused.
const IN_FLIGHT: usize = 64;
/// See [`Reviews::patience`].
const DEADLINE: Duration = Duration::from_secs(5);
/// An answer is good for so long: the API server remembers its own for 10 s, too.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Answers that are remembered at most.
const ANSWERS: usize = 4096;
/// Of a token that does not say when it ends: how long it is taken to be good.
const UNSAID: Duration = Duration::from_secs(60 * 60);
/// Of a pod-bound token, in `extra` (Kubernetes 1.22).
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
/// Longest reason of the API server that is passed on.
const LONGEST_REASON: usize = 256;

/// Why the API server's answer lets nobody in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReviewRefusal {
    /// It does not believe the token.
    #[error("the API server does not accept the token: {0}")]
    NotAuthenticated(String),
    /// It is for somebody else.
    #[error(
        "the token is meant for another audience than `{AUDIENCE}`; mount a projected service account token with that one"
    )]
    Audience,
    /// A person or a node.
    #[error("the token is of `{0}`, which is no service account")]
    NotAServiceAccount(String),
    /// There is no answer.
    #[error("the API server cannot be asked about the token: {0}; try again")]
    Unanswered(String),
}

/// Asks the API server about tokens.
pub(crate) struct Reviews {
    api: Api<TokenReview>,
    turns: Semaphore,
    /// For a turn, and for the answer.
    patience: Duration,
    known: Mutex<Known>,
}

/// Answers by token. Tokens themselves are not kept: two hashes with keys of this process stand for one.
#[derive(Default)]
struct Known {
    keys: (RandomState, RandomState),
    answers: HashMap<(u64, u64), (Instant, Result<Attested, ReviewRefusal>)>,
}

/// What a token says of itself, unverified: good for what costs the sender alone.
#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    exp: Option<u64>,
}

impl Reviews {
    /// By this client.
    pub(crate) fn new(client: Client) -> Self {
        Self { api: Api::all(client), turns: Semaphore::new(IN_FLIGHT), patience: DEADLINE, known: Mutex::default() }
    }

    /// Who holds the token.
    async fn review(&self, token: &str, claims: Option<&Claims>, now: SystemTime) -> Result<Attested, ReviewRefusal> {
        if let Some(known) = self.known().find(token, Instant::now()) {
            return known;
        }
        let answered = timeout(self.patience, self.ask(token)).await;
        let late = |_| ReviewRefusal::Unanswered(format!("there was no answer within {:?}", self.patience));
        let status = answered.map_err(late)??;
        let ends = claims.and_then(|claims| claims.exp).map(Duration::from_secs);
        let until = ends.and_then(|ends| SystemTime::UNIX_EPOCH.checked_add(ends)).unwrap_or(now + UNSAID);
        let attested = attested(status, until);
        self.known().remember(token, attested.clone(), Instant::now());
        attested
    }

    async fn ask(&self, token: &str) -> Result<TokenReviewStatus, ReviewRefusal> {
        let unanswered = |reason: String| ReviewRefusal::Unanswered(short(&reason));
        let _turn = self.turns.acquire().await.map_err(|error| unanswered(error.to_string()))?;
        let audiences = Some(vec![AUDIENCE.to_owned()]);
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences };
        let question = TokenReview { spec, ..TokenReview::default() };
        let answer = self.api.create(&PostParams::default(), &question).await;
        let answer = answer.map_err(|error| unanswered(error.to_string()))?;
        answer.status.ok_or_else(|| unanswered("its answer has no status".to_owned()))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attestor for Reviews {
    fn attest<'a>(&'a self, shown: &'a Shown, now: SystemTime) -> Answer<'a> {
        Box::pin(async move {
            let token = shown.bearer.as_ref().map(Bearer::token)?;
            let claims = claims(token);
            // A token of this control plane: its own attestor knows better.
            if claims.as_ref().is_some_and(|claims| claims.iss.as_deref() == Some(token::ISSUER)) {
                return None;
            }
            Some(self.review(token, claims.as_ref(), now).await.map_err(Refusal::Review))
        })
    }
}

impl Known {
    fn key(&self, token: &str) -> (u64, u64) {
        (self.keys.0.hash_one(token), self.keys.1.hash_one(token))
    }

    fn find(&self, token: &str, now: Instant) -> Option<Result<Attested, ReviewRefusal>> {
        let (at, answer) = self.answers.get(&self.key(token))?;
        (now.saturating_duration_since(*at) < REMEMBERED).then(|| answer.clone())
    }

    fn remember(&mut self, token: &str, answer: Result<Attested, ReviewRefusal>, now: Instant) {
        if self.answers.len() >= ANSWERS {
            self.answers.retain(|_, (at, _)| now.saturating_duration_since(*at) < REMEMBERED);
        }
        // Full of answers of the last seconds: those that are here are worth as much as this one.
        if self.answers.len() < ANSWERS {
            self.answers.insert(self.key(token), (now, answer));
        }
    }
}

/// Reads an answer. What it does not say in so many words is not assumed (Kubernetes' API documentation: a server that
/// does not know audiences leaves `status.audiences` out, and vouches for its own alone).
fn attested(status: TokenReviewStatus, until: SystemTime) -> Result<Attested, ReviewRefusal> {
    if status.authenticated != Some(true) {
        let reason = status.error.filter(|reason| !reason.is_empty());
        let reason = reason.unwrap_or_else(|| "it is not valid, or its pod or service account is gone".to_owned());
        return Err(ReviewRefusal::NotAuthenticated(short(&reason)));
    }
    if !status.audiences.iter().flatten().any(|audience| audience == AUDIENCE) {
        return Err(ReviewRefusal::Audience);
    }
    let UserInfo { username, extra, uid: _, groups: _ } = status.user.unwrap_or_default();
    let username = username.unwrap_or_default();
    let (namespace, service_account) =
        token::subject(&username).ok_or_else(|| ReviewRefusal::NotAServiceAccount(short(&username)))?;
    let pod = extra.as_ref().and_then(|extra| extra.get(POD_NAME)?.first().cloned());
    Ok(Attested { namespace, service_account, pod, until, by: Means::Token })
}

fn claims(token: &str) -> Option<Claims> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&claims).ok()
}

/// Of what others say, as much as a log line bears.
fn short(reason: &str) -> String {
    reason.chars().take(LONGEST_REASON).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests;
