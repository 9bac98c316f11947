//! `/explain`: where a request would go by what is in force, by which rule, and why not by another.
//!
//! `method`, `url`, `headers` (a JSON array of `[name, value]` pairs) and `claims` (a JSON object: what the token of the
//! end user would say). Nothing is sent anywhere.

use http::request::Parts;
use http::{Method, Request, Uri, header};
use serde_json::json;

use crate::explain::{Holdings, explain};
use crate::policy::jwt::Claims;

use super::answer::{self, Answer};
use super::query::{Query, QueryError};
use super::{Shared, redact};

/// What `/explain` understands.
pub(super) const PARAMETERS: &[&str] = &["method", "url", "headers", "claims"];

/// `/explain`, in the shape of `leno explain -o json`.
pub(super) fn answer(shared: &Shared, query: &Query) -> Result<Answer, QueryError> {
    let claims = query.value("claims").map(|text| {
        let claims = Claims::parse(text.as_bytes());
        claims.ok_or_else(|| Query::wrong("claims", text, "is not a JSON object with claims"))
    });
    let claims = claims.transpose()?;
    let request = request(query)?;
    let snapshot = shared.snapshot();
    let mut verdict = json!(explain(&Holdings::in_force(&snapshot), request, claims.as_ref()).verdict);
    redact::secrets(&mut verdict);
    Ok(answer::json(&verdict))
}

/// The request as the own app would send it: HTTP/1.1 with a `Host`.
fn request(query: &Query) -> Result<Parts, QueryError> {
    let method = query.value("method").unwrap_or("GET");
    let wrong = |name: &str, value: &str, reason: &str| Query::wrong(name, value, reason);
    let method: Method = method.parse().map_err(|_| wrong("method", method, "is not a method of HTTP"))?;
    let url = query.value("url").unwrap_or_default();
    let uri: Uri = url.parse().map_err(|_| wrong("url", url, "say a URL, as in http://reviews:9080/reviews/1"))?;
    let Some(authority) = uri.authority() else {
        return Err(wrong("url", url, "names no host; say it in full, as in http://reviews:9080/reviews/1"));
    };
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let written = query.value("headers").unwrap_or("[]");
    let headers: Vec<(String, String)> = serde_json::from_str(written)
        .map_err(|_| wrong("headers", written, r#"say a JSON array of pairs, as in [["end-user","jason"]]"#))?;
    let mut builder = Request::builder().method(method).uri(target);
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        builder = builder.header(header::HOST, authority.as_str());
    }
    for (name, value) in &headers {
        builder = builder.header(name, value);
    }
    let built = builder.body(()).map_err(|error| wrong("headers", written, &error.to_string()))?;
    Ok(built.into_parts().0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_made_of_its_parts_or_refused_with_a_remedy() {
        let query = Query::parse("method=POST&url=http%3A%2F%2Freviews:9080%2Fa%3Fb=c&headers=[[\"x\",\"y\"]]");
        let parts = request(&query.expect("a query")).expect("a request");
        assert_eq!((parts.method.as_str(), parts.uri.to_string().as_str()), ("POST", "/a?b=c"));
        assert_eq!(
            (&parts.headers["host"], &parts.headers["x"]),
            (&"reviews:9080".parse().unwrap(), &"y".parse().unwrap())
        );
        for (query, words) in [
            ("", "say a URL"),
            ("url=%2Fpath", "names no host"),
            ("url=http://a&method=G%20T", "not a method"),
            ("url=http://a&headers=x", "JSON array"),
            ("url=http://a&headers=[[\"a%20b\",\"c\"]]", "headers="),
        ] {
            let error = request(&Query::parse(query).expect("a query")).expect_err(query).to_string();
            assert!(error.contains(words), "{query}: {error}");
        }
    }
}
