//! What should not be in a log, a tap or a trace unless somebody asks for it: credentials, and queries, which hold tokens
//! more often than anybody likes.

use http::HeaderName;

/// What stands where something was taken out.
pub const REDACTED: &str = "[redacted]";

/// Headers whose value is a credential.
const CREDENTIALS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];

/// What the names of other headers, and of flags, with credentials have in them.
const PARTS: [&str; 6] = ["token", "secret", "password", "api-key", "apikey", "session"];

/// Headers whose value is an address with a query.
const ADDRESSES: [&str; 5] = ["x-envoy-original-path", "referer", "location", "content-location", "x-original-url"];

/// What of a header's value may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// All of it.
    All,
    /// Up to the question mark.
    WithoutQuery,
    /// That it was there.
    Nothing,
}

/// What of a header may be told.
pub fn telling(name: &HeaderName) -> Telling {
    if is_secret(name.as_str()) {
        Telling::Nothing
    } else if ADDRESSES.contains(&name.as_str()) {
        Telling::WithoutQuery
    } else {
        Telling::All
    }
}

/// Whether the value of what has this name, in lower case, proves who somebody is.
pub(crate) fn is_secret(name: &str) -> bool {
    CREDENTIALS.contains(&name) || PARTS.iter().any(|part| name.contains(part))
}

/// What stands before the query, and whether there is one.
pub fn split_query(address: &[u8]) -> (&[u8], bool) {
    match address.iter().position(|byte| *byte == b'?') {
        Some(at) => (address.get(..at).unwrap_or_default(), true),
        None => (address, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_told_and_addresses_end_before_their_query() {
        for (name, expected) in [
            ("authorization", Telling::Nothing),
            ("cookie", Telling::Nothing),
            ("set-cookie", Telling::Nothing),
            ("proxy-authorization", Telling::Nothing),
            ("x-api-key", Telling::Nothing),
            ("x-auth-token", Telling::Nothing),
            ("referer", Telling::WithoutQuery),
            ("location", Telling::WithoutQuery),
            ("user-agent", Telling::All),
        ] {
            assert_eq!(telling(&HeaderName::from_static(name)), expected, "{name}");
        }
        assert_eq!(split_query(b"/a?b=c?d"), (b"/a".as_slice(), true));
        assert_eq!(split_query(b"/a"), (b"/a".as_slice(), false));
    }
}
