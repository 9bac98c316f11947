//! VirtualServices with their names resolved and their delegates merged, by host.

use std::collections::HashMap;

use crate::ir::{FilePlace, Origin, Separators};
use crate::rules::{self, Destination, HttpRoute, PATH_ANNOTATION, Resource, ResourceId, RouteDestination};

use super::delegate;
use super::host::{HostMap, full_name};
use super::visibility::{Age, Visibility};

/// The gateway that stands for all sidecars.
pub(crate) const MESH_GATEWAY: &str = "mesh";

/// A VirtualService that holds for sidecars.
#[derive(Debug, Clone)]
pub(crate) struct VirtualService {
    pub(crate) id: ResourceId,
    pub(crate) visibility: Visibility,
    /// Full names.
    pub(crate) hosts: Vec<String>,
    pub(crate) http: Vec<HttpRule>,
    pub(crate) tls: Vec<TlsRule>,
    pub(crate) tcp: Vec<TcpRule>,
}

/// One entry of `spec.http`, with full names in all destinations and no delegate.
#[derive(Debug, Clone)]
pub(crate) struct HttpRule {
    pub(crate) origin: Origin,
    pub(crate) rule: HttpRoute,
    /// In its path, although the profile refuses it.
    pub(crate) allowed_in_path: Separators,
}

/// One entry of `spec.tls`, with full names in all destinations.
#[derive(Debug, Clone)]
pub(crate) struct TlsRule {
    pub(crate) origin: Origin,
    pub(crate) rule: rules::TlsRoute,
}

/// One entry of `spec.tcp`, with full names in all destinations.
#[derive(Debug, Clone)]
pub(crate) struct TcpRule {
    pub(crate) origin: Origin,
    pub(crate) rule: rules::TcpRoute,
}

/// All VirtualServices for sidecars.
#[derive(Debug, Default)]
pub(crate) struct VirtualServices {
    /// The oldest first.
    all: Vec<VirtualService>,
    by_host: HostMap<HostRules>,
}

/// The VirtualServices that name one host.
#[derive(Debug, Default)]
pub(crate) struct HostRules {
    /// As they write it, with its wildcard.
    pub(crate) host: String,
    /// The oldest first.
    services: Vec<usize>,
}

impl VirtualServices {
    /// Resolves and indexes them; what names no host can only be delegated to.
    pub(super) fn new(written: &[(&ResourceId, &Resource<rules::VirtualService>)]) -> Self {
        let delegates: HashMap<_, _> = written
            .iter()
            .filter(|(_, rule)| rule.spec.hosts.is_empty())
            .map(|&(id, rule)| {
                let visibility = Visibility::new(&rule.spec.export_to, &id.namespace);
                let name = (id.namespace.as_str(), id.name.as_str());
                (name, delegate::Delegate { visibility, rules: http_rules(id, rule) })
            })
            .collect();
        let mut roots: Vec<_> = written.iter().filter(|(_, rule)| !rule.spec.hosts.is_empty()).collect();
        roots.sort_by_key(|(id, rule)| Age::new(id, &rule.metadata));
        let on_sidecars = |spec: &rules::VirtualService| {
            spec.gateways.is_empty() || spec.gateways.iter().any(|gateway| gateway == MESH_GATEWAY)
        };
        let all = roots
            .into_iter()
            .filter(|(_, rule)| on_sidecars(&rule.spec))
            .map(|(id, rule)| VirtualService {
                id: (*id).clone(),
                visibility: Visibility::new(&rule.spec.export_to, &id.namespace),
                hosts: rule.spec.hosts.iter().map(|host| full_name(host, &id.namespace)).collect(),
                http: delegate::merge(&id.namespace, http_rules(id, rule), &delegates),
                tls: tls_rules(id, &rule.spec),
                tcp: tcp_rules(id, &rule.spec),
            })
            .collect();
        Self::index(all)
    }

    fn index(all: Vec<VirtualService>) -> Self {
        let mut by_host = HostMap::<HostRules>::default();
        for (index, service) in all.iter().enumerate() {
            // `*` is for gateways only: on a sidecar it would take every host there is.
            for host in service.hosts.iter().filter(|host| !host.is_empty() && *host != "*") {
                let rules = by_host.entry(host);
                rules.host.clone_from(host);
                if rules.services.last() != Some(&index) {
                    rules.services.push(index);
                }
            }
        }
        Self { all, by_host }
    }

    /// All, the oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &VirtualService> {
        self.all.iter()
    }

    /// Those for `host`: by the host they name, the most specific first, and for one host the oldest first.
    pub(crate) fn covering<'a, 'h>(
        &'a self,
        host: &'h str,
    ) -> impl Iterator<Item = (&'a str, impl Iterator<Item = &'a VirtualService> + use<'a>)> + use<'a, 'h> {
        self.by_host
            .covering(host)
            .map(|rules| (rules.host.as_str(), rules.services.iter().filter_map(|&index| self.all.get(index))))
    }
}

fn http_rules(id: &ResourceId, written: &Resource<rules::VirtualService>) -> Vec<HttpRule> {
    let allowed = written.metadata.annotations.get(PATH_ANNOTATION).map_or("", String::as_str);
    let resolved = |(index, rule): (usize, &HttpRoute)| {
        let mut rule = rule.clone();
        let destinations = rule.route.iter_mut().filter_map(|route| route.destination.as_mut());
        let mirrors = rule.mirrors.iter_mut().filter_map(|mirror| mirror.destination.as_mut());
        destinations.chain(mirrors).chain(rule.mirror.as_mut()).for_each(|destination| resolve(destination, id));
        let allowed_in_path = allowed_by(allowed, rule.name.as_deref());
        HttpRule { origin: origin(id, index), rule, allowed_in_path }
    };
    written.spec.http.iter().enumerate().map(resolved).collect()
}

/// What the annotation allows one route; a word that is none allows nothing.
fn allowed_by(annotation: &str, route: Option<&str>) -> Separators {
    let words = rules::allowed_in_path(annotation).filter_map(Result::ok);
    let mine = words.filter(|(named, _)| named.is_none() || *named == route);
    mine.fold(Separators::NONE, |all, (_, one)| all.and(one))
}

fn tls_rules(id: &ResourceId, spec: &rules::VirtualService) -> Vec<TlsRule> {
    let resolved = |(index, rule): (usize, &rules::TlsRoute)| {
        let mut rule = rule.clone();
        resolve_all(&mut rule.route, id);
        TlsRule { origin: origin(id, spec.http.len().saturating_add(index)), rule }
    };
    spec.tls.iter().enumerate().map(resolved).collect()
}

fn tcp_rules(id: &ResourceId, spec: &rules::VirtualService) -> Vec<TcpRule> {
    let before = spec.http.len().saturating_add(spec.tls.len());
    let resolved = |(index, rule): (usize, &rules::TcpRoute)| {
        let mut rule = rule.clone();
        resolve_all(&mut rule.route, id);
        TcpRule { origin: origin(id, before.saturating_add(index)), rule }
    };
    spec.tcp.iter().enumerate().map(resolved).collect()
}

fn resolve_all(routes: &mut [RouteDestination], rule: &ResourceId) {
    routes.iter_mut().filter_map(|route| route.destination.as_mut()).for_each(|destination| resolve(destination, rule));
}

fn resolve(destination: &mut Destination, rule: &ResourceId) {
    destination.host = full_name(&destination.host, &rule.namespace);
}

fn origin(id: &ResourceId, index: usize) -> Origin {
    Origin {
        kind: id.kind.clone(),
        namespace: id.namespace.clone(),
        name: id.name.clone(),
        index: u32::try_from(index).unwrap_or(u32::MAX),
        place: FilePlace::default(),
    }
}
