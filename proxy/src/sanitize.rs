//! One canonical request, or a refusal, before anything else looks at it.
//!
//! What routing sees is what policy sees is what is forwarded: a path that means two things to two readers is how
//! rules are walked around. hyper has checked the framing; here is what it leaves open (RFC 9112, `Host` and target)
//! and the path (RFC 3986 §6.2.2; Istio's BASE normalisation).

use std::borrow::Cow;

use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, StatusCode, Uri, Version, header};
use leno_config::ir::PathNormalization;

use crate::error::ProxyError;

/// Longest method that is passed on.
const MAX_METHOD: usize = 32;

/// Makes the head canonical: afterwards [`authority`] and the path are safe to route by.
pub fn request(parts: &mut Parts, path: PathNormalization) -> Result<(), ProxyError> {
    match parts.version {
        Version::HTTP_11 => http1_target(parts)?,
        Version::HTTP_2 => http2_target(parts)?,
        // Envoy's default: HTTP/1.0 is not accepted.
        _ => return Err(refuse(StatusCode::UPGRADE_REQUIRED, "HTTP/1.0 is not supported, use HTTP/1.1")),
    }
    if parts.method.as_str().len() > MAX_METHOD {
        return Err(refuse(StatusCode::BAD_REQUEST, "the method is longer than 32 bytes"));
    }
    match canonical_path(parts.uri.path(), path)? {
        Cow::Borrowed(_) => {}
        Cow::Owned(canonical) => replace_path(parts, &canonical)?,
    }
    // hyper answers `100 Continue` itself when the body is first read.
    parts.headers.remove(header::EXPECT);
    Ok(())
}

/// Host and port as requested.
pub fn authority(parts: &Parts) -> &str {
    match parts.uri.authority() {
        Some(authority) => authority.as_str(),
        None => parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    }
}

fn refuse(status: StatusCode, reason: &'static str) -> ProxyError {
    ProxyError::BadRequest { status, reason }
}

fn bad(reason: &'static str) -> ProxyError {
    refuse(StatusCode::BAD_REQUEST, reason)
}

/// Exactly one valid `Host`; an absolute target must agree with it (RFC 9112 §3.2.2) and becomes a plain path.
fn http1_target(parts: &mut Parts) -> Result<(), ProxyError> {
    if parts.method == Method::CONNECT {
        return Err(refuse(StatusCode::NOT_FOUND, "CONNECT is not supported here"));
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next().ok_or_else(|| bad("the Host header is missing (RFC 9112 §3.2)"))?;
    if hosts.next().is_some() {
        return Err(bad("there is more than one Host header (RFC 9112 §3.2)"));
    }
    if !is_authority(host.as_bytes()) {
        return Err(bad("the Host header is not a host with an optional port (RFC 9110 §7.2)"));
    }
    if let Some(target) = parts.uri.authority() {
        if !target.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) {
            return Err(bad("the Host header differs from the host of the request target"));
        }
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
    }
    if parts.uri.path() == "*" && parts.method != Method::OPTIONS {
        return Err(bad("`*` is a target for OPTIONS only"));
    }
    Ok(())
}

/// `:authority` or `Host`, and where there are both, the same (RFC 9113 §8.3.1).
fn http2_target(parts: &mut Parts) -> Result<(), ProxyError> {
    if parts.method == Method::CONNECT && parts.extensions.get::<hyper::ext::Protocol>().is_none() {
        return Err(refuse(StatusCode::NOT_FOUND, "CONNECT is not supported here"));
    }
    let host = parts.headers.remove(header::HOST);
    match (parts.uri.authority(), host) {
        (Some(authority), host) => {
            if !is_authority(authority.as_str().as_bytes()) {
                return Err(bad(":authority is not a host with an optional port"));
            }
            if host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())) {
                return Err(bad("the Host header differs from :authority"));
            }
        }
        (None, Some(host)) => {
            let authority = Authority::try_from(host.as_bytes())
                .ok()
                .filter(|authority| is_authority(authority.as_str().as_bytes()))
                .ok_or_else(|| bad("the Host header is not a host with an optional port"))?;
            set_authority(parts, authority)?;
        }
        (None, None) => return Err(bad("the request names no host")),
    }
    Ok(())
}

fn set_authority(parts: &mut Parts, authority: Authority) -> Result<(), ProxyError> {
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.authority = Some(authority);
    uri.scheme.get_or_insert(http::uri::Scheme::HTTP);
    uri.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    parts.uri = Uri::from_parts(uri).map_err(|_| bad("the request target is not valid"))?;
    Ok(())
}

/// A host and an optional port: no user, no path, no list, no spaces.
fn is_authority(text: &[u8]) -> bool {
    !text.is_empty()
        && text.iter().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'~' | b'%')
        })
}

/// Borrowed when there is nothing to do, which is nearly always.
fn canonical_path(path: &str, wanted: PathNormalization) -> Result<Cow<'_, str>, ProxyError> {
    let bytes = path.as_bytes();
    let escaped = bytes.iter().any(|byte| matches!(byte, b'%' | b'\\' | b'#'));
    let dotted = wanted.dots && bytes.windows(2).any(|pair| pair == b"/.");
    let doubled = wanted.merge_slashes && bytes.windows(2).any(|pair| pair == b"//");
    if !(escaped || dotted || doubled) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = if wanted.dots { decode_unreserved(bytes)? } else { bytes.to_vec() };
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut rest = decoded.strip_prefix(b"/").unwrap_or(&decoded).split(|byte| *byte == b'/').peekable();
    while let Some(segment) = rest.next() {
        let last = rest.peek().is_none();
        match segment {
            b"." if wanted.dots => {
                if last {
                    segments.push(b"");
                }
            }
            b".." if wanted.dots => {
                segments.pop();
                if last {
                    segments.push(b"");
                }
            }
            b"" if wanted.merge_slashes && !last => {}
            other => segments.push(other),
        }
    }
    let mut canonical = Vec::with_capacity(decoded.len());
    for segment in &segments {
        canonical.push(b'/');
        canonical.extend_from_slice(segment);
    }
    if canonical.is_empty() {
        canonical.push(b'/');
    }
    String::from_utf8(canonical).map(Cow::Owned).map_err(|_| bad("the path is not text"))
}

/// `%41` is `A`; what is not unreserved stays escaped. Refuses escapes that are none, NUL and the backslash, which some
/// servers take for a slash.
fn decode_unreserved(path: &[u8]) -> Result<Vec<u8>, ProxyError> {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let (high, low) = (bytes.next().and_then(hex), bytes.next().and_then(hex));
                let (Some(high), Some(low)) = (high, low) else {
                    return Err(bad("the path has a `%` without two hexadecimal digits behind it"));
                };
                match high << 4 | low {
                    0 => return Err(bad("the path has an escaped NUL")),
                    plain if plain.is_ascii_alphanumeric() || matches!(plain, b'-' | b'.' | b'_' | b'~') => {
                        out.push(plain);
                    }
                    _ => out.extend_from_slice(&[b'%', digit(high), digit(low)]),
                }
            }
            b'\\' => return Err(bad("the path has a backslash")),
            b'#' => return Err(bad("the request target has a fragment")),
            other => out.push(other),
        }
    }
    Ok(out)
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'A' + value - 10 }
}

/// Puts a new path in place; the query stays.
fn replace_path(parts: &mut Parts, path: &str) -> Result<(), ProxyError> {
    let target = match parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    set_target(parts, target)
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
        // The one character that `http` takes in a name and HTTP/1.1 does not (RFC 9110 §5.6.2). Only HTTP/2 brings it.
        if parts.headers.keys().any(|name| name.as_str().contains('"')) {
            return Err(bad("the name of a header has a quotation mark"));
        }
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| bad("the host is not valid"))?;
        parts.headers.insert(header::HOST, host);
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
        join_cookies(parts);
    }
    parts.version = Version::HTTP_11;
    Ok(())
}

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

/// Makes the head one of HTTP/2: scheme and authority in the target, no `Host`.
pub fn to_http2(parts: &mut Parts) -> Result<(), ProxyError> {
    if let Some(host) = parts.headers.remove(header::HOST) {
        let authority = Authority::try_from(host.as_bytes()).map_err(|_| bad("the host is not valid"))?;
        set_authority(parts, authority)?;
    }
    parts.version = Version::HTTP_2;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: Version, method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri(target).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn a_path_has_one_meaning() {
        let merge = PathNormalization { dots: true, merge_slashes: true };
        let rows = [
            ("/plain", PathNormalization::BASE, Some("/plain")),
            ("/a/./b", PathNormalization::BASE, Some("/a/b")),
            ("/a/../b", PathNormalization::BASE, Some("/b")),
            ("/rw/../echo", PathNormalization::BASE, Some("/echo")),
            ("/../../x", PathNormalization::BASE, Some("/x")),
            ("/a/b/..", PathNormalization::BASE, Some("/a/")),
            ("/a/.", PathNormalization::BASE, Some("/a/")),
            ("/..", PathNormalization::BASE, Some("/")),
            ("/a/%2e%2E/b", PathNormalization::BASE, Some("/b")),
            ("/%41%2fb", PathNormalization::BASE, Some("/A%2Fb")),
            ("/a//b", PathNormalization::BASE, Some("/a//b")),
            ("/a//b", merge, Some("/a/b")),
            ("//a/", merge, Some("/a/")),
            ("/...", PathNormalization::BASE, Some("/...")),
            ("/a/.hidden", PathNormalization::BASE, Some("/a/.hidden")),
            ("/%zz", PathNormalization::BASE, None),
            ("/%4", PathNormalization::BASE, None),
            ("/%00", PathNormalization::BASE, None),
            ("/a\\b", PathNormalization::BASE, None),
        ];
        for (given, wanted, expected) in rows {
            let found = canonical_path(given, wanted).ok();
            assert_eq!(found.as_deref(), expected, "{given}");
            if let Some(once) = found {
                assert_eq!(canonical_path(&once, wanted).ok().as_deref(), expected, "canonical is a fixed point");
            }
        }
    }

    #[test]
    fn a_target_has_one_host() {
        let h1 = Version::HTTP_11;
        let rows: [(Parts, Result<&str, u16>); 12] = [
            (head(h1, "GET", "/x", &[("host", "a:80")]), Ok("a:80")),
            (head(h1, "GET", "http://a/x", &[("host", "A")]), Ok("A")),
            (head(h1, "GET", "http://a/x", &[("host", "b")]), Err(400)),
            (head(h1, "GET", "/x", &[]), Err(400)),
            (head(h1, "GET", "/x", &[("host", "a"), ("host", "a")]), Err(400)),
            (head(h1, "GET", "/x", &[("host", "u@a")]), Err(400)),
            (head(h1, "GET", "/x", &[("host", "a/b")]), Err(400)),
            (head(h1, "GET", "/x", &[("host", "a,b")]), Err(400)),
            (head(h1, "CONNECT", "a:80", &[("host", "a:80")]), Err(404)),
            (head(Version::HTTP_10, "GET", "/x", &[("host", "a")]), Err(426)),
            (head(Version::HTTP_2, "GET", "http://a/x", &[("host", "b")]), Err(400)),
            (head(Version::HTTP_2, "GET", "http://a/x", &[]), Ok("a")),
        ];
        for (mut parts, expected) in rows {
            let found = request(&mut parts, PathNormalization::BASE).map_err(|error| error.reply().status.as_u16());
            assert_eq!(found.map(|()| authority(&parts)), expected, "{} {:?}", parts.uri, parts.headers);
        }
    }

    #[test]
    fn a_head_changes_between_the_two_versions_and_back() {
        let mut parts = head(Version::HTTP_2, "GET", "http://a:1/x?q", &[("cookie", "a=1"), ("cookie", "b=2")]);
        to_http1(&mut parts).expect("valid");
        assert_eq!((parts.uri.to_string().as_str(), authority(&parts)), ("/x?q", "a:1"));
        assert_eq!(parts.headers[header::COOKIE], "a=1; b=2");
        to_http2(&mut parts).expect("valid");
        assert_eq!((parts.uri.to_string().as_str(), parts.headers.get(header::HOST)), ("http://a:1/x?q", None));
    }
}
