//! What a caller asks for: the path, the query and the headers, read as the Kubernetes API reads them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use serde_json::Value;

use super::kinds::{Catalogue, Kind};
use super::selector::Selector;
use super::status::Status;

/// What is done to a resource; the words of Kubernetes' roles and of the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Reads one object.
    Get,
    /// Reads all objects.
    List,
    /// Follows the changes.
    Watch,
    /// Makes an object.
    Create,
    /// Replaces an object.
    Update,
    /// Changes an object in part; server-side apply is one of the ways.
    Patch,
    /// Deletes an object.
    Delete,
    /// Deletes all objects that are selected.
    DeleteCollection,
}

impl Verb {
    /// As a role names it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: Option<String>,
    pub(super) groups: Vec<String>,
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// As `authentication/v1 UserInfo`.
    pub(super) fn to_value(&self) -> Value {
        let mut user = serde_json::json!({"username": self.name, "groups": self.groups});
        if let Some(uid) = &self.uid {
            user["uid"] = uid.as_str().into();
        }
        if !self.extra.is_empty() {
            user["extra"] = serde_json::json!(self.extra);
        }
        user
    }
}

/// A request for a resource.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) verb: Verb,
    pub(super) kind: Arc<Kind>,
    /// The version that is spoken.
    pub(super) version: String,
    /// Empty where there is none.
    pub(super) namespace: String,
    /// Empty for a collection.
    pub(super) name: String,
    /// `status`, `token`; empty for the object itself.
    pub(super) subresource: String,
    pub(super) query: Query,
    pub(super) headers: HeaderMap,
    pub(super) user: User,
    pub(super) body: Bytes,
    /// What the answer warns of.
    pub(super) warnings: Arc<Mutex<Vec<String>>>,
}

/// A path below `/api` or `/apis`.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) kind: Arc<Kind>,
    pub(super) version: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) subresource: String,
}

impl Target {
    /// Of a path, if it leads to a resource that is served.
    pub(super) fn parse(path: &str, catalogue: &Catalogue) -> Option<Self> {
        let parts: Vec<String> = path.trim_matches('/').split('/').map(|part| decode(part, Plus::Literal)).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, plural, rest) = match rest {
            // A namespace has no resource of this name below it: these are its own subresources.
            ["namespaces", name, below @ ("status" | "finalize")] => ("", "namespaces", [*name, *below].to_vec()),
            ["namespaces", namespace, plural, rest @ ..] => (*namespace, *plural, rest.to_vec()),
            [plural, rest @ ..] => ("", *plural, rest.to_vec()),
            [] => return None,
        };
        let kind = catalogue.resource(group, version, plural)?;
        let (name, subresource) = match rest.as_slice() {
            [] => ("", ""),
            [name] => (*name, ""),
            [name, subresource] => (*name, *subresource),
            _ => return None,
        };
        let is_served = match subresource {
            "" => true,
            "status" => kind.has_status,
            "token" => kind.is("", "serviceaccounts"),
            _ => false,
        };
        // An object in a namespace is not reached without it.
        let is_reached = kind.is_namespaced() != namespace.is_empty() || (name.is_empty() && namespace.is_empty());
        (is_served && is_reached).then(|| Self {
            kind,
            version: version.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
        })
    }

    /// What a method does here.
    pub(super) fn verb(&self, method: &Method, query: &Query) -> Result<Verb, Status> {
        let is_one = !self.name.is_empty();
        match (method.as_str(), is_one) {
            ("GET", true) => Ok(Verb::Get),
            ("GET", false) if query.flag("watch") => Ok(Verb::Watch),
            ("GET", false) => Ok(Verb::List),
            ("POST", false) => Ok(Verb::Create),
            ("POST", true) if self.subresource == "token" => Ok(Verb::Create),
            ("PUT", true) => Ok(Verb::Update),
            ("PATCH", true) => Ok(Verb::Patch),
            ("DELETE", true) => Ok(Verb::Delete),
            ("DELETE", false) => Ok(Verb::DeleteCollection),
            _ => Err(Status::method_not_allowed()),
        }
    }
}

impl Request {
    /// Who the fields that are written belong to: `fieldManager`, or the start of the user agent.
    pub(super) fn manager(&self) -> String {
        let agent = self.header(header::USER_AGENT.as_str());
        let named = self.query.get("fieldManager").filter(|name| !name.is_empty());
        named.unwrap_or_else(|| agent.split('/').next().unwrap_or_default()).to_owned()
    }

    /// Lets the answer warn of something.
    pub(super) fn warn(&self, text: &str) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }

    /// Whether the caller applies fields that it owns, and does not just change them.
    pub(super) fn is_apply(&self) -> bool {
        self.verb == Verb::Patch && self.content_type() == "application/apply-patch+yaml"
    }

    /// Whether nothing is to be written.
    pub(super) fn is_dry_run(&self) -> bool {
        self.query.get("dryRun").is_some_and(|dry_run| dry_run == "All")
    }

    /// Which objects of a collection are meant.
    pub(super) fn selector(&self) -> Result<Selector, Status> {
        let text = |name: &str| self.query.get(name).unwrap_or_default();
        Selector::parse(text("labelSelector"), text("fieldSelector"))
    }

    /// `Content-Type` without its parameters.
    pub(super) fn content_type(&self) -> &str {
        self.header("content-type").split(';').next().unwrap_or_default().trim()
    }

    /// A header as text; empty when it is not there.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as an object: JSON, or YAML where that is accepted.
    pub(super) fn object(&self) -> Result<Value, Status> {
        let unreadable = |why: String| Status::bad_request(format!("error decoding the body: {why}"));
        let object: Value = match self.content_type() {
            "application/yaml" | "application/apply-patch+yaml" => {
                serde_yaml::from_slice(&self.body).map_err(|error| unreadable(error.to_string()))?
            }
            "application/json" | "" => {
                serde_json::from_slice(&self.body).map_err(|error| unreadable(error.to_string()))?
            }
            other => return Err(Status::unsupported_media_type(other, &["application/json", "application/yaml"])),
        };
        if object.is_object() { Ok(object) } else { Err(unreadable("it is not an object".to_owned())) }
    }
}

/// The parameters of a query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Of the text after the `?`.
    pub(super) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name, Plus::Space), decode(value, Plus::Space))
        });
        Self(pairs.collect())
    }

    /// A parameter, the first of that name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a parameter is set (`1`, `true`, or just there).
    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value, "0" | "f" | "F" | "false" | "FALSE" | "False"))
    }

    /// A number, if there is one.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Status> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let number = text.parse().map_err(|_| Status::bad_request(format!("invalid {name}: {text:?}")))?;
        Ok(Some(number))
    }
}

/// What a `+` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plus {
    /// Itself: in a path.
    Literal,
    /// A space: in a query.
    Space,
}

/// Undoes percent-encoding (RFC 3986); what is not well encoded stays as it is.
fn decode(text: &str, plus: Plus) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = (first == b'%').then(|| after.get(..2)).flatten().and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(if first == b'+' && plus == Plus::Space { b' ' } else { first });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_resources_objects_and_subresources() {
        let catalogue = Catalogue::built_in();
        for (path, expected) in [
            ("/api/v1/pods", Some(("pods", "", "", ""))),
            ("/api/v1/namespaces", Some(("namespaces", "", "", ""))),
            ("/api/v1/namespaces/demo", Some(("namespaces", "", "demo", ""))),
            ("/api/v1/namespaces/demo/status", Some(("namespaces", "", "demo", "status"))),
            ("/api/v1/namespaces/demo/pods", Some(("pods", "demo", "", ""))),
            ("/api/v1/namespaces/demo/pods/a/status", Some(("pods", "demo", "a", "status"))),
            ("/api/v1/namespaces/demo/serviceaccounts/a/token", Some(("serviceaccounts", "demo", "a", "token"))),
            ("/apis/coordination.k8s.io/v1/namespaces/demo/leases/l", Some(("leases", "demo", "l", ""))),
            ("/apis/coordination.k8s.io/v1/namespaces/demo/leases/l/status", None),
            ("/apis/coordination.k8s.io/v2/leases", None),
            ("/api/v1/pods/a", None),
            ("/api/v1/namespaces/demo/nodes", None),
            ("/api/v1", None),
            ("/healthz", None),
        ] {
            let target = Target::parse(path, &catalogue);
            let found = target.as_ref().map(|target| {
                let Target { kind, namespace, name, subresource, .. } = target;
                (kind.plural.as_str(), namespace.as_str(), name.as_str(), subresource.as_str())
            });
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("watch=1&labelSelector=a%3Db%2Cc+in+%28d%29&limit=5&bad=%zz");
        assert!(query.flag("watch") && !query.flag("allowWatchBookmarks"));
        assert_eq!(query.get("labelSelector"), Some("a=b,c in (d)"));
        assert_eq!((query.number("limit").unwrap(), query.get("bad")), (Some(5), Some("%zz")));
        assert_eq!(query.number("bad").unwrap_err().code, 400);
    }
}
