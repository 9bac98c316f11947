//! `AuthorizationPolicy`: who may do what.
//!
//! Fields and names are those of Istio's `security/v1beta1/authorization_policy.proto`. What single texts in it mean is
//! read here too ([`Pattern`], [`Attribute`]), so that validation and compiler cannot disagree.

use super::claim;
use super::common::{message, words};
use super::{LabelSelector, PolicyTargetReference};
use crate::ir::{HeaderKey, Invalid};

message! {
    /// Who may do what.
    pub struct AuthorizationPolicy {
        /// Which workloads of the namespace; absent or empty: all of them, in the root namespace all of the mesh.
        pub selector: Option<LabelSelector>,
        /// Deprecated: one of `targetRefs`.
        pub target_ref: Option<PolicyTargetReference>,
        /// Gateways and waypoints, in place of workloads.
        pub target_refs: Vec<PolicyTargetReference>,
        /// One of them matches; none: the policy never does.
        pub rules: Vec<AuthorizationRule>,
        /// What becomes of what matches.
        pub action: Option<AuthorizationAction>,
        /// Whom `CUSTOM` asks.
        pub provider: Option<AuthorizationProvider>,
    }

    /// Matches when all three do; what is left out always does.
    pub struct AuthorizationRule {
        /// By whom; one of them.
        pub from: Option<Vec<AuthorizationFrom>>,
        /// What is done; one of them.
        pub to: Option<Vec<AuthorizationTo>>,
        /// All of them.
        pub when: Vec<AuthorizationCondition>,
    }

    /// Who does something.
    pub struct AuthorizationFrom {
        /// Who.
        pub source: Option<AuthorizationSource>,
    }

    /// Who does something: all fields that are set hold, each by one of its entries. Entries may have a `*` at one end.
    pub struct AuthorizationSource {
        /// Identities: `TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
        pub principals: Vec<String>,
        /// None of these identities.
        pub not_principals: Vec<String>,
        /// Subjects of tokens: `ISSUER/SUBJECT`.
        pub request_principals: Vec<String>,
        /// None of these subjects of tokens.
        pub not_request_principals: Vec<String>,
        /// Namespaces of identities.
        pub namespaces: Vec<String>,
        /// None of these namespaces.
        pub not_namespaces: Vec<String>,
        /// `NAMESPACE/SERVICE-ACCOUNT`, or a service account of the policy's namespace. No `*`.
        pub service_accounts: Vec<String>,
        /// None of these service accounts.
        pub not_service_accounts: Vec<String>,
        /// Trust domains of identities.
        pub trust_domains: Vec<String>,
        /// None of these trust domains.
        pub not_trust_domains: Vec<String>,
        /// Addresses and networks of the connection.
        pub ip_blocks: Vec<String>,
        /// None of these addresses and networks.
        pub not_ip_blocks: Vec<String>,
        /// Addresses and networks of the caller, by `x-forwarded-for`.
        pub remote_ip_blocks: Vec<String>,
        /// None of these addresses and networks.
        pub not_remote_ip_blocks: Vec<String>,
    }

    /// What is done.
    pub struct AuthorizationTo {
        /// What.
        pub operation: Option<AuthorizationOperation>,
    }

    /// What is done: all fields that are set hold, each by one of its entries. Entries may have a `*` at one end.
    pub struct AuthorizationOperation {
        /// Hosts of requests, in any case.
        pub hosts: Vec<String>,
        /// None of these hosts.
        pub not_hosts: Vec<String>,
        /// Ports, as text.
        pub ports: Vec<String>,
        /// None of these ports.
        pub not_ports: Vec<String>,
        /// Methods of requests.
        pub methods: Vec<String>,
        /// None of these methods.
        pub not_methods: Vec<String>,
        /// Paths of requests; templates have `{*}` for one segment and `{**}` for any number.
        pub paths: Vec<String>,
        /// None of these paths.
        pub not_paths: Vec<String>,
    }

    /// One more condition.
    pub struct AuthorizationCondition {
        /// On what; see [`Attribute`].
        pub key: String,
        /// It has one of them.
        pub values: Vec<String>,
        /// It has none of them.
        pub not_values: Vec<String>,
    }

    /// Whom `CUSTOM` asks.
    pub struct AuthorizationProvider {
        /// Its name in the mesh's settings.
        pub name: String,
    }
}

words! {
    /// What becomes of what matches.
    pub enum AuthorizationAction {
        /// It passes; what no ALLOW policy takes is refused.
        #[default]
        Allow = "ALLOW",
        /// It is refused.
        Deny = "DENY",
        /// It is logged.
        Audit = "AUDIT",
        /// A service outside is asked.
        Custom = "CUSTOM",
    }
}

/// The annotation that makes a policy a dry run.
pub const DRY_RUN_ANNOTATION: &str = "istio.io/dry-run";

impl AuthorizationPolicy {
    /// Whether it is for gateways and waypoints, not for sidecars.
    pub fn has_targets(&self) -> bool {
        self.target_ref.is_some() || !self.target_refs.is_empty()
    }
}

/// A value with at most one `*`, first or last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern<'a> {
    /// `*`: that there is something.
    Present,
    /// No `*`.
    Exact(&'a str),
    /// The text before the `*`.
    Prefix(&'a str),
    /// The text behind the `*`.
    Suffix(&'a str),
}

impl<'a> Pattern<'a> {
    /// Reads a value. Istio takes a `*` elsewhere for itself, which nobody means; it is refused.
    pub fn parse(value: &'a str) -> Result<Self, Invalid> {
        if value.is_empty() {
            return Err(Invalid::new("a value is empty"));
        }
        let pattern = match (value.strip_prefix('*'), value.strip_suffix('*')) {
            (Some(""), _) => Self::Present,
            (Some(suffix), _) => Self::Suffix(suffix),
            (None, Some(prefix)) => Self::Prefix(prefix),
            (None, None) => Self::Exact(value),
        };
        let (Self::Exact(rest) | Self::Prefix(rest) | Self::Suffix(rest)) = pattern else { return Ok(pattern) };
        match rest.contains('*') {
            true => Err(Invalid(format!("`{value}` has a `*` that is neither first nor last, or two of them"))),
            false => Ok(pattern),
        }
    }
}

/// What a condition of `when` is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// `request.headers[NAME]`; `:method`, `:authority` and `:path` too.
    RequestHeader(HeaderKey),
    /// `source.ip`: the other end of the connection.
    SourceIp,
    /// `remote.ip`: the caller, by `x-forwarded-for`.
    RemoteIp,
    /// `source.namespace`
    SourceNamespace,
    /// `source.serviceAccount`
    SourceServiceAccount,
    /// `source.principal`
    SourcePrincipal,
    /// `request.auth.principal`: `ISSUER/SUBJECT` of a token.
    RequestPrincipal,
    /// `request.auth.audiences`, `request.auth.presenter`, `request.auth.claims[a][b]`: a claim by its path.
    Claim(Vec<String>),
    /// `destination.ip`
    DestinationIp,
    /// `destination.port`
    DestinationPort,
    /// `connection.sni`
    ServerName,
}

impl Attribute {
    /// All keys, for hints.
    pub const KEYS: &'static [&'static str] = &[
        "request.headers[NAME]",
        "source.ip",
        "remote.ip",
        "source.namespace",
        "source.serviceAccount",
        "source.principal",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "request.auth.claims[NAME]",
        "destination.ip",
        "destination.port",
        "connection.sni",
    ];

    /// Reads a key. `experimental.*` looks into Envoy's filters, which Leno does not have.
    pub fn parse(key: &str) -> Result<Self, Invalid> {
        Ok(match key {
            "source.ip" => Self::SourceIp,
            "remote.ip" => Self::RemoteIp,
            "source.namespace" => Self::SourceNamespace,
            "source.serviceAccount" => Self::SourceServiceAccount,
            "source.principal" => Self::SourcePrincipal,
            "request.auth.principal" => Self::RequestPrincipal,
            "request.auth.audiences" => Self::Claim(vec!["aud".to_owned()]),
            "request.auth.presenter" => Self::Claim(vec!["azp".to_owned()]),
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "connection.sni" => Self::ServerName,
            _ => return Self::parse_bracketed(key),
        })
    }

    fn parse_bracketed(key: &str) -> Result<Self, Invalid> {
        if let Some(rest) = key.strip_prefix("request.headers") {
            let name = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).filter(|name| !name.is_empty());
            let name = name.ok_or_else(|| Invalid(format!("`{key}` is not of the form request.headers[NAME]")))?;
            return Ok(Self::RequestHeader(HeaderKey::parse(name)?));
        }
        if let Some(rest) = key.strip_prefix("request.auth.claims") {
            return claim::bracketed(rest)
                .map(Self::Claim)
                .ok_or_else(|| Invalid(format!("`{key}` is not of the form request.auth.claims[NAME][NAME]")));
        }
        Err(Invalid(match key {
            _ if key.starts_with("experimental.") => {
                format!("`{key}` looks into a filter of Envoy's, which Leno does not have")
            }
            "destination.namespace" => "`destination.namespace` is the policy's own namespace".to_owned(),
            "destination.name" | "destination.user" => format!("`{key}` was in v1alpha1 only"),
            _ if key.starts_with("destination.labels") => {
                "labels of the destination are asked for by the policy's `selector`".to_owned()
            }
            _ => format!("`{key}` is not a key of a condition"),
        }))
    }

    /// Whether only a request has it, so that on a TCP port it cannot be told.
    pub fn is_http(&self) -> bool {
        match self {
            Self::RequestHeader(_) | Self::RequestPrincipal | Self::Claim(_) => true,
            Self::SourceIp
            | Self::RemoteIp
            | Self::SourceNamespace
            | Self::SourceServiceAccount
            | Self::SourcePrincipal
            | Self::DestinationIp
            | Self::DestinationPort
            | Self::ServerName => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_at_one_end() {
        for (value, pattern) in [
            ("*", Pattern::Present),
            ("a", Pattern::Exact("a")),
            ("a*", Pattern::Prefix("a")),
            ("*a", Pattern::Suffix("a")),
        ] {
            assert_eq!(Pattern::parse(value), Ok(pattern), "{value}");
        }
        for value in ["", "**", "a*b", "*a*", "*/*"] {
            assert!(Pattern::parse(value).is_err(), "{value}");
        }
    }

    #[test]
    fn keys_of_conditions_are_told_apart() {
        let claim = |path: &[&str]| Some(Attribute::Claim(path.iter().map(|&part| part.to_owned()).collect()));
        for (key, attribute) in [
            ("request.headers[X-Abc]", HeaderKey::parse("x-abc").ok().map(Attribute::RequestHeader)),
            ("request.headers[:method]", Some(Attribute::RequestHeader(HeaderKey::Method))),
            ("request.auth.claims[a][b.c]", claim(&["a", "b.c"])),
            ("request.auth.audiences", claim(&["aud"])),
            ("request.auth.presenter", claim(&["azp"])),
            ("source.ip", Some(Attribute::SourceIp)),
            ("request.headers", None),
            ("request.headers[]", None),
            ("request.headers[a b]", None),
            ("request.auth.claims", None),
            ("request.auth.claims[]", None),
            ("request.auth.claims[a", None),
            ("request.auth.claims[a]b", None),
            ("experimental.envoy.filters.a[b]", None),
            ("destination.labels[app]", None),
            ("destination.namespace", None),
            ("sourceip", None),
            ("", None),
        ] {
            assert_eq!(Attribute::parse(key).ok(), attribute, "{key}");
        }
        for key in Attribute::KEYS {
            assert!(Attribute::parse(&key.replace("NAME", "x")).is_ok(), "{key}");
        }
    }
}
