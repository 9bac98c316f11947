//! Where a request would go, by which rule, and why not by another: the matcher of live traffic, asked with words.
//!
//! The request is made canonical and matched by the very code that serves, over what the workers run on
//! ([`Holdings::in_force`], the admin page `/explain`) or over what would be made of rules ([`Holdings::compiled`],
//! `leno explain -f`). What is said is what happens. Nothing is sent and no random number is drawn: weighted
//! destinations are all named, with their shares.

mod tokens;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use leno_config::ir::{
    Action, Discovery, Domain, FilePlace, Forward, HttpManager, Listener, ListenerProtocol, Origin, PathNormalization,
    Resources, RetryPolicy, Route, RouteSource, UnderscoreNames, WeightedCluster,
};
use leno_config::ir::{Direction, VirtualHost};

use crate::error::ProxyError;
use crate::policy::jwt::Claims;
use crate::route::{RequestView, RouteTable, location, rewrite_path, why_not};
use crate::sanitize;
use crate::state::snapshot::Snapshot;

pub use tokens::verified;
pub use verdict::{Access, Lost, Policy, RedirectTo, Retries, Rewrite, RulePlace, Share, Token, Tried, Verdict};

/// What a proxy works by, as far as requests of its own app are concerned.
#[derive(Debug)]
pub struct Holdings<'a> {
    resources: &'a Resources,
    /// The sockets for HTTP toward others, each with its routes.
    sockets: Vec<(&'a HttpManager, Arc<RouteTable>)>,
}

impl<'a> Holdings<'a> {
    /// What the workers run on.
    pub fn in_force(snapshot: &'a Snapshot) -> Self {
        let sockets = outbound(&snapshot.resources).filter_map(|(listener, http)| {
            Some((http, Arc::clone(&snapshot.listeners.get(&listener.name)?.http()?.table)))
        });
        Self { resources: &snapshot.resources, sockets: sockets.collect() }
    }

    /// What workers would run on.
    pub fn compiled(resources: &'a Resources) -> Self {
        let sockets = outbound(resources).filter_map(|(_, http)| {
            let config = match &http.routes {
                RouteSource::Named(name) => resources.routes.get(name)?,
                RouteSource::Inline(config) => config,
            };
            Some((http, Arc::new(RouteTable::new(Arc::clone(config)))))
        });
        Self { resources, sockets: sockets.collect() }
    }

    /// The socket that serves the host: the first that knows it, else the first.
    fn find(&self, authority: &str) -> Option<Found<'_>> {
        let found = |(manager, table): &'_ (&'a HttpManager, Arc<RouteTable>)| {
            let host = table.host(authority)?;
            let is_known = table.config().virtual_hosts.get(host).is_some_and(|host| host.domains != [Domain::Any]);
            Some((*manager, Arc::clone(table), host, is_known))
        };
        let all: Vec<_> = self.sockets.iter().filter_map(found).collect();
        let known = all.iter().find(|(.., is_known)| *is_known).or(all.first());
        known.map(|(manager, table, host, _)| Found { manager, table: Arc::clone(table), host: *host })
    }
}

fn outbound(resources: &Resources) -> impl Iterator<Item = (&Arc<Listener>, &HttpManager)> {
    let listeners = resources.listeners.values().filter(|listener| listener.direction == Direction::Outbound);
    listeners.filter_map(|listener| Some((listener, listener.protocol.http()?)))
}

struct Found<'a> {
    manager: &'a HttpManager,
    table: Arc<RouteTable>,
    host: usize,
}

/// A verdict, and what it was found by.
#[derive(Debug)]
pub struct Explained {
    /// What becomes of the request.
    pub verdict: Verdict,
    /// The request as routes see it.
    pub request: Parts,
    /// What takes it.
    pub route: Option<Route>,
}

impl Explained {
    fn unrouted(request: Parts, verdict: Verdict) -> Self {
        Self { verdict, request, route: None }
    }
}

/// Until it is known which listener takes it.
const RULES: sanitize::Rules = sanitize::Rules {
    path: PathNormalization::BASE,
    underscores: UnderscoreNames::Pass,
    transport: sanitize::Transport::Clear,
};

/// Asks the data plane. `claims`: what a good token of the end user would say.
pub fn explain(holdings: &Holdings<'_>, asked: Parts, claims: Option<&Claims>) -> Explained {
    let mut parts = asked.clone();
    if let Err(error) = sanitize::request(&mut parts, RULES) {
        return Explained::unrouted(asked, refused(&error));
    }
    let Some(found) = holdings.find(sanitize::authority(&parts)) else {
        let note = "the Sidecar rule gives this workload no HTTP socket toward others".to_owned();
        return Explained::unrouted(parts, Verdict { note: Some(note), ..Verdict::default() });
    };
    parts = asked.clone();
    let held = match sanitize::request(&mut parts, sanitize::Rules::of(found.manager, false)) {
        Ok(held) => held,
        Err(error) => return Explained::unrouted(asked, refused(&error)),
    };
    // A bad token is no token here: whoever is called refuses it.
    let claims = verified(&found.manager.jwt, claims).ok().flatten();
    let request = RequestView { claims, ..view(&parts) };
    let Found { table, host, .. } = &found;
    let asked = Asked { resources: holdings.resources, table, host: *host, request };
    let (verdict, route) = asked.verdict();
    let route = route.cloned();
    let doubtful = route.as_ref().map_or(held, |route| held.shared(route.refused_in_path));
    if route.is_some() && !doubtful.is_empty() {
        return Explained { verdict: refused(&sanitize::refused_in_path(doubtful)), request: parts, route };
    }
    Explained { verdict, request: parts, route }
}

/// A canonical request, as routes look at it; without a token.
pub fn view(parts: &Parts) -> RequestView<'_> {
    RequestView {
        method: &parts.method,
        scheme: "http",
        authority: sanitize::authority(parts),
        path: parts.uri.path(),
        query: parts.uri.query(),
        headers: &parts.headers,
        claims: None,
    }
}

fn refused(error: &ProxyError) -> Verdict {
    let reply = error.reply();
    let note = format!("{} ({error})", reply.flag);
    Verdict { status: Some(reply.status.as_u16()), note: Some(note), ..Verdict::default() }
}

/// A request before the route table that it came to.
struct Asked<'a> {
    resources: &'a Resources,
    table: &'a RouteTable,
    host: usize,
    request: RequestView<'a>,
}

impl<'a> Asked<'a> {
    fn verdict(&self) -> (Verdict, Option<&'a Route>) {
        let host = self.table.config().virtual_hosts.get(self.host);
        let routes = host.map(|host| host.routes.as_slice()).unwrap_or_default();
        let winner = self.table.find(self.host, &self.request);
        let before = routes.get(..winner.unwrap_or(routes.len())).unwrap_or_default();
        let mut verdict = Verdict {
            host: host.map(|host| host.name.clone()),
            lost: before.iter().filter_map(|route| self.lost(route)).collect(),
            ..Verdict::default()
        };
        let Some(route) = winner.and_then(|winner| routes.get(winner)) else {
            verdict.status = Some(404);
            verdict.note = Some("NR: no rule of this host takes the request, and none is the last resort".to_owned());
            return (verdict, None);
        };
        if let Some(origin) = &route.origin {
            add_uncompiled(origin, &mut verdict.lost);
        }
        verdict.rule = route.origin.as_ref().map(RulePlace::from);
        verdict.route = Some(route.name.clone()).filter(|name| !name.is_empty());
        verdict.policy = Policy {
            cors: route.cors.clone(),
            fault: route.fault.clone(),
            request_headers: route.request_headers.clone(),
            response_headers: route.response_headers.clone(),
            ..Policy::default()
        };
        self.act(route, &mut verdict);
        if verdict.note.is_none() && host.is_some_and(|host| host.domains == [Domain::Any]) {
            verdict.note = Some(self.hint());
        }
        (verdict, Some(route))
    }

    fn lost(&self, route: &Route) -> Option<Lost> {
        let reason = why_not(route, &self.request)?;
        Some(Lost { rule: RulePlace::from(route.origin.as_ref()?), reason })
    }

    fn act(&self, route: &Route, verdict: &mut Verdict) {
        match &route.action {
            Action::Forward(forward) => self.forward(route, forward, verdict),
            Action::Redirect(redirect) => {
                let status = redirect.status.as_u16();
                verdict.status = Some(status);
                let location = location(redirect, &route.matcher.path, &self.request);
                verdict.redirect = Some(RedirectTo { status, location });
            }
            Action::Direct(direct) => {
                verdict.status = Some(direct.status.as_u16());
                let body = String::from_utf8_lossy(&direct.body);
                verdict.note = Some(match body.is_empty() {
                    true => "answered by the proxy without a body".to_owned(),
                    false => format!("answered by the proxy: {body}"),
                });
            }
        }
    }

    fn forward(&self, route: &Route, forward: &Forward, verdict: &mut Verdict) {
        let total = forward.clusters.total();
        verdict.clusters = forward.clusters.as_slice().iter().map(|cluster| self.share(cluster, total)).collect();
        if let Some(lost) = verdict.clusters.iter().find(|share| !share.known) {
            let error = ProxyError::NoCluster(lost.name.clone());
            verdict.note = Some(format!("{} {} ({error})", error.reply().status.as_u16(), error.reply().flag));
            if verdict.clusters.iter().all(|share| !share.known) {
                verdict.status = Some(error.reply().status.as_u16());
            }
        }
        let single = match forward.clusters.as_slice() {
            [only] => only.host_rewrite.clone(),
            _ => None,
        };
        let path = forward.path_rewrite.as_ref();
        let path = path.map(|new| rewrite_path(new, &route.matcher.path, self.request.path, self.request.query));
        let host = forward.host_rewrite.clone().or(single);
        verdict.rewrite = (path.is_some() || host.is_some()).then_some(Rewrite { path, host });
        verdict.timeout = forward.timeout.map(words);
        verdict.retries = Some(retries(forward.retry.as_ref()));
        verdict.policy.mirrors.clone_from(&forward.mirrors);
        verdict.policy.hash.clone_from(&forward.hash);
    }

    fn share(&self, weighted: &WeightedCluster, total: u32) -> Share {
        let cluster = self.resources.clusters.get(&weighted.cluster);
        let endpoints = cluster.and_then(|cluster| match &cluster.discovery {
            Discovery::Eds { service } => {
                let name = service.as_deref().unwrap_or(weighted.cluster.as_str());
                self.resources.endpoints.get(name).map(|found| found.iter().count())
            }
            Discovery::Static(found) | Discovery::Dns(found) => Some(found.iter().count()),
            Discovery::OriginalDestination | Discovery::RequestHost => None,
        });
        Share {
            name: weighted.cluster.to_string(),
            weight: weighted.weight,
            percent: f64::from(weighted.weight) * 100.0 / f64::from(total.max(1)),
            endpoints,
            balance: cluster.map(|cluster| cluster.balance.clone()),
            known: cluster.is_some(),
            request_headers: weighted.request_headers.clone(),
            response_headers: weighted.response_headers.clone(),
        }
    }

    /// Why a host that nobody serves might have been meant otherwise.
    fn hint(&self) -> String {
        let (bare, port) = match self.request.authority.rsplit_once(':') {
            Some((bare, port)) => (bare, port.parse::<u16>().ok()),
            None => (self.request.authority, None),
        };
        let is_tcp = |listener: &&Arc<Listener>| {
            matches!(listener.protocol, ListenerProtocol::Tcp(_)) && Some(listener.address.port()) == port
        };
        if let Some(listener) = self.resources.listeners.values().find(is_tcp) {
            let (port, address) = (listener.address.port(), listener.address);
            return format!("port {port} is TCP: clients connect to {address} and no HTTP is looked at");
        }
        let ports = ports_of(&self.table.config().virtual_hosts, bare);
        match ports.as_slice() {
            [] => "no service or VirtualService has this host".to_owned(),
            ports => format!("`{bare}` is served on port {}, not on this one", ports.join(" and ")),
        }
    }
}

/// On which ports a host is served.
fn ports_of<'h>(hosts: &'h [VirtualHost], bare: &str) -> Vec<&'h str> {
    let domains = hosts.iter().flat_map(|host| &host.domains).filter_map(|domain| match domain {
        Domain::Exact(domain) => domain.rsplit_once(':'),
        Domain::Suffix(_) | Domain::Prefix(_) | Domain::Any => None,
    });
    domains.filter(|(host, _)| host.eq_ignore_ascii_case(bare)).map(|(_, port)| port).collect()
}

/// Rules before the winner that are not in the table, because they are not for this proxy.
fn add_uncompiled(winner: &Origin, lost: &mut Vec<Lost>) {
    let same = |rule: &Origin| Origin { index: winner.index, ..rule.clone() } == *winner;
    if !lost.iter().all(|lost| same(&lost.rule.origin)) {
        return;
    }
    let missing: Vec<_> =
        (0..winner.index).filter(|index| lost.iter().all(|lost| lost.rule.origin.index != *index)).collect();
    let reason = "does not hold for this workload or port (sourceLabels, sourceNamespace, gateways, port)";
    lost.extend(missing.into_iter().map(|index| Lost {
        rule: RulePlace::from(&Origin { index, place: FilePlace::default(), ..winner.clone() }),
        reason: reason.to_owned(),
    }));
    lost.sort_by_key(|lost| lost.rule.origin.index);
}

fn retries(policy: Option<&RetryPolicy>) -> Retries {
    let Some(policy) = policy else {
        return Retries {
            enforced: true,
            attempts: 0,
            on: Vec::new(),
            status_codes: Vec::new(),
            per_try_timeout: None,
        };
    };
    Retries {
        enforced: true,
        attempts: policy.attempts,
        on: policy.on.iter().map(|on| on.as_str().to_owned()).collect(),
        status_codes: policy.status_codes.iter().copied().collect(),
        per_try_timeout: policy.per_try_timeout.map(words),
    }
}

/// `1.5s`, `250ms`
pub fn words(duration: Duration) -> String {
    format!("{duration:?}")
}
