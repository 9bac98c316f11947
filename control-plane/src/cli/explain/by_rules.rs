//! What would become of a request by these rules: compiled as the control plane compiles them, asked as the proxy asks them.

use http::request::Parts;
use leno_config::compile::compile;
use leno_config::ir::{Action, Forward, Origin, Resources, Route};
use leno_config::mesh::Mesh;
use leno_config::node::Node;
use leno_proxy::explain::{Access, Explained, Holdings, RulePlace, Verdict, explain, view};
use leno_proxy::route::RequestView;

use super::access::{Credentials, Question, forwarded};

/// Asks the data plane what it would do, and the workloads that the request may go to whether they let it in.
pub(super) fn verdict(mesh: &Mesh, node: &Node, credentials: &Credentials, request: Parts) -> Verdict {
    let resources = compile(mesh, node);
    let found = explain(&Holdings::compiled(&resources), request, credentials.claims.as_ref());
    let Explained { mut verdict, request, route } = found;
    if let Some(route) = &route {
        // Else there are the mesh's, of which there is nothing to say.
        verdict.retries = verdict.retries.filter(|_| says_retries(mesh, route));
        if let Action::Forward(forward) = &route.action {
            let asked = Asked { mesh, node, credentials, resources: &resources, request: view(&request) };
            asked.ask(route, forward, &mut verdict);
        }
    }
    put_places(mesh, &mut verdict);
    verdict
}

/// A rule, and where it stands.
pub(super) fn place(mesh: &Mesh, origin: &Origin) -> RulePlace {
    let place = mesh.place_of(origin);
    let line = place.as_ref().map(|place| place.line);
    RulePlace { origin: origin.clone(), line, file: place.map(|place| place.file) }
}

/// Says of the winner and the losers where they stand.
pub(super) fn put_places(mesh: &Mesh, verdict: &mut Verdict) {
    let losers = verdict.lost.iter_mut().map(|lost| &mut lost.rule);
    for rule in verdict.rule.iter_mut().chain(losers) {
        *rule = place(mesh, &rule.origin);
    }
}

/// Whether the rule writes retries.
fn says_retries(mesh: &Mesh, route: &Route) -> bool {
    let rules = route.origin.iter().flat_map(|origin| mesh.http_rules(origin));
    rules.into_iter().any(|rule| rule.retries.is_some())
}

/// A request that goes on to others.
struct Asked<'a> {
    mesh: &'a Mesh,
    node: &'a Node,
    credentials: &'a Credentials,
    resources: &'a Resources,
    request: RequestView<'a>,
}

impl Asked<'_> {
    /// Asks the workloads that the request may go to. Where all of them refuse it, that is the answer.
    fn ask(&self, route: &Route, forward: &Forward, verdict: &mut Verdict) {
        let rewrite = verdict.rewrite.as_ref();
        let (path, query) = match rewrite.and_then(|rewrite| rewrite.path.as_deref()) {
            Some(new) => new.split_once('?').map_or((new, None), |(path, query)| (path, Some(query))),
            None => (self.request.path, self.request.query),
        };
        let authority = rewrite.and_then(|rewrite| rewrite.host.as_deref()).unwrap_or(self.request.authority);
        let mut access: Vec<Access> = Vec::new();
        for share in forward.clusters.as_slice() {
            let headers = forwarded(self.request.headers, &share.request_headers, &route.request_headers);
            let request = RequestView { path, query, authority, headers: &headers, claims: None, ..self.request };
            let Self { mesh, resources, node, credentials, .. } = *self;
            let question = Question { mesh, resources, node, credentials, request };
            for answer in question.ask(share.cluster.as_str()) {
                if access.iter().all(|known| !known.is_same(&answer)) {
                    access.push(answer);
                }
            }
        }
        if verdict.status.is_none() && !access.is_empty() && access.iter().all(|answer| !answer.allowed) {
            verdict.status = access.first().and_then(|answer| answer.status);
        }
        verdict.policy.access = access;
    }
}
