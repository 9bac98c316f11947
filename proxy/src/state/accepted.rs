//! The resources that this proxy accepted from its control plane: as they came, with their versions, and as the IR.
//!
//! [`Accepted::apply`] takes one response and says what changed and what it refuses. A refusal concerns one resource:
//! its valid siblings are applied, and the version that was accepted before stays (gRFC A46). The raw bytes are kept,
//! because they, and not our reading of them, are what goes to disk: a later program may read more in them.
//!
//! Accepted is not yet in force: see [`super::warming`].
//!
//! **Removal.** Clusters and listeners go when the server says so. A route table, a set of endpoints or the mesh's roots
//! that the server withdraws while something still refers to them stay, as in Envoy: the server says what to do without it by changing
//! the listener or the cluster. A withdrawal of what never came counts as an answer, so that nobody waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;
use leno_config::ir;
use leno_config::xds::{Decoded, Kind, Refusal, decode};

/// A resource may have so many bytes (name, version and content together).
pub const RESOURCE_LIMIT: usize = 4 << 20;
/// All accepted resources together may have so many bytes.
pub const TOTAL_LIMIT: usize = 64 << 20;

/// A check of the data path: what it cannot enforce and must therefore not accept (TLS, say, while it has none).
pub type Refuse = fn(&Decoded) -> Option<Refusal>;

/// One resource as it was accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct Held<T> {
    /// As the server names this state of it; opaque.
    pub version: String,
    /// As it came.
    pub any: Any,
    /// As Leno reads it.
    pub resource: Arc<T>,
    /// What it needs of other resources.
    pub references: References,
}

impl<T> Held<T> {
    fn bytes(&self, name: &str) -> usize {
        size(name, &self.version, &self.any)
    }
}

/// A name of a resource. Shared, since every change walks through all of them.
pub type Name = Arc<str>;

/// The resources of one kind, by name.
pub type Shelf<T> = BTreeMap<Name, Arc<Held<T>>>;

/// A set of resources of all kinds. Clones are cheap in bytes: the resources are shared.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Store {
    /// By cluster name.
    pub clusters: Shelf<ir::Cluster>,
    /// By the name under which the cluster asks for them.
    pub endpoints: Shelf<ir::Endpoints>,
    /// By the name under which clusters and listeners ask for them.
    pub secrets: Shelf<ir::Secret>,
    /// By listener name.
    pub listeners: Shelf<ir::Listener>,
    /// By route table name.
    pub routes: Shelf<ir::RouteConfig>,
}

impl Store {
    /// Name and version of every resource of a kind.
    pub fn versions(&self, kind: Kind) -> BTreeMap<String, String> {
        fn of<T>(shelf: &Shelf<T>) -> BTreeMap<String, String> {
            shelf.iter().map(|(name, held)| (name.to_string(), held.version.clone())).collect()
        }
        match kind {
            Kind::Cluster => of(&self.clusters),
            Kind::Endpoints => of(&self.endpoints),
            Kind::Secret => of(&self.secrets),
            Kind::Listener => of(&self.listeners),
            Kind::Route => of(&self.routes),
        }
    }

    /// Every resource as it came, in the order in which a server pushes them.
    pub fn raw(&self) -> impl Iterator<Item = Raw<'_>> {
        fn of<T>(kind: Kind, shelf: &Shelf<T>) -> impl Iterator<Item = Raw<'_>> {
            shelf.iter().map(move |(name, held)| Raw { kind, name, version: &held.version, any: &held.any })
        }
        of(Kind::Cluster, &self.clusters)
            .chain(of(Kind::Endpoints, &self.endpoints))
            .chain(of(Kind::Secret, &self.secrets))
            .chain(of(Kind::Listener, &self.listeners))
            .chain(of(Kind::Route, &self.routes))
    }

    /// The version of a resource, if it is there.
    pub fn version(&self, kind: Kind, name: &str) -> Option<&str> {
        self.version_and_any(kind, name).map(|(version, _)| version)
    }

    /// Whether two sets are one and the same resources, not just equal ones: cheap, whatever their size.
    pub fn is_same(&self, other: &Self) -> bool {
        fn same<T>(one: &Shelf<T>, other: &Shelf<T>) -> bool {
            let pairs = || one.iter().zip(other);
            one.len() == other.len() && pairs().all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1))
        }
        same(&self.clusters, &other.clusters)
            && same(&self.endpoints, &other.endpoints)
            && same(&self.secrets, &other.secrets)
            && same(&self.listeners, &other.listeners)
            && same(&self.routes, &other.routes)
    }

    /// Whether a resource is there.
    pub fn contains(&self, kind: Kind, name: &str) -> bool {
        self.version_and_any(kind, name).is_some()
    }

    fn version_and_any(&self, kind: Kind, name: &str) -> Option<(&str, &Any)> {
        fn of<'a, T>(shelf: &'a Shelf<T>, name: &str) -> Option<(&'a str, &'a Any)> {
            shelf.get(name).map(|held| (held.version.as_str(), &held.any))
        }
        match kind {
            Kind::Cluster => of(&self.clusters, name),
            Kind::Endpoints => of(&self.endpoints, name),
            Kind::Secret => of(&self.secrets, name),
            Kind::Listener => of(&self.listeners, name),
            Kind::Route => of(&self.routes, name),
        }
    }

    fn put(&mut self, name: &str, version: String, any: Any, decoded: Decoded) {
        fn into<T: Resource>(shelf: &mut Shelf<T>, name: &str, version: String, any: Any, resource: T) {
            let references = resource.references();
            shelf.insert(name.into(), Arc::new(Held { version, any, resource: Arc::new(resource), references }));
        }
        match decoded {
            Decoded::Cluster(cluster) => into(&mut self.clusters, name, version, any, cluster),
            Decoded::Endpoints(endpoints) => into(&mut self.endpoints, name, version, any, endpoints),
            Decoded::Secret(secret) => into(&mut self.secrets, name, version, any, secret),
            Decoded::Listener(listener) => into(&mut self.listeners, name, version, any, listener),
            Decoded::Route(routes) => into(&mut self.routes, name, version, any, routes),
        }
    }

    /// The same bytes under a new version: nothing is read again, and what was built from them can stay.
    fn set_version(&mut self, kind: Kind, name: &str, version: String) {
        fn on<T: Resource>(shelf: &mut Shelf<T>, name: &str, version: String) {
            if let Some(held) = shelf.get_mut(name) {
                let Held { any, resource, references, .. } = &**held;
                let (any, resource, references) = (any.clone(), Arc::clone(resource), references.clone());
                *held = Arc::new(Held { version, any, resource, references });
            }
        }
        match kind {
            Kind::Cluster => on(&mut self.clusters, name, version),
            Kind::Endpoints => on(&mut self.endpoints, name, version),
            Kind::Secret => on(&mut self.secrets, name, version),
            Kind::Listener => on(&mut self.listeners, name, version),
            Kind::Route => on(&mut self.routes, name, version),
        }
    }

    /// Takes a resource away; its size, if it was there.
    fn remove(&mut self, kind: Kind, name: &str) -> Option<usize> {
        match kind {
            Kind::Cluster => self.clusters.remove(name).map(|held| held.bytes(name)),
            Kind::Endpoints => self.endpoints.remove(name).map(|held| held.bytes(name)),
            Kind::Secret => self.secrets.remove(name).map(|held| held.bytes(name)),
            Kind::Listener => self.listeners.remove(name).map(|held| held.bytes(name)),
            Kind::Route => self.routes.remove(name).map(|held| held.bytes(name)),
        }
    }
}

/// One resource as it came, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct Raw<'a> {
    /// What it is.
    pub kind: Kind,
    /// Under which name.
    pub name: &'a str,
    /// In which state.
    pub version: &'a str,
    /// Its content.
    pub any: &'a Any,
}

/// What a resource needs of others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// The clusters that its routes lead to, sorted.
    pub clusters: BTreeSet<Name>,
    /// The route table that a listener asks for by name.
    pub routes: Option<Name>,
    /// The endpoints that a cluster asks for by name.
    pub endpoints: Option<Name>,
    /// The trust bundles by which a cluster or a listener knows its peers.
    pub secret: Option<Name>,
}

/// The part of a resource that this module looks at.
trait Resource {
    fn references(&self) -> References;
}

impl Resource for ir::Cluster {
    fn references(&self) -> References {
        let endpoints = match &self.discovery {
            ir::Discovery::Eds { service } => Some(service.as_deref().unwrap_or(self.name.as_str()).into()),
            ir::Discovery::Static(_)
            | ir::Discovery::Dns(_)
            | ir::Discovery::OriginalDestination
            | ir::Discovery::RequestHost => None,
        };
        let secret = match &self.tls {
            ir::UpstreamTls::Auto(_) | ir::UpstreamTls::Mesh(_) => Some(ir::Secret::ROOTS.into()),
            ir::UpstreamTls::Plain | ir::UpstreamTls::External(_) => None,
        };
        References { endpoints, secret, ..References::default() }
    }
}

impl Resource for ir::Endpoints {
    fn references(&self) -> References {
        References::default()
    }
}

impl Resource for ir::Secret {
    fn references(&self) -> References {
        References::default()
    }
}

impl Resource for ir::RouteConfig {
    fn references(&self) -> References {
        let routes = self.virtual_hosts.iter().flat_map(|host| &host.routes);
        let clusters = routes.flat_map(|route| match &route.action {
            ir::Action::Forward(forward) => {
                let weighted = forward.clusters.as_slice().iter().map(|share| &share.cluster);
                weighted.chain(forward.mirrors.iter().map(|mirror| &mirror.cluster)).collect()
            }
            ir::Action::Redirect(_) | ir::Action::Direct(_) => Vec::new(),
        });
        References { clusters: clusters.map(|name| name.as_str().into()).collect(), ..References::default() }
    }
}

impl Resource for ir::Listener {
    fn references(&self) -> References {
        let mut references = References::default();
        for protocol in self.protocols() {
            match protocol.http().map(|manager| &manager.routes) {
                Some(ir::RouteSource::Named(name)) => references.routes = Some(name.as_str().into()),
                Some(ir::RouteSource::Inline(routes)) => references.clusters.extend(routes.references().clusters),
                None => {}
            }
            let shares = protocol.tcp_routes().flat_map(|route| route.clusters.as_slice());
            references.clusters.extend(shares.map(|share| Name::from(share.cluster.as_str())));
        }
        let meets_the_mesh = self.modes().any(|mode| match mode {
            ir::MtlsMode::Permissive | ir::MtlsMode::Strict => true,
            ir::MtlsMode::Disable => false,
        });
        References { secret: meets_the_mesh.then(|| ir::Secret::ROOTS.into()), ..references }
    }
}

/// One response, taken off the wire.
#[derive(Debug, Clone)]
pub struct Update {
    /// Of which kind all of it is.
    pub kind: Kind,
    /// New or changed.
    pub resources: Vec<Incoming>,
    /// Gone.
    pub removed: Vec<String>,
}

/// One resource of a response.
#[derive(Debug, Clone, Default)]
pub struct Incoming {
    /// Under which name it was sent.
    pub name: String,
    /// In which state.
    pub version: String,
    /// Its content; `None` says that the accepted one still holds.
    pub any: Option<Any>,
    /// It is to vanish by itself after this time. Leno has no such timers, and a resource that should have vanished
    /// and has not would change what the server meant: it is refused.
    pub time_to_live: Option<std::time::Duration>,
}

/// Which names this proxy asked for.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// All that there are.
    All,
    /// These; others are passed over.
    Named(&'a BTreeSet<Name>),
}

impl Wanted<'_> {
    fn includes(self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(name),
        }
    }
}

/// What came of a response.
#[derive(Debug, Default, PartialEq)]
pub struct Applied {
    /// New or in a new version.
    pub changed: Vec<String>,
    /// Gone.
    pub removed: Vec<String>,
    /// What was not applied, and why. The rest was.
    pub refusals: Vec<Refusal>,
}

/// Everything accepted.
#[derive(Debug, Clone, Default)]
pub struct Accepted {
    store: Store,
    absent: BTreeMap<Kind, BTreeSet<Name>>,
    answered: BTreeSet<Kind>,
    overdue: BTreeSet<Kind>,
    bytes: usize,
}

impl Accepted {
    /// The resources.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Bytes of all of them, at most [`TOTAL_LIMIT`].
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the server said, or by its silence showed, that it does not have this resource.
    pub fn is_absent(&self, kind: Kind, name: &str) -> bool {
        self.absent.get(&kind).is_some_and(|names| names.contains(name))
    }

    /// Whether the server, or the state on disk, ever spoke of this kind.
    pub fn is_answered(&self, kind: Kind) -> bool {
        self.answered.contains(&kind)
    }

    /// Whether there is no use in waiting for the first word on this kind.
    pub fn is_settled(&self, kind: Kind) -> bool {
        self.answered.contains(&kind) || self.overdue.contains(&kind)
    }

    /// The server had its time and did not send this.
    pub fn give_up_on(&mut self, kind: Kind, name: &str) {
        self.absent.entry(kind).or_default().insert(name.into());
    }

    /// The server had its time and did not say a word on this kind.
    pub fn give_up_on_first_answer(&mut self, kind: Kind) {
        self.overdue.insert(kind);
    }

    /// Nothing refers to it any more.
    pub fn forget(&mut self, kind: Kind, name: &str) {
        self.bytes = self.bytes.saturating_sub(self.store.remove(kind, name).unwrap_or(0));
        if let Some(names) = self.absent.get_mut(&kind) {
            names.remove(name);
        }
    }

    /// Takes a response in. What is refused leaves everything as it was.
    pub fn apply(&mut self, update: Update, wanted: Wanted<'_>, refuse: Refuse) -> Applied {
        let Update { kind, resources, removed } = update;
        let mut applied = Applied::default();
        self.answered.insert(kind);
        let twice = duplicates(&resources, &removed);
        for name in &twice {
            applied.refusals.push(refusal(
                name,
                "name",
                "stands twice in one response, so that none can be told valid",
            ));
        }
        for incoming in resources {
            if twice.contains(&incoming.name) || !wanted.includes(&incoming.name) {
                continue;
            }
            let name = incoming.name.clone();
            match self.accept(kind, incoming, refuse) {
                Ok(true) => applied.changed.push(name),
                Ok(false) => {}
                Err(refused) => applied.refusals.push(refused),
            }
        }
        for name in removed {
            if !twice.contains(&name) && wanted.includes(&name) && self.withdraw(kind, &name, wanted) {
                applied.removed.push(name);
            }
        }
        applied
    }

    /// Whether it changed anything.
    fn accept(&mut self, kind: Kind, incoming: Incoming, refuse: Refuse) -> Result<bool, Refusal> {
        let Incoming { name, version, any, time_to_live } = incoming;
        if name.is_empty() {
            return Err(refusal("(no name)", "name", "is empty"));
        }
        if time_to_live.is_some() {
            return Err(refusal(&name, "ttl", "is not supported: resources stay until they are removed"));
        }
        let Some(any) = any else {
            return match self.store.contains(kind, &name) {
                true => Ok(false),
                false => Err(refusal(&name, "resource", "is missing, and no earlier one is known")),
            };
        };
        let held = self.store.version_and_any(kind, &name);
        let held_bytes = held.map_or(0, |(version, any)| size(&name, version, any));
        let bytes = size(&name, &version, &any);
        self.check_size(&name, bytes, held_bytes)?;
        match held {
            Some((same, same_any)) if *same_any == any => {
                if same == version {
                    return Ok(false);
                }
                self.store.set_version(kind, &name, version);
            }
            Some(_) | None => {
                let decoded = read(kind, &name, &any, refuse)?;
                self.store.put(&name, version, any, decoded);
            }
        }
        self.bytes = self.bytes.saturating_sub(held_bytes).saturating_add(bytes);
        if let Some(names) = self.absent.get_mut(&kind) {
            names.remove(name.as_str());
        }
        Ok(true)
    }

    fn check_size(&self, name: &str, bytes: usize, held_bytes: usize) -> Result<(), Refusal> {
        if bytes > RESOURCE_LIMIT {
            let reason = format!("has {bytes} bytes, a resource may have {RESOURCE_LIMIT}");
            return Err(refusal(&shortened(name), "resource", &reason));
        }
        let total = self.bytes.saturating_sub(held_bytes).saturating_add(bytes);
        if total > TOTAL_LIMIT {
            let reason = format!("all resources together would have {total} bytes, they may have {TOTAL_LIMIT}");
            return Err(refusal(name, "resource", &reason));
        }
        Ok(())
    }

    /// Whether it changed anything.
    fn withdraw(&mut self, kind: Kind, name: &str, wanted: Wanted<'_>) -> bool {
        match wanted {
            Wanted::All => {
                let bytes = self.store.remove(kind, name);
                self.bytes = self.bytes.saturating_sub(bytes.unwrap_or(0));
                bytes.is_some()
            }
            Wanted::Named(_) if self.store.contains(kind, name) => false,
            Wanted::Named(_) => self.absent.entry(kind).or_default().insert(name.into()),
        }
    }
}

/// Reads a resource and lets the data path look at it.
fn read(kind: Kind, name: &str, any: &Any, refuse: Refuse) -> Result<Decoded, Refusal> {
    if any.type_url != kind.url() {
        let reason = format!("is `{}` in a response of `{}`", shortened(&any.type_url), kind.url());
        return Err(refusal(name, "resource.type_url", &reason));
    }
    // The name on the wire is what the server will look for in the NACK.
    let decoded = decode(kind, any).map_err(|refused| Refusal { resource: name.to_owned(), ..refused })?;
    let inner = decoded.name();
    if inner != name {
        return Err(refusal(name, "name", &format!("is `{}` inside the resource", shortened(inner))));
    }
    match refuse(&decoded) {
        Some(refused) => Err(Refusal { resource: name.to_owned(), ..refused }),
        None => Ok(decoded),
    }
}

/// Names that stand more than once in a response, be it as resource or as removal.
fn duplicates(resources: &[Incoming], removed: &[String]) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let names = resources.iter().map(|incoming| &incoming.name).chain(removed);
    // A resource without a name is refused for that.
    names.filter(|name| !name.is_empty() && !seen.insert(*name)).cloned().collect()
}

fn refusal(resource: &str, field: &str, reason: &str) -> Refusal {
    Refusal { resource: resource.to_owned(), field: field.to_owned(), reason: reason.to_owned() }
}

fn size(name: &str, version: &str, any: &Any) -> usize {
    [name.len(), version.len(), any.type_url.len(), any.value.len()].iter().sum()
}

/// At most 200 bytes of a text that the server chose, for a message.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 200;
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let end = (0..=LONGEST).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{}…", text.get(..end).unwrap_or_default())
}
