//! What other control planes write: by hand with the fewest fields, as istiod does with the most, in Envoy's older forms.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as eds;
use envoy_types::pb::envoy::config::route::v3 as rds;
use envoy_types::pb::envoy::config::trace::v3 as trace;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as fault;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::load_balancing_policies as policies;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions as Options;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration as WireDuration, UInt32Value};
use leno_config::ir;
use leno_config::xds::{Decoded, Kind, decode};
use prost::{Message, Name};

use crate::messages::{self, change, filter_config, pack};

fn read<M: Message + Name>(kind: Kind, message: &M) -> Decoded {
    decode(kind, &pack(message)).unwrap_or_else(|refusal| panic!("{refusal}"))
}

fn table(message: &rds::RouteConfiguration) -> ir::RouteConfig {
    match read(Kind::Route, message) {
        Decoded::Route(table) => table,
        other => panic!("{other:?}"),
    }
}

fn cluster(message: &cds::Cluster) -> ir::Cluster {
    match read(Kind::Cluster, message) {
        Decoded::Cluster(cluster) => cluster,
        other => panic!("{other:?}"),
    }
}

fn http(listener: &envoy_types::pb::envoy::config::listener::v3::Listener) -> ir::HttpManager {
    match read(Kind::Listener, listener) {
        Decoded::Listener(ir::Listener { protocol: ir::ListenerProtocol::Http(manager), .. }) => manager,
        other => panic!("{other:?}"),
    }
}

/// A table with one host, one route and the fewest fields.
fn small_table() -> rds::RouteConfiguration {
    let action = rds::RouteAction {
        cluster_specifier: Some(rds::route_action::ClusterSpecifier::Cluster("reviews".to_owned())),
        ..Default::default()
    };
    let route = rds::Route {
        r#match: Some(rds::RouteMatch {
            path_specifier: Some(rds::route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(rds::route::Action::Route(action)),
        ..Default::default()
    };
    rds::RouteConfiguration {
        name: "routes".to_owned(),
        virtual_hosts: vec![rds::VirtualHost {
            name: "all".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![route],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn first_route(table: &rds::RouteConfiguration) -> ir::Route {
    self::table(table).virtual_hosts.remove(0).routes.remove(0)
}

fn forward(route: &ir::Route) -> &ir::Forward {
    match &route.action {
        ir::Action::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

fn action(route: &mut rds::Route) -> &mut rds::RouteAction {
    match &mut route.action {
        Some(rds::route::Action::Route(action)) => action,
        other => panic!("{other:?}"),
    }
}

fn set(key: &str, value: &str) -> core::HeaderValueOption {
    core::HeaderValueOption {
        header: Some(core::HeaderValue { key: key.to_owned(), value: value.to_owned(), raw_value: Vec::new() }),
        append_action: core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    }
}

#[test]
fn a_route_that_says_nothing_has_envoys_timeout_and_no_retries() {
    let route = first_route(&small_table());
    assert_eq!(forward(&route).timeout, Some(Duration::from_secs(15)));
    assert_eq!(forward(&route).retry, None);
    assert_eq!(route.matcher, ir::RouteMatch::any());
}

#[test]
fn a_cluster_that_says_nothing_has_envoys_limits() {
    let message = cds::Cluster {
        name: "reviews".to_owned(),
        cluster_discovery_type: Some(cds::cluster::ClusterDiscoveryType::Type(3)),
        eds_cluster_config: Some(cds::cluster::EdsClusterConfig {
            eds_config: Some(core::ConfigSource {
                config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(Default::default())),
                ..Default::default()
            }),
            service_name: String::new(),
        }),
        ..Default::default()
    };
    let expected = ir::Cluster {
        balance: ir::Balance::RoundRobin,
        connect_timeout: Duration::from_secs(5),
        panic_threshold: ir::Fraction::from_percent(50.0).unwrap(),
        limits: ir::Limits {
            connections: Some(1024),
            pending: Some(1024),
            requests: Some(1024),
            retries: Some(3),
            retry_budget: None,
        },
        ..ir::Cluster::new(ir::ClusterName::new("reviews"), ir::Discovery::Eds { service: None })
    };
    assert_eq!(cluster(&message), expected);
}

#[test]
#[allow(deprecated)]
fn the_older_fields_of_a_cluster_count_where_the_newer_message_is_missing() {
    let mut message = messages::cluster();
    message.typed_extension_protocol_options.clear();
    assert_eq!(cluster(&message).protocol, ir::UpstreamProtocol::Http1);
    message.max_requests_per_connection = Some(UInt32Value { value: 7 });
    message.http2_protocol_options = Some(Default::default());
    assert_eq!(cluster(&message).protocol, ir::UpstreamProtocol::Http2);
    assert_eq!(cluster(&message).max_requests_per_connection, Some(7));
    message.protocol_selection = 1;
    assert_eq!(cluster(&message).protocol, ir::UpstreamProtocol::AsDownstream);
}

#[test]
fn the_first_known_policy_of_a_list_counts() {
    let policy = |any: Any| cds::load_balancing_policy::Policy {
        typed_extension_config: Some(core::TypedExtensionConfig { name: "it".to_owned(), typed_config: Some(any) }),
    };
    let unknown = Any { type_url: "type.googleapis.com/example.Mine".to_owned(), value: Vec::new() };
    let inner = cds::LoadBalancingPolicy {
        policies: vec![
            policy(unknown.clone()),
            policy(pack(&policies::least_request::v3::LeastRequest {
                choice_count: Some(UInt32Value { value: 3 }),
                ..Default::default()
            })),
            policy(pack(&policies::round_robin::v3::RoundRobin::default())),
        ],
    };
    let outer = policies::wrr_locality::v3::WrrLocality { endpoint_picking_policy: Some(inner) };
    let mut message = messages::cluster();
    message.common_lb_config = None;
    message.load_balancing_policy =
        Some(cds::LoadBalancingPolicy { policies: vec![policy(unknown), policy(pack(&outer))] });
    let cluster = cluster(&message);
    assert_eq!(cluster.balance, ir::Balance::LeastRequest { choices: 3 });
    assert!(cluster.locality_weighted);
}

#[test]
fn what_only_measures_or_limits_is_left_aside() {
    let mut listener = messages::listener();
    listener.stat_prefix = "x".to_owned();
    listener.per_connection_buffer_limit_bytes = Some(UInt32Value { value: 32_768 });
    listener.enable_reuse_port = Some(BoolValue { value: true });
    let expected = http(&messages::listener());
    change(filter_config(&mut listener), |manager: &mut hcm::HttpConnectionManager| {
        manager.codec_type = 1;
        manager.use_remote_address = Some(BoolValue { value: true });
        manager.generate_request_id = Some(BoolValue { value: true });
        manager.server_header_transformation = 2;
        manager.request_timeout = Some(WireDuration { seconds: 300, nanos: 0 });
        manager.common_http_protocol_options = Some(core::HttpProtocolOptions {
            idle_timeout: Some(WireDuration { seconds: 300, nanos: 0 }),
            ..Default::default()
        });
        manager.http2_protocol_options = Some(core::Http2ProtocolOptions {
            max_concurrent_streams: Some(UInt32Value { value: 100 }),
            allow_connect: true,
            ..Default::default()
        });
        let mut mine = manager.http_filters[0].clone();
        mine.name = "mine".to_owned();
        mine.is_optional = true;
        let config = Any { type_url: "type.googleapis.com/example.Mine".to_owned(), value: vec![9] };
        mine.config_type = Some(hcm::http_filter::ConfigType::TypedConfig(config));
        manager.http_filters.insert(0, mine);
        let stats = Any { type_url: "type.googleapis.com/stats.PluginConfig".to_owned(), value: Vec::new() };
        let mut istio = manager.http_filters[1].clone();
        istio.config_type = Some(hcm::http_filter::ConfigType::TypedConfig(stats));
        manager.http_filters.insert(0, istio);
    });
    assert_eq!(http(&listener), expected);
}

/// Traffic without traces is better than none: no listener is refused for who gets its spans.
#[test]
fn a_tracer_that_leno_does_not_speak_with_is_kept_by_its_name() {
    let with = |tracing: hcm::http_connection_manager::Tracing| {
        let mut listener = messages::listener();
        change(filter_config(&mut listener), |manager: &mut hcm::HttpConnectionManager| {
            manager.tracing = Some(tracing.clone());
        });
        http(&listener).tracing
    };
    let to = |name: &str, config: Any| hcm::http_connection_manager::Tracing {
        provider: Some(trace::tracing::Http {
            name: name.to_owned(),
            config_type: Some(trace::tracing::http::ConfigType::TypedConfig(config)),
        }),
        random_sampling: Some(Percent { value: 50.0 }),
        overall_sampling: Some(Percent { value: 0.5 }),
        ..Default::default()
    };
    let google = core::GrpcService {
        target_specifier: Some(core::grpc_service::TargetSpecifier::GoogleGrpc(Default::default())),
        ..Default::default()
    };
    let zipkin = pack(&trace::ZipkinConfig { collector_cluster: "zipkin".to_owned(), ..Default::default() });
    let directly = trace::OpenTelemetryConfig { grpc_service: Some(google), ..Default::default() };
    let always = trace::OpenTelemetryConfig { sampler: Some(Default::default()), ..Default::default() };
    let ours = "envoy.tracers.opentelemetry";
    for (name, config, expected) in [
        ("envoy.tracers.zipkin", zipkin, "envoy.tracers.zipkin"),
        (ours, pack(&directly), "envoy.tracers.opentelemetry with google_grpc"),
        (ours, pack(&always), "envoy.tracers.opentelemetry with a sampler"),
        (ours, pack(&trace::OpenTelemetryConfig::default()), "envoy.tracers.opentelemetry with no service"),
    ] {
        let read = with(to(name, config)).expect("tracing");
        assert_eq!(read.provider, ir::TracingProvider::Foreign(expected.to_owned()));
        assert_eq!((read.sampling.millionths(), read.attempts), (5_000, false), "the smaller share counts");
    }
    assert_eq!(with(Default::default()), None, "without a provider nothing is traced");
}

#[test]
fn a_path_is_made_canonical_unless_the_contrary_is_said() {
    let with = |normalize: Option<bool>| {
        let mut listener = messages::listener();
        change(filter_config(&mut listener), |manager: &mut hcm::HttpConnectionManager| {
            manager.normalize_path = normalize.map(|value| BoolValue { value });
        });
        http(&listener).path.dots
    };
    assert!(with(None) && with(Some(true)) && !with(Some(false)));
}

#[test]
fn a_chain_may_be_the_default_one_and_a_direction_may_be_missing() {
    let mut listener = messages::listener();
    listener.default_filter_chain = listener.filter_chains.pop();
    listener.traffic_direction = 0;
    let Decoded::Listener(read) = read(Kind::Listener, &listener) else { panic!("a listener") };
    assert_eq!(read, messages::ir_listener());
}

/// Envoy applies a route's operations, then its host's, then its table's; the last one to set a header wins.
#[test]
fn header_operations_of_table_and_host_come_down_to_the_route() {
    let mut message = small_table();
    message.request_headers_to_add = vec![set("x-level", "table"), set("x-table", "1")];
    message.virtual_hosts[0].request_headers_to_add = vec![set("x-level", "host")];
    message.virtual_hosts[0].request_headers_to_remove = vec!["x-gone".to_owned()];
    message.virtual_hosts[0].routes[0].request_headers_to_add = vec![set("x-level", "route"), set("x-gone", "1")];
    let all = |table: &rds::RouteConfiguration| {
        let route = first_route(table);
        let set = route.request_headers.set.iter();
        set.map(|field| format!("{}={}", field.name(), field.value().to_str().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(all(&message), ["x-level=table", "x-table=1"]);
    assert_eq!(first_route(&message).request_headers.remove, ["x-gone"]);
    message.most_specific_header_mutations_wins = true;
    assert_eq!(all(&message), ["x-table=1", "x-level=route", "x-gone=1"]);
}

#[test]
fn retries_mirrors_and_filters_of_a_host_hold_for_routes_that_say_nothing() {
    let mirror =
        |cluster: &str| rds::route_action::RequestMirrorPolicy { cluster: cluster.to_owned(), ..Default::default() };
    let mut message = small_table();
    let host = &mut message.virtual_hosts[0];
    host.retry_policy = Some(rds::RetryPolicy { retry_on: "5xx".to_owned(), ..Default::default() });
    host.request_mirror_policies = vec![mirror("host")];
    let key = "envoy.filters.http.fault".to_owned();
    host.typed_per_filter_config.insert(key.clone(), pack(&fault::HttpFault::default()));
    host.routes.push(host.routes[0].clone());
    action(&mut host.routes[1]).request_mirror_policies = vec![mirror("route")];
    let off = rds::FilterConfig { disabled: true, ..Default::default() };
    host.routes[1].typed_per_filter_config.insert(key, pack(&off));

    let routes = table(&message).virtual_hosts.remove(0).routes;
    assert_eq!(forward(&routes[0]).retry.as_ref().unwrap().attempts, 1);
    assert_eq!(forward(&routes[0]).mirrors[0].cluster.as_str(), "host");
    assert_eq!(forward(&routes[0]).mirrors[0].share, ir::Fraction::ALL);
    assert_eq!(forward(&routes[1]).mirrors[0].cluster.as_str(), "route");
    assert_eq!(routes[0].fault, Some(ir::Fault { delay: None, abort: None }));
    assert_eq!(routes[1].fault, None);
}

#[test]
#[allow(deprecated)]
fn older_forms_of_header_conditions_and_operations_are_read() {
    use rds::header_matcher::HeaderMatchSpecifier;
    let mut message = small_table();
    let route = &mut message.virtual_hosts[0].routes[0];
    route.r#match.as_mut().unwrap().headers = [
        HeaderMatchSpecifier::ExactMatch("jason".to_owned()),
        HeaderMatchSpecifier::PrefixMatch("ja".to_owned()),
        HeaderMatchSpecifier::PresentMatch(false),
    ]
    .map(|specifier| rds::HeaderMatcher {
        name: "Host".to_owned(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    })
    .to_vec();
    route.request_headers_to_add =
        vec![core::HeaderValueOption { append: Some(BoolValue { value: false }), append_action: 0, ..set("x-a", "1") }];
    let route = first_route(&message);
    let headers = &route.matcher.headers;
    assert_eq!(headers[0].key, ir::HeaderKey::Authority);
    assert_eq!(headers[0].value, Some(ir::StringMatch::exact("jason")));
    assert_eq!(headers[1].value, Some(ir::StringMatch::prefix("ja")));
    assert!(headers[2].value.is_none() && headers[2].invert);
    assert_eq!(route.request_headers.set.len(), 1);
}

#[test]
fn an_empty_header_value_does_nothing_unless_it_is_kept() {
    let mut message = small_table();
    message.virtual_hosts[0].routes[0].request_headers_to_add =
        vec![set("x-a", ""), core::HeaderValueOption { keep_empty_value: true, ..set("x-b", "") }];
    let operations = first_route(&message).request_headers;
    assert_eq!(operations.set.iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["x-b"]);
}

#[test]
fn istios_names_for_secrets_are_understood() {
    let secret = |name: &str| tls::SdsSecretConfig { name: name.to_owned(), sds_config: None };
    let with = |certificate: &str, roots: &str| {
        let validation = tls::common_tls_context::CombinedCertificateValidationContext {
            default_validation_context: None,
            validation_context_sds_secret_config: Some(secret(roots)),
            ..Default::default()
        };
        let context = tls::UpstreamTlsContext {
            sni: "api".to_owned(),
            common_tls_context: Some(tls::CommonTlsContext {
                tls_certificate_sds_secret_configs: vec![secret(certificate)],
                validation_context_type: Some(
                    tls::common_tls_context::ValidationContextType::CombinedValidationContext(validation),
                ),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut message = messages::cluster();
        message.transport_socket_matches.clear();
        message.transport_socket = Some(core::TransportSocket {
            name: "tls".to_owned(),
            config_type: Some(core::transport_socket::ConfigType::TypedConfig(pack(&context))),
        });
        cluster(&message).tls
    };
    assert_eq!(
        with("default", "ROOTCA"),
        ir::UpstreamTls::Mesh(ir::MeshTls { sni: "api".to_owned(), identities: Vec::new() })
    );
    let files = ir::ExternalTls {
        sni: Some("api".to_owned()),
        certificate: Some("/c.pem".to_owned()),
        key: Some("/k.pem".to_owned()),
        roots: Some("/r.pem".to_owned()),
        ..Default::default()
    };
    assert_eq!(with("file-cert:/c.pem~/k.pem", "file-root:/r.pem"), ir::UpstreamTls::External(files));
    let credential = ir::ExternalTls {
        sni: Some("api".to_owned()),
        credential: Some(ir::Credential { name: "api-tls".to_owned(), is_shown: true }),
        ..Default::default()
    };
    assert_eq!(with("kubernetes://api-tls", "kubernetes://api-tls-cacert"), ir::UpstreamTls::External(credential));
}

#[test]
fn the_roots_of_istiod_are_those_of_the_proxys_own_trust_domain() {
    let context = tls::CertificateValidationContext {
        trusted_ca: Some(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineBytes(messages::ROOTS.as_bytes().to_vec())),
            watched_directory: None,
        }),
        ..Default::default()
    };
    let message =
        tls::Secret { name: "ROOTCA".to_owned(), r#type: Some(tls::secret::Type::ValidationContext(context)) };
    let Decoded::Secret(secret) = read(Kind::Secret, &message) else { panic!("a secret") };
    let bundle = ir::TrustBundle { roots: messages::ROOTS.to_owned() };
    let bundles = [(String::new(), bundle)].into();
    assert_eq!(secret, ir::Secret { name: "ROOTCA".to_owned(), bundles, revoked: None });
}

#[test]
fn the_name_of_the_only_endpoint_may_be_the_server_name() {
    let with = |auto_host_sni: bool, second: Option<&str>| {
        let mut message = messages::tls_cluster();
        match &mut message.transport_socket.as_mut().unwrap().config_type {
            Some(core::transport_socket::ConfigType::TypedConfig(any)) => {
                change(any, |context: &mut tls::UpstreamTlsContext| {
                    context.auto_host_sni = auto_host_sni;
                    context.common_tls_context.as_mut().unwrap().tls_params =
                        Some(tls::TlsParameters { tls_minimum_protocol_version: 4, ..Default::default() });
                });
            }
            None => panic!("a typed config"),
        }
        // Without `auto_sni`, so that the context decides.
        change(message.typed_extension_protocol_options.values_mut().next().unwrap(), |options: &mut Options| {
            options.upstream_http_protocol_options = None;
        });
        if let Some(name) = second {
            let group = &mut message.load_assignment.as_mut().unwrap().endpoints[0];
            let mut other = group.lb_endpoints[0].clone();
            let Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &mut other.host_identifier else {
                panic!("an endpoint")
            };
            match &mut endpoint.address.as_mut().unwrap().address {
                Some(core::address::Address::SocketAddress(socket)) => socket.address = name.to_owned(),
                _ => panic!("a socket address"),
            }
            group.lb_endpoints.push(other);
        }
        decode(Kind::Cluster, &pack(&message))
    };
    let tls = |decoded| match decoded {
        Ok(Decoded::Cluster(ir::Cluster { tls: ir::UpstreamTls::External(tls), .. })) => tls,
        other => panic!("{other:?}"),
    };
    assert_eq!(tls(with(false, None)).sni, None);
    assert_eq!(tls(with(true, None)).sni.as_deref(), Some("reviews.example.com"));
    assert_eq!(tls(with(true, None)).min_version, ir::TlsVersion::Tls13);
    let refusal = with(true, Some("other.example.com")).unwrap_err();
    assert_eq!(refusal.field, "transport_socket.typed_config.auto_host_sni");
}

#[test]
fn endpoints_with_the_fewest_fields_are_read() {
    let socket = core::SocketAddress {
        address: "10.0.0.1".to_owned(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(80)),
        ..Default::default()
    };
    let endpoint = eds::Endpoint {
        address: Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) }),
        ..Default::default()
    };
    let message = eds::ClusterLoadAssignment {
        cluster_name: "reviews".to_owned(),
        endpoints: vec![eds::LocalityLbEndpoints {
            lb_endpoints: vec![eds::LbEndpoint {
                host_identifier: Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let Decoded::Endpoints(endpoints) = read(Kind::Endpoints, &message) else { panic!("endpoints") };
    let only = endpoints.iter().next().unwrap();
    assert_eq!((only.weight, only.health, only.mesh_tls), (1, ir::Health::Unknown, false));
    assert_eq!(endpoints.overprovisioning, 140);
}
