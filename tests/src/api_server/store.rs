//! What the server remembers: objects, one counter of versions for all of them, and the last changes of each resource.
//!
//! Every write takes the next version of the whole store, as in etcd; a list answers the version it was read at, and a
//! watch goes on from there through the changes. The history of a resource is bounded: whoever asks for a version from
//! before it is told that it expired, which is what a client has to survive (`410`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

/// Changes that a resource remembers.
const HISTORY: usize = 4096;

/// The first version that is ever given: what a client remembers from another life lies before it.
const FIRST_VERSION: u64 = 100;

/// A resource, whatever version of it is spoken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ResourceKey {
    /// Empty for the core group.
    pub(super) group: String,
    /// Its plural name.
    pub(super) plural: String,
}

/// An object of a resource; the namespace is empty where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ObjectKey {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl ObjectKey {
    /// Of an object that says its name.
    pub(super) fn of(object: &Value) -> Self {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        Self { namespace: text("namespace"), name: text("name") }
    }
}

/// Objects by their names, in the order of a list.
pub(super) type Objects = BTreeMap<ObjectKey, Arc<Value>>;

/// Everything, at one version.
#[derive(Debug)]
pub(super) struct Store {
    version: u64,
    resources: BTreeMap<ResourceKey, Resource>,
}

#[derive(Debug)]
struct Resource {
    objects: Objects,
    history: VecDeque<Change>,
    /// What happened up to this version is forgotten.
    forgotten: u64,
}

/// One write.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// The version it made.
    pub(super) version: u64,
    /// The object before, if there was one.
    pub(super) before: Option<Arc<Value>>,
    /// The object after it, or as it was deleted.
    pub(super) object: Arc<Value>,
    /// Whether it is gone.
    pub(super) deleted: bool,
}

/// That a version lies before what is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooOld {
    /// The last version that is forgotten.
    pub(super) forgotten: u64,
}

impl Store {
    /// Empty.
    pub(super) fn new() -> Self {
        Self { version: FIRST_VERSION, resources: BTreeMap::new() }
    }

    /// The version of the last write.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// An object.
    pub(super) fn get(&self, resource: &ResourceKey, key: &ObjectKey) -> Option<Arc<Value>> {
        self.resources.get(resource)?.objects.get(key).map(Arc::clone)
    }

    /// All objects of a resource.
    pub(super) fn objects(&self, resource: &ResourceKey) -> Objects {
        self.resources.get(resource).map(|resource| resource.objects.clone()).unwrap_or_default()
    }

    /// All objects of a resource as they were at a version.
    pub(super) fn objects_at(&self, resource: &ResourceKey, version: u64) -> Result<Objects, TooOld> {
        let Some(resource) = self.resources.get(resource) else { return Ok(Objects::new()) };
        resource.remembers(version)?;
        let mut objects = resource.objects.clone();
        for change in resource.history.iter().rev().take_while(|change| change.version > version) {
            let key = ObjectKey::of(&change.object);
            match &change.before {
                Some(before) => objects.insert(key, Arc::clone(before)),
                None => objects.remove(&key),
            };
        }
        Ok(objects)
    }

    /// What happened to a resource after a version, oldest first.
    pub(super) fn changes_since(&self, resource: &ResourceKey, version: u64) -> Result<Vec<Change>, TooOld> {
        let Some(resource) = self.resources.get(resource) else { return Ok(Vec::new()) };
        resource.remembers(version)?;
        let first = resource.history.partition_point(|change| change.version <= version);
        Ok(resource.history.range(first..).cloned().collect())
    }

    /// Puts an object in, in place of the one of that name; it is given the next version.
    pub(super) fn put(&mut self, resource: &ResourceKey, mut object: Value) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let (key, object) = (ObjectKey::of(&object), Arc::new(object));
        let version = self.version;
        let resource = self.resource(resource);
        let before = resource.objects.insert(key, Arc::clone(&object));
        resource.remember(Change { version, before, object: Arc::clone(&object), deleted: false });
        object
    }

    /// Takes an object out; as it went, it has the next version.
    pub(super) fn remove(&mut self, resource: &ResourceKey, key: &ObjectKey) -> Option<Arc<Value>> {
        let before = self.resources.get_mut(resource)?.objects.remove(key)?;
        self.version += 1;
        let mut object = Value::clone(&before);
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let (version, object) = (self.version, Arc::new(object));
        let change = Change { version, before: Some(before), object: Arc::clone(&object), deleted: true };
        self.resource(resource).remember(change);
        Some(object)
    }

    /// Begins to serve a resource: nothing from before is known of it.
    pub(super) fn serve(&mut self, resource: &ResourceKey) {
        self.resource(resource);
    }

    /// Stops serving a resource, whose objects are lost.
    pub(super) fn stop_serving(&mut self, resource: &ResourceKey) {
        self.resources.remove(resource);
    }

    /// Forgets every change until now.
    pub(super) fn forget_history(&mut self) {
        for resource in self.resources.values_mut() {
            resource.history.clear();
            resource.forgotten = self.version;
        }
    }

    /// Takes a version that nothing happened in, so that those before it can be told from those after it.
    pub(super) fn skip_version(&mut self) {
        self.version += 1;
    }

    fn resource(&mut self, resource: &ResourceKey) -> &mut Resource {
        let forgotten = self.version;
        self.resources.entry(resource.clone()).or_insert_with(|| Resource {
            objects: Objects::new(),
            history: VecDeque::new(),
            forgotten,
        })
    }
}

impl Resource {
    fn remembers(&self, version: u64) -> Result<(), TooOld> {
        if version < self.forgotten { Err(TooOld { forgotten: self.forgotten }) } else { Ok(()) }
    }

    fn remember(&mut self, change: Change) {
        while self.history.len() >= HISTORY {
            if let Some(oldest) = self.history.pop_front() {
                self.forgotten = oldest.version;
            }
        }
        self.history.push_back(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps() -> ResourceKey {
        ResourceKey { group: String::new(), plural: "configmaps".to_owned() }
    }

    fn map(name: &str, data: &str) -> Value {
        json!({"metadata": {"namespace": "demo", "name": name}, "data": {"a": data}})
    }

    fn names(objects: &Objects) -> Vec<&str> {
        objects.keys().map(|key| key.name.as_str()).collect()
    }

    #[test]
    fn every_write_of_whatever_resource_takes_the_next_version() {
        let mut store = Store::new();
        store.serve(&maps());
        let leases = ResourceKey { group: "coordination.k8s.io".to_owned(), plural: "leases".to_owned() };
        let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        let first = store.put(&maps(), map("a", "1"));
        let second = store.put(&leases, map("b", "1"));
        let third = store.remove(&maps(), &ObjectKey::of(&first)).unwrap();
        let expected: Vec<String> = (FIRST_VERSION + 1..FIRST_VERSION + 4).map(|version| version.to_string()).collect();
        assert_eq!([version(&first), version(&second), version(&third)], *expected);
    }

    #[test]
    fn a_resource_can_be_read_as_it_was() {
        let mut store = Store::new();
        store.serve(&maps());
        let start = store.version();
        store.put(&maps(), map("a", "1"));
        let after_a = store.version();
        let changed = store.put(&maps(), map("a", "2"));
        store.put(&maps(), map("b", "1"));
        store.remove(&maps(), &ObjectKey::of(&changed));
        assert_eq!(names(&store.objects(&maps())), ["b"]);
        let then = store.objects_at(&maps(), after_a).unwrap();
        assert_eq!(names(&then), ["a"]);
        assert_eq!(then.values().next().unwrap()["data"]["a"], "1");
        assert!(store.objects_at(&maps(), start).unwrap().is_empty());
        assert_eq!(store.changes_since(&maps(), after_a).unwrap().len(), 3);
    }

    #[test]
    fn history_is_bounded_and_says_where_it_begins() {
        let mut store = Store::new();
        store.serve(&maps());
        let start = store.version();
        for round in 0..=HISTORY {
            store.put(&maps(), map("a", &round.to_string()));
        }
        assert_eq!(store.changes_since(&maps(), start).unwrap_err(), TooOld { forgotten: start + 1 });
        assert_eq!(store.changes_since(&maps(), start + 1).unwrap().len(), HISTORY);
        store.forget_history();
        assert_eq!(store.objects_at(&maps(), store.version() - 1).unwrap_err().forgotten, store.version());
        assert_eq!(store.changes_since(&maps(), store.version()).unwrap().len(), 0);
    }
}
