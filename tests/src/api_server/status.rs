//! Refusals: the `Status` object that every failed call answers, worded as the real server words it.

use http::StatusCode;
use serde_json::{Value, json};

use super::kinds::Kind;

/// Why a call was refused (`meta/v1 Status` with `status: Failure`).
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// HTTP status code, repeated in the body.
    pub code: u16,
    /// One word for programs: `NotFound`, `Conflict`, `Expired`, ….
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// What it is about, if anything.
    pub details: Option<Value>,
    /// `metadata.continue`, by which an expired list may go on.
    pub(super) remainder: Option<String>,
}

/// One thing that is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cause {
    /// `FieldValueInvalid`, `FieldValueRequired`, ….
    pub(super) reason: &'static str,
    /// Without the field.
    pub(super) message: String,
    /// `spec.backends[0].weight`
    pub(super) field: String,
}

impl Cause {
    /// A value that must not be there: its JSON, and why not.
    pub(super) fn invalid(field: &str, value: &Value, why: &str) -> Self {
        let message = format!("Invalid value: {value}: {why}");
        Self { reason: "FieldValueInvalid", message, field: field.to_owned() }
    }

    /// A value that is missing.
    pub(super) fn required(field: &str) -> Self {
        Self { reason: "FieldValueRequired", message: "Required value".to_owned(), field: field.to_owned() }
    }
}

impl Status {
    /// A refusal without details.
    pub fn new(code: StatusCode, reason: &str, message: impl Into<String>) -> Self {
        let (reason, message) = (reason.to_owned(), message.into());
        Self { code: code.as_u16(), reason, message, details: None, remainder: None }
    }

    /// 404
    pub(super) fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", kind.qualified_plural());
        Self::about(StatusCode::NOT_FOUND, "NotFound", message, kind, name)
    }

    /// 409: it is there already.
    pub(super) fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.qualified_plural());
        Self::about(StatusCode::CONFLICT, "AlreadyExists", message, kind, name)
    }

    /// 409: somebody else was faster.
    pub(super) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.qualified_plural());
        Self::about(StatusCode::CONFLICT, "Conflict", message, kind, name)
    }

    /// 403
    pub(super) fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", kind.qualified_plural());
        Self::about(StatusCode::FORBIDDEN, "Forbidden", message, kind, name)
    }

    /// 422, with everything that is wrong.
    pub(super) fn invalid(kind: &Kind, name: &str, causes: &[Cause]) -> Self {
        let one = |cause: &Cause| match cause.field.is_empty() {
            true => cause.message.clone(),
            false => format!("{}: {}", cause.field, cause.message),
        };
        let all: Vec<String> = causes.iter().map(one).collect();
        let all = if all.len() == 1 { all.concat() } else { format!("[{}]", all.join(", ")) };
        let message = format!("{} \"{name}\" is invalid: {all}", kind.qualified_kind());
        let causes: Vec<Value> = causes
            .iter()
            .map(|cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}))
            .collect();
        let mut status = Self::about(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message, kind, name);
        if let Some(details) = &mut status.details {
            details["kind"] = json!(kind.kind);
            details["causes"] = json!(causes);
        }
        status
    }

    /// 400
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 401
    pub(super) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// 405
    pub(super) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message).with_details(json!({}))
    }

    /// 410: a version of which nothing is known any more.
    pub(super) fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// 415
    pub(super) fn unsupported_media_type(given: &str, accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {} (not {given})",
            accepted.join(", ")
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message).with_details(json!({}))
    }

    /// 500
    pub(super) fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        let details = json!({"causes": [{"message": message}]});
        let message = format!("Internal error occurred: {message}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message).with_details(details)
    }

    /// With these `details`.
    pub(super) fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// The object on the wire.
    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        if let Some(remainder) = &self.remainder {
            status["metadata"]["continue"] = json!(remainder);
        }
        status
    }

    fn about(code: StatusCode, reason: &str, message: String, kind: &Kind, name: &str) -> Self {
        let mut details = json!({"name": name, "kind": kind.plural});
        if !kind.group.is_empty() {
            details["group"] = json!(kind.group);
        }
        Self::new(code, reason, message).with_details(details)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.code, self.reason, self.message)
    }
}

impl std::error::Error for Status {}
