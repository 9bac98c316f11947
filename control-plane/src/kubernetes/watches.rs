//! All watches of a cluster: which kinds there are, and what is kept of each.

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use leno_config::rules::schema::{self, CustomKind};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::counts::Counts;
use super::objects::{self, RawPod};
use super::registry::{NAMESPACE, NODE, News, POD, SERVICE, SLICE};
use super::watch::{Event, Watch};

/// Starts a task per kind. They end with the set, or when nobody listens any more.
pub(crate) fn start(client: &Client, news: &mpsc::Sender<News>, counts: &Counts) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let all = Tasks { news, counts };
    let services = all.watch(SERVICE, News::Services);
    let api = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::erase::<Service>(&()));
    tasks.spawn(async move { services.follow(api, |object| Some(objects::service(&object))).await });
    let slices = all.watch(SLICE, News::Slices);
    let api = Api::<EndpointSlice>::all(client.clone());
    tasks.spawn(async move { slices.follow(api, objects::slice).await });
    let pods = all.watch(POD, News::Pods);
    let api = Api::<RawPod>::all_with(client.clone(), &ApiResource::erase::<Pod>(&()));
    tasks.spawn(async move { pods.follow(api, |pod| Some(objects::pod(pod))).await });
    let nodes = all.watch(NODE, News::Nodes);
    let api = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::erase::<Node>(&()));
    tasks.spawn(async move { nodes.follow(api, |node| Some(objects::locality(&node.metadata))).await });
    let namespaces = all.watch(NAMESPACE, News::Namespaces);
    let api = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::erase::<Namespace>(&()));
    tasks.spawn(async move { namespaces.follow(api, |it| Some(objects::namespace(it.metadata))).await });
    for kind in schema::custom_kinds() {
        tasks.spawn(rules(kind, client.clone(), news.clone(), counts.clone()));
    }
    tasks
}

struct Tasks<'a> {
    news: &'a mpsc::Sender<News>,
    counts: &'a Counts,
}

impl Tasks<'_> {
    fn watch<T>(&self, kind: &'static str, wrap: fn(Event<T>) -> News) -> Watch<News, fn(Event<T>) -> News> {
        Watch { kind, wrap, news: self.news.clone(), counts: self.counts.clone() }
    }
}

/// Rules of one kind, in the newest version that the cluster serves.
async fn rules(kind: CustomKind, client: Client, news: mpsc::Sender<News>, counts: Counts) {
    let name = kind.name;
    let watch = Watch { kind: name, wrap: move |event| News::Rules(name, event), news, counts };
    let versions = versions(kind);
    let keep = |version: &ApiResource, object: DynamicObject| Some(objects::rule(&object, name, &version.api_version));
    watch.follow_installed(client, &versions, || News::NotInstalled(name), keep).await;
}

/// The resources of a kind, the newest version first.
pub(crate) fn versions(kind: CustomKind) -> Vec<ApiResource> {
    let resource = |version: &&str| {
        let gvk = GroupVersionKind::gvk(kind.group, version, kind.name);
        ApiResource::from_gvk_with_plural(&gvk, &kind.plural())
    };
    kind.versions.iter().map(resource).collect()
}
