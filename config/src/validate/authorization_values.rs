//! Single values of AuthorizationPolicies.

use super::findings::Findings;
use crate::compile::is_template;
use crate::diagnostic::codes;
use crate::identity::SpiffeId;
use crate::ir::PathTemplate;
use crate::rules::{Path, Pattern};

/// A value with a `*` at one end at most.
pub(super) fn pattern(value: &str, path: &Path, found: &mut Findings) {
    if let Err(invalid) = Pattern::parse(value) {
        let help = "write `text`, `text*`, `*text`, or `*` for anything";
        found.add(codes::POLICY, path, invalid.to_string()).help(help);
    }
}

/// An identity without `spiffe://`.
pub(super) fn principal(value: &str, path: &Path, found: &mut Findings) {
    pattern(value, path, found);
    if let Some(id) = value.strip_prefix("spiffe://") {
        let message = format!("`{value}` matches nobody: principals are written without `spiffe://`");
        found.add(codes::POLICY, path, message).help(format!("write `{id}`"));
    } else if let Ok(Pattern::Exact(id)) = Pattern::parse(value) {
        let parsed = SpiffeId::parse(&format!("spiffe://{id}"));
        if !parsed.is_ok_and(|id| id.namespace_and_service_account().is_some()) {
            let message = format!("no workload has the identity `{value}`");
            found.add(codes::IDENTITY, path, message).help("write TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT");
        }
    }
}

/// `NAMESPACE/ACCOUNT` or `ACCOUNT`.
pub(super) fn service_account(value: &str, path: &Path, found: &mut Findings) {
    let parts: Vec<&str> = value.split('/').collect();
    if value.contains('*') || parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
        let message = format!("`{value}` is not a service account");
        found.add(codes::POLICY, path, message).help("write `ACCOUNT` or `NAMESPACE/ACCOUNT`, without `*`");
    }
}

/// A host with or without a port.
pub(super) fn host(value: &str, path: &Path, found: &mut Findings) {
    pattern(value, path, found);
    if value.contains('/') {
        let message = format!("`{value}` matches no host: it has a slash");
        found.add(codes::NO_EFFECT, path, message).help("write the host alone, as in `shop.example.com`");
    }
}

/// A port as text.
pub(super) fn port(value: &str, path: &Path, found: &mut Findings) {
    if value.parse::<std::num::NonZeroU16>().is_err() {
        found.add(codes::PORT, path, format!("`{value}` is not a port")).help("ports are 1 to 65535");
    }
}

/// A method in its own case.
pub(super) fn method(value: &str, path: &Path, found: &mut Findings) {
    pattern(value, path, found);
    if value.bytes().any(|b| b.is_ascii_lowercase()) {
        let message = format!("`{value}` matches no usual method: they are in capitals, and case counts");
        found.add(codes::NO_EFFECT, path, message).help(format!("write `{}`", value.to_ascii_uppercase()));
    }
}

/// A path, or a template of one.
pub(super) fn path(value: &str, path: &Path, found: &mut Findings) {
    if is_template(value) {
        let has_bare_star = value.split('/').any(|segment| matches!(segment, "*" | "**"));
        let message = match PathTemplate::new(value) {
            Err(invalid) => invalid.to_string(),
            Ok(_) if has_bare_star => format!("in the template `{value}`, a `*` stands without braces"),
            Ok(_) => return,
        };
        found.add(codes::PATH, path, message).help("`{*}` is one segment, `{**}` any number of them");
        return;
    }
    pattern(value, path, found);
    if value.contains('?') {
        let message = "a path is compared without its query, so that this matches nothing";
        found.add(codes::NO_EFFECT, path, message).help("remove the query");
    } else if !value.is_empty() && !value.starts_with(['/', '*']) {
        let message = format!("`{value}` matches nothing: paths begin with `/`");
        found.add(codes::NO_EFFECT, path, message).help(format!("did you mean `/{value}`?"));
    }
}

/// Hosts that are to be refused and are not, once a caller writes a port behind them.
pub(super) fn port_gets_past(hosts: &[String], path: &Path, found: &mut Findings) {
    for (index, host) in hosts.iter().enumerate() {
        let bare = match Pattern::parse(host) {
            Ok(Pattern::Exact(bare)) => bare,
            Ok(Pattern::Present | Pattern::Prefix(_) | Pattern::Suffix(_)) | Err(_) => continue,
        };
        let with_port = format!("{bare}:");
        let covers = |other: &String| match Pattern::parse(other) {
            Ok(Pattern::Present) => true,
            Ok(Pattern::Prefix(start)) => with_port.to_ascii_lowercase().starts_with(&start.to_ascii_lowercase()),
            Ok(Pattern::Exact(_) | Pattern::Suffix(_)) | Err(_) => false,
        };
        if !bare.contains([':', '/']) && !hosts.iter().any(covers) {
            let message = format!("a request for `{bare}:80` is not one for `{bare}`: it gets past this rule");
            found.add(codes::LOOPHOLE, &path.index(index), message).help(format!("add `{bare}:*`"));
        }
    }
}
