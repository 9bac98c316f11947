//! A head in the words of one version of HTTP or the other, and edits that keep it canonical.

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Uri, Version};

use crate::error::ProxyError;

use super::bad;

/// Host and port as requested.
pub fn authority(parts: &Parts) -> &str {
    match parts.uri.authority() {
        Some(authority) => authority.as_str(),
        None => parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    }
}

/// Puts a new path and query in place; scheme and authority stay.
pub fn set_target(parts: &mut Parts, target: String) -> Result<(), ProxyError> {
    let target = PathAndQuery::try_from(target).map_err(|_| bad("the path is not valid"))?;
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.path_and_query = Some(target);
    parts.uri = Uri::from_parts(uri).map_err(|_| bad("the request target is not valid"))?;
    Ok(())
}

/// Puts another host in place.
pub fn set_host(parts: &mut Parts, host: &str) -> Result<(), ProxyError> {
    if parts.uri.authority().is_some() {
        let authority = Authority::try_from(host).map_err(|_| bad("the rule's authority is not a host"))?;
        return set_authority(parts, authority);
    }
    let value = HeaderValue::from_str(host).map_err(|_| bad("the rule's authority is not a host"))?;
    parts.headers.insert(header::HOST, value);
    Ok(())
}

/// Makes the head one of HTTP/1.1: target without host, `Host` set.
pub fn to_http1(parts: &mut Parts) -> Result<(), ProxyError> {
    if let Some(authority) = parts.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| bad("the host is not valid"))?;
        parts.headers.insert(header::HOST, host);
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
        join_cookies(parts);
    }
    parts.version = Version::HTTP_11;
    Ok(())
}

/// Makes the head one of HTTP/2: scheme and authority in the target, no `Host`.
pub fn to_http2(parts: &mut Parts) -> Result<(), ProxyError> {
    if let Some(host) = parts.headers.remove(header::HOST) {
        let authority = Authority::try_from(host.as_bytes()).map_err(|_| bad("the host is not valid"))?;
        set_authority(parts, authority)?;
    }
    parts.version = Version::HTTP_2;
    Ok(())
}

/// Takes what must not be a trailer out of some (RFC 9110 §6.5.1): whoever merges them into the head, as some servers do,
/// would be told another length, host or identity after all checks.
pub fn trailers(fields: &mut HeaderMap) {
    if fields.keys().any(|name| !is_trailer(name.as_str())) {
        let refused: Vec<_> = fields.keys().filter(|name| !is_trailer(name.as_str())).cloned().collect();
        for name in refused {
            fields.remove(name);
        }
    }
}

/// Names of their own are what trailers are for (gRPC's metadata). Of the registered ones these are sent as trailers, and
/// of those whose owners mean proxies, none.
fn is_trailer(name: &str) -> bool {
    const PROXIES: [&str; 6] = ["x-forwarded-", "x-envoy-", "x-leno-", "x-real-", "x-b3-", "proxy-"];
    const REGISTERED: [&str; 12] = [
        "etag",
        "date",
        "expires",
        "last-modified",
        "server-timing",
        "digest",
        "content-digest",
        "repr-digest",
        "content-md5",
        "signature",
        "signature-input",
        "retry-after",
    ];
    REGISTERED.contains(&name)
        || !(HEAD_ONLY.contains(&name)
            || name.starts_with("content-")
            || name.starts_with("accept")
            || name.starts_with("access-control-")
            || name.starts_with("if-")
            || name.starts_with("sec-")
            || PROXIES.iter().any(|prefix| name.starts_with(prefix)))
}

/// Framing, routing, who asks, how to read the content, what to do with the answer.
const HEAD_ONLY: [&str; 33] = [
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "cookie",
    "expect",
    "forwarded",
    "from",
    "host",
    "http2-settings",
    "keep-alive",
    "link",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "range",
    "referer",
    "server",
    "set-cookie",
    "strict-transport-security",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
    "x-request-id",
];

/// HTTP/2 may split cookies, HTTP/1.1 may not (RFC 9113 §8.2.3).
fn join_cookies(parts: &mut Parts) {
    let mut cookies = parts.headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(_)) = (cookies.next(), cookies.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for cookie in parts.headers.get_all(header::COOKIE).iter().skip(1) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        parts.headers.insert(header::COOKIE, joined);
    }
}

pub(super) fn set_authority(parts: &mut Parts, authority: Authority) -> Result<(), ProxyError> {
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.authority = Some(authority);
    uri.scheme.get_or_insert(http::uri::Scheme::HTTP);
    uri.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    parts.uri = Uri::from_parts(uri).map_err(|_| bad("the request target is not valid"))?;
    Ok(())
}

/// Puts a new path in place; the query stays.
pub(super) fn replace_path(parts: &mut Parts, path: &str) -> Result<(), ProxyError> {
    let target = match parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    set_target(parts, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_changes_between_the_two_versions_and_back() {
        let request = http::Request::get("http://a:1/x?q").version(Version::HTTP_2);
        let request = request.header("cookie", "a=1").header("cookie", "b=2").body(()).expect("a request");
        let mut parts = request.into_parts().0;
        to_http1(&mut parts).expect("valid");
        assert_eq!((parts.uri.to_string().as_str(), authority(&parts)), ("/x?q", "a:1"));
        assert_eq!(parts.headers[header::COOKIE], "a=1; b=2");
        to_http2(&mut parts).expect("valid");
        assert_eq!((parts.uri.to_string().as_str(), parts.headers.get(header::HOST)), ("http://a:1/x?q", None));
    }

    #[test]
    fn a_trailer_is_no_way_round_a_check_of_the_head() {
        let pass = ["grpc-status", "grpc-message", "x-checksum", "my-metadata-bin", "etag", "content-digest"];
        let stay = [
            "content-length",
            "transfer-encoding",
            "host",
            "authorization",
            "cookie",
            "x-forwarded-for",
            "x-forwarded-client-cert",
            "x-envoy-retry-on",
            "content-type",
            "set-cookie",
            "te",
        ];
        let name = |name: &&str| http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
        let mut fields: HeaderMap =
            pass.iter().chain(&stay).map(|it| (name(it), HeaderValue::from_static("1"))).collect();
        trailers(&mut fields);
        assert_eq!(fields.len(), pass.len(), "{fields:?}");
        assert!(pass.iter().all(|name| fields.contains_key(*name)), "{fields:?}");
    }
}
