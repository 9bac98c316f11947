//! Where rules stand, looked up once per document: finding a line means to read the text anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::ir::{FileLine, Origin};
use crate::rules::{Document, ResourceId, Rule, VirtualService};

/// Lines of the entries of a document's lists.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<(ResourceId, &'static str), Lines>>);

/// Of one list, entry by entry.
type Lines = Arc<[Arc<FileLine>]>;

impl Places {
    /// The line of the entry behind `origin`. An object of Kubernetes' API has none, and kind, name and index say all.
    pub(super) fn of(&self, document: &Document, origin: &Origin) -> Option<Arc<FileLine>> {
        if document.is_object() {
            return None;
        }
        let List { name: list, length, index } = list_of(document, origin.index as usize);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = known.entry((document.id.clone(), list)).or_insert_with(|| lines(document, list, length));
        lines.get(if list.is_empty() { 0 } else { index }).cloned()
    }
}

fn lines(document: &Document, list: &str, length: usize) -> Lines {
    let file_line = |place: crate::diagnostic::Place| Arc::new(FileLine { file: place.file, line: place.line });
    if list.is_empty() {
        return [file_line(document.place.clone())].into();
    }
    let paths: Vec<String> = (0..length).map(|index| format!("spec.{list}[{index}]")).collect();
    document.places_of(&paths).into_iter().map(file_line).collect()
}

/// What an origin's index means.
pub(super) struct List {
    /// `http`, `rules`, …; empty: the document as a whole.
    pub(super) name: &'static str,
    length: usize,
    /// Of the entry in it.
    pub(super) index: usize,
}

/// The list of a document that an origin with this index means.
pub(super) fn list_of(document: &Document, index: usize) -> List {
    let (name, length) = match &document.rule {
        Rule::VirtualService(rule) => return of_virtual_service(&rule.spec, index),
        Rule::Sidecar(rule) => ("ingress", rule.spec.ingress.len()),
        Rule::AuthorizationPolicy(rule) => ("rules", rule.spec.rules.len()),
        Rule::RequestAuthentication(rule) => ("jwtRules", rule.spec.jwt_rules.len()),
        Rule::RateLimit(rule) => ("limits", rule.spec.limits.len()),
        Rule::DestinationRule(_)
        | Rule::ServiceEntry(_)
        | Rule::WorkloadEntry(_)
        | Rule::PeerAuthentication(_)
        | Rule::MeshConfig(_)
        | Rule::HealthCheck(_)
        | Rule::Service(_)
        | Rule::EndpointSlice(_) => ("", 0),
    };
    List { name, length, index }
}

/// Its lists count as one.
fn of_virtual_service(rule: &VirtualService, index: usize) -> List {
    let (http, tls, tcp) = (rule.http.len(), rule.tls.len(), rule.tcp.len());
    let Some(after_http) = index.checked_sub(http) else { return List { name: "http", length: http, index } };
    match after_http.checked_sub(tls) {
        None => List { name: "tls", length: tls, index: after_http },
        Some(index) => List { name: "tcp", length: tcp, index },
    }
}
