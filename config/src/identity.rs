//! Who a workload is: SPIFFE IDs, parsed strictly and compared byte for byte.
//!
//! The SPIFFE ID standard allows more than one spelling of nothing: no percent-encoding, no empty segment, no dots, no
//! query. So two IDs are the same workload exactly when they are the same bytes, and a prefix is never enough.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Longest ID (SPIFFE-ID §2.3).
const MAX_ID: usize = 2048;
/// Longest trust domain name (SPIFFE-ID §2.1).
const MAX_TRUST_DOMAIN: usize = 255;

/// Why a text is not a SPIFFE ID, or not one of a workload in the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum SpiffeIdError {
    #[error("it does not begin with `spiffe://`, in lower case")]
    Scheme,
    #[error("its trust domain is not made of lower-case letters, digits, `.`, `-` and `_`")]
    TrustDomain,
    #[error("its path has an empty segment, `.`, `..`, or a character besides letters, digits, `.`, `-` and `_`")]
    Path,
    #[error("it is longer than 2048 bytes, or its trust domain than 255")]
    TooLong,
    #[error("its path is not /ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
    NotAWorkload,
}

/// Checks the name of a trust domain.
pub fn check_trust_domain(name: &str) -> Result<(), SpiffeIdError> {
    if name.len() > MAX_TRUST_DOMAIN {
        return Err(SpiffeIdError::TooLong);
    }
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    match !name.is_empty() && name.bytes().all(allowed) {
        true => Ok(()),
        false => Err(SpiffeIdError::TrustDomain),
    }
}

/// `spiffe://TRUST-DOMAIN/PATH`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path begins, at its first slash or at the end.
    path: usize,
}

impl SpiffeId {
    const SCHEME: &'static str = "spiffe://";

    /// Reads an ID; nothing is decoded and nothing normalised.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > MAX_ID {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = text.strip_prefix(Self::SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (trust_domain, segments) = match rest.split_once('/') {
            Some((domain, path)) => (domain, Some(path)),
            None => (rest, None),
        };
        check_trust_domain(trust_domain)?;
        if !segments.into_iter().flat_map(|path| path.split('/')).all(is_segment) {
            return Err(SpiffeIdError::Path);
        }
        Ok(Self { text: text.into(), path: Self::SCHEME.len().saturating_add(trust_domain.len()) })
    }

    /// The ID of a workload: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT` (Istio).
    pub fn workload(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, SpiffeIdError> {
        if !is_segment(namespace) || !is_segment(service_account) {
            return Err(SpiffeIdError::Path);
        }
        Self::parse(&format!("{}{trust_domain}/ns/{namespace}/sa/{service_account}", Self::SCHEME))
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Without `spiffe://`, as Istio's rules write principals: `cluster.local/ns/default/sa/reviews`.
    pub fn principal(&self) -> &str {
        self.text.get(Self::SCHEME.len()..).unwrap_or_default()
    }

    /// Who vouches for it.
    pub fn trust_domain(&self) -> &str {
        self.text.get(Self::SCHEME.len()..self.path).unwrap_or_default()
    }

    /// Namespace and service account, where the path has Istio's form.
    pub fn namespace_and_service_account(&self) -> Option<(&str, &str)> {
        let path = self.text.get(self.path..)?.strip_prefix("/ns/")?;
        let (namespace, rest) = path.split_once('/')?;
        let account = rest.strip_prefix("sa/")?;
        (!account.contains('/')).then_some((namespace, account))
    }
}

fn is_segment(segment: &str) -> bool {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    !matches!(segment, "" | "." | "..") && segment.bytes().all(allowed)
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let rows: &[(&str, Result<(), SpiffeIdError>)] = &[
            ("spiffe://cluster.local/ns/default/sa/reviews", Ok(())),
            ("spiffe://td", Ok(())),
            ("spiffe://td/Upper/case.path-_9", Ok(())),
            ("SPIFFE://td/a", Err(SpiffeIdError::Scheme)),
            ("https://td/a", Err(SpiffeIdError::Scheme)),
            ("spiffe:/td/a", Err(SpiffeIdError::Scheme)),
            ("spiffe:///a", Err(SpiffeIdError::TrustDomain)),
            ("spiffe://TD/a", Err(SpiffeIdError::TrustDomain)),
            ("spiffe://td:443/a", Err(SpiffeIdError::TrustDomain)),
            ("spiffe://user@td/a", Err(SpiffeIdError::TrustDomain)),
            ("spiffe://td?x/a", Err(SpiffeIdError::TrustDomain)),
            ("spiffe://td%2e/a", Err(SpiffeIdError::TrustDomain)),
            ("spiffe://td/", Err(SpiffeIdError::Path)),
            ("spiffe://td/a/", Err(SpiffeIdError::Path)),
            ("spiffe://td//a", Err(SpiffeIdError::Path)),
            ("spiffe://td/./a", Err(SpiffeIdError::Path)),
            ("spiffe://td/../a", Err(SpiffeIdError::Path)),
            ("spiffe://td/a%2fb", Err(SpiffeIdError::Path)),
            ("spiffe://td/a?b", Err(SpiffeIdError::Path)),
            ("spiffe://td/a#b", Err(SpiffeIdError::Path)),
            ("spiffe://td/ä", Err(SpiffeIdError::Path)),
            ("spiffe://td/a\0", Err(SpiffeIdError::Path)),
        ];
        for (text, expected) in rows {
            assert_eq!(SpiffeId::parse(text).map(|_| ()), *expected, "{text}");
        }
        assert_eq!(SpiffeId::parse(&format!("spiffe://td/{}", "a".repeat(2048))), Err(SpiffeIdError::TooLong));
        assert_eq!(SpiffeId::parse(&format!("spiffe://{}", "a".repeat(256))), Err(SpiffeIdError::TooLong));
    }

    #[test]
    fn the_parts_of_a_workload() {
        let id = SpiffeId::workload("td.example", "shop", "cart").expect("valid");
        assert_eq!(id.as_str(), "spiffe://td.example/ns/shop/sa/cart");
        assert_eq!(id.principal(), "td.example/ns/shop/sa/cart");
        assert_eq!(id.trust_domain(), "td.example");
        assert_eq!(id.namespace_and_service_account(), Some(("shop", "cart")));
        for other in ["spiffe://td", "spiffe://td/ns/a/sa", "spiffe://td/ns/a/sa/b/c", "spiffe://td/x/ns/a/sa/b"] {
            assert_eq!(SpiffeId::parse(other).ok().and_then(|id| id.namespace_and_service_account().map(|_| ())), None);
        }
        assert!(SpiffeId::workload("td", "a/b", "c").is_err(), "a namespace cannot smuggle a segment");
    }
}
