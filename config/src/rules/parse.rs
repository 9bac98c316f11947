//! From texts to documents, with everything that is wrong with them.
//!
//! A file is first cut at its `---` lines and each document is read on its own, so that a broken one hides nothing of
//! the others. YAML makes that safe: a line that begins with `---` is a boundary even inside a quoted or block text.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::document::{Document, ResourceId, Source, SourceText};
use super::envelope::{Envelope, envelope, identify, is_foreign, is_ours};
use super::path::Path;
use super::reader::Fault;
use super::yaml::{self, Aim, Node, Refusal, Repeat, Value};
use crate::defaults;
use crate::diagnostic::{Diagnostic, Place, Severity, codes, limit};

/// Keys that stand twice, of one document, that are pointed out.
const MAX_REPEATS: usize = 20;

/// What came out of some texts.
#[derive(Debug, Clone, Default)]
pub struct Parsed {
    /// Documents that were read whole, in the order of the texts; no resource twice.
    pub documents: Vec<Document>,
    /// Documents of which some fields could not be read. They are not to be served, and say only what else there is.
    pub broken: Vec<Document>,
    /// What is wrong with the texts, by file and line.
    pub diagnostics: Vec<Diagnostic>,
    /// `apiVersion/kind` of documents that are none of our business, with their number.
    pub skipped: BTreeMap<String, usize>,
}

/// Reads all documents of all texts.
pub fn parse(sources: &[SourceText]) -> Parsed {
    let mut parsed = Parsed::default();
    let mut known = HashMap::new();
    for source in sources {
        match text_of(source) {
            Ok(text) => {
                for piece in split(source, text) {
                    parsed.piece(&piece, &mut known);
                }
            }
            Err(diagnostic) => parsed.diagnostics.push(*diagnostic),
        }
    }
    crate::diagnostic::sort(&mut parsed.diagnostics);
    parsed
}

/// Reads one object of Kubernetes' API, written as JSON or YAML. Findings are placed at `place`
/// (`NAMESPACE/KIND/NAME`), with the path of the field and without a line.
pub fn parse_object(place: &str, text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let source = Source { file: place.into(), text: text.into(), first_line: 0, base: Path::root() };
    parsed.piece(&source, &mut HashMap::new());
    parsed
}

/// The text of a file, without a byte order mark.
fn text_of(source: &SourceText) -> Result<&str, Box<Diagnostic>> {
    let bytes = source.text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&source.text);
    std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count().saturating_add(1);
        let place = Place { file: source.name.clone(), line: u32::try_from(line).unwrap_or(u32::MAX), column: 1 };
        let mut diagnostic = Diagnostic::new(codes::ENCODING, "the file is not UTF-8 text");
        diagnostic.place = Some(place);
        diagnostic.help = Some("save it as UTF-8".to_owned());
        Box::new(diagnostic)
    })
}

/// Cuts a text at its document boundaries. Pieces without content are left out.
fn split(source: &SourceText, text: &str) -> Vec<Source> {
    let boundary = |line: &str, mark: &str| {
        line.strip_prefix(mark).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
    };
    let mut pieces = Vec::new();
    let mut piece = String::new();
    let mut first_line = 1_u32;
    let mut finish = |piece: &mut String, first_line: u32| {
        if has_content(piece) {
            let text: Arc<str> = std::mem::take(piece).into();
            pieces.push(Source { file: source.name.clone(), text, first_line, base: Path::root() });
        }
        piece.clear();
    };
    for (number, line) in (1_u32..).zip(text.split_inclusive('\n')) {
        if boundary(line, "...") {
            finish(&mut piece, first_line);
            first_line = number.saturating_add(1);
            continue;
        }
        // Directives belong to the document behind the next `---`.
        if boundary(line, "---") && !piece.lines().any(|line| line.starts_with('%')) {
            finish(&mut piece, first_line);
            first_line = number;
        }
        piece.push_str(line);
    }
    finish(&mut piece, first_line);
    pieces
}

fn has_content(piece: &str) -> bool {
    piece.lines().any(|line| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        !line.is_empty() && !line.starts_with('#')
    })
}

impl Parsed {
    /// Counts documents of a kind that is none of our business.
    fn skip(&mut self, kind: String, number: usize) {
        let count = self.skipped.entry(kind).or_default();
        *count = count.saturating_add(number);
    }

    /// Adds what came from elsewhere. A resource that is known already is an error of the one that comes second, as it is
    /// where both stand in files.
    pub fn absorb(&mut self, others: impl IntoIterator<Item = Self>) {
        let all = self.documents.iter().chain(&self.broken);
        let mut known = all.map(|document| (document.id.clone(), document.place.clone())).collect::<HashMap<_, _>>();
        for other in others {
            for document in other.documents {
                match known.get(&document.id) {
                    Some(first) => {
                        self.diagnostics.push(defined_twice(&document, first));
                        self.broken.push(document);
                    }
                    None => {
                        known.insert(document.id.clone(), document.place.clone());
                        self.documents.push(document);
                    }
                }
            }
            self.broken.extend(other.broken);
            self.diagnostics.extend(other.diagnostics);
            for (kind, number) in other.skipped {
                self.skip(kind, number);
            }
        }
        crate::diagnostic::sort(&mut self.diagnostics);
    }

    /// Reads one document, or the entries of a List.
    fn piece(&mut self, source: &Source, known: &mut HashMap<ResourceId, Place>) {
        match yaml::parse(&source.text) {
            Ok(tree) if matches!(tree.value, Value::Null) => {}
            Ok(mut tree) => {
                let repeats = tree.take_repeats();
                self.tree(&Piece { source, tree: &tree, repeats: &repeats }, known);
            }
            // Definitions of foreign kinds may be as large as they like.
            Err(Refusal { too_large: true, .. }) if foreign_text(&source.text).is_some() => {
                let kind = foreign_text(&source.text).unwrap_or_default();
                self.skip(kind, 1);
            }
            Err(refusal) => self.diagnostics.push(refused(source, &refusal)),
        }
    }

    fn tree(&mut self, piece: &Piece<'_>, known: &mut HashMap<ResourceId, Place>) {
        let tree = piece.tree;
        let kind = tree.get("kind").and_then(Node::text).unwrap_or_default();
        let version = tree.get("apiVersion").and_then(Node::text).unwrap_or_default();
        let is_list = (kind == "List" && version == "v1") || kind.strip_suffix("List").is_some_and(is_ours);
        match tree.get("items").map(|items| &items.value) {
            Some(Value::List(items)) if is_list => {
                for (index, item) in items.iter().enumerate() {
                    let source = Source { base: Path::root().key("items").index(index), ..piece.source.clone() };
                    self.document(&Piece { source: &source, ..*piece }, item, known);
                }
            }
            _ => self.document(piece, tree, known),
        }
    }

    fn document(&mut self, piece: &Piece<'_>, node: &Node, known: &mut HashMap<ResourceId, Place>) {
        let id = identify(node);
        let read = match envelope(node) {
            Envelope::Ours(read) => read,
            Envelope::Foreign(kind) => {
                self.skip(kind, 1);
                return;
            }
            Envelope::Fault(fault) => {
                self.diagnostics.extend(piece.placed(vec![fault], Some(&id)));
                return;
            }
        };
        let place = piece.source.locate(piece.tree, "", Aim::Value).0;
        let mut faults = read.faults;
        match known.get(&id) {
            Some(first) => faults.push(Fault {
                code: codes::DUPLICATE_RESOURCE,
                path: "metadata.name".to_owned(),
                on_key: false,
                message: already_defined(&id, first),
                help: Some(ONE_OF_TWO.to_owned()),
            }),
            None => drop(known.insert(id.clone(), place.clone())),
        }
        let repeats = piece.repeated(&id);
        let is_broken = !repeats.is_empty() || faults.iter().any(|fault| fault.code.severity == Severity::Error);
        self.diagnostics.extend(repeats);
        self.diagnostics.extend(piece.placed(faults, Some(&id)));
        let Some(rule) = read.rule else { return };
        let text = match piece.source.base.as_str() {
            "" => piece.source.text.clone(),
            _ => rule.to_yaml().unwrap_or_default().into(),
        };
        let document = Document { id, place, rule, text, source: piece.source.clone() };
        if is_broken { self.broken.push(document) } else { self.documents.push(document) }
    }
}

fn defined_twice(document: &Document, first: &Place) -> Diagnostic {
    Diagnostic {
        place: Some(document.place.clone()),
        resource: Some(document.id.clone()),
        path: "metadata.name".to_owned(),
        help: Some(ONE_OF_TWO.to_owned()),
        ..Diagnostic::new(codes::DUPLICATE_RESOURCE, already_defined(&document.id, first))
    }
}

fn already_defined(id: &ResourceId, first: &Place) -> String {
    format!("{id} is already defined at {first}")
}

const ONE_OF_TWO: &str = "remove one of the two, or rename it";

/// What stands between two `---`, read.
#[derive(Clone, Copy)]
struct Piece<'a> {
    source: &'a Source,
    tree: &'a Node,
    repeats: &'a [Repeat],
}

impl Piece<'_> {
    /// Gives faults their place.
    fn placed(&self, mut faults: Vec<Fault>, id: Option<&ResourceId>) -> Vec<Diagnostic> {
        limit(
            &mut faults,
            |fault| fault.code.severity,
            |more| Fault { code: codes::MORE, path: String::new(), on_key: false, message: more.message, help: None },
        );
        let placed = faults.into_iter().map(|fault| {
            let aim = if fault.on_key { Aim::Key } else { Aim::Value };
            let (place, snippet) = self.source.locate(self.tree, &fault.path, aim);
            Diagnostic {
                place: Some(place),
                snippet,
                resource: id.filter(|id| !id.kind.is_empty() && !id.name.is_empty()).cloned(),
                path: fault.path,
                help: fault.help,
                ..Diagnostic::new(fault.code, fault.message)
            }
        });
        placed.collect()
    }

    /// Keys that stand twice in this document.
    fn repeated(&self, id: &ResourceId) -> Vec<Diagnostic> {
        let base = self.source.base.as_str();
        let inside = self.repeats.iter().filter_map(|repeat| Some((repeat, repeat.path.strip_prefix(base)?)));
        let inside = inside.filter(|(_, path)| base.is_empty() || path.starts_with('.')).take(MAX_REPEATS);
        let found = inside.map(|(repeat, path)| {
            let first = self.source.show(&repeat.first).0;
            let (place, snippet) = self.source.show(&repeat.second);
            Diagnostic {
                place: Some(place),
                snippet,
                resource: Some(id.clone()),
                path: path.trim_start_matches('.').to_owned(),
                help: Some("keep one of the two".to_owned()),
                ..Diagnostic::new(
                    codes::DUPLICATE_KEY,
                    format!("`{}` stands twice, the first time on line {}", repeat.key, first.line),
                )
            }
        });
        found.collect()
    }
}

/// A text that is not YAML.
fn refused(source: &Source, refusal: &Refusal) -> Diagnostic {
    let code = if refusal.too_large { codes::TOO_LARGE } else { codes::SYNTAX };
    let mut diagnostic = Diagnostic::new(code, refusal.message.clone());
    let span = refusal.at.clone().unwrap_or_else(yaml::Span::start);
    let (place, snippet) = source.show(&span);
    let line = source.text.lines().nth(span.line.saturating_sub(1) as usize).unwrap_or_default();
    diagnostic.help = if refusal.too_large {
        Some("split it into smaller documents; it may have 4 MiB, 40 levels and few aliases".to_owned())
    } else if line.trim_start_matches(' ').starts_with('\t') {
        Some("YAML is indented by spaces; this line has a tab".to_owned())
    } else if source.text.contains("{{") {
        Some("this looks like a template; render it first".to_owned())
    } else {
        None
    };
    diagnostic.place = Some(place);
    diagnostic.snippet = snippet;
    diagnostic.resource = guess(&source.text);
    diagnostic
}

/// Which resource a text that cannot be read is probably about, so that its last good version can be kept.
fn guess(text: &str) -> Option<ResourceId> {
    Some(ResourceId {
        kind: guess_field(text, "kind", Depth::Top)?,
        namespace: guess_field(text, "namespace", Depth::Inside).unwrap_or_else(|| defaults::NAMESPACE.to_owned()),
        name: guess_field(text, "name", Depth::Inside)?,
    })
}

/// `apiVersion/kind` of a text that is about a kind of somebody else.
fn foreign_text(text: &str) -> Option<String> {
    let kind = guess_field(text, "kind", Depth::Top)?;
    let api_version = guess_field(text, "apiVersion", Depth::Top)?;
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    is_foreign(group, &kind).then(|| format!("{api_version}/{kind}"))
}

/// Where a line of a text stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Top,
    Inside,
}

/// The first `field: value` line.
fn guess_field(text: &str, field: &str, depth: Depth) -> Option<String> {
    text.lines().find_map(|line| {
        let inner = line.trim_start();
        let value = inner.strip_prefix(field)?.strip_prefix(':')?.trim().trim_matches(['"', '\'']);
        let found = if inner.len() < line.len() { Depth::Inside } else { Depth::Top };
        (found == depth && !value.is_empty()).then(|| value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Rule;

    fn parsed(text: impl AsRef<[u8]>) -> Parsed {
        parse(&[SourceText { name: "a.yaml".into(), text: text.as_ref().to_vec() }])
    }

    fn found(parsed: &Parsed) -> Vec<(&'static str, u32, u32)> {
        let at = |d: &Diagnostic| d.place.as_ref().map_or((0, 0), |place| (place.line, place.column));
        parsed.diagnostics.iter().map(|d| (d.code, at(d).0, at(d).1)).collect()
    }

    #[test]
    fn an_object_has_a_place_without_lines_and_a_path() {
        let object = r#"{"apiVersion":"networking.istio.io/v1","kind":"VirtualService",
            "metadata":{"name":"a","namespace":"shop"},"spec":{"hots":["a"]}}"#;
        let parsed = parse_object("shop/VirtualService/a", object);
        let [finding] = &parsed.diagnostics[..] else { panic!("{:?}", parsed.diagnostics) };
        assert_eq!((finding.path.as_str(), &finding.snippet), ("spec.hots", &None));
        let line = finding.to_string();
        assert!(line.starts_with("shop/VirtualService/a: error[L0005]: VirtualService shop/a: spec.hots: "), "{line}");
        assert!(parsed.broken[0].is_object());
        let json = serde_json::to_value(finding).unwrap();
        assert_eq!((&json["file"], &json["line"]), (&"shop/VirtualService/a".into(), &serde_json::Value::Null));
    }

    #[test]
    fn what_is_defined_in_a_file_and_in_the_cluster_is_an_error_of_the_second() {
        let mut both = parsed(RULE);
        let object = |name: &str| {
            let text = RULE.replace("name: a", &format!("name: {name}"));
            parse_object(&format!("default/VirtualService/{name}"), &text)
        };
        both.absorb([object("a"), object("b")]);
        let names: Vec<_> = both.documents.iter().map(|document| document.id.name.as_str()).collect();
        assert_eq!((names, both.broken.len()), (vec!["a", "b"], 1));
        let [finding] = &both.diagnostics[..] else { panic!("{:?}", both.diagnostics) };
        assert_eq!(finding.code, "L0010");
        assert_eq!(finding.message, "VirtualService default/a is already defined at a.yaml:1:1");
    }

    const RULE: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
";

    #[test]
    fn a_broken_document_hides_nothing_of_the_others() {
        let text = format!(
            "# header\n---\n{RULE}---\nkind: [\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: b\nspec:\n  hots: [a]\n---\n# nothing\n---\n{}",
            RULE.replace("name: a", "name: c")
        );
        let parsed = parsed(text);
        let names: Vec<String> = parsed.documents.iter().map(|document| document.id.to_string()).collect();
        assert_eq!(names, ["VirtualService default/a", "VirtualService default/c"]);
        assert_eq!(parsed.broken.len(), 1);
        let found = found(&parsed);
        assert_eq!((found[0].0, found[0].1), ("L0002", 9));
        assert_eq!(found[1], ("L0005", 16, 3));
    }

    #[test]
    fn places_hold_with_crlf_a_byte_order_mark_and_directives() {
        let text = format!("\u{feff}%YAML 1.2\r\n---\r\n{}", format!("{RULE}  x: 1\n").replace('\n', "\r\n"));
        let parsed = parsed(text);
        assert_eq!(found(&parsed), [("L0005", 8, 3)]);
        let snippet = parsed.diagnostics[0].snippet.clone().unwrap();
        assert_eq!(&snippet.text[snippet.mark], "x");
    }

    #[test]
    fn documents_are_cut_where_yaml_cuts_them() {
        let text = format!("{RULE}  exportTo: ['--- a']\n...\n---  \n{}--- # c\n", RULE.replace("name: a", "name: b"));
        let parsed = parsed(text);
        assert_eq!(found(&parsed), []);
        assert_eq!(parsed.documents.len(), 2);
        assert_eq!(parsed.documents[1].place.line, 9);
        assert!(parsed.documents[0].text.contains("--- a"));
    }

    #[test]
    fn what_is_wrong_with_a_document_has_a_code_and_a_line() {
        for (text, code, line) in [
            ("a: [", "L0002", 1),
            ("a:\n\tb: 1", "L0002", 2),
            ("- a\n- b", "L0008", 1),
            ("hello", "L0008", 1),
            ("kind: VirtualService", "L0008", 1),
            ("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}", "L0008", 1),
            ("apiVersion: networking.istio.io/v1\nkind: VirtualService\nspec: {}", "L0009", 1),
            ("apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: ../a}\nspec: {}", "L0009", 3),
            (
                "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: a, namespace: A}\nspec: {}",
                "L0009",
                3,
            ),
            ("apiVersion: networking.istio.io/v2\nkind: Sidecar\nmetadata: {name: a}\nspec: {}", "L0012", 1),
            ("apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: a}", "L0011", 2),
            ("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}", "L0011", 2),
            ("apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: a}\nspec: {}\nsepc: {}", "L0005", 5),
            ("apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: a}\nspec: {}\nspec: {}", "L0004", 5),
            (
                "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: a, labels: {a: 1}}\nspec: {}",
                "L0006",
                3,
            ),
        ] {
            let parsed = parsed(text);
            let found = found(&parsed);
            assert_eq!(
                found.iter().map(|(code, line, _)| (*code, *line)).collect::<Vec<_>>(),
                [(code, line)],
                "{text}"
            );
        }
    }

    #[test]
    fn a_misspelt_kind_is_answered_with_what_was_meant() {
        let parsed = parsed("apiVersion: networking.istio.io/v1\nkind: VirtualSevice\nmetadata: {name: a}");
        assert_eq!(parsed.diagnostics[0].help.as_deref(), Some("did you mean `VirtualService`?"));
    }

    #[test]
    fn other_kinds_are_counted_and_empty_texts_are_nothing() {
        let parsed = parsed(
            "apiVersion: v1\nkind: ConfigMap\n---\napiVersion: v1\nkind: ConfigMap\n---\napiVersion: apps/v1\nkind: Deployment",
        );
        assert_eq!(
            parsed.skipped.into_iter().collect::<Vec<_>>(),
            [("apps/v1/Deployment".into(), 1), ("v1/ConfigMap".into(), 2)]
        );
        for text in ["", "\n\n", "---", "---\n---\n", "# only a comment\n", "~", "...\n"] {
            let parsed = parse(&[SourceText { name: "a.yaml".into(), text: text.into() }]);
            assert!(parsed.diagnostics.is_empty() && parsed.documents.is_empty(), "{text:?}");
        }
    }

    #[test]
    fn a_foreign_kind_may_be_as_deep_as_it_likes() {
        let deep = format!("spec: {}{}", "[".repeat(100), "]".repeat(100));
        let parsed = parsed(format!(
            "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n{deep}\n---\n{RULE}---\n{}",
            RULE.replace("spec:\n  hosts: [a]", &deep)
        ));
        assert_eq!(parsed.skipped.len(), 1);
        assert_eq!(found(&parsed).iter().map(|(code, ..)| *code).collect::<Vec<_>>(), ["L0003"]);
        assert_eq!(parsed.documents.len(), 1);
    }

    #[test]
    fn lists_are_taken_apart() {
        let text = "\
apiVersion: v1
kind: List
items:
- apiVersion: networking.istio.io/v1
  kind: VirtualService
  metadata: {name: a, namespace: shop}
  spec: {hosts: [a], htp: []}
- apiVersion: v1
  kind: Service
  metadata: {name: b}
  spec: {ports: [{port: 80}]}
- apiVersion: v1
  kind: Secret
- apiVersion: v1
  kind: Service
  metadata: {name: c, name: d}
  spec: {}
";
        let parsed = parsed(text);
        assert_eq!(found(&parsed), [("L0005", 7, 22), ("L0004", 16, 23)]);
        assert_eq!(parsed.skipped.len(), 1);
        let service = &parsed.documents[0];
        assert_eq!((service.id.to_string().as_str(), service.place.line), ("Service default/b", 8));
        assert_eq!(service.place_of("spec.ports[0].port").line, 11);
        let again = parse(&[SourceText { name: "b".into(), text: service.text.as_bytes().to_vec() }]);
        assert_eq!(again.documents[0].rule, service.rule);
    }

    #[test]
    fn the_second_definition_of_a_resource_is_an_error() {
        let parsed = parsed(format!("{RULE}---\n{RULE}"));
        assert_eq!(found(&parsed), [("L0010", 9, 18)]);
        assert_eq!((parsed.documents.len(), parsed.broken.len()), (1, 1));
        assert!(parsed.diagnostics[0].message.contains("a.yaml:1:1"), "{}", parsed.diagnostics[0].message);
    }

    #[test]
    fn text_that_is_not_utf_8_is_refused_with_its_line() {
        let parsed = parsed(b"a: 1\nb: \xff\n");
        assert_eq!(found(&parsed), [("L0001", 2, 1)]);
    }

    #[test]
    fn a_broken_text_still_says_which_resource_it_was() {
        let parsed = parsed(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: \"a\"\n  namespace: shop\nspec: [\n",
        );
        assert_eq!(
            parsed.diagnostics[0].resource.as_ref().map(ToString::to_string).as_deref(),
            Some("VirtualService shop/a")
        );
    }

    #[test]
    fn an_endpoint_slice_has_its_fields_beside_metadata() {
        let parsed = parsed(
            "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a-1, labels: {kubernetes.io/service-name: a}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1]}]
prots: []
",
        );
        assert_eq!(found(&parsed), [("L0005", 6, 1)]);
        let Rule::EndpointSlice(slice) = &parsed.broken[0].rule else { panic!("a slice") };
        assert_eq!(slice.spec.endpoints[0].addresses, ["10.0.0.1"]);
        assert!(parsed.broken[0].rule.to_yaml().unwrap().contains("\nendpoints:"));
    }
}
