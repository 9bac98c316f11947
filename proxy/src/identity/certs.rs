//! What `/certs` shows: certificates, roots and renewals, never a key.

use std::time::SystemTime;

use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::issued::rfc3339;
use super::keyring::{Keyring, Report, Trouble};
use super::svid::{Svid, validity};
use super::trust::Trust;

const DAY: f64 = 86_400.0;

/// Everything that is known at `now`.
pub fn certs(keyring: &Keyring, now: SystemTime) -> Value {
    let in_force = keyring.identity().now();
    let Report { renewed, failed, obtained, due, error, trust_error } = keyring.report();
    json!({
        "origin": keyring.origin(),
        "certificate": in_force.svid.as_ref().map(|svid| own(svid, now)),
        "trust_domains": trust_domains(&in_force.trust, now),
        "revocation_lists": in_force.trust.revocations().len(),
        "renewals": {
            "obtained": renewed,
            "failed": failed,
            "last": obtained.map(rfc3339),
            "next": due.map(rfc3339),
            "error": error.as_ref().map(trouble),
        },
        "trust_error": trust_error.as_ref().map(trouble),
    })
}

fn own(svid: &Svid, now: SystemTime) -> Value {
    let chain = &svid.certified_key().cert;
    json!({
        "id": svid.id(),
        "serial": chain.first().and_then(serial),
        "valid_from": rfc3339(svid.valid_from()),
        "valid_until": rfc3339(svid.valid_until()),
        "days_left": days(svid.valid_until(), now),
        "is_valid": svid.is_valid_at(now),
        "chain": chain.iter().map(|certificate| described(certificate, now)).collect::<Vec<_>>(),
    })
}

fn trust_domains(trust: &Trust, now: SystemTime) -> Value {
    let domain = |domain: &str| {
        let roots: Vec<Value> = trust.roots(domain).iter().map(|root| described(root, now)).collect();
        json!({ "trust_domain": domain, "roots": roots })
    };
    trust.domains().map(domain).collect()
}

fn described(certificate: &CertificateDer<'_>, now: SystemTime) -> Value {
    let parsed = X509Certificate::from_der(certificate).ok().map(|(_, parsed)| parsed);
    let valid = validity(certificate).ok();
    json!({
        "subject": parsed.as_ref().map(|parsed| parsed.subject().to_string()),
        "issuer": parsed.as_ref().map(|parsed| parsed.issuer().to_string()),
        "serial": serial(certificate),
        "sha256": fingerprint(certificate),
        "valid_from": valid.map(|(from, _)| rfc3339(from)),
        "valid_until": valid.map(|(_, until)| rfc3339(until)),
        "days_left": valid.map(|(_, until)| days(until, now)),
    })
}

fn serial(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(hex(parsed.raw_serial()))
}

/// SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` prints it but for the colons.
fn fingerprint(certificate: &CertificateDer<'_>) -> Option<String> {
    let SupportedCipherSuite::Tls13(suite) = TLS13_AES_128_GCM_SHA256 else { return None };
    Some(hex(suite.common.hash_provider.hash(certificate).as_ref()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Days until then, with two digits after the point; negative when it was before `now`.
fn days(until: SystemTime, now: SystemTime) -> f64 {
    let days = match until.duration_since(now) {
        Ok(left) => left.as_secs_f64() / DAY,
        Err(passed) => -passed.duration().as_secs_f64() / DAY,
    };
    (days * 100.0).round() / 100.0
}

fn trouble(trouble: &Trouble) -> Value {
    json!({ "text": trouble.text, "at": rfc3339(trouble.at) })
}
