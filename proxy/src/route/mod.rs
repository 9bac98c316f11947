//! Which route takes a request. Pure: the same table answers live traffic, `leno explain` and the benchmarks.
//!
//! ```text
//! authority ──hosts──▶ virtual host ──index──▶ candidate routes ──matches──▶ the first that holds
//! ```
//!
//! * [`hosts`]: hash look-ups only, so the cost does not grow with the number of hosts.
//! * [`index`]: of a long list of routes, only those whose path can match are tried, still in their order.
//! * [`matches`]: one route's conditions, and in words why one failed.
//! * [`rewrite`]: what becomes of path and location once a route has won.

mod hosts;
mod index;
mod matches;
mod rewrite;

use std::sync::Arc;

use http::{HeaderMap, Method};
use leno_config::ir::{Route, RouteConfig};

pub use matches::why_not;
pub(crate) use matches::{header_holds, joined, takes};
pub use rewrite::{location, rewrite_path};

use crate::policy::jwt::Claims;

use hosts::HostIndex;
use index::PathIndex;

/// What a route looks at. Borrowed from the request, so that looking costs nothing.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// The method.
    pub method: &'a Method,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host and, where there is one, port.
    pub authority: &'a str,
    /// Without the query.
    pub path: &'a str,
    /// Without the question mark.
    pub query: Option<&'a str>,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// What its verified token says; `None`: there is none.
    pub claims: Option<&'a Claims>,
}

/// A route configuration, ready to be searched.
#[derive(Debug)]
pub struct RouteTable {
    config: Arc<RouteConfig>,
    hosts: HostIndex,
    paths: Vec<PathIndex>,
    first: Vec<usize>,
    total: usize,
}

impl RouteTable {
    /// Indexes a route configuration; linear in its size.
    pub fn new(config: Arc<RouteConfig>) -> Self {
        let hosts = HostIndex::new(config.virtual_hosts.iter().map(|host| host.domains.as_slice()));
        let paths = config.virtual_hosts.iter().map(|host| PathIndex::new(&host.routes)).collect();
        let mut total = 0_usize;
        let first = config
            .virtual_hosts
            .iter()
            .map(|host| {
                let first = total;
                total = total.saturating_add(host.routes.len());
                first
            })
            .collect();
        Self { config, hosts, paths, first, total }
    }

    /// What it was made from.
    pub fn config(&self) -> &Arc<RouteConfig> {
        &self.config
    }

    /// The virtual host that answers to `authority`: an index into its `virtual_hosts`.
    pub fn host(&self, authority: &str) -> Option<usize> {
        let host = if self.config.ignore_port { without_port(authority) } else { authority };
        self.hosts.find(host)
    }

    /// The first route of a virtual host that takes the request: an index into its `routes`.
    pub fn find(&self, host: usize, request: &RequestView<'_>) -> Option<usize> {
        let routes = &self.config.virtual_hosts.get(host)?.routes;
        self.paths
            .get(host)?
            .first_match(request.path, |at| routes.get(at).is_some_and(|route| matches::takes(&route.matcher, request)))
    }

    /// The route at a place that [`host`](Self::host) and [`find`](Self::find) named.
    pub fn route(&self, host: usize, route: usize) -> Option<&Route> {
        self.config.virtual_hosts.get(host)?.routes.get(route)
    }

    /// A number for each route, dense from 0 to [`len`](Self::len): where per-route state of a worker stands.
    pub fn position(&self, host: usize, route: usize) -> Option<usize> {
        self.first.get(host).map(|first| first.saturating_add(route))
    }

    /// How many routes there are in all virtual hosts.
    pub fn len(&self) -> usize {
        self.total
    }

    /// Whether there is no route at all.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }
}

/// The host alone. An IPv6 address keeps its brackets.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') => host,
        Some(_) | None => authority,
    }
}

#[cfg(test)]
mod tests;
