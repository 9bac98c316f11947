//! Hosts and the route tables behind them.

use std::fmt;

use serde::{Serialize, Serializer};

use super::{Invalid, Route};

/// A route table: virtual hosts by name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RouteConfig {
    /// Unique among route configurations.
    pub name: String,
    /// No domain stands in two of them.
    pub virtual_hosts: Vec<VirtualHost>,
    /// The port of a request's host is cut off before it is looked up (Envoy's `ignore_port_in_host_matching`). Istio
    /// sets it in the tables of its sidecars, whose domains then carry no port.
    pub ignore_port: bool,
}

/// One host, by all its names, and its routes in the order of matching.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VirtualHost {
    /// Unique in its route configuration.
    pub name: String,
    /// At least one.
    pub domains: Vec<Domain>,
    /// First match wins.
    pub routes: Vec<Route>,
    /// Who is told which attempt it is.
    pub attempt_count: AttemptCount,
}

/// Who is told the number of the attempt, from 1, in `x-envoy-attempt-count`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct AttemptCount {
    /// The endpoint (Istio's sidecars: toward others, yes; toward the own app, no).
    pub request: bool,
    /// The caller.
    pub response: bool,
}

impl RouteConfig {
    /// A table; refuses a domain or a virtual host name that stands twice, as Envoy does.
    pub fn new(name: impl Into<String>, virtual_hosts: Vec<VirtualHost>) -> Result<Self, Invalid> {
        let mut names = std::collections::HashSet::new();
        let mut domains = std::collections::HashSet::new();
        for host in &virtual_hosts {
            if !names.insert(&host.name) {
                return Err(Invalid(format!("virtual host `{}` stands twice", host.name)));
            }
            if host.domains.is_empty() {
                return Err(Invalid(format!("virtual host `{}` has no domain", host.name)));
            }
            for domain in &host.domains {
                if !domains.insert(domain) {
                    return Err(Invalid(format!("domain `{domain}` stands in two virtual hosts")));
                }
            }
        }
        Ok(Self { name: name.into(), virtual_hosts, ignore_port: false })
    }
}

/// What a virtual host answers to, in lower case. Searched in the order exact, longest suffix, longest prefix, any
/// (Envoy's order).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Domain {
    /// `reviews.default.svc.cluster.local:9080`
    Exact(String),
    /// `*.example.com` or `*-x.example.com`: the text after the star. The star stands for at least one character.
    Suffix(String),
    /// `example.*` or `example.com:*`: the text before the star. The star stands for at least one character.
    Prefix(String),
    /// `*`
    Any,
}

impl Domain {
    /// Reads Envoy's form; the star may stand at one end only.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let lower = text.to_ascii_lowercase();
        if lower.is_empty() {
            return Err(Invalid::new("a domain is not empty"));
        }
        if lower == "*" {
            return Ok(Self::Any);
        }
        let stars = lower.matches('*').count();
        match (lower.strip_prefix('*'), lower.strip_suffix('*')) {
            _ if stars == 0 => Ok(Self::Exact(lower)),
            (Some(suffix), _) if stars == 1 => Ok(Self::Suffix(suffix.to_owned())),
            (_, Some(prefix)) if stars == 1 => Ok(Self::Prefix(prefix.to_owned())),
            _ => Err(Invalid(format!("`{text}` has a `*` that is neither first nor last"))),
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl Serialize for Domain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
