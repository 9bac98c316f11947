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
use crate::validate::{check, validate};

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
    /// It has an error, or would break another resource, and has no previous version; it is not served.
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
            Self::Absent => "is left out: it has an error, or breaks another resource, and has no previous version",
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
        let diagnostics = check(&parsed);
        let mut attempt = Attempt::new(&self.documents, parsed.documents, &diagnostics);
        for _ in 0..MAX_ROUNDS {
            if !attempt.take_back_what_is_wrong() && !attempt.take_back_what_breaks_others() {
                break;
            }
        }
        let Attempt { candidate, held_back, .. } = attempt;
        let changed = !same(&self.documents, &candidate);
        self.documents = candidate;
        Outcome { diagnostics, held_back, changed }
    }

    /// The documents in force, as bytes for [`LastGood::restore`]: their own text, file by file, on the lines on which
    /// it stood, so that places are right in the next process too. Objects of Kubernetes' API are not among them: the
    /// API server keeps those.
    #[expect(clippy::expect_used, reason = "texts and numbers")]
    pub fn save(&self) -> Vec<u8> {
        let mut files = BTreeMap::<&str, Vec<&Document>>::new();
        for document in self.documents.values().filter(|document| !document.is_object()) {
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
        let changed = self.before.keys().chain(self.candidate.keys()).filter(|it| self.is_changed(it));
        let changed = changed.cloned().collect::<BTreeSet<_>>();
        let written = (self.candidate.clone(), self.held_back.clone());
        let all_broken = self.errors().len();
        let mut broken = all_broken;
        if broken == 0 || changed.is_empty() {
            return false;
        }
        if changed.len() <= MAX_TRIALS {
            for resource in &changed {
                let without = (self.candidate.clone(), self.held_back.clone());
                self.take_back(resource, HeldBack::Needed);
                match self.errors().len() {
                    fewer if fewer < broken => broken = fewer,
                    _ => (self.candidate, self.held_back) = without,
                }
            }
        }
        if broken == all_broken {
            // No single change is to blame, or there are too many to tell.
            for resource in &changed {
                self.take_back(resource, HeldBack::Needed);
            }
            broken = self.errors().len();
        }
        if broken == all_broken {
            (self.candidate, self.held_back) = written;
        }
        broken < all_broken
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
            line = line.saturating_add(1);
        }
        let boundary = if has_boundary || text.is_empty() { "" } else { "---\n" };
        for part in [boundary, document.text.trim_end(), "\n"] {
            line = line.saturating_add(u32::try_from(part.matches('\n').count()).unwrap_or(u32::MAX));
            text.push_str(part);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: reviews}
spec: {hosts: [reviews.default.svc.cluster.local], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
";

    fn subsets(names: &[&str]) -> String {
        let subsets = names.iter().map(|name| format!("{{name: {name}, labels: {{version: {name}}}}}"));
        let subsets = subsets.collect::<Vec<_>>().join(", ");
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: reviews}}\n\
             spec: {{host: reviews, subsets: [{subsets}]}}\n"
        )
    }

    fn route(name: &str, subset: &str) -> String {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\n\
             spec: {{hosts: [{name}], http: [{{route: [{{destination: {{host: reviews, subset: {subset}}}}}]}}]}}\n"
        )
    }

    fn files(files: &[(&str, &str)]) -> Parsed {
        let source = |(name, text): &(&str, &str)| SourceText { name: (*name).into(), text: text.as_bytes().to_vec() };
        parse(&files.iter().map(source).collect::<Vec<_>>())
    }

    /// Where each document in force comes from, as `KIND name: text`.
    fn in_force(rules: &LastGood) -> Vec<String> {
        rules.documents().map(|document| format!("{}: {}", document.id, document.text.trim())).collect()
    }

    fn good() -> LastGood {
        let mut rules = LastGood::default();
        let outcome = rules.update(files(&[
            ("service.yaml", SERVICE),
            ("subsets.yaml", &subsets(&["v1", "v2"])),
            ("route.yaml", &route("reviews", "v2")),
        ]));
        assert!(outcome.changed && outcome.held_back.is_empty(), "{outcome:?}");
        rules
    }

    fn held_back(outcome: &Outcome) -> Vec<(String, HeldBack)> {
        outcome.held_back.iter().map(|(resource, reason)| (resource.to_string(), *reason)).collect()
    }

    #[test]
    fn what_is_wrong_stays_as_it_was_and_the_rest_proceeds() {
        let bad_route = route("reviews", "v2").replace("spec: {", "spec: {retires: 1, ");
        let unknown_subset = route("reviews", "v9");
        let new_bad_route = route("ratings", "v9");
        let fewer = subsets(&["v1"]);
        let more = subsets(&["v1", "v2", "v3"]);
        let both = subsets(&["v1", "v2"]);
        let route = route("reviews", "v2");
        let reviews = || "VirtualService default/reviews".to_owned();
        type Case<'a> = (&'a str, Vec<(&'a str, &'a str)>, Vec<(String, HeldBack)>);
        let cases: [Case<'_>; 8] = [
            ("nothing new", vec![("subsets.yaml", &both), ("route.yaml", &route)], vec![]),
            (
                "an unknown field, while another file changes",
                vec![("subsets.yaml", &more), ("route.yaml", &bad_route)],
                vec![(reviews(), HeldBack::Previous)],
            ),
            (
                "a subset that never was",
                vec![("subsets.yaml", &both), ("route.yaml", &unknown_subset)],
                vec![(reviews(), HeldBack::Previous)],
            ),
            (
                "a file that is no YAML",
                vec![("subsets.yaml", &both), ("route.yaml", "spec: [")],
                vec![(reviews(), HeldBack::Unreadable)],
            ),
            (
                "a new rule with an error",
                vec![("subsets.yaml", &both), ("route.yaml", &route), ("new.yaml", &new_bad_route)],
                vec![("VirtualService default/ratings".to_owned(), HeldBack::Absent)],
            ),
            (
                "a subset taken away from a rule that uses it",
                vec![("subsets.yaml", &fewer), ("route.yaml", &route)],
                vec![("DestinationRule default/reviews".to_owned(), HeldBack::Needed)],
            ),
            (
                "the whole DestinationRule taken away from a rule that uses it",
                vec![("route.yaml", &route)],
                vec![("DestinationRule default/reviews".to_owned(), HeldBack::Needed)],
            ),
            ("both taken away", vec![], vec![]),
        ];
        for (what, mut written, expected) in cases {
            let mut rules = good();
            written.push(("service.yaml", SERVICE));
            let outcome = rules.update(files(&written));
            assert_eq!(held_back(&outcome), expected, "{what}: {:?}", outcome.diagnostics);
            let errors = validate(&rules.documents().cloned().collect::<Vec<_>>());
            assert!(!errors.iter().any(Diagnostic::is_error), "{what}: {errors:?}");
            assert_eq!(
                in_force(&rules).iter().any(|text| text.contains("v3")),
                what.contains("another file"),
                "{what}"
            );
        }
    }

    #[test]
    fn a_rule_that_needs_what_is_held_back_is_held_back_too() {
        let mut rules = good();
        let broken_subsets = subsets(&["v1", "v2", "v3"]).replace("spec: {", "spec: {hots: a, ");
        let outcome = rules.update(files(&[
            ("service.yaml", SERVICE),
            ("subsets.yaml", &broken_subsets),
            ("route.yaml", &route("reviews", "v3")),
        ]));
        let expected = ["DestinationRule default/reviews", "VirtualService default/reviews"];
        assert_eq!(
            held_back(&outcome),
            expected.map(|resource| (resource.to_owned(), HeldBack::Previous)),
            "{:?}",
            outcome.diagnostics
        );
        assert!(!outcome.changed);
    }

    #[test]
    fn a_repaired_document_is_taken() {
        let mut rules = good();
        let update = |rules: &mut LastGood, subset: &str| {
            rules.update(files(&[
                ("service.yaml", SERVICE),
                ("subsets.yaml", &subsets(&["v1", "v2"])),
                ("route.yaml", &route("reviews", subset)),
            ]))
        };
        assert!(!update(&mut rules, "v9").changed);
        let outcome = update(&mut rules, "v1");
        assert!(outcome.changed && outcome.held_back.is_empty() && outcome.diagnostics.iter().all(|it| !it.is_error()));
        assert!(in_force(&rules).iter().any(|text| text.contains("subset: v1")));
    }

    #[test]
    fn what_was_saved_is_in_force_after_a_restart_with_its_places() {
        let mut rules = LastGood::default();
        let all =
            format!("# two rules\n{SERVICE}---\n{}\n\n---\n# the route\n{}", subsets(&["v2"]), route("reviews", "v2"));
        rules.update(files(&[("all.yaml", &all), ("more.yaml", &route("ratings", "v2"))]));
        assert_eq!(rules.documents().len(), 4);
        let (restored, findings) = LastGood::restore(&rules.save()).unwrap();
        assert!(findings.is_empty(), "{findings:?}");
        assert_eq!(in_force(&restored), in_force(&rules));
        let places = |rules: &LastGood| rules.documents().map(|it| it.place.to_string()).collect::<Vec<_>>();
        assert_eq!(places(&restored), places(&rules));
        // A bad file after the restart still finds its predecessors.
        let mut restored = restored;
        let outcome = restored.update(files(&[("all.yaml", "spec: ["), ("more.yaml", &route("ratings", "v2"))]));
        assert_eq!((outcome.held_back.len(), outcome.changed), (3, false));
    }

    #[test]
    fn a_damaged_saved_set_is_refused_with_a_reason() {
        for (saved, words) in [("{", "cannot be read"), (r#"{"format":9,"files":[]}"#, "format 9")] {
            let error = LastGood::restore(saved.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn many_changes_at_once_that_break_something_stay_out_together() {
        let mut rules = good();
        let extra = |version: &str| {
            let entry = |index: usize| SERVICE.replace("reviews", &format!("s{index}-{version}"));
            (0..=MAX_TRIALS).map(entry).collect::<Vec<_>>().join("---")
        };
        let outcome = rules.update(files(&[
            ("service.yaml", SERVICE),
            ("route.yaml", &route("reviews", "v2")),
            ("subsets.yaml", &subsets(&["v1", "v2"])),
            ("extra.yaml", &extra("a")),
        ]));
        assert!(outcome.held_back.is_empty(), "{outcome:?}");
        let outcome = rules.update(files(&[("service.yaml", SERVICE), ("route.yaml", &route("reviews", "v2"))]));
        assert_eq!(outcome.held_back.len(), MAX_TRIALS + 2, "{:?}", held_back(&outcome));
        assert!(!validate(&rules.documents().cloned().collect::<Vec<_>>()).iter().any(Diagnostic::is_error));
    }
}
