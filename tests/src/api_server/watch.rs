//! `watch`: the changes of a resource as they happen, one JSON object per line.
//!
//! A watch begins at a version, or with all objects as `ADDED`; it goes on through the history of the store, so a slow
//! reader loses nothing until the history does: then it gets what a real watch gets, an `ERROR` event of code 410 inside
//! an answer of code 200. Bookmarks say how far a watch is where nothing happens.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::read::Form;
use super::request::Request;
use super::selector::Selector;
use super::state::{Signals, State};
use super::status::Status;
use super::store::{Change, TooOld};
use crate::client::{Body, stream};

/// How long a watch lasts that says nothing of it.
const DEFAULT_LIFE: Duration = Duration::from_secs(1800);

/// Between two bookmarks. The real server takes a minute; nobody may depend on it.
const BOOKMARK_EVERY: Duration = Duration::from_secs(10);

/// How long a reader may take for one event.
const READER_PATIENCE: Duration = Duration::from_secs(60);

type Sender = mpsc::Sender<std::io::Result<Frame<Bytes>>>;

/// Begins a watch: its body, which is written by a task that ends with it.
pub(super) fn watch(state: &Arc<State>, request: Request) -> Result<Body, Status> {
    let selector = request.selector()?;
    let life = request.query.number("timeoutSeconds")?.map_or(DEFAULT_LIFE, Duration::from_secs);
    let version = request.query.number("resourceVersion")?.unwrap_or_default();
    let beginning = beginning(&request, version)?;
    let (sender, body) = stream();
    let bookmarks = request.query.flag("allowWatchBookmarks");
    let follower = Follower { state: Arc::clone(state), request, selector, sender, bookmarks, cursor: version };
    tokio::spawn(async move {
        // Whatever ends it, a closed connection or its time, the body ends with the sender.
        let _ = tokio::time::timeout(life, follower.run(beginning)).await;
    });
    Ok(body)
}

/// How a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    /// With what comes after a version.
    After,
    /// With all objects.
    Everything,
    /// With all objects, and a bookmark that says so.
    EverythingAndBookmark,
}

fn beginning(request: &Request, version: u64) -> Result<Beginning, Status> {
    if request.query.flag("sendInitialEvents") {
        if request.query.get("resourceVersionMatch") != Some("NotOlderThan") {
            let why = "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to \
                 NotOlderThan";
            return Err(Status::new(http::StatusCode::UNPROCESSABLE_ENTITY, "Invalid", why));
        }
        return Ok(Beginning::EverythingAndBookmark);
    }
    let only_after = request.query.get("sendInitialEvents").is_some();
    Ok(if version == 0 && !only_after { Beginning::Everything } else { Beginning::After })
}

/// Why a watch ends.
enum End {
    /// Nobody reads it any more.
    Unread,
    /// Its last event was an error, or there is nothing more to come.
    Told,
}

struct Follower {
    state: Arc<State>,
    request: Request,
    selector: Selector,
    sender: Sender,
    bookmarks: bool,
    /// The version up to which everything is told.
    cursor: u64,
}

impl Follower {
    async fn run(mut self, beginning: Beginning) {
        let mut signals = self.state.signals();
        let seen = *signals.borrow_and_update();
        if self.begin(beginning, seen).await.is_err() {
            return;
        }
        let mut seen = seen;
        let mut next_bookmark = Instant::now() + BOOKMARK_EVERY;
        loop {
            let now = *signals.borrow_and_update();
            if self.step(seen, now).await.is_err() {
                return;
            }
            if now.bookmarks > seen.bookmarks || Instant::now() >= next_bookmark {
                if self.bookmark(None).await.is_err() {
                    return;
                }
                next_bookmark = Instant::now() + BOOKMARK_EVERY;
            }
            seen = now;
            tokio::select! {
                changed = signals.changed() => if changed.is_err() { return },
                () = self.sender.closed() => return,
                () = tokio::time::sleep_until(next_bookmark) => {}
            }
        }
    }

    async fn begin(&mut self, beginning: Beginning, seen: Signals) -> Result<(), End> {
        if beginning == Beginning::After {
            // One from before this server's memory is told at the first step.
            self.cursor = if self.cursor == 0 { seen.version } else { self.cursor };
            return Ok(());
        }
        let (objects, version) = {
            let world = self.state.world();
            (world.store.objects(&self.request.kind.key()), world.store.version())
        };
        self.cursor = version;
        for object in objects.values().filter(|object| self.selects(object)) {
            self.tell("ADDED", Form::of(&self.request).one(object)).await?;
        }
        match beginning {
            Beginning::EverythingAndBookmark => self.bookmark(Some("k8s.io/initial-events-end")).await,
            Beginning::Everything | Beginning::After => Ok(()),
        }
    }

    /// Tells what happened between two looks.
    async fn step(&mut self, seen: Signals, now: Signals) -> Result<(), End> {
        if now.dropped > seen.dropped {
            let cut = std::io::Error::other("the watch was cut by the test");
            let _ = self.sender.send(Err(cut)).await;
            return Err(End::Told);
        }
        let (changes, version) = {
            let world = self.state.world();
            let Request { kind, version, .. } = &self.request;
            if world.catalogue.resource(&kind.group, version, &kind.plural).is_none() {
                return Err(End::Told);
            }
            (world.store.changes_since(&kind.key(), self.cursor), world.store.version())
        };
        let changes = match changes {
            Ok(changes) if now.expired == seen.expired => changes,
            Ok(_) => return self.expired(version).await,
            Err(TooOld { forgotten }) => return self.expired(forgotten).await,
        };
        for change in changes {
            self.cursor = change.version;
            if let Some((event, object)) = self.event(&change) {
                self.tell(event, Form::of(&self.request).one(&object)).await?;
            }
        }
        self.cursor = self.cursor.max(version);
        Ok(())
    }

    /// What a change is to this watch: an object may come into what is selected, or leave it.
    fn event(&self, change: &Change) -> Option<(&'static str, Value)> {
        let was = change.before.as_ref().filter(|before| self.selects(before));
        let is = !change.deleted && self.selects(&change.object);
        match (was, is) {
            (None, false) => None,
            (None, true) => Some(("ADDED", Value::clone(&change.object))),
            (Some(_), true) => Some(("MODIFIED", Value::clone(&change.object))),
            (Some(_), false) if change.deleted => Some(("DELETED", Value::clone(&change.object))),
            (Some(before), false) => {
                // As it was when it was last selected, at the version at which it left.
                let mut object = Value::clone(before);
                object["metadata"]["resourceVersion"] = json!(change.version.to_string());
                Some(("DELETED", object))
            }
        }
    }

    fn selects(&self, object: &Value) -> bool {
        let namespace = self.request.namespace.as_str();
        let is_here = namespace.is_empty() || object["metadata"]["namespace"] == namespace;
        let name = self.request.name.as_str();
        let is_it = name.is_empty() || object["metadata"]["name"] == name;
        is_here && is_it && self.selector.matches(object)
    }

    async fn bookmark(&self, annotation: Option<&str>) -> Result<(), End> {
        if !self.bookmarks {
            return Ok(());
        }
        let mut bookmark = Form::of(&self.request).bookmark(self.cursor);
        if let Some(annotation) = annotation {
            bookmark["metadata"]["annotations"] = json!({annotation: "true"});
        }
        self.tell("BOOKMARK", bookmark).await
    }

    async fn expired(&self, forgotten: u64) -> Result<(), End> {
        let status = Status::expired(format!("too old resource version: {} ({forgotten})", self.cursor));
        self.tell("ERROR", status.to_value()).await?;
        Err(End::Told)
    }

    async fn tell(&self, event: &str, object: Value) -> Result<(), End> {
        let mut line = json!({"type": event, "object": object}).to_string();
        line.push('\n');
        let sent = self.sender.send_timeout(Ok(Frame::data(line.into())), READER_PATIENCE).await;
        sent.map_err(|_| End::Unread)
    }
}
