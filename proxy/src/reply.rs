//! Answers that are made here.

use bytes::Bytes;
use http::header::{self, HeaderValue, InvalidHeaderValue};
use http::{Response, StatusCode};
use leno_config::ir::{DirectResponse, Redirect};

use crate::body::Body;
use crate::error::{Flags, ProxyError, Reply, grpc_status_of};
use crate::headers::name;
use crate::policy::jwt::JwtError;

/// Bytes of a gRPC message that go into a header.
const MOST_OF_A_MESSAGE: usize = 1024;

/// The answer to a request that failed here: Envoy's status and body, and a sentence in `x-leno-error`. A gRPC caller
/// gets a gRPC status, since it would not look at an HTTP one. `flags` is all that is said of the request.
pub fn error(error: &ProxyError, flags: Flags, grpc: bool) -> Response<Body> {
    let Reply { status, flag: _, body } = error.reply();
    let mut response = if grpc { grpc_status(error.grpc_status(), body.as_bytes()) } else { text(status, body) };
    let sentence = format!("{flags}; {error}");
    // Whatever came from outside into the sentence is escaped.
    let visible: String = sentence.chars().map(|one| if (' '..='~').contains(&one) { one } else { '?' }).collect();
    if let Ok(value) = HeaderValue::from_str(&visible) {
        response.headers_mut().insert(name::ERROR, value);
    }
    if let ProxyError::Overloaded(_) = error {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if let ProxyError::Overflow { .. } | ProxyError::Overloaded(_) = error {
        response.headers_mut().insert(name::OVERLOADED, HeaderValue::from_static("true"));
    }
    if let ProxyError::RateLimited { quota, .. } = error {
        quota.tell_refused(response.headers_mut());
    }
    if let ProxyError::Token { reason, realm } = error
        && let Ok(challenge) = challenge(*reason, realm)
    {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// How the caller may come in (RFC 6750 §3), in Envoy's form.
fn challenge(reason: JwtError, realm: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    let error = if reason == JwtError::Missing { "" } else { ", error=\"invalid_token\"" };
    HeaderValue::from_str(&format!("Bearer realm=\"{realm}\"{error}"))
}

fn text(status: StatusCode, body: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::full(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    if !body.is_empty() {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}

/// Only headers, as gRPC's "trailers-only" has it.
fn grpc_status(status: u32, message: &[u8]) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(status));
    if !message.is_empty()
        && let Ok(message) = HeaderValue::from_str(&percent_encoded(message))
    {
        headers.insert("grpc-message", message);
    }
    response
}

/// As gRPC wants a message in a header; at most as much as fits into one.
fn percent_encoded(message: &[u8]) -> String {
    use std::fmt::Write as _;
    message.iter().take(MOST_OF_A_MESSAGE).fold(String::new(), |mut text, byte| {
        match byte {
            b'%' => text.push_str("%25"),
            b' '..=b'~' => text.push(char::from(*byte)),
            // Writing to a `String` does not fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
        text
    })
}

/// The answer that a rule wrote. A gRPC caller gets the status that it stands for, and its body as the message (Envoy).
pub fn direct(rule: &DirectResponse, grpc: bool) -> Response<Body> {
    if grpc {
        return grpc_status(grpc_status_of(rule.status), &rule.body);
    }
    let mut response = Response::new(Body::full(rule.body.clone()));
    *response.status_mut() = rule.status;
    if !rule.body.is_empty() {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}

/// A redirect. A gRPC caller gets a gRPC status with it: no client of gRPC follows one.
pub fn redirect(rule: &Redirect, location: &str, grpc: bool) -> Response<Body> {
    let mut response = if grpc { grpc_status(grpc_status_of(rule.status), &[]) } else { text(rule.status, "") };
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
