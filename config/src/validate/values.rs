//! Values that several kinds have: hosts, ports, durations, percentages, labels, namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::findings::Findings;
use crate::diagnostic::codes;
use crate::ir::{Fraction, Regex};
use crate::rules::{Destination, DurationText, Path, Percent, StringMatch, is_dns_label};

/// Shortest duration that Istio takes.
const SHORTEST: Duration = Duration::from_millis(1);

/// Whether 0 is a duration here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Zero {
    /// It means "off" or "none".
    Allowed,
    Refused,
}

/// Whether a `*` may stand for the first part of a host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wildcard {
    Allowed,
    Refused,
}

impl Findings {
    /// A duration, where there is one.
    pub(super) fn duration(&mut self, path: &Path, written: Option<&DurationText>, zero: Zero) {
        let Some(written) = written else { return };
        match written.parse() {
            Err(invalid) => {
                let help = "write a number with a unit: `10s`, `1.5s`, `250ms`, `1h30m`";
                self.add(codes::DURATION, path, invalid.to_string()).help(help);
            }
            Ok(Duration::ZERO) if zero == Zero::Allowed => {}
            Ok(duration) if duration < SHORTEST => {
                self.add(codes::DURATION, path, format!("`{written}` is too short")).help("the shortest is 1ms");
            }
            Ok(_) => {}
        }
    }

    /// A percentage inside a message of its own.
    pub(super) fn percent(&mut self, path: &Path, written: Option<&Percent>) {
        if let Some(value) = written.and_then(|written| written.value) {
            self.percentage(&path.key("value"), value);
        }
    }

    /// A percentage.
    pub(super) fn percentage(&mut self, path: &Path, value: f64) {
        if let Err(invalid) = Fraction::from_percent(value) {
            self.add(codes::PERCENTAGE, path, invalid.to_string());
        }
    }

    /// A port that has to be there.
    pub(super) fn port(&mut self, path: &Path, number: Option<u32>) {
        match number {
            None => {
                self.add(codes::REQUIRED, path, "a port number is missing");
            }
            Some(number) if !(1..=65_535).contains(&number) => {
                self.add(codes::PORT, path, format!("{number} is not a port")).help("ports are 1 to 65535");
            }
            Some(_) => {}
        }
    }

    /// A port that may be left out.
    pub(super) fn optional_port(&mut self, path: &Path, number: Option<u32>) {
        if number.is_some() {
            self.port(path, number);
        }
    }

    /// A number that may not be negative.
    pub(super) fn not_negative(&mut self, path: &Path, number: Option<i32>) {
        if let Some(number @ ..=-1) = number {
            self.add(codes::NUMBER, path, format!("{number} is negative")).help("0 means no limit");
        }
    }

    /// A host name or an address.
    pub(super) fn host(&mut self, path: &Path, host: &str, wildcard: Wildcard) {
        if host.is_empty() {
            self.add(codes::REQUIRED, path, "a host is missing");
        } else if host.contains('*') && wildcard == Wildcard::Refused {
            self.add(codes::HOST, path, format!("`{host}` has a wildcard, which stands for no host here"));
        } else if !is_host(host) && host.parse::<IpAddr>().is_err() {
            let help = "a host has letters, digits, `-` and `.`; a `*` may only stand first";
            self.add(codes::HOST, path, format!("`{host}` is not a host")).help(help);
        }
    }

    /// Where traffic goes.
    pub(super) fn destination(&mut self, path: &Path, destination: Option<&Destination>) {
        let Some(destination) = destination else {
            self.add(codes::REQUIRED, path, "a destination is missing").help("add `destination: {host: …}`");
            return;
        };
        self.host(&path.key("host"), &destination.host, Wildcard::Refused);
        if let Some(subset) = &destination.subset {
            self.subset_name(&path.key("subset"), subset);
        }
        if let Some(port) = &destination.port {
            self.port(&path.key("port").key("number"), port.number);
        }
    }

    /// A name of a subset.
    pub(super) fn subset_name(&mut self, path: &Path, name: &str) {
        let is_name = !name.is_empty()
            && name.len() <= 63
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if name.is_empty() {
            self.add(codes::REQUIRED, path, "a subset needs a name");
        } else if !is_name {
            let help = "use letters, digits, `-`, `_` and `.`, at most 63";
            self.add(codes::LABEL, path, format!("`{name}` is not a name of a subset")).help(help);
        }
    }

    /// A condition on a text; `what` it is on, for the message.
    pub(super) fn string_match(&mut self, path: &Path, written: &StringMatch) {
        let StringMatch { exact, prefix, regex } = written;
        let given: Vec<&str> = [("exact", exact), ("prefix", prefix), ("regex", regex)]
            .into_iter()
            .filter(|(_, value)| value.is_some())
            .map(|(name, _)| name)
            .collect();
        if given.len() > 1 {
            let message = format!("`{}` stand together; a condition has one of them", given.join("` and `"));
            self.add(codes::EXCLUSIVE, path, message);
        }
        // Istio takes the regular expression `*`, which is none, for "is there".
        if let Some(pattern) = regex.as_deref().filter(|pattern| *pattern != "*") {
            self.regex(&path.key("regex"), pattern);
        }
    }

    /// A regular expression.
    pub(super) fn regex(&mut self, path: &Path, pattern: &str) {
        if let Err(invalid) = Regex::new(pattern) {
            let help = "the syntax is RE2's: no look-around and no back-references";
            self.add(codes::REGEX, path, invalid.to_string()).help(help);
        }
    }

    /// Labels, or what selects them.
    pub(super) fn labels(&mut self, path: &Path, labels: &BTreeMap<String, String>) {
        for (key, value) in labels {
            let path = path.key(key);
            let (prefix, name) =
                key.split_once('/').map_or((None, key.as_str()), |(prefix, name)| (Some(prefix), name));
            if name.is_empty() || !is_label_text(name) || prefix.is_some_and(|prefix| !is_host(prefix)) {
                self.add(codes::LABEL, &path, format!("`{key}` is not a key of a label")).on_key();
            }
            if !is_label_text(value) {
                let help = "a value has at most 63 letters, digits, `-`, `_` and `.`; there are no wildcards";
                self.add(codes::LABEL, &path, format!("`{value}` is not a value of a label")).help(help);
            }
        }
    }

    /// Namespaces that see a rule.
    pub(super) fn export_to(&mut self, path: &Path, namespaces: &[String]) {
        let mut seen = BTreeSet::new();
        for (index, namespace) in namespaces.iter().enumerate() {
            let path = path.index(index);
            if !seen.insert(namespace) {
                self.add(codes::DUPLICATE_NAME, &path, format!("`{namespace}` stands twice"));
            } else if !matches!(namespace.as_str(), "." | "*" | "~") && !is_dns_label(namespace) {
                let help = "name a namespace, or `.` for this one, or `*` for all";
                self.add(codes::EXPORT_TO, &path, format!("`{namespace}` is not a namespace")).help(help);
            } else if matches!(namespace.as_str(), "*" | "~") && namespaces.len() > 1 {
                let message = format!("`{namespace}` stands together with other namespaces");
                self.add(codes::EXPORT_TO, &path, message).help("let it stand alone");
            }
        }
    }

    /// Networks or single addresses.
    pub(super) fn subnets(&mut self, path: &Path, subnets: &[String]) {
        for (index, subnet) in subnets.iter().enumerate() {
            if subnet.parse::<IpNet>().is_err() && subnet.parse::<IpAddr>().is_err() {
                let message = format!("`{subnet}` is not an address or a network");
                self.add(codes::ADDRESS, &path.index(index), message).help("write `10.0.0.1` or `10.0.0.0/8`");
            }
        }
    }

    /// Names that have to differ.
    pub(super) fn unique<'a>(&mut self, names: impl Iterator<Item = (Path, &'a str)>) {
        let mut seen = BTreeSet::new();
        for (path, name) in names {
            if !name.is_empty() && !seen.insert(name) {
                self.add(codes::DUPLICATE_NAME, &path, format!("`{name}` stands twice")).help("names are unique here");
            }
        }
    }
}

/// Whether a host could be looked up: labels of letters, digits, `-` and `_`; a `*` may begin the first.
pub(super) fn is_host(host: &str) -> bool {
    let host = host.strip_suffix('.').filter(|host| !host.starts_with('*')).unwrap_or(host);
    let label = |label: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
        let bytes = label.as_bytes();
        bytes.len() <= 63
            && edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let rest = match host.strip_prefix('*') {
        Some("") => return true,
        Some(rest) => rest.strip_prefix(['.', '-']).unwrap_or(rest),
        None => host,
    };
    host.len() <= 255 && rest.split('.').all(label)
}

fn is_label_text(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_from_other_texts() {
        for host in ["a", "reviews.default", "API.example.com.", "*", "*.example.com", "*-a.b", "my_service"] {
            assert!(is_host(host), "{host}");
        }
        for host in ["", ".", "a..b", "a.*", "a*.b", "-a", "a b", "http://a", "a:80", "a/b", "é", "*."] {
            assert!(!is_host(host), "{host}");
        }
    }

    #[test]
    fn labels_are_kubernetes_labels() {
        let check = |key: &str, value: &str| {
            let mut found = Findings::default();
            found.labels(&Path::root(), &BTreeMap::from([(key.to_owned(), value.to_owned())]));
            found.is_empty()
        };
        for (key, value) in [("app", "reviews"), ("example.com/app", ""), ("a_b.c-d", "v1.2_3")] {
            assert!(check(key, value), "{key}: {value}");
        }
        for (key, value) in [("", "a"), ("/a", "a"), ("a b", "a"), ("a", "*"), ("a", "-"), ("a/b/c", "a")] {
            assert!(!check(key, value), "{key}: {value}");
        }
    }
}
