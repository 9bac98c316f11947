//! Whether a caller may do what it asks: Envoy's RBAC, evaluated straight over the trees of the IR.
//!
//! Pure, and without an allocation unless a header comes in several lines. The same code answers live requests, TCP
//! connections, `leno explain`, and the question whether an open connection may still be of use after a policy changed.
//!
//! **One logic for all of them, with three values.** A condition holds, does not hold, or cannot be told: a condition on
//! HTTP where there is no request (TCP, or a connection between two requests), or on a header whose lines give
//! different answers. What cannot be told never lets anybody in and always denies:
//!
//! | filter | a policy holds | does not hold | cannot be told |
//! |--------|----------------|---------------|----------------|
//! | ALLOW  | passes         | denies        | denies         |
//! | DENY   | denies         | passes        | denies         |
//!
//! That is Istio's rule for HTTP fields on TCP ports (an ALLOW rule with one never matches, in a DENY rule it counts as
//! matching). It is also the answer to CVE-2026-26308: with `x-role: guest` and `x-role: admin` in two lines, one reader
//! takes the first, one the last, one `guest,admin`. A rule that lets in has to hold for each of these readings, a rule
//! that denies for one. Envoy takes one reading alone, so a request with repeated lines may be denied here that passes
//! there, never the other way round.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use leno_config::identity::SpiffeId;
use leno_config::ir::{
    Authorization, ClaimMatch, HeaderKey, HeaderMatch, Permission, Principal, RbacAction, RbacFilter, RbacPolicy,
    StringMatch,
};

use crate::headers::name;
use crate::route::{RequestView, header_holds, joined};

use super::jwt::Claims;

/// Who calls, as far as the connection says it.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// From a verified certificate; `None`: in clear text.
    pub identity: Option<&'a SpiffeId>,
    /// The other end of the connection.
    pub direct: SocketAddr,
    /// This end of it.
    pub local: SocketAddr,
    /// Of the TLS handshake.
    pub server_name: Option<&'a str>,
}

/// What all filters say of a request or connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'p> {
    /// What is enforced.
    pub verdict: Verdict<'p>,
    /// The first denial of a dry run: counted and logged, not enforced.
    pub would_deny: Option<Denial<'p>>,
    /// The first policy of a `Log` filter (Istio's AUDIT) that holds, by name.
    pub audited: Option<&'p str>,
}

/// Whether something passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'p> {
    /// It does; by the policy of this name, `None` where no ALLOW filter had to be passed.
    Allowed(Option<&'p str>),
    /// It does not.
    Denied(Denial<'p>),
}

impl Verdict<'_> {
    /// Whether it passes.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

/// Why something does not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denial<'p> {
    /// Of the filter that denies: `Allow`, `Deny` or `Custom`.
    pub action: RbacAction,
    /// The policy that denies; `None`: there are ALLOW policies and none of them holds.
    pub policy: Option<&'p str>,
}

/// Whether something holds, as far as it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Possible {
    /// In every case.
    Yes,
    /// In no case.
    No,
    /// It depends on what is not known here.
    Depends,
}

/// Asks all filters in their order. `request` is `None` for TCP; the claims of a verified token come in it.
pub fn check<'p>(
    authorization: &'p Authorization,
    caller: &Caller<'_>,
    request: Option<&RequestView<'_>>,
) -> Decision<'p> {
    let facts = Facts { caller, subject: request.map_or(Subject::Bytes, Subject::Request) };
    let mut decision = Decision { verdict: Verdict::Allowed(None), would_deny: None, audited: None };
    for filter in &authorization.0 {
        if let Some(shadow) = &filter.shadow
            && let Verdict::Denied(denial) = facts.judge(shadow.action, &shadow.policies)
        {
            decision.would_deny.get_or_insert(denial);
        }
        if !filter.enforced {
            continue;
        }
        match (filter.action, facts.judge(filter.action, &filter.policies)) {
            (_, denied @ Verdict::Denied(_)) => {
                decision.verdict = denied;
                break;
            }
            (RbacAction::Log, Verdict::Allowed(policy)) => decision.audited = decision.audited.or(policy),
            (RbacAction::Allow, allowed) => decision.verdict = allowed,
            (RbacAction::Deny | RbacAction::Custom, Verdict::Allowed(_)) => {}
        }
    }
    decision
}

/// Whether any request on an HTTP connection of this caller could pass: one for which this is `No` is of no use any more.
/// Looks at these filters alone: routes with filters of their own have to be asked one by one. A TCP connection has
/// nothing that is not known; ask [`check`].
pub fn may_ever(authorization: &Authorization, caller: &Caller<'_>) -> Possible {
    let facts = Facts { caller, subject: Subject::AnyRequest };
    all(authorization.0.iter().filter(|filter| filter.enforced).map(|filter| facts.lets_pass(filter)))
}

/// What conditions are asked about.
#[derive(Clone, Copy)]
struct Facts<'a> {
    caller: &'a Caller<'a>,
    subject: Subject<'a>,
}

#[derive(Clone, Copy)]
enum Subject<'a> {
    Request(&'a RequestView<'a>),
    /// One that has not come yet.
    AnyRequest,
    /// A TCP connection.
    Bytes,
}

impl<'a> Facts<'a> {
    fn judge<'p>(self, action: RbacAction, policies: &'p [RbacPolicy]) -> Verdict<'p> {
        let first = |wanted: &[Possible]| {
            policies.iter().find(|policy| wanted.contains(&self.policy(policy))).map(|policy| policy.name.as_str())
        };
        match action {
            RbacAction::Allow => match first(&[Possible::Yes]) {
                Some(policy) => Verdict::Allowed(Some(policy)),
                None => Verdict::Denied(Denial { action, policy: None }),
            },
            RbacAction::Deny | RbacAction::Custom => match first(&[Possible::Yes, Possible::Depends]) {
                Some(policy) => Verdict::Denied(Denial { action, policy: Some(policy) }),
                None => Verdict::Allowed(None),
            },
            RbacAction::Log => Verdict::Allowed(first(&[Possible::Yes, Possible::Depends])),
        }
    }

    fn lets_pass(self, filter: &RbacFilter) -> Possible {
        let holds = || any(filter.policies.iter().map(|policy| self.policy(policy)));
        match filter.action {
            RbacAction::Allow => holds(),
            RbacAction::Deny | RbacAction::Custom => not(holds()),
            RbacAction::Log => Possible::Yes,
        }
    }

    fn policy(self, policy: &RbacPolicy) -> Possible {
        and(any(policy.principals.iter().map(|principal| self.principal(principal))), || {
            any(policy.permissions.iter().map(|permission| self.permission(permission)))
        })
    }

    fn permission(self, permission: &Permission) -> Possible {
        let local = self.caller.local;
        match permission {
            Permission::Any => Possible::Yes,
            Permission::And(parts) => all(parts.iter().map(|part| self.permission(part))),
            Permission::Or(parts) => any(parts.iter().map(|part| self.permission(part))),
            Permission::Not(part) => not(self.permission(part)),
            Permission::Header(condition) => self.header(condition),
            Permission::Path(condition) => self.path(condition),
            Permission::PathTemplate(template) => self.of_request(|request| known(template.is_match(request.path))),
            Permission::DestinationPort(port) => known(local.port() == *port),
            Permission::DestinationPorts { from, to } => known((u32::from(*from)..*to).contains(&local.port().into())),
            Permission::DestinationIp(net) => known(holds_address(net, local.ip())),
            // A handshake without a name has none, as in Envoy: the empty text.
            Permission::ServerName(condition) => known(condition.is_match(self.caller.server_name.unwrap_or_default())),
            Permission::Claim(condition) => self.claim(condition),
        }
    }

    fn principal(self, principal: &Principal) -> Possible {
        let caller = self.caller;
        match principal {
            Principal::Any => Possible::Yes,
            Principal::And(parts) => all(parts.iter().map(|part| self.principal(part))),
            Principal::Or(parts) => any(parts.iter().map(|part| self.principal(part))),
            Principal::Not(part) => not(self.principal(part)),
            Principal::Authenticated(name) => {
                known(caller.identity.is_some_and(|identity| {
                    name.as_ref().is_none_or(|condition| condition.is_match(identity.as_str()))
                }))
            }
            Principal::DirectIp(net) => known(holds_address(net, caller.direct.ip())),
            Principal::RemoteIp(net) => self.remote(net),
            Principal::Header(condition) => self.header(condition),
            Principal::Path(condition) => self.path(condition),
            Principal::Claim(condition) => self.claim(condition),
        }
    }

    fn of_request(self, look: impl FnOnce(&RequestView<'a>) -> Possible) -> Possible {
        match self.subject {
            Subject::Request(request) => look(request),
            Subject::AnyRequest | Subject::Bytes => Possible::Depends,
        }
    }

    fn path(self, condition: &StringMatch) -> Possible {
        self.of_request(|request| known(condition.is_match(request.path)))
    }

    fn claim(self, condition: &ClaimMatch) -> Possible {
        self.of_request(|request| known(Claims::fulfil(request.claims, condition)))
    }

    fn header(self, condition: &HeaderMatch) -> Possible {
        self.of_request(|request| {
            let several = match (&condition.key, &condition.value) {
                (HeaderKey::Name(name), Some(wanted)) => several_lines(request.headers, &name.0, wanted),
                _ => None,
            };
            match several {
                Some(found) if condition.invert => not(found),
                Some(found) => found,
                None => known(header_holds(condition, request)),
            }
        })
    }

    fn remote(self, net: &IpNet) -> Possible {
        match self.subject {
            Subject::Request(request) => known(holds_address(net, remote_address(self.caller.direct, request.headers))),
            Subject::AnyRequest => Possible::Depends,
            Subject::Bytes => known(holds_address(net, self.caller.direct.ip())),
        }
    }
}

/// The answer for a header in several lines: each of them, and all of them joined. `None`: there is at most one.
fn several_lines(headers: &HeaderMap, name: &HeaderName, wanted: &StringMatch) -> Option<Possible> {
    let lines = || headers.get_all(name).iter();
    lines().nth(1)?;
    let matches = |text: &str| wanted.is_match(text);
    let joined = joined(headers, name).is_some_and(|text| matches(&text));
    let mut each = lines().map(|line| matches(&String::from_utf8_lossy(line.as_bytes())));
    Some(if each.all(|one| one == joined) { known(joined) } else { Possible::Depends })
}

/// The caller's address as Envoy has it without `use_remote_address` and with no trusted hops: the last entry of
/// `x-forwarded-for`, else (none, or not an address) the other end of the connection.
pub fn remote_address(direct: SocketAddr, headers: &HeaderMap) -> IpAddr {
    headers
        .get_all(name::FORWARDED_FOR)
        .iter()
        .next_back()
        .and_then(|line| line.to_str().ok()?.rsplit(',').next()?.trim().parse().ok())
        .unwrap_or_else(|| direct.ip())
}

/// An IPv4 address may come mapped into IPv6, from a socket that takes both.
fn holds_address(net: &IpNet, address: IpAddr) -> bool {
    net.contains(&address.to_canonical()) || net.contains(&address)
}

fn known(holds: bool) -> Possible {
    if holds { Possible::Yes } else { Possible::No }
}

fn not(one: Possible) -> Possible {
    match one {
        Possible::Yes => Possible::No,
        Possible::No => Possible::Yes,
        Possible::Depends => Possible::Depends,
    }
}

fn and(one: Possible, other: impl FnOnce() -> Possible) -> Possible {
    match one {
        Possible::No => Possible::No,
        Possible::Yes => other(),
        Possible::Depends => {
            if other() == Possible::No {
                Possible::No
            } else {
                Possible::Depends
            }
        }
    }
}

/// `Yes` when all are; stops at the first `No`.
fn all(mut parts: impl Iterator<Item = Possible>) -> Possible {
    let mut sum = Possible::Yes;
    let none = !parts.any(|part| {
        if part == Possible::Depends {
            sum = Possible::Depends;
        }
        part == Possible::No
    });
    if none { sum } else { Possible::No }
}

/// `Yes` when one is; stops at it.
fn any(parts: impl Iterator<Item = Possible>) -> Possible {
    not(all(parts.map(not)))
}
