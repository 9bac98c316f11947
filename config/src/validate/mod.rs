//! temp
/// t
pub fn validate(_: &[crate::rules::Document]) -> Vec<crate::diagnostic::Diagnostic> {
    Vec::new()
}
