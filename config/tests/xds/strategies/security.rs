//! Who may do what, and with which token.

use ipnet::IpNet;

use super::*;

/// What conditions can be on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Of {
    Requests,
    Connections,
}

fn action(with_custom: bool) -> impl Strategy<Value = RbacAction> {
    let mut actions = vec![RbacAction::Allow, RbacAction::Deny, RbacAction::Log];
    actions.extend(with_custom.then_some(RbacAction::Custom));
    prop::sample::select(actions)
}

/// What is only tried means the same as what is enforced, or CUSTOM could not be told from DENY.
pub(super) fn rbac_filter(with_custom: bool, of_what: Of) -> impl Strategy<Value = RbacFilter> {
    let enforced = (action(with_custom), policies(of_what), of((action(false), policies(of_what)))).prop_map(
        |(action, policies, shadow)| {
            let custom = action == RbacAction::Custom;
            let shadow = shadow.map(|(tried, policies)| Shadow {
                action: if custom && tried == RbacAction::Deny { action } else { tried },
                policies,
            });
            RbacFilter { action, policies, shadow, enforced: true }
        },
    );
    let tried = (action(with_custom), policies(of_what)).prop_map(|(action, policies)| RbacFilter {
        action,
        policies: Vec::new(),
        shadow: Some(Shadow { action, policies }),
        enforced: false,
    });
    prop_oneof![3 => enforced, 1 => tried]
}

/// In the order of their names.
fn policies(of_what: Of) -> impl Strategy<Value = Vec<RbacPolicy>> {
    btree_map(
        "ns\\[[a-z]{1,3}\\]-policy\\[[a-z]\\]-rule\\[[0-9]\\]",
        (vec(permission(of_what), 1..3), vec(principal(of_what), 1..3)),
        0..3,
    )
    .prop_map(|policies| {
        let policy = |(name, (permissions, principals))| RbacPolicy { name, permissions, principals };
        policies.into_iter().map(policy).collect()
    })
}

pub(super) fn net() -> impl Strategy<Value = IpNet> {
    (any::<IpAddr>(), 0..=32_u8).prop_map(|(ip, length)| IpNet::new(ip, length).unwrap())
}

fn permission(of_what: Of) -> impl Strategy<Value = Permission> {
    let template = prop::sample::select(vec!["/a/{*}/b", "/{**}", "/a/*", "/{*}/{**}/z", "/"]);
    let requests = prop_oneof![
        header_match().prop_map(Permission::Header),
        string_match().prop_map(Permission::Path),
        template.prop_map(|template| Permission::PathTemplate(PathTemplate::new(template).unwrap())),
    ];
    let connections = prop_oneof![
        Just(Permission::Any),
        any::<u16>().prop_map(Permission::DestinationPort),
        (any::<u16>(), 1..1_000_u32)
            .prop_map(|(from, more)| Permission::DestinationPorts { from, to: (u32::from(from) + more).min(65_536) }),
        net().prop_map(Permission::DestinationIp),
        string_match().prop_map(Permission::ServerName),
        claim_match().prop_map(Permission::Claim),
    ];
    let leaf = if of_what == Of::Requests {
        connections.boxed().prop_union(requests.boxed()).boxed()
    } else {
        connections.boxed()
    };
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..3).prop_map(Permission::And),
            vec(inner.clone(), 1..3).prop_map(Permission::Or),
            inner.prop_map(|condition| Permission::Not(Box::new(condition))),
        ]
    })
}

fn principal(of_what: Of) -> impl Strategy<Value = Principal> {
    let requests = prop_oneof![header_match().prop_map(Principal::Header), string_match().prop_map(Principal::Path)];
    let connections = prop_oneof![
        Just(Principal::Any),
        of(string_match()).prop_map(Principal::Authenticated),
        net().prop_map(Principal::DirectIp),
        net().prop_map(Principal::RemoteIp),
        claim_match().prop_map(Principal::Claim),
    ];
    let leaf = if of_what == Of::Requests {
        connections.boxed().prop_union(requests.boxed()).boxed()
    } else {
        connections.boxed()
    };
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..3).prop_map(Principal::And),
            vec(inner.clone(), 1..3).prop_map(Principal::Or),
            inner.prop_map(|condition| Principal::Not(Box::new(condition))),
        ]
    })
}

/// Rules of providers that exist; or nothing at all.
pub(super) fn jwt() -> impl Strategy<Value = JwtAuthentication> {
    let all = btree_map("[a-z]{2}-[0-9]", provider(), 1..3).prop_flat_map(|providers| {
        let names: Vec<String> = providers.keys().cloned().collect();
        let rule =
            (route_match(), requirement(names)).prop_map(|(matcher, requirement)| JwtRule { matcher, requirement });
        let named = |(name, provider)| JwtProvider { name, ..provider };
        let providers: Vec<_> = providers.into_iter().map(named).collect();
        vec(rule, 0..3).prop_map(move |rules| JwtAuthentication { providers: providers.clone(), rules })
    });
    prop_oneof![2 => Just(JwtAuthentication::default()), 1 => all]
}

/// Lists have two members at least, as Envoy demands.
fn requirement(providers: Vec<String>) -> impl Strategy<Value = JwtRequirement> {
    let leaf = prop_oneof![
        3 => prop::sample::select(providers).prop_map(JwtRequirement::Provider),
        1 => Just(JwtRequirement::AllowMissing),
        1 => Just(JwtRequirement::AllowMissingOrFailed),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 2..4).prop_map(JwtRequirement::Any),
            vec(inner, 2..4).prop_map(JwtRequirement::All),
        ]
    })
}

fn provider() -> impl Strategy<Value = JwtProvider> {
    let header = (header_name(), text()).prop_map(|(name, prefix)| JwtHeader { name: name.parse().unwrap(), prefix });
    let claim = (header_name(), name()).prop_map(|(name, claim)| ClaimHeader { name: name.parse().unwrap(), claim });
    let places = (vec(header, 0..3), vec(name(), 0..3), vec(name(), 0..3));
    let onward = (any::<bool>(), of(header_name()), vec(claim, 0..3));
    (of(name()), vec(text(), 0..3), jwks(), places, onward, 1..100_000_u64).prop_map(
        |(issuer, audiences, jwks, places, (forward, payload_header, claim_headers), skew)| {
            let (from_headers, from_params, from_cookies) = places;
            JwtProvider {
                name: String::new(),
                issuer,
                audiences,
                jwks,
                from_headers,
                from_params,
                from_cookies,
                forward,
                payload_header: payload_header.map(|name| name.parse().unwrap()),
                claim_headers,
                clock_skew: Duration::from_secs(skew),
            }
        },
    )
}

fn jwks() -> impl Strategy<Value = Jwks> {
    let remote = (name(), cluster_name(), duration(), duration()).prop_map(|(host, cluster, timeout, refresh)| {
        let uri = RemoteJwks::uri(&format!("https://{host}/jwks.json")).unwrap();
        Jwks::Remote(RemoteJwks { uri, cluster: cluster.to_string(), timeout, refresh })
    });
    prop_oneof![text().prop_map(Jwks::Inline), remote]
}

/// Bundles with and without the name of their trust domain.
pub(crate) fn secret() -> impl Strategy<Value = Secret> {
    let domain = prop_oneof![Just(String::new()), "[a-z0-9._-]{1,12}"];
    let bundle = "[ -~é]{1,16}".prop_map(|roots| TrustBundle { roots });
    (name(), btree_map(domain, bundle, 1..4), of("[ -~]{1,16}")).prop_map(|(name, bundles, revoked)| Secret {
        name,
        bundles,
        revoked,
    })
}
