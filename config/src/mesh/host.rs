//! Names of services: short names, wildcards, and what is the most specific of several.

use std::collections::{HashMap, HashSet};

use crate::defaults::CLUSTER_DOMAIN;

/// The full name behind a host in a rule: a name without a dot is a service of the rule's own namespace (not of the
/// caller's), everything else stands as it is. Lower case, as DNS compares.
///
/// ```
/// # use leno_config::mesh::full_name;
/// assert_eq!(full_name("reviews", "default"), "reviews.default.svc.cluster.local");
/// assert_eq!(full_name("api.example.com", "default"), "api.example.com");
/// ```
pub fn full_name(host: &str, namespace: &str) -> String {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if host.is_empty() || host.contains(['.', '*', ':', '/']) {
        return host;
    }
    format!("{host}.{namespace}.svc.{CLUSTER_DOMAIN}")
}

/// Splits `name.namespace.svc.cluster.local` into its name and namespace.
pub(crate) fn in_cluster(host: &str) -> Option<(&str, &str)> {
    let (name, namespace) =
        host.strip_suffix(CLUSTER_DOMAIN)?.strip_suffix('.')?.strip_suffix(".svc")?.rsplit_once('.')?;
    (!name.is_empty() && !namespace.is_empty() && !name.contains('*')).then_some((name, namespace))
}

/// The ends of `host` that a wildcard could stand in front of, longest first; the empty one, `*`, is the last.
fn suffixes(host: &str) -> impl Iterator<Item = &str> {
    let host = host.strip_prefix('*').unwrap_or(host);
    // A wildcard in `host` itself is covered by an equal one: its own text behind the star comes first.
    (0..=host.len()).filter_map(move |at| host.get(at..))
}

/// Values by host, where a key may be `*.example.com` or `*`.
#[derive(Debug, Clone)]
pub(crate) struct HostMap<T> {
    exact: HashMap<String, T>,
    wildcard: HashMap<String, T>,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcard: HashMap::new() }
    }
}

impl<T: Default> HostMap<T> {
    /// The value of exactly this host, made where it is missing.
    pub(crate) fn entry(&mut self, host: &str) -> &mut T {
        match host.strip_prefix('*') {
            Some(suffix) => self.wildcard.entry(suffix.to_owned()).or_default(),
            None => self.exact.entry(host.to_owned()).or_default(),
        }
    }
}

impl<T> HostMap<T> {
    /// The value of exactly this host.
    pub(crate) fn get(&self, host: &str) -> Option<&T> {
        match host.strip_prefix('*') {
            Some(suffix) => self.wildcard.get(suffix),
            None => self.exact.get(host),
        }
    }

    /// All values, in no order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.wildcard.values())
    }

    /// All values that cover `host`, the most specific first.
    pub(crate) fn covering<'a, 'h>(&'a self, host: &'h str) -> impl Iterator<Item = &'a T> + use<'a, 'h, T> {
        let exact = if host.starts_with('*') { None } else { self.exact.get(host) };
        let wildcard = (!self.wildcard.is_empty()).then(|| suffixes(host).filter_map(|end| self.wildcard.get(end)));
        exact.into_iter().chain(wildcard.into_iter().flatten())
    }
}

/// A set of hosts, some with a wildcard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostSet {
    exact: HashSet<String>,
    /// Without the star; `*` is the empty text.
    wildcard: HashSet<String>,
}

impl HostSet {
    pub(crate) fn insert(&mut self, host: &str) {
        match host.strip_prefix('*') {
            Some(suffix) => self.wildcard.insert(suffix.to_owned()),
            None => self.exact.insert(host.to_owned()),
        };
    }

    /// Whether all that `host` stands for is in the set.
    pub(crate) fn covers(&self, host: &str) -> bool {
        self.wildcard.contains("")
            || (!host.starts_with('*') && self.exact.contains(host))
            || (!self.wildcard.is_empty() && suffixes(host).any(|end| self.wildcard.contains(end)))
    }

    /// Whether something that `host` stands for is in the set.
    pub(crate) fn overlaps(&self, host: &str) -> bool {
        self.covers(host)
            || host
                .strip_prefix('*')
                .is_some_and(|end| self.exact.iter().chain(&self.wildcard).any(|one| one.ends_with(end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_dot_is_a_service_of_the_rules_namespace() {
        for (host, full) in [
            ("reviews", "reviews.shop.svc.cluster.local"),
            ("Reviews", "reviews.shop.svc.cluster.local"),
            ("reviews.default", "reviews.default"),
            ("api.example.com.", "api.example.com"),
            ("*.example.com", "*.example.com"),
            ("*", "*"),
            ("", ""),
        ] {
            assert_eq!(full_name(host, "shop"), full, "{host}");
        }
    }

    #[test]
    fn only_names_of_the_cluster_are_split() {
        assert_eq!(in_cluster("reviews.default.svc.cluster.local"), Some(("reviews", "default")));
        assert_eq!(in_cluster("a.b.default.svc.cluster.local"), Some(("a.b", "default")));
        for host in ["default.svc.cluster.local", "reviews.default", "*.default.svc.cluster.local", "cluster.local"] {
            assert_eq!(in_cluster(host), None, "{host}");
        }
    }

    #[test]
    fn the_most_specific_host_comes_first() {
        let mut map = HostMap::<&str>::default();
        for host in ["*", "*.com", "*.example.com", "api.example.com"] {
            *map.entry(host) = host;
        }
        let covering = |host| map.covering(host).copied().collect::<Vec<_>>();
        assert_eq!(covering("api.example.com"), ["api.example.com", "*.example.com", "*.com", "*"]);
        assert_eq!(covering("www.example.com"), ["*.example.com", "*.com", "*"]);
        assert_eq!(covering("*.example.com"), ["*.example.com", "*.com", "*"]);
        assert_eq!(covering("reviews"), ["*"]);
        assert_eq!((map.get("*.com"), map.get("www.example.com")), (Some(&"*.com"), None));
        assert_eq!(map.values().count(), 4);
    }

    #[test]
    fn sets_of_hosts_cover_and_overlap() {
        let mut set = HostSet::default();
        set.insert("*.example.com");
        set.insert("reviews.default.svc.cluster.local");
        for (host, covers, overlaps) in [
            ("api.example.com", true, true),
            ("*.example.com", true, true),
            ("*.api.example.com", true, true),
            ("*.com", false, true),
            ("*.default.svc.cluster.local", false, true),
            ("reviews.default.svc.cluster.local", true, true),
            ("ratings.default.svc.cluster.local", false, false),
        ] {
            assert_eq!((set.covers(host), set.overlaps(host)), (covers, overlaps), "{host}");
        }
    }
}
