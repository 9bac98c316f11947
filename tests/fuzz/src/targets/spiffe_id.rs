//! SPIFFE IDs: the bytes are the URI of a certificate.

use leno_config::identity::{SpiffeId, check_trust_domain};

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "spiffe_id",
    property: "an ID is taken exactly if the standard's grammar has it, is written as it was read, and is put together of \
               its parts",
    check,
    words: &["spiffe://", "/ns/", "/sa/", "/", ".", "..", "%2f", "td.example", "?", "#", ":443", "@"],
};

fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parsed = SpiffeId::parse(text);
    assert_eq!(parsed.is_ok(), is_in_the_grammar(text), "{text:?}: {parsed:?}");
    let Ok(id) = parsed else { return };
    assert_eq!((id.to_string().as_str(), id.as_str()), (text, text));
    assert_eq!(SpiffeId::parse(&id.to_string()).as_ref(), Ok(&id));
    assert_eq!(format!("spiffe://{}", id.principal()), text);
    assert!(check_trust_domain(id.trust_domain()).is_ok());
    assert!(id.principal().starts_with(id.trust_domain()));
    if let Some((namespace, account)) = id.namespace_and_service_account() {
        assert_eq!(SpiffeId::workload(id.trust_domain(), namespace, account), Ok(id));
    }
}

/// SPIFFE-ID §2, letter by letter: a state per part of the ID.
fn is_in_the_grammar(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("spiffe://") else { return false };
    let mut parts = rest.split('/');
    let domain = parts.next().unwrap_or_default();
    let in_domain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || ".-_".contains(letter);
    let in_path = |letter: char| letter.is_ascii_alphanumeric() || ".-_".contains(letter);
    let is_segment = |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(in_path);
    let lengths = text.len() <= 2048 && (1..=255).contains(&domain.len());
    lengths && domain.chars().all(in_domain) && parts.all(is_segment)
}
