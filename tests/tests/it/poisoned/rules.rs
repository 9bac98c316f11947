//! Poisoned YAML, before a control plane and two sidecars.

use leno_tests::numbered::{Book, Callers};
use leno_tests::{Mesh, Origin, eventually, full, mesh, metric};
use serde_json::{Value, json};

use super::{RULES, complaint, in_force};

/// The good rules.
const GOOD: &str = include_str!("rules.yaml");

/// A set of rules with one mistake, and how it has to be named.
struct Poison {
    text: String,
    /// `KIND NAMESPACE/NAME`, as far as there is a document at all.
    resource: String,
    /// Path in it.
    field: String,
}

/// Values that have the right type and make no sense: document, path, value.
fn senseless() -> Vec<(usize, &'static str, Value)> {
    let mut rows = Vec::new();
    let mut row = |document, path, values: Value| {
        rows.extend(values.as_array().unwrap().iter().map(|value| (document, path, value.clone())));
    };
    row(0, "/spec/hosts/0", json!(["", "a b", "*.*", "a..b"]));
    row(0, "/spec/http/0/timeout", json!(["5", "-1s", "soon", "1ns"]));
    row(0, "/spec/http/0/retries/attempts", json!([-1, 3.5]));
    row(0, "/spec/http/0/retries/retryOn", json!(["5xx,sometimes"]));
    row(0, "/spec/http/0/retries/perTryTimeout", json!(["never"]));
    row(0, "/spec/http/0/fault/delay/percentage/value", json!([-1, 101]));
    row(0, "/spec/http/0/fault/abort/httpStatus", json!([42, 700]));
    row(0, "/spec/http/0/route/0/weight", json!([-5, 4294967296_u64]));
    row(0, "/spec/http/0/route/0/destination/port/number", json!([0, 65536]));
    row(0, "/spec/http/0/route/0/destination/subset", json!(["nobody"]));
    row(0, "/spec/http/0/headers/request/remove/0", json!(["a b"]));
    row(0, "/spec/http/0/mirrors/0/percentage/value", json!([-0.1, 100.1]));
    row(0, "/spec/http/1/redirect/redirectCode", json!([200, 399]));
    row(0, "/spec/http/2/match/0/uri/regex", json!(["(", "a{1000}{1000}"]));
    row(0, "/spec/http/2/directResponse/status", json!([99, 1000]));
    row(1, "/spec/ports/0/number", json!([0, 70000]));
    row(1, "/spec/ports/0/protocol", json!(["CARRIER-PIGEON"]));
    row(1, "/spec/resolution", json!(["SOMETIMES"]));
    row(1, "/spec/endpoints/0/address", json!(["10.0.0.256/8"]));
    row(2, "/spec/trafficPolicy/loadBalancer/simple", json!(["BEST"]));
    row(2, "/spec/trafficPolicy/connectionPool/tcp/maxConnections", json!([-1]));
    row(2, "/spec/trafficPolicy/connectionPool/tcp/connectTimeout", json!(["0s", "never"]));
    row(2, "/spec/trafficPolicy/outlierDetection/maxEjectionPercent", json!([101, -1]));
    row(3, "/spec/mtls/mode", json!(["PERHAPS"]));
    row(4, "/spec/action", json!(["FORGIVE"]));
    row(4, "/spec/rules/0/from/0/source/ipBlocks/0", json!(["10.0.0.0/33", "here"]));
    row(4, "/spec/rules/0/when/0/key", json!(["request.mood"]));
    row(4, "/spec/rules/0/to/0/operation/ports/0", json!(["0", "http"]));
    row(5, "/spec/jwtRules/0/jwksUri", json!(["ftp://issuer", "nowhere"]));
    row(6, "/spec/limits/0/requests", json!([-1]));
    row(6, "/spec/limits/0/per", json!(["0s", "fortnight"]));
    rows
}

/// Texts that are no rules at all; what stands in them for a place.
const NO_RULES: [&str; 12] = [
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: app, namespace: default}\nspec: {hosts: [app",
    "\t- a",
    "a: &a [*a, *a]\n",
    "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]\ne: [*d, *d, *d, *d, *d, *d, *d, *d, *d]\n",
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: app, namespace: default}\nspec: {hosts: [app], hosts: [app]}\n",
    "apiVersion: networking.istio.io/v9\nkind: VirtualService\nmetadata: {name: app, namespace: default}\nspec: {hosts: [app]}\n",
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: \"../app\", namespace: default}\nspec: {hosts: [app]}\n",
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {namespace: default}\nspec: {hosts: [app]}\n",
    "kind: VirtualService\nmetadata: {name: app, namespace: default}\nspec: {hosts: [app]}\n",
    "just words\n",
    "- a\n- list\n",
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: app, namespace: default}\n",
];

fn documents() -> Vec<Value> {
    use serde::Deserialize as _;
    serde_yaml::Deserializer::from_str(GOOD).map(|one| Value::deserialize(one).unwrap()).collect()
}

/// `/spec/http/0/timeout` as findings have it: `spec.http[0].timeout`.
fn path(pointer: &str) -> String {
    let mut path = String::new();
    for step in pointer.split('/').skip(1) {
        match step.parse::<usize>() {
            Ok(at) => path.push_str(&format!("[{at}]")),
            Err(_) if path.is_empty() => path.push_str(step),
            Err(_) => path.push_str(&format!(".{step}")),
        }
    }
    path
}

/// Every value below `value`, by pointer.
fn walk(value: &Value, pointer: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| walk(field, &format!("{pointer}/{name}"), found));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, item)| walk(item, &format!("{pointer}/{at}"), found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    found.push(pointer.to_owned());
}

/// The good documents, one of them with another value somewhere.
fn with(good: &[Value], document: usize, pointer: &str, value: Value) -> Poison {
    let mut documents = good.to_vec();
    *documents[document].pointer_mut(pointer).unwrap() = value;
    let texts: Vec<String> = documents.iter().map(|document| format!("{document:#}\n")).collect();
    let metadata = &good[document]["metadata"];
    let resource = format!(
        "{} {}/{}",
        good[document]["kind"].as_str().unwrap(),
        metadata["namespace"].as_str().unwrap(),
        metadata["name"].as_str().unwrap()
    );
    Poison { text: texts.join("---\n"), resource, field: path(pointer) }
}

/// In every place of every document: a structure where a value belongs, a field that nobody knows, a value where a list
/// belongs; and what makes no sense; and what is no rule.
fn poisons() -> Vec<Poison> {
    let good = documents();
    let mut poisons = Vec::new();
    for (number, document) in good.iter().enumerate() {
        let mut pointers = Vec::new();
        walk(&document["spec"], "/spec", &mut pointers);
        for pointer in pointers {
            let value = document.pointer(&pointer).unwrap();
            let poisoned = match value {
                Value::Object(fields) => {
                    let mut fields = fields.clone();
                    fields.insert("poison".to_owned(), json!({"poison": [1]}));
                    Value::Object(fields)
                }
                Value::Array(_) => json!(7),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => json!({"poison": [1]}),
            };
            poisons.push(with(&good, number, &pointer, poisoned));
        }
    }
    poisons.extend(senseless().into_iter().map(|(document, pointer, value)| with(&good, document, pointer, value)));
    poisons.extend(NO_RULES.iter().map(|text| Poison {
        text: format!("{GOOD}---\n{text}"),
        resource: String::new(),
        field: String::new(),
    }));
    poisons
}

async fn findings(mesh: &Mesh) -> Result<Vec<Value>, String> {
    let status = mesh.control_plane.as_ref().expect("a control plane").status().await?;
    Ok(status["rules"]["rejected"].as_array().cloned().unwrap_or_default())
}

/// Whether the mistake is named: its document, its field, and what is wrong. What is said instead, if it is not.
async fn unnamed(mesh: &Mesh, poison: &Poison) -> Option<String> {
    let Poison { resource, field, .. } = poison;
    let said = complaint(async || {
        let findings = findings(mesh).await?;
        let names = |finding: &Value| {
            let (path, of) = (finding["path"].as_str().unwrap_or_default(), finding["resource"].to_string());
            let is_there = resource.is_empty() || resource.split([' ', '/']).all(|word| of.contains(word));
            // The very field, or what was put into it.
            is_there && path.starts_with(field.as_str()) && !finding["message"].as_str().unwrap_or_default().is_empty()
        };
        let said = || findings.iter().map(|one| format!("{}: {}; ", one["path"], one["message"])).collect();
        if findings.iter().any(names) { Ok(()) } else { Err(said()) }
    });
    said.await.map(|said| format!("{resource} {field}: it is said `{said}`"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poisoned_rules_are_named_and_change_nothing() {
    let book = Book::default();
    let served = book.clone();
    let app = Origin::answering(move |request| {
        if let Ok(number) = request.header(leno_tests::numbered::NUMBER).parse() {
            served.write(number);
        }
        http::Response::new(full("app"))
    })
    .await;
    let mesh = mesh().service("app", &[("v1", app.address())]).behind_sidecars().rules(GOOD).start().await;
    mesh.answers("http://app/", "app").await;
    mesh.settles().await;
    assert!(findings(&mesh).await.unwrap().is_empty(), "the good rules are good");
    let proxies = [&mesh.client, &mesh.peers[0]];
    let before = in_force(&proxies).await;
    let callers = Callers::start(mesh.outbound(), "http://app/", 2, |_| None);
    let poisons = poisons();
    assert!(poisons.len() >= RULES, "{} poisons", poisons.len());
    eprintln!("{} poisoned sets of rules", poisons.len());
    let (mut last, mut complaints) = (String::new(), Vec::new());
    for poison in &poisons {
        // What was said before could be taken for what is said now.
        if poison.field == last {
            mesh.edit(GOOD);
            eventually("the good rules are good", async || match findings(&mesh).await?.as_slice() {
                [] => Ok(()),
                some => Err(format!("{some:#?}")),
            })
            .await;
        }
        last.clone_from(&poison.field);
        mesh.edit(&poison.text);
        complaints.extend(unnamed(&mesh, poison).await);
        if in_force(&proxies).await != before {
            complaints.push(format!("{} {}: something else is in force", poison.resource, poison.field));
        }
    }
    assert!(complaints.is_empty(), "{} of {}: {complaints:#?}", complaints.len(), poisons.len());
    callers.flow(10).await;
    callers.stop().await.must_be_flawless(&book);
    for proxy in proxies {
        assert_eq!(metric(&proxy.metrics().await, "leno_panics_total", &[]), 0.0);
    }
    let log = mesh.control_plane.as_ref().expect("a control plane").process.log();
    assert!(!log.contains("panicked"), "{log}");
    mesh.edit(&GOOD.replace("string: ok", "string: well"));
    mesh.answers("http://app/health1", "well").await;
}
