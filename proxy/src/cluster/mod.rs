//! The endpoints of a cluster, and what all workers know of them.
//!
//! Configuration comes and goes; what was learnt about an endpoint stays. [`EndpointState`] is carried over by cluster and
//! address from one snapshot to the next, so that a push resets no count. It is shared by all workers: "requests in
//! flight" means the process, as users count.
//!
//! * [`membership`]: who belongs to it; [`balance`]: who of them gets the next request.
//! * [`limits`]: how much may be in use at once.
//! * [`outcome`]: what became of an attempt; [`outlier`]: what follows from many; [`standing`]: how an endpoint stands.
//! * [`originals`]: endpoints that no list names.
//! * [`health`]: endpoints are asked whether they are well.
//! * [`upkeep`]: what is done at intervals and when the configuration changes.

pub mod balance;
pub mod budget;
pub mod health;
pub mod limits;
pub mod membership;
pub mod metrics;
pub mod originals;
pub mod outcome;
pub mod outlier;
pub mod retries;
pub mod standing;
pub mod upkeep;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use leno_config::identity::SpiffeId;
use leno_config::ir;

use balance::{Balancer, Latency};
use limits::Usage;
use outlier::{Ejections, Record};
use retries::RetryStats;
use standing::{Fitness, Moment, Probe};

pub use membership::{KnownEndpoints, Member, Membership};

/// A cluster of the snapshot in force.
#[derive(Debug)]
pub struct Cluster {
    /// As configured.
    pub config: Arc<ir::Cluster>,
    /// Whom to call.
    pub members: Members,
    /// What the control plane says of them, where that is a resource of its own.
    pub told: Option<Arc<ir::Endpoints>>,
    /// What all workers count.
    pub stats: Arc<ClusterStats>,
}

impl Cluster {
    /// What the control plane says of an endpoint. Looks at all of them: for new connections, not for requests.
    pub fn told(&self, address: SocketAddr) -> Option<&ir::Endpoint> {
        let endpoints = match (&self.told, &self.config.discovery) {
            (Some(told), _) => told,
            (None, ir::Discovery::Static(endpoints) | ir::Discovery::Dns(endpoints)) => endpoints,
            (None, _) => return None,
        };
        endpoints.iter().find(|endpoint| endpoint.address == ir::Address::Socket(address))
    }

    /// The name of its first endpoint, for TLS without a request: bytes name no host.
    pub fn dns_name(&self) -> Option<&str> {
        let ir::Discovery::Dns(endpoints) = &self.config.discovery else { return None };
        endpoints.iter().find_map(|endpoint| match &endpoint.address {
            ir::Address::Name { host, .. } => Some(host.as_str()),
            ir::Address::Socket(_) => None,
        })
    }
}

/// Whom a cluster calls.
#[derive(Debug)]
pub enum Members {
    /// One of these.
    Balanced(Arc<Balancer>),
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
    /// Of second attempts.
    pub retries: RetryStats,
    /// Connections that waited for a request when the workers looked last.
    pub idle: AtomicU32,
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
    /// How soon it answers, where balancing goes by that.
    pub latency: Latency,
    /// When it became healthy last, one more than milliseconds of [`Moment`]; 0: it never was.
    healthy_since: AtomicU64,
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
            latency: Latency::new(Moment::now()),
            healthy_since: AtomicU64::new(0),
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
        InFlight { endpoint: Arc::clone(self), probe: None, since: None }
    }

    /// How long it has been healthy.
    pub(in crate::cluster) fn healthy_for(&self, now: Moment) -> Duration {
        let since = self.healthy_since.load(Ordering::Relaxed);
        let since = since.checked_sub(1).map(|millis| Moment::default() + Duration::from_millis(millis));
        since.map_or(Duration::ZERO, |since| since.until(now))
    }

    /// It is healthy: from now on, if it was not before or `again`.
    pub(in crate::cluster) fn is_healthy(&self, now: Moment, again: bool) {
        if again || self.healthy_since.load(Ordering::Relaxed) == 0 {
            self.healthy_since.store(now.millis().saturating_add(1), Ordering::Relaxed);
        }
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
    /// When, where balancing goes by the time until it answers.
    since: Option<Moment>,
}

impl Picked {
    /// For a request like any other.
    pub fn share(endpoint: Arc<EndpointState>) -> Self {
        Self { endpoint, probe: None, since: None }
    }

    /// For the request that tells whether it is well.
    pub fn probing(probe: Probe) -> Self {
        Self { endpoint: Arc::clone(probe.endpoint()), probe: Some(Box::new(probe)), since: None }
    }

    /// The same, and how long it takes to answer is of interest.
    fn timed(self, since: Moment) -> Self {
        Self { since: Some(since), ..self }
    }

    /// Counts one request at the endpoint until the guard is dropped.
    pub fn begin(self) -> InFlight {
        self.endpoint.count();
        InFlight { endpoint: self.endpoint, probe: self.probe, since: self.since }
    }
}

/// One request in flight at an endpoint; ends with the guard.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<EndpointState>,
    probe: Option<Box<Probe>>,
    since: Option<Moment>,
}

impl InFlight {
    /// Notes how long it took, where balancing goes by that. At the first byte of the answer, or when it has failed.
    pub fn learn(&self, failed: bool) {
        if let Some(since) = self.since {
            let now = Moment::now();
            self.endpoint.latency.observe(now, since.until(now), failed);
        }
    }

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
