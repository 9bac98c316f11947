//! `tracing` of MeshConfig: which requests, and by which cluster the spans leave.

use leno_config::ir::{
    Collector, Discovery, OtlpProtocol, Resources, Tracing, TracingProvider, UpstreamProtocol, UpstreamTls,
};

use crate::support::*;

fn mesh(tracing: &str) -> String {
    let text = document("MeshConfig", "mesh", &format!("{{tracing: {tracing}}}"));
    format!("{SERVICES}{text}")
}

fn tracing(resources: &Resources) -> Option<Tracing> {
    let mut found =
        resources.listeners.values().filter_map(|listener| listener.protocol.http()?.tracing.as_deref().cloned());
    found.next()
}

fn collector(resources: &Resources) -> Collector {
    match tracing(resources).expect("tracing").provider {
        TracingProvider::OpenTelemetry(collector) => collector,
        TracingProvider::Foreign(name) => panic!("{name}"),
    }
}

#[test]
fn a_collector_outside_gets_a_cluster_of_its_own() {
    let http = |uri: &str| OtlpProtocol::Http(uri.parse().unwrap());
    for (written, cluster, protocol, spoken, tls) in [
        (
            "{otlp: 'http://127.0.0.1:4317'}",
            "outbound|4317||127.0.0.1",
            OtlpProtocol::Grpc("127.0.0.1:4317".to_owned()),
            UpstreamProtocol::Http2,
            false,
        ),
        (
            "{otlp: 'https://otel.example.com'}",
            "outbound|4317||otel.example.com",
            OtlpProtocol::Grpc("otel.example.com:4317".to_owned()),
            UpstreamProtocol::Http2,
            true,
        ),
        (
            "{otlp: 'http://otel.example.com', protocol: http}",
            "outbound|4318||otel.example.com",
            http("http://otel.example.com:4318/v1/traces"),
            UpstreamProtocol::Http1,
            false,
        ),
        (
            "{otlp: 'http://otel.example.com:80/own', protocol: http}",
            "outbound|80||otel.example.com",
            http("http://otel.example.com:80/own"),
            UpstreamProtocol::Http1,
            false,
        ),
    ] {
        let resources = compile(&mesh(written), &client());
        let found = collector(&resources);
        assert_eq!((found.cluster.as_str(), found.protocol), (cluster, protocol), "{written}");
        let compiled = &resources.clusters[cluster];
        assert_eq!(compiled.protocol, spoken, "{written}");
        assert!(matches!(compiled.discovery, Discovery::Dns(_)), "{written}");
        assert_eq!(matches!(compiled.tls, UpstreamTls::External(_)), tls, "{written}");
    }
}

#[test]
fn a_collector_of_the_mesh_is_called_as_the_service_that_it_is() {
    let written = "{otlp: 'http://reviews.default.svc.cluster.local:9080'}";
    let resources = compile(&mesh(written), &client());
    let cluster = "outbound|9080||reviews.default.svc.cluster.local";
    assert_eq!(collector(&resources).cluster, cluster);
    assert!(!matches!(resources.clusters[cluster].discovery, Discovery::Dns(_)));
}

#[test]
fn spans_are_those_of_the_app_and_one_request_in_a_hundred_has_some() {
    let text = mesh("{otlp: 'http://c:1'}");
    let named = |labels: &[(&str, &str)]| collector(&compile(&text, &node("shop", labels))).service;
    assert_eq!(named(&[("app", "cart"), ("version", "v1")]), "cart.shop");
    assert_eq!(named(&[]), "", "the proxy names itself");
    let share = |written: &str| tracing(&compile(&mesh(written), &client())).unwrap().sampling.millionths();
    assert_eq!(share("{otlp: 'http://c:1'}"), 10_000);
    assert_eq!(share("{otlp: 'http://c:1', sampling: 0.01}"), 100);
    assert_eq!(share("{otlp: 'http://c:1', sampling: 0}"), 0);
}

#[test]
fn nothing_is_traced_unless_a_collector_is_named() {
    assert_eq!(tracing(&compile(SERVICES, &client())), None);
    assert_eq!(tracing(&compile(&mesh("{sampling: 100}"), &client())), None);
}
