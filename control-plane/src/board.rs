//! What this process knows about itself, for people and probes: the rules' state and the connected proxies.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::ads::push::Hub;
use crate::ads::status::{self, Detail, RulesStatus, Status};
use crate::metrics::Metrics;

/// One per process.
#[derive(Debug)]
pub(crate) struct Board {
    hub: Arc<Hub>,
    rules: Mutex<RulesStatus>,
}

impl Board {
    /// Nothing is known about the rules yet.
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self { hub, rules: Mutex::default() }
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
        status::status(&self.hub, self.rules(), detail, now)
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        self.hub.metrics()
    }

    fn rules(&self) -> RulesStatus {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
