//! What one worker counts with.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::{Method, Version};
use leno_config::ir::Direction;

use crate::error::Flags;

use super::connections::{TcpBlock, TcpKey, TcpTable};
use super::labels::{Labels, RouteName, TargetName};
use super::party::{OTHER, Target};
use super::registry::Telemetry;
use super::requests::{Form, Request, RequestKey, RequestTable};
use super::series::IDLE;

/// The cluster that leads nowhere (Istio).
const BLACK_HOLE: &str = "BlackHoleCluster";
/// Between two looks for what is idle, in seconds.
const LOOK: u64 = 60;

/// One worker's series of requests and connections.
#[derive(Debug)]
pub struct Meters {
    labels: Arc<Labels>,
    requests: RequestTable,
    tcp: TcpTable,
    /// Hosts outside the mesh, as this worker met them.
    outside: RefCell<HashMap<String, Outside, RandomState>>,
    /// Where requests would have gone that must not leave the mesh.
    blocked: OnceCell<TargetName>,
    /// Whether OTel's names are wanted.
    with_form: bool,
    /// Whether requests are counted at all.
    counts: bool,
}

#[derive(Debug)]
struct Outside {
    /// By way of which cluster.
    cluster: u32,
    target: TargetName,
    /// Its place among those that are told apart.
    _place: RouteName,
    used: u64,
}

impl Meters {
    /// Nothing counted yet.
    pub fn new(telemetry: &Telemetry) -> Self {
        let labels = telemetry.labels();
        Self {
            requests: RequestTable::new(Arc::clone(telemetry.requests()), Arc::clone(labels)),
            tcp: TcpTable::new(Arc::clone(telemetry.tcp()), Arc::clone(labels)),
            outside: RefCell::default(),
            blocked: OnceCell::new(),
            with_form: telemetry.dialect().has_otel(),
            counts: telemetry.dialect().counts(),
            labels: Arc::clone(labels),
        }
    }

    /// All names.
    pub fn labels(&self) -> &Arc<Labels> {
        &self.labels
    }

    /// What else is told apart of a request.
    pub fn form(&self, method: &Method, version: Version) -> Form {
        if self.with_form { Form::of(method, version) } else { Form::default() }
    }

    /// Counts a request at its end.
    pub fn request(&self, key: RequestKey, request: &Request) {
        if self.counts {
            self.requests.count(key, |block| request.count(block));
        }
    }

    /// Where a connection is counted.
    pub fn connection(&self, direction: Direction, link: u32, target: u32, flags: Flags) -> Arc<TcpBlock> {
        self.tcp.block(TcpKey { direction, link, target, flags })
    }

    /// Number of a host outside the mesh that is called by way of a cluster. Without a lock where it is known, or where there
    /// are too many.
    pub fn outside(&self, cluster: &TargetName, host: &str) -> u32 {
        let used = self.requests.now();
        let mut known = self.outside.borrow_mut();
        if let Some(outside) = known.get_mut(host).filter(|outside| outside.cluster == cluster.id()) {
            outside.used = used;
            return outside.target.id();
        }
        // All that are too many are known under their common name.
        let is_full = self.labels.outside_is_full();
        if is_full && let Some(other) = known.get_mut(OTHER).filter(|other| other.cluster == cluster.id()) {
            other.used = used;
            return other.target.id();
        }
        let (place, target) = self.labels.outside(&cluster.value, host);
        let number = target.id();
        let name = if Labels::is_other(&place) { OTHER } else { host };
        known.insert(name.to_owned(), Outside { cluster: cluster.id(), target, _place: place, used });
        number
    }

    /// Number of a host outside the mesh that must not be called (Istio counts it as called by way of this cluster).
    pub fn blocked(&self, host: &str) -> u32 {
        let hole = self.blocked.get_or_init(|| {
            self.labels.targets.intern(Target { cluster: BLACK_HOLE.to_owned(), ..Target::of_host(BLACK_HOLE) })
        });
        self.outside(hole, host)
    }

    /// It is second `now` since the start, about; called once a second.
    pub fn tick(&self, now: u64) {
        self.requests.tick(now);
        self.tcp.tick(now);
        if now.is_multiple_of(LOOK) {
            self.expire(now, IDLE);
        }
    }

    /// Gives up what nothing was counted in for `idle` seconds.
    pub fn expire(&self, now: u64, idle: u64) {
        self.requests.expire(idle);
        self.tcp.expire(idle);
        self.outside.borrow_mut().retain(|_, outside| now.saturating_sub(outside.used) < idle);
    }
}
