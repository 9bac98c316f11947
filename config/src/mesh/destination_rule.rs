//! DestinationRules by namespace and host, those of one host in one namespace put together.

use std::collections::{BTreeMap, HashMap};

use crate::rules::{self, LOAD_BALANCER_ANNOTATION, PEAK_EWMA, Resource, ResourceId, Subset, TrafficPolicy};

use super::host::{HostMap, full_name};
use super::visibility::{Age, Visibility, selects};

/// What the DestinationRules of one namespace say of one host to one group of clients.
#[derive(Debug, Clone)]
pub(crate) struct DestinationRule {
    visibility: Visibility,
    /// `None`: all clients.
    clients: Option<BTreeMap<String, String>>,
    /// Of the oldest that has one.
    pub(crate) policy: Option<TrafficPolicy>,
    /// One of them asks for endpoints to be chosen by latency.
    pub(crate) by_latency: bool,
    /// Of all of them; of two with one name, that of the oldest rule.
    pub(crate) subsets: Vec<Subset>,
}

/// All DestinationRules.
#[derive(Debug, Default)]
pub(crate) struct DestinationRules {
    by_namespace: HashMap<String, HostMap<Vec<DestinationRule>>>,
}

/// Who asks for a DestinationRule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) labels: &'a BTreeMap<String, String>,
}

impl DestinationRules {
    pub(super) fn new(written: &[(&ResourceId, &Resource<rules::DestinationRule>)]) -> Self {
        let mut written = written.to_vec();
        written.sort_by_key(|(id, rule)| Age::new(id, &rule.metadata));
        let mut all = Self::default();
        for (id, rule) in written {
            let host = full_name(&rule.spec.host, &id.namespace);
            if !host.is_empty() {
                let same_host = all.by_namespace.entry(id.namespace.clone()).or_default().entry(&host);
                insert(same_host, DestinationRule::new(id, rule));
            }
        }
        all
    }

    /// The rule for `host` of a service in `service_namespace`: the client's namespace is asked first, then the
    /// service's, then the root; in each the most specific host counts. The first hit wins entirely (istio#30080).
    pub(crate) fn find(
        &self,
        host: &str,
        service_namespace: &str,
        root_namespace: &str,
        client: Client<'_>,
    ) -> Option<&DestinationRule> {
        let places = [(client.namespace, true), (service_namespace, false), (root_namespace, false)];
        places.into_iter().find_map(|(namespace, own)| {
            // A rule in the client's own namespace holds for it, whomever it is exported to.
            let usable = |rule: &DestinationRule| own || rule.visibility.allows(client.namespace);
            Some(choose(self.covering(namespace, host, usable)?, client, own, usable))
        })?
    }

    /// The rules of the most specific host that has a usable one.
    fn covering(
        &self,
        namespace: &str,
        host: &str,
        usable: impl Fn(&DestinationRule) -> bool,
    ) -> Option<&[DestinationRule]> {
        let hosts = self.by_namespace.get(namespace)?;
        hosts.covering(host).map(Vec::as_slice).find(|rules| rules.iter().any(&usable))
    }
}

/// A rule for just these clients goes before one for all. Clients are selected by rules of their own namespace only.
fn choose<'a>(
    rules: &'a [DestinationRule],
    client: Client<'_>,
    own: bool,
    usable: impl Fn(&DestinationRule) -> bool,
) -> Option<&'a DestinationRule> {
    let selected =
        |rule: &&DestinationRule| own && rule.clients.as_ref().is_some_and(|labels| selects(labels, client.labels));
    let usable = || rules.iter().filter(|rule| usable(rule));
    usable().find(selected).or_else(|| usable().find(|rule| rule.clients.is_none()))
}

impl DestinationRule {
    fn new(id: &ResourceId, written: &Resource<rules::DestinationRule>) -> Self {
        let spec = &written.spec;
        let balancer = written.metadata.annotations.get(LOAD_BALANCER_ANNOTATION);
        let mut rule = Self {
            visibility: Visibility::new(&spec.export_to, &id.namespace),
            clients: spec.workload_selector.as_ref().map(|selector| selector.match_labels.clone()),
            policy: spec.traffic_policy.clone(),
            by_latency: balancer.is_some_and(|balancer| balancer == PEAK_EWMA),
            subsets: Vec::new(),
        };
        rule.add_subsets(&spec.subsets);
        rule
    }

    fn add_subsets(&mut self, subsets: &[Subset]) {
        for subset in subsets {
            if self.subset(&subset.name).is_none() && !subset.name.is_empty() {
                self.subsets.push(subset.clone());
            }
        }
    }

    /// The subset of this name.
    pub(crate) fn subset(&self, name: &str) -> Option<&Subset> {
        self.subsets.iter().find(|subset| subset.name == name)
    }
}

/// Puts a younger rule with those of the same host: one with an equal reach is merged into the older.
fn insert(rules: &mut Vec<DestinationRule>, younger: DestinationRule) {
    let same =
        |older: &&mut DestinationRule| older.visibility == younger.visibility && older.clients == younger.clients;
    match rules.iter_mut().find(same) {
        Some(older) => {
            if older.policy.is_none() {
                older.policy = younger.policy;
            }
            older.by_latency |= younger.by_latency;
            older.add_subsets(&younger.subsets);
        }
        None => rules.push(younger),
    }
}
