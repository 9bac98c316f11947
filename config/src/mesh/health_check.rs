//! HealthChecks by namespace and host.

use std::collections::HashMap;

use crate::rules::{self, Resource, ResourceId};

use super::host::full_name;
use super::visibility::Age;

/// All HealthChecks.
#[derive(Debug, Default)]
pub(crate) struct HealthChecks {
    /// By namespace of the rule and host, the oldest first.
    by_host: HashMap<(String, String), Vec<rules::HealthCheck>>,
}

impl HealthChecks {
    pub(super) fn new(written: &[(&ResourceId, &Resource<rules::HealthCheck>)]) -> Self {
        let mut written = written.to_vec();
        written.sort_by_key(|(id, rule)| Age::new(id, &rule.metadata));
        let mut all = Self::default();
        for (id, rule) in written {
            let host = full_name(&rule.spec.host, &id.namespace);
            all.by_host.entry((id.namespace.clone(), host)).or_default().push(rule.spec.clone());
        }
        all
    }

    /// The rule for a subset of a host (empty: the whole) at a port. As with DestinationRules, the client's namespace is
    /// asked first, then the service's, then the root; in each, what names the subset goes before what names the port,
    /// and that before what names neither; of equals, the oldest.
    pub(crate) fn find(
        &self,
        host: &str,
        subset: &str,
        port: u16,
        namespaces: [&str; 3],
    ) -> Option<&rules::HealthCheck> {
        let covers = |rule: &&rules::HealthCheck| {
            rule.subset.as_deref().is_none_or(|named| named == subset)
                && rule.port.is_none_or(|named| named == u32::from(port))
        };
        let rank = |rule: &&rules::HealthCheck| (rule.subset.is_none(), rule.port.is_none());
        namespaces.into_iter().find_map(|namespace| {
            let rules = self.by_host.get(&(namespace.to_owned(), host.to_owned()))?;
            rules.iter().filter(covers).min_by_key(rank)
        })
    }
}
