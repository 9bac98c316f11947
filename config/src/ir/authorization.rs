//! Who may do what: Envoy's RBAC filters, as conditions on a request or connection.
//!
//! A listener has a list of filters. Each is passed in order, and the first that denies ends the request: Istio's order
//! is DENY, then ALLOW (which denies what no policy allows). Conditions form trees, as on the wire, so that a foreign
//! control plane can say whatever Envoy understands.

use ipnet::IpNet;
use serde::Serialize;

use super::{HeaderMatch, Invalid, StringMatch};

/// Filters in the order in which they are passed; empty: everything may pass.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Authorization(pub Vec<RbacFilter>);

/// One filter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RbacFilter {
    /// What a matching policy means.
    pub action: RbacAction,
    /// In the order of their names. `Allow` with none denies everything (Istio's `spec: {}`).
    pub policies: Vec<RbacPolicy>,
    /// Dry run: evaluated, counted and logged, never enforced.
    pub shadow: Option<Shadow>,
    /// Whether `policies` are enforced; `false` when only the dry run is there.
    pub enforced: bool,
}

/// Policies that are only tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shadow {
    /// What a matching policy would mean.
    pub action: RbacAction,
    /// In the order of their names.
    pub policies: Vec<RbacPolicy>,
}

/// What it means that a policy matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RbacAction {
    /// Passes what matches, denies the rest.
    Allow,
    /// Denies what matches, passes the rest.
    Deny,
    /// Passes everything and logs what matches (Istio's AUDIT).
    Log,
    /// Istio's CUSTOM: asks a service outside. Leno has none and denies what matches (403 with a clear sentence).
    Custom,
}

/// Matches when one of the permissions and one of the principals do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RbacPolicy {
    /// `ns[NAMESPACE]-policy[NAME]-rule[INDEX]` (Istio); named in the log.
    pub name: String,
    /// What is done; one of them.
    pub permissions: Vec<Permission>,
    /// By whom; one of them.
    pub principals: Vec<Principal>,
}

/// A condition on what is done.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Always.
    Any,
    /// All of them.
    And(Vec<Permission>),
    /// One of them.
    Or(Vec<Permission>),
    /// Not this.
    Not(Box<Permission>),
    /// A header or pseudo header (`:method`, `:authority`, `:path`). Never on TCP.
    Header(HeaderMatch),
    /// The path without its query. Never on TCP.
    Path(StringMatch),
    /// The path without its query, against a template. Never on TCP.
    PathTemplate(PathTemplate),
    /// The port that was called.
    DestinationPort(u16),
    /// `from` inclusive, `to` exclusive.
    DestinationPorts {
        /// First.
        from: u16,
        /// One past the last.
        to: u32,
    },
    /// The address that was called.
    DestinationIp(IpNet),
    /// The server name of the TLS handshake.
    ServerName(StringMatch),
    /// A verified claim.
    Claim(ClaimMatch),
}

/// A condition on who does it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Principal {
    /// Everybody.
    Any,
    /// All of them.
    And(Vec<Principal>),
    /// One of them.
    Or(Vec<Principal>),
    /// Not this.
    Not(Box<Principal>),
    /// The peer's SPIFFE ID (`spiffe://…`), from a verified certificate; `None`: any verified peer.
    Authenticated(Option<StringMatch>),
    /// The address of the connection.
    DirectIp(IpNet),
    /// The caller's address: by the trusted hops of `x-forwarded-for`, else that of the connection.
    RemoteIp(IpNet),
    /// A header or pseudo header. Never on TCP.
    Header(HeaderMatch),
    /// The path without its query. Never on TCP.
    Path(StringMatch),
    /// A verified claim. Never on TCP.
    Claim(ClaimMatch),
}

/// A condition on a claim of a verified token.
///
/// `path` leads into the claims (`["iss"]`, `["realm", "roles"]`). A claim that is a list matches when one of its parts
/// does, and so do `scope` and `permission` when they are texts with spaces (Istio).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClaimMatch {
    /// From the outermost key inward; not empty.
    pub path: Vec<String>,
    /// On the claim, as text.
    pub value: StringMatch,
    /// Holds where the claim does not match, or is missing.
    pub invert: bool,
}

/// A path with `{*}` (one segment) and `{**}` (any number of segments, at most once); Envoy's URI template, which spells
/// them `*` and `**`. Two spellings of one template are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate {
    written: String,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// Exactly one segment, not empty.
    One,
    /// The rest: what comes before and after is matched from the ends.
    Many,
}

impl PathTemplate {
    /// Reads a template: begins with `/`; an operator is a whole segment; `{**}` at most once, and after it no `{*}`
    /// (Istio's rule).
    pub fn new(written: &str) -> Result<Self, Invalid> {
        let rest = written
            .strip_prefix('/')
            .ok_or_else(|| Invalid(format!("the path template `{written}` does not begin with `/`")))?;
        let mut segments = Vec::new();
        let mut many = false;
        for segment in rest.split('/') {
            match segment {
                "*" | "{*}" if many => {
                    return Err(Invalid(format!("in `{written}`, no `{{*}}` may follow `{{**}}`")));
                }
                "*" | "{*}" => segments.push(Segment::One),
                "**" | "{**}" if many => {
                    return Err(Invalid(format!("in `{written}`, `{{**}}` may stand only once")));
                }
                "**" | "{**}" => {
                    many = true;
                    segments.push(Segment::Many);
                }
                other if other.contains(['*', '{', '}']) => {
                    return Err(Invalid(format!("in `{written}`, `{{*}}` and `{{**}}` stand for whole segments")));
                }
                other => segments.push(Segment::Literal(other.to_owned())),
            }
        }
        let spelt = |segment: &Segment| match segment {
            Segment::Literal(text) => text.clone(),
            Segment::One => "{*}".to_owned(),
            Segment::Many => "{**}".to_owned(),
        };
        let written = segments.iter().map(|segment| format!("/{}", spelt(segment))).collect();
        Ok(Self { written, segments })
    }

    /// In Istio's spelling, with braces.
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// Whether a path (without query) has this form.
    pub fn is_match(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix('/') else { return false };
        let parts = rest.split('/').count();
        let fits = |segment: &Segment, part: &str| match segment {
            Segment::Literal(text) => text == part,
            Segment::One => !part.is_empty(),
            Segment::Many => true,
        };
        let Some(many) = self.segments.iter().position(|segment| *segment == Segment::Many) else {
            return parts == self.segments.len()
                && self.segments.iter().zip(rest.split('/')).all(|(segment, part)| fits(segment, part));
        };
        let after = self.segments.len().saturating_sub(many).saturating_sub(1);
        parts >= many.saturating_add(after)
            && self.segments.iter().take(many).zip(rest.split('/')).all(|(segment, part)| fits(segment, part))
            && self.segments.iter().rev().take(after).zip(rest.rsplit('/')).all(|(segment, part)| fits(segment, part))
    }
}

impl Serialize for PathTemplate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_matches_whole_segments() {
        let rows = [
            ("/a/{*}/c", "/a/b/c", true),
            ("/a/{*}/c", "/a//c", false),
            ("/a/{*}/c", "/a/b/x/c", false),
            ("/a/*", "/a/b", true),
            ("/a/*", "/a", false),
            ("/a/*", "/a/", false),
            ("/a/{**}", "/a/b/c", true),
            ("/a/{**}", "/a/", true),
            ("/a/{**}", "/ab", false),
            ("/{**}/z", "/z", true),
            ("/{**}/z", "/x/y/z", true),
            ("/{**}/z", "/x/y/zz", false),
            ("/{*}/{**}/z", "/x/z", true),
            ("/{*}/{**}/z", "/z", false),
            ("/a", "/a", true),
            ("/a", "/A", false),
            ("/a", "a", false),
        ];
        for (template, path, expected) in rows {
            assert_eq!(PathTemplate::new(template).expect(template).is_match(path), expected, "{template} {path}");
        }
        for wrong in ["a", "/a{*}", "/{**}/{*}", "/{**}/{**}", "/{x}", "/a*"] {
            assert!(PathTemplate::new(wrong).is_err(), "{wrong}");
        }
    }
}
