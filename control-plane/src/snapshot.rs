//! What one proxy is to hold: an immutable, consistent set of resources, encoded once and shared by all streams.
//!
//! A [`Resource`] carries the very bytes that go onto the wire, so that a push to a thousand proxies copies pointers.
//! Resources that are equal in two snapshots (of two namespaces, or of two generations of the rules) are one value:
//! [`Shelf`] hands out the one that is already there.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use leno_config::xds::grpc::Remarks;
use leno_config::xds::{Encoded, Kind};
use prost::Message as _;
use prost::encoding::{message, string};
use xxhash_rust::xxh3::Xxh3;

/// What one proxy is to hold.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    clusters: Arc<Set>,
    endpoints: Arc<Set>,
    secrets: Arc<Set>,
    listeners: Arc<Set>,
    routes: Arc<Set>,
    /// What could not be said in the words of the client.
    remarks: Remarks,
}

/// All resources of one kind.
#[derive(Debug, Default)]
pub(crate) struct Set {
    /// A hash over names and versions: equal in every process for equal contents.
    pub(crate) version: Arc<str>,
    /// By name.
    pub(crate) resources: BTreeMap<Arc<str>, Arc<Resource>>,
}

/// One resource, ready for the wire.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) name: Arc<str>,
    /// Hash of the canonical IR.
    pub(crate) version: Arc<str>,
    /// A `DeltaDiscoveryResponse` with this resource and nothing else. Messages of protobuf are joined by joining their
    /// bytes, so a response is its head and the bytes of its resources.
    pub(crate) bytes: Bytes,
    /// The part of `bytes` that is a `DiscoveryResponse` with this resource and nothing else: in the one message
    /// `resources` is field 2 and in the other `resource` is, both hold an `Any`, and so their bytes are the same.
    pub(crate) state: Bytes,
}

impl Snapshot {
    /// Takes what was compiled; equal resources come from the shelf.
    pub(crate) fn new(mut encoded: BTreeMap<Kind, BTreeMap<String, Encoded>>, shelf: &mut Shelf) -> Self {
        let mut set = |kind| Arc::new(Set::new(kind, encoded.remove(&kind).unwrap_or_default(), shelf));
        Self {
            clusters: set(Kind::Cluster),
            endpoints: set(Kind::Endpoints),
            secrets: set(Kind::Secret),
            listeners: set(Kind::Listener),
            routes: set(Kind::Route),
            remarks: Remarks::new(),
        }
    }

    /// The same with newer versions of some clusters and endpoints; what is equal stays the very same, so that nobody
    /// compares it again.
    pub(crate) fn with(&self, mut encoded: BTreeMap<Kind, BTreeMap<String, Encoded>>, shelf: &mut Shelf) -> Self {
        let mut newer = |kind: Kind| {
            let old = self.set(kind);
            let encoded = encoded.remove(&kind).unwrap_or_default();
            let is_newer = |(name, encoded): &(String, Encoded)| {
                old.resources.get(name.as_str()).is_none_or(|known| *known.version != *encoded.version)
            };
            let differing = encoded.into_iter().filter(is_newer).collect::<BTreeMap<_, _>>();
            match differing.is_empty() {
                true => Arc::clone(old),
                false => Arc::new(old.with(kind, differing, shelf)),
            }
        };
        Self {
            clusters: newer(Kind::Cluster),
            endpoints: newer(Kind::Endpoints),
            secrets: Arc::clone(&self.secrets),
            listeners: Arc::clone(&self.listeners),
            routes: Arc::clone(&self.routes),
            remarks: self.remarks.clone(),
        }
    }

    /// The same with what it could not say.
    pub(crate) fn with_remarks(self, remarks: Remarks) -> Self {
        Self { remarks, ..self }
    }

    /// What could not be said of which resources.
    pub(crate) fn remarks(&self) -> &Remarks {
        &self.remarks
    }

    /// All resources of a kind.
    pub(crate) fn set(&self, kind: Kind) -> &Arc<Set> {
        match kind {
            Kind::Cluster => &self.clusters,
            Kind::Endpoints => &self.endpoints,
            Kind::Secret => &self.secrets,
            Kind::Listener => &self.listeners,
            Kind::Route => &self.routes,
        }
    }
}

impl Set {
    fn new(kind: Kind, encoded: BTreeMap<String, Encoded>, shelf: &mut Shelf) -> Self {
        let shelved = encoded.into_iter().map(|(name, encoded)| shelf.take(kind, &name, encoded));
        let resources = shelved.map(|resource| (Arc::clone(&resource.name), resource)).collect::<BTreeMap<_, _>>();
        Self { version: Self::version_of(resources.values()), resources }
    }

    fn with(&self, kind: Kind, encoded: BTreeMap<String, Encoded>, shelf: &mut Shelf) -> Self {
        let mut resources = self.resources.clone();
        for (name, encoded) in encoded {
            let resource = shelf.take(kind, &name, encoded);
            resources.insert(Arc::clone(&resource.name), resource);
        }
        Self { version: Self::version_of(resources.values()), resources }
    }

    /// The version of a set of these, which come in the order of their names.
    pub(crate) fn version_of<'a>(resources: impl Iterator<Item = &'a Arc<Resource>>) -> Arc<str> {
        let mut hash = Xxh3::new();
        for resource in resources {
            // Neither names nor versions hold a line feed, so the text that is hashed is unambiguous.
            for part in [&*resource.name, "\n", &*resource.version, "\n"] {
                hash.update(part.as_bytes());
            }
        }
        format!("{:032x}", hash.digest128()).into()
    }
}

impl Resource {
    fn new(name: &str, encoded: Encoded) -> Self {
        let Encoded { version, any } = encoded;
        // Fields are written in the order of their numbers: the version, the message, the name.
        let before = string::encoded_len(1, &version);
        let length = message::encoded_len(2, &any);
        let resource = discovery::Resource {
            name: name.to_owned(),
            version: version.clone(),
            resource: Some(any),
            ..discovery::Resource::default()
        };
        let inner = resource.encoded_len();
        let response = discovery::DeltaDiscoveryResponse { resources: vec![resource], ..Default::default() };
        let bytes = Bytes::from(response.encode_to_vec());
        let start = bytes.len() - inner + before;
        Self { name: name.into(), version: version.into(), state: bytes.slice(start..start + length), bytes }
    }
}

/// The resources that some snapshot holds at this moment, so that equal ones are kept once.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    resources: HashMap<(Kind, Arc<str>), Weak<Resource>>,
}

/// How much there is of one kind of resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Different ones.
    pub(crate) resources: usize,
    /// As they are sent.
    pub(crate) bytes: usize,
}

impl Shelf {
    fn take(&mut self, kind: Kind, name: &str, encoded: Encoded) -> Arc<Resource> {
        let key = (kind, Arc::<str>::from(encoded.version.as_str()));
        if let Some(known) = self.resources.get(&key).and_then(Weak::upgrade).filter(|known| &*known.name == name) {
            return known;
        }
        let resource = Arc::new(Resource::new(name, encoded));
        self.resources.insert(key, Arc::downgrade(&resource));
        resource
    }

    /// How much of each kind some snapshot holds.
    pub(crate) fn size(&self) -> BTreeMap<Kind, Size> {
        let mut sizes = BTreeMap::<_, Size>::new();
        for ((kind, _), resource) in &self.resources {
            if let Some(resource) = resource.upgrade() {
                let size = sizes.entry(*kind).or_default();
                size.resources += 1;
                size.bytes += resource.bytes.len();
            }
        }
        sizes
    }

    /// Forgets what no snapshot holds any more; called once per generation, so that the shelf stays as large as what
    /// is in use.
    pub(crate) fn tidy(&mut self) {
        self.resources.retain(|_, resource| resource.strong_count() > 0);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use envoy_types::pb::google::protobuf::Any;

    /// A snapshot of resources given as (kind, name, version).
    pub(crate) fn snapshot(resources: &[(Kind, &str, &str)]) -> Arc<Snapshot> {
        Arc::new(Snapshot::new(encoded(resources), &mut Shelf::default()))
    }

    fn encoded(resources: &[(Kind, &str, &str)]) -> BTreeMap<Kind, BTreeMap<String, Encoded>> {
        let mut encoded = BTreeMap::<Kind, BTreeMap<String, Encoded>>::new();
        for (kind, name, version) in resources {
            let any = Any { type_url: kind.url().to_owned(), value: format!("{name} {version}").into_bytes() };
            let value = Encoded { version: (*version).to_owned(), any };
            encoded.entry(*kind).or_default().insert((*name).to_owned(), value);
        }
        encoded
    }

    #[test]
    fn the_bytes_of_a_resource_are_a_response_with_this_resource() {
        let snapshot = snapshot(&[(Kind::Cluster, "a", "1")]);
        let [resource] = snapshot.set(Kind::Cluster).resources.values().collect::<Vec<_>>()[..] else { panic!() };
        let response = discovery::DeltaDiscoveryResponse::decode(resource.bytes.clone()).unwrap();
        let [decoded] = &response.resources[..] else { panic!("{response:?}") };
        assert_eq!((decoded.name.as_str(), decoded.version.as_str()), ("a", "1"));
        assert_eq!(decoded.resource.as_ref().unwrap().value, b"a 1");
    }

    #[test]
    fn a_part_of_the_bytes_is_a_response_of_the_other_variant() {
        // Lengths on both sides of where a length takes another byte.
        for length in [0, 1, 60, 126, 127, 128, 200, 16_383, 16_384, 70_000] {
            let name = "n".repeat(length + 1);
            let snapshot = snapshot(&[(Kind::Cluster, &name, "1")]);
            let resource = &snapshot.set(Kind::Cluster).resources[name.as_str()];
            let response = discovery::DiscoveryResponse::decode(resource.state.clone()).unwrap();
            let [any] = &response.resources[..] else { panic!("{} resources", response.resources.len()) };
            assert_eq!(any.type_url, Kind::Cluster.url());
            assert_eq!(any.value, format!("{name} 1").into_bytes());
            assert_eq!(discovery::DiscoveryResponse { resources: Vec::new(), ..response }, Default::default());
        }
    }

    #[test]
    fn the_version_of_a_set_follows_its_contents_alone() {
        let version = |resources: &[_]| Arc::clone(&snapshot(resources).set(Kind::Route).version);
        let base = version(&[(Kind::Route, "a", "1"), (Kind::Route, "b", "2")]);
        assert_eq!(base, version(&[(Kind::Route, "b", "2"), (Kind::Route, "a", "1"), (Kind::Cluster, "c", "3")]));
        assert_ne!(base, version(&[(Kind::Route, "a", "1"), (Kind::Route, "b", "3")]));
        assert_ne!(base, version(&[(Kind::Route, "a", "1")]));
        assert_ne!(base, version(&[]));
    }

    #[test]
    fn a_snapshot_with_newer_endpoints_shares_all_else_and_equals_one_that_was_made_whole() {
        let (mut shelf, all) = (Shelf::default(), |endpoints| {
            vec![(Kind::Cluster, "a", "1"), (Kind::Endpoints, "a", endpoints), (Kind::Endpoints, "b", "1")]
        });
        let old = Snapshot::new(encoded(&all("1")), &mut shelf);
        let same = old.with(encoded(&[(Kind::Cluster, "a", "1"), (Kind::Endpoints, "a", "1")]), &mut shelf);
        let newer = old.with(encoded(&[(Kind::Cluster, "a", "1"), (Kind::Endpoints, "a", "2")]), &mut shelf);
        for kind in Kind::PUSH_ORDER {
            assert!(Arc::ptr_eq(old.set(kind), same.set(kind)), "{kind:?}");
            assert_eq!(Arc::ptr_eq(old.set(kind), newer.set(kind)), kind != Kind::Endpoints, "{kind:?}");
        }
        let whole = Snapshot::new(encoded(&all("2")), &mut shelf);
        assert_eq!(newer.set(Kind::Endpoints).version, whole.set(Kind::Endpoints).version);
        assert_eq!(newer.set(Kind::Endpoints).resources, whole.set(Kind::Endpoints).resources);
    }

    #[test]
    fn equal_resources_of_two_snapshots_are_one_and_unused_ones_are_forgotten() {
        let mut shelf = Shelf::default();
        let first = Snapshot::new(encoded(&[(Kind::Route, "a", "1"), (Kind::Route, "b", "1b")]), &mut shelf);
        let second = Snapshot::new(encoded(&[(Kind::Route, "a", "1"), (Kind::Route, "b", "2b")]), &mut shelf);
        let of = |snapshot: &Snapshot, name: &str| Arc::clone(&snapshot.set(Kind::Route).resources[name]);
        assert!(Arc::ptr_eq(&of(&first, "a"), &of(&second, "a")));
        assert!(!Arc::ptr_eq(&of(&first, "b"), &of(&second, "b")));
        drop(first);
        shelf.tidy();
        assert_eq!(shelf.resources.len(), 2);
    }
}
