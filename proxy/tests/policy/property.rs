//! Any rules, any caller, any request: the evaluator agrees with the naive one.

use http::request::Parts;
use leno_config::identity::SpiffeId;
use leno_config::ir::{Authorization, HeaderMatch, PathTemplate, Permission, Principal, RbacAction, RbacPolicy};
use leno_proxy::policy::authorization::{Caller, Possible, check, may_ever};
use leno_proxy::policy::jwt::Claims;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use crate::naive::World;
use crate::support::{claim, filter, head, header, text, view};

const IDS: [&str; 3] = ["spiffe://td/ns/a/sa/x", "spiffe://td/ns/a/sa/xy", "spiffe://other/ns/a/sa/x"];
const PATHS: [&str; 6] = ["/", "/a", "/a/b", "/A", "/a/b/c", "/a%2Fb"];
const VALUES: [&str; 4] = ["", "a", "b", "a,b"];
const ADDRESSES: [&str; 3] = ["10.0.0.1:1", "10.0.1.1:1", "[fd00::1]:1"];
const LOCALS: [&str; 3] = ["10.9.9.9:80", "10.9.9.9:8080", "[fd00::9]:80"];

fn pattern() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "*b", "a*", "*,*", "", "~[ab]+", "/a", "/a/*", "*/b", "spiffe://td/*", "*/sa/x"])
}

fn header_condition() -> impl Strategy<Value = HeaderMatch> {
    let name = select(vec![":method", ":authority", ":path", "x-role", "x-team", "x-forwarded-for"]);
    (name, option::of(pattern()), any::<bool>(), any::<bool>()).prop_map(|(name, value, invert, missing_is_empty)| {
        HeaderMatch { invert, missing_is_empty, ..header(name, value) }
    })
}

fn claim_condition() -> impl Strategy<Value = leno_config::ir::ClaimMatch> {
    let path = select(vec!["iss", "scope", "groups", "deep.role", "none"]);
    (path, pattern(), any::<bool>())
        .prop_map(|(path, value, invert)| leno_config::ir::ClaimMatch { invert, ..claim(path, value) })
}

fn net() -> impl Strategy<Value = ipnet::IpNet> {
    select(vec!["10.0.0.0/24", "10.0.0.1/32", "0.0.0.0/0", "fd00::/16", "10.9.9.9/32", "192.0.2.0/24"])
        .prop_map(|net| net.parse().expect("a network"))
}

fn permission() -> impl Strategy<Value = Permission> {
    let templates = select(vec!["/a/{*}", "/{**}", "/a/{**}/c"]);
    let leaf = prop_oneof![
        Just(Permission::Any),
        header_condition().prop_map(Permission::Header),
        pattern().prop_map(|pattern| Permission::Path(text(pattern))),
        templates.prop_map(|template| Permission::PathTemplate(PathTemplate::new(template).expect("a template"))),
        select(vec![80, 8080]).prop_map(Permission::DestinationPort),
        Just(Permission::DestinationPorts { from: 80, to: 8080 }),
        net().prop_map(Permission::DestinationIp),
        pattern().prop_map(|pattern| Permission::ServerName(text(pattern))),
        claim_condition().prop_map(Permission::Claim),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..3).prop_map(Permission::And),
            vec(inner.clone(), 1..3).prop_map(Permission::Or),
            inner.prop_map(|one| Permission::Not(Box::new(one))),
        ]
    })
}

fn principal() -> impl Strategy<Value = Principal> {
    let leaf = prop_oneof![
        Just(Principal::Any),
        option::of(pattern()).prop_map(|pattern| Principal::Authenticated(pattern.map(text))),
        select(IDS.to_vec()).prop_map(|id| Principal::Authenticated(Some(text(id)))),
        net().prop_map(Principal::DirectIp),
        net().prop_map(Principal::RemoteIp),
        header_condition().prop_map(Principal::Header),
        pattern().prop_map(|pattern| Principal::Path(text(pattern))),
        claim_condition().prop_map(Principal::Claim),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..3).prop_map(Principal::And),
            vec(inner.clone(), 1..3).prop_map(Principal::Or),
            inner.prop_map(|one| Principal::Not(Box::new(one))),
        ]
    })
}

fn authorization() -> impl Strategy<Value = Authorization> {
    let policy = (vec(principal(), 1..3), vec(permission(), 1..3)).prop_map(|(principals, permissions)| RbacPolicy {
        name: "policy".to_owned(),
        permissions,
        principals,
    });
    let action = select(vec![RbacAction::Allow, RbacAction::Deny, RbacAction::Custom, RbacAction::Log]);
    let filter = (action, vec(policy, 0..3), prop::bool::weighted(0.9))
        .prop_map(|(action, policies, enforced)| leno_config::ir::RbacFilter { enforced, ..filter(action, policies) });
    vec(filter, 0..4).prop_map(Authorization)
}

fn claims() -> impl Strategy<Value = Option<Value>> {
    let some = (pattern(), pattern(), vec(select(vec!["a", "b"]), 0..3), select(vec!["a", "b"])).prop_map(
        |(iss, scope, groups, role)| json!({"iss": iss, "scope": scope, "groups": groups, "deep": {"role": role}}),
    );
    option::of(some)
}

/// A caller and a request, with as many lines of each header as `lines` allows.
fn asked(lines: usize) -> impl Strategy<Value = Asked> {
    let values = || vec(select(VALUES.to_vec()), 0..=lines);
    let forwarded = option::of(select(vec!["10.0.0.1", "1.1.1.1, 10.0.1.1", "nonsense", "fd00::1"]));
    (
        (option::of(select(IDS.to_vec())), select(ADDRESSES.to_vec()), select(LOCALS.to_vec()), option::of(pattern())),
        (select(vec!["GET", "POST"]), select(PATHS.to_vec()), option::of(select(vec!["a", "q=1"]))),
        (values(), values(), forwarded, claims()),
    )
        .prop_map(
            |((identity, direct, local, server_name), (method, path, query), (role, team, forwarded, claims))| Asked {
                identity,
                direct,
                local,
                server_name,
                method,
                path,
                query,
                role,
                team,
                forwarded,
                claims,
            },
        )
}

#[derive(Debug, Clone)]
struct Asked {
    identity: Option<&'static str>,
    direct: &'static str,
    local: &'static str,
    server_name: Option<&'static str>,
    method: &'static str,
    path: &'static str,
    query: Option<&'static str>,
    role: Vec<&'static str>,
    team: Vec<&'static str>,
    forwarded: Option<&'static str>,
    claims: Option<Value>,
}

impl Asked {
    fn head(&self) -> Parts {
        let query = self.query.map(|query| format!("?{query}")).unwrap_or_default();
        let mut headers: Vec<_> = self.role.iter().map(|role| ("x-role", *role)).collect();
        headers.extend(self.team.iter().map(|team| ("x-team", *team)));
        headers.extend(self.forwarded.map(|list| ("x-forwarded-for", list)));
        head(&format!("{} http://a{}{query}", self.method, self.path), &headers)
    }

    /// Every way in which an app may read the headers that come in several lines.
    fn worlds(&self) -> Vec<World> {
        let readings = |lines: &[&'static str]| -> Vec<Option<String>> {
            match lines {
                [] => vec![None],
                [one] => vec![Some((*one).to_owned())],
                several => {
                    several.iter().map(|line| Some((*line).to_owned())).chain([Some(several.join(","))]).collect()
                }
            }
        };
        let mut worlds = Vec::new();
        for role in readings(&self.role) {
            for team in readings(&self.team) {
                let forwarded = self.forwarded.map(|list| ("x-forwarded-for".to_owned(), list.to_owned()));
                let role = role.clone().map(|role| ("x-role".to_owned(), role));
                let team = team.map(|team| ("x-team".to_owned(), team));
                worlds.push(World {
                    identity: self.identity.map(str::to_owned),
                    direct: self.direct.parse().expect("an address"),
                    local: self.local.parse().expect("an address"),
                    server_name: self.server_name.unwrap_or_default().to_owned(),
                    method: self.method.to_owned(),
                    authority: "a".to_owned(),
                    path: self.path.to_owned(),
                    query: self.query.map(str::to_owned),
                    headers: role.into_iter().chain(team).chain(forwarded).collect(),
                    claims: self.claims.clone(),
                });
            }
        }
        worlds
    }

    fn with_caller<T>(&self, ask: impl FnOnce(&Caller<'_>) -> T) -> T {
        let identity = self.identity.map(|id| SpiffeId::parse(id).expect("an ID"));
        ask(&Caller {
            identity: identity.as_ref(),
            direct: self.direct.parse().expect("an address"),
            local: self.local.parse().expect("an address"),
            server_name: self.server_name,
        })
    }

    fn is_allowed(&self, authorization: &Authorization) -> bool {
        let claims = self.claims.as_ref().and_then(|claims| Claims::parse(claims.to_string().as_bytes()));
        let parts = self.head();
        self.with_caller(|caller| {
            check(authorization, caller, Some(&view(&parts, claims.as_ref()))).verdict.is_allowed()
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn it_decides_as_the_naive_evaluator_does(authorization in authorization(), asked in asked(1)) {
        let [world] = asked.worlds().try_into().expect("one reading");
        prop_assert_eq!(asked.is_allowed(&authorization), world.passes(&authorization));
    }

    #[test]
    fn what_passes_passes_in_every_reading_of_repeated_headers(authorization in authorization(), asked in asked(3)) {
        if asked.is_allowed(&authorization) {
            prop_assert!(asked.worlds().iter().all(|world| world.passes(&authorization)));
        }
    }

    #[test]
    fn what_is_said_of_every_request_is_true_of_each(authorization in authorization(), asked in asked(1)) {
        let allowed = asked.is_allowed(&authorization);
        match asked.with_caller(|caller| may_ever(&authorization, caller)) {
            Possible::Yes => prop_assert!(allowed),
            Possible::No => prop_assert!(!allowed),
            Possible::Depends => {}
        }
    }
}
