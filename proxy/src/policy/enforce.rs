//! Policies at work: what a listener asks of its callers, what is counted, and what is said of it.
//!
//! Order as in Istio's chain of filters: tokens, then authorization, and only then what answers or routes a request. A
//! route that has an authorization of its own (Envoy's `RBACPerRoute`) replaces the listener's, so the route is looked up
//! before; nothing of it takes effect yet. A listener without policies costs two comparisons.

use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use http::request::Parts;
use leno_config::ir::{Authorization, Direction, RbacAction, Route};

use crate::downstream::{Carries, Connection};
use crate::error::ProxyError;
use crate::request::{find, look};
use crate::route::RequestView;
use crate::sanitize;
use crate::state::snapshot::HttpHandler;
use crate::telemetry::{WorkerStats, add};
use crate::worker::{ListenerView, Worker};

use super::authorization::{Caller, Decision, Denial, Possible, Verdict, check, may_ever};
use super::fault::Waiting;
use super::grant::Grant;
use super::jwt::{Claims, Refusal, TokenCache, Verified};
use super::mirror::Copies;

/// Longest address in `www-authenticate` (Envoy).
const MAX_REALM: usize = 256;

/// What a worker remembers for its policies.
#[derive(Debug, Default)]
pub struct Memory {
    tokens: TokenCache,
    waiting: Waiting,
    copies: Copies,
}

impl Memory {
    /// The requests that are delayed on purpose.
    pub(super) fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// The copies of requests that are under way.
    pub(super) fn copies(&self) -> &Copies {
        &self.copies
    }
}

/// Looks at the request's token, where the listener wants one. What the token says goes into the request's headers.
pub fn authenticate(
    connection: &Connection,
    http: &HttpHandler,
    parts: &mut Parts,
    look: impl FnOnce(&Parts) -> RequestView<'_>,
) -> Result<Option<Rc<Verified>>, ProxyError> {
    let Some(authenticator) = &http.authenticator else { return Ok(None) };
    let worker = &connection.worker;
    authenticator.authenticate(parts, look, &worker.policy.tokens, SystemTime::now()).map_err(|refusal| match refusal {
        Refusal::Request(error) => error,
        Refusal::Token(reason) => {
            add(&worker.stats.tokens_refused, 1);
            let realm = realm(parts);
            worker.quiet.spend(|| {
                let (path, peer) = (parts.uri.path(), connection.caller);
                tracing::info!(%peer, method = %parts.method, path, reason = reason.as_str(), "refused a token");
            });
            ProxyError::Token { reason, realm }
        }
    })
}

/// Lets a request pass, or says why not. Dry runs and audits are counted and logged. What is let in is remembered, to be
/// asked about again when policies change; where there are none, only the little that costs next to nothing, and nothing
/// of what the own app calls.
pub fn authorize(
    connection: &Connection,
    view: &ListenerView,
    route: Option<&Route>,
    head: &Parts,
    token: Option<&Rc<Verified>>,
) -> Result<Option<Rc<Grant>>, ProxyError> {
    let listener = &view.listener.config;
    let rules = rules_for(route, view);
    if rules.0.is_empty() && !asks_for_tokens(view) {
        let grant = (listener.direction == Direction::Inbound).then(|| Grant::without_headers(head));
        grant.iter().for_each(|grant| connection.grants.add(grant));
        return Ok(grant);
    }
    let request = look(head, token.map(|token| token.claims()));
    match decide(connection, &listener.name, rules, Some(&request)) {
        Verdict::Allowed(_) => {
            let grant = Grant::new(head, token);
            connection.grants.add(&grant);
            Ok(Some(grant))
        }
        Verdict::Denied(Denial { action, policy }) => Err(ProxyError::Denied { action, policy: policy.map(Box::from) }),
    }
}

/// Asks again about the open requests of a connection, and ends those that would not be let in now. What is asked is what
/// was asked then, but for a token's times: that it expires ends no stream.
pub fn review(connection: &Connection, view: &ListenerView) {
    let Some(http) = view.listener.http() else { return };
    for grant in connection.grants.open() {
        let head = grant.head();
        let request = look(&head, None);
        let token = match http.authenticator.as_ref().map(|it| it.would_take(&request, grant.token())) {
            None => None,
            Some(Ok(token)) => token,
            Some(Err(reason)) => {
                end(connection, &grant, &request, None, reason.as_str());
                continue;
            }
        };
        let request = look(&head, token.map(Verified::claims));
        let route = find(http, &request).and_then(|(host, at)| http.table.route(host, at));
        let decision = check(rules_for(route, view), &caller(connection), Some(&request));
        if let Verdict::Denied(denial) = decision.verdict {
            end(connection, &grant, &request, denial.policy, named(&denial));
        }
    }
}

/// A route's own rules replace those of the listener.
fn rules_for<'a>(route: Option<&'a Route>, view: &'a ListenerView) -> &'a Authorization {
    route.and_then(|route| route.authorization.as_ref()).unwrap_or(&view.listener.config.authorization)
}

fn asks_for_tokens(view: &ListenerView) -> bool {
    view.listener.http().is_some_and(|http| http.authenticator.is_some())
}

fn end(connection: &Connection, grant: &Grant, request: &RequestView<'_>, policy: Option<&str>, action: &str) {
    let Worker { stats, quiet, .. } = &*connection.worker;
    grant.revoke();
    add(&stats.requests_denied, 1);
    quiet.spend(|| {
        let view = connection.listener.view();
        let about = Report { listener: &view.listener.config.name, caller: caller(connection), request: Some(request) };
        about.log(policy, action, "ended a request: the policies have changed and no longer allow it");
    });
}

/// Whether a TCP connection may go on.
pub fn admit(connection: &Connection) -> bool {
    let view = connection.listener.view();
    let listener = &view.listener.config;
    let rules = view.listener.authorization_of_bytes();
    rules.0.is_empty() || decide(connection, &listener.name, rules, None).is_allowed()
}

/// Whether bytes of a caller who is not let in yet would be. Neither counted nor logged.
pub fn may_call(connection: &Connection) -> bool {
    let view = connection.listener.view();
    check(view.listener.authorization_of_bytes(), &caller(connection), None).verdict.is_allowed()
}

/// Whether a connection that was let in may stay: as bytes, or some request of its caller could pass. Neither counted nor
/// logged.
pub fn may_stay(connection: &Connection, view: &ListenerView) -> bool {
    let may_request = || {
        let (rules, caller) = (&view.listener.config.authorization, caller(connection));
        let possible = |rules: &Authorization| may_ever(rules, &caller) != Possible::No;
        let hosts = view.listener.http().map(|http| &http.table.config().virtual_hosts);
        let routes = hosts.into_iter().flatten().flat_map(|host| &host.routes);
        possible(rules) || routes.filter_map(|route| route.authorization.as_ref()).any(possible)
    };
    match connection.carries.get() {
        Carries::Bytes => may_call(connection),
        Carries::Requests => may_request(),
        Carries::Unknown => may_call(connection) || may_request(),
    }
}

/// Who calls, as far as the connection says it.
pub fn caller(connection: &Connection) -> Caller<'_> {
    Caller {
        identity: connection.peer.as_ref().map(|peer| &peer.id),
        direct: connection.caller,
        local: connection.local,
        server_name: connection.server_name.as_deref(),
    }
}

fn decide<'p>(
    connection: &Connection,
    listener: &str,
    rules: &'p Authorization,
    request: Option<&RequestView<'_>>,
) -> Verdict<'p> {
    let caller = caller(connection);
    let decision = check(rules, &caller, request);
    let Decision { verdict, would_deny, audited } = decision;
    if !verdict.is_allowed() || would_deny.is_some() || audited.is_some() {
        report(connection, &Report { listener, caller, request }, &decision);
    }
    verdict
}

/// What a line in the log says of a request or connection.
struct Report<'a> {
    listener: &'a str,
    caller: Caller<'a>,
    request: Option<&'a RequestView<'a>>,
}

/// Counts and logs what a policy did, or would have done.
#[cold]
fn report(connection: &Connection, about: &Report<'_>, decision: &Decision<'_>) {
    let (stats, lines) = (&connection.worker.stats, &connection.worker.quiet);
    if let Verdict::Denied(denial) = &decision.verdict {
        add(denied(stats, about.request), 1);
        lines.spend(|| about.log(denial.policy, named(denial), "denied by an authorization policy"));
    }
    if let Some(denial) = &decision.would_deny {
        add(&stats.would_deny, 1);
        lines.spend(|| about.log(denial.policy, named(denial), "an authorization policy in dry run would deny it"));
    }
    if let Some(policy) = decision.audited {
        add(&stats.audited, 1);
        lines.spend(|| about.log(Some(policy), "AUDIT", "audited by an authorization policy"));
    }
}

fn denied<'s>(stats: &'s WorkerStats, request: Option<&RequestView<'_>>) -> &'s AtomicU64 {
    match request {
        Some(_) => &stats.requests_denied,
        None => &stats.connections_denied,
    }
}

/// Istio's name of an action.
fn named(denial: &Denial<'_>) -> &'static str {
    match denial.action {
        RbacAction::Allow => "ALLOW",
        RbacAction::Deny => "DENY",
        RbacAction::Log => "AUDIT",
        RbacAction::Custom => "CUSTOM",
    }
}

impl Report<'_> {
    fn log(&self, policy: Option<&str>, action: &str, what: &str) {
        let Caller { identity, direct, local, .. } = self.caller;
        let policy = policy.unwrap_or("none allows it");
        let identity = identity.map_or("unknown", |identity| identity.as_str());
        let (listener, peer) = (self.listener, direct);
        match self.request {
            Some(RequestView { method, authority, path, claims, .. }) => {
                let principal = claims.and_then(Claims::principal);
                let request_principal = principal.as_deref();
                tracing::info!(
                    policy, action, identity, request_principal, %peer, %local, listener, %method, authority, path, "{what}"
                );
            }
            None => tracing::info!(policy, action, identity, %peer, %local, listener, "{what}"),
        }
    }
}

/// `http://HOST/PATH`, without the query (it may hold a token) and with nothing in it that could end a quoted text.
fn realm(parts: &Parts) -> String {
    let path: String = parts.uri.path().chars().take(MAX_REALM).filter(|one| !matches!(one, '"' | '\\')).collect();
    format!("http://{}{path}", sanitize::authority(parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_ends_where_its_quotes_do_and_shows_no_query() {
        let rows = [("/a?access_token=secret", "http://h/a"), ("/a\"b,evil=\"", "http://h/ab,evil=")];
        for (target, expected) in rows {
            let parts = http::Request::get(target).header("host", "h").body(()).expect(target).into_parts().0;
            assert_eq!(realm(&parts), expected);
        }
    }
}
