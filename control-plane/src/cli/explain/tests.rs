use clap::{FromArgMatches as _, Subcommand as _};

use super::*;

#[derive(Debug, clap::Subcommand)]
enum Command {
    Explain(Arguments),
}

const RULES: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec:
  selector: {app: reviews}
  ports: [{name: http, port: 9080}]
---
apiVersion: v1
kind: Service
metadata: {name: productpage}
spec:
  selector: {app: productpage}
  ports: [{name: http, port: 9080}]
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  ports: [{name: tcp, port: 5432}]
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
spec: {address: 10.0.0.1, labels: {app: reviews, version: v1}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{sourceLabels: {app: productpage}, uri: {prefix: /own}}]
    route: [{destination: {host: reviews, subset: v1}}]
  - match: [{headers: {end-user: {exact: jason}}}, {uri: {exact: /jason}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - match: [{uri: {prefix: /old}}]
    redirect: {uri: /new, redirectCode: 302}
  - match: [{uri: {prefix: /teapot}}]
    directResponse: {status: 418, body: {string: short and stout}}
  - match: [{uri: {prefix: /lost}}]
    route: [{destination: {host: nowhere}}]
  - name: split
    match: [{uri: {prefix: /api/}}]
    rewrite: {uri: /, authority: inner}
    timeout: 1.5s
    retries: {attempts: 3, perTryTimeout: 500ms, retryOn: '5xx,429'}
    fault: {delay: {fixedDelay: 1s, percentage: {value: 5}}}
    mirror: {host: reviews, subset: v2}
    headers: {request: {set: {x-a: b}}}
    route:
    - destination: {host: reviews, subset: v1}
      weight: 3
    - destination: {host: reviews, subset: v2}
      weight: 1
  - match: [{uri: {prefix: /last}}]
    route: [{destination: {host: reviews}}]
";

/// Both forms of the answer.
fn explained(words: &[&str]) -> (String, serde_json::Value) {
    explained_with("", words)
}

/// The same with more rules.
fn explained_with(more: &str, words: &[&str]) -> (String, serde_json::Value) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.yaml");
    std::fs::write(&file, format!("{RULES}{more}")).unwrap();
    let file = file.to_str().unwrap();
    let answer = |form: &str| {
        let words: Vec<_> = words.iter().copied().chain(["-o", form]).collect();
        let answer = by_rules(&arguments(&words, file)).unwrap().replace(file, "rules.yaml");
        anstream::adapter::strip_str(&answer).to_string()
    };
    (answer("wide"), serde_json::from_str(&answer("json")).unwrap())
}

fn arguments(words: &[&str], file: &str) -> RequestArguments {
    let command = Command::augment_subcommands(clap::Command::new("leno"));
    let all = ["leno", "explain", "-f", file].into_iter().chain(words.iter().copied());
    let Command::Explain(arguments) = Command::from_arg_matches(&command.get_matches_from(all)).unwrap();
    arguments.request.unwrap()
}

#[test]
fn the_winner_is_shown_with_its_place_and_the_losers_with_their_reasons() {
    let (text, json) = explained(&["GET", "http://reviews:9080/api/1?x=y"]);
    assert_same(
        &text,
        "GET http://reviews:9080/api/1?x=y
from a workload without labels in namespace default

  host      reviews.default.svc.cluster.local:9080
  rule      VirtualService default/reviews http[5] `split`, rules.yaml:50
  to        75 %  outbound|9080|v1|reviews.default.svc.cluster.local  1 endpoint
            25 %  outbound|9080|v2|reviews.default.svc.cluster.local  no endpoint
  rewrite   path /1?x=y, host inner
  timeout   1.5s
  retries   3 on 5xx, retriable-status-codes (429), each within 500ms
  fault     delay of 1s for 5 %
  mirror    100 % to outbound|9080|v2|reviews.default.svc.cluster.local
  headers   request: set x-a: b

Rules before it, in order:

  http[0]   rules.yaml:40  does not hold for this workload or port (sourceLabels, sourceNamespace, gateways, port)
  http[1]   rules.yaml:42  header `end-user` is missing
  http[1]   rules.yaml:42  path `/api/1` is not `/jason`
  http[2]   rules.yaml:44  path `/api/1` does not begin with `/old`
  http[3]   rules.yaml:46  path `/api/1` does not begin with `/teapot`
  http[4]   rules.yaml:48  path `/api/1` does not begin with `/lost`
",
    );
    assert_eq!(json["status"], serde_json::Value::Null);
    assert_eq!(
        json["rule"],
        serde_json::json!({"kind": "VirtualService", "namespace": "default", "name": "reviews", "index": 5, "file": "rules.yaml", "line": 50})
    );
    assert_eq!(json["clusters"][0]["name"], "outbound|9080|v1|reviews.default.svc.cluster.local");
    assert_eq!((&json["clusters"][0]["weight"], &json["clusters"][1]["weight"]), (&3.into(), &1.into()));
    assert_eq!(json["timeout"], "1.5s");
    assert_eq!(json["lost"].as_array().unwrap().len(), 6);
    assert_eq!(json["lost"][1]["reason"], "header `end-user` is missing");
    assert_eq!(json["lost"][1]["line"], 42);
}

/// Compares texts and shows both whole where they differ.
fn assert_same(found: &str, expected: &str) {
    assert!(found == expected, "found:\n{found}\nexpected:\n{expected}");
}

#[test]
fn headers_and_the_caller_decide() {
    for header in ["end-user=jason", "end-user: jason", "End-User:jason"] {
        let (_, json) = explained(&["GET", "reviews:9080/api", "-H", header]);
        assert_eq!(json["rule"]["index"], 1, "{header}");
    }
    for (from, rule) in [("productpage", 0), ("reviews", 6), ("default/reviews-1", 6)] {
        let path = if rule == 0 { "/own" } else { "/last" };
        let (_, json) = explained(&["GET", &format!("http://reviews:9080{path}"), "--from", from]);
        assert_eq!(json["rule"]["index"], rule, "{from}");
    }
}

#[test]
fn answers_of_the_proxy_have_a_status() {
    for (url, status, index, words) in [
        ("reviews:9080/old", 302.into(), 2.into(), "location http://reviews:9080/new"),
        ("reviews:9080/teapot", 418.into(), 3.into(), "short and stout"),
        ("reviews:9080/lost", 503.into(), 4.into(), "is not in force"),
        ("reviews:9080/nowhere", 404.into(), serde_json::Value::Null, "no rule of this host takes the request"),
        ("reviews:9080/../../api/../nowhere", 404.into(), serde_json::Value::Null, "takes the request"),
    ] {
        let (text, json) = explained(&["GET", url]);
        assert_eq!((&json["status"], &json["rule"]["index"]), (&status, &index), "{url}");
        assert!(text.contains(words), "{url}: {text}");
    }
}

#[test]
fn a_host_that_nobody_serves_gets_a_hint() {
    for (url, words) in [
        ("http://reviews:9081/", "`reviews` is served on port 9080"),
        ("http://db:5432/", "port 5432 is TCP"),
        ("http://example.com/", "unknown hosts are passed on"),
    ] {
        let (text, json) = explained(&["GET", url]);
        assert_eq!(json["clusters"][0]["name"], "PassthroughCluster", "{url}");
        assert!(text.contains(words), "{url}: {text}");
    }
    let (_, json) = explained(&["GET", "http://productpage:9080/"]);
    assert_eq!((&json["rule"]["kind"], &json["rule"]["line"]), (&"Service".into(), &9.into()));
}

#[test]
fn what_is_no_request_is_refused_with_a_remedy() {
    let refused = |words: &[&str]| request(&arguments(words, "rules.yaml")).unwrap_err().to_string();
    assert!(refused(&["GET", "https://reviews/"]).contains("call http://"));
    assert!(refused(&["GET", "http://"]).contains("URL"));
    let nobody = |mesh: &Mesh| caller(mesh, Some("nobody")).unwrap_err().to_string();
    assert!(nobody(&Mesh::new(&[])).contains("leave --from out"));
}

/// `reviews` asks for certificates, and `productpage` may read it; whoever has a token of `issuer` may do anything.
const POLICIES: &str = "
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: reviews-2}
spec: {address: 10.0.0.2, labels: {app: reviews, version: v2, security.istio.io/tlsMode: istio}, serviceAccount: reviews}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: productpage-1}
spec: {address: 10.0.0.9, labels: {app: productpage}, serviceAccount: productpage}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {selector: {matchLabels: {version: v2}}, mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt}
spec: {selector: {matchLabels: {app: reviews}}, jwtRules: [{issuer: issuer, audiences: [shop], jwksUri: 'https://issuer.example/'}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers}
spec:
  selector: {matchLabels: {app: reviews}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/productpage]}}]
    to: [{operation: {methods: [GET], paths: ['/jason*']}}]
  - from: [{source: {requestPrincipals: ['issuer/*']}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: addresses}
spec: {selector: {matchLabels: {app: reviews}}, action: DENY, rules: [{from: [{source: {ipBlocks: [192.168.0.0/16]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: tried, annotations: {istio.io/dry-run: 'true'}}
spec: {selector: {matchLabels: {app: reviews}}, action: DENY, rules: [{}]}
";

#[test]
fn who_may_is_said_with_the_policy_that_decides() {
    let page = "spiffe://cluster.local/ns/default/sa/productpage";
    let token = r#"{"iss": "issuer", "sub": "s", "aud": ["shop"]}"#;
    let foreign = r#"{"iss": "other", "sub": "s", "aud": "shop"}"#;
    let none = serde_json::Value::Null;
    let rows: &[(&[&str], serde_json::Value, &str)] = &[
        (&["GET", "--from", "productpage"], none.clone(), "allowed by AuthorizationPolicy default/readers rules[0]"),
        (&["GET", "--from", page], none.clone(), "allowed by AuthorizationPolicy default/readers rules[0]"),
        (&["POST", "--from", page], 403.into(), "403 denied: there are ALLOW policies"),
        (&["GET"], 403.into(), "403 denied: there are ALLOW policies"),
        (
            &["GET", "--from", "spiffe://other/ns/default/sa/productpage"],
            403.into(),
            "the caller comes as spiffe://other/",
        ),
        (
            &["GET", "--from", page, "--plain-text"],
            none.clone(),
            "the connection is closed: STRICT asks for a certificate",
        ),
        (
            &["GET", "--from", page, "--source-ip", "192.168.1.1"],
            403.into(),
            "403 denied by AuthorizationPolicy default/addresses rules[0]",
        ),
        (&["POST", "--token-claims", token], none.clone(), "allowed by AuthorizationPolicy default/readers rules[1]"),
        (
            &["GET", "--from", page, "--token-claims", foreign],
            401.into(),
            "401 the token is refused: no RequestAuthentication names its issuer and audience",
        ),
        (
            &["GET", "--from", page, "--token-claims", foreign],
            401.into(),
            "token     shown and refused, by RequestAuthentication default/",
        ),
        (&["GET", "--from", page], none.clone(), "token     none is shown; it would be verified by"),
    ];
    for (words, status, line) in rows {
        let words = [&[words[0], "http://reviews:9080/jason"], &words[1..]].concat();
        let (text, json) = explained_with(POLICIES, &words);
        assert!(text.contains(line), "{words:?}:\n{text}");
        assert_eq!(json["status"], *status, "{words:?}:\n{text}");
        assert_eq!(json["policy"]["access"].as_array().map(Vec::len), Some(1), "{json}");
    }
}

#[test]
fn mode_token_and_dry_run_are_shown_beside_the_verdict() {
    let claims = r#"{"iss": "issuer", "sub": "s", "aud": "shop"}"#;
    let (text, json) = explained_with(
        POLICIES,
        &["GET", "http://reviews:9080/jason", "--from", "productpage", "--token-claims", claims],
    );
    for line in [
        "mtls      STRICT by PeerAuthentication default/strict, rules.yaml:77; the caller comes as spiffe://cluster.local/ns/default/sa/productpage",
        "token     taken; verified by RequestAuthentication default/jwt, rules.yaml:85",
        "access    allowed by AuthorizationPolicy default/readers rules[0], rules.yaml:93",
        "dry run   would be denied by AuthorizationPolicy default/tried rules[0], rules.yaml:105",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let access = &json["policy"]["access"][0];
    assert_eq!((&access["workload"], &access["port"]), (&"default/reviews-2".into(), &9080.into()));
    assert_eq!((&access["mtls"], &access["allowed"]), (&"strict".into(), &true.into()));
    assert_eq!((&access["by"]["name"], &access["by"]["index"]), (&"readers".into(), &0.into()));
    assert_eq!(access["would_deny"]["by"]["name"], "tried");
}

#[test]
fn several_workloads_answer_each_for_itself() {
    let (text, json) = explained_with(POLICIES, &["GET", "http://reviews:9080/last", "--plain-text"]);
    assert_eq!(json["policy"]["access"].as_array().map(Vec::len), Some(2));
    assert!(text.contains("default/reviews-1: PERMISSIVE by default"), "{text}");
    assert!(text.contains("default/reviews-2: the connection is closed"), "{text}");
    let (text, json) = explained(&["GET", "http://reviews:9080/last"]);
    assert!(!text.contains("access"), "no rule is about it: {text}");
    assert_eq!(json["policy"]["access"][0]["allowed"], true);
}

#[test]
fn routes_by_claims_are_explained_with_the_callers_own_rules() {
    let rules = "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: productpage}
spec:
  hosts: [productpage]
  http:
  - match: [{headers: {'@request.auth.claims.group': {exact: testers}}}]
    route: [{destination: {host: reviews}}]
  - route: [{destination: {host: productpage}}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt}
spec: {jwtRules: [{issuer: issuer, jwksUri: 'https://issuer.example/'}]}
";
    for (claims, index) in [
        (r#"{"iss": "issuer", "group": "testers"}"#, 0),
        (r#"{"iss": "issuer", "group": "others"}"#, 1),
        (r#"{"iss": "foreign", "group": "testers"}"#, 1),
    ] {
        let (text, json) = explained_with(rules, &["GET", "http://productpage:9080/", "--token-claims", claims]);
        assert_eq!(json["rule"]["index"], index, "{claims}\n{text}");
    }
    let (_, json) = explained_with(rules, &["GET", "http://productpage:9080/"]);
    assert_eq!(json["lost"][0]["reason"], "claim `group` is missing: there is no verified token");
}
