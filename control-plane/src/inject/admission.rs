//! Injection as a mutating webhook: a pod comes in, a JSON patch goes out.
//!
//! Pods of a ReplicaSet come without a name, only with `generateName`; requests that are only a rehearsal (`dryRun`) are
//! answered like others, since nothing happens here but computing. A pod that cannot get the sidecar that it should have is
//! refused with the reason, and so whoever made it sees the reason: a pod that runs outside the mesh unnoticed is worse.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use json_patch::Patch;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use serde_json::Value;

use super::marks::Marks;
use super::{Decision, Injection, Settings, Surroundings, inject, owners};

/// Why the decision was made, in the API server's audit log.
const AUDIT: &str = "injection";

/// Answers a review of a pod in a namespace that has these labels and annotations.
pub(crate) fn admission(
    review: AdmissionReview<DynamicObject>,
    settings: &Settings,
    namespace: &Marks,
) -> AdmissionResponse {
    let request: AdmissionRequest<DynamicObject> = match review.try_into() {
        Ok(request) => request,
        Err(_) => return AdmissionResponse::invalid("the review has no request"),
    };
    let answer = AdmissionResponse::from(&request);
    let is_pod = request.kind.group.is_empty() && request.kind.kind == "Pod";
    let object = match (&request.operation, &request.object) {
        (Operation::Create, Some(object)) if is_pod => object,
        // Containers of a pod cannot be changed any more.
        (Operation::Create | Operation::Update | Operation::Delete | Operation::Connect, _) => return answer,
    };
    let pod = match serde_json::to_value(object) {
        Ok(pod) => pod,
        Err(error) => return answer.deny(format!("leno cannot read the pod: {error}")),
    };
    let (workload, purpose) = owners::of_pod(pod.get("metadata").unwrap_or(&Value::Null));
    let space = request.namespace.as_deref().unwrap_or("default");
    let around = Surroundings { namespace: space, marks: namespace, workload: &workload, purpose };
    match inject(&pod, &around, settings) {
        Ok(injection) => patched(answer, &pod, injection),
        Err(problems) => answer.deny(format!("leno cannot inject the sidecar: {problems}")),
    }
}

/// The answer as it goes over the wire: with the patch in base64, as Kubernetes' documentation has it. (kube writes a list of
/// numbers, which the API server happens to take as well.)
pub(crate) fn written(answer: AdmissionResponse) -> Result<Value, serde_json::Error> {
    let patch = answer.patch.as_ref().map(|patch| STANDARD.encode(patch));
    let mut review = serde_json::to_value(answer.into_review())?;
    let response = review.get_mut("response").and_then(Value::as_object_mut);
    if let (Some(response), Some(patch)) = (response, patch) {
        response.insert("patch".to_owned(), Value::String(patch));
    }
    Ok(review)
}

fn patched(mut answer: AdmissionResponse, pod: &Value, injection: Injection) -> AdmissionResponse {
    let Injection { decision, changed, warnings } = injection;
    let outcome = match &decision {
        Decision::Inject(_) => format!("injected: {decision}"),
        Decision::Skip(_) => format!("not injected: {decision}"),
    };
    answer.audit_annotations.insert(AUDIT.to_owned(), outcome);
    if !warnings.is_empty() {
        answer.warnings = Some(warnings);
    }
    let Some(changed) = changed else { return answer };
    let patch: Patch = json_patch::diff(pod, &changed);
    match answer.clone().with_patch(patch) {
        Ok(answer) => answer,
        Err(error) => answer.deny(format!("leno cannot write the patch: {error}")),
    }
}
