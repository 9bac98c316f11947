//! What this process knows about itself, for people and probes: the rules' state, the connected proxies, the authority.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use leno_config::diagnostic::Place;
use leno_config::ir::{self, Secret};
use leno_config::node::Node;
use leno_config::xds::Kind;

use crate::ads::push::{Hub, Stream};
use crate::ads::status::{self, Detail, RulesStatus, Status};
use crate::ca::Authority;
use crate::ca::rotate::{Insistence, RotateError};
use crate::ca::rotation::Facts;
use crate::ca::status::{CaStatus, Rotation};
use crate::ca::token::{Audience, TokenError};
use crate::metrics::Metrics;

/// A proxy asks for what it uses as soon as it is connected; within so long in any case.
const ASKS_WITHIN: Duration = Duration::from_secs(10);

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// Whoever sent it may not.
    #[error("the command is refused: {0}")]
    Token(#[from] TokenError),
    /// It did not work.
    #[error(transparent)]
    Failed(RotateError),
}

/// One per process.
#[derive(Debug)]
pub(crate) struct Board {
    hub: Arc<Hub>,
    authority: Arc<Authority>,
    rules: Mutex<RulesStatus>,
}

impl Board {
    /// Nothing is known about the rules yet.
    pub(crate) fn new(hub: Arc<Hub>, authority: Arc<Authority>) -> Self {
        Self { hub, authority, rules: Mutex::default() }
    }

    /// Notes how the rules stand.
    pub(crate) fn note(&self, rules: RulesStatus) {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// Why proxies get no answer, if so.
    pub(crate) fn readiness(&self) -> Result<(), String> {
        let rules = self.rules();
        match (rules.version, rules.problem) {
            _ if self.hub.is_stopping() => Err("the control plane is stopping".to_owned()),
            (Some(_), _) => Ok(()),
            (None, Some(problem)) => Err(problem),
            (None, None) => Err("the rules have not been read yet".to_owned()),
        }
    }

    /// The JSON of `leno status`.
    pub(crate) fn status(&self, with_resources: bool, now: Instant) -> Status {
        let detail = if with_resources { Detail::Resources } else { Detail::Sets };
        let expiry = |node: &Node| self.authority.certificate_ends(&node.namespace, &node.service_account);
        let clear_text = self.hub.newest().map(|newest| newest.in_clear_text()).unwrap_or_default();
        let rules = RulesStatus { clear_text, ..self.rules() };
        status::status(&self.hub, rules, detail, expiry, now)
    }

    /// The JSON of `leno ca status`.
    pub(crate) fn authority(&self, now: Instant) -> CaStatus {
        self.authority.status(&self.facts(now), SystemTime::now())
    }

    /// Where rules stand, in the order in which they are asked for; `None`: they are not in force.
    pub(crate) fn places(&self, rules: &[ir::Origin]) -> Vec<Option<Place>> {
        let newest = self.hub.newest();
        rules.iter().map(|rule| newest.as_ref()?.place_of(rule)).collect()
    }

    /// Takes the next step of a change of roots, for who holds this token.
    pub(crate) fn rotate(&self, token: &str, insistence: Insistence, now: Instant) -> Result<Rotation, CommandError> {
        let time = SystemTime::now();
        self.authority.tokens().verify(token, Audience::Operator, time)?;
        match self.authority.rotate(&self.facts(now), insistence, time) {
            Ok(taken) => Ok(Rotation::taken(&taken)),
            Err(RotateError::Refused(obstacles)) => Ok(Rotation::refused(&obstacles)),
            Err(
                error @ (RotateError::Store(_) | RotateError::Shared(_) | RotateError::Kept(_) | RotateError::Make(_)),
            ) => Err(CommandError::Failed(error)),
        }
    }

    /// Which proxies are known to use the roots as they are now. One that has not asked for them uses none and refuses
    /// nobody; but what a new stream has not asked for yet, its proxy may still hold from before.
    fn facts(&self, now: Instant) -> Facts {
        let newest = self.hub.newest();
        let domains = self.authority.domains();
        let roots = domains.and_then(|domains| self.authority.bundles().secret(&domains));
        // A generation that has not been made yet has not been acknowledged by anyone.
        let published = newest.as_ref().and_then(|generation| generation.roots());
        let version = roots.filter(|roots| published == Some(roots)).map(|roots| ir::version(&roots));
        let is_behind = |stream: &Stream| {
            let session = stream.session();
            match session.has_asked_for(Kind::Secret, Secret::ROOTS) {
                true => !version.as_ref().is_some_and(|it| session.has_accepted(Kind::Secret, Secret::ROOTS, it)),
                false => stream.connected.elapsed().unwrap_or_default() < ASKS_WITHIN,
            }
        };
        let streams = self.hub.streams();
        let behind = streams.iter().filter(|stream| is_behind(stream)).map(|stream| stream.node.id());
        let shared_for = self.authority.shared_for(SystemTime::now());
        Facts { unacknowledged: behind.collect(), age: self.authority.age(now), shared_for }
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        self.hub.metrics()
    }

    fn rules(&self) -> RulesStatus {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
