//! The names of all series of the process, and the workload that it stands beside.

use std::sync::{Arc, OnceLock};

use leno_config::ir::Direction;
use leno_config::node::Node;

use super::names::{self, Named, Names};
use super::party::{Link, OTHER, Party, Protection, Target, UNKNOWN, cut};

/// Peers that are told apart: workloads, by how they are reached.
const MOST_LINKS: usize = 4_096;
/// Clusters and hosts that are told apart.
const MOST_TARGETS: usize = 8_192;
/// Rules and virtual hosts that are told apart.
const MOST_ROUTES: usize = 8_192;
/// Hosts outside the mesh that are told apart.
pub const MOST_OUTSIDE: usize = 50;
/// Longest host, with its port.
const LONGEST_HOST: usize = 259;
/// The route of a request that none takes.
const NO_ROUTE: &str = "none";

/// A name of the other side of connections.
pub type LinkName = Arc<Named<Link>>;
/// A name of what is called.
pub type TargetName = Arc<Named<Target>>;
/// A name of a route.
pub type RouteName = Arc<Named<String>>;

/// What a route is called, and what it calls where no cluster says so.
#[derive(Debug, Clone)]
pub struct RouteNames {
    /// Its rule, or its virtual host.
    pub route: RouteName,
    /// The service that its virtual host is for.
    pub target: TargetName,
}

/// All names.
#[derive(Debug)]
pub struct Labels {
    /// The other sides of connections.
    pub links: Names<Link>,
    /// What is called in the mesh.
    pub targets: Names<Target>,
    /// Hosts outside the mesh, with their ports: see [`Labels::outside`].
    outside: Names<String>,
    /// Rules, or virtual hosts where no rule is behind a route. What stands for unknown ones is `none`.
    pub routes: Names<String>,
    own: OnceLock<Own>,
    in_clear_text: LinkName,
}

#[derive(Debug)]
struct Own {
    party: Party,
    target: TargetName,
}

impl Default for Labels {
    fn default() -> Self {
        let text = str::to_owned;
        let links = Names::new(MOST_LINKS, Link::word(UNKNOWN), Link::word(OTHER));
        let in_clear_text = links.intern(Link::unproven(Party::word(UNKNOWN), Protection::None));
        Self {
            links,
            in_clear_text,
            targets: Names::new(MOST_TARGETS, Target::word(UNKNOWN), Target::word(OTHER)),
            outside: Names::new(MOST_OUTSIDE, text(UNKNOWN), text(OTHER)),
            routes: Names::new(MOST_ROUTES, text(NO_ROUTE), text(OTHER)),
            own: OnceLock::new(),
        }
    }
}

impl Labels {
    /// The workload that the process stands beside. Once, before anything is counted.
    pub fn is_beside(&self, node: &Node) {
        let party = Party::of_node(node);
        let target = self.targets.intern(Target::own(&party));
        // An error means that it was said before.
        let _ = self.own.set(Own { party, target });
    }

    /// That workload.
    pub fn own(&self) -> &Party {
        self.own.get().map_or(&self.links.unknown().value.party, |own| &own.party)
    }

    /// A caller in clear text: nobody knows who that is.
    pub fn in_clear_text(&self) -> &LinkName {
        &self.in_clear_text
    }

    /// The service that it is, where nobody names one.
    pub fn own_target(&self) -> &TargetName {
        self.own.get().map_or(self.targets.unknown(), |own| &own.target)
    }

    /// Number of what a request calls of which nothing is known yet: the own service, or nobody knows.
    pub fn home(&self, direction: Direction) -> u32 {
        match direction {
            Direction::Inbound => self.own_target().id(),
            Direction::Outbound => names::UNKNOWN,
        }
    }

    /// The names of a route, called after `rule` or else after the virtual host.
    pub fn route(&self, rule: Option<String>, virtual_host: &str) -> RouteNames {
        let target = self.targets.intern(Target::of_host(virtual_host));
        let route = self.routes.intern(rule.unwrap_or_else(|| virtual_host.to_owned()));
        RouteNames { route, target }
    }

    /// Whether a place stands for all that are too many.
    pub fn is_other(place: &RouteName) -> bool {
        place.id() == names::OTHER
    }

    /// A host outside the mesh, called by way of a cluster: itself, if there are not too many, else `other` of the same
    /// cluster. Whoever holds the answer keeps a place: the first part is for that.
    pub fn outside(&self, cluster: &Target, host: &str) -> (RouteName, TargetName) {
        let place = self.outside.intern(cut(host, LONGEST_HOST).to_owned());
        let target = cluster.outside(if Self::is_other(&place) { OTHER } else { host });
        (place, self.targets.intern(target))
    }

    /// Whether there are so many hosts outside the mesh that the next one is `other`.
    pub fn outside_is_full(&self) -> bool {
        self.outside.is_full()
    }

    /// Forgets what nobody has held for `idle` seconds, seen at second `now`.
    pub fn sweep(&self, now: u64, idle: u64) {
        self.links.sweep(now, idle);
        self.targets.sweep(now, idle);
        self.outside.sweep(now, idle);
        self.routes.sweep(now, idle);
    }
}
