//! What a resource loses in the words of gRPC.

use std::collections::BTreeMap;

use crate::xds::Kind;

/// Remarks by kind and name of the resource.
pub type Remarks = BTreeMap<(Kind, String), Remark>;

/// What a resource could not say, for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// What became of the resource.
    pub outcome: Outcome,
    /// `field: reason; field: reason`
    pub reason: String,
}

/// What became of a resource that does not say all that the rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is not sent.
    Refused,
    /// It is sent without what the reason names.
    LeftOut,
}

impl Outcome {
    /// For people and programs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::LeftOut => "left out",
        }
    }
}

/// What was found about one resource so far.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    refused: Vec<String>,
    left_out: Vec<String>,
}

impl Verdict {
    /// Requests would be treated differently.
    pub(super) fn refuse(&mut self, field: &str, reason: &str) {
        add(&mut self.refused, field, reason);
    }

    /// A protection is missing.
    pub(super) fn leave_out(&mut self, field: &str, reason: &str) {
        add(&mut self.left_out, field, reason);
    }

    /// Takes what was found about a part, under its name.
    pub(super) fn take(&mut self, part: &str, found: Self) {
        let Self { refused, left_out } = found;
        refused.into_iter().for_each(|text| add(&mut self.refused, part, &text));
        left_out.into_iter().for_each(|text| add(&mut self.left_out, part, &text));
    }

    /// `None`: everything is said. A resource that is refused is not spoken of in any other way.
    pub(super) fn into_remark(self) -> Option<Remark> {
        let Self { refused, left_out } = self;
        let (outcome, found) = match refused.is_empty() {
            true => (Outcome::LeftOut, left_out),
            false => (Outcome::Refused, refused),
        };
        (!found.is_empty()).then(|| Remark { outcome, reason: found.join("; ") })
    }
}

fn add(found: &mut Vec<String>, field: &str, reason: &str) {
    let text = format!("{field}: {reason}");
    if !found.contains(&text) {
        found.push(text);
    }
}
