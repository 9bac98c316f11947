//! Is the control plane well, and what it says about rules and proxies. All of it over its HTTP address.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use leno_proxy::version::VERSION;

use super::report::Section;
use super::{lasting, proxies};
use crate::ads::status::{ClearText, RulesStatus, Status};
use crate::cli::ask::{Question, ask};
use crate::cli::failure::Failure;
use crate::cli::status::age;

/// A root is worth a look so long before its end: the next one has to reach every proxy first.
const ROOT_ENDS_SOON: Duration = Duration::from_secs(30 * 86_400);
/// Clocks that differ by more make tokens and certificates seem too new or too old.
const SKEW: Duration = Duration::from_secs(5);
/// Most findings that are listed by themselves.
const LISTED: usize = 5;

/// The control plane, its rules and its proxies.
pub(super) fn sections(address: &str, now: SystemTime) -> Result<Vec<Section>, Failure> {
    let mut section = Section::new("control plane");
    let (code, answer) = match ask(address, &Question::get("/ready")) {
        Ok(answer) => answer,
        Err(failure) if failure.is_unreachable() => {
            return Ok(vec![section.unreachable(failure.to_string(), "leno serve --rules RULES --state STATE")]);
        }
        Err(failure) => return Err(failure),
    };
    match code {
        StatusCode::OK => section.ok(format!("it answers at {address} and is ready")),
        _ => section.fails(
            format!("it answers at {address} and is not ready: {}", answer.trim().trim_start_matches("not ready: ")),
            format!("leno status --address {address}"),
        ),
    }
    let (code, metrics) = ask(address, &Question::get("/metrics"))?;
    if code.is_success() {
        version(&mut section, address, &metrics);
        clocks(&mut section, &metrics, now);
        certificates(&mut section, address, &metrics, now);
    }
    let (code, answer) = ask(address, &Question::get("/debug/status"))?;
    let status: Option<Status> = serde_json::from_str(&answer).ok().filter(|_| code.is_success());
    let Some(status) = status else {
        section.fails(
            format!("what answers at {address} is no control plane of this version of Leno"),
            format!("curl -s {address}/debug/status"),
        );
        return Ok(vec![section]);
    };
    Ok(vec![section, rules(&status.rules, address), proxies::section(&status.proxies, address)])
}

/// The value of a series without labels.
fn value(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

fn version(section: &mut Section, address: &str, metrics: &str) {
    let label = |line: &str| Some(line.split_once("version=\"")?.1.split_once('"')?.0.to_owned());
    match metrics.lines().find(|line| line.starts_with("leno_build_info{")).and_then(label) {
        Some(theirs) if theirs == VERSION => section.ok(format!("it has the version of this program, {VERSION}")),
        theirs => section.warns(
            format!("it is of version {}, this program of {VERSION}", theirs.as_deref().unwrap_or("unknown")),
            format!("curl -s {address}/metrics | grep leno_build_info"),
        ),
    }
}

fn clocks(section: &mut Section, metrics: &str, now: SystemTime) {
    let Some(theirs) = value(metrics, "leno_control_plane_clock_seconds") else { return };
    let ours = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let differ = Duration::try_from_secs_f64((ours.as_secs_f64() - theirs).abs()).unwrap_or(Duration::MAX);
    match differ <= SKEW {
        true => section.ok("its clock agrees with that of this machine"),
        false => section.fails(
            format!("its clock and that of this machine differ by {}: certificates are refused for that", age(differ)),
            "timedatectl status",
        ),
    }
}

fn certificates(section: &mut Section, address: &str, metrics: &str, now: SystemTime) {
    let next = format!("leno ca status --address {address}");
    let rows = [
        ("leno_ca_root_expiry_timestamp_seconds", "the root", ROOT_ENDS_SOON),
        // Renewed long before.
        ("leno_ca_own_certificate_expiry_timestamp_seconds", "its own certificate", Duration::from_secs(60)),
    ];
    for (name, what, soon) in rows {
        let Some(ends) = value(metrics, name).filter(|ends| *ends > 0.0) else { continue };
        let ends = SystemTime::UNIX_EPOCH + Duration::try_from_secs_f64(ends).unwrap_or_default();
        match ends.duration_since(now) {
            Err(past) => section.fails(format!("{what} ended {} ago", age(past.duration())), next.as_str()),
            Ok(left) if left < soon => section.warns(format!("{what} ends in {}", age(left)), next.as_str()),
            Ok(left) => section.ok(format!("{what} is good for {}", lasting(left))),
        }
    }
}

/// What it says about the rules.
fn rules(rules: &RulesStatus, address: &str) -> Section {
    let mut section = Section::new("rules in force");
    let RulesStatus { accepted, version, rejected, held_back, problem, clear_text } = rules;
    let status = format!("leno status --address {address}");
    match version {
        Some(_) => section.ok(format!("{accepted} documents are in force")),
        None => section.fails("no rules are in force yet", status.as_str()),
    }
    if let Some(problem) = problem {
        section.fails(format!("the files are not taken: {problem}"), status.as_str());
    }
    for finding in rejected.iter().take(LISTED) {
        let of = |key: &str| finding.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
        let line = finding.get("line").and_then(serde_json::Value::as_u64).unwrap_or_default();
        let what = format!("{}:{line}: {} {}: {}", of("file"), of("code"), of("resource"), of("message"));
        section.fails(what, format!("leno validate -f {}", of("file")));
    }
    if rejected.len() > LISTED {
        section.fails(format!("{} more errors in the rules", rejected.len() - LISTED), status.as_str());
    }
    if rejected.is_empty() && problem.is_none() {
        section.ok("all that is written is taken");
    }
    for (resource, reason) in held_back.iter().take(LISTED) {
        section.warns(format!("{resource} is not served as it is written: {reason}"), status.as_str());
    }
    for (host, ClearText { endpoints, of }) in clear_text.iter().take(LISTED) {
        let what = format!("{host} is called in clear text at {endpoints} of {of} endpoints, for want of a label");
        section
            .warns(what, "grep -rn 'security.istio.io/tlsMode' RULES  # the label is security.istio.io/tlsMode: istio");
    }
    section
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    fn checks(section: &Section) -> Vec<Value> {
        serde_json::to_value(section).unwrap()["checks"].as_array().unwrap().clone()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn certificates_are_worth_a_look_before_their_end() {
        let said = |ends: u64| {
            let mut section = Section::new("x");
            let metrics = format!("leno_ca_root_expiry_timestamp_seconds {ends}\n");
            certificates(&mut section, "http://a:1", &metrics, at(100 * 86_400));
            checks(&section)[0].clone()
        };
        assert_eq!(said(200 * 86_400)["outcome"], "ok");
        assert_eq!(said(110 * 86_400)["outcome"], "warning");
        let ended = said(99 * 86_400);
        assert_eq!(
            (&ended["outcome"], &ended["next"]),
            (&json!("failed"), &json!("leno ca status --address http://a:1"))
        );
    }

    #[test]
    fn versions_and_clocks_are_compared() {
        let said = |metrics: &str| {
            let mut section = Section::new("x");
            version(&mut section, "http://a:1", metrics);
            clocks(&mut section, metrics, at(1000));
            checks(&section).iter().map(|check| check["outcome"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let build = |version: &str| format!("leno_build_info{{revision=\"x\",version=\"{version}\"}} 1\n");
        assert_eq!(said(&format!("{}leno_control_plane_clock_seconds 1001.5\n", build(VERSION))), ["ok", "ok"]);
        assert_eq!(said(&format!("{}leno_control_plane_clock_seconds 900\n", build("0.0.1"))), ["warning", "failed"]);
        assert_eq!(said(""), ["warning"], "an older one says neither");
    }

    #[test]
    fn each_rejected_document_ends_with_the_command_that_shows_its_line() {
        let status = RulesStatus {
            accepted: 3,
            version: Some("v".to_owned()),
            rejected: vec![json!({"file": "rules/a.yaml", "line": 4, "code": "L0107", "message": "weights"})],
            held_back: BTreeMap::from([("VirtualService default/a".to_owned(), "has an error".to_owned())]),
            problem: None,
            clear_text: BTreeMap::from([("reviews".to_owned(), ClearText { endpoints: 1, of: 3 })]),
        };
        let found = checks(&rules(&status, "http://a:1"));
        let outcomes = found.iter().map(|check| check["outcome"].as_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(outcomes, ["ok", "failed", "warning", "warning"]);
        assert_eq!(found[1]["next"], "leno validate -f rules/a.yaml");
        let fine =
            RulesStatus { rejected: Vec::new(), held_back: BTreeMap::new(), clear_text: BTreeMap::new(), ..status };
        assert!(rules(&fine, "http://a:1").is_clean());
    }
}
