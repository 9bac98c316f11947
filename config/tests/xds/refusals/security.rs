//! Who may call, with which certificate and which token.

use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3 as jwt;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3 as http_rbac;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3 as network_rbac;

use super::*;

fn strict(edit: impl FnOnce(&mut lds::Listener)) -> Refusal {
    let mut listener = messages::strict_listener();
    edit(&mut listener);
    refused(Kind::Listener, &listener)
}

/// The TLS context of a listener.
fn callers(edit: impl FnOnce(&mut tls::DownstreamTlsContext)) -> Refusal {
    strict(|it| match &mut it.filter_chains[0].transport_socket.as_mut().unwrap().config_type {
        Some(core::transport_socket::ConfigType::TypedConfig(any)) => change(any, edit),
        None => panic!("a typed config"),
    })
}

fn callers_common(edit: impl FnOnce(&mut tls::CommonTlsContext)) -> Refusal {
    callers(|it| edit(it.common_tls_context.as_mut().unwrap()))
}

/// A filter of the strict listener: 0 the tokens, 1 CUSTOM, 2 DENY, …
fn http_filter_of<M: Message + Name + Default>(number: usize, edit: impl FnOnce(&mut M)) -> Refusal {
    strict(|it| {
        change(filter_config(it), |manager: &mut hcm::HttpConnectionManager| {
            match &mut manager.http_filters[number].config_type {
                Some(hcm::http_filter::ConfigType::TypedConfig(any)) => change(any, edit),
                _ => panic!("a typed config"),
            }
        });
    })
}

fn filters(edit: impl FnOnce(&mut Vec<hcm::HttpFilter>)) -> Refusal {
    strict(|it| change(filter_config(it), |manager: &mut hcm::HttpConnectionManager| edit(&mut manager.http_filters)))
}

fn deny(edit: impl FnOnce(&mut http_rbac::Rbac)) -> Refusal {
    http_filter_of(2, edit)
}

fn policy(edit: impl FnOnce(&mut rbac::Policy)) -> Refusal {
    deny(|it| edit(it.rules.as_mut().unwrap().policies.values_mut().next().unwrap()))
}

fn permission(rule: rbac::permission::Rule) -> Refusal {
    policy(|it| it.permissions[0].rule = Some(rule))
}

fn principal(identifier: rbac::principal::Identifier) -> Refusal {
    policy(|it| it.principals[0].identifier = Some(identifier))
}

#[test]
fn ways_to_come_in_that_leno_does_not_know_are_refused() {
    let condition = |it: &mut lds::Listener, edit: fn(&mut lds::FilterChainMatch)| {
        edit(it.filter_chains[0].filter_chain_match.as_mut().unwrap());
    };
    let tcp = |edit: fn(&mut Vec<lds::FilterChain>)| {
        let mut listener = messages::permissive_tcp_listener();
        edit(&mut listener.filter_chains);
        refused(Kind::Listener, &listener)
    };
    check(vec![
        (
            strict(|it| condition(it, |it| it.application_protocols = vec!["h2".to_owned()])),
            "filter_chains[0].filter_chain_match.application_protocols",
        ),
        (
            strict(|it| condition(it, |it| it.transport_protocol = "quic".to_owned())),
            "filter_chains[0].filter_chain_match.transport_protocol",
        ),
        (
            strict(|it| condition(it, |it| it.transport_protocol = "raw_buffer".to_owned())),
            "filter_chains[0].filter_chain_match.transport_protocol",
        ),
        (
            strict(|it| condition(it, |it| it.destination_port = number(80))),
            "filter_chains[0].filter_chain_match.destination_port",
        ),
        // HTTP is not spoken inside a handshake that nobody ends.
        (strict(|it| it.filter_chains[0].transport_socket = None), "filter_chains"),
        // Callers with ALPN of the mesh and no TLS.
        (tcp(|it| it[0].transport_socket = None), "filter_chains[0].transport_socket"),
        // Nobody takes other handshakes, nobody takes clear text, or TLS is ended for everybody.
        (tcp(|it| drop(it.remove(1))), "filter_chains"),
        (tcp(|it| drop(it.remove(2))), "filter_chains"),
        (tcp(|it| it[0].filter_chain_match.as_mut().unwrap().application_protocols.clear()), "filter_chains"),
        // One way for the mesh, another for the others.
        (tcp(|it| drop(it[2].filters.remove(0))), "filter_chains[2]"),
    ]);
}

#[test]
fn tls_contexts_that_would_let_others_in_are_refused() {
    let at = "filter_chains[0].transport_socket.typed_config";
    let rows: Vec<Row> = vec![
        (callers(|it| it.require_client_certificate = None), "require_client_certificate"),
        (callers(|it| it.require_client_certificate = no()), "require_client_certificate"),
        (callers(|it| it.require_sni = yes()), "require_sni"),
        (callers(|it| it.ocsp_staple_policy = 2), "ocsp_staple_policy"),
        (callers(|it| it.common_tls_context = None), "common_tls_context"),
        (
            callers_common(|it| it.tls_certificate_sds_secret_configs[0].name = "mine".to_owned()),
            "common_tls_context.tls_certificate_sds_secret_configs[0].name",
        ),
        // Roots of the mesh for another certificate than the mesh's, and a secret that would be a file elsewhere.
        (
            callers_common(|it| it.tls_certificate_sds_secret_configs[0].name = "kubernetes://gateway".to_owned()),
            "common_tls_context",
        ),
        (
            callers_common(|it| it.tls_certificate_sds_secret_configs[0].name = "kubernetes://../gateway".to_owned()),
            "common_tls_context.tls_certificate_sds_secret_configs[0].name",
        ),
        (callers_common(|it| it.validation_context_type = None), "common_tls_context.validation_context"),
        (
            callers_common(|it| it.tls_params.as_mut().unwrap().tls_maximum_protocol_version = 3),
            "common_tls_context.tls_params.tls_maximum_protocol_version",
        ),
        (
            callers_common(|it| match &mut it.validation_context_type {
                Some(tls::common_tls_context::ValidationContextType::CombinedValidationContext(combined)) => {
                    let name = tls::SubjectAltNameMatcher { san_type: 2, ..Default::default() };
                    let context = combined.default_validation_context.as_mut().unwrap();
                    context.match_typed_subject_alt_names.push(name);
                }
                _ => panic!("a combined context"),
            }),
            "common_tls_context.combined_validation_context.default_validation_context.\
             match_typed_subject_alt_names[0].san_type",
        ),
    ];
    for (refusal, field) in rows {
        assert_eq!(refusal.field, format!("{at}.{field}"), "{refusal}");
    }
}

#[test]
fn policies_that_leno_cannot_evaluate_are_refused() {
    use rbac::permission::Rule;
    use rbac::principal::Identifier;
    let at = "filter_chains[0].filters[0].http_filters[2].typed_config";
    let in_policy = "rules.policies[ns[default]-policy[d]-rule[0]]";
    let config = || core::TypedExtensionConfig { name: "mine".to_owned(), typed_config: Some(unknown()) };
    let metadata = |filter: &str| matcher::MetadataMatcher { filter: filter.to_owned(), ..Default::default() };
    let sourced = rbac::SourcedMetadata { metadata_matcher: None, metadata_source: 1 };
    let range = |start, end| Rule::DestinationPortRange(kinds::Int32Range { start, end });
    let net = |prefix: &str, length| {
        Rule::DestinationIp(core::CidrRange { address_prefix: prefix.to_owned(), prefix_len: number(length) })
    };
    let rows: Vec<Row> = vec![
        (policy(|it| it.condition = Some(Default::default())), "condition"),
        (policy(|it| it.checked_condition = Some(Default::default())), "checked_condition"),
        (policy(|it| it.cel_config = Some(Default::default())), "cel_config"),
        (policy(|it| it.permissions[0].rule = None), "permissions[0].rule"),
        (policy(|it| it.principals[0].identifier = None), "principals[0].identifier"),
        (permission(Rule::Any(false)), "permissions[0].any"),
        (permission(Rule::Matcher(config())), "permissions[0].matcher"),
        (permission(Rule::UriTemplate(config())), "permissions[0].uri_template.typed_config"),
        (permission(Rule::DestinationPort(65_536)), "permissions[0].destination_port"),
        (permission(range(-1, 5)), "permissions[0].destination_port_range.start"),
        (permission(range(5, 5)), "permissions[0].destination_port_range.end"),
        (permission(range(5, 65_537)), "permissions[0].destination_port_range.end"),
        (permission(net("10.0.0", 8)), "permissions[0].destination_ip.address_prefix"),
        (permission(net("10.0.0.0", 33)), "permissions[0].destination_ip.prefix_len"),
        (permission(Rule::SourcedMetadata(sourced.clone())), "permissions[0].sourced_metadata.metadata_source"),
        (principal(Identifier::Any(false)), "principals[0].any"),
        (principal(Identifier::FilterState(Default::default())), "principals[0].filter_state"),
        (principal(Identifier::Custom(config())), "principals[0].custom"),
        #[allow(deprecated)]
        (principal(Identifier::Metadata(metadata("istio_authn"))), "principals[0].metadata.filter"),
        #[allow(deprecated)]
        (principal(Identifier::Metadata(metadata("envoy.filters.http.jwt_authn"))), "principals[0].metadata.path"),
        (principal(Identifier::SourcedMetadata(sourced)), "principals[0].sourced_metadata.metadata_source"),
    ];
    for (refusal, field) in rows {
        assert_eq!(refusal.field, format!("{at}.{in_policy}.{field}"), "{refusal}");
    }
    let rows: Vec<Row> = vec![
        (deny(|it| it.matcher = Some(Default::default())), "matcher"),
        (deny(|it| it.shadow_matcher = Some(Default::default())), "shadow_matcher"),
        (deny(|it| it.rules.as_mut().unwrap().action = 9), "rules.action"),
        (deny(|it| it.shadow_rules.as_mut().unwrap().action = 9), "shadow_rules.action"),
    ];
    for (refusal, field) in rows {
        assert_eq!(refusal.field, format!("{at}.{field}"), "{refusal}");
    }
}

#[test]
fn filters_in_the_wrong_place_or_under_the_wrong_name_are_refused() {
    let at = "filter_chains[0].filters[0].http_filters";
    let rows: Vec<Row> = vec![
        // Policies would look at claims that are not verified yet.
        (filters(|it| it.swap(0, 1)), "[1]"),
        (filters(|it| it.insert(1, it[0].clone())), "[1]"),
        (filters(|it| it[2].name = "mine".to_owned()), "[2].name"),
        (filters(|it| it[2].disabled = true), "[2].disabled"),
        (filters(|it| it[0].disabled = true), "[0].disabled"),
    ];
    for (refusal, field) in rows {
        assert_eq!(refusal.field, format!("{at}{field}"), "{refusal}");
    }
    // On HTTP, Leno decides about requests.
    let network = lds::Filter {
        name: "rbac".to_owned(),
        config_type: Some(lds::filter::ConfigType::TypedConfig(pack(&network_rbac::Rbac::default()))),
    };
    check(vec![
        (listener(|it| it.filter_chains[0].filters.insert(0, network)), "filter_chains[0].filters"),
        (
            route(|it| {
                let config = pack(&http_rbac::RbacPerRoute::default());
                it.typed_per_filter_config.insert("mine".to_owned(), config);
            }),
            "virtual_hosts[0].routes[0].typed_per_filter_config[mine]",
        ),
        (
            route(|it| {
                let config = pack(&jwt::PerRouteConfig::default());
                it.typed_per_filter_config.insert("envoy.filters.http.jwt_authn".to_owned(), config);
            }),
            "virtual_hosts[0].routes[0].typed_per_filter_config[envoy.filters.http.jwt_authn]",
        ),
        (
            route(|it| {
                let off = pack(&rds::FilterConfig { disabled: true, ..Default::default() });
                it.typed_per_filter_config.insert("envoy.filters.http.jwt_authn".to_owned(), off);
            }),
            "virtual_hosts[0].routes[0].typed_per_filter_config[envoy.filters.http.jwt_authn].disabled",
        ),
    ]);
}

#[test]
fn tokens_that_leno_cannot_verify_as_asked_are_refused() {
    use super::core::data_source::Specifier;
    use jwt::jwt_provider::JwksSourceSpecifier;
    use jwt::jwt_requirement::RequiresType;
    use jwt::requirement_rule::RequirementType;
    fn tokens(edit: impl FnOnce(&mut jwt::JwtAuthentication)) -> Refusal {
        http_filter_of(0, edit)
    }
    fn provider(edit: impl FnOnce(&mut jwt::JwtProvider)) -> Refusal {
        tokens(|it| edit(it.providers.get_mut("origins-1").unwrap()))
    }
    let remote = |edit: fn(&mut jwt::RemoteJwks)| {
        provider(|it| match &mut it.jwks_source_specifier {
            Some(JwksSourceSpecifier::RemoteJwks(remote)) => edit(remote),
            _ => panic!("remote keys"),
        })
    };
    let requires = |requires| {
        let requirement = jwt::JwtRequirement { requires_type: Some(requires) };
        tokens(|it| it.rules[0].requirement_type = Some(RequirementType::Requires(requirement)))
    };
    let file = core::DataSource { specifier: Some(Specifier::Filename("/keys".to_owned())), watched_directory: None };
    let at = "filter_chains[0].filters[0].http_filters[0].typed_config";
    let rows: Vec<Row> = vec![
        (tokens(|it| it.filter_state_rules = Some(Default::default())), "filter_state_rules"),
        (tokens(|it| it.rules[0].r#match = None), "rules[0].match"),
        (tokens(|it| it.rules[0].requirement_type = None), "rules[0].requires"),
        (
            tokens(|it| it.rules[0].requirement_type = Some(RequirementType::RequirementName("x".to_owned()))),
            "rules[0].requirement_name",
        ),
        (requires(RequiresType::ProviderName("x".to_owned())), "rules[0].requires.provider_name"),
        (requires(RequiresType::ProviderAndAudiences(Default::default())), "rules[0].requires.provider_and_audiences"),
        (
            requires(RequiresType::ExtractOnlyWithoutValidation(Default::default())),
            "rules[0].requires.extract_only_without_validation",
        ),
        (provider(|it| it.subjects = Some(Default::default())), "providers[origins-1].subjects"),
        (provider(|it| it.max_lifetime = seconds(1)), "providers[origins-1].max_lifetime"),
        (provider(|it| it.pad_forward_payload_header = true), "providers[origins-1].pad_forward_payload_header"),
        (provider(|it| it.payload_in_metadata = "mine".to_owned()), "providers[origins-1].payload_in_metadata"),
        (provider(|it| it.forward_payload_header = "a b".to_owned()), "providers[origins-1].forward_payload_header"),
        (provider(|it| it.from_headers[0].name = "a b".to_owned()), "providers[origins-1].from_headers[0].name"),
        (
            provider(|it| it.claim_to_headers[0].claim_name.clear()),
            "providers[origins-1].claim_to_headers[0].claim_name",
        ),
        (provider(|it| it.jwks_source_specifier = None), "providers[origins-1].jwks_source_specifier"),
        (
            provider(|it| it.jwks_source_specifier = Some(JwksSourceSpecifier::LocalJwks(file))),
            "providers[origins-1].local_jwks.filename",
        ),
        (remote(|it| it.http_uri = None), "providers[origins-1].remote_jwks.http_uri"),
        (
            remote(|it| it.http_uri.as_mut().unwrap().uri = "file:///etc/passwd".to_owned()),
            "providers[origins-1].remote_jwks.http_uri.uri",
        ),
        (
            remote(|it| it.http_uri.as_mut().unwrap().http_upstream_type = None),
            "providers[origins-1].remote_jwks.http_uri.cluster",
        ),
        (
            remote(|it| it.http_uri.as_mut().unwrap().timeout = None),
            "providers[origins-1].remote_jwks.http_uri.timeout",
        ),
    ];
    for (refusal, field) in rows {
        assert_eq!(refusal.field, format!("{at}.{field}"), "{refusal}");
    }
}
