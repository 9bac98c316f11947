//! Recorded sequences, one per rule of the protocol. A sequence is written as what the client says and what it hears.

use std::time::Duration;

use Kind::{Cluster, Endpoints, Listener, Route, Secret};

use super::*;
use crate::snapshot::tests::snapshot;

/// A stream with a clock that the test moves.
struct Stream {
    session: Session,
    now: Instant,
}

impl Stream {
    fn open(resources: &[(Kind, &str, &str)]) -> Self {
        let mut stream = Self::waiting();
        stream.session.on_snapshot(snapshot(resources));
        stream
    }

    fn waiting() -> Self {
        let now = Instant::now();
        Self { session: Session::new(now), now }
    }

    /// The client asks for a kind; what is then sent, as text.
    fn says(&mut self, kind: Kind, subscribe: &[&str], unsubscribe: &[&str]) -> Vec<String> {
        let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        self.request(
            kind,
            Request { subscribe: texts(subscribe), unsubscribe: texts(unsubscribe), ..Request::default() },
        )
    }

    fn acks(&mut self, kind: Kind, nonce: &str) -> Vec<String> {
        self.request(kind, Request { nonce: Some(nonce.to_owned()), ..Request::default() })
    }

    fn nacks(&mut self, kind: Kind, nonce: &str, text: &str) -> Vec<String> {
        let request = Request { nonce: Some(nonce.to_owned()), error: Some(text.to_owned()), ..Request::default() };
        self.request(kind, request)
    }

    fn reconnects(&mut self, kind: Kind, subscribe: &[&str], versions: &[(&str, &str)]) -> Vec<String> {
        let initial_versions = versions.iter().map(|(name, version)| ((*name).into(), (*version).into())).collect();
        let subscribe = subscribe.iter().map(|name| (*name).to_owned()).collect();
        self.request(kind, Request { subscribe, initial_versions, ..Request::default() })
    }

    fn request(&mut self, kind: Kind, request: Request) -> Vec<String> {
        self.session.on_request(kind, request).unwrap();
        self.hears()
    }

    fn pushes(&mut self, resources: &[(Kind, &str, &str)]) -> Vec<String> {
        self.session.on_snapshot(snapshot(resources));
        self.hears()
    }

    fn waits(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        self.hears()
    }

    /// All that is sent now: `clusters#1 a=1 b=2 -c`.
    fn hears(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.session.poll(self.now)).map(|response| shown(&response)).collect()
    }
}

fn shown(response: &Response) -> String {
    let Response { kind, nonce, version: _, resources, removed } = response;
    let mut text = format!("{}#{nonce}", kind.label());
    for resource in resources {
        text += &format!(" {}={}", resource.name, resource.version);
    }
    for name in removed {
        text += &format!(" -{name}");
    }
    text
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

/// A stream on which everything of [`MESH`] was sent and acknowledged: the sequence of a real Envoy (delta), in which
/// it subscribes to endpoints before it acknowledges clusters, and to routes before it acknowledges listeners.
fn in_sync() -> Stream {
    let mut stream = Stream::open(MESH);
    assert_eq!(stream.says(Cluster, &[], &[]), ["clusters#1 v1=1 v2=1"]);
    assert_eq!(stream.says(Endpoints, &["v1", "v2"], &[]), ["endpoints#2 v1=1 v2=1"]);
    assert_eq!(stream.acks(Cluster, "1"), NOTHING);
    assert_eq!(stream.acks(Endpoints, "2"), NOTHING);
    assert_eq!(stream.says(Listener, &[], &[]), ["listeners#3 in=1 out=1"]);
    assert_eq!(stream.says(Route, &["9080"], &[]), ["routes#4 9080=1"]);
    assert_eq!(stream.acks(Listener, "3"), NOTHING);
    assert_eq!(stream.acks(Route, "4"), NOTHING);
    stream
}

const NOTHING: [&str; 0] = [];

fn with(
    changes: &[(Kind, &'static str, &'static str)],
    without: &[(Kind, &str)],
) -> Vec<(Kind, &'static str, &'static str)> {
    let replaced = |kind, name| changes.iter().any(|change| (change.0, change.1) == (kind, name));
    let kept = MESH.iter().filter(|(kind, name, _)| !replaced(*kind, *name) && !without.contains(&(*kind, *name)));
    kept.chain(changes).copied().collect()
}

#[test]
fn an_envoy_gets_everything_once_in_the_order_in_which_it_asks() {
    let mut stream = in_sync();
    assert_eq!(stream.pushes(MESH), NOTHING);
    assert_eq!(stream.session.deadline(stream.now), None);
    let status = stream.session.status();
    for kind in [Cluster, Endpoints, Listener, Route] {
        let KindStatus { sent, acked, nack, .. } = &status[&kind];
        assert_eq!(sent.as_ref(), Some(&snapshot(MESH).set(kind).version));
        assert_eq!((acked, nack), (sent, &None));
    }
}

#[test]
fn listeners_asked_for_at_once_wait_until_clusters_are_acknowledged() {
    let mut stream = Stream::open(MESH);
    assert_eq!(stream.says(Cluster, &[], &[]), ["clusters#1 v1=1 v2=1"]);
    assert_eq!(stream.says(Listener, &[], &[]), NOTHING);
    assert_eq!(stream.acks(Cluster, "1"), ["listeners#2 in=1 out=1"]);
}

#[test]
fn before_the_first_snapshot_nothing_is_answered() {
    let mut stream = Stream::waiting();
    assert_eq!(stream.says(Cluster, &[], &[]), NOTHING);
    assert_eq!(stream.says(Route, &["9080", "other"], &[]), NOTHING);
    assert_eq!(stream.pushes(MESH), ["clusters#1 v1=1 v2=1"]);
    assert_eq!(stream.acks(Cluster, "1"), ["routes#2 9080=1 -other"]);
}

#[test]
fn a_changed_route_is_all_that_is_sent() {
    let mut stream = in_sync();
    assert_eq!(stream.pushes(&with(&[(Route, "9080", "2")], &[])), ["routes#5 9080=2"]);
}

#[test]
fn a_push_goes_clusters_endpoints_listeners_routes_and_removals_last() {
    let mut stream = in_sync();
    let next = with(
        &[(Cluster, "v3", "1"), (Endpoints, "v3", "1"), (Listener, "out", "2"), (Route, "9080", "2")],
        &[(Cluster, "v1"), (Endpoints, "v1"), (Listener, "in")],
    );
    assert_eq!(stream.pushes(&next), ["clusters#5 v3=1"]);
    assert_eq!(stream.says(Endpoints, &["v3"], &[]), ["endpoints#6 v3=1"]);
    assert_eq!(stream.acks(Endpoints, "6"), NOTHING);
    assert_eq!(stream.acks(Cluster, "5"), ["listeners#7 out=2 -in", "routes#8 9080=2"]);
    assert_eq!(stream.acks(Listener, "7"), NOTHING);
    assert_eq!(stream.waits(PATIENCE * 10), NOTHING);
    assert_eq!(stream.acks(Route, "8"), ["clusters#9 -v1"]);
    assert_eq!(stream.acks(Cluster, "9"), ["endpoints#10 -v1"]);
}

#[test]
fn a_removed_cluster_goes_after_the_routes_are_acknowledged_and_its_endpoints_after_it() {
    let mut stream = in_sync();
    stream.now += GRACE;
    let next = with(&[(Route, "9080", "2")], &[(Cluster, "v1"), (Endpoints, "v1")]);
    assert_eq!(stream.pushes(&next), ["routes#5 9080=2"]);
    assert_eq!(stream.acks(Route, "5"), ["clusters#6 -v1"]);
    assert_eq!(stream.acks(Cluster, "6"), ["endpoints#7 -v1"]);
    assert_eq!(stream.says(Endpoints, &[], &["v1"]), NOTHING);
}

#[test]
fn a_cluster_that_never_warms_delays_routes_for_a_while_only() {
    let mut stream = in_sync();
    let next = with(&[(Cluster, "v3", "1"), (Route, "9080", "2")], &[]);
    assert_eq!(stream.pushes(&next), ["clusters#5 v3=1"]);
    let deadline = stream.session.deadline(stream.now).unwrap();
    assert_eq!(stream.waits(PATIENCE - Duration::from_secs(1)), NOTHING);
    stream.now = deadline;
    assert_eq!(stream.hears(), ["routes#6 9080=2"]);
}

#[test]
fn what_waits_for_the_client_does_not_wait_for_the_clock() {
    let mut stream = in_sync();
    let next = with(&[(Cluster, "v3", "1"), (Route, "9080", "2")], &[]);
    assert_eq!(stream.pushes(&next), ["clusters#5 v3=1"]);
    assert_eq!(stream.waits(PATIENCE), ["routes#6 9080=2"]);
    // Routes are under way and due again, clusters are still not acknowledged: nothing to do until the client speaks.
    let next = with(&[(Cluster, "v3", "1"), (Route, "9080", "3")], &[(Cluster, "v1")]);
    assert_eq!(stream.pushes(&next), NOTHING);
    assert_eq!(stream.waits(PATIENCE), NOTHING);
    assert_eq!(stream.session.deadline(stream.now), None);
}

#[test]
fn endpoints_follow_their_changed_cluster_although_they_did_not_change() {
    let mut stream = in_sync();
    assert_eq!(stream.pushes(&with(&[(Cluster, "v2", "2")], &[])), ["clusters#5 v2=2", "endpoints#6 v2=1"]);
}

#[test]
fn a_slow_proxy_gets_the_newest_state_and_nothing_in_between() {
    let mut stream = in_sync();
    assert_eq!(stream.pushes(&with(&[(Route, "9080", "2")], &[])), ["routes#5 9080=2"]);
    assert_eq!(stream.pushes(&with(&[(Route, "9080", "3")], &[])), NOTHING);
    assert_eq!(stream.pushes(&with(&[(Route, "9080", "4")], &[])), NOTHING);
    assert_eq!(stream.acks(Route, "5"), ["routes#6 9080=4"]);
}

#[test]
fn a_name_subscribed_to_again_is_answered_again_without_waiting_for_an_acknowledgement() {
    let mut stream = in_sync();
    assert_eq!(stream.says(Route, &["9080"], &[]), ["routes#5 9080=1"]);
    assert_eq!(stream.says(Route, &["9080"], &[]), ["routes#6 9080=1"]);
    assert_eq!(stream.says(Cluster, &["*"], &[]), ["clusters#7"]);
    assert_eq!(stream.says(Cluster, &["*"], &[]), ["clusters#8 v1=1 v2=1", "endpoints#9 v1=1 v2=1"]);
}

#[test]
fn an_unknown_name_is_answered_as_removed_and_sent_when_it_comes_to_be() {
    let mut stream = in_sync();
    assert_eq!(stream.says(Endpoints, &["v9"], &[]), ["endpoints#5 -v9"]);
    assert_eq!(stream.acks(Endpoints, "5"), NOTHING);
    assert_eq!(stream.pushes(&with(&[(Endpoints, "v9", "1")], &[])), ["endpoints#6 v9=1"]);
}

#[test]
fn an_empty_mesh_is_an_answer_to_a_wildcard_and_named_kinds_have_none() {
    let mut stream = Stream::open(&[]);
    assert_eq!(stream.says(Cluster, &[], &[]), ["clusters#1"]);
    assert_eq!(stream.acks(Cluster, "1"), NOTHING);
    assert_eq!(stream.says(Listener, &["*"], &[]), ["listeners#2"]);
    assert_eq!(stream.says(Route, &[], &[]), NOTHING);
    assert_eq!(stream.says(Endpoints, &["*"], &[]), ["endpoints#3 -*"]);
}

#[test]
fn subscribing_to_nothing_is_possible() {
    let mut stream = Stream::open(MESH);
    assert_eq!(stream.says(Cluster, &["*"], &["*"]), NOTHING);
    assert_eq!(stream.says(Cluster, &["v2"], &[]), ["clusters#1 v2=1"]);
}

#[test]
fn who_names_clusters_gets_those_alone() {
    let mut stream = Stream::open(MESH);
    assert_eq!(stream.says(Cluster, &["v2", "v9"], &[]), ["clusters#1 v2=1 -v9"]);
    assert_eq!(stream.acks(Cluster, "1"), NOTHING);
    assert_eq!(stream.pushes(&with(&[(Cluster, "v1", "2")], &[])), NOTHING);
    assert_eq!(stream.says(Cluster, &["*"], &[]), ["clusters#2 v1=2"]);
}

#[test]
fn a_name_that_is_unsubscribed_under_a_wildcard_is_answered_with_what_the_wildcard_says() {
    let mut stream = in_sync();
    assert_eq!(stream.says(Cluster, &["v1", "v9"], &[]), ["clusters#5 v1=1 -v9", "endpoints#6 v1=1"]);
    assert_eq!(stream.acks(Cluster, "5"), NOTHING);
    assert_eq!(stream.acks(Endpoints, "6"), NOTHING);
    assert_eq!(stream.says(Cluster, &[], &["v1", "v9"]), ["clusters#7 v1=1 -v9", "endpoints#8 v1=1"]);
}

#[test]
fn what_is_unsubscribed_is_not_sent_any_more_and_a_phantom_is_ignored() {
    let mut stream = in_sync();
    assert_eq!(stream.says(Endpoints, &[], &["v1", "phantom"]), NOTHING);
    assert_eq!(stream.pushes(&with(&[(Endpoints, "v1", "2")], &[])), NOTHING);
    assert_eq!(stream.says(Endpoints, &["v1"], &[]), ["endpoints#5 v1=2"]);
}

#[test]
fn a_wildcard_that_ends_keeps_the_names() {
    let mut stream = in_sync();
    assert_eq!(stream.says(Cluster, &["v1"], &[]), ["clusters#5 v1=1", "endpoints#6 v1=1"]);
    assert_eq!(stream.acks(Cluster, "5"), NOTHING);
    assert_eq!(stream.acks(Endpoints, "6"), NOTHING);
    assert_eq!(stream.says(Cluster, &[], &["*"]), NOTHING);
    assert_eq!(
        stream.pushes(&with(&[(Cluster, "v1", "2"), (Cluster, "v2", "2")], &[])),
        ["clusters#7 v1=2", "endpoints#8 v1=1"]
    );
}

#[test]
fn a_client_that_brings_its_versions_gets_the_difference() {
    let mut stream = Stream::open(&with(&[(Route, "9080", "2")], &[(Cluster, "v1")]));
    // Routes are not asked for yet: they may still use the cluster.
    assert_eq!(stream.reconnects(Cluster, &[], &[("v1", "1"), ("v2", "1")]), ["clusters#1"]);
    assert_eq!(stream.reconnects(Endpoints, &["v1", "v2"], &[("v1", "1"), ("v2", "1")]), NOTHING);
    assert_eq!(stream.acks(Cluster, "1"), NOTHING);
    assert_eq!(stream.reconnects(Listener, &[], &[("in", "1"), ("out", "1")]), ["listeners#2"]);
    assert_eq!(stream.reconnects(Route, &["9080"], &[("9080", "1")]), ["routes#3 9080=2"]);
    assert_eq!(stream.acks(Listener, "2"), NOTHING);
    assert_eq!(stream.acks(Route, "3"), ["clusters#4 -v1"]);
}

#[test]
fn a_client_without_routes_does_not_keep_removed_clusters_for_ever() {
    let mut stream = Stream::open(&with(&[], &[(Cluster, "v1")]));
    assert_eq!(stream.reconnects(Cluster, &[], &[("v1", "1"), ("v2", "1")]), ["clusters#1"]);
    assert_eq!(stream.acks(Cluster, "1"), NOTHING);
    stream.now = stream.session.deadline(stream.now).unwrap();
    assert_eq!(stream.hears(), ["clusters#2 -v1"]);
}

#[test]
fn versions_of_names_that_are_not_subscribed_to_mean_nothing() {
    let mut stream = Stream::open(MESH);
    assert_eq!(stream.reconnects(Route, &["9080"], &[("9080", "1"), ("gone", "1")]), NOTHING);
    let status = stream.session.status();
    assert_eq!(status[&Route].acked.as_ref(), Some(&snapshot(MESH).set(Route).version), "in sync without a response");
}

#[test]
fn a_changed_cluster_brings_its_endpoints_even_where_the_client_brought_their_version() {
    let mut stream = Stream::open(&with(&[(Cluster, "v1", "2")], &[]));
    assert_eq!(stream.reconnects(Cluster, &[], &[("v1", "1"), ("v2", "1")]), ["clusters#1 v1=2"]);
    assert_eq!(stream.reconnects(Endpoints, &["v1", "v2"], &[("v1", "1"), ("v2", "1")]), ["endpoints#2 v1=1"]);
}

#[test]
fn a_refused_version_is_not_sent_again_and_the_next_one_is() {
    let mut stream = in_sync();
    assert_eq!(stream.pushes(&with(&[(Route, "9080", "2")], &[])), ["routes#5 9080=2"]);
    assert_eq!(stream.nacks(Route, "5", "9080: virtual_hosts: no"), NOTHING);
    let status = &stream.session.status()[&Route];
    assert_eq!(status.nack.as_deref(), Some("9080: virtual_hosts: no"));
    assert_ne!(status.sent, status.acked);
    assert_eq!(stream.waits(PATIENCE), NOTHING);
    assert_eq!(stream.pushes(&with(&[(Route, "9080", "3")], &[])), ["routes#6 9080=3"]);
    assert_eq!(stream.acks(Route, "6"), NOTHING);
    let status = &stream.session.status()[&Route];
    assert_eq!((&status.nack, &status.sent), (&None, &status.acked));
}

#[test]
fn clusters_of_refused_routes_stay() {
    let mut stream = in_sync();
    stream.now += GRACE;
    let without_v1 = |version| with(&[(Route, "9080", version)], &[(Cluster, "v1"), (Endpoints, "v1")]);
    assert_eq!(stream.pushes(&without_v1("2")), ["routes#5 9080=2"]);
    assert_eq!(stream.nacks(Route, "5", "9080: no"), NOTHING);
    assert_eq!(stream.waits(PATIENCE), NOTHING);
    assert_eq!(stream.pushes(&without_v1("3")), ["routes#6 9080=3"]);
    assert_eq!(stream.acks(Route, "6"), ["clusters#7 -v1"]);
}

#[test]
fn a_refusal_is_about_the_resources_it_names() {
    let mut stream = in_sync();
    assert_eq!(stream.pushes(&with(&[(Listener, "in", "2"), (Listener, "out", "2")], &[])), ["listeners#5 in=2 out=2"]);
    stream.nacks(Listener, "5", "out: address: taken");
    let rejected = &stream.session.kinds[&Listener].rejected;
    assert_eq!(rejected.iter().map(|name| &**name).collect::<Vec<_>>(), ["out"]);
}

#[test]
fn a_stale_nonce_acknowledges_nothing_but_its_subscriptions_count() {
    let mut stream = Stream::open(MESH);
    assert_eq!(stream.says(Route, &["9080"], &[]), ["routes#1 9080=1"]);
    let request = Request { subscribe: vec!["other".into()], nonce: Some("77".into()), ..Request::default() };
    assert_eq!(stream.request(Route, request), ["routes#2 -other"]);
    assert_eq!(stream.session.status()[&Route].acked, None);
    assert_eq!(
        stream.session.on_request(Route, Request { nonce: Some("2".into()), ..Request::default() }),
        Ok(Received::Ack)
    );
}

#[test]
fn a_client_that_never_acknowledges_costs_a_bounded_amount() {
    let mut stream = Stream::open(MESH);
    for _ in 0..10 * MAX_IN_FLIGHT {
        assert_eq!(stream.says(Route, &["9080"], &[]).len(), 1);
    }
    assert_eq!(stream.session.kinds[&Route].in_flight.len(), MAX_IN_FLIGHT);
    let names = (0..=MAX_NAMES).map(|index| index.to_string()).collect();
    let request = Request { subscribe: names, ..Request::default() };
    assert_eq!(stream.session.on_request(Route, request), Err(TooManyNames));
}

#[test]
fn what_does_not_fit_one_message_goes_into_the_next() {
    let resource = |size: usize| {
        let bytes = bytes::Bytes::from(vec![0; size]);
        Arc::new(Resource { name: "a".into(), version: "1".into(), state: bytes.clone(), bytes })
    };
    for (sizes, expected) in
        [(vec![10, 10], 2), (vec![MAX_RESPONSE, 1], 1), (vec![MAX_RESPONSE + 1, 1], 1), (vec![1, MAX_RESPONSE, 1], 1)]
    {
        let mut resources = sizes.iter().map(|size| resource(*size)).collect();
        fit(&mut resources);
        assert_eq!(resources.len(), expected, "{sizes:?}");
    }
}

#[test]
fn new_roots_are_pushed_by_themselves_and_their_acknowledgement_is_noted() {
    let mut stream = Stream::open(&[(Secret, "ROOTCA", "1"), (Secret, "other", "1")]);
    assert_eq!(stream.says(Secret, &["ROOTCA"], &[]), ["secrets#1 ROOTCA=1"]);
    assert_eq!(stream.acks(Secret, "1"), [""; 0]);
    assert_eq!(stream.pushes(&[(Secret, "ROOTCA", "2"), (Secret, "other", "1")]), ["secrets#2 ROOTCA=2"]);
    let status = |stream: &Stream| stream.session.status().remove(&Secret).unwrap();
    assert_ne!(status(&stream).sent, status(&stream).acked);
    assert_eq!(stream.acks(Secret, "2"), [""; 0]);
    assert_eq!(status(&stream).sent, status(&stream).acked);
    assert_eq!(status(&stream).resources, [("ROOTCA".into(), "2".into())]);
}

#[test]
fn a_first_request_for_secrets_without_names_is_not_a_wildcard() {
    let mut stream = Stream::open(&[(Secret, "ROOTCA", "1")]);
    assert_eq!(stream.says(Secret, &[], &[]), [""; 0]);
}

#[test]
fn a_resource_is_accepted_when_its_client_has_said_so_or_brought_it_along() {
    let accepted = |stream: &Stream, version: &str| stream.session.has_accepted(Secret, "ROOTCA", version);
    let mut stream = Stream::open(&[(Secret, "ROOTCA", "1")]);
    assert!(!stream.session.has_asked_for(Secret, "ROOTCA") && !accepted(&stream, "1"), "it has not asked");
    assert_eq!(stream.says(Secret, &["ROOTCA"], &[]), ["secrets#1 ROOTCA=1"]);
    assert!(stream.session.has_asked_for(Secret, "ROOTCA") && !stream.session.has_asked_for(Secret, "other"));
    assert!(!accepted(&stream, "1"), "it has not answered");
    stream.acks(Secret, "1");
    assert!(accepted(&stream, "1") && !accepted(&stream, "2"));
    assert_eq!(stream.pushes(&[(Secret, "ROOTCA", "2")]), ["secrets#2 ROOTCA=2"]);
    assert!(!accepted(&stream, "1") && !accepted(&stream, "2"), "under way");
    stream.nacks(Secret, "2", "ROOTCA: no certificate");
    assert!(!accepted(&stream, "1") && !accepted(&stream, "2"), "refused");
    stream.pushes(&[(Secret, "ROOTCA", "3")]);
    stream.acks(Secret, "3");
    assert!(accepted(&stream, "3"));

    let mut back = Stream::open(&[(Secret, "ROOTCA", "3")]);
    back.reconnects(Secret, &["ROOTCA"], &[("ROOTCA", "3")]);
    assert!(accepted(&back, "3"));
    let mut late = Stream::open(&[(Secret, "ROOTCA", "3")]);
    late.reconnects(Secret, &["ROOTCA"], &[("ROOTCA", "2")]);
    assert!(!accepted(&late, "3"));
}
