use std::time::{Duration, Instant, SystemTime};

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use leno_config::xds::{Kind, node_to_xds};
use leno_proxy::state::accepted::Incoming;
use leno_proxy::state::disk::Saved;
use leno_proxy::state::warming::Effective;
use leno_proxy::xds::Status;
use leno_proxy::xds::session::{Answer, Now, Session};

use crate::build::{Wire, eds, eds_as, endpoints, garbage, listener, node, nothing_is_refused, passthrough, routes};
use crate::server::wire;

/// A session and the clock.
struct Talk {
    session: Session,
    start: Instant,
    seconds: u64,
    nonce: u64,
}

impl Talk {
    fn new() -> Self {
        let session = Session::new(node_to_xds(&node()), nothing_is_refused);
        Self { session, start: Instant::now(), seconds: 0, nonce: 0 }
    }

    fn connected() -> Self {
        let mut talk = Self::new();
        talk.connect();
        talk.asks(&["clusters", "listeners"]);
        talk
    }

    fn now(&self) -> Now {
        let past = Duration::from_secs(self.seconds);
        Now { steady: self.start + past, wall: SystemTime::UNIX_EPOCH + past }
    }

    fn connect(&mut self) {
        let now = self.now();
        self.session.connected(now);
    }

    fn wait(&mut self, seconds: u64) {
        self.seconds += seconds;
        if self.session.deadline().is_some_and(|deadline| deadline <= self.now().steady) {
            let now = self.now();
            self.session.elapsed(now);
        }
    }

    /// The server says this.
    fn hears(&mut self, kind: Kind, resources: Vec<Incoming>, removed: &[&str]) -> Answer {
        self.nonce += 1;
        let response = DeltaDiscoveryResponse {
            type_url: kind.url().to_owned(),
            resources: resources.iter().map(wire).collect(),
            removed_resources: removed.iter().map(ToString::to_string).collect(),
            nonce: self.nonce.to_string(),
            ..Default::default()
        };
        let now = self.now();
        self.session.received(response, now)
    }

    /// All requests since the last look: `kind +subscribed -unsubscribed name=version #nonce !nack`.
    #[track_caller]
    fn asks(&mut self, expected: &[&str]) {
        let said: Vec<String> = std::iter::from_fn(|| self.session.take_request()).map(|it| words(&it)).collect();
        assert_eq!(said, expected);
    }

    /// Versions in force: `name version …` by kind, in the order of pushes.
    #[track_caller]
    fn is_in_force(&mut self, expected: &str) -> Effective {
        let raw = self.session.in_force().raw();
        let words: Vec<String> = raw.map(|it| format!("{} {}", it.name, it.version)).collect();
        assert_eq!(words.join(", "), expected);
        self.session.take_effective().unwrap_or_default()
    }

    fn status(&self) -> Status {
        let mut status = Status::default();
        self.session.describe(&mut status);
        status
    }
}

fn words(request: &DeltaDiscoveryRequest) -> String {
    let label = Kind::from_url(&request.type_url).map(|kind| kind.label().to_owned());
    let mut words = vec![label.unwrap_or_else(|| request.type_url.clone())];
    words.extend(request.resource_names_subscribe.iter().map(|name| format!("+{name}")));
    words.extend(request.resource_names_unsubscribe.iter().map(|name| format!("-{name}")));
    let mut versions: Vec<_> = request.initial_resource_versions.iter().collect();
    versions.sort();
    words.extend(versions.iter().map(|(name, version)| format!("{name}={version}")));
    if !request.response_nonce.is_empty() {
        words.push(format!("#{}", request.response_nonce));
    }
    if let Some(error) = &request.error_detail {
        assert_eq!(error.code, 3, "INVALID_ARGUMENT");
        words.push(format!("!{}", error.message));
    }
    words.join(" ")
}

/// A session with one listener, its routes and one cluster, all in force; all requests are taken.
fn in_full_swing() -> Talk {
    let mut talk = Talk::connected();
    talk.hears(Kind::Cluster, vec![eds("a").at("1")], &[]);
    talk.hears(Kind::Endpoints, vec![endpoints("a", 1).at("1")], &[]);
    talk.hears(Kind::Listener, vec![listener("l", 1, "r").at("1")], &[]);
    talk.hears(Kind::Route, vec![routes("r", &["a"]).at("1")], &[]);
    let answers = ["clusters #1", "endpoints +a", "endpoints #2", "listeners #3", "routes +r", "routes #4"];
    talk.asks(&answers);
    talk.is_in_force("a 1, a 1, l 1, r 1");
    talk
}

#[test]
fn the_node_is_named_in_the_first_request_of_each_stream_alone() {
    let mut talk = Talk::new();
    for _ in 0..2 {
        talk.connect();
        let nodes: Vec<Option<core::Node>> =
            std::iter::from_fn(|| talk.session.take_request()).map(|request| request.node).collect();
        assert_eq!(nodes, [Some(node_to_xds(&node())), None]);
    }
}

#[test]
fn a_good_start_subscribes_to_what_it_learns_of() {
    let mut talk = in_full_swing();
    assert!(talk.session.take_effective().is_none(), "nothing is handed on twice");
    assert_eq!(talk.session.deadline(), None, "nothing is waited for");
}

#[test]
fn what_is_in_force_is_handed_on_complete_and_with_its_versions() {
    let mut talk = Talk::connected();
    talk.hears(Kind::Cluster, vec![eds("a").at("1")], &[]);
    talk.hears(Kind::Listener, vec![listener("l", 1, "r").at("1")], &[]);
    assert!(talk.session.take_effective().is_none(), "all of it is still waiting");
    talk.seconds = 7;
    talk.hears(Kind::Endpoints, vec![endpoints("a", 1).at("2")], &[]);
    assert!(!talk.session.take_effective().unwrap().complete, "the listener has no routes yet");
    talk.hears(Kind::Route, vec![routes("r", &["a"]).at("3")], &[]);
    let effective = talk.session.take_effective().unwrap();
    assert!(effective.complete);
    assert_eq!(effective.resources.listeners.len(), 1);
    assert_eq!(effective.versions().endpoints["a"], "2");
    assert_eq!(effective.received_at, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(7)));
    // One more listener, still without routes, does not take the proxy out of service.
    talk.hears(Kind::Listener, vec![listener("m", 2, "s").at("1")], &[]);
    talk.hears(Kind::Cluster, vec![passthrough("p").at("1")], &[]);
    let effective = talk.session.take_effective().unwrap();
    assert!(effective.complete && !effective.resources.listeners.contains_key("m"));
}

#[test]
fn a_nack_names_each_bad_resource_and_the_others_apply() {
    let mut talk = Talk::connected();
    let mut bad = garbage(Kind::Cluster, "bad", "1");
    bad.any.as_mut().unwrap().type_url = "type.example/Unknown".to_owned();
    let nameless = Incoming { name: String::new(), ..passthrough("n").at("1") };
    let answer = talk.hears(Kind::Cluster, vec![passthrough("p").at("1"), bad, nameless], &[]);
    let text = "bad: resource.type_url: is `type.example/Unknown` in a response of \
                `type.googleapis.com/envoy.config.cluster.v3.Cluster`; (no name): name: is empty";
    assert_eq!(answer, Answer::Nack(text.to_owned()));
    talk.asks(&[&format!("clusters #1 !{text}")]);
    talk.is_in_force("p 1");
    let status = talk.status();
    let clusters = &status.kinds["clusters"];
    assert_eq!((clusters.responses, clusters.nacks), (1, 1));
    assert_eq!(clusters.last_nack.as_ref().unwrap().text, text);
}

#[test]
fn a_nack_of_many_resources_stays_short() {
    let mut talk = Talk::connected();
    let resources =
        (0..10_000).map(|index| Incoming { any: None, ..garbage(Kind::Cluster, &format!("c{index}"), "1") });
    let Answer::Nack(text) = talk.hears(Kind::Cluster, resources.collect(), &[]) else { panic!("nothing was valid") };
    assert!(text.len() < 17_000, "{} bytes", text.len());
    assert!(text.starts_with("c0: resource: is missing") && text.ends_with(" more"), "{text}");
}

#[test]
fn a_refused_change_leaves_the_old_state_in_force_until_a_good_one_comes() {
    let mut talk = in_full_swing();
    talk.hears(Kind::Route, vec![garbage(Kind::Route, "r", "2")], &[]);
    talk.is_in_force("a 1, a 1, l 1, r 1");
    talk.hears(Kind::Route, vec![routes("r", &["a"]).at("3")], &[]);
    talk.is_in_force("a 1, a 1, l 1, r 3");
}

#[test]
fn responses_of_unknown_or_unasked_types_are_refused() {
    let mut talk = Talk::connected();
    let response = DeltaDiscoveryResponse { type_url: "t".into(), nonce: "1".into(), ..Default::default() };
    let now = talk.now();
    talk.session.received(response, now);
    talk.nonce = 1;
    talk.hears(Kind::Endpoints, vec![endpoints("a", 1).at("1")], &[]);
    let text = "!response: type_url: is not a type that this proxy subscribed to";
    talk.asks(&[&format!("t #1 {text}"), &format!("endpoints #2 {text}")]);
}

#[test]
fn a_response_without_a_nonce_applies_and_cannot_be_acknowledged() {
    let mut talk = Talk::connected();
    let response = DeltaDiscoveryResponse {
        type_url: Kind::Cluster.url().to_owned(),
        resources: vec![wire(&passthrough("p").at("1"))],
        ..Default::default()
    };
    let now = talk.now();
    assert_eq!(talk.session.received(response, now), Answer::Ack);
    talk.asks(&[]);
    talk.is_in_force("p 1");
}

#[test]
fn a_new_stream_starts_with_what_was_accepted() {
    let mut talk = in_full_swing();
    talk.hears(Kind::Cluster, vec![eds("b").at("1")], &[]);
    talk.session.disconnected();
    talk.is_in_force("a 1, a 1, l 1, r 1");
    talk.asks(&[]);
    assert_eq!(talk.session.deadline(), None, "the clock stands while there is nobody to answer");
    talk.connect();
    talk.asks(&["clusters a=1 b=1", "endpoints +a +b a=1", "listeners l=1", "routes +r r=1"]);
    assert!(talk.session.deadline().is_some());
    // The server says what changed, and only that.
    talk.hears(Kind::Cluster, vec![eds("c").at("1")], &["b"]);
    talk.asks(&["clusters #6", "endpoints +c -b"]);
    talk.is_in_force("a 1, a 1, l 1, r 1");
}

#[test]
fn what_was_refused_is_named_with_its_last_good_version_on_a_new_stream() {
    let mut talk = in_full_swing();
    talk.hears(Kind::Cluster, vec![garbage(Kind::Cluster, "a", "2"), garbage(Kind::Cluster, "x", "2")], &[]);
    talk.connect();
    talk.asks(&["clusters a=1", "endpoints +a a=1", "listeners l=1", "routes +r r=1"]);
}

#[test]
fn what_nothing_refers_to_is_unsubscribed_and_forgotten() {
    let mut talk = in_full_swing();
    talk.hears(Kind::Listener, vec![], &["l"]);
    talk.asks(&["listeners #5", "routes -r"]);
    talk.hears(Kind::Cluster, vec![], &["a"]);
    talk.asks(&["clusters #6", "endpoints -a"]);
    talk.is_in_force("");
    assert_eq!(talk.session.accepted().bytes(), 0);
}

#[test]
fn an_answer_under_way_for_what_was_unsubscribed_is_acknowledged_and_passed_over() {
    let mut talk = in_full_swing();
    talk.hears(Kind::Cluster, vec![], &["a"]);
    talk.asks(&["clusters #5", "endpoints -a"]);
    assert_eq!(talk.hears(Kind::Endpoints, vec![endpoints("a", 2).at("2")], &[]), Answer::Ack);
    talk.asks(&["endpoints #6"]);
    assert!(!talk.session.accepted().store().contains(Kind::Endpoints, "a"));
    // Wanted again, it is asked for again, and waited for.
    talk.hears(Kind::Cluster, vec![eds("a").at("3")], &[]);
    talk.asks(&["clusters #7", "endpoints +a"]);
    talk.is_in_force("l 1, r 1");
    talk.hears(Kind::Endpoints, vec![endpoints("a", 2).at("2")], &[]);
    talk.is_in_force("a 3, a 2, l 1, r 1");
}

#[test]
fn subscriptions_that_change_while_a_response_is_under_way_lose_nothing() {
    let mut talk = in_full_swing();
    talk.hears(Kind::Cluster, vec![eds("b").at("1")], &[]);
    // The endpoints of `a` were pushed before the server read the subscription to `b`.
    talk.hears(Kind::Endpoints, vec![endpoints("a", 2).at("2")], &[]);
    talk.asks(&["clusters #5", "endpoints +b", "endpoints #6"]);
    talk.hears(Kind::Endpoints, vec![endpoints("b", 3).at("1")], &[]);
    talk.is_in_force("a 1, b 1, a 2, b 1, l 1, r 1");
}

#[test]
fn endpoints_and_routes_that_do_not_come_within_15_seconds_do_not_exist() {
    let mut talk = Talk::connected();
    talk.hears(Kind::Cluster, vec![eds("a").at("1")], &[]);
    talk.hears(Kind::Listener, vec![listener("l", 1, "r").at("1")], &[]);
    talk.wait(14);
    talk.is_in_force("");
    assert_eq!(talk.status().kinds["endpoints"].missing.iter().next().unwrap(), "a");
    talk.wait(1);
    let effective = talk.is_in_force("a 1, l 1");
    assert!(effective.complete);
    assert_eq!(effective.resources.endpoints.values().map(|it| it.iter().count()).sum::<usize>(), 0);
    talk.hears(Kind::Endpoints, vec![endpoints("a", 1).at("1")], &[]);
    talk.is_in_force("a 1, a 1, l 1");
}

#[test]
fn a_server_that_says_it_has_nothing_is_not_waited_for() {
    let mut talk = Talk::connected();
    talk.hears(Kind::Cluster, vec![eds("a").at("1"), eds("b").at("1")], &[]);
    talk.hears(Kind::Endpoints, vec![endpoints("b", 1).at("1")], &["a"]);
    talk.is_in_force("a 1, b 1, b 1");
    assert_eq!(talk.session.deadline(), Some(talk.now().steady + Duration::from_secs(15)), "for the listeners");
}

#[test]
fn the_clock_of_a_refused_first_state_runs_on() {
    let mut talk = Talk::connected();
    talk.hears(Kind::Cluster, vec![eds("a").at("1")], &[]);
    talk.wait(10);
    talk.hears(Kind::Endpoints, vec![garbage(Kind::Endpoints, "a", "1")], &[]);
    talk.is_in_force("");
    talk.wait(5);
    talk.is_in_force("a 1");
}

#[test]
fn a_new_stream_starts_the_clocks_anew() {
    let mut talk = Talk::connected();
    talk.hears(Kind::Cluster, vec![eds("a").at("1")], &[]);
    talk.wait(14);
    talk.session.disconnected();
    talk.wait(100);
    talk.is_in_force("");
    talk.connect();
    talk.wait(14);
    talk.is_in_force("");
    talk.wait(1);
    talk.is_in_force("a 1");
}

#[test]
fn a_kept_state_stays_subscribed_until_its_successor_is_warm() {
    let mut talk = in_full_swing();
    talk.hears(Kind::Cluster, vec![eds_as("a", "new").at("2")], &[]);
    talk.asks(&["clusters #5", "endpoints +new"]);
    talk.hears(Kind::Endpoints, vec![endpoints("a", 9).at("2")], &[]);
    talk.is_in_force("a 1, a 2, l 1, r 1");
    talk.asks(&["endpoints #6"]);
    talk.hears(Kind::Endpoints, vec![endpoints("new", 9).at("1")], &[]);
    talk.asks(&["endpoints #7", "endpoints -a"]);
    talk.is_in_force("a 2, new 1, l 1, r 1");
}

#[test]
fn endpoints_withdrawn_under_a_cluster_stay_as_in_envoy() {
    let mut talk = in_full_swing();
    talk.hears(Kind::Endpoints, vec![], &["a"]);
    talk.hears(Kind::Route, vec![], &["r"]);
    talk.is_in_force("a 1, a 1, l 1, r 1");
}

#[test]
fn errors_of_single_resources_are_removals_when_they_say_not_found() {
    use envoy_types::pb::envoy::service::discovery::v3::{ResourceError, ResourceName};
    use envoy_types::pb::google::rpc;
    let mut talk = Talk::connected();
    talk.hears(Kind::Cluster, vec![eds("a").at("1"), eds("b").at("1")], &[]);
    let error = |name: &str, code| ResourceError {
        resource_name: Some(ResourceName { name: name.to_owned(), ..Default::default() }),
        error_detail: Some(rpc::Status { code, ..Default::default() }),
    };
    let response = DeltaDiscoveryResponse {
        type_url: Kind::Endpoints.url().to_owned(),
        resource_errors: vec![error("a", 5), error("b", 14)],
        nonce: "2".to_owned(),
        ..Default::default()
    };
    let now = talk.now();
    assert_eq!(talk.session.received(response, now), Answer::Ack);
    talk.is_in_force("a 1");
}

#[test]
fn a_restart_serves_from_disk_and_tells_the_server_the_versions() {
    let before = in_full_swing();
    let saved = before.session.in_force().raw().map(|it| Saved {
        kind: it.kind,
        name: it.name.to_owned(),
        version: it.version.to_owned(),
        any: it.any.clone(),
    });
    let mut talk = Talk::new();
    assert_eq!(talk.session.restore(saved.collect()), []);
    let effective = talk.is_in_force("a 1, a 1, l 1, r 1");
    assert!(effective.complete && effective.received_at.is_none());
    assert!(talk.status().from_disk);
    talk.connect();
    talk.asks(&["clusters a=1", "endpoints +a a=1", "listeners l=1", "routes +r r=1"]);
    talk.hears(Kind::Listener, vec![], &["l"]);
    assert!(!talk.status().from_disk);
    talk.is_in_force("a 1, a 1");
}

#[test]
fn what_this_program_refuses_is_left_out_of_the_state_from_disk() {
    let mut talk = Talk::new();
    let save = |kind, incoming: Incoming| {
        let Incoming { name, version, any, .. } = incoming;
        Saved { kind, name, version, any: any.unwrap() }
    };
    let saved = vec![
        save(Kind::Cluster, garbage(Kind::Cluster, "a", "1")),
        save(Kind::Cluster, eds("b").at("1")),
        save(Kind::Endpoints, endpoints("a", 1).at("1")),
        save(Kind::Endpoints, endpoints("b", 1).at("1")),
    ];
    assert_eq!(talk.session.restore(saved).len(), 1);
    talk.is_in_force("b 1, b 1");
    talk.connect();
    talk.asks(&["clusters b=1", "endpoints +b b=1", "listeners"]);
}
