//! The same question answered in the plainest way, for comparison: two values, no short cuts, one value per header. It
//! shares no line with the evaluator; even texts and networks are compared by hand.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use leno_config::ir::{
    Authorization, ClaimMatch, HeaderKey, HeaderMatch, Permission, Principal, RbacAction, RbacPolicy, StringMatch,
};
use serde_json::Value;

/// One way to read a request: every header has at most one value.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) identity: Option<String>,
    pub(crate) direct: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) server_name: String,
    pub(crate) method: String,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) claims: Option<Value>,
}

impl World {
    pub(crate) fn passes(&self, authorization: &Authorization) -> bool {
        let denied = authorization.0.iter().filter(|filter| filter.enforced).map(|filter| {
            let matches = filter.policies.iter().map(|policy| self.policy(policy)).collect::<Vec<_>>().contains(&true);
            match filter.action {
                RbacAction::Allow => !matches,
                RbacAction::Deny | RbacAction::Custom => matches,
                RbacAction::Log => false,
            }
        });
        !denied.collect::<Vec<_>>().contains(&true)
    }

    fn policy(&self, policy: &RbacPolicy) -> bool {
        let who = policy.principals.iter().filter(|principal| self.who(principal)).count();
        let what = policy.permissions.iter().filter(|permission| self.what(permission)).count();
        who * what > 0
    }

    fn what(&self, permission: &Permission) -> bool {
        let port = u32::from(self.local.port());
        match permission {
            Permission::Any => true,
            Permission::And(all) => all.iter().filter(|one| !self.what(one)).count() == 0,
            Permission::Or(some) => some.iter().filter(|one| self.what(one)).count() > 0,
            Permission::Not(one) => !self.what(one),
            Permission::Header(header) => self.header(header),
            Permission::Path(text) => is(text, &self.path),
            Permission::PathTemplate(template) => template.is_match(&self.path),
            Permission::DestinationPort(wanted) => port == u32::from(*wanted),
            Permission::DestinationPorts { from, to } => u32::from(*from) <= port && port < *to,
            Permission::DestinationIp(net) => within(net, self.local.ip()),
            Permission::ServerName(text) => is(text, &self.server_name),
            Permission::Claim(claim) => self.claim(claim),
        }
    }

    fn who(&self, principal: &Principal) -> bool {
        match principal {
            Principal::Any => true,
            Principal::And(all) => all.iter().filter(|one| !self.who(one)).count() == 0,
            Principal::Or(some) => some.iter().filter(|one| self.who(one)).count() > 0,
            Principal::Not(one) => !self.who(one),
            Principal::Authenticated(None) => self.identity.is_some(),
            Principal::Authenticated(Some(text)) => self.identity.as_ref().map(|id| is(text, id)) == Some(true),
            Principal::DirectIp(net) => within(net, self.direct.ip()),
            Principal::RemoteIp(net) => {
                let forwarded =
                    self.value("x-forwarded-for").and_then(|list| list.split(',').next_back()?.trim().parse().ok());
                within(net, forwarded.unwrap_or(self.direct.ip()))
            }
            Principal::Header(header) => self.header(header),
            Principal::Path(text) => is(text, &self.path),
            Principal::Claim(claim) => self.claim(claim),
        }
    }

    fn value(&self, name: &str) -> Option<String> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone())
    }

    fn header(&self, condition: &HeaderMatch) -> bool {
        let value = match &condition.key {
            HeaderKey::Method => Some(self.method.clone()),
            HeaderKey::Scheme => Some("http".to_owned()),
            HeaderKey::Authority => Some(self.authority.clone()),
            HeaderKey::Path => Some(format!(
                "{}{}",
                self.path,
                self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default()
            )),
            HeaderKey::Name(name) => self.value(name.0.as_str()),
        };
        let value = if condition.missing_is_empty && condition.value.is_some() {
            Some(value.unwrap_or_default())
        } else {
            value
        };
        match (&condition.value, value) {
            (None, found) => found.is_some() ^ condition.invert,
            (Some(text), Some(found)) => is(text, &found) ^ condition.invert,
            (Some(_), None) => false,
        }
    }

    fn claim(&self, condition: &ClaimMatch) -> bool {
        let pointer: String = condition.path.iter().map(|key| format!("/{key}")).collect();
        let values: Vec<String> = match self.claims.as_ref().and_then(|claims| claims.pointer(&pointer)) {
            Some(Value::String(text)) if pointer == "/scope" => {
                text.split_ascii_whitespace().map(str::to_owned).collect()
            }
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(list)) => list.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect(),
            _ => Vec::new(),
        };
        values.iter().any(|value| is(&condition.value, value)) ^ condition.invert
    }
}

fn is(condition: &StringMatch, text: &str) -> bool {
    let fold = |text: &str, ignore_case: bool| if ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
    match condition {
        StringMatch::Exact { value, ignore_case } => fold(value, *ignore_case) == fold(text, *ignore_case),
        StringMatch::Prefix { value, ignore_case } => {
            fold(text, *ignore_case).find(&fold(value, *ignore_case)) == Some(0)
        }
        StringMatch::Suffix { value, ignore_case } => {
            let (text, value) = (fold(text, *ignore_case), fold(value, *ignore_case));
            text.len() >= value.len() && text[text.len() - value.len()..] == value
        }
        StringMatch::Contains { value, ignore_case } => fold(text, *ignore_case).contains(&fold(value, *ignore_case)),
        StringMatch::Regex(regex) => regex.is_match(text),
    }
}

fn within(net: &IpNet, address: IpAddr) -> bool {
    match (net, address) {
        (IpNet::V4(net), IpAddr::V4(address)) => {
            let shift = 32 - u32::from(net.prefix_len());
            u64::from(u32::from(net.addr())) >> shift == u64::from(u32::from(address)) >> shift
        }
        (IpNet::V6(net), IpAddr::V6(address)) => {
            let bits = u32::from(net.prefix_len());
            bits == 0 || u128::from(net.addr()) >> (128 - bits) == u128::from(address) >> (128 - bits)
        }
        (IpNet::V4(_), IpAddr::V6(_)) | (IpNet::V6(_), IpAddr::V4(_)) => false,
    }
}
