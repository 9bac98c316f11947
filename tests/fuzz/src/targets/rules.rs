//! Rules as a person writes them: the bytes are a file.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use leno_config::compile::compile;
use leno_config::diagnostic::{Diagnostic, Style, render};
use leno_config::ir::Locality;
use leno_config::mesh::Mesh;
use leno_config::node::{Interception, Node};
use leno_config::rules::last_good::LastGood;
use leno_config::rules::{Document, SourceText, parse};
use leno_config::validate::check as findings;
use leno_config::xds::{self, Flavour};

use crate::Target;

const FILE: &str = "rules.yaml";

pub(crate) const TARGET: Target = Target {
    name: "rules",
    property: "a finding has its place inside the file, what is good is read again as it was written, and compiles to \
               resources that every proxy takes",
    check,
    words: &[
        "\n---\n",
        "kind: VirtualService\n",
        "kind: DestinationRule\n",
        "kind: ServiceEntry\n",
        "kind: AuthorizationPolicy\n",
        "kind: Sidecar\n",
        "metadata: {name: a}\n",
        "spec:\n",
        "  hosts: [a]\n",
        "weight: 100",
        "&a ",
        "*a",
        "<<: ",
        "regex: (",
        "99999999999",
        "- ",
        "{",
        "}",
        "~",
        "\t",
    ],
};

fn check(data: &[u8]) {
    let parsed = parse(&[SourceText { name: FILE.into(), text: data.to_vec() }]);
    let lines = line_lengths(data);
    for finding in findings(&parsed) {
        is_in_the_file(&finding, &lines);
    }
    let mut good = LastGood::default();
    good.update(parsed);
    let documents: Vec<Document> = good.documents().cloned().collect();
    for document in &documents {
        comes_back(document);
    }
    for interception in [Interception::None, Interception::Redirect] {
        is_taken_by_a_proxy(&documents, interception);
    }
}

/// Characters of each line.
fn line_lengths(data: &[u8]) -> Vec<usize> {
    let text = String::from_utf8_lossy(data);
    text.split('\n').map(|line| line.chars().count()).collect()
}

fn is_in_the_file(finding: &Diagnostic, lines: &[usize]) {
    let place = finding.place.as_ref().expect("what was read has a place");
    assert_eq!(&*place.file, FILE);
    let at = usize::try_from(place.line).ok().and_then(|line| line.checked_sub(1)).expect("lines count from 1");
    let length = lines.get(at).unwrap_or_else(|| panic!("{finding}: the file has {} lines", lines.len()));
    let column = usize::try_from(place.column).unwrap_or(usize::MAX);
    // The end of a line is a place too: there something is missing.
    assert!((1..=length + 1).contains(&column), "{finding}: the line has {length} characters");
    if let Some(snippet) = &finding.snippet {
        assert!(snippet.text.get(snippet.mark.clone()).is_some(), "{finding}: {snippet:?}");
    }
    assert!(!finding.message.is_empty() && !render(finding, Style::Plain).is_empty());
}

fn comes_back(document: &Document) {
    let yaml = document.rule.to_yaml().expect("a rule can be written");
    let again = parse(&[SourceText { name: "-".into(), text: yaml.clone().into_bytes() }]);
    let read = again.documents.first().unwrap_or_else(|| panic!("{:?}: {yaml}", again.diagnostics));
    assert_eq!(read.rule, document.rule, "{yaml}");
}

fn is_taken_by_a_proxy(documents: &[Document], interception: Interception) {
    let node = Node {
        name: "reviews-1".to_owned(),
        ip: Ipv4Addr::new(10, 0, 0, 1).into(),
        namespace: "default".to_owned(),
        service_account: "reviews".to_owned(),
        workload: "reviews".to_owned(),
        labels: BTreeMap::from([("app".to_owned(), "reviews".to_owned()), ("version".to_owned(), "v1".to_owned())]),
        locality: Locality::default(),
        interception,
    };
    let resources = compile(&Mesh::new(documents), &node);
    for (kind, all) in xds::encode(&resources, &Flavour::Sidecar) {
        for (name, encoded) in all {
            let read = xds::decode(kind, &encoded.any).unwrap_or_else(|refusal| panic!("{refusal}"));
            assert_eq!(read.name(), name);
        }
    }
    let again = compile(&Mesh::new(documents), &node);
    assert_eq!(Arc::new(again), Arc::new(resources), "the same rules give the same resources");
}
