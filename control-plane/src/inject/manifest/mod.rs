//! Injection into what people write: files of Kubernetes resources.
//!
//! What is not touched comes out byte for byte: documents without pods, separators, comments, and inside a document with a
//! pod every line that injection does not change ([`edit`]). A text that cannot be edited line by line (JSON, a pod in
//! braces) is written anew; either way what was written is read again and has to be what was meant.

mod documents;
mod edit;
mod outline;

use std::collections::BTreeMap;

use leno_config::rules::SourceText;
use serde_json::Value;

use super::marks::{Mark, Marks, Place};
use super::owners::{self, Owner};
use super::{Injection, Problems, Settings, Surroundings, inject, uninject};
use documents::Piece;
use outline::Outline;

/// Files as they were read, their documents known.
#[derive(Debug)]
pub(crate) struct Manifest {
    files: Vec<File>,
}

#[derive(Debug)]
struct File {
    name: String,
    pieces: Vec<Piece>,
}

/// A document that is not YAML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {reason}")]
pub(crate) struct NotYaml {
    /// Which file.
    pub(crate) file: String,
    /// From 1.
    pub(crate) line: usize,
    /// What the parser says.
    pub(crate) reason: String,
}

/// What is known about namespaces beside the files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Namespaces {
    /// Where a resource is that does not say.
    pub(crate) default: String,
    /// Labels that every namespace has in addition.
    pub(crate) labels: BTreeMap<String, String>,
}

/// A resource with a pod, and what became of it.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Which resource.
    pub(crate) owner: Owner,
    /// Its namespace.
    pub(crate) namespace: String,
    /// Where it begins.
    pub(crate) position: Position,
    /// What was decided and done.
    pub(crate) outcome: Result<Injection, Problems>,
    /// Where the label or annotation stands that decided, if it stands in a file.
    pub(crate) decided_at: Option<Position>,
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Position {
    /// Which file.
    pub(crate) file: String,
    /// From 1.
    pub(crate) line: usize,
}

/// Text that came out, and what was done.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The files behind each other.
    pub(crate) text: String,
    /// One for each resource with a pod, in the order of the files.
    pub(crate) verdicts: Vec<Verdict>,
}

/// A resource with a pod, and whether that had a sidecar.
pub(crate) type Uninjected = (Owner, Result<bool, Problems>);

impl Manifest {
    /// Splits and reads all documents.
    pub(crate) fn read(sources: &[SourceText]) -> Result<Self, NotYaml> {
        let files = sources.iter().map(|source| {
            let told = |(line, reason)| NotYaml { file: source.name.to_string(), line, reason };
            let text =
                std::str::from_utf8(&source.text).map_err(|_| told((1, "this is no text (UTF-8)".to_owned())))?;
            Ok(File { name: source.name.to_string(), pieces: documents::split(text).map_err(told)? })
        });
        Ok(Self { files: files.collect::<Result<_, NotYaml>>()? })
    }

    /// What injection would make of every resource with a pod. Nothing is written.
    pub(crate) fn verdicts(&self, settings: &Settings, namespaces: &Namespaces) -> Vec<Verdict> {
        let known = self.namespaces();
        let pieces = self.pieces().filter_map(|(file, piece)| Some((file, piece, piece.value.as_ref()?)));
        let owned = pieces.flat_map(|(file, piece, value)| {
            owners::find(value).into_iter().map(move |owner| (file, piece, value, owner))
        });
        owned
            .map(|(file, piece, value, owner)| verdict(file, piece, value, owner, settings, namespaces, &known))
            .collect()
    }

    /// Injects into every pod that should have a sidecar.
    pub(crate) fn inject(&self, settings: &Settings, namespaces: &Namespaces) -> Outcome {
        let verdicts = self.verdicts(settings, namespaces);
        let mut rest = verdicts.iter();
        let text = self.rewrite(|owner, _| {
            let verdict = rest.next().filter(|verdict| verdict.owner == *owner)?;
            verdict.outcome.as_ref().ok()?.changed.clone()
        });
        Outcome { text, verdicts }
    }

    /// Takes every sidecar out. The text, and for each resource with a pod whether it had one.
    pub(crate) fn uninject(&self) -> (String, Vec<Uninjected>) {
        let mut done = Vec::new();
        let text = self.rewrite(|owner, pod| {
            let bare = uninject(pod);
            let changed = bare.as_ref().ok().cloned().flatten();
            done.push((owner.clone(), bare.map(|bare| bare.is_some())));
            changed
        });
        (text, done)
    }

    /// The files behind each other, with what `change` makes of each pod.
    fn rewrite(&self, mut change: impl FnMut(&Owner, &Value) -> Option<Value>) -> String {
        let mut text = String::new();
        for file in &self.files {
            // Two documents of two files.
            if !text.is_empty() && file.pieces.first().is_some_and(|piece| piece.value.is_some()) {
                documents::join(&mut text, "---\n");
            }
            for piece in &file.pieces {
                documents::join(&mut text, &rewritten(piece, &mut change));
            }
        }
        text
    }

    fn pieces(&self) -> impl Iterator<Item = (&str, &Piece)> {
        self.files.iter().flat_map(|file| file.pieces.iter().map(|piece| (file.name.as_str(), piece)))
    }

    /// The Namespaces in the files: their marks, and where they stand.
    fn namespaces(&self) -> BTreeMap<&str, (&str, &Piece, Marks)> {
        let found = self.pieces().filter_map(|(file, piece)| {
            let value = piece.value.as_ref()?;
            let is_namespace = value.get("kind")? == "Namespace" && value.get("apiVersion")? == "v1";
            let name = value.pointer("/metadata/name")?.as_str().filter(|_| is_namespace)?;
            // What is no text is told by Kubernetes; here it counts as not there.
            let marks = Marks::of_namespace(value.get("metadata")).unwrap_or_default();
            Some((name, (file, piece, marks)))
        });
        found.collect()
    }
}

fn rewritten(piece: &Piece, change: &mut impl FnMut(&Owner, &Value) -> Option<Value>) -> String {
    let Some(value) = &piece.value else { return piece.text.clone() };
    let mut new = value.clone();
    for owner in owners::find(value) {
        let changed = value.pointer(&owner.template).and_then(|pod| change(&owner, pod));
        if let (Some(changed), Some(place)) = (changed, new.pointer_mut(&owner.template)) {
            *place = changed;
        }
    }
    edit::changed(&piece.text, value, &new)
}

fn verdict(
    file: &str,
    piece: &Piece,
    document: &Value,
    owner: Owner,
    settings: &Settings,
    namespaces: &Namespaces,
    known: &BTreeMap<&str, (&str, &Piece, Marks)>,
) -> Verdict {
    let namespace = owner.namespace.clone().unwrap_or_else(|| namespaces.default.clone());
    let written = known.get(namespace.as_str());
    let mut marks = written.map(|(_, _, marks)| marks.clone()).unwrap_or_default();
    marks.labels.extend(namespaces.labels.clone());
    let workload = if owner.kind == "Pod" { pod_name(document, &owner) } else { owner.name.clone() };
    let around = Surroundings { namespace: &namespace, marks: &marks, workload: &workload, purpose: owner.purpose };
    let template = document.pointer(&owner.template).unwrap_or(&Value::Null);
    let outcome = inject(template, &around, settings);
    let decided_at = outcome.as_ref().ok().and_then(|injection| injection.decision.mark()).and_then(|mark| match mark
        .place
    {
        Place::PodLabel | Place::PodAnnotation => Some(place(file, piece, &owner.template, mark)),
        Place::NamespaceLabel | Place::NamespaceAnnotation => {
            let (file, piece, written) = written?;
            let is_written = written.labels.get(&mark.key).or(written.annotations.get(&mark.key)) == Some(&mark.value);
            is_written.then(|| place(file, piece, "", mark))
        }
    });
    let position = Position { file: file.to_owned(), line: piece.line };
    Verdict { owner, namespace, position, outcome, decided_at }
}

/// A pod that something made has that thing's name in it.
fn pod_name(document: &Value, owner: &Owner) -> String {
    let metadata = document.pointer(&owner.template).and_then(|pod| pod.get("metadata"));
    metadata.map_or_else(|| owner.name.clone(), |metadata| owners::of_pod(metadata).0)
}

/// Where a label or annotation stands, or the document where that cannot be told.
fn place(file: &str, piece: &Piece, template: &str, mark: &Mark) -> Position {
    let field = match mark.place {
        Place::PodLabel | Place::NamespaceLabel => "labels",
        Place::PodAnnotation | Place::NamespaceAnnotation => "annotations",
    };
    let mut steps: Vec<&str> = template.split('/').skip(1).collect();
    steps.extend(["metadata", field, &mark.key]);
    let outline = Outline::of(&piece.text);
    // In braces: the first line that has the name.
    let found = outline.line_of(&steps).or_else(|| piece.text.lines().position(|line| line.contains(&mark.key)));
    Position { file: file.to_owned(), line: piece.line + found.unwrap_or(0) }
}
