//! One canonical message, or a refusal, before anything else looks at it: all rules, for requests and for responses.
//!
//! What routing sees is what policy sees is what is forwarded. A message that means two things to two readers is how rules
//! are walked around and how one request becomes two (smuggling), so wherever the standards leave a choice, this file
//! chooses once, and what stays doubtful is refused and its connection closed.
//!
//! hyper and h2 have parsed the message and refused what is not HTTP at all. What they leave open, and what becomes of it:
//!
//! | | requests | responses |
//! |---|---|---|
//! | version | HTTP/1.0: 426 | any |
//! | `Transfer-Encoding` | one `chunked`; other codings 501, else 400 | one `chunked`, and no `Content-Length` beside it; else 502 |
//! | `Content-Length` beside it | hyper forgets it and closes after the answer (RFC 9112 §6.3) | 502 |
//! | `Content-Length` | decimal, all the same: one canonical field, else 400 | the same, else 502; none with 204 |
//! | target | a path, `*` for OPTIONS, an absolute form that agrees with `Host`; else 400 | |
//! | fragment | forgotten by `http`, so that nobody sees it | |
//! | `Host`, `:authority` | exactly one, host and port and nothing else; else 400 | |
//! | scheme | `http` or `https`; in HTTP/1.1 `https` only over TLS; else 400 | |
//! | CONNECT | 404 | |
//! | upgrades | what the listener allows, else 403; `h2c` is ignored; with a body 400 | 101 only if asked for, 200 is no tunnel; else 502 |
//! | `Expect` | `100-continue`, else 417 | |
//! | method | 32 bytes | |
//! | values in HTTP/2 | no space at their edges, else 400 | the same, else 502 |
//! | fields in HTTP/2 | as `limits.header_fields` says ([`crate::downstream::heads`]) | 100, else 502 |
//! | names with `_` | as the listener says: pass, dropped, 400 | |
//! | path | [canonical](path), else 400; what is doubtful is told to the route | |
//! | hop-by-hop | removed ([`crate::headers`]) | removed |
//! | trailers | never merged; some are [removed](trailers) | the same |
//!
//! It is one walk over the fields, and nothing is parsed twice.

mod head;
mod path;

use std::borrow::Cow;

use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Response, StatusCode, Uri, Version, header};
use leno_config::ir::{HttpManager, PathNormalization, Separators, UnderscoreNames};

use crate::error::ProxyError;

pub use head::{authority, set_host, set_target, to_http1, to_http2, trailers};

/// Longest method that is passed on.
const MAX_METHOD: usize = 32;
/// Fields in the head of an answer over HTTP/2, which hyper does not count; over HTTP/1.1 it takes as many.
const MAX_FIELDS: usize = 100;

/// What a listener says about requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// What is done to the path.
    pub path: PathNormalization,
    /// What becomes of header names with an underscore.
    pub underscores: UnderscoreNames,
    /// How the request came.
    pub transport: Transport,
}

impl Rules {
    /// As its manager says, of requests that come by TLS or not.
    pub fn of(manager: &HttpManager, is_encrypted: bool) -> Self {
        let transport = if is_encrypted { Transport::Tls } else { Transport::Clear };
        Self { path: manager.path, underscores: manager.underscores, transport }
    }
}

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Everybody on the way could read it.
    Clear,
    /// By TLS that ends here.
    Tls,
}

/// Makes the head canonical: afterwards [`authority`] and the path are safe to route by. What the path holds that a route
/// may refuse is told.
pub fn request(parts: &mut Parts, rules: Rules) -> Result<Separators, ProxyError> {
    match parts.version {
        Version::HTTP_11 => http1_target(parts, rules.transport)?,
        Version::HTTP_2 => http2_target(parts)?,
        // Envoy's default: HTTP/1.0 is not accepted.
        _ => return Err(refuse(StatusCode::UPGRADE_REQUIRED, "HTTP/1.0 is not supported, use HTTP/1.1")),
    }
    if parts.method.as_str().len() > MAX_METHOD {
        return Err(bad("the method is longer than 32 bytes"));
    }
    request_fields(parts, rules.underscores)?;
    let (path, held) = path::canonical(parts.uri.path(), rules.path)?;
    if let Cow::Owned(canonical) = path {
        head::replace_path(parts, &canonical)?;
    }
    Ok(held)
}

/// A path that holds what its route refuses.
#[cold]
pub fn refused_in_path(held: Separators) -> ProxyError {
    bad(match () {
        () if !held.shared(Separators::ESCAPED_SLASH).is_empty() => "the path has an escaped slash (%2f)",
        () if !held.shared(Separators::ESCAPED_BACKSLASH).is_empty() => "the path has an escaped backslash (%5c)",
        () => "the path has a semicolon",
    })
}

/// What a request wants to hear.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Awaited {
    /// An answer.
    #[default]
    Answer,
    /// That the connection becomes another one: 101.
    Upgrade,
    /// The same for a caller who takes any 2xx for it (extended CONNECT, RFC 8441).
    Tunnel,
}

/// Makes the head of an answer canonical. What is wrong with it: its connection must not be used again.
pub fn response<B>(answer: &mut Response<B>, awaited: Awaited) -> Result<(), &'static str> {
    let (status, http2) = (answer.status(), answer.version() == Version::HTTP_2);
    match awaited {
        Awaited::Answer if status == StatusCode::SWITCHING_PROTOCOLS => {
            return Err("it switched to a protocol that nobody had asked for (101)");
        }
        Awaited::Tunnel if status.is_success() => return Err("a tunnel begins with 101, not with 2xx (RFC 9110 §7.8)"),
        Awaited::Upgrade | Awaited::Tunnel if status == StatusCode::SWITCHING_PROTOCOLS && http2 => {
            return Err("HTTP/2 has no 101 (RFC 9113 §8.6)");
        }
        Awaited::Answer | Awaited::Upgrade | Awaited::Tunnel => {}
    }
    if http2 && answer.headers().len() > MAX_FIELDS {
        return Err("it has more than 100 header fields");
    }
    let (mut length, mut codings) = (Length::default(), 0_u32);
    for (name, value) in answer.headers() {
        if http2 && has_edge_space(value) {
            return Err("a header value begins or ends with a space (RFC 9113 §8.2.1)");
        }
        // As in requests: the caller may speak HTTP/1.1.
        if http2 && name.as_str().contains('"') {
            return Err("the name of a header has a quotation mark (RFC 9110 §5.6.2)");
        }
        match name.as_str() {
            "content-length" => length.add(value)?,
            "transfer-encoding" => {
                codings += 1;
                if !is_chunked(value) {
                    return Err("its Transfer-Encoding is not exactly `chunked`");
                }
            }
            _ => {}
        }
    }
    if codings > 1 {
        return Err("it has more than one Transfer-Encoding");
    }
    if codings > 0 && length.fields > 0 {
        return Err("it has a Content-Length and a Transfer-Encoding (RFC 9112 §6.3)");
    }
    if status == StatusCode::NO_CONTENT && (codings > 0 || length.value > 0) {
        return Err("204 has no content, and this one says that it has (RFC 9110 §8.6)");
    }
    if let Some(canonical) = length.rewritten() {
        answer.headers_mut().insert(header::CONTENT_LENGTH, canonical);
    }
    Ok(())
}

fn refuse(status: StatusCode, reason: &'static str) -> ProxyError {
    ProxyError::BadRequest { status, reason }
}

fn bad(reason: &'static str) -> ProxyError {
    refuse(StatusCode::BAD_REQUEST, reason)
}

/// Exactly one valid `Host`; an absolute target must agree with it (RFC 9112 §3.2.2) and becomes a plain path.
fn http1_target(parts: &mut Parts, transport: Transport) -> Result<(), ProxyError> {
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
        match parts.uri.scheme() {
            None => return Err(bad("a host alone is a target for CONNECT only (RFC 9112 §3.2.3)")),
            Some(scheme) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS && transport == Transport::Tls => {}
            Some(_) => return Err(bad("the scheme of the request target is not that of this connection")),
        }
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
    }
    star(parts)
}

/// `:authority` or `Host`, and where there are both, the same (RFC 9113 §8.3.1).
fn http2_target(parts: &mut Parts) -> Result<(), ProxyError> {
    if parts.method == Method::CONNECT && parts.extensions.get::<hyper::ext::Protocol>().is_none() {
        return Err(refuse(StatusCode::NOT_FOUND, "CONNECT is not supported here"));
    }
    // TLS that has ended further out leaves `https` in clear text: a gateway passes it on.
    if parts.uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return Err(bad(":scheme is neither http nor https"));
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next().cloned();
    if hosts.next().is_some() {
        return Err(bad("there is more than one Host header (RFC 9112 §3.2)"));
    }
    if host.is_some() {
        parts.headers.remove(header::HOST);
    }
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
            head::set_authority(parts, authority)?;
        }
        (None, None) => return Err(bad("the request names no host")),
    }
    star(parts)
}

fn star(parts: &Parts) -> Result<(), ProxyError> {
    let path = parts.uri.path();
    match path.as_bytes().first() {
        Some(b'/') => Ok(()),
        Some(b'*') if path == "*" && parts.method == Method::OPTIONS => Ok(()),
        Some(b'*') => Err(bad("`*` is a target for OPTIONS only")),
        Some(_) | None => Err(bad("the request target is not a path")),
    }
}

/// What the name of a host may consist of.
#[expect(clippy::indexing_slicing, reason = "a constant, and below its length")]
const IN_NAME: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0_u8);
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~');
        byte += 1;
    }
    table
};

/// A host and an optional port: no user, no path, no list, no escapes, no spaces.
fn is_authority(text: &[u8]) -> bool {
    if text.first() == Some(&b'[') {
        let Some(end) = text.iter().position(|byte| *byte == b']') else { return false };
        let inside = text.get(1..end).and_then(|inside| std::str::from_utf8(inside).ok());
        return inside.is_some_and(|inside| inside.parse::<std::net::Ipv6Addr>().is_ok())
            && text.get(end + 1..).is_some_and(|rest| rest.is_empty() || is_port(rest));
    }
    let name = text.iter().position(|byte| IN_NAME.get(usize::from(*byte)) != Some(&true)).unwrap_or(text.len());
    name > 0 && text.get(name..).is_some_and(|rest| rest.is_empty() || is_port(rest))
}

/// `:` and a number that can be a port.
fn is_port(text: &[u8]) -> bool {
    let Some(digits) = text.strip_prefix(b":") else { return false };
    matches!(digits.len(), 1..=5)
        && digits.iter().all(u8::is_ascii_digit)
        && digits.iter().fold(0_u32, |number, digit| number * 10 + u32::from(digit - b'0')) <= 65535
}

/// Framing, `Expect` and names, in one walk.
fn request_fields(parts: &mut Parts, underscores: UnderscoreNames) -> Result<(), ProxyError> {
    let http2 = parts.version == Version::HTTP_2;
    let (mut length, mut codings, mut expects, mut underscored) = (Length::default(), 0_u32, false, false);
    for (name, value) in &parts.headers {
        if http2 && has_edge_space(value) {
            return Err(bad("a header value begins or ends with a space (RFC 9113 §8.2.1)"));
        }
        match name.as_str() {
            "content-length" => length.add(value).map_err(bad)?,
            "transfer-encoding" => {
                codings += 1;
                if !is_chunked(value) {
                    return Err(coding(value));
                }
            }
            "expect" => {
                expects = true;
                if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") {
                    let reason = "only `Expect: 100-continue` can be met (RFC 9110 §10.1.1)";
                    return Err(refuse(StatusCode::EXPECTATION_FAILED, reason));
                }
            }
            name => underscored |= underscores != UnderscoreNames::Pass && name.contains('_'),
        }
    }
    if codings > 1 {
        return Err(bad("there is more than one Transfer-Encoding (RFC 9112 §6.1)"));
    }
    if let Some(canonical) = length.rewritten() {
        parts.headers.insert(header::CONTENT_LENGTH, canonical);
    }
    if expects {
        // hyper answers `100 Continue` itself when the body is first read.
        parts.headers.remove(header::EXPECT);
    }
    if underscored {
        without_underscores(parts, underscores)?;
    }
    Ok(())
}

#[cold]
fn without_underscores(parts: &mut Parts, underscores: UnderscoreNames) -> Result<(), ProxyError> {
    match underscores {
        UnderscoreNames::Pass => {}
        UnderscoreNames::Refuse => return Err(bad("a header name has an underscore")),
        UnderscoreNames::Drop => {
            let names: Vec<_> = parts.headers.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
            for name in names {
                parts.headers.remove(name);
            }
        }
    }
    Ok(())
}

/// What the `Content-Length` fields of a head say together.
#[derive(Default)]
struct Length {
    fields: u32,
    value: u64,
    /// It is not written as this file would.
    odd: bool,
}

impl Length {
    fn add(&mut self, field: &HeaderValue) -> Result<(), &'static str> {
        const WRONG: &str = "a Content-Length is not a decimal number (RFC 9110 §8.6)";
        let digits = field.as_bytes();
        if digits.is_empty() {
            return Err(WRONG);
        }
        let mut value = 0_u64;
        for digit in digits {
            let digit = digit.wrapping_sub(b'0');
            let next = (digit < 10).then_some(value).and_then(|value| value.checked_mul(10));
            value = next.and_then(|value| value.checked_add(digit.into())).ok_or(WRONG)?;
        }
        if self.fields > 0 && self.value != value {
            return Err("there are two different Content-Lengths (RFC 9112 §6.3)");
        }
        self.odd |= self.fields > 0 || digits.len() > 1 && digits.first() == Some(&b'0');
        self.fields += 1;
        self.value = value;
        Ok(())
    }

    /// One canonical field for those that are there, if that makes a difference.
    fn rewritten(&self) -> Option<HeaderValue> {
        self.odd.then(|| HeaderValue::from(self.value))
    }
}

fn is_chunked(value: &HeaderValue) -> bool {
    value.as_bytes().eq_ignore_ascii_case(b"chunked")
}

/// Codings that we do not know are not implemented (RFC 9112 §6.1); `chunked` in another place is wrong.
#[cold]
fn coding(value: &HeaderValue) -> ProxyError {
    let known = |coding: &str| matches!(coding.trim(), "") || coding.trim().eq_ignore_ascii_case("chunked");
    if value.to_str().is_ok_and(|list| list.split(',').all(known)) {
        return bad("a body is chunked only once (RFC 9112 §6.1)");
    }
    refuse(StatusCode::NOT_IMPLEMENTED, "the only Transfer-Encoding that is understood is `chunked`")
}

fn has_edge_space(value: &HeaderValue) -> bool {
    let edge = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    edge(value.as_bytes().first()) || edge(value.as_bytes().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules =
        Rules { path: PathNormalization::BASE, underscores: UnderscoreNames::Pass, transport: Transport::Clear };

    fn head(version: Version, method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri(target).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn an_answer_over_http2_brings_no_name_that_http1_does_not_know() {
        for (name, is_taken) in [("x-one", true), ("x\"one", false)] {
            // As the decoder of HTTP/2 makes them, which takes more than `from_bytes`.
            let name = http::HeaderName::from_lowercase(name.as_bytes()).expect("`http` takes it");
            let mut answer =
                Response::builder().version(Version::HTTP_2).header(name, "1").body(()).expect("an answer");
            assert_eq!(response(&mut answer, Awaited::Answer).is_ok(), is_taken);
        }
    }

    #[test]
    fn a_target_has_one_host() {
        let h1 = Version::HTTP_11;
        let rows: [(Parts, Result<&str, u16>); 14] = [
            (head(h1, "GET", "/x", &[("host", "a:80")]), Ok("a:80")),
            (head(h1, "GET", "http://a/x", &[("host", "A")]), Ok("A")),
            (head(h1, "GET", "http://a/x", &[("host", "b")]), Err(400)),
            (head(h1, "GET", "https://a/x", &[("host", "a")]), Err(400)),
            (head(h1, "GET", "/x", &[]), Err(400)),
            (head(h1, "GET", "/x", &[("host", "a"), ("host", "a")]), Err(400)),
            (head(h1, "GET", "/x", &[("host", "u@a")]), Err(400)),
            (head(h1, "GET", "/x", &[("host", "a/b")]), Err(400)),
            (head(h1, "GET", "/x", &[("host", "a,b")]), Err(400)),
            (head(h1, "GET", "a:80", &[("host", "a:80")]), Err(400)),
            (head(h1, "CONNECT", "a:80", &[("host", "a:80")]), Err(404)),
            (head(Version::HTTP_10, "GET", "/x", &[("host", "a")]), Err(426)),
            (head(Version::HTTP_2, "GET", "http://a/x", &[("host", "b")]), Err(400)),
            (head(Version::HTTP_2, "GET", "http://a/x", &[]), Ok("a")),
        ];
        for (mut parts, expected) in rows {
            let found = request(&mut parts, RULES).map_err(|error| error.reply().status.as_u16());
            assert_eq!(found.map(|_| authority(&parts)), expected, "{} {:?}", parts.uri, parts.headers);
        }
    }

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for good in ["a", "a.b-c_d~e:1", "10.0.0.1:65535", "[::1]", "[fe80::1]:80"] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for wrong in
            ["", ":80", "a:", "a:x", "a:65536", "a:000080", "a:1:2", "[::1", "[::1]x", "[g]", "a%41", "a b", "ä"]
        {
            assert!(!is_authority(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn underscores_are_treated_as_the_listener_says() {
        let rows = [
            (UnderscoreNames::Pass, Ok(true)),
            (UnderscoreNames::Drop, Ok(false)),
            (UnderscoreNames::Refuse, Err(StatusCode::BAD_REQUEST)),
        ];
        for (underscores, expected) in rows {
            let mut parts = head(Version::HTTP_11, "GET", "/", &[("host", "a"), ("x_role", "1")]);
            let found = request(&mut parts, Rules { underscores, ..RULES }).map_err(|error| error.reply().status);
            assert_eq!(found.map(|_| parts.headers.contains_key("x_role")), expected, "{underscores:?}");
        }
    }

    #[test]
    fn an_answer_says_one_thing() {
        type Fields = &'static [(&'static str, &'static str)];
        type Row = (Version, u16, Awaited, Fields, Result<&'static str, ()>);
        let rows: [Row; 18] = [
            (Version::HTTP_11, 200, Awaited::Answer, &[], Ok("")),
            (Version::HTTP_11, 200, Awaited::Answer, &[("content-length", "5")], Ok("5")),
            (Version::HTTP_11, 200, Awaited::Answer, &[("content-length", "005")], Ok("5")),
            (Version::HTTP_11, 200, Awaited::Answer, &[("content-length", "5"), ("content-length", "5")], Ok("5")),
            (Version::HTTP_11, 200, Awaited::Answer, &[("content-length", "5"), ("content-length", "6")], Err(())),
            (Version::HTTP_11, 200, Awaited::Answer, &[("content-length", "5, 5")], Err(())),
            (Version::HTTP_11, 200, Awaited::Answer, &[("content-length", "+5")], Err(())),
            (Version::HTTP_11, 200, Awaited::Answer, &[("transfer-encoding", "Chunked")], Ok("")),
            (Version::HTTP_11, 200, Awaited::Answer, &[("transfer-encoding", "gzip, chunked")], Err(())),
            (Version::HTTP_11, 200, Awaited::Answer, &[("transfer-encoding", "identity")], Err(())),
            (
                Version::HTTP_11,
                200,
                Awaited::Answer,
                &[("transfer-encoding", "chunked"), ("content-length", "5")],
                Err(()),
            ),
            (Version::HTTP_11, 204, Awaited::Answer, &[("content-length", "5")], Err(())),
            (Version::HTTP_11, 101, Awaited::Answer, &[], Err(())),
            (Version::HTTP_11, 101, Awaited::Upgrade, &[], Ok("")),
            (Version::HTTP_11, 200, Awaited::Upgrade, &[], Ok("")),
            (Version::HTTP_11, 200, Awaited::Tunnel, &[], Err(())),
            (Version::HTTP_2, 101, Awaited::Upgrade, &[], Err(())),
            (Version::HTTP_2, 200, Awaited::Answer, &[("x", " y")], Err(())),
        ];
        for (version, status, awaited, fields, expected) in rows {
            let mut answer = Response::builder().version(version).status(status);
            for (name, value) in fields {
                answer = answer.header(*name, *value);
            }
            let mut answer = answer.body(()).expect("an answer");
            let found = response(&mut answer, awaited).map_err(drop);
            let length = answer.headers().get_all("content-length").iter();
            let length: String = length.map(|value| value.to_str().expect("text")).collect();
            assert_eq!(found.map(|()| length.as_str()), expected, "{status} {fields:?}");
        }
    }
}
