//! Where rules come from, and what of them is in force.
//!
//! Each source (a set of [`files`], the API server of a [`kubernetes`] cluster) hands out what is written there, whenever it
//! changes, and knows nothing of the others. [`Accepted`] puts them together: what is written becomes what is in force,
//! except for what is wrong. Three layers keep a bad edit away from proxies. A source that as a whole makes no sense (a
//! directory that vanished, an API server that has not listed everything yet) is not taken at all. Of what is taken, what
//! is wrong stays as it was ([`LastGood`]). And what was accepted of files is saved, so that the next process starts from
//! there and not from whatever the files say by then; what is in the API server, that one keeps.

pub(crate) mod files;
pub(crate) mod kubernetes;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use leno_config::diagnostic::Diagnostic;
use leno_config::rules::last_good::{LastGood, Outcome};
use leno_config::rules::{Document, Parsed, ResourceId};
use tracing::{error, info, warn};

/// Name of the saved set in the state directory.
const SAVED: &str = "rules.json";

/// What a source says.
pub(crate) struct Written {
    /// All that is written there; else why it is not taken.
    pub(crate) rules: Result<Parsed, String>,
    /// When the change was first seen.
    pub(crate) noticed: Instant,
}

/// A source by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Files,
    Kubernetes,
}

/// Rules of all sources, and what of them is in force.
pub(crate) struct Accepted {
    /// Where the accepted set is saved; `None`: nowhere.
    state: Option<PathBuf>,
    last_good: LastGood,
    files: Taken,
    kubernetes: Taken,
    /// Documents were handed out, so that only a difference is news.
    handed_out: bool,
    /// What the log says about the rules already.
    reported: BTreeSet<String>,
}

/// How far a source is.
enum Taken {
    /// It is not asked.
    Not,
    /// Nothing was taken yet.
    Awaited,
    /// This was, last.
    Rules(Box<Parsed>),
}

/// How the rules stand after word of a source.
#[derive(Debug)]
pub(crate) struct State {
    /// In force; `None` before the first complete load.
    pub(crate) documents: Option<Vec<Document>>,
    /// Whether they differ from those of the state before.
    pub(crate) changed: bool,
    /// Findings about what is written.
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Resources that are not served as they are written, and why.
    pub(crate) held_back: BTreeMap<ResourceId, String>,
    /// Why a source as a whole is not taken.
    pub(crate) problem: Option<String>,
    /// When the change was first seen.
    pub(crate) noticed: Instant,
}

impl Accepted {
    /// Starts from the saved set where there is one.
    pub(crate) fn open(sources: &[Source], state: Option<PathBuf>) -> Self {
        let restored = state.as_deref().filter(|_| sources.contains(&Source::Files)).and_then(restore);
        let awaited = |source| if sources.contains(&source) { Taken::Awaited } else { Taken::Not };
        let files = match &restored {
            Some(saved) => {
                let documents = saved.documents().cloned().collect();
                Taken::Rules(Box::new(Parsed { documents, ..Parsed::default() }))
            }
            None => awaited(Source::Files),
        };
        Self {
            state,
            last_good: restored.unwrap_or_default(),
            files,
            kubernetes: awaited(Source::Kubernetes),
            handed_out: false,
            reported: BTreeSet::new(),
        }
    }

    /// Takes what a source says, except for what is wrong.
    pub(crate) fn take(&mut self, source: Source, written: Written) -> State {
        let Written { rules, noticed } = written;
        let mut state = match rules {
            Ok(parsed) => {
                let taken = Taken::Rules(Box::new(parsed));
                match source {
                    Source::Files => self.files = taken,
                    Source::Kubernetes => self.kubernetes = taken,
                }
                self.update(noticed)
            }
            Err(problem) => self.unchanged(Some(problem), noticed),
        };
        if state.documents.is_some() {
            state.changed |= !std::mem::replace(&mut self.handed_out, true);
        }
        if state.changed && state.problem.is_none() {
            self.save();
        }
        state
    }

    fn update(&mut self, noticed: Instant) -> State {
        if !self.is_complete() {
            let problem = match self.kubernetes {
                Taken::Awaited => Some("the API server has not listed everything yet".to_owned()),
                Taken::Not | Taken::Rules(_) => None,
            };
            return self.unchanged(problem, noticed);
        }
        let mut all = Parsed::default();
        let taken = [&self.files, &self.kubernetes].into_iter().filter_map(Taken::rules);
        all.absorb(taken.cloned());
        let Outcome { diagnostics, held_back, changed } = self.last_good.update(all);
        let held_back = held_back.into_iter().map(|(resource, reason)| (resource, reason.to_string())).collect();
        State { documents: self.documents(), changed, diagnostics, held_back, problem: None, noticed }
    }

    /// What is in force stays.
    fn unchanged(&self, problem: Option<String>, noticed: Instant) -> State {
        State {
            documents: self.documents(),
            changed: false,
            diagnostics: Vec::new(),
            held_back: BTreeMap::new(),
            problem,
            noticed,
        }
    }

    fn is_complete(&self) -> bool {
        [&self.files, &self.kubernetes].into_iter().all(|taken| !matches!(taken, Taken::Awaited))
    }

    fn documents(&self) -> Option<Vec<Document>> {
        self.is_complete().then(|| self.last_good.documents().cloned().collect())
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
        let Some(directory) = &self.state else { return };
        if let Err(cause) = write_atomically(&directory.join(SAVED), &self.last_good.save()) {
            let directory = directory.display();
            error!("the accepted rules cannot be saved in `{directory}`, a restart will depend on the files: {cause}");
        }
    }
}

impl Taken {
    fn rules(&self) -> Option<&Parsed> {
        match self {
            Self::Not | Self::Awaited => None,
            Self::Rules(parsed) => Some(parsed),
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

#[cfg(test)]
mod tests {
    use super::*;

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

    fn written(text: &str, is_object: bool) -> Written {
        let parsed = match is_object {
            true => leno_config::rules::parse_object("default/VirtualService/a", text),
            false => leno_config::rules::parse(&[leno_config::rules::SourceText {
                name: "a.yaml".into(),
                text: text.as_bytes().to_vec(),
            }]),
        };
        Written { rules: Ok(parsed), noticed: Instant::now() }
    }

    const RULE: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec: {hosts: [a.example.com], http: [{route: [{destination: {host: a.example.com}}]}]}
";

    #[test]
    fn nothing_is_in_force_before_every_source_has_said_all() {
        let mut accepted = Accepted::open(&[Source::Files, Source::Kubernetes], None);
        let state = accepted.take(Source::Files, written(&RULE.replace("name: a", "name: b"), false));
        assert!(state.documents.is_none() && !state.changed);
        assert!(state.problem.is_some_and(|problem| problem.contains("has not listed")));
        let state = accepted.take(Source::Kubernetes, written(RULE, true));
        assert_eq!(state.documents.map(|documents| documents.len()), Some(2));
        assert!(state.changed && state.problem.is_none());
        let again = accepted.take(Source::Kubernetes, written(RULE, true));
        assert!(!again.changed, "the same again is no news");
    }

    #[test]
    fn a_source_with_a_problem_leaves_what_is_in_force() {
        let mut accepted = Accepted::open(&[Source::Kubernetes], None);
        accepted.take(Source::Kubernetes, written(RULE, true));
        let state = accepted.take(Source::Files, Written { rules: Err("gone".to_owned()), noticed: Instant::now() });
        assert_eq!(state.documents.map(|documents| documents.len()), Some(1));
        assert_eq!((state.changed, state.problem.as_deref()), (false, Some("gone")));
    }

    #[test]
    fn what_the_api_server_keeps_is_not_saved() {
        let directory = tempfile::tempdir().unwrap();
        let sources = [Source::Files, Source::Kubernetes];
        let mut accepted = Accepted::open(&sources, Some(directory.path().to_owned()));
        accepted.take(Source::Kubernetes, written(RULE, true));
        accepted.take(Source::Files, written(&RULE.replace("name: a", "name: b"), false));
        let (saved, _) = LastGood::restore(&std::fs::read(directory.path().join(SAVED)).unwrap()).unwrap();
        let names: Vec<_> = saved.documents().map(|document| document.id.name.clone()).collect();
        assert_eq!(names, ["b"]);
        let mut next = Accepted::open(&sources, Some(directory.path().to_owned()));
        let state = next.take(Source::Kubernetes, written(RULE, true));
        assert_eq!(state.documents.map(|documents| documents.len()), Some(2), "the saved one until files are read");
    }
}
