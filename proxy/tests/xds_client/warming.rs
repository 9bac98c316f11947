use leno_config::ir::ClusterName;
use leno_config::xds::Kind;
use leno_proxy::state::accepted::{Accepted, Store};
use leno_proxy::state::warming::{Missing, Settled, resources, settle};

use crate::build::{
    Wire, apply, eds, eds_as, encrypted, endpoints, inline_listener, listener, passthrough, roots, routes, strict,
    tcp_listener,
};

/// Accepted resources and what follows from them, step by step.
struct Scene {
    accepted: Accepted,
    in_force: Store,
    last: Settled,
}

impl Scene {
    /// The server has spoken of everything, and had nothing.
    fn new() -> Self {
        let mut accepted = Accepted::default();
        for kind in Kind::PUSH_ORDER {
            apply(&mut accepted, kind, Vec::new(), &[]);
        }
        Self::of(accepted)
    }

    fn of(accepted: Accepted) -> Self {
        let last = settle(&Store::default(), &accepted, Missing::Wait);
        Self { accepted, in_force: last.in_force.clone(), last }
    }

    fn put<T: Wire>(&mut self, resource: T, version: &str) -> &mut Self {
        let applied = apply(&mut self.accepted, T::KIND, vec![resource.at(version)], &[]);
        assert_eq!(applied.refusals, []);
        self.settle()
    }

    fn remove(&mut self, kind: Kind, name: &str) -> &mut Self {
        apply(&mut self.accepted, kind, Vec::new(), &[name]);
        self.settle()
    }

    fn give_up_on(&mut self, kind: Kind, name: &str) -> &mut Self {
        self.accepted.give_up_on(kind, name);
        self.settle()
    }

    fn settle(&mut self) -> &mut Self {
        self.last = settle(&self.in_force, &self.accepted, Missing::Wait);
        self.in_force = self.last.in_force.clone();
        self
    }

    /// `kind name version, …` of what is in force.
    #[track_caller]
    fn is(&mut self, expected: &str) -> &mut Self {
        let raw = self.in_force.raw();
        let short = |kind| match kind {
            Kind::Cluster => "C",
            Kind::Endpoints => "E",
            Kind::Secret => "S",
            Kind::Listener => "L",
            Kind::Route => "R",
        };
        let words: Vec<String> = raw.map(|it| format!("{} {} {}", short(it.kind), it.name, it.version)).collect();
        assert_eq!(words.join(", "), expected);
        self
    }

    #[track_caller]
    fn warms(&mut self, kind: Kind, expected: &[&str]) -> &mut Self {
        let names: Vec<String> = self.last.warming.get(&kind).into_iter().flatten().map(ToString::to_string).collect();
        assert_eq!(names, expected);
        self
    }

    #[track_caller]
    fn wants(&mut self, kind: Kind, expected: &[&str]) -> &mut Self {
        let names: Vec<String> = self.last.wanted.get(&kind).into_iter().flatten().map(ToString::to_string).collect();
        assert_eq!(names, expected);
        self
    }
}

#[test]
fn a_new_cluster_waits_for_its_endpoints() {
    Scene::new()
        .put(eds("a"), "1")
        .is("")
        .warms(Kind::Cluster, &["a"])
        .wants(Kind::Endpoints, &["a"])
        .put(endpoints("a", 1), "1")
        .is("C a 1, E a 1")
        .warms(Kind::Cluster, &[]);
}

#[test]
fn a_cluster_that_needs_no_endpoints_waits_for_nothing() {
    Scene::new().put(passthrough("p"), "1").is("C p 1").wants(Kind::Endpoints, &[]);
}

#[test]
fn a_cluster_that_encrypts_waits_for_the_roots_and_nothing_that_is_warm_for_new_ones() {
    Scene::new()
        .put(encrypted("m"), "1")
        .is("")
        .warms(Kind::Cluster, &["m"])
        .wants(Kind::Secret, &["ROOTCA"])
        .put(roots("old"), "1")
        .is("C m 1, S ROOTCA 1")
        .warms(Kind::Cluster, &[])
        .put(roots("new"), "2")
        .is("C m 1, S ROOTCA 2")
        .remove(Kind::Cluster, "m")
        .is("")
        .wants(Kind::Secret, &[]);
}

#[test]
fn a_listener_that_takes_mtls_waits_for_the_roots_and_goes_on_when_they_rotate() {
    Scene::new()
        .put(passthrough("p"), "1")
        .put(strict("l", 1, "p"), "1")
        .is("C p 1")
        .warms(Kind::Listener, &["l"])
        .wants(Kind::Secret, &["ROOTCA"])
        .put(roots("old"), "1")
        .is("C p 1, S ROOTCA 1, L l 1")
        .put(roots("new"), "2")
        .is("C p 1, S ROOTCA 2, L l 1")
        .put(strict("l", 1, "p"), "2")
        .is("C p 1, S ROOTCA 2, L l 2");
}

#[test]
fn a_listener_that_begins_to_ask_for_certificates_serves_as_before_until_the_roots_are_there() {
    Scene::new()
        .put(passthrough("p"), "1")
        .put(tcp_listener("l", 1, "p"), "1")
        .put(strict("l", 1, "p"), "2")
        .is("C p 1, L l 1")
        .warms(Kind::Listener, &["l"])
        .put(roots("roots"), "1")
        .is("C p 1, S ROOTCA 1, L l 2");
}

#[test]
fn roots_that_do_not_come_are_waited_for_no_longer_than_endpoints() {
    Scene::new()
        .put(encrypted("m"), "1")
        .give_up_on(Kind::Secret, "ROOTCA")
        .is("C m 1")
        .warms(Kind::Cluster, &[])
        .put(roots("late"), "1")
        .is("C m 1, S ROOTCA 1");
}

#[test]
fn a_changed_cluster_whose_endpoints_are_there_replaces_the_old_one_at_once() {
    Scene::new().put(eds("a"), "1").put(endpoints("a", 1), "1").put(eds("a"), "2").is("C a 2, E a 1");
}

#[test]
fn a_cluster_that_asks_for_other_endpoints_keeps_the_old_state_until_they_are_there() {
    Scene::new()
        .put(eds("a"), "1")
        .put(endpoints("a", 1), "1")
        .put(eds_as("a", "other"), "2")
        .is("C a 1, E a 1")
        .wants(Kind::Endpoints, &["a", "other"])
        .put(endpoints("a", 2), "2")
        .is("C a 1, E a 2")
        .put(endpoints("other", 3), "1")
        .is("C a 2, E other 1")
        .wants(Kind::Endpoints, &["other"]);
}

#[test]
fn what_does_not_exist_is_not_waited_for() {
    let mut scene = Scene::new();
    scene.put(eds("a"), "1").put(listener("l", 1, "r"), "1").is("");
    scene.give_up_on(Kind::Endpoints, "a").give_up_on(Kind::Route, "r").is("C a 1, L l 1");
    let resources = resources(&scene.in_force);
    assert_eq!(resources.endpoints[&ClusterName::new("a")].iter().count(), 0, "an empty stand-in");
    assert_eq!(resources.routes["r"].virtual_hosts, [], "an empty stand-in");
    scene.put(endpoints("a", 1), "1").is("C a 1, E a 1, L l 1");
}

#[test]
fn a_listener_waits_for_its_routes_and_they_for_their_clusters() {
    Scene::new()
        .put(listener("l", 1, "r"), "1")
        .is("")
        .warms(Kind::Listener, &["l"])
        .wants(Kind::Route, &["r"])
        .put(eds("a"), "1")
        .put(routes("r", &["a"]), "1")
        .is("")
        .warms(Kind::Route, &["r"])
        .put(endpoints("a", 1), "1")
        .is("C a 1, E a 1, L l 1, R r 1");
}

#[test]
fn listeners_without_a_table_of_their_own_wait_for_their_clusters() {
    Scene::new()
        .put(eds("a"), "1")
        .put(tcp_listener("t", 1, "a"), "1")
        .put(inline_listener("i", 2, &["a"]), "1")
        .is("")
        .warms(Kind::Listener, &["i", "t"])
        .put(endpoints("a", 1), "1")
        .is("C a 1, E a 1, L i 1, L t 1");
}

#[test]
fn a_route_to_a_cluster_that_nobody_sent_waits_for_nothing() {
    Scene::new().put(listener("l", 1, "r"), "1").put(routes("r", &["nowhere"]), "1").is("L l 1, R r 1");
}

#[test]
fn routes_that_no_listener_asks_for_are_not_in_force() {
    Scene::new()
        .put(listener("l", 1, "r"), "1")
        .put(routes("r", &[]), "1")
        .put(routes("s", &[]), "1")
        .is("L l 1, R r 1");
}

#[test]
fn new_routes_replace_the_old_ones_when_their_clusters_are_warm() {
    let mut scene = Scene::new();
    scene.put(eds("v1"), "1").put(endpoints("v1", 1), "1");
    scene.put(listener("l", 1, "r"), "1").put(routes("r", &["v1"]), "1").is("C v1 1, E v1 1, L l 1, R r 1");
    scene.put(eds("v2"), "1").put(routes("r", &["v2"]), "2").is("C v1 1, E v1 1, L l 1, R r 1");
    // The server takes the old cluster away before the new one is warm: make before break all the same.
    scene.remove(Kind::Cluster, "v1").is("C v1 1, E v1 1, L l 1, R r 1").wants(Kind::Endpoints, &["v1", "v2"]);
    scene.settle().is("C v1 1, E v1 1, L l 1, R r 1");
    scene.put(endpoints("v2", 2), "1").is("C v2 1, E v2 1, L l 1, R r 2").wants(Kind::Endpoints, &["v2"]);
}

#[test]
fn a_removed_cluster_is_gone_at_once_even_if_routes_still_lead_there() {
    let mut scene = Scene::new();
    scene.put(passthrough("p"), "1").put(listener("l", 1, "r"), "1").put(routes("r", &["p"]), "1");
    scene.remove(Kind::Cluster, "p").is("L l 1, R r 1");
}

#[test]
fn a_changed_listener_replaces_the_old_one_when_its_routes_are_there() {
    let mut scene = Scene::new();
    scene.put(passthrough("p"), "1").put(listener("l", 1, "old"), "1").put(routes("old", &["p"]), "1");
    scene.put(listener("l", 2, "new"), "2").is("C p 1, L l 1, R old 1").wants(Kind::Route, &["new", "old"]);
    scene.remove(Kind::Cluster, "p").is("C p 1, L l 1, R old 1");
    scene.put(routes("new", &[]), "1").is("L l 2, R new 1").wants(Kind::Route, &["new"]);
}

#[test]
fn a_removed_listener_is_gone_with_its_routes() {
    let mut scene = Scene::new();
    scene.put(listener("l", 1, "r"), "1").put(routes("r", &[]), "1");
    scene.remove(Kind::Listener, "l").is("").wants(Kind::Route, &[]);
}

#[test]
fn routes_and_listeners_wait_until_the_server_has_said_which_clusters_there_are() {
    let mut scene = Scene::of(Accepted::default());
    scene.put(listener("l", 1, "r"), "1").put(routes("r", &["a"]), "1").put(inline_listener("i", 2, &[]), "1").is("");
    assert!(!scene.last.complete);
    scene.accepted.give_up_on_first_answer(Kind::Cluster);
    scene.settle().is("L i 1, L l 1, R r 1");
    assert!(!scene.last.complete, "a silent server is no configuration");
}

#[test]
fn the_state_is_complete_when_every_listener_had_its_first_routes() {
    let mut scene = Scene::new();
    assert!(scene.last.complete, "the server has no listeners");
    assert!(!scene.put(listener("l", 1, "r"), "1").last.complete);
    assert!(scene.put(routes("r", &[]), "1").last.complete);
    assert!(scene.put(listener("l", 1, "other"), "2").last.complete, "the old state serves");
}

#[test]
fn from_disk_nothing_is_waited_for() {
    let mut scene = Scene::new();
    scene.put(eds("a"), "1").put(listener("l", 1, "r"), "1");
    let settled = settle(&Store::default(), &scene.accepted, Missing::IsAbsent);
    assert!(settled.complete);
    assert!(settled.in_force.contains(Kind::Cluster, "a") && settled.in_force.contains(Kind::Listener, "l"));
}
