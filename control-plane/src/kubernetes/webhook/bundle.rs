//! What the API server believes when it calls the webhooks: `caBundle` of both configurations, kept by the leader.
//!
//! The configurations are made by `leno install` or the chart, without a bundle, and whoever installs again takes it out
//! again; so it is looked after and not only written once. A configuration that is not there is waited for.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::codegen::tokio_stream::{Stream, StreamExt as _};
use tracing::{debug, info, warn};

use super::certificate::Serving;
use super::configurations::{INJECTOR, VALIDATOR};
use crate::kubernetes::client::{FIELD_MANAGER, answer};

/// After a patch that failed, and between two looks at whether the root has changed.
const AGAIN: Duration = Duration::from_secs(2);

/// Since when both configurations have held the bundle of the moment; `None`: they do not.
pub(crate) type Distributed = watch::Sender<Option<SystemTime>>;

/// Keeps both configurations at the bundle of the moment. Does not return.
pub(crate) async fn keep(client: Client, serving: Arc<Serving>, distributed: &Distributed) {
    let mutating = ApiResource::erase::<MutatingWebhookConfiguration>(&());
    let validating = ApiResource::erase::<ValidatingWebhookConfiguration>(&());
    let mut mutating = Configuration::new(INJECTOR, &mutating, &client);
    let mut validating = Configuration::new(VALIDATOR, &validating, &client);
    let mut held: Option<(String, SystemTime)> = None;
    loop {
        let bundle = serving.bundle();
        let hold = mutating.take(&bundle).await & validating.take(&bundle).await;
        held = match held {
            Some((before, since)) if hold && before == bundle => Some((before, since)),
            Some(_) | None => hold.then(|| (bundle, SystemTime::now())),
        };
        let since = held.as_ref().map(|(_, since)| *since);
        distributed.send_if_modified(|known| std::mem::replace(known, since) != since);
        tokio::select! {
            () = mutating.changed() => {}
            () = validating.changed() => {}
            () = sleep(AGAIN) => {}
        }
    }
}

/// One of the two.
struct Configuration {
    name: &'static str,
    api: Api<DynamicObject>,
    changes: Pin<Box<dyn Stream<Item = Result<Option<DynamicObject>, kube::runtime::watcher::Error>> + Send>>,
    /// As it was last seen; `None`: it is not there.
    present: Option<Value>,
}

impl Configuration {
    fn new(name: &'static str, resource: &ApiResource, client: &Client) -> Self {
        let api = Api::<DynamicObject>::all_with(client.clone(), resource);
        let changes = Box::pin(watch_object(api.clone(), name).default_backoff());
        Self { name, api, changes, present: None }
    }

    /// Resolves when it is seen anew.
    async fn changed(&mut self) {
        match self.changes.next().await {
            Some(Ok(newest)) => self.present = newest.map(|object| object.data),
            Some(Err(error)) => debug!("the webhook configuration `{}` cannot be watched: {error}", self.name),
            None => pending().await,
        }
    }

    /// Sees to it that it holds this bundle. Whether it does.
    async fn take(&mut self, bundle: &str) -> bool {
        let Some(present) = &self.present else { return false };
        let bundle = STANDARD.encode(bundle);
        let Some(patch) = patch(present, &bundle) else { return true };
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match answer(self.api.patch(self.name, &parameters, &Patch::Strategic(&patch))).await {
            Ok(patched) => {
                info!("the API server believes the webhooks' root: `caBundle` of `{}` is set", self.name);
                self.present = Some(patched.data);
                true
            }
            Err(error) => {
                warn!(
                    "`caBundle` of the webhook configuration `{}` cannot be set, so that the API server cannot call the \
                     webhooks: {error}",
                    self.name
                );
                false
            }
        }
    }
}

/// What makes all webhooks of a configuration hold this bundle; `None`: they do. By name, so that what somebody else
/// changes in the meantime stays.
fn patch(present: &Value, bundle: &str) -> Option<Value> {
    let webhooks = present.get("webhooks").and_then(Value::as_array)?;
    let holds = |webhook: &&Value| webhook.pointer("/clientConfig/caBundle").and_then(Value::as_str) == Some(bundle);
    let others = webhooks.iter().filter(|webhook| !holds(webhook));
    let patches: Vec<Value> = others
        .filter_map(|webhook| webhook.get("name"))
        .map(|name| json!({ "name": name, "clientConfig": { "caBundle": bundle } }))
        .collect();
    (!patches.is_empty()).then(|| json!({ "webhooks": patches }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_webhooks_with_another_bundle_are_patched() {
        let webhook = |name: &str, bundle: Option<&str>| match bundle {
            Some(bundle) => json!({ "name": name, "clientConfig": { "url": "x", "caBundle": bundle } }),
            None => json!({ "name": name, "clientConfig": { "url": "x" } }),
        };
        let one = |name: &str| json!({ "name": name, "clientConfig": { "caBundle": "new" } });
        let rows = [
            ("none has one", vec![webhook("a", None), webhook("b", None)], Some(vec![one("a"), one("b")])),
            ("one has an old one", vec![webhook("a", Some("old")), webhook("b", Some("new"))], Some(vec![one("a")])),
            ("all have it", vec![webhook("a", Some("new"))], None),
            ("there are none", vec![], None),
        ];
        for (what, webhooks, expected) in rows {
            let found = patch(&json!({ "webhooks": webhooks }), "new");
            assert_eq!(found, expected.map(|webhooks| json!({ "webhooks": webhooks })), "{what}");
        }
        assert_eq!(patch(&json!({}), "new"), None);
    }
}
