use clap::{FromArgMatches as _, Subcommand as _};
use leno_config::compile::compile;
use leno_config::mesh::Mesh;
use leno_config::rules::{self, SourceText};
use serde::Serialize;

use super::*;

#[derive(Debug, clap::Subcommand)]
enum Command {
    Config(Arguments),
}

const RULES: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {selector: {app: db}, ports: [{name: tcp, port: 5432}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: reviews-1}
spec: {address: 10.0.0.1, labels: {app: reviews, version: v1}, locality: eu/eu-1}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{headers: {end-user: {exact: jason}}, uri: {prefix: /a}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - match: [{uri: {exact: /old}}]
    redirect: {uri: /new}
  - route:
    - {destination: {host: reviews, subset: v1}, weight: 3}
    - {destination: {host: reviews, subset: v2}, weight: 1}
";

/// What a proxy that these rules are for would say of itself.
fn holdings() -> Holdings {
    let source = SourceText { name: "rules.yaml".into(), text: RULES.into() };
    let mesh = Mesh::new(&rules::parse(&[source]).documents);
    let resources = compile(&mesh, &Mesh::anonymous_proxy("default"));
    fn rows<'a, K: ToString + 'a, T: Serialize + 'a>(of: impl IntoIterator<Item = (&'a K, &'a T)>) -> Value {
        let row = |(name, one): (&K, &T)| json!({"name": name.to_string(), "version": "0123456789", "resource": one});
        of.into_iter().map(row).collect()
    }
    let dump = json!({
        "listeners": rows(&resources.listeners),
        "routes": rows(&resources.routes),
        "clusters": rows(&resources.clusters),
        "endpoints": rows(&resources.endpoints),
    });
    let endpoint = |breaker: &str| {
        json!({
            "address": "10.0.0.1:9080", "weight": 1, "breaker": breaker, "reason": null, "open_for_ms": null,
            "ejections": 0, "healthy": null, "active": 1, "requests": 70, "successes": 69, "errors": 1,
        })
    };
    let cluster = |name: &str, breaker: &str| {
        json!({
            "name": name, "counts": {}, "limits": {}, "ejected": 0, "endpoints": [endpoint(breaker)], "found_by": null,
        })
    };
    let clusters = json!([
        cluster("outbound|9080|v1|reviews.default.svc.cluster.local", "closed"),
        cluster("outbound|9080||reviews.default.svc.cluster.local", "open"),
    ]);
    let certificates = json!({
        "certificate": {
            "id": "spiffe://cluster.local/ns/default/sa/shop", "serial": "1b", "is_valid": true,
            "valid_from": "2026-11-22T19:35:32Z", "valid_until": "2026-11-23T19:40:32Z",
        },
        "trust_domains": [{
            "trust_domain": "cluster.local",
            "roots": [{"days_left": -1.0, "serial": "2c", "valid_from": "2016-11-22T00:00:00Z", "valid_until": "2026-11-19T19:40:31Z"}],
        }],
    });
    let clusters = serde_json::from_value(clusters).unwrap();
    Holdings { dump: Dump::read(dump).unwrap(), clusters, certificates }
}

fn parsed(words: &[&str]) -> Arguments {
    let command = Command::augment_subcommands(clap::Command::new("leno"));
    let all = ["leno", "config"].into_iter().chain(words.iter().copied());
    let Command::Config(arguments) = Command::from_arg_matches(&command.get_matches_from(all)).unwrap();
    arguments
}

/// The tables at 80 columns.
fn shown(words: &[&str]) -> String {
    let Arguments { kind, filter, .. } = parsed(words);
    filter.check(kind).unwrap();
    let text = holdings().shown(&filter).text(kind, Room::Columns(80));
    anstream::adapter::strip_str(&text).to_string()
}

#[test]
fn listeners_are_shown_with_what_they_lead_to() {
    assert_eq!(
        shown(&["listeners"]),
        "\
ADDRESS     PORT  DIRECTION  PROTOCOL  ROUTE/CLUSTER    MTLS
127.0.0.1  15001  outbound   HTTP      15001            -
127.0.0.1   5432  outbound   TCP       db.default:5432  -
"
    );
    assert!(shown(&["listener", "--port", "5432"]).lines().count() == 2);
    assert_eq!(shown(&["l", "--direction", "inbound"]), "There are no listeners, or the filters leave none.\n");
}

#[test]
fn routes_are_shown_with_conditions_shares_and_rules() {
    let table = shown(&["routes", "--fqdn", "reviews"]);
    for part in ["reviews +7", "/a* end-user=jason", "redirected with 301", "75%", "default/reviews[2]"] {
        assert!(table.contains(part), "{part}\n{table}");
    }
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    assert!(!table.contains("Passthrough"), "{table}");
    assert!(shown(&["routes", "--name", "nobody"]).starts_with("There are no routes"));
}

#[test]
fn clusters_are_shown_by_the_parts_of_their_names() {
    assert_eq!(
        shown(&["clusters", "--fqdn", "reviews.default", "--direction", "outbound"]),
        "\
SERVICE                            PORT  SUBSET  DIRECTION  TYPE  RULE
reviews.default.svc.cluster.local  9080  v1      outbound   EDS   -
reviews.default.svc.cluster.local  9080  v2      outbound   EDS   -
reviews.default.svc.cluster.local  9080  -       outbound   EDS   -
"
    );
    assert_eq!(shown(&["clusters", "--subset", "v2"]).lines().count(), 2);
}

#[test]
fn endpoints_are_shown_as_they_stand_at_this_moment() {
    assert_eq!(
        shown(&["endpoints"]),
        "\
ENDPOINT       STATUS   OUTLIER  CLUSTER                  LOCALITY  WEIGHT
10.0.0.1:9080  HEALTHY  OK       reviews.default:9080/v1  eu/eu-1        1
10.0.0.1:9080  HEALTHY  EJECTED  reviews.default:9080     eu/eu-1        1
"
    );
}

#[test]
fn secrets_are_shown_without_keys() {
    assert_eq!(
        shown(&["secrets"]),
        "\
NAME     TYPE         VALID  NOT-AFTER             IDENTITY
default  certificate  yes    2026-11-23T19:40:32Z  spiffe://cluster.local/ns/
                                                   default/sa/shop
ROOTCA   root         NO     2026-11-19T19:40:31Z  cluster.local
"
    );
}

#[test]
fn all_has_every_table_and_data_has_everything() {
    let text = shown(&["all"]);
    for title in ["ADDRESS", "NAME ", "SERVICE", "ENDPOINT", "NOT-AFTER"] {
        assert!(text.contains(title), "{title}\n{text}");
    }
    let Arguments { filter, .. } = parsed(&["all", "--fqdn", "reviews"]);
    let raw = holdings().shown(&filter).raw(Kind::All);
    let names: Vec<_> = raw.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["clusters", "endpoints", "listeners", "routes", "secrets"]);
    assert_eq!(raw["routes"][0]["resource"]["virtual_hosts"].as_array().map(Vec::len), Some(1));
    assert_eq!(raw["clusters"].as_array().map(Vec::len), Some(3));
    assert_eq!(raw["clusters"][0]["resource"]["discovery"], json!({"eds": {"service": null}}));
}

#[test]
fn a_filter_that_makes_no_sense_is_refused_with_those_that_do() {
    for (words, says) in [
        (&["secrets", "--port", "1"][..], "secrets have no --port; leave it out"),
        (
            &["listeners", "--fqdn", "a"],
            "listeners have no --fqdn; what there is to choose by: --port, --direction, --name",
        ),
        (&["routes", "--direction", "inbound"], "routes have no --direction"),
    ] {
        let Arguments { kind, filter, .. } = parsed(words);
        let error = filter.check(kind).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}
