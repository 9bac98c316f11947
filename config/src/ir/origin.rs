//! Where something in the IR comes from.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The rule that a route was compiled from. It travels as route metadata `leno.mesh` and names no file or line: those
/// change when a comment is added, and would push every route anew. The control plane resolves them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// `VirtualService`, `Service`, `ServiceEntry`, `Sidecar`, …
    pub kind: String,
    /// Namespace of the rule.
    pub namespace: String,
    /// Name of the rule.
    pub name: String,
    /// Index of the entry in the rule's list (`spec.http[index]`); 0 where there is no list.
    pub index: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}[{}]", self.kind, self.namespace, self.name, self.index)
    }
}
