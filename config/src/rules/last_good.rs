//! Last good, per resource: what is served when some of what is written is wrong.
//!
//! A document with an error keeps its previous version, and a new one with an error is left out; all others proceed.
//! "Error" is meant in the context of everything else that is served, so three cases go beyond the document itself:
//!
//! * A file that cannot be read as YAML does not say which documents it holds. Those that came from it stay.
//! * A change of one document may break another that did not change: a DestinationRule loses the subset that a
//!   VirtualService sends requests to. Then the *change* stays out, and what was served stays whole.
//! * What stays as it was may in turn not fit something new, which then stays out too.
//!
//! Everything that was accepted can be saved ([`LastGood::save`]) and taken up by the next process, which thereby
//! starts from the same set even if the files have become worse in between.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Document, Parsed, ResourceId, SourceText, parse};
use crate::diagnostic::Diagnostic;
use crate::validate::validate;

/// More changes at once than that are not tried one by one when something unchanged breaks; all of them stay out.
const MAX_TRIALS: usize = 64;
/// Each round takes something back, so that few are needed; a set that is not at rest by then is served as it is.
const MAX_ROUNDS: usize = 16;
/// Format of the saved set.
const FORMAT: u32 = 1;

/// The documents in force.
#[derive(Debug, Clone, Default)]
pub struct LastGood {
    documents: BTreeMap<ResourceId, Document>,
}

/// What became of a set of files.
#[derive(Debug)]
pub struct Outcome {
    /// Findings about the files as they stand, warnings included.
    pub diagnostics: Vec<Diagnostic>,
    /// Resources that are not served as they are written, and why.
    pub held_back: BTreeMap<ResourceId, HeldBack>,
    /// Whether other documents are in force than before.
    pub changed: bool,
}

/// Why a resource is not served as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBack {
    /// It has an error; its previous version is served.
    Previous,
    /// It has an error and no previous version; it is not served.
    Absent,
    /// Its file cannot be read, so nobody knows what has become of it; its previous version is served.
    Unreadable,
    /// Its change would break another resource; its previous version is served.
    Needed,
}

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Previous => "has an error; its previous version stays in force",
            Self::Absent => "has an error and no previous version; it is left out",
            Self::Unreadable => "came from a file that cannot be read now; its previous version stays in force",
            Self::Needed => "would break another resource if it changed; its previous version stays in force",
        })
    }
}

/// A saved set that cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is damaged or something else.
    #[error("the saved rules cannot be read; they are written anew at the next change")]
    Damaged(#[from] serde_json::Error),
    /// Another version of Leno wrote it.
    #[error(
        "the saved rules have format {0} and this version reads {FORMAT}; they are written anew at the next change"
    )]
    Format(u32),
}

#[derive(Serialize, Deserialize)]
struct Saved {
    format: u32,
    files: Vec<SavedFile>,
}

#[derive(Serialize, Deserialize)]
struct SavedFile {
    file: String,
    text: String,
}

impl LastGood {
    /// The documents in force, by kind, namespace and name.
    pub fn documents(&self) -> impl ExactSizeIterator<Item = &Document> {
        self.documents.values()
    }

    /// Takes what the files say, except for what is wrong.
    pub fn update(&mut self, parsed: Parsed) -> Outcome {
        let Parsed { documents, mut diagnostics, .. } = parsed;
        diagnostics.extend(validate(&documents));
        let mut attempt = Attempt::new(&self.documents, documents, &diagnostics);
        for _ in 0..MAX_ROUNDS {
            if !attempt.take_back_what_is_wrong() && !attempt.take_back_what_breaks_others() {
                break;
            }
        }
        let Attempt { candidate, held_back, .. } = attempt;
        let changed = !same(&self.documents, &candidate);
        self.documents = candidate;
        crate::diagnostic::sort(&mut diagnostics);
        Outcome { diagnostics, held_back, changed }
    }

    /// The documents in force, as bytes for [`LastGood::restore`]: their own text, file by file, on the lines on which
    /// it stood, so that places are right in the next process too.
    pub fn save(&self) -> Vec<u8> {
        let mut files = BTreeMap::<&str, Vec<&Document>>::new();
        for document in self.documents.values() {
            files.entry(&document.place.file).or_default().push(document);
        }
        let files = files.into_iter().map(|(file, mut documents)| {
            documents.sort_by_key(|document| document.source.first_line);
            SavedFile { file: file.to_owned(), text: on_their_lines(&documents) }
        });
        let saved = Saved { format: FORMAT, files: files.collect() };
        serde_json::to_vec(&saved).expect("invariant: texts serialise")
    }

    /// Takes up a saved set. What this version cannot read any more is left out and reported.
    pub fn restore(saved: &[u8]) -> Result<(Self, Vec<Diagnostic>), RestoreError> {
        let Saved { format, files } = serde_json::from_slice(saved)?;
        if format != FORMAT {
            return Err(RestoreError::Format(format));
        }
        let source = |SavedFile { file, text }| SourceText { name: Arc::from(file), text: text.into_bytes() };
        let Parsed { documents, mut diagnostics, .. } = parse(&files.into_iter().map(source).collect::<Vec<_>>());
        diagnostics.retain(Diagnostic::is_error);
        let bad = resources(&diagnostics);
        let documents = documents.into_iter().filter(|document| !bad.contains(&document.id));
        Ok((Self { documents: first_of_each(documents) }, diagnostics))
    }
}

/// A set on its way to being accepted.
struct Attempt<'a> {
    before: &'a BTreeMap<ResourceId, Document>,
    candidate: BTreeMap<ResourceId, Document>,
    held_back: BTreeMap<ResourceId, HeldBack>,
}

impl<'a> Attempt<'a> {
    /// Everything as written, except for what is wrong in itself.
    fn new(before: &'a BTreeMap<ResourceId, Document>, written: Vec<Document>, findings: &[Diagnostic]) -> Self {
        let mut attempt = Self { before, candidate: first_of_each(written), held_back: BTreeMap::new() };
        for resource in resources(findings) {
            // What is wrong only beside something else is decided later; what did not change is not the culprit.
            if attempt.is_changed(&resource) {
                attempt.take_back(&resource, HeldBack::Previous);
            }
        }
        let unreadable = findings.iter().filter(|finding| finding.is_error() && finding.resource.is_none());
        let unreadable = unreadable.filter_map(|finding| finding.place.as_ref()).map(|place| &place.file);
        let unreadable = unreadable.collect::<BTreeSet<_>>();
        for (resource, document) in before {
            if !attempt.candidate.contains_key(resource) && unreadable.contains(&document.place.file) {
                attempt.take_back(resource, HeldBack::Unreadable);
            }
        }
        attempt
    }

    /// Changed documents that have an error beside all others. Returns whether there were any.
    fn take_back_what_is_wrong(&mut self) -> bool {
        let wrong = self.errors().into_iter().filter(|resource| self.is_changed(resource)).collect::<Vec<_>>();
        for resource in &wrong {
            self.take_back(resource, HeldBack::Previous);
        }
        !wrong.is_empty()
    }

    /// Changes without which an unchanged document would have no error. Returns whether there were any.
    fn take_back_what_breaks_others(&mut self) -> bool {
        let mut broken = self.errors().len();
        let changed = self.before.keys().filter(|resource| self.is_changed(resource)).cloned().collect::<Vec<_>>();
        if broken == 0 || changed.is_empty() {
            return false;
        }
        let mut any = false;
        for resource in &changed {
            let written = self.candidate.get(resource).cloned();
            let reason = self.held_back.get(resource).copied();
            self.take_back(resource, HeldBack::Needed);
            let now = if changed.len() > MAX_TRIALS { 0 } else { self.errors().len() };
            if now < broken {
                any = true;
                broken = if changed.len() > MAX_TRIALS { broken } else { now };
            } else {
                restore_entry(&mut self.candidate, resource, written);
                restore_entry(&mut self.held_back, resource, reason);
            }
        }
        any
    }

    fn errors(&self) -> BTreeSet<ResourceId> {
        let documents = self.candidate.values().cloned().collect::<Vec<_>>();
        resources(&validate(&documents))
    }

    fn is_changed(&self, resource: &ResourceId) -> bool {
        let text = |documents: &BTreeMap<ResourceId, Document>| documents.get(resource).map(|it| Arc::clone(&it.text));
        !(self.before.contains_key(resource) && text(self.before) == text(&self.candidate))
            && (self.before.contains_key(resource) || self.candidate.contains_key(resource))
    }

    fn take_back(&mut self, resource: &ResourceId, reason: HeldBack) {
        match self.before.get(resource) {
            Some(previous) => {
                self.candidate.insert(resource.clone(), previous.clone());
                self.held_back.insert(resource.clone(), reason);
            }
            None => {
                self.candidate.remove(resource);
                self.held_back.insert(resource.clone(), HeldBack::Absent);
            }
        }
    }
}

fn restore_entry<V>(map: &mut BTreeMap<ResourceId, V>, key: &ResourceId, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key.clone(), value)),
        None => drop(map.remove(key)),
    }
}

/// Resources with an error.
fn resources(diagnostics: &[Diagnostic]) -> BTreeSet<ResourceId> {
    diagnostics.iter().filter(|finding| finding.is_error()).filter_map(|finding| finding.resource.clone()).collect()
}

/// A name that stands twice is an error of the second.
fn first_of_each(documents: impl IntoIterator<Item = Document>) -> BTreeMap<ResourceId, Document> {
    let mut first = BTreeMap::new();
    for document in documents {
        first.entry(document.id.clone()).or_insert(document);
    }
    first
}

fn same(one: &BTreeMap<ResourceId, Document>, other: &BTreeMap<ResourceId, Document>) -> bool {
    let texts = |documents: &BTreeMap<ResourceId, Document>| {
        documents.iter().map(|(resource, document)| (resource.clone(), Arc::clone(&document.text))).collect::<Vec<_>>()
    };
    texts(one) == texts(other)
}

/// The texts, each starting on the line on which it stood, as far as those before it leave room.
fn on_their_lines(documents: &[&Document]) -> String {
    let mut text = String::new();
    let mut line = 1_u32;
    for document in documents {
        let has_boundary = document.text.starts_with("---");
        let start = document.source.first_line.saturating_sub(u32::from(!has_boundary));
        while line < start {
            text.push('\n');
            line += 1;
        }
        let boundary = if has_boundary || text.is_empty() { "" } else { "---\n" };
        for part in [boundary, document.text.trim_end(), "\n"] {
            line = line.saturating_add(u32::try_from(part.matches('\n').count()).unwrap_or(u32::MAX));
            text.push_str(part);
        }
    }
    text
}
