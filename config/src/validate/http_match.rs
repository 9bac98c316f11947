//! Conditions on a request.

use std::collections::BTreeMap;

use super::findings::Findings;
use super::virtual_service::check_gateway;
use crate::diagnostic::codes;
use crate::ir::HeaderKey;
use crate::rules::{HttpMatchRequest, Path, StringMatch, is_dns_label, routed_claim};

/// Keys that Istio leaves out among headers: they have fields of their own.
const NOT_HEADERS: [&str; 4] = ["uri", "scheme", "method", "authority"];

pub(super) fn check(block: &HttpMatchRequest, path: &Path, found: &mut Findings) {
    if let Some(uri) = &block.uri {
        check_uri(block, uri, &path.key("uri"), found);
    }
    for (field, condition) in [("scheme", &block.scheme), ("method", &block.method), ("authority", &block.authority)] {
        let Some(condition) = condition else { continue };
        let path = path.key(field);
        found.string_match(&path, condition);
        says_something(condition, &path, found);
        if condition.prefix.as_deref() == Some("") {
            found.add(codes::MATCH, &path.key("prefix"), "every text begins with an empty prefix").help("remove it");
        }
    }
    check_headers(&block.headers, &path.key("headers"), found);
    check_headers(&block.without_headers, &path.key("withoutHeaders"), found);
    for (name, condition) in &block.query_params {
        let path = path.key("queryParams").key(name);
        found.string_match(&path, condition);
        if name.is_empty() {
            found.add(codes::MATCH, &path, "a query parameter has no name").on_key();
        }
    }
    found.optional_port(&path.key("port"), block.port);
    check_source(block, path, found);
}

fn check_uri(block: &HttpMatchRequest, uri: &StringMatch, path: &Path, found: &mut Findings) {
    found.string_match(path, uri);
    says_something(uri, path, found);
    if uri.regex.is_some() && block.ignore_uri_case == Some(true) {
        let message = "`ignoreUriCase` does not apply to a regular expression";
        found.add(codes::NO_EFFECT, &path.key("regex"), message).help("begin the expression with `(?i)`");
    }
    if uri.regex.as_deref() == Some("*") {
        found.add(codes::REGEX, &path.key("regex"), "`*` is not a regular expression").help("did you mean `.*`?");
    }
    for (field, value) in [("exact", &uri.exact), ("prefix", &uri.prefix)] {
        let Some(value) = value.as_deref() else { continue };
        let path = path.key(field);
        if value.contains('?') {
            let message = "a path is compared without its query, so that this matches nothing";
            found.add(codes::NO_EFFECT, &path, message).help("use `queryParams`");
        } else if !value.is_empty() && !value.starts_with(['/', '*']) {
            let message = format!("`{value}` matches nothing: paths begin with `/`");
            found.add(codes::NO_EFFECT, &path, message).help(format!("did you mean `/{value}`?"));
        }
    }
}

/// `{}` on anything but a header or a parameter.
fn says_something(condition: &StringMatch, path: &Path, found: &mut Findings) {
    if *condition == StringMatch::default() {
        let help = "use `exact`, `prefix` or `regex`, or remove it";
        found.add(codes::NO_EFFECT, path, "the condition says nothing, so every request fulfils it").help(help);
    }
}

fn check_headers(headers: &BTreeMap<String, StringMatch>, path: &Path, found: &mut Findings) {
    for (name, condition) in headers {
        let path = path.key(name);
        found.string_match(&path, condition);
        if let Some(claim) = routed_claim(name) {
            if let Err(invalid) = claim {
                let help = "write `@request.auth.claims.NAME`, or `@request.auth.claims[NAME]` where a name has dots";
                found.add(codes::HEADER, &path, invalid.to_string()).on_key().help(help);
            }
        } else if NOT_HEADERS.contains(&name.as_str()) {
            let message = format!("`{name}` is no header, and a condition on it is left out");
            found
                .add(codes::NO_EFFECT, &path, message)
                .on_key()
                .help(format!("move it up, beside `headers`: `{name}`"));
        } else if let Err(invalid) = HeaderKey::parse(name) {
            found.add(codes::HEADER, &path, invalid.to_string()).on_key();
        }
    }
}

/// Conditions on who calls.
fn check_source(block: &HttpMatchRequest, path: &Path, found: &mut Findings) {
    found.labels(&path.key("sourceLabels"), &block.source_labels);
    if let Some(namespace) = block.source_namespace.as_deref().filter(|name| !name.is_empty() && !is_dns_label(name)) {
        let message = format!("`{namespace}` is not a namespace");
        found.add(codes::EXPORT_TO, &path.key("sourceNamespace"), message);
    }
    for (index, gateway) in block.gateways.iter().enumerate() {
        check_gateway(gateway, &path.key("gateways").index(index), found);
    }
    if !block.gateways.is_empty() && (!block.source_labels.is_empty() || block.source_namespace.is_some()) {
        let field = if block.source_labels.is_empty() { "sourceNamespace" } else { "sourceLabels" };
        let message = format!("`{field}` is not looked at where `gateways` is set");
        found.add(codes::NO_EFFECT, &path.key(field), message).on_key().help("use two match blocks");
    }
}
