//! Endpoints. gRPC refuses an address that stands twice, a locality that stands twice in a priority, and priorities with
//! a gap; and it does not see a locality without a weight.

use std::collections::{BTreeMap, BTreeSet};

use super::verdict::Verdict;
use crate::ir::{Address, Endpoint, Endpoints, LocalityEndpoints};
use crate::xds::{endpoint, pb};

pub(super) fn to_xds(endpoints: &Endpoints, verdict: &mut Verdict) -> pb::endpoint::ClusterLoadAssignment {
    let Endpoints { cluster, localities, overprovisioning } = endpoints;
    let mut localities = merged(localities);
    let weighted = localities.iter().filter(|group| group.weight.is_some()).map(|group| group.priority);
    let weighted = weighted.collect::<BTreeSet<_>>();
    // Beside localities with a weight, one without gets nothing.
    localities.retain(|group| group.weight.is_some() || !weighted.contains(&group.priority));
    let used = localities.iter().map(|group| group.priority).collect::<BTreeSet<_>>();
    let mut totals = BTreeMap::<u32, u64>::new();
    for group in &mut localities {
        let below = used.range(..group.priority).count();
        group.priority = u32::try_from(below).unwrap_or(u32::MAX);
        let sum = group.endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum::<u64>();
        // Without weights of localities, those of their endpoints decide.
        group.weight = group.weight.or_else(|| u32::try_from(sum).ok());
        let total = totals.entry(group.priority).or_default();
        *total = total.saturating_add(group.weight.map_or(sum, u64::from));
        let name = |endpoint: &&Endpoint| matches!(endpoint.address, Address::Name { .. });
        if group.endpoints.iter().any(|endpoint| name(&endpoint)) {
            verdict.refuse("endpoints", "gRPC takes IP addresses here, and a name stands among them");
        }
    }
    if totals.values().any(|total| *total > u64::from(u32::MAX)) {
        verdict.refuse("endpoints", "the weights of a priority add up to more than 2^32-1");
    }
    endpoint::to_xds(&Endpoints { cluster: cluster.clone(), localities, overprovisioning: *overprovisioning })
}

/// Each locality of a priority once, each address once (where it is used first), none that is empty.
fn merged(localities: &[LocalityEndpoints]) -> Vec<LocalityEndpoints> {
    let mut by_priority = localities.iter().collect::<Vec<_>>();
    by_priority.sort_by_key(|group| group.priority);
    let mut seen = BTreeSet::new();
    let mut merged = Vec::<LocalityEndpoints>::new();
    for group in by_priority {
        let LocalityEndpoints { locality, priority, weight, endpoints } = group;
        let new = endpoints.iter().filter(|endpoint| seen.insert(&endpoint.address)).cloned().collect::<Vec<_>>();
        let same = |other: &&mut LocalityEndpoints| other.locality == *locality && other.priority == *priority;
        match merged.iter_mut().find(same) {
            _ if new.is_empty() => {}
            Some(other) => {
                other.endpoints.extend(new);
                other.weight = other.weight.zip(*weight).map(|(one, two)| one.saturating_add(two));
            }
            None => merged.push(LocalityEndpoints {
                locality: locality.clone(),
                priority: *priority,
                weight: *weight,
                endpoints: new,
            }),
        }
    }
    merged
}
