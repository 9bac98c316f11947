//! Labels and annotations: what they say, and where they stand.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::names;
use super::problem::Problem;

/// The labels and annotations of a pod or of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// `metadata.labels`.
    pub(crate) labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub(crate) annotations: BTreeMap<String, String>,
}

/// One label or annotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Mark {
    /// Whose, and which of the two.
    pub(crate) place: Place,
    /// Its key.
    pub(crate) key: String,
    /// Its value.
    pub(crate) value: String,
}

/// Where a label or annotation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Place {
    /// A label of the pod (of its template).
    PodLabel,
    /// An annotation of the pod (of its template).
    PodAnnotation,
    /// A label of its namespace.
    NamespaceLabel,
    /// An annotation of its namespace.
    NamespaceAnnotation,
}

impl Marks {
    /// Those of `metadata`, which may be nothing. Only a text can be a label or an annotation; a name that injection reads
    /// and that has something else is told, since Kubernetes would refuse it with less helpful words.
    pub(crate) fn read(metadata: Option<&Value>, labels: Place, annotations: Place) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut texts = |field: &str, place: Place| -> BTreeMap<String, String> {
            let entries = metadata.and_then(|metadata| metadata.get(field)?.as_object());
            let entries = entries.into_iter().flatten().filter_map(|(key, value)| match value {
                Value::String(text) => Some((key.clone(), text.clone())),
                _ if !names::is_read(key) => None,
                other => {
                    let mark = Mark { place, key: key.clone(), value: other.to_string() };
                    let reason = format!("is not a text; Kubernetes takes only texts here: write \"{}\"", mark.value);
                    problems.push(Problem::value(&mark, &reason));
                    None
                }
            });
            entries.collect()
        };
        let marks = Self { labels: texts("labels", labels), annotations: texts("annotations", annotations) };
        match problems.is_empty() {
            true => Ok(marks),
            false => Err(problems),
        }
    }

    /// A pod's.
    pub(crate) fn of_pod(metadata: Option<&Value>) -> Result<Self, Vec<Problem>> {
        Self::read(metadata, Place::PodLabel, Place::PodAnnotation)
    }

    /// A namespace's.
    pub(crate) fn of_namespace(metadata: Option<&Value>) -> Result<Self, Vec<Problem>> {
        Self::read(metadata, Place::NamespaceLabel, Place::NamespaceAnnotation)
    }

    /// The label `key`.
    pub(super) fn label(&self, key: &str, place: Place) -> Option<Mark> {
        self.labels.get(key).map(|value| Mark { place, key: key.to_owned(), value: value.clone() })
    }

    /// The label `key`, then the annotation `key`.
    pub(super) fn both(&self, key: &str, label: Place, annotation: Place) -> impl Iterator<Item = Mark> {
        let annotated = self.annotations.get(key);
        let annotated = annotated.map(|value| Mark { place: annotation, key: key.to_owned(), value: value.clone() });
        self.label(key, label).into_iter().chain(annotated)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} {}={}", self.place, self.key, self.value)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PodLabel => "pod's label",
            Self::PodAnnotation => "pod's annotation",
            Self::NamespaceLabel => "namespace's label",
            Self::NamespaceAnnotation => "namespace's annotation",
        })
    }
}
