//! One replica's view of the Lease, and what it does next: no IO, no clock of its own.
//!
//! The rules are those of client-go's `leaderelection`, and the safety is in two of them:
//!
//! * A claim is a write over the version that was seen, so of two that claim at once the API server grants one.
//! * Nobody takes what somebody else holds before it has looked the same for the whole `lease`, by the own clock and
//!   from when it was first seen; the holder stops believing `renew_within` after it *sent* its last granted claim. What
//!   is seen was sent before it was seen, and `renew_within` is shorter than `lease`, so the holder stops first. Times
//!   that stand in the Lease are for people: no clock is compared with another's.
//!
//! A claim whose answer never came may have been granted. It is not believed, and what was seen is [stale](Move::Read)
//! from then on.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

/// How long things last in an election.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// A Lease that nobody renews is free after this; whole seconds.
    pub(crate) lease: Duration,
    /// A leader that could not renew for so long leads no more. Shorter than `lease`: what is left is for writes that are
    /// under way to end.
    pub(crate) renew_within: Duration,
    /// Between two claims of a leader, and, with some jitter, after one that failed.
    pub(crate) retry: Duration,
}

impl Terms {
    /// The numbers of Kubernetes' own controllers.
    pub(crate) const USUAL: Self =
        Self { lease: Duration::from_secs(15), renew_within: Duration::from_secs(10), retry: Duration::from_secs(2) };
}

/// What there is to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Move {
    /// Nothing, until then or until the Lease changes.
    Wait(Instant),
    /// Look at the Lease.
    Read,
    /// Write that it is ours: create it, or replace it if it is still of this version.
    Claim(Box<Lease>),
}

/// One replica that may lead.
#[derive(Debug)]
pub(crate) struct Elector {
    /// Nobody else's, not even that of the process that ran in the same pod before.
    identity: String,
    terms: Terms,
    /// `None`: never looked.
    seen: Option<Sight>,
    /// Something may have happened that was not seen.
    is_stale: bool,
    /// Not before this.
    due: Instant,
    /// When the last claim that was granted was sent; `None`: none since we last stood down.
    held: Option<Instant>,
}

/// The Lease as it was seen.
#[derive(Debug)]
struct Sight {
    /// `None`: there is none.
    lease: Option<Lease>,
    /// When its contents were first seen.
    since: Instant,
}

impl Elector {
    /// Knows nothing yet.
    pub(crate) fn new(identity: String, terms: Terms, now: Instant) -> Self {
        Self { identity, terms, seen: None, is_stale: true, due: now, held: None }
    }

    /// What to do now. `wall` is for the eyes of people who read the Lease.
    pub(crate) fn next(&self, name: &str, now: Instant, wall: &MicroTime) -> Move {
        if now < self.due {
            return Move::Wait(self.due);
        }
        let Some(seen) = self.seen.as_ref().filter(|_| !self.is_stale) else { return Move::Read };
        let free_at = self.free_at(seen);
        match free_at.is_none_or(|free| free <= now) {
            true => Move::Claim(Box::new(self.claim(seen, name, wall))),
            false => Move::Wait(free_at.unwrap_or(now)),
        }
    }

    /// The Lease was read.
    pub(crate) fn read(&mut self, lease: Option<Lease>, now: Instant) {
        if holder(lease.as_ref()) != Some(self.identity.as_str()) {
            self.held = None;
        }
        self.is_stale = false;
        self.remember(lease, now);
    }

    /// A watch says that the Lease is like this now. It may be late, so a leader does not listen to it: whoever took the
    /// Lease away makes the next claim fail.
    pub(crate) fn noticed(&mut self, lease: Option<Lease>, now: Instant) {
        if self.is_leader(now) {
            return;
        }
        self.is_stale = false;
        let is_released = holder(lease.as_ref()).is_none();
        self.remember(lease, now);
        if is_released {
            self.due = self.due.min(now);
        }
    }

    /// A claim that was sent at `sent` was granted, and the Lease is like this now.
    pub(crate) fn granted(&mut self, sent: Instant, lease: Lease, now: Instant) {
        self.held = Some(sent);
        self.due = sent + self.terms.retry;
        self.is_stale = false;
        self.remember(Some(lease), now);
    }

    /// A claim or a look failed, or was not answered. `jitter` is from 0 to 1.
    pub(crate) fn failed(&mut self, now: Instant, jitter: f64) {
        self.is_stale = true;
        self.due = now + self.terms.retry.mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0));
    }

    /// Another was faster, so look again at once.
    pub(crate) fn outrun(&mut self, now: Instant) {
        self.is_stale = true;
        self.due = now;
    }

    /// Whether writes are ours at this moment.
    pub(crate) fn is_leader(&self, now: Instant) -> bool {
        self.leads_until().is_some_and(|until| now < until)
    }

    /// When leadership ends unless another claim is granted; `None`: there is none.
    pub(crate) fn leads_until(&self) -> Option<Instant> {
        self.held.map(|sent| sent + self.terms.renew_within)
    }

    /// Who holds the Lease, as far as is known.
    pub(crate) fn leader(&self) -> Option<&str> {
        holder(self.seen.as_ref()?.lease.as_ref())
    }

    /// Whether this is our name.
    pub(crate) fn is_own(&self, holder: &str) -> bool {
        holder == self.identity
    }

    /// Stops leading at once. The Lease to write so that another need not wait; `None`: it is not ours to give.
    pub(crate) fn resign(&mut self, now: Instant, wall: &MicroTime) -> Option<Lease> {
        let was_leader = self.is_leader(now);
        self.held = None;
        let mut lease = self.seen.as_ref().filter(|_| was_leader && !self.is_stale)?.lease.clone()?;
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(wall.clone());
        Some(lease)
    }

    fn remember(&mut self, lease: Option<Lease>, now: Instant) {
        let spec = |lease: &Option<Lease>| lease.as_ref().map(|lease| lease.spec.clone());
        // A change of metadata is not a renewal.
        let since = match &self.seen {
            Some(before) if spec(&before.lease) == spec(&lease) => before.since,
            Some(_) | None => now,
        };
        self.seen = Some(Sight { lease, since });
    }

    /// From when on it may be claimed; `None`: at once.
    fn free_at(&self, seen: &Sight) -> Option<Instant> {
        let lease = seen.lease.as_ref()?;
        let holder = holder(Some(lease)).filter(|holder| *holder != self.identity);
        holder.map(|_| seen.since + duration(lease).unwrap_or(self.terms.lease))
    }

    /// The Lease with our name on it, over the version that was seen.
    fn claim(&self, seen: &Sight, name: &str, wall: &MicroTime) -> Lease {
        let mut lease = seen.lease.clone().unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            spec: None,
        });
        // Whose field it is says the API server.
        lease.metadata.managed_fields = None;
        let before = lease.spec.take().unwrap_or_default();
        let is_new = before.holder_identity.as_deref() != Some(self.identity.as_str());
        let transitions = before.lease_transitions.unwrap_or_default();
        let is_first = seen.lease.is_none();
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.terms.lease.as_secs()).ok(),
            acquire_time: if is_new { Some(wall.clone()) } else { before.acquire_time },
            renew_time: Some(wall.clone()),
            lease_transitions: Some(if is_new && !is_first { transitions.saturating_add(1) } else { transitions }),
            ..before
        });
        lease
    }
}

/// Who holds a Lease; a name of no letters is nobody's.
fn holder(lease: Option<&Lease>) -> Option<&str> {
    let holder = lease?.spec.as_ref()?.holder_identity.as_deref();
    holder.filter(|holder| !holder.is_empty())
}

/// For how long its holder asked.
fn duration(lease: &Lease) -> Option<Duration> {
    let seconds = lease.spec.as_ref()?.lease_duration_seconds?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
