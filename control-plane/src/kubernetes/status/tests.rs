use leno_config::diagnostic::codes;

use super::*;

fn subject(generation: i64, conditions: Vec<Value>) -> Subject {
    Subject {
        kind: "VirtualService".to_owned(),
        api_version: "networking.istio.io/v1".to_owned(),
        key: Key::new("shop", "reviews"),
        uid: "u".to_owned(),
        generation,
        conditions,
    }
}

fn reach(has: usize, of: usize, refused: &[(&str, &str)]) -> Counted<'static> {
    let refused = refused.iter().map(|(node, text)| ((*node).to_owned(), (*text).into())).collect();
    Counted { reach: Reach { has, of, refused }, by: "leno-0" }
}

fn in_force() -> Standing {
    Standing { since: 3, ..Standing::default() }
}

fn written(conditions: &[Value], name: &str) -> (String, String, String) {
    let found = conditions.iter().find(|condition| condition["type"] == name).unwrap();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

fn words_of(status: &str, reason: &str, message: &str) -> (String, String, String) {
    (status.to_owned(), reason.to_owned(), message.to_owned())
}

#[test]
fn proxies_are_counted_and_who_refuses_is_quoted() {
    let refusals = [("a.shop", "9080: routes[0]: no"), ("b.shop", "no"), ("c.shop", "no"), ("d.shop", "no")];
    for (reach, expected) in [
        (reach(122, 122, &[]), words_of("True", "Everywhere", "122/122 of the proxies of leno-0")),
        (reach(61, 122, &[]), words_of("False", "Pending", "61/122 of the proxies of leno-0")),
        (reach(0, 0, &[]), words_of("Unknown", "NoProxies", "0/0 of the proxies of leno-0")),
        (
            reach(121, 122, &refusals[..1]),
            words_of("False", "Refused", "121/122 of the proxies of leno-0; refused by a.shop: 9080: routes[0]: no"),
        ),
        (
            reach(118, 122, &refusals),
            words_of(
                "False",
                "Refused",
                "118/122 of the proxies of leno-0; refused by a.shop: 9080: routes[0]: no; refused by b.shop: no; refused by c.shop: no; and by 1 more",
            ),
        ),
    ] {
        let all = conditions(&subject(1, Vec::new()), &[], &in_force(), &reach, SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(written(&all, "Propagated"), expected);
    }
}

#[test]
fn a_rule_that_is_not_taken_says_why_in_the_words_of_validate() {
    let finding = |code, path: &str, message: &str| Diagnostic {
        path: path.to_owned(),
        resource: Some(id_of(&subject(1, Vec::new()))),
        help: Some("did you mean `hosts`?".to_owned()),
        ..Diagnostic::new(code, message)
    };
    let findings = [
        finding(codes::UNKNOWN_HOST, "spec.hosts[0]", "no service has the host"),
        finding(codes::UNKNOWN_FIELD, "spec.hots", "VirtualService has no field `hots`"),
    ];
    let held_back = BTreeMap::from([(id_of(&subject(1, Vec::new())), "has an error".to_owned())]);
    let standings = Ledger::default().standings(&findings, &held_back);
    let standing = &standings[&id_of(&subject(1, Vec::new()))];
    let all = conditions(&subject(1, Vec::new()), &[], standing, &reach(0, 2, &[]), SystemTime::UNIX_EPOCH).unwrap();
    let expected = "has an error; error[L0005]: spec.hots: VirtualService has no field `hots` (did you mean `hosts`?); \
                    warning[L0201]: spec.hosts[0]: no service has the host (did you mean `hosts`?)";
    assert_eq!(written(&all, "Accepted"), words_of("False", "Invalid", expected));
    assert_eq!(written(&all, "Propagated").1, "NotInForce");
}

#[test]
fn nothing_is_written_where_nothing_has_changed_or_the_mesh_only_breathes() {
    let (now, later) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(60));
    let first = conditions(&subject(1, Vec::new()), &[], &in_force(), &reach(2, 2, &[]), now).unwrap();
    let again = |generation: i64, reach: &Counted<'_>| {
        conditions(&subject(generation, Vec::new()), &first, &in_force(), reach, later).is_some()
    };
    for (what, generation, reach, expected) in [
        ("the same", 1, reach(2, 2, &[]), false),
        ("a pod more", 1, reach(3, 3, &[]), false),
        ("a pod that is being brought up", 1, reach(2, 3, &[]), false),
        ("everybody is gone", 1, reach(0, 0, &[]), false),
        ("somebody refuses", 1, reach(2, 3, &[("a.shop", "no")]), true),
        ("another edit", 2, reach(2, 2, &[]), true),
    ] {
        assert_eq!(again(generation, &reach), expected, "{what}");
    }
    let pending = conditions(&subject(1, Vec::new()), &[], &in_force(), &reach(1, 2, &[]), now).unwrap();
    let more = conditions(&subject(1, Vec::new()), &pending, &in_force(), &reach(2, 2, &[]), later);
    assert_eq!(
        written(&more.unwrap(), "Propagated").2,
        "2/2 of the proxies of leno-0",
        "on the way every number is news"
    );
}

#[test]
fn conditions_of_others_stay_and_a_time_says_since_when() {
    let other = json!({ "type": "Reconciled", "status": "True" });
    let (now, later) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(60));
    let first =
        conditions(&subject(1, vec![other.clone()]), std::slice::from_ref(&other), &in_force(), &reach(1, 1, &[]), now);
    let first = first.unwrap();
    assert_eq!(first[0], other);
    let second = conditions(&subject(2, Vec::new()), &first, &in_force(), &reach(0, 1, &[]), later).unwrap();
    let times: Vec<_> = second[1..].iter().map(|it| it["lastTransitionTime"].as_str().unwrap()).collect();
    assert_eq!(times, ["1970-01-01T00:00:00Z", "1970-01-01T00:01:00Z"], "only one of the two has turned");
    assert_eq!(second[1]["observedGeneration"], 2);
}

#[test]
fn a_rule_is_in_force_since_the_generation_in_which_it_changed_last() {
    let (a, b) = (id_of(&subject(1, Vec::new())), ResourceId { name: "b".into(), ..id_of(&subject(1, Vec::new())) });
    let (old, new): (Arc<str>, Arc<str>) = ("old".into(), "new".into());
    let mut ledger = Ledger::default();
    let since = |ledger: &Ledger, id: &ResourceId| {
        ledger.standings(&[], &BTreeMap::new()).get(id).map(|standing| standing.since)
    };
    ledger.in_force([(&a, &old), (&b, &old)].into_iter(), 4);
    ledger.in_force([(&a, &new), (&b, &old)].into_iter(), 7);
    assert_eq!((since(&ledger, &a), since(&ledger, &b)), (Some(7), Some(4)));
    ledger.in_force([(&b, &old)].into_iter(), 8);
    assert_eq!((since(&ledger, &a), since(&ledger, &b)), (None, Some(4)));
}

#[test]
fn every_subject_has_an_address() {
    for kind in custom_kinds() {
        let api_version = format!("{}/{}", kind.group, kind.versions[0]);
        let resource =
            resource_of(&Subject { kind: kind.name.to_owned(), api_version, ..subject(1, Vec::new()) }).unwrap();
        assert_eq!((resource.plural, resource.group), (kind.plural(), kind.group.to_owned()));
    }
}
