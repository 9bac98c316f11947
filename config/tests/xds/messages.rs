//! One valid resource of each kind, in the IR and as messages, for tests that change something about it.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use envoy_types::pb::google::protobuf::Any;
use leno_config::identity::SpiffeId;
use leno_config::ir;
use leno_config::xds::{Flavour, encode_cluster, encode_endpoints, encode_listener, encode_route, encode_secret};
use prost::{Message, Name};

pub(crate) const REVIEWS: &str = "reviews.default.svc.cluster.local";

fn header(name: &str, value: &str) -> ir::HeaderField {
    ir::HeaderField::new(name, value).unwrap()
}

fn to(cluster: ir::ClusterName) -> ir::Forward {
    ir::Forward::plain(ir::WeightedClusters::single(cluster))
}

fn route(matcher: ir::RouteMatch, action: ir::Action) -> ir::Route {
    ir::Route {
        name: String::new(),
        origin: None,
        matcher,
        action,
        request_headers: ir::HeaderOps::default(),
        response_headers: ir::HeaderOps::default(),
        cors: None,
        fault: None,
        authorization: None,
        refused_in_path: ir::Separators::default(),
    }
}

/// A canary with everything that a rule can ask of it, a redirect and an answer, and a last host for all others.
pub(crate) fn ir_route_table() -> ir::RouteConfig {
    let reviews = |subset| ir::ClusterName::outbound(9080, subset, REVIEWS);
    let split = ir::WeightedClusters::new(vec![
        ir::WeightedCluster {
            request_headers: ir::HeaderOps { set: vec![header("x-version", "v1")], ..Default::default() },
            ..ir::WeightedCluster::plain(reviews("v1"), 80)
        },
        ir::WeightedCluster::plain(reviews("v2"), 20),
    ]);
    let canary = ir::Route {
        name: "canary".to_owned(),
        origin: Some(ir::Origin {
            kind: "VirtualService".to_owned(),
            namespace: "default".to_owned(),
            name: "reviews".to_owned(),
            index: 1,
            place: ir::FilePlace(Some(Arc::new(ir::FileLine { file: "rules/reviews.yaml".into(), line: 12 }))),
        }),
        request_headers: ir::HeaderOps {
            remove: vec!["x-secret".parse().unwrap()],
            set: vec![header("x-share", "100%")],
            add: vec![header("x-via", "leno"), header("x-empty", "")],
        },
        cors: Some(ir::Cors {
            allow_origins: vec![ir::StringMatch::exact("https://example.com")],
            allow_methods: "GET,POST".to_owned(),
            allow_headers: "x-token".to_owned(),
            expose_headers: String::new(),
            max_age: Some(Duration::from_secs(600)),
            allow_credentials: true,
            forward_unmatched_preflights: true,
        }),
        fault: Some(ir::Fault {
            delay: Some(ir::FaultDelay { duration: Duration::from_millis(5), share: ir::Fraction::NONE }),
            abort: Some(ir::FaultAbort {
                with: ir::AbortStatus::Http(http::StatusCode::IM_A_TEAPOT),
                share: ir::Fraction::from_percent(0.5).unwrap(),
            }),
        }),
        ..route(
            ir::RouteMatch {
                path: ir::PathMatch::Regex(ir::Regex::new("/reviews/[0-9]+").unwrap()),
                headers: vec![ir::HeaderMatch {
                    key: ir::HeaderKey::parse("end-user").unwrap(),
                    value: Some(ir::StringMatch::exact("jason")),
                    invert: true,
                    missing_is_empty: true,
                }],
                query: vec![ir::QueryMatch { name: "debug".to_owned(), value: None }],
                claims: Vec::new(),
            },
            ir::Action::Forward(ir::Forward {
                clusters: split.unwrap(),
                path_rewrite: Some(ir::PathRewrite::Full(r"/v1\x".to_owned())),
                host_rewrite: Some("reviews.example.com".to_owned()),
                timeout: Some(Duration::from_secs(3)),
                retry: Some(retry()),
                mirrors: vec![ir::Mirror { cluster: reviews("v3"), share: ir::Fraction::from_percent(1.0).unwrap() }],
                hash: vec![
                    ir::HashPolicy::Header("x-user".parse().unwrap()),
                    ir::HashPolicy::Cookie {
                        name: "session".to_owned(),
                        path: "/".to_owned(),
                        ttl: Some(Duration::ZERO),
                        attributes: vec![ir::CookieAttribute { name: "SameSite".to_owned(), value: "Lax".to_owned() }],
                    },
                    ir::HashPolicy::SourceIp,
                ],
            }),
        )
    };
    let redirect = ir::Action::Redirect(ir::Redirect {
        status: ir::Redirect::status(308).unwrap(),
        host: Some("new.example.com".to_owned()),
        scheme: Some("https".to_owned()),
        port: Some(8443),
        path: Some(ir::PathRewrite::Prefix("/new".to_owned())),
    });
    let old = ir::RouteMatch {
        path: ir::PathMatch::SegmentPrefix { value: "/old".to_owned(), ignore_case: false },
        ..ir::RouteMatch::any()
    };
    let refuse = ir::Action::Direct(ir::DirectResponse {
        status: http::StatusCode::BAD_GATEWAY,
        body: b"no such host".to_vec(),
    });
    let host = |name: &str, domains: &[&str], routes| ir::VirtualHost {
        name: name.to_owned(),
        domains: domains.iter().map(|domain| ir::Domain::parse(domain).unwrap()).collect(),
        routes,
        attempt_count: ir::AttemptCount { request: true, response: false },
    };
    let hosts = vec![
        host(
            "reviews.default.svc.cluster.local:9080",
            &["reviews:9080", REVIEWS, "*.reviews.example.com"],
            vec![canary, route(old, redirect), route(ir::RouteMatch::any(), ir::Action::Forward(to(reviews(""))))],
        ),
        host("block_all", &["*"], vec![route(ir::RouteMatch::any(), refuse)]),
    ];
    ir::RouteConfig::new("15001", hosts).unwrap()
}

fn retry() -> ir::RetryPolicy {
    let on = leno_config::defaults::RETRY_ON.split(',').map(|word| ir::RetryOn::parse(word).unwrap());
    ir::RetryPolicy {
        on: on.collect(),
        attempts: 2,
        per_try_timeout: Some(Duration::from_secs(1)),
        status_codes: [503, 504].into(),
        answer_headers: Vec::new(),
        request_headers: Vec::new(),
        rate_limited: None,
        backoff_base: Duration::from_millis(25),
        backoff_max: Duration::from_millis(250),
        avoid_previous_hosts: true,
        host_selection_attempts: 5,
        other_localities: true,
    }
}

pub(crate) fn ir_listener() -> ir::Listener {
    ir::Listener {
        name: "127.0.0.1_15001".to_owned(),
        address: "127.0.0.1:15001".parse().unwrap(),
        direction: ir::Direction::Outbound,
        additional_addresses: Vec::new(),
        intake: Default::default(),
        ports: Default::default(),
        mtls: Default::default(),
        tls: None,
        authorization: Default::default(),
        access_logs: access_logs(ir::LogFormat::default_json(ir::Direction::Outbound)),
        protocol: ir::ListenerProtocol::Http(ir::HttpManager {
            stat_prefix: "outbound".to_owned(),
            routes: ir::RouteSource::Named("15001".to_owned()),
            upgrades: vec!["websocket".to_owned()],
            path: ir::PathNormalization::BASE,
            underscores: ir::UnderscoreNames::Pass,
            jwt: Default::default(),
            rate_limits: Vec::new(),
            streams: ir::StreamLimits { idle: Some(Duration::from_secs(300)), longest: None },
            tracing: Some(Arc::new(ir_tracing())),
        }),
    }
}

/// To a collector that speaks gRPC.
pub(crate) fn ir_tracing() -> ir::Tracing {
    let header = ir::TagValue::Header { name: http::HeaderName::from_static("x-user"), default: "nobody".to_owned() };
    ir::Tracing {
        provider: ir::TracingProvider::OpenTelemetry(ir::Collector {
            cluster: "xds".to_owned(),
            protocol: ir::OtlpProtocol::Grpc("collector:4317".to_owned()),
            timeout: Duration::from_secs(10),
            service: "productpage.default".to_owned(),
        }),
        sampling: ir::Fraction::from_percent(1.25).unwrap(),
        attempts: true,
        longest_path: ir::Tracing::LONGEST_PATH,
        tags: vec![
            ir::CustomTag { name: "zone".to_owned(), value: ir::TagValue::Literal("a".to_owned()) },
            ir::CustomTag { name: "user".to_owned(), value: header },
        ],
    }
}

/// To one that speaks HTTP.
pub(crate) fn ir_http_tracing() -> ir::Tracing {
    let uri = ir::Collector::uri("http://collector:4318/v1/traces").unwrap();
    ir::Tracing {
        provider: ir::TracingProvider::OpenTelemetry(ir::Collector {
            cluster: "xds".to_owned(),
            protocol: ir::OtlpProtocol::Http(uri),
            timeout: Duration::from_secs(2),
            service: String::new(),
        }),
        sampling: ir::Fraction::NONE,
        attempts: false,
        longest_path: 64,
        tags: Vec::new(),
    }
}

/// Everything that a filter can ask for.
fn access_logs(format: ir::LogFormat) -> ir::AccessLogs {
    let filter = ir::LogFilter::And(vec![
        ir::LogFilter::Or(vec![
            ir::LogFilter::Status(ir::Comparison::AtLeast, 500),
            ir::LogFilter::Flags(vec![ir::ResponseFlag::parse("DC").unwrap(), ir::ResponseFlag::parse("OM").unwrap()]),
        ]),
        ir::LogFilter::Duration(ir::Comparison::AtMost, 60_000),
        ir::LogFilter::Sample(ir::Fraction::from_percent(12.5).unwrap()),
    ]);
    let sink = ir::LogSink::Stdout;
    let custom =
        "%RESPONSE_CODE% %REQ(x-a?:path):10% %START_TIME(%s.%3f)% %GRPC_STATUS(NUMBER)% %TRAILER(grpc-status)%";
    let second = ir::AccessLog {
        sink: ir::LogSink::Stderr,
        format: ir::LogFormat::Text(ir::LogText::parse(custom).unwrap()),
        filter: ir::LogFilter::default(),
        sensitive: ir::Sensitive::Shown,
    };
    let first = ir::AccessLog { sink, format, filter, sensitive: ir::Sensitive::Redacted };
    ir::AccessLogs { logs: vec![first, second], left_out: Vec::new() }
}

/// Inbound, with its routes inside.
pub(crate) fn ir_inline_listener() -> ir::Listener {
    ir::Listener {
        name: "inbound_127.0.0.1_9080".to_owned(),
        address: "127.0.0.1:9080".parse().unwrap(),
        direction: ir::Direction::Inbound,
        additional_addresses: Vec::new(),
        intake: Default::default(),
        ports: Default::default(),
        mtls: Default::default(),
        tls: None,
        authorization: Default::default(),
        access_logs: access_logs(ir::LogFormat::default_text()),
        protocol: ir::ListenerProtocol::Http(ir::HttpManager {
            stat_prefix: "inbound".to_owned(),
            routes: ir::RouteSource::Inline(Arc::new(ir_route_table())),
            upgrades: Vec::new(),
            path: ir::PathNormalization { dots: true, merge_slashes: true },
            underscores: ir::UnderscoreNames::Drop,
            jwt: Default::default(),
            rate_limits: Vec::new(),
            streams: Default::default(),
            tracing: Some(Arc::new(ir_http_tracing())),
        }),
    }
}

pub(crate) fn ir_tcp_listener() -> ir::Listener {
    let share = |subset, weight| {
        ir::WeightedCluster::plain(ir::ClusterName::outbound(3306, subset, "db.default.svc.cluster.local"), weight)
    };
    ir::Listener {
        name: "127.0.0.1_3306".to_owned(),
        address: "127.0.0.1:3306".parse().unwrap(),
        direction: ir::Direction::Outbound,
        additional_addresses: Vec::new(),
        intake: Default::default(),
        ports: Default::default(),
        mtls: Default::default(),
        tls: None,
        authorization: Default::default(),
        access_logs: access_logs(ir::LogFormat::default_json(ir::Direction::Inbound)),
        protocol: ir::ListenerProtocol::Tcp(ir::TcpRoute {
            stat_prefix: "db".to_owned(),
            origin: None,
            clusters: ir::WeightedClusters::new(vec![share("v1", 9), share("v2", 1)]).unwrap(),
            idle_timeout: None,
            hashes_source: true,
        }),
    }
}

fn policy(name: &str, permissions: Vec<ir::Permission>, principals: Vec<ir::Principal>) -> ir::RbacPolicy {
    ir::RbacPolicy { name: name.to_owned(), permissions, principals }
}

fn claim(path: &[&str], value: &str) -> ir::ClaimMatch {
    let path = path.iter().map(|&key| key.to_owned()).collect();
    ir::ClaimMatch { path, value: ir::StringMatch::exact(value), invert: false }
}

fn caller(name: &str) -> ir::Principal {
    let id = format!("spiffe://cluster.local/ns/default/sa/{name}");
    ir::Principal::Authenticated(Some(ir::StringMatch::exact(id)))
}

/// One of every condition that a request or a connection can meet, denied, allowed, logged, tried and asked outside.
pub(crate) fn ir_authorization() -> ir::Authorization {
    use ir::{Permission, Principal};
    let method = ir::HeaderMatch {
        key: ir::HeaderKey::Method,
        value: Some(ir::StringMatch::exact("DELETE")),
        invert: false,
        missing_is_empty: false,
    };
    let requests = vec![
        Permission::And(vec![
            Permission::Header(method),
            Permission::Path(ir::StringMatch::prefix("/admin")),
            Permission::PathTemplate(ir::PathTemplate::new("/shops/{*}/{**}/books").unwrap()),
            Permission::Claim(claim(&["realm", "roles"], "admin")),
        ]),
        Permission::Or(vec![
            Permission::DestinationPort(9080),
            Permission::DestinationPorts { from: 1024, to: 65_536 },
            Permission::DestinationIp("10.0.0.0/8".parse().unwrap()),
            Permission::ServerName(ir::StringMatch::exact("reviews.default.svc.cluster.local")),
        ]),
    ];
    let callers = vec![Principal::And(vec![
        Principal::Or(vec![caller("productpage"), Principal::Authenticated(None)]),
        Principal::Not(Box::new(Principal::RemoteIp("192.0.2.0/24".parse().unwrap()))),
        Principal::DirectIp("2001:db8::/32".parse().unwrap()),
        Principal::Claim(claim(&["iss"], "https://issuer.example")),
    ])];
    let filter = |action, policies, shadow| ir::RbacFilter { action, policies, shadow, enforced: true };
    let everybody = || policy("ns[default]-policy[a]-rule[0]", vec![Permission::Any], vec![Principal::Any]);
    let shadow = ir::Shadow { action: ir::RbacAction::Deny, policies: vec![everybody()] };
    ir::Authorization(vec![
        filter(ir::RbacAction::Custom, vec![everybody()], None),
        filter(
            ir::RbacAction::Deny,
            vec![policy("ns[default]-policy[d]-rule[0]", requests, callers)],
            Some(shadow.clone()),
        ),
        filter(ir::RbacAction::Allow, Vec::new(), None),
        filter(ir::RbacAction::Log, vec![everybody()], None),
        ir::RbacFilter { action: ir::RbacAction::Deny, policies: Vec::new(), shadow: Some(shadow), enforced: false },
    ])
}

/// The key of RFC 7515, appendix A.3: Envoy refuses a listener whose keys it cannot use.
const KEYS: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256", "kid": "a", "alg": "ES256",
  "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

/// Two issuers, one whose keys are at hand and one who publishes them.
pub(crate) fn ir_jwt() -> ir::JwtAuthentication {
    let provider = |name: &str, jwks| ir::JwtProvider {
        name: name.to_owned(),
        issuer: Some("https://issuer.example".to_owned()),
        audiences: vec!["books".to_owned()],
        jwks,
        from_headers: vec![ir::JwtHeader { name: "x-token".parse().unwrap(), prefix: "Token ".to_owned() }],
        from_params: vec!["token".to_owned()],
        from_cookies: vec!["session".to_owned()],
        forward: true,
        payload_header: Some("x-payload".parse().unwrap()),
        claim_headers: vec![ir::ClaimHeader { name: "x-sub".parse().unwrap(), claim: "sub".to_owned() }],
        clock_skew: Duration::from_secs(60),
    };
    let remote = ir::RemoteJwks {
        uri: ir::RemoteJwks::uri("https://issuer.example/jwks.json").unwrap(),
        cluster: "outbound|443||issuer.example".to_owned(),
        timeout: Duration::from_secs(5),
        refresh: Duration::from_secs(1200),
    };
    let any = |name: &str| {
        let provider = ir::JwtRequirement::Provider(name.to_owned());
        ir::JwtRequirement::Any(vec![provider, ir::JwtRequirement::AllowMissing])
    };
    ir::JwtAuthentication {
        providers: vec![
            provider("origins-0", ir::Jwks::Inline(KEYS.to_owned())),
            provider("origins-1", ir::Jwks::Remote(remote)),
        ],
        rules: vec![ir::JwtRule {
            matcher: ir::RouteMatch::any(),
            requirement: ir::JwtRequirement::All(vec![any("origins-0"), any("origins-1")]),
        }],
    }
}

/// Inbound, for callers of the mesh, with every policy and token.
pub(crate) fn ir_strict_listener() -> ir::Listener {
    let listener = ir_inline_listener();
    let protocol = match listener.protocol.clone() {
        ir::ListenerProtocol::Http(manager) => {
            let mut table = ir_route_table();
            table.virtual_hosts[0].routes[0].authorization = Some(ir::Authorization::default());
            table.virtual_hosts[0].routes[0].matcher.claims = vec![claim(&["groups"], "testers")];
            let routes = ir::RouteSource::Inline(Arc::new(table));
            ir::ListenerProtocol::Http(ir::HttpManager { jwt: ir_jwt(), routes, ..manager })
        }
        tcp => tcp,
    };
    ir::Listener { mtls: ir::MtlsMode::Strict, authorization: ir_authorization(), protocol, ..listener }
}

/// Inbound requests of callers who are not of the mesh.
pub(crate) fn ir_outside_listener() -> ir::Listener {
    let callers = ir::OutsideCallers { subject_alt_names: vec!["caller.example.com".to_owned()], ..Default::default() };
    let tls = ir::ServerTls { credential: Some("web".to_owned()), callers: Some(callers), ..Default::default() };
    ir::Listener { name: "outside".to_owned(), tls: Some(Arc::new(tls)), ..ir_inline_listener() }
}

/// Inbound bytes, either way, with every policy.
pub(crate) fn ir_permissive_tcp_listener() -> ir::Listener {
    ir::Listener {
        direction: ir::Direction::Inbound,
        mtls: ir::MtlsMode::Permissive,
        authorization: ir_authorization(),
        ..ir_tcp_listener()
    }
}

/// What captures, what it hands connections to, and ports of every kind.
pub(crate) fn ir_captured_listeners() -> Vec<ir::Listener> {
    use ir::{Branch, CapturedPort, Condition, Detection, Intake, ListenerProtocol, MtlsMode, ServerName};
    let ListenerProtocol::Tcp(tcp) = ir_tcp_listener().protocol else { panic!("bytes") };
    let manager = |listener: ir::Listener| listener.protocol.http().cloned().expect("HTTP");
    let detect = |branches, manager: ir::HttpManager| {
        ListenerProtocol::Detect(Box::new(Detection::new(branches, Some(manager), tcp.clone(), Default::default())))
    };
    let branch = |condition| Branch { condition, route: tcp.clone() };
    let branches = vec![
        branch(Condition::Destination("10.7.0.0/16".parse().unwrap())),
        branch(Condition::ServerName(ServerName::parse("a.example.com").unwrap())),
        branch(Condition::ServerName(ServerName::parse("*.example.com").unwrap())),
    ];
    let with = |listener: ir::Listener, name: &str, port: u16, intake| {
        let any = |ip: &str| std::net::SocketAddr::new(ip.parse().unwrap(), port);
        let additional_addresses = vec![any("::")];
        ir::Listener { name: name.to_owned(), address: any("0.0.0.0"), additional_addresses, intake, ..listener }
    };
    let port = |mtls, protocol| CapturedPort {
        mtls,
        tls: None,
        authorization: Default::default(),
        access_logs: Default::default(),
        protocol,
    };
    let inline = || manager(ir_inline_listener());
    let ports = [
        (9080, port(MtlsMode::Permissive, ListenerProtocol::Http(inline()))),
        (9081, port(MtlsMode::Strict, ListenerProtocol::Http(inline()))),
        (3306, port(MtlsMode::Permissive, ListenerProtocol::Tcp(tcp.clone()))),
        (3307, port(MtlsMode::Disable, ListenerProtocol::Tcp(tcp.clone()))),
        (7000, port(MtlsMode::Strict, detect(Vec::new(), inline()))),
        (7001, port(MtlsMode::Disable, detect(Vec::new(), inline()))),
    ];
    let ports = ports.into_iter().map(|(number, port)| (ir::Port::new(number).unwrap(), port)).collect();
    let told = |listener: ir::Listener, branches| ir::Listener {
        protocol: detect(branches, manager(listener.clone())),
        authorization: Default::default(),
        ..listener
    };
    vec![
        with(ir_tcp_listener(), "virtualOutbound", 15_001, Intake::Capture),
        with(told(ir_listener(), branches), "0.0.0.0_9080", 9080, Intake::Handed),
        ir::Listener {
            mtls: MtlsMode::Permissive,
            ports,
            ..with(told(ir_inline_listener(), Vec::new()), "virtualInbound", 15_006, Intake::Capture)
        },
    ]
}

/// One of every kind of discovery, balance and encryption.
pub(crate) fn ir_clusters() -> Vec<ir::Cluster> {
    let name = |subset| ir::ClusterName::outbound(9080, subset, REVIEWS);
    let mesh = ir::MeshTls {
        sni: format!("outbound_.9080_._.{REVIEWS}"),
        identities: vec!["spiffe://cluster.local/ns/default/sa/reviews".to_owned()],
    };
    let external = ir::ExternalTls { subject_alt_names: vec!["api.example.com".to_owned()], ..Default::default() };
    let dns = ir::Endpoints { cluster: name("dns"), ..group("reviews.example.com") };
    let fixed = ir::Endpoints { cluster: name("static"), ..ir_endpoints() };
    let app = ir::Endpoints { cluster: ir::ClusterName::inbound(9080), ..ir_endpoints() };
    vec![
        ir::Cluster {
            outlier: Some(outlier()),
            tls: ir::UpstreamTls::Auto(mesh.clone()),
            protocol: ir::UpstreamProtocol::Http2,
            tcp_keepalive: Some(ir::TcpKeepalive { time: Some(Duration::from_secs(60)), ..Default::default() }),
            slow_start: Some(ir::SlowStart {
                window: Duration::from_secs(30),
                aggression: 1.5,
                min_share: ir::Fraction::from_percent(10.0).unwrap(),
            }),
            locality_weighted: true,
            limits: ir::Limits {
                connections: Some(10),
                retry_budget: Some(ir::RetryBudget {
                    share: ir::Fraction::from_percent(20.0).unwrap(),
                    min_concurrency: 3,
                }),
                ..Default::default()
            },
            ..ir::Cluster::new(name("v1"), ir::Discovery::Eds { service: None })
        },
        ir::Cluster {
            balance: ir::Balance::RingHash { min: 1024, max: 8 << 20 },
            protocol: ir::UpstreamProtocol::AsDownstream,
            ..ir::Cluster::new(name("static"), ir::Discovery::Static(fixed))
        },
        ir::Cluster {
            balance: ir::Balance::Maglev { table: 65_537 },
            tls: ir::UpstreamTls::External(external),
            ..ir::Cluster::new(name("dns"), ir::Discovery::Dns(dns))
        },
        ir::Cluster {
            balance: ir::Balance::RoundRobin,
            protocol: ir::UpstreamProtocol::Tcp,
            tls: ir::UpstreamTls::Mesh(mesh),
            ..ir::Cluster::new(name("tcp"), ir::Discovery::Eds { service: Some("db".to_owned()) })
        },
        ir::Cluster {
            balance: ir::Balance::Random,
            ..ir::Cluster::new(ir::ClusterName::inbound(9080), ir::Discovery::Static(app))
        },
        ir::Cluster {
            balance: ir::Balance::PeakEwma,
            ..ir::Cluster::new(name("by-latency"), ir::Discovery::Eds { service: None })
        },
        ir::Cluster::new(ir::ClusterName::new("PassthroughCluster"), ir::Discovery::RequestHost),
        ir::Cluster {
            source_addresses: leno_config::defaults::APP_SOURCES.to_vec(),
            ..ir::Cluster::new(ir::ClusterName::new("original"), ir::Discovery::OriginalDestination)
        },
    ]
}

fn outlier() -> ir::OutlierDetection {
    ir::OutlierDetection {
        consecutive_5xx: Some(5),
        consecutive_gateway: None,
        consecutive_local: None,
        split_local: false,
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(300),
        max_ejection_share: ir::Fraction::from_percent(10.0).unwrap(),
        status_codes: vec![500, 503],
        success_rate: None,
        failure_percentage: None,
        always_eject_one: false,
        check_readmits: true,
    }
}

fn endpoint(host: &str) -> ir::Endpoint {
    ir::Endpoint {
        address: ir::Address::new(host, 9080).unwrap(),
        weight: 1,
        health: ir::Health::Healthy,
        mesh_tls: true,
        identity: SpiffeId::parse("spiffe://cluster.local/ns/default/sa/reviews").ok(),
        labels: [("version".to_owned(), "v1".to_owned())].into(),
        workload: Some(ir::WorkloadName { name: "reviews-v1".to_owned(), namespace: "default".to_owned() }),
    }
}

fn group(host: &str) -> ir::Endpoints {
    ir::Endpoints {
        cluster: ir::ClusterName::outbound(9080, "v1", REVIEWS),
        localities: vec![ir::LocalityEndpoints {
            locality: ir::Locality::parse("r1/z1"),
            priority: 0,
            weight: Some(3),
            endpoints: vec![endpoint(host)],
        }],
        overprovisioning: ir::Endpoints::OVERPROVISIONING,
    }
}

pub(crate) fn ir_endpoints() -> ir::Endpoints {
    group("127.0.0.2")
}

/// Any certificate that Envoy can read.
pub(crate) const ROOTS: &str = include_str!("root.pem");

/// The roots of two trust domains.
pub(crate) fn ir_secret() -> ir::Secret {
    let bundle = || ir::TrustBundle { roots: ROOTS.to_owned() };
    ir::Secret {
        name: ir::Secret::ROOTS.to_owned(),
        bundles: [("cluster.local".to_owned(), bundle()), ("partner.example".to_owned(), bundle())].into(),
        revoked: None,
    }
}

/// The message of a packed resource.
pub(crate) fn message<M: Message + Default + Name>(any: &Any) -> M {
    assert_eq!(any.type_url, M::type_url());
    M::decode(any.value.as_slice()).unwrap()
}

pub(crate) fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

pub(crate) fn listener() -> Listener {
    message(&encode_listener(&ir_listener(), &Flavour::Sidecar).any)
}

pub(crate) fn inline_listener() -> Listener {
    message(&encode_listener(&ir_inline_listener(), &Flavour::Sidecar).any)
}

pub(crate) fn tcp_listener() -> Listener {
    message(&encode_listener(&ir_tcp_listener(), &Flavour::Sidecar).any)
}

pub(crate) fn route_table() -> RouteConfiguration {
    message(&encode_route(&ir_route_table()).any)
}

pub(crate) fn strict_listener() -> Listener {
    message(&encode_listener(&ir_strict_listener(), &Flavour::Sidecar).any)
}

pub(crate) fn permissive_tcp_listener() -> Listener {
    message(&encode_listener(&ir_permissive_tcp_listener(), &Flavour::Sidecar).any)
}

/// The cluster of EDS.
pub(crate) fn cluster() -> Cluster {
    message(&encode_cluster(&ir_clusters()[0], &Flavour::Sidecar).any)
}

/// A cluster with TLS to the outside.
pub(crate) fn tls_cluster() -> Cluster {
    message(&encode_cluster(&ir_clusters()[2], &Flavour::Sidecar).any)
}

pub(crate) fn endpoints() -> ClusterLoadAssignment {
    message(&encode_endpoints(&ir_endpoints()).any)
}

pub(crate) fn secret() -> Secret {
    message(&encode_secret(&ir_secret()).any)
}

/// The configuration of a listener's only filter.
pub(crate) fn filter_config(listener: &mut Listener) -> &mut Any {
    match &mut listener.filter_chains[0].filters[0].config_type {
        Some(filter::ConfigType::TypedConfig(any)) => any,
        _ => panic!("a typed config"),
    }
}

/// Changes a message that stands inside another one.
pub(crate) fn change<M: Message + Default + Name>(any: &mut Any, change: impl FnOnce(&mut M)) {
    let mut inner: M = message(any);
    change(&mut inner);
    *any = pack(&inner);
}
