//! Make before break: in which order the parts of a change travel on one stream.
//!
//! A route must never name a cluster that the proxy does not have, and a cluster is of no use before its endpoints are
//! there. So what is new goes down the chain of references from its far end:
//!
//! ```text
//! new and changed:   clusters ──▶ endpoints, secrets ──▶ listeners ──▶ routes
//! no longer there:   listeners ──▶ routes ──▶ clusters ──▶ endpoints, secrets
//!                    (each after the one before is acknowledged)
//! ```
//!
//! Listeners and routes wait until clusters, endpoints and secrets are *acknowledged*. Envoy holds back the acknowledgement of
//! clusters while one of them is warming, so this wait is what keeps a new route from meeting a cold cluster. The wait
//! has an end ([`PATIENCE`]): one cluster that never warms must not stop all routing changes of a proxy.
//!
//! What goes away has no such end. A proxy that has not accepted the new routes still uses the old ones, and they need
//! their clusters; keeping a cluster too long costs a little memory, dropping it too early costs requests.
//!
//! The functions here are pure: they see where each kind stands ([`Progress`]) and say what comes next ([`Step`]).

use std::time::Duration;

use leno_config::xds::Kind;

/// How long listeners and routes wait for clusters and endpoints to be acknowledged.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How long a young stream waits for its subscriptions to listeners and routes before clusters may go. A proxy that
/// connects anew asks kind by kind, and what it has not yet asked for it may still hold.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// Where one kind stands on a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The client has asked for this kind.
    pub(crate) seen: bool,
    /// New and changed resources wait to be sent.
    pub(crate) due: bool,
    /// Some of them were asked for by name: the answer does not wait for an earlier acknowledgement.
    pub(crate) asked: bool,
    /// Resources that the client holds and that are no longer there wait to be removed.
    pub(crate) removals: bool,
    /// A response waits for its acknowledgement.
    pub(crate) in_flight: bool,
    /// The client has refused the newest version of a resource and uses an older one.
    pub(crate) rejected: bool,
}

/// Where all kinds stand on a stream.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct View {
    pub(crate) clusters: Progress,
    pub(crate) endpoints: Progress,
    pub(crate) secrets: Progress,
    pub(crate) listeners: Progress,
    pub(crate) routes: Progress,
    /// [`PATIENCE`] is over.
    pub(crate) impatient: bool,
    /// [`GRACE`] is over.
    pub(crate) grown_up: bool,
}

/// What is sent next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// New and changed resources of a kind; with listeners also the removals, so that an address changes hands in one
    /// message.
    Send(Kind),
    /// Names of a kind that are no longer there.
    Remove(Kind),
}

/// What is sent next, if anything may be.
pub(crate) fn next(view: &View) -> Option<Step> {
    let remove = [Kind::Listener, Kind::Route, Kind::Cluster, Kind::Endpoints, Kind::Secret];
    let send = Kind::PUSH_ORDER.into_iter().find(|kind| view.may_send(*kind)).map(Step::Send);
    send.or_else(|| remove.into_iter().find(|kind| view.may_remove(*kind)).map(Step::Remove))
}

impl View {
    /// Listeners or routes wait for clusters or endpoints, so that [`PATIENCE`] runs.
    pub(crate) fn waits_for_clusters(&self) -> bool {
        let waiting = |kind: &Progress| kind.due || kind.removals;
        (waiting(&self.listeners) || waiting(&self.routes)) && !self.clusters_are_there()
    }

    /// Removals wait for subscriptions that have not come yet, so that [`GRACE`] matters.
    pub(crate) fn waits_for_subscriptions(&self) -> bool {
        let removals =
            self.clusters.removals || self.endpoints.removals || self.secrets.removals || self.routes.removals;
        removals && !self.grown_up && !(self.listeners.seen && self.routes.seen)
    }

    fn may_send(&self, kind: Kind) -> bool {
        let progress = self.of(kind);
        let turn = match kind {
            Kind::Cluster | Kind::Endpoints | Kind::Secret => true,
            Kind::Listener | Kind::Route => self.impatient || self.clusters_are_there(),
        };
        progress.due && turn && (progress.asked || !progress.in_flight)
    }

    fn may_remove(&self, kind: Kind) -> bool {
        let progress = self.of(kind);
        let turn = match kind {
            Kind::Listener => self.impatient || self.clusters_are_there(),
            Kind::Route => self.is_in_force(&self.listeners),
            Kind::Cluster => self.routing_is_in_force() && !progress.due,
            Kind::Endpoints | Kind::Secret => {
                self.routing_is_in_force() && is_settled(&self.clusters) && !self.clusters.removals
            }
        };
        progress.removals && turn && !progress.in_flight
    }

    fn of(&self, kind: Kind) -> &Progress {
        match kind {
            Kind::Cluster => &self.clusters,
            Kind::Endpoints => &self.endpoints,
            Kind::Secret => &self.secrets,
            Kind::Listener => &self.listeners,
            Kind::Route => &self.routes,
        }
    }

    fn clusters_are_there(&self) -> bool {
        is_settled(&self.clusters) && is_settled(&self.endpoints) && is_settled(&self.secrets)
    }

    fn routing_is_in_force(&self) -> bool {
        self.is_in_force(&self.listeners) && self.is_in_force(&self.routes)
    }

    /// The client holds, of this kind, exactly what it should, and nothing refers to what is gone any more.
    fn is_in_force(&self, progress: &Progress) -> bool {
        is_settled(progress) && !progress.removals && !progress.rejected && (progress.seen || self.grown_up)
    }
}

fn is_settled(progress: &Progress) -> bool {
    !progress.due && !progress.in_flight
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: Progress =
        Progress { seen: true, due: false, asked: false, removals: false, in_flight: false, rejected: false };
    const DUE: Progress = Progress { due: true, ..SEEN };
    const IN_FLIGHT: Progress = Progress { in_flight: true, ..SEEN };
    const REMOVALS: Progress = Progress { removals: true, ..SEEN };
    const REJECTED: Progress = Progress { rejected: true, ..SEEN };

    fn view() -> View {
        View {
            clusters: SEEN,
            endpoints: SEEN,
            secrets: SEEN,
            listeners: SEEN,
            routes: SEEN,
            impatient: false,
            grown_up: true,
        }
    }

    #[test]
    fn what_is_new_goes_from_clusters_to_routes_and_waits_for_the_clusters() {
        let all = View { clusters: DUE, endpoints: DUE, secrets: DUE, listeners: DUE, routes: DUE, ..view() };
        let cases = [
            ("clusters first", all, Some(Step::Send(Kind::Cluster))),
            ("then endpoints", View { clusters: IN_FLIGHT, ..all }, Some(Step::Send(Kind::Endpoints))),
            ("and secrets", View { clusters: IN_FLIGHT, endpoints: IN_FLIGHT, ..all }, Some(Step::Send(Kind::Secret))),
            ("then a wait", View { clusters: IN_FLIGHT, endpoints: IN_FLIGHT, secrets: IN_FLIGHT, ..all }, None),
            ("for the endpoints too", View { clusters: SEEN, endpoints: IN_FLIGHT, secrets: SEEN, ..all }, None),
            ("and the secrets", View { clusters: SEEN, endpoints: SEEN, secrets: IN_FLIGHT, ..all }, None),
            (
                "then listeners",
                View { clusters: SEEN, endpoints: SEEN, secrets: SEEN, ..all },
                Some(Step::Send(Kind::Listener)),
            ),
            (
                "routes do not wait for listeners",
                View { listeners: IN_FLIGHT, routes: DUE, ..view() },
                Some(Step::Send(Kind::Route)),
            ),
            (
                "patience has an end",
                View { clusters: IN_FLIGHT, routes: DUE, impatient: true, ..view() },
                Some(Step::Send(Kind::Route)),
            ),
            ("nothing to do", view(), None),
        ];
        for (what, view, expected) in cases {
            assert_eq!(next(&view), expected, "{what}");
        }
    }

    #[test]
    fn one_response_of_a_kind_is_under_way_unless_a_name_was_asked_for() {
        let busy = Progress { due: true, in_flight: true, ..SEEN };
        assert_eq!(next(&View { endpoints: busy, ..view() }), None);
        let asked = Progress { asked: true, ..busy };
        assert_eq!(next(&View { endpoints: asked, ..view() }), Some(Step::Send(Kind::Endpoints)));
    }

    #[test]
    fn what_is_gone_goes_last_and_only_when_routing_is_acknowledged() {
        let cases = [
            ("nothing refers to it", View { clusters: REMOVALS, ..view() }, Some(Step::Remove(Kind::Cluster))),
            ("routes are under way", View { clusters: REMOVALS, routes: IN_FLIGHT, ..view() }, None),
            ("listeners are under way", View { clusters: REMOVALS, listeners: IN_FLIGHT, ..view() }, None),
            ("the new routes were refused", View { clusters: REMOVALS, routes: REJECTED, ..view() }, None),
            ("patience does not help", View { clusters: REMOVALS, routes: IN_FLIGHT, impatient: true, ..view() }, None),
            (
                "listeners go before clusters",
                View { clusters: REMOVALS, listeners: REMOVALS, ..view() },
                Some(Step::Remove(Kind::Listener)),
            ),
            (
                "routes go before clusters",
                View { clusters: REMOVALS, routes: REMOVALS, ..view() },
                Some(Step::Remove(Kind::Route)),
            ),
            (
                "clusters go before their endpoints",
                View { clusters: REMOVALS, endpoints: REMOVALS, ..view() },
                Some(Step::Remove(Kind::Cluster)),
            ),
            ("and are acknowledged", View { clusters: IN_FLIGHT, endpoints: REMOVALS, ..view() }, None),
            ("then the endpoints", View { endpoints: REMOVALS, ..view() }, Some(Step::Remove(Kind::Endpoints))),
            ("roots outlive the clusters", View { clusters: IN_FLIGHT, secrets: REMOVALS, ..view() }, None),
            ("then the roots", View { secrets: REMOVALS, ..view() }, Some(Step::Remove(Kind::Secret))),
        ];
        for (what, view, expected) in cases {
            assert_eq!(next(&view), expected, "{what}");
        }
    }

    #[test]
    fn a_young_stream_keeps_clusters_until_routes_were_asked_for() {
        let unseen = Progress::default();
        let young = View { clusters: REMOVALS, routes: unseen, grown_up: false, ..view() };
        assert_eq!(next(&young), None);
        assert!(young.waits_for_subscriptions());
        assert_eq!(next(&View { grown_up: true, ..young }), Some(Step::Remove(Kind::Cluster)));
        assert_eq!(next(&View { routes: SEEN, ..young }), Some(Step::Remove(Kind::Cluster)));
    }
}
