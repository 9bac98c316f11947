//! Who sees a rule or a service: `exportTo`, age, and the labels it asks for.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::rules::{Metadata, ResourceId};

/// The namespaces that see something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Visibility {
    /// All of them (`*`, Istio's default).
    Public,
    /// These; none for `~`.
    Namespaces(BTreeSet<String>),
}

impl Visibility {
    /// Reads `exportTo` of something that stands in `own`.
    pub(crate) fn new(export_to: &[String], own: &str) -> Self {
        if export_to.is_empty() || export_to.iter().any(|namespace| namespace == "*") {
            return Self::Public;
        }
        let named = export_to.iter().filter(|namespace| *namespace != "~");
        Self::Namespaces(named.map(|namespace| if namespace == "." { own } else { namespace }.to_owned()).collect())
    }

    /// Whether `namespace` sees it.
    pub(crate) fn allows(&self, namespace: &str) -> bool {
        match self {
            Self::Public => true,
            Self::Namespaces(namespaces) => namespaces.contains(namespace),
        }
    }

    /// Whether some namespace sees both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Public, Self::Public) => true,
            (Self::Namespaces(only), Self::Public) | (Self::Public, Self::Namespaces(only)) => !only.is_empty(),
            (Self::Namespaces(one), Self::Namespaces(other)) => !one.is_disjoint(other),
        }
    }
}

/// Which of two rules is older. Timestamps are RFC 3339 in UTC, as Kubernetes writes them, so text compares as time; a
/// rule without one is older than all (the zero time, as Istio reads it). Among equals the name decides, then the
/// namespace; without timestamps the namespace comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Age {
    created: Option<String>,
    name: String,
    namespace: String,
}

impl Age {
    pub(crate) fn new(id: &ResourceId, metadata: &Metadata) -> Self {
        let created = metadata.creation_timestamp.clone().filter(|text| !text.is_empty());
        Self { created, name: id.name.clone(), namespace: id.namespace.clone() }
    }
}

impl Ord for Age {
    fn cmp(&self, other: &Self) -> Ordering {
        self.created.cmp(&other.created).then_with(|| match self.created {
            Some(_) => (&self.name, &self.namespace).cmp(&(&other.name, &other.namespace)),
            None => (&self.namespace, &self.name).cmp(&(&other.namespace, &other.name)),
        })
    }
}

impl PartialOrd for Age {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Whether all of `selector` is in `labels`; an empty selector selects everything.
pub(crate) fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn export_to_names_the_namespaces_that_see_a_rule() {
        for (export_to, own, other) in [
            (&[][..], true, true),
            (&["*"], true, true),
            (&["."], true, false),
            (&["~"], false, false),
            (&["other"], false, true),
            (&[".", "other"], true, true),
        ] {
            let export_to: Vec<String> = export_to.iter().map(|&text| text.to_owned()).collect();
            let seen = Visibility::new(&export_to, "own");
            assert_eq!((seen.allows("own"), seen.allows("other")), (own, other), "{export_to:?}");
            let in_other = Visibility::new(&[".".to_owned()], "other");
            assert_eq!((seen.overlaps(&in_other), in_other.overlaps(&seen)), (other, other), "{export_to:?}");
            assert_eq!(seen.overlaps(&Visibility::Public), own || other, "{export_to:?}");
        }
    }

    #[test]
    fn the_oldest_rule_is_found_by_time_then_by_name() {
        let age = |created: &str, namespace: &str, name: &str| {
            let id = ResourceId { kind: String::new(), namespace: namespace.into(), name: name.into() };
            Age::new(&id, &Metadata { creation_timestamp: Some(created.into()), ..Metadata::default() })
        };
        let mut ages = [
            age("2024-02-01T00:00:00Z", "a", "a"),
            age("2024-01-01T00:00:00Z", "a", "z"),
            age("2024-01-01T00:00:00Z", "z", "b"),
            age("", "b", "a"),
            age("", "a", "b"),
        ];
        ages.sort();
        let order: Vec<_> = ages.iter().map(|age| format!("{}/{}", age.namespace, age.name)).collect();
        assert_eq!(order, ["a/b", "b/a", "z/b", "a/z", "a/a"]);
    }
}
