//! A body as an AdmissionReview, or what to answer instead.

use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use serde_json::Value;

/// The only version of the form.
const VERSION: &str = "admission.k8s.io/v1";

/// Why a body is not answered as it asks.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadReview {
    /// Who sends this is no API server.
    #[error("the body is no AdmissionReview of {VERSION}: {0}")]
    NotAReview(String),
    /// It is one, and there is something in it that this program does not understand. The answer has to name it.
    #[error("{reason}")]
    Unreadable { uid: String, reason: String },
}

/// Reads a body.
pub(super) fn read(body: &[u8]) -> Result<AdmissionReview<DynamicObject>, BadReview> {
    let not_a_review = |reason: String| BadReview::NotAReview(reason);
    let value: Value = serde_json::from_slice(body).map_err(|error| not_a_review(error.to_string()))?;
    let said = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    if (said("apiVersion"), said("kind")) != (VERSION, "AdmissionReview") {
        return Err(not_a_review(format!(
            "it is `{} {}`",
            said("apiVersion").escape_debug(),
            said("kind").escape_debug()
        )));
    }
    let uid = value.pointer("/request/uid").and_then(Value::as_str).map(str::to_owned);
    let uid =
        uid.filter(|uid| !uid.is_empty()).ok_or_else(|| not_a_review("it has no request with a uid".to_owned()))?;
    serde_json::from_value(value)
        .map_err(|error| BadReview::Unreadable { uid, reason: format!("leno cannot read the review: {error}") })
}

/// A refusal of the request with this uid.
pub(super) fn refusal(uid: String, reason: &str) -> AdmissionResponse {
    let mut answer = AdmissionResponse::invalid(reason);
    answer.uid = uid;
    answer.result.code = 422;
    answer
}

/// Answers by what is asked, for which there has to be a request.
pub(super) fn answer(
    review: AdmissionReview<DynamicObject>,
    decide: impl FnOnce(AdmissionRequest<DynamicObject>) -> AdmissionResponse,
) -> AdmissionResponse {
    match review.try_into() {
        Ok(request) => decide(request),
        Err(_) => AdmissionResponse::invalid("the review has no request"),
    }
}
