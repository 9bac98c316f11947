//! Which identity has a certificate, and until when: for `leno status` and its alarms.

use std::collections::BTreeMap;
use std::time::SystemTime;

use leno_config::identity::SpiffeId;

/// Most identities that are remembered. Who has a credential of the mesh can add one, so there is a bound; beyond it,
/// certificates are issued and not shown.
const MAX: usize = 100_000;

/// The newest certificate of each identity.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    ends: BTreeMap<SpiffeId, SystemTime>,
}

impl Ledger {
    /// A certificate was issued.
    pub(crate) fn note(&mut self, id: &SpiffeId, ends: SystemTime, now: SystemTime) {
        if self.ends.len() >= MAX && !self.ends.contains_key(id) {
            self.ends.retain(|_, ends| *ends > now);
        }
        if self.ends.len() < MAX || self.ends.contains_key(id) {
            self.ends.insert(id.clone(), ends);
        }
    }

    /// When the newest certificate of an identity ends; `None`: it was issued none by this process.
    pub(crate) fn ends(&self, id: &SpiffeId) -> Option<SystemTime> {
        self.ends.get(id).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_newest_counts_and_what_has_ended_makes_room() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let id = |index: usize| SpiffeId::workload("td", "ns", &format!("a{index}")).unwrap();
        let mut ledger = Ledger::default();
        ledger.note(&id(0), at(10), at(0));
        ledger.note(&id(0), at(5), at(0));
        assert_eq!(ledger.ends(&id(0)), Some(at(5)), "the newest, not the longest");
        for index in 1..MAX {
            ledger.note(&id(index), at(100), at(0));
        }
        ledger.note(&id(MAX), at(100), at(5));
        assert_eq!((ledger.ends(&id(0)), ledger.ends(&id(MAX))), (None, Some(at(100))));
        ledger.note(&id(MAX + 1), at(100), at(5));
        assert_eq!(ledger.ends(&id(MAX + 1)), None, "full");
    }
}
