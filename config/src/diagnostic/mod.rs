//! Findings about what a person wrote: what is wrong, where, and what to do about it.
//!
//! All findings are collected; nobody has to fix a file one error at a time. Each has a stable code ([`codes`]), the
//! path in the document, and where a text is at hand the place in the file with the line itself, so that it can be
//! shown after the file has changed.

pub mod codes;
mod render;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::{Serialize, Serializer};

pub use codes::Code;
pub use render::{Style, render, summary};

use crate::rules::ResourceId;

/// Where something stands: in a file, or in an object of Kubernetes' API, which has fields and no lines.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The file as it is shown: its path, or `-` for standard input. An object: `NAMESPACE/KIND/NAME`.
    pub file: Arc<str>,
    /// From 1; 0: an object, where the path of the field says the rest.
    pub line: u32,
    /// From 1, in characters; 0: an object.
    pub column: u32,
}

impl Place {
    /// In an object of Kubernetes' API.
    pub fn object(name: Arc<str>) -> Self {
        Self { file: name, line: 0, column: 0 }
    }

    /// Whether it is a line of a file.
    pub fn is_line(&self) -> bool {
        self.line > 0
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_line() {
            true => write!(f, "{}:{}:{}", self.file, self.line, self.column),
            false => f.write_str(&self.file),
        }
    }
}

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The document is not served.
    Error,
    /// The document is served; something in it is not what it seems.
    Warning,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// `L0012`; see [`codes`].
    pub code: &'static str,
    /// How grave it is.
    pub severity: Severity,
    /// Where it stands; `None` where there is no text.
    pub place: Option<Place>,
    /// The document, where it is known.
    pub resource: Option<ResourceId>,
    /// Inside the document: `spec.http[2].route[0].weight`. Empty: the document as a whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The line in question.
    pub snippet: Option<Snippet>,
}

/// One line of a file with a part of it marked. Long lines are cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snippet {
    /// From 1.
    pub line: u32,
    /// The line, or a part of it around the mark.
    pub text: String,
    /// Bytes of `text`.
    pub mark: Range<usize>,
}

impl Diagnostic {
    /// A finding about nothing in particular; the caller says more.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code: code.id,
            severity: code.severity,
            place: None,
            resource: None,
            path: String::new(),
            message: message.into(),
            help: None,
            snippet: None,
        }
    }

    /// Whether its document is not served.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Diagnostic {
    /// One line, for logs: `rules/a.yaml:4:9: error[L0107]: VirtualService default/reviews: spec.http: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}[{}]: ", self.code)?;
        if let Some(resource) = &self.resource {
            write!(f, "{resource}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

impl Serialize for Diagnostic {
    /// The shape of `leno validate -o json`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        let mut fields = serializer.serialize_struct("Diagnostic", 9)?;
        fields.serialize_field("code", self.code)?;
        fields.serialize_field("severity", &self.severity)?;
        fields.serialize_field("file", &self.place.as_ref().map(|place| &place.file))?;
        let line = self.place.as_ref().filter(|place| place.is_line());
        fields.serialize_field("line", &line.map(|place| place.line))?;
        fields.serialize_field("column", &line.map(|place| place.column))?;
        fields.serialize_field("resource", &self.resource.as_ref().map(ToString::to_string))?;
        fields.serialize_field("path", &self.path)?;
        fields.serialize_field("message", &self.message)?;
        fields.serialize_field("help", &self.help)?;
        fields.end()
    }
}

/// By file, line and column; what has no place comes first.
pub fn sort(diagnostics: &mut [Diagnostic]) {
    diagnostics.sort_by(|one, other| {
        (&one.place, one.code, &one.resource, &one.path).cmp(&(&other.place, other.code, &other.resource, &other.path))
    });
}

/// Findings about one document that are kept; nobody reads more.
const MAX_PER_DOCUMENT: usize = 100;

/// Keeps as many findings about one document as people read, errors before warnings, and says how many there were more.
/// To be called before places are looked up, which costs more than the finding.
pub(crate) fn limit<T>(findings: &mut Vec<T>, severity: impl Fn(&T) -> Severity, more: impl FnOnce(Diagnostic) -> T) {
    if findings.len() <= MAX_PER_DOCUMENT {
        return;
    }
    findings.sort_by_key(severity);
    let left_out = findings.len().saturating_sub(MAX_PER_DOCUMENT);
    findings.truncate(MAX_PER_DOCUMENT);
    let message = format!("{left_out} more findings about this document are left out");
    findings.push(more(Diagnostic::new(codes::MORE, message)));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_code_is_given_twice() {
        let ids: BTreeSet<&str> = codes::ALL.iter().map(|code| code.id).collect();
        assert_eq!(ids.len(), codes::ALL.len());
        assert!(ids.iter().all(|id| id.len() == 5 && id.starts_with('L')));
    }

    #[test]
    fn json_has_the_fields_that_programs_rely_on() {
        let mut diagnostic = Diagnostic::new(codes::WEIGHT, "the weights add up to 0");
        diagnostic.place = Some(Place { file: "a.yaml".into(), line: 3, column: 5 });
        diagnostic.path = "spec.http[0].route".to_owned();
        let json = serde_json::to_value(&diagnostic).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "code": "L0107", "severity": "error", "file": "a.yaml", "line": 3, "column": 5, "resource": null,
                "path": "spec.http[0].route", "message": "the weights add up to 0", "help": null,
            })
        );
    }
}
