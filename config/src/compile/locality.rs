//! Near before far: priorities and shares of localities, as one proxy sees them.
//!
//! Failover needs outlier detection: without it nobody would notice that the near ones fail, so all localities stay at
//! priority 0 (Istio). `distribute` needs nothing, nor does a service that prefers what is close. What a DestinationRule
//! says goes before what the service says, and that before the mesh's setting; none is merged with another.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::ir::{Endpoint, Locality, LocalityEndpoints};
use crate::mesh::{CLOSE, Service};
use crate::node::Node;
use crate::rules::{LocalityDistribute, LocalityFailover, LocalityLoadBalancerSetting};

use super::destination_rule::Policy;

/// What is said of near and far.
struct Setting<'a> {
    written: Cow<'a, LocalityLoadBalancerSetting>,
    /// Also without outlier detection.
    is_forced: bool,
}

/// Gives `groups`, one per locality, their priorities or weights.
pub(super) fn prioritise(
    node: &Node,
    service: &Service,
    policy: &Policy<'_>,
    groups: Vec<LocalityEndpoints>,
) -> Vec<LocalityEndpoints> {
    let Some(Setting { written, is_forced }) = setting(service, policy) else { return groups };
    if !written.distribute.is_empty() {
        return distributed(&node.locality, &written.distribute, groups);
    }
    if policy.outlier_detection.is_none() && !is_forced {
        return groups;
    }
    let labels = &written.failover_priority;
    let (mut groups, by_labels) = match labels.is_empty() {
        true => (groups, false),
        false => (without_gaps(by_labels(node, labels, groups)), true),
    };
    // Labels alone decide, unless the rule names regions as well: then these decide among equals.
    if node.locality != Locality::default() && !(by_labels && written.failover.is_empty()) {
        for group in &mut groups {
            group.priority = group.priority.saturating_mul(FARTHEST.saturating_add(1)).saturating_add(distance(
                &node.locality,
                &group.locality,
                &written.failover,
            ));
        }
    }
    without_gaps(groups)
}

/// Whether localities get shares, so that endpoints are chosen by their locality's weight.
pub(super) fn is_distributed(service: &Service, policy: &Policy<'_>) -> bool {
    setting(service, policy).is_some_and(|setting| !setting.written.distribute.is_empty())
}

/// `None`: places do not matter.
fn setting<'a>(service: &Service, policy: &Policy<'a>) -> Option<Setting<'a>> {
    let enabled = |written: &&LocalityLoadBalancerSetting| written.enabled != Some(false);
    let as_written = |written| Setting { written: Cow::Borrowed(written), is_forced: false };
    if let Some(written) = policy.load_balancer.and_then(|balancer| balancer.locality_lb_setting.as_ref()) {
        return Some(written).filter(enabled).map(as_written);
    }
    if service.prefers_close {
        let failover_priority = CLOSE.map(str::to_owned).to_vec();
        let written = Cow::Owned(LocalityLoadBalancerSetting { failover_priority, ..Default::default() });
        return Some(Setting { written, is_forced: true });
    }
    match policy.mesh_locality {
        Some(written) => Some(written).filter(enabled).map(as_written),
        None => Some(Setting { written: Cow::Owned(LocalityLoadBalancerSetting::default()), is_forced: false }),
    }
}

/// The largest [`distance`].
const FARTHEST: u32 = 4;

/// 0: the same subzone, 1: zone, 2: region, 3: elsewhere, 4: elsewhere and not where the region fails over to.
fn distance(own: &Locality, other: &Locality, failover: &[LocalityFailover]) -> u32 {
    if own.region != other.region {
        let to = failover.iter().find(|setting| setting.from == own.region).map(|setting| &setting.to);
        return if to.is_none_or(|to| *to == other.region) { 3 } else { 4 };
    }
    match (own.zone == other.zone, own.subzone == other.subzone) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    }
}

/// The more of `labels`, from the first on, an endpoint shares with the proxy, the nearer it is.
fn by_labels(node: &Node, labels: &[String], groups: Vec<LocalityEndpoints>) -> Vec<LocalityEndpoints> {
    let own = with_topology(&node.labels, &node.locality);
    let mut split = Vec::new();
    for group in groups {
        let mut by_priority = BTreeMap::<u32, Vec<Endpoint>>::new();
        for endpoint in group.endpoints {
            let its = with_topology(&endpoint.labels, &group.locality);
            let shared = labels.iter().take_while(|label| match label.split_once('=') {
                Some((key, value)) => its.get(key).is_some_and(|other| other == value),
                None => own.get(label.as_str()) == its.get(label.as_str()),
            });
            let priority = u32::try_from(labels.len().saturating_sub(shared.count())).unwrap_or(u32::MAX);
            by_priority.entry(priority).or_default().push(endpoint);
        }
        split.extend(by_priority.into_iter().map(|(priority, endpoints)| LocalityEndpoints {
            locality: group.locality.clone(),
            priority,
            weight: None,
            endpoints,
        }));
    }
    split
}

/// Labels with those that say where something runs.
fn with_topology(labels: &BTreeMap<String, String>, locality: &Locality) -> BTreeMap<String, String> {
    let mut all = labels.clone();
    for (key, value) in [
        ("topology.kubernetes.io/region", &locality.region),
        ("topology.kubernetes.io/zone", &locality.zone),
        ("topology.istio.io/subzone", &locality.subzone),
    ] {
        if !value.is_empty() {
            all.entry(key.to_owned()).or_insert_with(|| value.clone());
        }
    }
    all
}

/// Priorities from 0 on without a gap, as Envoy demands, nearest first.
fn without_gaps(mut groups: Vec<LocalityEndpoints>) -> Vec<LocalityEndpoints> {
    groups.sort_by(|one, other| (one.priority, &one.locality).cmp(&(other.priority, &other.locality)));
    let mut last = None;
    let mut next = 0_u32;
    for group in &mut groups {
        if last.is_some_and(|last| last != group.priority) {
            next = next.saturating_add(1);
        }
        last = Some(group.priority);
        group.priority = next;
    }
    groups
}

/// Shares as the first setting for the proxy's place says; where it says nothing nobody is called.
fn distributed(
    own: &Locality,
    settings: &[LocalityDistribute],
    groups: Vec<LocalityEndpoints>,
) -> Vec<LocalityEndpoints> {
    let Some(setting) = settings.iter().find(|setting| covers(&setting.from, own)) else { return groups };
    // The more specific of two places that cover a locality counts.
    let mut places: Vec<_> = setting.to.iter().collect();
    places.sort_by_key(|(place, _)| std::cmp::Reverse((place.split('/').filter(|part| *part != "*").count(), *place)));
    let place_of = |group: &LocalityEndpoints| places.iter().position(|(place, _)| covers(place, &group.locality));
    let size =
        |group: &LocalityEndpoints| group.endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum::<u64>();
    let mut totals = vec![0_u64; places.len()];
    for group in &groups {
        if let Some(total) = place_of(group).and_then(|place| totals.get_mut(place)) {
            *total = total.saturating_add(size(group));
        }
    }
    let weighted = groups.into_iter().filter_map(|mut group| {
        let place = place_of(&group)?;
        let (share, total) = (places.get(place)?.1, totals.get(place)?);
        // A place of several localities is divided by their size. Times 1 000, so that small parts keep their share.
        let weight = (u64::from(*share.min(&100)) * 1_000).checked_mul(size(&group))?.div_ceil((*total).max(1));
        group.weight = Some(u32::try_from(weight).ok().filter(|&weight| weight > 0)?);
        Some(group)
    });
    weighted.collect()
}

/// Whether a place, `region/zone/subzone` with `*` or nothing at its end, covers a locality.
fn covers(place: &str, locality: &Locality) -> bool {
    let parts = [&locality.region, &locality.zone, &locality.subzone];
    place.split('/').zip(parts).take_while(|(written, _)| *written != "*").all(|(written, own)| written == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_covers_what_lies_in_it() {
        let locality = Locality::parse("r1/z1/s1");
        for (place, covered) in [
            ("*", true),
            ("r1", true),
            ("r1/*", true),
            ("r1/z1", true),
            ("r1/z1/*", true),
            ("r1/z1/s1", true),
            ("r1/z2", false),
            ("r2", false),
            ("r1/z1/s2", false),
        ] {
            assert_eq!(covers(place, &locality), covered, "{place}");
        }
    }

    #[test]
    fn distance_counts_subzone_zone_and_region() {
        let own = Locality::parse("r1/z1/s1");
        let failover = [LocalityFailover { from: "r1".into(), to: "r2".into() }];
        for (other, far, with_failover) in
            [("r1/z1/s1", 0, 0), ("r1/z1/s2", 1, 1), ("r1/z2/s1", 2, 2), ("r2/z1/s1", 3, 3), ("r3", 3, 4)]
        {
            let other = Locality::parse(other);
            assert_eq!(distance(&own, &other, &[]), far, "{other:?}");
            assert_eq!(distance(&own, &other, &failover), with_failover, "{other:?}");
        }
    }
}
