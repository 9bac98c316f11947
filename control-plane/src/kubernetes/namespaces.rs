//! Namespaces, as far as sidecars are concerned: which of them need the mesh's root. They are watched once, by discovery.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;
use tonic::codegen::tokio_stream::StreamExt as _;
use tracing::debug;

use super::objects::Namespace;

/// All of them by name; empty: they have not been listed yet, since every cluster has some.
pub(crate) type Namespaces = Arc<BTreeMap<String, Namespace>>;

/// Asks for sidecars, as label or annotation; ours and Istio's.
const ASKS: [(&str, &str); 2] = [("leno.mesh/inject", "enabled"), ("istio-injection", "enabled")];
/// Stands at every pod with a sidecar.
const STATUS: &str = "leno.mesh/status";

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
    client: Client,
    mut namespaces: watch::Receiver<Namespaces>,
    wanted: &watch::Sender<Arc<BTreeSet<String>>>,
) {
    let api = Api::<PartialObjectMeta<Pod>>::all(client);
    let mut events = std::pin::pin!(watcher(api, Config::default()).default_backoff());
    let mut pods = Pods::default();
    loop {
        let newest = Arc::clone(&namespaces.borrow_and_update());
        let names = Arc::new(names(&newest, &pods));
        wanted.send_if_modified(|before| {
            let changed = *before != names;
            *before = names;
            changed
        });
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => pods.take(event),
                Some(Err(error)) => debug!("pods cannot be watched: {error}"),
                None => std::future::pending().await,
            },
            changed = namespaces.changed() => if changed.is_err() { std::future::pending::<()>().await },
        }
    }
}

/// Pods with a sidecar, by namespace.
#[derive(Debug, Default)]
struct Pods {
    injected: BTreeMap<String, BTreeSet<String>>,
    listing: BTreeMap<String, BTreeSet<String>>,
}

impl Pods {
    fn take(&mut self, event: Event<PartialObjectMeta<Pod>>) {
        let place = |pod: &PartialObjectMeta<Pod>| (pod.namespace().unwrap_or_default(), pod.name_any());
        let is_injected = |pod: &PartialObjectMeta<Pod>| pod.annotations().contains_key(STATUS);
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(pod) if is_injected(&pod) => {
                let (namespace, name) = place(&pod);
                self.listing.entry(namespace).or_default().insert(name);
            }
            Event::Apply(pod) if is_injected(&pod) => {
                let (namespace, name) = place(&pod);
                self.injected.entry(namespace).or_default().insert(name);
            }
            Event::InitApply(_) | Event::Apply(_) => {}
            Event::InitDone => self.injected = std::mem::take(&mut self.listing),
            Event::Delete(pod) => {
                let (namespace, name) = place(&pod);
                if let Some(pods) = self.injected.get_mut(&namespace) {
                    pods.remove(&name);
                    if pods.is_empty() {
                        self.injected.remove(&namespace);
                    }
                }
            }
        }
    }
}

fn names(namespaces: &BTreeMap<String, Namespace>, pods: &Pods) -> BTreeSet<String> {
    let takes = |name: &&String| namespaces.get(*name).is_some_and(|namespace| !namespace.terminating);
    let enabled = namespaces.iter().filter(|(_, namespace)| is_enabled(namespace)).map(|(name, _)| name);
    enabled.chain(pods.injected.keys()).filter(takes).cloned().collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use kube::core::TypeMeta;

    use super::*;

    fn namespace(labels: &[(&str, &str)], annotations: &[(&str, &str)], terminating: bool) -> Namespace {
        let map =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Namespace { labels: map(labels), annotations: map(annotations), terminating }
    }

    fn pod(namespace: &str, name: &str, is_injected: bool) -> PartialObjectMeta<Pod> {
        let status = is_injected.then(|| [(STATUS.to_owned(), "{}".to_owned())].into());
        let metadata = ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            annotations: status,
            ..ObjectMeta::default()
        };
        PartialObjectMeta { types: None::<TypeMeta>, metadata, _phantom: std::marker::PhantomData }
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
        let mut pods = Pods::default();
        let found = |pods: &Pods| names(&namespaces, pods).into_iter().collect::<Vec<_>>();
        assert_eq!(found(&pods), ["enabled"]);
        for event in [
            Event::Init,
            Event::InitApply(pod("some", "a", true)),
            Event::InitApply(pod("none", "b", false)),
            Event::InitDone,
            Event::Apply(pod("some", "c", true)),
            Event::Apply(pod("unknown", "d", true)),
        ] {
            pods.take(event);
        }
        assert_eq!(found(&pods), ["enabled", "some"]);
        pods.take(Event::Delete(pod("some", "a", true)));
        assert_eq!(found(&pods), ["enabled", "some"]);
        pods.take(Event::Delete(pod("some", "c", true)));
        assert_eq!(found(&pods), ["enabled"]);
    }
}
