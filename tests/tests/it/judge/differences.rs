//! Where Leno is meant to differ from Envoy. This is the whole list; there are at most fifteen.
//!
//! Each names the case that shows it, and what Leno does there: the judge fails when Leno does anything else, Envoy's way
//! included.

/// One difference that is meant.
#[derive(Debug)]
pub(super) struct Difference {
    /// In one line, for people.
    pub(super) title: &'static str,
    /// The case that shows it; `*`: any.
    pub(super) case: &'static str,
    /// Which field of the outcome differs.
    field: &'static str,
    /// What Envoy does.
    envoy: &'static str,
    /// What Leno does.
    leno: &'static str,
    /// Why.
    #[allow(dead_code)] // For who reads.
    why: &'static str,
}

/// All of them.
pub(super) const ALL: &[Difference] = &[];

const _: () = assert!(ALL.len() <= 15, "more than fifteen differences are no longer the same semantics");

/// The difference that covers this one, if it is meant.
pub(super) fn meant(case: &str, field: &str, envoy: &str, leno: &str) -> Option<&'static Difference> {
    ALL.iter()
        .find(|it| (it.case == "*" || it.case == case) && it.field == field && it.envoy == envoy && it.leno == leno)
}
