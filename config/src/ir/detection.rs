//! A port of which nobody says what is spoken on it, or that several share: each connection tells.
//!
//! What is asked, in this order, which is also Envoy's:
//!
//! 1. **Where does it go?** A range of addresses that belongs to somebody ([`Condition::Destination`], the narrowest first).
//! 2. **Is it HTTP in clear text**, by its first bytes? Then [`http`](Detection::http), where there is one.
//! 3. **Is it TLS to somebody known?** The server name of the handshake ([`Condition::ServerName`], exact names first, then
//!    the longest suffix). The handshake is passed on as it is.
//! 4. Otherwise [`tcp`](Detection::tcp).
//!
//! Nobody waits for an answer longer than he has to: where the server speaks first, as MySQL does, the caller says
//! nothing, and a proxy that listened for it would be a dead lock (Istio with a detection timeout of 0) or a delay
//! (Linkerd's 10 s). Leno's proxy calls the endpoint of `tcp` meanwhile, and who speaks first decides. Envoy cannot, so it
//! is told to take a caller who is silent for [`SILENCE`](crate::defaults::DETECTION_SILENCE) for bytes.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::{Authorization, HttpManager, Invalid, TcpRoute};

/// What becomes of a connection, by where it goes and how it begins.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Detection {
    branches: Vec<Branch>,
    /// Requests; `None`: HTTP is bytes like any other.
    pub http: Option<HttpManager>,
    /// Everything else.
    pub tcp: TcpRoute,
    /// Who may connect where it is not HTTP; the listener's own authorization is about requests.
    pub authorization: Authorization,
}

/// Connections that go elsewhere than the rest of the bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Branch {
    /// Which ones.
    pub condition: Condition,
    /// Where to.
    pub route: TcpRoute,
}

/// What tells a connection from others of its port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It was meant for an address within.
    Destination(IpNet),
    /// It begins with a TLS handshake for the name.
    ServerName(ServerName),
}

/// A name in a TLS handshake, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServerName {
    /// `api.example.com`
    Exact(String),
    /// `*.example.com`, of any depth: the text from the dot on.
    Suffix(String),
}

impl Detection {
    /// Puts `branches` in the order in which they are asked; of two with one condition the first counts.
    pub fn new(
        mut branches: Vec<Branch>,
        http: Option<HttpManager>,
        tcp: TcpRoute,
        authorization: Authorization,
    ) -> Self {
        for branch in &mut branches {
            if let Condition::Destination(range) = &mut branch.condition {
                *range = range.trunc();
            }
        }
        branches.sort_by_cached_key(|branch| branch.condition.rank());
        branches.dedup_by(|later, first| later.condition == first.condition);
        Self { branches, http, tcp, authorization }
    }

    /// In the order in which they are asked: destinations, then server names.
    pub fn branches(&self) -> &[Branch] {
        &self.branches
    }

    /// The branch of connections to an address, by its place among [`branches`](Self::branches).
    pub fn by_destination(&self, address: IpAddr) -> Option<usize> {
        self.branches.iter().position(|branch| match &branch.condition {
            Condition::Destination(range) => range.contains(&address),
            Condition::ServerName(_) => false,
        })
    }

    /// The branch of handshakes for a name, in any case, by its place among [`branches`](Self::branches).
    pub fn by_server_name(&self, name: &str) -> Option<usize> {
        self.branches.iter().position(|branch| match &branch.condition {
            Condition::ServerName(own) => own.covers(name),
            Condition::Destination(_) => false,
        })
    }

    /// All ways for bytes: the branches', then the rest's.
    pub fn tcp_routes(&self) -> impl Iterator<Item = &TcpRoute> {
        self.branches.iter().map(|branch| &branch.route).chain([&self.tcp])
    }

    /// Changes all of them.
    pub(super) fn tcp_routes_mut(&mut self, change: &mut dyn FnMut(&mut TcpRoute)) {
        self.branches.iter_mut().map(|branch| &mut branch.route).chain([&mut self.tcp]).for_each(change);
    }
}

impl Condition {
    /// Narrow before wide, so that the first that holds is the narrowest.
    fn rank(&self) -> (u8, u16, String) {
        match self {
            Self::Destination(range) => (0, u16::MAX.saturating_sub(range.prefix_len().into()), range.to_string()),
            Self::ServerName(ServerName::Exact(name)) => (1, 0, name.clone()),
            Self::ServerName(ServerName::Suffix(name)) => {
                (2, u16::MAX.saturating_sub(u16::try_from(name.len()).unwrap_or(u16::MAX)), name.clone())
            }
        }
    }
}

impl ServerName {
    /// Reads Envoy's form: a name, or `*.` and the rest of one.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let lower = text.to_ascii_lowercase();
        let rest = lower.strip_prefix('*');
        match rest {
            Some(suffix) if suffix.len() > 1 && suffix.starts_with('.') && !suffix.contains('*') => {
                Ok(Self::Suffix(suffix.to_owned()))
            }
            None if !lower.is_empty() && !lower.contains('*') => Ok(Self::Exact(lower)),
            Some(_) | None => {
                Err(Invalid(format!("`{text}` is no server name: write `a.example.com` or `*.example.com`")))
            }
        }
    }

    /// Whether a handshake for `name` is one for it.
    pub fn covers(&self, name: &str) -> bool {
        match self {
            Self::Exact(own) => own.eq_ignore_ascii_case(name),
            Self::Suffix(suffix) => name
                .len()
                .checked_sub(suffix.len())
                .filter(|&at| at > 0)
                .and_then(|at| name.get(at..))
                .is_some_and(|end| end.eq_ignore_ascii_case(suffix)),
        }
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

impl Serialize for ServerName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{ClusterName, WeightedClusters};

    fn to(cluster: &str) -> TcpRoute {
        TcpRoute {
            stat_prefix: cluster.to_owned(),
            origin: None,
            clusters: WeightedClusters::single(ClusterName::new(cluster)),
            idle_timeout: None,
            hashes_source: false,
        }
    }

    #[test]
    fn the_narrowest_condition_that_holds_decides_whatever_the_order_they_were_written_in() {
        let ranges = ["10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "2001:db8::/32"];
        let names = ["*.example.com", "a.example.com", "*.b.example.com"];
        let range = |text: &&str| Condition::Destination(text.parse().unwrap());
        let name = |text: &&str| Condition::ServerName(ServerName::parse(text).unwrap());
        let branch = |(condition, text): (Condition, &&str)| Branch { condition, route: to(text) };
        let mut branches: Vec<_> = ranges.iter().map(|text| branch((range(text), text))).collect();
        branches.extend(names.iter().map(|text| branch((name(text), text))));
        for turned in [false, true] {
            if turned {
                branches.reverse();
            }
            let all = Detection::new(branches.clone(), None, to("rest"), Authorization::default());
            let found = |at: Option<usize>| at.map_or("rest", |at| all.branches()[at].route.stat_prefix.as_str());
            for (address, expected) in
                [("10.1.2.3", "10.1.0.0/16"), ("10.2.2.3", "10.0.0.0/8"), ("192.0.2.1", "0.0.0.0/0"), ("::1", "rest")]
            {
                assert_eq!(found(all.by_destination(address.parse().unwrap())), expected, "{address}");
            }
            for (name, expected) in [
                ("a.example.com", "a.example.com"),
                ("A.Example.com", "a.example.com"),
                ("x.example.com", "*.example.com"),
                ("x.y.b.example.com", "*.b.example.com"),
                ("example.com", "rest"),
                (".example.com", "rest"),
                ("", "rest"),
                ("é.example", "rest"),
            ] {
                assert_eq!(found(all.by_server_name(name)), expected, "{name}");
            }
        }
    }

    #[test]
    fn a_server_name_is_a_name_or_a_suffix_from_a_dot_on() {
        for text in ["a", "a.example.com", "*.com"] {
            assert_eq!(ServerName::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "*", "*.", "*a.com", "a.*", "*.*.com"] {
            assert!(ServerName::parse(text).is_err(), "{text}");
        }
    }
}
