//! Where findings about one document are gathered before they get their places.

use crate::diagnostic::{self, Code, Diagnostic};
use crate::rules::{Aim, Document, Path};

/// Findings about one document.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<(Diagnostic, Aim)>);

/// The last finding, to be said more about.
pub(super) struct Finding<'a> {
    diagnostic: &'a mut Diagnostic,
    aim: &'a mut Aim,
}

/// The path that nearly all findings start with.
pub(super) fn spec() -> Path {
    Path::root().key("spec")
}

impl Findings {
    /// Notes that something at `path` is wrong.
    #[expect(clippy::expect_used, reason = "one was pushed in the line before")]
    pub(super) fn add(&mut self, code: Code, path: &Path, message: impl Into<String>) -> Finding<'_> {
        let diagnostic = Diagnostic { path: path.to_string(), ..Diagnostic::new(code, message) };
        self.0.push((diagnostic, Aim::Value));
        let (diagnostic, aim) = self.0.last_mut().expect("invariant: one was pushed just now");
        Finding { diagnostic, aim }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives all of them place, line and resource.
    pub(super) fn placed(mut self, document: &Document) -> Vec<Diagnostic> {
        diagnostic::limit(&mut self.0, |(finding, _)| finding.severity, |more| (more, Aim::Value));
        document.locate(&mut self.0);
        self.0.into_iter().map(|(diagnostic, _)| diagnostic).collect()
    }
}

impl Finding<'_> {
    /// What to do about it.
    pub(super) fn help(self, help: impl Into<String>) -> Self {
        self.diagnostic.help = Some(help.into());
        self
    }

    /// Points at the key in place of the value.
    pub(super) fn on_key(self) -> Self {
        *self.aim = Aim::Key;
        self
    }
}
