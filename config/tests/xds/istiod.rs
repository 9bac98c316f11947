//! How istiod says who may call: its chains, TLS contexts, policies and tokens, with all the fields that it fills.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as lds;
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3 as jwt;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3 as http_rbac;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3 as network_rbac;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::google::protobuf::{BoolValue, Duration, Empty};
use leno_config::ir;
use leno_config::xds::{Decoded, Kind, Refusal, decode};

use crate::messages::{self, change, filter_config, pack};

fn read(listener: &lds::Listener) -> Result<ir::Listener, Refusal> {
    match decode(Kind::Listener, &pack(listener))? {
        Decoded::Listener(listener) => Ok(listener),
        other => panic!("{other:?}"),
    }
}

/// From istiod's agent, over a stream of its own.
fn secret(name: &str) -> tls::SdsSecretConfig {
    let source = core::ApiConfigSource { api_type: 2, set_node_on_first_message_only: true, ..Default::default() };
    let source = core::config_source::ConfigSourceSpecifier::ApiConfigSource(source);
    tls::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(core::ConfigSource {
            initial_fetch_timeout: Some(Duration::default()),
            resource_api_version: 2,
            config_source_specifier: Some(source),
            ..Default::default()
        }),
    }
}

fn text(pattern: matcher::string_matcher::MatchPattern) -> matcher::StringMatcher {
    matcher::StringMatcher { match_pattern: Some(pattern), ignore_case: false }
}

fn exact(value: &str) -> matcher::StringMatcher {
    text(matcher::string_matcher::MatchPattern::Exact(value.to_owned()))
}

/// istiod's `BuildInboundTLS`.
#[allow(deprecated)]
fn callers_of_the_mesh() -> core::TransportSocket {
    let of_domain = text(matcher::string_matcher::MatchPattern::Prefix("spiffe://cluster.local/".to_owned()));
    let validation = tls::common_tls_context::CombinedCertificateValidationContext {
        default_validation_context: Some(tls::CertificateValidationContext {
            match_subject_alt_names: vec![of_domain],
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(secret("ROOTCA")),
        ..Default::default()
    };
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_params: Some(tls::TlsParameters {
                tls_minimum_protocol_version: 3,
                tls_maximum_protocol_version: 4,
                cipher_suites: vec!["ECDHE-ECDSA-AES256-GCM-SHA384".to_owned(), "AES128-GCM-SHA256".to_owned()],
                ..Default::default()
            }),
            alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
            tls_certificate_sds_secret_configs: vec![secret("default")],
            validation_context_type: Some(tls::common_tls_context::ValidationContextType::CombinedValidationContext(
                validation,
            )),
            ..Default::default()
        }),
        require_client_certificate: Some(BoolValue { value: true }),
        ..Default::default()
    };
    core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(pack(&context))),
    }
}

const ISTIO: [&str; 5] = ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];

fn chain(
    of: &lds::Listener,
    transport: &str,
    alpn: &[&str],
    socket: Option<core::TransportSocket>,
) -> lds::FilterChain {
    lds::FilterChain {
        filter_chain_match: Some(lds::FilterChainMatch {
            transport_protocol: transport.to_owned(),
            application_protocols: alpn.iter().map(|&name| name.to_owned()).collect(),
            ..Default::default()
        }),
        transport_socket: socket,
        ..of.filter_chains[0].clone()
    }
}

fn with(of: &lds::Listener, chains: Vec<lds::FilterChain>) -> lds::Listener {
    lds::Listener { filter_chains: chains, ..of.clone() }
}

/// What a TLS context asks of its callers, as a policy.
fn of_the_trust_domain() -> ir::RbacFilter {
    let named = ir::Principal::Authenticated(Some(ir::StringMatch::prefix("spiffe://cluster.local/")));
    let others = ir::Principal::And(vec![
        ir::Principal::Authenticated(None),
        ir::Principal::Not(Box::new(ir::Principal::Or(vec![named]))),
    ]);
    ir::RbacFilter {
        action: ir::RbacAction::Deny,
        policies: vec![ir::RbacPolicy {
            name: "match_subject_alt_names".to_owned(),
            permissions: vec![ir::Permission::Any],
            principals: vec![others],
        }],
        shadow: None,
        enforced: true,
    }
}

#[test]
fn strict_and_permissive_listeners_are_recognised() {
    let (http, tcp) = (messages::inline_listener(), messages::tcp_listener());
    let mesh = || Some(callers_of_the_mesh());
    let rows = [
        ("strict HTTP", with(&http, vec![chain(&http, "tls", &[], mesh())]), ir::MtlsMode::Strict),
        (
            "permissive HTTP",
            with(&http, vec![chain(&http, "tls", &ISTIO, mesh()), chain(&http, "raw_buffer", &[], None)]),
            ir::MtlsMode::Permissive,
        ),
        ("strict TCP", with(&tcp, vec![chain(&tcp, "tls", &[], mesh())]), ir::MtlsMode::Strict),
        (
            "permissive TCP",
            with(
                &tcp,
                vec![
                    chain(&tcp, "tls", &ISTIO, mesh()),
                    chain(&tcp, "raw_buffer", &[], None),
                    chain(&tcp, "tls", &[], None),
                ],
            ),
            ir::MtlsMode::Permissive,
        ),
        (
            "permissive TCP with a default chain",
            lds::Listener {
                default_filter_chain: Some(tcp.filter_chains[0].clone()),
                ..with(&tcp, vec![chain(&tcp, "tls", &ISTIO, mesh())])
            },
            ir::MtlsMode::Permissive,
        ),
    ];
    for (what, listener, mode) in rows {
        let listener = read(&listener).unwrap_or_else(|refusal| panic!("{what}: {refusal}"));
        assert_eq!(listener.mtls, mode, "{what}");
        assert_eq!(listener.authorization.0, [of_the_trust_domain()], "{what}");
    }
    let clear = with(&http, vec![chain(&http, "raw_buffer", &[], None)]);
    assert_eq!(read(&clear).unwrap().mtls, ir::MtlsMode::Disable);
}

/// A port without a protocol: istiod sniffs, with chains for HTTP and for TCP on one listener.
#[test]
fn chains_of_different_protocols_are_refused_with_what_to_do() {
    let (http, tcp) = (messages::inline_listener(), messages::tcp_listener());
    let sniffed = with(&http, vec![chain(&http, "raw_buffer", &[], None), chain(&tcp, "tls", &[], None)]);
    let refusal = read(&sniffed).unwrap_err();
    assert_eq!(refusal.field, "filter_chains[1]");
    assert!(refusal.reason.contains("give each protocol a listener of its own"), "{refusal}");
}

const HTTP: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
const CLEAR_HTTP: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];

fn for_port(port: u32, mut chain: lds::FilterChain) -> lds::FilterChain {
    chain.name = format!("0.0.0.0_{port}");
    chain.filter_chain_match.get_or_insert_default().destination_port =
        Some(envoy_types::pb::google::protobuf::UInt32Value { value: port });
    chain
}

fn listener_filter(name: &str, config: envoy_types::pb::google::protobuf::Any) -> lds::ListenerFilter {
    lds::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(lds::listener_filter::ConfigType::TypedConfig(config)),
        filter_disabled: None,
    }
}

/// istiod's one listener for all that comes in: chains for each port, and for the ports of which nobody speaks.
fn virtual_inbound() -> lds::Listener {
    use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
    let (http, tcp) = (messages::inline_listener(), messages::tcp_listener());
    let mesh = || Some(callers_of_the_mesh());
    let either = || {
        vec![
            chain(&http, "tls", &HTTP, mesh()),
            chain(&http, "raw_buffer", &CLEAR_HTTP, None),
            chain(&tcp, "tls", &["istio-peer-exchange", "istio"], mesh()),
            chain(&tcp, "raw_buffer", &[], None),
            chain(&tcp, "tls", &[], None),
        ]
    };
    let closed = lds::FilterChain { filter_chain_match: None, ..tcp.filter_chains[0].clone() };
    let mut chains = vec![for_port(15_006, closed)];
    chains.extend(either());
    chains.push(for_port(9080, chain(&http, "tls", &HTTP, mesh())));
    chains.push(for_port(9080, chain(&http, "raw_buffer", &[], None)));
    chains.extend(either().into_iter().map(|chain| for_port(7000, chain)));
    chains.push(for_port(7001, chain(&http, "tls", &HTTP, mesh())));
    chains.push(for_port(7001, chain(&tcp, "tls", &["istio-peer-exchange", "istio"], mesh())));
    lds::Listener {
        name: "virtualInbound".to_owned(),
        listener_filters: vec![listener_filter("envoy.filters.listener.original_dst", pack(&OriginalDst {}))],
        listener_filters_timeout: Some(Duration::default()),
        continue_on_listener_filters_timeout: true,
        ..with(&http, chains)
    }
}

#[test]
fn the_ports_of_istios_inbound_listener_are_read_and_so_is_what_is_left() {
    let listener = read(&virtual_inbound()).unwrap();
    assert_eq!(listener.intake, ir::Intake::Capture);
    let is_told = |protocol: &ir::ListenerProtocol| matches!(protocol, ir::ListenerProtocol::Detect(_));
    assert!(is_told(&listener.protocol) && listener.mtls == ir::MtlsMode::Permissive);
    let port = |number: u16| &listener.ports[&ir::Port::new(number).unwrap()];
    assert_eq!(listener.ports.len(), 4);
    assert!(matches!(port(15_006).protocol, ir::ListenerProtocol::Tcp(_)));
    assert_eq!(port(15_006).mtls, ir::MtlsMode::Disable);
    assert!(matches!(port(9080).protocol, ir::ListenerProtocol::Http(_)));
    assert_eq!(port(9080).mtls, ir::MtlsMode::Permissive);
    assert!(is_told(&port(7000).protocol) && port(7000).mtls == ir::MtlsMode::Permissive);
    assert!(is_told(&port(7001).protocol) && port(7001).mtls == ir::MtlsMode::Strict);
    assert_eq!(port(7001).authorization.0, [of_the_trust_domain()]);
    let ir::ListenerProtocol::Detect(detection) = &port(7001).protocol else { panic!("told by each connection") };
    assert_eq!(detection.authorization.0, [of_the_trust_domain()]);
}

#[test]
fn istios_outbound_listeners_are_read() {
    let (http, tcp) = (messages::listener(), messages::tcp_listener());
    let yes = || Some(BoolValue { value: true });
    let everything = lds::Listener {
        name: "virtualOutbound".to_owned(),
        use_original_dst: yes(),
        filter_chains: vec![for_port(15_001, tcp.filter_chains[0].clone())],
        default_filter_chain: Some(tcp.filter_chains[0].clone()),
        ..tcp.clone()
    };
    let listener = read(&everything).unwrap();
    assert_eq!((listener.intake, listener.ports.len()), (ir::Intake::Capture, 1));
    let mut by_name = chain(&tcp, "", &[], None);
    by_name.filter_chain_match.as_mut().unwrap().server_names = vec!["a.example.com".to_owned()];
    let shared = lds::Listener {
        name: "0.0.0.0_80".to_owned(),
        bind_to_port: Some(BoolValue { value: false }),
        filter_chains: vec![chain(&http, "raw_buffer", &CLEAR_HTTP, None), by_name],
        default_filter_chain: Some(tcp.filter_chains[0].clone()),
        ..http.clone()
    };
    let listener = read(&shared).unwrap();
    assert_eq!(listener.intake, ir::Intake::Handed);
    let ir::ListenerProtocol::Detect(detection) = listener.protocol else { panic!("told by each connection") };
    assert!(detection.http.is_some());
    assert_eq!(detection.by_server_name("A.example.com"), Some(0));
    assert_eq!(detection.by_server_name("b.example.com"), None);
}

#[test]
fn chains_that_leave_something_open_are_refused_by_name() {
    let (http, tcp) = (messages::inline_listener(), messages::tcp_listener());
    let mesh = || Some(callers_of_the_mesh());
    let clear = || chain(&http, "raw_buffer", &CLEAR_HTTP, None);
    let rest = || vec![chain(&tcp, "raw_buffer", &[], None), chain(&tcp, "tls", &[], None)];
    let with_rest = |more: Vec<lds::FilterChain>| [more, rest()].concat();
    let rows = [
        ("nobody takes other bytes", vec![clear()], "filter_chains"),
        ("nobody takes other TLS", vec![clear(), chain(&tcp, "raw_buffer", &[], None)], "filter_chains"),
        (
            "requests with a certificate alone",
            with_rest(vec![clear(), chain(&http, "tls", &HTTP, mesh())]),
            "filter_chains",
        ),
        ("bytes twice", with_rest(vec![clear(), chain(&tcp, "tls", &[], None)]), "filter_chains[3]"),
        (
            "bytes as HTTP",
            with_rest(vec![clear(), chain(&tcp, "raw_buffer", &CLEAR_HTTP, None)]),
            "filter_chains[1].filter_chain_match",
        ),
        (
            "mixed names",
            vec![chain(&http, "tls", &["istio", "http/1.1"], mesh())],
            "filter_chains[0].filter_chain_match.application_protocols",
        ),
    ];
    for (what, chains, field) in rows {
        let refusal = read(&with(&http, chains)).expect_err(what);
        assert_eq!(refusal.field, field, "{what}: {refusal}");
    }
}

fn rules(name: &str, permission: rbac::permission::Rule, principal: rbac::principal::Identifier) -> rbac::Rbac {
    let policy = rbac::Policy {
        permissions: vec![rbac::Permission { rule: Some(permission) }],
        principals: vec![rbac::Principal { identifier: Some(principal) }],
        ..Default::default()
    };
    rbac::Rbac { action: 1, policies: [(name.to_owned(), policy)].into(), audit_logging_options: None }
}

fn caller(name: &str) -> rbac::principal::Identifier {
    let id = exact(&format!("spiffe://cluster.local/ns/default/sa/{name}"));
    let authenticated = rbac::principal::Authenticated { principal_name: Some(id) };
    let one = rbac::Principal { identifier: Some(rbac::principal::Identifier::Authenticated(authenticated)) };
    let or = rbac::principal::Identifier::OrIds(rbac::principal::Set { ids: vec![one] });
    rbac::principal::Identifier::AndIds(rbac::principal::Set { ids: vec![rbac::Principal { identifier: Some(or) }] })
}

fn filter(name: &str, config: envoy_types::pb::google::protobuf::Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

#[test]
fn a_policy_and_its_dry_run_are_read() {
    let name = "ns[default]-policy[a]-rule[0]";
    let config = http_rbac::Rbac {
        rules: Some(rules(name, rbac::permission::Rule::Any(true), caller("curl"))),
        shadow_rules: Some(rules(name, rbac::permission::Rule::DestinationPort(80), caller("sleep"))),
        shadow_rules_stat_prefix: "istio_dry_run_allow_".to_owned(),
        ..Default::default()
    };
    let mut listener = messages::inline_listener();
    change(filter_config(&mut listener), |manager: &mut hcm::HttpConnectionManager| {
        manager.http_filters.insert(0, filter("envoy.filters.http.rbac", pack(&config)));
    });
    let read = read(&listener).unwrap();
    let [filter] = read.authorization.0.as_slice() else { panic!("one filter") };
    assert_eq!((filter.action, filter.enforced), (ir::RbacAction::Deny, true));
    let principal = |name: &str| {
        let id = ir::StringMatch::exact(format!("spiffe://cluster.local/ns/default/sa/{name}"));
        ir::Principal::And(vec![ir::Principal::Or(vec![ir::Principal::Authenticated(Some(id))])])
    };
    let policy = |permission, caller| ir::RbacPolicy {
        name: name.to_owned(),
        permissions: vec![permission],
        principals: vec![principal(caller)],
    };
    assert_eq!(filter.policies, [policy(ir::Permission::Any, "curl")]);
    let shadow = filter.shadow.as_ref().unwrap();
    assert_eq!(shadow.policies, [policy(ir::Permission::DestinationPort(80), "sleep")]);
}

#[test]
fn a_policy_on_tcp_is_read() {
    let config = network_rbac::Rbac {
        rules: Some(rules("p", rbac::permission::Rule::DestinationPort(3306), caller("shop"))),
        stat_prefix: "tcp.".to_owned(),
        ..Default::default()
    };
    let mut listener = messages::tcp_listener();
    let config = lds::filter::ConfigType::TypedConfig(pack(&config));
    let filter = lds::Filter { name: "envoy.filters.network.rbac".to_owned(), config_type: Some(config) };
    listener.filter_chains[0].filters.insert(0, filter);
    let filters = read(&listener).unwrap().authorization.0;
    assert_eq!(filters[0].policies[0].permissions, [ir::Permission::DestinationPort(3306)]);
}

/// istiod asks for a list where a claim may be one, for a text where it may not, or for either.
#[test]
fn claims_are_read_in_each_of_istios_forms() {
    use matcher::value_matcher::MatchPattern;
    let value = |pattern| matcher::ValueMatcher { match_pattern: Some(pattern) };
    let is_text = || value(MatchPattern::StringMatch(exact("admin")));
    let list = matcher::list_matcher::MatchPattern::OneOf(Box::new(is_text()));
    let is_listed =
        || value(MatchPattern::ListMatch(Box::new(matcher::ListMatcher { match_pattern: Some(list.clone()) })));
    let either = value(MatchPattern::OrMatch(matcher::OrMatcher { value_matchers: vec![is_listed(), is_text()] }));
    let key = |key: &str| matcher::metadata_matcher::PathSegment {
        segment: Some(matcher::metadata_matcher::path_segment::Segment::Key(key.to_owned())),
    };
    let expected = ir::ClaimMatch {
        path: vec!["realm".to_owned(), "roles".to_owned()],
        value: ir::StringMatch::exact("admin"),
        invert: false,
    };
    for value in [is_text(), is_listed(), either] {
        let condition = matcher::MetadataMatcher {
            filter: "envoy.filters.http.jwt_authn".to_owned(),
            path: vec![key("payload"), key("realm"), key("roles")],
            value: Some(value),
            invert: false,
        };
        let mut table = messages::route_table();
        table.virtual_hosts[0].routes[0].r#match.as_mut().unwrap().dynamic_metadata = vec![condition];
        let Decoded::Route(table) = decode(Kind::Route, &pack(&table)).unwrap() else { panic!("a table") };
        assert_eq!(table.virtual_hosts[0].routes[0].matcher.claims, std::slice::from_ref(&expected));
    }
}

#[test]
fn tokens_are_read_with_envoys_defaults() {
    use jwt::jwt_requirement::RequiresType;
    let provider = jwt::JwtProvider {
        issuer: "https://issuer.example".to_owned(),
        forward: true,
        payload_in_metadata: "payload".to_owned(),
        jwks_source_specifier: Some(jwt::jwt_provider::JwksSourceSpecifier::LocalJwks(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString("{}".to_owned())),
            watched_directory: None,
        })),
        ..Default::default()
    };
    let one = |requires| jwt::JwtRequirement { requires_type: Some(requires) };
    let requirements =
        vec![one(RequiresType::ProviderName("origins-0".to_owned())), one(RequiresType::AllowMissing(Empty {}))];
    let any = one(RequiresType::RequiresAny(jwt::JwtRequirementOrList { requirements }));
    let rule = jwt::RequirementRule {
        r#match: messages::route_table().virtual_hosts[0].routes[2].r#match.clone(),
        requirement_type: Some(jwt::requirement_rule::RequirementType::RequirementName("istio".to_owned())),
    };
    let config = jwt::JwtAuthentication {
        providers: [("origins-0".to_owned(), provider)].into(),
        rules: vec![rule],
        requirement_map: [("istio".to_owned(), any)].into(),
        bypass_cors_preflight: true,
        ..Default::default()
    };
    let mut listener = messages::inline_listener();
    change(filter_config(&mut listener), |manager: &mut hcm::HttpConnectionManager| {
        manager.http_filters.insert(0, filter("envoy.filters.http.jwt_authn", pack(&config)));
    });
    let ir::ListenerProtocol::Http(manager) = read(&listener).unwrap().protocol else { panic!("HTTP") };
    let provider = &manager.jwt.providers[0];
    assert_eq!(provider.clock_skew, std::time::Duration::from_secs(60));
    assert_eq!(provider.jwks, ir::Jwks::Inline("{}".to_owned()));
    let origins = ir::JwtRequirement::Provider("origins-0".to_owned());
    let expected = ir::JwtRequirement::Any(vec![origins, ir::JwtRequirement::AllowMissing]);
    assert_eq!(manager.jwt.rules[0].requirement, expected);
}
