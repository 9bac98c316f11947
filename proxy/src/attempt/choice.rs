//! Which endpoint gets the next attempt.

use std::net::SocketAddr;
use std::sync::Arc;

use leno_config::ir::Discovery;

use crate::cluster::balance::PickContext;
use crate::cluster::{EndpointState, Members, Picked};
use crate::error::ProxyError;
use crate::upstream::connect::is_link_local;
use crate::worker::{View, Worker};

use super::Attempts;

/// Attempts before other localities are looked for (Istio's `retryRemoteLocalities`).
const LOCAL_ATTEMPTS: usize = 2;

impl Attempts<'_> {
    /// An endpoint; one of `tried` only where there is no other. `None`: there is none at all.
    pub(super) async fn choose(&self, tried: &[Arc<EndpointState>]) -> Result<Option<Picked>, ProxyError> {
        let picked = match &self.cluster.shared.members {
            Members::Balanced(_) => {
                let other_priorities = self.plan.other_localities() && tried.len() >= LOCAL_ATTEMPTS;
                let (random, hash) = (&self.worker.random, self.hash);
                self.cluster.pick(&PickContext { random, tried, other_priorities, hash }, None)
            }
            Members::RequestHost => Box::pin(self.resolve(tried)).await?.map(Picked::share),
            Members::OriginalDestination => self.original.map(|to| Picked::share(self.cluster.original(*to))),
        };
        if let Some(picked) = &picked {
            let address = picked.endpoint.address;
            if let Some(reason) = guard(self.worker, self.view, &self.cluster.shared.config.discovery, address) {
                return Err(ProxyError::Forbidden { address, reason });
            }
        }
        Ok(picked)
    }

    /// The request's host is outside the mesh: its own name says where it is. One address after another: `localhost` is
    /// `::1` and `127.0.0.1`, and an app often listens on one of them only.
    async fn resolve(&self, tried: &[Arc<EndpointState>]) -> Result<Option<Arc<EndpointState>>, ProxyError> {
        let authority = self.host.unwrap_or_default();
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            _ => (authority, Some(80)),
        };
        let failed = |reason: String| ProxyError::Dns { host: host.to_owned(), reason };
        let port = port.ok_or_else(|| failed("the port is not a number below 65536".to_owned()))?;
        let found = self.worker.dns.resolve(host).await.map_err(|error| failed(error.to_string()))?;
        let mut allowed =
            found.iter().filter(|ip| !is_link_local(**ip)).map(|ip| SocketAddr::new(*ip, port)).peekable();
        if allowed.peek().is_none() {
            let first = found.first().ok_or_else(|| failed("it has no address".to_owned()))?;
            let reason = "a link-local address is reached only when a rule names it";
            return Err(ProxyError::Forbidden { address: SocketAddr::new(*first, port), reason });
        }
        let untried = allowed.find(|address| tried.iter().all(|tried| tried.address != *address));
        Ok(untried.map(|address| Arc::new(EndpointState::new(address))))
    }
}

/// Why a cluster found by `discovery` must not call an address, if there is a reason. A proxy that calls its own listener
/// goes round in a circle until something breaks. Its own inbound listener is a legitimate endpoint of its own service,
/// though, and ends at the app.
pub fn guard(worker: &Worker, view: &View, discovery: &Discovery, address: SocketAddr) -> Option<&'static str> {
    if worker.reserved.get().is_some_and(|reserved| reserved.contains(&address)) {
        return Some("it is an address of this proxy for operators");
    }
    let is_own = match discovery {
        Discovery::Eds { .. } => view.shared.is_own_outbound(address),
        Discovery::Static(_) | Discovery::Dns(_) | Discovery::OriginalDestination | Discovery::RequestHost => {
            view.shared.is_own(address)
        }
    };
    is_own.then_some("it is a listener of this very proxy, and what is sent there would go round in a circle")
}
