//! The authorization matrix: who may do what under which rules.

use leno_config::ir::{
    Authorization, HeaderMatch, PathTemplate, Permission, Principal, RbacAction, RbacFilter, Shadow, StringMatch,
};
use leno_proxy::policy::authorization::{Denial, Possible, Verdict, check, may_ever};
use leno_proxy::policy::jwt::Claims;

use crate::support::{NOBODY, Who, allow, claim, deny, filter, from, head, header, policy, text, to, view};

const REVIEWS: &str = "spiffe://cluster.local/ns/default/sa/reviews";

/// A request: who, what, with which headers; and whether it may.
type Row = (Who, &'static str, &'static [(&'static str, &'static str)], bool);

#[track_caller]
fn matrix(rules: &Authorization, rows: &[Row]) -> usize {
    for (who, line, headers, expected) in rows {
        let parts = head(line, headers);
        let decision = check(rules, &who.caller(), Some(&view(&parts, None)));
        assert_eq!(decision.verdict.is_allowed(), *expected, "{who:?} {line} {headers:?}\n{rules:?}");
    }
    rows.len()
}

fn as_who(id: &str) -> Who {
    Who::named(id)
}

fn any_path() -> Permission {
    Permission::Any
}

fn get() -> &'static str {
    "GET http://shop/a"
}

#[test]
fn an_identity_is_compared_to_the_letter() {
    let exact = allow(from(REVIEWS), any_path());
    let rows = [
        (as_who(REVIEWS), get(), &[][..], true),
        (NOBODY, get(), &[], false),
        (as_who("spiffe://cluster.local/ns/default/sa/reviews2"), get(), &[], false),
        (as_who("spiffe://cluster.local/ns/default/sa/review"), get(), &[], false),
        (as_who("spiffe://cluster.local/ns/default/sa/Reviews"), get(), &[], false),
        (as_who("spiffe://cluster.local.evil/ns/default/sa/reviews"), get(), &[], false),
        (as_who("spiffe://other/ns/default/sa/reviews"), get(), &[], false),
        (as_who("spiffe://cluster.local/ns/default/sa/reviews/x"), get(), &[], false),
        (NOBODY, get(), &[("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/default/sa/reviews")], false),
    ];
    let mut count = matrix(&exact, &rows);

    let prefix = allow(from("spiffe://cluster.local/ns/default/*"), any_path());
    count += matrix(
        &prefix,
        &[
            (as_who(REVIEWS), get(), &[], true),
            (as_who("spiffe://cluster.local/ns/default-2/sa/reviews"), get(), &[], false),
            (as_who("spiffe://cluster.local/ns/other/sa/reviews"), get(), &[], false),
            (NOBODY, get(), &[], false),
        ],
    );
    let suffix = allow(from("*/sa/reviews"), any_path());
    count += matrix(
        &suffix,
        &[
            (as_who(REVIEWS), get(), &[], true),
            (as_who("spiffe://other/ns/x/sa/reviews"), get(), &[], true),
            (as_who("spiffe://other/ns/x/sa/xreviews"), get(), &[], false),
        ],
    );
    let anybody_known = allow(Principal::Authenticated(None), any_path());
    count += matrix(&anybody_known, &[(as_who("spiffe://td"), get(), &[], true), (NOBODY, get(), &[], false)]);
    let not_reviews = allow(Principal::Not(Box::new(from(REVIEWS))), any_path());
    count += matrix(
        &not_reviews,
        &[
            (as_who(REVIEWS), get(), &[], false),
            (as_who("spiffe://cluster.local/ns/default/sa/ratings"), get(), &[], true),
            (NOBODY, get(), &[], true),
        ],
    );
    let namespace = allow(from("~spiffe://[^/]+/ns/default/.*"), any_path());
    count += matrix(
        &namespace,
        &[
            (as_who(REVIEWS), get(), &[], true),
            (as_who("spiffe://x/ns/other/sa/ns/default/y"), get(), &[], false),
            (NOBODY, get(), &[], false),
        ],
    );
    assert_eq!(count, 24);
}

#[test]
fn addresses_of_the_connection_and_of_the_caller_behind_it() {
    let net = |net: &str| net.parse::<ipnet::IpNet>().expect("a network");
    let direct = allow(Principal::DirectIp(net("10.0.0.0/24")), any_path());
    let at = |from: &'static str| Who { from, ..NOBODY };
    let mut count = matrix(
        &direct,
        &[
            (NOBODY, get(), &[], true),
            (at("10.0.1.1:1"), get(), &[], false),
            (at("[::ffff:10.0.0.7]:1"), get(), &[], true),
            (at("[::1]:1"), get(), &[], false),
            (at("10.0.1.1:1"), get(), &[("x-forwarded-for", "10.0.0.1")], false),
        ],
    );
    let remote = allow(Principal::RemoteIp(net("192.0.2.0/24")), any_path());
    count += matrix(
        &remote,
        &[
            (NOBODY, get(), &[("x-forwarded-for", "192.0.2.7")], true),
            (NOBODY, get(), &[("x-forwarded-for", "1.1.1.1, 192.0.2.7")], true),
            (NOBODY, get(), &[("x-forwarded-for", "192.0.2.7, 1.1.1.1")], false),
            (NOBODY, get(), &[("x-forwarded-for", "192.0.2.7"), ("x-forwarded-for", "1.1.1.1")], false),
            (NOBODY, get(), &[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "192.0.2.7")], true),
            (NOBODY, get(), &[("x-forwarded-for", "192.0.2.7:80")], false),
            (NOBODY, get(), &[("x-forwarded-for", "")], false),
            (NOBODY, get(), &[], false),
            (at("192.0.2.9:1"), get(), &[], true),
            (at("192.0.2.9:1"), get(), &[("x-forwarded-for", "1.1.1.1")], false),
            (at("192.0.2.9:1"), get(), &[("x-forwarded-for", "unknown")], true),
        ],
    );
    let six = allow(Principal::RemoteIp(net("fd00::/8")), any_path());
    count += matrix(
        &six,
        &[
            (NOBODY, get(), &[("x-forwarded-for", "fd00::1")], true),
            (NOBODY, get(), &[("x-forwarded-for", "fe80::1")], false),
        ],
    );
    let destination = allow(Principal::Any, Permission::DestinationIp(net("10.9.9.9/32")));
    let on = |to: &'static str| Who { to, ..NOBODY };
    count += matrix(&destination, &[(NOBODY, get(), &[], true), (on("10.9.9.8:8080"), get(), &[], false)]);
    let port = allow(Principal::Any, Permission::DestinationPort(8080));
    count += matrix(
        &port,
        &[
            (NOBODY, get(), &[], true),
            (on("10.9.9.9:8081"), get(), &[], false),
            (on("10.9.9.9:8081"), "GET http://shop:8080/", &[], false),
        ],
    );
    let ports = allow(Principal::Any, Permission::DestinationPorts { from: 80, to: 8080 });
    count += matrix(
        &ports,
        &[(on("1.1.1.1:80"), get(), &[], true), (on("1.1.1.1:8079"), get(), &[], true), (NOBODY, get(), &[], false)],
    );
    let every = allow(Principal::Any, Permission::DestinationPorts { from: 1, to: 65536 });
    count += matrix(&every, &[(on("1.1.1.1:65535"), get(), &[], true), (on("1.1.1.1:1"), get(), &[], true)]);
    let name = allow(Principal::Any, Permission::ServerName(text("*.example")));
    let named = |server_name| Who { server_name, ..NOBODY };
    count += matrix(
        &name,
        &[
            (named(Some("shop.example")), get(), &[], true),
            (named(Some("shop.example.evil")), get(), &[], false),
            (named(None), get(), &[], false),
        ],
    );
    assert_eq!(count, 31);
}

#[test]
fn what_is_asked_for() {
    let path = |pattern| allow(Principal::Any, to(pattern));
    let mut count = matrix(
        &path("/admin"),
        &[
            (NOBODY, "GET http://shop/admin", &[], true),
            (NOBODY, "GET http://shop/admin?x=1", &[], true),
            (NOBODY, "GET http://shop/admin/", &[], false),
            (NOBODY, "GET http://shop/Admin", &[], false),
            (NOBODY, "GET http://shop/admin%2F", &[], false),
            (NOBODY, "GET http://shop/admin;x", &[], false),
            (NOBODY, "GET http://shop//admin", &[], false),
            (NOBODY, "GET http://shop/?/admin", &[], false),
        ],
    );
    count += matrix(
        &path("/api/*"),
        &[
            (NOBODY, "GET http://shop/api/", &[], true),
            (NOBODY, "GET http://shop/api/x/y", &[], true),
            (NOBODY, "GET http://shop/api", &[], false),
            (NOBODY, "GET http://shop/apix", &[], false),
        ],
    );
    count += matrix(
        &path("*.json"),
        &[(NOBODY, "GET http://shop/a.json", &[], true), (NOBODY, "GET http://shop/a?b.json", &[], false)],
    );
    let template = PathTemplate::new("/users/{*}/orders/{**}").expect("a template");
    count += matrix(
        &allow(Principal::Any, Permission::PathTemplate(template)),
        &[
            (NOBODY, "GET http://shop/users/7/orders/1/2", &[], true),
            (NOBODY, "GET http://shop/users/7/orders/", &[], true),
            (NOBODY, "GET http://shop/users//orders/1", &[], false),
            (NOBODY, "GET http://shop/users/7/8/orders/1", &[], false),
        ],
    );
    let method = allow(Principal::Any, Permission::Header(header(":method", Some("GET"))));
    count += matrix(
        &method,
        &[
            (NOBODY, "GET http://shop/", &[], true),
            (NOBODY, "POST http://shop/", &[], false),
            (NOBODY, "get http://shop/", &[], false),
            (NOBODY, "POST http://shop/", &[("x-http-method-override", "GET")], false),
        ],
    );
    let value = StringMatch::Exact { value: "shop.example".to_owned(), ignore_case: true };
    let host = HeaderMatch { value: Some(value), ..header(":authority", None) };
    count += matrix(
        &allow(Principal::Any, Permission::Header(host)),
        &[
            (NOBODY, "GET http://shop.example/", &[], true),
            (NOBODY, "GET http://SHOP.example/", &[], true),
            (NOBODY, "GET http://shop.example:80/", &[], false),
            (NOBODY, "GET http://shop/", &[("x-forwarded-host", "shop.example")], false),
        ],
    );
    let both = allow(Principal::And(vec![from(REVIEWS), Principal::Path(text("/a"))]), any_path());
    count += matrix(
        &both,
        &[
            (as_who(REVIEWS), "GET http://shop/a", &[], true),
            (as_who(REVIEWS), "GET http://shop/b", &[], false),
            (NOBODY, "GET http://shop/a", &[], false),
        ],
    );
    assert_eq!(count, 29);
}

#[test]
fn headers_in_several_lines_never_get_past_a_rule() {
    let role = |value| header("x-role", value);
    type Lines = &'static [(&'static str, &'static str)];
    let lines: [(Lines, [bool; 6]); 9] = [
        // Under ALLOW `admin`, DENY `admin`, ALLOW not `admin`, DENY `adm*`, ALLOW present, DENY absent.
        (&[], [false, true, true, true, false, false]),
        (&[("x-role", "admin")], [true, false, false, false, true, true]),
        (&[("x-role", "Admin")], [false, true, true, true, true, true]),
        (&[("x-role", "")], [false, true, true, true, true, true]),
        (&[("x-role", "admin"), ("x-role", "admin")], [false, false, false, false, true, true]),
        (&[("x-role", "guest"), ("x-role", "admin")], [false, false, false, false, true, true]),
        (&[("x-role", "admin"), ("x-role", "guest")], [false, false, false, false, true, true]),
        (&[("x-role", "guest,admin")], [false, true, true, true, true, true]),
        (&[("x-role", "guest"), ("x-role", "user")], [false, true, true, true, true, true]),
    ];
    let permission = |condition| Permission::Header(condition);
    let rules = [
        allow(Principal::Any, permission(role(Some("admin")))),
        deny(Principal::Any, permission(role(Some("admin")))),
        allow(Principal::Any, Permission::Not(Box::new(permission(role(Some("admin")))))),
        deny(Principal::Header(role(Some("adm*"))), any_path()),
        allow(Principal::Any, permission(role(None))),
        deny(Principal::Any, permission(HeaderMatch { invert: true, ..role(None) })),
    ];
    for (headers, expected) in lines {
        for (rules, expected) in rules.iter().zip(expected) {
            matrix(rules, &[(NOBODY, get(), headers, expected)]);
        }
    }
}

#[test]
fn a_condition_on_a_header_that_is_missing_is_what_envoy_makes_of_it() {
    let missing_is_empty = HeaderMatch { invert: true, missing_is_empty: true, ..header("x-a", Some("1")) };
    let inverted = HeaderMatch { invert: true, ..header("x-a", Some("1")) };
    let rows = [(missing_is_empty, true), (inverted, false), (header("x-a", Some("1")), false)];
    for (condition, expected) in rows {
        matrix(&allow(Principal::Header(condition), any_path()), &[(NOBODY, get(), &[], expected)]);
    }
}

#[test]
fn claims_of_a_verified_token() {
    let claims = Claims::parse(br#"{"iss":"https://issuer","sub":"eve","groups":["dev"],"scope":"read write"}"#);
    let rows = [
        ("iss", "https://issuer", true),
        ("sub", "adam", false),
        ("groups", "dev", true),
        ("groups", "ops", false),
        ("scope", "write", true),
        ("missing", "*", false),
    ];
    for (path, value, expected) in rows {
        for rules in [
            allow(Principal::Claim(claim(path, value)), any_path()),
            allow(Principal::Any, Permission::Claim(claim(path, value))),
        ] {
            let parts = head(get(), &[("authorization", "Bearer unverified")]);
            let with = check(&rules, &NOBODY.caller(), Some(&view(&parts, claims.as_ref())));
            assert_eq!(with.verdict.is_allowed(), expected, "{path} {value}");
            let without = check(&rules, &NOBODY.caller(), Some(&view(&parts, None)));
            assert!(!without.verdict.is_allowed(), "without a verified token, no claim is there");
        }
    }
}

fn order() -> Authorization {
    Authorization(vec![
        filter(RbacAction::Custom, vec![policy("custom", Principal::Any, to("/external"))]),
        filter(RbacAction::Deny, vec![policy("deny", Principal::Any, to("/secret*"))]),
        filter(
            RbacAction::Allow,
            vec![policy("a", Principal::Any, to("/a*")), policy("b", from(REVIEWS), to("/secret/b"))],
        ),
        filter(RbacAction::Log, vec![policy("audit", Principal::Any, to("/a/audited"))]),
    ])
}

#[test]
fn filters_are_passed_in_their_order_and_name_their_policy() {
    let denied = |action, policy| Verdict::Denied(Denial { action, policy });
    let rows = [
        ("/a", Verdict::Allowed(Some("a")), None),
        ("/a/audited", Verdict::Allowed(Some("a")), Some("audit")),
        ("/b", denied(RbacAction::Allow, None), None),
        ("/secret/b", denied(RbacAction::Deny, Some("deny")), None),
        ("/external", denied(RbacAction::Custom, Some("custom")), None),
    ];
    for (path, verdict, audited) in rows {
        let parts = head(&format!("GET http://shop{path}"), &[]);
        let rules = order();
        let decision = check(&rules, &as_who(REVIEWS).caller(), Some(&view(&parts, None)));
        assert_eq!((decision.verdict, decision.audited, decision.would_deny), (verdict, audited, None), "{path}");
    }
}

#[test]
fn rules_with_nothing_in_them() {
    let alone = |action, policies| Authorization(vec![filter(action, policies)]);
    let rows = [
        (Authorization::default(), true),
        (alone(RbacAction::Allow, vec![]), false),
        (alone(RbacAction::Deny, vec![]), true),
        (alone(RbacAction::Custom, vec![]), true),
        (alone(RbacAction::Log, vec![]), true),
        (allow(Principal::Any, Permission::Any), true),
        (deny(Principal::Any, Permission::Any), false),
        (allow(Principal::Or(vec![]), Permission::Any), false),
        (allow(Principal::Any, Permission::Or(vec![])), false),
        (alone(RbacAction::Log, vec![policy("all", Principal::Any, Permission::Any)]), true),
        (alone(RbacAction::Custom, vec![policy("all", Principal::Any, Permission::Any)]), false),
    ];
    for (rules, expected) in rows {
        matrix(&rules, &[(as_who(REVIEWS), get(), &[], expected)]);
    }
}

#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let shadow = |action, policies| RbacFilter {
        action,
        policies: Vec::new(),
        shadow: Some(Shadow { action, policies }),
        enforced: false,
    };
    let rules = Authorization(vec![
        shadow(RbacAction::Deny, vec![policy("tried-deny", Principal::Any, to("/secret"))]),
        shadow(RbacAction::Allow, vec![policy("tried-allow", Principal::Any, to("/a"))]),
    ]);
    let rows = [
        ("/a", None),
        ("/b", Some(Denial { action: RbacAction::Allow, policy: None })),
        ("/secret", Some(Denial { action: RbacAction::Deny, policy: Some("tried-deny") })),
    ];
    for (path, would_deny) in rows {
        let parts = head(&format!("GET http://shop{path}"), &[]);
        let decision = check(&rules, &NOBODY.caller(), Some(&view(&parts, None)));
        assert_eq!((decision.verdict, decision.would_deny), (Verdict::Allowed(None), would_deny), "{path}");
    }
    let mut enforced = rules.clone();
    enforced.0.push(filter(RbacAction::Deny, vec![policy("deny", Principal::Any, Permission::Any)]));
    let parts = head("GET http://shop/b", &[]);
    let decision = check(&enforced, &NOBODY.caller(), Some(&view(&parts, None)));
    assert!(!decision.verdict.is_allowed() && decision.would_deny.is_some(), "a dry run beside one that counts");
    assert_eq!(may_ever(&rules, &NOBODY.caller()), Possible::Yes);
}

/// Istio: in an ALLOW rule, fields of HTTP never hold on TCP; in a DENY rule they count as holding.
#[test]
fn on_tcp_what_is_about_http_lets_nobody_in_and_denies() {
    let http = [
        Permission::Header(header(":method", Some("GET"))),
        Permission::Not(Box::new(Permission::Header(header("x-a", None)))),
        to("/a"),
        Permission::PathTemplate(PathTemplate::new("/{**}").expect("a template")),
        Permission::Claim(claim("iss", "a")),
    ];
    for condition in http {
        let on_port = |port| Permission::And(vec![condition.clone(), Permission::DestinationPort(port)]);
        let rows = [
            (allow(Principal::Any, condition.clone()), false),
            (deny(Principal::Any, condition.clone()), false),
            (allow(Principal::Any, on_port(8080)), false),
            (deny(Principal::Any, on_port(8080)), false),
            (deny(Principal::Any, on_port(9)), true),
            (deny(from(REVIEWS), condition.clone()), true),
            (allow(Principal::Any, Permission::Or(vec![condition.clone(), Permission::DestinationPort(8080)])), true),
        ];
        for (rules, expected) in rows {
            assert_eq!(check(&rules, &NOBODY.caller(), None).verdict.is_allowed(), expected, "{rules:?}");
        }
    }
    let plain = [
        (allow(from(REVIEWS), Permission::DestinationPort(8080)), as_who(REVIEWS), true),
        (allow(from(REVIEWS), Permission::DestinationPort(8080)), NOBODY, false),
        (allow(Principal::RemoteIp("10.0.0.0/8".parse().expect("a network")), Permission::Any), NOBODY, true),
        (deny(Principal::Not(Box::new(Principal::Authenticated(None))), Permission::Any), NOBODY, false),
    ];
    for (rules, who, expected) in plain {
        assert_eq!(check(&rules, &who.caller(), None).verdict.is_allowed(), expected, "{rules:?}");
    }
}

#[test]
fn whether_a_connection_may_ever_be_of_use() {
    let rows = [
        (Authorization::default(), Possible::Yes),
        (allow(from(REVIEWS), Permission::Any), Possible::Yes),
        (allow(from(REVIEWS), to("/a")), Possible::Depends),
        (allow(from("spiffe://td/x"), to("/a")), Possible::No),
        (deny(from(REVIEWS), Permission::Any), Possible::No),
        (deny(from(REVIEWS), to("/a")), Possible::Depends),
        (deny(from("spiffe://td/x"), to("/a")), Possible::Yes),
        (allow(Principal::RemoteIp("192.0.2.0/24".parse().expect("a network")), Permission::Any), Possible::Depends),
        (allow(Principal::DirectIp("192.0.2.0/24".parse().expect("a network")), Permission::Any), Possible::No),
        (order(), Possible::Depends),
    ];
    for (rules, expected) in rows {
        assert_eq!(may_ever(&rules, &as_who(REVIEWS).caller()), expected, "{rules:?}");
    }
}
