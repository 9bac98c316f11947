//! Short names for the generated modules. A message reads `pb::route::Route`, so it is never mistaken for the IR's type
//! of the same name.

pub(super) use envoy_types::pb::envoy::config::cluster::v3 as cluster;
pub(super) use envoy_types::pb::envoy::config::common::matcher::v3 as predicate;
pub(super) use envoy_types::pb::envoy::config::core::v3 as core;
pub(super) use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
pub(super) use envoy_types::pb::envoy::config::listener::v3 as listener;
pub(super) use envoy_types::pb::envoy::config::rbac::v3 as rbac;
pub(super) use envoy_types::pb::envoy::config::route::v3 as route;
pub(super) use envoy_types::pb::envoy::extensions::clusters::dns::v3 as dns_cluster;
pub(super) use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3 as forward_proxy_cluster;
pub(super) use envoy_types::pb::envoy::extensions::common::dynamic_forward_proxy::v3 as dns_cache;
pub(super) use envoy_types::pb::envoy::extensions::filters::common::fault::v3 as common_fault;
pub(super) use envoy_types::pb::envoy::extensions::filters::http::cors::v3 as cors;
pub(super) use envoy_types::pb::envoy::extensions::filters::http::dynamic_forward_proxy::v3 as forward_proxy_filter;
pub(super) use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as fault;
pub(super) use envoy_types::pb::envoy::extensions::filters::http::grpc_stats::v3 as grpc_stats;
pub(super) use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3 as jwt_authn;
pub(super) use envoy_types::pb::envoy::extensions::filters::http::rbac::v3 as http_rbac;
pub(super) use envoy_types::pb::envoy::extensions::filters::http::router::v3 as router;
pub(super) use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3 as http_inspector;
pub(super) use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3 as tls_inspector;
pub(super) use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
pub(super) use envoy_types::pb::envoy::extensions::filters::network::rbac::v3 as network_rbac;
pub(super) use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
pub(super) use envoy_types::pb::envoy::extensions::load_balancing_policies as balance;
pub(super) use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3 as uri_template;
pub(super) use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3 as previous_hosts;
pub(super) use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3 as previous_priorities;
pub(super) use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3 as raw_buffer;
pub(super) use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
pub(super) use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream_http;
pub(super) use envoy_types::pb::envoy::extensions::upstreams::tcp::v3 as upstream_tcp;
pub(super) use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
pub(super) use envoy_types::pb::envoy::r#type::v3 as kinds;
pub(super) use envoy_types::pb::google::protobuf;
