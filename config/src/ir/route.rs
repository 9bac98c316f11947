//! Which requests a route takes, and what becomes of them.

use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize, Serializer};

use super::{
    Authorization, ClaimMatch, ClusterName, Cors, Fault, Fraction, HashPolicy, HeaderMatch, HeaderOps, Invalid, Origin,
    PathMatch, QueryMatch, RetryPolicy, Separators,
};

/// One row of a virtual host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Route {
    /// As the rule names it; may be empty.
    pub name: String,
    /// The rule it comes from; `None` for what no person wrote and for foreign control planes.
    pub origin: Option<Origin>,
    /// Which requests it takes.
    pub matcher: RouteMatch,
    /// What becomes of them.
    pub action: Action,
    /// Applied to the request before it leaves, after those of the chosen share.
    pub request_headers: HeaderOps,
    /// Applied to the response before it is passed on, after those of the chosen share.
    pub response_headers: HeaderOps,
    /// Cross-origin policy.
    pub cors: Option<Cors>,
    /// Injected faults.
    pub fault: Option<Fault>,
    /// Who may use it, instead of what the listener says (Envoy's `RBACPerRoute`).
    pub authorization: Option<Authorization>,
    /// What a path must not hold that comes this way (profile `safe`, and what the rule opts out of).
    pub refused_in_path: Separators,
}

/// All conditions hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouteMatch {
    /// On the path.
    pub path: PathMatch,
    /// On headers and pseudo headers.
    pub headers: Vec<HeaderMatch>,
    /// On the query.
    pub query: Vec<QueryMatch>,
    /// On claims of a verified token (`@request.auth.claims…`).
    pub claims: Vec<ClaimMatch>,
}

impl RouteMatch {
    /// Takes every request.
    pub fn any() -> Self {
        Self { path: PathMatch::any(), headers: Vec::new(), query: Vec::new(), claims: Vec::new() }
    }

    /// Whether nothing can get past it: prefix `/` or `.*` and no other condition.
    pub fn is_catch_all(&self) -> bool {
        let every_path = match &self.path {
            PathMatch::Prefix { value, .. } => value == "/" || value.is_empty(),
            PathMatch::Regex(regex) => matches!(regex.pattern(), ".*" | "/.*" | "*"),
            PathMatch::Exact { .. } | PathMatch::SegmentPrefix { .. } => false,
        };
        every_path && self.headers.is_empty() && self.query.is_empty() && self.claims.is_empty()
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant)] // Nearly all are `Forward`.
pub enum Action {
    /// To a cluster.
    Forward(Forward),
    /// Answered with a `location`.
    Redirect(Redirect),
    /// Answered as written.
    Direct(DirectResponse),
}

/// To one of some clusters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forward {
    /// Where to.
    pub clusters: WeightedClusters,
    /// What happens to the path.
    pub path_rewrite: Option<PathRewrite>,
    /// What `:authority` becomes.
    pub host_rewrite: Option<String>,
    /// For the whole request, all attempts included; `None`: no limit (Istio's default).
    pub timeout: Option<Duration>,
    /// When to try again; `None`: never, except for what was provably not sent.
    pub retry: Option<RetryPolicy>,
    /// Copies.
    pub mirrors: Vec<Mirror>,
    /// What consistent hashing looks at, in order.
    pub hash: Vec<HashPolicy>,
}

impl Forward {
    /// Sends requests on as they are.
    pub fn plain(clusters: WeightedClusters) -> Self {
        Self {
            clusters,
            path_rewrite: None,
            host_rewrite: None,
            timeout: None,
            retry: None,
            mirrors: Vec::new(),
            hash: Vec::new(),
        }
    }
}

/// One or more clusters with their shares. Not empty; the total is above zero and fits a `u32`, as Envoy demands.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct WeightedClusters(Vec<WeightedCluster>);

/// One share.
///
/// Its header operations are applied before the route's, which so have the last word (Envoy). Istio lets a destination
/// that stands alone have the last word instead: its operations are compiled into the route's, and it has none here.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WeightedCluster {
    /// Where to.
    pub cluster: ClusterName,
    /// Share of the total.
    pub weight: u32,
    /// Applied before the route's.
    pub request_headers: HeaderOps,
    /// Applied before the route's.
    pub response_headers: HeaderOps,
    /// What `:authority` becomes, where the route says nothing.
    pub host_rewrite: Option<String>,
}

impl WeightedCluster {
    /// A share without header operations.
    pub fn plain(cluster: ClusterName, weight: u32) -> Self {
        Self {
            cluster,
            weight,
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
            host_rewrite: None,
        }
    }
}

impl WeightedClusters {
    /// A single destination gets everything, whatever its weight says (Istio).
    pub fn new(mut clusters: Vec<WeightedCluster>) -> Result<Self, Invalid> {
        match clusters.as_mut_slice() {
            [] => return Err(Invalid::new("a route needs a destination")),
            [only] => only.weight = 1,
            _ => {
                clusters.retain(|cluster| cluster.weight > 0);
                let total: u64 = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
                if total == 0 {
                    return Err(Invalid::new(
                        "the weights of a route add up to 0, so that no destination gets anything",
                    ));
                }
                if total > u64::from(u32::MAX) {
                    return Err(Invalid(format!("the weights of a route add up to {total}, more than {}", u32::MAX)));
                }
            }
        }
        Ok(Self(clusters))
    }

    /// Everything to one cluster.
    pub fn single(cluster: ClusterName) -> Self {
        Self(vec![WeightedCluster::plain(cluster, 1)])
    }

    /// The shares, none of weight 0.
    pub fn as_slice(&self) -> &[WeightedCluster] {
        &self.0
    }

    /// Sum of the weights, at least 1.
    pub fn total(&self) -> u32 {
        self.0.iter().map(|cluster| cluster.weight).sum()
    }
}

/// What happens to the path; the query stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathRewrite {
    /// The matched prefix is replaced. Not empty: the wire could not tell that from no rewrite.
    Prefix(String),
    /// The path is replaced.
    Full(String),
    /// Every match of `pattern` in the path is replaced; `\1` in `substitution` is the first group (RE2).
    Regex {
        /// Need not match the whole.
        pattern: RewritePattern,
        /// With `\0` to `\9`.
        substitution: String,
    },
}

/// A regular expression that may match a part. It is here, so it compiles.
#[derive(Debug, Clone)]
pub struct RewritePattern {
    written: String,
    compiled: regex::Regex,
}

impl RewritePattern {
    /// Compiles it.
    pub fn new(pattern: &str) -> Result<Self, Invalid> {
        let compiled = regex::RegexBuilder::new(pattern)
            .size_limit(1 << 20)
            .build()
            .map_err(|error| Invalid(format!("`{pattern}` is not a regular expression (RE2 syntax): {error}")))?;
        Ok(Self { written: pattern.to_owned(), compiled })
    }

    /// As it was written.
    pub fn pattern(&self) -> &str {
        &self.written
    }

    /// The compiled expression, not anchored.
    pub fn compiled(&self) -> &regex::Regex {
        &self.compiled
    }
}

impl PartialEq for RewritePattern {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Eq for RewritePattern {}

impl Serialize for RewritePattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.written)
    }
}

/// A copy of requests to somewhere else; its answer is thrown away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// Where to.
    pub cluster: ClusterName,
    /// Which share.
    pub share: Fraction,
}

/// An answer with a `location`. The query is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    #[serde(serialize_with = "status_as_number")]
    pub status: StatusCode,
    /// New host; `None`: as requested.
    pub host: Option<String>,
    /// New scheme; `None`: as requested.
    pub scheme: Option<String>,
    /// New port; `None`: as requested (with a new scheme: that scheme's default).
    pub port: Option<u16>,
    /// New path.
    pub path: Option<PathRewrite>,
}

impl Redirect {
    /// Whether a code may be used for a redirect (Envoy's five).
    pub fn status(code: u16) -> Result<StatusCode, Invalid> {
        match code {
            301 | 302 | 303 | 307 | 308 => {
                StatusCode::from_u16(code).map_err(|_| Invalid::new("invariant: the five codes are valid"))
            }
            _ => Err(Invalid(format!("a redirect is 301, 302, 303, 307 or 308, not {code}"))),
        }
    }
}

/// An answer as written in the rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DirectResponse {
    /// 200 to 599.
    #[serde(serialize_with = "status_as_number")]
    pub status: StatusCode,
    /// May be empty; at most 1 MiB (Istio).
    pub body: Vec<u8>,
}

fn status_as_number<S: Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

/// Where the bytes of a TCP listener go.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TcpRoute {
    /// Names the listener in statistics.
    pub stat_prefix: String,
    /// The rule it comes from.
    pub origin: Option<Origin>,
    /// Where to; the header operations are empty.
    pub clusters: WeightedClusters,
    /// A connection without a byte in either direction ends after it; `None`: never. Envoy's default is 1 h.
    pub idle_timeout: Option<Duration>,
    /// Consistent hashing goes by the caller's address.
    pub hashes_source: bool,
}
