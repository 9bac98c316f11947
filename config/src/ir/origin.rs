//! Where something in the IR comes from.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The rule that a route was compiled from. It travels as route metadata `leno.mesh`.
///
/// Two origins are equal, and so are the versions of what holds them, wherever their rule stands: see [`FilePlace`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// `VirtualService`, `Service`, `ServiceEntry`, `Sidecar`, …
    pub kind: String,
    /// Namespace of the rule.
    pub namespace: String,
    /// Name of the rule.
    pub name: String,
    /// Index of the entry in the rule's list (`spec.http[index]`); 0 where there is no list. A VirtualService has three,
    /// which count as one: `http`, then `tls`, then `tcp`.
    pub index: u32,
    /// Where the entry stands, where somebody wants to know: for lines of an access log.
    #[serde(skip)]
    pub place: FilePlace,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}[{}]", self.kind, self.namespace, self.name, self.index)
    }
}

/// File and line of a rule, which say nothing of what it does.
///
/// A comment at the top of a file moves every line below it. If that made another version of every route, one comment
/// would push them all to every proxy; so a place is part of a message and not of a version, and any two places are
/// equal. What a proxy has is the place of the rule when the route was last sent: the rule's kind, name and index
/// in the same line are always right, and `leno explain` looks the line up anew. The other way, a table of its own beside the
/// routes, would be right at every moment and pushed at every comment, for a line that is read when something is wrong,
/// which is mostly just after the rule itself was changed.
#[derive(Debug, Clone, Default)]
pub struct FilePlace(pub Option<Arc<FileLine>>);

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLine {
    /// As it is shown: its path.
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
}

impl PartialEq for FilePlace {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for FilePlace {}

impl Hash for FilePlace {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl PartialOrd for FilePlace {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for FilePlace {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}
