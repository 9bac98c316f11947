//! Runs over real rule files, which are not part of the repository: `LENO_CORPUS`, or `../shared/corpus/istio` beside
//! the workspace.

mod skip;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use leno_config::compile::compile;
use leno_config::diagnostic::{self, Diagnostic, Style};
use leno_config::mesh::Mesh;
use leno_config::rules::{self, Document, Parsed, SourceText};
use leno_config::validate::check;
use leno_config::xds;

use skip::skip;

const KINDS: [&str; 9] = [
    "VirtualService",
    "DestinationRule",
    "ServiceEntry",
    "WorkloadEntry",
    "Sidecar",
    "Service",
    "PeerAuthentication",
    "AuthorizationPolicy",
    "RequestAuthentication",
];

/// The folder; without it the test is skipped.
fn corpus() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/istio");
    let folder = std::env::var_os("LENO_CORPUS").map_or(beside, PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    skip("corpus", &format!("there is no folder {}; set LENO_CORPUS", folder.display()));
    None
}

/// YAML as values, without what means nothing in Kubernetes: nothing and empty lists.
fn meaning(yaml: &str) -> serde_json::Value {
    fn clean(value: serde_json::Value) -> Option<serde_json::Value> {
        match value {
            serde_json::Value::Null => None,
            serde_json::Value::Array(entries) if entries.is_empty() => None,
            serde_json::Value::Array(entries) => Some(entries.into_iter().filter_map(clean).collect()),
            serde_json::Value::Object(entries) => {
                Some(entries.into_iter().filter_map(|(key, value)| Some((key, clean(value)?))).collect())
            }
            serde_json::Value::Number(number) => number.as_f64().map(Into::into),
            other => Some(other),
        }
    }
    clean(serde_yaml::from_str(yaml).expect("what was written is YAML")).unwrap_or_default()
}

/// Istio's tests note the expected error in the document; that field is none of the kind's.
fn is_marked_as_invalid(document: &Document) -> bool {
    document.text.lines().any(|line| line.starts_with("_err:"))
}

fn is_about_marked(finding: &Diagnostic, parsed: &Parsed) -> bool {
    let is_it = |document: &&Document| Some(&document.id) == finding.resource.as_ref();
    parsed.broken.iter().filter(is_it).any(is_marked_as_invalid)
        || finding.snippet.as_ref().is_some_and(|snippet| snippet.text.starts_with("_err:"))
}

#[test]
fn every_file_loads_and_every_rule_is_written_as_it_was_read() {
    let Some(folder) = corpus() else { return };
    let sources = rules::read(&[folder]).unwrap();
    assert!(sources.len() > 100, "only {} files", sources.len());
    let mut compared = 0;
    for source in sources.into_iter().filter(|source| !source.name.ends_with("MANIFEST.json")) {
        let parsed = rules::parse(&[source]);
        for document in parsed.documents.iter().chain(&parsed.broken).filter(|document| !is_marked_as_invalid(document))
        {
            let written = document.rule.to_yaml().unwrap();
            assert_eq!(meaning(&written), meaning(&document.text), "{} at {}", document.id, document.place);
            compared += 1;
        }
        for finding in parsed.diagnostics.iter().filter(|finding| finding.is_error()) {
            let is_ours = finding.resource.as_ref().is_some_and(|id| KINDS.contains(&id.kind.as_str()));
            // Istio's own tests define some resources twice, and mark those that are invalid.
            let is_expected = finding.code == "L0010" || finding.path == "_err" || is_about_marked(finding, &parsed);
            assert!(!is_ours || is_expected, "{}", diagnostic::render(finding, Style::Plain));
        }
    }
    assert!(compared > 100, "only {compared} rules");
}

#[test]
fn what_istio_refuses_is_refused_and_what_it_takes_is_taken() {
    let Some(folder) = corpus() else { return };
    let mut compared = 0;
    for source in rules::read(&[folder]).unwrap() {
        let text = String::from_utf8(source.text).unwrap();
        for document in text.split("\n---\n") {
            let is_marked = document.lines().any(|line| line.starts_with("_err:"));
            let bare: String =
                document.lines().filter(|line| !line.starts_with("_err:")).map(|line| format!("{line}\n")).collect();
            let parsed = rules::parse(&[SourceText { name: source.name.clone(), text: bare.into_bytes() }]);
            let errors: Vec<Diagnostic> = check(&parsed).into_iter().filter(Diagnostic::is_error).collect();
            let is_ours = parsed
                .documents
                .iter()
                .chain(&parsed.broken)
                .any(|document| KINDS.contains(&document.id.kind.as_str()));
            let is_valid = ["__validation__dataset__", "samples__", "auth-valid", "reqauth-invalid", "authz__builder"]
                .iter()
                .any(|part| source.name.contains(part));
            if is_ours && is_marked {
                assert!(!errors.is_empty(), "Istio refuses this:\n{document}");
                compared += 1;
            } else if is_ours && is_valid {
                assert!(errors.is_empty(), "Istio takes this: {errors:#?}\n{document}");
                compared += 1;
            }
        }
    }
    assert!(compared > 40, "only {compared} rules");
}

/// Also of rules that a control plane would refuse: whatever comes in, what goes out is whole.
#[test]
fn every_rule_compiles_to_resources_that_a_proxy_takes() {
    let Some(folder) = corpus() else { return };
    let mut documents = rules::parse(&rules::read(&[folder]).unwrap()).documents;
    let together = documents.clone();
    let mut sets: Vec<_> = documents.drain(..).map(|document| vec![document]).collect();
    sets.push(together);
    for documents in sets {
        let mesh = Mesh::new(&documents);
        let namespaces = documents.iter().map(|document| document.id.namespace.as_str()).chain(["default"]);
        for namespace in namespaces.collect::<BTreeSet<_>>() {
            let resources = compile(&mesh, &Mesh::anonymous_proxy(namespace));
            for (kind, encoded) in xds::encode(&resources, &xds::Flavour::Sidecar) {
                for (name, resource) in encoded {
                    let taken = xds::decode(kind, &resource.any);
                    assert!(taken.is_ok(), "{} in {namespace}: {name}: {}", documents[0].id, taken.unwrap_err());
                }
            }
        }
    }
}
