//! All paths with all methods, by each way.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use http_body_util::BodyExt as _;
use leno_config::ir::Locality;
use leno_config::node::{Interception, Node};
use tokio::sync::watch;

use crate::identity::{Keyring, Origin};
use crate::source::Status;
use crate::stage::Stage;
use crate::telemetry::Telemetry;

use super::*;

fn shared() -> Arc<Shared> {
    let node = Node {
        name: "shop-1".to_owned(),
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        namespace: "default".to_owned(),
        service_account: "shop".to_owned(),
        workload: "shop".to_owned(),
        labels: BTreeMap::new(),
        locality: Locality::default(),
        interception: Interception::None,
    };
    let keyring = Arc::new(Keyring::new(Origin::None));
    let (status, stage) = (watch::channel(Status::ControlPlane(Box::default())).1, watch::channel(Stage::Serving).1);
    Arc::new(Shared::new(Arc::new(Telemetry::default()), keyring, node, status, stage))
}

async fn ask(shared: &Arc<Shared>, face: Face, method: Method, target: &str) -> (u16, String) {
    let answer = respond(shared, face, &method, target).await;
    let status = answer.status().as_u16();
    if answer.body().is_stream() {
        return (status, String::new());
    }
    let body = answer.into_body().collect().await.expect("a body does not fail").to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn every_page_answers_to_its_methods_alone() {
    for entry in PAGES.iter().filter(|entry| entry.page != Page::Logging) {
        let reads = match entry.page {
            Page::Ready => 503,
            // It wants to know of which request.
            Page::Explain => 400,
            _ => 200,
        };
        for path in entry.paths {
            let shared = shared();
            let expected = match entry.acts {
                Acts::Reads => [reads, reads, 405, 405, 405],
                Acts::Changes => [405, 405, 200, 405, 405],
                Acts::Both => [reads, reads, 200, 405, 405],
            };
            for (method, expected) in
                [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE].into_iter().zip(expected)
            {
                let (status, body) = ask(&shared, Face::All, method.clone(), path).await;
                assert_eq!(status, expected, "{method} {path}: {body}");
            }
        }
    }
}

#[tokio::test]
async fn from_afar_nothing_is_changed_but_the_log() {
    for entry in PAGES {
        let path = entry.paths.first().expect("a page has a path");
        let (status, body) = ask(&shared(), Face::Relay, Method::POST, path).await;
        match entry.acts {
            Acts::Reads => assert_eq!(status, 405, "{path}"),
            Acts::Changes => assert!(status == 403 && body.contains("own machine"), "{path}: {status} {body}"),
            // Tests have no log.
            Acts::Both => assert_eq!(status, 503, "{path}: {body}"),
        }
    }
}

#[tokio::test]
async fn the_addresses_for_others_show_one_page() {
    let rows = [
        (Face::Metrics, "/stats/prometheus", 200),
        (Face::Metrics, "/metrics", 200),
        (Face::Metrics, "/ready", 404),
        (Face::Metrics, "/config_dump", 404),
        (Face::Ready, "/healthz/ready", 503),
        (Face::Ready, "/stats/prometheus", 404),
        (Face::Ready, "/", 404),
    ];
    for (face, path, expected) in rows {
        assert_eq!(ask(&shared(), face, Method::GET, path).await.0, expected, "{face}: {path}");
        assert!(ask(&shared(), face, Method::POST, path).await.0 >= 404, "{face}: {path}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said() {
    let rows = [
        (Method::GET, "/config_dmup", 404, "did you mean `/config_dump`"),
        (Method::GET, "/stats/", 404, "did you mean `/stats`"),
        (Method::POST, "/drain_listener", 404, "did you mean `/drain_listeners`"),
        (Method::GET, "/quitquitquit", 405, "use POST"),
        (Method::POST, "/clusters", 405, "use GET"),
        (Method::GET, "/stats?filer=x", 400, "did you mean `filter`"),
        (Method::GET, "/stats?filter=(", 400, "not a regular expression"),
        (Method::GET, "/stats?filter=%zz", 400, "percent-encoding"),
        (Method::GET, "/stats?format=xml", 400, "text, json, prometheus"),
        (Method::GET, "/config_dump?resource=cluster", 400, "listeners"),
        (Method::GET, "/config_dump?mask=a..b", 400, "name fields"),
        (Method::GET, "/clusters?format=json&format=text", 400, "twice"),
        (Method::GET, "/tap?status=abc", 400, "5xx"),
        (Method::GET, "/tap?duration=2h", 400, "at most 1h"),
        (Method::POST, "/drain_listeners?graceful=maybe", 400, "say 1 or 0"),
        (Method::GET, "/ready?x", 400, "there are: none"),
    ];
    for (method, target, expected, says) in rows {
        let (status, body) = ask(&shared(), Face::All, method.clone(), target).await;
        assert!(status == expected && body.contains(says), "{method} {target}: {status} {body}");
    }
}

#[tokio::test]
async fn readiness_fails_when_somebody_says_so() {
    let shared = shared();
    shared.set_ready();
    let ready = async || ask(&shared, Face::Ready, Method::GET, "/ready").await;
    assert_eq!(ready().await, (200, "LIVE\n".to_owned()));
    ask(&shared, Face::All, Method::POST, "/healthcheck/fail").await;
    let (status, body) = ready().await;
    assert!(status == 503 && body.starts_with("DRAINING") && body.contains("/healthcheck/ok"), "{status} {body}");
    assert!(ask(&shared, Face::All, Method::GET, "/server_info").await.1.contains("\"state\": \"DRAINING\""));
    ask(&shared, Face::All, Method::POST, "/healthcheck/ok").await;
    assert_eq!(ready().await.0, 200);
    ask(&shared, Face::All, Method::POST, "/drain_listeners?inboundonly").await;
    assert_eq!(ready().await.0, 503, "what is drained stays so");
}

#[tokio::test]
async fn the_help_names_every_page() {
    let (_, help) = ask(&shared(), Face::All, Method::GET, "/help").await;
    for path in PAGES.iter().filter_map(|entry| entry.paths.first()) {
        assert!(help.contains(&format!(" {path} ")), "{path} is not in\n{help}");
    }
}

#[tokio::test]
async fn a_tap_that_nobody_reads_any_more_makes_room() {
    let shared = shared();
    let mut open = Vec::new();
    for _ in 0..crate::telemetry::tap::MAX_TAPS {
        open.push(respond(&shared, Face::Relay, &Method::GET, "/tap").await);
    }
    assert!(open.iter().all(|answer| answer.status() == StatusCode::OK && answer.body().is_stream()));
    assert_eq!(ask(&shared, Face::All, Method::GET, "/tap").await.0, 429);
    open.clear();
    let mut taps = shared.telemetry.taps.watch();
    let all_gone = taps.wait_for(|taps| taps.is_empty());
    tokio::time::timeout(std::time::Duration::from_secs(10), all_gone).await.expect("in time").expect("the list stays");
}
