//! What the control thread does for the endpoints of all clusters, once for the process.
//!
//! Workers report outcomes and eject at once; everything that happens at intervals, or because the configuration has
//! changed, happens here.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::outlier::{self, Judge, SHORTEST_INTERVAL};
use super::standing::Moment;
use super::{Cluster, EndpointState};
use crate::state::snapshot::Snapshot;

/// Settles what a new snapshot means for what is known of endpoints. To be called before any worker sees it.
///
/// What is still there keeps its standing: a push resets nothing. An endpoint that is gone from its cluster is out of it
/// no more, and where nobody asks for outlier detection or health checks any longer, nobody is kept out by them.
pub fn take_over(old: &Snapshot, new: &Snapshot) {
    for before in &old.clusters {
        let now = new.cluster_named(before.config.name.as_str());
        if now.is_some_and(|now| Arc::ptr_eq(now, before)) {
            continue;
        }
        let stays: HashSet<*const EndpointState> =
            now.into_iter().flat_map(|now| now.members.states()).map(Arc::as_ptr).collect();
        for endpoint in before.members.states() {
            if !stays.contains(&Arc::as_ptr(endpoint)) {
                outlier::retire(endpoint, &before.stats);
            }
        }
        if let Some(now) = now {
            refit(before, now);
        }
    }
}

fn refit(before: &Cluster, now: &Cluster) {
    if before.config.outlier.is_some() && now.config.outlier.is_none() {
        now.members.states().for_each(|endpoint| outlier::readmit(endpoint, &now.stats));
    }
    let known: HashSet<*const EndpointState> = before.members.states().map(Arc::as_ptr).collect();
    let mut changed = false;
    for endpoint in now.members.states() {
        changed |= match (&before.config.health_check, &now.config.health_check) {
            (Some(_), None) => endpoint.fitness.set_unhealthy(false),
            // One that joins others that were checked waits for its first check.
            (Some(_), Some(_)) if !known.is_empty() && !known.contains(&Arc::as_ptr(endpoint)) => {
                endpoint.fitness.set_unhealthy(true)
            }
            (Some(_), Some(_)) | (None, Some(_) | None) => false,
        };
    }
    if changed {
        now.stats.changed();
    }
}

/// Looks at the endpoints of every cluster with outlier detection at its interval, until the sender is gone. Clusters
/// with one interval are looked at together, and a push delays none.
pub async fn look_for_outliers(mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    let mut due: BTreeMap<Duration, Instant> = BTreeMap::new();
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let wanted: HashSet<Duration> = judged(&snapshot).map(|(_, interval)| interval).collect();
        due.retain(|interval, _| wanted.contains(interval));
        let now = Instant::now();
        for interval in wanted {
            due.entry(interval).or_insert(now + interval);
        }
        loop {
            let next = due.values().min().copied();
            tokio::select! {
                changed = snapshots.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                () = until(next) => {
                    let now = Instant::now();
                    for (interval, at) in due.iter_mut().filter(|(_, at)| **at <= now) {
                        *at = now + *interval;
                        look(&snapshot, *interval);
                    }
                }
            }
        }
    }
}

async fn until(next: Option<Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next).await,
        None => std::future::pending().await,
    }
}

/// Clusters with outlier detection, and their intervals.
fn judged(snapshot: &Snapshot) -> impl Iterator<Item = (&Arc<Cluster>, Duration)> {
    snapshot
        .clusters
        .iter()
        .filter_map(|cluster| Some((cluster, cluster.config.outlier.as_ref()?.interval.max(SHORTEST_INTERVAL))))
}

fn look(snapshot: &Snapshot, interval: Duration) {
    let now = Moment::now();
    for (cluster, _) in judged(snapshot).filter(|(_, of)| *of == interval) {
        if let Some(judge) = Judge::of(cluster) {
            judge.look(&cluster.members.states().collect::<Vec<_>>(), now);
        }
    }
}
