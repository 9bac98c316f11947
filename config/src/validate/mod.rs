//! What is wrong with documents that could be read: values that cannot be, and what does not fit together.
//!
//! Three kinds of findings, in files of their own: one value or one document at a time (a file per kind, on top of
//! [`values`]); several documents together ([`references`], [`order`], [`conflicts`]); and what Leno understands but
//! the proxy does not act on yet ([`not_enforced`]).
//!
//! Errors are what Istio's own validation refuses, and what would be served wrong; the document keeps its last good
//! version. Warnings are served. Where the IR has a constructor that may refuse a value, that constructor decides here
//! too, so that what passes can be compiled.

mod access_log;
mod authorization_policy;
mod authorization_values;
mod conflicts;
mod destination_rule;
mod fault_injection;
mod findings;
mod health_check;
mod http_match;
mod http_on_tcp;
mod http_route;
mod index;
mod kubernetes;
mod l4_route;
mod load_balancer;
mod mesh_config;
mod mesh_wide;
mod not_enforced;
mod order;
mod peer_authentication;
mod rate_limit;
mod references;
mod request_authentication;
mod security;
mod service_entry;
mod sidecar;
mod tls;
mod tracing;
mod traffic_policy;
mod values;
mod virtual_service;
mod workload_entry;

use crate::diagnostic::{self, Diagnostic};
use crate::rules::{Document, Parsed, Rule};

use findings::Findings;
use index::Index;

/// All findings about documents that belong together, by file and line.
pub fn validate(documents: &[Document]) -> Vec<Diagnostic> {
    validate_among(documents, &[])
}

/// As [`validate`], where `others` are known as well: a rule may name a service of theirs. Nothing is said about them.
pub fn validate_among(documents: &[Document], others: &[Document]) -> Vec<Diagnostic> {
    let index = Index::new(documents.iter().chain(others));
    let mut all = Vec::new();
    for document in documents {
        let mut found = Findings::default();
        values_of(document, &mut found);
        references::check(document, &index, &mut found);
        order::check(document, &mut found);
        conflicts::check(document, &index, &mut found);
        mesh_wide::check(document, &index, &mut found);
        not_enforced::check(document, &mut found);
        all.extend(found.placed(document));
    }
    diagnostic::sort(&mut all);
    all
}

/// Everything that is wrong with some texts: what reading found, and what is wrong with the rest.
pub fn check(parsed: &Parsed) -> Vec<Diagnostic> {
    let mut all = parsed.diagnostics.clone();
    all.extend(validate_among(&parsed.documents, &parsed.broken));
    for document in &parsed.broken {
        all.extend(errors_beside(document, &parsed.diagnostics));
    }
    diagnostic::sort(&mut all);
    all
}

/// Errors in what could be read of a document, except for those that come from what could not: a list is not short of
/// something that stands in it misspelt.
fn errors_beside(document: &Document, faults: &[Diagnostic]) -> Vec<Diagnostic> {
    let unread: Vec<&str> = faults
        .iter()
        .filter(|fault| fault.resource.as_ref() == Some(&document.id))
        .map(|fault| fault.path.as_str())
        .collect();
    let mut found = Findings::default();
    values_of(document, &mut found);
    let mut found = found.placed(document);
    found.retain(|finding| finding.is_error() && !unread.iter().any(|path| path.starts_with(&finding.path)));
    found
}

/// One document by itself.
fn values_of(document: &Document, found: &mut Findings) {
    match &document.rule {
        Rule::VirtualService(rule) => virtual_service::check(rule, found),
        Rule::DestinationRule(rule) => destination_rule::check(rule, found),
        Rule::ServiceEntry(rule) => service_entry::check(&rule.spec, found),
        Rule::WorkloadEntry(rule) => workload_entry::check(&rule.spec, &findings::spec(), found),
        Rule::Sidecar(rule) => sidecar::check(&rule.spec, found),
        Rule::PeerAuthentication(rule) => peer_authentication::check(&rule.spec, found),
        Rule::AuthorizationPolicy(rule) => authorization_policy::check(rule, found),
        Rule::RequestAuthentication(rule) => request_authentication::check(&rule.spec, found),
        Rule::MeshConfig(rule) => mesh_config::check(&rule.spec, found),
        Rule::HealthCheck(rule) => health_check::check(&rule.spec, found),
        Rule::RateLimit(rule) => rate_limit::check(&rule.spec, found),
        Rule::Service(rule) => kubernetes::check_service(&rule.spec, found),
        Rule::EndpointSlice(rule) => kubernetes::check_slice(rule, found),
    }
}
