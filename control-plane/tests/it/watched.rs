//! What an operator sees of a control plane: metrics of its work, and the status of its clients in Envoy's words.

use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use envoy_types::pb::envoy::service::status::v3::{ClientStatusRequest, ClientStatusResponse, ConfigStatus};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{NodeMatcher, StringMatcher};
use leno_config::xds::Kind;

use crate::client::Client;
use crate::process::{Place, SOON, Serve};

const REVIEWS: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews.default.svc.cluster.local]
  ports: [{number: 9080, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1}]
";

fn timeout(seconds: u32) -> String {
    format!(
        "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: default}}
spec:
  hosts: [reviews]
  http: [{{timeout: {seconds}s, route: [{{destination: {{host: reviews}}}}]}}]
"
    )
}

fn started() -> (Place, Serve) {
    let place = Place::new();
    place.write("reviews.yaml", REVIEWS);
    place.write("timeout.yaml", &timeout(5));
    let mut serve = place.serve();
    serve.waits_for("rules in force");
    (place, serve)
}

/// The value of a series; 0 where it is not there.
fn counted(serve: &Serve, series: &str) -> f64 {
    let (_, text) = serve.get("/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

async fn counts(serve: &Serve, series: &str, expected: f64) {
    let deadline = Instant::now() + SOON;
    while counted(serve, series) != expected {
        assert!(Instant::now() < deadline, "{series} is {} and not {expected}", counted(serve, series));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_edit_that_two_proxies_answer_is_one_convergence_and_a_refusal_is_counted() {
    const CONVERGENCE: &str = "leno_control_plane_convergence_seconds";
    let (place, serve) = started();
    let mut one = Client::connect(serve.xds, "one").await;
    let mut other = Client::connect(serve.xds, "other").await;
    one.everything().await;
    other.everything().await;
    counts(&serve, "leno_control_plane_unanswered_proxies", 0.0).await;
    assert_eq!(counted(&serve, &format!("{CONVERGENCE}_count")), 0.0);

    place.write("timeout.yaml", &timeout(6));
    let begun = Instant::now();
    for client in [&mut one, &mut other] {
        assert_eq!(client.hears().await.unwrap().type_url, Kind::Route.url());
    }
    counts(&serve, &format!("{CONVERGENCE}_count"), 1.0).await;
    let took = counted(&serve, &format!("{CONVERGENCE}_sum"));
    // The files rest for a tenth of a second before an edit is taken; that is part of what an operator waits for.
    assert!((0.05..=begun.elapsed().as_secs_f64() + 1.0).contains(&took), "{took}");
    assert_eq!(counted(&serve, "pilot_proxy_convergence_time_count"), 2.0, "one for each proxy");

    place.write("timeout.yaml", &timeout(7));
    one.hears().await.unwrap();
    let routes = other.hears_in_silence().await.unwrap();
    other.refuses(&routes, "15001: no").await;
    counts(&serve, "leno_control_plane_nacks_total{type=\"routes\"}", 1.0).await;
    counts(&serve, &format!("{CONVERGENCE}_count"), 2.0).await;
    assert_eq!(counted(&serve, "pilot_total_xds_rejects"), 1.0);
    assert_eq!(counted(&serve, "leno_control_plane_connected_proxies{dialect=\"envoy\",variant=\"delta\"}"), 2.0);

    place.write("timeout.yaml", &timeout(7).replace("timeout:", "timeuot:"));
    counts(&serve, "leno_control_plane_rejected_documents", 1.0).await;
    counts(&serve, "leno_control_plane_rule_findings{code=\"L0005\",severity=\"error\"}", 1.0).await;
    assert!(counted(&serve, "process_start_time_seconds") > 1e9);
}

/// Status and version of each resource of one kind of a client.
fn states(answer: &ClientStatusResponse, name: &str, kind: Kind) -> Vec<(String, ConfigStatus)> {
    let is = |id: &str| id.contains(&format!("~{name}.default~"));
    let config = answer.config.iter().find(|config| config.node.as_ref().is_some_and(|node| is(&node.id)));
    let config = config.unwrap_or_else(|| panic!("{name} is not in the answer"));
    let of_kind = config.generic_xds_configs.iter().filter(|config| config.type_url == kind.url());
    of_kind.map(|config| (config.name.clone(), config.config_status())).collect()
}

#[tokio::test]
async fn csds_says_of_each_client_what_it_was_sent_and_what_became_of_it() {
    let (_place, serve) = started();
    let mut one = Client::connect(serve.xds, "one").await;
    one.everything().await;
    counts(&serve, "leno_control_plane_unanswered_proxies", 0.0).await;
    let mut other = Client::connect(serve.xds, "other").await;
    other.asks(Kind::Cluster, &[]).await;
    let clusters = other.hears_in_silence().await.unwrap();

    let mut csds = ClientStatusDiscoveryServiceClient::connect(format!("http://{}", serve.xds)).await.unwrap();
    let all = csds.fetch_client_status(ClientStatusRequest::default()).await.unwrap().into_inner();
    assert_eq!(all.config.len(), 2);
    assert_eq!(states(&all, "one", Kind::Route), [("15001".to_owned(), ConfigStatus::Synced)]);
    assert!(states(&all, "other", Kind::Cluster).iter().all(|(_, state)| *state == ConfigStatus::Stale));
    let contents = all.config.iter().flat_map(|config| &config.generic_xds_configs);
    assert!(
        contents.clone().all(|config| config.xds_config.as_ref().is_some_and(|any| any.type_url == config.type_url))
    );
    assert!(contents.clone().all(|config| !config.version_info.is_empty() && config.last_updated.is_some()));

    other.refuses(&clusters, "outbound|9080||reviews.default.svc.cluster.local: no").await;
    counts(&serve, "leno_control_plane_nacks_total{type=\"clusters\"}", 1.0).await;
    other.asks(Kind::Endpoints, &["nowhere".to_owned()]).await;
    other.hears().await.unwrap();
    let id = "sidecar~127.0.0.1~other.default~default.svc.cluster.local".to_owned();
    let id = StringMatcher { ignore_case: false, match_pattern: Some(MatchPattern::Exact(id)) };
    let request = ClientStatusRequest {
        node_matchers: vec![NodeMatcher { node_id: Some(id), node_metadatas: Vec::new() }],
        exclude_resource_contents: true,
        ..ClientStatusRequest::default()
    };
    // Over the stream, each question has an answer.
    let questions = tonic::codegen::tokio_stream::iter([ClientStatusRequest::default(), request]);
    let mut answers = csds.stream_client_status(questions).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().expect("the first answer").config.len(), 2);
    let answer = answers.message().await.unwrap().expect("the second answer");
    assert_eq!(answer.config.len(), 1, "the one that was asked about");
    let clusters = states(&answer, "other", Kind::Cluster);
    let refused = ("outbound|9080||reviews.default.svc.cluster.local".to_owned(), ConfigStatus::Error);
    assert!(clusters.contains(&refused), "{clusters:?}");
    let error = answer.config[0].generic_xds_configs.iter().find_map(|config| config.error_state.as_ref());
    assert!(error.is_some_and(|error| error.details.ends_with(": no")), "{error:?}");
    assert_eq!(states(&answer, "other", Kind::Endpoints), [("nowhere".to_owned(), ConfigStatus::NotSent)]);
    assert!(answer.config[0].generic_xds_configs.iter().all(|config| config.xds_config.is_none()));

    let nonsense = NodeMatcher { node_id: Some(StringMatcher::default()), node_metadatas: Vec::new() };
    let request = ClientStatusRequest { node_matchers: vec![nonsense], ..ClientStatusRequest::default() };
    let refused = csds.fetch_client_status(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("node_matchers.node_id"), "{}", refused.message());
}
