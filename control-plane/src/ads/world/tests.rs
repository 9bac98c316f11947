//! Recorded sequences, one per rule of the variant. A sequence is written as what the client says and what it hears.

use std::time::Duration;

use Kind::{Cluster, Endpoints, Listener, Route};

use super::*;
use crate::snapshot::tests::snapshot;

/// A stream with a clock that the test moves. It remembers what a client does: the last nonce of a kind, and the last version.
struct Stream {
    world: World,
    session: Session,
    now: Instant,
    nonces: BTreeMap<Kind, String>,
    versions: BTreeMap<Kind, String>,
}

impl Stream {
    fn open(resources: &[(Kind, &str, &str)]) -> Self {
        let mut stream = Self::waiting();
        stream.session.on_snapshot(snapshot(resources));
        stream
    }

    fn waiting() -> Self {
        let now = Instant::now();
        let session = Session::undivided(now);
        Self { world: World::default(), session, now, nonces: BTreeMap::new(), versions: BTreeMap::new() }
    }

    /// The client lists what it wants, with the newest nonce: an acknowledgement where one is due.
    fn says(&mut self, kind: Kind, names: &[&str]) -> Vec<String> {
        let nonce = self.nonces.get(&kind).cloned();
        self.request(kind, names, nonce.as_deref(), None)
    }

    /// The same without any nonce.
    fn asks(&mut self, kind: Kind, names: &[&str]) -> Vec<String> {
        self.request(kind, names, None, None)
    }

    fn nacks(&mut self, kind: Kind, names: &[&str], text: &str) -> Vec<String> {
        let nonce = self.nonces.get(&kind).cloned();
        self.request(kind, names, nonce.as_deref(), Some(text))
    }

    fn request(&mut self, kind: Kind, names: &[&str], nonce: Option<&str>, error: Option<&str>) -> Vec<String> {
        let request = Request {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            nonce: nonce.map(str::to_owned),
            error: error.map(str::to_owned),
        };
        self.world.on_request(&mut self.session, kind, request).unwrap();
        self.hears()
    }

    fn pushes(&mut self, resources: &[(Kind, &str, &str)]) -> Vec<String> {
        self.session.on_snapshot(snapshot(resources));
        self.hears()
    }

    /// All that is sent now: `clusters#1 a=1 b=2`.
    fn hears(&mut self) -> Vec<String> {
        let responses = std::iter::from_fn(|| self.world.poll(&mut self.session, self.now).unwrap());
        let responses = responses.collect::<Vec<_>>();
        for Response { kind, nonce, version, resources: _, errors: _ } in &responses {
            self.nonces.insert(*kind, nonce.clone());
            self.versions.insert(*kind, version.to_string());
        }
        responses.iter().map(shown).collect()
    }
}

fn shown(response: &Response) -> String {
    let names = response.resources.iter().map(|resource| format!(" {}={}", resource.name, resource.version));
    format!("{}#{}{}", response.kind.label(), response.nonce, names.collect::<String>())
}

const MESH: &[(Kind, &str, &str)] = &[
    (Cluster, "v1", "1"),
    (Cluster, "v2", "1"),
    (Endpoints, "v1", "1"),
    (Endpoints, "v2", "1"),
    (Listener, "in", "1"),
    (Listener, "out", "1"),
    (Route, "9080", "1"),
];

const NOTHING: [&str; 0] = [];

/// The sequence of a real Envoy: endpoints before clusters are acknowledged, routes before listeners are.
fn in_sync() -> Stream {
    let mut stream = Stream::open(MESH);
    assert_eq!(stream.says(Cluster, &[]), ["clusters#1 v1=1 v2=1"]);
    assert_eq!(stream.says(Endpoints, &["v1", "v2"]), ["endpoints#2 v1=1 v2=1"]);
    assert_eq!(stream.says(Cluster, &[]), NOTHING);
    assert_eq!(stream.says(Listener, &[]), NOTHING, "endpoints are not acknowledged yet");
    assert_eq!(stream.says(Endpoints, &["v1", "v2"]), ["listeners#3 in=1 out=1"]);
    assert_eq!(stream.says(Route, &["9080"]), ["routes#4 9080=1"]);
    assert_eq!(stream.says(Listener, &[]), NOTHING);
    assert_eq!(stream.says(Route, &["9080"]), NOTHING);
    stream
}

fn with(
    changes: &[(Kind, &'static str, &'static str)],
    without: &[(Kind, &str)],
) -> Vec<(Kind, &'static str, &'static str)> {
    let replaced = |kind, name| changes.iter().any(|change| (change.0, change.1) == (kind, name));
    let kept = MESH.iter().filter(|(kind, name, _)| !replaced(*kind, *name) && !without.contains(&(*kind, *name)));
    kept.chain(changes).copied().collect()
}

#[test]
fn an_envoy_is_brought_in_step_and_nothing_is_sent_twice() {
    let mut stream = in_sync();
    assert_eq!(stream.pushes(MESH), NOTHING);
    let status = stream.session.status();
    assert!(Kind::PUSH_ORDER.iter().filter_map(|kind| status.get(kind)).all(|kind| kind.sent == kind.acked));
    assert_eq!(status.len(), 4);
}

#[test]
fn a_grpc_client_asks_again_before_it_has_heard_the_first_answer() {
    let mut stream = Stream::open(MESH);
    assert_eq!(stream.asks(Listener, &["out"]), ["listeners#1 out=1"]);
    assert_eq!(stream.says(Listener, &["out"]), NOTHING);
    assert_eq!(stream.asks(Route, &["9080"]), ["routes#2 9080=1"]);
    assert_eq!(stream.says(Route, &["9080"]), NOTHING);
    // The second request crosses the first answer, so it has no nonce either; it supersedes the first.
    assert_eq!(stream.asks(Cluster, &["v1"]), ["clusters#3 v1=1"]);
    assert_eq!(stream.asks(Cluster, &["v1", "v2"]), ["clusters#4 v1=1 v2=1"]);
    // The acknowledgement of the first answer comes late and is about nothing any more, and names are not taken from it.
    assert_eq!(stream.request(Cluster, &["v1"], Some("3"), None), NOTHING);
    assert_eq!(stream.says(Cluster, &["v1", "v2"]), NOTHING);
    assert_eq!(stream.asks(Endpoints, &["v1"]), ["endpoints#5 v1=1"]);
    assert_eq!(stream.asks(Endpoints, &["v1", "v2"]), ["endpoints#6 v1=1 v2=1"]);
    assert_eq!(stream.request(Endpoints, &["v1"], Some("5"), None), NOTHING);
    assert_eq!(stream.says(Endpoints, &["v1", "v2"]), NOTHING);
    assert_eq!(stream.pushes(&with(&[(Endpoints, "v2", "2")], &[])), ["endpoints#7 v2=2"]);
}

#[test]
fn two_questions_before_there_is_an_answer_get_one() {
    let mut stream = Stream::waiting();
    assert_eq!(stream.asks(Cluster, &["v1"]), NOTHING);
    assert_eq!(stream.asks(Cluster, &["v1", "v2"]), NOTHING);
    assert_eq!(stream.pushes(MESH), ["clusters#1 v1=1 v2=1"]);
}

#[test]
fn added_names_are_answered_and_dropped_ones_are_not() {
    let mut stream = in_sync();
    // (kind, names of the request, what is sent)
    let rows: [(Kind, &[&str], &[&str]); 6] = [
        (Endpoints, &["v1"], &[]),
        (Endpoints, &["v1", "v2"], &["endpoints#5 v2=1"]),
        (Endpoints, &["v2", "v1", "v2"], &[]),
        (Endpoints, &[], &[]),
        (Endpoints, &["v1"], &["endpoints#6 v1=1"]),
        (Route, &["9080", "unknown"], &[]),
    ];
    for (kind, names, expected) in rows {
        assert_eq!(stream.says(kind, names), expected, "{kind:?} {names:?}");
    }
    assert_eq!(stream.pushes(&with(&[(Endpoints, "v2", "2")], &[])), NOTHING, "v2 was dropped");
    assert_eq!(stream.pushes(&with(&[(Route, "unknown", "1")], &[])), NOTHING, "endpoints are not acknowledged");
    assert_eq!(stream.says(Endpoints, &["v1"]), ["routes#7 unknown=1"]);
}

#[test]
fn clusters_by_name_are_all_of_those_names_and_never_the_wildcard_again() {
    let mut stream = Stream::open(MESH);
    assert_eq!(stream.says(Cluster, &["v1"]), ["clusters#1 v1=1"]);
    assert_eq!(stream.says(Cluster, &["v1", "v2"]), ["clusters#2 v1=1 v2=1"]);
    assert_eq!(stream.says(Cluster, &["v2"]), NOTHING);
    assert_eq!(stream.pushes(&with(&[(Cluster, "v1", "2")], &[])), NOTHING);
    assert_eq!(stream.says(Cluster, &[]), NOTHING, "nothing is wanted any more");
    assert_eq!(stream.pushes(&with(&[(Cluster, "v2", "2")], &[])), NOTHING);
    assert_eq!(stream.says(Cluster, &["*"]), ["clusters#3 v1=1 v2=2"]);
    assert_eq!(stream.says(Cluster, &["*", "v1"]), ["clusters#4 v1=1 v2=2"]);
    assert_eq!(stream.says(Cluster, &["*"]), NOTHING, "the wildcard covers it still");
    assert_eq!(stream.says(Cluster, &["v2"]), ["clusters#5 v2=2"], "named for the first time");
    assert_eq!(stream.says(Cluster, &["v2"]), NOTHING);
    assert_eq!(stream.pushes(&with(&[(Cluster, "v1", "3"), (Cluster, "v2", "3")], &[])), ["clusters#6 v2=3"]);
}

#[test]
fn a_first_request_without_names_ends_when_names_come() {
    let mut stream = Stream::open(MESH);
    assert_eq!(stream.says(Listener, &[]), ["listeners#1 in=1 out=1"]);
    assert_eq!(stream.says(Listener, &["in"]), ["listeners#2 in=1"]);
    assert_eq!(stream.says(Listener, &[]), NOTHING, "now it means nothing");
    assert_eq!(stream.pushes(&with(&[(Listener, "in", "2"), (Listener, "out", "2")], &[])), NOTHING);
}

#[test]
fn kinds_without_a_wildcard_take_no_names_and_a_star_for_what_they_are() {
    let mut stream = Stream::open(MESH);
    assert_eq!(stream.says(Endpoints, &[]), NOTHING);
    assert_eq!(stream.says(Route, &["*"]), NOTHING, "a table of that name is not there");
}

#[test]
fn what_is_refused_is_not_sent_again_until_it_changes() {
    let mut stream = in_sync();
    assert_eq!(stream.pushes(&with(&[(Route, "9080", "2")], &[])), ["routes#5 9080=2"]);
    assert_eq!(stream.nacks(Route, &["9080"], "9080: regex: bad"), NOTHING);
    assert_eq!(stream.session.status()[&Route].nack.as_deref(), Some("9080: regex: bad"));
    // The client goes on with the same nonce.
    assert_eq!(stream.says(Route, &["9080"]), NOTHING);
    assert_eq!(stream.pushes(&with(&[(Route, "9080", "3")], &[])), ["routes#6 9080=3"]);
    assert_eq!(stream.says(Route, &["9080"]), NOTHING);
    assert_eq!(stream.session.status()[&Route].nack, None);
}

#[test]
fn names_beside_a_refusal_count() {
    let mut stream = Stream::open(MESH);
    assert_eq!(stream.says(Cluster, &["v1"]), ["clusters#1 v1=1"]);
    assert_eq!(stream.nacks(Cluster, &["v1", "v2"], "v1: bad"), ["clusters#2 v1=1 v2=1"]);
}

#[test]
fn a_refusal_of_what_stands_beside_a_change_is_not_one_of_the_change() {
    let mut stream = in_sync();
    assert_eq!(stream.pushes(&with(&[(Listener, "in", "2")], &[])), ["listeners#5 in=2 out=1"]);
    assert_eq!(stream.nacks(Listener, &[], "in: bad"), NOTHING);
    assert_eq!(stream.pushes(&with(&[(Listener, "in", "2"), (Listener, "out", "2")], &[])), ["listeners#6 in=2 out=2"]);
    assert_eq!(stream.nacks(Listener, &[], "in: bad"), NOTHING);
    assert!(stream.session.has_accepted(Listener, "out", "2"));
    assert!(!stream.session.has_accepted(Listener, "in", "2"));
}

#[test]
fn a_refusal_that_comes_late_is_noted_and_nothing_else() {
    let mut stream = Stream::open(MESH);
    stream.asks(Cluster, &["v1"]);
    stream.asks(Cluster, &["v1", "v2"]);
    assert_eq!(stream.request(Cluster, &["v1"], Some("1"), Some("v1: bad")), NOTHING);
    assert_eq!(stream.session.status()[&Cluster].nack.as_deref(), Some("v1: bad"));
    assert!(stream.session.has_asked_for(Cluster, "v2"));
}

#[test]
fn a_nonce_of_an_earlier_stream_begins_anew() {
    let mut stream = Stream::open(MESH);
    assert_eq!(stream.request(Route, &["9080"], Some("77"), None), ["routes#1 9080=1"]);
    assert_eq!(stream.request(Cluster, &[], Some("78"), None), ["clusters#2 v1=1 v2=1"]);
}

#[test]
fn what_is_gone_is_missing_once_nothing_uses_it_any_more() {
    let mut stream = in_sync();
    let gone = with(&[(Route, "9080", "2")], &[(Cluster, "v2"), (Endpoints, "v2"), (Listener, "in")]);
    assert_eq!(stream.pushes(&gone), ["routes#5 9080=2", "listeners#6 out=1"]);
    assert_eq!(stream.says(Listener, &[]), NOTHING);
    assert_eq!(stream.says(Route, &["9080"]), ["clusters#7 v1=1"]);
    assert_eq!(stream.says(Cluster, &[]), NOTHING, "endpoints are not taken back");
    assert_eq!(stream.says(Endpoints, &["v1"]), NOTHING);
}

#[test]
fn a_cluster_that_is_to_go_stays_in_the_list_as_long_as_it_is_used() {
    let mut stream = in_sync();
    let changed = with(&[(Cluster, "v1", "2"), (Route, "9080", "2")], &[(Cluster, "v2"), (Endpoints, "v2")]);
    assert_eq!(stream.pushes(&changed), ["clusters#5 v1=2 v2=1", "endpoints#6 v1=1"]);
    assert_ne!(stream.versions[&Cluster], *snapshot(&changed).set(Cluster).version, "it is not that set yet");
    assert_eq!(stream.says(Cluster, &[]), NOTHING);
    assert_eq!(stream.says(Endpoints, &["v1", "v2"]), ["routes#7 9080=2"]);
    assert_eq!(stream.says(Route, &["9080"]), ["clusters#8 v1=2"]);
    assert_eq!(stream.versions[&Cluster], *snapshot(&changed).set(Cluster).version);
}

#[test]
fn the_last_cluster_goes_with_an_empty_response() {
    let mut stream = Stream::open(&[(Cluster, "v1", "1")]);
    assert_eq!(stream.says(Cluster, &["v1"]), ["clusters#1 v1=1"]);
    assert_eq!(stream.says(Cluster, &["v1"]), NOTHING);
    stream.now += Duration::from_secs(60);
    assert_eq!(stream.pushes(&[]), ["clusters#2"]);
    assert_eq!(stream.says(Cluster, &["v1"]), NOTHING);
    assert_eq!(stream.pushes(&[(Cluster, "v1", "2")]), ["clusters#3 v1=2"]);
}

#[test]
fn endpoints_follow_a_cluster_that_was_sent_again() {
    let mut stream = in_sync();
    assert_eq!(stream.pushes(&with(&[(Cluster, "v1", "2")], &[])), ["clusters#5 v1=2 v2=1", "endpoints#6 v1=1"]);
}

#[test]
fn a_client_that_reconnects_is_sent_everything_again() {
    let mut stream = Stream::waiting();
    assert_eq!(stream.asks(Cluster, &[]), NOTHING);
    assert_eq!(stream.asks(Endpoints, &["v1", "v2"]), NOTHING);
    assert_eq!(stream.asks(Route, &["9080"]), NOTHING);
    let first = stream.pushes(MESH);
    assert_eq!(first, ["clusters#1 v1=1 v2=1", "endpoints#2 v1=1 v2=1"], "routes wait, as on any stream");
    assert_eq!(stream.says(Cluster, &[]), NOTHING);
    assert_eq!(stream.says(Endpoints, &["v1", "v2"]), ["routes#3 9080=1"]);
}

#[test]
fn more_than_a_message_holds_is_an_error_and_not_a_deletion() {
    let name = "x".repeat(1 << 20);
    let names = (0..70).map(|index| format!("{index:02}{name}")).collect::<Vec<_>>();
    let resources = names.iter().map(|name| (Cluster, name.as_str(), "1")).collect::<Vec<_>>();
    let mut stream = Stream::waiting();
    stream.asks(Cluster, &[]);
    stream.session.on_snapshot(snapshot(&resources));
    let error = stream.world.poll(&mut stream.session, stream.now).unwrap_err();
    assert!(error.to_string().contains("DELTA_GRPC"), "{error}");
}
