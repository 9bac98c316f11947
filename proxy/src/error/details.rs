//! `%RESPONSE_CODE_DETAILS%`: who made an answer, and why, in Envoy's words.
//!
//! Where Envoy has a word for it, it is Envoy's (people search for it); what only Leno does begins with `leno_`. A word has
//! no space in it, since it stands unquoted in the default format.

use std::borrow::Cow;

use crate::overload::Shed;
use crate::stream_limits::Overdue;
use http::StatusCode;

use super::{Flag, ProxyError};

/// The endpoint answered.
pub const VIA_UPSTREAM: &str = "via_upstream";
/// A rule answered: a redirect or a body of its own.
pub const DIRECT_RESPONSE: &str = "direct_response";
/// A cross-origin preflight, answered here.
pub const CORS_RESPONSE: &str = "cors_response";
/// The caller left before the end.
pub const CALLER_LEFT: &str = "downstream_remote_disconnect";

impl ProxyError {
    /// The word for it.
    pub fn details(&self) -> Cow<'static, str> {
        let reset = |reason: &str| Cow::Owned(format!("upstream_reset_before_response_started{{{reason}}}"));
        let word = match self {
            Self::NoRoute { .. } => "route_not_found",
            Self::NoCluster(_) => "cluster_not_found",
            Self::NoEndpoint(_) => "no_healthy_upstream",
            Self::Overflow { .. } => return reset("overflow"),
            Self::Connect { timed_out: true, .. } => return reset("connection_timeout"),
            Self::Connect { timed_out: false, reason, .. } => {
                return reset(&format!("remote_connection_failure|{}", one_word(reason)));
            }
            Self::Closed { .. } => return reset("connection_termination"),
            Self::Reset { .. } => return reset("remote_reset"),
            Self::Refused { .. } => return reset("remote_refused_stream_reset"),
            Self::UpstreamProtocol { .. } => return reset("protocol_error"),
            Self::Retried(last) => return last.details(),
            Self::Timeout(_) => "response_timeout",
            Self::TryTimeout { .. } => "upstream_per_try_timeout",
            Self::Overdue { overdue, .. } => overdue_word(*overdue),
            Self::Dns { .. } => "dns_resolution_failure",
            Self::Forbidden { .. } => "leno_loop_guard",
            Self::Denied { policy, .. } => {
                let policy = policy.as_deref().unwrap_or("none");
                return Cow::Owned(format!("rbac_access_denied_matched_policy[{}]", one_word(policy)));
            }
            Self::Revoked => "leno_policies_changed",
            Self::Token { reason, .. } => {
                return Cow::Owned(format!("jwt_authn_access_denied{{{}}}", one_word(reason.as_str())));
            }
            Self::Fault { .. } => "fault_filter_abort",
            Self::CallerLeft => CALLER_LEFT,
            Self::RateLimited { .. } => "local_rate_limited",
            Self::Overloaded(Shed::Concurrency) => "reached_concurrency_limit",
            Self::Overloaded(Shed::Connections | Shed::Requests | Shed::Memory) => "overload",
            Self::BadRequest { status: StatusCode::FORBIDDEN, .. } => "upgrade_failed",
            Self::BadRequest { reason, .. } => return Cow::Owned(format!("leno_bad_request{{{}}}", one_word(reason))),
        };
        Cow::Borrowed(word)
    }
}

/// What ended an answer after its head had been passed on.
pub fn after_head(flag: Flag) -> Option<&'static str> {
    match flag {
        Flag::DC => Some(CALLER_LEFT),
        Flag::UC => Some("upstream_reset_after_response_started{connection_termination}"),
        Flag::UR => Some("upstream_reset_after_response_started{remote_reset}"),
        Flag::UPE => Some("upstream_reset_after_response_started{protocol_error}"),
        Flag::UT => Some("response_timeout"),
        Flag::SI => Some(overdue_word(Overdue::Idle)),
        Flag::DT => Some(overdue_word(Overdue::TooLong)),
        Flag::UAEX => Some("leno_policies_changed"),
        Flag::None
        | Flag::NR
        | Flag::NC
        | Flag::UH
        | Flag::UF
        | Flag::DPE
        | Flag::DF
        | Flag::LR
        | Flag::UO
        | Flag::URX
        | Flag::DI
        | Flag::FI
        | Flag::RL
        | Flag::OM => None,
    }
}

fn overdue_word(overdue: Overdue) -> &'static str {
    match overdue {
        Overdue::Idle => "stream_idle_timeout",
        Overdue::TooLong => "max_duration_timeout",
    }
}

fn one_word(text: &str) -> String {
    text.chars().map(|one| if one.is_whitespace() { '_' } else { one }).collect()
}

#[cfg(test)]
mod tests {
    use leno_config::ir::RbacAction;

    use super::*;

    #[test]
    fn failures_have_envoys_words() {
        let connect = |timed_out| ProxyError::Connect {
            cluster: "a".to_owned(),
            address: ([127, 0, 0, 1], 1).into(),
            reason: "Connection refused".to_owned(),
            timed_out,
            in_tls: false,
        };
        for (error, expected) in [
            (ProxyError::NoEndpoint("a".to_owned()), "no_healthy_upstream"),
            (connect(false), "upstream_reset_before_response_started{remote_connection_failure|Connection_refused}"),
            (connect(true).after_retries(), "upstream_reset_before_response_started{connection_timeout}"),
            (ProxyError::Denied { action: RbacAction::Allow, policy: None }, "rbac_access_denied_matched_policy[none]"),
        ] {
            assert_eq!(error.details(), expected);
        }
    }
}
