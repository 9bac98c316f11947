//! `RequestAuthentication` by itself.

use http::HeaderName;
use serde_json::Value;

use super::findings::{Findings, spec};
use super::security::check_scope;
use super::values::Zero;
use crate::diagnostic::codes;
use crate::ir::RemoteJwks;
use crate::rules::{JwtRule, Path, RequestAuthentication};

pub(super) fn check(rule: &RequestAuthentication, found: &mut Findings) {
    let RequestAuthentication { selector, target_ref, target_refs, jwt_rules } = rule;
    let spec = spec();
    check_scope(selector.as_ref(), target_ref.as_ref(), target_refs, &spec, found);
    if jwt_rules.is_empty() {
        found.add(codes::NO_EFFECT, &spec, "the rule names no issuer").help("add `jwtRules`");
    }
    for (index, rule) in jwt_rules.iter().enumerate() {
        let path = spec.key("jwtRules").index(index);
        check_issuer(rule, &path, found);
        check_places(rule, &path, found);
        check_outputs(rule, &path, found);
        found.duration(&path.key("timeout"), rule.timeout.as_ref(), Zero::Refused);
    }
}

/// Who issues tokens, and with which keys.
fn check_issuer(rule: &JwtRule, path: &Path, found: &mut Findings) {
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let (has_address, has_keys) = (given(&rule.jwks_uri), given(&rule.jwks));
    if rule.issuer.is_empty() {
        match has_address {
            false => {
                let message = "the rule names no issuer";
                found.add(codes::REQUIRED, path, message).help("add `issuer`, which is `iss` of its tokens");
            }
            true => {
                let message = "the rule names no issuer, so a token of anyone passes who signs with these keys";
                found.add(codes::LOOPHOLE, path, message).help("add `issuer`");
            }
        }
    }
    not_empty(&rule.audiences, &path.key("audiences"), "an audience", found);
    if has_address && has_keys {
        let message = "`jwks` stands beside `jwksUri`";
        found.add(codes::EXCLUSIVE, &path.key("jwks"), message).on_key().help("remove one of the two");
    }
    if !has_address && !has_keys {
        let message = "the rule names no keys, so every token of this issuer is refused with 401";
        let help = "add `jwksUri` or `jwks`; nothing is fetched from addresses that are not written down";
        found.add(codes::ALWAYS_REFUSED, path, message).help(help);
    }
    if let Some(address) = rule.jwks_uri.as_deref().filter(|address| !address.is_empty())
        && let Err(invalid) = RemoteJwks::uri(address)
    {
        found.add(codes::ADDRESS, &path.key("jwksUri"), invalid.to_string());
    }
    if let Some(keys) = rule.jwks.as_deref().filter(|keys| !keys.is_empty())
        && let Err(reason) = check_keys(keys)
    {
        let help = "a JSON Web Key Set is {\"keys\": [{\"kty\": \"RSA\", …}]}";
        found.add(codes::TOKEN, &path.key("jwks"), reason).help(help);
    }
}

/// A JSON Web Key Set with public keys (RFC 7517). Whether each of them can be used, the proxy says.
fn check_keys(text: &str) -> Result<(), String> {
    let set: Value = serde_json::from_str(text).map_err(|error| format!("the key set is not JSON: {error}"))?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or("the key set has no list `keys`")?;
    if keys.is_empty() {
        return Err("the key set has no keys".to_owned());
    }
    for (index, key) in keys.iter().enumerate() {
        match key.get("kty").and_then(Value::as_str) {
            None => return Err(format!("key {index} of the set has no type `kty`")),
            Some("oct") => {
                return Err(format!("key {index} of the set is a shared secret: who verifies with it could also sign"));
            }
            Some(_) => {}
        }
        if key.get("d").is_some() {
            return Err(format!("key {index} of the set is a private key: it must not leave the issuer"));
        }
    }
    Ok(())
}

/// Where a request may carry the token.
fn check_places(rule: &JwtRule, path: &Path, found: &mut Findings) {
    for (index, header) in rule.from_headers.iter().enumerate() {
        check_header(&header.name, &path.key("fromHeaders").index(index), "name", found);
    }
    not_empty(&rule.from_params, &path.key("fromParams"), "a query parameter", found);
    not_empty(&rule.from_cookies, &path.key("fromCookies"), "a cookie", found);
    not_empty(&rule.space_delimited_claims, &path.key("spaceDelimitedClaims"), "a claim", found);
}

/// What goes on to the app.
fn check_outputs(rule: &JwtRule, path: &Path, found: &mut Findings) {
    if let Some(name) = rule.output_payload_to_header.as_deref().filter(|name| !is_header(name)) {
        not_a_header(name, &path.key("outputPayloadToHeader"), found);
    }
    for (index, output) in rule.output_claim_to_headers.iter().enumerate() {
        let path = path.key("outputClaimToHeaders").index(index);
        check_header(&output.header, &path, "header", found);
        if output.claim.is_empty() {
            found.add(codes::REQUIRED, &path, "it is not said which claim").help("add `claim`");
        }
    }
}

fn check_header(name: &str, path: &Path, field: &str, found: &mut Findings) {
    if name.is_empty() {
        found.add(codes::REQUIRED, path, "a header has no name").help(format!("add `{field}`"));
    } else if !is_header(name) {
        not_a_header(name, &path.key(field), found);
    }
}

fn is_header(name: &str) -> bool {
    name.parse::<HeaderName>().is_ok()
}

fn not_a_header(name: &str, path: &Path, found: &mut Findings) {
    let message = format!("`{name}` is not a header name (RFC 9110 §5.1)");
    found.add(codes::HEADER, path, message).help("use letters, digits and `-`; pseudo headers cannot be used");
}

fn not_empty(names: &[String], path: &Path, what: &str, found: &mut Findings) {
    for (index, _) in names.iter().enumerate().filter(|(_, name)| name.is_empty()) {
        found.add(codes::TOKEN, &path.index(index), format!("{what} has no name")).help("remove it");
    }
}
