//! RequestAuthentications as Envoy's `jwt_authn` filter, in the form that istiod gives it.
//!
//! All rules for a workload hold together. A request without a token passes, one with a bad token does not: for one
//! issuer that is "his token, or none"; for several "a token of one of them, or for each of them a good one or none".

use http::{HeaderName, Uri};

use crate::defaults;
use crate::ir::{
    ClaimHeader, ClusterName, Jwks, JwtAuthentication, JwtHeader, JwtProvider, JwtRequirement, JwtRule, RemoteJwks,
    RouteMatch,
};
use crate::mesh::{Mesh, port_number};
use crate::node::Node;
use crate::rules::{self, TokenPresence};

use super::Output;
use super::clusters::duration;
use super::outside;
use super::scope::View;

/// A key whose private half was thrown away: no token passes. For an issuer of whom a rule names no keys; only an address
/// that is written down is ever asked for some. Envoy refuses a listener with an empty set.
const NO_KEYS: &str = concat!(
    r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"nobody","#,
    r#""x":"2hZV5QYVbkB-vNLic8VNCmKbjMV33Ucm2fkDnyqM3JU","#,
    r#""y":"QRjhabHdyNKbC-c7Zbq8oPjHrvESrnEno0S8TO5hdN0"}]}"#,
);

/// What a workload asks of requests that come in.
pub(super) fn inbound(mesh: &Mesh, node: &Node) -> JwtAuthentication {
    let issuers = issuers(mesh, node);
    let providers: Vec<JwtProvider> = issuers.iter().enumerate().map(|(index, rule)| provider(index, rule)).collect();
    let own = |provider: &JwtProvider| JwtRequirement::Provider(provider.name.clone());
    let (mut each, mut required) = (Vec::new(), Vec::new());
    for (provider, rule) in providers.iter().zip(&issuers) {
        match rule.presence.unwrap_or_default() {
            TokenPresence::Optional => {
                each.push(JwtRequirement::Any(vec![own(provider), JwtRequirement::AllowMissing]))
            }
            TokenPresence::Required => {
                each.push(own(provider));
                required.push(own(provider));
            }
        }
    }
    let requirement = match (each.len(), all(required)) {
        (0, _) => return JwtAuthentication::default(),
        (1, _) => each.remove(0),
        // Whose token is required, of him one must be there: another's does not do.
        (_, Some(required)) => JwtRequirement::Any(vec![JwtRequirement::All(each), required]),
        (_, None) => JwtRequirement::Any(providers.iter().map(own).chain([JwtRequirement::All(each)]).collect()),
    };
    for_all(providers, requirement)
}

/// What routes that leave a workload may look at: claims of a token that it would take itself. Nothing is refused and the
/// request stays as it is.
pub(super) fn outbound(mesh: &Mesh, node: &Node) -> JwtAuthentication {
    let untouched = |(index, rule): (usize, &&rules::JwtRule)| JwtProvider {
        forward: true,
        payload_header: None,
        claim_headers: Vec::new(),
        ..provider(index, rule)
    };
    let providers: Vec<JwtProvider> = issuers(mesh, node).iter().enumerate().map(untouched).collect();
    if providers.is_empty() {
        return JwtAuthentication::default();
    }
    let names = providers.iter().map(|provider| JwtRequirement::Provider(provider.name.clone()));
    let requirement = JwtRequirement::Any(names.chain([JwtRequirement::AllowMissingOrFailed]).collect());
    for_all(providers, requirement)
}

/// Notes the clusters through which Envoy fetches keys.
pub(super) fn clusters<'a>(view: &View<'a>, tokens: &JwtAuthentication, output: &mut Output<'a>) {
    for provider in &tokens.providers {
        let Jwks::Remote(remote) = &provider.jwks else { continue };
        let Some((host, port)) = host_and_port(&remote.uri) else { continue };
        let known = view.mesh.service(host, &view.node.namespace);
        let own_port = known.and_then(|service| service.port(port_number(Some(u32::from(port)))?));
        match (known, own_port) {
            (Some(service), Some(own)) => drop(output.reach(service, own.number)),
            (Some(_) | None, _) => {
                let name = ClusterName::new(remote.cluster.as_str());
                output.cluster(outside::cluster(name, host, port, is_https(&remote.uri)));
            }
        }
    }
}

/// The rules for a workload, by issuer.
fn issuers<'a>(mesh: &'a Mesh, node: &'a Node) -> Vec<&'a rules::JwtRule> {
    let mut rules: Vec<_> = mesh.tokens(node).flat_map(|rule| &rule.spec.jwt_rules).collect();
    rules.sort_by(|one, other| one.issuer.cmp(&other.issuer));
    rules
}

/// All of them; Envoy takes no list of one.
fn all(mut requirements: Vec<JwtRequirement>) -> Option<JwtRequirement> {
    match requirements.len() {
        0 | 1 => requirements.pop(),
        _ => Some(JwtRequirement::All(requirements)),
    }
}

/// Providers stand in the order of their names, the only one that the wire keeps.
fn for_all(mut providers: Vec<JwtProvider>, requirement: JwtRequirement) -> JwtAuthentication {
    providers.sort_by(|one, other| one.name.cmp(&other.name));
    JwtAuthentication { providers, rules: vec![JwtRule { matcher: RouteMatch::any(), requirement }] }
}

/// What cannot be a header is left out; validation refuses it.
fn provider(index: usize, rule: &rules::JwtRule) -> JwtProvider {
    let header = |name: &str| name.parse::<HeaderName>().ok();
    let from_header = |written: &rules::TokenHeader| {
        Some(JwtHeader { name: header(&written.name)?, prefix: written.prefix.clone().unwrap_or_default() })
    };
    let to_header = |written: &rules::ClaimToHeader| {
        Some(ClaimHeader { name: header(&written.header)?, claim: written.claim.clone() })
    };
    JwtProvider {
        name: format!("origins-{index}"),
        issuer: Some(rule.issuer.clone()).filter(|issuer| !issuer.is_empty()),
        audiences: rule.audiences.clone(),
        jwks: jwks(rule),
        from_headers: rule.from_headers.iter().filter_map(from_header).collect(),
        from_params: rule.from_params.clone(),
        from_cookies: rule.from_cookies.clone(),
        forward: rule.forward_original_token.unwrap_or(false),
        payload_header: rule.output_payload_to_header.as_deref().and_then(header),
        claim_headers: rule.output_claim_to_headers.iter().filter_map(to_header).collect(),
        clock_skew: defaults::JWT_CLOCK_SKEW,
    }
}

fn jwks(rule: &rules::JwtRule) -> Jwks {
    let text = |value: &'_ Option<String>| value.clone().filter(|text| !text.is_empty());
    if let Some(keys) = text(&rule.jwks) {
        return Jwks::Inline(keys);
    }
    let remote = text(&rule.jwks_uri).and_then(|address| {
        let uri = RemoteJwks::uri(&address).ok()?;
        let (host, port) = host_and_port(&uri)?;
        let cluster = ClusterName::outbound(port, "", host).to_string();
        let timeout = duration(rule.timeout.as_ref()).filter(|timeout| !timeout.is_zero());
        let timeout = timeout.unwrap_or(defaults::JWKS_TIMEOUT);
        Some(RemoteJwks { cluster, timeout, refresh: defaults::JWKS_REFRESH, uri })
    });
    remote.map_or_else(|| Jwks::Inline(NO_KEYS.to_owned()), Jwks::Remote)
}

fn host_and_port(uri: &Uri) -> Option<(&str, u16)> {
    let default = if is_https(uri) { 443 } else { 80 };
    Some((uri.host()?, uri.port_u16().unwrap_or(default)))
}

fn is_https(uri: &Uri) -> bool {
    uri.scheme() == Some(&http::uri::Scheme::HTTPS)
}
