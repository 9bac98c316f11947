//! A VirtualService's HTTP rules as rows of a route table.
//!
//! Rules in order; each gives one row per block of conditions that holds for the proxy at all. Nothing is behind a row
//! that takes every request, so expansion ends there.

use crate::ir::{Invalid, Route, RouteMatch};
use crate::mesh::{HttpRule, VirtualService};
use crate::rules::HttpMatchRequest;

use super::http_action::{Context, action};
use super::http_filters::{Headers, cors, fault};
use super::http_match::{holds_for, route_match};
use super::profile;

/// The rows; none if no rule holds for this proxy. A row that cannot be made is left out.
pub(super) fn routes(context: &mut Context<'_, '_>, service: &VirtualService) -> Vec<Route> {
    let mut routes = Vec::new();
    for rule in &service.http {
        if rule.rule.r#match.is_empty() {
            routes.extend(route(context, rule, None, RouteMatch::any()));
            return routes;
        }
        let (node, called) = (context.view.node, context.called);
        for block in rule.rule.r#match.iter().filter(|block| holds_for(node, block, called)) {
            let Ok(matcher) = route_match(block) else { continue };
            let catch_all = matcher.is_catch_all();
            routes.extend(route(context, rule, Some(block), matcher));
            if catch_all {
                return routes;
            }
        }
    }
    routes
}

fn route(
    context: &mut Context<'_, '_>,
    rule: &HttpRule,
    block: Option<&HttpMatchRequest>,
    matcher: RouteMatch,
) -> Result<Route, Invalid> {
    let written = &rule.rule;
    let mut headers = Headers::new(written.headers.as_ref())?;
    // Whoever is alone is the route: its operations come after the route's. Those of shares come before (Istio, Envoy).
    if let [only] = written.route.as_slice() {
        headers = headers.then(Headers::new(only.headers.as_ref())?);
    }
    let action = action(context, written, &matcher.path, headers.authority)?;
    Ok(Route {
        name: name(written.name.as_deref(), block.and_then(|block| block.name.as_deref())),
        origin: Some(rule.origin.clone()),
        matcher,
        request_headers: headers.request,
        response_headers: headers.response,
        cors: written.cors_policy.as_ref().map(cors).transpose()?,
        fault: written.fault.as_ref().map(fault).transpose()?.flatten(),
        authorization: None,
        refused_in_path: profile::refused_in_path(context.view.mesh).without(rule.allowed_in_path),
        action,
    })
}

/// `rule.block` (Istio).
fn name(rule: Option<&str>, block: Option<&str>) -> String {
    let rule = rule.unwrap_or_default();
    match block.filter(|block| !block.is_empty()) {
        Some(block) => format!("{rule}.{block}"),
        None => rule.to_owned(),
    }
}
