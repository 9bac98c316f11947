//! A cluster as one worker uses it: its own cursor among the endpoints, and its own connections to them.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use leno_config::ir;
use tokio::time::Instant;

use crate::attempt::Protocol;
use crate::cluster::balance::{PickContext, Position};
use crate::cluster::metrics::Idle;
use crate::cluster::originals::Originals;
use crate::cluster::{Cluster, EndpointSecurity, EndpointState, Members, Picked};
use crate::telemetry::TargetName;
use crate::telemetry::party::Target;
use crate::telemetry::place::Place;
use crate::tls::client::Encryption;
use crate::tls::transport::Transport;
use crate::upstream::connect::Dial;
use crate::upstream::opened::Noted;
use crate::upstream::pool::{Pool, PoolSettings};

use super::Worker;

/// Pools of hosts outside the mesh that one worker keeps; the next one replaces them all.
const MAX_FOREIGN_POOLS: usize = 1024;

type Pools = HashMap<SocketAddr, Rc<Pool>, foldhash::fast::RandomState>;
type PoolsByHost = HashMap<(SocketAddr, String), Rc<Pool>, foldhash::fast::RandomState>;

/// A cluster as one worker uses it.
#[derive(Debug)]
pub struct WorkerCluster {
    /// What all workers see.
    pub shared: Arc<Cluster>,
    position: Position,
    /// What it is counted as, once it is called.
    target: OnceCell<TargetName>,
    idle: Idle,
    /// Where captured connections were going.
    originals: Originals,
    pools: RefCell<Pools>,
    /// Where the server name of TLS follows the request's host.
    by_host: RefCell<PoolsByHost>,
}

impl WorkerCluster {
    /// An endpoint for a request: one that was not tried yet, if there is any.
    /// `original` is where a captured connection was going.
    pub fn pick(&self, context: &PickContext<'_>, original: Option<&SocketAddr>) -> Option<Picked> {
        match &self.shared.members {
            Members::Balanced(balancer) => self.position.pick(balancer, &self.shared.stats, context),
            Members::OriginalDestination => original.map(|to| Picked::share(self.original(*to))),
            Members::RequestHost => None,
        }
    }

    /// The endpoint at an address that no list names.
    pub fn original(&self, address: SocketAddr) -> Arc<EndpointState> {
        self.originals.endpoint(address)
    }

    /// How its endpoints are called.
    pub fn dial<'a>(&'a self, worker: &'a Worker) -> Dial<'a> {
        let config = &self.shared.config;
        Dial {
            limit: config.connect_timeout,
            keepalive: config.tcp_keepalive.as_ref(),
            sources: &config.source_addresses,
            opened: &worker.opened,
        }
    }

    /// Takes a connection in clear text that was opened for bytes and has carried none, if requests could use it and none
    /// is idle: so there are never more of them than there were callers at a time.
    pub async fn keep_for_requests(
        &self,
        worker: &Worker,
        endpoint: &EndpointState,
        stream: Transport,
        noted: Option<Box<Noted>>,
    ) {
        let config = &self.shared.config;
        if Protocol::of(config.protocol, false, false) != Protocol::Http1 || self.follows_host() {
            return;
        }
        let pool = self.pool(worker, endpoint, None);
        if pool.idle() == 0 {
            pool.adopt(stream, noted, config.limits.connections).await;
        }
    }

    /// The number of what a request for `host` calls here: the cluster's service, or outside the mesh that very host.
    pub fn target<'a>(&self, worker: &Worker, host: impl FnOnce() -> &'a str) -> u32 {
        let meters = &worker.meters;
        let own = self.target.get_or_init(|| {
            let labels = meters.labels();
            labels.targets.intern(Target::of_cluster(&self.shared.config, labels.own()))
        });
        match &self.shared.members {
            Members::RequestHost => meters.outside(own, host()),
            Members::OriginalDestination if own.value.is_outside() => meters.outside(own, host()),
            Members::Balanced(_) | Members::OriginalDestination => own.id(),
        }
    }

    /// Whether requests are spread by a hash.
    pub fn hashes(&self) -> bool {
        matches!(&self.shared.members, Members::Balanced(balancer) if balancer.hashes())
    }

    /// The connections to an endpoint. `host` is the request's; it matters where TLS takes the server's name from it.
    pub fn pool(&self, worker: &Worker, endpoint: &EndpointState, host: Option<&str>) -> Rc<Pool> {
        if let (Some(host), true) = (host, self.follows_host()) {
            return self.pool_by_host(worker, endpoint, host);
        }
        let mut pools = self.pools.borrow_mut();
        if let Some(pool) = pools.get(&endpoint.address) {
            return Rc::clone(pool);
        }
        if !matches!(self.shared.members, Members::Balanced(_)) {
            bound(&mut pools);
        }
        let new = self.new_pool(worker, endpoint, None);
        pools.insert(endpoint.address, Rc::clone(&new));
        new
    }

    /// Whether the server name of TLS is the request's host.
    pub fn follows_host(&self) -> bool {
        matches!(&self.shared.config.tls, ir::UpstreamTls::External(tls) if tls.sni.is_none())
    }

    fn pool_by_host(&self, worker: &Worker, endpoint: &EndpointState, host: &str) -> Rc<Pool> {
        let name = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map_or(host, |(name, _)| name);
        let name = name.trim_matches(['[', ']']);
        let mut pools = self.by_host.borrow_mut();
        let key = (endpoint.address, name.to_owned());
        if let Some(pool) = pools.get(&key) {
            return Rc::clone(pool);
        }
        bound(&mut pools);
        let new = self.new_pool(worker, endpoint, Some(name));
        pools.insert(key, Rc::clone(&new));
        new
    }

    fn new_pool(&self, worker: &Worker, endpoint: &EndpointState, host: Option<&str>) -> Rc<Pool> {
        let config = &self.shared.config;
        let encryption = Encryption::new(&config.tls, &endpoint.security, host);
        let stats = Arc::clone(&self.shared.stats);
        let place = Place::new(&self.shared, endpoint.address, worker.meters.labels());
        Rc::new(Pool::new(
            place,
            encryption,
            settings(config),
            stats,
            Rc::clone(&worker.tls),
            Arc::clone(&worker.opened),
        ))
    }

    /// Closes what has been idle for too long, and forgets whom no list names and nobody calls. Once a second.
    pub(super) fn sweep(&self, now: Instant) {
        let mut idle = 0;
        self.each_pool(|pool| {
            pool.sweep(now);
            idle += pool.idle();
        });
        if !matches!(self.shared.members, Members::Balanced(_)) {
            self.originals.forget_unused();
            let is_used = |pool: &Rc<Pool>| pool.idle() > 0 || Rc::strong_count(pool) > 1;
            self.pools.borrow_mut().retain(|_, pool| is_used(pool));
            self.by_host.borrow_mut().retain(|_, pool| is_used(pool));
        }
        self.idle.set(u32::try_from(idle).unwrap_or(u32::MAX));
    }

    /// Each of its pools.
    pub(super) fn each_pool(&self, mut each: impl FnMut(&Rc<Pool>)) {
        self.pools.borrow().values().for_each(&mut each);
        self.by_host.borrow().values().for_each(&mut each);
    }

    /// The cluster in a new snapshot, with the pools of the endpoints that are still there.
    pub(super) fn new(shared: Arc<Cluster>, before: Option<&Rc<Self>>) -> Rc<Self> {
        let Some(before) = before else {
            return Rc::new(Self::with_pools(shared, RefCell::default(), RefCell::default()));
        };
        if Arc::ptr_eq(&before.shared, &shared) {
            return Rc::clone(before);
        }
        let wanted = settings(&shared.config);
        let members: Option<HashMap<SocketAddr, &EndpointSecurity>> = match &shared.members {
            Members::Balanced(balancer) => {
                Some(balancer.members().iter().map(|it| (it.state.address, &it.state.security)).collect())
            }
            Members::RequestHost | Members::OriginalDestination => None,
        };
        let outside = EndpointSecurity::default();
        let stays = |address: &SocketAddr, host: Option<&str>, pool: &Rc<Pool>| {
            let security = members.as_ref().map_or(Some(&outside), |members| members.get(address).copied());
            let same = |security| *pool.encryption() == Encryption::new(&shared.config.tls, security, host);
            let is_told = pool.place().is_told(&shared);
            let stays = security.is_some_and(same) && *pool.settings() == wanted && is_told;
            if !stays {
                pool.close();
            }
            stays
        };
        let (mut pools, mut by_host) = (before.pools.take(), before.by_host.take());
        pools.retain(|address, pool| stays(address, None, pool));
        by_host.retain(|(address, host), pool| stays(address, Some(host), pool));
        let (pools, by_host) = (RefCell::new(pools), RefCell::new(by_host));
        Rc::new(Self::with_pools(shared, pools, by_host))
    }

    fn with_pools(shared: Arc<Cluster>, pools: RefCell<Pools>, by_host: RefCell<PoolsByHost>) -> Self {
        let idle = Idle::new(&shared.stats);
        let (position, target, originals) = (Position::default(), OnceCell::new(), Originals::default());
        Self { shared, position, target, idle, originals, pools, by_host }
    }
}

/// Makes room for one more pool of a host outside the mesh: first those with nothing in them go, then all.
fn bound<K, S>(pools: &mut HashMap<K, Rc<Pool>, S>)
where
    K: Eq + std::hash::Hash,
    S: std::hash::BuildHasher,
{
    if pools.len() >= MAX_FOREIGN_POOLS {
        pools.retain(|_, pool| pool.idle() > 0);
        if pools.len() >= MAX_FOREIGN_POOLS {
            pools.drain().for_each(|(_, pool)| pool.close());
        }
    }
}

fn settings(cluster: &ir::Cluster) -> PoolSettings {
    PoolSettings {
        connect_timeout: cluster.connect_timeout,
        idle_timeout: cluster.idle_timeout,
        max_requests: cluster.max_requests_per_connection,
        max_duration: cluster.max_connection_duration,
        max_streams: cluster.max_concurrent_streams,
        keepalive: cluster.tcp_keepalive.clone(),
        sources: cluster.source_addresses.clone(),
    }
}
