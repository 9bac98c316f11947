//! Shares, conditions, and endpoints that come and go.

use leno_tests::{eventually, python};

use super::{Library, World, lines, settles};

fn rules(http: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: greeter}}
spec:
  hosts: [greeter]
  http:
{http}
"
    )
}

const SPLIT: &str = "
  - match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: greeter, subset: v2}}]
  - route: [{destination: {host: greeter, subset: v1}, weight: 80}, {destination: {host: greeter, subset: v2}, weight: 20}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_and_headers_decide_as_in_a_sidecar() {
    let Some(python) = python("proxyless gRPC") else { return };
    let world = World::start(&python).await;
    world.begins_with(&(world.service("greeter", &["v1", "v2"]) + &rules(SPLIT))).await;
    for library in Library::all() {
        let name = library.name();
        let jason = "greeter:80/Name,end-user=jason";
        let heard = world.calls(&library, "shares", 600, &["greeter:80/Name", jason]).await;
        let count = |line: &str| heard.iter().filter(|heard| *heard == line).count();
        assert_eq!(count(&format!("{jason} ok v2")), 600, "{name}: {heard:?}");
        let (v1, v2) = (count("greeter:80/Name ok v1"), count("greeter:80/Name ok v2"));
        assert_eq!(v1 + v2, 600, "{name}");
        // 480 are expected with a standard deviation of 9.8; six of those are more than chance.
        assert!((421..=539).contains(&v1), "{name}: {v1} of 600 to v1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_name_of_a_service_can_be_dialled() {
    let Some(python) = python("proxyless gRPC") else { return };
    let world = World::start(&python).await;
    world.begins_with(&world.service("greeter", &["v1"])).await;
    let names = ["greeter:80", "greeter", "greeter.default:80", "greeter.default.svc.cluster.local:80"];
    let targets = names.map(|name| format!("{name}/Name"));
    let targets = targets.each_ref().map(String::as_str);
    for library in Library::all() {
        let heard = world.calls(&library, "names", 1, &targets).await;
        assert_eq!(heard, targets.map(|target| format!("{target} ok v1")), "{}", library.name());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_and_rules_come_and_go_under_a_client() {
    let Some(python) = python("proxyless gRPC") else { return };
    for library in Library::all() {
        let world = World::start(&python).await;
        world.begins_with(&world.service("greeter", &["v1"])).await;
        let client = world.client(&library, "changes", 0, &["greeter:80/Name"]);
        settles(&client, "v1 answers", |line| line.ends_with(" ok v1")).await;
        world.edit(&world.service("greeter", &["v2"]));
        settles(&client, "v2 took its place", |line| line.ends_with(" ok v2")).await;
        world.edit(
            &(world.service("greeter", &["v1", "v2"]) + &rules(&SPLIT.replace("80}", "100}").replace("20}", "0}"))),
        );
        settles(&client, "a route came", |line| line.ends_with(" ok v1")).await;
        assert!(lines(&client).iter().all(|line| line.contains(" ok ")), "no call was lost:\n{}", client.log());
        world.edit(&world.service("greeter", &[]));
        settles(&client, "nobody is left", |line| line.contains(" error UNAVAILABLE ")).await;
        world.edit(&world.service("greeter", &["v2"]));
        settles(&client, "v2 is back", |line| line.ends_with(" ok v2")).await;
        eventually("all of it is acknowledged", async || {
            let [status] = &world.streams("changes").await?[..] else { return Err("several streams".to_owned()) };
            let types = status["types"].as_object().cloned().unwrap_or_default();
            let acked = types.values().all(|kind| kind["sent"] == kind["acked"] && kind["nack"].is_null());
            let shown = status["variant"] == "sotw" && status["dialect"] == "grpc" && types.len() == 4;
            if acked && shown { Ok(()) } else { Err(format!("{status:#}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_that_comes_back_finds_its_clients_as_they_were() {
    let Some(python) = python("proxyless gRPC") else { return };
    for library in Library::all() {
        let mut world = World::start(&python).await;
        world.begins_with(&world.service("greeter", &["v1"])).await;
        let client = world.client(&library, "outage", 0, &["greeter:80/Name"]);
        settles(&client, "v1 answers", |line| line.ends_with(" ok v1")).await;
        world.control_plane.kill();
        settles(&client, "v1 answers without a control plane", |line| line.ends_with(" ok v1")).await;
        world.edit(&world.service("greeter", &["v2"]));
        world.control_plane.restart().await;
        settles(&client, "the client has come back", |line| line.ends_with(" ok v2")).await;
        assert!(lines(&client).iter().all(|line| line.contains(" ok ")), "no call was lost:\n{}", client.log());
    }
}
