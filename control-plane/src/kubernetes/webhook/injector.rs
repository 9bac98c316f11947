//! `/inject`: the injector, and what the pod's namespace says.
//!
//! Namespaces are followed by a watch. One that was made a moment ago may not have come through yet, and its first pods
//! are the very ones that a person looks at: then the API server is asked.

use std::sync::Arc;

use k8s_openapi::api::core::v1;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionResponse, AdmissionReview};
use kube::{Api, Client};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::warn;

use super::review;
use super::server::Injector;
use crate::inject::{self, Marks, Others, Settings};
use crate::kubernetes::client::answer;
use crate::kubernetes::namespaces::Namespaces;
use crate::kubernetes::objects::{self, Namespace};

/// Decides as these settings, namespaces and other meshes' injectors say. Belongs to the runtime that this is called in, and is called on threads
/// that may wait.
pub(crate) fn injector(
    client: Client,
    namespaces: watch::Receiver<Namespaces>,
    others: watch::Receiver<Others>,
    settings: Settings,
) -> Injector {
    let runtime = Handle::current();
    Arc::new(move |review: AdmissionReview<DynamicObject>| {
        let request = review.request.as_ref();
        let (name, uid) = request.map(|request| (request.namespace.clone(), request.uid.clone())).unwrap_or_default();
        let name = name.unwrap_or_else(|| "default".to_owned());
        let known = namespaces.borrow().get(&name).cloned();
        let space = match known {
            Some(space) => Ok(space),
            None => runtime.block_on(ask(&client, &name)),
        };
        match space {
            Ok(space) => {
                let marks = Marks { labels: space.labels, annotations: space.annotations };
                let settings = Settings { others: others.borrow().clone(), ..settings.clone() };
                inject::admission(review, &settings, &marks)
            }
            Err(reason) => {
                warn!("a pod in namespace `{name}` was refused: {reason}");
                review::refusal(uid, &reason)
            }
        }
    })
}

async fn ask(client: &Client, name: &str) -> Result<Namespace, String> {
    let found = answer(Api::<v1::Namespace>::all(client.clone()).get_metadata_opt(name)).await;
    match found {
        Ok(Some(space)) => Ok(objects::namespace(space.metadata)),
        Ok(None) => Err(format!("leno does not know whether to inject: there is no namespace `{name}`")),
        Err(error) => Err(format!("leno does not know whether to inject: namespace `{name}` cannot be read ({error})")),
    }
}

/// With these, the answer is what Kubernetes' documentation has: see [`inject::written`].
pub(super) fn written(answer: AdmissionResponse) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&inject::written(answer)?)
}
