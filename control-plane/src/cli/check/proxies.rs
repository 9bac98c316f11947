//! Do the proxies hold what they should? As far as the control plane knows it.

use std::time::Duration;

use http::StatusCode;

use super::report::Section;
use crate::ads::status::{CertificateStatus, ProxyStatus, RemarkStatus, TypeStatus};
use crate::cli::ask::{Question, ask};
use crate::cli::status::{age, short};

/// An answer that takes longer is worth a word.
const PATIENCE: Duration = Duration::from_secs(15);
/// A certificate is renewed at half its life, so that one with less left was not.
const CERTIFICATE: Duration = Duration::from_secs(600);
/// Most proxies that are asked themselves; a look at thousands would take minutes.
const ASKED: usize = 50;

/// All proxies that are connected.
pub(super) fn section(proxies: &[ProxyStatus], address: &str) -> Section {
    let mut section = Section::new("proxies");
    if proxies.is_empty() {
        let next = "leno-proxy run --node-name NAME --control-plane-address http://127.0.0.1:15010";
        section.warns("no proxy is connected", next);
        return section;
    }
    for proxy in proxies {
        of_proxy(&mut section, proxy, address);
    }
    for proxy in proxies.iter().take(ASKED) {
        readiness(&mut section, proxy, address);
    }
    if section.is_clean() {
        let newest = proxies.iter().flat_map(|proxy| proxy.types.values()).map(|status| status.age_ms).min();
        let changed =
            newest.map(|newest| format!("; the last change was sent {} ago", age(Duration::from_millis(newest))));
        section.ok(format!(
            "all {} that are connected hold what they should{}",
            proxies.len(),
            changed.unwrap_or_default()
        ));
    }
    section
}

fn of_proxy(section: &mut Section, proxy: &ProxyStatus, address: &str) {
    let name = short(&proxy.node);
    let next = format!("leno status --address {address} -o wide");
    if proxy.types.is_empty() {
        section.warns(format!("{name} is connected and has not asked for anything"), next.as_str());
    }
    for (label, status) in &proxy.types {
        let TypeStatus { sent, acked, age_ms, nack, resources: _ } = status;
        let since = Duration::from_millis(*age_ms);
        match (nack, sent) {
            (Some(nack), _) => section.fails(format!("{name} refuses its {label}: {nack}"), next.as_str()),
            (None, None) if since > PATIENCE => {
                section.fails(format!("{name} waits for its {label} since {}", age(since)), next.as_str());
            }
            (None, Some(_)) if sent != acked && since > PATIENCE => {
                section.fails(format!("{name} has not answered its {label} for {}", age(since)), next.as_str());
            }
            (None, _) => {}
        }
    }
    match &proxy.certificate {
        Some(CertificateStatus { expires, left_s: 0 }) => {
            section.fails(format!("the certificate of {name} ended at {expires}"), next.as_str());
        }
        Some(CertificateStatus { left_s, .. }) if *left_s < CERTIFICATE.as_secs() => {
            let left = age(Duration::from_secs(*left_s));
            section.warns(format!("the certificate of {name} ends in {left} and was not renewed"), next.as_str());
        }
        Some(_) | None => {}
    }
    for RemarkStatus { kind, resource, outcome, reason } in &proxy.remarks {
        section.warns(format!("{name} ({}): {kind} {resource} {outcome}: {reason}", proxy.dialect), next.as_str());
    }
}

/// Asks the proxy itself, by way of the control plane. Who cannot be asked (a gRPC library, an Envoy) is passed over.
fn readiness(section: &mut Section, proxy: &ProxyStatus, address: &str) {
    let path = format!("/proxies/{}/ready", proxy.node);
    let Ok((StatusCode::SERVICE_UNAVAILABLE, reason)) = ask(address, &Question::get(&path)) else { return };
    let reason = reason.trim();
    if ["PRE_INITIALIZING", "DRAINING", "cannot listen"].iter().any(|word| reason.starts_with(word)) {
        let name = short(&proxy.node);
        section.fails(format!("{name} is not ready: {reason}"), format!("curl -s {address}{path}"));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn proxy(name: &str, sent: Option<&str>, acked: Option<&str>, age_ms: u64, nack: Option<&str>) -> ProxyStatus {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let (sent, acked, nack) = (text(sent), text(acked), text(nack));
        ProxyStatus {
            node: format!("sidecar~127.0.0.1~{name}.default~default.svc.cluster.local"),
            connected_since: String::new(),
            variant: "delta".to_owned(),
            dialect: "envoy".to_owned(),
            types: BTreeMap::from([(
                "routes".to_owned(),
                TypeStatus { sent, acked, age_ms, nack, resources: BTreeMap::new() },
            )]),
            certificate: None,
            remarks: Vec::new(),
        }
    }

    fn said(proxy: ProxyStatus) -> Vec<(String, String)> {
        let mut section = Section::new("proxies");
        of_proxy(&mut section, &proxy, "http://a:1");
        let checks = serde_json::to_value(&section).unwrap()["checks"].as_array().unwrap().clone();
        let text = |check: &serde_json::Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
        checks.iter().map(|check| (text(check, "outcome"), text(check, "what"))).collect()
    }

    #[test]
    fn what_a_proxy_does_not_hold_is_said_once_it_should() {
        let long = 60_000;
        let cases = [
            (proxy("a", Some("1"), Some("1"), long, None), None),
            (proxy("a", Some("2"), Some("1"), 10, None), None),
            (proxy("a", None, None, 10, None), None),
            (proxy("a", Some("2"), Some("1"), long, None), Some("a.default has not answered its routes for 1m0s")),
            (proxy("a", None, None, long, None), Some("a.default waits for its routes since 1m0s")),
            (proxy("a", Some("2"), Some("1"), 10, Some("9080: bad")), Some("a.default refuses its routes: 9080: bad")),
        ];
        for (proxy, expected) in cases {
            let expected = expected.map(|what| ("failed".to_owned(), what.to_owned()));
            assert_eq!(said(proxy), Vec::from_iter(expected));
        }
    }

    #[test]
    fn certificates_that_were_not_renewed_and_rules_that_cannot_be_told_are_named() {
        let certificate = |left_s| Some(CertificateStatus { expires: "then".to_owned(), left_s });
        let with = |certificate| ProxyStatus { certificate, ..proxy("a", Some("1"), Some("1"), 10, None) };
        assert_eq!(said(with(certificate(0)))[0].0, "failed");
        assert_eq!(said(with(certificate(60)))[0].0, "warning");
        assert!(said(with(certificate(6000))).is_empty() && said(with(None)).is_empty());
        let remark = RemarkStatus {
            kind: "routes".to_owned(),
            resource: "x".to_owned(),
            outcome: "refused".to_owned(),
            reason: "it cannot".to_owned(),
        };
        let told = said(ProxyStatus { remarks: vec![remark], ..with(None) });
        assert_eq!(told[0].1, "a.default (envoy): routes x refused: it cannot");
    }
}
