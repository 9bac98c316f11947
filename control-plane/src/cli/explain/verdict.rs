//! What becomes of a request, in the shape of `leno explain -o json`.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use leno_config::compile::compile;
use leno_config::ir::{
    Action, Balance, Cors, Direction, Discovery, Domain, Fault, Forward, HashPolicy, HeaderOps, HttpManager, Listener,
    ListenerProtocol, Mirror, Origin, PathNormalization, Resources, RetryPolicy, Route, RouteSource, WeightedCluster,
};
use leno_config::mesh::Mesh;
use leno_config::node::Node;
use leno_proxy::error::ProxyError;
use leno_proxy::route::{RequestView, RouteTable, location, rewrite_path, why_not};
use leno_proxy::sanitize;
use serde::Serialize;

use super::access::{Access, Credentials, Question, forwarded, verified};

/// What becomes of a request.
#[derive(Debug, Default, Serialize)]
pub(super) struct Verdict {
    /// Of a local reply; `None`: the answer comes from elsewhere.
    pub(super) status: Option<u16>,
    /// Why there is a local reply, or what else there is to say.
    pub(super) note: Option<String>,
    /// The virtual host that the request is for.
    pub(super) host: Option<String>,
    /// The rule that takes it; `None`: no person wrote one.
    pub(super) rule: Option<RulePlace>,
    /// The route's name.
    pub(super) route: Option<String>,
    pub(super) clusters: Vec<Share>,
    pub(super) rewrite: Option<Rewrite>,
    pub(super) redirect: Option<RedirectTo>,
    /// For the whole request.
    pub(super) timeout: Option<String>,
    /// `None`: the rule says nothing of them.
    pub(super) retries: Option<Retries>,
    pub(super) policy: Policy,
    /// The rules that were asked before, in order.
    pub(super) lost: Vec<Lost>,
}

/// A rule and where it stands.
#[derive(Debug, Clone, Serialize)]
pub(super) struct RulePlace {
    #[serde(flatten)]
    pub(super) origin: Origin,
    pub(super) file: Option<Arc<str>>,
    pub(super) line: Option<u32>,
}

/// A part of the requests.
#[derive(Debug, Serialize)]
pub(super) struct Share {
    pub(super) name: String,
    pub(super) weight: u32,
    pub(super) percent: f64,
    /// How many are written down; `None`: found in another way, or there is no such cluster.
    pub(super) endpoints: Option<usize>,
    /// How one of them is chosen; `None`: there is no such cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) balance: Option<Balance>,
    /// Whether there is such a cluster.
    pub(super) known: bool,
    #[serde(skip_serializing_if = "HeaderOps::is_empty")]
    pub(super) request_headers: HeaderOps,
    #[serde(skip_serializing_if = "HeaderOps::is_empty")]
    pub(super) response_headers: HeaderOps,
}

/// What the path and host become.
#[derive(Debug, Serialize)]
pub(super) struct Rewrite {
    pub(super) path: Option<String>,
    pub(super) host: Option<String>,
}

/// An answer with a `location`.
#[derive(Debug, Serialize)]
pub(super) struct RedirectTo {
    pub(super) status: u16,
    pub(super) location: String,
}

/// When the request is tried again, as the rule says.
#[derive(Debug, Serialize)]
pub(super) struct Retries {
    /// Whether the data plane does so. It sends again what was provably not sent, and nothing else.
    pub(super) enforced: bool,
    /// 0: never.
    pub(super) attempts: u32,
    pub(super) on: Vec<&'static str>,
    pub(super) status_codes: Vec<u16>,
    pub(super) per_try_timeout: Option<String>,
}

/// What else is done to the request.
#[derive(Debug, Default, Serialize)]
pub(super) struct Policy {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cors: Option<Cors>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fault: Option<Fault>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) mirrors: Vec<Mirror>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) hash: Vec<HashPolicy>,
    #[serde(skip_serializing_if = "HeaderOps::is_empty")]
    pub(super) request_headers: HeaderOps,
    #[serde(skip_serializing_if = "HeaderOps::is_empty")]
    pub(super) response_headers: HeaderOps,
    /// What the workloads say that the request may go to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) access: Vec<Access>,
}

impl RulePlace {
    /// Looks up where a rule stands.
    pub(super) fn of(mesh: &Mesh, origin: &Origin) -> Self {
        let place = mesh.place_of(origin);
        let line = place.as_ref().map(|place| place.line);
        Self { origin: origin.clone(), line, file: place.map(|place| place.file) }
    }
}

/// A rule that did not take the request.
#[derive(Debug, Serialize)]
pub(super) struct Lost {
    #[serde(flatten)]
    pub(super) rule: RulePlace,
    pub(super) reason: String,
}

impl Verdict {
    /// Asks the data plane.
    pub(super) fn of(mesh: &Mesh, node: &Node, credentials: &Credentials, mut parts: Parts) -> Self {
        if let Err(error) = sanitize::request(&mut parts, PathNormalization::BASE) {
            return Self::default().refused(&error);
        }
        let resources = compile(mesh, node);
        let Some(found) = find_host(&resources, sanitize::authority(&parts)) else {
            let note = "the Sidecar rule gives this workload no HTTP socket toward others".to_owned();
            return Self { note: Some(note), ..Self::default() };
        };
        let request = RequestView {
            method: &parts.method,
            scheme: "http",
            authority: sanitize::authority(&parts),
            path: parts.uri.path(),
            query: parts.uri.query(),
            headers: &parts.headers,
            // A bad token is no token here: whoever is called refuses it.
            claims: verified(&found.manager.jwt, credentials.claims.as_ref()).ok().flatten(),
        };
        let Found { table, host, .. } = &found;
        Asked { mesh, node, credentials, resources: &resources, table, host: *host, request }.verdict()
    }

    fn refused(mut self, error: &ProxyError) -> Self {
        let reply = error.reply();
        self.status = Some(reply.status.as_u16());
        self.note = Some(format!("{} ({error})", reply.flag));
        self
    }
}

/// A socket that serves a host.
struct Found<'a> {
    manager: &'a HttpManager,
    table: RouteTable,
    host: usize,
}

/// The table of the socket that serves the host: the first that knows it, else the first.
fn find_host<'a>(resources: &'a Resources, authority: &str) -> Option<Found<'a>> {
    let mut first = None;
    for listener in resources.listeners.values().filter(|listener| listener.direction == Direction::Outbound) {
        let ListenerProtocol::Http(http) = &listener.protocol else { continue };
        let config = match &http.routes {
            RouteSource::Named(name) => resources.routes.get(name),
            RouteSource::Inline(config) => Some(config),
        };
        let Some(config) = config else { continue };
        let table = RouteTable::new(Arc::clone(config));
        let Some(host) = table.host(authority) else { continue };
        let is_known = config.virtual_hosts.get(host).is_some_and(|host| host.domains != [Domain::Any]);
        let found = Found { manager: http, table, host };
        if is_known {
            return Some(found);
        }
        first.get_or_insert(found);
    }
    first
}

/// A request before the route table that it came to.
struct Asked<'a> {
    mesh: &'a Mesh,
    node: &'a Node,
    credentials: &'a Credentials,
    resources: &'a Resources,
    table: &'a RouteTable,
    host: usize,
    request: RequestView<'a>,
}

impl Asked<'_> {
    fn verdict(&self) -> Verdict {
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
            return verdict;
        };
        if let Some(origin) = &route.origin {
            self.add_uncompiled(origin, &mut verdict.lost);
        }
        verdict.rule = route.origin.as_ref().map(|origin| self.place(origin));
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
        verdict
    }

    fn place(&self, origin: &Origin) -> RulePlace {
        RulePlace::of(self.mesh, origin)
    }

    fn lost(&self, route: &Route) -> Option<Lost> {
        let reason = why_not(route, &self.request)?;
        Some(Lost { rule: self.place(route.origin.as_ref()?), reason })
    }

    /// Rules before the winner that are not in the table, because they are not for this proxy.
    fn add_uncompiled(&self, winner: &Origin, lost: &mut Vec<Lost>) {
        let same = |rule: &Origin| Origin { index: winner.index, ..rule.clone() } == *winner;
        if !lost.iter().all(|lost| same(&lost.rule.origin)) {
            return;
        }
        let missing: Vec<_> =
            (0..winner.index).filter(|index| lost.iter().all(|lost| lost.rule.origin.index != *index)).collect();
        let reason = "does not hold for this workload or port (sourceLabels, sourceNamespace, gateways, port)";
        lost.extend(
            missing
                .into_iter()
                .map(|index| Lost { rule: self.place(&Origin { index, ..winner.clone() }), reason: reason.to_owned() }),
        );
        lost.sort_by_key(|lost| lost.rule.origin.index);
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
        self.ask(route, forward, (path.as_deref(), host.as_deref()), verdict);
        verdict.rewrite = (path.is_some() || host.is_some()).then_some(Rewrite { path, host });
        verdict.timeout = forward.timeout.map(words);
        verdict.retries = self.says_retries(route).then(|| retries(forward.retry.as_ref()));
        verdict.policy.mirrors.clone_from(&forward.mirrors);
        verdict.policy.hash.clone_from(&forward.hash);
    }

    /// Asks the workloads that the request may go to. Where all of them refuse it, that is the answer.
    fn ask(&self, route: &Route, forward: &Forward, rewrite: (Option<&str>, Option<&str>), verdict: &mut Verdict) {
        let (path, query) = match rewrite.0 {
            Some(new) => new.split_once('?').map_or((new, None), |(path, query)| (path, Some(query))),
            None => (self.request.path, self.request.query),
        };
        for share in forward.clusters.as_slice() {
            let headers = forwarded(self.request.headers, &share.request_headers, &route.request_headers);
            let authority = rewrite.1.unwrap_or(self.request.authority);
            let request = RequestView { path, query, authority, headers: &headers, claims: None, ..self.request };
            let Self { mesh, resources, node, credentials, .. } = *self;
            let question = Question { mesh, resources, node, credentials, request };
            for answer in question.ask(share.cluster.as_str()) {
                if verdict.policy.access.iter().all(|known| !known.is_same(&answer)) {
                    verdict.policy.access.push(answer);
                }
            }
        }
        let access = &verdict.policy.access;
        if verdict.status.is_none() && !access.is_empty() && access.iter().all(|answer| !answer.allowed) {
            verdict.status = access.first().and_then(|answer| answer.status);
        }
    }

    /// Whether the rule writes retries: else there are the mesh's, of which there is nothing to say.
    fn says_retries(&self, route: &Route) -> bool {
        let rules = route.origin.iter().flat_map(|origin| self.mesh.http_rules(origin));
        rules.into_iter().any(|rule| rule.retries.is_some())
    }

    fn share(&self, weighted: &WeightedCluster, total: u32) -> Share {
        let cluster = self.resources.clusters.get(&weighted.cluster);
        let endpoints = cluster.and_then(|cluster| match &cluster.discovery {
            Discovery::Eds { .. } => self.resources.endpoints.get(&weighted.cluster).map(|found| found.iter().count()),
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
        let hosts = &self.table.config().virtual_hosts;
        let domains = hosts.iter().flat_map(|host| &host.domains).filter_map(|domain| match domain {
            Domain::Exact(domain) => domain.rsplit_once(':'),
            Domain::Suffix(_) | Domain::Prefix(_) | Domain::Any => None,
        });
        let ports: Vec<_> = domains.filter(|(host, _)| host.eq_ignore_ascii_case(bare)).map(|(_, port)| port).collect();
        match ports.as_slice() {
            [] => "no service or VirtualService has this host".to_owned(),
            ports => format!("`{bare}` is served on port {}, not on this one", ports.join(" and ")),
        }
    }
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
        enforced: false,
        attempts: policy.attempts,
        on: policy.on.iter().map(|on| on.as_str()).collect(),
        status_codes: policy.status_codes.iter().copied().collect(),
        per_try_timeout: policy.per_try_timeout.map(words),
    }
}

/// `1.5s`, `250ms`
pub(super) fn words(duration: Duration) -> String {
    format!("{duration:?}")
}
