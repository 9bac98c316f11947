//! What becomes of a request, in the shape of `leno explain -o json`. A proxy tells it of what it holds, and the command
//! line of rules; both speak of the same things.

use std::sync::Arc;

use leno_config::identity::SpiffeId;
use leno_config::ir::{Balance, Cors, Fault, HashPolicy, HeaderOps, Mirror, MtlsMode, Origin};
use serde::{Deserialize, Serialize};

/// What becomes of a request.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Verdict {
    /// Of a local reply; `None`: the answer comes from elsewhere.
    pub status: Option<u16>,
    /// Why there is a local reply, or what else there is to say.
    pub note: Option<String>,
    /// The virtual host that the request is for.
    pub host: Option<String>,
    /// The rule that takes it; `None`: no person wrote one.
    pub rule: Option<RulePlace>,
    /// The route's name.
    pub route: Option<String>,
    /// Where it goes.
    pub clusters: Vec<Share>,
    /// What its path and host become.
    pub rewrite: Option<Rewrite>,
    /// Where the caller is sent instead.
    pub redirect: Option<RedirectTo>,
    /// For the whole request.
    pub timeout: Option<String>,
    /// `None`: there is nothing to say of them.
    pub retries: Option<Retries>,
    /// What else is done to it.
    pub policy: Policy,
    /// The rules that were asked before, in order.
    pub lost: Vec<Lost>,
}

/// A rule and where it stands. A proxy knows at most where it stood when the route was sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RulePlace {
    /// Which rule.
    #[serde(flatten)]
    pub origin: Origin,
    /// In which file.
    pub file: Option<Arc<str>>,
    /// From 1.
    pub line: Option<u32>,
}

impl From<&Origin> for RulePlace {
    fn from(origin: &Origin) -> Self {
        let place = origin.place.0.as_deref();
        let (file, line) = (place.map(|place| Arc::clone(&place.file)), place.map(|place| place.line));
        Self { origin: origin.clone(), file, line }
    }
}

/// A part of the requests.
#[derive(Debug, Serialize, Deserialize)]
pub struct Share {
    /// Name of the cluster.
    pub name: String,
    /// As the rule weighs it.
    pub weight: u32,
    /// 0 to 100.
    pub percent: f64,
    /// How many are written down; `None`: found in another way, or there is no such cluster.
    pub endpoints: Option<usize>,
    /// How one of them is chosen; `None`: there is no such cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balance>,
    /// Whether there is such a cluster.
    pub known: bool,
    /// For requests that go there.
    #[serde(default, skip_serializing_if = "HeaderOps::is_empty")]
    pub request_headers: HeaderOps,
    /// For answers that come from there.
    #[serde(default, skip_serializing_if = "HeaderOps::is_empty")]
    pub response_headers: HeaderOps,
}

/// What the path and host become.
#[derive(Debug, Serialize, Deserialize)]
pub struct Rewrite {
    /// With the query.
    pub path: Option<String>,
    /// With the port, where the rule names one.
    pub host: Option<String>,
}

/// An answer with a `location`.
#[derive(Debug, Serialize, Deserialize)]
pub struct RedirectTo {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// Absolute.
    pub location: String,
}

/// When the request is tried again, as the rule says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Retries {
    /// Whether the data plane does so.
    pub enforced: bool,
    /// 0: never.
    pub attempts: u32,
    /// Envoy's conditions.
    pub on: Vec<String>,
    /// Those of `retriable-status-codes`.
    pub status_codes: Vec<u16>,
    /// For each attempt.
    pub per_try_timeout: Option<String>,
}

/// What else is done to the request.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Policy {
    /// Who may call it from a web page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// Faults on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// Copies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
    /// What decides which endpoint it goes to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hash: Vec<HashPolicy>,
    /// For all requests of the route.
    #[serde(default, skip_serializing_if = "HeaderOps::is_empty")]
    pub request_headers: HeaderOps,
    /// For all answers.
    #[serde(default, skip_serializing_if = "HeaderOps::is_empty")]
    pub response_headers: HeaderOps,
    /// What the workloads say that the request may go to. Only who has their rules knows; the caller's proxy does not.
    #[serde(skip_deserializing, skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<Access>,
}

/// A rule that did not take the request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Lost {
    /// Which.
    #[serde(flatten)]
    pub rule: RulePlace,
    /// The first condition that does not hold.
    pub reason: String,
}

/// What one workload says.
#[derive(Debug, Serialize)]
pub struct Access {
    /// `NAMESPACE/NAME`
    pub workload: String,
    /// The port that its sidecar listens on.
    pub port: u16,
    /// How callers come in.
    pub mtls: MtlsMode,
    /// The PeerAuthentication that says so.
    pub mtls_by: Option<RulePlace>,
    /// Who the workload sees; `None`: somebody in clear text.
    pub identity: Option<SpiffeId>,
    /// RequestAuthentications for the workload.
    pub tokens: Vec<RulePlace>,
    /// What becomes of the token.
    pub token: Token,
    /// Whether it lets the request in.
    pub allowed: bool,
    /// Of the refusal, where there is an answer at all.
    pub status: Option<u16>,
    /// In words.
    pub reason: String,
    /// The AuthorizationPolicy that decides.
    pub by: Option<RulePlace>,
    /// What a dry run would refuse.
    pub would_deny: Option<Tried>,
    /// The AUDIT policy that logs it.
    pub audited_by: Option<RulePlace>,
    /// RateLimits for the workload, each limit by itself.
    pub rate_limits: Vec<RulePlace>,
}

/// The refusal of a dry run.
#[derive(Debug, Serialize)]
pub struct Tried {
    /// `None`: no ALLOW policy matches.
    pub by: Option<RulePlace>,
}

/// What becomes of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Token {
    /// There is none.
    Missing,
    /// It is believed.
    Taken,
    /// The request is refused for it.
    Refused,
}

impl Access {
    /// Whether another answer is of the same workload and says the same.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.workload, self.port, &self.identity) == (&other.workload, other.port, &other.identity)
    }

    /// Whether some rule is about it.
    pub fn is_ruled(&self) -> bool {
        let Self { mtls_by, tokens, by, would_deny, audited_by, allowed, rate_limits, .. } = self;
        mtls_by.is_some()
            || !tokens.is_empty()
            || !rate_limits.is_empty()
            || by.is_some()
            || would_deny.is_some()
            || audited_by.is_some()
            || !allowed
    }
}
