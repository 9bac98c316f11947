//! A whole cluster: what stands in the API server is what traffic goes by, and what became of it stands there too.

use std::time::Instant;

use leno_tests::{Call, feed, leno, origin};
use serde_json::{Value, json};

use super::installed::{Installed, REVIEWS, all_to, rule, run, service, slice, subsets};
use super::refusing::Refusing;

fn is(status: &'static str) -> impl Fn(&Value) -> bool {
    move |condition| condition["status"] == status
}

fn message(condition: &Value) -> &str {
    condition["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn traffic_goes_by_services_and_rules_of_the_cluster_and_rules_say_who_has_them() {
    let installed = Installed::start().await;
    let server = &installed.server;
    server.apply(subsets()).await;
    for version in ["v1", "v2", "v1"] {
        let written = server.apply(all_to(version)).await;
        installed.answers(REVIEWS, &[version]).await;
        let accepted = installed.condition(&written, "Accepted", is("True")).await;
        assert_eq!(accepted["reason"], "Valid", "{accepted}");
        let propagated = installed.condition(&written, "Propagated", is("True")).await;
        assert!(message(&propagated).starts_with("1/1"), "{propagated}");
        assert!(message(&propagated).contains("leno-0"), "whose proxies were counted: {propagated}");
    }
    // By server-side apply: the status has an owner, and what the author wrote is still his.
    let stored = installed.stored(&all_to("v1"));
    let fields = stored["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let ours = fields.iter().find(|entry| entry["manager"] == "leno").unwrap_or_else(|| panic!("{fields:?}"));
    assert_eq!((&ours["operation"], &ours["subresource"]), (&json!("Apply"), &json!("status")));
    assert!(ours["fieldsV1"]["f:spec"].is_null(), "{ours}");

    // A namespace, a service and a pod that were not there at the start.
    server.namespace("late", &[]).await;
    service(server, "late", "ratings", 80).await;
    let ratings = origin("ratings").await;
    run(server, "late", "ratings", "v1", ratings.address()).await;
    installed.answers("http://ratings.late/", &["ratings"]).await;
    server
        .delete(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "late", "name": "ratings"}}))
        .await;
    installed.answers("http://ratings.late/", &["503"]).await;
}

#[tokio::test]
async fn a_bad_rule_is_refused_in_the_words_of_validate_and_the_last_good_one_stays() {
    let installed = Installed::start().await;
    installed.server.apply(subsets()).await;
    installed.server.apply(all_to("v1")).await;
    installed.answers(REVIEWS, &["v1"]).await;
    let route = json!([{"destination": {"host": "reviews", "subset": "v2"}}]);
    let bad = json!({"hosts": ["reviews"], "http": [{"match": [{"uri": {"regex": "("}}], "route": route}]});
    let bad = rule("VirtualService", "shop", "reviews", bad);
    let written = installed.server.apply(bad.clone()).await;
    let accepted = installed.condition(&written, "Accepted", is("False")).await;
    assert_eq!(accepted["reason"], "Invalid", "{accepted}");

    let mut validate = std::process::Command::new(leno());
    let outcome = feed(validate.args(["validate", "-f", "-", "-o", "json"]), &bad.to_string()).unwrap();
    let findings: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let list = findings.as_array().or_else(|| findings["findings"].as_array()).cloned().unwrap_or_default();
    let words: Vec<&str> = list
        .iter()
        .filter(|finding| finding["severity"] == "error")
        .filter_map(|finding| finding["message"].as_str())
        .collect();
    assert!(!words.is_empty(), "{findings}");
    for words in words {
        assert!(message(&accepted).contains(words), "`{words}` is not in {accepted}");
    }
    for _ in 0..20 {
        assert_eq!(Call::get(REVIEWS).send(installed.outbound).await.text(), "v1", "the last good one");
    }
    let repaired = installed.server.apply(all_to("v2")).await;
    installed.answers(REVIEWS, &["v2"]).await;
    installed.condition(&repaired, "Accepted", is("True")).await;
}

#[tokio::test]
async fn a_proxy_that_refuses_a_rule_is_named_in_its_status_with_its_reason() {
    let installed = Installed::start().await;
    let refusing = Refusing::connect(installed.plane().xds, "picky", "no such listener here").await;
    installed.server.apply(subsets()).await;
    let written = installed.server.apply(all_to("v1")).await;
    let of_both = |it: &Value| it["reason"] == "Refused" && message(it).contains("1/2");
    let refused = installed.condition(&written, "Propagated", of_both).await;
    assert_eq!(refused["status"], "False");
    for words in ["picky.default", "no such listener here"] {
        assert!(message(&refused).contains(words), "`{words}` is not in {refused}");
    }
    installed.answers(REVIEWS, &["v1"]).await;
    // Without it, everybody has the rule.
    drop(refusing);
    let propagated = installed.condition(&written, "Propagated", is("True")).await;
    assert!(message(&propagated).starts_with("1/1"), "{propagated}");
}

#[tokio::test]
async fn an_endpoint_that_changes_reaches_the_proxy_at_once() {
    let installed = Installed::start().await;
    let server = &installed.server;
    server.apply(slice("shop", "reviews", "v2", None)).await;
    installed.answers(REVIEWS, &["v1"]).await;
    let others = [origin("a").await, origin("b").await, origin("c").await, origin("d").await, origin("e").await];
    let mut took = Vec::new();
    for (name, other) in ["a", "b", "c", "d", "e"].into_iter().zip(&others) {
        let begun = Instant::now();
        server.apply(slice("shop", "reviews", "v1", Some(other.address()))).await;
        leno_tests::eventually("the new endpoint answers", async || {
            let text = Call::get(REVIEWS).try_send(installed.outbound).await?.text();
            if text == name { Ok(()) } else { Err(text) }
        })
        .await;
        took.push(begun.elapsed());
    }
    took.sort();
    println!("from the write of a slice to the first answer of its endpoint: {took:?}");
}
