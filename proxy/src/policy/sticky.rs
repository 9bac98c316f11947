//! With which endpoint a caller stays: the hash of a request, for consistent hashing.
//!
//! All of it is Envoy's, so that a caller meets the same endpoint whichever proxy it goes through: xxHash64 of each
//! input; several are combined in their order, rotated against each other so that equal ones do not cancel out. An input
//! that a request does not have is left out, and without any the endpoint is drawn at random. A cookie that is to be made
//! gets its value from the two ends of the connection: requests that overtake each other before the first answer has
//! arrived agree on it.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use leno_config::ir::{CookieAttribute, Forward, HashPolicy};
use xxhash_rust::xxh64::xxh64;

use super::authorization::remote_address;

/// What a request is hashed to.
#[derive(Debug, Default, PartialEq)]
pub struct Sticky {
    /// `None`: nothing of it is in the request.
    pub hash: Option<u64>,
    /// `Set-Cookie` of the answer, where a cookie was made.
    pub cookie: Option<Box<HeaderValue>>,
}

/// The two ends of the caller's connection.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// Who called.
    pub caller: SocketAddr,
    /// What was called.
    pub local: SocketAddr,
}

impl Sticky {
    /// Of a request as it arrived.
    pub fn of(forward: &Forward, parts: &Parts, ends: Ends) -> Self {
        let mut sticky = Self::default();
        for policy in &forward.hash {
            let hash = match policy {
                HashPolicy::Header(name) => of_header(&parts.headers, name),
                HashPolicy::Cookie { name, path, ttl, attributes } => match cookie(&parts.headers, name) {
                    Some(value) => Some(xxh64(value, 0)),
                    None => ttl.map(|ttl| {
                        let value = made(ends);
                        sticky.cookie = set_cookie(name, &value, path, ttl, attributes).map(Box::new);
                        xxh64(value.as_bytes(), 0)
                    }),
                },
                HashPolicy::SourceIp => Some(of_address(remote_address(ends.caller, &parts.headers))),
                HashPolicy::QueryParameter(name) => parameter(parts.uri.query(), name).map(|value| xxh64(value, 0)),
            };
            if let Some(hash) = hash {
                sticky.hash = Some(sticky.hash.map_or(0, |before| before.rotate_left(1)) ^ hash);
            }
        }
        sticky
    }
}

/// The hash of a caller's address, without its port.
pub fn of_address(address: IpAddr) -> u64 {
    xxh64(address.to_string().as_bytes(), 0)
}

/// Of all values, in whatever order they stand.
fn of_header(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next()?, values.next());
    let Some(second) = second else { return Some(xxh64(first.as_bytes(), 0)) };
    let mut all: Vec<&[u8]> = [first, second].into_iter().chain(values).map(HeaderValue::as_bytes).collect();
    all.sort_unstable();
    Some(all.into_iter().fold(0, |hash, value| xxh64(value, hash)))
}

/// The value of the first cookie of that name, without its quotes; an empty one is none.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let lines = headers.get_all(header::COOKIE).iter();
    let mut pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let value = pairs.find_map(|pair| {
        let pair = pair.get(pair.iter().position(|byte| *byte != b' ')?..)?;
        pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
    })?;
    let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    Some(unquoted.unwrap_or(value)).filter(|value| !value.is_empty())
}

/// The first value of a parameter, as it stands; one without `=` is empty.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a [u8]> {
    let pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.as_bytes()).next()
}

fn made(Ends { caller, local }: Ends) -> String {
    format!("{:016x}", xxh64(format!("{caller}{local}").as_bytes(), 0))
}

/// `None` where the rule's words are no header value.
fn set_cookie(
    name: &str,
    value: &str,
    path: &str,
    ttl: Duration,
    attributes: &[CookieAttribute],
) -> Option<HeaderValue> {
    let mut text = format!("{name}=\"{value}\"");
    // Writing to a string cannot fail. A life of 0 is the session's.
    if ttl.as_secs() > 0 {
        let _ = write!(text, "; Max-Age={}", ttl.as_secs());
    }
    if !path.is_empty() {
        let _ = write!(text, "; Path={path}");
    }
    for CookieAttribute { name, value } in attributes {
        let value = if value.is_empty() { Cow::Borrowed("") } else { Cow::Owned(format!("={value}")) };
        let _ = write!(text, "; {name}{value}");
    }
    text.push_str("; HttpOnly");
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use leno_config::ir::{ClusterName, WeightedClusters};

    use super::*;

    const ENDS: fn() -> Ends = || Ends { caller: ([10, 0, 0, 1], 5000).into(), local: ([127, 0, 0, 1], 15001).into() };

    fn sticky(policies: Vec<HashPolicy>, target: &str, headers: &[(&str, &str)]) -> Sticky {
        let mut forward = Forward::plain(WeightedClusters::single(ClusterName::new("a")));
        forward.hash = policies;
        let request =
            headers.iter().fold(http::Request::get(target), |request, (name, value)| request.header(*name, *value));
        Sticky::of(&forward, &request.body(()).expect("a request").into_parts().0, ENDS())
    }

    fn header(name: &str) -> HashPolicy {
        HashPolicy::Header(name.parse().expect("a name"))
    }

    fn cookie(ttl: Option<u64>) -> HashPolicy {
        let attributes = [("SameSite", "Strict"), ("Secure", "")];
        let attribute = |(name, value): (&str, &str)| CookieAttribute { name: name.into(), value: value.into() };
        let (name, path) = ("user".to_owned(), "/shop".to_owned());
        HashPolicy::Cookie {
            name,
            path,
            ttl: ttl.map(Duration::from_secs),
            attributes: attributes.map(attribute).into(),
        }
    }

    #[test]
    fn each_input_is_hashed_as_envoy_does() {
        let query = || HashPolicy::QueryParameter("q".to_owned());
        let text = |text: &str| Some(xxh64(text.as_bytes(), 0));
        for (policy, target, headers, expected) in [
            (header("x-user"), "/", &[("x-user", "anna")][..], text("anna")),
            (header("x-user"), "/", &[], None),
            (query(), "/?a=1&q=b%20c&q=d", &[], text("b%20c")),
            (query(), "/?q", &[], text("")),
            (query(), "/?qq=1", &[], None),
            (query(), "/", &[], None),
            (HashPolicy::SourceIp, "/", &[], text("10.0.0.1")),
            (HashPolicy::SourceIp, "/", &[("x-forwarded-for", "1.1.1.1, 2.2.2.2")], text("2.2.2.2")),
            (cookie(None), "/", &[("cookie", "a=1; user=\"x y\"; user=2")], text("x y")),
            (cookie(None), "/", &[("cookie", "a=1"), ("cookie", "user=z")], text("z")),
            (cookie(None), "/", &[("cookie", "xuser=1;  user2=3")], None),
            (cookie(None), "/", &[("cookie", "user=")], None),
        ] {
            let found = sticky(vec![policy.clone()], target, headers);
            assert_eq!(found, Sticky { hash: expected, cookie: None }, "{policy:?} {target} {headers:?}");
        }
    }

    #[test]
    fn the_values_of_a_header_count_in_any_order() {
        let hash = |values: [&str; 2]| sticky(vec![header("x")], "/", &values.map(|value| ("x", value))).hash;
        assert_eq!(hash(["foo", "bar"]), hash(["bar", "foo"]));
        assert_eq!(hash(["foo", "bar"]), Some(xxh64(b"foo", xxh64(b"bar", 0))));
    }

    #[test]
    fn several_inputs_count_together_and_in_their_order() {
        let hash = |policies| sticky(policies, "/", &[("a", "1"), ("b", "2")]).hash;
        let (one, two) = (xxh64(b"1", 0), xxh64(b"2", 0));
        assert_eq!(hash(vec![header("a"), header("b")]), Some(one.rotate_left(1) ^ two));
        assert_eq!(hash(vec![header("a"), header("missing"), header("b")]), Some(one.rotate_left(1) ^ two));
        assert_ne!(hash(vec![header("a"), header("a")]), Some(0));
    }

    #[test]
    fn a_missing_cookie_is_made_with_its_life_and_attributes() {
        let value = format!("{:016x}", xxh64(b"10.0.0.1:5000127.0.0.1:15001", 0));
        for (ttl, age) in [(60, "; Max-Age=60"), (0, "")] {
            let Sticky { hash, cookie: set } = sticky(vec![cookie(Some(ttl))], "/", &[("cookie", "user=")]);
            let expected = format!("user=\"{value}\"{age}; Path=/shop; SameSite=Strict; Secure; HttpOnly");
            assert_eq!(set.expect("a cookie").to_str().expect("text"), expected);
            assert_eq!(hash, Some(xxh64(value.as_bytes(), 0)), "the next request, with the cookie, hashes alike");
        }
        assert_eq!(sticky(vec![cookie(Some(60))], "/", &[("cookie", "user=1")]).cookie, None);
        assert_eq!(sticky(vec![cookie(None)], "/", &[]), Sticky::default());
    }
}
