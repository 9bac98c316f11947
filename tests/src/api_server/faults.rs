//! What was asked, how often; and which answers are to be wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::access::Access;
use super::request::Verb;
use super::status::Status;

/// How a request fails that would have been answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// It is refused, before anything is done.
    Refused(Status),
    /// It is done, and then the connection breaks before the answer: what a client must expect of every write.
    Lost,
    /// It is never answered; the caller has to give up.
    Hangs,
}

/// How a server is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// Somebody in front of it answers 503.
    Refuses,
    /// Whoever connects, or asks over a connection that is open, sees it closed.
    Closes,
}

/// Counters and the failures to come.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    requests: BTreeMap<(Verb, String), usize>,
    accesses: BTreeSet<Access>,
    outage: Option<Outage>,
    failures: Vec<Planned>,
}

#[derive(Debug)]
struct Planned {
    verb: Verb,
    plural: String,
    times: usize,
    failure: Failure,
}

impl Ledger {
    /// Writes a request down: how it fails, if it is to.
    pub(super) fn begin(&self, verb: Verb, plural: &str) -> Option<Failure> {
        let mut pages = self.pages();
        *pages.requests.entry((verb, plural.to_owned())).or_default() += 1;
        let position = pages.failures.iter().position(|planned| planned.verb == verb && planned.plural == plural)?;
        let planned = pages.failures.get_mut(position)?;
        planned.times -= 1;
        let failure = planned.failure.clone();
        if planned.times == 0 {
            pages.failures.remove(position);
        }
        Some(failure)
    }

    /// How often something was asked.
    pub(super) fn count(&self, verb: Verb, plural: &str) -> usize {
        self.pages().requests.get(&(verb, plural.to_owned())).copied().unwrap_or_default()
    }

    /// Everything that was asked.
    pub(super) fn requests(&self) -> BTreeMap<(Verb, String), usize> {
        self.pages().requests.clone()
    }

    /// Writes down who wanted what.
    pub(super) fn note(&self, access: &Access) {
        let mut pages = self.pages();
        if !pages.accesses.contains(access) {
            pages.accesses.insert(access.clone());
        }
    }

    /// Who wanted what, each once.
    pub(super) fn accesses(&self) -> BTreeSet<Access> {
        self.pages().accesses.clone()
    }

    /// Begins an outage, or ends it.
    pub(super) fn set_outage(&self, outage: Option<Outage>) {
        self.pages().outage = outage;
    }

    /// How the server is away, if it is.
    pub(super) fn outage(&self) -> Option<Outage> {
        self.pages().outage
    }

    /// Lets the next requests of a kind fail.
    pub(super) fn fail(&self, verb: Verb, plural: &str, times: usize, failure: Failure) {
        if times > 0 {
            self.pages().failures.push(Planned { verb, plural: plural.to_owned(), times, failure });
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_requests_fail_as_were_asked_for() {
        let ledger = Ledger::default();
        ledger.fail(Verb::List, "pods", 2, Failure::Lost);
        assert_eq!(ledger.begin(Verb::Get, "pods"), None);
        assert_eq!(ledger.begin(Verb::List, "nodes"), None);
        let failures: Vec<bool> = (0..3).map(|_| ledger.begin(Verb::List, "pods").is_some()).collect();
        assert_eq!(failures, [true, true, false]);
        assert_eq!((ledger.count(Verb::List, "pods"), ledger.count(Verb::Watch, "pods")), (3, 0));
    }
}
