//! A verdict for people.

use std::fmt::Write as _;

use clap::builder::styling::{AnsiColor, Style};
use leno_config::ir::{AbortStatus, Balance, Fraction, HashPolicy, HeaderOps, MtlsMode, Origin};
use leno_config::node::Node;
use leno_proxy::explain::{Access, Lost, Policy, Retries, RulePlace, Share, Token, Verdict, words};

use crate::cli::table::{Room, wrapped};

const STRONG: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// Every line of what is said about the winner begins with its subject, in a column of this width.
const SUBJECT: usize = 10;
/// Before it.
const INDENT: usize = 2;

/// The whole answer, with colours; whoever prints it takes them out where they do not belong.
pub(super) fn render(asked: &str, caller: &str, verdict: &Verdict, room: Room) -> String {
    let mut text = format!("{}\nfrom {caller}\n\n", styled(STRONG, asked));
    for (subject, line) in lines(verdict) {
        said(&mut text, subject, &line, room);
    }
    if !verdict.lost.is_empty() {
        let title =
            if verdict.rule.is_some() { "Rules before it, in order:" } else { "Rules that were asked, in order:" };
        let _ = writeln!(text, "\n{title}\n");
        let places: Vec<_> = verdict.lost.iter().map(|lost| place(&lost.rule)).collect();
        let width = places.iter().map(String::len).max().unwrap_or_default();
        for (lost, place) in verdict.lost.iter().zip(places) {
            said(&mut text, &entry(verdict, lost), &format!("{place:width$}  {}", lost.reason), room);
        }
    }
    text
}

/// A sentence beside its subject, in as many lines as it needs.
fn said(text: &mut String, subject: &str, sentence: &str, room: Room) {
    for (at, line) in wrapped(sentence, room.beside(INDENT + SUBJECT)).iter().enumerate() {
        let subject = if at == 0 { subject } else { "" };
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}", format!("{:INDENT$}{subject:SUBJECT$}{line}", "").trim_end());
    }
}

fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Who calls, where it is known by rules.
pub(super) fn caller(node: &Node) -> String {
    let labels: Vec<_> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    match labels.is_empty() {
        true if node.name == "anonymous" => format!("a workload without labels in namespace {}", node.namespace),
        true => format!("{} in namespace {}", node.name, node.namespace),
        false => format!("{} in namespace {} ({})", node.name, node.namespace, labels.join(", ")),
    }
}

/// What there is to say of the winner. A subject of several lines is named on the first.
fn lines(verdict: &Verdict) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    lines.extend(verdict.host.iter().filter(|_| !is_remainder(verdict)).map(|host| ("host", host.clone())));
    lines.push(("rule", rule(verdict)));
    match verdict.status {
        Some(status) if verdict.redirect.is_none() => lines.push(("answer", styled(BAD, &status.to_string()))),
        _ => {}
    }
    if let Some(redirect) = &verdict.redirect {
        lines.push(("answer", format!("{} location {}", redirect.status, redirect.location)));
    }
    lines.extend(
        verdict.clusters.iter().enumerate().map(|(index, share)| {
            (if index == 0 { "to" } else { "" }, destination(share, verdict.clusters.len() == 1))
        }),
    );
    if let Some(note) = &verdict.note {
        lines.push(("note", note.clone()));
    }
    if let Some(rewrite) = &verdict.rewrite {
        let path = rewrite.path.iter().map(|path| format!("path {path}"));
        let parts: Vec<_> = path.chain(rewrite.host.iter().map(|host| format!("host {host}"))).collect();
        lines.push(("rewrite", parts.join(", ")));
    }
    if !verdict.clusters.is_empty() {
        lines.push(("timeout", verdict.timeout.clone().unwrap_or_else(|| "none".to_owned())));
        lines.extend(verdict.retries.iter().map(|written| ("retries", retries(written))));
    }
    lines.extend(policy(&verdict.policy));
    lines.extend(access(&verdict.policy.access));
    lines
}

fn rule(verdict: &Verdict) -> String {
    let Some(rule) = &verdict.rule else {
        return match verdict.host.as_deref() {
            Some("allow_any") => "none: unknown hosts are passed on (outboundTrafficPolicy ALLOW_ANY)".to_owned(),
            Some("block_all") => "none: unknown hosts are refused (outboundTrafficPolicy REGISTRY_ONLY)".to_owned(),
            _ => "none".to_owned(),
        };
    };
    let name = format!("{} {}/{}", rule.origin.kind, rule.origin.namespace, rule.origin.name);
    let route = verdict.route.as_ref().filter(|_| has_list(rule));
    let which = if has_list(rule) { format!(" http[{}]", rule.origin.index) } else { String::new() };
    let route = route.map(|route| format!(" `{route}`")).unwrap_or_default();
    let why = if has_list(rule) { "" } else { "; no VirtualService takes the request" };
    format!("{}, {}{why}", styled(STRONG, &format!("{name}{which}{route}")), place(rule))
}

/// Whether it is what is left over when no host is found.
fn is_remainder(verdict: &Verdict) -> bool {
    matches!(verdict.host.as_deref(), Some("allow_any" | "block_all"))
}

fn has_list(rule: &RulePlace) -> bool {
    rule.origin.kind == "VirtualService"
}

fn place(rule: &RulePlace) -> String {
    match (&rule.file, rule.line) {
        (Some(file), Some(line)) => format!("{file}:{line}"),
        _ => "-".to_owned(),
    }
}

/// The losing rule: its index, and its name where it is not the winner's.
fn entry(verdict: &Verdict, lost: &Lost) -> String {
    let origin = &lost.rule.origin;
    let winner = verdict.rule.as_ref().map(|rule| &rule.origin);
    let same = winner.is_none_or(|winner| (&winner.namespace, &winner.name) == (&origin.namespace, &origin.name));
    match same {
        true => format!("http[{}]", origin.index),
        false => format!("{}/{} http[{}] ", origin.namespace, origin.name, origin.index),
    }
}

fn destination(share: &Share, alone: bool) -> String {
    let part = if alone { String::new() } else { format!("{:>4}  ", percent(share.percent)) };
    let members = match (share.known, share.endpoints) {
        (false, _) => styled(BAD, "no such cluster: does its host, subset or port exist?"),
        (true, None) => String::new(),
        (true, Some(0)) => styled(FAINT, "no endpoint"),
        (true, Some(1)) => styled(FAINT, "1 endpoint"),
        (true, Some(count)) => {
            let chosen = share.balance.as_ref().and_then(chosen).map(|how| format!(", {how}")).unwrap_or_default();
            styled(FAINT, &format!("{count} endpoints{chosen}"))
        }
    };
    let headers = headers(&share.request_headers, &share.response_headers);
    let more: Vec<_> = [members, headers].into_iter().filter(|text| !text.is_empty()).collect();
    format!("{part}{}  {}", share.name, more.join("  ")).trim_end().to_owned()
}

/// How an endpoint is chosen; `None`: as always, the less busy of two.
fn chosen(balance: &Balance) -> Option<&'static str> {
    Some(match balance {
        Balance::LeastRequest { .. } => return None,
        Balance::RoundRobin => "in turn",
        Balance::Random => "at random",
        Balance::PeakEwma => "the one likely to answer soonest (PEAK_EWMA)",
        Balance::RingHash { .. } => "by a hash on a ring",
        Balance::Maglev { .. } => "by a hash in Maglev's table",
    })
}

/// Two digits behind the point at most, and no zeros there.
fn percent(value: f64) -> String {
    let text = format!("{value:.2}");
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

fn retries(retries: &Retries) -> String {
    if retries.attempts == 0 {
        return "none, but for what was provably not sent".to_owned();
    }
    let mut text = format!("{} on {}", retries.attempts, retries.on.join(", "));
    if !retries.status_codes.is_empty() {
        let codes: Vec<_> = retries.status_codes.iter().map(u16::to_string).collect();
        let _ = write!(text, " ({})", codes.join(", "));
    }
    if let Some(timeout) = &retries.per_try_timeout {
        let _ = write!(text, ", each within {timeout}");
    }
    if !retries.enforced {
        text.push_str(" (not enforced by this version)");
    }
    text
}

fn policy(policy: &Policy) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(delay) = policy.fault.as_ref().and_then(|fault| fault.delay.as_ref()) {
        lines.push(("fault", format!("delay of {} for {}", words(delay.duration), share(delay.share))));
    }
    if let Some(abort) = policy.fault.as_ref().and_then(|fault| fault.abort.as_ref()) {
        let with = match &abort.with {
            AbortStatus::Http(status) => status.as_u16().to_string(),
            AbortStatus::Grpc(code) => format!("gRPC status {code}"),
        };
        lines.push(("fault", format!("{with} for {}", share(abort.share))));
    }
    lines.extend(
        policy.mirrors.iter().map(|mirror| ("mirror", format!("{} to {}", share(mirror.share), mirror.cluster))),
    );
    lines.extend(policy.hash.iter().map(|hash| ("hash", hash_by(hash))));
    if policy.cors.is_some() {
        lines.push(("cors", "yes, see -o json".to_owned()));
    }
    let headers = headers(&policy.request_headers, &policy.response_headers);
    if !headers.is_empty() {
        lines.push(("headers", headers));
    }
    lines
}

/// What the called workloads say, where some rule is about it; each by its name where there are several.
fn access(answers: &[Access]) -> Vec<(&'static str, String)> {
    let ruled = answers.iter().filter(|answer| answer.is_ruled());
    ruled.flat_map(|answer| access_of(answer, answers.len() == 1)).collect()
}

fn access_of(answer: &Access, alone: bool) -> Vec<(&'static str, String)> {
    let at = if alone { String::new() } else { format!("{}: ", answer.workload) };
    let mode = match answer.mtls {
        MtlsMode::Disable => "DISABLE",
        MtlsMode::Permissive => "PERMISSIVE",
        MtlsMode::Strict => "STRICT",
    };
    let by = answer.mtls_by.as_ref().map_or_else(|| "by default".to_owned(), |rule| format!("by {}", named(rule)));
    let who = answer.identity.as_ref().map_or_else(|| "in clear text".to_owned(), |id| format!("as {id}"));
    let mut lines = vec![("mtls", format!("{at}{mode} {by}; the caller comes {who}"))];
    if !answer.tokens.is_empty() {
        let rules: Vec<_> = answer.tokens.iter().map(named).collect();
        let state = match answer.token {
            Token::Missing => "none is shown; it would be verified by",
            Token::Taken => "taken; verified by",
            Token::Refused => "shown and refused, by",
        };
        lines.push(("token", format!("{at}{state} {}", rules.join(" and "))));
    }
    let by = answer.by.as_ref().map(|rule| format!(" by {}", named(rule))).unwrap_or_default();
    let status = answer.status.map(|status| format!("{status} ")).unwrap_or_default();
    let verdict = format!("{status}{}", answer.reason);
    let verdict = if answer.allowed { verdict } else { styled(BAD, &verdict) };
    lines.push(("access", format!("{at}{verdict}{by}")));
    let limits = answer.rate_limits.iter().filter(|_| answer.allowed);
    lines.extend(limits.map(|rule| ("limit", format!("{at}counted by {}", named(rule)))));
    if let Some(tried) = &answer.would_deny {
        let why = tried
            .by
            .as_ref()
            .map_or_else(|| "as none of the ALLOW policies matches".to_owned(), |rule| format!("by {}", named(rule)));
        lines.push(("dry run", format!("{at}would be denied {why}")));
    }
    lines.extend(answer.audited_by.iter().map(|rule| ("audit", format!("{at}logged by {}", named(rule)))));
    lines
}

/// `AuthorizationPolicy default/reviews rules[0], rules.yaml:12`
fn named(rule: &RulePlace) -> String {
    let Origin { kind, namespace, name, index, place: _ } = &rule.origin;
    let which = match kind.as_str() {
        "AuthorizationPolicy" => format!(" rules[{index}]"),
        "RateLimit" => format!(" limits[{index}]"),
        _ => String::new(),
    };
    format!("{kind} {namespace}/{name}{which}, {}", place(rule))
}

fn share(share: Fraction) -> String {
    percent(f64::from(share.millionths()) / 10_000.0)
}

fn hash_by(hash: &HashPolicy) -> String {
    match hash {
        HashPolicy::Header(name) => format!("by header `{name}`"),
        HashPolicy::Cookie { name, .. } => format!("by cookie `{name}`"),
        HashPolicy::SourceIp => "by the caller's address".to_owned(),
        HashPolicy::QueryParameter(name) => format!("by query parameter `{name}`"),
    }
}

fn headers(request: &HeaderOps, response: &HeaderOps) -> String {
    let parts =
        [("request", request), ("response", response)].into_iter().filter(|(_, operations)| !operations.is_empty());
    let parts: Vec<_> =
        parts.map(|(direction, operations)| format!("{direction}: {}", operations_in_words(operations))).collect();
    parts.join("; ")
}

fn operations_in_words(operations: &HeaderOps) -> String {
    let field = |verb: &str, field: &leno_config::ir::HeaderField| {
        format!("{verb} {}: {}", field.name(), String::from_utf8_lossy(field.value().as_bytes()))
    };
    let removed = operations.remove.iter().map(|name| format!("remove {name}"));
    let set = operations.set.iter().map(|one| field("set", one));
    let added = operations.add.iter().map(|one| field("add", one));
    removed.chain(set).chain(added).collect::<Vec<_>>().join(", ")
}
