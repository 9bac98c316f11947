//! Files of rules, and the documents in them.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read as _;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::path::Path;
use super::yaml::{self, Aim, Node, Span};
use super::{
    AuthorizationPolicy, DestinationRule, EndpointSlice, HealthCheck, MeshConfig, Metadata, PeerAuthentication,
    RateLimit, RequestAuthentication, Resource, Service, ServiceEntry, Sidecar, Status, VirtualService, WorkloadEntry,
};
use crate::diagnostic::{Diagnostic, Place, Snippet};

/// Largest file that is read; rules of a large mesh have a few MiB.
const MAX_FILE: u64 = 64 << 20;
/// Directories inside each other, and files in all of them.
const MAX_NESTING: usize = 32;
const MAX_FILES: usize = 100_000;
/// Characters of a line that a finding keeps.
const MAX_LINE: usize = 160;

/// A file as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceText {
    /// As it is shown: the path, or `-`.
    pub name: Arc<str>,
    /// What it holds; whether that is text, [`super::parse`] finds out.
    pub text: Vec<u8>,
}

/// A file or directory that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system says no.
    #[error("cannot read `{path}`")]
    Io {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file is too large.
    #[error("`{path}` is larger than {} MiB; rules are split into several files", MAX_FILE >> 20)]
    TooLarge {
        /// Which.
        path: String,
    },
    /// A directory has too many files, or directories inside each other.
    #[error("`{path}` holds more than {MAX_FILES} files or {MAX_NESTING} levels of directories")]
    TooMany {
        /// Which.
        path: String,
    },
}

/// Reads files and directories. In directories: `*.yaml`, `*.yml` and `*.json`, recursively and in the order of their
/// names; links are followed, names with a dot in front are not (Kubernetes keeps old versions of mounted files there).
/// `-` is standard input.
pub fn read(paths: &[PathBuf]) -> Result<Vec<SourceText>, ReadError> {
    let mut sources = Vec::new();
    let mut seen = BTreeSet::new();
    for path in paths {
        if path.as_os_str() == "-" {
            sources.push(SourceText { name: "-".into(), text: bounded(&mut std::io::stdin().lock(), "-")? });
        } else if path.is_dir() {
            read_directory(path, 0, &mut seen, &mut sources)?;
        } else {
            sources.push(read_file(path)?);
        }
    }
    Ok(sources)
}

fn read_directory(
    directory: &FilePath,
    depth: usize,
    seen: &mut BTreeSet<PathBuf>,
    sources: &mut Vec<SourceText>,
) -> Result<(), ReadError> {
    let shown = directory.display().to_string();
    let io = |source| ReadError::Io { path: shown.clone(), source };
    // A link may lead back to where we are.
    if !seen.insert(directory.canonicalize().map_err(io)?) {
        return Ok(());
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        if !name.to_string_lossy().starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    for name in names {
        let path = directory.join(name);
        if depth >= MAX_NESTING || sources.len() >= MAX_FILES {
            return Err(ReadError::TooMany { path: shown });
        }
        if path.is_dir() {
            read_directory(&path, depth.saturating_add(1), seen, sources)?;
        } else if matches!(path.extension().and_then(|extension| extension.to_str()), Some("yaml" | "yml" | "json")) {
            sources.push(read_file(&path)?);
        }
    }
    Ok(())
}

fn read_file(path: &FilePath) -> Result<SourceText, ReadError> {
    let shown = path.display().to_string();
    let mut file = std::fs::File::open(path).map_err(|source| ReadError::Io { path: shown.clone(), source })?;
    Ok(SourceText { text: bounded(&mut file, &shown)?, name: shown.into() })
}

fn bounded(from: &mut dyn std::io::Read, shown: &str) -> Result<Vec<u8>, ReadError> {
    let mut text = Vec::new();
    from.take(MAX_FILE + 1)
        .read_to_end(&mut text)
        .map_err(|source| ReadError::Io { path: shown.to_owned(), source })?;
    if text.len() as u64 > MAX_FILE {
        return Err(ReadError::TooLarge { path: shown.to_owned() });
    }
    Ok(text)
}

/// One document that was read.
#[derive(Debug, Clone)]
pub struct Document {
    /// Which resource it is.
    pub id: ResourceId,
    /// Where it starts.
    pub place: Place,
    /// What it says.
    pub rule: Rule,
    /// A YAML text that says the same: its own, or for an entry of a List one that was written anew.
    pub text: Arc<str>,
    pub(super) source: Source,
}

/// The text around a document, in which its paths are looked up.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(super) file: Arc<str>,
    /// What stands between two `---`.
    pub(super) text: Arc<str>,
    /// Line of the file on which `text` starts, from 1; 0: this is an object of Kubernetes' API, in `file` stands which.
    pub(super) first_line: u32,
    /// Where the document stands in it: the top, or `items[3]`.
    pub(super) base: Path,
}

impl Document {
    /// Whether it comes from Kubernetes' API, and not from a file.
    pub fn is_object(&self) -> bool {
        self.source.is_object()
    }

    /// Where `path` (`spec.http[2].route[0].weight`) stands in the file; the nearest thing around it where it is not
    /// written. The text is read anew, so this is for people, not for every request.
    pub fn place_of(&self, path: &str) -> Place {
        match self.source.tree() {
            Some(tree) => self.source.locate(&tree, path, Aim::Value).0,
            None => self.place.clone(),
        }
    }

    /// The same of several, for which the text is read once.
    pub(crate) fn places_of(&self, paths: &[String]) -> Vec<Place> {
        let tree = self.source.tree();
        let place = |path: &String| match &tree {
            Some(tree) => self.source.locate(tree, path, Aim::Value).0,
            None => self.place.clone(),
        };
        paths.iter().map(place).collect()
    }

    /// Gives findings about this document their place and line.
    pub(crate) fn locate(&self, findings: &mut [(Diagnostic, Aim)]) {
        self.source.place(findings, &self.id);
    }
}

impl Source {
    pub(super) fn tree(&self) -> Option<Node> {
        yaml::parse(&self.text).ok()
    }

    /// Fills in place, line and resource.
    pub(super) fn place(&self, findings: &mut [(Diagnostic, Aim)], id: &ResourceId) {
        let tree = (!findings.is_empty()).then(|| self.tree()).flatten();
        for (finding, aim) in findings {
            finding.resource = Some(id.clone());
            if let Some(tree) = &tree {
                let (place, snippet) = self.locate(tree, &finding.path, *aim);
                finding.place = Some(place);
                finding.snippet = snippet;
            }
        }
    }

    pub(super) fn locate(&self, tree: &Node, path: &str, aim: Aim) -> (Place, Option<Snippet>) {
        let whole = match (self.base.as_str(), path) {
            ("", path) => path.to_owned(),
            (base, "") => base.to_owned(),
            (base, path) => format!("{base}.{path}"),
        };
        self.show(&tree.locate(&whole, aim))
    }

    /// The place of a span in the file, and its line. The text of an object is nothing that a person wrote, so that none
    /// of its lines is shown.
    pub(super) fn show(&self, span: &Span) -> (Place, Option<Snippet>) {
        if self.is_object() {
            return (Place::object(Arc::clone(&self.file)), None);
        }
        let line = self.first_line.saturating_add(span.line).saturating_sub(1);
        let text = self.text.lines().nth(span.line.saturating_sub(1) as usize).unwrap_or_default();
        // The parser counts on where it meets NUL; a place is in the line all the same.
        let end = u32::try_from(text.chars().count()).unwrap_or(u32::MAX).saturating_add(1);
        let column = span.column.min(end);
        let place = Place { file: self.file.clone(), line, column };
        let length = self
            .text
            .get(span.bytes.clone())
            .map_or(1, |marked| marked.lines().next().map_or(1, |m| m.chars().count()));
        (place, Some(snippet(line, text, column.saturating_sub(1) as usize, length.max(1))))
    }

    /// Whether it comes from Kubernetes' API.
    pub(super) fn is_object(&self) -> bool {
        self.first_line == 0
    }
}

/// Cuts a long line around its mark, which starts at `column` (from 0) and has `length` characters.
fn snippet(line: u32, text: &str, column: usize, length: usize) -> Snippet {
    let skipped = column.saturating_sub(MAX_LINE / 2).min(text.chars().count());
    let skipped = if column < MAX_LINE { 0 } else { skipped };
    let text: String = text.chars().skip(skipped).take(MAX_LINE).collect();
    let offset = |chars: usize| text.char_indices().nth(chars).map_or(text.len(), |(at, _)| at);
    let shown = column.saturating_sub(skipped);
    let start = offset(shown);
    let end = offset(shown.saturating_add(length)).max(start);
    Snippet { line, mark: start..end, text }
}

/// Names one resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ResourceId {
    /// `VirtualService`, …
    pub kind: String,
    /// `default` where the document names none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// A document by its kind.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // Each stands in a file of its own.
pub enum Rule {
    VirtualService(Resource<VirtualService>),
    DestinationRule(Resource<DestinationRule>),
    ServiceEntry(Resource<ServiceEntry>),
    WorkloadEntry(Resource<WorkloadEntry>),
    Sidecar(Resource<Sidecar>),
    PeerAuthentication(Resource<PeerAuthentication>),
    AuthorizationPolicy(Resource<AuthorizationPolicy>),
    RequestAuthentication(Resource<RequestAuthentication>),
    MeshConfig(Resource<MeshConfig>),
    HealthCheck(Resource<HealthCheck>),
    RateLimit(Resource<RateLimit>),
    Service(Resource<Service>),
    EndpointSlice(Resource<EndpointSlice>),
}

impl Rule {
    /// Who it is.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::VirtualService(rule) => &rule.metadata,
            Self::DestinationRule(rule) => &rule.metadata,
            Self::ServiceEntry(rule) => &rule.metadata,
            Self::WorkloadEntry(rule) => &rule.metadata,
            Self::Sidecar(rule) => &rule.metadata,
            Self::PeerAuthentication(rule) => &rule.metadata,
            Self::AuthorizationPolicy(rule) => &rule.metadata,
            Self::RequestAuthentication(rule) => &rule.metadata,
            Self::MeshConfig(rule) => &rule.metadata,
            Self::HealthCheck(rule) => &rule.metadata,
            Self::RateLimit(rule) => &rule.metadata,
            Self::Service(rule) => &rule.metadata,
            Self::EndpointSlice(rule) => &rule.metadata,
        }
    }

    /// As YAML; reading it again gives an equal rule.
    pub fn to_yaml(&self) -> Result<String, String> {
        yaml::write(self)
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::VirtualService(rule) => rule.serialize(serializer),
            Self::DestinationRule(rule) => rule.serialize(serializer),
            Self::ServiceEntry(rule) => rule.serialize(serializer),
            Self::WorkloadEntry(rule) => rule.serialize(serializer),
            Self::Sidecar(rule) => rule.serialize(serializer),
            Self::PeerAuthentication(rule) => rule.serialize(serializer),
            Self::AuthorizationPolicy(rule) => rule.serialize(serializer),
            Self::RequestAuthentication(rule) => rule.serialize(serializer),
            Self::MeshConfig(rule) => rule.serialize(serializer),
            Self::HealthCheck(rule) => rule.serialize(serializer),
            Self::RateLimit(rule) => rule.serialize(serializer),
            Self::Service(rule) => rule.serialize(serializer),
            Self::EndpointSlice(rule) => WithoutSpec::new(rule).serialize(serializer),
        }
    }
}

/// How a kind without a `spec` is written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WithoutSpec<'a, T> {
    api_version: &'a str,
    kind: &'a str,
    metadata: &'a Metadata,
    #[serde(flatten)]
    spec: &'a T,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: &'a Option<Status>,
}

impl<'a, T> WithoutSpec<'a, T> {
    fn new(rule: &'a Resource<T>) -> Self {
        let Resource { api_version, kind, metadata, spec, status } = rule;
        Self { api_version, kind, metadata, spec, status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_read_in_order_and_without_hidden_names() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        };
        for name in ["b.yaml", "a.yml", "c.txt", "sub/d.json", "..data/e.yaml", ".f.yaml", "sub/.g/h.yaml"] {
            write(name);
        }
        std::os::unix::fs::symlink(root.path(), root.path().join("sub/loop")).unwrap();
        std::os::unix::fs::symlink(root.path().join("..data/e.yaml"), root.path().join("linked.yaml")).unwrap();
        let sources = read(&[root.path().to_owned()]).unwrap();
        let names: Vec<&str> =
            sources.iter().map(|source| source.name.strip_prefix(root.path().to_str().unwrap()).unwrap()).collect();
        assert_eq!(names, ["/a.yml", "/b.yaml", "/linked.yaml", "/sub/d.json"]);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read(&["/nowhere/a.yaml".into()]).unwrap_err();
        assert_eq!(error.to_string(), "cannot read `/nowhere/a.yaml`");
    }

    #[test]
    fn long_lines_are_cut_around_the_mark() {
        let text = format!("{}MARK{}", "é".repeat(1_000), "x".repeat(1_000));
        let snippet = snippet(1, &text, 1_000, 4);
        assert_eq!(&snippet.text[snippet.mark.clone()], "MARK");
        assert!(snippet.text.chars().count() <= MAX_LINE);
        for (column, length) in [(0, 1), (5_000, 9), (159, 500)] {
            let snippet = super::snippet(1, &text, column, length);
            assert!(snippet.text.get(snippet.mark).is_some());
        }
    }
}
