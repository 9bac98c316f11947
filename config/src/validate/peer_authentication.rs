//! `PeerAuthentication` by itself.

use super::findings::{Findings, spec};
use super::security::check_selector;
use crate::diagnostic::codes;
use crate::rules::PeerAuthentication;

pub(super) fn check(rule: &PeerAuthentication, found: &mut Findings) {
    let spec = spec();
    if let Some(selector) = &rule.selector {
        check_selector(selector, &spec, found);
    }
    let Some(ports) = &rule.port_level_mtls else { return };
    let path = spec.key("portLevelMtls");
    if ports.is_empty() {
        let message = "`portLevelMtls` names no port";
        found.add(codes::REQUIRED, &path, message).on_key().help("remove it, or add `PORT: {mode: …}`");
    } else if rule.labels().is_none() {
        let message = "ports are those of workloads, and the rule is for all of them";
        found.add(codes::POLICY, &path, message).on_key().help("add `selector: {matchLabels: …}`");
    }
    for number in ports.keys().filter(|number| number.parse::<std::num::NonZeroU16>().is_err()) {
        let help = "name the port that the workload listens on, not that of a service: 1 to 65535";
        found.add(codes::PORT, &path.key(number), format!("`{number}` is not a port")).on_key().help(help);
    }
}
