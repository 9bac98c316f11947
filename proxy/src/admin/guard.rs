//! Who may ask, by what the request itself says: keeps web pages out.
//!
//! A browser on the same machine reaches loopback too, and a page can make it send requests: to `localhost` outright, or
//! to a name of its own that suddenly resolves to 127.0.0.1 (DNS rebinding). Such a page can neither leave out `Origin` on a
//! POST nor change `Host`, so these two tell it from an operator's `curl`.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{HOST, ORIGIN};

/// Whether a request that only reads is let in: a name that a stranger could own must not lead to loopback. A name of one
/// label (`http://admin/`, a container's name) cannot be a stranger's.
pub fn may_read(headers: &HeaderMap, on_loopback: bool) -> Result<(), String> {
    let Some(host) = host(headers) else { return Ok(()) };
    if on_loopback && host.contains('.') && !is_own(host) {
        return Err(refusal(host));
    }
    Ok(())
}

/// Whether a request that changes something is let in: from no page, and to an address or `localhost` only.
pub fn may_change(headers: &HeaderMap) -> Result<(), String> {
    let fetched = headers.get("sec-fetch-site").is_some_and(|site| site != "none");
    if fetched || headers.contains_key(ORIGIN) {
        return Err(
            "a web page must not change a proxy: requests with `Origin` are refused; use curl or leno\n".to_owned()
        );
    }
    match host(headers) {
        Some(host) if !is_own(host) => Err(refusal(host)),
        Some(_) | None => Ok(()),
    }
}

fn refusal(host: &str) -> String {
    let host: String = host.chars().take(100).collect();
    format!("`Host: {host}` is not this proxy's; call it by its IP address or as localhost\n")
}

/// Without the port; `None`: not said, or not text.
fn host(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(HOST)?.to_str().ok().filter(|host| !host.is_empty())?;
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    Some(without_port)
}

/// An address, or a name that means this machine to everybody (RFC 6761 §6.3).
fn is_own(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
    name == "localhost" || name.ends_with(".localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().expect("valid"))).collect()
    }

    /// Headers; may it change something; may it read over loopback.
    type Row = (&'static [(&'static str, &'static str)], bool, bool);

    #[test]
    fn a_page_can_neither_change_nor_read() {
        let rows: &[Row] = &[
            (&[("host", "127.0.0.1:15000")], true, true),
            (&[("host", "[::1]:15000")], true, true),
            (&[("host", "[::1]")], true, true),
            (&[("host", "10.1.2.3:15000")], true, true),
            (&[("host", "localhost:15000")], true, true),
            (&[("host", "LOCALHOST")], true, true),
            (&[], true, true),
            (&[("host", "admin")], false, true),
            (&[("host", "evil.example:15000")], false, false),
            (&[("host", "localhost.evil.example")], false, false),
            (&[("host", "127.0.0.1.evil.example")], false, false),
            (&[("host", "127.0.0.1:15000"), ("origin", "http://evil.example")], false, true),
            (&[("host", "127.0.0.1:15000"), ("origin", "null")], false, true),
            (&[("host", "127.0.0.1:15000"), ("origin", "http://127.0.0.1:15000")], false, true),
            (&[("host", "127.0.0.1:15000"), ("sec-fetch-site", "cross-site")], false, true),
            (&[("host", "127.0.0.1:15000"), ("sec-fetch-site", "none")], true, true),
        ];
        for (pairs, changes, reads) in rows {
            let headers = headers(pairs);
            assert_eq!(may_change(&headers).is_ok(), *changes, "{pairs:?}");
            assert_eq!(may_read(&headers, true).is_ok(), *reads, "{pairs:?}");
            assert!(may_read(&headers, false).is_ok(), "{pairs:?}: elsewhere names are the operator's");
        }
    }
}
