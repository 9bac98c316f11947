//! The endpoints of a cluster, and what all workers know of them.
//!
//! Configuration comes and goes; what was learnt about an endpoint stays. [`EndpointState`] is carried over by cluster and
//! address from one snapshot to the next, so that a push resets no count. It is shared by all workers: "requests in
//! flight" means the process, as users count.
//!
//! * [`balance`]: who gets the next request.
//! * [`limits`]: how much may be in use at once.
//! * [`outcome`]: what became of an attempt; [`outlier`]: what follows from many; [`standing`]: how an endpoint stands.
//! * [`upkeep`]: what is done at intervals and when the configuration changes.

pub mod balance;
pub mod limits;
pub mod outcome;
pub mod outlier;
pub mod standing;
pub mod upkeep;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use leno_config::identity::SpiffeId;
use leno_config::ir;

use balance::Balancer;
use limits::Usage;
use outlier::{Ejections, Record};
use standing::{Fitness, Probe};

/// A cluster of the snapshot in force.
#[derive(Debug)]
pub struct Cluster {
    /// As configured.
    pub config: Arc<ir::Cluster>,
    /// Whom to call.
    pub members: Members,
    /// What all workers count.
    pub stats: Arc<ClusterStats>,
}

/// Whom a cluster calls.
#[derive(Debug)]
pub enum Members {
    /// One of these.
    Balanced(Balancer),
    /// Whatever the request's host resolves to.
    RequestHost,
    /// Where the connection was going before it was captured.
    OriginalDestination,
}

impl Members {
    /// All endpoints that are known beforehand.
    pub fn states(&self) -> impl Iterator<Item = &Arc<EndpointState>> {
        let members = match self {
            Self::Balanced(balancer) => balancer.members(),
            Self::RequestHost | Self::OriginalDestination => &[],
        };
        members.iter().map(|member| &member.state)
    }

    /// How many those are.
    pub fn len(&self) -> usize {
        self.states().size_hint().0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, to be carried over.
    pub fn known(&self) -> KnownEndpoints {
        self.states().map(|state| ((state.address, state.security.clone()), Arc::clone(state))).collect()
    }
}

/// Counts of a cluster that outlive its configuration.
#[derive(Debug, Default)]
pub struct ClusterStats {
    /// Requests sent and answered or failed.
    pub requests: AtomicU64,
    /// Connections opened.
    pub connections: AtomicU64,
    /// Those of them that are encrypted.
    pub encrypted: AtomicU64,
    /// Connections that could not be opened.
    pub connect_failures: AtomicU64,
    /// Requests that were sent again because they were provably not sent before.
    pub unsent_retries: AtomicU64,
    /// What is in use now.
    pub usage: Usage,
    /// Grows whenever the standing of an endpoint changes (ejected, readmitted, found unhealthy, …): a worker that has
    /// seen another number looks at its members again.
    pub standing: AtomicU64,
    /// Requests that were to show whether a half-open endpoint is well.
    pub probes: AtomicU64,
    /// Endpoints that are out, and have been.
    pub ejections: Ejections,
    /// Connections that were not opened because so many were open (Envoy's `upstream_cx_overflow`).
    pub connection_overflows: AtomicU64,
    /// Requests refused because so many waited for a connection (`upstream_rq_pending_overflow`).
    pub pending_overflows: AtomicU64,
    /// Requests refused because so many were under way (`upstream_rq_active_overflow`).
    pub request_overflows: AtomicU64,
    /// Retries not made because so many were under way (`upstream_rq_retry_overflow`).
    pub retry_overflows: AtomicU64,
}

impl ClusterStats {
    /// One more connection was opened, with TLS or without.
    pub fn opened(&self, encrypted: bool) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.encrypted.fetch_add(u64::from(encrypted), Ordering::Relaxed);
    }

    /// The standing of an endpoint has changed.
    pub fn changed(&self) {
        self.standing.fetch_add(1, Ordering::Release);
    }
}

/// What all workers know of one endpoint. Padded to its own cache line: workers write it at every request.
#[derive(Debug)]
#[repr(align(64))]
pub struct EndpointState {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it speaks the mesh's TLS, and who it is.
    pub security: EndpointSecurity,
    active: AtomicU32,
    /// Requests begun since the process started.
    pub requests: AtomicU64,
    /// Attempts that it answered below 500 (Envoy's `rq_success`).
    pub successes: AtomicU64,
    /// The other attempts that came to an end (Envoy's `rq_error`).
    pub errors: AtomicU64,
    fitness: Fitness,
    record: Record,
}

/// What the control plane says of an endpoint's encryption.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct EndpointSecurity {
    /// It speaks mTLS with the mesh's certificates.
    pub mesh_tls: bool,
    /// Who it has to be.
    pub identity: Option<SpiffeId>,
}

impl EndpointSecurity {
    fn of(endpoint: &ir::Endpoint) -> Self {
        Self { mesh_tls: endpoint.mesh_tls, identity: endpoint.identity.clone() }
    }
}

impl EndpointState {
    /// Nothing known yet, and nothing encrypted.
    pub fn new(address: SocketAddr) -> Self {
        Self::secured(address, EndpointSecurity::default())
    }

    /// Nothing known yet.
    pub fn secured(address: SocketAddr, security: EndpointSecurity) -> Self {
        Self {
            address,
            security,
            active: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            successes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            fitness: Fitness::default(),
            record: Record::default(),
        }
    }

    /// How often it was ejected.
    pub fn ejections(&self) -> u64 {
        self.record.ejections.load(Ordering::Relaxed)
    }

    /// Requests in flight, from all workers.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Counts one request until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.count();
        InFlight { endpoint: Arc::clone(self), probe: None }
    }

    fn count(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
}

/// An endpoint that was chosen for a request.
#[derive(Debug)]
pub struct Picked {
    /// Which.
    pub endpoint: Arc<EndpointState>,
    /// It comes back from an ejection, and this one request tells whether it is well again. Given back when this is
    /// dropped before the request has come to an end.
    pub probe: Option<Box<Probe>>,
}

impl Picked {
    /// For a request like any other.
    pub fn share(endpoint: Arc<EndpointState>) -> Self {
        Self { endpoint, probe: None }
    }

    /// For the request that tells whether it is well.
    pub fn probing(probe: Probe) -> Self {
        Self { endpoint: Arc::clone(probe.endpoint()), probe: Some(Box::new(probe)) }
    }

    /// Counts one request at the endpoint until the guard is dropped.
    pub fn begin(self) -> InFlight {
        self.endpoint.count();
        InFlight { endpoint: self.endpoint, probe: self.probe }
    }
}

/// One request in flight at an endpoint; ends with the guard.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<EndpointState>,
    probe: Option<Box<Probe>>,
}

impl InFlight {
    /// Where it is.
    pub fn endpoint(&self) -> &Arc<EndpointState> {
        &self.endpoint
    }

    /// The probe that it is, if it is one.
    pub fn probe(&self) -> Option<&Probe> {
        self.probe.as_deref()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One endpoint as a balancer holds it.
#[derive(Debug, Clone)]
pub struct Member {
    /// What all workers know of it.
    pub state: Arc<EndpointState>,
    /// Share, at least 1.
    pub weight: u32,
}

/// Endpoint states of a cluster by address and security: those of the snapshot before, to be carried over. Who has
/// another identity is another endpoint; and what one cluster learns of an endpoint is its own (Envoy), as its policy is.
pub type KnownEndpoints = HashMap<(SocketAddr, EndpointSecurity), Arc<EndpointState>>;

/// The usable members of the best priority that has any.
///
/// Localities of one priority share by their own weight only where the cluster asks for it; Istio's default is that
/// every endpoint counts alike.
pub fn members(endpoints: &ir::Endpoints, locality_weighted: bool, known: &mut KnownEndpoints) -> Vec<Member> {
    let mut priorities: Vec<u32> = endpoints.localities.iter().map(|locality| locality.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    priorities
        .into_iter()
        .map(|priority| of_priority(endpoints, priority, locality_weighted, known))
        .find(|members| !members.is_empty())
        .unwrap_or_default()
}

fn of_priority(
    endpoints: &ir::Endpoints,
    priority: u32,
    locality_weighted: bool,
    known: &mut KnownEndpoints,
) -> Vec<Member> {
    let mut members = Vec::new();
    for locality in endpoints.localities.iter().filter(|locality| locality.priority == priority) {
        let usable: Vec<_> = locality.endpoints.iter().filter(|endpoint| endpoint.health.is_usable()).collect();
        let sum: u64 = usable.iter().map(|endpoint| u64::from(endpoint.weight.max(1))).sum();
        for endpoint in usable {
            let ir::Address::Socket(address) = &endpoint.address else { continue };
            let weight = match locality.weight {
                // In 1/1000 of a locality's weight, so that small localities keep their proportions.
                Some(weight) if locality_weighted => {
                    u64::from(weight) * 1000 * u64::from(endpoint.weight.max(1)) / sum.max(1)
                }
                Some(_) | None => u64::from(endpoint.weight.max(1)),
            };
            let (address, security) = (*address, EndpointSecurity::of(endpoint));
            let state = known
                .entry((address, security.clone()))
                .or_insert_with(|| Arc::new(EndpointState::secured(address, security)));
            members.push(Member { state: Arc::clone(state), weight: u32::try_from(weight.max(1)).unwrap_or(u32::MAX) });
        }
    }
    members
}
