//! Which other meshes inject in the cluster: all MutatingWebhookConfigurations, under watch.
//!
//! They are few and change rarely. Where they may not be read, a warning says so once, and nobody is taken for a rival: the
//! labels of other meshes are heeded all the same.

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::watch;
use tonic::codegen::tokio_stream::StreamExt as _;
use tracing::{debug, info, warn};

use super::client::{CallError, answer};
use crate::inject::Others;

/// Follows them. Does not return.
pub(crate) async fn follow(client: Client, others: watch::Sender<Others>) {
    let mut events = std::pin::pin!(watcher(api(&client), Config::default()).default_backoff());
    let (mut known, mut listing) = (BTreeMap::new(), BTreeMap::new());
    let mut has_complained = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listing.clear(),
            Ok(Event::InitApply(object)) => drop(listing.insert(object.name_any(), whole(object))),
            Ok(Event::InitDone) => known = std::mem::take(&mut listing),
            Ok(Event::Apply(object)) => drop(known.insert(object.name_any(), whole(object))),
            Ok(Event::Delete(object)) => drop(known.remove(&object.name_any())),
            Err(error) if !has_complained => {
                has_complained = true;
                warn!("whether other meshes inject here cannot be read from webhook configurations: {error}");
            }
            Err(error) => debug!("webhook configurations cannot be watched: {error}"),
        }
        let newest = Others::read(known.values());
        let is_news = others.send_if_modified(|before| std::mem::replace(before, newest.clone()) != newest);
        if is_news {
            info!("other meshes' injectors in the cluster: {newest}");
        }
    }
}

/// Those of this moment.
pub(crate) async fn ask(client: &Client) -> Result<Others, CallError> {
    let all = answer(api(client).list(&ListParams::default())).await?;
    let all: Vec<Value> = all.into_iter().map(whole).collect();
    Ok(Others::read(&all))
}

fn api(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &ApiResource::erase::<MutatingWebhookConfiguration>(&()))
}

fn whole(object: DynamicObject) -> Value {
    let mut value = object.data;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("metadata".to_owned(), json!({"name": object.metadata.name.unwrap_or_default()}));
    }
    value
}
