//! Callers, requests and rules in few words.

use http::request::Parts;
use leno_config::identity::SpiffeId;
use leno_config::ir::{
    Authorization, ClaimMatch, HeaderKey, HeaderMatch, Permission, Principal, RbacAction, RbacFilter, RbacPolicy,
    Regex, StringMatch,
};
use leno_proxy::policy::authorization::Caller;
use leno_proxy::policy::jwt::Claims;
use leno_proxy::route::RequestView;

/// Who calls.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    pub(crate) id: Option<SpiffeId>,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) server_name: Option<&'static str>,
}

/// In clear text, from 10.0.0.1 to 10.9.9.9:8080.
pub(crate) const NOBODY: Who = Who { id: None, from: "10.0.0.1:40000", to: "10.9.9.9:8080", server_name: None };

impl Who {
    /// With a certificate.
    pub(crate) fn named(id: &str) -> Self {
        Self { id: Some(SpiffeId::parse(id).expect("an ID")), ..NOBODY }
    }

    pub(crate) fn caller(&self) -> Caller<'_> {
        Caller {
            identity: self.id.as_ref(),
            direct: self.from.parse().expect("an address"),
            local: self.to.parse().expect("an address"),
            server_name: self.server_name,
        }
    }
}

/// `GET http://host/path?query` and headers.
pub(crate) fn head(line: &str, headers: &[(&str, &str)]) -> Parts {
    let (method, uri) = line.split_once(' ').expect("a method and an address");
    let mut request = http::Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request").into_parts().0
}

pub(crate) fn view<'a>(parts: &'a Parts, claims: Option<&'a Claims>) -> RequestView<'a> {
    RequestView {
        method: &parts.method,
        scheme: "http",
        authority: parts.uri.authority().map_or("", |authority| authority.as_str()),
        path: parts.uri.path(),
        query: parts.uri.query(),
        headers: &parts.headers,
        claims,
    }
}

/// `exact`, `prefix*`, `*suffix`, `*part*` or `/regex/`, as one would write them.
pub(crate) fn text(pattern: &str) -> StringMatch {
    let (head, tail) = (pattern.strip_prefix('*'), pattern.strip_suffix('*'));
    let plain = |value: &str| (value.to_owned(), false);
    if let Some(regex) = pattern.strip_prefix('~') {
        return StringMatch::Regex(Regex::new(regex).expect("a regular expression"));
    }
    match (head, tail) {
        (Some(_), Some(_)) => {
            let (value, ignore_case) = plain(pattern.trim_matches('*'));
            StringMatch::Contains { value, ignore_case }
        }
        (Some(end), None) => StringMatch::Suffix { value: end.to_owned(), ignore_case: false },
        (None, Some(start)) => StringMatch::prefix(start),
        (None, None) => StringMatch::exact(pattern),
    }
}

pub(crate) fn header(name: &str, value: Option<&str>) -> HeaderMatch {
    let key = HeaderKey::parse(name).expect("a header name");
    HeaderMatch { key, value: value.map(text), invert: false, missing_is_empty: false }
}

pub(crate) fn claim(path: &str, value: &str) -> ClaimMatch {
    ClaimMatch { path: path.split('.').map(str::to_owned).collect(), value: text(value), invert: false }
}

pub(crate) fn from(pattern: &str) -> Principal {
    Principal::Authenticated(Some(text(pattern)))
}

pub(crate) fn to(path: &str) -> Permission {
    Permission::Path(text(path))
}

/// One policy with one principal and one permission.
pub(crate) fn policy(name: &str, principal: Principal, permission: Permission) -> RbacPolicy {
    RbacPolicy { name: name.to_owned(), permissions: vec![permission], principals: vec![principal] }
}

pub(crate) fn filter(action: RbacAction, policies: Vec<RbacPolicy>) -> RbacFilter {
    RbacFilter { action, policies, shadow: None, enforced: true }
}

/// An ALLOW policy alone.
pub(crate) fn allow(principal: Principal, permission: Permission) -> Authorization {
    Authorization(vec![filter(RbacAction::Allow, vec![policy("allow", principal, permission)])])
}

/// A DENY policy alone.
pub(crate) fn deny(principal: Principal, permission: Permission) -> Authorization {
    Authorization(vec![filter(RbacAction::Deny, vec![policy("deny", principal, permission)])])
}
