//! The mesh's root in every namespace with sidecars, as a ConfigMap that their pods mount.
//!
//! A sidecar has to know whom to believe before it speaks to the control plane for the first time, and a pod can mount
//! ConfigMaps of its own namespace only. The leader writes them and keeps them as they should be: a change of the root,
//! a namespace that joins and an accident of somebody with `kubectl` are all the same to it, something that differs. The
//! ConfigMap of a namespace that leaves stays, because its pods stay as well; it goes with the namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::codegen::tokio_stream::StreamExt as _;
use tracing::{debug, info, warn};

use super::client::{CallError, FIELD_MANAGER, answer};
use super::secrets::MANAGED_BY;
use crate::ca::Authority;

/// The ConfigMap.
pub(crate) const CONFIG_MAP: &str = "leno-ca-root-cert";
/// The only entry that counts in it.
pub(crate) const ENTRY: &str = "root-cert.pem";

/// After a write that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// Names of the namespaces that should have the root.
pub(crate) type Wanted = watch::Receiver<Arc<BTreeSet<String>>>;

/// What stands in the ConfigMaps; without IO.
#[derive(Debug, Default)]
struct Present {
    /// By namespace, the root, or what is there instead of it.
    texts: BTreeMap<String, Option<String>>,
    /// A list that is not complete yet.
    listing: BTreeMap<String, Option<String>>,
    is_listed: bool,
}

/// What has to be done in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    /// There is no ConfigMap.
    Missing,
    /// There is another root in it.
    Differs,
}

/// Keeps the root in all namespaces that want it. Does not return.
pub(crate) async fn keep(client: Client, authority: Arc<Authority>, mut wanted: Wanted) {
    let api = Api::<ConfigMap>::all(client.clone());
    let only = Config::default().fields(&format!("metadata.name={CONFIG_MAP}"));
    let mut changes = std::pin::pin!(watcher(api, only).default_backoff());
    let mut roots = authority.changes();
    let mut present = Present::default();
    loop {
        let bundle = authority.own_bundle();
        let names = Arc::clone(&wanted.borrow_and_update());
        let mut has_failed = false;
        for (namespace, lack) in present.lacks(&names, &bundle) {
            match write(&client, namespace, lack, &bundle).await {
                Ok(()) => {
                    info!("the root of the mesh is in namespace `{namespace}` (ConfigMap `{CONFIG_MAP}`)");
                    present.texts.insert(namespace.clone(), Some(bundle.clone()));
                }
                Err(error) => {
                    has_failed |= report(namespace, &error);
                }
            }
        }
        tokio::select! {
            event = changes.next() => match event {
                Some(Ok(event)) => present.take(event),
                Some(Err(error)) => debug!("the ConfigMaps `{CONFIG_MAP}` cannot be watched: {error}"),
                None => std::future::pending().await,
            },
            changed = wanted.changed() => if changed.is_err() { std::future::pending::<()>().await },
            changed = roots.changed() => if changed.is_err() { std::future::pending::<()>().await },
            () = sleep(AGAIN), if has_failed => {}
        }
    }
}

impl Present {
    fn take(&mut self, event: Event<ConfigMap>) {
        let read = |map: ConfigMap| {
            let text = map.data.and_then(|mut data| data.remove(ENTRY));
            (map.metadata.namespace.unwrap_or_default(), text)
        };
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(map) => self.listing.extend([read(map)]),
            Event::InitDone => {
                self.texts = std::mem::take(&mut self.listing);
                self.is_listed = true;
            }
            Event::Apply(map) => self.texts.extend([read(map)]),
            Event::Delete(map) => drop(self.texts.remove(&read(map).0)),
        }
    }

    /// What is to be done; nothing before it is known what there is.
    fn lacks<'a>(&self, wanted: &'a BTreeSet<String>, bundle: &str) -> Vec<(&'a String, Lack)> {
        let lack = |namespace: &String| match self.texts.get(namespace) {
            Some(Some(text)) if text == bundle => None,
            Some(_) => Some(Lack::Differs),
            None => Some(Lack::Missing),
        };
        let known = wanted.iter().filter(|_| self.is_listed);
        known.filter_map(|namespace| Some((namespace, lack(namespace)?))).collect()
    }
}

async fn write(client: &Client, namespace: &str, lack: Lack, bundle: &str) -> Result<(), CallError> {
    let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let field_manager = Some(FIELD_MANAGER.to_owned());
    match lack {
        Lack::Missing => {
            let map = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(CONFIG_MAP.to_owned()),
                    labels: Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into()),
                    ..ObjectMeta::default()
                },
                data: Some([(ENTRY.to_owned(), bundle.to_owned())].into()),
                ..ConfigMap::default()
            };
            answer(api.create(&PostParams { field_manager, ..PostParams::default() }, &map)).await.map(drop)
        }
        Lack::Differs => {
            let parameters = PatchParams { field_manager, ..PatchParams::default() };
            let patch = Patch::Merge(json!({ "data": { ENTRY: bundle } }));
            answer(api.patch(CONFIG_MAP, &parameters, &patch)).await.map(drop)
        }
    }
}

/// Whether it is worth another try by itself; what is not comes back as a change.
fn report(namespace: &str, error: &CallError) -> bool {
    match error.status() {
        // The namespace is gone, or on its way; or somebody was faster, which the watch tells.
        Some(404 | 409) => {
            debug!("the root of the mesh was not written to namespace `{namespace}`: {error}");
            false
        }
        Some(_) | None => {
            warn!(
                "the root of the mesh cannot be written to namespace `{namespace}`, so that new pods with sidecars wait \
                 there: {error}"
            );
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(namespace: &str, text: Option<&str>) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta { namespace: Some(namespace.to_owned()), ..ObjectMeta::default() },
            data: text.map(|text| [(ENTRY.to_owned(), text.to_owned())].into()),
            ..ConfigMap::default()
        }
    }

    #[test]
    fn what_differs_is_written_once_it_is_known_what_there_is() {
        let wanted: BTreeSet<String> = ["a", "b", "c", "d"].map(str::to_owned).into();
        let mut present = Present::default();
        let lacks = |present: &Present| {
            let lacks = present.lacks(&wanted, "new");
            lacks.into_iter().map(|(namespace, lack)| (namespace.clone(), lack)).collect::<Vec<_>>()
        };
        assert_eq!(lacks(&present), []);
        for event in [
            Event::Init,
            Event::InitApply(map("a", Some("new"))),
            Event::InitApply(map("b", Some("old"))),
            Event::InitApply(map("c", None)),
            Event::InitApply(map("stranger", Some("old"))),
        ] {
            present.take(event);
            assert_eq!(lacks(&present), [], "the list is not complete");
        }
        present.take(Event::InitDone);
        let missing = |namespace: &str| (namespace.to_owned(), Lack::Missing);
        let differs = |namespace: &str| (namespace.to_owned(), Lack::Differs);
        assert_eq!(lacks(&present), [differs("b"), differs("c"), missing("d")]);
        present.take(Event::Apply(map("b", Some("new"))));
        present.take(Event::Delete(map("a", None)));
        assert_eq!(lacks(&present), [missing("a"), differs("c"), missing("d")]);
    }
}
