//! Whether a connection that was let in would still be, and its open requests with it.
//!
//! Asked again when a listener's rules change, and when roots or revocations do. Who is no longer allowed anything is cut
//! off, with streams in the middle; who is allowed something else loses the requests that are not. Whose root has merely
//! been replaced finishes what it does: its certificate was good when the connection began, and a rotation must not cost
//! a request.

use std::sync::Arc;

use leno_config::ir::{JwtAuthentication, MtlsMode, RouteConfig};

use crate::policy::enforce;
use crate::state::snapshot::{HttpHandler, Listener};
use crate::tls::verify::PeerError;

use super::Connection;

/// Whether the same caller could fare differently.
pub fn differs(old: &Listener, new: &Listener) -> bool {
    old.config.mtls != new.config.mtls
        || old.config.tls != new.config.tls
        || old.config.authorization != new.config.authorization
        || old.authorization_of_bytes() != new.authorization_of_bytes()
        || requests_differ(old.http(), new.http())
}

/// Which route a request takes matters only where routes have an authorization of their own.
fn requests_differ(old: Option<&HttpHandler>, new: Option<&HttpHandler>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => {
            let (one, other) = (old.table.config(), new.table.config());
            token_rules(old) != token_rules(new)
                || ((has_own_rules(one) || has_own_rules(other)) && !Arc::ptr_eq(one, other) && one != other)
        }
        (None, None) => false,
        (Some(_), None) | (None, Some(_)) => true,
    }
}

fn token_rules(http: &HttpHandler) -> Option<&JwtAuthentication> {
    http.authenticator.as_ref().map(|authenticator| authenticator.source())
}

fn has_own_rules(routes: &RouteConfig) -> bool {
    routes.virtual_hosts.iter().flat_map(|host| &host.routes).any(|route| route.authorization.is_some())
}

/// Ends the connection if its caller would no longer be let in, and else those of its requests that would not be.
pub fn review(connection: &Connection) {
    let view = connection.listener.view();
    let config = &view.listener.config;
    if !enforce::may_stay(connection, &view) {
        return cut(connection, "its caller is no longer allowed by the authorization policies");
    }
    if connection.peer.is_none() && connection.tls != config.tls {
        return cut(connection, "its listener ends TLS in another way now");
    }
    enforce::review(connection, &view);
    if connection.endpoint.get().is_some_and(|endpoint| connection.worker.tls.has_revoked_server(endpoint)) {
        return cut(connection, "the certificate of the endpoint it leads to has been revoked");
    }
    match &connection.peer {
        None if config.mtls == MtlsMode::Strict => cut(connection, "this listener demands mTLS now (STRICT)"),
        None => {}
        Some(peer) => match connection.worker.tls.still_accepts_caller(peer) {
            Ok(()) => {}
            Err(PeerError::Chain(webpki::Error::CertRevoked)) => cut(connection, "its certificate has been revoked"),
            Err(_) => connection.life.leave(),
        },
    }
}

fn cut(connection: &Connection, reason: &str) {
    let listener = &connection.listener.view().listener.config.name;
    if connection.worker.quiet.allows() {
        tracing::info!(%listener, peer = %connection.caller, "ended a connection: {reason}");
    }
    connection.life.cut();
}

#[cfg(test)]
mod tests {
    use leno_config::ir::{
        self, Action, Authorization, DirectResponse, HeaderOps, JwtRequirement, JwtRule, RbacAction, RbacFilter, Route,
        RouteMatch, VirtualHost,
    };

    use crate::policy::jwt::FetchedKeys;
    use crate::state::snapshot::{Resolved, Snapshot};

    use super::*;

    fn denial() -> Authorization {
        Authorization(vec![RbacFilter {
            action: RbacAction::Allow,
            enforced: true,
            policies: Vec::new(),
            shadow: None,
        }])
    }

    fn route(name: &str, authorization: Option<Authorization>) -> Route {
        Route {
            name: name.to_owned(),
            origin: None,
            matcher: RouteMatch::any(),
            action: Action::Direct(DirectResponse { status: http::StatusCode::OK, body: Vec::new() }),
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
            cors: None,
            fault: None,
            authorization,
            refused_in_path: ir::Separators::NONE,
        }
    }

    /// A listener with one route, refined by `edit`.
    fn listener(route: Route, edit: impl FnOnce(&mut ir::Listener, &mut ir::HttpManager)) -> Arc<Listener> {
        let domains = vec![ir::Domain::parse("*").unwrap()];
        let host =
            VirtualHost { name: "all".to_owned(), domains, routes: vec![route], attempt_count: Default::default() };
        let mut manager = ir::HttpManager {
            stat_prefix: String::new(),
            routes: ir::RouteSource::Inline(Arc::new(RouteConfig::new("inline", vec![host]).unwrap())),
            upgrades: Vec::new(),
            path: ir::PathNormalization::BASE,
            underscores: ir::UnderscoreNames::Pass,
            jwt: JwtAuthentication::default(),
            rate_limits: Vec::new(),
            streams: Default::default(),
            tracing: None,
        };
        let bytes = ir::ListenerProtocol::Http(manager.clone());
        let (address, direction) = ("127.0.0.1:15006".parse().unwrap(), ir::Direction::Inbound);
        let mut listener = ir::Listener::new("in".to_owned(), address, direction, bytes);
        edit(&mut listener, &mut manager);
        listener.protocol = ir::ListenerProtocol::Http(manager);
        let mut resources = ir::Resources::default();
        resources.listeners.insert("in".to_owned(), Arc::new(listener));
        let built = Snapshot::build(&Snapshot::default(), Arc::new(resources), &Resolved::new(), &FetchedKeys::new());
        Arc::clone(&built.listeners["in"])
    }

    #[test]
    fn what_callers_may_do_differs_with_certificates_policies_tokens_and_the_rules_of_routes() {
        let plain = || listener(route("a", None), |_, _| {});
        let own = || listener(route("a", Some(denial())), |_, _| {});
        let rows = [
            ("nothing", plain(), plain(), false),
            ("a route without rules", plain(), listener(route("b", None), |_, _| {}), false),
            ("nothing, with rules", own(), own(), false),
            ("a route gets rules", plain(), own(), true),
            ("a route loses its rules", own(), plain(), true),
            ("which route has them", own(), listener(route("b", Some(denial())), |_, _| {}), true),
            ("mTLS", plain(), listener(route("a", None), |new, _| new.mtls = MtlsMode::Strict), true),
            ("a policy", plain(), listener(route("a", None), |new, _| new.authorization = denial()), true),
            (
                "tokens",
                plain(),
                listener(route("a", None), |_, new| {
                    let rule = JwtRule { matcher: RouteMatch::any(), requirement: JwtRequirement::AllowMissing };
                    new.jwt.rules.push(rule);
                }),
                true,
            ),
        ];
        for (what, old, new, expected) in rows {
            assert_eq!(differs(&old, &new), expected, "{what}");
        }
    }
}
