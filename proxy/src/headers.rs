//! Headers that belong to one connection, and headers that this proxy adds.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use leno_config::ir::HeaderOps;

use crate::random::Random;

/// Names the proxy writes.
pub mod name {
    use http::HeaderName;

    /// Envoy's, which tracing and support rely on.
    pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    /// `http` or `https`, as the caller came.
    pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
    /// The path before a rewrite (Envoy).
    pub const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
    /// The host before a rewrite (Envoy).
    pub const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
    /// Milliseconds the endpoint took to answer (Envoy).
    pub const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
    /// `true`: refused because a limit is reached (Envoy); who tries again should wait.
    pub const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
    /// What a full bucket of a rate limit holds (Envoy).
    pub const RATE_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
    /// What is left of it.
    pub const RATE_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
    /// Seconds until something is left of it.
    pub const RATE_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
    /// Milliseconds the endpoint has, where there is a timeout (Envoy).
    pub const EXPECTED_TIME: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
    /// Between sidecars: whoever answers has tried again already ([`crate::attempt::given_up`]).
    pub const GAVE_UP: HeaderName = HeaderName::from_static("x-leno-gave-up");
    /// Why this proxy answered itself: `FLAG; sentence`.
    pub const ERROR: HeaderName = HeaderName::from_static("x-leno-error");
    /// Not registered, but still sent.
    pub const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    /// Never standard, but still sent.
    pub const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    /// Who a caller is, as a proxy has seen it (Envoy). Nobody can vouch for it before there is mTLS.
    pub const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
    /// Through whom a request came, the nearest last.
    pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    /// Which attempt it is, from 1 (Envoy).
    pub const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
    /// What became of a gRPC call, among the headers where there was no message.
    pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
    /// How long a gRPC caller waits.
    pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
}

/// `Connection` must not remove these, whoever names them there: that would be a way to strip what others rely on.
const PROTECTED: [HeaderName; 5] =
    [header::HOST, header::AUTHORIZATION, header::CONTENT_LENGTH, header::COOKIE, name::FORWARDED_PROTO];

/// Whether a look-up is worth while: most heads have nothing that [`remove_hop_by_hop`] removes, and a walk over a few
/// names costs less than half a dozen look-ups, each of which hashes.
fn has_hop_by_hop(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        matches!(
            name.as_str(),
            "te" | "upgrade" | "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding"
        )
    })
}

/// Removes what is meant for one connection only (RFC 9110 §7.6.1), and what `Connection` names.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if has_hop_by_hop(headers) {
        remove_them(headers);
    }
}

fn remove_them(headers: &mut HeaderMap) {
    if let Some(first) = headers.get(header::CONNECTION).cloned() {
        // Nearly always there is one.
        let others: Vec<HeaderValue> = headers.get_all(header::CONNECTION).iter().skip(1).cloned().collect();
        headers.remove(header::CONNECTION);
        for connection in std::iter::once(&first).chain(&others) {
            remove_named(headers, connection);
        }
    }
    headers.remove(name::KEEP_ALIVE);
    headers.remove(name::PROXY_CONNECTION);
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::UPGRADE);
    // `TE: trailers` alone says something about the whole way: gRPC needs it.
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        let trailers = headers
            .get_all(header::TE)
            .iter()
            .any(|te| te.to_str().is_ok_and(|te| te.split(',').any(|one| one.trim().eq_ignore_ascii_case("trailers"))));
        headers.remove(header::TE);
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
}

#[cold]
fn remove_named(headers: &mut HeaderMap, connection: &HeaderValue) {
    let Ok(connection) = connection.to_str() else { return };
    for named in connection.split(',').map(str::trim) {
        if named.eq_ignore_ascii_case("keep-alive") || named.eq_ignore_ascii_case("close") {
            continue;
        }
        if let Ok(named) = named.parse::<HeaderName>()
            && named != header::TE
            && !PROTECTED.contains(&named)
            && !named.as_str().starts_with("x-forwarded-")
        {
            headers.remove(named);
        }
    }
}

/// Applies what a rule says (Envoy's order: remove, then set, then add).
pub fn apply(operations: &HeaderOps, headers: &mut HeaderMap) {
    for name in &operations.remove {
        headers.remove(name);
    }
    for field in &operations.set {
        headers.insert(field.name().clone(), field.value().clone());
    }
    for field in &operations.add {
        headers.append(field.name().clone(), field.value().clone());
    }
}

/// A random UUID (RFC 9562 §5.4): for finding a request again, not for secrets.
#[expect(clippy::expect_used, reason = "32 digits and 4 dashes, whatever the numbers are")]
pub fn request_id(random: &Random) -> HeaderValue {
    let (first, second) = (random.next(), random.next());
    let first = hex(first & 0xffff_ffff_ffff_0fff | 0x4000);
    let second = hex(second & 0x3fff_ffff_ffff_ffff | 0x8000_0000_0000_0000);
    let mut text = [b'-'; 36];
    text[..8].copy_from_slice(&first[..8]);
    text[9..13].copy_from_slice(&first[8..12]);
    text[14..18].copy_from_slice(&first[12..]);
    text[19..23].copy_from_slice(&second[..4]);
    text[24..].copy_from_slice(&second[4..]);
    HeaderValue::from_bytes(&text).expect("invariant: hex digits and dashes are a header value")
}

/// The sixteen hexadecimal digits of a number, all at once: each half byte moves into a byte of its own, and becomes a
/// digit there.
pub(crate) const fn hex(number: u64) -> [u8; 16] {
    const ONES: u128 = u128::from_ne_bytes([1; 16]);
    let mut spread = number as u128;
    spread = (spread | spread << 32) & 0x0000_0000_ffff_ffff_0000_0000_ffff_ffff;
    spread = (spread | spread << 16) & 0x0000_ffff_0000_ffff_0000_ffff_0000_ffff;
    spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff_00ff_00ff_00ff_00ff;
    spread = (spread | spread << 4) & 0x0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f;
    // 1 where a half byte is 10 or more; no byte ever carries into the next.
    let letters = (spread.wrapping_add(ONES.wrapping_mul(6)) >> 4) & ONES;
    let digits = spread.wrapping_add(ONES.wrapping_mul(b'0' as u128));
    digits.wrapping_add(letters.wrapping_mul((b'a' - b'0' - 10) as u128)).to_be_bytes()
}

/// A number as a field's value. Small ones, which are nearly all, cost no allocation.
pub fn number(number: u64) -> HeaderValue {
    const SMALL: &str = "00010203040506070809101112131415161718192021222324252627282930313233343536373839\
                         40414243444546474849505152535455565758596061626364656667686970717273747576777879\
                         8081828384858687888990919293949596979899";
    let digits = usize::try_from(number).ok().filter(|number| *number < 100).and_then(|number| {
        let end = number.wrapping_mul(2).wrapping_add(2);
        SMALL.get(end.wrapping_sub(if number < 10 { 1 } else { 2 })..end)
    });
    digits.map_or_else(|| HeaderValue::from(number), HeaderValue::from_static)
}

/// Whether a request speaks gRPC.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| {
        kind.as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

/// Says how long the endpoint has: in Envoy's words, and in gRPC's to an endpoint that speaks it. Never 0, which would
/// mean any time.
pub fn set_expected_time(headers: &mut HeaderMap, left: Duration, grpc: bool) {
    let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
    headers.insert(name::EXPECTED_TIME, HeaderValue::from(millis));
    if grpc {
        // At most eight digits, which in milliseconds are a day.
        let text =
            if millis < 100_000_000 { format!("{millis}m") } else { format!("{}S", left.as_secs().min(99_999_999)) };
        if let Ok(text) = HeaderValue::from_str(&text) {
            headers.insert(name::GRPC_TIMEOUT, text);
        }
    }
}

/// What a gRPC caller says it waits, at most eight digits and a unit (gRPC over HTTP/2).
pub fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(name::GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    let nanos = match unit {
        "H" => amount.checked_mul(3_600_000_000_000)?,
        "M" => amount.checked_mul(60_000_000_000)?,
        "S" => amount.checked_mul(1_000_000_000)?,
        "m" => amount.checked_mul(1_000_000)?,
        "u" => amount.checked_mul(1_000)?,
        "n" => amount,
        _ => return None,
    };
    Some(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_str(value).expect("a value")))
            .fold(HeaderMap::new(), |mut map, (name, value): (HeaderName, _)| {
                map.append(name, value);
                map
            })
    }

    #[test]
    fn a_number_has_its_digits() {
        for number in (0..1000).chain([u64::MAX]) {
            assert_eq!(super::number(number).as_bytes(), number.to_string().as_bytes());
        }
    }

    #[test]
    fn a_request_id_is_a_random_uuid_in_all_its_digits() {
        let random = Random::seeded(11);
        for number in (0..64).map(|bit| 1 << bit).chain((0..1000).map(|_| random.next())).chain([0, u64::MAX]) {
            assert_eq!(hex(number), *format!("{number:016x}").as_bytes());
        }
        for _ in 0..1000 {
            let id = request_id(&random);
            let id = id.to_str().expect("text");
            let lengths: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
            assert!(id.chars().all(|digit| matches!(digit, '0'..='9' | 'a'..='f' | '-')), "{id}");
            assert_eq!(&id[14..15], "4", "{id}");
            assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
        }
    }

    #[test]
    fn what_belongs_to_one_connection_is_removed_and_nothing_else() {
        type Fields = &'static [(&'static str, &'static str)];
        let rows: [(Fields, Fields); 7] = [
            (&[("connection", "keep-alive"), ("keep-alive", "5"), ("a", "1")], &[("a", "1")]),
            (&[("connection", "x-one, X-Two"), ("x-one", "1"), ("x-two", "2"), ("x-three", "3")], &[("x-three", "3")]),
            (
                &[("connection", "host, authorization"), ("host", "h"), ("authorization", "a")],
                &[("host", "h"), ("authorization", "a")],
            ),
            (&[("connection", "x-one"), ("connection", "x-two"), ("x-one", "1"), ("x-two", "2")], &[]),
            (&[("te", "trailers")], &[("te", "trailers")]),
            (&[("te", "gzip, trailers")], &[("te", "trailers")]),
            (&[("te", "gzip"), ("proxy-connection", "x"), ("upgrade", "h2c")], &[]),
        ];
        for (given, expected) in rows {
            let mut headers = map(given);
            remove_hop_by_hop(&mut headers);
            assert_eq!(headers, map(expected), "{given:?}");
        }
    }

    #[test]
    fn a_request_id_is_a_version_4_uuid() {
        let id = request_id(&Random::seeded(1));
        let text = id.to_str().expect("ASCII");
        assert_eq!(text.len(), 36);
        assert_eq!(&text[14..15], "4");
        assert!(matches!(&text[19..20], "8" | "9" | "a" | "b"));
        assert_eq!(text.matches('-').count(), 4);
    }

    #[test]
    fn a_grpc_timeout_has_digits_and_a_unit() {
        let rows = [("5S", Some(5_000)), ("100m", Some(100)), ("1H", Some(3_600_000)), ("S", None), ("5", None)];
        for (text, millis) in rows {
            let found = grpc_timeout(&map(&[("grpc-timeout", text)])).map(|limit| limit.as_millis());
            assert_eq!(found, millis, "{text}");
        }
    }
}
