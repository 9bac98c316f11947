//! Cross-origin resource sharing, as Envoy's filter does it (Fetch standard §3.2).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use leno_config::ir::{Cors, StringMatch};

use crate::body::Body;

/// The answer to a preflight from an allowed origin; `None` when the request goes on.
pub fn preflight(cors: &Cors, method: &Method, headers: &HeaderMap) -> Option<Response<Body>> {
    let asks = *method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let origin = headers.get(header::ORIGIN).filter(|_| asks)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::OK;
    if !allows(cors, origin) {
        return (!cors.forward_unmatched_preflights).then_some(response);
    }
    let answer = response.headers_mut();
    allow_origin(cors, origin, answer);
    set(answer, header::ACCESS_CONTROL_ALLOW_METHODS, &cors.allow_methods);
    set(answer, header::ACCESS_CONTROL_ALLOW_HEADERS, &cors.allow_headers);
    // The standard wants it on the answer itself alone; Envoy says it here too (measured on 1.40).
    set(answer, header::ACCESS_CONTROL_EXPOSE_HEADERS, &cors.expose_headers);
    if let Some(age) = cors.max_age {
        answer.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(age.as_secs()));
    }
    Some(response)
}

/// Lets the page of an allowed origin read the answer.
pub fn mark_response(cors: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    let Some(origin) = origin.filter(|origin| allows(cors, origin)) else { return };
    allow_origin(cors, origin, headers);
    set(headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, &cors.expose_headers);
}

fn allows(cors: &Cors, origin: &HeaderValue) -> bool {
    origin.to_str().is_ok_and(|origin| {
        // An exact `*` stands for every origin (Envoy).
        cors.allow_origins.iter().any(|allowed| {
            matches!(allowed, StringMatch::Exact { value, .. } if value == "*") || allowed.is_match(origin)
        })
    })
}

fn allow_origin(cors: &Cors, origin: &HeaderValue, headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if cors.allow_credentials {
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if !value.is_empty()
        && let Ok(value) = HeaderValue::from_str(value)
    {
        headers.insert(name, value);
    }
}
