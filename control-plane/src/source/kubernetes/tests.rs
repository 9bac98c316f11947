use leno_config::ir::{Health, Locality, Port};
use leno_config::mesh::Pod;
use leno_config::rules::schema;
use serde_json::json;

use crate::kubernetes::objects::{self, PlacedPod, Slice, SliceEndpoint};
use crate::kubernetes::watch::Event;

use super::*;

fn cluster() -> (mpsc::Sender<News>, Cluster) {
    let (sender, news) = mpsc::channel(QUEUE);
    let counts = Counts::register(&prometheus::Registry::new()).unwrap();
    (sender, Cluster::new(news, counts, JoinSet::new()))
}

fn slice(address: &str) -> Slice {
    let endpoint = SliceEndpoint {
        address: address.parse().unwrap(),
        health: Health::Healthy,
        hostname: None,
        zone: None,
        pod: Some(Key::new("shop", "a")),
    };
    let ports = std::collections::BTreeMap::from([("http".to_owned(), Port::new(80).unwrap())]);
    Slice { service: Key::new("shop", "web"), ports: Arc::new(ports), endpoints: vec![endpoint] }
}

fn pod() -> PlacedPod {
    let pod = Pod {
        key: Key::new("shop", "a"),
        address: None,
        labels: std::collections::BTreeMap::new(),
        service_account: "web".to_owned(),
        workload: "web".to_owned(),
        locality: Locality::default(),
        injected: false,
        health: Health::Healthy,
    };
    PlacedPod { pod, node: None, is_ours: false }
}

fn service(port: u16) -> objects::Written {
    let value = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": "shop" },
        "spec": { "ports": [{ "name": "http", "port": port }] } });
    objects::service(&serde_json::from_value(value).unwrap())
}

fn everything() -> Vec<News> {
    let key = |name: &str| Key::new("shop", name);
    let mut all = vec![
        News::Slices(Event::All(vec![(key("web-1"), slice("10.0.0.1"))])),
        News::Pods(Event::All(vec![(key("a"), pod())])),
        News::Nodes(Event::All(Vec::new())),
        News::Namespaces(Event::All(Vec::new())),
        News::Services(Event::All(vec![(key("web"), service(80))])),
    ];
    all.extend(schema::custom_kinds().map(|kind| News::NotInstalled(kind.name)));
    all
}

fn edit(port: u16) -> News {
    News::Services(Event::Put(Key::new("shop", "web"), service(port)))
}

fn listed(now: Instant) -> Cluster {
    let (_news, mut cluster) = cluster();
    everything().into_iter().for_each(|news| cluster.take(news, now));
    assert!(matches!(cluster.due(now), Some(Word::Written { .. })));
    cluster
}

#[test]
fn the_first_word_is_everything_and_comes_when_everything_is_listed() {
    let (_news, mut cluster) = cluster();
    let now = Instant::now();
    for news in everything() {
        assert!(cluster.due(now + 2 * PATIENCE).is_none(), "nothing is said before the lists are complete");
        cluster.take(news, now);
    }
    let Some(Word::Written { written, discovered }) = cluster.due(now) else { panic!("everything") };
    assert_eq!(written.rules.unwrap().documents.len(), 1);
    assert_eq!(discovered.endpoints.len(), 1);
    assert!(cluster.due(now + 2 * PATIENCE).is_none(), "and there is nothing else");
}

#[test]
fn endpoints_wait_for_nothing_and_rules_until_they_are_quiet() {
    let now = Instant::now();
    let mut cluster = listed(now);
    cluster.take(edit(81), now);
    cluster.take(News::Slices(Event::Put(Key::new("shop", "web-1"), slice("10.0.0.2"))), now);
    let Some(Word::Endpoints(endpoints)) = cluster.due(now) else { panic!("endpoints at once") };
    assert_eq!(endpoints.services, BTreeSet::from([Key::new("shop", "web")]));
    assert!(cluster.due(now + QUIET / 2).is_none());
    cluster.take(edit(82), now + QUIET / 2);
    assert!(cluster.due(now + QUIET).is_none(), "another edit of the burst");
    let Some(Word::Written { written, .. }) = cluster.due(now + 2 * QUIET) else { panic!("the rules") };
    assert_eq!(written.rules.unwrap().documents.len(), 1);
    assert_eq!(written.noticed, now.into_std(), "the first edit counts");
}

#[test]
fn rules_that_never_rest_are_taken_as_they_are() {
    let now = Instant::now();
    let mut cluster = listed(now);
    let mut at = now;
    for port in 1..100 {
        at += QUIET / 2;
        cluster.take(edit(port), at);
        if cluster.due(at).is_some() {
            break;
        }
    }
    assert!(at <= now + PATIENCE + QUIET, "{:?}", at - now);
}

#[tokio::test]
async fn words_of_the_watches_are_read_as_they_come() {
    let (news, mut cluster) = cluster();
    for word in everything() {
        news.send(word).await.unwrap();
    }
    assert!(matches!(cluster.next().await, Word::Written { .. }));
    news.send(News::Slices(Event::Put(Key::new("shop", "web-1"), slice("10.0.0.2")))).await.unwrap();
    assert!(matches!(cluster.next().await, Word::Endpoints(_)));
}
