//! From what was accepted to what is in force: make before break.
//!
//! A resource is useless before what it needs is there: a cluster without endpoints answers 503, a listener without its
//! routes 404. So the new state of a resource replaces the old one only when
//!
//! * **clusters** have their endpoints, and the roots by which they know them if they encrypt,
//! * **route tables** lead to no cluster that is still waiting for its first endpoints,
//! * **listeners** have their route table and, if they take mTLS, the roots by which they know their callers; and the
//!   same for the clusters they lead to directly.
//!
//! Until then the old one stays in force, together with the clusters and route tables that it needs, even if the server
//! withdrew them meanwhile. What the server does not have counts as there, but empty; so does what it did not send in
//! time (the session gives up after 15 s), so that nothing waits for ever. A route to a cluster that was never sent
//! waits for nothing and is answered with 503 NC, as in Envoy; a cluster that is removed is gone at once. New roots are
//! in force at once, and disturb nothing that is: they are a resource of their own. The second rule goes further than Envoy, whose routes may lead to a cluster that is still warming.
//!
//! [`settle`] is a pure function of what was in force and what is accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use leno_config::ir;
use leno_config::xds::Kind;
use serde::Serialize;

use super::accepted::{Accepted, Held, Name, Shelf, Store};

/// What the data path works by.
#[derive(Debug, Clone, Default)]
pub struct Effective {
    /// Complete in itself: an EDS cluster has an entry in `endpoints` (under the name by which it asks for them) and a
    /// listener's named route table one in `routes`, if need be an empty one.
    pub resources: Arc<ir::Resources>,
    /// The same as the server sent it, with its versions; an empty stand-in is not among them. `None` where no server is
    /// behind it but rule files.
    pub in_force: Option<Arc<Store>>,
    /// When the last change of it came; `None` before the first, and for the state from disk.
    pub received_at: Option<SystemTime>,
    /// Clusters and listeners were known, and no listener waited for its first routes: the proxy may call itself ready.
    /// Once true, it stays so: a listener that is added later is no reason to take the others out of service.
    pub complete: bool,
}

impl Effective {
    /// The server's versions of exactly these resources; an empty stand-in has none. Without a server, what Leno's own
    /// would call them.
    pub fn versions(&self) -> Versions {
        match &self.in_force {
            Some(store) => Versions {
                clusters: store.versions(Kind::Cluster),
                endpoints: store.versions(Kind::Endpoints),
                secrets: store.versions(Kind::Secret),
                listeners: store.versions(Kind::Listener),
                routes: store.versions(Kind::Route),
            },
            None => Versions {
                clusters: content(&self.resources.clusters),
                endpoints: content(&self.resources.endpoints),
                secrets: content(&self.resources.secrets),
                listeners: content(&self.resources.listeners),
                routes: content(&self.resources.routes),
            },
        }
    }
}

fn content<K: ToString, T: Serialize>(resources: &BTreeMap<K, Arc<T>>) -> BTreeMap<String, String> {
    resources.iter().map(|(name, resource)| (name.to_string(), ir::version(&**resource))).collect()
}

/// Versions by name, for each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Versions {
    pub clusters: BTreeMap<String, String>,
    pub endpoints: BTreeMap<String, String>,
    pub secrets: BTreeMap<String, String>,
    pub listeners: BTreeMap<String, String>,
    pub routes: BTreeMap<String, String>,
}

/// Names by kind.
pub type Names = BTreeMap<Kind, BTreeSet<Name>>;

/// What is done about things that are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// They may still come.
    Wait,
    /// Nobody will send them: the state comes from disk, and is all there is.
    IsAbsent,
}

/// What follows from a change of the accepted resources.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// In force from now on.
    pub in_force: Store,
    /// Accepted, but waiting for something; an older state may be in force.
    pub warming: Names,
    /// The endpoints, secrets and route tables that something accepted or in force refers to: what to subscribe to.
    pub wanted: Names,
    /// No listener waits for its first time in force, and clusters and listeners are known, at this moment.
    pub complete: bool,
}

/// Decides what is in force from now on.
pub fn settle(before: &Store, accepted: &Accepted, missing: Missing) -> Settled {
    let mut settling = Settling {
        before,
        accepted,
        missing,
        next: Store::default(),
        warming: Names::new(),
        first_time: BTreeSet::new(),
        kept: BTreeSet::new(),
    };
    settling.clusters();
    settling.listeners();
    settling.routes();
    settling.clusters_of_what_was_kept();
    settling.endpoints();
    settling.secrets();
    settling.done()
}

/// The resources as the data path takes them, with an empty stand-in for what the server does not have.
pub fn resources(in_force: &Store) -> ir::Resources {
    let mut resources = ir::Resources::default();
    for (name, held) in &in_force.clusters {
        resources.clusters.insert(ir::ClusterName::new(Arc::clone(name)), Arc::clone(&held.resource));
        if let Some(name) = &held.references.endpoints {
            let key = ir::ClusterName::new(Arc::clone(name));
            let endpoints = match in_force.endpoints.get(name) {
                Some(held) => Arc::clone(&held.resource),
                None => Arc::new(ir::Endpoints {
                    cluster: key.clone(),
                    localities: Vec::new(),
                    overprovisioning: ir::Endpoints::OVERPROVISIONING,
                }),
            };
            resources.endpoints.insert(key, endpoints);
        }
    }
    for (name, held) in &in_force.listeners {
        resources.listeners.insert(name.to_string(), Arc::clone(&held.resource));
        if let Some(name) = &held.references.routes {
            let routes = match in_force.routes.get(name) {
                Some(held) => Arc::clone(&held.resource),
                None => {
                    Arc::new(ir::RouteConfig { name: name.to_string(), ignore_port: false, virtual_hosts: Vec::new() })
                }
            };
            resources.routes.insert(name.to_string(), routes);
        }
    }
    let secrets = in_force.secrets.iter();
    resources.secrets = secrets.map(|(name, held)| (name.to_string(), Arc::clone(&held.resource))).collect();
    resources
}

/// Whether this very state is in force: then there is nothing to wait for, whatever changed around it.
fn is_in_force<T>(before: &Shelf<T>, name: &str, held: &Arc<Held<T>>) -> bool {
    before.get(name).is_some_and(|old| Arc::ptr_eq(old, held))
}

struct Settling<'a> {
    before: &'a Store,
    accepted: &'a Accepted,
    missing: Missing,
    next: Store,
    warming: Names,
    /// Clusters without any state in force yet, and without endpoints or roots.
    first_time: BTreeSet<&'a Name>,
    /// Clusters that an old state needs which stays in force only because the new one is not ready.
    kept: BTreeSet<&'a Name>,
}

impl<'a> Settling<'a> {
    fn clusters(&mut self) {
        for (name, held) in &self.accepted.store().clusters {
            let has_endpoints = match &held.references.endpoints {
                None => true,
                Some(endpoints) => {
                    self.accepted.store().endpoints.contains_key(endpoints)
                        || self.is_absent(Kind::Endpoints, endpoints)
                }
            };
            let ready = has_endpoints && self.has_roots(held);
            if ready || is_in_force(&self.before.clusters, name, held) {
                self.next.clusters.insert(Arc::clone(name), Arc::clone(held));
                continue;
            }
            self.warms(Kind::Cluster, name);
            match self.before.clusters.get(name) {
                Some(old) => {
                    self.next.clusters.insert(Arc::clone(name), Arc::clone(old));
                }
                None => {
                    self.first_time.insert(name);
                }
            }
        }
    }

    fn listeners(&mut self) {
        for (name, held) in &self.accepted.store().listeners {
            let has_routes = match &held.references.routes {
                None => true,
                Some(routes) => self.route_table(routes).is_some() || self.is_absent(Kind::Route, routes),
            };
            let ready = has_routes && self.has_roots(held) && self.leads_to_warm_clusters(held);
            if ready || is_in_force(&self.before.listeners, name, held) {
                self.next.listeners.insert(Arc::clone(name), Arc::clone(held));
                continue;
            }
            self.warms(Kind::Listener, name);
            if let Some(old) = self.before.listeners.get(name) {
                self.keep_clusters_of(old);
                if let Some(table) = old.references.routes.as_deref().and_then(|routes| self.route_table(routes)) {
                    self.keep_clusters_of(table);
                }
                self.next.listeners.insert(Arc::clone(name), Arc::clone(old));
            }
        }
    }

    fn routes(&mut self) {
        for (name, held) in &self.accepted.store().routes {
            if self.leads_to_warm_clusters(held) || is_in_force(&self.before.routes, name, held) {
                continue;
            }
            self.warms(Kind::Route, name);
            if let Some(old) = self.before.routes.get(name) {
                self.keep_clusters_of(old);
            }
        }
        let named: Vec<&Name> =
            self.next.listeners.values().filter_map(|held| held.references.routes.as_ref()).collect();
        self.next.routes = named
            .into_iter()
            .filter_map(|name| self.route_table(name).map(|held| (Arc::clone(name), Arc::clone(held))))
            .collect();
    }

    /// The table of that name that is in force from now on, if a listener asks for it.
    fn route_table(&self, name: &str) -> Option<&'a Arc<Held<ir::RouteConfig>>> {
        let accepted = self.accepted.store().routes.get(name)?;
        if self.leads_to_warm_clusters(accepted) { Some(accepted) } else { self.before.routes.get(name) }
    }

    fn clusters_of_what_was_kept(&mut self) {
        for name in std::mem::take(&mut self.kept) {
            if let Some(old) = self.before.clusters.get(name) {
                self.next.clusters.entry(Arc::clone(name)).or_insert_with(|| Arc::clone(old));
            }
        }
    }

    /// Endpoints wait for nothing: the newest are in force.
    fn endpoints(&mut self) {
        let accepted = &self.accepted.store().endpoints;
        let named = self.next.clusters.values().filter_map(|held| held.references.endpoints.as_ref());
        self.next.endpoints =
            named.filter_map(|name| accepted.get(name).map(|held| (Arc::clone(name), Arc::clone(held)))).collect();
    }

    /// Roots wait for nothing either; whatever is in force goes by the newest.
    fn secrets(&mut self) {
        let accepted = &self.accepted.store().secrets;
        let of_clusters = self.next.clusters.values().filter_map(|held| held.references.secret.as_ref());
        let of_listeners = self.next.listeners.values().filter_map(|held| held.references.secret.as_ref());
        self.next.secrets = of_clusters
            .chain(of_listeners)
            .filter_map(|name| accepted.get(name).map(|held| (Arc::clone(name), Arc::clone(held))))
            .collect();
    }

    fn done(self) -> Settled {
        let Self { accepted, next, warming, .. } = self;
        let known = accepted.is_answered(Kind::Cluster) && accepted.is_answered(Kind::Listener);
        let complete = known && accepted.store().listeners.keys().all(|name| next.listeners.contains_key(name));
        let named = [Kind::Endpoints, Kind::Secret, Kind::Route];
        let mut wanted: Names = named.into_iter().map(|kind| (kind, BTreeSet::new())).collect();
        for store in [accepted.store(), &next] {
            let endpoints = store.clusters.values().filter_map(|held| held.references.endpoints.clone());
            wanted.entry(Kind::Endpoints).or_default().extend(endpoints);
            let of_clusters = store.clusters.values().filter_map(|held| held.references.secret.clone());
            let of_listeners = store.listeners.values().filter_map(|held| held.references.secret.clone());
            wanted.entry(Kind::Secret).or_default().extend(of_clusters.chain(of_listeners));
            let routes = store.listeners.values().filter_map(|held| held.references.routes.clone());
            wanted.entry(Kind::Route).or_default().extend(routes);
        }
        Settled { in_force: next, warming, wanted, complete }
    }

    fn is_absent(&self, kind: Kind, name: &str) -> bool {
        self.missing == Missing::IsAbsent || self.accepted.is_absent(kind, name)
    }

    /// Roots that are not there count as there: whoever goes by them then believes nobody.
    fn has_roots<T>(&self, held: &Held<T>) -> bool {
        held.references
            .secret
            .as_ref()
            .is_none_or(|name| self.accepted.store().secrets.contains_key(name) || self.is_absent(Kind::Secret, name))
    }

    /// Before the server said which clusters there are, none is known not to be on its way.
    fn leads_to_warm_clusters<T>(&self, held: &Held<T>) -> bool {
        let known = self.missing == Missing::IsAbsent || self.accepted.is_settled(Kind::Cluster);
        known && !held.references.clusters.iter().any(|name| self.first_time.contains(name))
    }

    fn keep_clusters_of<T>(&mut self, held: &'a Held<T>) {
        self.kept.extend(&held.references.clusters);
    }

    fn warms(&mut self, kind: Kind, name: &Name) {
        self.warming.entry(kind).or_default().insert(Arc::clone(name));
    }
}
