//! What rules come to at a client of gRPC: in force, or refused with the reason, or refused by the client itself.

use leno_tests::{eventually, metric, python};
use serde_json::{Value, json};

use super::{Library, World, lines, settles};

/// What a call comes to.
enum Comes {
    /// The end of the line that the client writes.
    To(&'static str),
    /// Nowhere, since the table is refused: a part of the reason.
    Refused(&'static str),
}

use Comes::{Refused, To};

/// `http` of a VirtualService of its own each, the method that is called, and what that comes to. `TO1` and `TO2` are the
/// destinations v1 and v2.
const ROWS: &[(&str, &str, Comes)] = &[
    ("[{match: [{withoutHeaders: {a: {exact: b}}}], route: [TO2]}]", "Name", Refused("match.headers[a]: ")),
    ("[{match: [{uri: {regex: \"(?x)/leno.*\"}}], route: [TO1]}]", "Name", Refused("match.uri: ")),
    ("[{route: [TO1]}]", "Name", To("ok v1")),
    ("[{match: [{uri: {exact: /leno.Greeter/Name}}], route: [TO2]}, {route: [TO1]}]", "Name", To("ok v2")),
    (
        "[{match: [{uri: {exact: /LENO.greeter/name}, ignoreUriCase: true}], route: [TO2]}, {route: [TO1]}]",
        "Name",
        To("ok v2"),
    ),
    ("[{match: [{uri: {regex: \"/leno[.].*/N.me\"}}], route: [TO2]}, {route: [TO1]}]", "Name", To("ok v2")),
    ("[{match: [{withoutHeaders: {a: {}}}], route: [TO2]}, {route: [TO1]}]", "Name", To("ok v2")),
    ("[{match: [{withoutHeaders: {a: {}}}], route: [TO2]}, {route: [TO1]}]", "Name,a=b", To("ok v1")),
    ("[{match: [{headers: {a: {}}}], route: [TO2]}, {route: [TO1]}]", "Name,a=b", To("ok v2")),
    ("[{match: [{headers: {a: {prefix: \"x\"}}}], route: [TO2]}, {route: [TO1]}]", "Name,a=b", To("ok v1")),
    (
        "[{fault: {abort: {grpcStatus: RESOURCE_EXHAUSTED, percentage: {value: 100}}}, route: [TO1]}]",
        "Name",
        To("RESOURCE_EXHAUSTED"),
    ),
    ("[{timeout: 1s, route: [TO1]}]", "Slow", To("DEADLINE_EXCEEDED")),
    ("[{route: [TO1]}]", "Slow", To("ok slow")),
    ("[{route: [TO1]}]", "Twice", To("ok attempt 2")),
    ("[{retries: {attempts: 1, retryOn: unavailable}, route: [TO1]}]", "Twice", To("ok attempt 2")),
    ("[{retries: {attempts: 0}, route: [TO1]}]", "Twice", To("UNAVAILABLE")),
    ("[{corsPolicy: {allowOrigins: [{exact: \"https://a\"}]}, route: [TO1]}]", "Name", To("ok v1")),
    (
        "[{match: [{queryParams: {a: {exact: b}}}], route: [TO2]}, {route: [TO1]}]",
        "Name",
        Refused("match.queryParams: "),
    ),
    ("[{match: [{method: {exact: GET}}], route: [TO2]}, {route: [TO1]}]", "Name", Refused("match.headers[:method]: ")),
    ("[{match: [{headers: {a: {exact: b}}}], redirect: {uri: /b}}, {route: [TO1]}]", "Name", Refused("redirect: ")),
    (
        "[{match: [{headers: {a: {exact: b}}}], directResponse: {status: 403}}, {route: [TO1]}]",
        "Name",
        Refused("directResponse: "),
    ),
    ("[{rewrite: {uri: /leno.Greeter/Slow}, route: [TO1]}]", "Name", Refused("rewrite: ")),
    ("[{mirrors: [TO2], route: [TO1]}]", "Name", Refused("mirrors: ")),
    ("[{headers: {request: {set: {a: b}}}, route: [TO1]}]", "Name", Refused("headers: ")),
    (
        "[{retries: {attempts: 2, perTryTimeout: 1s, retryOn: unavailable}, route: [TO1]}]",
        "Name",
        Refused("retries: perTryTimeout: "),
    ),
    ("[{retries: {attempts: 9, retryOn: unavailable}, route: [TO1]}]", "Name", Refused("retries: attempts: ")),
    ("[{retries: {attempts: 2, retryOn: 5xx}, route: [TO1]}]", "Name", Refused("retries: retryOn: ")),
];

fn host(index: usize) -> String {
    format!("row-{index}")
}

fn virtual_service(host: &str, http: &str) -> String {
    let to = |version: &str| format!("{{destination: {{host: {host}, subset: {version}}}}}");
    // A copy has its destination written without a list item around it.
    let copy = format!("mirrors: [{}]", to("v2"));
    let http = http.replace("mirrors: [TO2]", &copy).replace("TO1", &to("v1")).replace("TO2", &to("v2"));
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {host}}}
spec: {{hosts: [{host}], http: {http}}}
---"
    )
}

fn remark<'a>(streams: &'a [Value], resource: &str) -> Option<&'a Value> {
    let mut remarks = streams.iter().filter_map(|stream| stream["remarks"].as_array()).flatten();
    remarks.find(|remark| remark["resource"] == resource)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rule_is_in_force_or_refused_and_never_forgotten() {
    let Some(python) = python("proxyless gRPC") else { return };
    let world = World::start(&python).await;
    let of_row = |(index, (http, _, _)): (usize, &(&str, &str, Comes))| {
        world.service(&host(index), &["v1", "v2"]) + &virtual_service(&host(index), http)
    };
    world.begins_with(&ROWS.iter().enumerate().map(of_row).collect::<String>()).await;
    let targets = ROWS.iter().enumerate().map(|(index, (_, method, _))| format!("{}:80/{method}", host(index)));
    let targets = targets.collect::<Vec<_>>();
    let targets = targets.iter().map(String::as_str).collect::<Vec<_>>();
    for library in Library::all() {
        // Endless, so that the stream is there while the status is read.
        let client = world.client(&library, "verdicts", 0, &targets);
        eventually("every row comes to what it should", async || {
            let heard = lines(&client);
            let round = heard.chunks_exact(ROWS.len()).next_back().ok_or_else(|| format!("{heard:#?}"))?;
            let is_wrong = |(line, (_, _, comes)): &(&String, &(&str, &str, Comes))| match comes {
                To(end) => !line.contains(end),
                Refused(_) => !line.contains(" error "),
            };
            let wrong = round.iter().zip(ROWS).filter(is_wrong).map(|(line, row)| (row.0, line)).collect::<Vec<_>>();
            if wrong.is_empty() { Ok(()) } else { Err(format!("{}: {wrong:#?}", library.name())) }
        })
        .await;
        let (heard, streams) = (lines(&client), world.streams("verdicts").await.unwrap());
        for (index, (http, _, comes)) in ROWS.iter().enumerate() {
            let row = format!("{}: {http}", library.name());
            let remark = remark(&streams, &format!("{}.default.svc.cluster.local:80", host(index)));
            let Refused(reason) = comes else {
                assert_eq!(remark, None, "{row}");
                continue;
            };
            let passed =
                heard.iter().find(|line| line.starts_with(&format!("{}:80/", host(index))) && line.contains(" ok "));
            assert_eq!(passed, None, "{row}");
            let remark = remark.unwrap_or_else(|| panic!("{row}: no remark in {streams:#?}"));
            assert_eq!((&remark["type"], &remark["outcome"]), (&"routes".into(), &"refused".into()), "{row}");
            let text = remark["reason"].as_str().unwrap();
            assert!(
                text.contains(reason) && text.contains(&format!("VirtualService default/{}", host(index))),
                "{row}"
            );
        }
        assert!(all_accepted(&streams), "{}: {streams:#?}", library.name());
    }
}

/// Whether a client has refused nothing.
fn all_accepted(streams: &[Value]) -> bool {
    let mut kinds = streams.iter().filter_map(|stream| stream["types"].as_object()).flatten();
    kinds.all(|(_, kind)| kind["nack"].is_null())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_refuses_is_shown_and_the_rest_goes_on() {
    let Some(python) = python("proxyless gRPC") else { return };
    for library in Library::all() {
        let world = World::start(&python).await;
        world.begins_with(&world.service("good", &["v1"])).await;
        let client = world.client(&library, "good", 0, &["good:80/Name"]);
        settles(&client, "the good service answers", |line| line.ends_with(" ok v1")).await;
        // A client that says it were an Envoy is sent an Envoy's listener, and cannot take it.
        let envoy = json!({"GENERATOR": "envoy", "INTERCEPTION_MODE": "NONE"});
        let other = world.client_with(&library, "other", envoy, 0, &["127.0.0.1_15001/Name"]);
        eventually("the refusal is shown", async || {
            let streams = world.streams("other").await?;
            let refused = streams.iter().any(|stream| stream["types"]["listeners"]["nack"].is_string());
            if refused { Ok(()) } else { Err(format!("{streams:#?}")) }
        })
        .await;
        assert!(world.control_plane.process.log().contains("refused what it was sent"), "and logged");
        let counted = world.control_plane.metrics().await;
        let nacks = metric(&counted, "leno_control_plane_nacks_total", &["type=\"listeners\""]);
        assert!(nacks >= 1.0, "{counted}");
        assert!(lines(&other).iter().all(|line| line.contains(" error ")), "{}", other.log());
        settles(&client, "the good service answers still", |line| line.ends_with(" ok v1")).await;
        assert!(all_accepted(&world.streams("good").await.unwrap()));
        assert!(lines(&client).iter().all(|line| line.contains(" ok ")), "{}", client.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_can_no_longer_be_said_stays_as_it_was() {
    let Some(python) = python("proxyless gRPC") else { return };
    for library in Library::all() {
        let world = World::start(&python).await;
        let service = world.service("greeter", &["v1", "v2"]);
        world.begins_with(&(service.clone() + &virtual_service("greeter", "[{route: [TO2]}]"))).await;
        let client = world.client(&library, "keeps", 0, &["greeter:80/Name"]);
        settles(&client, "v2 answers", |line| line.ends_with(" ok v2")).await;
        world.edit(&(service.clone() + &virtual_service("greeter", "[{mirrors: [TO2], route: [TO1]}]")));
        eventually("the refusal is shown", async || {
            let streams = world.streams("keeps").await?;
            let found = remark(&streams, "greeter.default.svc.cluster.local:80").is_some();
            if found { Ok(()) } else { Err(format!("{streams:#?}")) }
        })
        .await;
        settles(&client, "v2 answers still", |line| line.ends_with(" ok v2")).await;
        world.edit(&(service + &virtual_service("greeter", "[{route: [TO1]}]")));
        settles(&client, "what can be said is in force", |line| line.ends_with(" ok v1")).await;
    }
}
