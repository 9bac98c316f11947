//! Policies at work: what a listener asks of its callers, what is counted, and what is said of it.
//!
//! Order as in Istio's chain of filters: tokens, then authorization, and only then what answers or routes a request. A
//! route that has an authorization of its own (Envoy's `RBACPerRoute`) replaces the listener's, so the route is looked up
//! before; nothing of it takes effect yet. A listener without policies costs two comparisons.

use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use http::request::Parts;
use leno_config::ir::{Authorization, RbacAction, Route};

use crate::downstream::Connection;
use crate::error::ProxyError;
use crate::route::RequestView;
use crate::sanitize;
use crate::state::snapshot::{Handler, HttpHandler};
use crate::telemetry::{WorkerStats, add};
use crate::worker::ListenerView;

use super::authorization::{Caller, Decision, Denial, Possible, Verdict, check, may_ever};
use super::fault::Waiting;
use super::jwt::{Refusal, TokenCache, Verified};

/// Longest address in `www-authenticate` (Envoy).
const MAX_REALM: usize = 256;

/// What a worker remembers for its policies.
#[derive(Debug, Default)]
pub struct Memory {
    tokens: TokenCache,
    waiting: Waiting,
}

impl Memory {
    /// The requests that are delayed on purpose.
    pub(super) fn waiting(&self) -> &Waiting {
        &self.waiting
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

/// Lets a request pass, or says why not. Dry runs and audits are counted and logged.
pub fn authorize(
    connection: &Connection,
    view: &ListenerView,
    route: Option<&Route>,
    request: &RequestView<'_>,
) -> Result<(), ProxyError> {
    let listener = &view.listener.config;
    let rules = route.and_then(|route| route.authorization.as_ref()).unwrap_or(&listener.authorization);
    if rules.0.is_empty() {
        return Ok(());
    }
    match decide(connection, &listener.name, rules, Some(request)) {
        Verdict::Allowed(_) => Ok(()),
        Verdict::Denied(denial) => Err(ProxyError::Denied(denial.action)),
    }
}

/// Whether a TCP connection may go on.
pub fn admit(connection: &Connection) -> bool {
    let view = connection.listener.view();
    let listener = &view.listener.config;
    let rules = &listener.authorization;
    rules.0.is_empty() || decide(connection, &listener.name, rules, None).is_allowed()
}

/// Whether a connection that was let in may stay, and whether one that is about to be would: some request of its caller
/// could pass. Neither counted nor logged.
pub fn may_stay(connection: &Connection, view: &ListenerView) -> bool {
    let (rules, caller) = (&view.listener.config.authorization, caller(connection));
    let possible = |rules: &Authorization| may_ever(rules, &caller) != Possible::No;
    match &view.listener.handler {
        Handler::Tcp(_) => check(rules, &caller, None).verdict.is_allowed(),
        Handler::Http(http) => {
            let hosts = &http.table.config().virtual_hosts;
            let mut own = hosts.iter().flat_map(|host| &host.routes).filter_map(|route| route.authorization.as_ref());
            possible(rules) || own.any(possible)
        }
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
            Some(RequestView { method, authority, path, .. }) => {
                tracing::info!(policy, action, identity, %peer, %local, listener, %method, authority, path, "{what}");
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
