//! Active health checks: endpoints are asked whether they are well, whether or not anybody calls them.
//!
//! One task per endpoint on the control thread, so that N workers do not ask N times, and at most [`AT_ONCE`] asking at a
//! time. The rules are Envoy's: the first check decides at once; after that it takes as many failures in a row as the
//! threshold says, or one answer with a status that is neither expected nor retriable; while nobody has ever called the
//! cluster, checks are rarer. A passed check also ends an ejection, where outlier detection wants that.
//!
//! Two things are other than in Envoy. Each check opens a connection of its own, and so learns whether that works. And a
//! cluster that is new does not wait for its first checks: nothing is known against its endpoints, so they are called
//! until a check fails. An endpoint that joins others, which have been checked, waits for its first check.

mod ask;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use leno_config::ir;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use super::{Cluster, EndpointState, outlier};
use crate::random::Random;
use crate::state::snapshot::Snapshot;
use crate::tls::Sessions;

use ask::ask;
pub(crate) use ask::{AskError, serves_grpc};

/// Checks under way at a time.
const AT_ONCE: usize = 64;

/// What a check has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// It is well.
    Well,
    /// It could not be reached, did not answer in time, or answered with a retriable status.
    Failed,
    /// It answered that it is not well.
    Unwell,
}

/// Checks in a row that found the same.
#[derive(Debug, Default)]
struct Streak {
    /// What is known; `None` before the first check.
    is_healthy: Option<bool>,
    /// Checks in a row that found the contrary.
    against: u32,
}

impl Streak {
    /// Notes a check; what is known from now on.
    fn note(&mut self, found: Found, rules: &ir::HealthCheck) -> bool {
        let is_well = found == Found::Well;
        let known = match self.is_healthy {
            None => is_well,
            Some(known) if known == is_well => {
                self.against = 0;
                known
            }
            Some(known) => {
                self.against += 1;
                let enough = if is_well { rules.healthy_threshold } else { rules.unhealthy_threshold };
                if found == Found::Unwell || self.against >= enough { is_well } else { known }
            }
        };
        if self.is_healthy != Some(known) {
            self.is_healthy = Some(known);
            self.against = 0;
        }
        known
    }
}

/// Checks the endpoints of every cluster that asks for it, until the sender is gone.
pub async fn keep_checking(mut snapshots: watch::Receiver<Arc<Snapshot>>, tls: Rc<Sessions>, random: Rc<Random>) {
    let room = Rc::new(Semaphore::new(AT_ONCE));
    let mut running: HashMap<*const EndpointState, Running> = HashMap::new();
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let mut before = std::mem::take(&mut running);
        for cluster in snapshot.clusters.iter().filter(|cluster| cluster.config.health_check.is_some()) {
            for endpoint in cluster.members.states() {
                let key = Arc::as_ptr(endpoint);
                let same = before.remove(&key).filter(|running| running.is_for(cluster));
                let one = same.unwrap_or_else(|| {
                    let check = Check {
                        cluster: Arc::clone(cluster),
                        endpoint: Arc::clone(endpoint),
                        tls: Rc::clone(&tls),
                        random: Rc::clone(&random),
                        room: Rc::clone(&room),
                    };
                    Running { cluster: Arc::clone(cluster), task: tokio::task::spawn_local(check.run()).abort_handle() }
                });
                running.insert(key, one);
            }
        }
        drop(before);
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

/// The task that checks one endpoint; ends with this.
#[derive(Debug)]
struct Running {
    cluster: Arc<Cluster>,
    task: AbortHandle,
}

impl Running {
    /// Whether what it does is what `cluster` wants.
    fn is_for(&self, cluster: &Cluster) -> bool {
        let (own, wanted) = (&self.cluster.config, &cluster.config);
        own.health_check == wanted.health_check
            && own.tls == wanted.tls
            && own.outlier == wanted.outlier
            && own.discovery == wanted.discovery
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The checks of one endpoint.
struct Check {
    cluster: Arc<Cluster>,
    endpoint: Arc<EndpointState>,
    tls: Rc<Sessions>,
    random: Rc<Random>,
    room: Rc<Semaphore>,
}

impl Check {
    async fn run(self) {
        let Some(rules) = &self.cluster.config.health_check else { return };
        let mut streak = Streak::default();
        loop {
            let found = {
                // An error means that the semaphore was closed, which nobody does.
                let Ok(_room) = self.room.acquire().await else { return };
                let asked = ask(&self.cluster, &self.endpoint, rules, &self.tls);
                // Out of time is a failure like any other.
                tokio::time::timeout(rules.timeout, asked).await.unwrap_or(Found::Failed)
            };
            let is_healthy = streak.note(found, rules);
            self.tell(is_healthy, found);
            tokio::time::sleep(self.pause(rules)).await;
        }
    }

    fn tell(&self, is_healthy: bool, found: Found) {
        let (endpoint, stats) = (&self.endpoint, &self.cluster.stats);
        if endpoint.fitness.set_unhealthy(!is_healthy) {
            stats.changed();
            let (cluster, address) = (&self.cluster.config.name, endpoint.address);
            match is_healthy {
                true => tracing::info!(%cluster, %address, "the endpoint passes its health checks"),
                false => tracing::warn!(%cluster, %address, "the endpoint fails its health checks"),
            }
        }
        let readmits = self.cluster.config.outlier.as_ref().is_some_and(|outlier| outlier.check_readmits);
        if is_healthy && found == Found::Well && readmits {
            outlier::readmit(endpoint, stats);
        }
    }

    /// Until the next check: the interval, and up to so many percent more.
    fn pause(&self, rules: &ir::HealthCheck) -> Duration {
        let was_called = self.cluster.stats.connections.load(Ordering::Relaxed) > 0;
        let interval = if was_called { rules.interval } else { rules.idle_interval };
        let jitter = self.random.below(rules.jitter_percent.saturating_mul(1000).saturating_add(1));
        interval + interval.saturating_mul(jitter) / 100_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_hold_after_the_first_check() {
        use Found::{Failed, Unwell, Well};
        let rules = ir::HealthCheck {
            probe: ir::HealthProbe::Tcp(ir::TcpProbe::default()),
            interval: Duration::from_secs(1),
            idle_interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
            jitter_percent: 0,
        };
        let rows: &[(&str, &[Found], &[bool])] = &[
            ("the first success decides", &[Well], &[true]),
            ("the first failure decides", &[Failed, Well, Well], &[false, false, true]),
            ("three failures in a row", &[Well, Failed, Failed, Failed], &[true, true, true, false]),
            ("a success between", &[Well, Failed, Failed, Well, Failed, Failed], &[true; 6]),
            ("a bad answer is enough", &[Well, Unwell], &[true, false]),
            ("two successes in a row", &[Failed, Well, Failed, Well, Well], &[false, false, false, false, true]),
            ("and from there anew", &[Failed, Well, Well, Failed, Failed], &[false, false, true, true, true]),
        ];
        for (name, found, expected) in rows {
            let mut streak = Streak::default();
            let known: Vec<bool> = found.iter().map(|found| streak.note(*found, &rules)).collect();
            assert_eq!(known, *expected, "{name}");
        }
    }
}
