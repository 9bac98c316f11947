//! What a document names in others: services, their ports, subsets, delegates.
//!
//! An unknown host is a warning: the service may come later, and until then its share is answered with 503. A port or a
//! subset of a service that *is* known is an error, for it is nearly always a slip of the pen.

use std::collections::BTreeSet;

use super::findings::{Findings, spec};
use super::index::Index;
use crate::diagnostic::codes;
use crate::mesh::{full_name, selects};
use crate::rules::{
    Attribute, AuthorizationPolicy, AuthorizationRule, Delegate, Destination, DestinationRule, Document, HealthCheck,
    MutualTls, MutualTlsMode, Path, Rule, Sidecar, VirtualService, closest, listed, routed_claim,
};

pub(super) fn check(document: &Document, index: &Index<'_>, found: &mut Findings) {
    let mut names = Names { namespace: &document.id.namespace, index, found, unknown: BTreeSet::new() };
    match &document.rule {
        Rule::VirtualService(rule) => names.virtual_service(&rule.spec),
        Rule::DestinationRule(rule) => names.destination_rule(&rule.spec),
        Rule::Sidecar(rule) => names.sidecar(&rule.spec),
        Rule::AuthorizationPolicy(rule) => names.authorization_policy(&rule.spec),
        Rule::HealthCheck(rule) => names.health_check(&rule.spec),
        Rule::PeerAuthentication(_)
        | Rule::RequestAuthentication(_)
        | Rule::ServiceEntry(_)
        | Rule::WorkloadEntry(_)
        | Rule::MeshConfig(_)
        | Rule::RateLimit(_)
        | Rule::Service(_)
        | Rule::EndpointSlice(_) => {}
    }
}

/// Looks up what one document names.
struct Names<'a> {
    namespace: &'a str,
    index: &'a Index<'a>,
    found: &'a mut Findings,
    /// Hosts that were reported; once per document is enough.
    unknown: BTreeSet<String>,
}

impl Names<'_> {
    /// Whether some PeerAuthentication that may be about a workload of the namespace says DISABLE of a port.
    fn is_mesh_tls_off(&self, port: u32) -> bool {
        let off = |mtls: &MutualTls| mtls.mode == Some(MutualTlsMode::Disable);
        let claims = [self.namespace, self.index.root_namespace()].map(|one| self.index.peer_authentications(one));
        claims.into_iter().flatten().any(|claim| {
            let ports = claim.spec.port_level_mtls.iter().flatten();
            let mut of_port = ports.filter(|(number, _)| number.parse() == Ok(port)).map(|(_, mtls)| mtls);
            of_port.any(off) || claim.spec.mtls.as_ref().is_some_and(off)
        })
    }

    fn virtual_service(&mut self, rule: &VirtualService) {
        for (index, route) in rule.http.iter().enumerate() {
            let path = spec().key("http").index(index);
            for (index, share) in route.route.iter().enumerate() {
                self.destination(&path.key("route").index(index).key("destination"), share.destination.as_ref());
            }
            self.destination(&path.key("mirror"), route.mirror.as_ref());
            for (index, mirror) in route.mirrors.iter().enumerate() {
                self.destination(&path.key("mirrors").index(index).key("destination"), mirror.destination.as_ref());
            }
            if let Some(delegate) = &route.delegate {
                self.delegate(&path.key("delegate"), delegate);
            }
        }
        self.claims(rule);
        for (index, route) in rule.tcp.iter().enumerate() {
            let path = spec().key("tcp").index(index).key("route");
            for (index, share) in route.route.iter().enumerate() {
                self.destination(&path.index(index).key("destination"), share.destination.as_ref());
            }
        }
        for (index, route) in rule.tls.iter().enumerate() {
            let path = spec().key("tls").index(index).key("route");
            for (index, share) in route.route.iter().enumerate() {
                self.destination(&path.index(index).key("destination"), share.destination.as_ref());
            }
        }
    }

    fn destination(&mut self, path: &Path, destination: Option<&Destination>) {
        let Some(destination) = destination.filter(|destination| !destination.host.is_empty()) else { return };
        let host = full_name(&destination.host, self.namespace);
        let Some(service) = self.index.service(&host) else {
            self.unknown_host(&path.key("host"), &destination.host, &host);
            return;
        };
        if let Some(number) = destination.port.as_ref().and_then(|port| port.number)
            && !service.ports.contains(&number)
            && (1..=65_535).contains(&number)
        {
            let message = format!("`{host}` has no port {number}");
            let ports: Vec<String> = service.ports.iter().map(ToString::to_string).collect();
            let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
            self.found
                .add(codes::UNKNOWN_PORT, &path.key("port").key("number"), message)
                .help(format!("its ports are {}", listed(&ports)));
        }
        if let Some(subset) = destination.subset.as_deref().filter(|subset| !subset.is_empty()) {
            self.subset(&path.key("subset"), &host, subset);
        }
    }

    fn subset(&mut self, path: &Path, host: &str, subset: &str) {
        let rules: Vec<_> = self.index.destination_rules(host).collect();
        let subsets: BTreeSet<&str> =
            rules.iter().flat_map(|claim| &claim.spec.subsets).map(|subset| subset.name.as_str()).collect();
        if subsets.contains(subset) {
            return;
        }
        let known: Vec<&str> = subsets.into_iter().collect();
        let help = match (closest(subset, &known), rules.first()) {
            (Some(meant), _) => format!("did you mean `{meant}`?"),
            (None, Some(claim)) => {
                format!("add it to {} at {}, which has {}", claim.document.id, claim.document.place, listed(&known))
            }
            (None, None) => format!("write a DestinationRule for `{host}` with the subset"),
        };
        self.found.add(codes::UNKNOWN_SUBSET, path, format!("`{host}` has no subset `{subset}`")).help(help);
    }

    fn unknown_host(&mut self, path: &Path, written: &str, host: &str) {
        if !self.unknown.insert(host.to_owned()) {
            return;
        }
        let mut known: Vec<&str> = self.index.hosts().collect();
        known.sort_unstable();
        // `reviews.shop` is no name of a service to Istio, though DNS in a cluster takes it for one.
        let in_cluster = format!("{host}.svc.{}", crate::defaults::CLUSTER_DOMAIN);
        let meant = known.iter().find(|known| **known == in_cluster).copied().or_else(|| closest(host, &known));
        let shown = if written == host { format!("`{host}`") } else { format!("`{written}` (`{host}`)") };
        let finding = self.found.add(codes::UNKNOWN_HOST, path, format!("no service has the host {shown}"));
        finding.help(match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "add a Service or a ServiceEntry for it; until then it is answered with 503".to_owned(),
        });
    }

    fn delegate(&mut self, path: &Path, delegate: &Delegate) {
        let namespace = delegate.namespace.as_deref().filter(|text| !text.is_empty()).unwrap_or(self.namespace);
        if delegate.name.is_empty() {
            return;
        }
        match self.index.virtual_service(namespace, &delegate.name) {
            None => {
                let message = format!("there is no VirtualService {namespace}/{}", delegate.name);
                let names = self.index.delegates(namespace);
                let help = match closest(&delegate.name, &names) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => "until there is one, the rule is left out".to_owned(),
                };
                self.found.add(codes::UNKNOWN_DELEGATE, &path.key("name"), message).help(help);
            }
            Some(rule) if !rule.hosts.is_empty() => {
                let message = format!("VirtualService {namespace}/{} has hosts, so it is no delegate", delegate.name);
                self.found.add(codes::DELEGATE, &path.key("name"), message).help("remove its `hosts`");
            }
            Some(_) => {}
        }
    }

    fn health_check(&mut self, rule: &HealthCheck) {
        if rule.host.is_empty() || rule.host.contains('*') {
            return;
        }
        let host = full_name(&rule.host, self.namespace);
        let Some(service) = self.index.service(&host) else {
            return self.unknown_host(&spec().key("host"), &rule.host, &host);
        };
        if let Some(port) = rule.port.filter(|port| *port != 0 && !service.ports.contains(port)) {
            self.found.add(codes::UNKNOWN_PORT, &spec().key("port"), format!("`{host}` has no port {port}"));
        }
        if let Some(subset) = rule.subset.as_deref().filter(|subset| !subset.is_empty()) {
            self.subset(&spec().key("subset"), &host, subset);
        }
    }

    fn destination_rule(&mut self, rule: &DestinationRule) {
        if rule.host.is_empty() || rule.host.contains('*') {
            return;
        }
        let host = full_name(&rule.host, self.namespace);
        let Some(service) = self.index.service(&host) else {
            self.unknown_host(&spec().key("host"), &rule.host, &host);
            return;
        };
        let policies = std::iter::once((spec().key("trafficPolicy"), rule.traffic_policy.as_ref())).chain(
            rule.subsets.iter().enumerate().map(|(index, subset)| {
                (spec().key("subsets").index(index).key("trafficPolicy"), subset.traffic_policy.as_ref())
            }),
        );
        for (path, policy) in policies {
            for (index, settings) in policy.iter().flat_map(|policy| &policy.port_level_settings).enumerate() {
                let number = settings.port.as_ref().and_then(|port| port.number).unwrap_or_default();
                if number != 0 && !service.ports.contains(&number) {
                    let path = path.key("portLevelSettings").index(index).key("port").key("number");
                    self.found.add(codes::UNKNOWN_PORT, &path, format!("`{host}` has no port {number}"));
                }
            }
        }
        for (index, subset) in rule.subsets.iter().enumerate() {
            let is_empty = !service.endpoints.iter().any(|labels| selects(&subset.labels, labels));
            if is_empty && !service.endpoints.is_empty() {
                let path = spec().key("subsets").index(index).key("labels");
                let message = format!("no endpoint of `{host}` has the labels of the subset `{}`", subset.name);
                self.found.add(codes::EMPTY_SUBSET, &path, message).help("requests for it are answered with 503");
            }
        }
    }

    /// The first route that goes by a claim, where nobody verifies tokens.
    fn claims(&mut self, rule: &VirtualService) {
        if !self.index.request_authentications().is_empty() {
            return;
        }
        let first = rule.http.iter().enumerate().find_map(|(at, route)| {
            route.r#match.iter().enumerate().find_map(|(block, conditions)| {
                let name =
                    conditions.headers.keys().find(|name| routed_claim(name).is_some_and(|path| path.is_ok()))?;
                Some(spec().key("http").index(at).key("match").index(block).key("headers").key(name))
            })
        });
        if let Some(path) = first {
            let message = "there is no RequestAuthentication, so that no request has a verified token";
            let help = "write one for the workloads that call: claims are read where requests leave";
            self.found.add(codes::NO_TOKENS, &path, message).on_key().help(help);
        }
    }

    /// A condition on tokens means nothing where no token is verified.
    fn authorization_policy(&mut self, policy: &AuthorizationPolicy) {
        let root = self.index.root_namespace();
        let may_hold = |namespace: &str| namespace == root || self.namespace == root || namespace == self.namespace;
        let verified = self.index.request_authentications();
        if policy.has_targets() || verified.iter().any(|claim| may_hold(&claim.document.id.namespace)) {
            return;
        }
        let asking = policy.rules.iter().enumerate().find_map(|(index, rule)| {
            let path = spec().key("rules").index(index);
            token_condition(rule, &path)
        });
        if let Some(path) = asking {
            let message = "no RequestAuthentication is for these workloads, so that no request has a verified token";
            let help = "write a RequestAuthentication in this namespace or the root namespace";
            self.found.add(codes::NO_TOKENS, &path, message).help(help);
        }
    }

    fn sidecar(&mut self, sidecar: &Sidecar) {
        for (index, listener) in sidecar.ingress.iter().enumerate().filter(|(_, listener)| listener.tls.is_some()) {
            let number = listener.port.as_ref().and_then(|port| port.number).unwrap_or_default();
            if !self.is_mesh_tls_off(number) {
                let path = spec().key("ingress").index(index).key("tls");
                let message = format!("nothing turns the mesh's own TLS off for port {number}, so that it is closed");
                let help = format!("add a PeerAuthentication with `portLevelMtls: {{{number}: {{mode: DISABLE}}}}`");
                self.found.add(codes::NO_EFFECT, &path, message).on_key().help(help);
            }
        }
        for (index, listener) in sidecar.egress.iter().enumerate() {
            let path = spec().key("egress").index(index).key("hosts");
            for (index, written) in listener.hosts.iter().enumerate() {
                let Some((namespace, host)) = written.split_once('/') else { continue };
                let own = if matches!(namespace, "." | "*") { self.namespace } else { namespace };
                let full = full_name(host, own);
                if namespace != "~" && !host.contains('*') && self.index.service(&full).is_none() {
                    self.unknown_host(&path.index(index), host, &full);
                }
            }
        }
        let proxy = sidecar.outbound_traffic_policy.as_ref().and_then(|policy| policy.egress_proxy.as_ref());
        self.destination(&spec().key("outboundTrafficPolicy").key("egressProxy"), proxy);
    }
}

/// Where a rule first asks for something of a token.
fn token_condition(rule: &AuthorizationRule, path: &Path) -> Option<Path> {
    let in_source = rule.from.iter().flatten().enumerate().find_map(|(index, from)| {
        let source = from.source.as_ref()?;
        let fields = [
            ("requestPrincipals", &source.request_principals),
            ("notRequestPrincipals", &source.not_request_principals),
        ];
        let (field, _) = fields.into_iter().find(|(_, list)| !list.is_empty())?;
        Some(path.key("from").index(index).key("source").key(field))
    });
    in_source.or_else(|| {
        let asks = |key: &str| matches!(Attribute::parse(key), Ok(Attribute::RequestPrincipal | Attribute::Claim(_)));
        let index = rule.when.iter().position(|condition| asks(&condition.key))?;
        Some(path.key("when").index(index).key("key"))
    })
}
