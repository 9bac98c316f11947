//! Namespaces, as far as sidecars are concerned: which of them need the mesh's root. They are watched once, by discovery.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;

use super::objects::Namespace;

/// All of them by name; empty: they have not been listed yet, since every cluster has some.
pub(crate) type Namespaces = Arc<BTreeMap<String, Namespace>>;

/// Asks for sidecars, as label or annotation; ours and Istio's.
const ASKS: [(&str, &str); 2] = [("leno.mesh/inject", "enabled"), ("istio-injection", "enabled")];

/// Whether its pods get sidecars unless they say otherwise. Ours wins over Istio's.
fn is_enabled(namespace: &Namespace) -> bool {
    let said = ASKS.iter().find_map(|(key, enabled)| {
        let value = namespace.labels.get(*key).or_else(|| namespace.annotations.get(*key))?;
        Some(value == enabled)
    });
    said.unwrap_or(false)
}

/// Follows which namespaces need the mesh's root: those that are enabled, and those in which a pod has a sidecar because
/// it asked for one itself. Does not return.
pub(crate) async fn wanted(
    mut namespaces: watch::Receiver<Namespaces>,
    mut with_sidecars: watch::Receiver<Arc<BTreeSet<String>>>,
    wanted: &watch::Sender<Arc<BTreeSet<String>>>,
) {
    loop {
        let names = names(&namespaces.borrow_and_update(), &with_sidecars.borrow_and_update());
        wanted.send_if_modified(|before| {
            let changed = **before != names;
            *before = Arc::new(names);
            changed
        });
        let changed = tokio::select! {
            changed = namespaces.changed() => changed,
            changed = with_sidecars.changed() => changed,
        };
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn names(namespaces: &BTreeMap<String, Namespace>, with_sidecars: &BTreeSet<String>) -> BTreeSet<String> {
    let takes = |name: &&String| namespaces.get(*name).is_some_and(|namespace| !namespace.terminating);
    let enabled = namespaces.iter().filter(|(_, namespace)| is_enabled(namespace)).map(|(name, _)| name);
    enabled.chain(with_sidecars).filter(takes).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(labels: &[(&str, &str)], annotations: &[(&str, &str)], terminating: bool) -> Namespace {
        let map =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Namespace { labels: map(labels), annotations: map(annotations), terminating }
    }

    #[test]
    fn a_namespace_is_enabled_by_label_or_annotation_and_our_word_wins() {
        let ours = "leno.mesh/inject";
        let istios = "istio-injection";
        type Words<'a> = &'a [(&'a str, &'a str)];
        let rows: [(Words<'_>, Words<'_>, bool); 6] = [
            (&[], &[], false),
            (&[(ours, "enabled")], &[], true),
            (&[], &[(ours, "enabled")], true),
            (&[(istios, "enabled")], &[], true),
            (&[(istios, "enabled"), (ours, "disabled")], &[], false),
            (&[(istios, "disabled")], &[], false),
        ];
        for (labels, annotations, expected) in rows {
            assert_eq!(is_enabled(&namespace(labels, annotations, false)), expected, "{labels:?} {annotations:?}");
        }
    }

    #[test]
    fn the_root_is_wanted_where_sidecars_are_or_will_be() {
        let enabled = [("leno.mesh/inject", "enabled")];
        let namespaces = BTreeMap::from([
            ("enabled".to_owned(), namespace(&enabled, &[], false)),
            ("ending".to_owned(), namespace(&enabled, &[], true)),
            ("some".to_owned(), namespace(&[], &[], false)),
            ("none".to_owned(), namespace(&[], &[], false)),
        ]);
        let some = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        for (with_sidecars, expected) in
            [(&[][..], &["enabled"][..]), (&["some"], &["enabled", "some"]), (&["ending", "unknown"], &["enabled"])]
        {
            assert_eq!(names(&namespaces, &some(with_sidecars)), some(expected), "{with_sidecars:?}");
        }
    }

    #[tokio::test]
    async fn a_change_of_either_is_followed() {
        let enabled = namespace(&[("leno.mesh/inject", "enabled")], &[], false);
        let all = |namespaces: [(&str, &Namespace); 2]| {
            Arc::new(namespaces.map(|(name, namespace)| (name.to_owned(), namespace.clone())).into())
        };
        let plain = namespace(&[], &[], false);
        let (namespaces, listed) = watch::channel(all([("a", &plain), ("b", &plain)]));
        let (sidecars, with_sidecars) = watch::channel(Arc::default());
        let (wanted_sender, mut wanted_now) = watch::channel(Arc::new(BTreeSet::new()));
        let following = wanted(listed, with_sidecars, &wanted_sender);
        let changing = async {
            namespaces.send_replace(all([("a", &enabled), ("b", &plain)]));
            wanted_now.wait_for(|names| names.iter().eq(["a"])).await.map(drop)?;
            sidecars.send_replace(Arc::new(BTreeSet::from(["b".to_owned()])));
            wanted_now.wait_for(|names| names.iter().eq(["a", "b"])).await.map(drop)
        };
        tokio::select! {
            () = following => {}
            followed = changing => followed.expect("it is told"),
        }
    }
}
