//! From what the sources say to what proxies are to hold.
//!
//! Three things change what is in force. Rules: everything is validated, indexed and compiled anew. The roots: the rules as
//! they are, with another bundle. Endpoints: the rules as they are over other endpoints, at once, because whoever is called
//! at an address that is gone fails until the next push. Where listeners or hosts follow from endpoints too (a headless
//! service whose pods have moved), the clusters go out first like all others, and everything is compiled once the endpoints
//! have come to rest: after [`QUIET`], or as long as the last time took four times, so that a cluster in which pods never
//! rest costs a fifth of a core and not all of it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use leno_config::diagnostic::Diagnostic;
use leno_config::mesh::{Discovered, Key};
use leno_config::rules::Document;
use leno_proxy::rule_files::QUIET;
use tokio::sync::watch;
use tracing::debug;

use crate::ads::push::Hub;
use crate::ads::status::RulesStatus;
use crate::board::Board;
use crate::ca::Authority;
use crate::generation::{Contents, Generation, Successor};
use crate::kubernetes::status::{Ledger, Standings};
use crate::metrics::Rules;
use crate::snapshot::Shelf;
use crate::source::files::Files;
use crate::source::kubernetes::{Cluster, Endpoints, Word};
use crate::source::{Accepted, Source, State, Written};

/// Where rules come from; one of the two at least.
pub(crate) struct Sources {
    pub(crate) files: Option<Files>,
    pub(crate) cluster: Option<Cluster>,
    pub(crate) accepted: Accepted,
    /// Told how every rule stands.
    pub(crate) standings: watch::Sender<Standings>,
}

/// Puts what the sources say in force, and every change of the roots. Does not return.
pub(crate) async fn follow(sources: Sources, hub: &Hub, board: &Board, authority: &Authority) {
    let Sources { mut files, mut cluster, accepted, standings } = sources;
    let mut force = Force {
        hub,
        board,
        authority,
        accepted,
        shelf: Arc::default(),
        documents: Vec::new(),
        discovered: Arc::default(),
        version: None,
        rebuild: None,
        ledger: Ledger::default(),
        standings,
        took: Duration::ZERO,
    };
    let mut roots = authority.changes();
    loop {
        // A look at the files must not be given up halfway, so that everything else happens around it.
        let mut look = std::pin::pin!(look(files.as_mut()));
        let written = loop {
            tokio::select! {
                written = &mut look => break written,
                word = next(cluster.as_mut()) => force.take_word(word),
                changed = roots.changed() => force.take_roots(&changed),
                () = until(force.rebuild) => force.rebuild(),
            }
        };
        force.take(Source::Files, written);
    }
}

async fn look(files: Option<&mut Files>) -> Written {
    match files {
        Some(files) => files.next().await,
        None => std::future::pending().await,
    }
}

async fn next(cluster: Option<&mut Cluster>) -> Word {
    match cluster {
        Some(cluster) => cluster.next().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// What is in force, and who is told.
struct Force<'a> {
    hub: &'a Hub,
    board: &'a Board,
    authority: &'a Authority,
    accepted: Accepted,
    shelf: Arc<Mutex<Shelf>>,
    documents: Vec<Document>,
    discovered: Arc<Discovered>,
    version: Option<String>,
    /// When everything is compiled anew although no rule has changed.
    rebuild: Option<Instant>,
    /// Since when each rule has been in force, for who tells of it.
    ledger: Ledger,
    standings: watch::Sender<Standings>,
    /// Making the last generation, without compiling it.
    took: Duration,
}

impl Force<'_> {
    fn take(&mut self, source: Source, written: Written) {
        let state = self.accepted.take(source, written);
        let changed = state.changed;
        if let Some(documents) = state.documents.as_ref().filter(|_| changed) {
            self.documents.clone_from(documents);
        }
        let generation = changed.then(|| self.whole());
        if let Some(newest) = &generation {
            self.authority.set_domains(newest.domains());
            let Contents { services, virtual_services } = newest.contents();
            self.hub.metrics().in_force(newest.version(), newest.documents(), services, virtual_services);
            self.version = Some(newest.version().to_owned());
        }
        self.note(&state);
        if let Some(newest) = &generation {
            let texts = self.documents.iter().map(|document| (&document.id, &document.text));
            self.ledger.in_force(texts, newest.number());
        }
        if state.documents.is_some() {
            self.standings.send_replace(self.ledger.standings(&state.diagnostics, &state.held_back));
        }
        if let Some(generation) = generation {
            self.hub.publish_edit(generation, state.noticed);
        }
        self.accepted.report(&state);
    }

    fn take_word(&mut self, word: Word) {
        match word {
            Word::Written { written, discovered } => {
                self.discovered = discovered;
                self.take(Source::Kubernetes, written);
            }
            Word::Endpoints(endpoints) => self.take_endpoints(endpoints),
        }
    }

    fn take_endpoints(&mut self, endpoints: Endpoints) {
        let Endpoints { discovered, services, pods, noticed } = endpoints;
        self.discovered = Arc::clone(&discovered);
        let Some(newest) = self.hub.newest() else { return };
        let connected = self.hub.names();
        let concerns = |pod: &Key| connected.contains(pod);
        let Successor { generation, change, is_news } = newest.with_discovered(discovered, &services, &pods, concerns);
        debug!(services = change.hosts.len(), pods = pods.len(), is_news, "endpoints have changed");
        match is_news {
            true => self.hub.publish_edit(generation, noticed),
            false => self.hub.put(generation),
        }
        if change.beyond_clusters {
            let rest = QUIET.max(4 * self.took);
            self.rebuild.get_or_insert(Instant::now() + rest);
        }
    }

    fn take_roots(&self, changed: &Result<(), watch::error::RecvError>) {
        let newest = self.hub.newest().filter(|_| changed.is_ok());
        if let Some(generation) = newest.and_then(|newest| newest.with_roots(&self.authority.bundles())) {
            self.hub.publish(generation);
        }
    }

    fn rebuild(&mut self) {
        self.rebuild = None;
        if self.hub.newest().is_some() {
            let generation = self.whole();
            self.hub.publish(generation);
        }
    }

    /// Everything anew.
    fn whole(&mut self) -> Arc<Generation> {
        let begun = Instant::now();
        self.rebuild = None;
        let discovered = Arc::clone(&self.discovered);
        let generation =
            Generation::new(&self.documents, discovered, &self.authority.bundles(), Arc::clone(&self.shelf));
        self.took = begun.elapsed();
        generation
    }

    fn note(&self, state: &State) {
        let rules = rules_status(state, self.version.clone());
        self.hub.metrics().rules(Rules {
            findings: &state.diagnostics,
            errors: rules.errors(),
            rejected: rejected_documents(&state.diagnostics),
            held_back: rules.held_back.len(),
        });
        self.board.note(rules);
    }
}

fn rules_status(state: &State, version: Option<String>) -> RulesStatus {
    let errors = state.diagnostics.iter().filter(|finding| finding.is_error());
    let json = |finding: &Diagnostic| serde_json::to_value(finding).unwrap_or_default();
    RulesStatus {
        accepted: state.documents.as_ref().map_or(0, Vec::len),
        version,
        rejected: errors.map(json).collect(),
        held_back: state.held_back.iter().map(|(id, reason)| (id.to_string(), reason.clone())).collect(),
        problem: state.problem.clone(),
        clear_text: std::collections::BTreeMap::new(),
    }
}

/// Documents with an error; a file that cannot be read as documents is one.
fn rejected_documents(findings: &[Diagnostic]) -> usize {
    let errors = findings.iter().filter(|finding| finding.is_error());
    let file = |finding: &Diagnostic| finding.place.as_ref().map(|place| Arc::clone(&place.file));
    let of = errors.map(|finding| match &finding.resource {
        Some(resource) => (Some(resource.to_string()), None),
        None => (None, file(finding)),
    });
    of.collect::<BTreeSet<_>>().len()
}
