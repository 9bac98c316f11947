//! `get` and `list`: objects as they are, as they were, in pages, or only their metadata.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::kinds::Kind;
use super::request::Request;
use super::state::State;
use super::status::Status;
use super::store::{ObjectKey, Objects, TooOld};

/// What is said where a page of a list cannot follow the ones before it.
const CONTINUE_TOO_OLD: &str = "The provided continue parameter is too old to display a consistent list result. You can \
     start a new list without the continue parameter, or use the continue token in this response to retrieve the \
     remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were \
     created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// One object.
pub(super) fn get(state: &State, request: &Request) -> Result<Value, Status> {
    let key = ObjectKey { namespace: request.namespace.clone(), name: request.name.clone() };
    let object = state.world().store.get(&request.kind.key(), &key);
    let object = object.ok_or_else(|| Status::not_found(&request.kind, &request.name))?;
    Ok(Form::of(request).one(&object))
}

/// All objects that are selected, or a page of them.
pub(super) fn list(state: &State, request: &Request) -> Result<Value, Status> {
    let selector = request.selector()?;
    let limit = request.query.number("limit")?.filter(|limit| *limit > 0);
    let page = page(state, request)?;
    let is_selected = |(key, object): &(&ObjectKey, &_)| {
        let object: &Value = object;
        (request.namespace.is_empty() || key.namespace == request.namespace)
            && page.start.as_ref().is_none_or(|start| start <= *key)
            && selector.matches(object)
    };
    let form = Form::of(request);
    let mut selected = page.objects.iter().map(|(key, object)| (key, object.as_ref())).filter(is_selected).peekable();
    let mut items = Vec::new();
    let mut last = None;
    while let Some((key, object)) = selected.next_if(|_| limit.is_none_or(|limit| (items.len() as u64) < limit)) {
        items.push(form.item(object));
        last = Some(key);
    }
    let mut metadata = json!({"resourceVersion": page.version.to_string()});
    if let (Some(last), Some(_)) = (last, selected.peek()) {
        metadata["continue"] = json!(Continue { version: page.version, after: last.clone() }.encode(request));
        // With a selector the real server does not count.
        if request.query.get("labelSelector").is_none() && request.query.get("fieldSelector").is_none() {
            metadata["remainingItemCount"] = json!(selected.count());
        }
    }
    Ok(form.list(metadata, items))
}

/// What a list reads.
struct Page {
    objects: Objects,
    version: u64,
    /// The first that belongs to the page.
    start: Option<ObjectKey>,
}

fn page(state: &State, request: &Request) -> Result<Page, Status> {
    let key = request.kind.key();
    let wanted = request.query.number("resourceVersion")?.unwrap_or_default();
    let world = state.world();
    let now = world.store.version();
    if let Some(token) = request.query.get("continue").filter(|token| !token.is_empty()) {
        let token = Continue::decode(token, request)?;
        let version = if token.version == 0 { now } else { token.version };
        return match world.store.objects_at(&key, version) {
            Ok(objects) => Ok(Page { objects, version, start: Some(token.after) }),
            Err(TooOld { .. }) => {
                let mut status = Status::expired(CONTINUE_TOO_OLD);
                status.remainder = Some(Continue { version: 0, after: token.after }.encode(request));
                Err(status)
            }
        };
    }
    if wanted > now {
        return Err(too_large(wanted, now));
    }
    let is_exact = request.query.get("resourceVersionMatch") == Some("Exact");
    let version = if is_exact { wanted } else { now };
    let too_old = |_| Status::expired("The resourceVersion for the provided list is too old.");
    Ok(Page { objects: world.store.objects_at(&key, version).map_err(too_old)?, version, start: None })
}

/// A version that is not there yet: the caller shall ask again.
fn too_large(wanted: u64, now: u64) -> Status {
    let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
    Status::new(
        StatusCode::GATEWAY_TIMEOUT,
        "Timeout",
        format!("Timeout: Too large resource version: {wanted}, current: {now}"),
    )
    .with_details(json!({"causes": [cause], "retryAfterSeconds": 1}))
}

/// Where a list goes on.
struct Continue {
    /// The version of the first page; 0 for whatever is there now.
    version: u64,
    /// The last object of the page before, or the first that is wanted: the token ends in a NUL, as in the real server.
    after: ObjectKey,
}

impl Continue {
    fn encode(&self, request: &Request) -> String {
        let ObjectKey { namespace, name } = &self.after;
        let name = name.trim_end_matches('\0');
        let start = if request.namespace.is_empty() && request.kind.is_namespaced() {
            format!("{namespace}/{name}\0")
        } else {
            format!("/{name}\0")
        };
        let version = if self.version == 0 { json!(-1) } else { json!(self.version) };
        URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": version, "start": start}).to_string())
    }

    fn decode(token: &str, request: &Request) -> Result<Self, Status> {
        let not_valid =
            |why: &str| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|error| not_valid(&error.to_string()))?;
        let read: Value = serde_json::from_slice(&bytes).map_err(|_| {
            let first = bytes.first().copied().map_or(' ', char::from);
            not_valid(&format!("invalid character '{first}' looking for beginning of value"))
        })?;
        let start = read["start"].as_str().ok_or_else(|| not_valid("no start"))?;
        let (namespace, name) = start.split_once('/').ok_or_else(|| not_valid("no namespace"))?;
        let namespace = if namespace.is_empty() { request.namespace.as_str() } else { namespace };
        let after = ObjectKey { namespace: namespace.to_owned(), name: name.to_owned() };
        Ok(Self { version: read["rv"].as_u64().unwrap_or_default(), after })
    }
}

/// How objects are shown to a caller.
pub(super) struct Form<'a> {
    kind: &'a Kind,
    version: &'a str,
    metadata_only: bool,
}

impl<'a> Form<'a> {
    /// As a request asks for it.
    pub(super) fn of(request: &'a Request) -> Self {
        let metadata_only = request.header("accept").contains("as=PartialObjectMetadata");
        Self { kind: &request.kind, version: &request.version, metadata_only }
    }

    /// An object by itself.
    pub(super) fn one(&self, object: &Value) -> Value {
        let mut shown = match self.metadata_only {
            true => json!({"metadata": object["metadata"]}),
            false => object.clone(),
        };
        shown["apiVersion"] = json!(self.api_version());
        shown["kind"] = json!(if self.metadata_only { "PartialObjectMetadata" } else { &self.kind.kind });
        shown
    }

    /// An object in a list, where Kubernetes' own kinds do not repeat what they are.
    fn item(&self, object: &Value) -> Value {
        let mut item = self.one(object);
        if !self.kind.is_defined() && !self.metadata_only {
            item.as_object_mut().into_iter().for_each(strip_type);
        }
        item
    }

    fn list(&self, metadata: Value, items: Vec<Value>) -> Value {
        let kind = if self.metadata_only { "PartialObjectMetadata" } else { &self.kind.kind };
        json!({
            "kind": format!("{kind}List"),
            "apiVersion": self.api_version(),
            "metadata": metadata,
            "items": items,
        })
    }

    /// Nothing but a version, for a bookmark.
    pub(super) fn bookmark(&self, version: u64) -> Value {
        self.one(&json!({"metadata": {"resourceVersion": version.to_string()}}))
    }

    fn api_version(&self) -> String {
        if self.metadata_only { "meta.k8s.io/v1".to_owned() } else { self.kind.api_version(self.version) }
    }
}

fn strip_type(object: &mut Map<String, Value>) {
    object.remove("kind");
    object.remove("apiVersion");
}
