//! Rules from files. A set of files that as a whole makes no sense (a directory that vanished or was emptied) is not
//! taken at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use leno_config::diagnostic::Diagnostic;
use leno_config::rules::{Document, Parsed, Rule, SourceText, parse};
use leno_proxy::rule_files::{Look, RuleFiles};

use super::Written;

/// How files become rules.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Files and directories.
    pub(crate) rules: Vec<PathBuf>,
    /// A directory without rules is meant so.
    pub(crate) allow_empty: bool,
}

/// Rules from files.
pub(crate) struct Files {
    options: Options,
    files: RuleFiles,
    /// As last handed out, to tell which files changed.
    texts: Vec<SourceText>,
}

impl Files {
    /// Starts to watch.
    pub(crate) fn watch(options: Options) -> Self {
        let files = RuleFiles::watch(options.rules.clone());
        Self { options, files, texts: Vec::new() }
    }

    /// What stands there at the first call, afterwards what stands there after the next change.
    pub(crate) async fn next(&mut self) -> Written {
        let texts = &self.texts;
        let look = self.files.next(|newer| only_endpoints_differ(texts, newer)).await;
        let noticed = self.files.noticed().unwrap_or_else(Instant::now);
        Written { rules: self.take(look), noticed }
    }

    fn take(&mut self, look: Look) -> Result<Parsed, String> {
        let texts = look.map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            format!("{error}{cause}")
        })?;
        if let Some(path) = self.options.rules.iter().find(|path| !self.options.allow_empty && is_empty(path, &texts)) {
            let path = path.display();
            return Err(format!("`{path}` holds no rule files; if that is meant, start with --allow-empty"));
        }
        let parsed = parse(&texts);
        self.texts = texts;
        Ok(parsed)
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
}
