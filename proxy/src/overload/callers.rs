//! How many connections each caller has, where they come in: one of a thousand workloads must not take them all.
//!
//! A caller is its identity, and in clear text its address. Counted when a connection is let in and when it ends, never for
//! a request, so a lock is cheap enough; there are never more entries than connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use leno_config::identity::SpiffeId;

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Who {
    /// A workload with a certificate.
    Identity(SpiffeId),
    /// Whoever is behind an address.
    Address(IpAddr),
}

/// All callers.
#[derive(Debug, Default)]
pub struct Callers(Mutex<HashMap<Who, u32>>);

/// One connection of a caller; ends with the guard.
#[derive(Debug)]
pub struct CallerCount {
    callers: Arc<Callers>,
    who: Who,
}

impl Callers {
    /// One more, unless the caller has as many as `limit` already.
    pub fn enter(self: &Arc<Self>, who: Who, limit: u32) -> Option<CallerCount> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&who) {
            Some(count) if *count >= limit => return None,
            Some(count) => *count += 1,
            None => drop(counts.insert(who.clone(), 1)),
        }
        Some(CallerCount { callers: Arc::clone(self), who })
    }

    /// How many callers there are.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for CallerCount {
    fn drop(&mut self) {
        let mut counts = self.callers.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.who) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => drop(counts.remove(&self.who)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_as_many_as_it_may_and_others_are_not_touched() {
        let callers: Arc<Callers> = Arc::default();
        let [one, other] = [1, 2].map(|last| Who::Address(IpAddr::from([10, 0, 0, last])));
        let enter = |who: &Who| callers.enter(who.clone(), 2);
        let mut held = vec![enter(&one).expect("room"), enter(&one).expect("room")];
        assert!(enter(&one).is_none());
        assert!(enter(&other).is_some());
        held.pop();
        held.push(enter(&one).expect("one has left"));
        assert!(enter(&one).is_none());
        held.clear();
        assert!(callers.is_empty(), "nothing is kept of who has left");
    }
}
