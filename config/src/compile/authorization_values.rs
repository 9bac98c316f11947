//! Single values of AuthorizationPolicies as conditions, in the form that istiod gives them.
//!
//! Where istiod makes a regular expression of a value, the value's own characters are escaped here: `td.example` is not
//! to match `tdxexample`. What istiod accepts for valid names stays the same.

use ipnet::IpNet;

use crate::ir::{ClaimMatch, HeaderKey, HeaderMatch, PathTemplate, Permission, Principal, Regex, StringMatch};
use crate::rules::Pattern;

/// What every trust domain means in a principal: the mesh's own, whatever its name (Istio).
const LOCAL_TRUST_DOMAIN: &str = "cluster.local";

/// A value of which no condition can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unusable;

/// A condition on a text; `*`: that it is not empty.
pub(super) fn text(value: &str) -> Result<StringMatch, Unusable> {
    string(value, false)
}

fn string(value: &str, ignore_case: bool) -> Result<StringMatch, Unusable> {
    Ok(match Pattern::parse(value).map_err(|_| Unusable)? {
        Pattern::Present => something()?,
        Pattern::Exact(value) => StringMatch::Exact { value: value.to_owned(), ignore_case },
        Pattern::Prefix(value) => StringMatch::Prefix { value: value.to_owned(), ignore_case },
        Pattern::Suffix(value) => StringMatch::Suffix { value: value.to_owned(), ignore_case },
    })
}

fn something() -> Result<StringMatch, Unusable> {
    regex(".+")
}

fn regex(pattern: &str) -> Result<StringMatch, Unusable> {
    Regex::new(pattern).map(StringMatch::Regex).map_err(|_| Unusable)
}

/// Text for a regular expression, in which it means itself.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if ".+*?()|[]{}^$\\".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// With `.*` for the star.
fn escaped_pattern(value: &str) -> Result<String, Unusable> {
    Ok(match Pattern::parse(value).map_err(|_| Unusable)? {
        Pattern::Present => ".*".to_owned(),
        Pattern::Exact(text) => escaped(text),
        Pattern::Prefix(text) => escaped(text) + ".*",
        Pattern::Suffix(text) => ".*".to_owned() + &escaped(text),
    })
}

fn header_match(key: HeaderKey, value: &str, ignore_case: bool) -> Result<HeaderMatch, Unusable> {
    let value = match Pattern::parse(value).map_err(|_| Unusable)? {
        Pattern::Present => None,
        Pattern::Exact(_) | Pattern::Prefix(_) | Pattern::Suffix(_) => Some(string(value, ignore_case)?),
    };
    Ok(HeaderMatch { key, value, invert: false, missing_is_empty: false })
}

/// The host of a request in any case. A port is part of it, as in Envoy: `a.example:*` is `a.example` with one.
pub(super) fn host(value: &str) -> Result<Permission, Unusable> {
    header_match(HeaderKey::Authority, value, true).map(Permission::Header)
}

pub(super) fn method(value: &str) -> Result<Permission, Unusable> {
    header_match(HeaderKey::Method, value, false).map(Permission::Header)
}

pub(super) fn header(key: &HeaderKey, value: &str) -> Result<Principal, Unusable> {
    header_match(key.clone(), value, false).map(Principal::Header)
}

/// Whether a path is a template.
pub(crate) fn is_template(path: &str) -> bool {
    path.contains("{*}") || path.contains("{**}")
}

pub(super) fn path(value: &str) -> Result<Permission, Unusable> {
    match is_template(value) {
        true => PathTemplate::new(value).map(Permission::PathTemplate).map_err(|_| Unusable),
        false => text(value).map(Permission::Path),
    }
}

pub(super) fn port(value: &str) -> Result<Permission, Unusable> {
    value.parse().map(Permission::DestinationPort).map_err(|_| Unusable)
}

/// A network, or an address as the network of itself.
pub(super) fn network(value: &str) -> Result<IpNet, Unusable> {
    let network = value.parse::<IpNet>().or_else(|_| value.parse::<std::net::IpAddr>().map(IpNet::from));
    network.map(|network| network.trunc()).map_err(|_| Unusable)
}

pub(super) fn principal(value: &str) -> Result<Principal, Unusable> {
    let matcher = match Pattern::parse(value).map_err(|_| Unusable)? {
        Pattern::Present => something()?,
        Pattern::Exact(id) => StringMatch::exact(format!("spiffe://{id}")),
        Pattern::Prefix(start) => StringMatch::prefix(format!("spiffe://{start}")),
        Pattern::Suffix(end) => regex(&format!("spiffe://.*{}", escaped(end)))?,
    };
    Ok(Principal::Authenticated(Some(matcher)))
}

pub(super) fn namespace(value: &str) -> Result<Principal, Unusable> {
    let matcher = regex(&format!(".*/ns/{}/.*", escaped_pattern(value)?))?;
    Ok(Principal::Authenticated(Some(matcher)))
}

/// `NAMESPACE/ACCOUNT`, or an account of the policy's namespace.
pub(super) fn service_account(value: &str, own: &str) -> Result<Principal, Unusable> {
    let (namespace, account) = value.split_once('/').unwrap_or((own, value));
    if account.is_empty() || namespace.is_empty() || value.contains('*') {
        return Err(Unusable);
    }
    let (namespace, account) = (escaped(namespace), escaped(account));
    let matcher = regex(&format!("spiffe://.+/ns/{namespace}/(.+/|)sa/{account}(/.+)?"))?;
    Ok(Principal::Authenticated(Some(matcher)))
}

pub(super) fn trust_domain(value: &str) -> Result<Principal, Unusable> {
    let matcher = match Pattern::parse(value).map_err(|_| Unusable)? {
        Pattern::Present => something()?,
        Pattern::Exact(domain) => StringMatch::prefix(format!("spiffe://{domain}/")),
        Pattern::Prefix(start) => StringMatch::prefix(format!("spiffe://{start}")),
        Pattern::Suffix(end) => regex(&format!("spiffe://[^/]*{}/.*", escaped(end)))?,
    };
    Ok(Principal::Authenticated(Some(matcher)))
}

/// A trust domain of the mesh stands for all its names.
pub(super) fn with_other_domains(written: &[String], domains: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for value in written {
        let names = if domains.contains(&value.as_str()) { domains } else { &[value.as_str()] };
        for name in names {
            if all.iter().all(|known| known != name) {
                all.push((*name).to_owned());
            }
        }
    }
    all
}

/// A principal of the mesh's trust domain, or of `cluster.local`, which stands for it, is the same workload in every
/// other name of the trust domain (Istio).
pub(super) fn with_aliases(written: &[String], domains: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for value in written {
        for name in aliases(value, domains) {
            if !all.contains(&name) {
                all.push(name);
            }
        }
    }
    all
}

fn aliases(value: &str, domains: &[&str]) -> Vec<String> {
    let as_written = vec![value.to_owned()];
    // Only `TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT` names a trust domain at all.
    let Some((domain, rest)) = value.split_once('/').filter(|_| value.split('/').count() == 5) else {
        return as_written;
    };
    let names = |name: &str| match domain.strip_prefix('*') {
        Some(end) => name.ends_with(end),
        None => name == domain,
    };
    if domain == "*" || !(domain == LOCAL_TRUST_DOMAIN || domains.iter().any(|name| names(name))) {
        return as_written;
    }
    let in_domain = |name: &&str| match names(name) {
        true => value.to_owned(),
        false => format!("{name}/{rest}"),
    };
    domains.iter().map(in_domain).collect()
}

/// `ISSUER/SUBJECT` of a token; the last slash divides, since an issuer may be a URL.
pub(super) fn request_principal(value: &str) -> Result<Principal, Unusable> {
    let pattern = Pattern::parse(value).map_err(|_| Unusable)?;
    let exact = |text: &str| Ok(StringMatch::exact(text));
    let prefix = |text: &str| if text.is_empty() { something() } else { Ok(StringMatch::prefix(text)) };
    let suffix = |text: &str| match text.is_empty() {
        true => something(),
        false => Ok(StringMatch::Suffix { value: text.to_owned(), ignore_case: false }),
    };
    let (issuer, subject) = match pattern {
        Pattern::Present => (something()?, something()?),
        Pattern::Exact(text) => match text.rsplit_once('/') {
            Some((issuer, subject)) => (exact(issuer)?, exact(subject)?),
            None => (exact(text)?, exact("")?),
        },
        Pattern::Prefix(text) => match text.rsplit_once('/') {
            Some((issuer, subject)) => (exact(issuer)?, prefix(subject)?),
            None => (prefix(text)?, something()?),
        },
        Pattern::Suffix(text) => match text.rsplit_once('/') {
            Some((issuer, subject)) => (suffix(issuer)?, exact(subject)?),
            None => (something()?, suffix(text)?),
        },
    };
    let claim = |name: &str, value| Principal::Claim(ClaimMatch { path: vec![name.to_owned()], value, invert: false });
    Ok(Principal::And(vec![claim("iss", issuer), claim("sub", subject)]))
}

pub(super) fn claim(path: &[String], value: &str) -> Result<Principal, Unusable> {
    Ok(Principal::Claim(ClaimMatch { path: path.to_vec(), value: text(value)?, invert: false }))
}

/// A claim that is a list of words with spaces between: one of them.
pub(super) fn words(path: &[String], value: &str) -> Result<Principal, Unusable> {
    let word = match Pattern::parse(value).map_err(|_| Unusable)? {
        Pattern::Present => return claim(path, value),
        Pattern::Exact(text) => escaped(text),
        Pattern::Prefix(text) => escaped(text) + "\\S*",
        Pattern::Suffix(text) => "\\S*".to_owned() + &escaped(text),
    };
    let value = regex(&format!("(?s)(.*\\s)?{word}(\\s.*)?"))?;
    Ok(Principal::Claim(ClaimMatch { path: path.to_vec(), value, invert: false }))
}
