//! `/validate`: what `leno validate` says about a rule, before the API server takes it.
//!
//! Errors refuse the rule, with the same codes and words; warnings go to whoever wrote it, as warnings of `kubectl`. A
//! rule is looked at among those that are in force, so that a host or a subset of another rule is known. One thing
//! differs: what is missing may be on its way. `kubectl apply -f` writes one object after another, and a VirtualService
//! often before the DestinationRule that defines its subsets. So what the rule names and nobody has yet is a warning here
//! and never more; until it is there, the rule's status says what `leno validate` says.

use std::sync::Arc;

use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use leno_config::diagnostic::{Diagnostic, Severity, codes};
use leno_config::rules::{self, Document, Parsed};
use leno_config::validate;

use super::review;

/// `kubectl` shows so many characters of one warning (Kubernetes cuts at 256).
const LONGEST_WARNING: usize = 256;
/// Of more findings, the number. Kubernetes passes 4096 bytes of warnings on.
const MOST: usize = 10;

/// Errors that another object puts right which is written after this one.
const MAY_COME: [&str; 2] = [codes::UNKNOWN_SUBSET.id, codes::UNKNOWN_PORT.id];

/// The rules that are in force.
pub(crate) type InForce = Arc<dyn Fn() -> Arc<Vec<Document>> + Send + Sync>;

/// Answers a review of a rule.
pub(super) fn admission(review: AdmissionReview<DynamicObject>, in_force: &[Document]) -> AdmissionResponse {
    review::answer(review, |request| decide(&request, in_force))
}

fn decide(request: &AdmissionRequest<DynamicObject>, in_force: &[Document]) -> AdmissionResponse {
    let answer = AdmissionResponse::from(request);
    let object = match (&request.operation, &request.object) {
        (Operation::Create | Operation::Update, Some(object)) => object,
        (Operation::Create | Operation::Update | Operation::Delete | Operation::Connect, _) => return answer,
    };
    // It has to be possible to let go of what is wrong.
    if object.metadata.deletion_timestamp.is_some() {
        return answer;
    }
    let text = match serde_json::to_string(&rule(object)) {
        Ok(text) => text,
        Err(error) => return answer.deny(format!("leno cannot read the object: {error}")),
    };
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    let name = object.metadata.name.as_deref().or(object.metadata.generate_name.as_deref()).unwrap_or_default();
    let parsed = rules::parse_object(&format!("{namespace}/{}/{name}", request.kind.kind), &text);
    if let Some(kind) = parsed.skipped.keys().next() {
        return warned(
            answer,
            vec![format!("leno does not read {kind}, so that this object does nothing in its mesh")],
        );
    }
    let findings = findings(&parsed, in_force);
    let (errors, warnings): (Vec<_>, Vec<_>) = findings.iter().partition(|finding| finding.is_error());
    let answer = warned(answer, lines(&warnings));
    match errors.is_empty() {
        true => answer,
        false => {
            let mut refused = answer.deny(lines(&errors).join("\n"));
            refused.result.code = 422;
            refused.result.reason = "Invalid".to_owned();
            refused
        }
    }
}

/// The object without what the API server and others keep in it.
fn rule(object: &DynamicObject) -> DynamicObject {
    let mut rule = object.clone();
    rule.metadata.managed_fields = None;
    // With this, kubectl keeps the text of a moment ago, of a rule of before.
    if let Some(annotations) = &mut rule.metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    if rule.metadata.name.is_none() {
        rule.metadata.name = rule.metadata.generate_name.as_ref().map(|prefix| format!("{prefix}x"));
    }
    if let Some(fields) = rule.data.as_object_mut() {
        fields.remove("status");
    }
    rule
}

fn findings(parsed: &Parsed, in_force: &[Document]) -> Vec<Diagnostic> {
    let is_new = |document: &&Document| parsed.documents.iter().all(|own| own.id != document.id);
    let others: Vec<Document> = in_force.iter().filter(is_new).cloned().collect();
    let mut findings = validate::check(&Parsed { documents: Vec::new(), ..parsed.clone() });
    findings.extend(validate::validate_among(&parsed.documents, &others));
    let may_come = |finding: &&mut Diagnostic| MAY_COME.contains(&finding.code);
    findings.iter_mut().filter(may_come).for_each(|finding| finding.severity = Severity::Warning);
    findings
}

/// One line for each, as `leno validate` words it.
fn lines(findings: &[&Diagnostic]) -> Vec<String> {
    let mut lines: Vec<String> = findings.iter().take(MOST).map(|finding| line(finding)).collect();
    if findings.len() > MOST {
        lines.push(format!("and {} more; `leno validate -f` shows all", findings.len() - MOST));
    }
    lines
}

/// `L0107: spec.http[0].route[1].weight: the weight is negative; write …`
fn line(finding: &Diagnostic) -> String {
    let path = if finding.path.is_empty() { String::new() } else { format!("{}: ", finding.path) };
    let help = finding.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
    format!("{}: {path}{}{help}", finding.code, finding.message)
}

fn warned(mut answer: AdmissionResponse, warnings: Vec<String>) -> AdmissionResponse {
    if !warnings.is_empty() {
        let cut = |text: String| match text.char_indices().nth(LONGEST_WARNING - 1) {
            Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
            None => text,
        };
        answer.warnings = Some(warnings.into_iter().map(cut).collect());
    }
    answer
}
