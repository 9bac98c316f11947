//! Rules that another rule hides: of several for one thing, the oldest counts (Istio).

use super::findings::{Findings, spec};
use super::http_on_tcp;
use super::index::{Index, is_older};
use super::virtual_service::is_for_mesh;
use crate::diagnostic::codes;
use crate::mesh::{Visibility, full_name};
use crate::rules::{DestinationRule, Document, Path, PeerAuthentication, Rule, VirtualService};

pub(super) fn check(document: &Document, index: &Index<'_>, found: &mut Findings) {
    match &document.rule {
        Rule::VirtualService(rule) => check_hosts(document, &rule.spec, index, found),
        Rule::DestinationRule(rule) => check_policies(document, &rule.spec, index, found),
        Rule::Sidecar(rule) => {
            if rule.spec.workload_selector.as_ref().is_none_or(|selector| selector.labels.is_empty()) {
                check_only(document, index.sidecars(&document.id.namespace), "Sidecar for all workloads here", found);
            }
        }
        Rule::MeshConfig(_) => check_only(document, &index.mesh_configs(), "MeshConfig", found),
        Rule::PeerAuthentication(rule) => check_peers(document, &rule.spec, index, found),
        Rule::AuthorizationPolicy(rule) => http_on_tcp::check(document, &rule.spec, index, found),
        Rule::HealthCheck(_)
        | Rule::RateLimit(_)
        | Rule::RequestAuthentication(_)
        | Rule::ServiceEntry(_)
        | Rule::WorkloadEntry(_)
        | Rule::Service(_)
        | Rule::EndpointSlice(_) => {}
    }
}

fn check_hosts(document: &Document, rule: &VirtualService, index: &Index<'_>, found: &mut Findings) {
    if !is_for_mesh(rule) {
        return;
    }
    let namespace = document.id.namespace.as_str();
    for (at, host) in rule.hosts.iter().enumerate() {
        let claims = index.virtual_services_of(&full_name(host, namespace)).iter();
        let older = claims.filter(|claim| claim.document.id != document.id && is_older(claim.document, document));
        let own = Visibility::new(&rule.export_to, namespace);
        let mut older =
            older.filter(|claim| Visibility::new(&claim.spec.export_to, &claim.document.id.namespace).overlaps(&own));
        if let Some(claim) = older.next() {
            let message = format!(
                "these rules are not used for `{host}`: {} at {} has the host and is older",
                claim.document.id, claim.document.place
            );
            found
                .add(codes::CONFLICT, &spec().key("hosts").index(at), message)
                .help("put all rules for a host into one VirtualService");
        }
    }
}

fn check_policies(document: &Document, rule: &DestinationRule, index: &Index<'_>, found: &mut Findings) {
    if rule.workload_selector.is_some() {
        return;
    }
    let claims = index.destination_rules_of(&full_name(&rule.host, &document.id.namespace)).iter();
    let older: Vec<_> = claims
        .filter(|claim| claim.document.id.namespace == document.id.namespace && claim.spec.workload_selector.is_none())
        .filter(|claim| claim.document.id != document.id && is_older(claim.document, document))
        .collect();
    if rule.traffic_policy.is_some()
        && let Some(claim) = older.iter().find(|claim| claim.spec.traffic_policy.is_some())
    {
        hidden("this policy is not used", claim.document, &spec().key("trafficPolicy"), found);
    }
    for (at, subset) in rule.subsets.iter().enumerate() {
        let has_it = |rule: &DestinationRule| rule.subsets.iter().any(|other| other.name == subset.name);
        if let Some(claim) = older.iter().find(|claim| has_it(claim.spec)) {
            let what = format!("the subset `{}` is not used", subset.name);
            hidden(&what, claim.document, &spec().key("subsets").index(at).key("name"), found);
        }
    }
}

/// Of several for the same workloads the oldest counts, and in the root namespace none that selects some.
fn check_peers(document: &Document, rule: &PeerAuthentication, index: &Index<'_>, found: &mut Findings) {
    let namespace = document.id.namespace.as_str();
    if rule.labels().is_some() && namespace == index.root_namespace() {
        let message = "in the root namespace a rule is for the whole mesh: one that selects workloads is not used";
        found
            .add(codes::NO_EFFECT, &spec().key("selector"), message)
            .on_key()
            .help("write it in the workloads' namespace, or remove `selector`");
        return;
    }
    let same = index.peer_authentications(namespace).iter().filter(|claim| claim.spec.labels() == rule.labels());
    let same: Vec<&Document> = same.map(|claim| claim.document).collect();
    check_only(document, &same, "PeerAuthentication for the same workloads", found);
}

fn hidden(what: &str, by: &Document, path: &Path, found: &mut Findings) {
    let message = format!("{what}: {} at {} has one for this host and is older", by.id, by.place);
    found.add(codes::CONFLICT, path, message).help("put all policies for a host into one DestinationRule");
}

/// Of this kind there is one.
fn check_only(document: &Document, all: &[&Document], what: &str, found: &mut Findings) {
    let older = all.iter().find(|other| other.id != document.id && is_older(other, document));
    if let Some(older) = older {
        let message = format!("this {what} is not used: {} at {} is older", older.id, older.place);
        found.add(codes::CONFLICT, &Path::root().key("metadata").key("name"), message).help("remove one of the two");
    }
}
