//! Rules from files: what is written becomes what is in force, except for what is wrong.
//!
//! Three layers keep a bad edit away from proxies. A set of files that as a whole makes no sense (a directory that
//! vanished or was emptied) is not taken at all. Of a set that is taken, what is wrong stays as it was
//! ([`LastGood`]). And what was accepted is saved, so that the next process starts from there and not from whatever the
//! files say by then.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use leno_config::diagnostic::Diagnostic;
use leno_config::rules::last_good::{LastGood, Outcome};
use leno_config::rules::{Document, ResourceId, Rule, SourceText, parse};
use leno_proxy::rule_files::{Look, RuleFiles};
use tracing::{error, info, warn};

/// Name of the saved set in the state directory.
const SAVED: &str = "rules.json";

/// How files become rules.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Files and directories.
    pub(crate) rules: Vec<PathBuf>,
    /// Where the accepted set is saved; `None`: nowhere.
    pub(crate) state: Option<PathBuf>,
    /// A directory without rules is meant so.
    pub(crate) allow_empty: bool,
}

/// Rules from files.
pub(crate) struct Files {
    options: Options,
    files: RuleFiles,
    /// As last handed out, to tell which files changed.
    texts: Vec<SourceText>,
    last_good: LastGood,
    /// A set of files was taken, or a saved one was restored: what is in force is complete.
    complete: bool,
    /// Documents were handed out, so that only a difference is news.
    handed_out: bool,
    /// What the log says about the files already.
    reported: BTreeSet<String>,
}

/// How the rules stand after a look at the files.
#[derive(Debug)]
pub(crate) struct State {
    /// In force; `None` before the first complete load.
    pub(crate) documents: Option<Vec<Document>>,
    /// Whether they differ from those of the state before.
    pub(crate) changed: bool,
    /// Findings about the files as they stand.
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Resources that are not served as they are written, and why.
    pub(crate) held_back: BTreeMap<ResourceId, String>,
    /// Why the files as a whole are not taken.
    pub(crate) problem: Option<String>,
    /// When the change was first seen.
    pub(crate) noticed: Instant,
}

impl Files {
    /// Starts to watch, from the saved set where there is one.
    pub(crate) fn watch(options: Options) -> Self {
        let restored = options.state.as_deref().and_then(restore);
        let files = RuleFiles::watch(options.rules.clone());
        let complete = restored.is_some();
        Self {
            options,
            files,
            texts: Vec::new(),
            last_good: restored.unwrap_or_default(),
            complete,
            handed_out: false,
            reported: BTreeSet::new(),
        }
    }

    /// The state at the first call, afterwards the state after the next change of the files.
    pub(crate) async fn next(&mut self) -> State {
        let texts = &self.texts;
        let look = self.files.next(|newer| only_endpoints_differ(texts, newer)).await;
        let mut state = self.take(look);
        if state.documents.is_some() {
            state.changed |= !std::mem::replace(&mut self.handed_out, true);
        }
        if state.changed && state.problem.is_none() {
            self.save();
        }
        state
    }

    fn take(&mut self, look: Look) -> State {
        let texts = match look {
            Ok(texts) => texts,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                return self.refuse(format!("{error}{cause}"));
            }
        };
        let parsed = parse(&texts);
        if let Some(path) = self.options.rules.iter().find(|path| !self.options.allow_empty && is_empty(path, &texts)) {
            let path = path.display();
            return self.refuse(format!("`{path}` holds no rule files; if that is meant, start with --allow-empty"));
        }
        self.texts = texts;
        self.complete = true;
        let Outcome { diagnostics, held_back, changed } = self.last_good.update(parsed);
        let held_back = held_back.into_iter().map(|(resource, reason)| (resource, reason.to_string())).collect();
        State { documents: self.documents(), changed, diagnostics, held_back, problem: None, noticed: self.noticed() }
    }

    /// What is in force stays.
    fn refuse(&self, problem: String) -> State {
        State {
            documents: self.documents(),
            changed: false,
            diagnostics: Vec::new(),
            held_back: BTreeMap::new(),
            problem: Some(problem),
            noticed: self.noticed(),
        }
    }

    fn noticed(&self) -> Instant {
        self.files.noticed().unwrap_or_else(Instant::now)
    }

    fn documents(&self) -> Option<Vec<Document>> {
        self.complete.then(|| self.last_good.documents().cloned().collect())
    }

    /// One line per finding that is news; what was said before is in `leno status`. For when the state is in force: who
    /// reads "rules in force" may rely on it.
    pub(crate) fn report(&mut self, state: &State) {
        let mut now = BTreeSet::new();
        let mut is_news = |line: &str| {
            now.insert(line.to_owned());
            !self.reported.contains(line)
        };
        if let Some(problem) = state.problem.as_deref().filter(|problem| is_news(problem)) {
            error!("the rules stay as they are: {problem}");
        }
        for finding in &state.diagnostics {
            let line = finding.to_string();
            match finding.is_error() {
                _ if !is_news(&line) => {}
                true => error!("{line}"),
                false => warn!("{line}"),
            }
        }
        for (resource, reason) in &state.held_back {
            let line = format!("{resource} {reason}");
            if is_news(&line) {
                warn!("{line}");
            }
        }
        self.reported = now;
        match &state.documents {
            Some(documents) if state.changed => info!(documents = documents.len(), "rules in force"),
            Some(_) => {}
            None => warn!("no rules are in force yet, proxies wait"),
        }
    }

    fn save(&self) {
        let Some(directory) = &self.options.state else { return };
        if let Err(cause) = write_atomically(&directory.join(SAVED), &self.last_good.save()) {
            let directory = directory.display();
            error!("the accepted rules cannot be saved in `{directory}`, a restart will depend on the files: {cause}");
        }
    }
}

/// Replaces a file as a whole: a reader sees the old contents or the new.
pub(crate) fn write_atomically(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(contents)?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

fn restore(state: &Path) -> Option<LastGood> {
    let path = state.join(SAVED);
    let saved = match std::fs::read(&path) {
        Ok(saved) => saved,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!("`{}` cannot be read, starting from the files alone: {error}", path.display());
            return None;
        }
    };
    match LastGood::restore(&saved) {
        Ok((last_good, findings)) => {
            for finding in findings {
                warn!("left out of the saved rules: {finding}");
            }
            Some(last_good)
        }
        Err(error) => {
            warn!("starting from the files alone: `{}`: {error}", path.display());
            None
        }
    }
}

fn is_empty(path: &Path, texts: &[SourceText]) -> bool {
    path.as_os_str() != "-"
        && !texts.iter().any(|source| Path::new(&*source.name).starts_with(path) && !source.text.is_empty())
}

/// Whether two sets of files differ in endpoints alone, which come and go and must not wait for an editor to finish.
fn only_endpoints_differ(old: &[SourceText], new: &[SourceText]) -> bool {
    let by_name = |texts: &'_ [SourceText]| {
        texts.iter().map(|source| (Arc::clone(&source.name), source.text.clone())).collect::<BTreeMap<_, _>>()
    };
    let (old, new) = (by_name(old), by_name(new));
    let differing = |these: &BTreeMap<Arc<str>, Vec<u8>>, those: &BTreeMap<Arc<str>, Vec<u8>>| {
        let differs = |(name, text): &(&Arc<str>, &Vec<u8>)| those.get(*name) != Some(*text);
        let source = |(name, text): (&Arc<str>, &Vec<u8>)| SourceText { name: Arc::clone(name), text: text.clone() };
        parse(&these.iter().filter(differs).map(source).collect::<Vec<_>>())
    };
    let (before, after) = (differing(&old, &new), differing(&new, &old));
    let texts = |documents: &[Document]| {
        documents.iter().map(|document| (document.id.clone(), Arc::clone(&document.text))).collect::<BTreeMap<_, _>>()
    };
    let (before_texts, after_texts) = (texts(&before.documents), texts(&after.documents));
    let is_endpoint = |document: &&Document| match document.rule {
        Rule::WorkloadEntry(_) | Rule::EndpointSlice(_) => true,
        Rule::VirtualService(_)
        | Rule::DestinationRule(_)
        | Rule::ServiceEntry(_)
        | Rule::Sidecar(_)
        | Rule::PeerAuthentication(_)
        | Rule::AuthorizationPolicy(_)
        | Rule::RequestAuthentication(_)
        | Rule::MeshConfig(_)
        | Rule::HealthCheck(_)
        | Rule::RateLimit(_)
        | Rule::Service(_) => before_texts.get(&document.id) == after_texts.get(&document.id),
    };
    let clean = !after.diagnostics.iter().any(Diagnostic::is_error);
    clean && before.documents.iter().all(|it| is_endpoint(&it)) && after.documents.iter().all(|it| is_endpoint(&it))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, text: &str) -> SourceText {
        SourceText { name: name.into(), text: text.as_bytes().to_vec() }
    }

    fn workload(address: &str) -> String {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: a}}\nspec: {{address: {address}}}\n"
        )
    }

    const SERVICE: &str = "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec: {hosts: [a.example.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
";

    #[test]
    fn endpoints_that_come_go_or_change_are_told_from_everything_else() {
        let (one, other) = (workload("127.0.0.1"), workload("127.0.0.2"));
        let both = format!("{one}{SERVICE}");
        let moved = format!("{other}{SERVICE}");
        let edited = moved.replace("a.example.com", "b.example.com");
        let cases = [
            ("an address changes", one.as_str(), other.as_str(), true),
            ("an endpoint comes", "", one.as_str(), true),
            ("an endpoint goes", both.as_str(), SERVICE, true),
            ("an address changes beside a service", both.as_str(), moved.as_str(), true),
            ("the service changes too", both.as_str(), edited.as_str(), false),
            ("a service comes", one.as_str(), both.as_str(), false),
            ("a service goes", both.as_str(), one.as_str(), false),
            ("half a file", both.as_str(), "apiVersion: [", false),
        ];
        for (what, old, new, expected) in cases {
            let unchanged = source("other.yaml", SERVICE);
            let old = [source("a.yaml", old), unchanged.clone()];
            let new = [source("a.yaml", new), unchanged];
            assert_eq!(only_endpoints_differ(&old, &new), expected, "{what}");
        }
    }

    #[test]
    fn a_directory_is_empty_when_no_file_below_it_holds_anything() {
        let texts = [source("rules/a.yaml", "kind: A"), source("other/b.yaml", ""), source("c.yaml", "kind: C")];
        let cases = [("rules", false), ("other", true), ("c.yaml", false), ("rule", true), ("-", false)];
        for (path, expected) in cases {
            assert_eq!(is_empty(Path::new(path), &texts), expected, "{path}");
        }
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deeper/file.json");
        for contents in ["one", "two"] {
            write_atomically(&path, contents.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), contents);
        }
        let names = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "no temporary file is left");
    }

    #[test]
    fn a_damaged_saved_set_does_not_keep_a_process_from_starting() {
        let directory = tempfile::tempdir().unwrap();
        assert!(restore(directory.path()).is_none());
        std::fs::write(directory.path().join(SAVED), "{").unwrap();
        assert!(restore(directory.path()).is_none());
    }
}
