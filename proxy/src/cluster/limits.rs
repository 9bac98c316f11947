//! How much of a cluster may be in use at once: circuit breaking, first meaning (Envoy's circuit breakers).
//!
//! What is in use is counted for the whole process, as users count it, and outlives configuration; what is allowed is
//! what the snapshot says. Taking is one relaxed addition and giving back one subtraction, so that a limit can be passed
//! by no more than the workers that ask in the same instant, and never for long.

use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use leno_config::ir;

use super::{ClusterStats, budget};
use crate::worker::WorkerCluster;

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Limit {
    /// Connections to all endpoints together.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests under way.
    Requests,
    /// Retries under way.
    Retries,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Connections, Self::Pending, Self::Requests, Self::Retries];

    /// In the words of `/clusters` and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Pending => "pending requests",
            Self::Requests => "requests",
            Self::Retries => "retries",
        }
    }

    /// What the rules allow; `None`: any number.
    pub fn allowed(self, limits: &ir::Limits) -> Option<u32> {
        match self {
            Self::Connections => limits.connections,
            Self::Pending => limits.pending,
            Self::Requests => limits.requests,
            Self::Retries => limits.retries,
        }
    }

    /// The same, with so much in use: a retry budget stands instead of the fixed number of retries (Envoy).
    pub fn allowed_now(self, limits: &ir::Limits, usage: &Usage) -> Option<u32> {
        match (self, &limits.retry_budget) {
            (Self::Retries, Some(budget)) => {
                let [active, pending, retries] = [Self::Requests, Self::Pending, Self::Retries].map(|it| usage.get(it));
                Some(budget::allowed(budget, active, pending, retries))
            }
            (Self::Retries | Self::Connections | Self::Pending | Self::Requests, _) => self.allowed(limits),
        }
    }
}

/// What is in use now, by all workers.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Usage {
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
}

impl Usage {
    /// How many are in use.
    pub fn get(&self, limit: Limit) -> u32 {
        self.of(limit).load(Ordering::Relaxed)
    }

    /// Takes one more unless `allowed` are in use. Whoever took it gives it back.
    pub fn take(&self, limit: Limit, allowed: Option<u32>) -> bool {
        let counter = self.of(limit);
        let before = counter.fetch_add(1, Ordering::Relaxed);
        let fits = allowed.is_none_or(|allowed| before < allowed);
        if !fits {
            counter.fetch_sub(1, Ordering::Relaxed);
        }
        fits
    }

    /// Gives one back.
    pub fn give_back(&self, limit: Limit) {
        self.of(limit).fetch_sub(1, Ordering::Relaxed);
    }

    fn of(&self, limit: Limit) -> &AtomicU32 {
        match limit {
            Limit::Connections => &self.connections,
            Limit::Pending => &self.pending,
            Limit::Requests => &self.requests,
            Limit::Retries => &self.retries,
        }
    }
}

/// One of something limited, in use until it is dropped.
#[derive(Debug)]
pub struct Permit {
    cluster: Rc<WorkerCluster>,
    limit: Limit,
}

/// So much of it is in use that no more is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its limit of {} is reached", .0.as_str())]
pub struct Overflow(pub Limit);

impl ClusterStats {
    /// Something was refused because so much of it was in use.
    fn overflowed(&self, limit: Limit) {
        self.overflows(limit).fetch_add(1, Ordering::Relaxed);
    }

    /// How often that happened.
    pub fn overflows(&self, limit: Limit) -> &AtomicU64 {
        match limit {
            Limit::Connections => &self.connection_overflows,
            Limit::Pending => &self.pending_overflows,
            Limit::Requests => &self.request_overflows,
            Limit::Retries => &self.retry_overflows,
        }
    }
}

impl WorkerCluster {
    /// Takes one more of something limited.
    pub fn admit(self: &Rc<Self>, limit: Limit) -> Result<Permit, Overflow> {
        let usage = &self.shared.stats.usage;
        match usage.take(limit, limit.allowed_now(&self.shared.config.limits, usage)) {
            true => Ok(Permit { cluster: Rc::clone(self), limit }),
            false => {
                self.shared.stats.overflowed(limit);
                Err(Overflow(limit))
            }
        }
    }
}

impl Permit {
    /// Of which cluster.
    pub fn cluster(&self) -> &Rc<WorkerCluster> {
        &self.cluster
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.cluster.shared.stats.usage.give_back(self.limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_the_limit_is_not_counted() {
        let usage = Usage::default();
        assert!(usage.take(Limit::Requests, Some(2)) && usage.take(Limit::Requests, Some(2)));
        assert!(!usage.take(Limit::Requests, Some(2)));
        assert_eq!((usage.get(Limit::Requests), usage.get(Limit::Pending)), (2, 0));
        usage.give_back(Limit::Requests);
        assert!(usage.take(Limit::Requests, Some(2)));
        assert!(usage.take(Limit::Retries, None), "without a limit there is always room");
    }
}
