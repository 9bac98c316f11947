//! What Leno lacks is refused, and the refusal names the place: one row for each.
//!
//! A row is a valid message with one change. The functions below make the change and return the refusal.

mod clusters;
mod listeners;
mod routes;
mod secrets;
mod security;

use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as eds;
use envoy_types::pb::envoy::config::listener::v3 as lds;
use envoy_types::pb::envoy::config::route::v3 as rds;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3 as cors;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as fault;
use envoy_types::pb::envoy::extensions::filters::http::router::v3 as router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::envoy::r#type::v3 as kinds;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value, UInt64Value};
use leno_config::xds::{Kind, Refusal, decode};
use prost::{Message, Name};

use crate::messages::{self, change, filter_config, pack};

/// The field that is refused, and where it should be.
type Row = (Refusal, &'static str);

fn check(rows: Vec<Row>) {
    for (refusal, field) in rows {
        assert_eq!(refusal.field, field, "{refusal}");
        assert!(!refusal.reason.is_empty());
    }
}

fn refused<M: Message + Name>(kind: Kind, message: &M) -> Refusal {
    decode(kind, &pack(message)).expect_err("Leno lacks this, but it is not refused")
}

fn listener(edit: impl FnOnce(&mut lds::Listener)) -> Refusal {
    let mut listener = messages::listener();
    edit(&mut listener);
    refused(Kind::Listener, &listener)
}

fn manager(edit: impl FnOnce(&mut hcm::HttpConnectionManager)) -> Refusal {
    listener(|it| change(filter_config(it), edit))
}

fn tcp_proxy(edit: impl FnOnce(&mut tcp::TcpProxy)) -> Refusal {
    let mut listener = messages::tcp_listener();
    change(filter_config(&mut listener), edit);
    refused(Kind::Listener, &listener)
}

fn table(edit: impl FnOnce(&mut rds::RouteConfiguration)) -> Refusal {
    let mut table = messages::route_table();
    edit(&mut table);
    refused(Kind::Route, &table)
}

fn host(edit: impl FnOnce(&mut rds::VirtualHost)) -> Refusal {
    table(|it| edit(&mut it.virtual_hosts[0]))
}

fn route(edit: impl FnOnce(&mut rds::Route)) -> Refusal {
    host(|it| edit(&mut it.routes[0]))
}

fn condition(edit: impl FnOnce(&mut rds::RouteMatch)) -> Refusal {
    route(|it| edit(it.r#match.as_mut().unwrap()))
}

fn action(edit: impl FnOnce(&mut rds::RouteAction)) -> Refusal {
    route(|it| match &mut it.action {
        Some(rds::route::Action::Route(action)) => edit(action),
        _ => panic!("a route action"),
    })
}

fn retry(edit: impl FnOnce(&mut rds::RetryPolicy)) -> Refusal {
    action(|it| edit(it.retry_policy.as_mut().unwrap()))
}

fn shares(edit: impl FnOnce(&mut rds::WeightedCluster)) -> Refusal {
    action(|it| match &mut it.cluster_specifier {
        Some(rds::route_action::ClusterSpecifier::WeightedClusters(clusters)) => edit(clusters),
        _ => panic!("weighted clusters"),
    })
}

fn redirect(edit: impl FnOnce(&mut rds::RedirectAction)) -> Refusal {
    host(|it| match &mut it.routes[1].action {
        Some(rds::route::Action::Redirect(redirect)) => edit(redirect),
        _ => panic!("a redirect"),
    })
}

fn direct(edit: impl FnOnce(&mut rds::DirectResponseAction)) -> Refusal {
    table(|it| match &mut it.virtual_hosts[1].routes[0].action {
        Some(rds::route::Action::DirectResponse(direct)) => edit(direct),
        _ => panic!("a direct response"),
    })
}

fn per_route<M: Message + Name + Default>(filter: &str, edit: impl FnOnce(&mut M)) -> Refusal {
    route(|it| change(it.typed_per_filter_config.get_mut(filter).unwrap(), edit))
}

fn cluster(edit: impl FnOnce(&mut cds::Cluster)) -> Refusal {
    let mut cluster = messages::cluster();
    edit(&mut cluster);
    refused(Kind::Cluster, &cluster)
}

fn options(edit: impl FnOnce(&mut upstream::HttpProtocolOptions)) -> Refusal {
    cluster(|it| change(it.typed_extension_protocol_options.values_mut().next().unwrap(), edit))
}

fn outlier(edit: impl FnOnce(&mut cds::OutlierDetection)) -> Refusal {
    cluster(|it| edit(it.outlier_detection.as_mut().unwrap()))
}

fn context(edit: impl FnOnce(&mut tls::UpstreamTlsContext)) -> Refusal {
    let mut cluster = messages::tls_cluster();
    match &mut cluster.transport_socket.as_mut().unwrap().config_type {
        Some(core::transport_socket::ConfigType::TypedConfig(any)) => change(any, edit),
        None => panic!("a typed config"),
    }
    refused(Kind::Cluster, &cluster)
}

fn common(edit: impl FnOnce(&mut tls::CommonTlsContext)) -> Refusal {
    context(|it| edit(it.common_tls_context.as_mut().unwrap()))
}

fn validation(edit: impl FnOnce(&mut tls::CertificateValidationContext)) -> Refusal {
    common(|it| match &mut it.validation_context_type {
        Some(tls::common_tls_context::ValidationContextType::ValidationContext(context)) => edit(context),
        _ => panic!("a validation context"),
    })
}

fn endpoints(edit: impl FnOnce(&mut eds::ClusterLoadAssignment)) -> Refusal {
    let mut endpoints = messages::endpoints();
    edit(&mut endpoints);
    refused(Kind::Endpoints, &endpoints)
}

fn endpoint(edit: impl FnOnce(&mut eds::LbEndpoint)) -> Refusal {
    endpoints(|it| edit(&mut it.endpoints[0].lb_endpoints[0]))
}

fn socket(edit: impl FnOnce(&mut core::SocketAddress)) -> Refusal {
    endpoint(|it| match &mut it.host_identifier {
        Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint)) => {
            match &mut endpoint.address.as_mut().unwrap().address {
                Some(core::address::Address::SocketAddress(socket)) => edit(socket),
                _ => panic!("a socket address"),
            }
        }
        _ => panic!("an endpoint"),
    })
}

fn yes() -> Option<BoolValue> {
    Some(BoolValue { value: true })
}

fn no() -> Option<BoolValue> {
    Some(BoolValue { value: false })
}

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

fn unknown() -> Any {
    Any { type_url: "type.googleapis.com/example.Unknown".to_owned(), value: vec![1, 2, 3] }
}

fn http_filter(name: &str, any: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any)),
        is_optional: false,
        disabled: false,
    }
}

fn header(key: &str, value: &str, append_action: i32) -> core::HeaderValueOption {
    core::HeaderValueOption {
        header: Some(core::HeaderValue { key: key.to_owned(), value: value.to_owned(), raw_value: Vec::new() }),
        append_action,
        ..Default::default()
    }
}
