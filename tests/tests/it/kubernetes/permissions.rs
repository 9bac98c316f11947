//! What the control plane may do in a cluster is what it does, and nothing else.
//!
//! The API server of these tests refuses (403) whatever the roles that `leno install` prints do not allow, so that each
//! test over [`Installed`] shows that they are enough. This one does all there is to do and looks at the reverse: each
//! verb of each resource of each rule was used.

use std::collections::BTreeSet;
use std::time::Duration;

use leno_tests::api_server::{Access, ApiServer};
use leno_tests::{eventually, eventually_within};
use serde_json::{Value, json};

use super::installed::{ACCOUNT, Installed, all_to, printed, rule, subsets};
use super::replica::Replica;

/// Within which a leader has renewed its Lease, on a busy machine.
const RENEWED: Duration = Duration::from_secs(60);

/// What is allowed and not done here: verb, resource, why it is there all the same.
const UNUSED: [(&str, &str, &str); 2] = [
    ("get", "namespaces", "a pod may be asked about before the watch has told of its namespace"),
    ("update", "secrets", "the root of the webhooks is replaced once in years"),
];

/// One rule of every kind that has a status.
fn one_of_each_kind() -> Vec<Value> {
    let shop = |kind: &str, spec: Value| rule(kind, "shop", "one", spec);
    let jwt = json!({"issuer": "https://issuer.example", "jwks": "{\"keys\": []}"});
    let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP"}]);
    vec![
        subsets(),
        all_to("v1"),
        shop("ServiceEntry", json!({"hosts": ["one.example"], "ports": ports, "resolution": "DNS"})),
        shop("WorkloadEntry", json!({"address": "192.0.2.1", "labels": {"app": "one"}})),
        shop("Sidecar", json!({"egress": [{"hosts": ["*/*"]}]})),
        shop("PeerAuthentication", json!({"mtls": {"mode": "PERMISSIVE"}})),
        shop("AuthorizationPolicy", json!({"action": "DENY", "rules": []})),
        shop("RequestAuthentication", json!({"jwtRules": [jwt]})),
        shop("MeshConfig", json!({})),
        shop("HealthCheck", json!({"host": "reviews"})),
        shop("RateLimit", json!({})),
    ]
}

/// One verb on one resource, perhaps of one name, that a rule of a role allows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Grant {
    verb: String,
    group: String,
    resource: String,
    name: Option<String>,
}

impl Grant {
    fn of(rule: &Value) -> Vec<Self> {
        let words = |field: &str| {
            let words = rule[field].as_array().into_iter().flatten().filter_map(Value::as_str);
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        let names = match words("resourceNames") {
            names if names.is_empty() => vec![None],
            names => names.into_iter().map(Some).collect(),
        };
        let mut all = Vec::new();
        for verb in words("verbs") {
            for group in words("apiGroups") {
                for resource in words("resources") {
                    for name in &names {
                        let (verb, group, resource) = (verb.clone(), group.clone(), resource.clone());
                        all.push(Self { verb, group, resource, name: name.clone() });
                    }
                }
            }
        }
        all
    }

    fn as_rule(&self) -> Value {
        let names: Vec<&String> = self.name.iter().collect();
        json!({
            "verbs": [self.verb], "apiGroups": [self.group], "resources": [self.resource], "resourceNames": names,
        })
    }

    fn is_wildcard(&self) -> bool {
        [&self.verb, &self.group, &self.resource].iter().any(|word| word.contains('*'))
    }
}

fn of_plane(server: &ApiServer) -> BTreeSet<Access> {
    server.accesses().into_iter().filter(|access| access.user == ACCOUNT).collect()
}

/// The rules of the roles that `leno install` prints, and the namespace in which each counts.
fn printed_rules() -> Vec<(Option<String>, Value)> {
    let roles = printed(&["install", "--offline", "--without-crds"]);
    let roles = roles.into_iter().filter(|object| matches!(object["kind"].as_str(), Some("ClusterRole" | "Role")));
    let rules = roles.flat_map(|role| {
        let namespace = role["metadata"]["namespace"].as_str().map(str::to_owned);
        let rules = role["rules"].as_array().cloned().unwrap_or_default();
        rules.into_iter().map(move |rule| (namespace.clone(), rule)).collect::<Vec<_>>()
    });
    rules.collect()
}

/// Does what a control plane does in its life.
async fn live(installed: &mut Installed) {
    for rule in one_of_each_kind() {
        let written = installed.server.apply(rule).await;
        installed.condition(&written, "Accepted", |_| true).await;
    }
    // Somebody breaks the root of a namespace, and it is mended.
    let map = installed.server.get("v1", "ConfigMap", "shop", "leno-ca-root-cert").unwrap();
    let mut broken = map.clone();
    broken["data"]["root-cert.pem"] = json!("nonsense");
    installed.server.update(broken).await;
    eventually("the root is mended", async || {
        let now = installed.server.get("v1", "ConfigMap", "shop", "leno-ca-root-cert").unwrap_or_default();
        if now["data"] == map["data"] { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
    // The webhook asks about a namespace that no watch has told of, and the leader says whom to believe.
    let plane = installed.plane();
    installed.server.route_service("leno-system", "leno", 443, plane.webhook);
    eventually("the webhooks are believed", async || {
        let group = "admissionregistration.k8s.io/v1";
        let kinds =
            [("MutatingWebhookConfiguration", "leno-injector"), ("ValidatingWebhookConfiguration", "leno-validator")];
        let is_set = |(kind, name)| {
            let now = installed.server.get(group, kind, "", name).unwrap_or_default();
            now["webhooks"][0]["clientConfig"]["caBundle"].is_string()
        };
        if kinds.into_iter().all(is_set) { Ok(()) } else { Err("no caBundle".to_owned()) }
    })
    .await;
    // A root that is rotated is written over.
    let state = installed.directory.path().join(&plane.name);
    let rotated = leno_tests::run_leno(&["ca", "rotate", "--force", "--state", state.to_str().unwrap()], "");
    assert_eq!(rotated.code, 0, "{}{}", rotated.stdout, rotated.stderr);
}

/// What the rules grant and nobody has done, but for what is known to be so.
fn unused(rules: &[(Option<String>, Value)], done: &BTreeSet<Access>) -> BTreeSet<Grant> {
    let mut unused = BTreeSet::new();
    for (namespace, rule) in rules {
        for grant in Grant::of(rule) {
            assert!(!grant.is_wildcard(), "{grant:?}");
            let counts = |access: &&Access| namespace.as_ref().is_none_or(|it| *it == access.namespace);
            let is_used = done.iter().filter(counts).any(|access| access.is_allowed_by(&grant.as_rule()));
            let is_known = UNUSED.iter().any(|(verb, resource, _)| *verb == grant.verb && *resource == grant.resource);
            if !is_used && !is_known {
                unused.insert(grant);
            }
        }
    }
    unused
}

#[tokio::test]
async fn the_roles_that_are_printed_allow_what_the_control_plane_does_and_nothing_else() {
    let mut installed = Installed::start().await;
    live(&mut installed).await;
    // A second one, which does not lead.
    let second = Replica::start(installed.directory.path(), "leno-1", &installed.kubeconfig, None).await;
    let rules = printed_rules();
    let done = of_plane(&installed.server);
    assert!(!done.is_empty());
    for access in &done {
        let counts = |namespace: &Option<String>| namespace.as_ref().is_none_or(|it| *it == access.namespace);
        let allowed = rules.iter().any(|(namespace, rule)| counts(namespace) && access.is_allowed_by(rule));
        assert!(allowed, "no rule allows {access:?}");
    }
    // The Lease is renewed every ten seconds only.
    eventually_within(RENEWED, "everything that is allowed has been done", async || {
        let unused = unused(&rules, &of_plane(&installed.server));
        if unused.is_empty() { Ok(()) } else { Err(format!("allowed and never done: {unused:#?}")) }
    })
    .await;
    drop(second);
}

#[tokio::test]
async fn what_no_role_allows_is_refused() {
    let installed = Installed::start().await;
    let cluster = leno_tests::api_server::Cluster::through(&installed.kubeconfig);
    for (method, path, status) in [
        (http::Method::GET, "/api/v1/pods", 200),
        (http::Method::GET, "/api/v1/namespaces/leno-system/secrets/leno-ca", 200),
        (http::Method::GET, "/api/v1/namespaces/leno-system/secrets", 403),
        (http::Method::GET, "/api/v1/namespaces/shop/secrets/any", 403),
        (http::Method::DELETE, "/api/v1/namespaces/shop/pods/reviews-v1", 403),
        (http::Method::GET, "/apis/apps/v1/deployments", 403),
    ] {
        let answer = cluster.ask(method.clone(), path, "leno-tests/1", None).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
    }
}
