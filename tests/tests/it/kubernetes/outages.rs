//! The API server forgets, breaks off, and goes away; the control plane does too. Nobody who calls an app notices, and what
//! changed in the meantime arrives when it can.

use std::time::SystemTime;

use leno_tests::api_server::Outage;
use leno_tests::{Call, eventually, origin};
use serde_json::json;

use super::installed::{Installed, REVIEWS, all_to, slice, subsets};
use super::replica::Replica;

#[tokio::test]
async fn watches_that_expire_or_break_and_an_api_server_that_is_away_drop_nothing_and_delay_only_changes() {
    let installed = Installed::start().await;
    let server = &installed.server;
    server.apply(subsets()).await;
    server.apply(all_to("v1")).await;
    installed.answers(REVIEWS, &["v1"]).await;
    let traffic = installed.traffic();

    // Expired: the watch ends with an event of code 410, and everything is listed anew.
    server.expire_watches();
    server.apply(all_to("v2")).await;
    installed.answers(REVIEWS, &["v2"]).await;
    // What went while nobody watched is gone.
    server.expire_watches();
    server.delete(&all_to("v2")).await;
    installed.answers(REVIEWS, &["v1", "v2"]).await;
    // Cut in the middle of a body.
    server.drop_watches();
    server.apply(all_to("v1")).await;
    installed.answers(REVIEWS, &["v1"]).await;

    for (outage, version) in [(Outage::Refuses, "v2"), (Outage::Closes, "v1")] {
        server.go_away(outage);
        server.apply(all_to(version)).await;
        traffic.goes_on().await;
        let other = origin("other").await;
        let name = version;
        server.apply(slice("shop", "reviews", name, Some(other.address()))).await;
        traffic.goes_on().await;
        server.come_back();
        installed.answers(REVIEWS, &["other"]).await;
        let own = &installed.versions[usize::from(name == "v2")];
        server.apply(slice("shop", "reviews", name, Some(own.address()))).await;
        installed.answers(REVIEWS, &[name]).await;
    }
    traffic.was_answered().await;
    let metrics = Call::get("http://plane/metrics").send(installed.plane().http).await.text();
    let lists = leno_tests::metric(&metrics, "leno_kubernetes_lists_total", &[r#"kind="VirtualService""#]);
    assert!(lists >= 3.0, "each expiry was a list: {lists}");
}

#[tokio::test]
async fn a_control_plane_that_starts_while_the_api_server_is_away_waits_for_it_and_takes_nothing_from_its_proxies() {
    let mut installed = Installed::start().await;
    installed.server.apply(subsets()).await;
    let edited = SystemTime::now();
    installed.server.apply(all_to("v1")).await;
    installed.answers(REVIEWS, &["v1"]).await;
    installed.proxy.rests_on_disk_since(edited).await;
    let traffic = installed.traffic();
    installed.server.go_away(Outage::Closes);
    let mut before = installed.plane.take().unwrap();
    before.process.kill();
    let process = Replica::begin_again(installed.directory.path(), &installed.kubeconfig, &before);
    installed.server.apply(all_to("v2")).await;
    traffic.goes_on().await;
    eventually("it says that it waits", async || {
        let log = process.log();
        if log.contains("this control plane serves nobody until it can") { Ok(()) } else { Err(log) }
    })
    .await;
    // A sidecar that starts anew at this time has its snapshot.
    traffic.goes_on().await;
    traffic.was_answered().await;
    installed.proxy.restart();
    installed.proxy.ready(installed.outbound.port()).await;
    let traffic = installed.traffic();
    for _ in 0..20 {
        assert_eq!(Call::get(REVIEWS).send(installed.outbound).await.text(), "v1", "as it was");
    }
    installed.server.come_back();
    let plane = Replica::listens(installed.directory.path(), &before.name, process).await;
    installed.plane = Some(plane);
    installed.answers(REVIEWS, &["v2"]).await;
    traffic.was_answered().await;
    let written = installed.stored(&all_to("v2"));
    let propagated = installed.condition(&written, "Propagated", |condition| condition["status"] == "True").await;
    assert_eq!(propagated["observedGeneration"], json!(written["metadata"]["generation"]));
}
