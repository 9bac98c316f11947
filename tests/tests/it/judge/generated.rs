//! Rules and requests that nobody thought of, by a seed.
//!
//! What is drawn is what can be compared: where a choice is left to chance (weights, percentages), one side gets all of it.
//! The pools are small, so that requests meet rules often.

use http::Method;
use leno_tests::Random;
use leno_tests::scripted::Manner;
use serde_json::{Map, Value, json};

use super::case::{Ask, Case, case, get, grpc, post};

const CASES: usize = 30;
const REQUESTS: usize = 12;

const PATHS: [&str; 8] = ["/", "/a", "/a/", "/a/b", "/ab", "/A/b", "/b/a?x=1", "/b?x=2&y=a"];
const VALUES: [&str; 4] = ["a", "ab", "b", "A"];
const REGEXES: [&str; 4] = ["a.*", "[ab]+", ".*b", "(a|b)"];
const PATH_REGEXES: [&str; 4] = ["/a.*", "/.*/b", "/[^/]*", "/(a|b)/?"];
const NAMES: [&str; 3] = ["x-one", "x-two", "x-three"];
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];
const SCRIPTS: [&str; 7] = ["200", "200", "200 x-one:theirs", "503; 200", "500; 503; 200", "404", "503"];
const RETRY_ON: [&str; 6] = ["5xx", "gateway-error", "retriable-4xx", "503", "404,500", "connect-failure"];

/// The cases of a seed.
pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut random = Random::new(seed);
    (0..CASES).map(|number| generate(&mut random, number)).collect()
}

fn generate(random: &mut Random, number: usize) -> Case {
    let rules: Vec<Value> = (0..=random.below(4)).map(|_| rule(random)).collect();
    let versions = ["v1", "v2", "v3"].map(|version| (version, Manner::Obeys));
    let case = case(&format!("generated-{number}")).endpoints(&versions).http(&Value::Array(rules).to_string());
    let case = if random.below(2) == 0 { case.http2() } else { case };
    (0..REQUESTS).fold(case, |case, _| case.try_out(request(random)))
}

fn rule(random: &mut Random) -> Value {
    let mut rule = Map::new();
    let blocks: Vec<Value> = (0..random.below(4)).map(|_| block(random)).collect();
    if !blocks.is_empty() {
        rule.insert("match".to_owned(), Value::Array(blocks));
    }
    match random.below(10) {
        0 => {
            let code = *random.pick(&[301, 302, 307, 308]);
            rule.insert(
                "redirect".to_owned(),
                json!({"uri": "/gone", "authority": "other.example", "redirectCode": code}),
            );
        }
        1 => {
            rule.insert("directResponse".to_owned(), json!({"status": 418, "body": {"string": "direct"}}));
        }
        _ => forward(random, &mut rule),
    }
    if random.below(3) == 0 {
        rule.insert("headers".to_owned(), operations(random));
    }
    Value::Object(rule)
}

fn forward(random: &mut Random, rule: &mut Map<String, Value>) {
    let chosen = random.below(3);
    let routes: Vec<Value> = ["v1", "v2", "v3"]
        .iter()
        .enumerate()
        .map(|(at, version)| {
            let mut route = json!({
                "destination": {"host": "HOST", "subset": version}, "weight": if at == chosen { 100 } else { 0 },
            });
            if random.below(3) == 0 {
                route["headers"] = operations(random);
            }
            route
        })
        .collect();
    rule.insert("route".to_owned(), Value::Array(routes));
    match random.below(4) {
        0 => drop(rule.insert("rewrite".to_owned(), json!({"uri": "/new"}))),
        1 => {
            let rewrite = json!({"uriRegexRewrite": {"match": "/([ab])", "rewrite": "/\\1\\1"}});
            rule.insert("rewrite".to_owned(), rewrite);
        }
        _ => {}
    }
    if random.below(2) == 0 {
        let retries = json!({"attempts": random.below(3), "retryOn": random.pick(&RETRY_ON), "backoff": "1ms"});
        rule.insert("retries".to_owned(), retries);
    }
    if random.below(4) == 0 {
        let percentage = *random.pick(&[0, 100]);
        let abort = json!({"httpStatus": random.pick(&[400, 503, 599]), "percentage": {"value": percentage}});
        rule.insert("fault".to_owned(), json!({"abort": abort}));
    }
    if random.below(4) == 0 {
        rule.insert("timeout".to_owned(), "20s".into());
    }
}

/// Conditions that all have to hold.
fn block(random: &mut Random) -> Value {
    let mut block = Map::new();
    if random.below(3) > 0 {
        let uri = match random.below(3) {
            0 => json!({"exact": random.pick(&PATHS).split('?').next()}),
            1 => json!({"prefix": random.pick(&PATHS).split('?').next()}),
            _ => json!({"regex": random.pick(&PATH_REGEXES)}),
        };
        if uri.get("regex").is_none() && random.below(3) == 0 {
            block.insert("ignoreUriCase".to_owned(), true.into());
        }
        block.insert("uri".to_owned(), uri);
    }
    if random.below(3) == 0 {
        block.insert("method".to_owned(), json!({"exact": random.pick(&METHODS)}));
    }
    for place in ["headers", "withoutHeaders", "queryParams"] {
        if random.below(4) == 0 {
            let name = if place == "queryParams" { *random.pick(&["x", "y"]) } else { *random.pick(&NAMES) };
            block.insert(place.to_owned(), json!({name: value(random, place)}));
        }
    }
    Value::Object(block)
}

fn value(random: &mut Random, place: &str) -> Value {
    match random.below(4) {
        0 => json!({"exact": random.pick(&VALUES)}),
        // Envoy has no prefix for a query.
        1 if place != "queryParams" => json!({"prefix": random.pick(&VALUES)}),
        2 => json!({"regex": random.pick(&REGEXES)}),
        _ => json!({}),
    }
}

fn operations(random: &mut Random) -> Value {
    let mut operations = Map::new();
    for direction in ["request", "response"] {
        let mut names = NAMES.to_vec();
        let mut take = |random: &mut Random| names.remove(random.below(names.len()));
        let (set, add, remove) = (take(random), take(random), take(random));
        let value = |random: &mut Random| Value::from(*random.pick(&VALUES));
        operations.insert(
            direction.to_owned(),
            json!({"set": {set: value(random)}, "add": {add: value(random)}, "remove": [remove]}),
        );
    }
    Value::Object(operations)
}

fn request(random: &mut Random) -> Ask {
    let script = *random.pick(&SCRIPTS);
    if random.below(8) == 0 {
        let script = *random.pick(&["grpc=0", "grpc=14; grpc=0", "grpc-late=14", "grpc=13"]);
        return grpc(script);
    }
    let method = Method::from_bytes(random.pick(&METHODS).as_bytes()).expect("it is a method");
    let ask = if method == Method::POST { post(script, random.below(3000)) } else { get(script).method(method) };
    let path = *random.pick(&PATHS);
    let mut ask = ask.path(path);
    for name in NAMES {
        if random.below(3) == 0 {
            let value = *random.pick(&VALUES);
            ask = ask.header(name, value);
        }
    }
    if random.below(2) == 0 { ask.over_http2() } else { ask }
}
